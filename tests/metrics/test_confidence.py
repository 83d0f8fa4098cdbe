"""Calibration against hand-worked bins, scikit-learn, scipy and planted temperatures."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import softmax as scipy_softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from sclitmus.errors import MethodError, NotApplicable
from sclitmus.metrics.calibration import (
    TEMPERATURE_BOUNDS,
    brier,
    classwise_ece,
    fit_temperature,
    nll,
    reliability,
    softmax,
    top_label_ece,
)

seeds = st.integers(0, 2**32 - 1)


def planted(n: int, n_classes: int, temperature: float, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Logits that are `temperature` times too sure of classes drawn from their softmax."""
    rng = np.random.default_rng(seed)
    honest = 2 * rng.normal(size=(n, n_classes))
    y = np.argmax(honest + rng.gumbel(size=honest.shape), axis=1)
    return honest * temperature, y


def slow_ece(stated: np.ndarray, right: np.ndarray, n_bins: int) -> float:
    total = 0.0
    for b in range(n_bins):
        inside = (stated > b / n_bins) & (stated <= (b + 1) / n_bins)
        if inside.any():
            total += inside.sum() * abs(right[inside].mean() - stated[inside].mean())
    return total / len(stated)


def test_hand_computed() -> None:
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.3, 0.7]])
    y = np.array([0, 1, 1, 1])
    table = reliability(p, y, n_bins=2)
    assert table.count.tolist() == [4]  # nothing is stated below a half: no empty bin
    assert table.confidence == pytest.approx([0.75])
    assert table.accuracy == pytest.approx([0.75])
    assert top_label_ece(p, y, n_bins=2) == pytest.approx(0)
    # By mass: 0.6 and 0.7 (both right), 0.8 and 0.9 (one right).
    table = reliability(p, y, n_bins=2, bins="mass")
    assert table.confidence == pytest.approx([0.65, 0.85])
    assert table.accuracy == pytest.approx([1, 0.5])
    assert top_label_ece(p, y, n_bins=2, bins="mass") == pytest.approx(0.35)
    # Class 0: 0.3 and 0.4 stated, none; 0.8 and 0.9 stated, one. Class 1 mirrors it.
    assert classwise_ece(p, y, n_bins=2) == pytest.approx((2 * 0.35 + 2 * 0.35) / 4)
    assert brier(p, y) == pytest.approx(2 * (0.01 + 0.64 + 0.16 + 0.09) / 4)
    expected = -np.mean(np.log([0.9, 0.2, 0.6, 0.7]))
    assert nll(np.log(p), y) == pytest.approx(expected)


def test_bins_are_closed_above() -> None:
    p = np.array([[0.5, 0.5], [0.5, 0.5], [0.75, 0.25], [1.0, 0.0]])
    table = reliability(p, np.zeros(4, int), n_bins=4)
    assert table.confidence.tolist() == [0.5, 0.75, 1]
    assert table.count.tolist() == [2, 1, 1]
    assert reliability(np.array([[1.0, 0.0]]), np.array([1]), n_bins=4).error == 1
    # A probability of 0 is in the first bin.
    assert classwise_ece(np.array([[1.0, 0.0]]), np.array([1]), n_bins=4) == 1


@settings(max_examples=40, deadline=None)
@given(seed=seeds, n=st.integers(1, 300), n_classes=st.integers(1, 6), n_bins=st.integers(1, 20))
def test_width_bins_equal_a_loop(seed: int, n: int, n_classes: int, n_bins: int) -> None:
    logits, y = planted(n, n_classes, 1.5, seed)
    p = softmax(logits)
    if n_classes > 1:  # a probability of exactly 1 times n_bins is exact
        top = p.argmax(axis=1) == y
        assert top_label_ece(p, y, n_bins) == pytest.approx(slow_ece(p.max(axis=1), top, n_bins))
    expected = np.mean([slow_ece(p[:, k], y == k, n_bins) for k in range(n_classes)])
    assert classwise_ece(p, y, n_bins) == pytest.approx(expected)


def test_bins_equal_scikit_learn() -> None:
    logits, y = planted(3000, 5, 2.0)
    p = softmax(logits)
    right = p.argmax(axis=1) == y
    for bins, strategy in (("width", "uniform"), ("mass", "quantile")):
        table = reliability(p, y, 10, bins=bins)  # type: ignore[arg-type]
        accuracy, confidence = calibration_curve(right, p.max(axis=1), n_bins=10, strategy=strategy)
        np.testing.assert_allclose(table.accuracy, accuracy)
        np.testing.assert_allclose(table.confidence, confidence)
        assert table.count.sum() == 3000
    assert table.count.tolist() == [300] * 10


