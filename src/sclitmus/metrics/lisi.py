"""LISI: how many batches, or types, a cell effectively finds among its neighbours.

Each neighbour counts by a Gaussian-like weight ``exp(-beta · distance)`` whose width gives the
neighbourhood a set perplexity; LISI is the inverse of the probability that two draws from the
weights have the same code (Korsunsky et al. 2019, doi:10.1038/s41592-019-0619-0).
"""

import numpy as np
from jaxtyping import Float64, Int32, Num
from numba import njit

from sclitmus.errors import NotApplicable
from sclitmus.metrics.neighbours import Neighbours, nearest_neighbours
from sclitmus.metrics.parallel import on_threads, row_blocks

MIN_CELLS = 10
"""Types with fewer cells have no CiLISI (as scIntegrationMetrics' ``min.cells.split``)."""

FLOAT32_UNDERFLOW = 87.33654
"""exp(-x) beyond is no normal float32 number; XLA, on which scib-metrics runs, makes it 0."""


@njit(nogil=True, cache=True)
def _inverse_simpson(indices, distances, first, codes, n_codes, perplexity, compat, out):  # type: ignore[no-untyped-def]
    """One LISI per row and code; bisection for beta exactly as in scib-metrics.

    The start (1), the tolerance of the entropy (1e-5) and the 50 rounds are kept because a
    result depends on them in the fifth digit. Weights are taken relative to the nearest cell's,
    which changes neither entropy nor shares and keeps them from underflowing.
    """
    n, k = distances.shape
    wanted = np.log(perplexity)
    weight = np.empty(k)
    mass = np.zeros(n_codes)
    for i in range(n):
        beta, low, high = 1.0, -np.inf, np.inf
        nearest = np.inf
        for j in range(k):
            if indices[i, j] != first + i:
                nearest = min(nearest, distances[i, j])
        if compat or nearest == np.inf:
            nearest = 0.0
        for attempt in range(51):
            total = 0.0
            moment = 0.0
            for j in range(k):
                weight[j] = 0.0
                if indices[i, j] != first + i:
                    distance = distances[i, j] - nearest
                    if compat and beta * distance > FLOAT32_UNDERFLOW:
                        continue
                    weight[j] = np.exp(-beta * distance)
                    total += weight[j]
                    moment += weight[j] * distance
            entropy = 0.0 if total == 0 else np.log(total) + beta * moment / total
            excess = entropy - wanted
            if abs(excess) < 1e-5 or attempt == 50:
                break
            if excess > 0:
                low = beta
                beta = beta * 2 if high == np.inf else (low + high) / 2
            else:
                high = beta
                beta = beta / 2 if low == -np.inf else (low + high) / 2
        for c in range(codes.shape[0]):
            for m in range(n_codes):
                mass[m] = 0.0
            if total == 0:
                out[i, c] = np.nan
                continue
            for j in range(k):
                # Shares, not weights: squares of the small weights of `compat` underflow.
                mass[codes[c, indices[i, j]]] += weight[j] / total
            simpson = 0.0
            for m in range(n_codes):
                simpson += mass[m] * mass[m]
            out[i, c] = 1.0 / simpson


def lisi(
    neighbours: Neighbours,
    codes: Int32[np.ndarray, "n_cells"],
    *,
    perplexity: float | None = None,
    compat: bool = False,
) -> Float64[np.ndarray, "n_cells"]:
    """Effective number of codes in each cell's neighbourhood, itself excluded.

    Parameters
    ----------
    neighbours
        90 per cell is the usual choice; the cell itself, wherever it stands, has weight 0.
    codes
        Batch or type of each cell.
    perplexity
        Effective number of neighbours; ``floor(k / 3)`` where None (k counts the cell itself).
    compat
        As scib-metrics 0.5.10, whose float32 weights become 0 where distances vary little
        beside their size (noise in hundreds of dimensions): the search for the width then ends
        too wide, and LISI differs by up to a third. In float64 scib-metrics equals the default.

    Returns
    -------
    ndarray
        Between 1 and the number of codes; with `compat`, NaN where all weights are 0
        (scib-metrics has -1 there).

    Raises
    ------
    NotApplicable
        If the perplexity is below 2, that is for fewer than 6 neighbours.
    """
    return np.asarray(lisis(neighbours, (codes,), perplexity=perplexity, compat=compat)[0])


def lisis(
    neighbours: Neighbours,
    codes: "tuple[Int32[np.ndarray, 'n_cells'], ...]",
    *,
    perplexity: float | None = None,
    compat: bool = False,
) -> Float64[np.ndarray, "n_columns n_cells"]:
    """Return `lisi` of several columns in one pass: the search for the widths is the cost."""
    perplexity = neighbours.k // 3 if perplexity is None else perplexity
    if perplexity < 2:
        raise NotApplicable(f"LISI needs at least 6 neighbours per cell, there are {neighbours.k}")
    columns = np.stack([np.unique(column, return_inverse=True)[1] for column in codes])
    columns = columns.astype(np.int32)
    out = np.empty((neighbours.n_cells, len(codes)))

    def fill(block: slice) -> None:
        _inverse_simpson(
            np.ascontiguousarray(neighbours.indices[block]),
            np.ascontiguousarray(neighbours.distances[block]),
            block.start,
            columns,
            int(columns.max()) + 1,
            float(perplexity),
            compat,
            out[block],
        )

    on_threads(fill, row_blocks(neighbours.n_cells, 2048))
    by_column: Float64[np.ndarray, "n_columns n_cells"] = np.ascontiguousarray(out.T)
    return by_column


