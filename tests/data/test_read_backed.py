"""Counts left on disk are those that would have been read, in every respect but memory."""

import hashlib
import os
import pickle
import shutil
import tracemalloc
from dataclasses import fields, replace

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from five_cells import BATCHES, CELLS, COUNTS, IDS, SYMBOLS, TYPES
from scipy import sparse
from test_read_formats import write_loom, write_mtx, write_tenx_v2, write_tenx_v3

from sclitmus.core.counts import InMemory
from sclitmus.data import load
from sclitmus.data.backed import Backed
from sclitmus.data.read import read
from sclitmus.data.simulate import simulate
from sclitmus.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning", "ignore:.*:FutureWarning")


@pytest.fixture(params=[7, 4_000_000], autouse=True)
def values_at_once(request, monkeypatch):
    """Each test is run in blocks of a few values, and in one."""
    monkeypatch.setattr("sclitmus.data.stored.READ", request.param)
    monkeypatch.setattr("sclitmus.data.backed.READ", request.param)
    monkeypatch.setattr("sclitmus.data.stored.NEAR", request.param // 3)


def same(backed, whole):
    """Assert that two datasets have equal counts by every road, and all else equal, too."""
    assert isinstance(backed.store, Backed)
    assert isinstance(whole.store, InMemory)
    for part in fields(whole):
        if part.name not in ("store", "notes", "roles", "embeddings", "source_rows"):
            assert getattr(backed, part.name) == getattr(whole, part.name), part.name
    assert [n for n in backed.notes if n.kind != "memory"] == list(whole.notes)
    assert np.array_equal(backed.source_rows, whole.source_rows)
    for name, column in whole.roles.items():
        assert np.array_equal(backed.roles[name].codes, column.codes)
        assert backed.roles[name].names == column.names
    assert backed.content_hash == whole.content_hash
    for n in (1, 2, 3, 1000):
        equal(list(backed.blocks(n)), list(whole.blocks(n)))
    order = np.random.default_rng(0).permutation(whole.n_cells)
    for rows in (order, order[:2], np.sort(order)[1:], np.array([1, 0, 1, -1]), order[:0]):
        some, of_whole = backed.take(rows), whole.take(rows)
        assert some.content_hash == of_whole.content_hash
        equal(list(some.blocks(2)), list(of_whole.blocks(2)))
        equal([some.take(np.arange(len(rows))[::-1]).counts], [of_whole.counts[::-1]])
    assert (backed.n_cells, backed.n_genes, backed.nnz) == (
        whole.n_cells,
        whole.n_genes,
        whole.nnz,
    )
    assert "_whole" not in backed.store.__dict__  # nothing above has read all of them
    equal([backed.counts], [whole.counts])
    assert backed.counts is backed.counts
    equal(list(backed.blocks(2)), list(whole.blocks(2)))


def equal(found, expected):
    assert len(found) == len(expected)
    for x, y in zip(found, expected, strict=True):
        assert x.format == "csr"
        assert x.dtype == np.float32
        assert x.shape == y.shape
        assert x.has_canonical_format
        for part in ("indptr", "indices", "data"):
            assert np.array_equal(getattr(x, part), getattr(y, part))
            assert getattr(x, part).dtype == getattr(y, part).dtype


def both(path, **settings):
    """Read a file in both ways and compare."""
    backed, whole = read(path, backed=True, **settings), read(path, backed=False, **settings)
    same(backed, whole)
    return backed


def written(adata, path):
    (adata.write_zarr if path.suffix == ".zarr" else adata.write_h5ad)(path)
    return path


@pytest.mark.parametrize("form", [sparse.csr_matrix, np.asarray])
@pytest.mark.parametrize("name", ["a.h5ad", "a.zarr"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint8", "bool"])
def test_anndata_files(make_adata, tmp_path, form, name, dtype):
    x = form(np.minimum(COUNTS, 255).astype(dtype))
    path = written(make_adata(x, obsm={"X_e": np.eye(5)}), tmp_path / name)
    embeddings = {"e": "obsm:X_e"}
    dataset = both(path, label="cell_type", batch="batch", embeddings=embeddings, id="five")
    assert dataset.cells == tuple(CELLS)


def test_half_precision(make_adata, tmp_path):
    both(written(make_adata(COUNTS.astype(np.float16)), tmp_path / "a.h5ad"))


@pytest.mark.parametrize("chunks", [1, 3, 1000])
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_stored_in_chunks(tmp_path, chunks, compression):
    simulated = simulate(60, 20, seed=3)
    adata = anndata.AnnData(simulated.counts)
    path = written(adata, tmp_path / "a.h5ad")
    with h5py.File(path, "r+") as file:
        for part in ("data", "indices"):
            values = file["X"][part][:]
            del file["X"][part]
            size = min(chunks, len(values))
            file["X"].create_dataset(part, data=values, chunks=size, compression=compression)
    both(path)


def test_zarr_of_the_third_format(make_adata, tmp_path):
    with anndata.settings.override(zarr_write_format=3):
        both(written(make_adata(), tmp_path / "a.zarr"))


@pytest.mark.parametrize("write", [write_tenx_v3, write_tenx_v2, write_loom])
def test_other_formats(tmp_path, write):
    both(write(tmp_path / "cells.h5"))


def test_a_layer_and_raw(make_adata, tmp_path):
    logged = np.log1p(COUNTS)
    adata = make_adata(logged, layers={"counts": sparse.csr_matrix(COUNTS)})
    adata.raw = make_adata(COUNTS)
    path = written(adata, tmp_path / "a.h5ad")
    assert both(path).notes[0].text == "raw counts were read from layers:counts"
    assert both(path, counts="raw").notes[0].text == "raw counts were read from raw"


def test_odd_storage(tmp_path):
    """Unsorted rows, stored zeros, duplicates, empty rows, wide indices, unused values."""
    adata = anndata.AnnData(sparse.csr_matrix((6, 5), dtype=np.float32))
    path = written(adata, tmp_path / "a.h5ad")
    with h5py.File(path, "r+") as file:
        for part, values in {
            "data": np.array([1, 2, 3, 0, 4, 5, 6, 0, 7, 8, 9], dtype=np.int16),
            "indices": np.array([3, 1, 3, 0, 4, 4, 4, 2, 0, 1, 2], dtype=np.int64),
            "indptr": np.array([0, 4, 4, 7, 8, 10, 10], dtype=np.int64),
        }.items():
            del file["X"][part]
            file["X"][part] = values
    dataset = both(path)
    assert np.array_equal(
        dataset.counts.toarray(), [[0, 2, 0, 4, 0], [0, 0, 0, 0, 15], [7, 8, 0, 0, 0]]
    )
    assert list(dataset.source_rows) == [0, 2, 4]
    notes = {note.kind: note.text for note in dataset.notes}
    assert notes["empty_cells"] == "3 of 6 cells have no counts at all and were left out"


def test_features_that_are_no_genes_and_what_is_empty_without_them(make_adata, tmp_path):
    var = pd.DataFrame(
        {"feature_types": ["Gene Expression", "Antibody Capture", "Gene Expression", "Peaks"]},
        index=SYMBOLS,
    )
    x = COUNTS.copy()
    x[3] = x[0]
    path = written(make_adata(x, var=var), tmp_path / "a.h5ad")
    dataset = both(path, label="cell_type", embeddings={"e": np.arange(10.0).reshape(5, 2)})
    assert dataset.genes.symbol == ("CD3D", "NKG7")
    assert list(dataset.source_rows) == [0, 2, 3, 4]  # cell 1 has counts of other features only
    assert dataset.embeddings["e"][1, 0] == 4
    notes = {note.kind: note.count for note in dataset.notes}
    assert (notes["empty_cells"], notes["features"], notes["duplicate_rows"]) == (1, 2, 1)


def test_duplicate_ids_and_an_obs_table(make_adata, tmp_path):
    obs = pd.DataFrame({"batch": BATCHES}, index=["a", "b", "a", "", "e"])
    path = written(make_adata(obs=obs), tmp_path / "a.h5ad")
    table = pd.DataFrame({"cell_type": TYPES[:3]}, index=["a", "b", "e"])
    dataset = both(path, label="cell_type", obs=table)
    assert dataset.cells == ("a", "b", "a~2", "cell-3", "e")


@pytest.mark.parametrize("form", [sparse.csr_matrix, np.asarray])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("totals", [False, True])
def test_log_normalised_values_are_inverted(tmp_path, form, dtype, totals):
    counts = simulate(50, 12, seed=2).counts.toarray().astype(dtype)
    counts[:, 5] = 1  # what tells the scale of a cell without totals
    logged = np.log1p(counts / counts.sum(1, keepdims=True) * 1e4).astype(dtype)
    adata = anndata.AnnData(form(logged))
    if totals:
        adata.obs["n_counts"] = counts.sum(1)
    path = written(adata, tmp_path / "a.h5ad")
    dataset = both(path, invert_lognorm=True)
    assert np.array_equal(dataset.counts.toarray(), counts)


def refusal(path, **settings):
    with pytest.raises(DataError) as error:
        read(path, **settings)
    return error.value


def worse(value):
    x = COUNTS.copy()
    x[3, 2] = value
    return x


@pytest.mark.parametrize("form", [sparse.csr_matrix, np.asarray])
@pytest.mark.parametrize(
    ("x", "settings"),
    [
        (worse(-1), {}),
        (worse(0.5), {}),
        (worse(np.nan), {}),
        (worse(np.inf), {}),
        (worse(2.0**25), {}),
        (np.log1p(COUNTS), {}),
        (COUNTS * 0, {}),
        (np.log1p(COUNTS) * 1.1, {"invert_lognorm": True}),
        (np.log1p(np.abs(worse(np.nan))), {"invert_lognorm": True}),
    ],
)
def test_refusals_are_the_same(make_adata, tmp_path, form, x, settings):
    path = written(make_adata(form(x.astype(np.float32))), tmp_path / "a.h5ad")
    backed, whole = (refusal(path, backed=b, **settings) for b in (True, False))
    assert backed.args == whole.args


def test_counts_too_large_once_duplicates_are_summed(make_adata, tmp_path):
    path = written(make_adata(), tmp_path / "a.h5ad")
    with h5py.File(path, "r+") as file:
        file["X/data"][:2] = 2.0**24
        file["X/indices"][:2] = 0
    backed, whole = (refusal(path, backed=b) for b in (True, False))
    assert backed.args == whole.args
    assert "counts above 16,777,216" in backed.seen


@pytest.mark.parametrize(
    ("part", "value"),
    [("indices", [9]), ("indices", [-1]), ("indptr", [1]), ("indptr", [0, 99]), ("indptr", [0, 3])],
)
def test_inconsistent_arrays(make_adata, tmp_path, part, value):
    path = written(make_adata(), tmp_path / "a.h5ad")
    with h5py.File(path, "r+") as file:
        file["X"][part][: len(value)] = value
        if value == [0, 3]:
            file["X"][part][2] = 2
    for backed in (True, False):
        assert "inconsistent" in refusal(path, backed=backed).seen


def test_what_cannot_stay_on_disk(make_adata, tmp_path):
    by_gene = written(make_adata(sparse.csc_matrix(COUNTS)), tmp_path / "csc.h5ad")
    error = refusal(by_gene, backed=True)
    assert error.seen.startswith("X of csc.h5ad is stored gene by gene (CSC)")
    assert "tocsr()" in error.remedy
    assert "read whole" in refusal(write_mtx(tmp_path / "mtx", v3=True), backed=True).seen
    assert "is held in an object" in refusal(make_adata(), backed=True).seen
    inner = written(make_adata(), tmp_path / "inner.h5ad")
    shutil.copy(inner, tmp_path / "outer.h5ad")
    with h5py.File(tmp_path / "outer.h5ad", "r+") as file:
        del file["X"]
        file["X"] = h5py.ExternalLink("inner.h5ad", "/X")
    assert "link into another file" in refusal(tmp_path / "outer.h5ad", backed=True).seen


def test_large_counts_stay_on_disk_by_themselves(make_adata, tmp_path, monkeypatch):
    csr = written(make_adata(), tmp_path / "csr.h5ad")
    csc = written(make_adata(sparse.csc_matrix(COUNTS)), tmp_path / "csc.h5ad")
    dense = written(make_adata(COUNTS), tmp_path / "dense.h5ad")
    nnz = np.count_nonzero(COUNTS)
    monkeypatch.setattr(load, "MEMORY_LIMIT", nnz * 8)
    assert all(isinstance(read(path).store, InMemory) for path in (csr, csc, dense))
    monkeypatch.setattr(load, "MEMORY_LIMIT", nnz * 8 - 1)
    assert isinstance(read(csr).store, Backed)
    assert isinstance(read(dense).store, Backed)
    assert isinstance(read(csr, backed=False).store, InMemory)
    assert read(csr).notes[-1].text == "counts stay on disk, in csr.h5ad"
    found = read(csc)
    assert isinstance(found.store, InMemory)
    assert "CSC" in found.notes[-1].text
    assert "read into memory" in found.notes[-1].text
    assert [note.kind for note in read(make_adata()).notes] == ["counts"]


@pytest.mark.parametrize("name", ["a.h5ad", "a.zarr"])
def test_a_file_written_to_since_is_refused(make_adata, tmp_path, name):
    path = written(make_adata(), tmp_path / name)
    dataset = read(path, backed=True)
    next(dataset.blocks(1))
    shutil.move(path, tmp_path / "away")
    with pytest.raises(DataError, match="is gone since it was read"):
        list(dataset.blocks(1))
    written(make_adata(COUNTS[:, ::-1].copy()), path)
    for use in (
        lambda: list(dataset.blocks(1)),
        lambda: dataset.counts,
        lambda: dataset.content_hash,
        lambda: list(dataset.take(np.array([0])).blocks(1)),
        lambda: list(pickle.loads(pickle.dumps(dataset)).blocks(1)),
    ):
        with pytest.raises(DataError, match=f"{name} has changed since it was read"):
            use()
    assert read(path, backed=True).n_cells == 5


def test_a_change_that_leaves_size_and_time_alone_is_found_by_the_lengths(make_adata, tmp_path):
    path = written(make_adata(), tmp_path / "a.h5ad")
    dataset = read(path, backed=True)
    before = path.stat()
    with h5py.File(path, "r+") as file:
        file["X/data"][0] = 0
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(DataError, match="other counts than when it was read"):
        list(dataset.blocks(2))


def test_a_pickle_holds_no_counts_and_reads_on(make_adata, tmp_path, monkeypatch):
    written(make_adata(), tmp_path / "a.h5ad")
    monkeypatch.chdir(tmp_path)
    dataset = read("a.h5ad", backed=True)
    small = len(pickle.dumps(dataset))
    assert np.array_equal(dataset.counts.toarray(), COUNTS)
    assert dataset.content_hash
    assert len(pickle.dumps(replace(dataset))) == small
    monkeypatch.chdir("/")  # a worker may start anywhere
    again = pickle.loads(pickle.dumps(dataset.take(np.array([4, 0]))))
    assert np.array_equal(again.counts.toarray(), COUNTS[[4, 0]])


def test_the_file_is_as_before_and_free_between_calls(make_adata, tmp_path):
    path = written(make_adata(), tmp_path / "a.h5ad")
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    dataset = both(path)
    dataset.counts.data[:] = 7  # of this process alone
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before
    with h5py.File(path, "r+"):  # nobody holds it open
        pass


@pytest.mark.parametrize("values_at_once", [50_000], indirect=True)
@pytest.mark.parametrize("name", ["a.h5ad", "a.zarr", "dense.h5ad"])
def test_memory_is_that_of_a_block(tmp_path, monkeypatch, name):
    monkeypatch.setattr("sclitmus.data.matrix.BLOCK", 50_000)
    rng = np.random.default_rng(0)
    n_cells, n_genes = 3000, 2000
    x = sparse.random(n_cells, n_genes, 0.5, "csr", np.float32, rng)
    x.data = np.ceil(x.data * 9)
    form = np.asarray if name == "dense.h5ad" else sparse.csr_matrix
    path = written(anndata.AnnData(form(x.toarray())), tmp_path / name)
    first = written(anndata.AnnData(form(x[:50].toarray())), tmp_path / f"first.{name}")
    assert read(first, backed=True).counts.nnz  # modules and caches are there from now on
    tracemalloc.start()
    dataset = read(path, backed=True)
    assert sum(block.shape[0] for block in dataset.blocks(100)) == n_cells
    assert dataset.content_hash
    assert next(dataset.take(rng.permutation(n_cells)).blocks(100)).shape == (100, n_genes)
    bounded = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    assert read(path, backed=False).nnz == x.nnz
    whole = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert whole > 8 * x.nnz  # 24 MB
    assert bounded < 8 * x.nnz / 4  # a hundred cells alone are 0.8 MB


def test_ids_of_genes_are_those_of_the_file(make_adata, tmp_path):
    assert both(written(make_adata(), tmp_path / "a.h5ad")).genes.ensembl == tuple(IDS)