def test_equal_values_share_a_bin_of_mass() -> None:
    stated = np.repeat([0.6, 0.9, 0.95], [7, 1, 2])
    p = np.column_stack([stated, 1 - stated])
    y = np.array([0, 1] * 5)
    table = reliability(p, y, n_bins=10, bins="mass")
    assert table.count.tolist() == [7, 1, 2]
    assert table.confidence == pytest.approx([0.6, 0.9, 0.95])
    assert top_label_ece(np.full((10, 2), 0.5), y, bins="mass") == pytest.approx(0)


def test_brier_and_nll_equal_scikit_learn() -> None:
    logits, y = planted(500, 4, 1.0)
    p = softmax(logits)
    np.testing.assert_allclose(p, scipy_softmax(logits, axis=1), rtol=1e-13)
    assert nll(logits, y) == pytest.approx(log_loss(y, p))
    two, is_second = logits[:, :2], y % 2
    p = softmax(two)
    assert brier(p, is_second) == pytest.approx(2 * brier_score_loss(is_second, p[:, 1]))


def test_bounds_of_brier_and_nll() -> None:
    sure = np.eye(3)
    assert brier(sure, np.array([0, 1, 2])) == 0
    assert brier(sure, np.array([1, 2, 0])) == 2
    assert nll(np.zeros((5, 4)), np.zeros(5, int)) == pytest.approx(np.log(4))


def test_a_probability_of_zero_is_a_finite_loss() -> None:
    logits = np.array([[2000.0, 0.0], [0.0, 3.0]])
    assert softmax(logits)[0, 1] == 0
    assert nll(logits, np.array([1, 1])) == pytest.approx((2000 + np.log1p(np.exp(-3))) / 2)
    worst = np.finfo(np.float64).min
    logits = np.array([[worst, 0.0], [worst, 0.0], [0.0, 0.0]])
    assert np.isfinite(nll(logits, np.zeros(3, int)))


@pytest.mark.parametrize("temperature", [0.25, 1.0, 4.0])
def test_temperature_recovers_what_was_planted(temperature: float) -> None:
    logits, y = planted(20_000, 5, temperature)
    found = fit_temperature(logits, y)
    assert found == pytest.approx(temperature, rel=0.03)
    assert nll(logits / found, y) <= nll(logits / temperature, y)


def test_calibrated_and_over_confident() -> None:
    honest, y = planted(20_000, 5, 1.0)
    over, _ = planted(20_000, 5, 4.0)
    for ece in (top_label_ece, classwise_ece):
        for bins in ("width", "mass"):
            good, bad, mended = (
                ece(softmax(logits, t), y, bins=bins)  # type: ignore[arg-type]
                for logits, t in ((honest, 1.0), (over, 1.0), (over, fit_temperature(over, y)))
            )
            assert good < 0.015
            assert bad > 5 * good
            assert mended < 0.015
    assert top_label_ece(softmax(over), y) > 0.2
    table = reliability(softmax(over), y)
    assert table.confidence[-1] > table.accuracy[-1] + 0.15
    for score in (brier(softmax(over), y), nll(over, y)):
        assert score > 0
    assert brier(softmax(over), y) > brier(softmax(honest), y)
    assert nll(over, y) > nll(honest, y)


