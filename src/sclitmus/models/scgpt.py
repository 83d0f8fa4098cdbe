"""scGPT (Cui et al. 2024, doi:10.1038/s41592-024-02201-0), and the layout of scFormer before it.

A cell is the set of its expressed genes, each the sum of a gene vector and a vector of its binned
count, read by a transformer without positions; a token in front, <cls>, becomes the embedding.

Files: ``best_model.pt`` (state dict), ``args.json``, ``vocab.json`` (symbol -> row).

fixed beside official: where many genes share a count, the original spreads them over the bins they
span at random, and of more than 1199 genes it keeps a random 1199. Here the middle bin is taken,
and which genes are kept is drawn from the cell's own counts.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from jaxtyping import Float32, Int32, Int64
from numba import njit
from scipy import sparse
from torch import Tensor, nn

from sclitmus.core.dataset import Dataset, Genes
from sclitmus.errors import WeightsError
from sclitmus.models.attention import EncoderLayer
from sclitmus.models.checkpoint import fill, read_torch, tensors_of, without_prefix
from sclitmus.models.draws import cell_seeds, uniforms
from sclitmus.models.gene_space import GeneSpace, known_entries
from sclitmus.models.port import Behaviour
from sclitmus.models.tokens import Batch, Tokens
from sclitmus.models.weights import Weights

SPECIAL = ("<pad>", "<cls>", "<eoc>")  # appended to the vocabulary in this order
MAX_VALUE = 512  # larger values are clamped before they are encoded
MAX_COUNTED = 4096  # counts up to here are binned by counting, larger ones by sorting

RENAME = {  # flash-attn's names of the same matrices
    r"(.*\.self_attn)\.(?:_impl\.)?Wqkv\.(weight|bias)": r"\1.in_proj_\2",
    r"(.*\.self_attn)\._impl\.out_proj\.(weight|bias)": r"\1.out_proj.\2",
}
UNUSED = {
    r"decoder\..*": "predicts masked expression",
    r"mvc_decoder\..*": "predicts expression from the cell",
    r"cls_decoder\..*": "classifies; untrained in the released models",
    r"flag_encoder\..*": "marks generated genes; not used in embedding",
    r"(grad_reverse_discriminator|creterion_cce|sim)\..*": "used in training only",
}


@dataclass(frozen=True)
class Config:
    """What args.json says of the network."""

    embsize: int = 512
    nheads: int = 8
    d_hid: int = 512
    nlayers: int = 12
    pad_value: float = -2.0
    n_bins: int = 51
    max_seq_len: int = 1200
    binned: bool = True  # scFormer reads counts as they are
    use_bn: bool = False

    @classmethod
    def of(cls, args: Mapping[str, Any], source: str) -> "Config":
        """Take what is known of args.json.

        Raises
        ------
        WeightsError
            If a size is missing, or the model encodes values in another way.
        """
        sizes = ("embsize", "nheads", "d_hid", "nlayers")
        missing = [name for name in sizes if name not in args]
        if missing:
            raise WeightsError(
                f"{source} has no {', '.join(missing)}",
                "the args.json that belongs to the checkpoint",
                "take both files from the same folder",
            )
        style = args.get("input_emb_style", "continuous")
        if style != "continuous":
            raise WeightsError(
                f"{source} says input_emb_style {style!r}",
                "'continuous', as in all released models",
                "such a model is not ported",
            )
        known = {name: args[name] for name in cls.__dataclass_fields__ if name in args}
        # scFormer's args.json knows neither bins nor styles: it read the counts themselves.
        known["binned"] = "n_bins" in args or "input_emb_style" in args
        return cls(**known)


class GeneEncoder(nn.Module):
    def __init__(self, n_rows: int, d: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_rows, d)
        self.enc_norm = nn.LayerNorm(d)

    def forward(self, rows: Tensor) -> Tensor:
        out: Tensor = self.enc_norm(self.embedding(rows))
        return out


class ValueEncoder(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(1, d)
        self.linear2 = nn.Linear(d, d)
        self.norm = nn.LayerNorm(d)

    def forward(self, values: Tensor) -> Tensor:
        x = values.clamp(max=MAX_VALUE)[:, None]
        out: Tensor = self.norm(self.linear2(torch.relu(self.linear1(x))))
        return out


class Network(nn.Module):
    """The encoder, on packed tokens."""

    def __init__(self, config: Config, n_rows: int) -> None:
        super().__init__()
        d = config.embsize
        self.encoder = GeneEncoder(n_rows, d)
        self.value_encoder = ValueEncoder(d)
        if config.use_bn:
            self.bn = nn.BatchNorm1d(d, eps=6.1e-5 if config.binned else 1e-5)  # scFormer: 1e-5
        layers = [EncoderLayer(d, config.nheads, config.d_hid) for _ in range(config.nlayers)]
        self.transformer_encoder = nn.ModuleDict({"layers": nn.ModuleList(layers)})
        self.config = config

    def forward(self, rows: Tensor, values: Tensor, offsets: list[int]) -> Tensor:
        """Return the last hidden state of every token, (n_tokens, d)."""
        # There are far fewer distinct values than tokens: encode each value once.
        distinct, which = torch.unique(values, return_inverse=True)
        x: Tensor = self.encoder(rows) + self.value_encoder(distinct)[which]
        if self.config.use_bn:
            x = self.bn(x)
        for layer in self.transformer_encoder["layers"].children():
            x = layer(x, offsets)
        return x


@dataclass(frozen=True, eq=False)
class ScGPT:
    """The port: see `models.port.Port`."""

    network: Network
    space: GeneSpace
    config: Config
    behaviour: Behaviour
    cls: int  # row of <cls> in the gene table
    together: int | None = None
    trains_genes: ClassVar[bool] = True

    @classmethod
    def load(cls, weights: Weights, behaviour: Behaviour) -> Self:
        args = weights.file("args.json")
        config = Config.of(_json(args), str(args))
        vocabulary = _vocabulary(weights.file("vocab.json"))
        path = weights.file("best_model.pt")
        tensors = without_prefix(tensors_of(read_torch(path), path))
        table = tensors.get("encoder.embedding.weight")
        if table is not None and len(table) != len(vocabulary):
            raise WeightsError(
                f"{path} has vectors for {len(table)} genes, but vocab.json names "
                f"{len(vocabulary)} with {', '.join(SPECIAL)}",
                "the vocabulary that the checkpoint was trained with",
                "take vocab.json and best_model.pt from the same folder",
            )
        if "bn.weight" in tensors:
            config = Config(**(config.__dict__ | {"use_bn": True}))
        with torch.device("meta"):
            network = Network(config, len(vocabulary))
        fill(network, tensors, path, rename=RENAME, unused=UNUSED)
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
        sizes = Config.of(config, "the model's card")
        if weights is not None:
            vocabulary = _vocabulary(weights.file("vocab.json"))
        else:
            vocabulary = _with_special(dict.fromkeys(name for name in genes.symbol if name))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = Network(sizes, len(vocabulary)).eval().requires_grad_(False)
            network.encoder.embedding.weight.uniform_(-0.1, 0.1)  # as in init_weights
        return cls._of(network, vocabulary, sizes, behaviour)

    @classmethod
    def _of(
        cls, network: Network, vocabulary: Mapping[str, int], config: Config, behaviour: Behaviour
    ) -> Self:
        names = [""] * len(vocabulary)
        for name, row in vocabulary.items():
            names[row] = "" if name in SPECIAL else name
        space = GeneSpace(tuple(names), "symbol")
        return cls(network, space, config, behaviour, vocabulary["<cls>"])

    def tokenise(
        self,
        counts: sparse.csr_matrix,
        lookup: Int32[np.ndarray, "n_genes"],
        rng: np.random.Generator,
    ) -> Tokens:
        room = self.config.max_seq_len - 1  # beside <cls>
        if self.behaviour == "fixed" and self.config.binned:
            starts, gene, value = _fixed_tokens(
                counts.indptr,
                counts.indices,
                counts.data.astype(np.float32, copy=False),
                lookup,
                np.float32(self.config.pad_value),
                self.config.n_bins,
                room,
            )
            return Tokens(starts, {"gene": gene, "value": value})
        offsets, rows, values = known_entries(counts, lookup)
        if self.behaviour == "official":
            ties, subsets = rng.spawn(2)
            # Bins are of the whole cell; only then are genes left out.
            bins = self._bins(offsets, values, ties.random(len(values)))
            kept = _random_subsets(offsets, rows, bins, room, subsets)
        else:
            kept = _own_subsets(offsets, rows, values, values, room)
        starts, gene, value = _behind_cls(*kept, np.float32(self.config.pad_value))
        return Tokens(starts, {"gene": gene, "value": value})

    def _bins(
        self,
        offsets: Int64[np.ndarray, "n_cells_plus_1"],
        values: Float32[np.ndarray, "n_entries"],
        spread: np.ndarray,
    ) -> Float32[np.ndarray, "n_entries"]:
        if not self.config.binned:
            return values
        return np.asarray(binned(offsets, values, spread, self.config.n_bins))

    def cells(self, batch: Batch) -> Tensor:
        return nn.functional.normalize(self.pooled(batch), dim=1)

    def pooled(self, batch: Batch) -> Tensor:
        first = torch.tensor(batch.offsets[:-1], device=batch.columns["gene"].device)
        return self._states(batch)[first].float()

    def gene_states(self, batch: Batch) -> Tensor:
        return self._states(batch)

    def _states(self, batch: Batch) -> Tensor:
        gene = batch.columns["gene"]
        rows = torch.where(gene < 0, self.cls, gene)
        states: Tensor = self.network(rows, batch.columns["value"], list(batch.offsets))
        return states

    def gene_table(self) -> Float32[np.ndarray, "n_rows d"]:
        device = self.network.encoder.embedding.weight.device
        with torch.inference_mode():
            table = self.network.encoder(torch.arange(len(self.space.names), device=device))
        return np.asarray(table.float().cpu().numpy())

    def partition(self, cells: Dataset) -> Iterable[Int64[np.ndarray, "n_rows"]] | None:
        return None

    @property
    def width(self) -> int:
        return self.config.embsize

    def blocks(self) -> tuple[nn.Module, ...]:
        return tuple(self.network.transformer_encoder["layers"].children())

    def final_norm(self) -> None:
        return None

    def gene_embedding(self) -> nn.Parameter:
        return self.network.encoder.get_parameter("embedding.weight")


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsError(
            f"{path} is no JSON: {error}", f"the published {path.name}", "download it again"
        ) from error


def _vocabulary(path: Path) -> dict[str, int]:
    """Symbol -> row, with the special tokens appended where the file lacks them."""
    table = _json(path)
    if not isinstance(table, dict) or sorted(table.values()) != list(range(len(table))):
        raise WeightsError(
            f"{path} is no table of names to the rows 0, 1, 2 …",
            "the published vocab.json",
            "download it again",
        )
    for name in SPECIAL:
        table.setdefault(name, len(table))
    return table


def _with_special(names: Iterable[str]) -> dict[str, int]:
    table = {name: row for row, name in enumerate(names)}
    for name in SPECIAL:
        table.setdefault(name, len(table))
    return table


Entries = tuple[
    Int64[np.ndarray, "n_cells_plus_1"], Int32[np.ndarray, "n_entries"], Float32[np.ndarray, "n"]
]


def _random_subsets(
    offsets: Int64[np.ndarray, "n_cells_plus_1"],
    rows: Int32[np.ndarray, "n_entries"],
    bins: Float32[np.ndarray, "n_entries"],
    room: int,
    rng: np.random.Generator,
) -> Entries:
    """Of cells with more than `room` genes keep the first of a random permutation."""
    if np.diff(offsets).max(initial=0) <= room:
        return offsets, rows, bins
    kept = [
        a + (rng.permutation(b - a)[:room] if b - a > room else np.arange(b - a))
        for a, b in pairwise(offsets.tolist())
    ]
    lengths = [len(part) for part in kept]
    at = np.concatenate(kept)
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), rows[at], bins[at]


def _own_subsets(
    offsets: Int64[np.ndarray, "n_cells_plus_1"],
    rows: Int32[np.ndarray, "n_entries"],
    values: Float32[np.ndarray, "n_entries"],
    bins: Float32[np.ndarray, "n_entries"],
    room: int,
) -> Entries:
    """The same, but the permutation follows from the cell's own counts."""
    long = np.flatnonzero(np.diff(offsets) > room)
    if not len(long):
        return offsets, rows, bins
    keep = np.ones(len(rows), dtype=bool)
    for cell in long.tolist():
        a, b = offsets[cell], offsets[cell + 1]
        seed = cell_seeds(np.array([0, b - a]), rows[a:b], values[a:b])[0]
        keep[a + np.argpartition(uniforms(seed, rows[a:b]), room)[room:]] = False
    lengths = np.minimum(np.diff(offsets), room)
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), rows[keep], bins[keep]


