"""Blocks of rows on a few threads: numba kernels and BLAS run outside the interpreter's lock.

Python threads rather than OpenMP: two OpenMP runtimes (torch's and numba's or faiss's) in one
process may deadlock after a fork or spin against each other; threads of our own cannot.
"""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

from threadpoolctl import ThreadpoolController

Item = TypeVar("Item")
Result = TypeVar("Result")


def n_threads() -> int:
    """Return how many threads to use: the cores given to us, less where the user said so.

    ``OMP_NUM_THREADS`` and ``NUMBA_NUM_THREADS`` are respected, so that a study running several
    processes at once does not ask for more cores than there are.
    """
    limits = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()]
    limits += [
        int(value)
        for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")
        if (value := os.environ.get(name, "")).isdigit()
    ]
    return max(1, min(limit for limit in limits if limit is not None))


@cache
def _blas() -> ThreadpoolController:
    # Looking through the loaded libraries takes milliseconds; numpy's BLAS does not change.
    return ThreadpoolController()


def on_threads(
    work: Callable[[Item], Result], items: Iterable[Item], threads: int | None = None
) -> list[Result]:
    """Apply `work` to every item, on threads where there are several; order is kept.

    BLAS is held to one thread meanwhile: each of ours calls it, and its own threads cost more
    than they bring on matrices of a few hundred rows. With ``threads=1`` nothing is touched,
    so that work already on a thread may call this.
    """
    items = list(items)
    if threads == 1:
        return [work(item) for item in items]
    threads = min(n_threads() if threads is None else threads, len(items))
    with _blas().limit(limits=1, user_api="blas"):
        if threads <= 1:
            return [work(item) for item in items]
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(work, items))


def row_blocks(n: int, size: int) -> list[slice]:
    """Cut ``range(n)`` into consecutive slices of at most `size` rows."""
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]
