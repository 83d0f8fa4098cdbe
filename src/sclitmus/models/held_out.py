"""Which of the training cells are held out, to choose the epoch by their loss."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from sclitmus.core.dataset import Categories, Dataset

SHARE = 0.1  # of the cells: Boiarsky et al. 2024 hold out as many for scGPT
LEAST_CELLS = 5  # of every class, or none are held out
LEAST_UNITS = 3  # groups or donors, for whole ones to be held out


@dataclass(frozen=True)
class HeldOut:
    """Rows that are trained on, rows that are held out, both ascending, and how they were chosen.

    Attributes
    ----------
    said
        Without its subject: "… held out".
    """

    learned: Int64[np.ndarray, "n_learned"]
    held: Int64[np.ndarray, "n_held"]
    said: str


def held_out(train: Dataset, rng: np.random.Generator, share: float = SHARE) -> HeldOut:
    """Divide labelled cells in two.

    Whole units of the role ``group``, else ``donor``, where there are 3 and every class keeps a
    cell without them; else cells at random, of every class its share, 1 or more. None at all if a
    class has fewer than 5 cells, or `share` is 0.
    """
    label = train.role("label")
    everything = np.arange(train.n_cells)
    rarest = int(label.counts.min())
    if share == 0 or rarest < LEAST_CELLS:
        why = f"the rarest type has {rarest}, needed {LEAST_CELLS}" if share else "share is 0"
        return HeldOut(everything, everything[:0], f"no cells held out ({why})")
    how = "at random"
    for role in ("group", "donor"):
        if role in train.roles and len(train.roles[role].names) >= LEAST_UNITS:
            unit = train.roles[role]
            chosen = _units(label, unit, share, rng)
            held = np.flatnonzero(np.isin(unit.codes, chosen))
            if len(held) >= share * train.n_cells / 2:
                said = f"{len(held)} cells held out, {len(chosen)} of {len(unit.names)} {role}s"
                return HeldOut(np.setdiff1d(everything, held), held, said)
            how = f"at random: no whole {role}s can be spared"
            break
    held = _stratified(label, share, rng)
    return HeldOut(np.setdiff1d(everything, held), held, f"{len(held)} cells held out {how}")


def _units(
    label: Categories, unit: Categories, share: float, rng: np.random.Generator
) -> list[int]:
    """Choose units in random order until they have the share of the cells.

    One is passed over that would take the last cell of a class, or more than half of the cells.
    """
    table = np.zeros((len(unit.names), len(label.names)), dtype=np.int64)
    known = unit.codes >= 0
    np.add.at(table, (unit.codes[known], label.codes[known]), 1)
    left = label.counts.copy()
    most = left.sum() // 2
    chosen: list[int] = []
    n_held = 0
    for code in rng.permutation(len(unit.names)).tolist():
        size = int(table[code].sum())
        if n_held >= share * len(label.codes):
            break
        if (left - table[code]).min() > 0 and n_held + size <= most:
            chosen.append(code)
            left -= table[code]
            n_held += size
    return chosen


def _stratified(
    label: Categories, share: float, rng: np.random.Generator
) -> Int64[np.ndarray, "n_held"]:
    rows = []
    for code, count in enumerate(label.counts.tolist()):
        own = np.flatnonzero(label.codes == code)
        rows.append(rng.permutation(own)[: max(1, math.floor(share * count + 0.5))])
    return np.sort(np.concatenate(rows))
