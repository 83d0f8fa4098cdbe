"""scPRINT. Kalfon et al. 2025, doi:10.1038/s41467-025-58699-1.

A cell is 2000 genes, each the sum of three vectors (what the gene is, how much of it there is, where
it lies in the genome), behind one token for the cell's depth, one plain and one for each annotated
class (cell type, disease …). A pre-norm transformer reads them. The embedding is the mean of the
tokens of four classes.

File: ``medium-v1.5.ckpt``, a lightning checkpoint; sizes, genes and classes are in its
``hyper_parameters``. No ontology database is needed.

fixed beside official: of more than 2000 expressed genes the original keeps a random 2000; where there
are fewer it fills up with random genes that are not expressed. Here the most expressed are kept, and
the fillers are the first unexpressed genes of one order that is the same for all cells.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float32, Int32, Int64
from numba import njit
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
    num_heads_kv: int | None = None
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
            raise _unfit(source, f"has no class {', '.join(absent)}", "the classes of the embedding")
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
    """Self-attention; several heads may share a key and a value."""

    def __init__(self, d: int, n_heads: int, n_heads_kv: int) -> None:
        super().__init__()
        self.heads = (n_heads, n_heads_kv, n_heads_kv)
        self.Wqkv = nn.Linear(d, d // n_heads * sum(self.heads))
        self.out_proj = nn.Linear(d, d)

    def forward(self, x: Tensor, offsets: Sequence[int]) -> Tensor:
        n_heads, n_shared, _ = self.heads
        qkv = self.Wqkv(x).unflatten(1, (sum(self.heads), -1))
        q, k, v = qkv.split(self.heads, dim=1)
        if n_shared < n_heads:
            k, v = (t.repeat_interleave(n_heads // n_shared, dim=1) for t in (k, v))
        out: Tensor = self.out_proj(attend(q, k, v, offsets).flatten(1))
        return out


class Block(nn.Module):
    """Pre-norm transformer layer."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        d = config.d_model
        self.mixer = Mixer(d, config.nhead, config.num_heads_kv or config.nhead)
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
        table = self.gene_encoder["embeddings"].weight
        x = table.new_empty((len(rows), table.shape[1]))
        known = rows[genes]
        x[genes] = table[known] + self.expr_encoder(values[genes]).to(x.dtype)
        if hasattr(self, "pos_encoder"):
            x[genes] += self.pos_encoder.pe[known]
        classes = self.class_encoder["embedding"].weight.expand(len(depth), -1, -1)
        first = self.depth_encoder(depth).to(x.dtype)[:, None]
        x[special] = torch.cat([first, classes], dim=1).flatten(0, 1)
        blocks: Any = self.transformer["blocks"]
        for block in blocks:
            x = block(x, offsets)
        out: Tensor = self.transformer["norm"](x)
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
        if (pe := tensors.get("pos_encoder.pe")) is not None and pe.ndim == 3:
            tensors["pos_encoder.pe"] = pe.squeeze(1)
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
            given, kind = (
                (genes.ensembl, "ensembl") if any(genes.ensembl) else (genes.symbol, "symbol")
            )
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
    def _of(
        cls, network: Network, space: GeneSpace, config: Config, behaviour: Behaviour
    ) -> Self:
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
        mine = self.species == np.bincount(self.species[lookup[lookup >= 0]]).argmax()
        lookup = np.where((lookup >= 0) & mine[lookup], lookup, -1).astype(np.int32)
        offsets, rows, values = entries_by_row(counts, lookup, len(mine))
        size = min(MAX_GENES, int(mine.sum()))
        if self.behaviour == "official":
            chosen = _drawn(offsets, rows, np.flatnonzero(mine), size, rng)
        else:
            chosen = _chosen(offsets, rows, values, self.fillers[mine[self.fillers]], size)
        n_cells = len(chosen)
        cell = np.repeat(np.arange(n_cells), np.diff(offsets))
        dense = sparse.csr_matrix((values, rows, offsets), shape=(n_cells, len(mine)))
