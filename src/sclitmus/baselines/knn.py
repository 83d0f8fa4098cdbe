"""A simple rival where labels are learned: the classes of the nearest training cells."""

from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
from jaxtyping import Float32, Float64, Int64

from sclitmus.baselines.expression import groups_of, labelled
from sclitmus.baselines.fitted import require_fitted
from sclitmus.baselines.lognorm import MIN_CELLS, N_TOP_GENES, VariableGenes
from sclitmus.core.dataset import Dataset
from sclitmus.core.method import MethodCard
from sclitmus.learning.tuning import Choice, Fold, choose

GRID = (30.0, 15.0, 10.0, 5.0, 3.0, 1.0)  # neighbours, the smoothest first
A_PRIORI = 1.0
VOTE = 1e-2  # that every class has beforehand, so that no probability is 0


@dataclass(frozen=True)
class Neighbourhood:
    """What was learned: the genes, the training cells as unit vectors, and the choice of k."""

    genes: VariableGenes
    unit: Float32[np.ndarray, "n_train n_variable"]
    codes: Int64[np.ndarray, "n_train"]
    n_classes: int
    choice: Choice


@dataclass(frozen=True, eq=False)
class KNN:
    """Votes of the nearest cells by the cosine of log-normalised variable genes.

    The number of neighbours is chosen among `GRID` by cross-validation; with four cells per class
    or fewer it is one. Logits are the logarithms of the shares of the votes.
    """

    n_top_genes: int = N_TOP_GENES
    neighbourhood: Neighbourhood | None = field(default=None, kw_only=True, repr=False)  # by fit

    @property
    def card(self) -> MethodCard:
        return MethodCard(
            id="knn",
            kind="baseline",
            part="bar",
            title="k nearest neighbours",
            summary="Votes of the nearest training cells, by cosine of variable genes.",
            params={"n_top_genes": self.n_top_genes, "grid": " ".join(f"{k:g}" for k in GRID)},
        )

    def fit(self, train: Dataset, rng: np.random.Generator) -> Self:
        """Keep the cells and choose the number of neighbours.

        Raises
        ------
        NotApplicable
            With fewer than two classes.
        """
        label = labelled(train, self.card.id)
        genes = VariableGenes.of(train, MIN_CELLS, self.n_top_genes)
        unit = _unit(genes.expression(train, self.card.id).toarray())
        codes = label.codes.astype(np.int64)

        def accuracies(fold: Fold) -> Float64[np.ndarray, "n_settings"]:
            fit_rows, held = fold
            order = _nearest(unit[held], unit[fit_rows], int(max(GRID)))
            return np.array(
                [
                    (
                        _votes(codes[fit_rows], order[:, : int(k)], len(label.names)).argmax(axis=1)
                        == codes[held]
                    ).mean()
                    for k in GRID
                ]
            )

        choice = choose(codes, groups_of(train), rng, GRID, accuracies, A_PRIORI)
        learned = Neighbourhood(genes, unit, codes, len(label.names), choice)
        return replace(self, neighbourhood=learned)

    def predict_scores(self, cells: Dataset) -> Float64[np.ndarray, "n_cells n_classes"]:
        learned = require_fitted(self.neighbourhood, self.card.id)
        unit = _unit(learned.genes.expression(cells, self.card.id).toarray())
        k = int(learned.choice.value)
        votes = _votes(learned.codes, _nearest(unit, learned.unit, k), learned.n_classes)
        total = votes.sum(axis=1, keepdims=True) + VOTE * learned.n_classes
        return np.log((votes + VOTE) / total)

    def features(self, cells: Dataset) -> Float32[np.ndarray, "n_cells n_variable"]:
        """Return the unit vectors among which neighbours are found."""
        learned = require_fitted(self.neighbourhood, self.card.id)
        return _unit(learned.genes.expression(cells, self.card.id).toarray())


def _unit(x: Float32[np.ndarray, "n d"]) -> Float32[np.ndarray, "n d"]:
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(x / np.where(length > 0, length, 1.0), dtype=np.float32)


def _nearest(
    x: Float32[np.ndarray, "n d"], train: Float32[np.ndarray, "n_train d"], k: int
) -> Int64[np.ndarray, "n k"]:
    """Return the training cells with the largest cosine, nearest first; of equal ones the first."""
    blocks = []
    for start in range(0, len(x), 4096):
        cosine = x[start : start + 4096] @ train.T
        blocks.append(np.argsort(-cosine, axis=1, kind="stable")[:, :k])
    empty = np.empty((0, k), dtype=np.int64)
    found: np.ndarray = np.concatenate(blocks) if blocks else empty
    return found


def _votes(
    codes: Int64[np.ndarray, "n_train"], nearest: Int64[np.ndarray, "n k"], n_classes: int
) -> Float64[np.ndarray, "n n_classes"]:
    votes = np.zeros((len(nearest), n_classes))
    rows = np.arange(len(nearest))
    for column in codes[nearest].T:
        votes[rows, column] += 1.0
    return votes