@settings(max_examples=25, deadline=None)
@given(seed=seeds, n=st.integers(20, 200), n_classes=st.integers(2, 5), scale=st.floats(0.3, 3))
def test_temperature_is_the_minimum(seed: int, n: int, n_classes: int, scale: float) -> None:
    logits, y = planted(n, n_classes, scale, seed)
    found = fit_temperature(logits, y)
    reference = minimize_scalar(
        lambda log_t: nll(logits / np.exp(log_t), y),
        bounds=(np.log(TEMPERATURE_BOUNDS[0]), np.log(TEMPERATURE_BOUNDS[1])),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert nll(logits / found, y) <= reference.fun + 1e-9
    # Logits twice as large need twice the temperature.
    if 2 * found < TEMPERATURE_BOUNDS[1] and found > TEMPERATURE_BOUNDS[0]:
        assert fit_temperature(2 * logits, y) == pytest.approx(2 * found, rel=1e-6)


def test_temperature_at_its_bounds() -> None:
    y = np.array([0, 1, 2, 0])
    right = 5 * np.eye(3)[y]
    assert fit_temperature(right, y) == TEMPERATURE_BOUNDS[0]
    assert fit_temperature(right, (y + 1) % 3) == TEMPERATURE_BOUNDS[1]
    assert fit_temperature(np.zeros((4, 3)), y) == 1  # no temperature changes anything
    assert fit_temperature(np.array([[7.0, 7.0]] * 4), y % 2) == 1
    worst = np.finfo(np.float64).min
    absurd = np.array([[worst, 0.0], [0.0, worst], [worst, 0.0], [0.0, worst]])
    assert fit_temperature(absurd, np.array([0, 0, 1, 1])) == TEMPERATURE_BOUNDS[1]


@settings(max_examples=30, deadline=None)
@given(seed=seeds, n=st.integers(2, 100), n_classes=st.integers(2, 6))
def test_invariances(seed: int, n: int, n_classes: int) -> None:
    logits, y = planted(n, n_classes, 1.3, seed)
    rng = np.random.default_rng(seed)
    rows, names = rng.permutation(n), rng.permutation(n_classes)
    other = np.empty_like(logits)
    other[:, names] = logits[rows] + rng.normal(size=(n, 1))  # the same probabilities
    other_y = names[y[rows]]
    never = np.hstack([logits, np.full((n, 1), -2000.0)])
    p, other_p, never_p = softmax(logits), softmax(other), softmax(never)
    measures: list[Callable[[np.ndarray, np.ndarray], float]] = [
        top_label_ece,
        lambda p, y: top_label_ece(p, y, 5, "mass"),
        brier,
    ]
    for measure in measures:
        assert measure(other_p, other_y) == pytest.approx(measure(p, y), abs=1e-9)
        assert measure(never_p, y) == pytest.approx(measure(p, y), abs=1e-12)
    by_class = classwise_ece(p, y)
    assert classwise_ece(other_p, other_y) == pytest.approx(by_class, abs=1e-9)
    # A class that is never stated nor true has no error, and counts in the mean.
    assert classwise_ece(never_p, y) * (n_classes + 1) == pytest.approx(by_class * n_classes)
    assert nll(other, other_y) == pytest.approx(nll(logits, y))
    assert nll(never, y) == pytest.approx(nll(logits, y))


def test_softmax_keeps_the_order_and_softens() -> None:
    logits, _ = planted(200, 4, 1.0)
    warm = softmax(logits, 3.0)
    np.testing.assert_allclose(warm.sum(axis=1), 1)
    np.testing.assert_array_equal(warm.argmax(axis=1), logits.argmax(axis=1))
    assert (warm.max(axis=1) < softmax(logits).max(axis=1)).all()
    np.testing.assert_allclose(softmax(np.array([[1e4, -1e4]])), [[1, 0]])
    for bad in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="temperature"):
            softmax(logits, bad)


def test_one_class() -> None:
    p, logits, y = np.ones((4, 1)), np.full((4, 1), 3.0), np.zeros(4, int)
    assert top_label_ece(p, y) == classwise_ece(p, y) == brier(p, y) == nll(logits, y) == 0
    with pytest.raises(NotApplicable, match="one class"):
        fit_temperature(logits, y)


def test_no_cell_is_no_score() -> None:
    none, y = np.zeros((0, 3)), np.zeros(0, int)
    for ask in (reliability, top_label_ece, classwise_ece, brier, nll, fit_temperature):
        with pytest.raises(NotApplicable, match="no cell"):
            ask(none, y)
    assert softmax(none).shape == (0, 3)


def test_refuses_rows_that_are_no_distribution() -> None:
    good, y = np.full((4, 2), 0.5), np.zeros(4, int)
    for bad in ([0.5, 0.6], [1.5, -0.5], [np.nan, 1.0]):
        p = good.copy()
        p[2] = bad
        for ask in (reliability, top_label_ece, classwise_ece, brier):
            with pytest.raises(MethodError, match="1 of 4 rows"):
                ask(p, y)
    assert brier(good.astype(np.float32), y) == pytest.approx(0.5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_refuses_logits_that_are_not_finite(bad: float) -> None:
    logits = np.zeros((4, 2))
    logits[1, 0] = bad
    for ask in (nll, fit_temperature):
        with pytest.raises(MethodError, match="1 of 4 cells"):
            ask(logits, np.zeros(4, int))
    with pytest.raises(MethodError, match="1 of 4 cells"):
        softmax(logits)
    with pytest.raises(MethodError, match="shape"):
        softmax(np.zeros(4))


def test_refuses_codes_and_bins_that_are_none() -> None:
    p = np.full((3, 2), 0.5)
    for y in ([0, 1, 2], [0, 1, -1], [0, 1]):
        with pytest.raises(ValueError, match="y must"):
            brier(p, np.array(y))
        with pytest.raises(ValueError, match="y must"):
            nll(p, np.array(y))
    with pytest.raises(ValueError, match="n_bins"):
        reliability(p, np.zeros(3, int), 0)
    with pytest.raises(ValueError, match="bins must be"):
        reliability(p, np.zeros(3, int), bins="size")  # type: ignore[arg-type]


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, y = planted(101, 4, 2.0)

    def all_values() -> list[float]:
        p = softmax(logits)
        return [brier(p, y), nll(logits, y), fit_temperature(logits, y), float(p[50, 1])]

    whole = all_values()
    monkeypatch.setattr("sclitmus.metrics.groups._BLOCK_BYTES", 8 * 4 * 7)
    assert all_values() == pytest.approx(whole, rel=1e-9)