def ilisi_score(scores: Float64[np.ndarray, "n_cells"], n_batches: int) -> float:
    """Scale the median LISI of batches to 0 (each alone) … 1 (all alike).

    Raises
    ------
    NotApplicable
        If there is one batch only, or no cell has a score.
    """
    if n_batches < 2:
        raise NotApplicable("there is one batch only, so nothing to mix")
    return (_median(scores) - 1) / (n_batches - 1)


def clisi_score(scores: Float64[np.ndarray, "n_cells"], n_labels: int) -> float:
    """Scale the median LISI of types to 0 (all mixed) … 1 (each alone).

    Raises
    ------
    NotApplicable
        If there is one type only, or no cell has a score.
    """
    if n_labels < 2:
        raise NotApplicable("there is one type only, so nothing to keep apart")
    return (n_labels - _median(scores)) / (n_labels - 1)


def _median(scores: Float64[np.ndarray, "n_cells"]) -> float:
    known = scores[np.isfinite(scores)]
    if len(known) == 0:
        raise NotApplicable("no cell has a LISI: all float32 weights underflow")
    return float(np.median(known))


def ilisi(
    neighbours: Neighbours, batch: Int32[np.ndarray, "n_cells"], compat: bool = False
) -> float:
    """Median LISI of batches, scaled to 0…1, higher is better mixed.

    scib-metrics' ``ilisi_knn``, but see `compat` of `lisi`. Blind to types: mixing different
    types scores well, so read it beside a score of types, or see `cilisi`. The median is over
    all cells; 1 is out of reach where batches are unequal in size.
    doi:10.1038/s41592-021-01336-8

    Raises
    ------
    NotApplicable
        If there is one batch only, or there are too few cells.
    """
    return ilisi_score(lisi(neighbours, batch, compat=compat), len(np.unique(batch)))


def clisi(
    neighbours: Neighbours, label: Int32[np.ndarray, "n_cells"], compat: bool = False
) -> float:
    """Median LISI of types, scaled so that 1 is every type apart; saturates near 1.

    scib-metrics' ``clisi_knn``, but see `compat` of `lisi`. doi:10.1038/s41592-021-01336-8

    Raises
    ------
    NotApplicable
        If there is one type only, or there are too few cells.
    """
    return clisi_score(lisi(neighbours, label, compat=compat), len(np.unique(label)))


def cilisi_cells(
    z: Num[np.ndarray, "n_cells d"],
    label: Int32[np.ndarray, "n_cells"],
    batch: Int32[np.ndarray, "n_cells"],
    *,
    k: int = 90,
    seed: int = 0,
) -> Float64[np.ndarray, "n_cells"]:
    """iLISI of each cell among the cells of its own type, scaled by the batches of that type.

    Neighbours are searched anew inside each type (`k` of them, or all its cells), so that cells
    of other types can neither help nor hurt: ``(LISI - 1) / (batches of the type - 1)``.

    Returns
    -------
    ndarray
        0 (own batch only) … 1 (all batches alike); NaN for cells of types with one batch or
        fewer than `MIN_CELLS` cells.
    """
    scores = np.full(len(label), np.nan)
    order = np.argsort(label, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(label[order])) + 1):
        n_batches = len(np.unique(batch[rows]))
        if len(rows) >= MIN_CELLS and n_batches > 1:
            neighbours = nearest_neighbours(z[rows], k, seed=seed)
            scores[rows] = (lisi(neighbours, batch[rows]) - 1) / (n_batches - 1)
    return scores


def cilisi(
    z: Num[np.ndarray, "n_cells d"],
    label: Int32[np.ndarray, "n_cells"],
    batch: Int32[np.ndarray, "n_cells"],
    *,
    k: int = 90,
    seed: int = 0,
) -> float:
    """Mixing of batches inside types: the mean of `cilisi_cells` over the cells that have it.

    Every cell counts alike; ``label_means(cilisi_cells(…), label)`` has one value per type, and
    its mean is the macro version. Introduced by Andreatta et al. 2024
    (doi:10.1038/s41467-024-45240-z); advised by Rautenstrauch and Ohler 2025
    (doi:10.1038/s41587-025-02743-4) in place of silhouettes.

    Raises
    ------
    NotApplicable
        If no type has both two batches and `MIN_CELLS` cells.
    """
    scores = cilisi_cells(z, label, batch, k=k, seed=seed)
    if not np.isfinite(scores).any():
        raise NotApplicable(f"no type has two batches and at least {MIN_CELLS} cells")
    return float(np.nanmean(scores))
