"""Do the probabilities of a classifier mean what they say? All on cells of known classes.

A calibration error is estimated in bins, and depends on them: equal widths put nearly all cells
of a sure classifier in one bin, equal numbers of cells do not. Both are offered, neither is
small by chance: a calibrated classifier scores above 0 on a sample, the more so the fewer cells
a bin has.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64, Int64, Integer, Real

from sclitmus.errors import MethodError, NotApplicable
from sclitmus.metrics.groups import float64_blocks

Bins = Literal["width", "mass"]
"""Bins of equal width, closed above; or of equal numbers of cells, equal values kept together."""

N_BINS = 15  # Guo et al. 2017

TEMPERATURE_BOUNDS = (0.01, 100.0)
"""Where `fit_temperature` looks. It is at the lower end for cells that are all named right, at
the upper end for logits that are worse than none."""

# Probabilities in float32 of a thousand classes add up to 1 within this.
_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Reliability:
    """Stated and true frequency per bin; bins without cells are left out.

    Attributes
    ----------
    confidence
        Mean probability stated.
    accuracy
        Share of cells for which it was right.
    count
        Cells in the bin.
    """

    confidence: Float64[np.ndarray, "n_filled_bins"]
    accuracy: Float64[np.ndarray, "n_filled_bins"]
    count: Int64[np.ndarray, "n_filled_bins"]

    @property
    def error(self) -> float:
        """Mean over cells of the gap between confidence and accuracy of their bin."""
        gap = np.abs(self.accuracy - self.confidence)
        return float(self.count @ gap / self.count.sum())


def reliability(
    p: Real[np.ndarray, "n_cells n_classes"],
    y: Integer[np.ndarray, "n_cells"],
    n_bins: int = N_BINS,
    bins: Bins = "width",
) -> Reliability:
    """Compare the probability of the predicted class with how often it is right.

    Parameters
    ----------
    p
        Probabilities; rows sum to 1.
    y
        True classes, 0 … ``n_classes - 1``.

    Raises
    ------
    NotApplicable
        If there is no cell.
    MethodError
        If a row is no distribution.
    """
    _require_probabilities(p, y)
    confidence = p.max(axis=1).astype(np.float64)
    return _binned(confidence, p.argmax(axis=1) == y, n_bins, bins)


def top_label_ece(
    p: Real[np.ndarray, "n_cells n_classes"],
    y: Integer[np.ndarray, "n_cells"],
    n_bins: int = N_BINS,
    bins: Bins = "width",
) -> float:
    """Expected calibration error of the predicted class, 0 (best) to 1.

    Source: Guo et al. 2017, doi:10.48550/arXiv.1706.04599; with ``bins="mass"`` the adaptive
    form of Nixon et al. 2019, doi:10.48550/arXiv.1904.01685, for the predicted class.

    Raises
    ------
    NotApplicable
        If there is no cell.
    MethodError
        If a row is no distribution.
    """
    return reliability(p, y, n_bins, bins).error


def classwise_ece(
    p: Real[np.ndarray, "n_cells n_classes"],
    y: Integer[np.ndarray, "n_cells"],
    n_bins: int = N_BINS,
    bins: Bins = "width",
) -> float:
    """Calibration error of the probability of each class, averaged over all classes known to it.

    With many classes it is small for any classifier, as most probabilities are near 0 and right
    to be; compare it only between classifiers of the same classes. 0 (best) to 1.

    Source: Kull et al. 2019, doi:10.48550/arXiv.1910.12656.

    Raises
    ------
    NotApplicable
        If there is no cell.
    MethodError
        If a row is no distribution.
    """
    _require_probabilities(p, y)
    errors = [
        _binned(p[:, k].astype(np.float64), y == k, n_bins, bins).error for k in range(p.shape[1])
    ]
    return float(np.mean(errors))


def brier(p: Real[np.ndarray, "n_cells n_classes"], y: Integer[np.ndarray, "n_cells"]) -> float:
    """Mean over cells of ``Σ_k (p_k - [y = k])²``: 0 (best) to 2.

    The sum over classes as in Brier 1950 (doi:10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2),
    twice the usual one of two classes. A proper score: it also rewards telling cells apart.

    Raises
    ------
    NotApplicable
        If there is no cell.
    MethodError
        If a row is no distribution.
    """
    _require_probabilities(p, y)
    total = 0.0
    for rows in float64_blocks(p):
        gap = p[rows].astype(np.float64)
        gap[np.arange(len(gap)), y[rows]] -= 1
        total += float(np.einsum("ij,ij->", gap, gap))
    return total / len(y)


def nll(logits: Real[np.ndarray, "n_cells n_classes"], y: Integer[np.ndarray, "n_cells"]) -> float:
    """Mean negative log likelihood of the true class in nats; 0 is best, no upper bound.

    Computed from logits, so that it is finite: a probability that rounds to 0 has none.
    ``log n_classes`` is a classifier that knows nothing.

    Raises
    ------
    NotApplicable
        If there is no cell.
    MethodError
        If a logit is NaN or infinite.
    """
    _require_logits(logits)
    _require_classes(y, logits)
    total = 0.0
    for rows in float64_blocks(logits):
        shifted = _shifted(logits[rows])
        loss = np.log(np.exp(shifted).sum(axis=1))
        loss -= shifted[np.arange(len(shifted)), y[rows]]
        total += float((loss / len(y)).sum())  # divided first: a sum of huge losses overflows
    return total


def softmax(
    logits: Real[np.ndarray, "n_cells n_classes"], temperature: float = 1.0
) -> Float64[np.ndarray, "n_cells n_classes"]:
    """Probabilities of the classes; a temperature above 1 makes them less sure.

    Raises
    ------
    MethodError
        If a logit is NaN or infinite.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    _require_logits(logits)
    p = np.empty(logits.shape)
    for rows in float64_blocks(logits):
        block = np.exp(_shifted(logits[rows]) / temperature)
        p[rows] = block / block.sum(axis=1, keepdims=True)
    return p


