"""scPRINT. Kalfon et al. 2025, doi:10.1038/s41467-025-58699-1.

A cell is 2000 genes, each the sum of three vectors (what the gene is, how much of it there is,
where it lies in the genome), behind one token for the cell's depth, one plain and one for each
annotated class (cell type, disease …). A pre-norm transformer reads them. The embedding is the mean
of the tokens of four classes.

File: ``medium-v1.5.ckpt``, a lightning checkpoint; sizes, genes and classes are in its
``hyper_parameters``. No ontology database is needed.

fixed beside official: of more than 2000 expressed genes the original keeps a random 2000; where
there are fewer it fills up with random genes that are not expressed. Here the most expressed are
kept, and the fillers are the first unexpressed genes of one order that is the same for all cells.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from jaxtyping import Float32, Int32, Int64
from scipy import sparse
from torch import Tensor, nn

from sclitmus.core.dataset import Dataset, Genes
from sclitmus.errors import WeightsError
from sclitmus.models.attention import attend
from sclitmus.models.checkpoint import fill, read_torch, tensors_of, without_prefix
from sclitmus.models.draws import uniforms
from sclitmus.models.gene_space import GeneSpace, entries_by_row
from sclitmus.models.port import Behaviour
from sclitmus.models.tokens import Batch, Tokens
from sclitmus.models.weights import Weights

FILE = "medium-v1.5.ckpt"
MAX_GENES = 2000  # per cell; the original's default for embedding
MAX_VALUE = 100_000  # larger numbers are clamped before they are encoded
RATIO = 4  # of the hidden layer of a block to its width
EPS = 1e-6  # of the blocks' layer norms
CLASSES = (  # whose tokens are averaged, the original's default
    "cell_type_ontology_term_id",
    "disease_ontology_term_id",
    "self_reported_ethnicity_ontology_term_id",
    "sex_ontology_term_id",
)

# Rows and counts of a cell's expressed genes, a number -> so many positions among them, or rows.
Choice = Callable[[np.ndarray, np.ndarray, int], np.ndarray]

RENAME = {r"gene_encoder\.embedding\.weight": "gene_encoder.embeddings.weight"}  # until v1.6
UNUSED = {
    r"(expr_decoder|mvc_decoder)\..*": "predicts expression",
    r"cls_decoders\..*": "predicts classes",
    r"grad_reverse_discriminator_loss\..*": "used in training only",
}
# Of other versions, which this port does not cover; the value that makes them as here.
ONLY = {
    "cell_specific_blocks": False,
    "use_metacell_token": False,
    "depth_atinput": True,
    "attn_bias": "none",
    "num_heads_kv": None,
    "expr_emb_style": "continuous",
    "compress_class_dim": None,
    "prenorm": True,
    "mlp_ratio": RATIO,
}


@dataclass(frozen=True)
class Config:
    """What hyper_parameters say, by the names of the original, with its defaults."""

    d_model: int
    nhead: int
    nlayers: int
    classes: tuple[str, ...]
    expr_encoder_layers: int = 2
    normalization: str = "sum"
    gene_pos_enc: tuple[int, ...] | None = None

    @classmethod
    def of(cls, table: Mapping[str, Any], source: str) -> "Config":
        """Take what is known of a checkpoint's hyper_parameters or a card's config.

        Raises
        ------
        WeightsError
            If a size is missing, or the model is built in another way.
        """
        missing = [k for k in ("d_model", "nhead", "nlayers", "classes") if k not in table]
        if missing:
            raise _unfit(source, f"lacks {', '.join(missing)}", "sizes and classes of the model")
        for name, value in ONLY.items():
            if table.get(name, value) != value:
                raise _unfit(source, f"says {name} {table[name]!r}", f"{value!r}, as in version 1")
        known = {name: table[name] for name in cls.__dataclass_fields__ if name in table}
        if known.get("gene_pos_enc") is not None:
            known["gene_pos_enc"] = tuple(int(place) for place in known["gene_pos_enc"])
        config = cls(**(known | {"classes": tuple(map(str, table["classes"]))}))
        if config.normalization not in ("sum", "log"):
            raise _unfit(source, f"says normalization {config.normalization!r}", "'sum' or 'log'")
        if absent := [name for name in CLASSES if name not in config.classes]:
            raise _unfit(
                source, f"has no class {', '.join(absent)}", "the classes of the embedding"
            )
        return config

    @property
    def n_special(self) -> int:
        """Tokens before the genes: depth, a plain one, one for each class."""
        return 2 + len(self.classes)


def _unfit(source: str, seen: str, needed: str) -> WeightsError:
    return WeightsError(
        f"{source} {seen}", needed, "take medium-v1.5.ckpt; other versions are not ported"
    )


class NumberEncoder(nn.Module):
    """Numbers to vectors: a small network."""

    def __init__(self, d: int, n_layers: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(1, d)]
        for _ in range(n_layers - 1):
            # Identity: dropout in the original.
            layers += [nn.LayerNorm(d), nn.ReLU(), nn.Identity(), nn.Linear(d, d)]
        self.encoder = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Encode x, (n,), as (n, d); each distinct number once."""
        distinct, which = torch.unique(x.clamp(0, MAX_VALUE), return_inverse=True)
        out: Tensor = self.encoder(distinct[:, None])[which]
        return out


