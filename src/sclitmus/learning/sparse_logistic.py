"""Logistic regression with an L1 penalty, one class against the rest, over a grid of C.

Minimises ``C * sum(log loss) + sum(|w|)`` for each class, with an intercept that is not penalised
(liblinear's is). Per class the path runs from the strongest penalty to the weakest:

- a working set of features: those in use and those that violate the optimality conditions most
  (Massias et al. 2018, arXiv:1802.07481);
- on it, Newton steps with coordinate descent inside (Yuan et al. 2012, newGLMNET), in which the
  intercept follows every coordinate, so that the features act as if they were centred. A cell on
  the wrong side gets the curvature of the bound of Jaakkola and Jordan (2000,
  doi:10.1023/A:1008932416310) in place of its own, which vanishes there and would send the step
  far away; of cells that hardly bend the loss only the share on the diagonal is kept;
- between steps the best factor for all weights, which is most of the way from one C to the next
  once the classes are separated;
- the duality gap says when to stop.

Measured against liblinear, celer and skglm in ``benchmarks/annotation.py`` and its results.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64, Integer
from numba import njit
from scipy import sparse

from sclitmus.learning.tuning import A_PRIORI, GRID, Fold, Tuned, choose
from sclitmus.metrics.parallel import on_threads

TOLERANCE = 1e-3
_FIRST_SET = 100
_SETS = 60
_NEWTON_STEPS = 3
_EPOCHS = 100
_KEPT = 0.003  # a cell is kept in a Newton step if its curvature is this share of the mean
_FAST = {"reassoc", "contract", "nsz", "arcp"}


@dataclass(frozen=True)
class OneVsRest:
    """One logistic regression per class.

    Attributes
    ----------
    weights, intercept
        ``(n_features, n_classes)`` and ``(n_classes,)``.
    converged
        Whether every class reached the tolerance.
    """

    weights: Float64[np.ndarray, "n_features n_classes"]
    intercept: Float64[np.ndarray, "n_classes"]
    converged: bool = True

    def scores(self, x: sparse.csr_matrix) -> Float64[np.ndarray, "n n_classes"]:
        """Log of the probabilities, which are the sigmoids divided by their sum.

        The regressions know nothing of each other, so their probabilities do not sum to one;
        dividing by the sum is what scikit-learn's ``OneVsRestClassifier`` does.
        """
        z = np.asarray(x @ self.weights, dtype=np.float64) + self.intercept
        log_sigmoid = -np.logaddexp(0, -z)
        return np.asarray(log_sigmoid - np.logaddexp.reduce(log_sigmoid, axis=1, keepdims=True))


def fit_tuned(
    x: sparse.csr_matrix,
    y: Integer[np.ndarray, "n"],
    n_classes: int,
    groups: Integer[np.ndarray, "n"] | None,
    rng: np.random.Generator,
    grid: Sequence[float] = GRID,
    a_priori: float = A_PRIORI,
) -> Tuned:
    """Choose C by cross-validated accuracy, then fit on all cells; one C for all classes.

    Parameters
    ----------
    y
        Codes 0 to ``n_classes - 1``.
    groups
        Of the cells, kept whole in cross-validation; None for none.
    """
    grid = tuple(grid)

    def accuracies(fold: Fold) -> Float64[np.ndarray, "n_settings"]:
        fit_rows, held = fold
        models = path(x[fit_rows], y[fit_rows], n_classes, grid)
        unseen = x[held]
        return np.array([(m.scores(unseen).argmax(axis=1) == y[held]).mean() for m in models])

    choice = choose(y, groups, rng, grid, accuracies, a_priori)
    up_to = [*(c for c in grid if c < choice.value), choice.value]
    return Tuned(path(x, y, n_classes, up_to)[-1], choice, grid)


def path(
    x: sparse.csr_matrix,
    y: Integer[np.ndarray, "n"],
    n_classes: int,
    grid: Sequence[float] = GRID,
    tolerance: float = TOLERANCE,
) -> list[OneVsRest]:
    """Fit for each C, which ascends, each from the one before.

    Parameters
    ----------
    y
        Codes 0 to ``n_classes - 1``. A class without a cell is never predicted.
    tolerance
        A class is done when its duality gap, which bounds how far the objective is from its
        least, is below this share of the objective without any feature. 0.001 is where glmnet ends
        its paths (99.9% of the deviance explained): beyond it a larger C only sharpens
        probabilities.
    """
    columns = x.tocsc()
    largest_first = np.argsort(-np.bincount(y, minlength=n_classes), kind="stable")
    found = on_threads(
        lambda k: _class_path(columns, (y == k).astype(np.uint8), grid, tolerance), largest_first
    )
    models = []
    for at in range(len(grid)):
        weights, intercept = np.zeros((x.shape[1], n_classes)), np.zeros(n_classes)
        for k, points in zip(largest_first, found, strict=True):
            weights[points[at].features, k] = points[at].weights
            intercept[k] = points[at].intercept
        converged = all(points[at].gap <= tolerance for points in found)
        models.append(OneVsRest(weights, intercept, converged))
    return models


@dataclass(frozen=True)
class _Point:
    """One class at one C: the features with a weight, and the relative duality gap."""

    features: Int64[np.ndarray, "n_active"]
    weights: Float64[np.ndarray, "n_active"]
    intercept: float
    gap: float


def _class_path(
    x: sparse.csc_matrix, y: np.ndarray, grid: Sequence[float], tolerance: float
) -> list[_Point]:
    n, d = x.shape
    share = (y.sum() + 0.5) / (n + 1)
    if not 0 < y.sum() < n:  # nothing to tell apart: the smoothed log odds, and no feature
        alone = _Point(np.zeros(0, np.int64), np.zeros(0), float(np.log(share / (1 - share))), 0.0)
        return [alone] * len(grid)
    share = y.mean()
    entropy = -(share * np.log(share) + (1 - share) * np.log(1 - share))
    w, b = np.zeros(d), float(np.log(share / (1 - share)))
    eta, residual, curvature, gradient = np.full(n, b), np.empty(n), np.empty(n), np.empty(d)
    columns = (x.indptr, x.indices, x.data)
    points = []
    for C in grid:
        for _ in range(_SETS):
            scale, b, primal = _balance(eta, b, y, C, np.abs(w).sum(), residual, curvature)
            w *= scale
            _correlate(*columns, residual, gradient)
            gap = (primal - _dual(residual, C, np.abs(gradient).max())) / (C * n * entropy)
            if gap <= tolerance:
                break
            # How far 0 is from the subgradient: which features are not at their optimum.
            amiss = np.where(
                w != 0, np.abs(gradient - np.sign(w)), np.maximum(np.abs(gradient) - 1, 0)
            )
            chosen = _working_set(w, amiss)
            weights = w[chosen]
            b += _improve(
                chosen, *columns, y, C, weights, eta, residual, curvature, 0.4 * amiss.max()
            )
            w[chosen] = weights
        active = np.flatnonzero(w)
        points.append(_Point(active, w[active], b, float(gap)))
    return points


def _working_set(
    w: Float64[np.ndarray, "d"], amiss: Float64[np.ndarray, "d"]
) -> Int64[np.ndarray, "n_chosen"]:
    """All features in use, and as many of the others, worst first; at least a hundred."""
    active = w != 0
    size = min(max(_FIRST_SET, 2 * int(active.sum())), int((active | (amiss > 0)).sum()))
    order = np.argpartition(-np.where(active, np.inf, amiss), size - 1)
    return np.sort(order[:size])


def _dual(residual: Float64[np.ndarray, "n"], C: float, steepest: float) -> float:
    """Objective of the dual at the residuals, scaled so that no feature's gradient exceeds 1."""
    a = np.clip(np.abs(residual) / (C * max(1.0, steepest)), 1e-300, 1 - 1e-16)
    return float(-C * np.sum(a * np.log(a) + (1 - a) * np.log1p(-a)))


