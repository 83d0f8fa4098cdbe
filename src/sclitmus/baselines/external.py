"""Any program, in any language and environment: counts.h5ad in, embedding.npy out."""

import ctypes
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np
from jaxtyping import Float32

from sclitmus.baselines.fitted import require_fitted
from sclitmus.core.dataset import Dataset
from sclitmus.core.method import MethodCard
from sclitmus.errors import MethodError

GRACE_S = 5.0  # between asking a program to end and killing it
PR_SET_PDEATHSIG = 1  # of linux/prctl.h
LAST_LINES = 12  # of its messages, shown when it fails


@dataclass(frozen=True, eq=False)
class External:
    """A command that embeds cells.

    It runs without a shell, in the current directory. ``{input}``, ``{output}`` and ``{seed}`` in
    its words are replaced; the two paths are also in the environment, as ``SCLITMUS_INPUT`` and
    ``SCLITMUS_OUTPUT``. Without ``{seed}`` it is taken to give the same embedding every time, and
    runs once however many seeds a study has. It reads an AnnData file: ``X`` raw counts (CSR),
    ``obs["batch"]`` where the dataset has batches, ``var`` with ``gene_symbol`` and
    ``ensembl_id``, ``uns["organism"]``. Labels are not in it. It writes a NumPy array, one row
    per cell in the file's order, numbers only, all finite.

    Parameters
    ----------
    command
        A command line, or its words.
    id
        Name in records and reports.
    timeout
        Seconds after which the command, with all it started, is ended; None waits for ever.
    version
        Say a new one when the program changes: it is part of the cache key, the program is not.
    """

    command: str | Sequence[str]
    id: str = "external"
    timeout: float | None = None
    version: str = ""
    seed: int | None = field(default=None, kw_only=True, repr=False)  # set by fit

    @property
    def words(self) -> tuple[str, ...]:
        """The command's words, placeholders not replaced."""
        return tuple(shlex.split(self.command) if isinstance(self.command, str) else self.command)

    @property
    def card(self) -> MethodCard:
        return MethodCard(
            id=self.id,
            kind="supplied",
            part="contender",
            title=self.id,
            summary=f"External command: {shlex.join(self.words)}",
            deterministic=not any("{seed}" in word for word in self.words),
            params={"command": shlex.join(self.words), "version": self.version},
        )

    def fit(self, train: Dataset, rng: np.random.Generator) -> Self:
        """Draw the seed; the command runs in `embed`."""
        return replace(self, seed=int(rng.integers(2**31)))

    def embed(self, cells: Dataset) -> Float32[np.ndarray, "n_cells d"]:
        """Run the command on these cells.

        Raises
        ------
        MethodError
            If it cannot be started, fails, takes too long, or writes no valid embedding.
        """
        seed = require_fitted(self.seed, self.id)
        with tempfile.TemporaryDirectory(prefix="sclitmus-") as name:
            folder = Path(name)
            given = {
                "input": str(folder / "counts.h5ad"),
                "output": str(folder / "embedding.npy"),
                "seed": str(seed),
            }
            _write(cells, folder / "counts.h5ad")
            self._run(given, folder)
            return _read(folder / "embedding.npy", cells.n_cells, self.id)

    def _run(self, given: dict[str, str], folder: Path) -> None:
        words = list(self.words)
        for name, value in given.items():
            words = [word.replace(f"{{{name}}}", value) for word in words]
        paths = {"SCLITMUS_INPUT": given["input"], "SCLITMUS_OUTPUT": given["output"]}
        line = shlex.join(words) or "an empty command"
        with (folder / "stdout").open("wb") as stdout, (folder / "stderr").open("wb") as stderr:
            try:
                process = subprocess.Popen(
                    words,
                    env=os.environ | paths,
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=stderr,
                    start_new_session=True,  # a process group of its own, to end all of it
                    preexec_fn=_die_with_parent if sys.platform == "linux" else None,
                )
            except (OSError, ValueError, IndexError) as error:
                raise MethodError(
                    f"{self.id}: {line} cannot be started: {error}",
                    "a program that exists and may be executed",
                    "give its full path, and call scripts through their interpreter: python my.py",
                ) from error
            try:
                code = process.wait(self.timeout)
            except subprocess.TimeoutExpired as error:
                raise MethodError(
                    f"{self.id}: {line} was still running after {self.timeout:g} s and was ended; "
                    f"it last said:\n{_last_words(folder)}",
                    f"an embedding within {self.timeout:g} s",
                    "give a longer timeout, or fewer cells",
                ) from error
            finally:
                _end(process)
        if code != 0:
            raise MethodError(
                f"{self.id}: {line} ended with exit code {code}; "
                f"it last said:\n{_last_words(folder)}",
                "exit code 0",
                "run the command by hand on a small counts.h5ad until it succeeds",
            )


