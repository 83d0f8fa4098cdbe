"""Raw counts, cells x genes: in memory, or read from where they are stored as they are needed."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from jaxtyping import Int64
from scipy import sparse


class Counts(Protocol):
    """What a dataset needs of its counts. All of it but `load` works in bounded memory."""

    @property
    def shape(self) -> tuple[int, int]:
        """Number of cells and of genes."""
        ...

    @property
    def nnz(self) -> int:
        """Number of counts that are not zero."""
        ...

    def blocks(self, n: int) -> Iterator[sparse.csr_matrix]:
        """Yield consecutive blocks of at most `n` cells, float32."""
        ...

    def take(self, rows: Int64[np.ndarray, "n_rows"]) -> "Counts":
        """Keep these rows, in the order given; nothing is read."""
        ...

    def load(self) -> sparse.csr_matrix:
        """Return all of them at once; what was read for the first call serves every other."""
        ...

    def hashed(self) -> hashlib.blake2b:
        """Return a hash of the counts, to be added to: equal counts have an equal hash."""
        ...


@dataclass(frozen=True, eq=False)
class InMemory:
    """Counts that are there already: a matrix as it was given, neither copied nor checked."""

    matrix: sparse.csr_matrix

    @property
    def shape(self) -> tuple[int, int]:
        return int(self.matrix.shape[0]), int(self.matrix.shape[1])

    @property
    def nnz(self) -> int:
        return int(self.matrix.nnz)

    def blocks(self, n: int) -> Iterator[sparse.csr_matrix]:
        for start in range(0, self.shape[0], n):
            yield self.matrix[start : start + n]

    def take(self, rows: Int64[np.ndarray, "n_rows"]) -> "InMemory":
        return InMemory(self.matrix[rows])

    def load(self) -> sparse.csr_matrix:
        return self.matrix

    def hashed(self) -> hashlib.blake2b:
        x = self.matrix
        n_indices, n_data = len(x.indices), len(x.data)
        return hash_of(self.shape, x.indptr, (n_indices, [x.indices]), (n_data, [x.data]))


def hash_of(
    shape: tuple[int, int],
    indptr: npt.NDArray[np.integer],
    indices: tuple[int, Iterable[npt.NDArray[np.integer]]],
    data: tuple[int, Iterable[npt.NDArray[np.number]]],
) -> hashlib.blake2b:
    """Hash a CSR matrix whose indices and data come in pieces, each with their number in all."""
    digest = hashlib.blake2b(digest_size=16)
    text = repr(shape).encode()
    digest.update(b"shape:%d:" % len(text) + text)
    digest.update(b"indptr:%d:" % (8 * len(indptr)))
    digest.update(np.ascontiguousarray(indptr, dtype=np.int64).data)
    digest.update(b"indices:%d:" % (4 * indices[0]))
    for piece in indices[1]:
        digest.update(np.ascontiguousarray(piece, dtype=np.int32).data)
    digest.update(b"data:%d:" % (4 * data[0]))
    for values in data[1]:
        digest.update(np.ascontiguousarray(values, dtype=np.float32).data)
    return digest
