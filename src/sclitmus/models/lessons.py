"""Labelled cells as a network in training reads them: shuffled, tokenised as they are needed."""

import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from jaxtyping import Float32, Int32, Int64
from torch import Tensor, nn

from sclitmus.core.dataset import Dataset
from sclitmus.models.inference import Compute
from sclitmus.models.tokens import on_device
from sclitmus.models.training import Pass

# Positions per pass: what gradients need is a multiple of what embedding does.
CPU_POSITIONS = 8_192
GPU_POSITIONS = 65_536
ANSWERED = 256  # cells tokenised at once outside training


@dataclass(frozen=True)
class Lesson:
    """Some cells: what the network reads of them, and the code of each one's name."""

    given: Any
    codes: Tensor


class Source(Protocol):
    """Where lessons come from.

    Attributes
    ----------
    weights
        How much a cell of each class counts in the loss.
    """

    @property
    def weights(self) -> Float32[np.ndarray, "n_classes"]: ...

    def passes(self, rows: Int64[np.ndarray, "n_rows"]) -> Iterator[Pass[Lesson]]:
        """Yield these cells in as many lessons as the device's memory asks for."""


@dataclass(frozen=True, eq=False)
class Tokenised:
    """Cells that are tokenised anew each time: a batch is all that is in memory.

    Attributes
    ----------
    positions
        Per pass; None takes what suits the device.
    """

    cells: Dataset
    codes: Int64[np.ndarray, "n_cells"]
    weights: Float32[np.ndarray, "n_classes"]
    port: Any
    lookup: Int32[np.ndarray, "n_genes"]
    device: torch.device
    positions: int | None = None

    def __post_init__(self) -> None:
        # Only the counts are read; taking rows of the rest would cost more than they do.
        bare = replace(self.cells, roles={}, embeddings={})
        object.__setattr__(self, "cells", bare)

    def passes(self, rows: Int64[np.ndarray, "n_rows"]) -> Iterator[Pass[Lesson]]:
        rows = np.sort(rows)  # as they lie on disk
        counts = self.cells.take(rows).counts
        tokens = self.port.tokenise(counts, self.lookup, np.random.default_rng(0))  # draws none
        length = getattr(self.port, "length", None)
        lengths = tokens.lengths if length is None else np.full(len(rows), length)
        gpu = self.device.type == "cuda"
        room = self.positions or (GPU_POSITIONS if gpu else CPU_POSITIONS)
        order = np.argsort(-lengths, kind="stable")
        start = 0
        while start < len(order):
            part = order[start : start + max(1, room // max(int(lengths[order[start]]), 1))]
            codes = self.codes[rows[part]]
            batch = on_device(tokens.take(part), self.device)
            lesson = Lesson(batch, torch.from_numpy(codes).to(self.device))
            yield Pass(lesson, float(self.weights[codes].sum()))
            start += len(part)


@dataclass(frozen=True, eq=False)
class Embedded:
    """Cells whose vectors are known, since the encoder stays as it is."""

    vectors: Float32[np.ndarray, "n_cells d"]
    codes: Int64[np.ndarray, "n_cells"]
    weights: Float32[np.ndarray, "n_classes"]
    device: torch.device

    def passes(self, rows: Int64[np.ndarray, "n_rows"]) -> Iterator[Pass[Lesson]]:
        vectors = torch.from_numpy(self.vectors[rows]).to(self.device)
        codes = torch.from_numpy(self.codes[rows]).to(self.device)
        yield Pass(Lesson(vectors, codes), float(self.weights[self.codes[rows]].sum()))


def class_weights(
    codes: Int64[np.ndarray, "n_cells"], n_classes: int, weighted: bool
) -> Float32[np.ndarray, "n_classes"]:
    """Return n / (n_classes n_c) for each class, which has n_c of n cells; or ones."""
    if not weighted:
        return np.ones(n_classes, dtype=np.float32)
    n = np.bincount(codes, minlength=n_classes)
    return np.asarray(len(codes) / (n_classes * n), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Course:
    """Which cells make which step.

    Attributes
    ----------
    rows
        That are trained on.
    step_cells
        Cells of a step of the optimiser; the last of a pass over the cells may have fewer.
    repeats
        Passes over the cells in an epoch.
    seed
        Of their order, which is another one in every pass.
    """

    source: Source
    rows: Int64[np.ndarray, "n_rows"]
    step_cells: int
    repeats: int
    seed: int

    @property
    def n_steps(self) -> int:
        """Of an epoch."""
        return self.repeats * math.ceil(len(self.rows) / self.step_cells)

    def steps(self, epoch: int) -> Iterator[list[Pass[Lesson]]]:
        """Yield the steps of an epoch; the same for the same epoch."""
        for number in range(epoch * self.repeats, (epoch + 1) * self.repeats):
            order = np.random.default_rng([self.seed, number]).permutation(self.rows)
            for start in range(0, len(order), self.step_cells):
                yield list(self.source.passes(order[start : start + self.step_cells]))

    def loss(self, module: nn.Module, lesson: Lesson) -> Tensor:
        """Return the mean cross-entropy, each cell counted as much as its class is."""
        logits = module(lesson.given).float()
        weights = torch.from_numpy(self.source.weights).to(logits.device)
        return F.cross_entropy(logits, lesson.codes, weight=weights)

    def judged(
        self, module: nn.Module, rows: Int64[np.ndarray, "n_rows"], compute: Compute
    ) -> float:
        """Return the same mean over cells that are not trained on."""
        logits, codes = self.answers(module, rows, compute)
        weights = torch.from_numpy(self.source.weights)
        return float(F.cross_entropy(logits, codes, weight=weights))

    def answers(
        self, module: nn.Module, rows: Int64[np.ndarray, "n_rows"], compute: Compute
    ) -> tuple[Tensor, Tensor]:
        """Return logits (n_rows, n_classes) and codes of these cells, in an order of their own."""
        low = compute.dtype != torch.float32
        context: Any = torch.autocast(compute.place.type, compute.dtype) if low else nullcontext()
        logits, codes = [], []
        with torch.inference_mode(), context:
            for start in range(0, len(rows), ANSWERED):
                for part in self.source.passes(rows[start : start + ANSWERED]):
                    logits.append(module(part.batch.given).float().cpu())
                    codes.append(part.batch.codes.cpu())
        return torch.cat(logits), torch.cat(codes)