@njit(cache=True, nogil=True, fastmath=_FAST)
def _evaluate(eta, y, C, residual, curvature):  # type: ignore[no-untyped-def]
    """Loss at these log odds; its negative gradient and curvature per cell, and their sums."""
    loss = total = bend = 0.0
    for i in range(len(eta)):
        e = np.exp(-abs(eta[i]))
        q = 1 / (1 + e)
        right = (eta[i] >= 0) == (y[i] == 1)
        wrong = C * (e * q if right else q)  # C times the probability of the other answer
        residual[i] = wrong if y[i] == 1 else -wrong
        loss += np.log1p(e)
        curvature[i] = C * e * q * q
        if not right:
            loss += abs(eta[i])
            if e < 0.9:
                curvature[i] = C * (q - 0.5) / abs(eta[i])
        total += residual[i]
        bend += curvature[i]
    return C * loss, total, bend


@njit(cache=True, nogil=True, fastmath=_FAST)
def _balance(eta, b, y, C, l1, residual, curvature):  # type: ignore[no-untyped-def]
    """Minimise over a factor common to all weights and over the intercept; changes `eta`."""
    n = len(eta)
    z = eta - b
    factor, b_new = 1.0, b
    loss, total, bend = _evaluate(eta, y, C, residual, curvature)
    objective = loss + l1
    for _ in range(50):
        slope, bend_zz, bend_z = -l1, 0.0, 0.0
        for i in range(n):
            slope += residual[i] * z[i]
            bend_z += curvature[i] * z[i]
            bend_zz += curvature[i] * z[i] * z[i]
        determinant = bend_zz * bend - bend_z * bend_z
        grow, shift = 0.0, total / bend
        if determinant > 1e-12 * bend_zz * bend:
            grow = (slope * bend - total * bend_z) / determinant
            shift = (total * bend_zz - slope * bend_z) / determinant
        gain = slope * grow + total * shift
        if not gain > 1e-13 * objective:
            break
        step = 1.0
        while step > 1e-6:
            if factor + step * grow > 0:
                for i in range(n):
                    eta[i] = (factor + step * grow) * z[i] + b_new + step * shift
                loss, total, bend = _evaluate(eta, y, C, residual, curvature)
                reached = loss + (factor + step * grow) * l1
                if reached <= objective - 0.01 * step * gain:
                    break
            step *= 0.5
        if step <= 1e-6:
            for i in range(n):
                eta[i] = factor * z[i] + b_new
            _evaluate(eta, y, C, residual, curvature)
            break
        factor += step * grow
        b_new += step * shift
        objective = reached
    return factor, b_new, objective


