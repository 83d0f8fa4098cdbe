"""k nearest rows by blocks of matrix products: exact, or only among the nearest groups of rows.

Every query is also a row of the database, so queries can be searched group by group: a block of
rows of one k-means group against the groups nearest to it, each a matrix product. Inverted-file
indices make the same choice query by query and cannot use matrix products; this is faster by
several times in high dimension and keeps memory at a few blocks per thread.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int32, Int64
from numba import njit

from sclitmus.core.rng import rng_for
from sclitmus.metrics.parallel import on_threads, row_blocks

EXACT_COST = 8e11
"""Largest ``n² (d + 25)`` searched exactly: about 10 s on two cores (100k x 50, 38k x 512)."""

COST_CAP = 5e12
"""Largest ``n · rows visited · (d + 25)`` an approximate search may cost: about a minute."""

RECALL_WANTED = 0.999
ONE_GROUP = 4096  # up to so many rows grouping costs more than it saves
QUERIES = 512  # rows per query block and per piece: one product fits the second-level cache
PIECE = 1024
SPARE = 8  # candidates beyond k, so that rounding in |x|² + |y|² - 2xy cannot lose a neighbour
SAMPLE = 256  # query cells whose exact neighbours decide how many groups are visited


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _smallest_first(values, ids, n, k):  # type: ignore[no-untyped-def]
    """Reorder the first `n` so that the `k` smallest stand in front (Hoare's quickselect)."""
    low, high = 0, n - 1
    while low < high:
        a, b, c = values[low], values[(low + high) >> 1], values[high]
        pivot = max(min(a, b), min(max(a, b), c))
        i, j = low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                ids[i], ids[j] = ids[j], ids[i]
                i += 1
                j -= 1
        if k - 1 <= j:
            high = j
        elif k - 1 >= i:
            low = i
        else:
            return


# nnan lets LLVM turn the minimum over 16 into vector instructions; inputs are finite.
@njit(nogil=True, cache=True, fastmath={"nnan"})  # type: ignore[untyped-decorator]
def _absorb(products, first, k, values, ids, filled, worst):  # type: ignore[no-untyped-def]
    """Add to each row's candidates the entries of a block below its k-th best so far."""
    n_rows, n_columns = products.shape
    room = values.shape[1]
    for r in range(n_rows):
        bound = worst[r]
        n = filled[r]
        row = products[r]
        start = 0
        while start < n_columns:
            stop = min(start + 16, n_columns)
            if stop - start == 16:
                least = row[start]
                for q in range(16):
                    least = min(least, row[start + q])
                if least >= bound:
                    start = stop
                    continue
            for column in range(start, stop):
                if row[column] < bound:
                    values[r, n] = row[column]
                    ids[r, n] = first + column
                    n += 1
                    if n == room:
                        _smallest_first(values[r], ids[r], n, k)
                        n = k
                        bound = values[r, 0]
                        for j in range(1, k):
                            bound = max(bound, values[r, j])
            start = stop
        worst[r] = bound
        filled[r] = n


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})  # type: ignore[untyped-decorator]
def _finish(rows, d, self_ids, names, values, ids, filled, k, out_ids, out_distances):  # type: ignore[no-untyped-def]
    """Sort each row's candidates by distances taken from differences, itself first.

    Differences do not suffer the cancellation of ``|x|² + |y|² - 2xy``: duplicates are at
    distance exactly 0. Ties are broken by the row's number, so that neither grouping nor
    threads show in the result.
    """
    for r in range(len(self_ids)):
        me = self_ids[r]
        n = filled[r]
        if n > k + SPARE:
            _smallest_first(values[r], ids[r], n, k + SPARE)
            n = k + SPARE
        count = 1
        # Column 0 is the cell itself even among duplicates, so sorting starts at column 1.
        kept_distance = values[r]
        for j in range(n):
            kept_distance[j] = 0.0
        order = np.empty(n + 1, np.int64)
        distance = np.empty(n + 1, np.float32)
        order[0] = names[me]
        distance[0] = 0.0
        for j in range(n):
            other = ids[r, j]
            if other == me:
                continue
            total = np.float32(0.0)
            for t in range(d):
                difference = rows[me, t] - rows[other, t]
                total += difference * difference
            name = names[other]
            at = count
            while at > 1 and (
                distance[at - 1] > total or (distance[at - 1] == total and order[at - 1] > name)
            ):
                distance[at] = distance[at - 1]
                order[at] = order[at - 1]
                at -= 1
            distance[at] = total
            order[at] = name
            count += 1
        mine = names[me]
        for j in range(k):
            out_ids[mine, j] = order[j]
            out_distances[mine, j] = np.sqrt(distance[j])


