"""Sums over groups of cells, in blocks of rows so that no float64 copy of the data is made."""

import numpy as np
from jaxtyping import Float64, Integer, Real
from scipy import sparse

from sclitmus.metrics.parallel import row_blocks

_BLOCK_BYTES = 32 * 2**20  # a float64 block that still sits in the last-level cache


def float64_blocks(x: Real[np.ndarray, "n_cells d"]) -> list[slice]:
    """Cut the rows into slices of which a float64 copy takes some tens of megabytes."""
    return row_blocks(len(x), max(1, _BLOCK_BYTES // (8 * max(1, x.shape[1]))))


def group_sums(
    x: Float64[np.ndarray, "n_rows d"], codes: Integer[np.ndarray, "n_rows"], n_groups: int
) -> Float64[np.ndarray, "n_groups d"]:
    """Sum the rows of each group; one sequential pass over `x`."""
    rows = np.arange(len(codes) + 1)
    membership = sparse.csr_matrix((np.ones(len(codes)), codes, rows), shape=(len(codes), n_groups))
    return np.asarray(membership.T @ x)
