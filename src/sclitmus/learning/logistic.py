"""Multinomial logistic regression with an L2 penalty, over a grid of C.

Minimises ``C * sum(log loss) + |W|²/2`` as scikit-learn does; the intercept is not penalised. The
steps are those of L-BFGS, in coordinates in which the curvature is nearly the same everywhere, so
that about twenty evaluations do at any C:

- features are centred, which changes nothing but the intercept;
- with fewer cells than features the best W is a sum of multiples of the cells, so the problem is
  solved, exactly, in as many dimensions as there are cells, found once for all C and folds;
- dense features are rotated to their principal axes; sparse ones stay as they are;
- each coordinate is scaled by its variance and each class by how undecided its cells are;
- from one C to the next, all logits are first multiplied by the best factor.

The fit is done when the gain of a Newton step with that curvature is a small share of the
objective. On simulated cells the objective was then within 0.3% of its least, at any C.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64, Integer
from numba import njit
from scipy import sparse
from scipy.optimize import OptimizeResult, minimize
from scipy.special import softmax
from threadpoolctl import threadpool_limits

from sclitmus.learning.tuning import A_PRIORI, GRID, Fold, Tuned, choose
from sclitmus.metrics.parallel import n_threads, on_threads, row_blocks

__all__ = ["Linear", "Tuned", "fit_tuned", "path"]

TOLERANCE = 1e-3  # share of the objective
MAX_STEPS = 500
_FEW_CELLS = 1000  # more than these are not worth the eigenvectors of their inner products
_ROTATED = 2048  # features: axes of more cost more than they save
_AXIS_ROWS = 16_384  # rows from which axes are found; they need not be exact
_ROUNDING = 1e-10  # an axis with less than this share of the largest variance is none
_ABSENT = -50.0  # logit of a class without a cell
_ONE_THREAD = 2_000_000  # stored values: up to so many, threads cost more than they save

Matrix = np.ndarray | sparse.csr_matrix


@dataclass(frozen=True)
class Linear:
    """A fitted model.

    Attributes
    ----------
    weights, intercept
        ``(n_features, n_classes)`` and ``(n_classes,)``.
    converged
        Whether the tolerance was reached.
    """

    weights: Float64[np.ndarray, "n_features n_classes"]
    intercept: Float64[np.ndarray, "n_classes"]
    converged: bool = True

    def scores(self, x: Matrix) -> Float64[np.ndarray, "n n_classes"]:
        """Return logits."""
        return np.asarray(x @ self.weights + self.intercept, dtype=np.float64)


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
        Codes 0 to ``n_classes - 1``.
    groups
        Of the cells, kept whole in cross-validation; None for none.
    """
    grid = tuple(grid)
    with threadpool_limits(1, user_api="blas"):  # its threads fight with ours
        space = _Space.of(x)

        def accuracies(fold: Fold) -> Float64[np.ndarray, "n_settings"]:
            fit_rows, held = fold
            weight = np.zeros(len(y))
            weight[fit_rows] = 1.0
            models = _path(space, y, n_classes, grid, weight, TOLERANCE, threads=1)
            calls = (model.scores(space.z[held]).argmax(axis=1) for model in models)
            return np.array([(called == y[held]).mean() for called in calls])

        choice = choose(y, groups, rng, grid, accuracies, a_priori, threads=None)
        up_to = [*(c for c in grid if c < choice.value), choice.value]
        model = _path(space, y, n_classes, up_to, np.ones(len(y)), TOLERANCE)[-1]
        return Tuned(space.returned(model), choice, grid)


def path(
    x: Matrix,
    y: Integer[np.ndarray, "n"],
    n_classes: int,
    grid: Sequence[float] = GRID,
    weight: Float64[np.ndarray, "n"] | None = None,
    tolerance: float = TOLERANCE,
) -> list[Linear]:
    """Fit for each C, which ascends, each from the one before.

    Parameters
    ----------
    y
        Codes 0 to ``n_classes - 1``. A class without a cell is never predicted.
    weight
        What each cell counts; None for 1.
    tolerance
        Share of the objective by which it may exceed its least.
    """
    weight = np.ones(len(y)) if weight is None else weight
    with threadpool_limits(1, user_api="blas"):
        space = _Space.of(x)
        models = _path(space, y, n_classes, grid, weight, tolerance)
        return [space.returned(model) for model in models]


