"""A task on splits that were given, instead of those that it would draw."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sclitmus.core.dataset import Dataset
from sclitmus.core.method import Annotator
from sclitmus.core.metric import Metric
from sclitmus.core.record import Absent, Score
from sclitmus.core.split import Replicate, Split
from sclitmus.core.task import Answer, LabelTask, Task, TaskCard
from sclitmus.data.splits import SplitsFile
from sclitmus.errors import DataError


@dataclass(frozen=True)
class OnGivenSplits:
    """A task about labels whose splits come from files, where one is about the dataset at hand."""

    task: LabelTask
    files: tuple[SplitsFile, ...]

    @property
    def card(self) -> TaskCard:
        return self.task.card

    @property
    def metrics(self) -> Mapping[str, Metric]:
        return self.task.metrics

    def splits(self, dataset: Dataset, rng: np.random.Generator) -> tuple[Split, ...]:
        drawn = self.task.splits(dataset, rng)  # refuses what the question makes no sense for
        for file in self.files:
            if file.dataset == dataset.id:
                given = file.splits_of(dataset)
                self._refuse_unknown(file, given, drawn)
                return given
        return drawn

    def _refuse_unknown(
        self, file: SplitsFile, given: Sequence[Split], drawn: Sequence[Split]
    ) -> None:
        """Refuse splits of which the task would make no score."""
        settings = tuple(getattr(self.task, "settings", ("",)))
        kinds = dict.fromkeys(_kind(split) for split in drawn)
        held_out = " or ".join(f"{kind}:NAME" if kind else "empty" for kind in kinds)
        for split in given:
            if split.setting not in settings or _kind(split) not in kinds:
                raise DataError(
                    f"{file.path}: split {split.name!r} has the setting {split.setting!r} and "
                    f"holds out {split.held_out!r}",
                    f"for {self.card.id} a setting among: {', '.join(map(repr, settings))}; and "
                    f"held_out {held_out}",
                    "fill the columns setting and held_out; `sclitmus splits export` shows how",
                )

    def answer(
        self,
        method: "np.ndarray | Annotator",
        dataset: Dataset,
        split: Split,
        rng: np.random.Generator,
    ) -> tuple[Answer, tuple[str, ...]]:
        return self.task.answer(method, dataset, split, rng)

    def replicates(
        self, dataset: Dataset, splits: Sequence[Split], rng: np.random.Generator
    ) -> tuple[Replicate, ...]:
        return self.task.replicates(dataset, splits, rng)

    def score(
        self,
        dataset: Dataset,
        splits: Sequence[Split],
        answers: Sequence[Answer | Absent],
        rng: np.random.Generator,
    ) -> list[Score]:
        return self.task.score(dataset, splits, answers, rng)


def _kind(split: Split) -> str:
    return split.held_out.partition(":")[0]


def with_given_splits(task: Task, files: Sequence[SplitsFile]) -> Task:
    """Put a task on those of the files that are about it; others leave it as it is."""
    mine = tuple(file for file in files if file.task == task.card.id)
    return OnGivenSplits(task, mine) if mine and isinstance(task, LabelTask) else task
