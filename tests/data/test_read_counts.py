"""Raw counts are found where they are; anything else is refused with what, where and a remedy."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from five_cells import COUNTS
from scipy import sparse

from sclitmus.data.counts import classify
from sclitmus.data.read import read
from sclitmus.errors import DataError

LOGGED = np.log1p(COUNTS / COUNTS.sum(1, keepdims=True) * 1e4).astype(np.float32)
SCALED = (LOGGED - LOGGED.mean(0)).astype(np.float32)


def texts(dataset, kind):
    return [note.text for note in dataset.notes if note.kind == kind]


def spoilt(value, row=3, column=2):
    x = COUNTS.copy()
    x[row, column] = value
    return x


@pytest.mark.parametrize(
    ("matrix", "kind"),
    [
        (COUNTS, "counts"),
        (COUNTS.astype(np.int64), "counts"),
        (COUNTS.astype(np.uint8) > 0, "counts"),
        (np.zeros((2, 3)), "counts"),
        (np.zeros((0, 3)), "counts"),
        (LOGGED, "log_normalised"),
        (np.expm1(LOGGED), "normalised"),
        (SCALED, "scaled"),
        (-COUNTS.astype(np.int32), "scaled"),
        (spoilt(2.5), "fractional"),
        (spoilt(np.nan), "nan"),
        (spoilt(np.inf), "infinite"),
        (spoilt(2.0**24), "counts"),
        (spoilt(2.0**24).astype(np.int64) + (COUNTS > 100), "counts"),
        (spoilt(0).astype(np.int64) + (COUNTS == 300) * 2**24, "too_large"),
        (COUNTS.astype(str), "not_numeric"),
        (COUNTS + 1j, "not_numeric"),
    ],
)
def test_classify(matrix, kind):
    assert classify(matrix).kind == kind


@pytest.mark.parametrize("store", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
@pytest.mark.parametrize("block", [1, 3, 1000])
def test_the_offending_value_is_located(store, block, monkeypatch):
    monkeypatch.setattr("sclitmus.data.matrix.BLOCK", block)
    finding = classify(store(spoilt(np.nan)))
    assert (finding.kind, finding.row, finding.column) == ("nan", 3, 2)
    assert np.isnan(finding.value)


def test_the_last_of_many_values_is_seen():
    x = sparse.csr_matrix(np.ones((1000, 10), dtype=np.float32))
    x.data[-1] = 0.5
    finding = classify(x)
    assert (finding.kind, finding.row, finding.column) == ("fractional", 999, 9)


def test_x_comes_first(make_adata):
    dataset = read(make_adata(layers={"counts": COUNTS * 2}))
    assert np.array_equal(dataset.counts.toarray(), COUNTS)
    assert texts(dataset, "counts") == ["raw counts were read from X"]


@pytest.mark.parametrize("name", ["counts", "raw_counts", "count", "raw", "umi"])
def test_a_layer_of_counts(make_adata, name):
    dataset = read(make_adata(LOGGED, layers={"other": SCALED, name: sparse.csr_matrix(COUNTS)}))
    assert np.array_equal(dataset.counts.toarray(), COUNTS)
    assert texts(dataset, "counts") == [f"raw counts were read from layers:{name}"]


def test_a_layer_comes_before_raw(make_adata):
    adata = make_adata(COUNTS * 2)
    adata.raw = adata.copy()
    adata.X, adata.layers["counts"] = LOGGED, COUNTS
    assert np.array_equal(read(adata).counts.toarray(), COUNTS)


@pytest.mark.parametrize("on_disk", [False, True])
def test_raw_with_its_own_genes(make_adata, tmp_path, on_disk):
    adata = make_adata()
    adata.raw = adata.copy()
    adata = adata[:, [2, 0]].copy()
    adata.X = SCALED[:, [2, 0]]
    if on_disk:
        adata.write_h5ad(tmp_path / "a.h5ad")
    dataset = read(tmp_path / "a.h5ad" if on_disk else adata)
    assert np.array_equal(dataset.counts.toarray(), COUNTS)
    assert dataset.genes.symbol == ("CD3D", "MS4A1", "NKG7", "LYZ")
    assert texts(dataset, "counts") == ["raw counts were read from raw"]


def test_wider_raw_is_pointed_out(make_adata):
    adata = make_adata()
    adata.raw = adata.copy()
    dataset = read(adata[:, [2, 0]].copy())
    assert dataset.n_genes == 2
    assert texts(dataset, "counts")[1].startswith("raw has 4 genes, X only 2; --counts raw reads")
    assert read(adata, counts="raw").n_genes == 4


def test_velocity_layers_are_read_only_by_name(make_adata):
    adata = make_adata(LOGGED, layers={"spliced": COUNTS})
    with pytest.raises(DataError, match="or name one of these with --counts: layers:spliced"):
        read(adata)
    assert np.array_equal(read(adata, counts="layers:spliced").counts.toarray(), COUNTS)


def test_no_matrix_at_all(make_adata):
    adata = AnnData(obs=pd.DataFrame(index=["a"]), var=pd.DataFrame(index=["g"]))
    with pytest.raises(DataError, match="no matrix is where they are looked for"):
        read(adata)


def test_a_forced_place_must_exist_and_hold_counts(make_adata):
    with pytest.raises(DataError, match="did you mean layers:counts"):
        read(make_adata(LOGGED, layers={"counts": COUNTS}), counts="layers:count")
    with pytest.raises(DataError, match="X holds log-normalised values"):
        read(make_adata(LOGGED, layers={"counts": COUNTS}), counts="X")


@pytest.mark.parametrize(
    ("x", "seen", "remedy"),
    [
        (LOGGED, "log-normalised values (8.92279 for CD3D in cell AAAC-0)", "--invert-lognorm"),
        (np.expm1(LOGGED), "X holds normalised values", "before normalising"),
        (SCALED, "X holds negative values, as scaled or centred data have (", "before scaling"),
        (spoilt(2.5), "X holds fractional counts (2.5 for NKG7 in cell AAAC-3)", "round them"),
        (spoilt(np.nan), "missing values (nan for NKG7 in cell AAAC-3)", "never missing"),
        (spoilt(np.inf), "X holds infinite values (inf for NKG7 in cell AAAC-3)", "division"),
        (spoilt(2.0**25), "X holds counts above 16,777,216", "check the units"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("store", [np.asarray, sparse.csr_matrix])
def test_refusals_say_seen_needed_remedy(make_adata, x, seen, remedy, store):
    with pytest.raises(DataError) as error:
        read(make_adata(store(x)))
    assert seen in error.value.seen
    assert error.value.needed.startswith("whole numbers, 0 or more, in X, layers:counts")
    assert remedy in error.value.remedy


def test_every_place_is_described(make_adata):
    adata = make_adata(SCALED, layers={"counts": spoilt(0.5)})
    adata.raw = make_adata(LOGGED)
    with pytest.raises(DataError) as error:
        read(adata)
    assert [part.split(" holds ")[0] for part in error.value.seen.split("; ")] == [
        "the AnnData object has no raw counts: X", "layers:counts", "raw",
    ]  # fmt: skip


def test_unsorted_duplicated_and_zero_entries_become_canonical(make_adata):
    x = sparse.csr_matrix(
        (np.array([1, 2, 0, 4, 3], np.float32), np.array([2, 0, 3, 1, 1]), np.array([0, 3, 5])),
        shape=(2, 4),
    )
    adata = AnnData(x, var=pd.DataFrame(index=list("abcd")))
    before = [part.copy() for part in (adata.X.data, adata.X.indices, adata.X.indptr)]
    dataset = read(adata)
    assert np.array_equal(dataset.counts.toarray(), [[2, 0, 1, 0], [0, 7, 0, 0]])
    assert dataset.counts.nnz == 3
    after = (adata.X.data, adata.X.indices, adata.X.indptr)
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_binary_and_float16_are_noted(make_adata):
    assert len(texts(read(make_adata(np.minimum(COUNTS, 1))), "binary")) == 1
    assert len(texts(read(make_adata(spoilt(4096).astype(np.float16))), "float16")) == 1
    assert texts(read(make_adata(COUNTS.astype(np.float16))), "float16") == []


def test_sparse_data_are_never_made_dense(tmp_path):
    """200,000 x 30,000 entries would take 24 GB; the 1,000,000 stored ones take 8 MB."""
    rng = np.random.default_rng(0)
    n = 200_000
    indices = np.sort(rng.integers(0, 30_000, (n, 5)), axis=1).ravel()
    x = sparse.csr_matrix((np.ones(5 * n, np.float32), indices, np.arange(0, 5 * n + 1, 5)),
                          shape=(n, 30_000))  # fmt: skip
    adata = AnnData(x)
    adata.write_h5ad(tmp_path / "wide.h5ad")
    dataset = read(tmp_path / "wide.h5ad")
    assert dataset.counts.shape == (n, 30_000)
    assert dataset.counts.sum() == 5 * n
