"""Counts had back from log1p(counts per target), where every cell inverts to whole numbers.

A cell with counts k and total N was stored as x = log(1 + k T / N), so expm1(x) = k s with one
scale s = T / N per cell. The scale comes from a column of totals N where obs has one (T is then
the same for all cells), else from the cell itself: its smallest positive value is one count.

A value may be off by what its storage lost: half a unit of its last decimal (files rounded to
three decimals exist) or float32 rounding. It inverts only if the whole number within that error is
the only one.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from jaxtyping import Float64
from scipy import sparse

TOTAL_COLUMNS = ("n_counts", "total_counts", "nCount_RNA", "nUMI", "n_umi", "n_counts_full")
EPS = float(np.finfo(np.float32).eps)  # values were computed in float32, whatever they are kept in
ULPS = 8  # roundings between count and stored value: division, target, log1p, and one spare each
BLOCK_CELLS = 4096


Blocks = Callable[[], Iterable[sparse.csr_matrix]]


@dataclass(frozen=True)
class Inverted:
    """The counts, how the scale was had, and the cells whose scale nothing could check."""

    counts: sparse.csr_matrix
    how: str
    unchecked: int


@dataclass(frozen=True)
class Scales:
    """The scale s of each cell, how it was had, and the cells where nothing could check it."""

    scale: Float64[np.ndarray, "n_cells"]
    how: str
    unchecked: int


@dataclass(frozen=True)
class Refused:
    """The first value that is no whole number of counts, as (row, column, counts).

    The counts are NaN where the value is negative or not finite.
    """

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
        Log-normalised values, cells x genes, without stored zeros.
    totals
        Candidate columns of totals by name; the first under which every cell inverts is used.

    Notes
    -----
    Without totals a cell whose counts are all multiples of a number inverts to counts divided by
    it; with more than a few genes per cell there is always a gene with one count. A cell with a
    single distinct value inverts whatever it holds: those cells are counted in `unchecked`.
    """
    found = find_scales(lambda: [x], totals)
    if isinstance(found, Refused):
        return found
    return Inverted(to_counts(x, found.scale), found.how, found.unchecked)


def find_scales(
    blocks: Blocks, totals: Mapping[str, Float64[np.ndarray, "n_cells"]]
) -> Scales | Refused:
    """Find the scales under which every value inverts, in memory for a block; see `invert`.

    Parameters
    ----------
    blocks
        Called for each pass over the values: consecutive blocks of `x`.
    """
    seen = _survey(blocks)
    if isinstance(seen, Refused):
        return seen
    smallest, largest, error = seen
    own = np.expm1(smallest)
    own_error = _relative_error(own, smallest, error)
    for name, total in totals.items():
        scale, scale_error = _scale_from(total, own, own_error)
        if scale is not None:
            each = np.full(len(scale), scale_error)
            if _not_whole(blocks, scale, each, error) is None:
                return Scales(scale, f"with the totals in obs column {name!r}", 0)
    refused = _not_whole(blocks, own, own_error, error)
    if refused is not None:
        return refused
    single = int(np.count_nonzero((largest == smallest) & (smallest > 0)))
    return Scales(own, "with the smallest value of each cell as one count", single)


def to_counts(x: sparse.csr_matrix, scale: Float64[np.ndarray, "n_cells"]) -> sparse.csr_matrix:
    """Return the counts of cells whose scales are known to invert them."""
    counts = np.empty(len(x.data), dtype=np.float32)
    for row, part in _parts(x):
        counts[part] = np.rint(np.expm1(x.data[part].astype(np.float64)) / scale[row])
    return sparse.csr_matrix((counts, x.indices.copy(), x.indptr.copy()), shape=x.shape)


def _survey(
    blocks: Blocks,
) -> tuple[Float64[np.ndarray, "n_cells"], Float64[np.ndarray, "n_cells"], float] | Refused:
    """Smallest and largest value of each cell, and the error of storage.

    The last is half a unit of the last decimal if all values are rounded to the same few, else 0.
    """
    smallest, largest, decimals = [], [], list(range(1, 7))
    for x in blocks():
        if not (np.isfinite(x.data).all() and (x.data >= 0).all()):
            return Refused(-1, -1, np.nan)
        smallest.append(_per_row(x, np.minimum))
        largest.append(_per_row(x, np.maximum))
        decimals = [d for d in decimals if _rounded(x.data, 10.0**d)]
    error = 0.5 / 10.0 ** decimals[0] if decimals else 0.0
    return np.concatenate(smallest), np.concatenate(largest), error


def _rounded(values: npt.NDArray[np.floating], unit: float) -> bool:
    return all(
        np.all(np.abs(scaled - np.rint(scaled)) <= 2 * EPS * scaled)
        for scaled in (
            values[i : i + 1_000_000].astype(np.float64) * unit
            for i in range(0, len(values), 1_000_000)
        )
    )


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


def _not_whole(
    blocks: Blocks,
    scale: npt.NDArray[np.float64],
    scale_error: npt.NDArray[np.float64],
    storage: float,
) -> Refused | None:
    """Find the first value that is no whole count given the scales of all cells."""
    first = 0
    for x in blocks():
        for row, part in _parts(x):
            value = x.data[part].astype(np.float64)
            y = np.expm1(value)
            k = y / scale[first + row]
            nearest = np.rint(k)
            bound = k * (_relative_error(y, value, storage) + scale_error[first + row])
            wrong = (np.abs(k - nearest) > bound) | (bound >= 0.5) | (nearest < 1)
            if wrong.any():
                at = int(np.argmax(wrong))
                column = int(x.indices[part.start + at])
                return Refused(first + int(row[at]), column, float(k[at]))
        first += x.shape[0]
    return None


def _parts(x: sparse.csr_matrix) -> Iterator[tuple[npt.NDArray[np.int64], slice]]:
    """Yield the values of some cells after the other, with the row of each value."""
    for first in range(0, x.shape[0], BLOCK_CELLS):
        last = min(first + BLOCK_CELLS, x.shape[0])
        row = np.repeat(np.arange(first, last), np.diff(x.indptr[first : last + 1]))
        yield row, slice(int(x.indptr[first]), int(x.indptr[last]))
