"""What a task is: a question with its splits, its probe, its metrics and its references."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from sclitmus.core.dataset import Dataset
from sclitmus.core.metric import Metric
from sclitmus.core.record import Score
from sclitmus.core.split import Split


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
        What a method must provide; ``CellEmbedder`` for zero-shot tasks.
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
    protocol: Literal["CellEmbedder"] = "CellEmbedder"
    version: int = 1
    doi: str = ""


@dataclass(frozen=True)
class Outcome:
    """What a method answered on a split, with all it takes to score that: no method needed."""

    split: Split
    answer: Any


@runtime_checkable
class Task(Protocol):
    """A question, the same for every method: it never learns which method it is looking at."""

    @property
    def card(self) -> TaskCard:
        """What is asked."""

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """The metrics `score` may return, by id."""

    def splits(self, dataset: Dataset, rng: np.random.Generator) -> tuple[Split, ...]:
        """Which cells; the first split is the full data, the others estimate its uncertainty.

        Raises
        ------
        NotApplicable
            If the question makes no sense for this dataset (one batch, one label …).
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