class Mixer(nn.Module):
    """Self-attention."""

    def __init__(self, d: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.Wqkv = nn.Linear(d, 3 * d)
        self.out_proj = nn.Linear(d, d)

    def forward(self, x: Tensor, offsets: Sequence[int]) -> Tensor:
        q, k, v = self.Wqkv(x).unflatten(1, (3, self.n_heads, -1)).unbind(1)
        out: Tensor = self.out_proj(attend(q, k, v, offsets).flatten(1))
        return out


class Block(nn.Module):
    """Pre-norm transformer layer."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        d = config.d_model
        self.mixer = Mixer(d, config.nhead)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(d, RATIO * d), "fc2": nn.Linear(RATIO * d, d)})
        self.norm1 = nn.LayerNorm(d, eps=EPS)
        self.norm2 = nn.LayerNorm(d, eps=EPS)

    def forward(self, x: Tensor, offsets: Sequence[int]) -> Tensor:
        x = x + self.mixer(self.norm1(x), offsets)
        hidden = nn.functional.gelu(self.mlp["fc1"](self.norm2(x)))
        out: Tensor = x + self.mlp["fc2"](hidden)
        return out


class Network(nn.Module):
    """The encoder, on packed tokens."""

    def __init__(self, config: Config, n_genes: int) -> None:
        super().__init__()
        d = config.d_model
        self.gene_encoder = nn.ModuleDict({"embeddings": nn.Embedding(n_genes, d)})
        self.expr_encoder = NumberEncoder(d, config.expr_encoder_layers)
        self.depth_encoder = NumberEncoder(d, config.expr_encoder_layers)
        self.class_encoder = nn.ModuleDict({"embedding": nn.Embedding(config.n_special - 1, d)})
        if config.gene_pos_enc is not None:
            self.pos_encoder = nn.Module()
            self.pos_encoder.register_buffer("pe", torch.empty(n_genes, d))
        self.transformer = nn.ModuleDict(
            {
                "blocks": nn.ModuleList([Block(config) for _ in range(config.nlayers)]),
                "norm": nn.LayerNorm(d, eps=EPS),
            }
        )

    def forward(self, rows: Tensor, values: Tensor, depth: Tensor, offsets: list[int]) -> Tensor:
        """Return the last state of every token, (n_tokens, d).

        Parameters
        ----------
        rows
            Row of each gene token; -1 for the special tokens, which are first in each cell.
        values
            Normalised expression of each token.
        depth
            log2(1 + counts) of each cell.
        """
        special, genes = rows < 0, rows >= 0
        part: Any = self
        table = part.gene_encoder["embeddings"].weight
        x = table.new_empty((len(rows), table.shape[1]))
        known = rows[genes]
        x[genes] = table[known] + self.expr_encoder(values[genes]).to(x.dtype)
        if hasattr(self, "pos_encoder"):
            x[genes] += part.pos_encoder.pe[known]
        classes = part.class_encoder["embedding"].weight.expand(len(depth), -1, -1)
        first = self.depth_encoder(depth).to(x.dtype)[:, None]
        x[special] = torch.cat([first, classes], dim=1).flatten(0, 1)
        for block in part.transformer["blocks"]:
            x = block(x, offsets)
        out: Tensor = part.transformer["norm"](x)
        return out


@dataclass(frozen=True, eq=False)
class ScPRINT:
    """The port: see `models.port.Port`.

    Attributes
    ----------
    species
        Of each row of `space`, as a number: a cell is given genes of one species only.
    fillers
        All rows of `space` in the order in which they fill up cells (fixed).
    """

    network: Network
    space: GeneSpace
    config: Config
    behaviour: Behaviour
    species: Int64[np.ndarray, "n_rows"]
    fillers: Int64[np.ndarray, "n_rows"]
    together: int | None = None

    @classmethod
    def load(cls, weights: Weights, behaviour: Behaviour) -> Self:
        path, state, config, names = _read(weights)
        tensors = without_prefix(tensors_of(state, path, "state_dict"))
        places = tensors.get("pos_encoder.pe")
        if places is not None and places.ndim == 3:  # (n_genes, 1, d)
            tensors["pos_encoder.pe"] = places.squeeze(1)
        with torch.device("meta"):
            network = Network(config, len(names))
        fill(network, tensors, path, rename=RENAME, unused=UNUSED)
        return cls._of(network, GeneSpace(names, "ensembl"), config, behaviour)

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
            _, _, sizes, names = _read(weights)
            space = GeneSpace(names, "ensembl")
        else:
            given = genes.ensembl if any(genes.ensembl) else genes.symbol
            kind: Literal["ensembl", "symbol"] = "ensembl" if any(genes.ensembl) else "symbol"
            space = GeneSpace(tuple(dict.fromkeys(filter(None, given))), kind)
            # Where genes lie is in the checkpoint only: in the order of the dataset, then.
            places = {"gene_pos_enc": range(1, len(space.names) + 1)}
            sizes = Config.of({**config, **places}, "the model's card")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = Network(sizes, len(space.names)).eval().requires_grad_(False)
            _initialise(network, sizes)
        return cls._of(network, space, sizes, behaviour)

    @classmethod
    def _of(cls, network: Network, space: GeneSpace, config: Config, behaviour: Behaviour) -> Self:
        prefixes = [name.rstrip("0123456789") for name in space.names]
        known = prefixes if space.kind == "ensembl" else [""] * len(prefixes)
        species = np.unique(known, return_inverse=True)[1]
        # Any fixed order that has nothing to do with the genome's would do.
        order = np.argsort(uniforms(np.uint64(0), np.arange(len(known))), kind="stable")
        return cls(network, space, config, behaviour, species, order)

    def tokenise(
        self,
        counts: sparse.csr_matrix,
        lookup: Int32[np.ndarray, "n_genes"],
        rng: np.random.Generator,
    ) -> Tokens:
        species = np.bincount(self.species[lookup[lookup >= 0]]).argmax()
        mine = self.species == species
        lookup = np.where((lookup >= 0) & mine[lookup], lookup, -1).astype(np.int32)
        entries = entries_by_row(counts, lookup, len(mine))
        choose = self._random(mine, rng) if self.behaviour == "official" else self._certain(mine)
        rows, values = _brought_to(min(MAX_GENES, int(mine.sum())), *entries, *choose)
        depth = np.log2(1 + np.asarray(counts.sum(axis=1), dtype=np.float32).ravel())
        before = ((0, 0), (self.config.n_special, 0))
        gene = np.where(values > 0, rows, -1)  # fillers say nothing of their genes
        return Tokens(
            np.arange(len(rows) + 1, dtype=np.int64) * (self.config.n_special + rows.shape[1]),
            {
                "gene": np.pad(gene, before, constant_values=-1).ravel(),
                "row": np.pad(rows, before, constant_values=-1).ravel(),
                "value": np.pad(self._normalised(values), before).ravel(),
            },
            {"depth": depth},
        )

    def _random(self, mine: np.ndarray, rng: np.random.Generator) -> tuple[Choice, Choice]:
        def keep(rows: np.ndarray, values: np.ndarray, n: int) -> np.ndarray:
            return np.asarray(rng.choice(len(rows), n, replace=False))

        def more(rows: np.ndarray, values: np.ndarray, n: int) -> np.ndarray:
            free = mine.copy()
            free[rows] = False
            others = np.flatnonzero(free)
            return np.asarray(others[rng.choice(len(others), n, replace=False)])

        return keep, more

    def _certain(self, mine: np.ndarray) -> tuple[Choice, Choice]:
        fillers = self.fillers[mine[self.fillers]]
        rank = np.argsort(self.fillers)
        taken = np.zeros(len(mine), dtype=bool)

        def keep(rows: np.ndarray, values: np.ndarray, n: int) -> np.ndarray:
            keys = rank[rows] - values.astype(np.float64) * len(mine)  # most first, ties by rank
            return np.asarray(np.sort(np.argpartition(keys, n)[:n]))

        def more(rows: np.ndarray, values: np.ndarray, n: int) -> np.ndarray:
            first = fillers[: len(rows) + n]  # at least n of them are not among the rows
            taken[rows] = True
            free = first[~taken[first]][:n]
            taken[rows] = False
            return np.asarray(free)

        return keep, more

    def _normalised(
        self, values: Float32[np.ndarray, "n_cells n_chosen"]
    ) -> Float32[np.ndarray, "n_cells n_chosen"]:
        if self.config.normalization == "log":
            return np.asarray(np.log2(1 + values))
        total = values.sum(axis=1, keepdims=True)
        if self.behaviour == "fixed":
            total[total == 0] = 1
        with np.errstate(invalid="ignore"):
            # official: a cell without any known gene is 0 / 0, and NaN its embedding.
            return np.asarray(values / total)

    def cells(self, batch: Batch) -> Tensor:
        states = self._states(batch)
        first = torch.tensor(batch.offsets[:-1], device=states.device)
        # Tokens of a cell: depth, the plain one, then the classes in their order.
        places = [2 + self.config.classes.index(name) for name in CLASSES]
        tokens = first[:, None] + torch.tensor(places, device=states.device)
        return states[tokens].mean(dim=1)

    def gene_states(self, batch: Batch) -> Tensor:
        return self._states(batch)

    def _states(self, batch: Batch) -> Tensor:
        states: Tensor = self.network(
            batch.columns["row"], batch.columns["value"], batch.cells["depth"], list(batch.offsets)
        )
        return states

    def gene_table(self) -> Float32[np.ndarray, "n_rows d"]:
        table: Any = self.network.gene_encoder["embeddings"].weight
        return np.asarray(table.detach().float().cpu().numpy())

    def partition(self, cells: Dataset) -> Iterable[Int64[np.ndarray, "n_rows"]] | None:
        return None


def _read(weights: Weights) -> tuple[Path, Mapping[str, Any], Config, tuple[str, ...]]:
    """Open the checkpoint: path, content, sizes, genes.

    Raises
    ------
    WeightsError
        If it is no checkpoint of scPRINT, or of a version that is not ported.
    """
    path = weights.file(FILE)
    state = read_torch(path, inert="any")  # hyper_parameters may mention any type of a pipeline
    table = state.get("hyper_parameters") if isinstance(state, dict) else None
    if not isinstance(table, dict) or "genes" not in table:
        raise _unfit(str(path), "has no hyper_parameters with genes", "a checkpoint of lightning")
    return path, state, Config.of(table, str(path)), tuple(map(str, table["genes"]))


def _initialise(network: Network, config: Config) -> None:
    """Draw the weights as the original does; where genes lie is computed, not learned."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
    for name, weight in network.named_parameters():
        if name.endswith(("out_proj.weight", "fc2.weight")):  # add to the residual stream
            nn.init.normal_(weight, std=0.02 / np.sqrt(2 * config.nlayers))
    if config.gene_pos_enc is not None:
        network.pos_encoder.pe = _sinusoids(np.array(config.gene_pos_enc), config.d_model)


def _sinusoids(places: Int64[np.ndarray, "n_genes"], d: int) -> Tensor:
    """Sines and cosines of places that count from 1, of wave lengths up to 10000 * 2 pi."""
    places = (places - 1) % places.max()  # place 0 is the last
    angles = np.outer(places, 10_000 ** (-np.arange(0, d, 2) / d))
    waves = np.stack([np.sin(angles), np.cos(angles)], axis=2).reshape(len(places), d)
    return torch.from_numpy(waves.astype(np.float32))


def _brought_to(
    size: int,
    offsets: Int64[np.ndarray, "n_cells_plus_1"],
    rows: Int32[np.ndarray, "n_entries"],
    values: Float32[np.ndarray, "n_entries"],
    keep: Choice,
    more: Choice,
) -> tuple[Int32[np.ndarray, "n_cells size"], Float32[np.ndarray, "n_cells size"]]:
    """Give every cell `size` genes: some of the expressed ones, or all and some of the others."""
    n_cells = len(offsets) - 1
    out_rows = np.empty((n_cells, size), dtype=np.int32)
    out_values = np.zeros((n_cells, size), dtype=np.float32)
    for cell, (a, b) in enumerate(pairwise(offsets.tolist())):
        expressed, counted, n = rows[a:b], values[a:b], b - a
        if n > size:
            kept = keep(expressed, counted, size)
            expressed, counted, n = expressed[kept], counted[kept], size
        out_rows[cell, :n], out_values[cell, :n] = expressed, counted
        if n < size:
            out_rows[cell, n:] = more(expressed, counted, size - n)
    return out_rows, out_values
