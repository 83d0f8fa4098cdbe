"""STATE's embedding model SE-600M (Adduri et al. 2025, doi:10.1101/2025.06.26.661135).

A cell is its 2047 genes of highest count, filled up with genes that it does not express; each is
the ESM2 vector of its protein plus a vector of its count, read by a transformer without positions.
Of two tokens beside them, CLS becomes the embedding, followed by ten numbers made of the other,
which learned to tell the data set.

Files: ``se600m_epoch16.ckpt`` (a lightning checkpoint), ``config.yaml``, ``protein_embeddings.pt``
(symbol -> vector, which replace those of the checkpoint).

fixed beside official: the original takes a cell for log-transformed already unless it has a count
above 35, ranks equal counts and chooses the genes to fill up with at random, and gives CLS the
count of the dataset's fourth known gene. Here counts are counts, ties and filling follow from the
cell's own counts, and CLS counts nothing.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
import yaml  # type: ignore[import-untyped]
from jaxtyping import Float32, Int32, Int64
from numba import njit
from scipy import sparse
from torch import Tensor, nn

from sclitmus.core.dataset import Dataset, Genes
from sclitmus.errors import WeightsError
from sclitmus.models.attention import attend
from sclitmus.models.checkpoint import fill, read_torch, refuse_foreign, tensors_of
from sclitmus.models.draws import cell_seeds, uniforms
from sclitmus.models.gene_space import GeneSpace, entries_by_row
from sclitmus.models.port import Behaviour
from sclitmus.models.tokens import Batch, Tokens
from sclitmus.models.weights import Weights

TABLE = "pe_embedding.weight"
BINS, BIN_HIDDEN = 10, 512  # of the encoder of counts
DATASET_WIDTH = 10  # numbers that are made of the token of the data set
COUNT_SCALE = 100  # a cell's counts, as log1p, sum up to this
LARGEST_LOG = 35  # above this the original knows that counts are counts …
LARGEST_SUM = 5_000_000  # … or if they are more than this when taken for logarithms
LEAST_KEPT, MOST_KEPT = 0.3, 1.0  # share of counts where the original downsamples at random
SPREAD = np.uint64(0x53454653)  # of the fixed order of genes; any number does

UNUSED = {
    r"gene_embedding_layer\..*": "the same tensors as encoder",
    r"binary_decoder\..*": "predicts expression",
    r"dataset_encoder\..*": "tells the data set, in training",
}


@dataclass(frozen=True)
class Config:
    """What config.yaml says of the network and of what it reads."""

    token_dim: int
    emsize: int
    nhead: int
    d_hid: int
    nlayers: int
    output_dim: int
    pad_length: int  # tokens of a cell, that of the data set aside
    cls_token_idx: int  # the gene whose count CLS gets in the original
    num_downsample: int = 1  # above 1 the original draws a part of each cell's counts

    @classmethod
    def of(cls, text: Mapping[str, Any], source: str) -> "Config":
        """Take what is known of ``config.yaml``, or of the model's card.

        Raises
        ------
        WeightsError
            If something is missing, or the model reads cells in another way.
        """
        try:
            model = text["model"]
            known = {**text["tokenizer"], **text["dataset"], **model}
            config = cls(
                **{name: known[name] for name in cls.__dataclass_fields__ if name in known}
            )
            known_way = model["counts"] and model["dataset_correction"]
        except (KeyError, TypeError) as error:
            raise WeightsError(
                f"{source} does not describe the network: {error}",
                "the published config.yaml",
                "take it from the folder of the checkpoint",
            ) from error
        if not known_way:
            raise WeightsError(
                f"{source} says counts {model['counts']}, dataset_correction "
                f"{model['dataset_correction']}",
                "both true, as in the released model",
                "such a model is not ported",
            )
        return config


class SkipBlock(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.intermediate_dense = nn.Linear(d, 2 * d)
        self.dense = nn.Linear(2 * d, d)
        self.layer_norm = nn.LayerNorm(d)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer_norm(x + self.dense(torch.relu(self.intermediate_dense(x))))
        return out


class Layer(nn.Module):
    def __init__(self, d: int, n_heads: int, d_hidden: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.qkv_proj = nn.Linear(d, 3 * d)
        self.out_proj = nn.Linear(d, d)
        self.norm1 = nn.LayerNorm(d)
        self.norm2 = nn.LayerNorm(d)
        self.linear1 = nn.Linear(d, d_hidden)
        self.linear2 = nn.Linear(d_hidden, d)

    def forward(self, x: Tensor, offsets: Sequence[int]) -> Tensor:
        q, k, v = self.qkv_proj(x).view(len(x), 3, self.n_heads, -1).unbind(1)
        x = self.norm1(x + self.out_proj(attend(q, k, v, offsets).flatten(1)))
        out: Tensor = self.norm2(x + self.linear2(F.gelu(self.linear1(x))))
        return out


class Network(nn.Module):
    """The encoder, on packed tokens; rows behind the last gene are CLS and the data set."""

    def __init__(self, config: Config, n_genes: int) -> None:
        super().__init__()
        d, out = config.emsize, config.output_dim
        self.cls_token = nn.Parameter(torch.randn(1, config.token_dim))
        self.encoder = nn.Sequential(nn.Linear(config.token_dim, d), nn.LayerNorm(d), nn.SiLU())
        layers = nn.ModuleList(Layer(d, config.nhead, config.d_hid) for _ in range(config.nlayers))
        self.transformer_encoder = nn.ModuleDict({"layers": layers})
        self.decoder = nn.Sequential(SkipBlock(d), nn.Linear(d, out))
        self.bin_encoder = nn.Embedding(BINS, d)
        self.count_encoder = nn.Sequential(
            nn.Linear(1, BIN_HIDDEN), nn.LeakyReLU(), nn.Linear(BIN_HIDDEN, BINS)
        )
        self.dataset_token = nn.Parameter(torch.randn(1, config.token_dim))
        self.dataset_embedder = nn.Linear(out, DATASET_WIDTH)
        self.pe_embedding = nn.Embedding(n_genes, config.token_dim)
        self.n_genes, self.scale = n_genes, math.sqrt(d)

    def forward(self, rows: Tensor, counts: Tensor, offsets: Sequence[int]) -> Tensor:
        """Return what the decoder makes of every token, (n_tokens, output_dim)."""
        distinct, which = torch.unique(rows, return_inverse=True)
        genes = F.normalize(self.pe_embedding(distinct[distinct < self.n_genes]), dim=1)
        special = torch.cat([self.cls_token, self.dataset_token])
        special = special[distinct[distinct >= self.n_genes] - self.n_genes]
        x = self.encoder(torch.cat([genes, special]))[which] * self.scale
        # Each count is read once; the data set has none.
        distinct, which = torch.unique(counts, return_inverse=True)
        shares = self.count_encoder(distinct[:, None]).softmax(dim=1)
        x = x + (shares @ self.bin_encoder.weight)[which] * (rows <= self.n_genes)[:, None]
        for layer in self.transformer_encoder["layers"].children():
            x = layer(x, offsets)
        out: Tensor = self.decoder(x)
        return out


@dataclass(frozen=True, eq=False)
class StateSE:
    """The port: see `models.port.Port`."""

    network: Network
    space: GeneSpace
    config: Config
    behaviour: Behaviour
    together: int | None = None

    @classmethod
    def load(cls, weights: Weights, behaviour: Behaviour) -> Self:
        config, (names, table) = _config(weights), _proteins(weights)
        name = next(file.name for file in weights.card.files if file.name.endswith(".ckpt"))
        path = weights.file(name)
        # Beside the tensors lightning keeps settings as objects of the package they were made in.
        tensors = tensors_of(read_torch(path, "any"), path, "state_dict")
        with torch.device("meta"):
            network = Network(config, len(names))
        fill(network, {**tensors, TABLE: table}, path, unused=UNUSED)
        return cls(network, GeneSpace(names, "symbol"), config, behaviour)

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
            sizes, (names, table) = _config(weights), _proteins(weights)
        else:
            sizes = Config.of(config, "the model's card")
            names = tuple(sorted({name for name in genes.symbol if name}))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = Network(sizes, len(names)).eval().requires_grad_(False)
        if table is not None:
            network.pe_embedding.weight = nn.Parameter(table, requires_grad=False)
        return cls(network, GeneSpace(names, "symbol"), sizes, behaviour)

    def tokenise(
        self,
        counts: sparse.csr_matrix,
        lookup: Int32[np.ndarray, "n_genes"],
        rng: np.random.Generator,
    ) -> Tokens:
        n_genes, room = len(self.space.names), self.config.pad_length - 1  # beside CLS
        if self.behaviour == "official":
            offsets, rows, values, cls = _drawn(counts, lookup, self.config, rng)
            return _with_special(offsets, rows, values, cls, n_genes)
        offsets, rows, values = entries_by_row(counts, lookup, n_genes)
        present = np.unique(lookup[lookup >= 0])
        order = present[np.argsort(uniforms(SPREAD, present), kind="stable")]
        place = np.zeros(n_genes, dtype=np.int64)
        place[order] = np.arange(len(order))
        logs = np.log1p(values.astype(np.float64))
        seeds = cell_seeds(offsets, rows, values)
        offsets, rows, values = _filled(offsets, rows, logs, order, place, seeds, room)
        return _with_special(offsets, rows, values, np.zeros(len(seeds)), n_genes)

    def cells(self, batch: Batch) -> Tensor:
        columns = batch.columns
        decoded = self.network(columns["row"], columns["count"], batch.offsets)
        bounds = torch.tensor(batch.offsets, device=decoded.device)
        cls, dataset = decoded[bounds[:-1]], decoded[bounds[1:] - 1]
        return torch.cat(
            [F.normalize(cls.float(), dim=1), self.network.dataset_embedder(dataset).float()], dim=1
        )

    def gene_states(self, batch: Batch) -> Tensor:
        decoded: Tensor = self.network(batch.columns["row"], batch.columns["count"], batch.offsets)
        return decoded

    def gene_table(self) -> Float32[np.ndarray, "n_rows d"]:
        """As the original gives them: proteins through the encoder, their length left as it is."""
        with torch.inference_mode():
            table: Tensor = self.network.encoder(self.network.pe_embedding.weight)
        return np.asarray(table.float().cpu().numpy())

    def partition(self, cells: Dataset) -> Iterable[Int64[np.ndarray, "n_rows"]] | None:
        return None


def _config(weights: Weights) -> Config:
    path = weights.file("config.yaml")
    refuse_foreign(path)
    try:
        text = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise WeightsError(
            f"{path} cannot be read: {error}", "the published config.yaml", "download it again"
        ) from error
    return Config.of(text, str(path))


def _proteins(weights: Weights) -> tuple[tuple[str, ...], Tensor]:
    """Return the symbols that have a vector, and the vectors."""
    path = weights.file("protein_embeddings.pt")
    vectors = tensors_of(read_torch(path), path)
    if len({vector.shape for vector in vectors.values()}) != 1:
        raise WeightsError(
            f"{path} has vectors of different lengths",
            "a vector of the same length for every gene",
            "get it from the official source again",
        )
    return tuple(vectors), torch.stack([vector.flatten() for vector in vectors.values()]).float()


def _with_special(
    offsets: np.ndarray, rows: np.ndarray, values: np.ndarray, cls: np.ndarray, n_genes: int
) -> Tokens:
    """Put CLS, with its count, before the genes of each cell, and the data set behind them."""
    n = np.arange(len(offsets))
    at = np.stack([offsets[:-1], offsets[1:]], axis=1).flatten()
    special = np.tile([n_genes, n_genes + 1], len(cls))
    counts = np.stack([cls, np.zeros_like(cls)], axis=1).flatten()
    row = np.insert(rows, at, special)
    gene = np.where(row < n_genes, row, -1)
    count = np.insert(values.astype(np.float32), at, counts)
    return Tokens(offsets + 2 * n, {"gene": gene, "row": row, "count": count})


def _drawn(
    counts: sparse.csr_matrix,
    lookup: Int32[np.ndarray, "n_genes"],
    config: Config,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Choose genes as the original does; of its draws, those that an embedding depends on.

    Returns
    -------
    offsets, rows, values, cls
        Genes of each cell with what is read for their counts, and what CLS reads.
    """
    valid = np.flatnonzero(lookup >= 0)
    room = config.pad_length - 1
    rows, values, cls = [], [], []
    for a, b in pairwise(counts.indptr.tolist()):
        cell = torch.zeros((1, counts.shape[1]))
        cell[0, counts.indices[a:b]] = torch.from_numpy(counts.data[a:b].astype(np.float32))
        known = _logarithms(cell, config, rng)[:, valid]
        if known.sum() == 0:
            weights = torch.softmax(known, dim=1)
        else:
            weights = known / torch.sum(known, dim=1, keepdim=True)
        shuffled = torch.from_numpy(rng.permutation(len(valid)))
        ranked = shuffled[torch.argsort(known[0, shuffled], descending=True)].numpy()
        chosen = ranked[:room]
        if len(valid) < room:
            n = int((known > 0).sum())
            fillers = ranked[n:]
            chosen = ranked[:n]
            if len(fillers):  # else the original fails
                chosen = np.append(chosen, fillers[rng.integers(len(fillers), size=room - n)])
        rows.append(lookup[valid[chosen]])
        values.append((COUNT_SCALE * weights[0, torch.from_numpy(chosen)]).numpy())
        cls.append(COUNT_SCALE * weights[0, min(config.cls_token_idx, len(valid) - 1)].item())
    offsets = np.cumsum([0, *(len(part) for part in rows)])
    return offsets, np.concatenate(rows), np.concatenate(values), np.array(cls, dtype=np.float32)


