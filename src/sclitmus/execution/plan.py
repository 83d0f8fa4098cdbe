"""Which trials a study consists of, which of them are done already, and what the rest will cost.

Pure: looks into the store, changes nothing, runs nothing. `--dry-run` prints its rows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np

from sclitmus.core.method import Annotator
from sclitmus.core.rng import rng_for
from sclitmus.core.split import Replicate, Split
from sclitmus.core.task import LabelTask, Task
from sclitmus.errors import NotApplicable
from sclitmus.execution import cost
from sclitmus.execution.identity import (
    Fingerprint,
    annotator_key,
    embedding_key,
    failure_key,
    projection_key,
    scores_key,
)
from sclitmus.execution.projection import MAX_CELLS
from sclitmus.execution.resolve import Chosen, Resolved
from sclitmus.execution.store import Artifact, Missing, Stage, Store

TrialStage = Literal["embed", "learn", "score", "project"]
TrialStatus = Literal["run", "cached", "not_applicable", "failed"]

NO_EMBEDDING = "it names cells and gives no embedding of them"


@dataclass(frozen=True)
class Trial:
    """One thing to do, with what is known about it beforehand.

    Attributes
    ----------
    stage
        ``embed`` the cells, ``score`` the embedding with `task`, or ``project`` it to a map. A
        method without an embedding has ``learn`` in place of the first, for all of its tasks.
    key
        Key of the result in the store; empty while it depends on an embedding not made yet.
    status
        ``run``, ``cached`` (in the store), ``not_applicable``, or ``failed`` (in an earlier run,
        and not to be tried again).
    reason
        Why it is not applicable, or why something stored is made again.
    est_seconds, est_mb
        Estimates on one core (`cost`); 0 unless it will run.
    """

    stage: TrialStage
    dataset: str
    method: str
    seed: int
    task: str
    key: str
    status: TrialStatus
    reason: str = ""
    est_seconds: float = 0.0
    est_mb: float = 0.0


@dataclass(frozen=True)
class PlannedSplit:
    """A split without its rows, which workers draw again."""

    dataset: str
    task: str
    split: str
    n_train: int
    n_test: int
    key: str


@dataclass(frozen=True)
class PlannedReplicate:
    """What a replicate's scores weigh: see `core.split.Replicate`."""

    dataset: str
    task: str
    split: str
    source: str
    weight: float
    n_units: int


@dataclass(frozen=True)
class Plan:
    """The trials of a study in the order of its datasets and methods, and what they score."""

    trials: tuple[Trial, ...]
    splits: tuple[PlannedSplit, ...]
    replicates: tuple[PlannedReplicate, ...]

    def jobs(self) -> Iterator[tuple[Trial, tuple[Trial, ...]]]:
        """Yield each method's first trial with the scoring trials that follow it."""
        trials = (trial for trial in self.trials if trial.stage != "project")
        for _, group in groupby(trials, key=lambda t: (t.dataset, t.method, t.seed)):
            first, *scores = group
            yield first, tuple(scores)

    def count(self, status: TrialStatus) -> int:
        """Number of trials of this status."""
        return sum(trial.status == status for trial in self.trials)

    def est_seconds(self, jobs: int) -> float:
        """Estimate the time of the whole run on `jobs` processes."""
        each = [t.est_seconds for t in self.trials]
        return max(sum(each) / jobs, max(each, default=0.0))

    def est_mb(self, jobs: int) -> float:
        """Estimate the memory of the `jobs` largest trials together."""
        return sum(sorted((t.est_mb for t in self.trials), reverse=True)[:jobs])

    def rows(self) -> list[dict[str, str | int | float]]:
        """Return one row per trial, ready to print."""
        return [
            {
                "dataset": t.dataset,
                "method": t.method,
                "seed": t.seed,
                "stage": t.stage if t.stage != "score" else f"score {t.task}",
                "status": t.status.replace("_", " "),
                "seconds": round(t.est_seconds, 1),
                "MB": round(t.est_mb),
                "reason": t.reason,
            }
            for t in self.trials
        ]


