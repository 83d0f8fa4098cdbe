"""scVI: a variational autoencoder trained on the evaluated cells, the bar that learns.

Lopez et al. 2018, doi:10.1038/s41592-018-0229-2; the authors' scvi-tools. Settings are those of
Kedzierska et al. 2025 (doi:10.1186/s13059-025-03574-x): raw counts of all genes found in at
least 10 cells, two layers, 30 dimensions, negative binomial, the batch column, default training.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import ceil
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from jaxtyping import Float32, Int64
from scipy import sparse

from sclitmus.baselines.fitted import require_fitted, require_same_genes
from sclitmus.baselines.lognorm import MIN_CELLS, frequent_genes, totals
from sclitmus.core.dataset import Dataset, Genes
from sclitmus.core.method import MethodCard
from sclitmus.errors import NotApplicable

if TYPE_CHECKING:
    from anndata import AnnData

MINIBATCH = 128  # scvi-tools' default
TRAIN_SHARE = 0.9  # scvi-tools' default; the rest would be for early stopping, which is off


@dataclass(frozen=True)
class Trained:
    """The genes it reads and the trained model (an ``scvi.model.SCVI``)."""

    genes: Genes
    kept: Int64[np.ndarray, "n_kept"]
    model: Any


@dataclass(frozen=True, eq=False)
class ScVI:
    """Latent means of scVI.

    The encoder does not read the batch (scvi-tools' default), so cells of a new batch can be
    embedded. Cells of unknown batch are treated as one batch of their own. The same seed gives the
    same embedding on a CPU; on a GPU up to the order of its sums.

    Parameters
    ----------
    n_latent, n_layers, gene_likelihood
        The network; Kedzierska et al. 2025.
    min_cells
        A gene must be found in this many cells; see `lognorm.frequent_genes` for small data.
    max_epochs
        Passes over the cells; None is scvi-tools' rule, 400 up to 20,000 cells and
        ``8e6 / n_cells`` above.
    accelerator
        "auto" takes a GPU where there is one; "cpu" does not. Not part of the cache key.
    """

    n_latent: int = 30
    n_layers: int = 2
    gene_likelihood: str = "nb"
    min_cells: int = MIN_CELLS
    max_epochs: int | None = None
    accelerator: str = "auto"
    trained: Trained | None = field(default=None, kw_only=True, repr=False)  # set by fit

    @property
    def card(self) -> MethodCard:
        return MethodCard(
            id="scvi",
            kind="trained_on_target",
            part="bar",
            title="scVI",
            summary="Variational autoencoder trained on these cells, given their batches.",
            deterministic=False,
            params={
                "n_latent": self.n_latent,
                "n_layers": self.n_layers,
                "gene_likelihood": self.gene_likelihood,
                "min_cells": self.min_cells,
                "max_epochs": self.max_epochs or "min(400, 8e6 / n_cells)",
            },
            doi="10.1038/s41592-018-0229-2",
        )

    def fit(self, train: Dataset, rng: np.random.Generator) -> Self:
        """Train on the counts, with the batch column where there is one.

        Raises
        ------
        NotApplicable
            If there are fewer than two cells with a count: batch normalisation has no variance.
        """
        kept = frequent_genes(train.counts, self.min_cells)
        # A cell that lost its counts with the rare genes has a log library size of -inf, which
        # would spread through the loss. It is embedded, not trained on.
        rows = np.flatnonzero(totals(train.counts, kept) > 0)
        if len(rows) < 2:
            raise NotApplicable(f"scVI needs at least 2 cells with counts; got {len(rows)}")
        codes = train.roles["batch"].codes[rows] if "batch" in train.roles else np.zeros(len(rows))
        _, batch = np.unique(codes, return_inverse=True)
        learned_on, held_out = _division(len(rows), rng)
        with _quiet(), _seeded(int(rng.integers(2**31))):
            from scvi.model import SCVI

            data = _anndata(train.counts[rows][:, kept], batch)
            SCVI.setup_anndata(data, batch_key="batch")
            model = SCVI(
                data,
                n_latent=self.n_latent,
                n_layers=self.n_layers,
                gene_likelihood=self.gene_likelihood,
            )
            model.train(
                max_epochs=self.max_epochs,
                accelerator=self.accelerator,
                batch_size=MINIBATCH,
                datasplitter_kwargs={"external_indexing": [learned_on, held_out]},
                enable_progress_bar=False,
                logger=False,
                benchmark=None,  # leave cuDNN's global switch as it is
            )
        return replace(self, trained=Trained(train.genes, kept, model))

    def embed(self, cells: Dataset) -> Float32[np.ndarray, "n_cells d"]:
        trained = require_fitted(self.trained, self.card.id)
        require_same_genes(trained.genes, cells, self.card.id)
        with _quiet(), _seeded(0):  # it draws samples on the way to the means
            # Any batch it knows will do: the encoder does not read it.
            data = _anndata(cells.counts[:, trained.kept], np.zeros(cells.n_cells, dtype=int))
            z = trained.model.get_latent_representation(data, give_mean=True)
        return np.asarray(z, dtype=np.float32)


def _anndata(counts: sparse.csr_matrix, batch: Int64[np.ndarray, "n_cells"]) -> "AnnData":
    import pandas as pd
    from anndata import AnnData

    index = pd.RangeIndex(counts.shape[0]).astype(str)
    obs = pd.DataFrame({"batch": pd.Categorical(batch.astype(str))}, index=index)
    return AnnData(counts.astype(np.float32), obs=obs)


def _division(
    n_cells: int, rng: np.random.Generator
) -> tuple[Int64[np.ndarray, "n_learned_on"], Int64[np.ndarray, "n_held_out"]]:
    """Divide the cells as scvi-tools does, but by `rng`: its own split is drawn from the clock.

    A last minibatch of one or two cells, on which batch normalisation fails or is wild, is left
    out of training, unless there is no other.
    """
    n_learned_on = ceil(TRAIN_SHARE * n_cells)
    last = n_learned_on % MINIBATCH
    if last < 3 and n_learned_on > MINIBATCH:
        n_learned_on -= last
    order = rng.permutation(n_cells)
    return order[:n_learned_on], order[n_learned_on:]


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch and numpy, and give them back as they were: they belong to the whole process."""
    import torch

    state = np.random.get_state()  # noqa: NPY002 - scvi-tools draws from the global generator
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(state)  # noqa: NPY002


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the notes and hints of scvi-tools and Lightning from the user's terminal."""
    names = ("scvi", "lightning", "lightning.pytorch", "lightning.fabric")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import scvi  # noqa: F401 - sets its logger's level when first imported: before we look

        levels = {name: logging.getLogger(name).level for name in names}
        try:
            for name in names:
                logging.getLogger(name).setLevel(logging.ERROR)
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
