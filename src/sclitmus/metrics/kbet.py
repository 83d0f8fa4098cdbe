"""kBET per type: in how many neighbourhoods are the batches as they are in the whole type?

For each type the graph of nearest neighbours is restricted to its cells, the cells are placed in
the diffusion space of that graph, and a chi-squared test compares the batches of each cell's
neighbours there with those of the type (Büttner et al. 2019, doi:10.1038/s41592-018-0254-1;
per type and with diffusion, Luecken et al. 2022, doi:10.1038/s41592-021-01336-8).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int32, Int64
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.special import chdtrc

from sclitmus.errors import NotApplicable
from sclitmus.metrics.neighbours import (
    Neighbours,
    fuzzy_union,
    memberships,
    nearest_neighbours,
)
from sclitmus.metrics.parallel import on_threads
from sclitmus.metrics.spectral import leading_eigenvectors

MIN_CELLS = 10
"""Types with fewer cells are skipped, as in scib."""

LARGE = 30_000
"""Types with more cells get all threads to themselves, which also bounds memory."""


def kbet_per_label(
    neighbours: Neighbours,
    label: Int32[np.ndarray, "n_cells"],
    batch: Int32[np.ndarray, "n_cells"],
    *,
    alpha: float = 0.05,
    n_comps: int = 100,
    compat: bool = False,
) -> float:
    """Mean of `kbet_scores` over the types that have one; higher is better mixed.

    Raises
    ------
    NotApplicable
        If there is one batch only, or no type has two batches and `MIN_CELLS` cells.
    """
    scores = kbet_scores(neighbours, label, batch, alpha=alpha, n_comps=n_comps, compat=compat)
    known = scores[np.isfinite(scores)]
    if len(known) == 0:
        raise NotApplicable(f"no type has two batches and at least {MIN_CELLS} cells")
    return float(known.mean())


def kbet_scores(
    neighbours: Neighbours,
    label: Int32[np.ndarray, "n_cells"],
    batch: Int32[np.ndarray, "n_cells"],
    *,
    alpha: float = 0.05,
    n_comps: int = 100,
    compat: bool = False,
) -> Float64[np.ndarray, "n_labels"]:
    """Share of accepted neighbourhoods of each type, in the order of the types' codes.

    Parameters
    ----------
    neighbours
        scib-metrics uses 50 per cell: ``neighbours.first(50)``.
    label, batch
        Type and batch of each cell.
    alpha
        Level of the test: a neighbourhood is accepted where ``p >= alpha``.
    n_comps
        Dimensions of the diffusion space; in a type with fewer cells, one less than its cells.
    compat
        As scib-metrics 0.5.10: a small type leaves its lower number of dimensions to all types
        after it, so that values depend on how the types are named.

    Returns
    -------
    ndarray
        0 (no neighbourhood is mixed) … 1 (all are). NaN for types with one batch or fewer than
        `MIN_CELLS` cells. 0 where less than 75% of the cells are in connected parts of at least
        three neighbourhoods' size, as in scib.

    Raises
    ------
    NotApplicable
        If there is one batch only.

    Notes
    -----
    Differences from scib-metrics 0.5.10 that `compat` does not undo, because they are chance
    there: neighbours in diffusion space are exact (there pynndescent's), and the eigenvalue of
    the stationary state is 1 (there it is rounded, and in about one small type in thirty comes
    out as ``1 - 6e-8``, which multiplies that dimension by 10⁷ and drowns the others). In a
    type of exactly 10 cells all 10 are neighbours (there an eleventh, index -1, is counted).
    """
    if len(np.unique(batch)) < 2:
        raise NotApplicable("there is one batch only, so nothing to mix")
    strengths = memberships(neighbours)
    order = np.argsort(label, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(label[order])) + 1)
    position = np.empty(len(label), dtype=np.int32)
    for rows in groups:
        position[rows] = np.arange(len(rows))

    def prepare(rows: Int64[np.ndarray, "n_rows"]) -> "_Part | float":
        if len(rows) < MIN_CELLS or len(np.unique(batch[rows])) < 2:
            return np.nan
        nearby = neighbours.indices[rows]
        within = label[nearby] == label[rows[0]]
        graph = fuzzy_union(within, position[nearby], strengths[rows])
        return _testable(graph, batch[rows])

    parts = on_threads(prepare, groups)
    dimensions = []
    for part in parts:
        most = len(part.batch) - 1 if isinstance(part, _Part) else n_comps
        dimensions.append(min(n_comps, most))
        if compat:
            n_comps = dimensions[-1]

    found = [part if isinstance(part, float) else np.nan for part in parts]
    tested = [(i, part) for i, part in enumerate(parts) if isinstance(part, _Part)]
    tested.sort(key=lambda numbered: -len(numbered[1].batch))  # the longest first

    def score(numbered: tuple[int, _Part], threads: int | None = 1) -> None:
        i, part = numbered
        found[i] = _acceptance(part, dimensions[i], alpha, threads)

    # Large types one after the other on all threads, the others side by side.
    for numbered in tested:
        if len(numbered[1].batch) > LARGE:
            score(numbered, threads=None)
    on_threads(score, [numbered for numbered in tested if len(numbered[1].batch) <= LARGE])
    scores = np.full(int(label.max()) + 1, np.nan)
    scores[[label[rows[0]] for rows in groups]] = found
    return scores


@dataclass(frozen=True)
class _Part:
    """The cells of a type that are tested: their graph, its parts, batches, and k."""

    graph: sparse.csr_matrix
    component: Int32[np.ndarray, "n_cells"]
    batch: Int32[np.ndarray, "n_cells"]
    k: int


def _testable(graph: sparse.csr_matrix, batch: Int32[np.ndarray, "n_cells"]) -> _Part | float:
    """Keep the large connected parts of a type; 0 if they hold less than 75% of its cells."""
    n = len(batch)
    k = min(70, max(10, n // len(np.unique(batch)) // 4))  # a quarter of the mean batch
    n_components, component = connected_components(graph, directed=False)
    if n_components == 1:
        return _Part(graph, component, batch, k)
    large = np.asarray(np.bincount(component)[component] >= 3 * k)
    if large.mean() < 0.75 or len(np.unique(batch[large])) < 2:
        return 0.0
    kept = np.flatnonzero(large)
    component = np.unique(component[kept], return_inverse=True)[1].astype(np.int32)
    return _Part(graph[kept][:, kept], component, batch[kept], k)


def _acceptance(part: _Part, n_dimensions: int, alpha: float, threads: int | None) -> float:
    """Share of cells whose k diffusion neighbours, and itself, pass the chi-squared test."""
    z = _diffusion_space(part, n_dimensions)
    nearby = nearest_neighbours(z, part.k + 1, threads=threads).indices
    codes = np.unique(part.batch, return_inverse=True)[1].astype(np.int32)
    shares = np.bincount(codes) / len(codes)
    n_near, n_batches = nearby.shape[1], len(shares)
    nearby_batch = codes[nearby]
    statistic = np.zeros(len(codes))
    for b in range(n_batches):
        seen = (nearby_batch == b).sum(axis=1)
        statistic += (seen - shares[b] * n_near) ** 2 / (shares[b] * n_near)
    return float(np.mean(chdtrc(n_batches - 1, statistic) >= alpha))


def _diffusion_space(part: _Part, n_dimensions: int) -> Float32[np.ndarray, "n_cells n_dimensions"]:
    """Eigenvectors of the density-normalised transition matrix, each times λ / (1 - λ).

    Summing over all numbers of steps makes the weight λ / (1 - λ) (as scanpy and scib-metrics).
    The stationary state of each connected part is known, with λ = 1; its weight is 1 by
    convention.
    """
    graph = part.graph.astype(np.float64)
    density = 1 / np.asarray(graph.sum(axis=0)).ravel()
    kernel = (sparse.diags_array(density) @ graph @ sparse.diags_array(density)).tocsr()
    root = np.sqrt(np.asarray(kernel.sum(axis=0)).ravel())
    transitions = (sparse.diags_array(1 / root) @ kernel @ sparse.diags_array(1 / root)).tocsr()

    n, n_parts = len(root), int(part.component.max()) + 1
    stationary = np.zeros((n, n_parts))
    stationary[np.arange(n), part.component] = root
    stationary /= np.linalg.norm(stationary, axis=0)
    known = stationary.astype(np.float32)
    if n_parts >= n_dimensions:
        return known[:, :n_dimensions]
    matrix = sparse.csr_matrix(transitions.astype(np.float32))
    values, vectors = leading_eigenvectors(matrix, n_dimensions - n_parts, known)
    return np.hstack([known, vectors * (values / (1 - values)).astype(np.float32)])
