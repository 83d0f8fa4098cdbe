"""Which of a dataset's genes a model knows, and by which of its rows."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Float32, Float64, Int32, Int64
from numba import njit
from scipy import sparse

from sclitmus.core.dataset import Genes
from sclitmus.errors import NotApplicable

EXAMPLES = 5
MIN_MATCHED = 0.5


@dataclass(frozen=True)
class GeneSpace:
    """The genes of a model.

    Attributes
    ----------
    names
        Name of each gene; its position is the model's row. An unnamed row is an empty string.
    kind
        Whether the names are gene symbols or Ensembl ids.
    any_case
        Whether the original upper-cases names before it looks them up.
    also
        Further names of rows: old ids, symbols beside Ensembl ids.
    only_unnamed
        Whether names of the other kind are looked up only for columns without one of this kind:
        not for a gene whose Ensembl id the model does not know.
    """

    names: tuple[str, ...]
    kind: Literal["symbol", "ensembl"]
    any_case: bool = False
    also: tuple[tuple[str, int], ...] = ()
    only_unnamed: bool = False

    @cached_property
    def rows(self) -> dict[str, int]:
        """Row of each name; of a name that occurs twice, the first."""
        found: dict[str, int] = {}
        named = [*((name, row) for row, name in enumerate(self.names)), *self.also]
        for name, row in named:
            found.setdefault(name.upper() if self.any_case else name, row)
        found.pop("", None)
        return found

    def match(self, genes: Genes) -> "Matched":
        """Look up the model's row of every column of a dataset."""
        names = genes.symbol if self.kind == "symbol" else genes.ensembl
        rows = self.rows
        lookup = np.fromiter(
            (rows.get(name.upper() if self.any_case else name, -1) for name in names),
            dtype=np.int32,
            count=len(names),
        )
        if self.also:  # such names may be of the other kind
            other = genes.ensembl if self.kind == "symbol" else genes.symbol
            for column in np.flatnonzero(lookup < 0):
                name = "" if self.only_unnamed and names[column] else other[column]
                lookup[column] = rows.get(name.upper() if self.any_case else name, -1)
        unknown = [_either(genes, column) for column in np.flatnonzero(lookup < 0).tolist()]
        return Matched(lookup, sum(map(bool, self.names)), tuple(unknown[:EXAMPLES]))


def _either(genes: Genes, column: int) -> str:
    return genes.symbol[column] or genes.ensembl[column] or f"column {column}"


@dataclass(frozen=True)
class Matched:
    """The columns of a dataset as rows of a model.

    Attributes
    ----------
    lookup
        The model's row of each column; -1 where the model does not know the gene.
    n_model
        Number of genes that the model knows.
    examples
        Some names that it does not know.
    """

    lookup: Int32[np.ndarray, "n_genes"]
    n_model: int
    examples: tuple[str, ...]

    @property
    def n_genes(self) -> int:
        return len(self.lookup)

    @property
    def n_matched(self) -> int:
        return int((self.lookup >= 0).sum())

    @property
    def share(self) -> float:
        """Matched genes as a share of all that could match, which is the smaller of both sets."""
        return self.n_matched / max(min(self.n_genes, self.n_model), 1)

    def __str__(self) -> str:
        n_missed = self.n_genes - self.n_matched
        missed = f"; {n_missed} unknown" if n_missed else ""
        named = f", for example {', '.join(self.examples)}" if self.examples else ""
        return (
            f"{self.n_matched} of {self.n_genes} genes are among the model's "
            f"{self.n_model}{missed}{named}"
        )

    def require(self, share: float, model: str, kind: str) -> None:
        """Refuse a dataset of which the model knows too little.

        Raises
        ------
        NotApplicable
            If less than `share` of the genes that could match do.
        """
        if self.n_matched == 0 or self.share < share:
            raise NotApplicable(
                f"{model} knows too few of these genes by their {kind}: {self}; at least "
                f"{share:.0%} must match (set min_matched lower to go on all the same)"
            )