@dataclass(frozen=True)
class _Groups:
    """Rows in k-means groups, sorted by group.

    Attributes
    ----------
    rows
        Centred rows in group order, with ``|row|²`` as the last column.
    names
        Number each row had before sorting.
    starts
        First row of each group, and the number of rows at the end.
    order
        For each group, all groups from the nearest centre to the farthest.
    """

    rows: Float32[np.ndarray, "n_cells d_plus_1"]
    names: Int64[np.ndarray, "n_cells"]
    starts: Int64[np.ndarray, "n_groups_plus_1"]
    order: Int64[np.ndarray, "n_groups n_groups"]

    @property
    def visited(self) -> Int64[np.ndarray, "n_groups n_groups"]:
        """Rows seen when a group has visited the groups of its order up to each place."""
        visited: Int64[np.ndarray, "n_groups n_groups"] = np.cumsum(
            np.diff(self.starts)[self.order], axis=1
        )
        return visited


def _grouped(z: Float32[np.ndarray, "n_cells d"], rng: np.random.Generator) -> _Groups:
    n, d = z.shape
    if n <= ONE_GROUP:
        names = np.arange(n)
        starts, order = np.array([0, n]), np.zeros((1, 1), dtype=np.int64)
    else:
        centres = _centres(z, int(np.sqrt(n)), rng)
        group = _nearest_centre(z, centres)
        used, group = np.unique(group, return_inverse=True)
        centres = centres[used]
        names = np.argsort(group, kind="stable")
        starts = np.concatenate([[0], np.cumsum(np.bincount(group))])
        between = np.sum(centres**2, axis=1) - 2 * centres @ centres.T
        np.fill_diagonal(between, -np.inf)  # a group visits itself first
        order = np.argsort(between, axis=1, kind="stable")
    rows = np.empty((n, d + 1), dtype=np.float32)
    for block in row_blocks(n, 65_536):
        rows[block, :d] = z[names[block]]
        rows[block, d] = np.einsum("ij,ij->i", rows[block, :d], rows[block, :d])
    return _Groups(rows, names, starts, order)


def _centres(
    z: Float32[np.ndarray, "n_cells d"], n_groups: int, rng: np.random.Generator
) -> Float32[np.ndarray, "n_groups d"]:
    """A few rounds of Lloyd's algorithm on a sample; the groups need not be good, only local."""
    sample = z[np.sort(rng.choice(len(z), min(len(z), 40 * n_groups), replace=False))]
    centres = sample[np.sort(rng.choice(len(sample), n_groups, replace=False))].copy()
    for _ in range(5):
        group = _nearest_centre(sample, centres)
        order = np.argsort(group, kind="stable")
        used, first, sizes = np.unique(group[order], return_index=True, return_counts=True)
        centres[used] = np.add.reduceat(sample[order], first, axis=0) / sizes[:, None]
    return centres


def _nearest_centre(
    z: Float32[np.ndarray, "n_cells d"], centres: Float32[np.ndarray, "n_groups d"]
) -> Int64[np.ndarray, "n_cells"]:
    half = np.sum(centres**2, axis=1) / 2
    nearest = np.empty(len(z), dtype=np.int64)

    def assign(block: slice) -> None:
        nearest[block] = np.argmin(half - z[block] @ centres.T, axis=1)

    on_threads(assign, row_blocks(len(z), 2048))
    return nearest


