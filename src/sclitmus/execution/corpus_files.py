"""Files → the datasets that a model is pretrained on, without the cells it will be assessed on."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from sclitmus.core.dataset import Dataset, Note
from sclitmus.data.read import read
from sclitmus.data.same_cells import same_cells
from sclitmus.errors import DataError

SUFFIXES = (".h5ad", ".zarr", ".h5", ".loom")
ON_DISK = 2**30  # bytes of all files together from which on counts stay on disk


def read_corpus(
    files: Iterable[str | Path],
    *,
    column: str = "",
    without: Sequence[str | Path] = (),
    organism: str | None = None,
) -> list[Dataset]:
    """Read files, and leave out the cells that others hold too.

    Parameters
    ----------
    files
        Files that `read` takes, or folders with some.
    column
        obs column of what is held out whole (donors, say), which becomes the role "group".
    without
        Files, whose cells are found in the corpus by their counts: see `data.same_cells`.

    Raises
    ------
    DataError
        If there is no file, one cannot be read, or none of its cells is left.
    """
    paths = _listed(files)
    backed = True if sum(map(_size, paths)) > ON_DISK else None
    roles = {"group": column} if column else {}
    others = [read(path, organism=organism) for path in without]
    corpus = []
    for path in paths:
        source = read(path, roles=roles, organism=organism, backed=backed)
        rows = [same_cells(source, other) for other in others]
        shared = np.unique(np.concatenate(rows)) if rows else np.empty(0, dtype=np.int64)
        corpus.append(_without(source, shared))
    return corpus


def _without(source: Dataset, shared: np.ndarray) -> Dataset:
    if not len(shared):
        return source
    kept = np.setdiff1d(np.arange(source.n_cells), shared)
    if not len(kept):
        raise DataError(
            f"all {source.n_cells} cells of {source.id} are among those to leave out",
            "cells to learn from",
            "leave the file out",
        )
    text = f"{len(shared)} of {source.n_cells} cells are also among those to leave out"
    note = Note("shared_cells", text, len(shared))
    return replace(source.take(kept), notes=(*source.notes, note))


def _listed(files: Iterable[str | Path]) -> list[Path]:
    """Return the files, those of a folder by name."""
    found: list[Path] = []
    for path in map(Path, files):
        if path.is_dir() and path.suffix != ".zarr" and not (path / "matrix.mtx").exists():
            own = sorted(entry for entry in path.iterdir() if entry.suffix in SUFFIXES)
            found += own or [path]  # a folder of another kind: `read` knows it, or says so
        else:
            found.append(path)
    if not found:
        raise DataError("no file to learn from", "files of counts", "give some with --data")
    return found


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(entry.stat().st_size for entry in path.rglob("*") if entry.is_file())
    return path.stat().st_size if path.exists() else 0