def known_entries(
    counts: sparse.csr_matrix, lookup: Int32[np.ndarray, "n_genes"]
) -> tuple[
    Int64[np.ndarray, "n_cells_plus_1"], Int32[np.ndarray, "n_entries"], Float32[np.ndarray, "n"]
]:
    """Return the counts in genes that the model knows, cell by cell, in the order of the columns.

    Parameters
    ----------
    counts
        Cells x genes of the dataset, indices sorted within each cell.
    lookup
        `Matched.lookup`.

    Returns
    -------
    offsets, rows, values
        Cell i has ``offsets[i]:offsets[i + 1]``; the model's row and the count of each entry.
    """
    if not counts.has_sorted_indices:
        counts = counts.sorted_indices()
    offsets, rows, values = _known_entries(
        counts.indptr.astype(np.int64, copy=False),
        counts.indices.astype(np.int32, copy=False),
        counts.data.astype(np.float32, copy=False),
        lookup,
    )
    return offsets, rows, values


@njit(cache=True, nogil=True)
def _known_entries(indptr, indices, data, lookup):  # type: ignore[no-untyped-def]
    # Zeros may be stored; no model counts them as expressed.
    n_cells = len(indptr) - 1
    offsets = np.zeros(n_cells + 1, dtype=np.int64)
    rows = np.empty(len(indices), dtype=np.int32)
    values = np.empty(len(indices), dtype=np.float32)
    n = 0
    for cell in range(n_cells):
        for at in range(indptr[cell], indptr[cell + 1]):
            row = lookup[indices[at]]
            if row >= 0 and data[at] != 0:
                rows[n] = row
                values[n] = data[at]
                n += 1
        offsets[cell + 1] = n
    return offsets, rows[:n], values[:n]


@njit(cache=True, nogil=True)
def by_row(offsets, rows, values):  # type: ignore[no-untyped-def]
    """Sort each cell's entries by the model's row, in place: the order no longer depends on the
    dataset's columns."""
    for cell in range(len(offsets) - 1):
        a, b = offsets[cell], offsets[cell + 1]
        order = np.argsort(rows[a:b], kind="mergesort")
        rows[a:b] = rows[a:b][order]
        values[a:b] = values[a:b][order]


def entries_by_row(
    counts: sparse.csr_matrix,
    lookup: Int32[np.ndarray, "n_genes"],
    n_rows: int,
    repeated: Literal["sum", "first"] = "sum",
) -> tuple[
    Int64[np.ndarray, "n_cells_plus_1"], Int32[np.ndarray, "n_entries"], Float32[np.ndarray, "n"]
]:
    """Return the counts in genes that the model knows, in the model's order, each gene once.

    Parameters
    ----------
    counts
        Cells x genes of the dataset.
    lookup
        `Matched.lookup`.
    n_rows
        Number of genes of the model.
    repeated
        What becomes of columns with the same gene: their sum, which does not depend on the order
        of columns, or the first of them.

    Returns
    -------
    offsets, rows, values
        As of `known_entries`; rows ascend within a cell.
    """
    if repeated == "first":
        known, columns = np.unique(lookup, return_index=True)
        lookup = np.full_like(lookup, -1)
        lookup[columns] = known
    offsets, rows, values = _entries_by_row(
        counts.indptr.astype(np.int64, copy=False),
        counts.indices.astype(np.int32, copy=False),
        counts.data.astype(np.float32, copy=False),
        lookup,
        n_rows,
    )
    return offsets, rows, values


@njit(cache=True, nogil=True)
def _entries_by_row(indptr, indices, data, lookup, n_rows):  # type: ignore[no-untyped-def]
    n_cells = len(indptr) - 1
    offsets = np.zeros(n_cells + 1, dtype=np.int64)
    rows = np.empty(len(indices), dtype=np.int32)
    values = np.empty(len(indices), dtype=np.float32)
    cell_values = np.zeros(n_rows, dtype=np.float32)  # one cell, written out: no sorting
    n = 0
    for cell in range(n_cells):
        for at in range(indptr[cell], indptr[cell + 1]):
            row = lookup[indices[at]]
            if row >= 0:
                cell_values[row] += data[at]
        for row in range(n_rows):
            if cell_values[row] != 0:
                rows[n] = row
                values[n] = cell_values[row]
                cell_values[row] = 0
                n += 1
        offsets[cell + 1] = n
    return offsets, rows[:n], values[:n]


def totals_of(
    offsets: Int64[np.ndarray, "n_cells_plus_1"], values: Float32[np.ndarray, "n"]
) -> Float64[np.ndarray, "n_cells"]:
    """Return the sum of each cell's values."""
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])[offsets]
    return np.asarray(np.diff(sums))
