"""Sums of Euclidean distances from every cell to every label, and to every batch of its label.

Silhouettes need nothing else from the n × n distances, so these are made tile by tile and
forgotten: the products by BLAS, their roots and sums by a compiled loop while the tile is still
in cache. A tile serves its rows and, mirrored, its columns: each pair of cells is visited once.

Working memory is one tile per thread beside the float32 copy of the data and the sums.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from queue import SimpleQueue

import numpy as np
from jaxtyping import Float32, Float64, Int64, Real
from numba import njit

from sclitmus.errors import MethodError
from sclitmus.metrics.parallel import n_threads, on_threads, row_blocks

_TILE = 1024  # rows and columns of a tile: 4 MB, measured fastest of 256, 512, 1024
_MIN_PANELS = 16  # enough tiles per round to keep the cores of a small machine busy
_CENTRE_SAMPLE = 1024  # cells whose median is the origin; any point near the data would do
# |x|² + |y|² − 2x·y in float32 loses digits where it comes out small beside |x|² + |y|². Below
# this share the pair is computed again from the differences, which lose none.
_CANCELLED = 0.05


@dataclass(frozen=True)
class DistanceSums:
    """Sums over the cells in sorted order (by label, then by batch).

    Attributes
    ----------
    order
        Row of the input that stands at each place.
    to_label
        Sum of the distances to the cells of each label.
    to_batch
        Sum of the distances to the cells of the own label in each batch.
    """

    order: Int64[np.ndarray, "n_cells"]
    to_label: Float64[np.ndarray, "n_cells n_labels"]
    to_batch: Float64[np.ndarray, "n_cells n_batches"]


def distance_sums(
    z: Real[np.ndarray, "n_cells d"],
    label: Int64[np.ndarray, "n_cells"],
    batch: Int64[np.ndarray, "n_cells"],
) -> DistanceSums:
    """Sum the distances, in units of the largest coordinate (silhouettes have no unit).

    Parameters
    ----------
    z
        The embedding; finite.
    label, batch
        Codes 0, 1, … with none left out.

    Returns
    -------
    DistanceSums
        The same to the last bit whatever the number of threads.

    Raises
    ------
    MethodError
        If `z` is not finite.
    """
    n_cells = len(z)
    order = np.lexsort((batch, label))
    x = _centred(z, order)
    squares = np.einsum("ij,ij->i", x, x, dtype=np.float64).astype(np.float32)
    sorted_label, sorted_batch = label[order], batch[order]
    # Runs of cells of one label and batch, as the place each begins, and the end.
    first = np.r_[True, (np.diff(sorted_label) != 0) | (np.diff(sorted_batch) != 0)]
    begins = np.r_[np.flatnonzero(first), n_cells]
    run_label, run_batch = sorted_label[first], sorted_batch[first]
    to_label = np.zeros((n_cells, int(label.max()) + 1))
    to_batch = np.zeros((n_cells, int(batch.max()) + 1))

    n_panels = max(-(-n_cells // _TILE), min(_MIN_PANELS, n_cells))
    edges = np.linspace(0, n_cells, n_panels + 1).astype(np.int64)
    first_run = np.searchsorted(begins, edges, side="right") - 1
    side = int(np.diff(edges).max())

    spare: SimpleQueue[np.ndarray] = SimpleQueue()
    for _ in range(n_threads()):
        spare.put(np.empty(side * side, dtype=np.float32))

    def add_tile(panels: tuple[int, int]) -> None:
        i, j = panels
        rows, columns = slice(edges[i], edges[i + 1]), slice(edges[j], edges[j + 1])
        shape = (int(edges[i + 1] - edges[i]), int(edges[j + 1] - edges[j]))
        buffer = spare.get()
        try:
            products = buffer[: shape[0] * shape[1]].reshape(shape)
            np.matmul(x[rows], x[columns].T, out=products)
            _add_tile(
                products, x, squares, edges[i], edges[j], first_run[i], first_run[j],
                begins, run_label, run_batch, to_label, to_batch,
            )  # fmt: skip
        finally:
            spare.put(buffer)  # else the next tile would wait for it for ever

    for tiles in _rounds(n_panels):
        on_threads(add_tile, tiles)
    return DistanceSums(order, to_label, to_batch)


def _rounds(n_panels: int) -> Iterator[list[tuple[int, int]]]:
    """Pair every panel with every panel, itself included, as in a round-robin tournament.

    Within a round no panel occurs in two tiles, so that threads never add to the same rows, and
    the rounds come in a fixed order, so that every sum is added up in the same order.
    """
    for turn in range(n_panels):
        pairs = ((i, (turn - i) % n_panels) for i in range(n_panels))
        yield [(i, j) for i, j in pairs if i <= j]


def _centred(
    z: Real[np.ndarray, "n_cells d"], order: Int64[np.ndarray, "n_cells"]
) -> Float32[np.ndarray, "n_cells d"]:
    """Sort the cells, move the origin into their middle, and scale to coordinates within ±1.

    The median, not the mean: one cell far away must not move the origin off all the others.
    """
    step = max(1, len(z) // _CENTRE_SAMPLE)
    centre = np.median(z[::step].astype(np.float64), axis=0)
    reach = float(np.maximum(z.max(axis=0) - centre, centre - z.min(axis=0)).max())
    if not np.isfinite(reach):
        bad = int((~np.isfinite(z).all(axis=1)).sum())
        raise MethodError(
            seen=f"an embedding with NaN or infinite values in {bad} of {len(z)} cells",
            needed="finite values, for a distance to exist",
            remedy="repair the method, or leave these cells out before embedding",
        )
    x = np.empty(z.shape, dtype=np.float32)
    for places in row_blocks(len(z), 4096):  # in float64, so that nothing is lost on the way
        x[places] = (z[order[places]] - centre) / (reach or 1.0)
    return x


# reassoc lets a sum be split over vector lanes; NaN keeps its meaning. The parts are inlined by
# force: else a fresh process and one that loads the cache may link differently optimised copies
# of them, whose sums differ in the last float32 bit.
_FAST = {"reassoc", "contract", "nsz"}
_inlined = njit(nogil=True, forceinline=True, fastmath=_FAST)
_compiled = njit(nogil=True, cache=True, fastmath=_FAST)


@_inlined
def _to_squares(row, square, squares):  # type: ignore[no-untyped-def]
    """Turn products into squared distances in place; count those that lost digits."""
    two, zero = np.float32(2), np.float32(0)
    share = np.float32(_CANCELLED)
    one, none, cancelled = np.int32(1), np.int32(0), np.int32(0)
    for q in range(row.size):
        both = square + squares[q]
        value = both - two * row[q]
        cancelled += one if value < share * both else none
        row[q] = value if value > zero else zero
    return cancelled


@_inlined
def _from_differences(row, x_row, x, square, squares):  # type: ignore[no-untyped-def]
    """Compute again the squared distances that lost digits; exactly 0 between equal cells."""
    share = np.float32(_CANCELLED)
    for q in range(row.size):
        if row[q] < share * (square + squares[q]):
            total = np.float32(0)
            for k in range(x_row.size):
                difference = x_row[k] - x[q, k]
                total += difference * difference
            row[q] = total


@_inlined
def _add_roots(row, down):  # type: ignore[no-untyped-def]
    """Add the distances to the columns' sums; return the sum of the row."""
    total = np.float32(0)
    for q in range(row.size):
        distance = np.sqrt(row[q])
        total += distance
        down[q] += distance
    return total


