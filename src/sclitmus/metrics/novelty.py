"""How new a cell looks to a classifier, or to its features: scores of which higher is more novel.

The same logits can be read in several ways, and which one is read decides much of an open-set
result. All scores here are computed so that confident cells stay apart: ``1 - max p`` taken
literally is 0 for every cell with a logit 37 above the rest, and a classifier whose cells are
all that sure could no longer rank them.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int64, Integer, Real

from sclitmus.errors import MethodError, NotApplicable
from sclitmus.metrics.groups import float64_blocks, group_sums
from sclitmus.metrics.parallel import on_threads, row_blocks

NOVELTY_SCORES: Mapping[str, tuple[str, Literal["logits", "features"]]] = {
    "max_softmax": ("Maximum softmax probability", "logits"),
    "entropy": ("Entropy of the softmax", "logits"),
    "margin": ("Margin between the two likeliest classes", "logits"),
    "max_logit": ("Maximum logit", "logits"),
    "energy": ("Energy (log-sum-exp of the logits)", "logits"),
    "knn_distance": ("Distance to the k-th nearest training cell", "features"),
    "mahalanobis": ("Mahalanobis distance to the nearest class", "features"),
}
"""Title of each score, and what it is computed from; the name is that of the function."""

N_NEIGHBOURS = 10
"""Neighbour whose distance counts. Sun et al. take 50 where a class has 5,000 training images;
types of cells are rarer, and a known one of fewer cells than this looks novel itself."""

# A log-softmax in float32 leaves a log-sum-exp of about 1e-7 times its logits.
_NORMALISED = 1e-5
# Rows and columns of a block of distances: 8 MB, which a core's cache nearly holds.
_QUERIES, _PIECE = 128, 8192
# The share of the identity at least: no direction may have variance 0.
_LEAST_SHRINKAGE = 1e-6


def max_softmax(
    logits: Float64[np.ndarray, "n_cells n_classes"],
) -> Float64[np.ndarray, "n_cells"]:
    """One minus the largest softmax probability, 0 to 1.

    scBERT's rule is this above 0.5. With one known class it is 0 for every cell.
    Source: Hendrycks & Gimpel 2017, doi:10.48550/arXiv.1610.02136.

    Raises
    ------
    MethodError
        If a logit is NaN or infinite.
    """

    def score(shifted: np.ndarray, rest: np.ndarray) -> np.ndarray:
        return np.asarray(rest / (1 + rest))

    return _from_softmax(logits, score)


def entropy(
    logits: Float64[np.ndarray, "n_cells n_classes"],
) -> Float64[np.ndarray, "n_cells"]:
    """Entropy of the softmax in nats, 0 to ``log n_classes``.

    With one known class it is 0 for every cell.

    Raises
    ------
    MethodError
        If a logit is NaN or infinite.
    """

    def score(shifted: np.ndarray, rest: np.ndarray) -> np.ndarray:
        # log S - Σ p_j shifted_j: no term is negative, so nothing cancels.
        inside = np.einsum("ij,ij->i", np.exp(shifted), -shifted)
        return np.asarray(np.log1p(rest) + inside / (1 + rest))

    return _from_softmax(logits, score)


def margin(
    logits: Float64[np.ndarray, "n_cells n_classes"],
) -> Float64[np.ndarray, "n_cells"]:
    """One minus the difference of the two largest softmax probabilities, 0 to 1.

    Raises
    ------
    NotApplicable
        If there is one class: there is no second.
    MethodError
        If a logit is NaN or infinite.
    """
    if logits.shape[1] < 2:
        raise NotApplicable("a margin needs two known classes")

    def score(shifted: np.ndarray, rest: np.ndarray) -> np.ndarray:
        second = np.exp(np.partition(shifted, -2, axis=1)[:, -2])
        return np.asarray((rest + second) / (1 + rest))

    return _from_softmax(logits, score)


def max_logit(
    logits: Float64[np.ndarray, "n_cells n_classes"],
) -> Float64[np.ndarray, "n_cells"]:
    """Minus the largest logit.

    Unlike the scores above it changes where a constant is added to a row, which leaves every
    probability as it is. For logits that are log probabilities it ranks as `max_softmax` does.
    Source: Hendrycks et al. 2022, doi:10.48550/arXiv.1911.11132.

    Raises
    ------
    MethodError
        If a logit is NaN or infinite.
    """
    _require_finite(logits, "logits", "predict_scores()")
    return np.asarray(-logits.max(axis=1), dtype=np.float64)


def energy(
    logits: Float64[np.ndarray, "n_cells n_classes"],
) -> Float64[np.ndarray, "n_cells"]:
    """Minus the log-sum-exp of the logits, at temperature 1.

    Source: Liu et al. 2020, doi:10.48550/arXiv.2010.03759.

    Raises
    ------
    NotApplicable
        If the logits are log probabilities (a forest's, a kNN's): their energy is 0 for every
        cell, and its rounding must rank nothing.
    MethodError
        If a logit is NaN or infinite.
    """

    def score(shifted: np.ndarray, rest: np.ndarray) -> np.ndarray:
        return np.asarray(-np.log1p(rest))

    found = _from_softmax(logits, score) - logits.max(axis=1)
    if len(found) and np.abs(found).max() < _NORMALISED:
        raise NotApplicable("the logits are log probabilities: the energy of every cell is 0")
    return np.asarray(found)


def knn_distance(
    train_features: Real[np.ndarray, "n_train d"],
    features: Real[np.ndarray, "n_cells d"],
    k: int = N_NEIGHBOURS,
) -> Float64[np.ndarray, "n_cells"]:
    """Euclidean distance to the k-th nearest training cell; to the farthest if they are fewer.

    A known class with fewer than `k` training cells looks novel, as its k-th neighbour is of
    another class: give a smaller `k` where classes have few. Sun et al. scale features to length
    1 first, which is for features whose length says nothing; here they are taken as given.
    Exact; costs ``O(n_cells n_train d)`` time and some tens of megabytes per thread.

    Source: Sun et al. 2022, doi:10.48550/arXiv.2204.06507.

    Raises
    ------
    NotApplicable
        If there is no training cell.
    MethodError
        If a feature is NaN or infinite.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if len(train_features) == 0:
        raise NotApplicable("there is no training cell to be near to")
    _require_finite(train_features, "features", "features()")
    _require_finite(features, "features", "features()")
    k = min(k, len(train_features))
    # Centred, because |x|² + |y|² − 2x·y far from the origin loses its digits.
    origin = train_features.mean(axis=0, dtype=np.float64)
    train = train_features - origin
    squares = np.einsum("ij,ij->i", train, train)
    found = np.empty(len(features))

    def measure(rows: slice) -> None:
        x = features[rows] - origin
        apart, place = [], []
        for piece in row_blocks(len(train), _PIECE):
            block = squares[piece] - 2 * (x @ train[piece].T)  # |x|² is the same for all of a row
            near = _smallest(block, k)
            apart.append(np.take_along_axis(block, near, axis=1))
            place.append(near + piece.start)
        kth = _smallest(np.hstack(apart), k)[:, -1:]
        nearest = np.take_along_axis(np.hstack(place), kth, axis=1)[:, 0]
        # From the difference, so that a training cell is at distance 0 from itself.
        found[rows] = np.linalg.norm(x - train[nearest], axis=1)

    on_threads(measure, row_blocks(len(features), _QUERIES))
    return found


