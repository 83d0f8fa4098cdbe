"""The steps of a pretraining, its loss, and what is measured after each epoch."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sclitmus.models.corpus import JUDGED, MASKS, Waited, ahead
from sclitmus.models.inference import Compute
from sclitmus.models.lessons import CPU_POSITIONS, GPU_POSITIONS
from sclitmus.models.masked_scores import LEAST_SKILL, PerCell, Skill, skill, together
from sclitmus.models.masking import cells_of
from sclitmus.models.prepared import Prepared
from sclitmus.models.pretraining_settings import Settings
from sclitmus.models.tokens import Batch, Tokens, on_device
from sclitmus.models.training import Pass

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Epoch:
    """What was measured after an epoch.

    Attributes
    ----------
    number
        From 1.
    n_cells
        That were trained on.
    loss
        Mean over their hidden genes, while they were learned from.
    validation
        Measure -> mean over the hidden genes of cells that are not trained on.
    skill
        Against the mean of each gene; None where that makes no error.
    seconds, waited
        Of training; and those of them in which the network waited for cells.
    """

    number: int
    n_cells: int
    loss: float
    validation: Mapping[str, float]
    skill: Skill | None
    seconds: float
    waited: float


class MaskedCourse:
    """A pretraining under way.

    Attributes
    ----------
    log
        Of every epoch so far, those before an interruption too: `Epoch` as plain values.
    warning
        What the last epoch has shown, if the model is no better than the mean, `warn_after` epochs
        being over.
    """

    def __init__(
        self,
        prepared: Prepared,
        settings: Settings,
        seed: int,
        compute: Compute,
        on_epoch: Callable[[Epoch], object] | None = None,
    ) -> None:
        self.prepared, self.settings, self.seed = prepared, settings, seed
        self.compute, self.on_epoch = compute, on_epoch
        self.objective = prepared.objective
        self.log: list[dict[str, Any]] = []
        self.warning = ""
        self.averages = self._averages()
        self._lost: list[tuple[Tensor, int]] = []
        self._began = 0.0
        self._waited = 0.0

    @property
    def n_steps(self) -> int:
        """Of an epoch."""
        course = self.settings.training
        cells = course.epoch_cells or self.prepared.corpus.n_train
        return max(1, round(cells / course.batch_cells))

    def steps(self, epoch: int) -> Iterator[list[Pass[Batch]]]:
        """Yield the steps of an epoch (from 0), made in a thread while the network works."""
        self._lost, self._began = [], time.monotonic()
        made = Waited(ahead(islice(self._steps(epoch * self.n_steps), self.n_steps)))
        yield from made
        self._waited = made.seconds

    def _steps(self, first: int) -> Iterator[list[Pass[Batch]]]:
        n_cells = self.settings.training.batch_cells
        prepared = self.prepared
        stream = prepared.corpus.batches(prepared.tokenise, n_cells, first * n_cells)
        for number, tokens in enumerate(stream, first):
            rng = np.random.default_rng([self.seed, MASKS, number])
            hidden = self.objective.hidden(tokens, rng)
            yield [
                Pass(on_device(part, self.compute.place), float(part.columns["masked"].sum()))
                for part in self._parts(hidden)
            ]

    def _parts(self, tokens: Tokens) -> Iterator[Tokens]:
        """Divide cells among as many passes as memory asks for, the longest first."""
        length = getattr(self.objective.port, "length", None)
        lengths = tokens.lengths if length is None else np.full(tokens.n_cells, length)
        gpu = self.compute.place.type == "cuda"
        room = self.settings.training.batch_tokens or (GPU_POSITIONS if gpu else CPU_POSITIONS)
        order = np.argsort(-lengths, kind="stable")
        start = 0
        while start < len(order):
            n = max(1, room // max(int(lengths[order[start]]), 1))
            part = tokens.take(order[start : start + n])
            if part.columns["masked"].any():
                yield part
            start += n

    def loss(self, module: nn.Module, batch: Batch) -> Tensor:
        """Return the mean loss over the hidden genes of a pass."""
        target = batch.columns["target"][batch.columns["masked"]]
        loss = self.objective.loss(module(batch).float(), target).mean()
        self._lost.append((loss.detach(), len(target)))
        return loss

    def validate(self) -> float:
        """Predict the cells held out, note how well, and return the loss."""
        seconds = time.monotonic() - self._began
        scored = self.judged()
        lost = sum(float(loss) * n for loss, n in self._lost)
        epoch = Epoch(
            number=len(self.log) + 1,
            n_cells=self.n_steps * self.settings.training.batch_cells,
            loss=lost / max(1, sum(n for _, n in self._lost)),
            validation=scored.means,
            skill=self.skill(scored),
            seconds=seconds,
            waited=self._waited,
        )
        self.log.append(asdict(epoch))
        self._warn(epoch)
        if self.on_epoch is not None:
            self.on_epoch(epoch)
        return scored.mean(self.objective.measures[0])

    def skill(self, scored: PerCell) -> Skill | None:
        """Compare with what the mean of each gene predicts."""
        measure, mean = self.objective.judged_by, self.prepared.baselines.mean
        return skill(scored.sums[measure], self.averages[mean].sums[measure])

    def _warn(self, epoch: Epoch) -> None:
        """Say that it learns nothing but the mean while there is still time to stop."""
        own, due = epoch.skill, epoch.number >= self.settings.validation.warn_after
        before, self.warning = self.warning, ""
        if due and own is not None and own.low < LEAST_SKILL:
            self.warning = (
                f"after {epoch.number} epochs it is no better than the mean of each gene: {own}"
            )
            if not before:
                log.warning("pretraining: %s", self.warning)

    def judged(self) -> PerCell:
        """Predict the hidden genes of the cells held out; the same ones every time."""
        low = self.compute.dtype != torch.float32
        parts = []
        for tokens in self._held():
            for part in self._parts(tokens):
                context: Any = nullcontext()
                if low:
                    context = torch.autocast(self.compute.place.type, self.compute.dtype)
                with torch.inference_mode(), context:
                    batch = on_device(part, self.compute.place)
                    target = batch.columns["target"][batch.columns["masked"]]
                    values = self.objective.measured(self.objective(batch).float(), target)
                cell = cells_of(part)[part.columns["masked"]]
                own = {name: x.double().cpu().numpy() for name, x in values.items()}
                parts.append(PerCell.of(cell, part.n_cells, own))
        return together(parts)

    def _held(self) -> Iterator[Tokens]:
        for number, (source, counts) in enumerate(self.prepared.corpus.blocks("held")):
            rng = np.random.default_rng([self.seed, JUDGED, number])
            yield self.objective.hidden(self.prepared.tokenise(source, counts), rng)

    def _averages(self) -> dict[str, PerCell]:
        """Return what each baseline predicts of the same hidden genes, cell by cell likewise."""
        parts: dict[str, list[PerCell]] = {}
        for tokens in self._held():
            for part in self._parts(tokens):
                cell = cells_of(part)[part.columns["masked"]]
                for name, values in self.prepared.baselines.measured(part).items():
                    scored = PerCell.of(cell, part.n_cells, values)
                    parts.setdefault(name, []).append(scored)
        return {name: together(own) for name, own in parts.items()}

    def results(self) -> dict[str, Any]:
        """Return means of model and averages, and all skills, of the network as it is now."""
        scored = self.judged()
        skills: dict[str, dict[str, Any]] = {}
        for measure, losses in scored.sums.items():
            kind = "mse" if measure.startswith("mse") else measure
            for name, average in self.averages.items():
                if kind in average.sums:
                    own = skill(losses, average.sums[kind])
                    skills.setdefault(measure, {})[name] = own and asdict(own)
        return {
            "n_cells": len(scored.n),
            "n_hidden": int(scored.n.sum()),
            "model": scored.means,
            "averages": {name: average.means for name, average in self.averages.items()},
            "skill": skills,
        }


def beats_mean(results: Mapping[str, Any], measure: str, mean: str) -> bool:
    """Return whether more than the mean of each gene was learned."""
    own = results["skill"][measure][mean]
    return own is not None and own["low"] >= LEAST_SKILL


def verdict(results: Mapping[str, Any], measure: str, mean: str) -> str:
    """Say in a sentence whether a model has learned more than the mean of each gene."""
    against = results["skill"][measure]
    own = against[mean]
    if own is None:
        return "the mean of each gene makes no error here: there is nothing to learn"
    if not beats_mean(results, measure, mean):
        return f"no better than the mean of each gene: {Skill(**own)}"
    shifted = against.get("gene_and_cell")
    if shifted is not None and shifted["low"] < LEAST_SKILL:
        return (
            f"better than the mean of each gene ({Skill(**own)}), but no better than that mean "
            f"shifted by the level of the cell ({Skill(**shifted)})"
        )
    return f"better than the mean of each gene: {Skill(**own)}"


def plain(value: Any) -> Any:
    """Return a value as JSON holds it: lists for tuples, None for what is no number."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
