"""Cell Ranger's output: the .h5 file (versions 2 and 3) and the .mtx folder."""

import csv
import gzip
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from sclitmus.core.dataset import Note
from sclitmus.data.matrix import Compressed, matrix_of
from sclitmus.data.source import Place, Source
from sclitmus.data.wording import as_text, listed
from sclitmus.errors import DataError


def genomes_of_v2(file: Any) -> list[str]:
    """Groups of a version 2 file, one per genome; empty for any other HDF5 file."""
    needed = {"barcodes", "data", "indices", "indptr", "shape", "gene_names"}
    return [k for k in file if hasattr(file[k], "keys") and needed <= set(file[k].keys())]


@contextmanager
def open_h5(path: Path) -> Iterator[Source]:
    """Open a 10x .h5 file. It keeps features x barcodes by column, which is cells by row."""
    import h5py

    with h5py.File(path, "r") as file:
        genomes = genomes_of_v2(file)
        if len(genomes) > 1:
            raise DataError(
                f"{path.name} holds {len(genomes)} genomes ({listed(genomes)})",
                "one genome per file",
                "run Cell Ranger's mat2csv or scanpy.read_10x_h5(…, genome=NAME) and write one "
                ".h5ad per genome",
            )
        group = file[genomes[0]] if genomes else file["matrix"]
        if genomes:
            var = pd.DataFrame(
                {"gene_ids": _text(group["genes"])}, index=_text(group["gene_names"])
            )
            notes: tuple[Note, ...] = ()
        else:
            features = group["features"]
            var = pd.DataFrame(
                {
                    "gene_ids": _text(features["id"]),
                    "feature_types": _text(features["feature_type"]),
                },
                index=_text(features["name"]),
            )
            notes = _genome_notes(features)
        n_features, n_cells = (int(n) for n in group["shape"][:])
        matrix = Compressed(group["data"], group["indices"], group["indptr"], (n_cells, n_features))
        obs = pd.DataFrame(index=_text(group["barcodes"]))
        yield Source(path.name, obs, (Place("X", matrix, var),), notes=notes)


def _genome_notes(features: Any) -> tuple[Note, ...]:
    if "genome" not in features:
        return ()
    genomes = Counter(name for name in _text(features["genome"]) if name)
    if len(genomes) < 2:
        return ()
    text = "genes of several genomes: " + ", ".join(f"{n} {name}" for name, n in genomes.items())
    return (Note("genomes", text, len(genomes)),)


def _text(dataset: Any) -> list[str]:
    return [as_text(name) for name in dataset[:]]


@contextmanager
def open_mtx(folder: Path) -> Iterator[Source]:
    """Open a folder with matrix.mtx, features.tsv or genes.tsv, and optionally barcodes.tsv.

    Each may be gzipped, and they may share a prefix. Without barcodes cells are ``cell-ROW``.
    """
    matrix = _one(folder, ("matrix.mtx",))
    features = _one(folder, ("features.tsv", "genes.tsv"))
    if matrix is None or features is None:
        inside = sorted(p.name + "/" * p.is_dir() for p in folder.iterdir())
        deeper = [p for p in folder.iterdir() if p.is_dir() and _one(p, ("matrix.mtx",))]
        raise DataError(
            f"{folder} has no {'matrix.mtx' if matrix is None else 'features.tsv or genes.tsv'} "
            f"(it has: {listed(inside, 8) or 'nothing'})",
            "a 10x folder: matrix.mtx, features.tsv (or genes.tsv) and barcodes.tsv, each also as "
            ".gz; or a .zarr folder",
            f"give the folder {deeper[0]}" if deeper else "give the folder that holds these files",
        )
    barcodes = _one(folder, ("barcodes.tsv",))
    rows = _rows(features)
    cells = None if barcodes is None else [row[0] if row else "" for row in _rows(barcodes)]
    counts = _counts(matrix, len(rows), None if cells is None else len(cells))
    if cells is None:
        cells = [f"cell-{i}" for i in range(counts.shape[0])]
    width = min((len(row) for row in rows), default=1)
    if width == 1:  # names only
        var = pd.DataFrame(index=[row[0] if row else "" for row in rows])
    else:
        var = pd.DataFrame({"gene_ids": [row[0] for row in rows]}, index=[row[1] for row in rows])
        if width > 2:
            var["feature_types"] = [row[2] for row in rows]
    obs = pd.DataFrame(index=cells)
    yield Source(folder.name or str(folder), obs, (Place("X", matrix_of(counts), var),))


def _one(folder: Path, names: tuple[str, ...]) -> Path | None:
    """The only file whose name ends with one of `names`, gzipped or not."""
    endings = tuple(name + gz for name in names for gz in ("", ".gz"))
    found = sorted(p for p in folder.iterdir() if p.is_file() and p.name.endswith(endings))
    exact = [p for p in found if p.name in endings]
    found = exact or found
    if len(found) > 1:
        raise DataError(
            f"{folder} has {len(found)} files for {names[0]}: {listed(p.name for p in found)}",
            "one sample per folder",
            "put each sample in a folder of its own, and remove either copy if one is gzipped",
        )
    return found[0] if found else None


def _rows(path: Path) -> list[list[str]]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8", newline="") as lines:
        return list(csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))


def _counts(path: Path, n_features: int, n_cells: int | None) -> sparse.csr_matrix:
    """Read the matrix as cells x features, whichever way it lies."""
    from scipy.io import mmread

    read = mmread(path)
    if not sparse.issparse(read):
        read = sparse.coo_matrix(np.atleast_2d(read))
    rows, columns = read.shape
    if rows == n_features and n_cells in (None, columns):
        return sparse.csr_matrix(read.T)
    if columns == n_features and n_cells in (None, rows):
        return sparse.csr_matrix(read)  # cells x features, as some other programs write it
    raise DataError(
        f"{path.name} is {rows} x {columns}, but there are {n_features} features and "
        f"{'no barcodes file' if n_cells is None else f'{n_cells} barcodes'}",
        "features x barcodes",
        "take all three files from the same Cell Ranger run",
    )
