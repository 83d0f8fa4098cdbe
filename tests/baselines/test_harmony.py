"""Harmony: mixes batches, keeps types, and knows only the cells it was fitted on."""

import logging
from dataclasses import replace

import numpy as np
import pytest
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from sclitmus.baselines.harmony import Harmony, _cells_by_components
from sclitmus.baselines.pca import PCA
from sclitmus.core.dataset import Categories
from sclitmus.core.rng import rng_for
from sclitmus.data.simulate import simulate
from sclitmus.errors import MethodError, NotApplicable


def accuracy(z: np.ndarray, codes: np.ndarray) -> float:
    return float(cross_val_score(KNeighborsClassifier(15), z, codes, cv=5).mean())


def test_mixes_batches_and_keeps_types() -> None:
    cells = simulate(n_cells=400, n_genes=200, n_types=3, n_batches=2, batch_strength=0.5)
    batch, label = cells.role("batch").codes, cells.role("label").codes
    before = PCA().fit(cells, rng_for(0, "a")).embed(cells)
    after = Harmony().fit(cells, rng_for(0, "a")).embed(cells)
    assert after.shape == before.shape
    assert accuracy(before, batch) > 0.9
    assert accuracy(after, batch) < 0.6
    assert accuracy(after, label) > 0.95


def test_rows_follow_the_cells() -> None:
    cells = simulate(n_cells=60, n_genes=40)
    fitted = Harmony().fit(cells, rng_for(0, "a"))
    order = np.random.default_rng(0).permutation(60)[:25]
    np.testing.assert_array_equal(fitted.embed(cells.take(order)), fitted.embed(cells)[order])


def test_new_cells_are_not_applicable() -> None:
    cells = simulate(n_cells=60, n_genes=40)
    fitted = Harmony().fit(cells.take(np.arange(50)), rng_for(0, "a"))
    with pytest.raises(NotApplicable, match="10 of 20 were not fitted on"):
        fitted.embed(cells.take(np.arange(40, 60)))


def test_one_batch_and_no_batch_are_not_applicable() -> None:
    cells = simulate(n_cells=40, n_genes=40, n_batches=1)
    with pytest.raises(NotApplicable, match="at least 2"):
        Harmony().fit(cells, rng_for(0, "a"))
    with pytest.raises(NotApplicable, match="batch"):
        Harmony().fit(cells.without("batch"), rng_for(0, "a"))


@pytest.mark.parametrize("n_cells", [2, 3, 12, 51])
def test_few_cells(n_cells: int) -> None:
    """harmonypy itself refuses fewer than 15; 51 cells have as many components as 50."""
    cells = simulate(n_cells=n_cells, n_genes=80)
    batch = Categories.of([f"{i % 2}" for i in range(n_cells)])
    z = Harmony().fit(replace(cells, roles={"batch": batch}), rng_for(0, "a")).embed(cells)
    assert z.shape == (n_cells, min(50, n_cells - 1))
    assert np.isfinite(z).all()


def test_unknown_batch_is_a_batch_of_its_own() -> None:
    cells = simulate(n_cells=40, n_genes=40)
    partly = replace(cells, roles={"batch": Categories.of(["a"] * 20 + [None] * 20)})
    assert Harmony().fit(partly, rng_for(0, "a")).embed(partly).shape[0] == 40


def test_says_nothing(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        Harmony().fit(simulate(n_cells=40, n_genes=40), rng_for(0, "a"))
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.name == "harmonypy"]


def test_both_orientations_of_the_result() -> None:
    z = np.arange(12.0).reshape(4, 3)
    np.testing.assert_array_equal(_cells_by_components(z, (4, 3)), z)
    np.testing.assert_array_equal(_cells_by_components(z.T, (4, 3)), z)
    with pytest.raises(MethodError, match="harmonypy returned"):
        _cells_by_components(z, (5, 3))
