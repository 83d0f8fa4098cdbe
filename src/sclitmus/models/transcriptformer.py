"""TranscriptFormer-Sapiens (Pearce et al. 2025, doi:10.1101/2025.04.25.650731).

A cell is the list of its expressed genes, each by the ESM2 vector of its protein, read by a causal
transformer: a gene sees those before it, and sees them the more the higher their counts. The
states behind [START] and all genes but the last are averaged into the embedding.

Files: ``config.json``, ``model_weights.pt`` (state dict, with the genes' vectors), and
``vocabs/homo_sapiens_gene.h5``, of which only the names of the genes are read.

fixed beside official: the original takes genes in the order of the dataset's columns, and of more
than 2046 the first ones. Here they come in the order of the vocabulary, and which of too many are
left out is drawn from the cell's own counts.
"""

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
import torch
from jaxtyping import Float32, Int32, Int64
from scipy import sparse
from torch import Tensor, nn

from sclitmus.core.dataset import Dataset, Genes
from sclitmus.errors import WeightsError
from sclitmus.models.attention import ACTIVATIONS
from sclitmus.models.checkpoint import (
    fill,
    read_torch,
    refuse_foreign,
    tensors_of,
    without_prefix,
)
from sclitmus.models.draws import cell_seeds, uniforms
from sclitmus.models.gene_space import GeneSpace, entries_by_row, known_entries
from sclitmus.models.port import Behaviour
from sclitmus.models.tokens import Batch, Tokens
from sclitmus.models.weights import Weights

MAX_COUNT = 30  # larger counts are clipped; a setting of the official command, not of config.json
QUERIES = 256  # tokens whose attention is computed at once
TABLE = "gene_embeddings.embedding.weight"
SPECIAL = ("unknown", "[PAD]", "[START]", "[END]", "[RD]", "[CELL]", "[MASK]")

UNUSED = {
    r"aux_embeddings\..*": "vectors of assays: the assay is not told, and an unknown one is masked",
    r"mu\..*": "predicts counts",
    r"gene_id_head\..*": "predicts the next gene",
}


@dataclass(frozen=True)
class Config:
    """What config.json says of the network and of what it reads."""

    embed_dim: int
    model_dim: int  # hidden layer of the feed-forward network
    num_heads: int
    num_layers: int
    seq_len: int  # tokens beside that of the assay
    activation: str
    attn_bias: bool
    fw_bias: bool
    softcap: float
    log_counts_eps: float
    special_tokens: tuple[str, ...] = SPECIAL
    esm2_mappings: tuple[str, ...] = ("homo_sapiens_gene.h5",)

    @classmethod
    def of(cls, model: Mapping[str, Any], source: str) -> "Config":
        """Take what is known of ``config.json``, or of the model's card.

        Raises
        ------
        WeightsError
            If something is missing, or the model reads cells in another way.
        """
        try:
            data = model["data_config"]
            known = {**model["model_config"], **data}
            config = cls(**{name: known[name] for name in cls.__dataclass_fields__})
        except (KeyError, TypeError) as error:
            raise WeightsError(
                f"{source} does not describe the network: {error}",
                "the published config.json",
                "take it from the folder of the checkpoint",
            ) from error
        special, files = tuple(config.special_tokens), tuple(config.esm2_mappings)
        known_way = data.get("pad_zeros", True) and config.activation in ACTIVATIONS
        if not known_way or "[START]" not in special:
            raise WeightsError(
                f"{source} says activation {config.activation!r}, pad_zeros "
                f"{data.get('pad_zeros')}, special tokens {special}",
                f"one of {', '.join(ACTIVATIONS)}; true; and [START] among them",
                "such a model is not ported",
            )
        return cls(**{**config.__dict__, "special_tokens": special, "esm2_mappings": files})


class Proteins(nn.Module):
    """Vectors of the genes' proteins, and what the network reads in their place."""

    def __init__(self, n_rows: int, token_dim: int, d: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_rows, token_dim)
        # Fourth, where the original drops out in training, stands nothing.
        layers = [nn.Linear(token_dim, d), nn.ReLU(), nn.LayerNorm(d), nn.Identity()]
        self.mlp = nn.ModuleDict({"layers": nn.Sequential(*layers, nn.Linear(d, d))})

    def forward(self, rows: Tensor) -> Tensor:
        out: Tensor = self.mlp["layers"](self.embedding(rows))
        return out


