"""A simple rival where labels are learned: how much a cell expresses of each class's markers."""

from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
from jaxtyping import Float64, Int64
from scipy import sparse

from sclitmus.baselines.expression import Expression, Markers, labelled
from sclitmus.baselines.fitted import require_fitted
from sclitmus.core.dataset import Categories, Dataset
from sclitmus.core.method import MethodCard

N_MARKERS = 50  # genes per class
# Classes whose scores differ by it differ e-fold in probability; set as in `nearest_centroid`.
TEMPERATURE = 0.15
SOFTENING = 0.1  # added to a gene's spread, so that genes that hardly vary are not the best


@dataclass(frozen=True)
class Learned:
    """What was learned: scale of each gene, effect sizes, and the markers of each class."""

    expression: Expression
    mean: Float64[np.ndarray, "n_seen"]
    spread: Float64[np.ndarray, "n_seen"]
    effect: Float64[np.ndarray, "n_classes n_seen"]
    markers: Int64[np.ndarray, "n_classes n_markers"]


@dataclass(frozen=True, eq=False)
class MarkerScore:
    """Mean standardised expression of the genes that are highest in a class beside the others.

    A gene's effect is the difference of its mean log expression in the class and in the other
    classes, each class counted once, over its spread among all training cells.
    """

    n_markers: int = N_MARKERS
    learned: Learned | None = field(default=None, kw_only=True, repr=False)  # set by fit

    @property
    def card(self) -> MethodCard:
        return MethodCard(
            id="marker_score",
            kind="baseline",
            part="bar",
            title="Marker score",
            summary="Mean standardised expression of each class's marker genes.",
            params={"n_markers": self.n_markers, "temperature": TEMPERATURE},
        )

    def fit(self, train: Dataset, rng: np.random.Generator) -> Self:
        """Find the markers of each class; `rng` is not used.

        Raises
        ------
        NotApplicable
            With fewer than two classes.
        """
        label = labelled(train, self.card.id)
        expression = Expression.of(train)
        x = expression.read(train, self.card.id)
        mean = np.asarray(x.mean(axis=0), dtype=np.float64).ravel()
        square = np.asarray(x.multiply(x).mean(axis=0), dtype=np.float64).ravel()
        spread = np.sqrt(np.maximum(square - mean**2, 0.0)) + SOFTENING
        of_class = _means(x, label)
        n = len(of_class)
        others = (of_class.sum(axis=0) - of_class) / (n - 1)
        effect = (of_class - others) / spread
        first = np.argsort(-effect, axis=1, kind="stable")[:, : self.n_markers]
        return replace(self, learned=Learned(expression, mean, spread, effect, first))

    def predict_scores(self, cells: Dataset) -> Float64[np.ndarray, "n_cells n_classes"]:
        learned = require_fitted(self.learned, self.card.id)
        x = learned.expression.read(cells, self.card.id)
        n_classes, n_markers = learned.markers.shape
        share = 1.0 / (learned.spread[learned.markers] * n_markers * TEMPERATURE)
        columns = np.repeat(np.arange(n_classes), n_markers)
        weights = sparse.csr_matrix(
            (share.ravel(), (learned.markers.ravel(), columns)), shape=(x.shape[1], n_classes)
        )
        return np.asarray((x @ weights).toarray() - learned.mean @ weights, dtype=np.float64)

    def markers(self, cells: Dataset) -> Markers:
        """Return the effect size of each gene in each class."""
        learned = require_fitted(self.learned, self.card.id)
        return {"weights": learned.expression.by_gene(learned.effect)}


def _means(x: sparse.csr_matrix, label: Categories) -> Float64[np.ndarray, "n_classes n_seen"]:
    member = sparse.csr_matrix(
        (1.0 / label.counts[label.codes], (label.codes, np.arange(x.shape[0]))),
        shape=(len(label.names), x.shape[0]),
    )
    return np.asarray((member @ x).toarray(), dtype=np.float64)
