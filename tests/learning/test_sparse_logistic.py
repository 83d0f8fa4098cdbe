"""L1 one-vs-rest regression: scikit-learn's coefficients, conditions of an optimum, hard data."""

import numpy as np
import pytest
from scipy import sparse
from scipy.special import expit, softmax
from sklearn.linear_model import LogisticRegression

from sclitmus.learning import sparse_logistic
from sclitmus.learning.sparse_logistic import OneVsRest, fit_tuned, path


def cells(
    n: int, d: int, n_classes: int, wrong: float = 0.0, seed: int = 0
) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Sparse counts of planted classes; a share of the labels may be drawn anew."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    rate = 0.2 * np.exp(0.6 * rng.normal(size=(n_classes, d)) + rng.normal(size=d))
    x = sparse.csr_matrix(np.log1p(rng.poisson(rate[y])).astype(np.float32))
    anew = rng.random(n) < wrong
    return x, np.where(anew, rng.integers(0, n_classes, n), y)


def objective(model: OneVsRest, x: sparse.csr_matrix, y: np.ndarray, c: float) -> np.ndarray:
    """Of each class."""
    z = x @ model.weights + model.intercept
    sign = np.where(y[:, None] == np.arange(z.shape[1]), -1, 1)
    return c * np.logaddexp(0, sign * z).sum(axis=0) + np.abs(model.weights).sum(axis=0)


@pytest.mark.parametrize("c", [0.05, 1.0, 20.0])
def test_scikit_learns_coefficients(c: float) -> None:
    x, y = cells(300, 30, 3, wrong=0.3)
    ours = path(x, y, 3, [c / 10, c], tolerance=1e-10)[-1]
    assert ours.converged
    raw = x.toarray().astype(np.float64)
    for k in range(3):
        theirs = LogisticRegression(
            C=c, l1_ratio=1.0, solver="saga", tol=1e-9, max_iter=50_000, random_state=0
        ).fit(raw, y == k)
        np.testing.assert_allclose(ours.weights[:, k], theirs.coef_[0], atol=2e-4)
        np.testing.assert_allclose(ours.intercept[k], theirs.intercept_[0], atol=2e-3)


