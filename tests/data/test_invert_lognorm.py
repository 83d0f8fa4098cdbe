"""Log-normalised counts come back exactly, or not at all."""

import numpy as np
import pytest
from scipy import sparse

from sclitmus.data.lognorm import Refused, invert
from sclitmus.data.read import read
from sclitmus.data.simulate import simulate
from sclitmus.errors import DataError


def logged(counts, target=1e4, decimals=None, totals=None):
    x = sparse.csr_matrix(counts, dtype=np.float32)
    totals = np.maximum(np.asarray(x.sum(1)).ravel(), 1) if totals is None else totals
    scale = np.repeat(np.float32(target) / totals.astype(np.float32), np.diff(x.indptr))
    values = np.log1p(x.data * scale)
    x.data = (values if decimals is None else np.round(values, decimals)).astype(np.float32)
    return x


@pytest.fixture(scope="module")
def counts():
    return simulate(300, 200, seed=3).counts


@pytest.mark.parametrize("target", [1e4, 1e6, 4321.0])
@pytest.mark.parametrize("with_totals", [True, False])
def test_counts_come_back(counts, target, with_totals):
    totals = {"n_counts": np.asarray(counts.sum(1)).ravel().astype(float)} if with_totals else {}
    found = invert(logged(counts, target), totals)
    assert (found.counts != counts).nnz == 0
    assert ("n_counts" in found.how) == with_totals
    assert found.unchecked == 0


def test_three_decimals_are_enough(counts):
    found = invert(logged(counts, decimals=3), {})
    assert (found.counts != counts).nnz == 0


def test_two_decimals_leave_large_counts_open():
    counts = np.array([[1, 2, 3, 0], [1, 0, 500, 7]], dtype=np.float32)
    found = invert(logged(counts, decimals=2), {})
    assert isinstance(found, Refused)
    assert (found.row, found.column) == (1, 2)


def test_totals_tell_the_scale_of_cells_without_a_single_count(counts):
    """Ten cells have even counts only; the totals are those of a panel's whole transcriptome."""
    panel = counts.copy()
    panel.data[: panel.indptr[10]] *= 2
    totals = np.asarray(panel.sum(1)).ravel() + 1000.0
    x = logged(panel, totals=totals)
    by_totals, by_cell = invert(x, {"nCount_RNA": totals}), invert(x, {})
    assert (by_totals.counts != panel).nnz == 0
    assert "nCount_RNA" in by_totals.how
    assert (by_cell.counts != counts).nnz == 0  # a cell alone cannot tell 2, 4 from 1, 2


def test_wrong_totals_are_passed_over(counts):
    wrong = np.random.default_rng(0).uniform(100, 200, counts.shape[0])
    found = invert(logged(counts), {"n_counts": wrong, "total_counts": np.full(300, np.nan)})
    assert (found.counts != counts).nnz == 0
    assert "smallest value of each cell" in found.how


def test_one_broken_value_refuses_all(counts):
    x = logged(counts)
    x.data[1234] += 0.05
    found = invert(x, {})
    assert isinstance(found, Refused)
    row = int(np.searchsorted(x.indptr, 1234, side="right")) - 1
    assert found.row == row


def test_log2_is_refused(counts):
    x = logged(counts)
    x.data = (x.data / np.log(2)).astype(np.float32)
    assert isinstance(invert(x, {}), Refused)


def test_cells_nothing_can_check_are_counted():
    found = invert(logged(np.array([[5, 0, 0], [2, 2, 0], [1, 2, 0], [0, 0, 0]])), {})
    assert np.array_equal(found.counts.toarray(), [[1, 0, 0], [1, 1, 0], [1, 2, 0], [0, 0, 0]])
    assert found.unchecked == 2


def test_only_on_request(make_adata, counts):
    adata = make_adata(logged(counts[:5, :4]))
    with pytest.raises(DataError, match="--invert-lognorm"):
        read(adata)
    dataset = read(adata, invert_lognorm=True)
    note = next(note for note in dataset.notes if note.kind == "inverted")
    assert note.text.startswith("counts were had back exactly from the log-normalised values in X")


def test_request_with_counts_at_hand_inverts_nothing(make_adata):
    dataset = read(make_adata(), invert_lognorm=True)
    assert [n.text for n in dataset.notes if n.kind == "inverted"] == [
        "nothing was inverted: X holds raw counts"
    ]


def test_refusal_names_the_value(make_adata):
    x = logged(np.array([[1, 2, 0, 3]] * 5))
    x.data[4] *= 1.01
    with pytest.raises(DataError) as error:
        read(make_adata(x), invert_lognorm=True)
    assert "MS4A1 in cell AAAC-1 would be" in error.value.seen
    assert "cannot be undone" in error.value.remedy


def test_scaled_values_are_not_inverted(make_adata):
    x = logged(np.array([[1, 2, 0, 3]] * 5)).toarray() - 1
    with pytest.raises(DataError, match="negative values"):
        read(make_adata(x), invert_lognorm=True)
