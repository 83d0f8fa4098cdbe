"""Multinomial logistic regression with an L2 penalty: C x sum of losses + |W|²/2, as scikit-learn.

The intercept is not penalised. The best W is a sum of multiples of the cells' rows, so with fewer
cells than features the problem is solved, exactly, in coordinates of the row space: as many as
there are cells, from one eigendecomposition of their inner products that all C and folds share.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Integer
from scipy import sparse
from scipy.optimize import minimize

from sclitmus.learning.tuning import A_PRIORI, GRID, Choice, Fold, choose

TOLERANCE = 1e-4  # largest component of the gradient of the mean loss, as scikit-learn
MAX_STEPS = 500
MAX_ROTATED = 2048  # features: of more than that, with still more cells, none are rotated
TINY = 1e-10  # eigenvalues below this share of the largest are rounding

Matrix = np.ndarray | sparse.csr_matrix


@dataclass(frozen=True)
class Linear:
    """A fitted model.

    Attributes
    ----------
    weights, intercept
        ``(n_features, n_classes)`` and ``(n_classes,)``.
    converged
        Whether the gradient fell below `TOLERANCE`.
    """

    weights: Float64[np.ndarray, "n_features n_classes"]
    intercept: Float64[np.ndarray, "n_classes"]
    converged: bool = True

    def scores(self, x: Matrix) -> Float64[np.ndarray, "n n_classes"]:
        """Return logits."""
        return np.asarray(x @ self.weights + self.intercept, dtype=np.float64)


@dataclass(frozen=True)
class Tuned:
    """A model with the C that cross-validation chose."""

    model: Linear
    choice: Choice

    def scores(self, x: Matrix) -> Float64[np.ndarray, "n n_classes"]:
        """Return logits."""
        return self.model.scores(x)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a reader must know: the edge of the grid, a fit that did not converge."""
        late = () if self.model.converged else (f"not converged after {MAX_STEPS} steps",)
        return (*self.choice.remark(GRID), *late)


def fit(
    x: Matrix,
    y: Integer[np.ndarray, "n"],
    n_classes: int,
    c: float,
    start: Linear | None = None,
) -> Linear:
    """Fit for one C, by L-BFGS from `start` or from zero.

    The steps are taken in units of each feature's own curvature, which is what makes features of
    very different variance (principal components) no slower than others.
    """
    n, d = x.shape
    hot = np.zeros((n, n_classes))
    hot[np.arange(n), y] = 1.0
    transposed = x.T if sparse.issparse(x) else np.ascontiguousarray(x.T)
    square: Any = x.multiply(x) if sparse.issparse(x) else np.square(x)
    mean_square = np.asarray(square.mean(axis=0), dtype=np.float64).ravel()
    # The curvature of the mean loss is at most half of the mean square of a feature.
    unit = 1.0 / np.sqrt(mean_square / 2 + 1 / (c * n))[:, None]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w, b = flat[: d * n_classes].reshape(d, n_classes) * unit, flat[d * n_classes :]
        z = x @ w + b
        top = z.max(axis=1, keepdims=True)
        e = np.exp(z - top)
        total = e.sum(axis=1, keepdims=True)
        of_truth = float((z * hot).sum())
        value = (float((np.log(total) + top).sum()) - of_truth + float((w * w).sum()) / (2 * c)) / n
        p = e / total - hot
        gradient = (np.asarray(transposed @ p) + w / c) / n * unit
        return value, np.concatenate([gradient.ravel(), p.sum(axis=0) / n])

    first = np.zeros((d + 1) * n_classes)
    if start is not None:
        first = np.concatenate([(start.weights / unit).ravel(), start.intercept])
    found = minimize(
        loss,
        first,
        jac=True,
        method="L-BFGS-B",
        options={
            "maxiter": MAX_STEPS,
            "maxfun": 4 * MAX_STEPS,
            "gtol": TOLERANCE,
            "ftol": 0.0,
            "maxcor": 20,
        },
    )
    w = found.x[: d * n_classes].reshape(d, n_classes) * unit
    return Linear(w, found.x[d * n_classes :], bool(np.abs(found.jac).max() <= TOLERANCE))


def path(
    x: Matrix, y: Integer[np.ndarray, "n"], n_classes: int, grid: Sequence[float] = GRID
) -> list[Linear]:
    """Fit for each C, small to large, each from the one before."""
    models: list[Linear] = []
    for c in grid:
        models.append(fit(x, y, n_classes, c, models[-1] if models else None))
    return models


def fit_tuned(
    x: Matrix,
    y: Integer[np.ndarray, "n"],
    n_classes: int,
    groups: Integer[np.ndarray, "n"] | None,
    rng: np.random.Generator,
    grid: Sequence[float] = GRID,
    a_priori: float = A_PRIORI,
) -> Tuned:
    """Choose C by cross-validated accuracy, then fit on all cells.

    Parameters
    ----------
    y
        Codes 0 to ``n_classes - 1``, each at least once.
    groups
        Of the cells, kept whole in cross-validation; None for none.
    """
    z, back = _own_axes(x)

    def accuracies(fold: Fold) -> Float64[np.ndarray, "n_settings"]:
        fit_rows, held = fold
        models = path(z[fit_rows], y[fit_rows], n_classes, grid)
        return np.array([(m.scores(z[held]).argmax(axis=1) == y[held]).mean() for m in models])

    choice = choose(y, groups, rng, grid, accuracies, a_priori)
    model = fit(z, y, n_classes, choice.value)
    if back is not None:
        model = Linear(np.asarray(back @ model.weights), model.intercept, model.converged)
    return Tuned(model, choice)


def _own_axes(x: Matrix) -> tuple[Matrix, np.ndarray | None]:
    """Rotate the features to uncorrelated ones, as few as hold all of the cells.

    The penalty does not change by a rotation. Weights ``v`` for what is returned are weights
    ``back @ v`` for the features; a large sparse matrix stays as it is, with ``back`` None.
    """
    n, d = x.shape
    if n >= d > MAX_ROTATED:
        return x, None
    product: Any = x @ x.T if n < d else x.T @ x
    square = np.asarray(product.toarray() if sparse.issparse(product) else product, np.float64)
    values, vectors = np.linalg.eigh(square)
    kept = values > TINY * max(values[-1], 1e-300)
    if not kept.any():  # all is zero
        return np.zeros((n, 1)), np.zeros((d, 1))
    root, axes = np.sqrt(values[kept]), vectors[:, kept]
    if n < d:
        return axes * root, np.asarray(x.T @ (axes / root))
    return np.asarray(x @ axes), axes
