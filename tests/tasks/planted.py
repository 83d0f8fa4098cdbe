"""Cells with planted truths about labels: what must be found in them is known beforehand."""

import numpy as np
from annotators import cells_of

from sclitmus.core.dataset import Dataset


def near_and_far(n_each: int = 60, seed: int = 0) -> Dataset:
    """Make two pairs of sibling types, and two types that have no relatives.

    Siblings share a strong programme of their lineage and differ by a weak one; a type without
    relatives has a strong programme of its own.
    """
    rng = np.random.default_rng(seed)
    strong, weak, n_genes = 2.0, 0.8, 75
    programmes = {name: np.zeros(n_genes) for name in ("t1", "t2", "b1", "b2", "m", "n")}
    for i, (name, programme) in enumerate(programmes.items()):
        lineage = "tbmn".index(name[0])
        programme[8 * lineage : 8 * lineage + 8] = strong
        if len(name) == 2:
            programme[32 + 10 * i : 42 + 10 * i] = weak
    label = [name for name in programmes for _ in range(n_each)]
    counts = rng.poisson([2 * np.exp(programmes[name]) for name in label])
    counts[:, 0] += 1
    lineage_of = [name[0] if len(name) == 2 else name for name in label]
    return cells_of(label, counts, lineage=lineage_of)


def told_by_logits(n_cells: int = 3000, n_types: int = 5, seed: int = 0) -> Dataset:
    """Make cells whose counts, halved, are the logits from which their label was drawn.

    A method that reads them so is calibrated; one that takes them for larger is over-confident.
    """
    rng = np.random.default_rng(seed)
    counts = rng.poisson(3.0, size=(n_cells, n_types))
    p = np.exp(counts / 2)
    p /= p.sum(axis=1, keepdims=True)
    codes = (p.cumsum(axis=1) > rng.random((n_cells, 1))).argmax(axis=1)
    names = tuple("abcdefgh"[:n_types])
    counts = np.c_[counts, np.ones(n_cells)]  # no cell without a count
    return cells_of([names[c] for c in codes], counts, (*names, "filler"))