@njit(cache=True, nogil=True)
def _behind_cls(offsets, rows, values, pad_value):  # type: ignore[no-untyped-def]
    """Put <cls> before the tokens of each cell; return offsets, gene (-1: none) and value."""
    n_cells = len(offsets) - 1
    starts = offsets + np.arange(n_cells + 1)
    gene = np.empty(starts[-1], dtype=np.int32)
    value = np.empty(starts[-1], dtype=np.float32)
    for cell in range(n_cells):
        at = starts[cell]
        gene[at], value[at] = -1, pad_value
        for i in range(offsets[cell], offsets[cell + 1]):
            at += 1
            gene[at], value[at] = rows[i], values[i]
    return starts, gene, value


@njit(cache=True, nogil=True)
def _fixed_tokens(indptr, indices, data, lookup, pad_value, n_bins, room):  # type: ignore[no-untyped-def]
    """Do in one go over the counts what `known_entries`, `binned`, `_own_subsets` and `_behind_cls`
    do one after the other, with the middle bin for ties: three times as fast."""
    n_cells = len(indptr) - 1
    starts = np.zeros(n_cells + 1, dtype=np.int64)
    gene = np.empty(len(indices) + n_cells, dtype=np.int32)
    value = np.empty(len(indices) + n_cells, dtype=np.float32)
    n_at = np.zeros(MAX_COUNTED + 1, dtype=np.int64)
    bin_of = np.empty(MAX_COUNTED + 1, dtype=np.float32)
    edges = np.empty(n_bins - 1)
    middle = np.full(1, 0.5)
    at = 0
    for cell in range(n_cells):
        gene[at], value[at] = -1, pad_value
        at += 1
        first = at
        largest = 0
        counted = True
        for j in range(indptr[cell], indptr[cell + 1]):
            row = lookup[indices[j]]
            x = data[j]
            if row < 0 or x == 0:
                continue
            gene[at] = row
            value[at] = x
            at += 1
            if counted:
                count = int(x)
                if count != x or count < 0 or count > MAX_COUNTED:
                    counted = False
                else:
                    n_at[count] += 1
                    if count > largest:
                        largest = count
        n = at - first
        if n > 0:
            seed = np.uint64(0)
            if n > room:
                seed = cell_seeds(np.array([0, n]), gene[first:at], value[first:at])[0]
            if counted:
                _edges_of_counts(n_at, n, edges)
                i, j = 0, 0
                for count in range(largest + 1):
                    while i < len(edges) and edges[i] < count:
                        i += 1
                    while j < len(edges) and edges[j] <= count:
                        j += 1
                    bin_of[count] = np.ceil(0.5 * (i - j) + j)
                for i in range(first, at):
                    value[i] = bin_of[int(value[i])]
            else:
                one = np.array([0, n])
                value[first:at] = binned(one, value[first:at].copy(), middle, n_bins)
            if n > room:
                keys = uniforms(seed, gene[first:at])
                last = np.partition(keys, room - 1)[room - 1]
                to = first
                for i in range(n):
                    if keys[i] <= last:
                        gene[to], value[to] = gene[first + i], value[first + i]
                        to += 1
                at = to
        n_at[: largest + 1] = 0
        starts[cell + 1] = at
    return starts, gene[:at].copy(), value[:at].copy()


