"""Geneformer V1 (Theodoris et al. 2023, doi:10.1038/s41586-023-06139-9) and V2 (Chen et al. 2024).

A cell is the list of its expressed genes, ordered by count over the gene's median in the corpus of
pretraining. BERT reads the list, a gene's place in it being its position; V2 puts <cls> in front
and <eos> behind. The embedding is of the second-to-last layer: the mean over the genes (V1), or the
vector of <cls> (V2).

Files: ``config.json``, ``model.safetensors`` or ``pytorch_model.bin``, and the dictionaries
``token_dictionary_*.pkl`` (Ensembl id -> token), ``gene_median_dictionary_*.pkl`` and, for other
names, ``ensembl_mapping_dict_*.pkl`` (V2) or ``gene_name_id_dict_*.pkl`` (V1).

fixed beside official: genes with equal rank value are ordered by token. The original leaves their
order to numpy's unstable sort, which depends on the order of columns and on the processor.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int32, Int64
from numba import njit
from scipy import sparse
from torch import Tensor, nn

from sclitmus.core.dataset import Dataset, Genes
from sclitmus.errors import NotApplicable, WeightsError
from sclitmus.models.attention import ACTIVATIONS, attend
from sclitmus.models.checkpoint import fill, read_pickle, read_safetensors, read_torch, tensors_of
from sclitmus.models.gene_space import GeneSpace, known_entries
from sclitmus.models.port import Behaviour
from sclitmus.models.ranking import ranked, summed
from sclitmus.models.tokens import Batch, Tokens
from sclitmus.models.weights import Weights

SPECIAL_V1 = ("<pad>", "<mask>")
SPECIAL_V2 = (*SPECIAL_V1, "<cls>", "<eos>")
TARGET = 10_000  # a cell's counts are scaled to this sum; it cancels but for rounding

UNUSED = {
    r"cls\..*": "predicts masked genes",
    r"bert\.embeddings\.position_ids": "0, 1, 2 …, stored by old versions of transformers",
}


@dataclass(frozen=True)
class Config:
    """What config.json says of the network, and the card of how it is read.

    Attributes
    ----------
    special_token
        Whether <cls> and <eos> enclose the genes (V2).
    emb_mode
        ``"cls"``: a cell is the vector of <cls>. ``"cell"``: the mean over its genes.
    emb_layer
        0 for the last layer, -1 for the one before.
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    special_token: bool
    emb_mode: Literal["cls", "cell"]
    emb_layer: int
    hidden_act: str
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02
    type_vocab_size: int = 2

    @classmethod
    def of(cls, args: Mapping[str, Any], source: str) -> "Config":
        """Take what is known of config.json and card.

        Raises
        ------
        WeightsError
            If a size is missing, or the network is of another kind.
        """
        kind = [args.get("model_type", "bert"), args.get("position_embedding_type", "absolute")]
        seen = [f"no {name}" for name in list(cls.__dataclass_fields__)[:10] if name not in args]
        if kind != ["bert", "absolute"] or args.get("hidden_act", "relu") not in ACTIVATIONS:
            seen.append(" ".join([*kind, str(args.get("hidden_act"))]))
        if seen:
            raise WeightsError(
                f"{source} has {', '.join(seen)}",
                "the config.json of a published Geneformer: bert, absolute positions, relu",
                "take it from the same folder as the checkpoint",
            )
        return cls(**{name: args[name] for name in cls.__dataclass_fields__ if name in args})

    @property
    def n_layers_run(self) -> int:
        """Layers that the embedding needs; those above are loaded and never computed."""
        return self.num_hidden_layers + self.emb_layer

    @property
    def room(self) -> int:
        """Most genes of a cell that the positions have room for."""
        return self.max_position_embeddings - 2 * self.special_token


class Embeddings(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        d = config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocab_size, d)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, d)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, d)
        self.LayerNorm = nn.LayerNorm(d, config.layer_norm_eps)

    def forward(self, rows: Tensor, positions: Tensor) -> Tensor:
        x = self.word_embeddings(rows) + self.token_type_embeddings.weight[0]
        out: Tensor = self.LayerNorm(x + self.position_embeddings(positions))
        return out


