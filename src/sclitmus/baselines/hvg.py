"""The simplest bar: the expression of the most variable genes, as it is."""

from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
from jaxtyping import Float32

from sclitmus.baselines.fitted import require_fitted
from sclitmus.baselines.lognorm import MIN_CELLS, N_TOP_GENES, VariableGenes
from sclitmus.core.dataset import Dataset
from sclitmus.core.method import MethodCard


@dataclass(frozen=True, eq=False)
class HVG:
    """Log-normalised expression of highly variable genes, not scaled, not reduced.

    Parameters
    ----------
    n_top_genes
        Number of variable genes; all are taken where fewer are left.
    min_cells
        A gene must be found in this many cells; see `lognorm.frequent_genes` for small data.
    """

    n_top_genes: int = N_TOP_GENES
    min_cells: int = MIN_CELLS
    genes: VariableGenes | None = field(default=None, kw_only=True, repr=False)  # set by fit

    @property
    def card(self) -> MethodCard:
        return MethodCard(
            id="hvg",
            kind="baseline",
            part="bar",
            title="HVG",
            summary="Log-normalised expression of the most variable genes.",
            params={"n_top_genes": self.n_top_genes, "min_cells": self.min_cells},
            doi="10.1186/s13059-025-03574-x",
        )

    def fit(self, train: Dataset, rng: np.random.Generator) -> Self:
        """Choose the genes; `rng` is not used."""
        return replace(self, genes=VariableGenes.of(train, self.min_cells, self.n_top_genes))

    def embed(self, cells: Dataset) -> Float32[np.ndarray, "n_cells d"]:
        genes = require_fitted(self.genes, self.card.id)
        dense: Float32[np.ndarray, "n_cells d"] = genes.expression(cells, self.card.id).toarray()
        return dense
