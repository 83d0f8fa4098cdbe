"""An embedding and all it is scored against; what several metrics need is computed once.

Memory is bounded: no array here has more than `n_cells` x 90 entries besides the embedding.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, Float64, Int32
from scipy import sparse

from sclitmus.core.rng import rng_for
from sclitmus.errors import MethodError, NotApplicable
from sclitmus.metrics.clustering import RESOLUTIONS, best_by_nmi, leiden_scan
from sclitmus.metrics.kmeans import kmeans
from sclitmus.metrics.silhouette import Silhouettes, silhouettes

if TYPE_CHECKING:
    from sclitmus.metrics.neighbours import Neighbours

# Imported where they are used: numba takes a fifth of a second, and listing the metrics needs
# none of it.

N_NEIGHBOURS = 90  # LISI's neighbourhood, the largest any metric asks for
N_GRAPH_NEIGHBOURS = 15  # scanpy's and scib's default for clustering
N_KBET_NEIGHBOURS = 50  # scib-metrics'
# The seeds scib-metrics 0.5.10 fixes.
SCIB_LEIDEN_SEED = 42
SCIB_KMEANS_SEED = 0


@dataclass(frozen=True)
class Measured:
    """A metric's value per unit, or why it has none.

    Attributes
    ----------
    values
        By unit: ``dataset``, ``type:NAME``.
    note
        How the values were had, where not exactly.
    absent
        Why there is no value; empty where there is one.
    """

    values: Mapping[str, float]
    note: str = ""
    absent: str = ""


@dataclass(frozen=True, eq=False)
class ScoredEmbedding:
    """What a zero-shot metric is computed from.

    Attributes
    ----------
    z
        Embedding, float32, finite, row i is cell i.
    label, batch
        Codes from 0, none missing; `batch` is None where the data have no batches.
    before
        The cells before integration: principal components of the log-normalised counts. None
        where there is none; only `pcr_comparison` reads it.
    label_names
        Name of each label code, for scores per type; the code itself where not given.
    seed
        Seed of clustering and subsampling.
    compat
        ``"scib"``: definitions, seeds and clipping of scib-metrics 0.5.10, flaws included.
    max_exact
        Metrics whose cost grows faster than the number of cells are exact up to this many
        cells; above it they are means over `draws`.
    draw_cells, n_draws
        Cells in a subsample, and how many are drawn.
    measured
        What `suite.score_all` has found so far, so that two tasks that score the same cells do
        not pay twice.
    """

    z: Float32[np.ndarray, "n_cells d"]
    label: Int32[np.ndarray, "n_cells"]
    batch: Int32[np.ndarray, "n_cells"] | None = None
    before: Float32[np.ndarray, "n_cells p"] | None = None
    label_names: tuple[str, ...] = ()
    seed: int = 0
    compat: str = ""
    max_exact: int = 100_000
    draw_cells: int = 50_000
    n_draws: int = 5
    measured: dict[str, Measured] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        n = len(self.label)
        if self.compat not in ("", "scib"):
            raise ValueError(f'compat must be "" or "scib", got {self.compat!r}')
        if self.z.ndim != 2 or len(self.z) != n:
            raise MethodError(
                seen=f"an embedding of shape {self.z.shape}",
                needed=f"one row per cell: ({n}, d)",
                remedy="return a row for every cell, in the cells' order",
            )
        if not np.isfinite(self.z).all():
            bad = int((~np.isfinite(self.z).all(axis=1)).sum())
            raise MethodError(
                seen=f"{bad} of {n} rows of the embedding hold NaN or infinity",
                needed="finite numbers only",
                remedy="repair the method, or leave it out",
            )
        for name, rows in (("batch", self.batch), ("before", self.before)):
            if rows is not None and len(rows) != n:
                raise ValueError(f"{name} must have one row per cell ({n}), got {len(rows)}")

    @property
    def n_cells(self) -> int:
        return len(self.label)

    @property
    def is_drawn(self) -> bool:
        """Whether costly metrics are means over subsamples."""
        return self.n_cells > self.max_exact

    # ---- what a metric may ask for, or hear that there is none

    @cached_property
    def types(self) -> Int32[np.ndarray, "n_cells"]:
        """The labels, of which there are two at least."""
        if len(np.unique(self.label)) < 2:
            raise NotApplicable("all cells have one label; two are needed to tell them apart")
        return self.label

    @cached_property
    def batches(self) -> Int32[np.ndarray, "n_cells"]:
        """The batches, of which there are two at least."""
        if self.batch is None:
            raise NotApplicable("the dataset has no batch column")
        if len(np.unique(self.batch)) < 2:
            raise NotApplicable("all cells are in one batch; two are needed for mixing")
        return self.batch

    @property
    def unintegrated(self) -> Float32[np.ndarray, "n_cells p"]:
        """The cells before integration."""
        if self.before is None:
            raise NotApplicable("no representation of the cells before integration was given")
        return self.before

    def type_name(self, code: int) -> str:
        """Return the name of a label code."""
        return self.label_names[code] if self.label_names else str(code)

    # ---- shared by several metrics, computed on first use

    @cached_property
    def neighbours(self) -> "Neighbours":
        """Each cell and its nearest neighbours: 90 of them, or all cells where fewer."""
        from sclitmus.metrics.neighbours import nearest_neighbours

        return nearest_neighbours(self.z, N_NEIGHBOURS, seed=self.seed)

    @cached_property
    def connectivities(self) -> sparse.csr_matrix:
        """Symmetric weighted graph of 15 neighbours, as UMAP and scanpy build it."""
        from sclitmus.metrics.neighbours import connectivities

        return connectivities(self.neighbours.first(N_GRAPH_NEIGHBOURS))

    @cached_property
    def lisis(self) -> Float64[np.ndarray, "n_columns n_cells"]:
        """LISI of the labels, then of the batches where there are any: one pass for both."""
        from sclitmus.metrics.lisi import lisis

        columns = (self.label,) if self.batch is None else (self.label, self.batch)
        return lisis(self.neighbours, columns, compat=self.compat == "scib")

    @cached_property
    def silhouettes(self) -> Silhouettes:
        """Silhouette of each cell by label, and by batch within its label."""
        return silhouettes(self.z, self.label, self.batch)

    @cached_property
    def clusterings(self) -> Int32[np.ndarray, "n_res n_cells"]:
        """Leiden clusters at each of `clustering.RESOLUTIONS`."""
        seed = SCIB_LEIDEN_SEED if self.compat == "scib" else self.seed
        return leiden_scan(self.connectivities, RESOLUTIONS, seed)

    @property
    def clusters(self) -> Int32[np.ndarray, "n_cells"]:
        """Leiden clusters at resolution 1: no label is looked at."""
        return np.asarray(self.clusterings[RESOLUTIONS.index(1.0)])

    @cached_property
    def oracle_clusters(self) -> Int32[np.ndarray, "n_cells"]:
        """Leiden clusters at the resolution of largest NMI with the labels."""
        return np.asarray(self.clusterings[best_by_nmi(self.clusterings, self.types)])

    @cached_property
    def kmeans_clusters(self) -> Int32[np.ndarray, "n_cells"]:
        """K-means clusters, as many as labels; scib-metrics takes the first run as it comes."""
        k = len(np.unique(self.types))
        if self.compat == "scib":
            return kmeans(self.z, k, SCIB_KMEANS_SEED, n_init=1)
        return kmeans(self.z, k, self.seed, n_init=5)

    # ---- subsamples

    def draws(self) -> Iterator["ScoredEmbedding"]:
        """Yield subsamples, stratified by type and batch, each small enough to be exact.

        Rows depend on the seed, the labels and the batches, never on the embedding: all methods
        are scored on the same draws, so their differences are paired. Every stratum has its
        share to within one cell; a type rarer than one in `n_cells / draw_cells` may be absent.
        """
        batch = np.zeros_like(self.label) if self.batch is None else self.batch
        stratum = self.label.astype(np.int64) * (int(batch.max()) + 1) + batch
        data = hashlib.blake2b(stratum.tobytes(), digest_size=8).hexdigest()
        size = min(self.draw_cells, self.n_cells)
        for draw in range(self.n_draws):
            rng = rng_for(self.seed, "subsample", data, draw)
            order = rng.permutation(self.n_cells)
            order = order[np.argsort(stratum[order], kind="stable")]
            # Evenly spaced positions in an order that is shuffled within strata.
            position = (np.arange(size) * self.n_cells + rng.integers(self.n_cells)) // size
            yield self._take(np.sort(order[position]))

    def _take(self, rows: np.ndarray) -> "ScoredEmbedding":
        used, label = np.unique(self.label[rows], return_inverse=True)
        batch = self.batch
        if batch is not None:
            batch = np.unique(batch[rows], return_inverse=True)[1].astype(np.int32)
        return replace(
            self,
            z=self.z[rows],
            label=label.astype(np.int32),
            batch=batch,
            before=None if self.before is None else self.before[rows],
            label_names=tuple(self.type_name(int(code)) for code in used),
            max_exact=len(rows),
        )