class AddNorm(nn.Module):
    def __init__(self, d_in: int, config: Config) -> None:
        super().__init__()
        self.dense = nn.Linear(d_in, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        out: Tensor = self.LayerNorm(self.dense(z) + x)
        return out


class Layer(nn.Module):
    def __init__(self, config: Config) -> None:
        super().__init__()
        d, d_hidden = config.hidden_size, config.intermediate_size
        heads = nn.ModuleDict({name: nn.Linear(d, d) for name in ("query", "key", "value")})
        self.attention = nn.ModuleDict({"self": heads, "output": AddNorm(d, config)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(d, d_hidden)})
        self.output = AddNorm(d_hidden, config)
        self.n_heads = config.num_attention_heads
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor, offsets: list[int]) -> Tensor:
        heads = self.attention["self"].children()
        q, k, v = (head(x).view(len(x), self.n_heads, -1) for head in heads)
        x = self.attention["output"](attend(q, k, v, offsets).flatten(1), x)
        out: Tensor = self.output(self.activation(self.intermediate["dense"](x)), x)
        return out


class Network(nn.Module):
    """The encoder, on packed tokens, with the parameter names of the published checkpoints."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        encoder = nn.ModuleDict({"layer": layers})
        self.bert = nn.ModuleDict({"embeddings": Embeddings(config), "encoder": encoder})
        self.n_layers_run = config.n_layers_run

    @property
    def table(self) -> nn.Parameter:
        """The static vector of every token."""
        return self.bert.get_parameter("embeddings.word_embeddings.weight")

    def forward(self, rows: Tensor, positions: Tensor, offsets: list[int]) -> Tensor:
        """Return the hidden state of every token in the layer asked for, (n_tokens, d)."""
        x: Tensor = self.bert["embeddings"](rows, positions)
        for layer in self.layers_run:
            x = layer(x, offsets)
        return x

    @property
    def layers_run(self) -> Iterable[nn.Module]:
        """The layers up to the one asked for."""
        return islice(self.bert.get_submodule("encoder.layer").children(), self.n_layers_run)


@dataclass(frozen=True, eq=False)
class Geneformer:
    """The port: see `models.port.Port`."""

    network: Network
    space: GeneSpace
    config: Config
    behaviour: Behaviour
    tokens: Mapping[str, int]
    medians: Float64[np.ndarray, "n_tokens"]  # NaN for special tokens
    together: int | None = None
    trains_genes: ClassVar[bool] = True

    @classmethod
    def load(cls, weights: Weights, behaviour: Behaviour) -> Self:
        path = weights.file("config.json")
        config = Config.of({**weights.card.config, **_json(path)}, str(path))
        tokens, medians, space = _dictionaries(weights, config)
        source = weights.find("model.safetensors") or weights.file("pytorch_model.bin")
        if source.suffix == ".safetensors":
            tensors = read_safetensors(source)
        else:
            tensors = tensors_of(read_torch(source), source)
        table = tensors.get("bert.embeddings.word_embeddings.weight")
        if table is not None and len(table) != len(tokens):
            raise _foreign(f"{source} has vectors for {len(table)} tokens", tokens)
        with torch.device("meta"):
            network = Network(config)
        fill(network, tensors, source, unused=UNUSED)
        return cls(network, space, config, behaviour, tokens, medians)

    @classmethod
    def build(
        cls,
        config: Mapping[str, Any],
        genes: Genes,
        weights: Weights | None,
        behaviour: Behaviour,
        seed: int,
    ) -> Self:
        sizes = Config.of(config, "the model's card")
        if weights is not None:
            tokens, medians, space = _dictionaries(weights, sizes)
        else:
            tokens, medians, space = _own_dictionaries(genes, sizes)
        sizes = replace(sizes, vocab_size=len(tokens))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = Network(sizes).eval().requires_grad_(False)
            for module in network.modules():  # as BERT does
                if isinstance(module, nn.Linear | nn.Embedding):
                    module.weight.normal_(0.0, sizes.initializer_range)
                if isinstance(module, nn.Linear):
                    module.bias.zero_()
        network.table[tokens["<pad>"]] = 0.0
        return cls(network, space, sizes, behaviour, tokens, medians)

    def tokenise(
        self,
        counts: sparse.csr_matrix,
        lookup: Int32[np.ndarray, "n_genes"],
        rng: np.random.Generator,
    ) -> Tokens:
        offsets, rows, values = summed(lookup, known_entries(counts, lookup))
        if self.behaviour == "official":
            rows = _as_published(offsets, rows, values, counts, self.medians)
        else:
            rows = ranked(offsets, rows, values / self.medians[rows])
        special = int(self.config.special_token)
        lengths = np.minimum(np.diff(offsets), self.config.room)
        if not special and (n_empty := int((lengths == 0).sum())):
            raise NotApplicable(
                f"{n_empty} of {len(lengths)} cells express none of the genes that the model "
                "knows, and it has no other token: remove these cells"
            )
        starts = np.concatenate([[0], np.cumsum(lengths + 2 * special)]).astype(np.int64)
        gene, position = _laid_out(offsets, rows, starts, special)
        row = gene.copy()
        if special:
            row[starts[:-1]] = self.tokens["<cls>"]
            row[starts[1:] - 1] = self.tokens["<eos>"]
        return Tokens(starts, {"gene": gene, "row": row, "position": position})

    def cells(self, batch: Batch) -> Tensor:
        states = self.gene_states(batch).float()
        if self.config.emb_mode == "cls":
            return states[torch.tensor(batch.offsets[:-1], device=states.device)]
        real = batch.columns["gene"] >= 0
        n = torch.tensor(batch.lengths, device=states.device) - 2 * self.config.special_token
        return torch.segment_reduce(states[real], "mean", lengths=n, axis=0)

    def gene_states(self, batch: Batch) -> Tensor:
        columns = batch.columns
        states: Tensor = self.network(columns["row"], columns["position"], list(batch.offsets))
        return states

    def gene_table(self) -> Float32[np.ndarray, "n_rows d"]:
        return np.asarray(self.network.table.detach().float().cpu().numpy())

    def partition(self, cells: Dataset) -> Iterable[Int64[np.ndarray, "n_rows"]] | None:
        return None

    @property
    def width(self) -> int:
        return self.config.hidden_size

    def pooled(self, batch: Batch) -> Tensor:
        return self.cells(batch)

    def blocks(self) -> tuple[nn.Module, ...]:
        return tuple(self.network.layers_run)

    def final_norm(self) -> None:
        return None

    def gene_embedding(self) -> nn.Parameter:
        return self.network.table


Dictionaries = tuple[dict[str, int], np.ndarray, GeneSpace]


def _dictionaries(weights: Weights, config: Config) -> Dictionaries:
    """Read tokens, medians and further gene names, and check that they belong together.

    Raises
    ------
    WeightsError
        If they do not, or belong to the other version of the model.
    """
    tokens: dict[str, int] = _dictionary(_find(weights, "token_dictionary"))
    special = SPECIAL_V2 if config.special_token else SPECIAL_V1
    marks = {name for name in tokens if name.startswith("<")}
    whole = len(tokens) == config.vocab_size and marks == set(special)
    if not whole or sorted(tokens.values()) != list(range(len(tokens))):
        raise _foreign(f"the model has {config.vocab_size} tokens with {' '.join(special)}", tokens)
    in_order = sorted(tokens, key=lambda name: tokens[name])
    names = tuple("" if name in special else name for name in in_order)
    path = _find(weights, "gene_median_dictionary")
    table = _dictionary(path)
    medians = [table.get(name) for name in names]
    lost = [
        name
        for name, x in zip(names, medians, strict=True)
        if name and not (isinstance(x, float) and x > 0)
    ]
    if lost:
        raise WeightsError(
            f"{path} has no median for {len(lost)} genes of the token dictionary: "
            f"{', '.join(lost[:5])}",
            "the median dictionary of the same model",
            "take both dictionaries from the same folder of the official repository",
        )
    others = "ensembl_mapping_dict" if config.special_token else "gene_name_id_dict"
    aliases = _dictionary(_find(weights, others))
    also = tuple((name, tokens[id]) for name, id in aliases.items() if id in tokens)
    space = GeneSpace(names, "ensembl", any_case=True, also=also, only_unnamed=True)
    return tokens, np.array(medians, dtype=np.float64), space  # None becomes NaN


def _own_dictionaries(genes: Genes, config: Config) -> Dictionaries:
    """Make dictionaries of a dataset's genes, with equal medians: genes are ranked by count."""
    kind: Literal["ensembl", "symbol"] = "ensembl" if any(genes.ensembl) else "symbol"
    special = SPECIAL_V2 if config.special_token else SPECIAL_V1
    own = (name.upper() for name in (genes.ensembl if kind == "ensembl" else genes.symbol) if name)
    tokens = {name: token for token, name in enumerate(dict.fromkeys([*special, *own]))}
    names = tuple("" if name in special else name for name in tokens)
    medians = np.where(np.arange(len(tokens)) < len(special), np.nan, 1.0)
    return tokens, medians, GeneSpace(names, kind, any_case=True)


