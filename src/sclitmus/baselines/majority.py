"""The floor where labels are learned: every cell is called the commonest class."""

from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
from jaxtyping import Float64

from sclitmus.baselines.expression import labelled
from sclitmus.baselines.fitted import require_fitted
from sclitmus.core.dataset import Dataset
from sclitmus.core.method import MethodCard


@dataclass(frozen=True, eq=False)
class Majority:
    """The commonest class of the training cells, with its frequency as its probability."""

    logits: Float64[np.ndarray, "n_classes"] | None = field(default=None, kw_only=True, repr=False)

    @property
    def card(self) -> MethodCard:
        return MethodCard(
            id="majority",
            kind="control",
            part="floor",
            title="Majority class",
            summary="Calls every cell the commonest class of the training cells.",
        )

    def fit(self, train: Dataset, rng: np.random.Generator) -> Self:
        """Count the classes; `rng` is not used."""
        counts = labelled(train, self.card.id).counts
        return replace(self, logits=np.log(counts / counts.sum()))

    def predict_scores(self, cells: Dataset) -> Float64[np.ndarray, "n_cells n_classes"]:
        logits = require_fitted(self.logits, self.card.id)
        return np.tile(logits, (cells.n_cells, 1))
