"""scBERT. Yang et al. 2022, doi:10.1038/s42256-022-00534-z.

A cell is all 16,906 genes in a fixed order, each the sum of its gene2vec vector, which training
left as it was, and a vector of its binned count: 0 up to 5, from log2(1 + counts per 10,000). One
more token, without a gene, stands at the end. A Performer reads them.

The authors define no cell embedding: their classifier reads every position. Here it is the mean
over the genes' last hidden states, or the last token's.

Files: ``panglao_pretrain.pth`` (state dict under "model_state_dict"), ``panglao_10000.h5ad``
(its var names are the genes in their order).

fixed beside official: the keys of linear attention share a maximum over all cells of a batch; here
it is of the cell. (The published prediction passes one cell at a time, which comes to the same;
fine-tuning passes three.) Bins are computed in whole numbers rather than in rounded logarithms.
Columns of the same gene are added up; the original takes the first.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from jaxtyping import Float32, Int8, Int32, Int64
from scipy import sparse
from torch import Tensor, nn

from sclitmus.core.dataset import Dataset, Genes
from sclitmus.errors import MethodError, WeightsError
from sclitmus.models.checkpoint import fill, read_torch, refuse_foreign, tensors_of, without_prefix
from sclitmus.models.favor_gradient import with_gradient
from sclitmus.models.gene_space import GeneSpace, entries_by_row, totals_of
from sclitmus.models.performer import RENAME, Performer
from sclitmus.models.performer import UNUSED as PERFORMER_UNUSED
from sclitmus.models.port import Behaviour
from sclitmus.models.tokens import Batch, Tokens
from sclitmus.models.weights import Weights

CHECKPOINT = "panglao_pretrain.pth"
REFERENCE = "panglao_10000.h5ad"
COUNTS_PER_CELL = 1e4  # to which counts are normalised, over the model's genes
DIRECTIONS = "fast_attention.projection_matrix"
N_BESIDE_BINS = 2  # token vectors beside those of the bins 1, 2 …: of bin 0 and of masked genes

UNUSED = PERFORMER_UNUSED | {r"to_out\..*": "predicts masked bins, or cell types"}


@dataclass(frozen=True)
class Config:
    """Sizes, which the checkpoint's tensors show."""

    dim: int = 200
    depth: int = 6
    heads: int = 10
    dim_head: int = 64  # heads do not add up to dim
    num_tokens: int = 7

    @classmethod
    def shown_by(cls, tensors: Mapping[str, Tensor], path: Path) -> Self:
        """Read the sizes off the shapes.

        Raises
        ------
        WeightsError
            If a tensor that shows them is missing or has another number of dimensions.
        """
        layers, first = "performer.net.layers.", "performer.net.layers.0.0.fn."
        needed = ("token_emb.weight", f"{first}to_q.weight", f"{first}{DIRECTIONS}")
        missing = [name for name in needed if name not in tensors or tensors[name].ndim != 2]
        if missing:
            raise WeightsError(
                f"{path} has no matrix {', '.join(missing)}",
                "a checkpoint of scBERT",
                "check that this is the model's own checkpoint",
            )
        tokens, queries, directions = (tensors[name].shape for name in needed)
        depth = len({name.split(".")[3] for name in tensors if name.startswith(layers)})
        return cls(tokens[1], depth, queries[0] // directions[1], directions[1], tokens[0])


class Network(nn.Module):
    """The encoder, on whole cells."""

    def __init__(self, config: Config, n_genes: int) -> None:
        super().__init__()
        d = config.dim
        self.token_emb = nn.Embedding(config.num_tokens, d)
        self.pos_emb = nn.ModuleDict({"emb": nn.Embedding(n_genes + 1, d)})
        self.performer = Performer(d, config.depth, config.heads, config.dim_head, bias=False)
        self.norm = nn.LayerNorm(d)

    def forward(self, bins: Tensor, shared: bool) -> Tensor:
        """Return the last hidden states of cells (n_cells, length), (n_cells, length, d)."""
        n_cells, length = bins.shape
        x = self.token_emb(bins) + self.pos_emb["emb"].weight
        if torch.is_grad_enabled() and not shared:
            x = with_gradient(self.performer, x)
        else:
            offsets = [cell * length for cell in range(n_cells + 1)]
            x = self.performer(x.flatten(0, 1), offsets, shared).unflatten(0, (n_cells, length))
        out: Tensor = self.norm(x)
        return out


@dataclass(frozen=True, eq=False)
class ScBERT:
    """The port: see `models.port.Port`.

    Attributes
    ----------
    pool
        ``"mean"`` over the genes, or ``"last"``, the token without a gene.
    together
        In official behaviour, cells that share the keys' maximum; None where it is one.
    """

    network: Network
    space: GeneSpace
    behaviour: Behaviour
    pool: str = "mean"
    together: int | None = None
    trains_genes: ClassVar[bool] = False

    @classmethod
    def load(cls, weights: Weights, behaviour: Behaviour) -> Self:
        names = _var_names(weights.file(REFERENCE))
        path = weights.file(CHECKPOINT)
        # An optimiser's and a scheduler's state lie beside the tensors.
        tensors = without_prefix(tensors_of(read_torch(path, "any"), path, "model_state_dict"))
        table = tensors.get("pos_emb.emb.weight")
        if table is not None and len(table) != len(names) + 1:
            raise WeightsError(
                f"{path} has vectors for {len(table) - 1} genes, but {REFERENCE} names "
                f"{len(names)}",
                "the genes that the checkpoint was trained with, in their order",
                "take both files from the authors",
            )
        with torch.device("meta"):
            network = Network(Config.shown_by(tensors, path), len(names))
        fill(network, tensors, path, rename=RENAME, unused=UNUSED)
        return cls._of(network, names, behaviour, weights.card.config)

    @classmethod
    def build(
        cls,
        config: Mapping[str, Any],
        genes: Genes,
        weights: Weights | None,
        behaviour: Behaviour,
        seed: int,
    ) -> Self:
        if weights is not None:
            names = _var_names(weights.file(REFERENCE))
        else:
            names = tuple(dict.fromkeys(name for name in genes.symbol if name))
        sizes = Config(**{k: v for k, v in config.items() if k in Config.__dataclass_fields__})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = Network(sizes, len(names)).eval().requires_grad_(False)
        return cls._of(network, names, behaviour, config)

    @classmethod
    def _of(
        cls,
        network: Network,
        names: tuple[str, ...],
        behaviour: Behaviour,
        settings: Mapping[str, Any],
    ) -> Self:
        pool, batch = settings.get("pool", "mean"), int(settings.get("batch", 1))
        if pool not in ("mean", "last"):
            raise MethodError(f"scBERT with pool {pool!r}", "mean or last", "choose one of them")
        together = batch if behaviour == "official" and batch > 1 else None
        return cls(network, GeneSpace(names, "symbol"), behaviour, pool, together)

    def tokenise(
        self,
        counts: sparse.csr_matrix,
        lookup: Int32[np.ndarray, "n_genes"],
        rng: np.random.Generator,
    ) -> Tokens:
        # Only what a cell expresses: the rest is bin 0, and is added on the device.
        official = self.behaviour == "official"
        offsets, rows, values = entries_by_row(
            counts, lookup, len(self.space.names), "first" if official else "sum"
        )
        top = self.network.token_emb.num_embeddings - N_BESIDE_BINS
        bins = (rounded_bins if official else bins_of)(offsets, values, top)
        return Tokens(offsets, {"gene": rows, "bin": bins})

    def cells(self, batch: Batch) -> Tensor:
        return self.pooled(batch)

    def pooled(self, batch: Batch) -> Tensor:
        pooled = []
        for states, _ in self._states(batch):
            pooled.append(states[:, -1] if self.pool == "last" else states[:, :-1].mean(1))
        return torch.cat(pooled)

    def positions(self, batch: Batch) -> Tensor:
        return torch.cat([states for states, _ in self._states(batch)])

    def gene_states(self, batch: Batch) -> Tensor:
        return torch.cat([states.flatten(0, 1)[at] for states, at in self._states(batch)])

    def _states(self, batch: Batch) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield hidden states (n, length, d) of one cell, or of all that belong together.

        With them come the places (n_tokens,) of the cells' tokens among these n x length. A single
        cell is enough for any device, and all that it need hold; training says itself how many.
        """
        gene, length = batch.columns["gene"], self.length
        alone = self.together is None and not torch.is_grad_enabled()
        step = 1 if alone else batch.n_cells
        for first in range(0, batch.n_cells, step):
            lengths = torch.tensor(batch.lengths[first : first + step], device=gene.device)
            a, b = batch.offsets[first], batch.offsets[first + len(lengths)]
            cell = torch.repeat_interleave(torch.arange(len(lengths), device=gene.device), lengths)
            at = cell * length + gene[a:b]
            bins = gene.new_zeros(len(lengths) * length)
            bins[at] = batch.columns["bin"][a:b]
            yield self.network(bins.view(-1, length), self.together is not None), at

    def gene_table(self) -> Float32[np.ndarray, "n_rows d"]:
        table: Any = self.network.pos_emb["emb"]
        return np.asarray(table.weight[:-1].float().cpu().numpy())

    def partition(self, cells: Dataset) -> Iterable[Int64[np.ndarray, "n_rows"]] | None:
        return None

    @property
    def width(self) -> int:
        return self.network.token_emb.embedding_dim

    @property
    def length(self) -> int:
        return len(self.space.names) + 1

    def blocks(self) -> tuple[nn.Module, ...]:
        return tuple(self.network.performer.net["layers"].children())

    def final_norm(self) -> nn.Module:
        return self.network.norm

    def gene_embedding(self) -> nn.Parameter:
        return self.network.pos_emb.get_parameter("emb.weight")


def bins_of(
    offsets: Int64[np.ndarray, "n_cells_plus_1"], values: Float32[np.ndarray, "n"], top: int
) -> Int8[np.ndarray, "n"]:
    """Return the bin of each count: log2(1 + counts per 10,000), rounded down, at most `top`.

    That is the number of levels 1, 3, 7 … that the count per 10,000 reaches, which is exact.
    """
    shares = values.astype(np.float64) * COUNTS_PER_CELL
    totals = np.repeat(totals_of(offsets, values), np.diff(offsets))
    bins = np.zeros(len(values), dtype=np.int8)
    for level in range(1, top + 1):
        bins += shares >= (2**level - 1) * totals
    return bins


def rounded_bins(
    offsets: Int64[np.ndarray, "n_cells_plus_1"], values: Float32[np.ndarray, "n"], top: int
) -> Int8[np.ndarray, "n"]:
    """Return the bins as scanpy 1.7.2 rounds them, the version that the original requires."""
    totals = np.repeat(totals_of(offsets, values), np.diff(offsets)).astype(np.float32)
    scaled = values * (1 / (totals / np.float32(COUNTS_PER_CELL)))
    levels = np.log1p(scaled) / np.float32(np.log(2))
    return np.asarray(np.minimum(levels, top)).astype(np.int8)


def _var_names(path: Path) -> tuple[str, ...]:
    """Read the names of the genes of an .h5ad file, of any version of the format.

    Raises
    ------
    WeightsError
        If it is no such file.
    """
    import h5py

    refuse_foreign(path)
    try:
        with h5py.File(path, "r") as file:
            var = file["var"]
            if isinstance(var, h5py.Group):
                names = var[var.attrs["_index"]][()]
            else:  # before anndata 0.7: a table
                names = var[()]["index"]
        return tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names)
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise WeightsError(
            f"{path} has no gene names that could be read: {error}",
            "an .h5ad file whose var names are the model's genes in their order",
            "get the file from the authors again",
        ) from error
