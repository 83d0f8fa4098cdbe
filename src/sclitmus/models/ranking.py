"""The genes of each cell by descending value, and columns that are the same gene made one."""

import numpy as np
from jaxtyping import Float32, Float64, Int32, Int64
from numba import njit

DIGIT_BITS = 11  # of a radix sort: 2048 counters stay in the fastest cache
ROW_DIGITS, VALUE_DIGITS = 2, 6  # digits that cover 22 bits of a row, 64 bits of a number

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
    # Positive numbers sort as their bits do; inverted, the largest comes first.
    words = ~np.ascontiguousarray(values, dtype=np.float64).view(np.uint64)
    return np.asarray(_ranked(offsets, rows.astype(np.uint64), words)).astype(np.int32)


@njit(cache=True, nogil=True)
def _ranked(offsets, rows, words):  # type: ignore[no-untyped-def]
    """Radix sort: by one digit after the other, the least significant first; each pass keeps the
    order of the last where digits are equal."""
    out = np.empty_like(rows)
    longest = 0
    for cell in range(len(offsets) - 1):
        longest = max(longest, offsets[cell + 1] - offsets[cell])
    order, turned = np.empty(longest, dtype=np.int32), np.empty(longest, dtype=np.int32)
    first = np.empty(1 << DIGIT_BITS, dtype=np.int32)
    for cell in range(len(offsets) - 1):
        a, b = offsets[cell], offsets[cell + 1]
        for i in range(b - a):
            order[i] = i
        for digit in range(ROW_DIGITS + VALUE_DIGITS):
            if digit < ROW_DIGITS:
                moved = _by_digit(rows[a:b], digit, order, turned, first)
            else:
                moved = _by_digit(words[a:b], digit - ROW_DIGITS, order, turned, first)
            if moved:
                order, turned = turned, order
        for i in range(b - a):
            out[a + i] = rows[a + order[i]]
    return out


@njit(cache=True, nogil=True)
def _by_digit(words, digit, order, turned, first):  # type: ignore[no-untyped-def]
    """Write `order` into `turned`, by a digit of the words; or return False if all are equal."""
    shift, mask = np.uint64(digit * DIGIT_BITS), np.uint64((1 << DIGIT_BITS) - 1)
    first[:] = 0
    for word in words:
        first[(word >> shift) & mask] += 1
    if len(words) == 0 or first[(words[0] >> shift) & mask] == len(words):
        return False
    total = 0
    for d in range(len(first)):
        n = first[d]
        first[d] = total
        total += n
    for i in range(len(words)):
        d = (words[order[i]] >> shift) & mask
        turned[first[d]] = order[i]
        first[d] += 1
    return True


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
