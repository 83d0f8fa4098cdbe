"""Harmony: principal components corrected for batch, the linear bar of integration.

Korsunsky et al. 2019, doi:10.1038/s41592-019-0619-0; the authors' harmonypy. Kedzierska et al.
2025 give no settings, so they are harmonypy's own on the PCA of this package.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
from jaxtyping import Float32

from sclitmus.baselines.fitted import require_fitted
from sclitmus.baselines.lognorm import MIN_CELLS, N_TOP_GENES
from sclitmus.baselines.pca import PCA
from sclitmus.core.dataset import Dataset
from sclitmus.core.method import MethodCard
from sclitmus.errors import MethodError, NotApplicable


@dataclass(frozen=True)
class Corrected:
    """The corrected components, and the row each cell has in them."""

    z: Float32[np.ndarray, "n_train d"]
    row_of: Mapping[str, int]


@dataclass(frozen=True, eq=False)
class Harmony:
    """PCA, then Harmony over the batch column.

    It corrects cells together and has no map for others, so `embed` takes cells it was fitted on,
    in any order and number. Cells of unknown batch are treated as one batch of their own.

    Parameters
    ----------
    n_components, n_top_genes, min_cells
        As for `PCA`.
    theta
        Diversity penalty; harmonypy's default.
    max_iterations
        Rounds of clustering and correction; harmonypy's default.
    """

    n_components: int = 50
    n_top_genes: int = N_TOP_GENES
    min_cells: int = MIN_CELLS
    theta: float = 2.0
    max_iterations: int = 10
    corrected: Corrected | None = field(default=None, kw_only=True, repr=False)  # set by fit

    @property
    def card(self) -> MethodCard:
        return MethodCard(
            id="harmony",
            kind="baseline",
            part="bar",
            title="Harmony",
            summary="Principal components with the batches drawn together, cluster by cluster.",
            needs=("batch",),
            deterministic=False,
            params={
                "n_components": self.n_components,
                "n_top_genes": self.n_top_genes,
                "min_cells": self.min_cells,
                "theta": self.theta,
                "max_iterations": self.max_iterations,
            },
            doi="10.1038/s41592-019-0619-0",
        )

    def fit(self, train: Dataset, rng: np.random.Generator) -> Self:
        """Correct these cells.

        Raises
        ------
        NotApplicable
            If there is no batch column, or one batch only.
        """
        _, batch = np.unique(train.role("batch").codes, return_inverse=True)
        if batch.max(initial=0) == 0:
            raise NotApplicable("all cells are of one batch; Harmony needs at least 2")
        z = PCA(self.n_components, self.n_top_genes, self.min_cells).fit(train, rng).embed(train)
        from harmonypy import run_harmony

        result = run_harmony(
            # Components x cells: read the other way round where there are as many of both.
            z.T.astype(np.float64),
            {"batch": batch},
            "batch",
            theta=self.theta,
            # harmonypy's rule, kept above zero, which it takes below 15 cells and then refuses.
            nclust=max(1, min(round(train.n_cells / 30), 100)),
            max_iter_harmony=self.max_iterations,
            verbose=False,
            random_state=int(rng.integers(2**31)),
        )
        corrected = _cells_by_components(np.asarray(result.Z_corr), z.shape)
        row_of = {cell: row for row, cell in enumerate(train.cells)}
        return replace(self, corrected=Corrected(corrected.astype(np.float32), row_of))

    def embed(self, cells: Dataset) -> Float32[np.ndarray, "n_cells d"]:
        """Return the corrected components of cells it was fitted on.

        Raises
        ------
        NotApplicable
            If there is a cell among them it was not fitted on.
        """
        corrected = require_fitted(self.corrected, self.card.id)
        rows = [corrected.row_of.get(cell, -1) for cell in cells.cells]
        unknown = rows.count(-1)
        if unknown:
            raise NotApplicable(
                f"Harmony has no map for new cells; {unknown} of {len(rows)} were not fitted on"
            )
        return corrected.z[rows]


def _cells_by_components(z: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Turn the result round where it is components x cells, as it was in harmonypy 0.0.

    There are always fewer components than cells, so the shape tells.
    """
    if z.shape == shape:
        return z
    if z.T.shape == shape:
        return z.T
    raise MethodError(
        f"harmonypy returned an array of shape {z.shape}",
        f"{shape}, cells x components, or its transpose",
        "install a harmonypy this package was tested with, for example 2.1.0",
    )
