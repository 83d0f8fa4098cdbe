"""Counts had back from log1p(counts per target), where every cell inverts to whole numbers.

A cell with counts k and total N was stored as x = log(1 + k T / N), so expm1(x) = k s with one
scale s = T / N per cell. The scale comes from a column of totals N where obs has one (T is then
the same for all cells), else from the cell itself: its smallest positive value is one count.

A value may be off by what its storage lost: half a unit of its last decimal (files rounded to
three decimals exist) or float32 rounding. It inverts only if the whole number within that error is
the only one.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from jaxtyping import Float64
from scipy import sparse

TOTAL_COLUMNS = ("n_counts", "total_counts", "nCount_RNA", "nUMI", "n_umi", "n_counts_full")
EPS = float(np.finfo(np.float32).eps)  # values were computed in float32, whatever they are kept in
ULPS = 8  # roundings between count and stored value: division, target, log1p, and one spare each
BLOCK_CELLS = 4096


@dataclass(frozen=True)
class Inverted:
    """The counts, how the scale was had, and the cells whose scale nothing could check."""

    counts: sparse.csr_matrix
    how: str
    unchecked: int


@dataclass(frozen=True)
class Refused:
    """The first value that is no whole number of counts, as (row, column, counts)."""

    row: int
    column: int
    count: float


def invert(
    x: sparse.csr_matrix, totals: Mapping[str, Float64[np.ndarray, "n_cells"]]
) -> Inverted | Refused:
    """Invert log1p(counts per target) exactly, or name the first value that does not invert.

    Parameters
    ----------
    x
        Log-normalised values, cells x genes, finite and not negative, without stored zeros.
    totals
        Candidate columns of totals by name; the first under which every cell inverts is used.

    Notes
    -----
    Without totals a cell whose counts are all multiples of a number inverts to counts divided by
    it; with more than a few genes per cell there is always a gene with one count. A cell with a
    single distinct value inverts whatever it holds: those cells are counted in `unchecked`.
    """
    error = _storage_error(x.data)
    smallest = _smallest(x)
    own = np.expm1(smallest)
    own_error = _relative_error(own, smallest, error)
    for name, total in totals.items():
        scale, scale_error = _scale_from(total, own, own_error)
        if scale is not None:
            result = _whole(x, scale, np.full(x.shape[0], scale_error), error)
            if isinstance(result, sparse.csr_matrix):
                return Inverted(result, f"with the totals in obs column {name!r}", 0)
    result = _whole(x, own, own_error, error)
    if isinstance(result, Refused):
        return result
    single = int(np.count_nonzero((_largest(x) == smallest) & (smallest > 0)))
    return Inverted(result, "with the smallest value of each cell as one count", single)


def _storage_error(values: npt.NDArray[np.floating]) -> float:
    """Half a unit of the last decimal if all values are rounded to the same few, else 0."""
    for decimals in range(1, 7):
        unit = 10.0**decimals
        if all(
            np.all(np.abs(scaled - np.rint(scaled)) <= 2 * EPS * scaled)
            for scaled in (
                values[i : i + 1_000_000].astype(np.float64) * unit
                for i in range(0, len(values), 1_000_000)
            )
        ):
            return 0.5 / unit
    return 0.0


def _smallest(x: sparse.csr_matrix) -> Float64[np.ndarray, "n_cells"]:
    return _per_row(x, np.minimum)


def _largest(x: sparse.csr_matrix) -> Float64[np.ndarray, "n_cells"]:
    return _per_row(x, np.maximum)


def _per_row(x: sparse.csr_matrix, reduce: np.ufunc) -> Float64[np.ndarray, "n_cells"]:
    """Smallest or largest stored value of each row; 0 for a row without any."""
    filled = np.diff(x.indptr) > 0
    result = np.zeros(x.shape[0])
    if filled.any():
        result[filled] = reduce.reduceat(x.data, x.indptr[:-1][filled])
    return result


def _relative_error(
    y: npt.NDArray[np.float64], x: npt.NDArray[np.float64], storage: float
) -> npt.NDArray[np.float64]:
    """Relative error of y = expm1(x) when x is off by its storage error and float32 rounding."""
    safe = np.where(y > 0, y, 1.0)
    return (safe + 1.0) / safe * (storage + EPS * np.maximum(x, 1.0)) + ULPS * EPS


def _scale_from(
    total: npt.NDArray[np.float64],
    own: npt.NDArray[np.float64],
    own_error: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.float64] | None, float]:
    """Scale T / N of every cell and its relative error, if the totals can be totals at all."""
    filled = own > 0
    if not (np.isfinite(total[filled]).all() and (total[filled] > 0).all() and filled.any()):
        return None, 0.0
    # In a cell whose smallest count is one, own = T / N; a median over cells finds T.
    target, error = float(np.median(own[filled] * total[filled])), float(np.median(own_error))
    power = 10.0 ** np.rint(np.log10(target))
    if abs(target / power - 1.0) <= error:
        target, error = float(power), 0.0  # the usual targets, without an error of their own
    return np.where(filled, target / np.where(filled, total, 1.0), 1.0), error


def _whole(
    x: sparse.csr_matrix,
    scale: npt.NDArray[np.float64],
    scale_error: npt.NDArray[np.float64],
    storage: float,
) -> sparse.csr_matrix | Refused:
    """Counts of all cells given their scales, or the first value that is no whole count."""
    counts = np.empty(len(x.data), dtype=np.float32)
    for first in range(0, x.shape[0], BLOCK_CELLS):
        last = min(first + BLOCK_CELLS, x.shape[0])
        part = slice(int(x.indptr[first]), int(x.indptr[last]))
        row = np.repeat(np.arange(first, last), np.diff(x.indptr[first : last + 1]))
        value = x.data[part].astype(np.float64)
        y = np.expm1(value)
        k = y / scale[row]
        nearest = np.rint(k)
        bound = k * (_relative_error(y, value, storage) + scale_error[row])
        wrong = (np.abs(k - nearest) > bound) | (bound >= 0.5) | (nearest < 1)
        if wrong.any():
            at = int(np.argmax(wrong))
            return Refused(int(row[at]), int(x.indices[part.start + at]), float(k[at]))
        counts[part] = nearest
    return sparse.csr_matrix((counts, x.indices.copy(), x.indptr.copy()), shape=x.shape)