def _die_with_parent() -> None:
    """Have the kernel end the command if this process is killed (for memory, say) before it."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the whole process group: nothing the command started outlives it."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_S)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last_words(folder: Path) -> str:
    """Return the end of stderr; where that is empty, of stdout."""
    for name in ("stderr", "stdout"):
        lines = (folder / name).read_text(errors="replace").splitlines()[-LAST_LINES:]
        if lines:
            return "\n".join(f"  | {line}" for line in lines)
    return "  | (nothing)"


def _write(cells: Dataset, path: Path) -> None:
    import pandas as pd
    from anndata import AnnData
    from anndata.utils import make_index_unique

    obs = pd.DataFrame(index=pd.Index(cells.cells, dtype=str))
    if "batch" in cells.roles:
        batch = cells.roles["batch"]
        names = np.array([*batch.names, None], dtype=object)  # code -1 takes the last: missing
        obs["batch"] = pd.Categorical(names[batch.codes], categories=list(batch.names))
    symbol, ensembl = cells.genes.symbol, cells.genes.ensembl
    var_names = [symbol[i] or ensembl[i] or f"gene_{i}" for i in range(cells.n_genes)]
    var = pd.DataFrame(
        {"gene_symbol": list(symbol), "ensembl_id": list(ensembl)},
        index=make_index_unique(pd.Index(var_names, dtype=str)),
    )
    data = AnnData(cells.counts.astype(np.float32), obs=obs, var=var)
    data.uns["organism"] = cells.genes.organism
    data.write_h5ad(path)


def _read(path: Path, n_cells: int, id: str) -> Float32[np.ndarray, "n_cells d"]:
    needed = f"a finite numeric array of shape ({n_cells}, d), row i for cell i of counts.h5ad"

    def broken(seen: str, remedy: str) -> MethodError:
        return MethodError(f"{id}: {seen}", needed, remedy)

    if not path.exists():
        raise broken(
            "the command ended well but wrote no embedding.npy",
            "write it with numpy.save to {output}, which is also in $SCLITMUS_OUTPUT",
        )
    try:
        z = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise broken(
            f"embedding.npy cannot be read: {error}", "write it with numpy.save, numbers only"
        ) from error
    if not isinstance(z, np.ndarray) or z.dtype.kind not in "fiu":
        raise broken(
            f"embedding.npy holds {getattr(z, 'dtype', type(z).__name__)}",
            "write one array of real numbers",
        )
    if z.ndim != 2 or z.shape[0] != n_cells or z.shape[1] < 1:
        raise broken(
            f"embedding.npy has shape {z.shape}", "write one row per cell; drop no cell, add none"
        )
    with np.errstate(over="ignore"):  # what does not fit becomes inf, which is refused below
        z = z.astype(np.float32)
    bad = int((~np.isfinite(z)).any(axis=1).sum())
    if bad:
        raise broken(
            f"{bad} of {n_cells} rows hold NaN or infinity", "find out why for these cells"
        )
    return z