@njit(cache=True, nogil=True, fastmath=_FAST)
def _correlate(starts, cells, values, residual, gradient):  # type: ignore[no-untyped-def]
    for j in range(len(gradient)):
        total = 0.0
        for p in range(starts[j], starts[j + 1]):
            total += values[p] * residual[cells[p]]
        gradient[j] = total


@njit(cache=True, nogil=True, fastmath=_FAST)
def _improve(chosen, starts, cells, values, y, C, w, eta, residual, curvature, enough):  # type: ignore[no-untyped-def]
    """Newton steps over the chosen features; changes `w` and `eta`, returns the shift of b."""
    k, n, size = len(chosen), len(y), 0
    for j in chosen:
        size += starts[j + 1] - starts[j]
    begin, cell = np.zeros(k + 1, np.int64), np.empty(size, np.int32)
    value, bent = np.empty(size, np.float32), np.empty(size, np.float32)
    gradient, mean, diagonal, left_out = np.empty(k), np.empty(k), np.empty(k), np.empty(k)
    place, ahead, trial = np.empty(n, np.int32), np.empty(n), np.empty(n)
    shift = 0.0
    loss, total, bend = _evaluate(eta, y, C, residual, curvature)
    objective = loss + np.abs(w).sum()
    for _ in range(_NEWTON_STEPS):
        least, bend, kept = _KEPT * bend / n, 0.0, 0
        for i in range(n):
            place[i] = -1
            if curvature[i] >= least:
                place[i] = kept
                bend += curvature[i]
                kept += 1
        worst, top = 0.0, 0
        for a in range(k):
            slope = bent_mean = bent_all = bent_kept = 0.0
            for p in range(starts[chosen[a]], starts[chosen[a] + 1]):
                i, x = cells[p], values[p]
                slope += x * residual[i]
                bent_all += x * x * curvature[i]
                if place[i] >= 0:
                    cell[top], value[top], bent[top] = place[i], x, x * curvature[i]
                    bent_mean += x * curvature[i]
                    bent_kept += x * x * curvature[i]
                    top += 1
            begin[a + 1] = top
            gradient[a] = slope - total / bend * bent_mean
            mean[a] = bent_mean
            left_out[a] = bent_all - bent_kept
            diagonal[a] = max(bent_all - bent_mean * bent_mean / bend, 1e-6 * bent_all)
            amiss = abs(gradient[a] - np.sign(w[a])) if w[a] != 0 else abs(gradient[a]) - 1
            worst = max(worst, amiss)
        if worst <= enough:
            break
        move = np.zeros(k)
        tail = total / bend + _descend(
            begin, cell, value, bent, gradient, mean, diagonal, left_out, w, move,
            np.zeros(kept), bend, 0.3 * max(worst, enough),
        )  # fmt: skip
        expected = 0.0
        ahead[:] = tail
        for a in range(k):
            if move[a] != 0:
                expected += abs(w[a] + move[a]) - abs(w[a])
                for p in range(starts[chosen[a]], starts[chosen[a] + 1]):
                    ahead[cells[p]] += values[p] * move[a]
        for i in range(n):
            expected -= residual[i] * ahead[i]
        step = 1.0
        while step > 1e-6:
            for i in range(n):
                trial[i] = eta[i] + step * ahead[i]
            loss, total, bend = _evaluate(trial, y, C, residual, curvature)
            reached = loss
            for a in range(k):
                reached += abs(w[a] + step * move[a])
            # Near the optimum the gain is less than the rounding of the objective.
            if reached <= objective + 0.01 * step * expected + 1e-14 * objective:
                break
            step *= 0.5
        if step <= 1e-6:
            break
        w += step * move
        eta[:] = trial
        shift += step * tail
        objective = reached
    return shift


