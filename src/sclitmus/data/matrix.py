"""Matrices where they lie: looked through block by block, loaded at once or by rows, never dense.

`data`, `indices`, `indptr` and `array` may be numpy arrays, HDF5 datasets or zarr arrays: each of
them is only ever sliced, so nothing is read before it is needed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import sparse

from sclitmus.errors import DataError

BLOCK = 4_000_000  # values looked at together: 32 MB as float64


@dataclass(frozen=True)
class Compressed:
    """A CSR (``by="row"``) or CSC (``by="column"``) matrix, cells x genes."""

    data: Any
    indices: Any
    indptr: Any
    shape: tuple[int, int]
    by: Literal["row", "column"] = "row"

    @property
    def dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = self.data.dtype
        return dtype

    def values(self) -> Iterator[npt.NDArray[Any]]:
        """Yield all stored values, in stored order."""
        for start in range(0, int(self.data.shape[0]), BLOCK):
            yield np.asarray(self.data[start : start + BLOCK])

    def place(self, position: int) -> tuple[int, int]:
        """Return row and column of the stored value with this position."""
        major = int(np.searchsorted(np.asarray(self.indptr[:]), position, side="right")) - 1
        minor = int(self.indices[position])
        return (major, minor) if self.by == "row" else (minor, major)

    def load(self, dtype: npt.DTypeLike = np.float32) -> sparse.csr_matrix:
        """Return a new canonical CSR matrix: sorted, duplicates summed, no stored zeros.

        Raises
        ------
        DataError
            If the three arrays do not make a matrix of that shape.
        """
        n = int(self.data.shape[0])
        data: npt.NDArray[Any] = np.empty(n, dtype=dtype)
        wide = n > np.iinfo(np.int32).max
        indices: npt.NDArray[Any] = np.empty(n, dtype=np.int64 if wide else np.int32)
        n_minor = self.shape[1] if self.by == "row" else self.shape[0]
        make = sparse.csr_matrix if self.by == "row" else sparse.csc_matrix
        try:
            for start in range(0, n, BLOCK):
                block = slice(start, start + BLOCK)
                data[block] = self.data[block]
                found = np.asarray(self.indices[block])
                if (found < 0).any() or (found >= n_minor).any():  # before the cast could hide it
                    raise ValueError("indices outside the shape")
                indices[block] = found
            indptr = np.array(self.indptr[:], dtype=indices.dtype)  # a copy: changed below
            stored = make((data, indices, indptr), shape=self.shape)
            stored.check_format(full_check=True)
        except ValueError as error:
            raise inconsistent(self.shape, error) from error
        return _canonical(sparse.csr_matrix(stored))

    def rows(self, first: int, last: int, dtype: npt.DTypeLike = np.float32) -> sparse.csr_matrix:
        """Return rows `first` to `last` - 1 of a matrix kept by row, as `load` would.

        Raises
        ------
        DataError
            If a row has indices outside the shape.
        """
        start, stop = int(self.indptr[first]), int(self.indptr[last])
        found = np.asarray(self.indices[start:stop])
        if len(found) and (found.min() < 0 or found.max() >= self.shape[1]):
            raise inconsistent(self.shape, "indices outside the shape")
        data = np.array(self.data[start:stop], dtype=dtype)  # a copy, as are the others:
        indptr = (self.indptr[first : last + 1] - start).astype(np.int32)
        parts = (data, found.astype(np.int32), indptr)  # they may be changed below
        return _canonical(sparse.csr_matrix(parts, shape=(last - first, self.shape[1])))


@dataclass(frozen=True)
class Dense:
    """A dense matrix, cells x genes, or genes x cells if `transposed` (as loom keeps it)."""

    array: Any
    transposed: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        n, m = int(self.array.shape[0]), int(self.array.shape[1])
        return (m, n) if self.transposed else (n, m)

    @property
    def dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = self.array.dtype
        return dtype

    def values(self) -> Iterator[npt.NDArray[Any]]:
        """Yield all values, cell by cell."""
        for _, block in self._blocks():
            yield block.ravel()

    def place(self, position: int) -> tuple[int, int]:
        """Return row and column of the value with this position."""
        return divmod(position, self.shape[1])

    def load(self, dtype: npt.DTypeLike = np.float32) -> sparse.csr_matrix:
        """Return the matrix as CSR, made block by block."""
        blocks = [sparse.csr_matrix(block.astype(dtype)) for _, block in self._blocks()]
        if not blocks:
            return sparse.csr_matrix(np.zeros(self.shape, dtype=dtype))
        return sparse.csr_matrix(sparse.vstack(blocks, format="csr"))

    def rows(self, first: int, last: int, dtype: npt.DTypeLike = np.float32) -> sparse.csr_matrix:
        """Return rows `first` to `last` - 1, as `load` would."""
        return sparse.csr_matrix(self._dense(first, last).astype(dtype))

    def _blocks(self) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        n_rows, n_columns = self.shape
        step = max(1, BLOCK // max(n_columns, 1))
        for start in range(0, n_rows, step):
            yield start, self._dense(start, start + step)

    def _dense(self, first: int, last: int) -> npt.NDArray[Any]:
        rows = slice(first, last)
        return np.asarray(self.array[:, rows].T if self.transposed else self.array[rows])


Matrix = Compressed | Dense


def inconsistent(shape: tuple[int, int], why: object) -> DataError:
    """Return the error of a sparse matrix whose arrays do not belong together."""
    return DataError(
        f"a sparse matrix of shape {shape} is inconsistent: {why}",
        "data, indices and indptr that belong together",
        "the file is damaged or was written wrongly; write or download it again",
    )


def _canonical(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    """Sort indices, sum duplicates and remove stored zeros, in place."""
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix


def matrix_of(value: Any) -> Matrix:
    """Wrap an in-memory array or sparse matrix without copying or changing it.

    Raises
    ------
    DataError
        If it is neither.
    """
    if sparse.issparse(value):
        held: Any = value
        if held.format not in ("csr", "csc"):
            held = held.tocsr()  # a new one
        by: Literal["row", "column"] = "row" if held.format == "csr" else "column"
        return Compressed(held.data, held.indices, held.indptr, held.shape, by)
    if isinstance(value, np.ndarray) and value.ndim == 2:
        return Dense(value)
    shape = f" of shape {value.shape}" if hasattr(value, "shape") else ""
    raise DataError(
        f"counts are held in a {type(value).__module__}.{type(value).__name__}{shape}",
        "a two-dimensional numpy array or scipy sparse matrix",
        "bring the data into memory first, for example with adata = adata.to_memory()",
    )
