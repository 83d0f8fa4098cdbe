"""kBET per type: in how many neighbourhoods are the batches as they are in the whole type?

For each type the 50-nearest-neighbour graph is restricted to its cells, cells are placed in the
diffusion space of that graph, and a chi-squared test compares the batches of each cell's
neighbours there with those of the type (Büttner et al. 2019, doi:10.1038/s41592-018-0254-1;
per type with diffusion, Luecken et al. 2022, doi:10.1038/s41592-021-01336-8).
"""

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, Int64
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import LinearOperator, eigsh
from scipy.special import chdtrc

from sclitmus.errors import NotApplicable
from sclitmus.metrics.neighbours import Neighbours, memberships, nearest_neighbours
from sclitmus.metrics.parallel import on_threads

MIN_CELLS = 10
"""Types with fewer cells are skipped, as in scib."""

DENSE = 300  # up to so many cells a full decomposition is faster than a Lanczos one


def kbet_scores(
    neighbours: Neighbours,
    label: Int32[np.ndarray, "n_cells"],
    batch: Int32[np.ndarray, "n_cells"],
    *,
    alpha: float = 0.05,
    n_comps: int = 100,
    compat: bool = False,
) -> Float64[np.ndarray, "n_labels"]:
    """Acceptance rate of each type, in the order of the types' codes.

    Parameters
    ----------
    neighbours
        scib-metrics uses 50 per cell: ``neighbours.first(50)``.
    label, batch
        Type and batch of each cell.
    alpha
        Level of the test: a neighbourhood is accepted where ``p >= alpha``.
    n_comps
        Dimensions of the diffusion space, fewer in types with fewer cells.
    compat
        As scib-metrics 0.5.10: a small type leaves its lower number of dimensions to all types
        after it, so that values depend on the types' names.

    Returns
    -------
    ndarray
        0 (no neighbourhood is mixed) … 1 (all are). NaN for types with one batch or fewer than
        `MIN_CELLS` cells. 0 where less than 75% of the cells are in parts of the graph of at
        least three neighbourhoods' size, as in scib.
    """
    strength = memberships(neighbours)
    order = np.argsort(label, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(label[order])) + 1)
    position = np.empty(len(label), dtype=np.int32)
    for rows in groups:
        position[rows] = np.arange(len(rows))

    parts = [_testable(neighbours, strength, label, position, batch, rows) for rows in groups]
    dimensions = [n_comps] * len(parts)
    if compat:
        for i, part in enumerate(parts):
            n_comps = min(n_comps, n_comps if part is None else len(part.batch) - 1)
            dimensions[i] = n_comps
    return np.zeros(0)
