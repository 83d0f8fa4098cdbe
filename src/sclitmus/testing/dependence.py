"""What else an embedding depends on: measured, because there is no right answer."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from scipy import sparse

from sclitmus.core.dataset import Genes
from sclitmus.errors import NotApplicable
from sclitmus.testing.report import ContractError, Finding, Measured
from sclitmus.testing.trial import Trial


def _new_cells(trial: Trial) -> Finding:
    half = trial.dataset.n_cells // 2
    rows = np.arange(trial.dataset.n_cells)
    fitted = trial.fit(trial.visible.take(rows[:half]))
    try:
        z = fitted.embed(trial.visible.take(rows[half:]))
    except NotApplicable as absence:
        return Measured(0.0, f"cannot embed cells it was not fitted on: {absence.reason}")
    if len(z) != len(rows) - half or not np.isfinite(z).all():
        raise ContractError(
            f"{len(rows) - half} cells it was not fitted on gave shape {z.shape}, or not finite",
            "one finite row per cell, or NotApplicable",
            'raise NotApplicable("why")',
        )
    return Measured(1.0, "embeds cells it was not fitted on")


def _batch_mates(trial: Trial) -> Finding:
    n = trial.dataset.n_cells
    chunks = [np.arange(start, min(start + 7, n)) for start in range(0, n, 7)]
    z = np.concatenate([trial.fitted.embed(trial.visible.take(rows)) for rows in chunks])
    off = trial.difference(z, trial.z)
    return Measured(off, f"embedded 7 at a time, cells move by up to {off:.2g} standard deviations")


def _gene_order(trial: Trial) -> Finding:
    order = np.random.default_rng(0).permutation(trial.dataset.n_genes)
    cells = trial.visible
    genes = Genes(
        tuple(cells.genes.symbol[i] for i in order),
        tuple(cells.genes.ensembl[i] for i in order),
        cells.genes.organism,
    )
    counts = sparse.csr_matrix(cells.counts[:, order])
    z = trial.fit_embed(replace(cells, store=counts, genes=genes))
    # Distances, not coordinates: an axis per gene is a harmless thing to reorder.
    before, after = _distances(trial.z), _distances(z)
    off = float(np.abs(before - after).max()) / (float(before.mean()) or 1.0)
    return Measured(off, f"genes shuffled, distances change by up to {off:.2g} of their mean")


def _distances(z: np.ndarray) -> np.ndarray:
    from scipy.spatial.distance import pdist

    return np.asarray(pdist(z.astype(np.float64)))


CHECKS: Mapping[str, Callable[[Trial], Finding]] = {
    "new_cells": _new_cells,
    "batch_mates": _batch_mates,
    "gene_order": _gene_order,
}
