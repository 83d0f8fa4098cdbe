"""Multinomial regression against scikit-learn, in each of the coordinates it may choose."""

import numpy as np
import pytest
from scipy import sparse
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from sclitmus.learning import logistic
from sclitmus.learning.logistic import fit_tuned, path


def dense(n: int, d: int, n_classes: int, strength: float = 0.7) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping classes, far from the origin, features of very different scale."""
    rng = np.random.default_rng(n + d)
    y = np.arange(n) % n_classes
    x = rng.normal(size=(n, d)) + strength * rng.normal(size=(n_classes, d))[y]
    return x * np.geomspace(0.1, 3, d) + 5, y


def sparse_counts(n: int, d: int, n_classes: int) -> tuple[sparse.csr_matrix, np.ndarray]:
    rng = np.random.default_rng(n)
    y = np.arange(n) % n_classes
    rate = 0.15 * np.exp(0.5 * rng.normal(size=(n_classes, d)))
    return sparse.csr_matrix(np.log1p(rng.poisson(rate[y])).astype(np.float32)), y


def expected(x: np.ndarray, y: np.ndarray, c: float, weight: np.ndarray | None = None):
    model = LogisticRegression(C=c, tol=1e-11, max_iter=20_000, solver="newton-cg")
    return model.fit(x, y, sample_weight=weight)


CASES = {
    "more cells than features, rotated": dense(300, 40, 4),
    "more features than cells": dense(40, 90, 3),
    "sparse, more features than cells": sparse_counts(60, 200, 4),
    "sparse, more cells": sparse_counts(1200, 80, 5),
    "duplicated cells": tuple(np.concatenate([a, a]) for a in dense(20, 60, 3)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("c", [0.01, 1.0, 30.0])
def test_scikit_learns_coefficients_and_probabilities(name: str, c: float) -> None:
    x, y = CASES[name]
    raw = x.toarray().astype(np.float64) if sparse.issparse(x) else x
    theirs = expected(raw, y, c)
    ours = path(x, y, y.max() + 1, [c / 10, c], tolerance=1e-12)[-1]
    assert ours.converged
    np.testing.assert_allclose(ours.weights, theirs.coef_.T, atol=2e-5)
    probability = theirs.predict_proba(raw)
    np.testing.assert_allclose(softmax(ours.scores(x), axis=1), probability, atol=2e-5)


def test_weighted_cells() -> None:
    x, y = dense(200, 10, 3)
    weight = np.random.default_rng(0).random(200) * (np.arange(200) % 5 > 0)
    ours = path(x, y, 3, [1.0], weight, tolerance=1e-12)[0]
    np.testing.assert_allclose(ours.weights, expected(x, y, 1.0, weight).coef_.T, atol=1e-5)


def test_two_classes_are_scikit_learns_binary_model_of_twice_the_c() -> None:
    x, y = dense(150, 8, 2)
    ours = path(x, y, 2, [1.0], tolerance=1e-12)[0]
    theirs = expected(x, y, 2.0)
    np.testing.assert_allclose(ours.weights[:, 1] - ours.weights[:, 0], theirs.coef_[0], atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_every_choice_of_coordinates_finds_the_same(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = CASES[name]
    ours = path(x, y, y.max() + 1, [0.3], tolerance=1e-12)[0]
    monkeypatch.setattr(logistic, "_FEW_CELLS", 0)
    monkeypatch.setattr(logistic, "_ROTATED", 0)
    monkeypatch.setattr(logistic, "_ONE_THREAD", 0)
    plain = path(x, y, y.max() + 1, [0.3], tolerance=1e-12)[0]
    np.testing.assert_allclose(ours.scores(x), plain.scores(x), atol=1e-4)


def test_moving_or_rotating_the_features_changes_nothing() -> None:
    x, y = dense(120, 15, 3)
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(15, 15)))[0]
    moved = x @ turn + 7
    one, other = (path(z, y, 3, [0.5], tolerance=1e-12)[0].scores(z) for z in (x, moved))
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_the_stated_tolerance_bounds_the_excess_of_the_objective() -> None:
    x, y = sparse_counts(1200, 300, 5)

    def objective(model: logistic.Linear, c: float) -> float:
        z = model.scores(x)
        loss = np.logaddexp.reduce(z, axis=1) - z[np.arange(len(y)), y]
        return float(c * loss.sum() + (model.weights**2).sum() / 2)

    grid = [1e-3, 1e-1, 1e1, 1e3]
    exact = path(x, y, 5, grid, tolerance=1e-10)
    for c, rough, fine in zip(grid, path(x, y, 5, grid), exact, strict=True):
        assert rough.converged
        assert objective(rough, c) <= objective(fine, c) * 1.01


def test_separable_cells_at_the_weak_end_of_the_grid() -> None:
    x, y = dense(60, 300, 4, strength=2)
    models = path(x, y, 4, [1.0, 1e2, 1e4])
    assert all(model.converged for model in models)
    for model in models:
        assert (model.scores(x).argmax(axis=1) == y).all()
    assert np.isfinite(models[-1].weights).all()


def test_a_class_without_a_cell_is_never_predicted() -> None:
    x, y = dense(90, 10, 3)
    model = path(x, np.where(y == 1, 3, y), 4, [1.0], tolerance=1e-12)[0]
    p = softmax(model.scores(x), axis=1)
    assert p[:, 1].max() < 1e-12
    without = path(x, y, 3, [1.0], tolerance=1e-12)[0]
    np.testing.assert_allclose(p[:, [0, 3, 2]], softmax(without.scores(x), axis=1), atol=1e-5)


@pytest.mark.parametrize("shape", [(12, 30), (30, 4)])
def test_features_that_say_nothing_leave_the_shares_of_the_classes(shape: tuple[int, int]) -> None:
    y = np.arange(shape[0]) % 3 % 2
    model = path(np.zeros(shape), y, 2, [1.0], tolerance=1e-12)[0]
    p = softmax(model.scores(np.zeros(shape)), axis=1)
    np.testing.assert_allclose(p, np.tile([2 / 3, 1 / 3], (shape[0], 1)), atol=1e-6)


def test_one_class_only() -> None:
    x, _ = dense(10, 4, 2)
    model = path(x, np.zeros(10, dtype=np.int64), 1, [1.0])[0]
    np.testing.assert_array_equal(model.scores(x), np.zeros((10, 1)))


def test_stopping_early_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = dense(200, 20, 3)
    assert fit_tuned(x, y, 3, None, np.random.default_rng(0)).remarks == ()
    monkeypatch.setattr(logistic, "MAX_STEPS", 1)
    tuned = fit_tuned(x, y, 3, None, np.random.default_rng(0), grid=[0.01, 1.0, 100.0])
    stopped = f"the fit at C = {tuned.choice.value:g} stopped before it reached its tolerance"
    assert tuned.remarks[-1] == stopped


@pytest.mark.parametrize("name", ["more features than cells", "sparse, more cells"])
def test_tuned_is_the_fit_at_the_chosen_c(name: str) -> None:
    x, y = CASES[name]
    tuned = fit_tuned(x, y, y.max() + 1, None, np.random.default_rng(3))
    again = fit_tuned(x, y, y.max() + 1, None, np.random.default_rng(3))
    np.testing.assert_array_equal(tuned.scores(x), again.scores(x))
    assert len(tuned.choice.scores) == 9
    alone = path(x, y, y.max() + 1, [tuned.choice.value], tolerance=1e-9)[0]
    p, q = (softmax(model.scores(x), axis=1) for model in (tuned.model, alone))
    np.testing.assert_allclose(p, q, atol=0.03)  # at the tolerance that tuning uses
