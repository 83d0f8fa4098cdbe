"""Cells through a network: in blocks, longest first, as many at a time as the device holds.

Memory is bounded by a block of cells and a batch of tokens, whatever the size of the data. The
next block is tokenised while the network works on this one. What a finished block gave can be kept
on disk until the call returns, so that an interrupted run goes on where it stopped.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int32, Int64
from scipy import sparse
from torch import Tensor

from sclitmus.core.activity import say
from sclitmus.core.dataset import Dataset
from sclitmus.errors import MethodError
from sclitmus.models.gene_space import Matched
from sclitmus.models.port import Port
from sclitmus.models.tokens import Batch, Tokens, joined, on_device
from sclitmus.models.unfinished import Unfinished, set_stream, stream_state

log = logging.getLogger(__name__)

BLOCK_CELLS = 2048
PART_CELLS = 256  # fewer are not worth a thread
# Tokens per pass. On a CPU more only adds memory; on a GPU it is where the matrix units are full.
CPU_TOKENS = 8_192
GPU_TOKENS = 131_072
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Compute:
    """Where and how a network runs; see `FrozenModel` for the settings."""

    device: str = "auto"
    precision: str = "auto"
    batch_tokens: int | None = None
    rng: np.random.Generator | None = None

    @property
    def place(self) -> torch.device:
        """The device.

        Raises
        ------
        MethodError
            If there is none of that name.
        """
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            place = torch.device(self.device)
            torch.empty(1, device=place)
        except (RuntimeError, AssertionError) as error:
            raise MethodError(
                f"device {self.device!r} cannot be used: {str(error).splitlines()[0]}",
                "auto, cpu, cuda or cuda:N of this machine",
                "leave --device out to use what there is",
            ) from error
        return place

    @property
    def dtype(self) -> torch.dtype:
        """The number format of the matrix products.

        Raises
        ------
        MethodError
            If it has no such name.
        """
        if self.precision == "auto":
            return torch.bfloat16 if self.place.type == "cuda" else torch.float32
        if self.precision not in DTYPES:
            raise MethodError(
                f"precision {self.precision!r}", f"auto, {', '.join(DTYPES)}", "choose one of them"
            )
        return DTYPES[self.precision]


def embed_cells(
    port: Port,
    cells: Dataset,
    matched: Matched,
    compute: Compute,
    unfinished: Unfinished | None = None,
) -> Float32[np.ndarray, "n_cells d"]:
    """Return the embedding of every cell, in their order.

    Parameters
    ----------
    unfinished
        Where finished blocks are kept until all are done; None keeps none.

    Raises
    ------
    MethodError
        If a single cell does not fit into the device's memory.
    """
    out: np.ndarray | None = None
    passes = Passes(port, compute)
    done = 0
    for block in _blocks(port, cells, matched, compute, unfinished):
        if block.z is not None:
            z = block.z
        else:
            z = passes.over(block.tokens, port.cells)
            if unfinished is not None:
                unfinished.keep(block.number, z, block.state)
        if out is None:
            out = np.empty((cells.n_cells, z.shape[1]), dtype=np.float32)
        out[block.rows] = z
        done += len(block.rows)
        say("embedding", done, cells.n_cells)
    assert out is not None  # a dataset has at least one cell
    if unfinished is not None:
        unfinished.drop()
    return out


def average_gene_states(
    port: Port, cells: Dataset, matched: Matched, compute: Compute
) -> Float32[np.ndarray, "n_rows d"]:
    """Return the mean contextual vector of each of the model's genes over the cells that have it.

    A gene that no cell expresses, or that the dataset lacks, is a row of NaN.
    """
    n_genes = len(port.space.names)
    sums: np.ndarray | None = None
    seen = np.zeros(n_genes, dtype=np.int64)
    passes = Passes(port, compute)
    done = 0
    for block in _blocks(port, cells, matched, compute, None):
        for part, states in passes.each(block.tokens, port.gene_states):
            if sums is None:
                sums = np.zeros((n_genes, states.shape[1]))
            gene = part.columns["gene"]
            real = gene >= 0
            np.add.at(sums, gene[real], states[real])
            seen += np.bincount(gene[real], minlength=n_genes)
        done += len(block.rows)
        say("embedding genes", done, cells.n_cells)
    assert sums is not None
    with np.errstate(invalid="ignore"):
        means: np.ndarray = (sums / seen[:, None]).astype(np.float32)
    return means


class Passes:
    """Passes of a network over cells; remembers how many tokens the device takes at once."""

    def __init__(self, port: Port, compute: Compute) -> None:
        self.port = port
        self.device = compute.place
        self.dtype = compute.dtype
        gpu = self.device.type == "cuda"
        own = getattr(port, "cpu_tokens", CPU_TOKENS)  # of networks that cost little per token
        self.budget = compute.batch_tokens or (GPU_TOKENS if gpu else own)
        port.network.to(self.device).eval()

    def over(
        self, tokens: Tokens, forward: Callable[[Batch], Tensor]
    ) -> Float32[np.ndarray, "n_cells d"]:
        """Return what `forward` gives for each cell."""
        out: np.ndarray | None = None
        for rows, _, z in self._passes(tokens, forward):
            if out is None:
                out = np.empty((tokens.n_cells, z.shape[1]), dtype=np.float32)
            out[rows] = z
        assert out is not None
        return out

    def each(
        self, tokens: Tokens, forward: Callable[[Batch], Tensor]
    ) -> Iterator[tuple[Tokens, Float32[np.ndarray, "n_tokens d"]]]:
        """Yield the cells of each pass with what `forward` gives for each of their tokens."""
        for _, part, states in self._passes(tokens, forward):
            yield part, states

    def _passes(
        self, tokens: Tokens, forward: Callable[[Batch], Tensor]
    ) -> Iterator[tuple[Int64[np.ndarray, "n_rows"], Tokens, np.ndarray]]:
        """Fill pass after pass with as many cells as the budget allows, the longest first.

        Cells of like length then go together, and what does not fit shows at once. Where memory
        runs out, the budget becomes half of what did not fit, for good.
        """
        together = self.port.together  # cells that influence each other: as the original has them
        order = np.arange(tokens.n_cells)
        if together is None:
            order = np.argsort(-tokens.lengths, kind="stable")
        lengths = tokens.lengths[order]
        start = 0
        while start < len(order):
            n = together or max(1, self.budget // max(int(lengths[start]), 1))
            rows = order[start : start + n]
            part = tokens.take(rows)
            z = self._or_none(part, forward)
            if z is not None:
                yield rows, part, z
                start += len(rows)
            else:
                self._shrink(part, splittable=together is None)

    def _or_none(self, part: Tokens, forward: Callable[[Batch], Tensor]) -> np.ndarray | None:
        """Run `forward`, or return None where memory runs out."""
        try:
            return self._forward(part, forward)
        except (MemoryError, RuntimeError) as error:  # torch.cuda.OutOfMemoryError is one
            if not _out_of_memory(error):
                raise
            return None

    def _shrink(self, part: Tokens, splittable: bool) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        size = int(part.offsets[-1])
        if part.n_cells == 1 or not splittable:
            n = part.n_cells
            what = f"{n} cells that belong together" if n > 1 else "a single cell"
            raise MethodError(
                f"{what} with {size} tokens in all do not fit into the memory of {self.device}",
                "a device with more memory",
                "give another --device, or a lower precision",
            )
        self.budget = size // 2
        log.warning("out of memory on %s: going on with %d tokens", self.device, self.budget)

    def _forward(self, tokens: Tokens, forward: Callable[[Batch], Tensor]) -> np.ndarray:
        low = self.dtype != torch.float32
        context: Any = torch.autocast(self.device.type, self.dtype) if low else nullcontext()
        with torch.inference_mode(), context:
            z = forward(on_device(tokens, self.device))
            return np.asarray(z.float().cpu().numpy())


def _out_of_memory(error: Exception) -> bool:
    said = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in said or "can't allocate" in said


@dataclass(frozen=True)
class Block:
    """Some cells on their way through the network.

    `z` is what they gave in an earlier run, then `tokens` are none; `state` is that of the random
    stream behind them.
    """

    number: int
    rows: Int64[np.ndarray, "n_rows"]
    tokens: Tokens
    z: np.ndarray | None
    state: Mapping[str, Any]


NO_TOKENS = Tokens(np.zeros(1, dtype=np.int64), {})


def _blocks(
    port: Port, cells: Dataset, matched: Matched, compute: Compute, unfinished: Unfinished | None
) -> Iterator[Block]:
    """Yield the cells block by block; the next is made while the caller uses this one."""
    rng = compute.rng if compute.rng is not None else np.random.default_rng(0)
    beside = getattr(port, "beside", None)  # few models read more of a cell than its counts
    known: Mapping[str, np.ndarray] = beside(cells) if beside is not None else {}

    def read() -> Iterator[Block]:
        for number, (rows, counts) in enumerate(_count_blocks(port, cells)):
            kept = unfinished.find(number) if unfinished is not None else None
            if kept is not None and len(kept[0]) == len(rows):
                z, state = kept
                set_stream(rng, state)
                yield Block(number, rows, NO_TOKENS, z, state)
            else:
                tokens = tokenised(port, counts, matched.lookup, rng)
                more = {name: column[rows] for name, column in known.items()}
                tokens = replace(tokens, cells={**tokens.cells, **more})
                yield Block(number, rows, tokens, None, stream_state(rng))

    return _ahead(read())


def tokenised(
    port: Port,
    counts: sparse.csr_matrix,
    lookup: Int32[np.ndarray, "n_genes"],
    rng: np.random.Generator,
) -> Tokens:
    """Tokenise cells; on all cores where a cell's tokens depend on the cell alone."""
    n_parts = min(torch.get_num_threads(), counts.shape[0] // PART_CELLS)
    if port.behaviour != "fixed" or n_parts < 2:
        return port.tokenise(counts, lookup, rng)
    edges = np.linspace(0, counts.shape[0], n_parts + 1).astype(int)
    # Compiled code lets go of the interpreter, so threads are enough.
    with ThreadPoolExecutor(n_parts) as pool:
        parts = pool.map(
            lambda part: port.tokenise(_rows(counts, *part), lookup, rng), pairwise(edges)
        )
        return joined(list(parts))


def _rows(counts: sparse.csr_matrix, start: int, stop: int) -> sparse.csr_matrix:
    """Rows of a matrix without copying them."""
    first, last = counts.indptr[start], counts.indptr[stop]
    parts = (counts.data[first:last], counts.indices[first:last], counts.indptr[start : stop + 1])
    rows = sparse.csr_matrix((*parts[:2], parts[2] - first), (stop - start, counts.shape[1]))
    rows.has_sorted_indices = counts.has_sorted_indices
    return rows


def _count_blocks(
    port: Port, cells: Dataset
) -> Iterator[tuple[Int64[np.ndarray, "n_rows"], sparse.csr_matrix]]:
    sets: Iterable[np.ndarray] | None = port.partition(cells)
    if sets is not None:
        for rows in sets:
            yield rows, cells.take(rows).counts
        return
    size = BLOCK_CELLS
    if port.together is not None:  # whole groups only
        size = max(1, BLOCK_CELLS // port.together) * port.together
    start = 0
    for counts in cells.blocks(size):
        yield np.arange(start, start + counts.shape[0]), counts
        start += counts.shape[0]


def _ahead(items: Iterator[Any]) -> Iterator[Any]:
    """Make the next item in a thread while the caller uses this one."""
    end = object()
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, items, end)
            yield item
