"""Does a task keep the contract of `core.task.Task`: same question, same cells for everyone?"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float32

from sclitmus.core.dataset import Dataset
from sclitmus.core.record import Score
from sclitmus.core.rng import rng_for
from sclitmus.core.split import ALL, Split
from sclitmus.core.task import LabelTask, Task, TaskCard, ZeroShotTask
from sclitmus.errors import NotApplicable
from sclitmus.testing.report import (
    ID,
    Check,
    ContractError,
    Finding,
    Measured,
    Report,
    must_apply,
    run_check,
    run_checks,
)

MAX_CELLS = 300


def check_task(task: Task, dataset: Dataset | None = None, *, seed: int = 0) -> Report:
    """Check a task on a small dataset, with noise and with the labels as embeddings.

    Parameters
    ----------
    task
        An object, not a class.
    dataset
        Cells with the roles the task needs, of which at most 300, evenly spaced, are taken;
        simulated cells of three types, two batches and eight donors if None.
    seed
        Of the task's random streams.
    """
    subject = f"task {getattr(getattr(task, 'card', None), 'id', type(task).__name__)}"
    trial = _Trial(task, _cells(dataset), seed)
    checks = [run_check("card", _card, trial)]
    splits = must_apply(
        run_check("splits", _splits, trial),
        "a dataset to which the task applies",
        "give one: check_task(task, dataset)",
    )
    checks.append(splits)
    if splits.ok:
        checks.extend(run_checks(_CHECKS, trial))
    else:
        checks.extend(Check(id, "skipped", "splits failed") for id in _CHECKS)
    return Report(subject, tuple(checks))


def _cells(dataset: Dataset | None) -> Dataset:
    if dataset is None:
        from sclitmus.data.simulate import simulate

        return simulate(n_cells=240, n_genes=150, n_types=3, n_batches=2, donors=8)
    if dataset.n_cells <= MAX_CELLS:
        return dataset
    return dataset.take(np.linspace(0, dataset.n_cells - 1, MAX_CELLS).astype(np.int64))


@dataclass(frozen=True)
class _Trial:
    task: Task
    dataset: Dataset
    seed: int

    @property
    def card(self) -> TaskCard:
        return self.task.card

    def splits(self) -> tuple[Split, ...]:
        return self.task.splits(self.dataset, rng_for(self.seed, "splits", self.card.id))

    @cached_property
    def noise(self) -> Float32[np.ndarray, "n_cells d"]:
        rng = np.random.default_rng(0)
        return rng.normal(size=(self.dataset.n_cells, 20)).astype(np.float32)

    @cached_property
    def truth(self) -> Float32[np.ndarray, "n_cells d"]:
        label = self.dataset.role("label")
        axes = np.eye(len(label.names) + 20)[label.codes]
        axes[label.codes < 0] = 0
        jitter = np.random.default_rng(1).normal(size=axes.shape)
        return np.asarray(axes + 0.01 * jitter, dtype=np.float32)

    @cached_property
    def of_noise(self) -> list[Score]:
        """Scores and, of what a probe learns, replicates of the noise."""
        return self.rows(self.noise.copy())

    def scores(self, z: Float32[np.ndarray, "n_cells d"]) -> list[Score]:
        """Scores of the full data."""
        return [score for score in self.rows(z) if score.split == ALL]

    def rows(self, z: Float32[np.ndarray, "n_cells d"]) -> list[Score]:
        if isinstance(self.task, LabelTask):
            return self.of_labels(self.task, z)
        task: ZeroShotTask = self.task  # type: ignore[assignment]  # there is no third kind
        split = self.splits()[0]
        rng = rng_for(self.seed, "run", self.card.id, split.name)
        return task.score(task.run(z, self.dataset, split, rng))

    def of_labels(self, task: LabelTask, z: Float32[np.ndarray, "n_cells d"]) -> list[Score]:
        """Scores and replicates of what the task's probe learns."""
        splits = self.splits()
        answers = [
            task.answer(z, self.dataset, split, rng_for(self.seed, "run", split.name))[0]
            for split in splits
        ]
        return task.score(self.dataset, splits, answers, self.replicate_stream())

    def replicate_stream(self) -> np.random.Generator:
        return rng_for(self.seed, "replicates", self.card.id)

    def headline(self, rows: Sequence[Score]) -> float:
        for score in rows:
            if (
                score.split == ALL
                and score.metric == self.card.headline
                and score.unit == "dataset"
            ):
                if score.value is None:
                    raise NotApplicable(f"{score.status}: {score.note}")
                return score.value
        raise ContractError(
            f"no score of {self.card.headline} for the dataset",
            "a score of the headline with unit 'dataset'",
            "score it, or name another headline",
        )


