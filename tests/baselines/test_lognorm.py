"""Log-normalisation and gene choice against scanpy's own pipeline."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from sclitmus.baselines.hvg import HVG
from sclitmus.baselines.lognorm import VariableGenes, frequent_genes, log_normalised, totals
from sclitmus.core.dataset import Dataset, Genes
from sclitmus.core.rng import rng_for
from sclitmus.data.simulate import simulate
from sclitmus.errors import MethodError, NotApplicable

RNG = rng_for(0, "unused")


def by_scanpy(counts: sparse.csr_matrix, n_top_genes: int) -> "sparse.csr_matrix":
    """Kedzierska et al. 2025, step by step, without the cell filter."""
    import scanpy as sc
    from anndata import AnnData

    data = AnnData(counts.astype(np.float32))
    sc.pp.filter_genes(data, min_cells=10)
    sc.pp.normalize_total(data, target_sum=1e4)
    sc.pp.log1p(data)
    sc.pp.highly_variable_genes(data, flavor="seurat", n_top_genes=n_top_genes)
    return data[:, data.var["highly_variable"]].X.toarray()


def test_hvg_is_scanpys_pipeline() -> None:
    cells = simulate(n_cells=300, n_genes=500)
    z = HVG(n_top_genes=100).fit(cells, RNG).embed(cells)
    expected = by_scanpy(cells.counts, 100)
    assert z.shape == expected.shape == (300, 100)
    np.testing.assert_allclose(z, expected, rtol=1e-5)


@pytest.mark.data
def test_hvg_is_scanpys_pipeline_on_real_cells(shared_data: Path) -> None:
    import anndata

    data = anndata.read_h5ad(shared_data / "brain_fetal.h5ad")
    counts = sparse.csr_matrix(data.X).astype(np.float32)
    names = tuple(data.var_names)
    cells = Dataset(
        "brain", counts, Genes(names, ("",) * len(names), "human"), tuple(data.obs_names)
    )
    n_kept = len(frequent_genes(counts, 10))
    n_top_genes = min(2000, n_kept // 2)
    z = HVG(n_top_genes=n_top_genes).fit(cells, RNG).embed(cells)
    expected = by_scanpy(counts, n_top_genes)
    assert z.shape == expected.shape
    np.testing.assert_allclose(z, expected, rtol=1e-5)


def test_values_by_hand() -> None:
    counts = sparse.csr_matrix(np.array([[3, 1, 4], [0, 0, 5]], dtype=np.float32))
    kept, all_genes = np.array([0, 1]), np.array([0, 1, 2])
    assert totals(counts, kept).tolist() == [4, 0]
    x = log_normalised(counts, kept, totals(counts, kept)).toarray()
    # The second cell has no count among the kept genes: a row of zeros, not of NaN.
    np.testing.assert_allclose(x, [[np.log1p(7500), np.log1p(2500)], [0, 0]], rtol=1e-6)
    x = log_normalised(counts, np.array([2]), totals(counts, all_genes)).toarray()
    np.testing.assert_allclose(x, [[np.log1p(5000)], [np.log1p(10000)]], rtol=1e-6)


def test_counts_are_not_written_into() -> None:
    cells = simulate(n_cells=50, n_genes=30)
    before = replace(cells).content_hash
    HVG().fit(cells, RNG).embed(cells)[:] = -1
    assert replace(cells).content_hash == before


@pytest.mark.parametrize(
    ("n_cells", "needed"),
    [(1000, 10), (100, 10), (91, 10), (90, 9), (20, 2), (11, 2), (10, 1), (2, 1)],
)
def test_rare_genes_are_dropped_by_a_threshold_that_small_data_lower(
    n_cells: int, needed: int
) -> None:
    dense = np.zeros((n_cells, 3), dtype=np.float32)
    dense[:, 0] = 1
    dense[:needed, 1] = 1
    dense[: needed - 1, 2] = 1
    assert frequent_genes(sparse.csr_matrix(dense), 10).tolist() == [0, 1]


def test_stored_zeros_are_not_counts() -> None:
    counts = sparse.csr_matrix(np.ones((20, 2), dtype=np.float32))
    counts.data[1::2] = 0.0  # gene 1 is stored and zero in every cell
    assert frequent_genes(counts, 10).tolist() == [0]


def test_no_frequent_gene_is_not_applicable() -> None:
    counts = sparse.csr_matrix(np.eye(40, dtype=np.float32))  # every gene in one cell
    with pytest.raises(NotApplicable, match="at least 4 of 40 cells"):
        frequent_genes(counts, 10)


def test_one_cell_has_no_variable_genes() -> None:
    with pytest.raises(NotApplicable, match="at least 2 cells"):
        HVG().fit(simulate(n_cells=1, n_genes=20), RNG)


def test_all_genes_are_taken_where_few_are_left() -> None:
    cells = simulate(n_cells=200, n_genes=40)
    genes = VariableGenes.of(cells, 10, 2000)
    assert (
        genes.variable.tolist() == genes.kept.tolist() == frequent_genes(cells.counts, 10).tolist()
    )


def test_cells_with_other_genes_are_refused() -> None:
    cells = simulate(n_cells=60, n_genes=30)
    fitted = HVG().fit(cells, RNG)
    swapped = (cells.genes.symbol[1], cells.genes.symbol[0], *cells.genes.symbol[2:])
    with pytest.raises(MethodError, match="not the same or not in the same order"):
        fitted.embed(replace(cells, genes=replace(cells.genes, symbol=swapped)))


def test_embedding_before_fitting_is_refused() -> None:
    with pytest.raises(MethodError, match="before it was fitted"):
        HVG().embed(simulate(n_cells=10, n_genes=5))
