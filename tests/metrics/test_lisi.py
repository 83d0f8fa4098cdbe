from pathlib import Path

import numpy as np
import pytest

from sclitmus.errors import NotApplicable
from sclitmus.metrics.lisi import (
    MIN_CELLS,
    cilisi,
    cilisi_cells,
    clisi,
    ilisi,
    lisi,
    lisis,
)
from sclitmus.metrics.neighbours import Neighbours, nearest_neighbours

GOLDEN = Path(__file__).parent / "golden" / "mixing.npz"


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.fixture(scope="module")
def near(golden: dict[str, np.ndarray]) -> Neighbours:
    return nearest_neighbours(golden["z"], 90)


@pytest.mark.parametrize("column", ["batch", "label"])
def test_lisi_as_scib_metrics(golden: dict[str, np.ndarray], near: Neighbours, column: str) -> None:
    codes = golden[column]
    # Per cell the two differ by float32 against float64: the bisection stops at 1e-5.
    scores = lisi(near, codes)
    np.testing.assert_allclose(scores, golden[f"lisi_{column}"], rtol=3e-5)
    assert scores.mean() == pytest.approx(golden[f"lisi_{column}"].mean(dtype=float), abs=1e-6)
    scores = lisi(near.first(50), codes, perplexity=10)
    np.testing.assert_allclose(scores, golden[f"lisi_{column}_perplexity_10"], rtol=3e-5)


def test_scores_as_scib_metrics(golden: dict[str, np.ndarray], near: Neighbours) -> None:
    assert ilisi(near, golden["batch"]) == pytest.approx(float(golden["ilisi"]), abs=1e-6)
    assert clisi(near, golden["label"]) == pytest.approx(float(golden["clisi"]), abs=1e-6)


def test_concentrated_distances_as_scib_metrics_in_float64(golden: dict[str, np.ndarray]) -> None:
    near = Neighbours(golden["noise_indices"].astype(np.int32), golden["noise_distances"])
    scores = lisi(near, golden["noise_codes"])
    np.testing.assert_allclose(scores, golden["noise_lisi_float64"], rtol=1e-9)
    # In float32, as scib-metrics runs, its weights underflow. `compat` follows it as far as the
    # order of XLA's sums, which decides where the bisection ends, can be followed.
    single = golden["noise_lisi_float32"]
    assert np.abs(single / scores - 1).max() > 0.05
    followed = lisi(near, golden["noise_codes"], compat=True)
    np.testing.assert_allclose(followed, single, rtol=0.03)
    assert np.median(followed) == pytest.approx(np.median(single), abs=0.005)


def test_farther_apart_is_the_same_for_any_unit(golden: dict[str, np.ndarray]) -> None:
    near = Neighbours(golden["noise_indices"].astype(np.int32), golden["noise_distances"])
    large = Neighbours(near.indices, near.distances * np.float32(1e6))
    scores = lisi(near, golden["noise_codes"])
    np.testing.assert_allclose(lisi(large, golden["noise_codes"]), scores, rtol=1e-4)


def equidistant(codes: list[int]) -> tuple[Neighbours, np.ndarray]:
    """Every cell 1 from all others, so that each of the others weighs the same."""
    n = len(codes)
    indices = np.array([[i, *(j for j in range(n) if j != i)] for i in range(n)], dtype=np.int32)
    distances = np.ones((n, n), dtype=np.float32)
    distances[:, 0] = 0
    return Neighbours(indices, distances), np.array(codes, dtype=np.int32)


def test_lisi_by_hand() -> None:
    near, codes = equidistant([0, 0, 0, 0, 1, 1, 1, 1, 1])
    # A cell of batch 0 sees 3 of its own and 5 others, one of batch 1 sees 4 and 4.
    expected = [1 / ((3 / 8) ** 2 + (5 / 8) ** 2)] * 4 + [2.0] * 5
    np.testing.assert_allclose(lisi(near, codes), expected, rtol=1e-12)
    assert ilisi(near, codes) == pytest.approx(1.0)
    assert clisi(near, codes) == pytest.approx(0.0)