@pytest.mark.parametrize("shape", [(80, 400), (400, 80), (13, 50)])
@pytest.mark.parametrize("c", [0.1, 3.0, 1000.0])
def test_conditions_of_an_optimum(shape: tuple[int, int], c: float) -> None:
    x, y = cells(*shape, 4, wrong=0.2)
    model = path(x, y, 4, [c], tolerance=1e-8)[0]
    assert model.converged
    p = expit(x @ model.weights + model.intercept)
    residual = c * ((y[:, None] == np.arange(4)) - p)
    gradient = x.T @ residual
    used = model.weights != 0
    np.testing.assert_allclose(residual.sum(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(gradient[used], np.sign(model.weights[used]), atol=0.02)
    assert np.abs(gradient).max() < 1.02


def test_strong_penalty_leaves_the_log_odds_of_the_classes() -> None:
    x, y = cells(200, 40, 4)
    y = np.where(y == 3, 0, y)
    model = path(x, y, 3, [1e-4])[0]
    assert not model.weights.any()
    np.testing.assert_allclose(model.intercept, np.log([1.0, 1 / 3, 1 / 3]), atol=1e-6)


def test_scores_are_the_logarithms_of_sigmoids_divided_by_their_sum() -> None:
    model = OneVsRest(np.array([[1.0, -2.0, 0.0], [0.0, 3.0, 1.0]]), np.array([0.1, 0.2, -900.0]))
    x = sparse.csr_matrix([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0], [800.0, 0.0]])
    scores = model.scores(x)
    sigmoid = expit(x @ model.weights + model.intercept)
    expected = sigmoid / sigmoid.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(softmax(scores, axis=1), expected, atol=1e-12)
    assert np.isfinite(scores).all()


def test_the_tolerance_bounds_the_excess_of_the_objective() -> None:
    x, y = cells(500, 200, 4, wrong=0.2)
    grid = [0.01, 0.1, 1.0, 10.0, 1e3]
    exact = path(x, y, 4, grid, tolerance=1e-9)
    for c, rough, fine in zip(grid, path(x, y, 4, grid), exact, strict=True):
        share = np.bincount(y) / len(y)
        alone = -c * len(y) * (share * np.log(share) + (1 - share) * np.log(1 - share))
        excess = objective(rough, x, y, c) - objective(fine, x, y, c)
        assert rough.converged
        assert (excess <= sparse_logistic.TOLERANCE * alone).all()
        assert (excess >= -1e-6 * alone).all()


def test_wrong_labels_among_many_features_at_every_c() -> None:
    # Cells far on the wrong side have no curvature of their own: plain Newton steps stall here.
    x, y = cells(300, 900, 3, wrong=0.4, seed=4)
    models = path(x, y, 3, [1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3, 1e4], tolerance=1e-5)
    assert all(model.converged for model in models)
    assert (models[-1].scores(x).argmax(axis=1) == y).all()
    assert np.isfinite(models[-1].weights).all()


def test_path_and_single_fit_agree() -> None:
    x, y = cells(200, 100, 3, wrong=0.2)
    together = path(x, y, 3, [0.01, 0.1, 1.0, 10.0], tolerance=1e-10)[-1]
    alone = path(x, y, 3, [10.0], tolerance=1e-10)[0]
    np.testing.assert_allclose(together.weights, alone.weights, atol=1e-3)


def test_order_of_cells_features_and_classes_does_not_matter() -> None:
    x, y = cells(150, 60, 3, wrong=0.1)
    rng = np.random.default_rng(0)
    rows, columns, names = rng.permutation(150), rng.permutation(60), np.array([2, 0, 1])
    one = path(x, y, 3, [1.0], tolerance=1e-9)[0]
    other = path(x[rows][:, columns], names[y[rows]], 3, [1.0], tolerance=1e-9)[0]
    np.testing.assert_allclose(one.weights[columns], other.weights[:, names], atol=1e-3)


def test_a_class_without_a_cell_and_one_with_a_single_cell() -> None:
    x, y = cells(90, 40, 3)
    y[y == 1] = 0
    y[5] = 3
    for model in path(x, y, 4, [0.1, 10.0, 1e4]):
        scores = model.scores(x)
        assert np.isfinite(scores).all()
        assert not (scores.argmax(axis=1) == 1).any()
        assert model.converged
    assert model.scores(x)[5].argmax() == 3


def test_features_that_say_nothing() -> None:
    y = np.array([0, 0, 0, 1])
    model = path(sparse.csr_matrix((4, 6), dtype=np.float32), y, 2, [0.1, 100.0])[-1]
    np.testing.assert_allclose(
        softmax(model.scores(sparse.csr_matrix((1, 6))), axis=1), [[0.75, 0.25]], atol=1e-6
    )


def test_stopping_early_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = cells(200, 300, 3, wrong=0.2)
    monkeypatch.setattr(sparse_logistic, "_SETS", 1)
    tuned = fit_tuned(x, y, 3, None, np.random.default_rng(0), grid=[0.5, 1.0])
    assert not tuned.model.converged
    assert "stopped before it reached its tolerance" in tuned.remarks[-1]


def test_tuned_is_the_fit_at_the_chosen_c() -> None:
    x, y = cells(300, 100, 3, wrong=0.1)
    tuned = fit_tuned(x, y, 3, None, np.random.default_rng(1))
    assert 1e-4 < tuned.choice.value < 1e4
    assert tuned.remarks == ()
    grid = [10.0**power for power in range(-4, round(np.log10(tuned.choice.value)) + 1)]
    np.testing.assert_array_equal(tuned.model.weights, path(x, y, 3, grid)[-1].weights)
    clean = cells(300, 100, 3)[1]
    assert (tuned.scores(x).argmax(axis=1) == clean).mean() > 0.9
