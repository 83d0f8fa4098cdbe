"""k nearest rows by blocks of matrix products: exact, or only among the nearest groups of rows.

Every query is also a row of the database, so queries can be searched group by group: a block of
rows of one k-means group against the groups nearest to it, each a matrix product. Inverted-file
indices make the same choice query by query and cannot use matrix products; this is faster by
several times in high dimension and keeps memory at a few blocks per thread.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int32, Int64
from numba import njit

from sclitmus.core.rng import rng_for
from sclitmus.metrics.parallel import on_threads, row_blocks

EXACT_COST = 8e11
"""Largest ``n · rows compared per row · (d + 25)`` of an exact search: about 10 s on two cores.

So much is always exact without a look: 100k x 50, 38k x 512. Larger data are searched exactly
too where a sample shows that enough groups can be skipped (100k x 512 in clusters).
"""

COST_CAP = 5e12
"""Largest ``n · rows visited · (d + 25)`` an approximate search may cost: about a minute."""

RECALL_WANTED = 0.999
ONE_GROUP = 4096  # up to so many rows grouping costs more than it saves
QUERIES = 512  # rows per query block and per piece: one product fits the second-level cache
PIECE = 1024
SPARE = 8  # candidates beyond k, so that rounding in |x|² + |y|² - 2xy cannot lose a neighbour
COARSE = 1e-3  # share of |x|² below which the k-th squared distance needs float64 products
ROUNDING = 1e-5  # relative, of float32 dot products over a few thousand dimensions
SAMPLE = 256  # query cells whose exact neighbours decide how many groups are visited


@njit(nogil=True, cache=True)
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
@njit(nogil=True, cache=True, fastmath={"nnan"})
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


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract"})
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
        order = np.empty(n + 1, np.int64)
        distance = np.empty(n + 1, np.float32)
        # Column 0 is the cell itself even among duplicates, so sorting starts at column 1.
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
        Centred rows in group order, then ``|row|²`` and 1 as the last columns.
    names
        Number each row had before sorting.
    starts
        First row of each group, and the number of rows at the end.
    order
        For each group, all groups from the nearest centre to the farthest.
    centres
        Mean row of each group, roughly.
    reach
        ``reach[a, c]`` is how far group a comes towards centre c: the largest
        ``x·centre_c - x·centre_a`` of its rows.
    radius
        Largest ``|row|`` of each group.
    """

    rows: Float32[np.ndarray, "n_cells d_plus_2"]
    names: Int64[np.ndarray, "n_cells"]
    starts: Int64[np.ndarray, "n_groups_plus_1"]
    order: Int64[np.ndarray, "n_groups n_groups"]
    centres: Float32[np.ndarray, "n_groups d"]
    reach: Float32[np.ndarray, "n_groups n_groups"]
    radius: Float32[np.ndarray, "n_groups"]


def _grouped(
    z: Float32[np.ndarray, "n_cells d"], rng: np.random.Generator, threads: int | None
) -> _Groups:
    n, d = z.shape
    if n <= ONE_GROUP:
        centres = np.zeros((1, d), dtype=np.float32)
        group = np.zeros(n, dtype=np.int64)
    else:
        centres = _centres(z, min(int(np.sqrt(n)), n // QUERIES), rng, threads)
        used, group = np.unique(_nearest_centre(z, centres, threads), return_inverse=True)
        centres = centres[used]
    names = np.argsort(group, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(group))])
    between = np.sum(centres**2, axis=1) - 2 * centres @ centres.T
    np.fill_diagonal(between, -np.inf)  # a group visits itself first
    order = np.argsort(between, axis=1, kind="stable")
    rows = np.empty((n, d + 2), dtype=np.float32)
    rows[:, d + 1] = 1
    for block in row_blocks(n, 65_536):
        rows[block, :d] = z[names[block]]
        rows[block, d] = np.einsum("ij,ij->i", rows[block, :d], rows[block, :d])
    reach = np.empty((len(centres), len(centres)), dtype=np.float32)

    def measure(a: int) -> None:
        reach[a] = -np.inf
        for block in row_blocks(int(starts[a + 1] - starts[a]), 2048):
            towards = rows[starts[a] + block.start : starts[a] + block.stop, :d] @ centres.T
            np.maximum(reach[a], (towards - towards[:, [a]]).max(axis=0), out=reach[a])

    on_threads(measure, range(len(centres)), threads)
    radius = np.sqrt(np.maximum.reduceat(rows[:, d], starts[:-1]))
    return _Groups(rows, names, starts, order, centres, reach, radius)


