"""Random numbers that depend on a cell alone, for the `fixed` behaviour of models that draw some.

The published code draws from one running stream, so what a cell gets depends on the cells before
it. Here a cell's own counts are the seed: the same cell gets the same numbers in any file, at any
place, with its genes in any order.
"""

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, inline="always")
def mix(x):  # type: ignore[no-untyped-def]
    """Scramble 64 bits (the finaliser of splitmix64)."""
    x = np.uint64(x + np.uint64(0x9E3779B97F4A7C15))
    x = np.uint64((x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9))
    x = np.uint64((x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB))
    return np.uint64(x ^ (x >> np.uint64(31)))


@njit(cache=True, nogil=True)
def cell_seeds(offsets, rows, values):  # type: ignore[no-untyped-def]
    """Return a seed per cell from its set of (gene, count) pairs, whatever their order."""
    seeds = np.zeros(len(offsets) - 1, dtype=np.uint64)
    for cell in range(len(seeds)):
        total = np.uint64(0)
        for at in range(offsets[cell], offsets[cell + 1]):
            # Counts are whole; 1/64 tells apart values that are not.
            count = np.uint64(np.int64(values[at] * 64.0))
            total += mix(mix(np.uint64(rows[at])) ^ count)
        seeds[cell] = mix(total)
    return seeds


@njit(cache=True, nogil=True)
def uniforms(seed, numbers):  # type: ignore[no-untyped-def]
    """Return a number in [0, 1) for each of `numbers` (genes, or places in a list)."""
    out = np.empty(len(numbers))
    for i in range(len(numbers)):
        word = mix(seed ^ mix(np.uint64(numbers[i])))
        out[i] = np.float64(word >> np.uint64(11)) * (1.0 / 9007199254740992.0)
    return out