def splits_of(task: Task, fingerprint: Fingerprint) -> tuple[Split, ...]:
    """Draw a task's splits: the same for every method and seed, here and in the workers.

    Tasks share the stream, so that those which score the same cells draw the same halves.

    Raises
    ------
    NotApplicable
        If the dataset lacks what the task needs.
    """
    dataset = fingerprint.dataset
    for role in task.card.needs:
        dataset.role(role)  # says how to give the column, if there is none
    return task.splits(dataset, rng_for(0, "splits", fingerprint.counts))


def replicates_of(
    task: Task, fingerprint: Fingerprint, splits: Sequence[Split]
) -> tuple[Replicate, ...]:
    """Return the replicates of a task's scores; in zero-shot tasks they are splits themselves."""
    if isinstance(task, LabelTask):
        return task.replicates(fingerprint.dataset, splits, replicate_stream(fingerprint))
    halves = (split for split in splits if split.weight > 0)
    return tuple(Replicate(half.name, "units", half.weight, half.n_units) for half in halves)


def replicate_stream(fingerprint: Fingerprint) -> np.random.Generator:
    """Return the stream from which a task draws replicates: the same whenever it is asked for."""
    return rng_for(0, "replicates", fingerprint.counts)


def plan(resolved: Resolved, store: Store | None = None, *, retry_failed: bool = True) -> Plan:
    """Lay out a study.

    Parameters
    ----------
    store
        Where finished trials are looked for; without one, all trials run.
    retry_failed
        Whether trials that failed in an earlier run are tried again.
    """
    trials: list[Trial] = []
    splits: list[PlannedSplit] = []
    replicates: list[PlannedReplicate] = []
    seeds = resolved.study.seeds
    for fingerprint in resolved.datasets:
        questions = [_ask(task, fingerprint) for task in resolved.tasks]
        splits += [split for question in questions for split in question.splits]
        replicates += [one for question in questions for one in question.replicates]
        for method in resolved.methods:
            for seed in seeds[:1] if method.object.card.deterministic else seeds:
                pair = _Pair(fingerprint, method, seed, store, retry_failed)
                if isinstance(method.object, Annotator):
                    trials += pair.learn(questions)
                    continue
                embed, found = pair.embed(questions)
                trials += [embed, *(pair.score(embed, found, question) for question in questions)]
                runs = embed.status in ("run", "cached")
                if runs and resolved.study.projections and seed == seeds[0]:
                    trials.append(pair.project(found))
    return Plan(tuple(trials), tuple(splits), tuple(replicates))


@dataclass(frozen=True)
class _Question:
    """A task on a dataset: its splits, or why there are none."""

    task: Chosen
    splits: tuple[PlannedSplit, ...] = ()
    replicates: tuple[PlannedReplicate, ...] = ()
    refusal: str = ""

    @property
    def id(self) -> str:
        return str(self.task.object.card.id)

    @property
    def of_labels(self) -> bool:
        """Whether it is put to what learns labels, which an embedding does by a probe."""
        return isinstance(self.task.object, LabelTask)


def _ask(task: Chosen, fingerprint: Fingerprint) -> _Question:
    id, dataset = task.object.card.id, fingerprint.dataset.id
    try:
        drawn = splits_of(task.object, fingerprint)
    except NotApplicable as refusal:
        return _Question(task, refusal=refusal.reason)
    splits = (PlannedSplit(dataset, id, s.name, len(s.train), len(s.test), s.key) for s in drawn)
    replicates = (
        PlannedReplicate(dataset, id, r.name, r.source, r.weight, r.n_units)
        for r in replicates_of(task.object, fingerprint, drawn)
    )
    return _Question(task, tuple(splits), tuple(replicates))


