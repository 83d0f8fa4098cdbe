"""scFoundation, of the xTrimoGene architecture. Hao et al. 2024, doi:10.1038/s41592-024-02305-7.

A cell is the list of its expressed genes, each the sum of a gene vector and a vector of its
log-normalised count (soft bins), and two tokens for its depth: T, the depth to aim at, and S, the
depth it was read at. A transformer reads them; a Performer decoder then reads all genes, the
expressed ones as the encoder left them, and gives a vector for each.

Files: ``models.ckpt`` (versions "cell", "rde" and "gene", each with its configuration),
``OS_scRNA_gene_index.19264.tsv`` (the genes in their order).

fixed beside official: the decoder's keys share a maximum over all cells that are decoded together,
which is one unless `gene_batch` says otherwise; here it is always of the cell. Columns of the same
gene are added up; the original takes the first.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int32, Int64
from scipy import sparse
from torch import Tensor, nn

from sclitmus.core.dataset import Dataset, Genes
from sclitmus.errors import MethodError, WeightsError
from sclitmus.models.attention import EncoderLayer
from sclitmus.models.checkpoint import fill, read_torch, tensors_of, without_prefix
from sclitmus.models.gene_space import GeneSpace, entries_by_row, totals_of
from sclitmus.models.performer import RENAME, Performer
from sclitmus.models.performer import UNUSED as PERFORMER_UNUSED
from sclitmus.models.port import Behaviour
from sclitmus.models.tokens import Batch, Tokens
from sclitmus.models.weights import Weights
from sclitmus.models.xtrimogene import COUNTS_PER_CELL, GENE_LIST, SoftBins, gene_list

CHECKPOINT = "models.ckpt"
N_DEPTHS = 2  # tokens behind the genes: first T, then S
FF_MULT = 4  # width of the encoder's feed-forward layers in units of the width of a token
SIZES = ("hidden_dim", "depth", "heads")

UNUSED = PERFORMER_UNUSED | {
    r"token_emb\.emb_(mask|pad)\.weight": "stands for masked genes and padding: there are none",
    r"to_final\..*": "predicts expression",
}
DECODER = {r"(decoder|decoder_embed|norm)\..*": "gene vectors come from the version 'gene'"}


@dataclass(frozen=True)
class Stack:
    """Sizes of an encoder or a decoder."""

    hidden_dim: int
    depth: int
    heads: int
    dim_head: int = 64  # the Performer's; heads need not add up to its width


@dataclass(frozen=True)
class Config:
    """What the checkpoint says of the network."""

    encoder: Stack
    decoder: Stack
    bin_num: int = 100
    bin_alpha: float = 1.0

    @classmethod
    def of(cls, config: Mapping[str, Any], source: str) -> Self:
        """Take the sizes out of a configuration.

        Raises
        ------
        WeightsError
            If one is missing, or the network is of another kind.
        """
        parts = {name: dict(config.get(name, {})) for name in ("encoder", "decoder")}
        needed = [f"{part}.{name}" for part in parts for name in SIZES if name not in parts[part]]
        needed += [name for name in ("bin_num", "bin_alpha") if name not in config]
        kinds = [part.get("module_type", "unknown") for part in parts.values()]
        if needed or kinds != ["transformer", "performer"]:
            raise WeightsError(
                f"the configuration in {source} lacks {', '.join(needed) or 'nothing'}; its "
                f"encoder and decoder are {' and '.join(kinds)}",
                "the sizes of a transformer and a performer, bin_num and bin_alpha",
                "check that this is the model's own checkpoint; no other kind is ported",
            )
        encoder, decoder = (
            Stack(part["hidden_dim"], part["depth"], part["heads"], part.get("dim_head", 64))
            for part in parts.values()
        )
        return cls(encoder, decoder, config["bin_num"], config["bin_alpha"])


@dataclass(frozen=True)
class Settings:
    """What the published program asks for.

    Attributes
    ----------
    version
        ``"cell"`` (its option "ce"), or ``"rde"`` for read depth enhancement.
    pool
        ``"all"``: S, T, maximum and mean over genes, end to end; ``"max"``: maximum over all
        tokens.
    tgthighres
        T: ``"t4"`` is 4, ``"f10"`` is log10 of ten times the cell's counts, ``"a1"`` is 1 more
        than S.
    gene_batch
        Cells that are decoded together in official behaviour: 1 is the program's "gene" output;
        more its "gene_batch", which takes a whole file at once.
    """

    version: str = "cell"
    pool: str = "all"
    tgthighres: str = "t4"
    gene_batch: int = 1

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """Take the settings out of a card's configuration.

        Raises
        ------
        MethodError
            If one has no such value.
        """
        made = cls(**{name: config[name] for name in cls.__dataclass_fields__ if name in config})
        made.target(np.ones(1))
        if made.version not in ("cell", "rde") or made.pool not in ("all", "max"):
            raise MethodError(
                f"scFoundation with version {made.version!r}, pool {made.pool!r}",
                "version cell or rde, pool all or max",
                "choose one of them",
            )
        return made

    def target(self, totals: Float64[np.ndarray, "n_cells"]) -> Float64[np.ndarray, "n_cells"]:
        """Return T of cells with these total counts."""
        try:
            kind, number = self.tgthighres[:1], float(self.tgthighres[1:])
        except ValueError:
            kind, number = "", 0.0
        if kind == "t":
            return np.full(len(totals), number)
        if kind == "f" and number > 0:
            return np.asarray(np.log10(totals * number))
        if kind == "a":
            return np.asarray(np.log10(totals) + number)
        raise MethodError(
            f"scFoundation with tgthighres {self.tgthighres!r}",
            "t, f or a and a number, for example t4, f10 or a1",
            "see docs/models/scfoundation.md for what they mean",
        )


class Network(nn.Module):
    """Encoder and, for gene vectors, decoder, on packed tokens."""

    def __init__(self, config: Config, n_genes: int, decodes: bool) -> None:
        super().__init__()
        d, d_out = config.encoder.hidden_dim, config.decoder.hidden_dim
        self.length = n_genes + N_DEPTHS
        self.token_emb = SoftBins(d, config.bin_num, config.bin_alpha)
        self.pos_emb = nn.Embedding(self.length + 1, d)  # the last row is for padding
        layers = [
            EncoderLayer(d, config.encoder.heads, FF_MULT * d) for _ in range(config.encoder.depth)
        ]
        self.encoder = nn.ModuleDict(
            {"transformer_encoder": nn.ModuleList(layers), "norm": nn.LayerNorm(d)}
        )
        if decodes:
            sizes = (d_out, config.decoder.depth, config.decoder.heads, config.decoder.dim_head)
            self.decoder_embed = nn.Linear(d, d_out)
            self.decoder = nn.ModuleDict(
                {"performer": Performer(*sizes, bias=True), "norm": nn.LayerNorm(d_out)}
            )
            self.norm = nn.LayerNorm(d_out)

    def forward(self, rows: Tensor, values: Tensor, offsets: list[int]) -> Tensor:
        """Return the encoder's last hidden state of every token, (n_tokens, d)."""
        x: Tensor = self.token_emb(values) + self.pos_emb(rows)
        for layer in self.encoder["transformer_encoder"].children():
            x = layer(x, offsets)
        out: Tensor = self.encoder["norm"](x)
        return out

    def unexpressed(self) -> Tensor:
        """Return what the decoder reads of every gene that is not expressed, (length, d_out)."""
        zero = self.token_emb(self.pos_emb.weight.new_zeros(1))
        out: Tensor = self.decoder_embed(zero + self.pos_emb.weight[: self.length])
        return out

    def decode(self, x: Tensor, shared: bool) -> Tensor:
        """Return the decoder's vectors for what it reads of cells, (n_cells, length, d_out)."""
        n_cells = len(x)
        offsets = [cell * self.length for cell in range(n_cells + 1)]
        x = self.decoder["performer"](x.flatten(0, 1), offsets, shared)
        out: Tensor = self.norm(self.decoder["norm"](x)).unflatten(0, (n_cells, self.length))
        return out


