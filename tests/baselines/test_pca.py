"""PCA against numpy's singular values, and where there is none."""

import numpy as np
import pytest

from sclitmus.baselines.hvg import HVG
from sclitmus.baselines.pca import PCA
from sclitmus.core.rng import rng_for
from sclitmus.data.simulate import simulate
from sclitmus.errors import NotApplicable

RNG = rng_for(0, "unused")


def test_scores_are_those_of_the_centred_matrix() -> None:
    cells = simulate(n_cells=200, n_genes=120)
    z = PCA(n_components=5).fit(cells, RNG).embed(cells)
    x = HVG().fit(cells, RNG).embed(cells).astype(np.float64)
    u, s, _ = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    expected = u[:, :5] * s[:5]
    sign = np.sign((z * expected).sum(axis=0))  # an axis has no sign of its own
    np.testing.assert_allclose(z, expected * sign, atol=1e-4)


def test_scanpys_pca_of_the_same_genes() -> None:
    import scanpy as sc
    from anndata import AnnData

    cells = simulate(n_cells=150, n_genes=80)
    data = AnnData(HVG().fit(cells, RNG).embed(cells))
    sc.pp.pca(data, n_comps=6)
    z = PCA(n_components=6).fit(cells, RNG).embed(cells)
    np.testing.assert_allclose(np.abs(z), np.abs(data.obsm["X_pca"]), atol=1e-3)


@pytest.mark.parametrize(
    ("n_cells", "n_genes", "d"), [(2, 40, 1), (3, 40, 2), (51, 90, 50), (90, 8, 7)]
)
def test_components_are_fewer_than_cells_and_genes(n_cells: int, n_genes: int, d: int) -> None:
    cells = simulate(n_cells=n_cells, n_genes=n_genes)
    z = PCA().fit(cells, RNG).embed(cells)
    assert z.shape == (n_cells, d)
    assert np.isfinite(z).all()


def test_a_cell_alone_gets_the_row_it_has_among_others() -> None:
    cells = simulate(n_cells=100, n_genes=60)
    fitted = PCA().fit(cells, RNG)
    np.testing.assert_allclose(
        fitted.embed(cells.take(np.array([17]))), fitted.embed(cells)[[17]], atol=1e-5
    )


def test_cells_that_are_all_alike_are_not_applicable() -> None:
    cells = simulate(n_cells=30, n_genes=20)
    with pytest.raises(NotApplicable, match="nothing varies"):
        PCA().fit(cells.take(np.zeros(30, dtype=np.int64)), RNG)
