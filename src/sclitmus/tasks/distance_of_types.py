"""Whether a type that is held out has close relatives among the types that are learned."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from sclitmus.core.dataset import Dataset
from sclitmus.core.split import Split
from sclitmus.tasks.before import before

Kin = Literal["near", "far"]


def near_types(dataset: Dataset, splits: Sequence[Split]) -> Mapping[str, Kin]:
    """Call each held-out type, or lineage, near to what is learned, or far from it.

    Where the dataset has a role ``lineage``, a type is near if another type of its lineage is
    learned. Elsewhere the types are halved by the distance of their centroid to the nearest learned
    one, among the first principal components of the log-normalised counts, in units of the type's
    own spread: "near" and "far" then compare the types of this dataset with each other.
    """
    label = dataset.role("label").codes
    kin: dict[str, Kin] = {}
    apart: dict[str, float] = {}
    for split in splits:
        learned = np.unique(label[split.train])
        held = np.setdiff1d(np.unique(label[split.test]), learned)
        if not len(held):  # splits that were given may hold nothing out: no score asks
            kin[split.held_out] = "far"
        elif "lineage" in dataset.roles:
            lineage = dataset.roles["lineage"].codes
            mine, others = (np.unique(lineage[np.isin(label, of)]) for of in (held, learned))
            shared = np.intersect1d(mine, others)  # -1 where it is not known
            kin[split.held_out] = "near" if (shared >= 0).any() else "far"
        else:
            apart[split.held_out] = _distance(dataset, held, learned)
    middle = float(np.median(list(apart.values()))) if apart else 0.0
    return kin | {name: "near" if d <= middle else "far" for name, d in apart.items()}


def _distance(dataset: Dataset, held: np.ndarray, learned: np.ndarray) -> float:
    z, label = before(dataset), dataset.role("label").codes
    mine = z[np.isin(label, held)]
    centre = mine.mean(axis=0)
    spread = float(np.sqrt(np.square(mine - centre).sum(axis=1).mean())) or 1.0
    centroids = np.stack([z[label == code].mean(axis=0) for code in learned])
    return float(np.linalg.norm(centroids - centre, axis=1).min()) / spread
