"""The stricter floor: log-normalised counts through a random matrix, nothing learned.

A random projection keeps distances roughly (Johnson and Lindenstrauss 1984), so most of what a
geometric score finds in the data it finds here too. A model below it has lost what it was given.
"""

from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
from jaxtyping import Float32

from sclitmus.baselines.fitted import require_fitted, require_same_genes
from sclitmus.baselines.lognorm import log_normalised, totals
from sclitmus.core.dataset import Dataset, Genes
from sclitmus.core.method import MethodCard


@dataclass(frozen=True)
class Projection:
    """The genes and the matrix that maps them."""

    genes: Genes
    matrix: Float32[np.ndarray, "n_genes d"]


@dataclass(frozen=True, eq=False)
class RandomProjection:
    """Log-normalised counts of all genes times a Gaussian matrix.

    Parameters
    ----------
    n_components
        Dimensions of the result.
    """

    n_components: int = 50
    projection: Projection | None = field(default=None, kw_only=True, repr=False)  # set by fit

    @property
    def card(self) -> MethodCard:
        return MethodCard(
            id="random_projection",
            kind="control",
            part="floor",
            title="Random projection",
            summary="Log-normalised counts of all genes through a random Gaussian matrix.",
            deterministic=False,
            params={"n_components": self.n_components},
            doi="10.1090/conm/026/737400",
        )

    def fit(self, train: Dataset, rng: np.random.Generator) -> Self:
        """Draw the matrix, N(0, 1 / n_components), which keeps squared distances on average."""
        matrix = rng.standard_normal((train.n_genes, self.n_components), dtype=np.float32)
        matrix /= np.float32(np.sqrt(self.n_components))
        return replace(self, projection=Projection(train.genes, matrix))

    def embed(self, cells: Dataset) -> Float32[np.ndarray, "n_cells d"]:
        projection = require_fitted(self.projection, self.card.id)
        require_same_genes(projection.genes, cells, self.card.id)
        everything = np.arange(cells.n_genes)
        x = log_normalised(cells.counts, everything, totals(cells.counts, everything))
        return np.asarray(x @ projection.matrix, dtype=np.float32)