def _card(trial: _Trial) -> Finding:
    card, metrics = trial.card, trial.task.metrics
    faults = []
    if not ID.fullmatch(card.id):
        faults.append(f"id {card.id!r}: letters, digits and _ . @ + - only, at most 64")
    if not card.question:
        faults.append("question is empty")
    faults.extend(
        f"{name!r} is not among its metrics"
        for name in (card.headline, *card.beside)
        if name not in metrics
    )
    faults.extend(
        f"metric {metric.id!r} is listed as {id!r}"
        for id, metric in metrics.items()
        if metric.id != id
    )
    if not card.references:
        faults.append("references is empty: a score must not stand alone")
    if card.margin < 0:
        faults.append(f"margin {card.margin} is negative")
    if faults:
        raise ContractError(
            "; ".join(faults), "a card as core.task.TaskCard describes", "mend the card"
        )
    return card.question


def _splits(trial: _Trial) -> Finding:
    splits = trial.splits()
    if not splits or splits[0].weight != 0:
        raise ContractError(
            "the first split has a weight" if splits else "no splits",
            "the full data first, with weight 0",
            "put the split of all cells first, or raise NotApplicable",
        )
    if len({split.name for split in splits}) != len(splits):
        raise ContractError("two splits have one name", "names that differ", "number them")
    for split in splits:
        rows = (split.train, split.test)
        if any((np.diff(r) <= 0).any() for r in rows) or not len(split.test):
            raise ContractError(
                f"split {split.name!r}: rows not ascending, twice, or none to test",
                "rows ascending, each once, at least one to test",
                "np.sort the rows; np.flatnonzero gives them so",
            )
        if any(len(r) and (r[0] < 0 or r[-1] >= trial.dataset.n_cells) for r in rows):
            raise ContractError(
                f"split {split.name!r}: rows outside 0 to {trial.dataset.n_cells - 1}",
                "row numbers of the dataset",
                "map positions among the kept cells back to rows of the dataset",
            )
        shared = np.intersect1d(*rows)
        if len(shared):
            raise ContractError(
                f"split {split.name!r}: {len(shared)} cells are both learned from and scored",
                "no cell in both",
                "draw the test cells from those not in train",
            )
    return f"{len(splits)} splits, the first of {len(splits[0].test)} cells"


def _paired(trial: _Trial) -> Finding:
    first, second = trial.splits(), trial.splits()
    if [split.key for split in first] != [split.key for split in second]:
        raise ContractError(
            "the same rng gave other splits",
            "equal rng, equal splits: that is what pairs the methods",
            "take all randomness from rng",
        )
    return ""


def _replicates(trial: _Trial) -> Finding:
    if not isinstance(trial.task, LabelTask):
        raise NotApplicable("its splits are its replicates")
    named = trial.task.replicates(trial.dataset, trial.splits(), trial.replicate_stream())
    scored = {score.split for score in trial.of_noise} - {ALL}
    unknown = sorted(scored - {one.name for one in named})
    if unknown:
        raise ContractError(
            f"scores of the replicate {unknown[0]!r}, which it did not name",
            "scores of `all` and of the replicates that replicates() returns",
            "name it there, with its weight",
        )
    if any(one.weight <= 0 for one in named):
        raise ContractError("a replicate without weight", "weights above 0", "see Replicate")
    return f"{len(scored)} of {len(named)} replicates have scores"


