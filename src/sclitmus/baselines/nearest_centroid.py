"""A simple rival where labels are learned: the class whose mean expression is the most alike."""

from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
from jaxtyping import Float64

from sclitmus.baselines.expression import Expression, labelled
from sclitmus.baselines.fitted import require_fitted
from sclitmus.core.dataset import Dataset
from sclitmus.core.method import MethodCard

# Classes whose cosines differ by it differ e-fold in probability. Set once, on four annotated sets
# with 1 to all cells per class: between the values of least log loss, 0.005 to 0.1.
TEMPERATURE = 0.02


@dataclass(frozen=True)
class Centroids:
    """What was learned: the genes, and the unit vector of each class."""

    expression: Expression
    unit: Float64[np.ndarray, "n_classes n_seen"]


@dataclass(frozen=True, eq=False)
class NearestCentroid:
    """Cosine similarity of log-normalised expression to the mean of each class."""

    centroids: Centroids | None = field(default=None, kw_only=True, repr=False)  # set by fit

    @property
    def card(self) -> MethodCard:
        return MethodCard(
            id="nearest_centroid",
            kind="baseline",
            part="bar",
            title="Nearest centroid",
            summary="The class whose mean log-normalised expression has the largest cosine.",
            params={"temperature": TEMPERATURE},
        )

    def fit(self, train: Dataset, rng: np.random.Generator) -> Self:
        """Average each class; `rng` is not used.

        Raises
        ------
        NotApplicable
            With fewer than two classes.
        """
        label = labelled(train, self.card.id)
        expression = Expression.of(train)
        x = expression.read(train, self.card.id)
        means = np.stack(
            [
                np.asarray(x[label.codes == code].mean(axis=0), dtype=np.float64).ravel()
                for code in range(len(label.names))
            ]
        )
        length = np.linalg.norm(means, axis=1, keepdims=True)
        unit = means / np.where(length > 0, length, 1.0)
        return replace(self, centroids=Centroids(expression, unit))

    def predict_scores(self, cells: Dataset) -> Float64[np.ndarray, "n_cells n_classes"]:
        learned = require_fitted(self.centroids, self.card.id)
        x = learned.expression.read(cells, self.card.id)
        length = np.sqrt(np.asarray(x.multiply(x).sum(axis=1)).ravel())
        cosine = np.asarray(x @ learned.unit.T) / np.where(length > 0, length, 1.0)[:, None]
        return np.asarray(cosine / TEMPERATURE, dtype=np.float64)