@dataclass(frozen=True)
class _Pair:
    """A method on a dataset with a seed, about to be laid out as trials."""

    fingerprint: Fingerprint
    method: Chosen
    seed: int
    store: Store | None
    retry_failed: bool

    def embed(self, questions: Sequence[_Question]) -> tuple[Trial, Artifact | Missing]:
        card = self.method.object.card
        key = embedding_key(card, self.method.code, self.fingerprint, self.seed)
        refusal = self._refusal(questions)
        if refusal:
            return self._trial("embed", key, "not_applicable", refusal), Missing()
        note = self._failed_before(key, "")
        if note:
            return self._trial("embed", key, "failed", note), Missing()
        found = self._find("embedding", key)
        if isinstance(found, Artifact):
            return self._trial("embed", key, "cached"), found
        dataset = self.fingerprint.dataset
        estimate = cost.of_embedding(card, dataset.n_cells, dataset.n_genes, dataset.nnz)
        return self._trial("embed", key, "run", found.reason, estimate=estimate), found

    def learn(self, questions: Sequence[_Question]) -> list[Trial]:
        """Lay out a method that learns labels: its first trial stands for all of its tasks."""
        card = self.method.object.card
        key = annotator_key(card, self.method.code, self.fingerprint, self.seed)
        mine = [question for question in questions if question.of_labels]
        refusal = self._refusal(mine)
        head = self._trial("learn", key, "not_applicable" if refusal else "cached", refusal)
        scores = [
            self.score(head, Artifact("answer", key, Path(), key, {}), question)
            if question.of_labels
            else self._trial("score", "", "not_applicable", NO_EMBEDDING, question.id)
            for question in questions
        ]
        if any(trial.status == "run" for trial in scores):
            head = replace(head, status="run")
        return [head, *scores]

    def score(self, embed: Trial, found: Artifact | Missing, question: _Question) -> Trial:
        key, why, task = "", "", question.id
        if question.refusal:
            return self._trial("score", key, "not_applicable", question.refusal, task)
        if embed.status in ("not_applicable", "failed"):
            return self._trial("score", key, embed.status, embed.reason, task)
        note = self._failed_before(embed.key, task)
        if note:
            return self._trial("score", key, "failed", note, task)
        if isinstance(found, Artifact):
            keys = [split.key for split in question.splits]
            chosen = question.task
            key = scores_key(found.sha256, self.fingerprint, chosen.object, chosen.code, keys)
            scores = self._find("scores", key)
            if isinstance(scores, Artifact):
                return self._trial("score", key, "cached", task=task)
            why = scores.reason
        if question.of_labels:
            estimate = cost.of_learning([s.n_train for s in question.splits])
        else:
            estimate = cost.of_scores([split.n_test for split in question.splits])
        return self._trial("score", key, "run", why, task, estimate)

    def project(self, found: Artifact | Missing) -> Trial:
        key, why = "", ""
        if isinstance(found, Artifact):
            key = projection_key(found.sha256)
            drawn = self._find("projection", key)
            if isinstance(drawn, Artifact):
                return self._trial("project", key, "cached")
            why = drawn.reason
        n_cells = min(self.fingerprint.dataset.n_cells, MAX_CELLS)
        return self._trial("project", key, "run", why, estimate=cost.of_projection(n_cells))

    def _refusal(self, questions: Sequence[_Question]) -> str:
        roles, card = self.fingerprint.dataset.roles, self.method.object.card
        lacking = [role for role in card.needs if role not in roles]
        if lacking:
            return f"{card.id} needs a {' and a '.join(lacking)} column, which the data lack"
        if not questions:
            return "no task of the study asks for labels, and it gives nothing else"
        if all(question.refusal for question in questions):
            return "no task of the study applies to this dataset"
        # What `fit` would refuse whatever the cells: weights that are not there.
        return str(getattr(self.method.object, "unavailable", ""))

    def _failed_before(self, key: str, task: str) -> str:
        if self.retry_failed:
            return ""
        found = self._find("failure", failure_key(key, task))
        return str(found.meta["note"]) if isinstance(found, Artifact) else ""

    def _find(self, stage: Stage, key: str) -> Artifact | Missing:
        return Missing() if self.store is None else self.store.find(stage, key)

    def _trial(
        self,
        stage: TrialStage,
        key: str,
        status: TrialStatus,
        reason: str = "",
        task: str = "",
        estimate: cost.Cost = cost.NOTHING,
    ) -> Trial:
        dataset, method = self.fingerprint.dataset.id, self.method.object.card.id
        return Trial(
            stage,
            dataset,
            method,
            self.seed,
            task,
            key,
            status,
            reason,
            estimate.seconds,
            estimate.mb,
        )
