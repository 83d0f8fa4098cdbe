"""What a trial will cost, before it runs: good enough to order trials and to warn.

Each formula is a straight line (or a product) guessed from a few runs on one core of a
laptop-class machine, and not calibrated; once a trial has finished, the time that is left is
judged by what was measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sclitmus.core.method import MethodCard

START = 1.5  # seconds: a process starts, its imports
IMPORTS_MB = 250  # resident after the imports of a baseline and of the metrics


@dataclass(frozen=True)
class Cost:
    """Seconds on one core, and peak resident memory."""

    seconds: float
    mb: float


NOTHING = Cost(0.0, 0.0)


def of_embedding(card: MethodCard, n_cells: int, n_genes: int, n_stored: int) -> Cost:
    """Estimate making an embedding of a dataset with `n_stored` non-zero counts."""
    counts_mb = n_stored * 8 / 1e6
    dense_mb = n_cells * min(n_genes, 2000) * 4 / 1e6  # the highly variable genes, dense
    if card.kind == "trained_on_target":
        # scVI sees at least 20 epochs x 20,000 cells and at most 400 epochs of all of them.
        cell_visits = n_cells * min(400, max(20, round(20_000 / n_cells * 400)))
        return Cost(START + 8 + cell_visits * 1.5e-4, IMPORTS_MB + 450 + 2 * counts_mb)
    if card.kind == "foundation":
        return Cost(START + 10 + n_cells * 0.05, 2500 + 2 * counts_mb)
    if card.kind == "supplied":
        return Cost(START, IMPORTS_MB)
    return Cost(START + 1 + n_stored * 6e-8 + n_cells * 2e-4, IMPORTS_MB + 3 * counts_mb + dense_mb)


def of_scores(cells_of_splits: Sequence[int]) -> Cost:
    """Estimate scoring an embedding with one task, given the number of cells of each split."""
    # Nearest neighbours and silhouettes look at all pairs of cells up to a size.
    seconds = sum(0.05 + n * 4e-4 + min(n, 50_000) * n * 4e-9 for n in cells_of_splits)
    largest = max(cells_of_splits, default=0)
    return Cost(seconds, IMPORTS_MB + 100 + largest * 0.006)


def of_learning(cells_of_splits: Sequence[int]) -> Cost:
    """Estimate learning labels, given the number of training cells of each split."""
    seconds = sum(0.2 + n * 1e-3 for n in cells_of_splits)
    return Cost(START + seconds, IMPORTS_MB + 200 + max(cells_of_splits, default=0) * 0.05)


def of_projection(n_cells: int) -> Cost:
    """Estimate a map of at most `projection.MAX_CELLS` cells, compilation shared by several."""
    return Cost(1 + n_cells * 2.5e-3, IMPORTS_MB + 50 + n_cells * 0.01)
