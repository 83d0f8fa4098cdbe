"""SSL in single-cell genomics, masked autoencoder (Richter et al., doi:10.1038/s42256-024-00934-3).

A perceptron reads all genes of a cell at once, as log counts per 10,000; the embedding is its
bottleneck. It was trained to fill in half of the genes of 15 million cells (scTab).

Files: ``RandomMask.ckpt`` (of Lightning), ``var.parquet`` (the genes in the order of its input).

fixed beside official: the same. The original already depends on the cell alone.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from jaxtyping import Float32, Int32, Int64
from scipy import sparse
from torch import Tensor, nn

from sclitmus.core.dataset import Dataset, Genes
from sclitmus.errors import NotApplicable, WeightsError
from sclitmus.models.checkpoint import fill, read_torch, refuse_foreign, tensors_of
from sclitmus.models.gene_space import GeneSpace, known_entries
from sclitmus.models.port import Behaviour
from sclitmus.models.tokens import Batch, Tokens
from sclitmus.models.weights import Weights

TARGET = 10_000  # sum of a cell's counts in the model's genes, before the logarithm
DROPOUT = 0.1  # in training; here it only keeps the layers at their published places

UNUSED = {r"decoder\..*": "reconstructs expression"}


class Network(nn.Module):
    """The encoder."""

    def __init__(self, n_genes: int, units: list[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise([n_genes, *units]):
            layers += [nn.Linear(n_in, n_out), nn.SELU(), nn.Dropout(DROPOUT)]
        self.encoder = nn.Sequential(*layers[:-2])  # nothing follows the last

    def forward(self, x: Tensor) -> Tensor:
        """Return the bottleneck of each cell, (n_cells, d), from log counts (n_cells, n_genes)."""
        z: Tensor = self.encoder(x)
        return z


@dataclass(frozen=True, eq=False)
class SSL:
    """The port: see `models.port.Port`."""

    network: Network
    space: GeneSpace
    behaviour: Behaviour
    together: int | None = None
    cpu_tokens: ClassVar[int] = 400_000  # a few small layers: thousands of cells at once

    @classmethod
    def load(cls, weights: Weights, behaviour: Behaviour) -> Self:
        space = _genes(weights.file("var.parquet"))
        path = weights.file("RandomMask.ckpt")
        tensors = tensors_of(read_torch(path, inert="any"), path, "state_dict")
        first = tensors.get("encoder.0.weight")
        if first is not None and first.ndim == 2 and first.shape[1] != len(space.names):
            raise WeightsError(
                f"{path} reads {first.shape[1]} genes, but var.parquet names {len(space.names)}",
                "the genes that the checkpoint was trained with",
                "take var.parquet from the repository of the checkpoint",
            )
        with torch.device("meta"):
            network = Network(len(space.names), weights.card.config["units"])
        fill(network, tensors, path, unused=UNUSED)
        return cls(network, space, behaviour)

    @classmethod
    def build(
        cls,
        config: Mapping[str, Any],
        genes: Genes,
        weights: Weights | None,
        behaviour: Behaviour,
        seed: int,
    ) -> Self:
        space = _own_genes(genes) if weights is None else _genes(weights.file("var.parquet"))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # the original draws as torch does for any linear layer
            network = Network(len(space.names), config["units"]).eval().requires_grad_(False)
        return cls(network, space, behaviour)

    def tokenise(
        self,
        counts: sparse.csr_matrix,
        lookup: Int32[np.ndarray, "n_genes"],
        rng: np.random.Generator,
    ) -> Tokens:
        offsets, rows, values = known_entries(counts, lookup)
        shape = (len(offsets) - 1, len(self.space.names))
        x = sparse.csr_matrix((values, rows, offsets), shape=shape)
        x.sum_duplicates()  # columns of the same gene
        totals = np.asarray(x.sum(axis=1, dtype=np.float64)).ravel()
        x.data = np.log1p(x.data / np.repeat(totals / TARGET, np.diff(x.indptr))).astype(np.float32)
        # The network reads whole cells: each is one token, whatever its genes.
        nothing = np.full(shape[0], -1, dtype=np.int32)
        return Tokens(np.arange(shape[0] + 1), {"gene": nothing}, {"x": x.toarray()})

    def cells(self, batch: Batch) -> Tensor:
        z: Tensor = self.network(batch.cells["x"])
        return z

    def gene_states(self, batch: Batch) -> Tensor:
        raise NotApplicable("a perceptron that reads all genes at once has no vectors of genes")

    def gene_table(self) -> Float32[np.ndarray, "n_rows d"]:
        raise NotApplicable("a perceptron that reads all genes at once has no vectors of genes")

    def partition(self, cells: Dataset) -> Iterable[Int64[np.ndarray, "n_rows"]] | None:
        return None


def _genes(path: Path) -> GeneSpace:
    """Read the genes in the order of the network's input."""
    import polars as pl

    refuse_foreign(path)
    try:
        table = pl.read_parquet(path, columns=["feature_id", "feature_name"])
    except (pl.exceptions.PolarsError, OSError) as error:
        raise WeightsError(
            f"{path} cannot be read: {str(error).splitlines()[0]}",
            "the published var.parquet, with the columns feature_id and feature_name",
            "download it again",
        ) from error
    ids, symbols = (tuple(map(str, table[name])) for name in ("feature_id", "feature_name"))
    also = tuple((symbol, row) for row, symbol in enumerate(symbols))
    return GeneSpace(ids, "ensembl", also=also, only_unnamed=True)


def _own_genes(genes: Genes) -> GeneSpace:
    """Take the dataset's own genes."""
    kind: Literal["ensembl", "symbol"] = "ensembl" if any(genes.ensembl) else "symbol"
    names = genes.ensembl if kind == "ensembl" else genes.symbol
    return GeneSpace(tuple(dict.fromkeys(name for name in names if name)), kind)
