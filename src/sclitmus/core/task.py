"""What a task is: a question with its splits, its probe, its metrics and its references."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from sclitmus.core.dataset import Dataset
from sclitmus.core.method import Annotator
from sclitmus.core.metric import Metric
from sclitmus.core.record import Absent, Score
from sclitmus.core.split import Replicate, Split


@dataclass(frozen=True)
class TaskCard:
    """What a task asks and how its answer is judged.

    Attributes
    ----------
    headline
        The metric the verdict is about.
    beside
        Metrics the report always shows next to the headline (the two sides of integration).
    references
        Methods that always run beside the user's, so that no score stands alone.
    needs
        Roles of the dataset without which the question makes no sense.
    margin
        Smallest difference of the headline that matters; within it two methods are equivalent.
    protocol
        What a method must provide: ``CellEmbedder`` where the embedding itself is scored,
        ``Annotator`` where labels are learned and predicted; an embedding becomes an annotator
        by the probe that is the same for all.
    arms
        Whether every foundation model named in a study takes part in all ways to train it.
    version
        Raised by hand when splits or scoring change; part of the cache key.
    """

    id: str
    question: str
    headline: str
    beside: tuple[str, ...]
    references: tuple[str, ...]
    needs: tuple[str, ...]
    margin: float = 0.02
    protocol: Literal["CellEmbedder", "Annotator"] = "CellEmbedder"
    arms: bool = False
    version: int = 1
    doi: str = ""


@dataclass(frozen=True)
class Outcome:
    """What a method answered on a split, with all it takes to score that: no method needed."""

    split: Split
    answer: Any


class Task(Protocol):
    """A question, the same for every method: it never learns which method it is looking at."""

    @property
    def card(self) -> TaskCard:
        """What is asked."""

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """The metrics `score` may return, by id."""

    def splits(self, dataset: Dataset, rng: np.random.Generator) -> tuple[Split, ...]:
        """Which cells, the same for every method.

        Raises
        ------
        NotApplicable
            If the question makes no sense for this dataset (one batch, one label …).
        """


@runtime_checkable
class ZeroShotTask(Task, Protocol):
    """A question about an embedding as it is.

    Its first split is the full data; the others, whose `weight` is above 0, are the replicates
    that estimate its uncertainty.
    """

    def run(
        self,
        embedding: Float32[np.ndarray, "n_cells d"],
        dataset: Dataset,
        split: Split,
        rng: np.random.Generator,
    ) -> Outcome:
        """Answer the question on one split. `rng` is the same for every method."""

    def score(self, outcome: Outcome) -> list[Score]:
        """Turn the answer into numbers; absence is a score with a reason."""


Answer = Mapping[str, np.ndarray]
"""What a method predicted on a split, as named arrays: stored, and scored again without it."""


@runtime_checkable
class LabelTask(Task, Protocol):
    """A question about labels that a method learned from some cells and predicts for others."""

    def answer(
        self,
        method: "Float32[np.ndarray, 'n_cells d'] | Annotator",
        dataset: Dataset,
        split: Split,
        rng: np.random.Generator,
    ) -> tuple[Answer, tuple[str, ...]]:
        """Let a method learn on a split and predict; return that, and its remarks.

        Parameters
        ----------
        method
            An annotator, or an embedding of all cells of the dataset, which the task's probe reads.
        rng
            The same for every method.
        """

    def replicates(
        self, dataset: Dataset, splits: Sequence[Split], rng: np.random.Generator
    ) -> tuple[Replicate, ...]:
        """Name the replicates that `score` gives scores of."""

    def score(
        self,
        dataset: Dataset,
        splits: Sequence[Split],
        answers: "Sequence[Answer | Absent]",
        rng: np.random.Generator,
    ) -> list[Score]:
        """Turn the answers on all splits into numbers: estimates and replicates.

        Parameters
        ----------
        answers
            One per split; why there is none where the method gave none.
        rng
            The stream that `replicates` was given.
        """