def _centres(
    z: Float32[np.ndarray, "n_cells d"],
    n_groups: int,
    rng: np.random.Generator,
    threads: int | None,
) -> Float32[np.ndarray, "n_groups d"]:
    """A few rounds of Lloyd's algorithm on a sample; the groups need not be good, only local."""
    sample = z[np.sort(rng.choice(len(z), min(len(z), 40 * n_groups), replace=False))]
    centres = sample[np.sort(rng.choice(len(sample), n_groups, replace=False))].copy()
    for _ in range(5):
        group = _nearest_centre(sample, centres, threads)
        order = np.argsort(group, kind="stable")
        used, first, sizes = np.unique(group[order], return_index=True, return_counts=True)
        centres[used] = np.add.reduceat(sample[order], first, axis=0) / sizes[:, None]
    return centres


def _nearest_centre(
    z: Float32[np.ndarray, "n_cells d"],
    centres: Float32[np.ndarray, "n_groups d"],
    threads: int | None,
) -> Int64[np.ndarray, "n_cells"]:
    half = np.sum(centres**2, axis=1) / 2
    nearest = np.empty(len(z), dtype=np.int64)

    def assign(block: slice) -> None:
        nearest[block] = np.argmin(half - z[block] @ centres.T, axis=1)

    on_threads(assign, row_blocks(len(z), 2048), threads)
    return nearest


def _search(
    groups: _Groups,
    k: int,
    queries: Int64[np.ndarray, "n_queries"],
    visit: Int64[np.ndarray, "n_visited"],
    own: int | None,
    out: tuple[Int32[np.ndarray, "n_cells k"], Float32[np.ndarray, "n_cells k"]],
    dtype: type[np.float32] | type[np.float64] = np.float32,
) -> None:
    """Find the k nearest of `queries` among the groups of `visit`; fills `out` by row name.

    `own` is the group all queries are in, or None where they are in several.
    """
    d = groups.centres.shape[1]
    x: Float[np.ndarray, "n_queries d"] = groups.rows[queries, :d].astype(dtype)
    square = np.einsum("ij,ij->i", x, x)[:, None]
    left = np.hstack([-2 * x, np.ones_like(square), square])  # times (y, |y|², 1): |x - y|²
    keep = k + SPARE
    values = np.empty((len(queries), 3 * keep), dtype=np.float32)
    ids = np.empty(values.shape, dtype=np.int32)
    filled = np.zeros(len(queries), dtype=np.int64)
    worst = np.full(len(queries), np.inf, dtype=np.float32)
    room = np.empty(len(queries) * PIECE, dtype=dtype)
    apart = None if own is None else _apart(groups, queries, own)
    for group in visit.tolist():
        # The margins cover the rounding of both sides.
        if apart is not None and (apart[:, group] > 1.001 * worst + 1e-5 * square[:, 0]).all():
            continue
        end = int(groups.starts[group + 1])
        for start in range(int(groups.starts[group]), end, PIECE):
            piece: Float[np.ndarray, "n_piece d_plus_2"]
            piece = groups.rows[start : min(start + PIECE, end)].astype(dtype, copy=False)
            if dtype is np.float64:
                piece[:, d] = np.einsum("ij,ij->i", piece[:, :d], piece[:, :d])
            products = room[: len(queries) * len(piece)].reshape(len(queries), len(piece))
            np.matmul(left, piece.T, out=products)
            _absorb(
                products.astype(np.float32, copy=False), start, keep, values, ids, filled, worst
            )
    _finish(groups.rows, d, queries, groups.names, values, ids, filled, k, *out)
    if dtype is np.float32:
        # In a tight cluster far from the origin rounding outweighs the distances: once more.
        reached = out[1][groups.names[queries], -1] ** 2
        coarse = (reached > 0) & (reached < COARSE * square[:, 0])
        if coarse.any():
            _search(groups, k, queries[coarse], visit, own, out, np.float64)


