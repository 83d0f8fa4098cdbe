"""Silhouettes by label and by batch within label, and BRAS, the one meant for batches.

A silhouette compares a cell's mean distance to its own group, ``a`` (itself left out), with that
to another group, ``b``: ``(b - a) / max(a, b)``, from -1 (nearer to the other) to 1.

`silhouettes` is exact and visits all pairs of cells; it costs ``O(n_cells² d)`` time and
``O(n_cells (d + n_labels + n_batches))`` memory. `bras` needs only group sums: ``O(n_cells d)``.

What silhouettes reward is compact round groups, whatever is true of the cells, and batch
silhouettes look at the nearest other batch only: both can rank methods wrongly
(doi:10.1038/s41587-025-02743-4).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64, Real

from sclitmus.errors import NotApplicable
from sclitmus.metrics.groups import float64_blocks, group_sums

# A mean cosine distance below this is rounding, not an angle: float32 tells directions apart
# from about 1e-14 on.
_SAME_DIRECTION = 1e-12


@dataclass(frozen=True)
class Silhouettes:
    """Silhouette of each cell.

    Attributes
    ----------
    label
        By label, among all cells; NaN for all cells unless there are at least two labels and
        fewer labels than cells.
    batch
        By batch, among the cells of its label; NaN for the cells of a label with one batch, or
        with one cell in each of its batches, and everywhere if no batch was given.
    """

    label: Float64[np.ndarray, "n_cells"]
    batch: Float64[np.ndarray, "n_cells"]


def silhouettes(
    z: Real[np.ndarray, "n_cells d"],
    label: Int32[np.ndarray, "n_cells"],
    batch: Int32[np.ndarray, "n_cells"] | None = None,
) -> Silhouettes:
    """Compute both Euclidean silhouettes of every cell in one pass over the distances.

    Distances are float32 products, repaired where digits cancel, summed in float64: each
    silhouette is within about 1e-6 of float64 arithmetic, their mean within 1e-7. A cell alone
    in its group has silhouette 0, and so has one at distance 0 from its own and another group.

    Parameters
    ----------
    z
        Embedding, finite.
    label, batch
        Codes; which codes are used does not matter.

    Returns
    -------
    Silhouettes
        In the cells' order.

    Raises
    ------
    MethodError
        If `z` is not finite.
    """
    # Imported late: numba takes a fifth of a second, and listing the metrics needs none of it.
    from sclitmus.metrics.grouped_distances import distance_sums

    label = _consecutive(label)
    batch = np.zeros_like(label) if batch is None else _consecutive(batch)
    size = _cross_counts(label, batch)
    sums = distance_sums(z, label, batch)
    by_label, by_batch = np.full(len(label), np.nan), np.full(len(label), np.nan)
    several_labels = 2 <= len(size) < len(label)
    ends = np.cumsum(size.sum(axis=1))
    for code, end in enumerate(ends):
        place = slice(end - size[code].sum(), end)  # the sums are in order of label
        cells = sums.order[place]
        if several_labels:
            by_label[cells] = _widths(sums.to_label[place], label[cells], size.sum(axis=1))
        if _has_comparable_batches(size)[code]:
            by_batch[cells] = _widths(sums.to_batch[place], batch[cells], size[code])
    return Silhouettes(by_label, by_batch)


def asw(widths: Silhouettes) -> float:
    """Average silhouette width by label, rescaled from [-1, 1] to [0, 1].

    0.5 is no structure at all. Source: scIB, doi:10.1038/s41592-021-01336-8; equal to scib and
    scib-metrics.

    Raises
    ------
    NotApplicable
        If there is one label only, or each cell has its own.
    """
    if np.isnan(widths.label).all():
        raise NotApplicable("a silhouette needs at least two labels, and one with two cells")
    return float((widths.label.mean() + 1) / 2)


def batch_asw(widths: Silhouettes, label: Int32[np.ndarray, "n_cells"]) -> float:
    """Mean over labels of the mean over cells of ``1 - |silhouette by batch|``; 1 is mixed.

    Labels with one batch, or with one cell in each batch, are left out. Source: scIB,
    doi:10.1038/s41592-021-01336-8; equal to scib and scib-metrics.

    Raises
    ------
    NotApplicable
        If no label is left.
    """
    defined = ~np.isnan(widths.batch)
    if not defined.any():
        raise NotApplicable(_NO_COMPARABLE_BATCHES)
    return _mean_of_group_means(1 - np.abs(widths.batch[defined]), label[defined])


def isolated_labels(
    widths: Silhouettes,
    label: Int32[np.ndarray, "n_cells"],
    batch: Int32[np.ndarray, "n_cells"],
    *,
    compat: Literal["", "scib"] = "",
) -> float:
    """Average silhouette width of the labels found in the fewest batches, rescaled to [0, 1].

    Source: scIB, doi:10.1038/s41592-021-01336-8 (its silhouette version).

    Parameters
    ----------
    compat
        ``"scib"``: as scib-metrics, where the labels of the fewest batches are called isolated
        even if they are in every batch, which makes the score a second ASW.

    Raises
    ------
    NotApplicable
        If every label is in every batch, so none is isolated; or if `asw` is not applicable.
    """
    if np.isnan(widths.label).all():
        raise NotApplicable("a silhouette needs at least two labels, and one with two cells")
    code = _consecutive(label)
    size = _cross_counts(code, _consecutive(batch))
    n_batches = (size > 0).sum(axis=1)
    if compat != "scib" and n_batches.min() == size.shape[1]:
        raise NotApplicable("every label is in every batch: none is isolated")
    isolated = (n_batches == n_batches.min())[code]
    return _mean_of_group_means((widths.label[isolated] + 1) / 2, code[isolated])


def bras(
    z: Real[np.ndarray, "n_cells d"],
    label: Int32[np.ndarray, "n_cells"],
    batch: Int32[np.ndarray, "n_cells"],
) -> float:
    """Batch-removal-adapted silhouette: 1 where batches are mixed within their label.

    Per cell ``1 - |b - a| / max(a, b)`` with ``a`` the mean cosine distance to the other cells
    of its label and batch, and ``b`` that to all cells of its label in other batches; averaged
    over the cells of a label, then over labels. Labels with one batch, or with one cell in each
    batch, are left out; a cell alone in its batch has silhouette 0.

    The cosine distance to unit vectors ``u_1 … u_m`` sums to ``m - u·(u_1 + … + u_m)``, so sums
    per group replace all pairs, exactly.

    Source: doi:10.1038/s41587-025-02743-4; equal to ``scib_metrics.metrics.bras`` with
    ``between_cluster_distances="mean_other"`` except that a cell at the origin, which has no
    direction, is here at distance 1 from every other; there it makes the silhouettes of its
    whole batch undefined, and these count as 0.

    Raises
    ------
    NotApplicable
        If no label is left.
    """
    label, batch = _consecutive(label), _consecutive(batch)
    size = _cross_counts(label, batch)
    comparable = _has_comparable_batches(size)
    if not comparable.any():
        raise NotApplicable(_NO_COMPARABLE_BATCHES)
    group, code = np.unique(label * size.shape[1] + batch, return_inverse=True)
    in_group, in_label = size.ravel()[group], size.sum(axis=1)
    group_sum = np.zeros((len(group), z.shape[1]))
    for rows in float64_blocks(z):
        group_sum += group_sums(_directions(z[rows]), code[rows], len(group))
    label_sum = group_sums(group_sum, group // size.shape[1], len(size))

    score = np.empty(len(z))
    for rows in float64_blocks(z):
        u = _directions(z[rows])
        own, same_label = code[rows], label[rows]
        to_own = np.einsum("ij,ij->i", u, group_sum[own])
        to_label = np.einsum("ij,ij->i", u, label_sum[same_label])
        to_itself = 1 - np.einsum("ij,ij->i", u, u)  # 0, but 1 at the origin
        n_own, n_label = in_group[own], in_label[same_label]
        with np.errstate(invalid="ignore", divide="ignore"):
            a = (n_own - to_own - to_itself) / (n_own - 1)
            b = ((n_label - n_own) - (to_label - to_own)) / (n_label - n_own)
        a[a < _SAME_DIRECTION] = 0
        b[b < _SAME_DIRECTION] = 0
        a[n_own == 1] = b[n_own == 1] = 0
        score[rows] = 1 - np.abs(_silhouette(a, b))
    kept = comparable[label]
    return _mean_of_group_means(score[kept], label[kept])


_NO_COMPARABLE_BATCHES = "no label has cells in two batches, with two cells in one of them"


def _widths(
    sums: Float64[np.ndarray, "n_rows n_groups"],
    own: Int64[np.ndarray, "n_rows"],
    size: Int64[np.ndarray, "n_groups"],
) -> Float64[np.ndarray, "n_rows"]:
    """Silhouettes of some cells from their sums of distances to all groups; empty ones are none."""
    row = np.arange(len(own))
    a = sums[row, own] / np.maximum(size[own] - 1, 1)
    mean = np.full(sums.shape, np.inf)
    np.divide(sums, size, out=mean, where=size > 0)
    mean[row, own] = np.inf
    b = mean.min(axis=1)
    alone = size[own] == 1
    a[alone] = b[alone] = 0
    return _silhouette(a, b)


def _silhouette(
    a: Float64[np.ndarray, "n_rows"], b: Float64[np.ndarray, "n_rows"]
) -> Float64[np.ndarray, "n_rows"]:
    larger = np.maximum(a, b)
    return np.asarray(np.divide(b - a, larger, out=np.zeros_like(a), where=larger != 0))


def _directions(z: Real[np.ndarray, "n_rows d"]) -> Float64[np.ndarray, "n_rows d"]:
    """Scale rows to length 1; a row of zeros stays one."""
    u = z.astype(np.float64)
    length = np.sqrt(np.einsum("ij,ij->i", u, u))
    u /= np.where(length == 0, 1, length)[:, None]
    return u


def _consecutive(codes: Int32[np.ndarray, "n_cells"]) -> Int64[np.ndarray, "n_cells"]:
    """Renumber codes as 0, 1, … with none left out."""
    return np.asarray(np.unique(codes, return_inverse=True)[1])


def _cross_counts(
    label: Int64[np.ndarray, "n_cells"], batch: Int64[np.ndarray, "n_cells"]
) -> Int64[np.ndarray, "n_labels n_batches"]:
    """Count the cells of each label in each batch."""
    shape = (int(label.max()) + 1, int(batch.max()) + 1)
    return np.bincount(label * shape[1] + batch, minlength=shape[0] * shape[1]).reshape(shape)


def _has_comparable_batches(
    size: Int64[np.ndarray, "n_labels n_batches"],
) -> Bool[np.ndarray, "n_labels"]:
    """Find the labels with at least two batches and more cells than batches."""
    n_batches = (size > 0).sum(axis=1)
    return np.asarray((n_batches > 1) & (n_batches < size.sum(axis=1)))


def _mean_of_group_means(
    values: Float64[np.ndarray, "n_cells"], codes: Int32[np.ndarray, "n_cells"]
) -> float:
    """Average each group, then the groups, small and large alike."""
    codes = _consecutive(codes)
    return float((np.bincount(codes, weights=values) / np.bincount(codes)).mean())