def _logarithms(cell: Tensor, config: Config, rng: np.random.Generator) -> Tensor:
    """Return log1p of a cell's counts (1, n_genes), or what the original takes for it."""
    as_counts = torch.expm1(cell)
    is_raw = bool(cell.max() > LARGEST_LOG) or int(as_counts.sum().item()) > LARGEST_SUM
    logs = torch.log1p(cell) if is_raw else cell
    if config.num_downsample <= 1:
        return logs
    whole = cell if is_raw else as_counts
    share = rng.uniform(LEAST_KEPT, MOST_KEPT)
    n = int(int(whole.sum(dim=1).item()) * share)
    if n == 0:
        return logs
    chances = (whole / whole.sum(dim=1, keepdim=True))[0].double().numpy()
    drawn = rng.multinomial(n, chances / chances.sum())
    return torch.log1p(torch.from_numpy(drawn[None].astype(np.float32)))


@njit(cache=True, nogil=True)
def _filled(offsets, rows, logs, order, place, seeds, room):  # type: ignore[no-untyped-def]
    """Take each cell's genes of highest count and fill up with others; see `_drawn`.

    `order` is a fixed shuffle of the dataset's genes, `place` of each in it: the first of equal
    counts are taken, and filling begins where the cell's seed says.
    """
    n_cells = len(offsets) - 1
    begin = np.zeros(n_cells + 1, dtype=np.int64)
    chosen = np.empty(n_cells * room, dtype=np.int32)
    values = np.zeros(n_cells * room, dtype=np.float32)
    expressed = np.full(len(place), -1, dtype=np.int64)  # the last cell that expresses a gene
    n = 0
    for cell in range(n_cells):
        a, b = offsets[cell], offsets[cell + 1]
        total = logs[a:b].sum()
        best = np.arange(a, b)
        if b - a > room:
            best = best[np.argsort(place[rows[a:b]], kind="mergesort")]
            best = best[np.argsort(-logs[best], kind="mergesort")][:room]
        for at in best:
            chosen[n] = rows[at]
            values[n] = COUNT_SCALE * logs[at] / total
            n += 1
        expressed[rows[a:b]] = cell
        missing = room - len(best)
        if len(order) > b - a:
            at = np.int64(seeds[cell] % np.uint64(len(order)))
            while missing > 0:
                if expressed[order[at]] != cell:
                    chosen[n] = order[at]
                    n += 1
                    missing -= 1
                at = (at + 1) % len(order)
        begin[cell + 1] = n
    return begin, chosen[:n], values[:n]