def _apart(
    groups: _Groups, queries: Int64[np.ndarray, "n_queries"], own: int
) -> Float32[np.ndarray, "n_queries n_groups"]:
    """Least squared distance of each query to any row of each group; 0 where unknown."""
    d = groups.centres.shape[1]
    x, norm = groups.rows[queries, :d], np.sqrt(groups.rows[queries, d])[:, None]
    towards = x @ groups.centres.T
    towards -= towards[:, [own]].copy()
    # Along the line between two centres, from the row to the group's nearest end; less what
    # rounding may have added to the products of both.
    size = np.linalg.norm(groups.centres, axis=1)
    gap = -groups.reach[:, own] - towards
    gap -= ROUNDING * (size + size[own]) * (norm + groups.radius)
    length = np.linalg.norm(groups.centres - groups.centres[own], axis=1)
    length[own] = np.inf
    apart: Float32[np.ndarray, "n_queries n_groups"] = np.zeros_like(gap)
    np.divide(gap, length, out=apart, where=gap > 0)
    return apart**2


def search(
    z: Float32[np.ndarray, "n_cells d"], k: int, seed: int, threads: int | None = None
) -> tuple[Int32[np.ndarray, "n_cells k"], Float32[np.ndarray, "n_cells k"], bool, float]:
    """Find each row's k nearest rows, itself first; whether exactly, and the recall.

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
    groups = _grouped(z, rng, threads)
    n_groups = len(groups.order)
    out = np.empty((n, k), dtype=np.int32), np.empty((n, k), dtype=np.float32)
    visited = np.cumsum(np.diff(groups.starts)[groups.order], axis=1)
    exact = float(n) * n * (d + 25) <= EXACT_COST or n_groups == 1
    sample = np.sort(rng.choice(n, 0 if exact else min(n, SAMPLE), replace=False))
    on_threads(
        lambda block: _search(groups, k, sample[block], np.arange(n_groups), None, out),
        row_blocks(len(sample), 64),
        threads,
    )
    names = groups.names[sample]
    true = out[1][names, -1:].copy()
    if not exact:
        exact = 2.0 * n * _rows_in_reach(groups, sample, true[:, 0]) * (d + 25) <= EXACT_COST
    budget = n if exact else _rows_to_visit(groups, visited, sample, out[0][names])

    def one_block(group_and_rows: tuple[int, slice]) -> None:
        group, block = group_and_rows
        visit = groups.order[group, : int(np.searchsorted(visited[group], budget)) + 1]
        _search(groups, k, np.arange(block.start, block.stop), visit, group, out)

    size = min(QUERIES, max(64, n // 8))
    tasks = [
        (group, slice(start, min(start + size, int(groups.starts[group + 1]))))
        for group in range(n_groups)
        for start in range(int(groups.starts[group]), int(groups.starts[group + 1]), size)
    ]
    on_threads(one_block, tasks, threads)
    if exact or budget >= n:
        return *out, True, 1.0
    # By distance, not by number: equally near cells are equally right.
    found = out[1][names] <= true * np.float32(1 + 1e-6)
    return *out, False, float(found[:, 1:].mean())


def _rows_in_reach(
    groups: _Groups,
    sample: Int64[np.ndarray, "n_sample"],
    true: Float32[np.ndarray, "n_sample"],
) -> float:
    """Mean number of rows in the groups an exact search cannot skip for a sample row."""
    sizes = np.diff(groups.starts)
    own = np.searchsorted(groups.starts, sample, side="right") - 1
    rows = 0
    for i in range(len(sample)):
        apart = _apart(groups, sample[i : i + 1], int(own[i]))[0]
        rows += int(sizes[apart <= true[i] ** 2].sum())
    return rows / len(sample)


def _rows_to_visit(
    groups: _Groups,
    visited: Int64[np.ndarray, "n_groups n_groups"],
    sample: Int64[np.ndarray, "n_sample"],
    neighbours: Int32[np.ndarray, "n_sample k"],
) -> int:
    """Choose how many rows each group must see to reach the wanted recall on the sample."""
    n, d = len(groups.names), groups.centres.shape[1]
    group_of = np.empty(n, dtype=np.int64)
    group_of[groups.names] = np.repeat(np.arange(len(groups.order)), np.diff(groups.starts))
    own = group_of[groups.names[sample]]
    place = np.argsort(groups.order[own], axis=1)  # of each group in the order of a cell's group
    seen_at = np.take_along_axis(place, group_of[neighbours[:, 1:]], axis=1)
    needed = np.sort(np.take_along_axis(visited[own], seen_at, axis=1), axis=None)
    wanted = int(needed[int(RECALL_WANTED * (len(needed) - 1))])
    return min(wanted, int(COST_CAP / (n * (d + 25.0))))