def _find(weights: Weights, kind: str) -> Path:
    """Return the path of a dictionary; the card knows which corpus it is of."""
    return weights.file(next(f.name for f in weights.card.files if f.name.startswith(kind)))


def _dictionary(path: Path) -> dict[str, Any]:
    table = read_pickle(path)
    if not isinstance(table, dict) or not table or not all(isinstance(name, str) for name in table):
        raise WeightsError(
            f"{path} holds a {type(table).__name__}, not a table of gene names",
            "the published dictionary",
            "download it again",
        )
    return {name: x.item() if isinstance(x, np.generic) else x for name, x in table.items()}


def _foreign(model: str, tokens: Mapping[str, int]) -> WeightsError:
    special = " ".join(name for name in tokens if name[:1] == "<") or "no special tokens"
    return WeightsError(
        f"{model}, but the token dictionary has {len(tokens)} with {special}",
        "the dictionary of the same version, its tokens 0, 1, 2 …: gc30M for V1, gc95M or gc104M "
        "(which are the same) for V2",
        "take checkpoint and dictionaries from the same version of the official repository",
    )


def _json(path: Path) -> Mapping[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise WeightsError(
            f"{path} is no JSON table: {error}", "the published config.json", "download it again"
        ) from error


def _as_published(
    offsets: Int64[np.ndarray, "n_cells_plus_1"],
    rows: Int32[np.ndarray, "n_entries"],
    values: Float32[np.ndarray, "n_entries"],
    counts: sparse.csr_matrix,
    medians: Float64[np.ndarray, "n_tokens"],
) -> Int32[np.ndarray, "n_entries"]:
    """Sort each cell's rows by rank value as the original does.

    The values are rounded as there (scipy multiplies a sparse matrix by reciprocals where the code
    divides), so that the same ones are equal; numpy's sort, of this platform, orders those.
    """
    totals = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()  # of all genes, known or not
    scale = np.repeat(1.0 / totals, np.diff(offsets))
    value = values.astype(np.float64) * scale * TARGET * (1.0 / medians)[rows]
    out = np.empty_like(rows)
    for a, b in pairwise(offsets.tolist()):
        out[a:b] = rows[a:b][np.argsort(-value[a:b])]
    return out


@njit(cache=True, nogil=True)
def _laid_out(offsets, rows, starts, special):  # type: ignore[no-untyped-def]
    """Return the first genes of each cell, with room for special tokens (-1), and their places."""
    gene = np.full(starts[-1], -1, dtype=np.int32)
    position = np.empty(starts[-1], dtype=np.int32)
    for cell in range(len(offsets) - 1):
        n_tokens = starts[cell + 1] - starts[cell]
        for i in range(n_tokens):
            position[starts[cell] + i] = i
        for i in range(n_tokens - 2 * special):
            gene[starts[cell] + special + i] = rows[offsets[cell] + i]
    return gene, position
