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
from sclitmus.metrics.parallel import on_threads, row_blocks

GRID = (30.0, 15.0, 10.0, 5.0, 3.0, 1.0)  # neighbours, the smoothest first
A_PRIORI = 1.0
FEW_CELLS = 100  # the variance of a gene among fewer is mostly noise: all genes are read
MAX_HELD = 4096  # cells per fold that the choice of k is made on, evenly spaced
QUERIES = 512  # cells compared with all training cells at once
TRIFLE = 1e-6
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
    or fewer it is one. Logits are ``log((votes + 0.01) / (k + 0.01 * n_classes))``.
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
        few = train.n_cells < FEW_CELLS
        n_genes = train.n_genes if few else self.n_top_genes
        genes = VariableGenes.of(train, MIN_CELLS, n_genes)
        unit = _unit(genes.expression(train, self.card.id).toarray())
        codes = label.codes.astype(np.int64)

        def accuracies(fold: Fold) -> Float64[np.ndarray, "n_settings"]:
            fit_rows, held = fold
            step = -(-len(held) // MAX_HELD)
            order = _nearest(unit[held[::step]], unit[fit_rows], int(max(GRID)))
            votes = (_votes(codes[fit_rows], order[:, : int(k)], len(label.names)) for k in GRID)
            return np.array([(v.argmax(axis=1) == codes[held[::step]]).mean() for v in votes])

        choice = choose(codes, groups_of(train), rng, GRID, accuracies, A_PRIORI)
        learned = Neighbourhood(genes, unit, codes, len(label.names), choice)
        return replace(self, neighbourhood=learned)

    def predict_scores(self, cells: Dataset) -> Float64[np.ndarray, "n_cells n_classes"]:
        learned = require_fitted(self.neighbourhood, self.card.id)
        unit = _unit(learned.genes.expression(cells, self.card.id).toarray())
        k = int(learned.choice.value)
        votes = _votes(learned.codes, _nearest(unit, learned.unit, k), learned.n_classes)
        total = votes.sum(axis=1, keepdims=True) + VOTE * learned.n_classes
        return np.asarray(np.log((votes + VOTE) / total), dtype=np.float64)

    def remarks(self, cells: Dataset) -> tuple[str, ...]:
        """Say where the choice of k lies on the edge of those tried."""
        return require_fitted(self.neighbourhood, self.card.id).choice.remark(GRID, "k")

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
    k = min(k, len(train))

    def search(rows: slice) -> Int64[np.ndarray, "n_rows k"]:
        far = -(x[rows] @ train.T)
        nearest = np.sort(np.argpartition(far, k - 1, axis=1)[:, :k], axis=1)
        order = np.argsort(np.take_along_axis(far, nearest, axis=1), axis=1, kind="stable")
        return np.take_along_axis(nearest, order, axis=1)

    blocks = on_threads(search, row_blocks(len(x), QUERIES))
    return np.concatenate([np.empty((0, k), dtype=np.int64), *blocks])


def _votes(
    codes: Int64[np.ndarray, "n_train"], nearest: Int64[np.ndarray, "n k"], n_classes: int
) -> Float64[np.ndarray, "n n_classes"]:
    """Count the neighbours of each class; a nearer one counts a trifle more, which breaks ties."""
    votes = np.zeros((len(nearest), n_classes))
    rows = np.arange(len(nearest))
    for rank, column in enumerate(codes[nearest].T):
        votes[rows, column] += 1.0 - TRIFLE * rank
    return votes
