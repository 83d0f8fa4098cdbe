"""What a cell's embedding depends on besides the cell: measured, on a few cells of the data.

Each line changes one thing that should not matter and says how far cells move, as a share of the
distance between two cells taken at random: 0 is not at all, 1 is as far as to another cell.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float32
from scipy import sparse

from sclitmus.core.dataset import Dataset, Genes
from sclitmus.core.method import CellEmbedder
from sclitmus.core.rng import rng_for
from sclitmus.errors import NotApplicable

N_CELLS = 32
MISSING = 0.1  # share of the genes left out
CHUNK = 7


@dataclass(frozen=True)
class Effect:
    """How far cells move when one thing changes.

    Attributes
    ----------
    change
        What was changed.
    mean, largest
        Over the cells, as a share of the median distance between two cells; None where the change
        cannot be made, then `note` says why.
    """

    change: str
    mean: float | None
    largest: float | None
    note: str = ""


def stability(method: CellEmbedder, cells: Dataset, *, seed: int = 0) -> tuple[Effect, ...]:
    """Measure what the embedding of a fitted method depends on besides the cell.

    Parameters
    ----------
    method
        Fitted; its `fit` is called again for a fresh random stream, with the same cells.
    cells
        Of which at most 32, evenly spaced, are taken.
    """
    rows = np.unique(
        np.linspace(0, cells.n_cells - 1, min(N_CELLS, cells.n_cells)).astype(np.int64)
    )
    few = cells.take(rows)
    subject = _Subject(method, few, seed)
    scale = _median_distance(subject.z)
    effects = []
    for change, z_of in CHANGES.items():
        try:
            moved = np.linalg.norm(z_of(subject) - subject.z, axis=1)
        except NotApplicable as absence:
            effects.append(Effect(change, None, None, absence.reason))
            continue
        if scale == 0:
            effects.append(Effect(change, None, None, "all cells have the same embedding"))
            continue
        effects.append(Effect(change, float(moved.mean() / scale), float(moved.max() / scale)))
    return tuple(effects)


def to_json(effects: tuple[Effect, ...]) -> list[dict[str, Any]]:
    """Turn effects into plain values."""
    return [asdict(effect) for effect in effects]


class _Subject:
    def __init__(self, method: CellEmbedder, cells: Dataset, seed: int) -> None:
        self.method, self.cells, self.seed = method, cells, seed
        self.z = self.embed(cells)

    def embed(self, cells: Dataset, seed: int | None = None) -> Float32[np.ndarray, "n_cells d"]:
        rng = rng_for(self.seed if seed is None else seed, "stability")
        return np.array(self.method.fit(cells, rng).embed(cells), dtype=np.float32)


def _median_distance(z: np.ndarray) -> float:
    from scipy.spatial.distance import pdist

    distances = pdist(z.astype(np.float64))
    return float(np.median(distances)) if len(distances) else 0.0


def _again(subject: _Subject) -> np.ndarray:
    return subject.embed(subject.cells)


def _seed(subject: _Subject) -> np.ndarray:
    return subject.embed(subject.cells, subject.seed + 1)


def _alone(subject: _Subject) -> np.ndarray:
    n = subject.cells.n_cells
    return np.concatenate([subject.embed(subject.cells.take(np.array([i]))) for i in range(n)])


def _longest(subject: _Subject) -> np.ndarray:
    """With one more cell that expresses every gene, so that all others are padded to it."""
    cells = subject.cells
    total = sparse.csr_matrix(cells.counts.sum(axis=0))
    twice = cells.take(np.append(np.arange(cells.n_cells), 0))
    counts = sparse.vstack([cells.counts, total], format="csr").astype(np.float32)
    ids = (*cells.cells, "every gene")
    return subject.embed(replace(twice, store=counts, cells=ids))[:-1]


def _cell_order(subject: _Subject) -> np.ndarray:
    order = np.random.default_rng(0).permutation(subject.cells.n_cells)
    back = np.argsort(order)
    return subject.embed(subject.cells.take(order))[back]


def _chunks(subject: _Subject) -> np.ndarray:
    rows = np.arange(subject.cells.n_cells)
    parts = [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
    return np.concatenate([subject.embed(subject.cells.take(part)) for part in parts])


def _gene_order(subject: _Subject) -> np.ndarray:
    return subject.embed(
        _columns(subject.cells, np.random.default_rng(0).permutation(subject.cells.n_genes))
    )


def _missing(subject: _Subject) -> np.ndarray:
    n = subject.cells.n_genes
    gone = np.random.default_rng(0).permutation(n)[: int(np.ceil(MISSING * n))]
    cells = _columns(subject.cells, np.setdiff1d(np.arange(n), gone))
    if not np.diff(cells.counts.indptr).all():
        raise NotApplicable("a cell has no counts without them")
    return subject.embed(cells)


def _columns(cells: Dataset, columns: np.ndarray) -> Dataset:
    genes = Genes(
        tuple(cells.genes.symbol[i] for i in columns),
        tuple(cells.genes.ensembl[i] for i in columns),
        cells.genes.organism,
    )
    return replace(cells, store=sparse.csr_matrix(cells.counts[:, columns]), genes=genes)


CHANGES: Mapping[str, Callable[[_Subject], np.ndarray]] = {
    "nothing: the same call again": _again,
    "another seed": _seed,
    "each cell alone": _alone,
    f"{CHUNK} cells at a time": _chunks,
    "one very long cell beside them": _longest,
    "order of the cells": _cell_order,
    "order of the gene columns": _gene_order,
    f"{MISSING:.0%} of the genes missing": _missing,
}


def lines(effects: tuple[Effect, ...]) -> Iterator[str]:
    """Yield a table as text, one line per change."""
    width = max(len(effect.change) for effect in effects)
    yield f"{'moves a cell by (1: as far as to another cell)':<{max(width, 46)}}    mean  largest"
    for effect in effects:
        if effect.mean is None or effect.largest is None:
            yield f"{effect.change:<{max(width, 46)}}  {effect.note}"
        else:
            yield f"{effect.change:<{max(width, 46)}}  {effect.mean:6.3f}   {effect.largest:6.3f}"
