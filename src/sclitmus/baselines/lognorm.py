"""Counts to log-normalised expression of variable genes, as scanpy does it, never densified.

The steps and their defaults are those of Kedzierska et al. 2025
(doi:10.1186/s13059-025-03574-x): genes found in at least 10 cells, 10,000 counts per cell,
log1p, 2,000 highly variable genes of flavour "seurat". Cells are never dropped.
"""

from dataclasses import dataclass
from math import ceil

import numpy as np
from jaxtyping import Float64, Int64
from scipy import sparse

from sclitmus.baselines.fitted import require_same_genes
from sclitmus.core.dataset import Dataset, Genes
from sclitmus.errors import NotApplicable

TARGET = 1e4  # counts per cell after normalisation
MIN_CELLS = 10
N_TOP_GENES = 2000


def frequent_genes(counts: sparse.csr_matrix, min_cells: int) -> Int64[np.ndarray, "n_kept"]:
    """Return the columns with a count in at least `min_cells` cells.

    The threshold is made for thousands of cells. With fewer than ``10 * min_cells`` cells it is
    a tenth of them, rounded up, so that small data do not lose most of their genes.

    Raises
    ------
    NotApplicable
        If no gene is left.
    """
    n_cells, n_genes = counts.shape
    needed = min(min_cells, ceil(n_cells / 10))
    found_in = np.bincount(counts.indices[counts.data > 0], minlength=n_genes)
    kept = np.flatnonzero(found_in >= max(needed, 1))
    if not len(kept):
        raise NotApplicable(f"no gene has a count in at least {needed} of {n_cells} cells")
    return kept


def totals(
    counts: sparse.csr_matrix, genes: Int64[np.ndarray, "n_kept"]
) -> Float64[np.ndarray, "n_cells"]:
    """Counts of each cell over these genes only."""
    counted = np.zeros(counts.shape[1])
    counted[genes] = 1.0
    return np.asarray(counts @ counted)


def log_normalised(
    counts: sparse.csr_matrix,
    genes: Int64[np.ndarray, "n_columns"],
    total: Float64[np.ndarray, "n_cells"],
) -> sparse.csr_matrix:
    """Return ``log1p(counts / total * 10,000)`` of these genes; a cell with total 0 stays 0."""
    x = counts[:, genes].astype(np.float32)  # a copy: indexing never returns a view
    scale = np.divide(TARGET, total, out=np.zeros_like(total), where=total > 0)
    x.data *= np.repeat(scale, np.diff(x.indptr))
    np.log1p(x.data, out=x.data)
    return x


@dataclass(frozen=True)
class VariableGenes:
    """Which genes a fitted method reads.

    Attributes
    ----------
    genes
        Names of all columns, to refuse cells of other genes.
    kept
        Columns that make up a cell's total.
    variable
        Columns the method sees, ascending.
    """

    genes: Genes
    kept: Int64[np.ndarray, "n_kept"]
    variable: Int64[np.ndarray, "n_variable"]

    @classmethod
    def of(cls, train: Dataset, min_cells: int, n_top_genes: int) -> "VariableGenes":
        """Choose by scanpy's ``highly_variable_genes(flavor="seurat")`` (doi:10.1038/nbt.3192).

        All genes are taken where at most `n_top_genes` are left. Equal dispersions at the
        threshold are all taken, as scanpy does.

        Raises
        ------
        NotApplicable
            If there is one cell, where nothing varies, or no gene is left.
        """
        if train.n_cells < 2:
            raise NotApplicable("variable genes need at least 2 cells; there is 1")
        kept = frequent_genes(train.counts, min_cells)
        if len(kept) <= n_top_genes:
            return cls(train.genes, kept, kept)
        import scanpy as sc
        from anndata import AnnData

        x = log_normalised(train.counts, kept, totals(train.counts, kept))
        chosen = sc.pp.highly_variable_genes(
            AnnData(x), flavor="seurat", n_top_genes=n_top_genes, inplace=False
        )
        return cls(train.genes, kept, kept[chosen["highly_variable"].to_numpy()])

    def expression(self, cells: Dataset, method: str) -> sparse.csr_matrix:
        """Log-normalised expression of the variable genes, ``(n_cells, n_variable)`` float32."""
        require_same_genes(self.genes, cells, method)
        return log_normalised(cells.counts, self.variable, totals(cells.counts, self.kept))
