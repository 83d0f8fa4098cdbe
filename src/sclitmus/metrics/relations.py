"""Relations between types: do types that are close in the data stay close in the embedding?

A classifier trained on the labels tops every separation score while its islands of types drift
to anywhere; this score sees that (doi:10.1038/s41587-025-02702-z).
"""

import numpy as np
from jaxtyping import Float64, Int32, Real

from sclitmus.errors import NotApplicable
from sclitmus.metrics.variance import principal_scores

_TRIM = 0.05  # share of cells cut from each end of each coordinate, so that no outlier leads
_COMPONENTS = 10  # of each batch
# A profile whose distances differ by less than float32 resolves is flat: it ranks no type.
_FLAT = 1e-7


def relations(
    z: Real[np.ndarray, "n_cells d"],
    label: Int32[np.ndarray, "n_cells"],
    batch: Int32[np.ndarray, "n_cells"] | None,
    before: Real[np.ndarray, "n_cells p"],
    *,
    min_batch: int = 50,
    min_type: int = 10,
) -> float:
    """Agreement of the distances between types with their consensus within batches, -1 to 1.

    The mean of `relation_profiles` over the types; see there for the definition. An embedding
    that knows nothing scores around 0, but not exactly: the centroids of rare types scatter
    more, in noise as in data. Compare with the measured floor.
    """
    profiles = relation_profiles(z, label, batch, before, min_batch=min_batch, min_type=min_type)
    return float(np.mean(list(profiles.values())))


def relation_profiles(
    z: Real[np.ndarray, "n_cells d"],
    label: Int32[np.ndarray, "n_cells"],
    batch: Int32[np.ndarray, "n_cells"] | None,
    before: Real[np.ndarray, "n_cells p"],
    *,
    min_batch: int = 50,
    min_type: int = 10,
) -> dict[int, float]:
    """Correlate each type's distances to the others with the consensus; by label code.

    Consensus: in each batch, the principal components of `before` are computed on that batch
    alone, so that no batch effect enters; distances between the trimmed-mean centroids of the
    types, divided per type by its largest; averaged over the batches in which the two types
    meet. Embedding: distances between trimmed-mean centroids over all cells. Per type, the
    Pearson correlation of the two profiles weighted by one over the consensus distance: near
    relations count most.

    Source: scGraph, "Corr-Weighted" (doi:10.1038/s41587-025-02702-z, scgraph-eval 0.1.2). It
    differs as follows. (1) Components are those of `before` as given; scGraph selects 1,000
    variable genes in each batch first. With log-normalised counts of at most 1,000 genes as
    `before` and ``min_batch=100`` the values are equal. (2) Batches need 50 cells, not 100.
    (3) A type at equal distance from all others in the embedding has no defined correlation;
    scGraph leaves it out, which favours an embedding that collapses the awkward types, here it
    scores 0. Like scGraph it leaves out types that meet fewer than two others in any batch.

    Parameters
    ----------
    batch
        None: one batch.
    before
        Principal components of log-normalised counts, or those counts; dense.
    min_batch, min_type
        Smaller batches, and types with fewer cells in all, are left out.

    Raises
    ------
    NotApplicable
        If fewer than three types have enough cells, no batch has, or too few types meet.
    """
    types = np.flatnonzero(np.bincount(label) >= min_type)
    if len(types) < 3:
        raise NotApplicable(f"{len(types)} types have {min_type} cells; relations need three")
    consensus = _consensus(before, label, batch, types, min_batch)
    distance = _distances(_centroids(z, label, types))
    profiles = {}
    for t, code in enumerate(types):
        others = np.isfinite(consensus[:, t]) & (consensus[:, t] > 0)
        others[t] = False
        if others.sum() >= 2 and not _is_flat(consensus[others, t]):
            profiles[int(code)] = _weighted_correlation(
                consensus[others, t], distance[others, t], 1 / consensus[others, t]
            )
    if not profiles:
        raise NotApplicable("no type meets two others in a batch")
    return profiles


def _consensus(
    before: Real[np.ndarray, "n_cells p"],
    label: Int32[np.ndarray, "n_cells"],
    batch: Int32[np.ndarray, "n_cells"] | None,
    types: Int32[np.ndarray, "n_types"],
    min_batch: int,
) -> Float64[np.ndarray, "n_types n_types"]:
    """Average the relative distances over batches; column t is the profile of type t.

    NaN where two types never meet.
    """
    batch = np.zeros_like(label) if batch is None else batch
    large = np.flatnonzero(np.bincount(batch) >= min_batch)
    if not len(large):
        raise NotApplicable(f"no batch has {min_batch} cells")
    total, count = np.zeros((len(types), len(types))), np.zeros((len(types), len(types)))
    for code in large:
        rows = np.flatnonzero(batch == code)
        cells = before[rows]
        scores = principal_scores(cells, min(_COMPONENTS, *cells.shape))
        distance = _distances(_centroids(scores, label[rows], types))
        farthest = np.max(distance, axis=0, initial=0, where=np.isfinite(distance))
        with np.errstate(invalid="ignore"):
            distance /= farthest  # 0 / 0: a type alone in its batch has no relations there
        meets = np.isfinite(distance)
        total[meets] += distance[meets]
        count += meets
    with np.errstate(invalid="ignore"):
        return np.asarray(total / count)


def _centroids(
    x: Real[np.ndarray, "n_cells d"],
    label: Int32[np.ndarray, "n_cells"],
    types: Int32[np.ndarray, "n_types"],
) -> Float64[np.ndarray, "n_types d"]:
    """Return the trimmed mean of each type, coordinate by coordinate; NaN where it has no cell."""
    centroids = np.full((len(types), x.shape[1]), np.nan)
    for t, code in enumerate(types):
        cells = x[label == code].astype(np.float64)
        cut = int(_TRIM * len(cells))
        if cut:
            cells = np.partition(cells, (cut, len(cells) - cut - 1), axis=0)[cut:-cut]
        if len(cells):
            centroids[t] = cells.mean(axis=0)
    return centroids


def _distances(
    centroids: Float64[np.ndarray, "n_types d"],
) -> Float64[np.ndarray, "n_types n_types"]:
    difference = (np.linalg.norm(centroids - centroid, axis=1) for centroid in centroids)
    return np.stack(list(difference))


def _weighted_correlation(
    x: Float64[np.ndarray, "n"], y: Float64[np.ndarray, "n"], weight: Float64[np.ndarray, "n"]
) -> float:
    """Pearson correlation with weights; 0 where `y` is flat."""
    if _is_flat(y):
        return 0.0
    weight = weight / weight.sum()
    x, y = x - weight @ x, y - weight @ y
    return float((weight @ (x * y)) / np.sqrt((weight @ x**2) * (weight @ y**2)))


def _is_flat(values: Float64[np.ndarray, "n"]) -> bool:
    return bool(np.ptp(values) <= _FLAT * np.max(np.abs(values)))