class Attention(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        d = config.embed_dim
        first = nn.Linear(d, d, bias=config.attn_bias)
        # Copies of one, as in the original: of the queries, keys, values, and of what comes out.
        self.linears = nn.ModuleList(copy.deepcopy(first) for _ in range(4))
        self.n_heads, self.softcap = config.num_heads, config.softcap

    def forward(self, x: Tensor, log_counts: Tensor, offsets: Sequence[int]) -> Tensor:
        *inward, outward = self.linears
        q, k, v = (linear(x).view(len(x), self.n_heads, -1).transpose(0, 1) for linear in inward)
        z = torch.empty_like(q)
        for a, b in pairwise(offsets):
            for first in range(a, b, QUERIES):
                last = min(first + QUERIES, b)
                z[:, first:last] = self._attend(
                    q[:, first:last], k[:, a:last], v[:, a:last], log_counts[a:last]
                )
        out: Tensor = outward(z.transpose(0, 1).flatten(1))
        return out

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, log_counts: Tensor) -> Tensor:
        """Attend from the last tokens of a cell, (n_heads, n, d_head), to all up to each."""
        scores = (q @ k.transpose(1, 2)).float() * q.shape[2] ** -0.5 + log_counts
        if self.softcap > 0:
            scores = scores.div_(self.softcap).tanh_().mul_(self.softcap)
        n, upto = scores.shape[1:]
        later = torch.ones((n, upto), dtype=torch.bool, device=q.device).triu_(upto - n + 1)
        out: Tensor = scores.masked_fill_(later, float("-inf")).softmax(dim=2).to(v.dtype) @ v
        return out


class Layer(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        d = config.embed_dim
        self.linear1 = nn.Linear(d, config.model_dim, bias=config.fw_bias)
        self.linear2 = nn.Linear(config.model_dim, d, bias=config.fw_bias)
        self.self_attn = Attention(config)
        self.norm1 = nn.LayerNorm(d)
        self.norm2 = nn.LayerNorm(d)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor, log_counts: Tensor, offsets: Sequence[int]) -> Tensor:
        x = self.norm1(x)  # what is added to is normalised as well
        x = self.self_attn(x, log_counts, offsets) + x
        x = self.norm2(x)
        out: Tensor = self.linear2(self.activation(self.linear1(x))) + x
        return out


class Network(nn.Module):
    """The transformer, on packed tokens."""

    def __init__(self, config: Config, n_rows: int, token_dim: int) -> None:
        super().__init__()
        self.gene_embeddings = Proteins(n_rows, token_dim, config.embed_dim)
        layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.transformer_encoder = nn.ModuleDict({"encoder_layers": layers})
        self.eps = config.log_counts_eps

    def forward(self, rows: Tensor, counts: Tensor, offsets: Sequence[int]) -> Tensor:
        """Return the last state of every token, (n_tokens, d)."""
        distinct, which = torch.unique(rows, return_inverse=True)
        x: Tensor = self.gene_embeddings(distinct)[which]
        log_counts = torch.log1p(counts + self.eps)
        for layer in self.transformer_encoder["encoder_layers"].children():
            x = layer(x, log_counts, offsets)
        return x


