"""Floor, ceiling and canary: each is as blind, or as seeing, as it says."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from sclitmus.baselines.label_canary import LabelCanary
from sclitmus.baselines.label_oracle import LabelOracle
from sclitmus.baselines.noise import cell_noise
from sclitmus.baselines.pca import PCA
from sclitmus.baselines.random_embedding import RandomEmbedding
from sclitmus.baselines.random_projection import RandomProjection
from sclitmus.core.dataset import Categories
from sclitmus.core.rng import rng_for
from sclitmus.data.simulate import simulate
from sclitmus.errors import NotApplicable


def test_noise_belongs_to_the_cell() -> None:
    ids = [f"cell-{i}" for i in range(2000)]
    noise = cell_noise(3, ids, 20)
    np.testing.assert_array_equal(cell_noise(3, reversed(ids), 20)[::-1], noise)
    np.testing.assert_array_equal(cell_noise(3, ids[5:6], 20), noise[5:6])
    assert not np.array_equal(cell_noise(4, ids, 20), noise)


def test_noise_is_standard_normal_and_independent() -> None:
    noise = cell_noise(0, [f"cell-{i}" for i in range(2000)], 20)
    assert abs(noise.mean()) < 4 / np.sqrt(noise.size)
    assert abs(noise.std() - 1) < 4 / np.sqrt(2 * noise.size)
    correlation = np.corrcoef(noise.T) - np.eye(20)
    assert np.abs(correlation).max() < 5 / np.sqrt(len(noise))
    neighbours = np.corrcoef(noise[:-1].ravel(), noise[1:].ravel())[0, 1]
    assert abs(neighbours) < 4 / np.sqrt(noise.size)


def test_noise_of_no_cells_has_its_shape() -> None:
    assert cell_noise(0, [], 7).shape == (0, 7)


def test_random_embedding_does_not_depend_on_expression() -> None:
    cells, others = simulate(n_cells=40, seed=0), simulate(n_cells=40, seed=1)
    z = RandomEmbedding().fit(cells, rng_for(0, "a")).embed(cells)
    assert z.shape == (40, 50)
    assert z.dtype == np.float32
    np.testing.assert_array_equal(RandomEmbedding().fit(others, rng_for(0, "a")).embed(others), z)


def test_random_projection_keeps_squared_distances_on_average() -> None:
    cells = simulate(n_cells=80, n_genes=200)
    wide = RandomProjection(n_components=2000).fit(cells, rng_for(0, "a")).embed(cells)
    counts = cells.counts.toarray()
    x = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)
    ratio = np.linalg.norm(wide[1:] - wide[0], axis=1) / np.linalg.norm(x[1:] - x[0], axis=1)
    # Standard deviation of a ratio is 1 / sqrt(2 d) = 0.016 at 2,000 dimensions.
    assert np.abs(ratio - 1).max() < 0.08


def test_label_oracle_is_one_hot_with_jitter() -> None:
    cells = simulate(n_cells=90, n_types=3)
    z = LabelOracle().fit(cells, rng_for(0, "a")).embed(cells)
    assert np.abs(z - np.eye(50)[cells.role("label").codes]).max() < 0.02
    assert len(np.unique(z, axis=0)) == 90
    many = simulate(n_cells=120, n_types=60)
    assert LabelOracle().fit(many, rng_for(0, "a")).embed(many).shape == (120, 60)


def test_label_oracle_puts_cells_without_a_known_label_at_zero() -> None:
    cells = simulate(n_cells=6, n_types=2)
    known = replace(cells, roles={"label": Categories.of(["B", "T", None, "B", "T", ""])})
    fitted = LabelOracle(jitter=0.0, n_components=2).fit(known, rng_for(0, "a"))
    b, t, zero = [1, 0], [0, 1], [0, 0]
    assert fitted.embed(known).tolist() == [b, t, zero, b, t, zero]
    other = replace(cells, roles={"label": Categories.of(["T", "new", "T", "T", "T", "T"])})
    assert fitted.embed(other).tolist() == [t, zero, t, t, t, t]


@pytest.mark.parametrize("control", [LabelOracle(), LabelCanary()])
def test_no_labels_is_not_applicable(control: LabelOracle | LabelCanary) -> None:
    with pytest.raises(NotApplicable, match="label"):
        control.fit(simulate(n_cells=20).without("label"), rng_for(0, "a"))


def test_canary_finds_types_that_are_not_there() -> None:
    """Labels at random: no honest embedding separates them, the canary does."""
    cells = simulate(n_cells=200, n_genes=100, n_types=3, type_strength=0.0)
    label = cells.role("label").codes

    def neighbours_agree(z: np.ndarray) -> float:
        near = KNeighborsClassifier(5).fit(z, label).kneighbors(return_distance=False)
        return float((label[near] == label[:, None]).mean())

    canary = LabelCanary().fit(cells, rng_for(0, "a")).embed(cells)
    assert neighbours_agree(PCA().fit(cells, rng_for(0, "a")).embed(cells)) < 0.5
    assert neighbours_agree(canary) > 0.8


def test_canary_embeds_cells_without_a_label() -> None:
    cells = simulate(n_cells=60, n_genes=50, n_types=2)
    names = np.array(cells.role("label").names, dtype=object)[cells.role("label").codes]
    names[:20] = None
    partly = replace(cells, roles={"label": Categories.of(names)})
    z = LabelCanary(max_epochs=5).fit(partly, rng_for(0, "a")).embed(partly)
    assert z.shape == (60, 16)
    assert np.isfinite(z).all()


def test_canary_needs_two_labels() -> None:
    with pytest.raises(NotApplicable, match="at least 2 labels; got 1"):
        LabelCanary().fit(simulate(n_cells=20, n_types=1), rng_for(0, "a"))
