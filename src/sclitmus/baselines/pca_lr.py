"""A simple rival where labels are learned: logistic regression on principal components."""

from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
from jaxtyping import Float64

from sclitmus.baselines.expression import Components, Expression, groups_of, labelled
from sclitmus.baselines.fitted import require_fitted
from sclitmus.core.dataset import Dataset
from sclitmus.core.method import MethodCard
from sclitmus.learning.logistic import fit_tuned
from sclitmus.learning.tuning import GRID, Tuned


@dataclass(frozen=True)
class Learned:
    """What was learned: the genes, the components and their scale, and the model."""

    expression: Expression
    components: Components
    spread: float
    tuned: Tuned


@dataclass(frozen=True, eq=False)
class PCALogistic:
    """Multinomial logistic regression on components of the training cells alone.

    The PCA method with the task's probe differs: it is fitted to all cells, unlabelled ones too.
    """

    learned: Learned | None = field(default=None, kw_only=True, repr=False)  # set by fit

    @property
    def card(self) -> MethodCard:
        return MethodCard(
            id="pca_lr",
            kind="baseline",
            part="bar",
            title="PCA and logistic regression",
            summary="L2 logistic regression on 50 principal components of the training cells.",
            params={"grid": f"{GRID[0]:g} to {GRID[-1]:g}"},
        )

    def fit(self, train: Dataset, rng: np.random.Generator) -> Self:
        """Find the components, choose C and fit.

        Raises
        ------
        NotApplicable
            With fewer than two classes.
        """
        label = labelled(train, self.card.id)
        expression = Expression.of(train)
        x = expression.read(train, self.card.id)
        components = Components.of(x)
        z = components.read(x)
        spread = float(np.sqrt(np.square(z).mean())) or 1.0
        codes = label.codes.astype(np.int64)
        tuned = fit_tuned(z / spread, codes, len(label.names), groups_of(train), rng)
        return replace(self, learned=Learned(expression, components, spread, tuned))

    def predict_scores(self, cells: Dataset) -> Float64[np.ndarray, "n_cells n_classes"]:
        learned = require_fitted(self.learned, self.card.id)
        return learned.tuned.scores(self.features(cells) / learned.spread)

    def features(self, cells: Dataset) -> Float64[np.ndarray, "n_cells d"]:
        """Return the components of cells."""
        learned = require_fitted(self.learned, self.card.id)
        return learned.components.read(learned.expression.read(cells, self.card.id))

    def remarks(self, cells: Dataset) -> tuple[str, ...]:
        """Say where the choice of C, or the fit, is not to be trusted."""
        return require_fitted(self.learned, self.card.id).tuned.remarks