@dataclass(frozen=True, eq=False)
class TranscriptFormer:
    """The port: see `models.port.Port`."""

    network: Network
    space: GeneSpace
    config: Config
    behaviour: Behaviour
    start: int  # row of [START]
    together: int | None = None

    @classmethod
    def load(cls, weights: Weights, behaviour: Behaviour) -> Self:
        config, vocabulary = _described(weights)
        path = weights.file("model_weights.pt")
        tensors = without_prefix(tensors_of(read_torch(path), path))
        with torch.device("meta"):
            network = Network(config, len(vocabulary), _width(tensors, path, vocabulary))
        fill(network, tensors, path, unused=UNUSED)
        return cls._of(network, vocabulary, config, behaviour)

    @classmethod
    def build(
        cls,
        config: Mapping[str, Any],
        genes: Genes,
        weights: Weights | None,
        behaviour: Behaviour,
        seed: int,
    ) -> Self:
        table: Tensor | None = None
        if weights is not None:  # the proteins are not learned
            sizes, vocabulary = _described(weights)
            path = weights.file("model_weights.pt")
            tensors = without_prefix(tensors_of(read_torch(path), path))
            width = _width(tensors, path, vocabulary)
            table = tensors[TABLE].float()
        else:
            sizes, width = Config.of(config, "the model's card"), int(config["token_dim"])
            names = sorted({name for name in genes.ensembl if name})
            vocabulary = [*sizes.special_tokens, *names]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = Network(sizes, len(vocabulary), width).eval().requires_grad_(False)
        if table is not None:
            network.gene_embeddings.embedding.weight = nn.Parameter(table, requires_grad=False)
        return cls._of(network, vocabulary, sizes, behaviour)

    @classmethod
    def _of(
        cls, network: Network, vocabulary: list[str], config: Config, behaviour: Behaviour
    ) -> Self:
        n_special = len(config.special_tokens)
        names = ("",) * n_special + tuple(vocabulary[n_special:])
        space = GeneSpace(names, "ensembl")
        return cls(network, space, config, behaviour, vocabulary.index("[START]"))

    def tokenise(
        self,
        counts: sparse.csr_matrix,
        lookup: Int32[np.ndarray, "n_genes"],
        rng: np.random.Generator,
    ) -> Tokens:
        room = self.config.seq_len - 1  # beside [START]
        if self.behaviour == "official":
            offsets, rows, values = known_entries(counts, lookup)
        else:
            entries = entries_by_row(counts, lookup, len(self.space.names))
            offsets, rows, values = _own_subsets(*entries, room)
        return self._after_start(offsets, rows, np.minimum(values, MAX_COUNT), room)

    def _after_start(
        self, offsets: np.ndarray, rows: np.ndarray, values: np.ndarray, room: int
    ) -> Tokens:
        """Put [START] before the first `room` genes of each cell."""
        n_cells = len(offsets) - 1
        cell = np.repeat(np.arange(n_cells), np.diff(offsets))
        into = np.arange(len(rows)) - offsets[cell]
        kept = np.minimum(np.diff(offsets), room)
        begin = np.concatenate([[0], np.cumsum(kept + 1)]).astype(np.int64)
        row = np.full(begin[-1], self.start, dtype=np.int32)
        count = np.ones(begin[-1], dtype=np.float32)  # [START] counts 1
        gene = np.full(begin[-1], -1, dtype=np.int32)
        fits = into < kept[cell]
        place = begin[cell[fits]] + into[fits] + 1
        row[place], count[place] = rows[fits], values[fits]
        if self.behaviour == "official":
            # Its vector of a gene is the state that predicts it: that of the token before.
            fits = into <= kept[cell]
            gene[begin[cell[fits]] + into[fits]] = rows[fits]
        else:
            gene[place] = rows[fits]
        return Tokens(begin, {"gene": gene, "row": row, "count": count})

    def cells(self, batch: Batch) -> Tensor:
        states = self.gene_states(batch).float()
        lengths = torch.tensor(batch.lengths, device=states.device)
        cell = torch.repeat_interleave(torch.arange(batch.n_cells, device=states.device), lengths)
        sums = states.new_zeros((batch.n_cells, states.shape[1])).index_add_(0, cell, states)
        # By the length that the original pads to, not by the cell's own.
        return sums / self.config.seq_len

    def gene_states(self, batch: Batch) -> Tensor:
        columns = batch.columns
        states: Tensor = self.network(columns["row"], columns["count"], batch.offsets)
        return states

    def gene_table(self) -> Float32[np.ndarray, "n_rows d"]:
        read = self.network.gene_embeddings
        rows = torch.arange(len(self.space.names), device=read.embedding.weight.device)
        with torch.inference_mode():
            table: Tensor = read(rows)
        return np.asarray(table.float().cpu().numpy())

    def partition(self, cells: Dataset) -> Iterable[Int64[np.ndarray, "n_rows"]] | None:
        return None


def _described(weights: Weights) -> tuple[Config, list[str]]:
    """Read config.json and the names of all tokens in the order of their rows."""
    path = weights.file("config.json")
    refuse_foreign(path)
    try:
        model = json.loads(path.read_text(encoding="utf-8"))["model"]
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{path} cannot be read: {error!r}", "the published config.json", "download it again"
        ) from error
    config = Config.of(model, str(path))
    genes = [
        name for file in config.esm2_mappings for name in _names(weights.file(f"vocabs/{file}"))
    ]
    return config, [*config.special_tokens, *dict.fromkeys(genes)]


def _names(path: Path) -> list[str]:
    refuse_foreign(path)
    try:
        with h5py.File(path) as file:
            return [name.decode("utf-8") for name in file["keys"][:]]
    except (OSError, KeyError, AttributeError, TypeError) as error:
        raise WeightsError(
            f"{path} cannot be read: {error}",
            "an HDF5 file with the names of the genes in `keys`",
            "download it again",
        ) from error


def _width(tensors: Mapping[str, Tensor], path: Path, vocabulary: Sequence[str]) -> int:
    """Return the length of a gene's vector; a table of other genes is refused."""
    table = tensors.get(TABLE)
    if table is None or table.ndim != 2:
        return 1  # what is missing is said when the network is filled
    if len(table) != len(vocabulary):
        raise WeightsError(
            f"{path} has vectors for {len(table)} tokens, but config.json and vocabs name "
            f"{len(vocabulary)}",
            "the vocabulary that the checkpoint was trained with",
            "take all files from the same folder",
        )
    return table.shape[1]


def _own_subsets(
    offsets: np.ndarray, rows: np.ndarray, values: np.ndarray, room: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of cells with more than `room` genes, leave out some that follow from the cell's counts."""
    if np.diff(offsets).max(initial=0) <= room:
        return offsets, rows, values
    seeds = cell_seeds(offsets, rows, values)
    kept = []
    for cell, (a, b) in enumerate(pairwise(offsets.tolist())):
        part = np.arange(a, b)
        if b - a > room:
            part = a + np.sort(np.argsort(uniforms(seeds[cell], rows[a:b]))[:room])
        kept.append(part)
    at = np.concatenate(kept)
    lengths = np.cumsum([0, *(len(part) for part in kept)])
    return lengths, rows[at], values[at]
