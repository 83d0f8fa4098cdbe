"""Choosing a setting by cross-validation, whole groups apart where there are any."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float64, Int64, Integer

from sclitmus.metrics.parallel import on_threads

GRID = tuple(10.0**power for power in range(-4, 5))
"""Wide: on published sets the best was from 0.1 to 10,000 (doi:10.1038/s42256-024-00949-w)."""
A_PRIORI = 1.0  # where there are too few cells to choose by
FEW = 4  # cells of a class: where none has more, nothing is tuned
N_FOLDS = 5

Fold = tuple[Int64[np.ndarray, "n_fit"], Int64[np.ndarray, "n_held"]]


class Model(Protocol):
    """What a solver finds: weights by class that make logits."""

    @property
    def weights(self) -> Float64[np.ndarray, "n_features n_classes"]: ...

    @property
    def intercept(self) -> Float64[np.ndarray, "n_classes"]: ...

    @property
    def converged(self) -> bool:
        """Whether the solver reached its tolerance."""
        ...

    def scores(self, x: Any) -> Float64[np.ndarray, "n n_classes"]:
        """Return logits."""
        ...


@dataclass(frozen=True)
class Choice:
    """What was chosen, and from what.

    Attributes
    ----------
    value
        The setting.
    scores
        For each setting tried, the share of the cells that are called rightly when held out;
        empty where nothing was tuned.
    on_edge
        Whether the best setting is the smallest or the largest tried.
    """

    value: float
    scores: tuple[float, ...] = ()
    on_edge: bool = False

    def remark(self, grid: Sequence[float], name: str = "C") -> tuple[str, ...]:
        """Say that the best setting lies on the edge of those tried, if so."""
        if not self.on_edge:
            return ()
        return (f"{name} = {self.value:g} is the edge of the grid {grid[0]:g} … {grid[-1]:g}",)


@dataclass(frozen=True)
class Tuned:
    """A model with the C that cross-validation chose from a grid."""

    model: Model
    choice: Choice
    grid: tuple[float, ...] = GRID

    def scores(self, x: Any) -> Float64[np.ndarray, "n n_classes"]:
        """Return logits."""
        return self.model.scores(x)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a reader must know: the edge of the grid, a fit that did not converge."""
        stopped = f"the fit at C = {self.choice.value:g} stopped before it reached its tolerance"
        return (*self.choice.remark(self.grid), *(() if self.model.converged else (stopped,)))


def folds(
    y: Integer[np.ndarray, "n"],
    groups: Integer[np.ndarray, "n"] | None,
    rng: np.random.Generator,
    n_folds: int = N_FOLDS,
) -> tuple[Fold, ...]:
    """Divide cells into parts, each held out once, with a like share of every class.

    With two groups or more, no group is in two parts. Cells without a group (code -1) are one.
    """
    n = len(y)
    shuffled = rng.permutation(n)
    if groups is None or len(np.unique(groups)) < 2:
        n_parts, part = min(n_folds, n), np.empty(n, dtype=np.int64)
        # Dealt one by one, class after class: parts differ by one cell of a class at most.
        part[shuffled[np.argsort(y[shuffled], kind="stable")]] = np.arange(n) % n_parts
    else:
        code = np.unique(groups, return_inverse=True)[1]
        n_parts = min(n_folds, int(code.max()) + 1)
        part = _whole_groups(y, code, rng.permutation(int(code.max()) + 1), n_parts)[code]
    return tuple((np.flatnonzero(part != i), np.flatnonzero(part == i)) for i in range(n_parts))


def _whole_groups(
    y: Integer[np.ndarray, "n"],
    group: Int64[np.ndarray, "n"],
    order: Int64[np.ndarray, "n_groups"],
    n_parts: int,
) -> Int64[np.ndarray, "n_groups"]:
    """Put each group, largest first, where there is least of its classes, else fewest cells."""
    counts = np.zeros((len(order), int(y.max()) + 1))
    np.add.at(counts, (group, y), 1)
    share = counts / np.maximum(counts.sum(axis=0), 1)
    held, part = np.zeros((n_parts, share.shape[1])), np.empty(len(order), dtype=np.int64)
    size = np.zeros(n_parts)
    for g in order[np.argsort(-counts[order].sum(axis=1), kind="stable")]:
        part[g] = min(range(n_parts), key=lambda i: (held[i] @ share[g], size[i]))
        held[part[g]] += share[g]
        size[part[g]] += counts[g].sum()
    return part


def choose(
    y: Integer[np.ndarray, "n"],
    groups: Integer[np.ndarray, "n"] | None,
    rng: np.random.Generator,
    grid: Sequence[float],
    accuracies: Callable[[Fold], Float64[np.ndarray, "n_settings"]],
    a_priori: float = A_PRIORI,
    threads: int | None = 1,
) -> Choice:
    """Choose the setting that calls most held-out cells rightly; of equal ones, the first.

    Accuracy, as in the published comparisons; every cell counts once, in whichever fold. The grid
    runs from the strongest penalty to the weakest, so that the stronger wins a tie. Where no class
    has more than `FEW` cells, the setting given beforehand is taken: too little can be held out.

    Parameters
    ----------
    accuracies
        Accuracy on the held-out part of a fold, for each setting.
    threads
        How many folds are done at once; None for as many as there are cores.
    """
    if np.bincount(y).max() <= FEW:
        return Choice(a_priori)
    parts = folds(y, groups, rng)
    size = np.array([len(held) for _, held in parts])
    # Whole numbers of cells, so that equal settings are equal to the last digit.
    total = np.rint(size @ np.array(on_threads(accuracies, parts, threads)))
    best = int(np.argmax(total))
    # A plateau that reaches into the grid is no edge: stronger penalties do as well.
    on_edge = int((total == total[best]).sum()) == 1 and best in (0, len(grid) - 1)
    return Choice(float(grid[best]), tuple(map(float, total / size.sum())), on_edge)
