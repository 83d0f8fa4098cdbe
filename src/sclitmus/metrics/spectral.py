"""Leading eigenvectors of a sparse symmetric matrix by block Lanczos with thick restarts.

`scipy.sparse.linalg.eigsh` takes one vector at a time and holds the interpreter's lock. Blocks
of 16 turn its work into matrix products, in float32 and on as many threads as there are matrices.
"""

import numpy as np
from jaxtyping import Float32, Float64
from numba import njit
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, eigsh

from sclitmus.core.rng import rng_for

BLOCK = 16
BASIS = 320  # vectors kept before a restart: measured best for 100 eigenvectors
RESTARTS = 60  # spectra of cell graphs take about 8
DENSE = 400  # up to so many rows a full decomposition is as fast, and needs no tolerance


@njit(nogil=True, cache=True, fastmath={"contract"})
def _times(starts, columns, values, x, out):  # type: ignore[no-untyped-def]
    """Multiply a CSR matrix by a block of columns.

    Four entries at a time: a single one would wait for the sum it adds to. Loops rather than
    array expressions, which take numba eight times as long to compile.
    """
    n, width = out.shape
    total = np.zeros(width, np.float32)
    for i in range(n):
        for c in range(width):
            total[c] = 0
        p, stop = starts[i], starts[i + 1]
        while p + 4 <= stop:
            w0, w1, w2, w3 = values[p], values[p + 1], values[p + 2], values[p + 3]
            j0, j1, j2, j3 = columns[p], columns[p + 1], columns[p + 2], columns[p + 3]
            for c in range(width):
                total[c] += (w0 * x[j0, c] + w1 * x[j1, c]) + (w2 * x[j2, c] + w3 * x[j3, c])
            p += 4
        while p < stop:
            w0, j0 = values[p], columns[p]
            for c in range(width):
                total[c] += w0 * x[j0, c]
            p += 1
        for c in range(width):
            out[i, c] = total[c]


def leading_eigenvectors(
    matrix: sparse.csr_matrix,
    k: int,
    known: Float32[np.ndarray, "n n_known"],
    tolerance: float = 1e-3,
) -> tuple[Float64[np.ndarray, "k"], Float32[np.ndarray, "n k"]]:
    """Find the eigenvalues of largest magnitude, apart from those of known eigenvectors.

    Parameters
    ----------
    matrix
        Symmetric, float32.
    k
        How many to find; at most ``n - n_known``.
    known
        Orthonormal eigenvectors that are left out.
    tolerance
        Largest residual relative to the eigenvalue. The eigenvalues are then right to 1e-6.

    Returns
    -------
    values, vectors
        By decreasing magnitude; the vectors are orthonormal and orthogonal to `known`.
    """
    n, n_known = known.shape
    if n <= max(DENSE, k + n_known + 2 * BLOCK):
        dense = matrix.toarray().astype(np.float64)
        # Shifting known eigenvectors far below -1 puts them last without a loss of digits.
        dense -= 4 * known.astype(np.float64) @ known.T.astype(np.float64)
        values, vectors = np.linalg.eigh(dense)
        values, vectors = values[n_known:], vectors[:, n_known:]
        keep = np.argsort(-np.abs(values), kind="stable")[:k]
        return values[keep], vectors[:, keep].astype(np.float32)

    room = min(max(BASIS, 3 * k), n - BLOCK)
    basis = np.empty((n, room + BLOCK), dtype=np.float32)
    basis[:, :n_known] = known
    projected = np.zeros((room + BLOCK, room + BLOCK), dtype=np.float32)
    start = rng_for(0, "leading eigenvectors").normal(size=(n, BLOCK)).astype(np.float32)
    for _ in range(2):
        start = _orthonormal(basis[:, :n_known], start)[0]
    size = n_known
    basis[:, size : size + BLOCK] = start
    product = np.empty((n, BLOCK), dtype=np.float32)
    restarts = 0
    while restarts < RESTARTS:
        newest = np.ascontiguousarray(basis[:, size : size + BLOCK])
        _times(matrix.indptr, matrix.indices, matrix.data, newest, product)
        old = slice(size, size + BLOCK)
        size += BLOCK
        following, beyond, inside = _orthonormal(basis[:, :size], product)
        projected[:size, old] = inside
        projected[old, :size] = inside.T
        basis[:, size : size + BLOCK] = following
        if size + BLOCK <= room:
            continue
        values, mixing = np.linalg.eigh(projected[n_known:size, n_known:size])
        by_size = np.argsort(-np.abs(values), kind="stable")
        values, mixing = values[by_size], mixing[:, by_size]
        residual = np.linalg.norm(beyond @ mixing[-BLOCK:], axis=0)[:k]
        # Values next to nothing beside the largest need no digits of their own.
        size_of = np.maximum(np.abs(values[:k]), 0.01 * np.abs(values[0]))
        if (residual <= tolerance * size_of).all():
            return values[:k].astype(np.float64), basis[:, n_known:size] @ mixing[:, :k]
        # Restart from the best vectors so far; some beyond the k wanted speed up the last ones.
        kept = k + (room - n_known - k) // 3
        following = following.copy()
        basis[:, n_known : n_known + kept] = basis[:, n_known:size] @ mixing[:, :kept]
        projected[:] = 0
        size = n_known + kept
        projected[range(n_known, size), range(n_known, size)] = values[:kept]
        basis[:, size : size + BLOCK] = following
        restarts += 1
    return _one_by_one(matrix, k, known)


