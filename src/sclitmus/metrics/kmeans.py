"""K-means: greedy k-means++ starts and Lloyd's steps, on matrix products alone.

The scores need one call at k = number of types. On that, importing scikit-learn takes longer
than clustering 20,000 cells; the tests hold this one to scikit-learn's result from equal starts.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int32, Int64
from scipy import sparse

from sclitmus.core.rng import rng_for
from sclitmus.metrics.parallel import on_threads, row_blocks

_BLOCK = 4096  # rows that a thread takes at once; with 512 dimensions, 8 MB


def kmeans(
    z: Float32[np.ndarray, "n_cells d"],
    k: int,
    seed: int = 0,
    *,
    n_init: int = 1,
    max_iter: int = 300,
    tol: float = 1e-4,
) -> Int32[np.ndarray, "n_cells"]:
    """Cluster rows into `k` groups of least squared Euclidean distance to their mean.

    Parameters
    ----------
    z
        Embedding, finite.
    k
        Number of clusters, from 1 to `n_cells`.
    n_init
        Runs from fresh starts (doi:10.1145/1283383.1283494), of which the one of least inertia
        is kept. One run is one draw: on 20 separable clusters its ARI has sd 0.05 over seeds.
    tol
        A run ends when no cell moves, or when the centres' summed squared shift is below `tol`
        times the mean variance of a dimension; both are scikit-learn's rules.

    Returns
    -------
    ndarray
        Codes from 0 to k - 1.
    """
    n = len(z)
    if not 1 <= k <= n:
        raise ValueError(f"k must be from 1 to the number of cells, got {k} for {n} cells")
    # Centred: the products below lose precision when the mean is far from 0.
    x = np.ascontiguousarray(z - z.mean(axis=0, dtype=np.float64), dtype=np.float32)
    smallest_shift = tol * float(x.var(axis=0, dtype=np.float64).mean())
    best, least = np.zeros(n, dtype=np.int32), np.inf
    for run in range(n_init):
        start = plus_plus(x, k, rng_for(seed, "kmeans", run))
        codes, inertia = lloyd(x, start, max_iter=max_iter, smallest_shift=smallest_shift)
        if inertia < least:
            best, least = codes, inertia
    return best


def plus_plus(
    x: Float32[np.ndarray, "n_cells d"], k: int, rng: np.random.Generator
) -> Float32[np.ndarray, "k d"]:
    """Choose k rows far apart: each the best of 2 + ln k draws by squared distance."""
    n_trials = 2 + int(np.log(k))
    square = np.einsum("ij,ij->i", x, x)
    chosen = [int(rng.integers(len(x)))]
    nearest = _squared_distance(x, square, np.array(chosen))[0]
    while len(chosen) < k:
        mass = np.cumsum(nearest, dtype=np.float64)
        # Fewer distinct rows than k: every distance is 0, and any row is as good as another.
        draws = np.searchsorted(mass, rng.random(n_trials) * mass[-1], side="right")
        candidates = np.minimum(draws, len(x) - 1)
        distance = np.minimum(_squared_distance(x, square, candidates), nearest)
        best = int(np.argmin(distance.sum(axis=1, dtype=np.float64)))
        chosen.append(int(candidates[best]))
        nearest = distance[best]
    return x[chosen]


def lloyd(
    x: Float32[np.ndarray, "n_cells d"],
    centres: Float32[np.ndarray, "k d"],
    *,
    max_iter: int = 300,
    smallest_shift: float = 0.0,
) -> tuple[Int32[np.ndarray, "n_cells"], float]:
    """Move centres to the mean of their cells until no cell changes; codes and inertia."""
    k = len(centres)
    cells = _assigned(x, centres)
    for _ in range(max_iter):
        counts = np.bincount(cells.codes, minlength=k)
        moved = (cells.sums / np.maximum(counts, 1)[:, None]).astype(np.float32)
        empty = np.flatnonzero(counts == 0)
        if len(empty):  # an empty cluster restarts at the cells worst off
            moved[empty] = x[np.argsort(cells.distance)[::-1][: len(empty)]]
        shift = float(np.sum((moved - centres) ** 2))
        centres, before = moved, cells
        cells = _assigned(x, centres)
        if shift <= smallest_shift or np.array_equal(before.codes, cells.codes):
            break
    return cells.codes, float(cells.distance.sum(dtype=np.float64))


@dataclass(frozen=True)
class _Assigned:
    """Nearest centre of each cell, squared distance to it, and sums over the cells of each."""

    codes: Int32[np.ndarray, "n_cells"]
    distance: Float32[np.ndarray, "n_cells"]
    sums: Float64[np.ndarray, "k d"]


def _assigned(
    x: Float32[np.ndarray, "n_cells d"], centres: Float32[np.ndarray, "k d"]
) -> _Assigned:
    k = len(centres)
    half = 0.5 * np.einsum("ij,ij->i", centres, centres)

    def assign(block: slice) -> _Assigned:
        rows = x[block]
        # |x - c|² / 2 without the |x|² / 2 that is the same for every centre
        score = half - rows @ centres.T
        codes = score.argmin(axis=1).astype(np.int32)
        distance = 2.0 * score[np.arange(len(rows)), codes] + np.einsum("ij,ij->i", rows, rows)
        member = sparse.csr_matrix(
            (np.ones(len(rows), np.float32), codes, np.arange(len(rows) + 1, dtype=np.int32)),
            shape=(len(rows), k),
        )
        return _Assigned(codes, distance, member.T @ rows)

    blocks = on_threads(assign, row_blocks(len(x), _BLOCK))
    # Added in the order of the blocks: the sum is the same for any number of threads.
    sums = np.stack([block.sums for block in blocks]).sum(axis=0, dtype=np.float64)
    return _Assigned(
        np.concatenate([block.codes for block in blocks]),
        np.concatenate([block.distance for block in blocks]),
        sums,
    )


def _squared_distance(
    x: Float32[np.ndarray, "n_cells d"],
    square: Float32[np.ndarray, "n_cells"],
    rows: Int64[np.ndarray, "n_rows"],
) -> Float32[np.ndarray, "n_rows n_cells"]:
    """Return squared distances of some rows to all; rounding below 0 is set to 0."""
    distance = np.empty((len(rows), len(x)), dtype=np.float32)
    some = -2.0 * x[rows]

    def measure(block: slice) -> None:
        part = some @ x[block].T
        part += square[block]
        part += square[rows][:, None]
        np.maximum(part, 0.0, out=distance[:, block])

    on_threads(measure, row_blocks(len(x), _BLOCK))
    return distance
