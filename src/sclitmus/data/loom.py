"""Loom files, read with h5py: genes x cells, names in row and column attributes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sclitmus.data.matrix import Dense
from sclitmus.data.source import Place, Source, about_from

CELL_NAMES = ("CellID", "obs_names", "cell_id", "barcode", "Barcode")
GENE_NAMES = ("Gene", "var_names", "gene", "gene_name", "GeneName", "Accession")


@contextmanager
def open_loom(path: Path) -> Iterator[Source]:
    """Open a .loom file; the matrix stays on disk. Attributes that are no column are left out."""
    import h5py

    with h5py.File(path, "r") as file:
        n_genes, n_cells = file["matrix"].shape
        obs = _table(file.get("col_attrs", {}), n_cells, CELL_NAMES, "cell")
        var = _table(file.get("row_attrs", {}), n_genes, GENE_NAMES, "gene")
        places = [Place("X", Dense(file["matrix"], transposed=True), var)]
        for name, layer in file.get("layers", {}).items():
            places.append(Place(f"layers:{name}", Dense(layer, transposed=True), var))
        about = file.get("attrs", {})  # loom 3 keeps them as datasets, loom 2 as attributes
        texts = {key.lower(): _scalar(about[key][()]) for key in about if about[key].shape == ()}
        texts |= {key.lower(): _scalar(value) for key, value in file.attrs.items()}
        yield Source(path.name, obs, tuple(places), about=about_from(texts))


def _table(attributes: Any, n: int, names: tuple[str, ...], word: str) -> pd.DataFrame:
    """One column per attribute of that length; the first of `names` there is the index."""
    columns = {}
    for key in attributes:
        values = attributes[key][()]
        if isinstance(values, np.ndarray) and values.shape == (n,):
            text = values.dtype.kind in "SO"
            columns[key] = [_scalar(v) for v in values] if text else values
    index = next((columns[name] for name in names if name in columns), None)
    rows = index if index is not None else [f"{word}-{i}" for i in range(n)]
    return pd.DataFrame(columns, index=pd.Index(rows, dtype=object))


def _scalar(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
