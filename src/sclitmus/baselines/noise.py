"""Gaussian noise that belongs to a cell, not to its place in a matrix."""

import hashlib
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float64


def cell_noise(seed: int, cells: Iterable[str], d: int) -> Float64[np.ndarray, "n_cells d"]:
    """Draw `d` independent N(0, 1) numbers per cell, which depend on the seed and its id alone.

    A cell has the same noise in any order, in any chunk and in any subset. Philox is a
    counter-based generator made for this: one key per stream, no state to carry (Salmon et al.
    2011, doi:10.1145/2063384.2063405).

    Parameters
    ----------
    seed
        0 to 2**63 - 1.
    cells
        Ids, one per row of the result.
    """
    draws = [
        np.random.Generator(np.random.Philox(key=[seed, _key(cell)])).standard_normal(d)
        for cell in cells
    ]
    return np.array(draws).reshape(-1, d)


def _key(cell: str) -> int:
    return int.from_bytes(hashlib.blake2b(cell.encode(), digest_size=8).digest(), "little")
