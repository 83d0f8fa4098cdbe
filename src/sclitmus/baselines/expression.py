"""What methods that name cells read: log-normalised expression of the genes seen in training."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from scipy import sparse
from threadpoolctl import threadpool_limits

from sclitmus.baselines.fitted import require_same_genes
from sclitmus.baselines.lognorm import log_normalised, totals
from sclitmus.core.dataset import Categories, Dataset, Genes
from sclitmus.errors import NotApplicable

GROUPING = ("group", "donor")  # roles whose units tuning keeps whole, the first there is
N_FEATURES = 50  # principal components in which distances between cells are taken


@dataclass(frozen=True)
class Expression:
    """log1p of the counts per 10,000, of genes with a count in a training cell, not scaled.

    As Boiarsky et al. 2024 (doi:10.1038/s42256-024-00949-w), but for the base of the logarithm,
    which is a constant factor.
    """

    genes: Genes
    seen: Int64[np.ndarray, "n_seen"]

    @classmethod
    def of(cls, train: Dataset) -> "Expression":
        """Note the genes that have a count."""
        counts = train.counts
        found = np.bincount(counts.indices[counts.data > 0], minlength=train.n_genes)
        return cls(train.genes, np.flatnonzero(found))

    def read(self, cells: Dataset, method: str) -> sparse.csr_matrix:
        """Return the expression of cells, ``(n_cells, n_seen)`` float32."""
        require_same_genes(self.genes, cells, method)
        every = np.arange(cells.n_genes)
        return log_normalised(cells.counts, self.seen, totals(cells.counts, every))

    def by_gene(
        self, scores: Float64[np.ndarray, "n_classes n_seen"]
    ) -> Float64[np.ndarray, "n_classes n_genes"]:
        """Spread scores of the seen genes over all genes; the others have the lowest score."""
        out = np.full((len(scores), len(self.genes)), min(0.0, float(scores.min(initial=0.0))))
        out[:, self.seen] = scores
        return out


def labelled(train: Dataset, method: str) -> Categories:
    """Return the labels that are learned.

    Raises
    ------
    NotApplicable
        With fewer than two classes.
    """
    label = train.role("label")
    if len(label.names) < 2:
        raise NotApplicable(f"{method} tells classes apart; the training cells have one")
    return label


def groups_of(train: Dataset) -> np.ndarray | None:
    """Return the code of each cell's group, or donor; None where neither is known."""
    role = next((role for role in GROUPING if role in train.roles), None)
    return None if role is None else train.roles[role].codes


@dataclass(frozen=True)
class Components:
    """Principal components of the training cells, in which distances between cells are taken."""

    mean: Float64[np.ndarray, "n_seen"]
    axes: Float64[np.ndarray, "n_seen d"]

    @classmethod
    def of(cls, x: sparse.csr_matrix) -> "Components":
        """Find the first `N_FEATURES`, fewer of few cells; one of zeros where nothing varies."""
        from sklearn.decomposition import PCA

        k = min(N_FEATURES, x.shape[0] - 1, x.shape[1] - 1)
        if k < 1 or (x.max(axis=0) - x.min(axis=0)).nnz == 0:  # nothing varies
            return cls(np.zeros(x.shape[1]), np.zeros((x.shape[1], 1)))
        with threadpool_limits(1, user_api="blas"):  # its threads slow short products down
            found = PCA(k, svd_solver="arpack", random_state=0).fit(x.astype(np.float64))
        return cls(found.mean_, np.ascontiguousarray(found.components_.T))

    def read(self, x: sparse.csr_matrix) -> Float64[np.ndarray, "n d"]:
        """Return the coordinates of cells."""
        return np.asarray(x @ self.axes - self.mean @ self.axes, dtype=np.float64)


Markers = Mapping[str, Float64[np.ndarray, "n_classes n_genes"]]
