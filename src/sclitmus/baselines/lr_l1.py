"""The simple rival of Boiarsky et al. 2024: L1 logistic regression, one against the rest."""

from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
from jaxtyping import Float64

from sclitmus.baselines.expression import Components, Expression, Markers, groups_of, labelled
from sclitmus.baselines.fitted import require_fitted
from sclitmus.core.dataset import Dataset
from sclitmus.core.method import MethodCard
from sclitmus.learning.sparse_logistic import fit_tuned
from sclitmus.learning.tuning import GRID, Tuned


@dataclass(frozen=True)
class Learned:
    """What was learned: the genes, the model, and the components distances are taken in."""

    expression: Expression
    tuned: Tuned
    components: Components


@dataclass(frozen=True, eq=False)
class LogisticL1:
    """L1 logistic regression, one against the rest, on log-normalised expression of all genes.

    C is chosen by cross-validation among `GRID`; with four cells per class or fewer it is 1. The
    probabilities are sigmoids divided by their sum.
    """

    learned: Learned | None = field(default=None, kw_only=True, repr=False)  # set by fit

    @property
    def card(self) -> MethodCard:
        return MethodCard(
            id="lr_l1",
            kind="baseline",
            part="bar",
            title="L1 logistic regression",
            summary="Sparse logistic regression, one against the rest, on all genes.",
            params={"grid": f"{GRID[0]:g} to {GRID[-1]:g}"},
            doi="10.1038/s42256-024-00949-w",
        )

    def fit(self, train: Dataset, rng: np.random.Generator) -> Self:
        """Choose C, across groups or donors where they are known, and fit on all cells.

        Raises
        ------
        NotApplicable
            With fewer than two classes.
        """
        label = labelled(train, self.card.id)
        expression = Expression.of(train)
        x = expression.read(train, self.card.id)
        codes = label.codes.astype(np.int64)
        tuned = fit_tuned(x, codes, len(label.names), groups_of(train), rng)
        return replace(self, learned=Learned(expression, tuned, Components.of(x)))

    def predict_scores(self, cells: Dataset) -> Float64[np.ndarray, "n_cells n_classes"]:
        learned = require_fitted(self.learned, self.card.id)
        return learned.tuned.scores(learned.expression.read(cells, self.card.id))

    def features(self, cells: Dataset) -> Float64[np.ndarray, "n_cells d"]:
        """Return the cells among the first principal components of the training cells."""
        learned = require_fitted(self.learned, self.card.id)
        return learned.components.read(learned.expression.read(cells, self.card.id))

    def markers(self, cells: Dataset) -> Markers:
        """Return the weight of each gene for each class."""
        learned = require_fitted(self.learned, self.card.id)
        return {"weights": learned.expression.by_gene(learned.tuned.model.weights.T)}

    def remarks(self, cells: Dataset) -> tuple[str, ...]:
        """Say where the choice of C, or the fit, is not to be trusted."""
        return require_fitted(self.learned, self.card.id).tuned.remarks
