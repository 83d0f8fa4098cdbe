"""Principal component regression: the share of an embedding's variance that is batch."""

from typing import Literal

import numpy as np
from jaxtyping import Float64, Int32, Real

from sclitmus.errors import NotApplicable
from sclitmus.metrics.groups import float64_blocks, group_sums

# Below these what is left is rounding: of equal rows a variance of about 1e-30 beside the squared
# mean, of equal batch means a share of about 1e-16. Real batches explain no less than noise does.
_NO_VARIANCE = 1e-26
_NO_SHARE = 1e-12


def pcr(
    z: Real[np.ndarray, "n_cells d"],
    batch: Int32[np.ndarray, "n_cells"],
    *,
    n_components: int | None = None,
) -> float:
    """Share of the variance of `z` that the batches explain; 0 is none, 1 is all.

    Defined as the R² of each principal component regressed on the batch, weighted by the
    component's variance. No component is computed, for with one-hot regressors R² of component
    k is ``between_k / total_k`` (sums of squares between batches and in all) and its weight is
    ``total_k / Σ total``, so the weighted sum is ``Σ between_k / Σ total_k``; and as the
    components are a rotation, both sums are the same on the columns of `z` as they are:
    ``Σ_b n_b |mean_b - mean|² / Σ_i |z_i - mean|²``. Linear in cells and dimensions.

    Noise scores ``(n_batches - 1) / (n_cells - 1)`` on average, not 0.

    Source: doi:10.1038/s41592-018-0254-1; equal to scib-metrics' principal component regression
    with ``categorical=True``.

    Parameters
    ----------
    z
        Embedding, or the cells before integration.
    n_components
        Regress only so many leading components, as scib does (50); all if None.

    Raises
    ------
    NotApplicable
        If there is one batch only, or all rows are equal.
    """
    used, code = np.unique(batch, return_inverse=True)
    if len(used) < 2:
        raise NotApplicable("all cells are in one batch")
    if n_components is not None and n_components < min(z.shape):
        z = principal_scores(z, n_components)
    mean = _mean(z)
    sums, total = np.zeros((len(used), z.shape[1])), 0.0
    for rows in float64_blocks(z):
        centred = z[rows] - mean
        total += float(np.einsum("ij,ij->", centred, centred))
        sums += group_sums(centred, code[rows], len(used))
    if total <= _NO_VARIANCE * len(z) * float(mean @ mean):
        raise NotApplicable("all cells have the same embedding: there is no variance to explain")
    return float((sums**2 / np.bincount(code)[:, None]).sum() / total)


def pcr_comparison(
    before: Real[np.ndarray, "n_cells p"],
    z: Real[np.ndarray, "n_cells d"],
    batch: Int32[np.ndarray, "n_cells"],
    *,
    n_components: int | None = None,
    compat: Literal["", "scib"] = "",
) -> float:
    """Part of the batches' share of variance that integration took away: ``(pre - post) / pre``.

    1 if nothing of it is left, 0 if nothing changed, negative without bound if the embedding
    holds more batch variance than the data did.

    Source: scIB, doi:10.1038/s41592-021-01336-8; equal to scib-metrics' where that is not
    negative.

    Parameters
    ----------
    before
        The cells before integration: principal components of log-normalised counts, or those
        counts.
    n_components
        As for `pcr`, on both sides.
    compat
        ``"scib"``: negative values are 0, as in scib and scib-metrics.

    Raises
    ------
    NotApplicable
        If `pcr` is, or if the batches explain nothing before integration.
    """
    pre = pcr(before, batch, n_components=n_components)
    if pre < _NO_SHARE:
        raise NotApplicable("the batches explain no variance before integration")
    change = (pre - pcr(z, batch, n_components=n_components)) / pre
    return max(0.0, change) if compat == "scib" else change


def principal_scores(
    x: Real[np.ndarray, "n_cells d"], n_components: int
) -> Float64[np.ndarray, "n_cells n_components"]:
    """Coordinates of the cells on the leading principal components, in float64.

    Exact, from the eigenvectors of the smaller of the two cross-products of the centred data;
    the sign of a component is arbitrary.

    Parameters
    ----------
    n_components
        At most ``min(n_cells, d)``.
    """
    mean = _mean(x)
    if len(x) < x.shape[1]:
        centred = x - mean
        values, vectors = _leading(centred @ centred.T, n_components)
        return np.asarray(vectors * np.sqrt(np.maximum(values, 0)))
    scatter = np.zeros((x.shape[1], x.shape[1]))
    for rows in float64_blocks(x):
        centred = x[rows] - mean
        scatter += centred.T @ centred
    _, axes = _leading(scatter, n_components)
    scores = np.empty((len(x), n_components))
    for rows in float64_blocks(x):
        scores[rows] = (x[rows] - mean) @ axes
    return scores


def _leading(
    matrix: Float64[np.ndarray, "m m"], k: int
) -> tuple[Float64[np.ndarray, "k"], Float64[np.ndarray, "m k"]]:
    """Return the `k` largest eigenvalues of a symmetric matrix, largest first, and vectors."""
    from scipy.linalg import eigh  # loaded only where components are asked for

    m = len(matrix)
    values, vectors = eigh(matrix, subset_by_index=(m - k, m - 1))
    return values[::-1], vectors[:, ::-1]


def _mean(x: Real[np.ndarray, "n_cells d"]) -> Float64[np.ndarray, "d"]:
    total = np.zeros(x.shape[1])
    for rows in float64_blocks(x):
        total += x[rows].sum(axis=0, dtype=np.float64)
    return total / len(x)
