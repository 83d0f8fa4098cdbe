"""What is read is never written into, and row order never changes."""

import hashlib

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from five_cells import CELLS
from scipy import sparse

from sclitmus.data.read import read
from sclitmus.data.simulate import simulate


def fingerprint(value):
    """Bytes, types and memory of everything an AnnData holds."""
    if sparse.issparse(value):
        flags = (value.has_sorted_indices, value.shape, value.format)
        return flags, [fingerprint(getattr(value, n)) for n in ("data", "indices", "indptr")]
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.ctypes.data, value.tobytes()
    if isinstance(value, pd.DataFrame):
        columns = [(name, str(value[name].dtype), list(map(repr, value[name]))) for name in value]
        categories = [list(value[n].cat.categories) for n in value if value[n].dtype == "category"]
        return list(value.index), columns, categories
    if hasattr(value, "items"):
        return {key: fingerprint(part) for key, part in value.items()}
    return repr(value)


def everything(adata: AnnData):
    parts = {name: fingerprint(getattr(adata, name)) for name in ("X", "obs", "var", "uns")}
    for name in ("layers", "obsm", "varm", "obsp"):
        parts[name] = fingerprint(dict(getattr(adata, name)))
    if adata.raw is not None:
        parts["raw"] = fingerprint(adata.raw.X), fingerprint(adata.raw.var)
    return parts


def adata_of_all_kinds(form):
    simulated = simulate(40, 12, seed=5)
    x = form(simulated.counts)
    if sparse.issparse(x) and x.format == "csr":
        x.indices, x.data = x.indices[::-1].copy(), x.data[::-1].copy()  # unsorted rows
        x.indptr = (len(x.data) - x.indptr[::-1]).astype(x.indptr.dtype)
        x.has_sorted_indices = False
    table = pd.DataFrame(
        {
            "type": pd.Categorical(["a", "b", None, ""] * 10, categories=["", "b", "a", "unused"]),
            "n_counts": np.arange(40.0),
        },
        index=[f"c{i % 30}" for i in range(40)],
    )
    adata = AnnData(
        x, obs=table, var=pd.DataFrame(index=["G"] * 12), obsm={"X_e": np.ones((40, 3))}
    )
    adata.layers["other"] = adata.X.copy()
    adata.uns["title"] = "all kinds"
    return adata


@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_matrix, lambda x: x.toarray()])
@pytest.mark.filterwarnings("ignore:.*names are not unique")
def test_the_object_is_as_before(form):
    adata = adata_of_all_kinds(form)
    before = everything(adata)
    dataset = read(
        adata,
        label="type",
        roles={"group": "type"},
        embeddings={"e": "X_e"},
        obs=pd.DataFrame({"extra": ["x"] * 40}, index=[f"c{i}" for i in range(40)]),
    )
    assert everything(adata) == before
    dataset.counts.data[:] = 7  # the dataset has memory of its own
    dataset.embeddings["e"][:] = 7
    assert everything(adata) == before


def test_log_normalised_object_is_as_before(make_adata):
    x = simulate(5, 100).counts[:, :4]
    x.data = np.log1p(x.data).astype(np.float32)  # a target of each cell's own total
    adata = make_adata(x)
    before = everything(adata)
    read(adata, invert_lognorm=True)
    assert everything(adata) == before


def test_the_file_is_as_before(make_adata, tmp_path):
    path = tmp_path / "cells.h5ad"
    make_adata().write_h5ad(path)
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    read(path, label="cell_type")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before


def test_rows_keep_their_order(make_adata):
    order = [4, 0, 3, 1, 2]
    dataset = read(make_adata()[order].copy(), label="cell_type")
    whole = read(make_adata(), label="cell_type")
    assert dataset.cells == tuple(CELLS[i] for i in order)
    assert dataset.content_hash == whole.take(np.array(order)).content_hash