def fit_temperature(
    logits: Real[np.ndarray, "n_cells n_classes"], y: Integer[np.ndarray, "n_cells"]
) -> float:
    """Find the temperature by which to divide logits so that `nll` is least.

    To be fitted on cells that are neither trained on nor tested on. The likelihood is convex in
    ``1 / T``, so the zero of its slope within `TEMPERATURE_BOUNDS` is the minimum; where it has
    none, the better bound is returned, and 1 where no temperature changes anything.

    Source: Guo et al. 2017, doi:10.48550/arXiv.1706.04599.

    Raises
    ------
    NotApplicable
        If there is no cell, or one class only, whose probability is always 1.
    MethodError
        If a logit is NaN or infinite.
    """
    from scipy.optimize import brentq  # 0.4 s to load

    _require_logits(logits)
    if logits.shape[1] < 2:
        raise NotApplicable("with one class no temperature changes anything")
    _require_classes(y, logits)
    shifted = _shifted(logits)
    n = len(y)
    true = float((shifted[np.arange(n), y] / n).sum())

    def slope(log_temperature: float) -> float:
        """Slope of the likelihood in 1/T: mean of the expected logit, less that of the truth."""
        expected = 0.0
        for rows in float64_blocks(shifted):
            with np.errstate(over="ignore"):  # to -inf, whose exponential is 0 as it should be
                weight = np.exp(shifted[rows] * np.exp(-log_temperature))
            mean = np.einsum("ij,ij->i", weight, shifted[rows]) / weight.sum(axis=1)
            expected += float((mean / n).sum())
        return expected - true

    low, high = np.log(TEMPERATURE_BOUNDS)
    at_low, at_high = slope(low), slope(high)
    if at_low == at_high == 0:
        return 1.0
    if at_low <= 0:
        return TEMPERATURE_BOUNDS[0]
    if at_high >= 0:
        return TEMPERATURE_BOUNDS[1]
    return float(np.exp(brentq(slope, low, high, xtol=1e-10)))


def _shifted(
    logits: Real[np.ndarray, "n_cells n_classes"],
) -> Float64[np.ndarray, "n_cells n_classes"]:
    """Subtract the largest of each row, so that no exponential overflows."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    return wide


def _binned(
    stated: Float64[np.ndarray, "n_cells"],
    right: Bool[np.ndarray, "n_cells"],
    n_bins: int,
    bins: Bins,
) -> Reliability:
    if n_bins < 1:
        raise ValueError(f"n_bins must be at least 1, got {n_bins}")
    if bins == "width":
        place = np.ceil(stated * n_bins) - 1  # closed above, as Guo et al.
    elif bins == "mass":
        value, tied = np.unique(stated, return_inverse=True, return_counts=True)[1:]
        middle = (np.cumsum(tied) - tied / 2)[value]  # equal values are in one bin
        place = np.floor(middle / len(stated) * n_bins)
    else:
        raise ValueError(f'bins must be "width" or "mass", got {bins!r}')
    code = np.clip(place, 0, n_bins - 1).astype(np.int64)
    count = np.bincount(code, minlength=n_bins)
    filled = count > 0
    confidence = np.bincount(code, weights=stated, minlength=n_bins)[filled] / count[filled]
    accuracy = np.bincount(code, weights=right, minlength=n_bins)[filled] / count[filled]
    return Reliability(confidence, accuracy, count[filled])


def _require_classes(
    y: Integer[np.ndarray, "n_cells"], scores: Real[np.ndarray, "n_cells n_classes"]
) -> None:
    n, n_classes = scores.shape
    if y.shape != (n,):
        raise ValueError(f"y must have one code per cell ({n}), got shape {y.shape}")
    if n == 0:
        raise NotApplicable("there is no cell of a known class")
    if y.min() < 0 or y.max() >= n_classes:
        raise ValueError(f"y must hold codes from 0 to {n_classes - 1}, got {y.min()} to {y.max()}")


def _require_probabilities(
    p: Real[np.ndarray, "n_cells n_classes"], y: Integer[np.ndarray, "n_cells"]
) -> None:
    _require_classes(y, p)
    # NaN compares false with all, so it is bad as well.
    good = (p >= 0).all(axis=1) & (np.abs(p.sum(axis=1) - 1) <= _SUM_TOLERANCE)
    bad = len(p) - np.count_nonzero(good)
    if bad:
        raise MethodError(
            seen=f"{bad} of {len(p)} rows of probabilities are negative, NaN or do not sum to 1",
            needed="a probability distribution over the classes for every cell",
            remedy="give softmax(logits)",
        )


def _require_logits(logits: Real[np.ndarray, "n_cells n_classes"]) -> None:
    if logits.ndim != 2 or logits.shape[1] == 0:
        raise MethodError(
            seen=f"logits of shape {logits.shape}",
            needed="a matrix with one row per cell and one column per class",
            remedy="return such a matrix from predict_scores()",
        )
    bad = int((~np.isfinite(logits)).any(axis=1).sum())
    if bad:
        raise MethodError(
            seen=f"NaN or infinite logits in {bad} of {len(logits)} cells",
            needed="finite values",
            remedy="repair predict_scores() of the method; no cell may be left out",
        )