@njit(cache=True, nogil=True)
def binned(offsets, values, spread, n_bins):  # type: ignore[no-untyped-def]
    """Replace each cell's values by the quantile bin they fall into, 1 … n_bins - 1.

    A value that several bin edges equal could go into any of the bins between them; `spread`, in
    [0, 1), says which: one number per value, or a single one for all.
    """
    out = np.empty(len(values), dtype=np.float32)
    n_edges = n_bins - 1
    edges = np.empty(n_edges)
    n_at = np.zeros(MAX_COUNTED + 1, dtype=np.int64)  # how many values are equal to each count
    below = np.empty(MAX_COUNTED + 1, dtype=np.int64)
    upto = np.empty(MAX_COUNTED + 1, dtype=np.int64)
    middle = np.empty(MAX_COUNTED + 1, dtype=np.float32)
    for cell in range(len(offsets) - 1):
        a, b = offsets[cell], offsets[cell + 1]
        if a == b:
            continue
        largest = 0
        counted = True
        for at in range(a, b):
            count = int(values[at])
            if count != values[at] or count < 0 or count > MAX_COUNTED:
                counted = False
                break
            n_at[count] += 1
            if count > largest:
                largest = count
        if counted:
            _edges_of_counts(n_at, b - a, edges)
            # Each distinct count once: number of edges below it, and up to it.
            i, j = 0, 0
            for count in range(largest + 1):
                while i < n_edges and edges[i] < count:
                    i += 1
                while j < n_edges and edges[j] <= count:
                    j += 1
                below[count], upto[count] = i, j
                middle[count] = np.ceil(spread[0] * (i - j) + j)
            if len(spread) == 1:
                for at in range(a, b):
                    out[at] = middle[int(values[at])]
            else:
                for at in range(a, b):
                    count = int(values[at])
                    out[at] = np.ceil(spread[at] * (below[count] - upto[count]) + upto[count])
        else:
            _edges_of_values(np.sort(values[a:b]), edges)
            for at in range(a, b):
                right = np.searchsorted(edges, values[at], side="left")
                left = np.searchsorted(edges, values[at], side="right")
                u = spread[at] if len(spread) > 1 else spread[0]
                out[at] = np.ceil(u * (right - left) + left)
        n_at[: largest + 1] = 0
    return out