@dataclass(frozen=True, eq=False)
class ScFoundation:
    """The port: see `models.port.Port`."""

    network: nn.ModuleDict  # "cell" for cell embeddings, "gene" for gene vectors
    space: GeneSpace
    behaviour: Behaviour
    settings: Settings = Settings()
    together: int | None = None

    @classmethod
    def load(cls, weights: Weights, behaviour: Behaviour) -> Self:
        settings = Settings.of(weights.card.config)
        names = gene_list(weights.file(GENE_LIST))
        path = weights.file(CHECKPOINT)
        versions = read_torch(path)
        network = nn.ModuleDict(
            {
                "cell": _version(versions, path, settings.version, len(names), decodes=False),
                "gene": _version(versions, path, "gene", len(names), decodes=True),
            }
        )
        return cls._of(network, names, behaviour, settings)

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
        sizes = Config.of(config, "the model's card")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = Network(sizes, len(names), decodes=True).eval().requires_grad_(False)
        both = nn.ModuleDict({"cell": network, "gene": network})
        return cls._of(both, names, behaviour, Settings.of(config))

    @classmethod
    def _of(
        cls,
        network: nn.ModuleDict,
        names: tuple[str, ...],
        behaviour: Behaviour,
        settings: Settings,
    ) -> Self:
        shared = behaviour == "official" and settings.gene_batch > 1
        together = settings.gene_batch if shared else None
        return cls(network, GeneSpace(names, "symbol"), behaviour, settings, together)

    def tokenise(
        self,
        counts: sparse.csr_matrix,
        lookup: Int32[np.ndarray, "n_genes"],
        rng: np.random.Generator,
    ) -> Tokens:
        n_genes = len(self.space.names)
        offsets, rows, counted = entries_by_row(
            counts, lookup, n_genes, "first" if self.behaviour == "official" else "sum"
        )
        totals = totals_of(offsets, counted)
        shares = counted / np.repeat(totals, np.diff(offsets))
        # A cell without any known gene is its depth tokens alone, as deep as a single count.
        depths = np.stack(
            [self.settings.target(np.maximum(totals, 1)), np.log10(np.maximum(totals, 1))]
        )
        return _with_depths(offsets, rows, np.log1p(shares * COUNTS_PER_CELL), depths, n_genes)

    def cells(self, batch: Batch) -> Tensor:
        states = self.network["cell"](
            batch.columns["row"], batch.columns["value"], list(batch.offsets)
        )
        return torch.stack(
            [_pooled(states[a:b], self.settings.pool) for a, b in pairwise(batch.offsets)]
        )

    def gene_states(self, batch: Batch) -> Tensor:
        return torch.cat([part.flatten(0, 1)[at] for part, at in self._decoded(batch)])

    def _decoded(self, batch: Batch) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield vectors of all genes, (n, length, d), of one cell, or of all that belong together.

        With them come the places (n_tokens,) of the cells' tokens among these n x length.
        """
        network: Any = self.network["gene"]
        rows = batch.columns["row"]
        states = network(rows, batch.columns["value"], list(batch.offsets))
        expressed = network.decoder_embed(states + network.pos_emb(rows))
        unexpressed = network.unexpressed()
        step = 1 if self.together is None else batch.n_cells
        for first in range(0, batch.n_cells, step):
            lengths = torch.tensor(batch.lengths[first : first + step], device=rows.device)
            a, b = batch.offsets[first], batch.offsets[first + len(lengths)]
            cell = torch.repeat_interleave(torch.arange(len(lengths), device=rows.device), lengths)
            x = unexpressed.repeat(len(lengths), 1, 1)
            x[cell, rows[a:b]] = expressed[a:b]
            yield (
                network.decode(x, shared=self.together is not None),
                cell * network.length + rows[a:b],
            )

    def gene_table(self) -> Float32[np.ndarray, "n_rows d"]:
        network: Any = self.network["gene"]
        table = network.pos_emb.weight[: len(self.space.names)]
        return np.asarray(table.float().cpu().numpy())

    def partition(self, cells: Dataset) -> Iterable[Int64[np.ndarray, "n_rows"]] | None:
        return None


def _version(versions: Any, path: Path, key: str, n_genes: int, decodes: bool) -> Network:
    """Make the network of one version in the checkpoint."""
    tensors = without_prefix(tensors_of(versions, path, key, "state_dict"), ("model.",))
    try:
        whole = versions[key]["config"]
        model = whole["model"]
        config = dict(whole["model_config"][model]) | dict(whole["dataset_config"]["rnaseq"])
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{path} has no configuration of its version {key!r}: {error} is missing",
            "config → model_config and dataset_config",
            "check that this is the model's own checkpoint",
        ) from error
    table = tensors.get("pos_emb.weight")
    if table is not None and len(table) != n_genes + N_DEPTHS + 1:
        raise WeightsError(
            f"{path} has vectors for {len(table) - N_DEPTHS - 1} genes, but {GENE_LIST} names "
            f"{n_genes}",
            "the list that the checkpoint was trained with",
            "take both files from the official source",
        )
    with torch.device("meta"):
        network = Network(Config.of(config, str(path)), n_genes, decodes)
    fill(network, tensors, path, rename=RENAME, unused=UNUSED if decodes else UNUSED | DECODER)
    return network


def _with_depths(
    offsets: Int64[np.ndarray, "n_cells_plus_1"],
    rows: Int32[np.ndarray, "n"],
    values: Float64[np.ndarray, "n"],
    depths: Float64[np.ndarray, "2 n_cells"],
    n_genes: int,
) -> Tokens:
    """Put T and S behind the genes of each cell."""
    n_cells = len(offsets) - 1
    at = np.arange(len(rows)) + N_DEPTHS * np.repeat(np.arange(n_cells), np.diff(offsets))
    offsets = offsets + N_DEPTHS * np.arange(n_cells + 1)
    row = np.empty(offsets[-1], dtype=np.int32)
    value = np.empty(offsets[-1], dtype=np.float32)
    row[at], value[at] = rows, values
    for i, depth in enumerate(depths):
        last = offsets[1:] - N_DEPTHS + i
        row[last], value[last] = n_genes + i, depth
    gene = np.where(row < n_genes, row, np.int32(-1))
    return Tokens(offsets, {"gene": gene, "row": row, "value": value})


def _pooled(states: Tensor, pool: str) -> Tensor:
    """Make one vector of a cell's tokens, T and S last; without genes, those stand for them."""
    if pool == "max":
        return states.amax(0)
    genes = states[:-N_DEPTHS] if len(states) > N_DEPTHS else states
    return torch.cat([states[-1], states[-2], genes.amax(0), genes.mean(0)])
