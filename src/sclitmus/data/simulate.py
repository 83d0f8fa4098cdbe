"""Cells with planted types and batches, for tests and dry runs; never a benchmark of anything."""

import numpy as np
from jaxtyping import Float64, Int64
from scipy import sparse

from sclitmus.core.dataset import Categories, Dataset, DatasetCard, Genes
from sclitmus.core.rng import rng_for

DISPERSION = 2.0  # size of the negative binomial: variance = mean + mean² / size, as in UMI data
COUNTS_PER_GENE = 1.5  # mean count of a gene in a cell: about half of the entries are zero
BLOCK_ENTRIES = 4_000_000  # dense entries drawn at once, 32 MB per intermediate array


def simulate(
    n_cells: int = 600,
    n_genes: int = 300,
    n_types: int = 4,
    n_batches: int = 2,
    *,
    type_strength: float = 1.0,
    batch_strength: float = 0.5,
    donors: int = 0,
    seed: int = 0,
) -> Dataset:
    """Draw negative binomial counts in which every type and every batch shifts every gene.

    The log mean of gene ``g`` in a cell of type ``t`` and batch ``b`` is ``base[g] +
    type_strength * t_effect[t, g] + batch_strength * b_effect[b, g]`` with standard normal
    effects, plus the log of the cell's depth (log-normal, sigma 0.3). Types and batches are
    drawn independently and evenly, so a perfect integration loses no type.

    Parameters
    ----------
    n_cells, n_genes
        Shape of the counts; cells without a count get one, so none is empty.
    n_types, n_batches
        Number of planted types ("type 0" …) and batches ("batch 0" …), each with a cell as long
        as there are that many cells.
    type_strength, batch_strength
        Standard deviation, in natural log units, of a gene's shift between types or batches;
        0 plants nothing.
    donors
        Number of donors, nested in batches (donor ``i`` is in batch ``i % n_batches``); 0 gives
        the dataset no donor role.
    seed
        Equal arguments give equal cells; a longer simulation is not a prefix of a shorter one.
    """
    rng = rng_for(seed, "simulate", n_cells, n_genes, n_types, n_batches, donors)
    types = _evenly(rng, n_cells, n_types)
    batches = _evenly(rng, n_cells, n_batches)
    base = rng.normal(0.0, 1.0, n_genes)
    by_type = type_strength * rng.normal(0.0, 1.0, (n_types, n_genes))
    by_batch = batch_strength * rng.normal(0.0, 1.0, (n_batches, n_genes))
    depth = rng.normal(0.0, 0.3, n_cells)

    rows = max(1, BLOCK_ENTRIES // max(n_genes, 1))
    blocks = []
    for start in range(0, n_cells, rows):
        block = slice(start, start + rows)
        log_mean = base + by_type[types[block]] + by_batch[batches[block]]
        blocks.append(_draw(rng, log_mean, depth[block]))
    counts = sparse.csr_matrix(sparse.vstack(blocks, format="csr"))
    counts.sort_indices()

    roles = {"label": _named("type", types), "batch": _named("batch", batches)}
    if donors:
        # Donor d belongs to batch d % n_batches, so a donor never spans two batches.
        turn = rng.integers(0, -(-donors // n_batches), n_cells)
        donor = np.minimum(
            turn * n_batches + batches, donors - 1 - (donors - 1 - batches) % n_batches
        )
        roles["donor"] = _named("donor", donor)
    return Dataset(
        id="simulated",
        store=counts,
        genes=Genes(tuple(f"GENE{g}" for g in range(n_genes)), ("",) * n_genes, "unknown"),
        cells=tuple(f"cell-{i}" for i in range(n_cells)),
        roles=roles,
        columns={name: name for name in roles},
        card=DatasetCard(title="Simulated cells", source="sclitmus.data.simulate"),
    )


def _evenly(rng: np.random.Generator, n_cells: int, n_groups: int) -> Int64[np.ndarray, "n_cells"]:
    return rng.permutation(np.arange(n_cells) % n_groups)


def _draw(
    rng: np.random.Generator,
    log_mean: Float64[np.ndarray, "n_rows n_genes"],
    depth: Float64[np.ndarray, "n_rows"],
) -> sparse.csr_matrix:
    """Negative binomial counts as a gamma-mixed Poisson, scaled to the wanted depth."""
    mean = np.exp(log_mean)
    mean *= COUNTS_PER_GENE * mean.shape[1] * np.exp(depth[:, None]) / mean.sum(1, keepdims=True)
    counts = rng.poisson(mean * rng.gamma(DISPERSION, 1.0 / DISPERSION, mean.shape))
    empty = np.flatnonzero(counts.sum(axis=1) == 0)
    counts[empty, rng.integers(0, counts.shape[1], len(empty))] = 1
    return sparse.csr_matrix(counts.astype(np.float32))


def _named(word: str, codes: Int64[np.ndarray, "n_cells"]) -> Categories:
    names = np.array(
        [f"{word} {code}" for code in range(int(codes.max(initial=-1)) + 1)], dtype=object
    )
    return Categories.of(names[codes])
