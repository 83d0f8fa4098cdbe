"""AIDO.Cell (3M, 10M, 100M). Ho et al. 2024, doi:10.1101/2024.11.28.625303.

A cell is all 19,264 genes, expressed or not, and two tokens for its depth, each the sum of a
position's vector and a vector of its log-normalised count (soft bins), read by a transformer in
which every token attends to every other: 370 million pairs.

The embedding is the mean of the last hidden states over the genes that were measured and, as in
the authors' program for it, both depth tokens.

Files: ``pytorch_model.bin`` (state dict), ``config.json``, ``OS_scRNA_gene_index.19264.tsv`` (the
genes in their order).

fixed beside official: columns of the same gene are added up; the original takes the first. A cell
depends on no other in either. The original passes a mask for genes that were not measured, but its
attention ignores it: they are attended as zeros, here too.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float32, Int32, Int64
from scipy import sparse
from torch import Tensor, nn

from sclitmus.core.dataset import Dataset, Genes
from sclitmus.errors import WeightsError
from sclitmus.models.attention import attend
from sclitmus.models.checkpoint import fill, read_torch, tensors_of
from sclitmus.models.gene_space import GeneSpace, entries_by_row, totals_of
from sclitmus.models.port import Behaviour
from sclitmus.models.tokens import Batch, Tokens
from sclitmus.models.weights import Weights
from sclitmus.models.xtrimogene import COUNTS_PER_CELL, GENE_LIST, SoftBins, gene_list

N_DEPTHS = 2  # tokens behind the genes, equal ones: the depth read and the depth to aim at
LEAST_DEPTH = 5.0  # log10 of counts: fewer are read as if they were 100,000
LARGEST = 20.0  # values are clipped here
KINDS = {
    "position_embedding_type": ("absolute",),
    "hidden_act": ("swiglu",),
    "normalization_type": ("RMSNorm", "LayerNorm"),
}

RENAME = {  # the checkpoint of the whole model puts the encoder under "bert"
    r"(?:bert\.)?gene_embedding\.linear1\.(.*)": r"gene_embedding.mlp.\1",
    r"(?:bert\.)?gene_embedding\.linear2\.(.*)": r"gene_embedding.mlp2.\1",
    r"(?:bert\.)?gene_embedding\.lookup_table\.(.*)": r"gene_embedding.emb.\1",
    r"bert\.(.*)": r"\1",
}
UNUSED = {
    r"cls\..*": "predicts expression",
    r"(?:bert\.)?gene_embedding\.(mask|pad)_embedding\.weight": (
        "stands for masked genes and padding: there are none"
    ),
}


@dataclass(frozen=True)
class Config:
    """What config.json says of the network."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    add_linear_bias: bool = True
    normalization_type: str = "RMSNorm"
    layer_norm_eps: float = 1e-5
    bin_num: int = 100
    bin_alpha: float = 1.0

    @classmethod
    def of(cls, config: Mapping[str, Any], source: str) -> Self:
        """Take what is known of config.json; what it leaves out is as in the published code.

        Raises
        ------
        WeightsError
            If a size is missing, or the network is of another kind.
        """
        sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        missing = [name for name in sizes if name not in config]
        other = [
            f"{name} {config[name]!r}"
            for name, known in KINDS.items()
            if config.get(name, known[0]) not in known
        ]
        if missing or other:
            raise WeightsError(
                f"{source} lacks {', '.join(missing) or 'nothing'}"
                + (f" and says {', '.join(other)}" if other else ""),
                f"the sizes, and {KINDS}",
                "take config.json from the folder of the weights",
            )
        return cls(**{k: v for k, v in config.items() if k in cls.__dataclass_fields__})

    def norm(self) -> nn.Module:
        """Make a layer that normalises."""
        kind = nn.RMSNorm if self.normalization_type == "RMSNorm" else nn.LayerNorm
        made: nn.Module = kind(self.hidden_size, eps=self.layer_norm_eps)
        return made


class Layer(nn.Module):
    """A pre-norm layer: attention, then a gated feed-forward (SwiGLU)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        d, d_hidden, bias = config.hidden_size, config.intermediate_size, config.add_linear_bias
        self.n_heads = config.num_attention_heads
        projections = {name: nn.Linear(d, d, bias) for name in ("query", "key", "value")}
        self.attention = nn.ModuleDict(
            {
                "ln": config.norm(),
                "self": nn.ModuleDict(projections),
                "output": nn.ModuleDict({"dense": nn.Linear(d, d, bias)}),
            }
        )
        self.ln = config.norm()
        self.mlp = nn.ModuleDict(
            {
                "up_proj": nn.Linear(d, d_hidden, bias),
                "gate_proj": nn.Linear(d, d_hidden, bias),
                "down_proj": nn.Linear(d_hidden, d, bias),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        """Pass the tokens of one cell (n_tokens, d) through the layer."""
        of: Any = self.attention["self"]
        h = self.attention["ln"](x)
        q, k, v = (to(h).unflatten(1, (self.n_heads, -1)) for to in of.values())
        z = attend(q, k, v, [0, len(x)]).flatten(1)
        output: Any = self.attention["output"]
        x = x + output["dense"](z)
        h = self.ln(x)
        h = nn.functional.silu(self.mlp["gate_proj"](h)) * self.mlp["up_proj"](h)
        out: Tensor = x + self.mlp["down_proj"](h)
        return out


class Network(nn.Module):
    """The encoder, on one whole cell."""

    def __init__(self, config: Config, n_genes: int) -> None:
        super().__init__()
        d = config.hidden_size
        self.gene_embedding = SoftBins(d, config.bin_num, config.bin_alpha)
        self.position_embedding = nn.Embedding(n_genes + N_DEPTHS, d)
        layers = nn.ModuleList([Layer(config) for _ in range(config.num_hidden_layers)])
        self.encoder = nn.ModuleDict({"layer": layers, "ln": config.norm()})

    def forward(self, values: Tensor) -> Tensor:
        """Return the last hidden states (length, d) of a cell's values (length,)."""
        x: Tensor = self.gene_embedding(values) + self.position_embedding.weight
        for layer in self.encoder["layer"].children():
            x = layer(x)
        out: Tensor = self.encoder["ln"](x)
        return out


