"""How well hidden genes are predicted, beside what averages predict: sums per cell, then skill."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Float64, Int64

CONFIDENT = 1.959964  # standard errors of a 95 % interval
NEGLIGIBLE = 1e-6  # loss per cell: nothing is left to improve
LEAST_SKILL = 0.01  # a model that takes less than so much off the mean's loss has not beaten it


@dataclass(frozen=True)
class PerCell:
    """Sums over the hidden genes of each cell.

    Attributes
    ----------
    n
        Number of hidden genes.
    sums
        Measure -> sum.
    """

    n: Int64[np.ndarray, "n_cells"]
    sums: Mapping[str, Float64[np.ndarray, "n_cells"]]

    @classmethod
    def of(
        cls, cell: Int64[np.ndarray, "n_masked"], n_cells: int, values: Mapping[str, np.ndarray]
    ) -> Self:
        """Add up what is measured of hidden genes, each of which is of a cell."""
        n = np.bincount(cell, minlength=n_cells)
        sums = {name: np.bincount(cell, weights=x, minlength=n_cells) for name, x in values.items()}
        return cls(n, sums)

    def mean(self, measure: str) -> float:
        """Return the mean over all hidden genes."""
        return float(self.sums[measure].sum() / max(1, self.n.sum()))

    @property
    def means(self) -> dict[str, float]:
        return {name: self.mean(name) for name in self.sums}


def together(parts: Iterable[PerCell]) -> PerCell:
    """Put cells one behind the other."""
    parts = list(parts)
    sums = {name: np.concatenate([part.sums[name] for part in parts]) for name in parts[0].sums}
    return PerCell(np.concatenate([part.n for part in parts]), sums)


@dataclass(frozen=True)
class Skill:
    """1 - loss / loss of a baseline, with its 95 % interval over cells.

    With squared errors, R² against the baseline; with cross-entropies, McFadden's.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"skill {self.value:.3f} (95 % interval {self.low:.3f} to {self.high:.3f})"


def skill(
    losses: Float64[np.ndarray, "n_cells"], baseline: Float64[np.ndarray, "n_cells"]
) -> Skill | None:
    """Compare sums of losses per cell; None where the baseline makes next to no error.

    The interval is that of a ratio of sums, by the delta method, with cells as its units.
    """
    total = float(baseline.sum())
    if total <= NEGLIGIBLE * len(losses):
        return None
    ratio = float(losses.sum()) / total
    n = len(losses)
    spread = losses - ratio * baseline
    error = math.sqrt(float(spread @ spread) * n / max(1, n - 1)) / total
    return Skill(1 - ratio, 1 - ratio - CONFIDENT * error, 1 - ratio + CONFIDENT * error)
