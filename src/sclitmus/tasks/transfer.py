"""How well do labels transfer to an organ, a donor, a study or a technology never seen?

Each group is held out in turn, and only types that the other groups have are scored (Yang et al.
2024, the reply to Boiarsky et al., Table 1, doi:10.1038/s42256-024-00948-x). Unlike there, settings
are tuned by cross-validation over the remaining groups, not over cells, and every number has an
interval.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from sclitmus.core.dataset import Dataset
from sclitmus.core.method import Annotator
from sclitmus.core.metric import Metric
from sclitmus.core.record import Absent, Score
from sclitmus.core.split import Replicate, Split
from sclitmus.core.task import Answer, TaskCard
from sclitmus.errors import NotApplicable
from sclitmus.tasks.halves import test_halves
from sclitmus.tasks.label_metrics import CLASSIFICATION, CONFUSION, classification_metrics
from sclitmus.tasks.label_scores import (
    Setting,
    Values,
    absences,
    classified,
    confusion_scores,
    scores_of,
)
from sclitmus.tasks.label_splits import ANNOTATORS
from sclitmus.tasks.probe import predict


@dataclass(frozen=True)
class Transfer:
    """The task."""

    @property
    def card(self) -> TaskCard:
        return TaskCard(
            id="transfer",
            question="How well do labels transfer to a group of cells never seen?",
            headline="macro_f1",
            beside=("accuracy", "balanced_accuracy"),
            references=ANNOTATORS,
            needs=("label", "group"),
            protocol="Annotator",
            doi="10.1038/s42256-024-00948-x",
        )

    @property
    def metrics(self) -> Mapping[str, Metric]:
        mine = classification_metrics("", "")
        return {metric.id: metric for metric in (*mine, CONFUSION)}

    def splits(self, dataset: Dataset, rng: np.random.Generator) -> tuple[Split, ...]:
        """Hold each group out in turn; nothing is drawn.

        A group none of whose types the others have cannot be tested and is not held out.

        Raises
        ------
        NotApplicable
            Without a label or group column, with fewer than two groups, or where no group has a
            type that the others have, and these another.
        """
        label, group = dataset.role("label"), dataset.role("group")
        labelled = (label.codes >= 0) & (group.codes >= 0)
        present = np.unique(group.codes[labelled])
        if len(present) < 2:
            raise NotApplicable(
                f"holding a group out needs two of them; the labelled cells have {len(present)}"
            )
        splits = []
        for code in present:
            train = np.flatnonzero(labelled & (group.codes != code))
            learned = np.unique(label.codes[train])
            test = np.flatnonzero(labelled & (group.codes == code) & np.isin(label.codes, learned))
            if len(test) and len(learned) > 1:
                name = group.names[code]
                splits.append(Split(f"without {name}", test, train, held_out=f"group:{name}"))
        if not splits:
            raise NotApplicable("no group has a type that the other groups have")
        return tuple(splits)

    def answer(
        self,
        method: "Float32[np.ndarray, 'n_cells d'] | Annotator",
        dataset: Dataset,
        split: Split,
        rng: np.random.Generator,
    ) -> tuple[Answer, tuple[str, ...]]:
        found = predict(method, dataset, split, rng)
        return {"classes": found.classes, "test": found.test}, found.remarks

    def replicates(
        self, dataset: Dataset, splits: Sequence[Split], rng: np.random.Generator
    ) -> tuple[Replicate, ...]:
        return tuple(half.replicate for half in test_halves(dataset, splits, rng))

    def score(
        self,
        dataset: Dataset,
        splits: Sequence[Split],
        answers: Sequence[Answer | Absent],
        rng: np.random.Generator,
    ) -> list[Score]:
        def valued(split: Split, answer: Answer, mask: np.ndarray) -> Values:
            values = classified(dataset, split, answer, mask)
            of_group: Values = {
                (name, split.held_out): values[name, "dataset"]
                for name in CLASSIFICATION
                if (name, "dataset") in values
            }
            return values | of_group

        mine = {id: metric for id, metric in self.metrics.items() if id != CONFUSION.id}
        setting = Setting(mine, tuple(splits), tuple(answers), note=_left_out(dataset, splits))
        rows = scores_of(setting, valued, test_halves(dataset, splits, rng))
        return [*rows, *_worst(dataset, splits, answers, rows)]


def _worst(
    dataset: Dataset,
    splits: Sequence[Split],
    answers: Sequence[Answer | Absent],
    rows: Sequence[Score],
) -> list[Score]:
    """Show what the types of the group with the lowest macro-F1 were taken for."""
    by_group = {
        row.unit: row.value
        for row in rows
        if row.metric == "macro_f1" and row.split == "all" and row.value is not None
    }
    found = [
        (by_group[split.held_out], split, answer)
        for split, answer in zip(splits, answers, strict=True)
        if split.held_out in by_group and not isinstance(answer, Absent)
    ]
    if not found:
        return absences([CONFUSION], Absent("not_applicable", "no group has a score"))
    _, split, answer = min(found, key=lambda one: one[0])
    name = split.held_out.removeprefix("group:")
    return confusion_scores(CONFUSION, dataset, split, answer, f"the worst group, {name}")


def _left_out(dataset: Dataset, splits: Sequence[Split]) -> str:
    """Say how many labelled cells no split scores, because their type is in one group only."""
    codes = dataset.role("label").codes
    grouped = (codes >= 0) & (dataset.role("group").codes >= 0)
    tested = np.unique(np.concatenate([split.test for split in splits]))
    n_out = int(grouped.sum()) - len(tested)
    return f"{n_out} cells are of types that no other group has" if n_out else ""
