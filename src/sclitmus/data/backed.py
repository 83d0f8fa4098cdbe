"""Counts that stay on disk and are read, made canonical and checked as they are needed."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64, UInt64
from scipy import sparse

from sclitmus.core.counts import InMemory, hash_of
from sclitmus.data.cells import gene_weights, row_hashes
from sclitmus.data.lognorm import to_counts
from sclitmus.data.matrix import Matrix
from sclitmus.data.stored import READ, StoredMatrix
from sclitmus.errors import DataError


@dataclass(frozen=True, eq=False)
class Backed:
    """Counts of some rows and columns of a stored matrix; see `core.counts.Counts`.

    Nothing is held open between calls. It may be pickled, and fails with a DataError if the file
    was written to since.

    Attributes
    ----------
    matrix
        Where they are.
    rows, lengths
        Row of each cell in the matrix, in any order, and how many genes it has counts of.
    columns
        Ascending; None for all.
    scale
        Of each row of the matrix, where it holds log-normalised values: see `lognorm`.
    """

    matrix: StoredMatrix
    rows: Int64[np.ndarray, "n_cells"]
    lengths: Int64[np.ndarray, "n_cells"]
    columns: Int64[np.ndarray, "n_genes"] | None = None
    scale: Float64[np.ndarray, "n_rows"] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        n_genes = self.matrix.shape[1] if self.columns is None else len(self.columns)
        return len(self.rows), n_genes

    @property
    def nnz(self) -> int:
        return int(self.lengths.sum())

    def blocks(self, n: int) -> Iterator[sparse.csr_matrix]:
        if "_whole" in self.__dict__:
            yield from InMemory(self._whole).blocks(n)
            return
        at_once = n * max(1, READ // max(1, n * self._mean_length))
        with self.matrix.opened() as matrix:
            for start in range(0, len(self.rows), at_once):
                cells = self._read(matrix, slice(start, start + at_once))
                if cells.shape[0] <= n:
                    yield cells
                else:
                    yield from InMemory(cells).blocks(n)

    def take(self, rows: Int64[np.ndarray, "n_rows"]) -> "Backed":
        return replace(self, rows=self.rows[rows], lengths=self.lengths[rows])

    def load(self) -> sparse.csr_matrix:
        return self._whole

    def hashed(self) -> hashlib.blake2b:
        return self._hash.copy()

    @cached_property
    def _whole(self) -> sparse.csr_matrix:
        indptr = self.indptr
        whole = self.nnz, indptr.dtype
        data, indices = np.empty(whole[0], dtype=np.float32), np.empty(*whole)
        done = 0
        for block in self.blocks(self._cells_at_once):
            part = slice(done, done + block.nnz)
            data[part], indices[part] = block.data, block.indices
            done = part.stop
        return sparse.csr_matrix((data, indices, indptr), shape=self.shape)

    @cached_property
    def _hash(self) -> hashlib.blake2b:
        # Two passes: the definition has all indices before all data, and neither fits in memory.
        n, nnz = self._cells_at_once, self.nnz
        indices = (block.indices for block in self.blocks(n))
        data = (block.data for block in self.blocks(n))
        return hash_of(self.shape, self.indptr, (nnz, indices), (nnz, data))

    @property
    def indptr(self) -> np.ndarray:
        """Where each cell starts, in the smallest type that SciPy would take."""
        ends = np.concatenate([[0], np.cumsum(self.lengths)])
        return ends.astype(np.int32 if ends[-1] <= np.iinfo(np.int32).max else np.int64)

    @property
    def _mean_length(self) -> int:
        return max(1, self.nnz // max(1, len(self.rows)))

    @property
    def _cells_at_once(self) -> int:
        return max(1, READ // self._mean_length)

    def _read(self, matrix: Matrix, cells: slice) -> sparse.csr_matrix:
        """Return some cells, in their order."""
        rows = self.rows[cells]
        back = None
        if (np.diff(rows) <= 0).any():  # rows are read as they lie
            rows, back = np.unique(rows, return_inverse=True)
        x = self._counts(self.matrix.read(matrix, rows, self._dtype), rows)
        if back is not None:
            x = x[back]
        if not np.array_equal(np.diff(x.indptr), self.lengths[cells]):
            raise DataError(
                f"{self.matrix.path} holds other counts than when it was read",
                "the file as it was: its counts were left on disk, and are read when needed",
                "the file was written to, or its disk is failing: copy it and start again",
            )
        return x

    def _counts(self, x: sparse.csr_matrix, rows: Int64[np.ndarray, "n_rows"]) -> sparse.csr_matrix:
        if self.scale is not None:
            x = to_counts(x, self.scale[rows])
        return x if self.columns is None else sparse.csr_matrix(x[:, self.columns])

    @property
    def _dtype(self) -> type[np.floating[Any]]:
        logged = self.scale is not None
        return np.float64 if logged and self.matrix.dtype == np.float64 else np.float32

    def __getstate__(self) -> dict[str, Any]:
        return {part.name: getattr(self, part.name) for part in fields(self)}  # nothing cached


@dataclass(frozen=True)
class Surveyed:
    """All rows of a stored matrix, and what one pass over them found.

    Attributes
    ----------
    counts
        All rows, the empty ones, too.
    hashes
        Of each row's counts; see `cells.row_hashes`.
    largest
        Largest value, duplicates summed, before columns were left out.
    """

    counts: Backed
    hashes: UInt64[np.ndarray, "n_rows"]
    largest: float


def survey(
    matrix: StoredMatrix,
    columns: Int64[np.ndarray, "n_genes"] | None = None,
    scale: Float64[np.ndarray, "n_rows"] | None = None,
) -> Surveyed:
    """Look through all rows of a matrix whose values are known to be counts, or to invert to some.

    Raises
    ------
    DataError
        If the file cannot be read, or its arrays do not belong together.
    """
    n_rows = matrix.shape[0]
    rows = np.arange(n_rows)
    lengths, hashes = np.zeros(n_rows, dtype=np.int64), np.zeros(n_rows, dtype=np.uint64)
    counts = Backed(matrix, rows, lengths, columns, scale)
    weights = gene_weights(counts.shape[1])
    first, largest = 0, 0.0
    for x in matrix.blocks(counts._dtype):
        here = slice(first, first + x.shape[0])
        largest = max(largest, float(x.data.max(initial=0)))
        x = counts._counts(x, rows[here])
        lengths[here] = np.diff(x.indptr)
        hashes[here] = row_hashes(x, weights)
        first = here.stop
    return Surveyed(counts, hashes, largest)