@dataclass(frozen=True, eq=False)
class AIDOCell:
    """The port: see `models.port.Port`.

    Attributes
    ----------
    depth_tokens
        Whether the embedding counts the depth tokens in, as the authors' program for embeddings
        does; their ModelGenerator leaves them out.
    """

    network: Network
    space: GeneSpace
    behaviour: Behaviour
    depth_tokens: bool = True
    together: int | None = None

    @classmethod
    def load(cls, weights: Weights, behaviour: Behaviour) -> Self:
        names = gene_list(weights.file(GENE_LIST))
        about = weights.file("config.json")
        try:
            config = Config.of(json.loads(about.read_text(encoding="utf-8")), str(about))
        except ValueError as error:
            raise WeightsError(
                f"{about} is no JSON: {error}", "the published config.json", "download it again"
            ) from error
        path = weights.file("pytorch_model.bin")
        tensors = tensors_of(read_torch(path), path)
        for name in ("position_embedding.weight", "bert.position_embedding.weight"):
            if name in tensors and len(tensors[name]) != len(names) + N_DEPTHS:
                raise WeightsError(
                    f"{path} has vectors for {len(tensors[name]) - N_DEPTHS} genes, but "
                    f"{GENE_LIST} names {len(names)}",
                    "the list that the checkpoint was trained with",
                    "take both files from the official source",
                )
        with torch.device("meta"):
            network = Network(config, len(names))
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
            names = gene_list(weights.file(GENE_LIST))
        else:
            names = tuple(dict.fromkeys(name for name in genes.symbol if name))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = Network(Config.of(config, "the model's card"), len(names))
            network.eval().requires_grad_(False)
            for name, tensor in network.named_parameters():
                if name.endswith("bias"):
                    tensor.zero_()
                elif tensor.ndim == 2:  # norms keep their ones
                    tensor.normal_(0, config.get("initializer_range", 0.02))
        return cls._of(network, names, behaviour, config)

    @classmethod
    def _of(
        cls,
        network: Network,
        names: tuple[str, ...],
        behaviour: Behaviour,
        settings: Mapping[str, Any],
    ) -> Self:
        depth_tokens = bool(settings.get("depth_tokens", True))
        return cls(network, GeneSpace(names, "symbol"), behaviour, depth_tokens)

    def tokenise(
        self,
        counts: sparse.csr_matrix,
        lookup: Int32[np.ndarray, "n_genes"],
        rng: np.random.Generator,
    ) -> Tokens:
        # Only what a cell expresses: zeros and depth tokens are added on the device.
        n_genes = len(self.space.names)
        offsets, rows, counted = entries_by_row(
            counts, lookup, n_genes, "first" if self.behaviour == "official" else "sum"
        )
        totals = totals_of(offsets, counted).astype(np.float32)
        shares = counted / np.repeat(totals, np.diff(offsets))
        values = np.minimum(np.log1p(shares * np.float32(COUNTS_PER_CELL)), LARGEST)
        depths = np.maximum(np.log10(np.maximum(totals, 1)), LEAST_DEPTH)
        measured = np.zeros(n_genes, dtype=np.bool_)
        measured[lookup[lookup >= 0]] = True
        n_cells = len(totals)
        return Tokens(
            offsets,
            {"gene": rows, "value": values},
            # The same for every cell: a view, which takes no memory.
            {"depth": depths, "measured": np.broadcast_to(measured, (n_cells, n_genes))},
        )

    def cells(self, batch: Batch) -> Tensor:
        measured = batch.cells["measured"]
        counted = nn.functional.pad(measured, (0, N_DEPTHS), value=self.depth_tokens).float()
        states = zip(counted[:, :, None], self._states(batch), strict=True)
        return torch.stack([(weight * x).sum(0) / weight.sum() for weight, x in states])

    def gene_states(self, batch: Batch) -> Tensor:
        gene, offsets = batch.columns["gene"], batch.offsets
        states = enumerate(self._states(batch))
        return torch.cat([x[gene[offsets[cell] : offsets[cell + 1]]] for cell, x in states])

    def _states(self, batch: Batch) -> Iterator[Tensor]:
        """Yield the hidden states (length, d) of each cell; one is enough for any device."""
        n_genes = len(self.space.names)
        for cell in range(batch.n_cells):
            tokens = slice(batch.offsets[cell], batch.offsets[cell + 1])
            values = batch.cells["depth"][cell].repeat(n_genes + N_DEPTHS)
            values[:n_genes] = 0
            values[batch.columns["gene"][tokens]] = batch.columns["value"][tokens]
            yield self.network(values)

    def gene_table(self) -> Float32[np.ndarray, "n_rows d"]:
        table = self.network.position_embedding.weight[: len(self.space.names)]
        return np.asarray(table.float().cpu().numpy())

    def partition(self, cells: Dataset) -> Iterable[Int64[np.ndarray, "n_rows"]] | None:
        return None