@njit(cache=True, nogil=True)
def _edges_of_counts(n_at, n, edges):  # type: ignore[no-untyped-def]
    """Quantiles at equally spaced levels of values given by how often each count occurs."""
    count, seen = 0, n_at[0]
    for i in range(len(edges)):
        place = _level(i, len(edges)) * (n - 1)
        low = min(int(place), n - 1)
        while seen <= low:
            count += 1
            seen += n_at[count]
        above, seen_above = count, seen
        while seen_above <= min(low + 1, n - 1):
            above += 1
            seen_above += n_at[above]
        edges[i] = _between(np.float32(count), np.float32(above), place - low)


@njit(cache=True, nogil=True)
def _edges_of_values(ordered, edges):  # type: ignore[no-untyped-def]
    n = len(ordered)
    for i in range(len(edges)):
        place = _level(i, len(edges)) * (n - 1)
        low = min(int(place), n - 1)
        edges[i] = _between(ordered[low], ordered[min(low + 1, n - 1)], place - low)


@njit(cache=True, nogil=True, inline="always")
def _level(i, n):  # type: ignore[no-untyped-def]
    """The i-th of n numbers from 0 to 1, rounded as numpy.linspace does."""
    return 1.0 if i == n - 1 else i * (1.0 / (n - 1))


@njit(cache=True, nogil=True, inline="always")
def _between(low, high, t):  # type: ignore[no-untyped-def]
    """Linear interpolation, rounded as numpy.quantile does: from the nearer end."""
    step = np.float64(high - low)
    return high - step * (1.0 - t) if t >= 0.5 else low + step * t