@dataclass(frozen=True)
class _Space:
    """The coordinates a problem is solved in.

    Attributes
    ----------
    z
        The cells in them, not centred.
    mean
        Of each coordinate, taken off while solving.
    variance
        Along each axis.
    axes
        Axes as columns; None where they are the coordinates themselves.
    spanned
        The features of the cells, their mean, and multiples of the cells that make up each
        coordinate's direction; None where the coordinates are the features.
    """

    z: Matrix
    mean: Float64[np.ndarray, "r"]
    variance: Float64[np.ndarray, "n_axes"]
    axes: Float64[np.ndarray, "r n_axes"] | None = None
    spanned: tuple[Matrix, np.ndarray, np.ndarray] | None = None

    @classmethod
    def of(cls, x: Matrix) -> "_Space":
        """Choose the coordinates by the shape of the problem."""
        n, d = x.shape
        x = np.asarray(x, dtype=np.float64) if isinstance(x, np.ndarray) else x
        mean = np.asarray(x.mean(axis=0), dtype=np.float64).ravel()
        if n <= min(d, _FEW_CELLS):
            return cls._of_few(x, mean)
        if isinstance(x, np.ndarray) and d <= _ROTATED:
            rows = x[:: -(-n // _AXIS_ROWS)] - mean
            variance, axes = np.linalg.eigh(rows.T @ rows / len(rows))
            return cls(x, mean, np.maximum(variance, 0.0), axes)
        square: Any = x.multiply(x) if sparse.issparse(x) else np.square(x)
        of_square = np.asarray(square.mean(axis=0), dtype=np.float64).ravel()
        return cls(x, mean, np.maximum(of_square - mean**2, 0.0))

    @classmethod
    def _of_few(cls, x: Matrix, mean: Float64[np.ndarray, "d"]) -> "_Space":
        exact = x.astype(np.float64)
        product: Any = exact @ exact.T
        gram = product if isinstance(product, np.ndarray) else product.toarray()
        share = gram.mean(axis=0)
        # Of centred cells; a rounding of the products themselves is no axis.
        values, vectors = np.linalg.eigh(gram - share[:, None] - share + share.mean())
        kept = values > max(_ROUNDING * max(values[-1], gram.max()), 1e-300)
        root, u = np.sqrt(values[kept]), vectors[:, kept]
        z = u * root
        return cls(z, np.zeros(len(root)), root**2 / len(z), None, (x, mean, u / root))

    def returned(self, model: Linear) -> Linear:
        """Return the model in the features' own coordinates."""
        if self.spanned is None:
            return model
        x, mean, multiples = self.spanned
        # Each column of the multiples sums to zero, so that the cells need not be centred.
        weights = np.asarray(x.T @ (multiples @ model.weights), dtype=np.float64)
        return Linear(weights, model.intercept - mean @ weights, model.converged)


def _path(
    space: _Space,
    y: Integer[np.ndarray, "n"],
    n_classes: int,
    grid: Sequence[float],
    weight: Float64[np.ndarray, "n"],
    tolerance: float,
    threads: int | None = None,
) -> list[Linear]:
    """Fit in these coordinates; classes without a cell are left out and then given `_ABSENT`."""
    size = np.bincount(y, weights=weight, minlength=n_classes)
    present = np.flatnonzero(size)
    share = size[present] / size.sum()
    code = np.full(n_classes, -1)
    code[present] = np.arange(len(present))
    problem = _Problem(space, code[y], len(present), weight, threads)
    at = Linear(np.zeros((len(space.mean), len(present))), np.log(share))
    undecided = share * (1 - share)
    models: list[Linear] = []
    for c in grid:
        if models and len(present) > 1:
            at, undecided = problem.stretched(float(c), at)
        if len(present) > 1:
            at, undecided = problem.minimised(float(c), at, undecided, tolerance)
        weights, intercept = np.zeros((len(space.mean), n_classes)), np.full(n_classes, _ABSENT)
        weights[:, present] = at.weights
        intercept[present] = at.intercept - at.intercept.mean() - space.mean @ at.weights
        models.append(Linear(weights, intercept, at.converged))
    return models


@dataclass(frozen=True)
class _Value:
    """Loss at a point, its gradient by weights and intercept, and ``sum(p (1 - p))`` by class."""

    loss: float
    by_weights: Float64[np.ndarray, "r n_classes"]
    by_intercept: Float64[np.ndarray, "n_classes"]
    undecided: Float64[np.ndarray, "n_classes"]


@dataclass(frozen=True)
class _Problem:
    """The loss of some cells as a function of weights and intercept of the centred coordinates."""

    space: _Space
    y: Int64[np.ndarray, "n"]
    n_classes: int
    weight: Float64[np.ndarray, "n"]
    threads: int | None

    def minimised(
        self, c: float, start: Linear, undecided: Float64[np.ndarray, "n_classes"], tolerance: float
    ) -> tuple[Linear, Float64[np.ndarray, "n_classes"]]:
        """Minimise for one C; `undecided`, the mean of p (1 - p) at the start, sets the scale."""
        space, n = self.space, float(self.weight.sum())
        k, axes = len(start.intercept), space.axes
        unit = 1 / np.sqrt(1 + c * n * space.variance[:, None] * undecided)
        unit_b = 1 / np.sqrt(c * n * undecided + 1e-12)
        reached: dict[str, Any] = {}

        def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
            v = flat[:-k].reshape(-1, k) * unit
            w, b = v if axes is None else axes @ v, flat[-k:] * unit_b
            value = self.at(w, b)
            by_w, by_b = c * value.by_weights + w, c * value.by_intercept
            by_v = by_w if axes is None else axes.T @ by_w
            total = c * value.loss + float((w * w).sum()) / 2
            reached.update(total=total, by_v=by_v, by_b=by_b, undecided=value.undecided / n)
            gradient = np.concatenate([(by_v * unit).ravel(), by_b * unit_b])
            return total / (c * n), gradient / (c * n)

        def gain() -> float:
            bend = c * n * reached["undecided"]
            by_v = reached["by_v"] ** 2 / (1 + space.variance[:, None] * bend)
            by_b = reached["by_b"] ** 2 / (bend + 1e-300)
            return float(by_v.sum() + by_b.sum()) / 2 / float(reached["total"])

        def enough(intermediate_result: OptimizeResult) -> None:
            if gain() <= tolerance:
                raise StopIteration

        v = start.weights if axes is None else axes.T @ start.weights
        found = minimize(
            objective,
            np.concatenate([(v / unit).ravel(), start.intercept / unit_b]),
            jac=True,
            method="L-BFGS-B",
            callback=enough,
            options={"maxiter": MAX_STEPS, "maxfun": 4 * MAX_STEPS, "ftol": 0.0, "gtol": 0.0},
        )
        if gain() > tolerance:
            objective(found.x)  # the last point tried need not be the one returned
        v = found.x[:-k].reshape(-1, k) * unit
        w = v if axes is None else axes @ v
        w -= w.mean(axis=1, keepdims=True)  # changes no probability and makes |W| smaller
        return Linear(w, found.x[-k:] * unit_b, gain() <= tolerance), reached["undecided"]

    def stretched(self, c: float, start: Linear) -> tuple[Linear, Float64[np.ndarray, "n_classes"]]:
        """Multiply all logits by the best factor: most of the way from one C to the next."""
        rows = np.flatnonzero(self.weight)
        w, weight = start.weights, self.weight[rows]
        logits = (self.space.z @ w + (start.intercept - self.space.mean @ w))[rows]
        of_truth = weight @ logits[np.arange(len(rows)), self.y[rows]]
        square = float((w * w).sum())
        factor = 1.0
        for _ in range(20):
            p = softmax(factor * logits, axis=1)
            mean = (p * logits).sum(axis=1)
            slope = c * (weight @ mean - of_truth) + factor * square
            bend = c * (weight @ ((p * logits**2).sum(axis=1) - mean**2)) + square
            step = np.clip(-slope / (bend + 1e-300), -factor / 2, factor)
            factor += step
            if abs(step) < 1e-3 * factor:
                break
        undecided = weight @ (p * (1 - p)) / weight.sum()
        return Linear(factor * w, factor * start.intercept), undecided

    def at(
        self, w: Float64[np.ndarray, "r n_classes"], b: Float64[np.ndarray, "n_classes"]
    ) -> _Value:
        """Evaluate."""
        z, mean = self.space.z, self.space.mean
        offset = b - mean @ w
        some = self._of_sparse if sparse.issparse(z) else self._of_dense
        n, size = z.shape[0], z.nnz if sparse.issparse(z) else z.size
        threads = 1 if size <= _ONE_THREAD else self.threads or n_threads()
        blocks = row_blocks(n, -(-n // threads))
        parts = on_threads(lambda rows: some(w, offset, rows), blocks, threads)
        loss, by_w, by_b, undecided = (sum(piece) for piece in zip(*parts, strict=True))
        return _Value(float(loss), by_w - np.outer(mean, by_b), by_b, undecided)

    def _of_dense(self, w: np.ndarray, b: np.ndarray, rows: slice) -> tuple[Any, ...]:
        z, y, weight = self.space.z[rows], self.y[rows], self.weight[rows]
        logits = z @ w + b
        top = logits.max(axis=1, keepdims=True)
        p = np.exp(logits - top)
        total = p.sum(axis=1, keepdims=True)
        p /= total
        kept = np.flatnonzero(weight)
        of_truth = logits[kept, y[kept]]
        loss = weight @ (np.log(total) + top)[:, 0] - weight[kept] @ of_truth
        undecided = weight @ (p * (1 - p))
        p[kept, y[kept]] -= 1
        p *= weight[:, None]
        return loss, z.T @ p, p.sum(axis=0), undecided

    def _of_sparse(self, w: np.ndarray, b: np.ndarray, rows: slice) -> tuple[Any, ...]:
        z: Any = self.space.z
        by_w, by_b, undecided = np.zeros_like(w), np.zeros_like(b), np.zeros_like(b)
        loss = _add_up(
            z.indptr, z.indices, z.data, self.y, self.weight, w, b, rows.start, rows.stop,
            by_w, by_b, undecided,
        )  # fmt: skip
        return loss, by_w, by_b, undecided


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz", "arcp"})
def _add_up(  # type: ignore[no-untyped-def]
    starts, columns, values, y, weight, w, b, first, last, by_w, by_b, undecided
):
    """Add loss and gradients of some rows; one pass over each row does both products."""
    k = w.shape[1]
    z = np.empty(k)
    loss = 0.0
    for i in range(first, last):
        if weight[i] == 0:
            continue
        z[:] = b
        p, stop = starts[i], starts[i + 1]
        while p + 4 <= stop:  # four at a time: a single one would wait for the sum it adds to
            x0, x1, x2, x3 = values[p], values[p + 1], values[p + 2], values[p + 3]
            j0, j1, j2, j3 = columns[p], columns[p + 1], columns[p + 2], columns[p + 3]
            for c in range(k):
                z[c] += (x0 * w[j0, c] + x1 * w[j1, c]) + (x2 * w[j2, c] + x3 * w[j3, c])
            p += 4
        while p < stop:
            x0, j0 = values[p], columns[p]
            for c in range(k):
                z[c] += x0 * w[j0, c]
            p += 1
        top = z.max()
        loss -= weight[i] * (z[y[i]] - top)
        total = 0.0
        for c in range(k):
            z[c] = np.exp(z[c] - top)
            total += z[c]
        loss += weight[i] * np.log(total)
        for c in range(k):
            q = z[c] / total
            undecided[c] += weight[i] * q * (1 - q)
            z[c] = weight[i] * (q - 1 if y[i] == c else q)
            by_b[c] += z[c]
        for p in range(starts[i], stop):
            x0, j0 = values[p], columns[p]
            for c in range(k):
                by_w[j0, c] += x0 * z[c]
    return loss
