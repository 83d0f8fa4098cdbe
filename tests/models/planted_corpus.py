"""Cells whose hidden genes can be predicted, or cannot, by how they were made."""

import numpy as np
from scipy import sparse

from sclitmus.core.dataset import Categories, Dataset, Genes

SPREAD = 1.2  # of the logarithm of a gene's mean
TOTAL = 4000
EFFECT = 1.2  # by which a type's genes are up or down, on the same scale


def planted(
    n_cells: int = 400, n_genes: int = 60, low_rank: bool = True, seed: int = 0, id: str = "planted"
) -> Dataset:
    """Make Poisson counts of cells.

    Of two types, half of the genes up in one and the other half in the other, where they are of
    low rank; else every gene but the last is drawn apart from the others, from the same mean in
    every cell.
    """
    rng = np.random.default_rng(seed)
    genes = np.random.default_rng(7)  # the same genes in every set
    level = genes.normal(1.0, SPREAD, n_genes)
    side = genes.choice([-1.0, 1.0], n_genes)
    kind = rng.integers(2, size=n_cells)
    logs = np.tile(level, (n_cells, 1))
    if low_rank:
        logs += EFFECT * side * (2.0 * kind[:, None] - 1.0)
    counts = rng.poisson(np.exp(logs))
    # One more gene fills every cell up to the same sum, or shares of it would depend on each other.
    counts[:, -1] = TOTAL - counts[:, :-1].sum(axis=1)
    assert counts.min() >= 0
    return made(counts, id, {"group": [f"donor {i % 8}" for i in range(n_cells)]})


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


def programs(n_cells: int = 400, n_genes: int = 120, low_rank: bool = True) -> Dataset:
    """Make cells in which a gene is on or off, at a level that says nothing.

    Of four types, each with a program of its own, where they are of low rank; else every gene is on
    in a quarter of the cells, apart from all others.
    """
    rng = np.random.default_rng(0)
    program, kind = np.arange(n_genes) % 4, rng.integers(4, size=n_cells)
    on = np.full((n_cells, n_genes), 0.25)
    if low_rank:
        on = np.where(program[None, :] == kind[:, None], 0.8, 0.02)
    shown = rng.random((n_cells, n_genes)) < on
    return made(shown * (1 + rng.poisson(20, shown.shape)), "programs")
