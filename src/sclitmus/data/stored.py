"""A matrix in a file, known well enough to be opened again: rows are read in bounded memory."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from jaxtyping import Int64
from scipy import sparse

from sclitmus.data.matrix import Compressed, Dense, Matrix, inconsistent
from sclitmus.data.source import readable
from sclitmus.errors import DataError

# Stored values read together. With their indices and what they become this takes some 100 MB.
READ = 4_000_000
# Values between two wanted rows that are read along: skipping fewer costs more than it saves.
NEAR = 16_384

Stamp = tuple[int, int, int]


def stamp(path: Path, arrays: tuple[str, ...] = ()) -> Stamp:
    """Tell whether a file was written to: number of files, bytes, time of the last change.

    Of a folder, only these arrays in it are looked at.
    """
    files = [path]
    if path.is_dir():
        files = [f for name in arrays for f in (path / name.strip("/")).rglob("*") if f.is_file()]
    found = [file.stat() for file in files]
    newest = max((s.st_mtime_ns for s in found), default=0)
    return len(found), sum(s.st_size for s in found), newest


def why_not(path: Path | None, matrix: Matrix) -> str:
    """Say why rows of a matrix cannot be read from disk one by one; empty if they can be."""
    if path is None:
        return "is held in an object"
    if isinstance(matrix, Compressed) and matrix.by == "column":
        return "is stored gene by gene (CSC), so that the counts of a cell lie all over the file"
    for array in _arrays(matrix):
        if _form(array) is None:
            return "is in a format that is read whole"
        if _form(array) == "hdf5" and array.file.filename != str(path):
            return "is a link into another file"
    return ""


@dataclass(frozen=True, eq=False)
class StoredMatrix:
    """Where a matrix is, cells x genes: CSR, or dense.

    Attributes
    ----------
    path, form, arrays
        The file or folder, and the names of the arrays in it: data and indices, or the dense one.
    shape, dtype
        Rows and columns; what the values are stored as.
    extents
        Number of values stored before each row, and in all.
    near
        Largest number of values between two rows that is read along.
    transposed
        Whether the dense array is genes x cells.
    stamp
        What the file was like.
    """

    path: Path
    form: Literal["hdf5", "zarr"]
    arrays: tuple[str, ...]
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    extents: Int64[np.ndarray, "n_rows + 1"]
    near: int
    transposed: bool
    stamp: Stamp

    @classmethod
    def of(cls, path: Path, matrix: Matrix, before: Stamp | None = None) -> "StoredMatrix":
        """Describe an open matrix for which `why_not` finds nothing.

        Parameters
        ----------
        before
            Stamp of the file, taken before it was opened.

        Raises
        ------
        DataError
            If its arrays do not belong together.
        """
        arrays = _arrays(matrix)
        names = tuple(str(array.name) for array in arrays)
        form = _form(arrays[0])
        assert form is not None
        return cls(
            path.resolve(),
            form,
            names,
            matrix.shape,
            np.dtype(matrix.dtype),
            _extents(matrix),
            max(NEAR, _chunk(matrix)),
            isinstance(matrix, Dense) and matrix.transposed,
            before or stamp(path, names),
        )

    def refuse_changed(self) -> None:
        """Raise a DataError if the file is gone, or was written to since it was described."""
        gone = not self.path.exists()
        if gone or stamp(self.path, self.arrays) != self.stamp:
            raise DataError(
                f"{self.path} {'is gone' if gone else 'has changed'} since it was read",
                "the file as it was: its counts were left on disk, and are read when needed",
                "read it again, that is, start again; do not write to a file that is in use",
            )

    @contextmanager
    def opened(self) -> Iterator[Matrix]:
        """Open the matrix for `read`.

        Raises
        ------
        DataError
            If the file has changed, or cannot be read.
        """
        with ExitStack() as stack:
            with readable(self.path):
                self.refuse_changed()
                matrix = self._matrix(stack)
            yield matrix

    def _matrix(self, stack: ExitStack) -> Matrix:
        parts: list[Any]
        if self.form == "hdf5":
            import h5py

            file = stack.enter_context(h5py.File(self.path, "r"))
            parts = [file[name] for name in self.arrays]
        else:
            import zarr

            folder = str(self.path)
            parts = [zarr.open_array(folder, path=n.strip("/"), mode="r") for n in self.arrays]
        if len(parts) == 1:
            return Dense(parts[0], self.transposed)
        data, indices = parts
        return Compressed(data, indices, self.extents, self.shape)

    def read(
        self,
        matrix: Matrix,
        rows: Int64[np.ndarray, "n_rows"],
        dtype: npt.DTypeLike = np.float32,
    ) -> sparse.csr_matrix:
        """Return one or more rows, ascending and none twice, as canonical CSR.

        Raises
        ------
        DataError
            If they cannot be read.
        """
        with readable(self.path):
            parts = [_run(matrix, rows[run], dtype) for run in self._runs(rows)]
        if len(parts) == 1:
            return parts[0]
        return sparse.csr_matrix(sparse.vstack(parts, format="csr"))

    def blocks(self, dtype: npt.DTypeLike = np.float32) -> Iterator[sparse.csr_matrix]:
        """Yield all rows, in blocks of about `READ` stored values."""
        rows = np.arange(self.shape[0])
        with self.opened() as matrix:
            for run in self._runs(rows):
                yield self.read(matrix, rows[run], dtype)

    def _runs(self, rows: Int64[np.ndarray, "n_rows"]) -> Iterator[slice]:
        """Group rows that are read together: near each other, and not too much at once."""
        starts, stops = self.extents[rows], self.extents[rows + 1]
        apart = np.flatnonzero(starts[1:] - stops[:-1] > self.near) + 1
        first = 0
        for last in (*apart.tolist(), len(rows)):
            while first < last:
                fit = int(np.searchsorted(stops[first:last], starts[first] + READ, side="right"))
                yield slice(first, first + max(fit, 1))
                first += max(fit, 1)


def _run(
    matrix: Matrix, rows: Int64[np.ndarray, "n_rows"], dtype: npt.DTypeLike
) -> sparse.csr_matrix:
    first, last = int(rows[0]), int(rows[-1]) + 1
    found = matrix.rows(first, last, dtype)
    return found if last - first == len(rows) else found[rows - first]


def _arrays(matrix: Matrix) -> tuple[Any, ...]:
    return (matrix.array,) if isinstance(matrix, Dense) else (matrix.data, matrix.indices)


def _form(array: Any) -> Literal["hdf5", "zarr"] | None:
    library = type(array).__module__.partition(".")[0]
    return {"h5py": "hdf5", "zarr": "zarr"}.get(library)  # type: ignore[return-value]


def _chunk(matrix: Matrix) -> int:
    """Number of values that have to be read together because they are compressed together."""
    chunks = getattr(_arrays(matrix)[0], "chunks", None)
    if not chunks:
        return 1
    if isinstance(matrix, Compressed):
        return int(chunks[0])
    return int(chunks[1 if matrix.transposed else 0]) * matrix.shape[1]


def _extents(matrix: Matrix) -> Int64[np.ndarray, "n_rows + 1"]:
    n_rows, n_columns = matrix.shape
    if isinstance(matrix, Dense):
        return np.arange(n_rows + 1, dtype=np.int64) * n_columns
    indptr = np.asarray(matrix.indptr[:]).astype(np.int64)
    n_data, n_indices = int(matrix.data.shape[0]), int(matrix.indices.shape[0])
    faults = {
        "indptr has another length": len(indptr) != n_rows + 1,
        "data and indices have different lengths": n_data != n_indices,
        "indptr does not start at 0": len(indptr) > 0 and indptr[0] != 0,
        "indptr decreases": bool((np.diff(indptr) < 0).any()),
        "indptr points beyond the data": len(indptr) > 0 and indptr[-1] > n_data,
    }
    for fault, seen in faults.items():
        if seen:
            raise inconsistent(matrix.shape, fault)
    return indptr
