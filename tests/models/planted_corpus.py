"""Cells whose hidden genes can be predicted, or cannot, by how they were made."""

import numpy as np
from scipy import sparse

from sclitmus.core.dataset import Categories, Dataset, Genes

SPREAD = 1.2  # of the logarithm of a gene's mean
EFFECT = 1.2  # by which a type's genes are up or down, on the same scale


def planted(
    n_cells: int = 400, n_genes: int = 60, low_rank: bool = True, seed: int = 0, id: str = "planted"
) -> Dataset:
    """Make Poisson counts of cells.

    Of two types, half of the genes up in one and the other half in the other, where they are of
    low rank; else every gene is drawn apart from the others, from the same mean in every cell.
    """
    rng = np.random.default_rng(seed)
    genes = np.random.default_rng(7)  # the same genes in every set
    level = genes.normal(1.0, SPREAD, n_genes)
    side = genes.choice([-1.0, 1.0], n_genes)
    kind = rng.integers(2, size=n_cells)
    logs = np.tile(level, (n_cells, 1))
    if low_rank:
        logs += EFFECT * side * (2.0 * kind[:, None] - 1.0)
    return made(
        rng.poisson(np.exp(logs)), id, {"group": [f"donor {i % 8}" for i in range(n_cells)]}
    )


def made(
    counts: np.ndarray, id: str = "made", roles: dict[str, list[str]] | None = None, first: int = 0
) -> Dataset:
    """Make a dataset of these counts; genes are G0, G1 … with ids ENSG0 …"""
    n_cells, n_genes = counts.shape
    names = [f"G{i}" for i in range(first, first + n_genes)]
    ids = [f"ENSG{i:011d}" for i in range(first, first + n_genes)]
    return Dataset(
        id,
        sparse.csr_matrix(counts.astype(np.float32)),
        Genes(tuple(names), tuple(ids), "human"),
        tuple(f"{id} {i}" for i in range(n_cells)),
        {name: Categories.of(list(column)) for name, column in (roles or {}).items()},
    )
