"""A task that is unfair, silent, or rewards noise is found."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from sclitmus.core.dataset import Dataset
from sclitmus.core.metric import Metric
from sclitmus.core.record import Score
from sclitmus.core.split import Split
from sclitmus.core.task import Outcome, Task, TaskCard
from sclitmus.data.simulate import simulate
from sclitmus.errors import NotApplicable
from sclitmus.tasks.cell_types import CellTypes
from sclitmus.tasks.integration import Integration
from sclitmus.testing import check_task

NONE = np.empty(0, dtype=np.int64)
CARD = TaskCard("mine", "Are types apart?", "apart", (), ("random_embedding",), ("label",))


@dataclass
class Mine:
    """Share of variance between types: a task that keeps the contract."""

    card: TaskCard = CARD
    metrics: Mapping[str, Metric] = field(
        default_factory=lambda: {
            "apart": Metric("apart", lambda answer: answer, "Apart", "Apart.", (0.0, 1.0))
        }
    )

    def splits(self, dataset: Dataset, rng: np.random.Generator) -> tuple[Split, ...]:
        if len(dataset.role("label").names) < 2:
            raise NotApplicable("one type")
        half = np.sort(rng.permutation(dataset.n_cells)[: dataset.n_cells // 2])
        return Split("all", np.arange(dataset.n_cells), NONE), Split("half", half, NONE, 1.0)

    def run(self, embedding: Any, dataset: Dataset, split: Split, rng: Any) -> Outcome:
        z, label = embedding[split.test], dataset.role("label").codes[split.test]
        centre = z.mean(axis=0)
        between = sum(
            (label == c).sum() * ((z[label == c].mean(axis=0) - centre) ** 2).sum()
            for c in np.unique(label)
        )
        return Outcome(split, float(between / ((z - centre) ** 2).sum()))

    def score(self, outcome: Outcome) -> list[Score]:
        return [Score("apart", "1", outcome.answer)]


@pytest.mark.parametrize("task", [CellTypes(), Integration()], ids=lambda task: task.card.id)
def test_tasks_that_come_with_the_package(task: Task) -> None:
    report = check_task(task, simulate(n_cells=120, n_genes=60, n_types=3))
    assert report.ok, report


def test_a_user_s_task_passes() -> None:
    report = check_task(Mine())
    assert report.ok, report
    assert report["floor_and_ceiling"].value is not None
    assert report["floor_and_ceiling"].value > 0.9


class Unpaired(Mine):
    def splits(self, dataset: Dataset, rng: np.random.Generator) -> tuple[Split, ...]:
        return super().splits(dataset, np.random.default_rng())


class Leaks(Mine):
    def splits(self, dataset: Dataset, rng: np.random.Generator) -> tuple[Split, ...]:
        full, half = super().splits(dataset, rng)
        return full, replace(half, train=half.test[:5])


class OutOfRange(Mine):
    def splits(self, dataset: Dataset, rng: np.random.Generator) -> tuple[Split, ...]:
        return (Split("all", np.arange(dataset.n_cells + 1), NONE),)


class Unsorted(Mine):
    def splits(self, dataset: Dataset, rng: np.random.Generator) -> tuple[Split, ...]:
        return (Split("all", rng.permutation(dataset.n_cells), NONE),)


class NoFullSplit(Mine):
    def splits(self, dataset: Dataset, rng: np.random.Generator) -> tuple[Split, ...]:
        return super().splits(dataset, rng)[1:]


class Silent(Mine):
    def score(self, outcome: Outcome) -> list[Score]:
        return []


class NaNIsOk(Mine):
    def score(self, outcome: Outcome) -> list[Score]:
        return [Score("apart", "1", float("nan"))]


class NoReason(Mine):
    def score(self, outcome: Outcome) -> list[Score]:
        return [Score("apart", "1", None, status="failed")]


class RewardsNoise(Mine):
    def score(self, outcome: Outcome) -> list[Score]:
        return [Score("apart", "1", 1 - outcome.answer)]


class WritesIntoTheEmbedding(Mine):
    def run(self, embedding: Any, dataset: Dataset, split: Split, rng: Any) -> Outcome:
        embedding -= embedding.mean(axis=0)
        return super().run(embedding, dataset, split, rng)


class IgnoresItsNeeds(Mine):
    def splits(self, dataset: Dataset, rng: np.random.Generator) -> tuple[Split, ...]:
        return (Split("all", np.arange(dataset.n_cells), NONE),)


@pytest.mark.parametrize(
    ("task", "broken"),
    [
        (Unpaired(), "paired"),
        (Leaks(), "splits"),
        (OutOfRange(), "splits"),
        (Unsorted(), "splits"),
        (NoFullSplit(), "splits"),
        (Silent(), "scores"),
        (NaNIsOk(), "scores"),
        (NoReason(), "scores"),
        (RewardsNoise(), "floor_and_ceiling"),
        (WritesIntoTheEmbedding(), "unchanged"),
        (IgnoresItsNeeds(), "needs"),
        (Mine(replace(CARD, headline="other")), "card"),
        (Mine(replace(CARD, references=())), "card"),
        (Mine(replace(CARD, margin=-1.0)), "card"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_each_breach_is_found(task: Any, broken: str) -> None:
    report = check_task(task)
    assert broken in {check.id for check in report.failed}, report


def test_a_task_that_does_not_apply_was_not_checked() -> None:
    report = check_task(Mine(), simulate(n_cells=30, n_types=1))
    assert [check.id for check in report.failed] == ["splits"]
    assert report["paired"].status == "skipped"