def _search(
    groups: _Groups,
    k: int,
    queries: Int64[np.ndarray, "n_queries"],
    pieces: list[slice],
    out: tuple[Int32[np.ndarray, "n_cells k"], Float32[np.ndarray, "n_cells k"]],
) -> None:
    """Find the k nearest of `queries` among the rows of `pieces`; fills `out` by row name."""
    rows, d = groups.rows, groups.rows.shape[1] - 1
    left = np.empty((len(queries), d + 1), dtype=np.float32)
    np.multiply(rows[queries, :d], -2, out=left[:, :d])
    left[:, d] = 1  # (-2x, 1)·(y, |y|²) = |y|² - 2xy: the squared distance less |x|²
    keep = k + SPARE
    values = np.empty((len(queries), 3 * keep), dtype=np.float32)
    ids = np.empty(values.shape, dtype=np.int32)
    filled = np.zeros(len(queries), dtype=np.int64)
    worst = np.full(len(queries), np.inf, dtype=np.float32)
    room = np.empty(len(queries) * PIECE, dtype=np.float32)
    for piece in pieces:
        width = piece.stop - piece.start
        products = room[: len(queries) * width].reshape(len(queries), width)
        np.matmul(left, rows[piece].T, out=products)
        _absorb(products, piece.start, keep, values, ids, filled, worst)
    _finish(rows, d, queries, groups.names, values, ids, filled, k, *out)


def _pieces(groups: _Groups, visit: Int64[np.ndarray, "n_visited"]) -> list[slice]:
    return [
        slice(start, min(start + PIECE, groups.starts[g + 1]))
        for g in visit.tolist()
        for start in range(groups.starts[g], groups.starts[g + 1], PIECE)
    ]


def search(
    z: Float32[np.ndarray, "n_cells d"], k: int, seed: int, threads: int | None = None
) -> tuple[Int32[np.ndarray, "n_cells k"], Float32[np.ndarray, "n_cells k"], float]:
    """Find each row's k nearest rows, itself first, and the recall (1 where exact).

    Parameters
    ----------
    z
        Finite, centred rows of moderate size (the squares must not overflow); ``k <= n_cells``.
    k
        Neighbours per row, the row itself among them.
    seed
        Of the grouping and of the cells whose exact neighbours are compared.
    threads
        How many to use; all there are where None.
    """
    n, d = z.shape
    rng = rng_for(seed, "nearest neighbours")
    groups = _grouped(z, rng)
    ids = np.empty((n, k), dtype=np.int32)
    distances = np.empty((n, k), dtype=np.float32)
    exact = float(n) * n * (d + 25) <= EXACT_COST or len(groups.order) == 1
    budget = n
    sample = np.zeros(0, dtype=np.int64)
    if not exact:
        sample = np.sort(rng.choice(n, min(n, SAMPLE), replace=False))
        everything = _pieces(groups, np.arange(len(groups.order)))
        for block in row_blocks(len(sample), 64):
            _search(groups, k, sample[block], everything, (ids, distances))
        budget = _rows_to_visit(groups, sample, ids[groups.names[sample]], d)
    true = distances[groups.names[sample], -1:].copy()

    def one_group(task: tuple[int, slice]) -> None:
        group, block = task
        visit = groups.order[group, : np.searchsorted(visited[group], budget) + 1]
        _search(
            groups, k, np.arange(block.start, block.stop), _pieces(groups, visit), (ids, distances)
        )

    visited = groups.visited
    size = min(QUERIES, max(64, n // 8))
    tasks = [
        (group, slice(start, min(start + size, int(groups.starts[group + 1]))))
        for group in range(len(groups.order))
        for start in range(int(groups.starts[group]), int(groups.starts[group + 1]), size)
    ]
    on_threads(one_group, tasks, threads)
    if exact or budget >= n:
        return ids, distances, 1.0
    found = distances[groups.names[sample]] <= true * np.float32(1 + 1e-6)
    return ids, distances, float(found[:, 1:].mean())


def _rows_to_visit(
    groups: _Groups,
    sample: Int64[np.ndarray, "n_sample"],
    neighbours: Int32[np.ndarray, "n_sample k"],
    d: int,
) -> int:
    """Choose how many rows each group must see to reach the wanted recall on the sample."""
    n = len(groups.names)
    group_of = np.empty(n, dtype=np.int64)
    group_of[groups.names] = np.repeat(np.arange(len(groups.order)), np.diff(groups.starts))
    own = group_of[groups.names[sample]]
    place = np.argsort(groups.order[own], axis=1)  # place of each group in the order of mine
    needed = np.take_along_axis(
        groups.visited[own], np.take_along_axis(place, group_of[neighbours], axis=1), axis=1
    )
    wanted: Float64[np.ndarray, ""] = np.quantile(needed[:, 1:], RECALL_WANTED)
    return int(min(wanted, COST_CAP / (n * (d + 25.0))))
