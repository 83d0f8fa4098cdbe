"""Cells that two datasets share, whatever they are called: found by their counts.

The same cell in another file may have lost genes, or been counted with another gene annotation. Of
its (gene, count) pairs most are still the same, which they are not for two cells of one type.
"""

import numpy as np
from jaxtyping import Int64
from scipy import sparse

from sclitmus.core.dataset import Dataset

LEAST_COMMON = 0.6  # of the pairs of both cells together: measured 0.8 to 1 of same cells, others
# at most 0.25 (three PBMC files with 100 shared cells, checked by their barcodes)
LEAST_PAIRS = 20  # fewer say too little
LARGEST = 255  # counts above are taken for equal
BLOCK = 512


def same_cells(cells: Dataset, others: Dataset) -> Int64[np.ndarray, "n_shared"]:
    """Return the rows of `cells` that are also among `others`, ascending.

    Compared are the genes that both have, by symbol, or by Ensembl id where there are no symbols.
    Cells with fewer than 20 counted genes among them are not found. Memory is bounded by a block of
    `cells` and all of `others`.
    """
    columns = _common_columns(cells, others)
    n_genes = int(columns[0].max(initial=-1)) + 1
    if n_genes == 0:
        return np.empty(0, dtype=np.int64)
    known = sparse.vstack([_pairs(x, columns[1], n_genes) for x in others.blocks(BLOCK)]).tocsr()
    sizes = np.diff(known.indptr)
    pairs_first = known.T.tocsr()
    found = []
    start = 0
    for counts in cells.blocks(BLOCK):
        own = _pairs(counts, columns[0], n_genes)
        shared = (own @ pairs_first).tocoo()  # only of cells with anything in common
        n_own = np.diff(own.indptr)[shared.row]
        n_other = sizes[shared.col]
        alike = shared.data >= LEAST_COMMON * (n_own + n_other - shared.data)
        enough = np.minimum(n_own, n_other) >= LEAST_PAIRS
        found.append(start + np.unique(shared.row[alike & enough]))
        start += counts.shape[0]
    return np.concatenate(found).astype(np.int64)


def _common_columns(cells: Dataset, others: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of each column's gene among those that both have, else -1."""
    pair = [cells.genes.symbol, others.genes.symbol]
    if not (any(pair[0]) and any(pair[1])):
        pair = [cells.genes.ensembl, others.genes.ensembl]
    first, second = ([name.upper() for name in names] for names in pair)
    number = {name: i for i, name in enumerate(sorted((set(first) & set(second)) - {""}))}
    return tuple(  # type: ignore[return-value]
        np.array([number.get(name, -1) for name in names], dtype=np.int64)
        for names in (first, second)
    )


def _pairs(counts: sparse.csr_matrix, columns: np.ndarray, n_genes: int) -> sparse.csr_matrix:
    """Return cells x (gene, count), 1 where a cell has the gene with the count."""
    entries = counts.tocoo()
    gene = columns[entries.col]
    real = (gene >= 0) & (entries.data > 0)
    pair = gene[real] * (LARGEST + 1) + np.minimum(entries.data[real], LARGEST).astype(np.int64)
    ones = np.ones(len(pair), dtype=np.float32)
    shape = (counts.shape[0], n_genes * (LARGEST + 1))
    made = sparse.csr_matrix((ones, (entries.row[real], pair)), shape=shape)
    made.data[:] = 1.0  # a gene in two columns with the same count
    return made