def _one_by_one(
    matrix: sparse.csr_matrix, k: int, known: Float32[np.ndarray, "n n_known"]
) -> tuple[Float64[np.ndarray, "k"], Float32[np.ndarray, "n k"]]:
    """ARPACK in float64: several times slower, for matrices on which blocks do not converge."""
    known = known.astype(np.float64)
    matrix = matrix.astype(np.float64)
    deflated = LinearOperator(
        matrix.shape,
        matvec=lambda x: matrix @ x - known @ (known.T @ (matrix @ x)),
        dtype=np.float64,
    )
    start = rng_for(0, "leading eigenvectors").normal(size=matrix.shape[0])
    values, vectors = eigsh(deflated, k=k, which="LM", v0=start)
    by_size = np.argsort(-np.abs(values), kind="stable")
    return values[by_size], vectors[:, by_size].astype(np.float32)


def _orthonormal(
    basis: Float32[np.ndarray, "n size"], block: Float32[np.ndarray, "n width"]
) -> tuple[
    Float32[np.ndarray, "n width"],
    Float32[np.ndarray, "width width"],
    Float32[np.ndarray, "size width"],
]:
    """Write ``block = basis @ inside + q @ beyond`` with `q` orthonormal and off the basis."""
    inside = basis.T @ block
    rest = block - basis @ inside
    length = np.linalg.norm(block, axis=0).min()
    try:
        factor = np.linalg.cholesky(rest.T @ rest)
        diagonal = np.diag(factor)
        if diagonal.min() > 0.03 * max(diagonal.max(), length):
            return rest @ np.linalg.inv(factor).T, factor.T, inside
    except np.linalg.LinAlgError:
        pass  # columns all but dependent: the slower way below copes
    q, lengths, turn = np.linalg.svd(rest, full_matrices=False)
    # What is left by rounding has no direction of its own: go on in a random one.
    lost = lengths <= 1e-5 * np.linalg.norm(block)
    lengths[lost] = 0
    q[:, lost] = rng_for(basis.shape[1], "new direction").normal(size=(len(q), int(lost.sum())))
    beyond = lengths[:, None] * turn
    for _ in range(2):
        again = basis.T @ q
        q, correction = np.linalg.qr(q - basis @ again)
        inside = inside + again @ beyond
        beyond = correction @ beyond
    return q, beyond, inside
