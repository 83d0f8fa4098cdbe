"""Cells: unique ids, and rows that occur twice."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import UInt64
from scipy import sparse

from sclitmus.core.dataset import Note
from sclitmus.core.rng import rng_for
from sclitmus.data.wording import as_text, listed

BLOCK_VALUES = 4_000_000


def cell_ids(index: Sequence[Any] | pd.Index) -> tuple[tuple[str, ...], tuple[Note, ...]]:
    """Return unique cell ids, and notes on those that had to be changed.

    The first cell of an id keeps it, later ones get ``~2``, ``~3`` …; a missing or empty id
    becomes ``cell-ROW``.
    """
    raw = pd.Series(index, dtype=object)
    missing = raw.isna().to_numpy() | (raw == "").to_numpy(dtype=bool, na_value=False)
    ids = [
        f"cell-{i}" if gone else as_text(v)
        for i, (v, gone) in enumerate(zip(raw, missing, strict=True))
    ]
    notes: tuple[Note, ...] = ()
    if missing.any():
        n = int(missing.sum())
        notes += (Note("cell_ids", f"{n} cells without an id were named by their row", n),)
    if len(set(ids)) < len(ids):
        repeated = [name for name, n in Counter(ids).items() if n > 1]
        taken, turn, changed = set(ids), Counter[str](), 0
        for i, name in enumerate(ids):
            turn[name] += 1
            if turn[name] == 1:
                continue
            while (new := f"{name}~{turn[name]}") in taken:
                turn[name] += 1
            ids[i] = new
            taken.add(new)
            changed += 1
        text = (
            f"{len(repeated)} cell ids occur more than once ({listed(repeated)}); "
            f"{changed} cells were renamed ID~2, ID~3 …"
        )
        notes += (Note("duplicate_cell_ids", text, changed),)
    return tuple(ids), notes


def repeated_rows(counts: sparse.csr_matrix) -> tuple[Note, ...]:
    """Count cells whose counts are those of an earlier cell. They are kept.

    Rows are compared by a 64-bit linear hash, one random odd weight per gene, so two different
    rows are taken as equal with a probability of about 1e-19.
    """
    return repeated(row_hashes(counts, gene_weights(counts.shape[1])))


def gene_weights(n_genes: int) -> UInt64[np.ndarray, "n_genes"]:
    """Return the weights that `row_hashes` takes, always the same for a number of genes."""
    return rng_for(0, "repeated rows").integers(0, 2**63, n_genes, dtype=np.uint64) * 2 + 1


def row_hashes(
    counts: sparse.csr_matrix, weights: UInt64[np.ndarray, "n_genes"]
) -> UInt64[np.ndarray, "n_cells"]:
    """Return a hash of each row; 0 for an empty one."""
    n_cells = counts.shape[0]
    hashes = np.zeros(n_cells, dtype=np.uint64)
    filled = np.flatnonzero(np.diff(counts.indptr))
    step = max(1, int(BLOCK_VALUES / max(counts.nnz / max(n_cells, 1), 1)))
    for first in range(0, len(filled), step):
        rows = filled[first : first + step]
        start, stop = counts.indptr[rows[0]], counts.indptr[rows[-1] + 1]
        terms = counts.data[start:stop].astype(np.uint64) * weights[counts.indices[start:stop]]
        hashes[rows] = np.add.reduceat(terms, counts.indptr[rows] - start)
    return hashes


def repeated(hashes: UInt64[np.ndarray, "n_cells"]) -> tuple[Note, ...]:
    """Note how many of these hashes occurred before."""
    repeats = len(hashes) - len(np.unique(hashes))
    if not repeats:
        return ()
    text = f"{repeats} cells have exactly the counts of another cell; they are kept"
    return (Note("duplicate_rows", text, repeats),)