def _smallest(values: Float64[np.ndarray, "n m"], k: int) -> Int64[np.ndarray, "n k"]:
    """Places of the `k` smallest of each row, the k-th last; all where there are fewer."""
    k = min(k, values.shape[1])
    order: Int64[np.ndarray, "n m"] = np.argpartition(values, k - 1, axis=1)
    return order[:, :k]


def mahalanobis(
    train_features: Real[np.ndarray, "n_train d"],
    y_train: Integer[np.ndarray, "n_train"],
    features: Real[np.ndarray, "n_cells d"],
) -> Float64[np.ndarray, "n_cells"]:
    """Mahalanobis distance to the nearest class mean, under one covariance shared by all classes.

    The covariance within classes is shrunk towards a multiple of the identity by the amount of
    Ledoit & Wolf (2004, doi:10.1016/S0047-259X(03)00096-4), so that features may outnumber
    cells. Costs ``O(n d min(n, d))`` time.

    Source: Lee et al. 2018, doi:10.48550/arXiv.1807.03888, whose score is minus the square of
    this under the plain covariance.

    Parameters
    ----------
    y_train
        Class of each training cell; which codes are used does not matter.

    Raises
    ------
    NotApplicable
        If no class varies: there is no training cell, each class has one, or all cells of a
        class are equal.
    MethodError
        If a feature is NaN or infinite.
    """
    if len(train_features) == 0:
        raise NotApplicable("there is no training cell to be near to")
    _require_finite(train_features, "features", "features()")
    _require_finite(features, "features", "features()")
    code, n_in_class = np.unique(y_train, return_inverse=True, return_counts=True)[1:]
    origin = train_features.mean(axis=0, dtype=np.float64)
    centred = train_features - origin
    means = group_sums(centred, code, len(n_in_class)) / n_in_class[:, None]
    within = centred - means[code]
    if np.abs(within).max() <= 1e-12 * np.abs(train_features).max():
        raise NotApplicable("no class varies: there is no covariance within classes")
    axes, stretch, rest = _whitening(within)

    def white(x: Float64[np.ndarray, "n d"]) -> Float64[np.ndarray, "n d"]:
        return np.asarray(rest * x + ((x @ axes) * (stretch - rest)) @ axes.T)

    centres = white(means)
    half = np.einsum("ij,ij->i", centres, centres) / 2
    nearest = np.empty(len(features))
    for rows in float64_blocks(features):
        x = white(features[rows] - origin)
        closest = np.argmin(half - x @ centres.T, axis=1)
        nearest[rows] = np.linalg.norm(x - centres[closest], axis=1)
    return nearest