def _scores(trial: _Trial) -> Finding:
    scores = [score for score in trial.of_noise if score.split == ALL]
    metrics = trial.task.metrics
    seen: set[tuple[str, str]] = set()
    for score in scores:
        if score.metric not in metrics:
            raise ContractError(
                f"a score of {score.metric!r}", f"one of {', '.join(metrics)}", "declare it"
            )
        if (score.metric, score.unit) in seen:
            raise ContractError(
                f"two scores of {score.metric}, {score.unit}", "one", "score it once"
            )
        seen.add((score.metric, score.unit))
        if (score.status == "ok") != (score.value is not None and math.isfinite(score.value)):
            raise ContractError(
                f"{score.metric}: status {score.status!r} with value {score.value}",
                "a finite value where the status is ok, None where it is not",
                "say not_applicable or failed, with the reason in note",
            )
        if score.status != "ok" and not score.note:
            raise ContractError(
                f"{score.metric}: {score.status} without a reason", "a note", "say why"
            )
    silent = sorted(set(metrics) - {score.metric for score in scores})
    if silent:
        raise ContractError(
            f"no row for {', '.join(silent)}", "a row for every metric", "absence is a row too"
        )
    return f"{len(scores)} scores of {len(metrics)} metrics"


def _repeatable(trial: _Trial) -> Finding:
    if trial.rows(trial.noise.copy()) != trial.of_noise:
        raise ContractError(
            "the same embedding was scored twice, with other values",
            "equal input, equal scores",
            "take all randomness from rng",
        )
    return ""


def _unchanged(trial: _Trial) -> Finding:
    z = trial.noise.copy()
    trial.scores(z)
    if not np.array_equal(z, trial.noise):
        raise ContractError(
            "the embedding was written into", "it is left as it is", "copy what you change"
        )
    return ""


def _floor_and_ceiling(trial: _Trial) -> Finding:
    floor, ceiling = trial.headline(trial.of_noise), trial.headline(trial.rows(trial.truth))
    direction = trial.task.metrics[trial.card.headline].direction
    said = f"{trial.card.headline}: noise {floor:.3f}, labels {ceiling:.3f}, {direction} is better"
    if (ceiling <= floor) if direction == "higher" else (ceiling >= floor):
        raise ContractError(
            said,
            "a headline by which the labels themselves beat noise",
            "choose another headline: this one rewards noise",
        )
    return Measured(abs(ceiling - floor), said)


def _needs(trial: _Trial) -> Finding:
    for role in trial.card.needs:
        try:
            trial.task.splits(trial.dataset.without(role), rng_for(trial.seed, "splits"))
        except NotApplicable:
            continue
        raise ContractError(
            f"it runs without {role!r}, which the card says it needs",
            "NotApplicable without a role it needs",
            f"ask for dataset.role({role!r}) in splits",
        )
    return ", ".join(trial.card.needs) or "needs no role"


def _two_cells(trial: _Trial) -> Finding:
    two = _Trial(trial.task, trial.dataset.take(np.arange(2)), trial.seed)
    try:
        scores = two.scores(two.noise)
    except NotApplicable as absence:
        return absence.reason
    return f"{sum(score.status == 'ok' for score in scores)} of {len(scores)} scores have a value"


_CHECKS: Mapping[str, Callable[[_Trial], Finding]] = {
    "paired": _paired,
    "replicates": _replicates,
    "scores": _scores,
    "repeatable": _repeatable,
    "unchanged": _unchanged,
    "floor_and_ceiling": _floor_and_ceiling,
    "needs": _needs,
    "two_cells": _two_cells,
}