@_compiled
def _add_tile(  # type: ignore[no-untyped-def]
    tile, x, squares, top, left, first_row_run, first_column_run,
    begins, run_label, run_batch, to_label, to_batch,
):  # fmt: skip
    """Add one tile's distances to the sums of its rows and, off the diagonal, of its columns."""
    n_rows, n_columns = tile.shape
    bottom, right = top + n_rows, left + n_columns
    x_columns, squares_columns = x[left:right], squares[left:right]
    down = np.empty(n_columns, dtype=np.float32)
    run, begin = first_row_run, top
    while begin < bottom:
        end = min(begins[run + 1], bottom)
        down[:] = 0
        for r in range(begin, end):
            row = tile[r - top]
            if _to_squares(row, squares[r], squares_columns) > 0:
                _from_differences(row, x[r], x_columns, squares[r], squares_columns)
            other, start = first_column_run, left
            while start < right:
                stop = min(begins[other + 1], right)
                total = _add_roots(
                    row[start - left : stop - left], down[start - left : stop - left]
                )
                to_label[r, run_label[other]] += total
                if run_label[other] == run_label[run]:
                    to_batch[r, run_batch[other]] += total
                other, start = other + 1, stop
        if top != left:
            other, start = first_column_run, left
            while start < right:
                stop = min(begins[other + 1], right)
                for c in range(start, stop):
                    to_label[c, run_label[run]] += down[c - left]
                    if run_label[other] == run_label[run]:
                        to_batch[c, run_batch[run]] += down[c - left]
                other, start = other + 1, stop
        run, begin = run + 1, end
