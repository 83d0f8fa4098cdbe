"""Nearest neighbours of cells, shared by every metric that looks at neighbourhoods."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, Num
from numba import njit
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from sclitmus.errors import MethodError, NotApplicable
from sclitmus.metrics.parallel import on_threads, row_blocks
from sclitmus.metrics.search import search


@dataclass(frozen=True)
class Neighbours:
    """The k nearest cells of each cell by Euclidean distance, nearest first.

    Attributes
    ----------
    indices
        Row numbers; column 0 is the cell itself, and `k` counts it (the convention of scanpy
        and scib-metrics). Equally distant cells stand in the order of their numbers.
    distances
        Euclidean distances; column 0 is 0.
    exact
        Whether every cell was compared with every other.
    recall
        Share of true neighbours found: 1.0 where exact, else measured on a sample of cells.
    """

    indices: Int32[np.ndarray, "n_cells k"]
    distances: Float32[np.ndarray, "n_cells k"]
    exact: bool = True
    recall: float = 1.0

    @property
    def n_cells(self) -> int:
        return int(self.indices.shape[0])

    @property
    def k(self) -> int:
        return int(self.indices.shape[1])

    def first(self, k: int) -> "Neighbours":
        """Return the nearest `k` only (all there are where there are fewer)."""
        return Neighbours(self.indices[:, :k], self.distances[:, :k], self.exact, self.recall)


def nearest_neighbours(
    z: Num[np.ndarray, "n_cells d"], k: int, *, seed: int = 0, threads: int | None = None
) -> Neighbours:
    """Find the `k` nearest cells of each cell, itself first.

    Always exact up to 100,000 cells in 50 dimensions or 38,000 in 512, and above that while
    groups of cells that are provably too far leave little enough to compare
    (`search.EXACT_COST`). Otherwise cells are compared within as many nearest k-means groups as
    it takes to find 99.9% of the neighbours of 256 sample cells, but no more than
    `search.COST_CAP` allows, and the recall reached on those cells is stored.

    Parameters
    ----------
    z
        Finite numbers, one row per cell. Rows are centred in float64 first, because squared
        distances far from the origin lose their digits in float32.
    k
        Neighbours per cell, the cell itself among them; reduced to ``n_cells`` if greater.
    seed
        Of the grouping and the sample; the result of an exact search does not depend on it.
    threads
        How many to use; all there are where None.

    Raises
    ------
    MethodError
        If `z` is not a matrix with rows, or has a number that is not finite.
    """
    if z.ndim != 2 or len(z) == 0:
        raise MethodError(
            f"an embedding of shape {z.shape}",
            "a matrix with one row per cell and at least one cell",
            "return an array of shape (n_cells, d) from embed()",
        )
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    centred, scale = _centred(z)
    indices, distances, exact, recall = search(centred, min(k, len(z)), seed, threads)
    if scale != 1:
        distances *= np.float32(scale)
    return Neighbours(indices, distances, exact, recall)


def _centred(z: Num[np.ndarray, "n_cells d"]) -> tuple[Float32[np.ndarray, "n_cells d"], float]:
    """Subtract the mean and divide by a power of two, so that squares fit float32."""
    blocks = row_blocks(len(z), 65_536)
    mean = sum(z[block].sum(axis=0, dtype=np.float64) for block in blocks) / len(z)
    if not np.isfinite(mean).all():
        n_bad = sum(int((~np.isfinite(z[block])).any(axis=1).sum()) for block in blocks)
        raise MethodError(
            f"{n_bad} of {len(z)} rows of the embedding have NaN or infinite values",
            "finite numbers only",
            "look at the cells the method could not embed; none may be left out or NaN",
        )
    spread = max(float(np.abs(z[block] - mean).max(initial=0.0)) for block in blocks)
    scale = float(np.exp2(np.frexp(spread)[1])) if spread > 0 else 1.0
    centred = np.empty(z.shape, dtype=np.float32)
    for block in blocks:
        centred[block] = (z[block] - mean) / scale
    return centred, scale


@njit(nogil=True, cache=True)
def _memberships(indices, distances, first, mean_distance, out):  # type: ignore[no-untyped-def]
    """Fill `out` with the membership strength of each edge, 0 for the cell itself.

    Per cell, the width sigma is found by bisection so that the strengths of the k - 1 others
    sum to log2(k); the nearest cell at a distance above 0 gets strength 1.
    """
    n, k = distances.shape
    target = np.log2(k)
    for i in range(n):
        nearest = 0.0
        total = 0.0
        for j in range(k):
            total += distances[i, j]
            if nearest == 0.0:
                nearest = distances[i, j]
        low, high, sigma = 0.0, np.inf, 1.0
        for _ in range(64):
            strengths = 0.0
            for j in range(1, k):
                beyond = distances[i, j] - nearest
                strengths += np.exp(-beyond / sigma) if beyond > 0 else 1.0
            if abs(strengths - target) < 1e-5:
                break
            if strengths > target:
                high = sigma
                sigma = (low + high) / 2
            else:
                low = sigma
                sigma = sigma * 2 if high == np.inf else (low + high) / 2
        # A width far below the distances themselves would cut the cell off from all but one.
        sigma = max(sigma, 1e-3 * (total / k if nearest > 0 else mean_distance))
        for j in range(k):
            beyond = distances[i, j] - nearest
            if indices[i, j] == first + i:
                out[i, j] = 0.0
            elif beyond <= 0 or sigma == 0:
                out[i, j] = 1.0
            else:
                out[i, j] = np.exp(-beyond / sigma)


def connectivities(neighbours: Neighbours) -> sparse.csr_matrix:
    """Return UMAP's fuzzy simplicial set: symmetric weights in (0, 1], as scanpy's neighbours.

    The values are those of umap-learn's ``fuzzy_simplicial_set`` (local connectivity 1,
    bandwidth 1, fuzzy union), doi:10.48550/arXiv.1802.03426.

    Returns
    -------
    csr_matrix
        ``(n_cells, n_cells)``, float32, sorted indices, no explicit zeros, empty diagonal.
    """
    n, k = neighbours.n_cells, neighbours.k
    return fuzzy_union(np.ones((n, k), dtype=bool), neighbours.indices, memberships(neighbours))


def memberships(neighbours: Neighbours) -> Float32[np.ndarray, "n_cells k"]:
    """Strength of the edge from each cell to each neighbour, before the union: 0 to itself."""
    strengths = np.empty((neighbours.n_cells, neighbours.k), dtype=np.float32)
    mean_distance = float(np.mean(neighbours.distances, dtype=np.float64))

    def fill(block: slice) -> None:
        _memberships(
            np.ascontiguousarray(neighbours.indices[block]),
            np.ascontiguousarray(neighbours.distances[block]),
            block.start,
            mean_distance,
            strengths[block],
        )

    on_threads(fill, row_blocks(neighbours.n_cells, 2048))
    return strengths


def fuzzy_union(
    edge: Bool[np.ndarray, "n_cells k"],
    ends: Int32[np.ndarray, "n_cells k"],
    strengths: Float32[np.ndarray, "n_cells k"],
) -> sparse.csr_matrix:
    """Join the strengths of both directions of each edge: ``a + b - ab``.

    Parameters
    ----------
    edge
        Which of the entries are edges; those of strength 0 never are.
    ends
        Cell each edge leads to.
    strengths
        In (0, 1].
    """
    n = len(ends)
    edge = edge & (strengths > 0)
    starts = np.zeros(n + 1, dtype=np.int64)
    np.cumsum(edge.sum(axis=1), out=starts[1:])
    directed = sparse.csr_matrix((strengths[edge], ends[edge], starts), shape=(n, n))
    transposed = directed.T.tocsr()
    union = (directed + transposed - directed.multiply(transposed)).tocsr()
    union.sort_indices()
    return union


def graph_connectivity(
    neighbours: Neighbours, label: Int32[np.ndarray, "n_cells"], compat: bool = False
) -> float:
    """Share of a type's cells in the largest connected part of its own kNN graph.

    The unweighted mean over types (doi:10.1038/s41592-021-01336-8). Only edges between cells of
    one type count, in either direction. A low bar: nearly every embedding reaches 0.9.

    Parameters
    ----------
    neighbours
        scib uses 15 per cell: ``neighbours.first(15)``.
    label
        Type of each cell.
    compat
        As scib-metrics 0.5.10: edges are one-way, and a part is strongly connected, so that
        cells no other names as neighbour count as cut off.

    Returns
    -------
    float
        In (0, 1]; 1 if every type is connected.
    """
    within = label[neighbours.indices] == label[:, None]
    n, k = within.shape
    rows = np.repeat(np.arange(n, dtype=np.int32), k)[within.ravel()]
    edges = sparse.csr_matrix(
        (np.ones(len(rows), dtype=np.int8), (rows, neighbours.indices[within])), shape=(n, n)
    )
    _, part = connected_components(edges, connection="strong" if compat else "weak")
    first, sizes = np.unique(part, return_index=True, return_counts=True)[1:]
    types, n_cells = np.unique(label, return_counts=True)
    largest = np.zeros(int(types[-1]) + 1)
    np.maximum.at(largest, label[first], sizes)  # a part has cells of one type only
    return float(np.mean(largest[types] / n_cells))


def label_purity(
    neighbours: Neighbours, label: Int32[np.ndarray, "n_cells"]
) -> Float64[np.ndarray, "n_cells"]:
    """Share of each cell's neighbours, itself excluded, that have its label.

    Raises
    ------
    NotApplicable
        If cells have no neighbours but themselves.
    """
    if neighbours.k < 2:
        raise NotApplicable("purity needs at least two cells")
    purity = np.empty(neighbours.n_cells, dtype=np.float64)
    for block in row_blocks(neighbours.n_cells, 65_536):
        same = label[neighbours.indices[block, 1:]] == label[block, None]
        purity[block] = same.mean(axis=1)
    return purity


def label_means(
    scores: Float64[np.ndarray, "n_cells"], label: Int32[np.ndarray, "n_cells"]
) -> Float64[np.ndarray, "n_labels"]:
    """Mean score of the cells of each label, in the labels' order; NaN cells are left out.

    A label without any score is NaN. The mean of the result is the macro average, in which a
    rare type counts as much as a common one.
    """
    known = np.isfinite(scores)
    n_labels = int(label.max()) + 1
    total = np.bincount(label[known], weights=scores[known], minlength=n_labels)
    count = np.bincount(label[known], minlength=n_labels)
    means = np.full(n_labels, np.nan)
    np.divide(total, count, out=means, where=count > 0)
    return means
