"""Which cells labels are learned from: never from the donors that are tested, where they are known.

All draws are the same for every method, and depend on the dataset alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, Integer

from sclitmus.core.dataset import Dataset

ANNOTATORS = (
    "majority",
    "nearest_centroid",
    "knn",
    "lr_l1",
    "lr_l2",
    "pca_lr",
    "marker_score",
)
"""What stands beside every method that learns labels."""

MAX_TEST = 20_000  # cells: more add nothing to an interval that donors dominate
N_TRIES = 50  # random choices of donors, of which the one that keeps most types is taken


def held_out_cells(
    dataset: Dataset, share: float, rng: np.random.Generator
) -> tuple[Int64[np.ndarray, "n_train"], Int64[np.ndarray, "n_test"]]:
    """Divide the labelled cells into those to learn from and those to test.

    Whole donors are held out where the labelled cells have two or more: of `N_TRIES` random choices
    the first that leaves most types on both sides. Else `share` of each type's cells.

    Returns
    -------
    train, test
        Rows, ascending. Cells of unknown donor are in neither where donors are held out.
    """
    label = dataset.role("label").codes
    rows = np.flatnonzero(label >= 0)
    donor = dataset.roles["donor"].codes[rows] if "donor" in dataset.roles else None
    known = np.unique(donor[donor >= 0]) if donor is not None else np.empty(0, dtype=np.int64)
    if donor is not None and len(known) > 1:
        n_out = min(max(1, round(share * len(known))), len(known) - 1)
        best, most = known[:n_out], -1
        for _ in range(N_TRIES):
            out = rng.permutation(known)[:n_out]
            tested = np.isin(donor, out)
            n_types = len(np.intersect1d(label[rows[tested]], label[rows[~tested]]))
            if n_types > most:
                best, most = out, n_types
        tested = np.isin(donor, best)
        learned = ~tested & (donor >= 0)
    else:
        tested = np.zeros(len(rows), dtype=bool)
        tested[share_of_each(label[rows], share, rng)] = True
        learned = ~tested
    test = rows[tested]
    if len(test) > MAX_TEST:
        test = test[share_of_each(label[test], MAX_TEST / len(test), rng)]
    return rows[learned], np.sort(test)


def share_of_each(
    codes: Integer[np.ndarray, "n"], share: float, rng: np.random.Generator
) -> Int64[np.ndarray, "n_kept"]:
    """Draw this share of the cells of each type, one at least and, of two or more, not all.

    Returns
    -------
    Positions, ascending.
    """
    kept = []
    for code in np.unique(codes):
        at = np.flatnonzero(codes == code)
        most = max(1, len(at) - 1)
        kept.append(rng.permutation(at)[: min(max(1, round(share * len(at))), most)])
    return np.sort(np.concatenate(kept)) if kept else np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class Shuffled:
    """The cells of each type in random order: the first k are a draw, nested in the first 2k."""

    by_type: Mapping[int, Int64[np.ndarray, "n"]]

    def first(self, k: int, types: Int64[np.ndarray, "n_types"]) -> Int64[np.ndarray, "n_drawn"]:
        """Return the positions of the first `k` cells of these types."""
        return np.concatenate([self.by_type[int(code)][:k] for code in types])


def shuffled_by_type(codes: Integer[np.ndarray, "n"], rng: np.random.Generator) -> Shuffled:
    """Shuffle the positions of each type's cells."""
    return Shuffled({int(c): rng.permutation(np.flatnonzero(codes == c)) for c in np.unique(codes)})
