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


ORGANS = ("rectum", "stomach", "oesophagus")
SHIFTED = ORGANS[-1]


def organ_shift(n_each: int = 60, seed: int = 0) -> tuple[Dataset, np.ndarray]:
    """Make three organs, in the last of which epithelium lacks what marks it in the others.

    In the first two, epithelium has a strong programme of few genes, B, and a weak one of many,
    A. In the last it has A alone, and endothelium shows B. Fibroblasts and T cells are the same
    everywhere. After the failure of logistic regression on oesophageal epithelium in Yang et al.
    2024, doi:10.1038/s42256-024-00948-x.

    Returns
    -------
    cells, embedding
        With a role ``group``; and what is left of the cells when B is taken away: the mean log
        counts of programme A and of the programmes of the other types.
    """
    rng = np.random.default_rng(seed)
    a, b = slice(0, 60), slice(60, 66)
    own = {"fibroblast": slice(66, 72), "T cell": slice(72, 78), "endothelium": slice(78, 84)}
    label, organ, log_mean = [], [], []
    for where in ORGANS:
        for name in ("epithelium", *own):
            mean = np.zeros(160)
            if name == "epithelium":
                mean[a] = 0.7
            else:
                mean[own[name]] = 1.5
            if name == ("endothelium" if where == SHIFTED else "epithelium"):
                mean[b] = 4.0
            for _ in range(n_each):
                label.append(name)
                organ.append(where)
                log_mean.append(mean)
    counts = rng.poisson(0.7 * np.exp(np.array(log_mean)))
    counts[:, -1] += 1
    z = np.log1p(counts)
    embedding = np.stack([z[:, genes].mean(axis=1) for genes in (a, *own.values())], axis=1)
    return cells_of(label, counts, group=organ), embedding.astype(np.float32)
