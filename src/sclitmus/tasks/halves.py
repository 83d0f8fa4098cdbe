"""Halves of the scored cells, on which an answer is scored again to say how sure its score is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64

from sclitmus.core.dataset import Dataset
from sclitmus.core.split import Replicate, Split
from sclitmus.tasks.half_samples import N_HALF_SAMPLES, random_half

MIN_GROUPS = 6  # held-out groups that are units themselves, as for donors


@dataclass(frozen=True)
class Half:
    """A replicate and the rows of the dataset that it keeps."""

    replicate: Replicate
    keeps: Bool[np.ndarray, "n_cells"]


def test_halves(
    dataset: Dataset, splits: Sequence[Split], rng: np.random.Generator
) -> tuple[Half, ...]:
    """Halve all cells that any split tests, `N_HALF_SAMPLES` times.

    The units are donors where there are at least six, else the groups held out in turn where
    there are as many, else cells, stratified by label. Fewer than four cells have no halves.
    """
    tested = np.unique(np.concatenate([split.test for split in splits]))
    if len(tested) < 4:
        return ()
    units = units_of(dataset, splits, tested)
    label = dataset.role("label").take(tested)
    halves = []
    for i in range(N_HALF_SAMPLES):
        kept, weight, n_units = random_half(label, units, rng)
        keeps = np.zeros(dataset.n_cells, dtype=bool)
        keeps[tested[kept]] = True
        halves.append(Half(Replicate(f"half-{i:02d}", "units", weight, n_units), keeps))
    return tuple(halves)


def units_of(
    dataset: Dataset, splits: Sequence[Split], tested: Int64[np.ndarray, "n_tested"]
) -> Int64[np.ndarray, "n_tested"] | None:
    """Return the donor, or the held-out group, of each tested cell; None where cells are units."""
    if "donor" in dataset.roles:
        donors: np.ndarray = dataset.roles["donor"].codes[tested].astype(np.int64)
        if len(np.unique(donors[donors >= 0])) >= MIN_GROUPS:
            return donors
    groups = [split for split in splits if split.held_out.startswith("group:")]
    if len({split.held_out for split in groups}) < MIN_GROUPS:
        return None
    group = np.full(dataset.n_cells, -1, dtype=np.int64)
    for i, split in enumerate(groups):
        group[split.test] = i
    found: np.ndarray = group[tested]
    return found
