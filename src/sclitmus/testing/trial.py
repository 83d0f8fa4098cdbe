"""A method under check, with the cells it is checked on."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float32

from sclitmus.core.dataset import Dataset
from sclitmus.core.method import CellEmbedder, MethodCard
from sclitmus.core.rng import rng_for

# Largest difference, relative to the embedding's standard deviation, that rounding explains:
# sums in another order on a GPU, in single precision.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Trial:
    """A method with its cells; the usual fit is made once."""

    method: CellEmbedder
    dataset: Dataset
    seed: int

    @property
    def card(self) -> MethodCard:
        return self.method.card

    @property
    def visible(self) -> Dataset:
        """The cells as the executor shows them."""
        return self.dataset if self.card.sees_labels else self.dataset.without("label")

    def fit(self, train: Dataset, seed: int | None = None) -> CellEmbedder:
        seed = self.seed if seed is None else seed
        return self.method.fit(train, rng_for(seed, "check", self.card.id))

    def fit_embed(self, cells: Dataset, seed: int | None = None) -> Float32[np.ndarray, "n d"]:
        return self.fit(cells, seed).embed(cells)

    @cached_property
    def fitted(self) -> CellEmbedder:
        return self.fit(self.visible)

    @cached_property
    def z(self) -> Float32[np.ndarray, "n_cells d"]:
        return np.array(self.fitted.embed(self.visible))

    def difference(self, a: np.ndarray, b: np.ndarray) -> float:
        """Largest difference, in standard deviations of the embedding."""
        if a.shape != b.shape:
            return float("inf")
        return float(np.abs(a - b).max(initial=0.0)) / (float(self.z.std()) or 1.0)
