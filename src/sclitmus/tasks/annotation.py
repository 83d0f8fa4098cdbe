"""How well do labels transfer from few labelled cells, from more of them, and from all?

Cells to learn from and cells to test never share a donor, where donors are known. The test cells
stay the same from one cell per type to all of them; the few cells are drawn many times, the same
for every method, and a draw of eight cells contains the draw of four. No source had such a design
(Boiarsky et al. 2024, doi:10.1038/s42256-024-00949-w, drew 10% and more, unpaired; the reply asked
for 16 cells and fewer, and drew none).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from sclitmus.core.dataset import Dataset
from sclitmus.core.method import Annotator
from sclitmus.core.metric import Metric
from sclitmus.core.record import Absent, Score
from sclitmus.core.split import Replicate, Split
from sclitmus.core.task import Answer, TaskCard
from sclitmus.errors import NotApplicable, TaskError
from sclitmus.tasks.halves import test_halves
from sclitmus.tasks.label_metrics import CONFUSION, classification_metrics
from sclitmus.tasks.label_scores import (
    Setting,
    Values,
    absences,
    classified,
    confusion_scores,
    draw_replicates,
    mean_over,
    scores_of,
)
from sclitmus.tasks.label_splits import ANNOTATORS, held_out_cells, share_of_each, shuffled_by_type
from sclitmus.tasks.probe import predict

ALL_CELLS = "all"


@dataclass(frozen=True)
class Annotation:
    """The task.

    Parameters
    ----------
    shots
        Numbers of training cells per type.
    draws
        Random draws of each of them.
    fractions
        Shares of the training cells, taken from each type alike.
    repeats
        Random draws of each of them.
    test_share
        Share of the donors, or of each type's cells, that is held out.
    """

    shots: tuple[int, ...] = (1, 2, 4, 8, 16)
    draws: int = 20
    fractions: tuple[float, ...] = (0.1, 0.25, 0.5, 0.75)
    repeats: int = 5
    test_share: float = 0.3

    def __post_init__(self) -> None:
        object.__setattr__(self, "shots", tuple(self.shots))  # a study file gives lists
        object.__setattr__(self, "fractions", tuple(self.fractions))
        numbers = (*self.shots, self.draws, self.repeats)
        if (
            not all(isinstance(n, int) and n >= 1 for n in numbers)
            or not all(0 < f < 1 for f in (*self.fractions, self.test_share))
            or len(self.settings) < len(self.shots) + len(self.fractions) + 1  # one twice
        ):
            raise TaskError(
                f"annotation with shots {self.shots}, draws {self.draws}, fractions "
                f"{self.fractions}, repeats {self.repeats}, test_share {self.test_share}",
                "different whole numbers of cells, 1 or more draws, and different shares in 0 to 1",
                "for example shots = [1, 4, 16], fractions = [0.1, 0.5]",
            )

    @property
    def card(self) -> TaskCard:
        few = "few" if self.shots else ALL_CELLS
        return TaskCard(
            id="annotation",
            question="How well do labels transfer from few labelled cells, and from all?",
            headline=f"macro_f1.{few}",
            beside=tuple(f"macro_f1.{name}" for name in self.settings),
            references=ANNOTATORS,
            needs=("label",),
            protocol="Annotator",
            doi="10.1038/s42256-024-00949-w",
        )

    @property
    def settings(self) -> Mapping[str, str]:
        """Name of each setting -> what it is, in words."""
        words = {f"k{k}": f"{k} cell{'s' if k > 1 else ''} per type" for k in self.shots}
        words |= {f"p{100 * f:g}": f"{100 * f:g}% of the training cells" for f in self.fractions}
        return words | {ALL_CELLS: "all training cells"}

    @property
    def metrics(self) -> Mapping[str, Metric]:
        table = {
            metric.id: metric
            for name, words in self.settings.items()
            for metric in classification_metrics(f".{name}", f", {words}")
        }
        table[CONFUSION.id] = CONFUSION
        if self.shots:
            words = f", mean over {_listed(self.shots)} cells per type"
            few = {metric.id: metric for metric in classification_metrics(".few", words)}
            table["macro_f1.few"] = few["macro_f1.few"]
        return table

    def splits(self, dataset: Dataset, rng: np.random.Generator) -> tuple[Split, ...]:
        """Hold cells out to test; draw cells to learn from among the others.

        A type takes part in a setting if it has that many training cells, and a test cell.

        Raises
        ------
        NotApplicable
            Without a label column, or with fewer than two types on both sides.
        """
        label = dataset.role("label")
        train, test = held_out_cells(dataset, self.test_share, rng)
        both = np.intersect1d(label.codes[train], label.codes[test])
        if len(both) < 2:
            raise NotApplicable(
                f"learning labels needs two types with training and test cells; there are "
                f"{len(both)}"
            )
        train, test = (rows[np.isin(label.codes[rows], both)] for rows in (train, test))
        splits = []
        orders = [shuffled_by_type(label.codes[train], rng) for _ in range(self.draws)]
        n_of = np.bincount(label.codes[train], minlength=len(label.names))
        for k in self.shots:
            types = np.flatnonzero(n_of >= k)
            if len(types) >= 2:
                splits += [
                    self._split(f"k{k}", i, train[order.first(k, types)], test, types, label.codes)
                    for i, order in enumerate(orders)
                ]
        for fraction in self.fractions:
            for i in range(self.repeats):
                rows = train[share_of_each(label.codes[train], fraction, rng)]
                splits.append(self._split(f"p{100 * fraction:g}", i, rows, test, both, label.codes))
        return (*splits, Split(ALL_CELLS, test, train, setting=ALL_CELLS))

    def _split(
        self,
        setting: str,
        i: int,
        train: Int64[np.ndarray, "n_train"],
        test: Int64[np.ndarray, "n_test"],
        types: Int64[np.ndarray, "n_types"],
        codes: np.ndarray,
    ) -> Split:
        tested = test[np.isin(codes[test], types)]
        return Split(f"{setting}-{i + 1:02d}", tested, np.sort(train), setting=setting)

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
        halves = (half.replicate for half in test_halves(dataset, splits, rng))
        sizes = [sum(s.setting == name for s in splits) for name in self.settings]
        return (*halves, *draw_replicates(sizes))

    def score(
        self,
        dataset: Dataset,
        splits: Sequence[Split],
        answers: Sequence[Answer | Absent],
        rng: np.random.Generator,
    ) -> list[Score]:
        def valued(split: Split, answer: Answer, mask: np.ndarray) -> Values:
            return classified(dataset, split, answer, mask)

        halves = test_halves(dataset, splits, rng)
        metrics = self.metrics
        rows: list[Score] = []
        for name in self.settings:
            asked = [(s, a) for s, a in zip(splits, answers, strict=True) if s.setting == name]
            suffix = f".{name}"
            mine = {
                id.removesuffix(suffix): metric
                for id, metric in metrics.items()
                if id.endswith(suffix)
            }
            if not asked:
                reason = "fewer than two types have that many training cells"
                rows += absences(mine.values(), Absent("not_applicable", reason))
                continue
            setting = Setting(
                mine,
                tuple(split for split, _ in asked),
                tuple(answer for _, answer in asked),
                drawn=len(asked) > 1,
                note=_left_out(dataset, [split for split, _ in asked]),
            )
            rows += scores_of(setting, valued, halves)
        rows += _confusion(dataset, splits, answers)
        if self.shots:
            of = [f"macro_f1.k{k}" for k in self.shots]
            rows += mean_over(rows, of, metrics["macro_f1.few"])
        return rows


def _confusion(
    dataset: Dataset, splits: Sequence[Split], answers: Sequence[Answer | Absent]
) -> list[Score]:
    """Say what each type was taken for, learned from all training cells."""
    for split, answer in zip(splits, answers, strict=True):
        if split.setting == ALL_CELLS:
            if isinstance(answer, Absent):
                return absences([CONFUSION], answer)
            return confusion_scores(CONFUSION, dataset, split, answer)
    reason = "no split learns from all training cells"
    return absences([CONFUSION], Absent("not_applicable", reason))


def _left_out(dataset: Dataset, mine: Sequence[Split]) -> str:
    """Name the labelled types that these splits do not test."""
    label = dataset.role("label")
    tested = np.unique(np.concatenate([label.codes[split.test] for split in mine]))
    lacking = np.setdiff1d(label.codes[label.codes >= 0], tested)
    if not len(lacking):
        return ""
    names = ", ".join(label.names[code] for code in lacking[:5])
    more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
    what = "1 type lacks" if len(lacking) == 1 else f"{len(lacking)} types lack"
    return f"{what} cells to learn from or to test and cannot take part: {names}{more}"


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(str(n) for n in numbers)
