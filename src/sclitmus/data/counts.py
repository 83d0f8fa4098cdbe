"""Are these raw counts? Every stored value is looked at, in bounded memory."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import sparse

from sclitmus.data.matrix import Matrix, matrix_of

CountsKind = Literal[
    "counts", "log_normalised", "normalised", "fractional", "scaled", "nan", "infinite",
    "too_large", "not_numeric",
]  # fmt: skip

# float32 holds every whole number up to here; one above, counts would silently change.
LARGEST_COUNT = 2**24
# log1p of a hundred million counts per cell: no log-normalised value is larger.
LARGEST_LOG = 18.5

WORDS: dict[CountsKind, str] = {
    "counts": "raw counts",
    "log_normalised": "log-normalised values",
    "normalised": "normalised values",
    "fractional": "fractional counts",
    "scaled": "negative values, as scaled or centred data have",
    "nan": "missing values",
    "infinite": "infinite values",
    "too_large": f"counts above {LARGEST_COUNT:,}, which float32 cannot hold exactly",
    "not_numeric": "values that are no real numbers",
}


@dataclass(frozen=True)
class Finding:
    """What a matrix holds, with the value that shows it.

    Attributes
    ----------
    kind
        ``counts`` only if every stored value is finite, whole, not negative and not too large.
    value, row, column
        The first value that speaks against counts, and where it stands; None for counts.
    largest
        Largest value seen.
    nnz
        Number of values seen that are not zero.
    """

    kind: CountsKind
    value: float | None = None
    row: int = -1
    column: int = -1
    largest: float = 0.0
    nnz: int = 0


def classify(matrix: Matrix | npt.NDArray[Any] | sparse.spmatrix) -> Finding:
    """Say what a matrix holds, from all its stored values.

    Values are certified as counts only after all have been seen. The search stops at the end of
    the first block (4 million values) in which one speaks against counts; what the values are
    instead is told from that block, in this order: NaN, infinite, negative (scaled), fractional.
    Values with a fraction are ``fractional`` counts where most values are whole (expected counts
    of RSEM or kallisto), else ``log_normalised`` up to 18.5 and ``normalised`` above.
    """
    if not isinstance(matrix, Matrix):
        matrix = matrix_of(matrix)
    if matrix.dtype.kind not in "buif":
        return Finding("not_numeric")
    start, largest, nnz = 0, 0.0, 0
    for block in matrix.values():
        kind, worst = _judge(block)
        if len(block):
            largest = max(largest, float(block.max()))
        if kind != "counts":
            row, column = matrix.place(start + worst)
            return Finding(kind, float(block[worst]), row, column, largest)
        start += len(block)
        nnz += int(np.count_nonzero(block))
    return Finding("counts", largest=largest, nnz=nnz)


def _judge(block: npt.NDArray[Any]) -> tuple[CountsKind, int]:
    """Kind of a block of values, and the position of the first value that shows it."""
    if block.dtype == np.float16:
        block = block.astype(np.float32)  # the limits below are beyond float16
    if block.dtype.kind in "bu" or (block.dtype.kind == "i" and not (block < 0).any()):
        return _first("too_large", block > LARGEST_COUNT) or ("counts", 0)
    if block.dtype.kind == "f":
        bad = _first("nan", np.isnan(block)) or _first("infinite", np.isinf(block))
        if bad:
            return bad
    negative = _first("scaled", block < 0)
    if negative:
        return negative
    broken = block != np.rint(block)
    if not broken.any():
        return _first("too_large", block > LARGEST_COUNT) or ("counts", 0)
    position = int(np.argmax(broken))
    if np.count_nonzero(broken) * 2 < np.count_nonzero(block):
        return "fractional", position
    return ("log_normalised" if block.max() <= LARGEST_LOG else "normalised"), position


def _first(kind: CountsKind, where: npt.NDArray[np.bool_]) -> tuple[CountsKind, int] | None:
    return (kind, int(np.argmax(where))) if where.any() else None
