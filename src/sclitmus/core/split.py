"""Which cells a task fits on and which it scores."""

import hashlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64


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
        Rows a probe may learn from, ascending; empty where the task learns nothing.
    weight
        For a subsample of ``m`` of ``n`` units: ``m / (n - m)``, the factor that turns the
        variance over such subsamples into the variance of the full-data score (delete-d
        jackknife, doi:10.1214/aos/1176347263). 0 for the full data.
    n_units
        How many units (cells, or donors) the full data has that subsamples are drawn from: few
        donors bound the degrees of freedom, however many subsamples are drawn. 0 if unknown.
    """

    name: str
    test: Int64[np.ndarray, "n_test"]
    train: Int64[np.ndarray, "n_train"]
    weight: float = 0.0
    n_units: int = 0

    @property
    def key(self) -> str:
        """Hash of the rows, so that equal splits are recognised as equal."""
        digest = hashlib.sha256(self.name.encode())
        for rows in (self.train, self.test):
            digest.update(len(rows).to_bytes(8, "little"))
            digest.update(np.ascontiguousarray(rows, dtype=np.int64).tobytes())
        return digest.hexdigest()[:16]