@njit(cache=True, nogil=True, fastmath=_FAST)
def _descend(  # type: ignore[no-untyped-def]
    begin, cell, value, bent, gradient, mean, diagonal, left_out, w, move, ahead, bend, enough
):
    """Coordinate descent on the quadratic model, mostly over features in use; the move of b."""
    tail = 0.0
    every = np.arange(len(w))
    done = 0
    while done < _EPOCHS:
        tail, worst = _epoch(
            every, begin, cell, value, bent, gradient, mean, diagonal, left_out, w, move, ahead,
            bend, tail,
        )  # fmt: skip
        done += 1
        if worst <= enough:
            break
        active = np.flatnonzero(w + move)
        while done < _EPOCHS:
            tail, among_active = _epoch(
                active, begin, cell, value, bent, gradient, mean, diagonal, left_out, w, move,
                ahead, bend, tail,
            )  # fmt: skip
            done += 1
            if among_active <= max(enough, 0.2 * worst):
                break
    return tail


@njit(cache=True, nogil=True, fastmath=_FAST)
def _epoch(  # type: ignore[no-untyped-def]
    order, begin, cell, value, bent, gradient, mean, diagonal, left_out, w, move, ahead, bend, tail
):
    """Move each coordinate to its optimum; the intercept's move `tail` follows at once."""
    worst = 0.0
    for a in order:
        h = diagonal[a]
        if h <= 0:
            continue
        slope = gradient[a] - left_out[a] * move[a] - tail * mean[a]
        for p in range(begin[a], begin[a + 1]):
            slope -= bent[p] * ahead[cell[p]]
        old = w[a] + move[a]
        free = old + slope / h
        change = (free - 1 / h if free > 1 / h else free + 1 / h if free < -1 / h else 0.0) - old
        if change != 0:
            move[a] += change
            for p in range(begin[a], begin[a + 1]):
                ahead[cell[p]] += value[p] * change
            tail -= mean[a] * change / bend
            worst = max(worst, abs(change) * h)
    return tail, worst
