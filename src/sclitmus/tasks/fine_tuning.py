"""Does pretraining matter when a model is trained on the labels, and does training always work?

{pretrained, random weights} x {head only, last block, all} x {gene vectors kept, zeroed, shuffled}:
each arm is a method, trained from the same cells, seed by seed with the same stream of random
numbers, and tested once on cells that no training saw (Boiarsky et al. 2024,
doi:10.1038/s42256-024-00949-w, ran some of the arms; failed seeds were dropped). Here a seed that
failed or collapsed is a result.
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
from sclitmus.tasks.label_metrics import CONFUSION, classification_metrics
from sclitmus.tasks.label_scores import (
    Setting,
    Values,
    absences,
    classified,
    confusion_scores,
    scores_of,
    truth_and_call,
)
from sclitmus.tasks.label_splits import ANNOTATORS, held_out_cells
from sclitmus.tasks.probe import predict


def _one_class(calls: np.ndarray) -> float:
    return float(len(np.unique(calls)) == 1)


COLLAPSED = Metric(
    id="collapsed",
    compute=_one_class,
    title="Collapsed",
    summary="Whether every test cell is called the same type; over seeds, the share of them.",
    bounds=(0.0, 1.0),
    direction="lower",
)


@dataclass(frozen=True)
class FineTuning:
    """The task.

    Parameters
    ----------
    test_share
        Share of the donors, or of each type's cells, that is tested, once. What training stops
        by is drawn from the other cells.
    """

    test_share: float = 0.3

    @property
    def card(self) -> TaskCard:
        return TaskCard(
            id="fine_tuning",
            question="Does pretraining matter when the model is trained on the labels?",
            headline="macro_f1",
            beside=("accuracy", "collapsed"),
            references=ANNOTATORS,
            needs=("label",),
            protocol="Annotator",
            arms=True,
            doi="10.1038/s42256-024-00949-w",
        )

    @property
    def metrics(self) -> Mapping[str, Metric]:
        mine = classification_metrics("", "")
        return {metric.id: metric for metric in (*mine, COLLAPSED, CONFUSION)}

    def splits(self, dataset: Dataset, rng: np.random.Generator) -> tuple[Split, ...]:
        """Hold cells out to test, by donors where they are known.

        Raises
        ------
        NotApplicable
            Without a label column, or with fewer than two types on both sides.
        """
        label = dataset.role("label").codes
        train, test = held_out_cells(dataset, self.test_share, rng)
        both = np.intersect1d(label[train], label[test])
        if len(both) < 2:
            raise NotApplicable(
                f"training needs two types with training and test cells; there are {len(both)}"
            )
        train, test = (rows[np.isin(label[rows], both)] for rows in (train, test))
        return (Split("all", test, train),)

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
            if mask.all():
                _, call = truth_and_call(dataset, split, answer, mask)
                values["collapsed", "dataset"] = _one_class(call)
            return values

        mine = {id: metric for id, metric in self.metrics.items() if id != CONFUSION.id}
        setting = Setting(mine, tuple(splits), tuple(answers))
        rows = scores_of(setting, valued, test_halves(dataset, splits, rng))
        if isinstance(answers[0], Absent):
            return [*rows, *absences([CONFUSION], answers[0])]
        return [*rows, *confusion_scores(CONFUSION, dataset, splits[0], answers[0])]
