"""The cells that are scored: all of them, and the half-samples that say how sure the score is.

A dataset-level score (an adjusted Rand index, a silhouette width) is not a mean over cells, so it
has no standard error of its own, and drawing cells *with* replacement would put copies of a cell
next to each other in every neighbour graph. Half-samples without replacement do neither: the
variance of a smooth score over random subsamples of m of n units, times m / (n - m), estimates its
variance at n (delete-d jackknife, Shao & Wu 1989, doi:10.1214/aos/1176347263). Every method is
scored on the same half-samples, so differences between methods are paired.
"""

import numpy as np
from jaxtyping import Int64

from sclitmus.core.dataset import Categories, Dataset
from sclitmus.core.split import Split

N_HALF_SAMPLES = 20
MAX_SUBSAMPLE = 10_000  # cells: above 2 x this, subsamples are smaller than half, and weighted so
MIN_DONORS = 6  # fewer donors have too few distinct halves to say anything about other donors


def half_samples(
    dataset: Dataset, rows: Int64[np.ndarray, "n_rows"], rng: np.random.Generator
) -> tuple[Split, ...]:
    """Return the split of all `rows`, then `N_HALF_SAMPLES` random halves of them.

    Halves are of donors where the dataset has at least `MIN_DONORS` among `rows`, so that the
    interval speaks of other donors; else of cells, stratified by label. Fewer than four rows
    cannot be halved: only the full split is returned.

    Parameters
    ----------
    rows
        Rows with all the roles that the task needs, ascending.
    """
    splits = [Split("all", test=rows)]
    if len(rows) < 4:
        return tuple(splits)
    donors = dataset.roles["donor"].codes[rows] if "donor" in dataset.roles else None
    by_donor = donors is not None and len(np.unique(donors[donors >= 0])) >= MIN_DONORS
    label = dataset.roles["label"].take(rows)
    for i in range(N_HALF_SAMPLES):
        kept, weight, n_units = random_half(label, donors if by_donor else None, rng)
        splits.append(Split(f"half-{i:02d}", rows[kept], weight=weight, n_units=n_units))
    return tuple(splits)


def random_half(
    label: Categories, units: Int64[np.ndarray, "n"] | None, rng: np.random.Generator
) -> tuple[Int64[np.ndarray, "n_kept"], float, int]:
    """Draw half of the units, or of the cells of each label where cells are the units.

    Returns
    -------
    Positions kept, ascending; the replicate's weight; the number of units.
    """
    if units is None:
        kept, weight = _half_of_cells(label, rng)
        return kept, weight, len(label.codes)
    kept, weight = _half_of_donors(units, rng)
    return kept, weight, len(np.unique(units[units >= 0]))


def _half_of_donors(
    donors: np.ndarray, rng: np.random.Generator
) -> tuple[Int64[np.ndarray, "n_kept"], float]:
    present = np.unique(donors[donors >= 0])
    m = len(present) // 2
    chosen = rng.choice(present, size=m, replace=False)
    kept = np.flatnonzero(np.isin(donors, chosen))
    if len(kept) > MAX_SUBSAMPLE:  # the donors still carry the variance: the weight stays theirs
        kept = np.sort(rng.choice(kept, size=MAX_SUBSAMPLE, replace=False))
    return kept, m / (len(present) - m)


def _half_of_cells(
    label: Categories, rng: np.random.Generator
) -> tuple[Int64[np.ndarray, "n_kept"], float]:
    n = len(label.codes)
    fraction = min(0.5, MAX_SUBSAMPLE / n)
    shuffled = rng.permutation(n)
    order = shuffled[np.argsort(label.codes[shuffled], kind="stable")]
    # Walking through the cells type by type and keeping one in every 1 / fraction, from a random
    # start, gives each type its share to within one cell, and each cell the same chance.
    steps = np.floor(np.arange(n + 1) * fraction + rng.random())
    kept = np.sort(order[np.diff(steps) > 0])
    return kept, len(kept) / (n - len(kept))