def test_lisi_does_not_depend_on_the_names_of_codes(near: Neighbours) -> None:
    batch = np.random.default_rng(0).integers(0, 3, near.n_cells).astype(np.int32)
    renamed = np.array([40, 7, 0], dtype=np.int32)[batch]
    np.testing.assert_allclose(lisi(near, renamed), lisi(near, batch), rtol=1e-12)
    assert ilisi(near, renamed) == pytest.approx(ilisi(near, batch))


def test_several_columns_in_one_pass_are_the_same(
    golden: dict[str, np.ndarray], near: Neighbours
) -> None:
    both = lisis(near, (golden["label"], golden["batch"]))
    np.testing.assert_allclose(both[0], lisi(near, golden["label"]), rtol=1e-12)
    np.testing.assert_allclose(both[1], lisi(near, golden["batch"]), rtol=1e-12)


def test_huge_distances_are_weighed_too() -> None:
    z = np.random.default_rng(0).normal(size=(200, 4))
    batch = np.random.default_rng(1).integers(0, 2, 200).astype(np.int32)
    scores = lisi(nearest_neighbours(z * 1e5, 60), batch)
    np.testing.assert_allclose(scores, lisi(nearest_neighbours(z, 60), batch), rtol=1e-3)


def test_duplicates_have_a_score() -> None:
    batch = np.tile([0, 1], 50).astype(np.int32)
    scores = lisi(nearest_neighbours(np.zeros((100, 2)), 100), batch)
    np.testing.assert_allclose(scores, 1 / ((49 / 99) ** 2 + (50 / 99) ** 2))


def test_one_batch_one_type_or_too_few_cells_have_none(near: Neighbours) -> None:
    one = np.zeros(near.n_cells, dtype=np.int32)
    with pytest.raises(NotApplicable, match="one batch"):
        ilisi(near, one)
    with pytest.raises(NotApplicable, match="one type"):
        clisi(near, one)
    with pytest.raises(NotApplicable, match="6 neighbours"):
        ilisi(near.first(5), np.arange(near.n_cells, dtype=np.int32) % 2)


def two_types(shift: float, apart: float = 50.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Type 0 has batches 0 and 1, `shift` apart; type 1 has batches 0, 1 and 2, mixed."""
    rng = np.random.default_rng(3)
    z = rng.normal(size=(600, 5))
    label = np.repeat([0, 1], [200, 400]).astype(np.int32)
    batch = np.where(label == 0, np.arange(600) % 2, np.arange(600) % 3).astype(np.int32)
    z[label == 1] += apart
    z[(label == 0) & (batch == 1)] += shift
    return z, label, batch


def test_cilisi_is_scaled_by_the_batches_of_each_type() -> None:
    z, label, batch = two_types(shift=0)
    assert cilisi(z, label, batch) > 0.8
    z, label, batch = two_types(shift=20)
    cells = cilisi_cells(z, label, batch)
    np.testing.assert_allclose(cells[label == 0], 0, atol=1e-6)
    assert cells[label == 1].mean() > 0.8
    # Every cell counts alike: a third of the cells is not mixed at all.
    assert cilisi(z, label, batch) == pytest.approx(cells[label == 1].mean() * 2 / 3)


def test_cilisi_looks_inside_types_only() -> None:
    apart = cilisi_cells(*two_types(shift=0, apart=50))
    together = cilisi_cells(*two_types(shift=0, apart=0))
    np.testing.assert_allclose(together, apart, atol=1e-5)


def test_cilisi_is_ilisi_within_the_type() -> None:
    z, label, batch = two_types(shift=1)
    rows = label == 1
    expected = (lisi(nearest_neighbours(z[rows], 90), batch[rows]) - 1) / 2
    np.testing.assert_allclose(cilisi_cells(z, label, batch)[rows], expected)


def test_cilisi_skips_types_with_one_batch_or_few_cells() -> None:
    z, label, batch = two_types(shift=0)
    batch[label == 1] = 2
    cells = cilisi_cells(z, label, batch)
    assert np.isnan(cells[label == 1]).all()
    assert np.isfinite(cells[label == 0]).all()
    few = np.r_[: MIN_CELLS - 1]
    with pytest.raises(NotApplicable, match="no type"):
        cilisi(z[few], label[few], batch[few])
