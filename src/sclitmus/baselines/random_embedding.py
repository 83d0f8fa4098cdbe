"""The floor: a vector of noise per cell, which knows nothing of its expression."""

from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
from jaxtyping import Float32

from sclitmus.baselines.fitted import require_fitted
from sclitmus.baselines.noise import cell_noise
from sclitmus.core.dataset import Dataset
from sclitmus.core.method import MethodCard


@dataclass(frozen=True, eq=False)
class RandomEmbedding:
    """Independent N(0, 1) numbers, the same for a cell whichever cells are beside it.

    Parameters
    ----------
    n_components
        Dimensions; 50 as PCA has, because chance scores depend on the dimension.
    """

    n_components: int = 50
    seed: int | None = field(default=None, kw_only=True, repr=False)  # set by fit

    @property
    def card(self) -> MethodCard:
        return MethodCard(
            id="random_embedding",
            kind="control",
            part="floor",
            title="Random embedding",
            summary="Gaussian noise that does not depend on the data.",
            deterministic=False,
            params={"n_components": self.n_components},
        )

    def fit(self, train: Dataset, rng: np.random.Generator) -> Self:
        """Draw the seed; the cells are not looked at."""
        return replace(self, seed=int(rng.integers(2**63)))

    def embed(self, cells: Dataset) -> Float32[np.ndarray, "n_cells d"]:
        seed = require_fitted(self.seed, self.card.id)
        return cell_noise(seed, cells.cells, self.n_components).astype(np.float32)
