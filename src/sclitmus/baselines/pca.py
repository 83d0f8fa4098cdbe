"""The bar most analyses start from: principal components of variable genes.

Genes are centred and not scaled to unit variance. scanpy's current tutorial does not scale, nor
does the HVG baseline of Kedzierska et al. 2025, and scaling gives a gene that is almost noise
the weight of a marker.
"""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

import numpy as np
from jaxtyping import Float32

from sclitmus.baselines.fitted import require_fitted
from sclitmus.baselines.lognorm import MIN_CELLS, N_TOP_GENES, VariableGenes
from sclitmus.core.dataset import Dataset
from sclitmus.core.method import MethodCard
from sclitmus.errors import NotApplicable

if TYPE_CHECKING:
    from sklearn import decomposition


@dataclass(frozen=True)
class Components:
    """The genes and the fitted decomposition."""

    genes: VariableGenes
    pca: "decomposition.PCA"


@dataclass(frozen=True, eq=False)
class PCA:
    """Principal components of log-normalised variable genes.

    Parameters
    ----------
    n_components
        Dimensions; fewer where there are not more cells and genes than that.
    n_top_genes, min_cells
        As for `HVG`.
    """

    n_components: int = 50
    n_top_genes: int = N_TOP_GENES
    min_cells: int = MIN_CELLS
    components: Components | None = field(default=None, kw_only=True, repr=False)  # set by fit

    @property
    def card(self) -> MethodCard:
        return MethodCard(
            id="pca",
            kind="baseline",
            part="bar",
            title="PCA",
            summary="Principal components of the log-normalised most variable genes, not scaled.",
            params={
                "n_components": self.n_components,
                "n_top_genes": self.n_top_genes,
                "min_cells": self.min_cells,
            },
        )

    def fit(self, train: Dataset, rng: np.random.Generator) -> Self:
        """Choose the genes and find the components; `rng` is not used.

        Raises
        ------
        NotApplicable
            If there are fewer than two cells or genes, or all cells are alike.
        """
        from sklearn import decomposition

        genes = VariableGenes.of(train, self.min_cells, self.n_top_genes)
        x = genes.expression(train, self.card.id).astype(np.float64)
        if min(x.shape) < 2:
            raise NotApplicable(f"PCA needs at least 2 cells and 2 genes; got {x.shape}")
        if (x.max(axis=0) - x.min(axis=0)).nnz == 0:
            raise NotApplicable("all cells have the same expression; nothing varies")
        # Lanczos is exact to rounding, never densifies, and was the fastest exact solver from
        # 700 to 20,000 cells. Its fixed start makes the result the same for every seed.
        n_components = min(self.n_components, min(x.shape) - 1)
        pca = decomposition.PCA(n_components, svd_solver="arpack", random_state=0)
        return replace(self, components=Components(genes, pca.fit(x)))

    def embed(self, cells: Dataset) -> Float32[np.ndarray, "n_cells d"]:
        components = require_fitted(self.components, self.card.id)
        x = components.genes.expression(cells, self.card.id).astype(np.float64)
        return np.asarray(components.pca.transform(x), dtype=np.float32)
