"""What an installation must hold: the locked set, no CUDA beside a CPU torch, a light start."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "scanpy", "anndata", "scvi", "sklearn", "pandas", "polars", "numba", "faiss")


def test_torch_is_pinned_exactly_and_nothing_of_cuda_is_locked() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert re.findall(r"^torch==.*$", lock, re.MULTILINE) == ["torch==2.13.0"]
    assert not re.search(r"^(nvidia|cuda|triton)", lock, re.MULTILINE)
    assert all("==" in line for line in lock.splitlines() if line and not line.startswith("#"))


def test_every_dependency_is_locked() -> None:
    lock = (ROOT / "requirements.lock").read_text().lower()
    locked = {_canonical(line.partition("==")[0]) for line in lock.splitlines()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
    names = {_canonical(re.split(r"[>=<\[ ]", need)[0]) for need in wanted}
    assert names <= locked


def test_a_cpu_torch_brings_no_cuda_packages() -> None:
    import torch

    if torch.version.cuda is None:
        names = {(d.metadata["Name"] or "").lower() for d in distributions()}
        assert not [n for n in names if n.startswith("nvidia-") and n != "nvidia-ml-py"]


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from sclitmus.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "litmus" in done.stdout


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip().lower())
