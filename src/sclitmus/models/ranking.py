"""The genes of each cell by descending value, and columns that are the same gene made one."""

import numpy as np
from jaxtyping import Float32, Float64, Int32, Int64
from numba import njit

DIGIT_BITS = 11  # of a radix sort: 2048 counters stay in the fastest cache
MANTISSA_BITS = 16  # of a value that the radix sort looks at; the rest is put right afterwards
SMALLEST_EXPONENT = -32  # values below 2⁻³² or above 2³¹ fall into the outermost places

Entries = tuple[
    Int64[np.ndarray, "n_cells_plus_1"], Int32[np.ndarray, "n_entries"], Float32[np.ndarray, "n"]
]


def ranked(
    offsets: Int64[np.ndarray, "n_cells_plus_1"],
    rows: Int32[np.ndarray, "n_entries"],
    values: Float64[np.ndarray, "n_entries"],
) -> Int32[np.ndarray, "n_entries"]:
    """Sort each cell's rows by descending value; equal values by ascending row.

    Parameters
    ----------
    offsets
        Cell i has the entries ``offsets[i]:offsets[i + 1]``.
    rows
        Not negative, and below 2²².
    values
        Positive.
    """
    return np.asarray(
        _ranked(
            offsets,
            rows.astype(np.int32, copy=False),
            np.ascontiguousarray(values, dtype=np.float64),
            np.ascontiguousarray(values, dtype=np.float64).view(np.int64),
        )
    )


@njit(cache=True, nogil=True)
def _ranked(offsets, rows, values, bits):  # type: ignore[no-untyped-def]
    """Radix sort by the leading 22 bits of each value, then insertion by all of it and the row.

    Few neighbours are still in the wrong order after the first, so the second is one pass."""
    out = np.empty_like(rows)
    n_places = 1 << DIGIT_BITS
    top = (1 << (2 * DIGIT_BITS)) - 1
    low = (1023 + SMALLEST_EXPONENT) << MANTISSA_BITS
    longest = 0
    for cell in range(len(offsets) - 1):
        longest = max(longest, offsets[cell + 1] - offsets[cell])
    keys = np.empty(longest, dtype=np.int64)
    order, turned = np.empty(longest, dtype=np.int32), np.empty(longest, dtype=np.int32)
    last, first = np.empty(n_places, dtype=np.int64), np.empty(n_places, dtype=np.int64)
    for cell in range(len(offsets) - 1):
        a, n = offsets[cell], offsets[cell + 1] - offsets[cell]
        last[:] = 0
        first[:] = 0
        for i in range(n):
            # Positive numbers sort as their bits do; from the top, the largest comes first.
            key = top - min(max((bits[a + i] >> (52 - MANTISSA_BITS)) - low, 0), top)
            keys[i] = key
            last[key & (n_places - 1)] += 1
            first[key >> DIGIT_BITS] += 1
        at_last, at_first = 0, 0
        for place in range(n_places):
            last[place], at_last = at_last, at_last + last[place]
            first[place], at_first = at_first, at_first + first[place]
        for i in range(n):
            place = keys[i] & (n_places - 1)
            turned[last[place]] = i
            last[place] += 1
        for i in range(n):
            place = keys[turned[i]] >> DIGIT_BITS
            order[first[place]] = turned[i]
            first[place] += 1
        for i in range(1, n):
            entry = order[i]
            value, row = values[a + entry], rows[a + entry]
            j = i - 1
            while j >= 0 and (
                values[a + order[j]] < value
                or (values[a + order[j]] == value and rows[a + order[j]] > row)
            ):
                order[j + 1] = order[j]
                j -= 1
            order[j + 1] = entry
        for i in range(n):
            out[a + i] = rows[a + order[i]]
    return out


def summed(lookup: Int32[np.ndarray, "n_genes"], entries: Entries) -> Entries:
    """Add up the counts of columns that are the same gene.

    Such genes come behind all others of their cell, in the order of their first columns.

    Parameters
    ----------
    lookup
        The model's row of each column, -1 where it has none.
    entries
        Offsets, rows and values as of `gene_space.known_entries`.
    """
    known = lookup[lookup >= 0]
    distinct, first, n_columns = np.unique(known, return_index=True, return_counts=True)
    several = n_columns > 1
    if not several.any():
        return entries
    shared = distinct[several][np.argsort(first[several])]
    place = np.full(distinct[-1] + 1, -1, dtype=np.int64)
    place[shared] = np.arange(len(shared))
    offsets, rows, values = _summed(*entries, place, shared)
    return offsets, rows, values


@njit(cache=True, nogil=True)
def _summed(offsets, rows, values, place, shared):  # type: ignore[no-untyped-def]
    new_offsets = np.zeros_like(offsets)
    new_rows, new_values = np.empty_like(rows), np.empty_like(values)
    sums = np.empty(len(shared), dtype=values.dtype)
    n = 0
    for cell in range(len(offsets) - 1):
        sums[:] = 0
        for at in range(offsets[cell], offsets[cell + 1]):
            if place[rows[at]] >= 0:
                sums[place[rows[at]]] += values[at]
            else:
                new_rows[n], new_values[n] = rows[at], values[at]
                n += 1
        for i in range(len(shared)):
            if sums[i] != 0:
                new_rows[n], new_values[n] = shared[i], sums[i]
                n += 1
        new_offsets[cell + 1] = n
    return new_offsets, new_rows[:n], new_values[:n]
