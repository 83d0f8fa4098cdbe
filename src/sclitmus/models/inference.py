"""Cells through a network: in blocks, longest first, as many at a time as the device holds.

Memory is bounded by a block of cells and a batch of tokens, whatever the size of the data. The next
block is tokenised while the network works on this one. What a finished block gave is kept on disk
until the call returns, so that an interrupted run goes on where it stopped.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from scipy import sparse
from torch import Tensor

from sclitmus.core.activity import say
from sclitmus.core.dataset import Dataset
from sclitmus.errors import MethodError
from sclitmus.models.gene_space import Matched
from sclitmus.models.port import Port
from sclitmus.models.tokens import Batch, Tokens, on_device

log = logging.getLogger(__name__)

BLOCK_CELLS = 2048
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
    port: Port, cells: Dataset, matched: Matched, compute: Compute
) -> Float32[np.ndarray, "n_cells d"]:
    """Return the embedding of every cell, in their order.

    Raises
    ------
    MethodError
        If a single cell does not fit into the device's memory.
    """
    out: np.ndarray | None = None
    passes = Passes(port, compute)
    done = 0
    for rows, tokens in _blocks(port, cells, matched, compute):
        z = passes.over(tokens, port.cells)
        if out is None:
            out = np.empty((cells.n_cells, z.shape[1]), dtype=np.float32)
        out[rows] = z
        done += len(rows)
        say("embedding", done, cells.n_cells)
    assert out is not None  # a dataset has at least one cell
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
    for rows, tokens in _blocks(port, cells, matched, compute):
        for part, states in passes.each(tokens, port.gene_states):
            if sums is None:
                sums = np.zeros((n_genes, states.shape[1]))
            gene = part.columns["gene"]
            real = gene >= 0
            np.add.at(sums, gene[real], states[real])
            seen += np.bincount(gene[real], minlength=n_genes)
        done += len(rows)
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
        self.budget = compute.batch_tokens or (GPU_TOKENS if gpu else CPU_TOKENS)
        port.network.to(self.device).eval()

    def over(self, tokens: Tokens, forward: Callable[[Batch], Tensor]) -> np.ndarray:
        """Return what `forward` gives for each cell, as one array (n_cells, d)."""
        out: np.ndarray | None = None
        for rows in self._batches(tokens):
            z = self._halving(tokens, rows, forward)
            if out is None:
                out = np.empty((tokens.n_cells, z.shape[1]), dtype=np.float32)
            out[rows] = z
        assert out is not None
        return out

    def each(
        self, tokens: Tokens, forward: Callable[[Batch], Tensor]
    ) -> Iterator[tuple[Tokens, np.ndarray]]:
        """Yield the cells of each pass with what `forward` gives for each of their tokens."""
        for rows in self._batches(tokens):
            yield tokens.take(rows), self._halving(tokens, rows, forward)

    def _batches(self, tokens: Tokens) -> Iterator[np.ndarray]:
        """Sort cells by length and fill each pass with as many tokens as the budget allows."""
        if self.port.together is not None:  # they influence each other: as the original has them
            for start in range(0, tokens.n_cells, self.port.together):
                yield np.arange(start, min(start + self.port.together, tokens.n_cells))
            return
        order = np.argsort(-tokens.lengths, kind="stable")
        lengths = tokens.lengths[order]
        start = 0
        while start < len(order):
            # Longest first: what does not fit shows at once, and padding would be least.
            n = max(1, self.budget // max(int(lengths[start]), 1))
            yield order[start : start + n]
            start += n

    def _halving(
        self, tokens: Tokens, rows: np.ndarray, forward: Callable[[Batch], Tensor]
    ) -> np.ndarray:
        """Run `forward`; where memory runs out, in halves."""
        part = tokens.take(rows)
        try:
            return self._forward(part, forward)
        except (torch.cuda.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
        # Outside of the handler: the traceback would keep the tensors alive.
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(rows) == 1 or self.port.together is not None:
            what = f"{len(rows)} cells that belong together" if len(rows) > 1 else "a single cell"
            raise MethodError(
                f"{what} with {int(part.offsets[-1])} tokens in all do not fit into the memory of "
                f"{self.device}",
                "a device with more memory",
                "give another --device, or a lower precision",
            )
        self.budget = max(1, int(part.offsets[-1]) // 2)
        log.warning("out of memory on %s: going on with %d tokens", self.device, self.budget)
        half = len(rows) // 2
        parts = (self._halving(tokens, some, forward) for some in (rows[:half], rows[half:]))
        return np.concatenate(list(parts))

    def _forward(self, tokens: Tokens, forward: Callable[[Batch], Tensor]) -> np.ndarray:
        low = self.dtype != torch.float32
        context: Any = torch.autocast(self.device.type, self.dtype) if low else nullcontext()
        with torch.inference_mode(), context:
            z = forward(on_device(tokens, self.device))
            return np.asarray(z.float().cpu().numpy())


def _out_of_memory(error: Exception) -> bool:
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    return "can't allocate memory" in str(error) or "out of memory" in str(error)


def _blocks(
    port: Port, cells: Dataset, matched: Matched, compute: Compute
) -> Iterator[tuple[Int64[np.ndarray, "n_rows"], Tokens]]:
    """Yield rows of the dataset with their tokens; the next are made while these are used."""
    rng = compute.rng if compute.rng is not None else np.random.default_rng(0)

    def read() -> Iterator[tuple[np.ndarray, Tokens]]:
        for rows, counts in _count_blocks(port, cells):
            yield rows, port.tokenise(counts, matched.lookup, rng)

    return _ahead(read())


def _count_blocks(
    port: Port, cells: Dataset
) -> Iterator[tuple[np.ndarray, sparse.csr_matrix]]:
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
