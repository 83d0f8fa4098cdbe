"""Cells of one or many datasets, in a random order, in bounded memory: what pretraining reads.

Blocks of neighbouring cells are drawn at random; the cells of some blocks, a window, are then
shuffled among each other. A disk is read in long runs, and no more than two windows are in memory.
Which cell comes when follows from the seed alone, so that any place of the order can be gone to
without reading what lies before it.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Int64
from scipy import sparse

from sclitmus.core.dataset import Dataset
from sclitmus.errors import MethodError
from sclitmus.models.tokens import Tokens, joined

T = TypeVar("T")
Rows = Int64[np.ndarray, "n_rows"]
# Source number and its counts -> tokens.
Tokenise = Callable[[int, sparse.csr_matrix], Tokens]

ORDER, MASKS, JUDGED, HELD = range(4)  # streams of random numbers beside one another


@dataclass(frozen=True)
class Window:
    """Blocks that are read together, and the order of their cells.

    Attributes
    ----------
    blocks
        Source number and rows of each.
    order
        Of all their cells.
    """

    blocks: tuple[tuple[int, Rows], ...]
    order: Rows

    @property
    def cells(self) -> list[tuple[int, int]]:
        """Source and row of each cell, in their order."""
        every = [(source, int(row)) for source, rows in self.blocks for row in rows]
        return [every[i] for i in self.order]


@dataclass(frozen=True, eq=False)
class Corpus:
    """Datasets, and which of their cells are trained on.

    Attributes
    ----------
    sources
        Without anything but counts and genes.
    train, held
        Ascending rows of each source: those that are trained on, and those that are not.
    block_cells
        Neighbouring cells that are read together.
    window_blocks
        Blocks among whose cells is shuffled.
    """

    sources: tuple[Dataset, ...]
    train: tuple[Rows, ...]
    held: tuple[Rows, ...]
    block_cells: int
    window_blocks: int
    seed: int

    @property
    def n_train(self) -> int:
        return sum(map(len, self.train))

    @property
    def n_held(self) -> int:
        return sum(map(len, self.held))

    def windows(self, number: int, start: int = 0) -> Iterator[Window]:
        """Yield the windows of a pass over the training cells, from its `start`-th cell on."""
        rng = np.random.default_rng([self.seed, ORDER, number])
        places = [
            (source, first)
            for source, rows in enumerate(self.train)
            for first in range(0, len(rows), self.block_cells)
        ]
        shuffled = rng.permutation(len(places)).tolist()
        for at in range(0, len(shuffled), self.window_blocks):
            blocks = tuple(
                (source, self.train[source][first : first + self.block_cells])
                for source, first in (places[i] for i in shuffled[at : at + self.window_blocks])
            )
            order = rng.permutation(sum(len(rows) for _, rows in blocks))
            if start < len(order):
                yield Window(blocks, order[start:])
            start = max(0, start - len(order))

    def batches(self, tokenise: Tokenise, n_cells: int, start: int) -> Iterator[Tokens]:
        """Yield `n_cells` cells at a time, without end: pass after pass over the training cells.

        Parameters
        ----------
        start
            Number of cells that came before.
        """
        number, into = divmod(start, self.n_train)
        passes = (self.windows(n, into if n == number else 0) for n in count(number))
        windows = (self._read(window, tokenise) for windows in passes for window in windows)
        left: Tokens | None = None
        for tokens in ahead(windows):
            have = tokens if left is None else joined([left, tokens])
            whole = have.n_cells // n_cells * n_cells
            for first in range(0, whole, n_cells):
                yield have.take(np.arange(first, first + n_cells))
            left = have.take(np.arange(whole, have.n_cells))

    def _read(self, window: Window, tokenise: Tokenise) -> Tokens:
        parts = [tokenise(source, self._counts(source, rows)) for source, rows in window.blocks]
        return joined(parts).take(window.order)

    def _counts(self, source: int, rows: Rows) -> sparse.csr_matrix:
        return self.sources[source].take(rows).counts

    def blocks(self, which: str, n: int | None = None) -> Iterator[tuple[int, sparse.csr_matrix]]:
        """Yield source and counts of the cells in ``"train"`` or ``"held"``, as they lie."""
        chosen: tuple[Rows, ...] = getattr(self, which)
        size = n or self.block_cells
        for source, rows in enumerate(chosen):
            for first in range(0, len(rows), size):
                yield source, self._counts(source, rows[first : first + size])


def divided(
    sources: Sequence[Dataset],
    share: float,
    by: str,
    seed: int,
    block_cells: int,
    window_blocks: int,
    most_held: int | None = None,
) -> Corpus:
    """Hold out cells of a corpus.

    Parameters
    ----------
    share
        Of the cells to hold out.
    by
        ``"cell"``: at random. ``"file"``: whole sources. Else a role of every source: all cells
        with some of its names, over all sources.
    most_held
        Of these, at random, so many are kept for validation; the rest is not used at all.

    Raises
    ------
    MethodError
        If there are too few cells or units to hold some out and train on others.
    """
    rng = np.random.default_rng([seed, HELD])
    sizes = [source.n_cells for source in sources]
    starts = np.cumsum([0, *sizes])
    n = int(starts[-1])
    if by == "cell":
        n_held = max(1, round(share * n))
        held = rng.permutation(n)[:n_held]
    else:
        held = np.flatnonzero(_held_units(_units(sources, by), share, by, rng))
    judged = held
    if most_held is not None and len(held) > most_held:
        judged = rng.permutation(held)[:most_held]
    trained = np.setdiff1d(np.arange(n), held)
    if not len(trained):
        raise MethodError(f"{n} cells, all held out", "cells to train on", "give more cells")

    def apart(cells: Rows) -> tuple[Rows, ...]:
        cells = np.sort(cells)
        edges = np.searchsorted(cells, starts)
        return tuple(
            cells[a:b] - start for a, b, start in zip(edges, edges[1:], starts, strict=False)
        )

    # Only the counts are read; taking rows of the rest would cost more than they do.
    bare = tuple(replace(source, roles={}, embeddings={}) for source in sources)
    return Corpus(bare, apart(trained), apart(judged), block_cells, window_blocks, seed)


def _units(sources: Sequence[Dataset], by: str) -> np.ndarray:
    """Number of the unit of each cell of all sources."""
    if by == "file":
        return np.repeat(np.arange(len(sources)), [source.n_cells for source in sources])
    names: dict[str, int] = {}
    units = []
    for source in sources:
        column = source.role(by)
        own = [names.setdefault(name, len(names)) for name in column.names]
        if (column.codes < 0).any():
            raise MethodError(
                f"{source.id} has cells without a value of {source.columns.get(by, by)}",
                "one for every cell",
                "complete the column, or hold out by cell",
            )
        units.append(np.array(own)[column.codes])
    return np.concatenate(units)


def _held_units(units: np.ndarray, share: float, by: str, rng: np.random.Generator) -> np.ndarray:
    sizes = np.bincount(units)
    if len(sizes) < 2:
        raise MethodError(
            f"a single {by} in all",
            "at least two: one to train on and one to hold out",
            "give more data, or hold out by cell",
        )
    chosen: list[int] = []
    n_held = 0
    for unit in rng.permutation(len(sizes)).tolist():
        if n_held >= share * len(units) or len(chosen) == len(sizes) - 1:
            break
        chosen.append(unit)
        n_held += int(sizes[unit])
    return np.isin(units, chosen)


def ahead(items: Iterator[T]) -> Iterator[T]:
    """Make the next item in a thread while the caller uses this one."""
    end: Any = object()
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, items, end)
            yield item


class Waited:
    """An iterator that adds up how long it was waited for, in seconds."""

    def __init__(self, items: Iterator[Any]) -> None:
        self._items = items
        self.seconds = 0.0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        began = time.monotonic()
        try:
            return next(self._items)
        finally:
            self.seconds += time.monotonic() - began
