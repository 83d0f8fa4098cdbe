"""Where and with what a run was made, for the report's methods paragraph."""

import importlib.metadata
import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PACKAGES = (
    "sclitmus",
    "anndata",
    "harmonypy",
    "igraph",
    "numba",
    "numpy",
    "polars",
    "scanpy",
    "scikit-learn",
    "scipy",
    "scvi-tools",
    "torch",
    "umap-learn",
)


def environment(seeds: tuple[int, ...], jobs: int) -> dict[str, Any]:
    """Describe this machine, the installed versions, and the command that was given.

    Versions are read from the packages' metadata; nothing is imported.
    """
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": _command(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "memory_gb": _memory_gb(),
        "jobs": jobs,
        "seeds": list(seeds),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
    }


def _command() -> str:
    import shlex

    # The name the user typed, not the folder it is installed in.
    return shlex.join([Path(sys.argv[0]).name or "python", *sys.argv[1:]])


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # no such file outside Linux
    return platform.processor() or platform.machine()


def _memory_gb() -> float:
    import psutil

    return float(round(psutil.virtual_memory().total / 1e9, 1))
