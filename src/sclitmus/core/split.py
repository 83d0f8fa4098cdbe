"""Which cells a task fits on and which it scores, and the subsets that say how sure a score is."""

import hashlib
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Int64

ALL = "all"  # the split, or the replicate, whose score is the estimate


def no_rows() -> Int64[np.ndarray, "0"]:
    """Return no row numbers."""
    return np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class Replicate:
    """A further score of the same thing, from which the error of the estimate is had.

    Attributes
    ----------
    name
        ``"half-03"``, ``"draw-3-of-20"``.
    source
        ``units``: other cells, or donors, are scored. ``draws``: other cells were learned from.
        The errors of the two add up.
    weight
        What turns the variance over the replicates of one source into the variance of the
        estimate. For subsamples of ``m`` of ``n`` units it is ``m / (n - m)`` (delete-d
        jackknife, doi:10.1214/aos/1176347263), for a mean over ``n`` draws ``1 / n``.
    n_units
        How many units (cells, or donors) the full data has that subsamples are drawn from: few
        donors bound the degrees of freedom, however many subsamples are drawn. 0 if unknown.
    """

    name: str
    source: Literal["units", "draws"]
    weight: float
    n_units: int = 0


@dataclass(frozen=True)
class Split:
    """Row numbers of a dataset, named; the same for every method, which makes scores paired.

    Attributes
    ----------
    name
        ``"all"`` for the full data, otherwise what the split is (``"half-03"``).
    test
        Rows that are scored, ascending.
    train
        Rows that labels are learned from, ascending; empty where the task learns nothing.
    validation
        Rows with known labels that are not learned from, to set a threshold or a temperature.
    setting
        What it has in common with the splits whose scores are averaged with its own
        (``"k4"``: four cells per type).
    held_out
        The unit that training lacks, where there is one: ``"group:rectum"``.
    weight, n_units
        Where the split is a replicate too, as in zero-shot tasks; 0 otherwise. See `Replicate`.
    """

    name: str
    test: Int64[np.ndarray, "n_test"]
    train: Int64[np.ndarray, "n_train"] = field(default_factory=no_rows)
    weight: float = 0.0
    n_units: int = 0
    validation: Int64[np.ndarray, "n_validation"] = field(default_factory=no_rows)
    setting: str = ""
    held_out: str = ""

    @property
    def key(self) -> str:
        """Hash of the rows and of what they stand for, so that equal splits are known as equal."""
        digest = hashlib.sha256(self.name.encode())
        if self.setting or self.held_out:  # scores depend on them, and a file may change them
            digest.update(f"{len(self.setting)}:{self.setting}:{self.held_out}".encode())
        parts = [self.train, self.test]
        if len(self.validation):
            parts.append(self.validation)
        for rows in parts:
            digest.update(len(rows).to_bytes(8, "little"))
            digest.update(np.ascontiguousarray(rows, dtype=np.int64).tobytes())
        return digest.hexdigest()[:16]