def _whitening(
    within: Float64[np.ndarray, "n d"],
) -> tuple[Float64[np.ndarray, "d r"], Float64[np.ndarray, "r"], float]:
    """Inverse root of the shrunk covariance of centred rows.

    Returns
    -------
    axes, stretch, rest
        Eigenvectors, the factor along each, and the factor in all directions besides.
    """
    n, d = within.shape
    fewer_rows = n < d
    gram = (within @ within.T if fewer_rows else within.T @ within) / n
    variance, axes = np.linalg.eigh(gram)
    kept = variance > 1e-12 * variance[-1]
    variance, axes = variance[kept], axes[:, kept]
    if fewer_rows:
        axes = within.T @ axes / np.sqrt(n * variance)
    mean = variance.sum() / d
    # Squared distance of the covariance to its target, and of single cells to the covariance.
    spread = variance @ variance - d * mean**2
    noise = (np.mean(np.einsum("ij,ij->i", within, within) ** 2) - variance @ variance) / n
    shrinkage = float(np.clip(noise / spread, _LEAST_SHRINKAGE, 1)) if spread > 0 else 1.0
    floor = shrinkage * mean
    return axes, 1 / np.sqrt((1 - shrinkage) * variance + floor), float(1 / np.sqrt(floor))


def _from_softmax(
    logits: Float64[np.ndarray, "n_cells n_classes"],
    score: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> Float64[np.ndarray, "n_cells"]:
    """Score blocks of cells.

    `score` is given the logits less the largest of each row, and the sum of their exponentials
    without the largest, which is 1: the small sum keeps its digits.
    """
    _require_finite(logits, "logits", "predict_scores()")
    found = np.empty(len(logits))
    for rows in float64_blocks(logits):
        block = logits[rows].astype(np.float64)
        largest = block.argmax(axis=1)[:, None]
        shifted = block - np.take_along_axis(block, largest, axis=1)
        others = np.exp(shifted)
        np.put_along_axis(others, largest, 0.0, axis=1)
        found[rows] = score(shifted, others.sum(axis=1))
    return found


def _require_finite(x: Real[np.ndarray, "n_cells d"], what: str, call: str) -> None:
    if x.ndim != 2 or x.shape[1] == 0:
        raise MethodError(
            seen=f"{what} of shape {x.shape}",
            needed="a matrix with one row per cell and at least one column",
            remedy=f"return such a matrix from {call}",
        )
    bad = sum(int((~np.isfinite(x[rows])).any(axis=1).sum()) for rows in float64_blocks(x))
    if bad:
        raise MethodError(
            seen=f"NaN or infinite {what} in {bad} of {len(x)} cells",
            needed="finite values",
            remedy=f"repair {call} of the method; no cell may be left out",
        )
