"""CellPLM. Wen et al. 2024, https://openreview.net/forum?id=BKXvPDekud.

Cells, not genes, are the tokens: a cell is the sum of its genes' vectors, weighted by log counts,
and the cells of a batch attend to each other (Flowformer: attention by flow conservation, linear in
the number of cells). A Gaussian mixture follows: a cell is assigned to one of 16 clusters, and its
embedding depends on the assignment.

Files: ``20230926_85M.config.json`` (sizes, genes by Ensembl id), ``20230926_85M.best.ckpt``.

fixed beside official: the original draws the cluster at random at every call (hard Gumbel samples);
here it is the likeliest one. What cannot be fixed: an embedding depends on the other cells of its
set, which is what the model is. A set is a batch of the data, or all cells where none are named,
whatever their order; one of more than `MAX_SET` cells is divided, in the order of the cells
(official, as with the original's ``batch_size``) or by the cells' own counts (fixed).
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from jaxtyping import Float32, Int32, Int64
from scipy import sparse
from torch import Tensor, nn

from sclitmus.core.dataset import Dataset, Genes
from sclitmus.errors import NotApplicable, WeightsError
from sclitmus.models.checkpoint import fill, read_torch, tensors_of, without_prefix
from sclitmus.models.draws import cell_seeds
from sclitmus.models.gene_space import GeneSpace, entries_by_row
from sclitmus.models.port import Behaviour
from sclitmus.models.tokens import Batch, Tokens
from sclitmus.models.weights import Weights

CONFIG = "20230926_85M.config.json"
CHECKPOINT = "20230926_85M.best.ckpt"

MAX_SET = 20_000  # cells; bounds memory. In training a set had at most 4,000
D_INFERENCE = 512  # of the hidden layer before the latent mean, whatever the config says
N_GROUPS = 4  # of the group normalisation
EPS = 1e-6  # added to queries and keys where flows are summed
TINY = 1e-20  # keeps the logarithms of the Gumbel sample finite

UNUSED = {
    r"embedder\.pe_enc\..*": "positions in a tissue; the released code replaces them by 0",
    r"embedder\.norm0\..*": "made but not called",
    r"latent\.layers\.1\.inference\.(y_mu|y_var)\..*": "prior of the clusters, for the loss",
    r"latent\.layers\.1\.inference\.inference_qzyx\.2\.var\..*": "spread of the latent variable",
    r"(decoder|objective|head)\..*": "from the latent space back to counts",
}

# What the released configuration says and this port takes for granted.
ONLY = {
    "enc_mod": "flowformer",
    "latent_mod": "gmvae",
    "norm": "groupnorm",
    "cat_pe": False,
    "input_covariate": False,
    "dsbn": False,
}


@dataclass(frozen=True)
class Config:
    """Sizes as config.json names them, with the defaults of the original."""

    enc_hid: int = 1024
    enc_layers: int = 4
    enc_head: int = 8
    post_latent_dim: int = 512
    num_clusters: int = 16

    @classmethod
    def of(cls, table: Mapping[str, Any], source: str) -> "Config":
        """Take the sizes of a config.

        Raises
        ------
        WeightsError
            If one is missing, or the model is built in another way.
        """
        missing = [k for k in ("enc_hid", "enc_layers", "post_latent_dim") if k not in table]
        if missing:
            raise WeightsError(
                f"{source} has no {', '.join(missing)}",
                "the published config.json",
                "take it from the same folder as the checkpoint",
            )
        for name, value in ONLY.items():
            if table.get(name, value) != value:
                raise WeightsError(
                    f"{source} says {name} {table[name]!r}",
                    f"{value!r}, as in the released model",
                    "such a model is not ported",
                )
        return cls(**{name: table[name] for name in cls.__dataclass_fields__ if name in table})


class FlowAttention(nn.Module):
    """Attention as a flow from sources (keys) to sinks (queries), among all cells given."""

    def __init__(self, d: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query_projection = nn.Linear(d, d)
        self.key_projection = nn.Linear(d, d)
        self.value_projection = nn.Linear(d, d)
        self.out_projection = nn.Linear(d, d)

    def forward(self, x: Tensor) -> Tensor:
        """Attend; x is (n_cells, d)."""
        q, k, v = (
            # float32: the flows are sums over thousands of cells.
            project(x).float().unflatten(1, (self.n_heads, -1)).transpose(0, 1)
            for project in (self.query_projection, self.key_projection, self.value_projection)
        )  # each (n_heads, n_cells, d_head)
        with torch.autocast(x.device.type, enabled=False):
            flow = _flow(torch.sigmoid(q), torch.sigmoid(k), v)
        out: Tensor = self.out_projection(flow.transpose(0, 1).flatten(1))
        return out


def _flow(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Flow attention of (n_heads, n_cells, d_head) with q and k positive."""

    def summed(x: Tensor, y: Tensor) -> Tensor:  # of each x with all of y: (n_heads, n_cells, 1)
        return (x + EPS) @ (y.sum(dim=1, keepdim=True) + EPS).transpose(1, 2)

    incoming = 1 / summed(q, k)
    outgoing = 1 / summed(k, q)
    sink = summed(q, k * outgoing)
    source = summed(k, q * incoming).clamp(-1, 1)
    competition = torch.softmax(source, dim=1) * k.shape[1]
    allocation = torch.sigmoid(sink)
    return (q * incoming) @ (k.transpose(1, 2) @ (v * competition)) * allocation


class Layer(nn.Module):
    """Pre-norm: attention among the cells, then a layer for each cell."""

    def __init__(self, d: int, n_heads: int) -> None:
        super().__init__()
        self.self_attn = FlowAttention(d, n_heads)
        # Places 2 and 4 are dropout in the original.
        self._ff_block = nn.Sequential(
            nn.Linear(d, 2 * d), nn.GELU(), nn.Identity(), nn.Linear(2 * d, d)
        )
        self.norm1 = nn.LayerNorm(d)
        self.norm2 = nn.LayerNorm(d)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.norm1(x))
        out: Tensor = x + self._ff_block(self.norm2(x))
        return out


class GeneVectors(nn.Module):
    def __init__(self, n_genes: int, d: int) -> None:
        super().__init__()
        self.emb = nn.Parameter(torch.randn(n_genes, d) * 0.005)  # as the original draws it


class Network(nn.Module):
    """The encoder of a set of cells."""

    def __init__(self, config: Config, n_genes: int) -> None:
        super().__init__()
        d = config.enc_hid
        self.embedder = nn.ModuleDict(
            {
                "feat_enc": GeneVectors(n_genes, d),
                "extra_linear": nn.Sequential(
                    nn.Linear(d, d), nn.ReLU(), nn.Identity(), nn.GroupNorm(N_GROUPS, d)
                ),
            }
        )
        layers = [Layer(d, config.enc_head) for _ in range(config.enc_layers)]
        self.encoder = nn.ModuleDict({"layers": nn.Sequential(*layers)})
        self.pre_latent_norm = nn.ModuleDict({"norm": nn.LayerNorm(d)})
        inference = nn.ModuleDict(
            {
                "inference_qyx": nn.ModuleList(
                    [nn.ModuleDict({"logits": nn.Linear(d, config.num_clusters)})]
                ),
                "inference_qzyx": nn.ModuleList(
                    [
                        nn.Linear(d + config.num_clusters, D_INFERENCE),
                        nn.ReLU(),
                        nn.ModuleDict({"mu": nn.Linear(D_INFERENCE, config.post_latent_dim)}),
                    ]
                ),
            }
        )
        placeholder = nn.Module()  # layer 0 of the original does nothing
        layers_ = nn.ModuleList([placeholder, nn.ModuleDict({"inference": inference})])
        self.latent = nn.ModuleDict({"layers": layers_})

    def forward(
        self, rows: Tensor, values: Tensor, offsets: Tensor, noise: Tensor | None
    ) -> Tensor:
        """Return the latent mean of each cell of a set, (n_cells, d_latent).

        Parameters
        ----------
        rows, values, offsets
            Gene and log count of each entry; cell i has ``offsets[i]:offsets[i + 1]``.
        noise
            (n_cells, n_clusters) of the Gumbel sample; None takes the likeliest cluster.
        """
        part: Any = self.embedder
        x = F.embedding_bag(
            rows,
            part["feat_enc"].emb,
            offsets,
            mode="sum",
            per_sample_weights=values,
            include_last_offset=True,
        )
        x = self.encoder["layers"](part["extra_linear"](x))
        return self._mean(self.pre_latent_norm["norm"](x), noise)

    def _mean(self, x: Tensor, noise: Tensor | None) -> Tensor:
        latent: Any = self.latent
        inference = latent["layers"][1]["inference"]
        logits = inference["inference_qyx"][0]["logits"](x).float()
        if noise is not None:
            logits = logits + noise
        cluster = F.one_hot(logits.argmax(dim=1), logits.shape[1]).to(x.dtype)
        hidden, relu, last = inference["inference_qzyx"]
        out: Tensor = last["mu"](relu(hidden(torch.cat([x, cluster], dim=1))))
        return out


@dataclass(frozen=True, eq=False)
class CellPLM:
    """The port: see `models.port.Port`. `partition` makes the sets; each passes as a whole."""

    network: Network
    space: GeneSpace
    config: Config
    behaviour: Behaviour
    together: int | None = MAX_SET

    @classmethod
    def load(cls, weights: Weights, behaviour: Behaviour) -> Self:
        source = weights.file(CONFIG)
        table = _config(source)
        config, space = Config.of(table, str(source)), _space(table, source)
        path = weights.file(CHECKPOINT)
        tensors = without_prefix(
            tensors_of(read_torch(path, inert="any"), path, "model_state_dict")
        )
        genes = tensors.get("embedder.feat_enc.emb")
        if genes is not None and len(genes) != len(space.names):
            raise WeightsError(
                f"{path} has vectors for {len(genes)} genes, but {CONFIG} names {len(space.names)}",
                "the configuration that the checkpoint was trained with",
                "take both files of the same date",
            )
        with torch.device("meta"):
            network = Network(config, len(space.names))
        fill(network, tensors, path, unused=UNUSED)
        return cls(network, space, config, behaviour)

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
            source = weights.file(CONFIG)
            space = _space(_config(source), source)
        elif any(genes.ensembl):
            space = GeneSpace(tuple(dict.fromkeys(filter(None, genes.ensembl))), "ensembl")
        else:
            space = GeneSpace(tuple(dict.fromkeys(filter(None, genes.symbol))), "symbol")
        sizes = Config.of(config, "the model's card")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # beside the gene vectors, torch's own initialisation
            network = Network(sizes, len(space.names)).eval().requires_grad_(False)
        return cls(network, space, sizes, behaviour)

    def tokenise(
        self,
        counts: sparse.csr_matrix,
        lookup: Int32[np.ndarray, "n_genes"],
        rng: np.random.Generator,
    ) -> Tokens:
        offsets, rows, values = entries_by_row(counts, lookup, len(self.space.names))
        cells = {}
        if self.behaviour == "official":
            u = rng.random((counts.shape[0], self.config.num_clusters), dtype=np.float32)
            with np.errstate(divide="ignore"):
                cells["noise"] = -np.log(-np.log(u + np.float32(TINY)) + np.float32(TINY))
        return Tokens(offsets, {"gene": rows, "value": np.log1p(values)}, cells)

    def cells(self, batch: Batch) -> Tensor:
        rows = batch.columns["gene"]
        offsets = torch.tensor(batch.offsets, device=rows.device)
        out: Tensor = self.network(rows, batch.columns["value"], offsets, batch.cells.get("noise"))
        return out

    def gene_states(self, batch: Batch) -> Tensor:
        raise NotApplicable("the tokens of CellPLM are cells: it has no contextual gene vectors")

    def gene_table(self) -> Float32[np.ndarray, "n_rows d"]:
        embedder: Any = self.network.embedder
        return np.asarray(embedder["feat_enc"].emb.detach().float().cpu().numpy())

    def partition(self, cells: Dataset) -> Iterable[Int64[np.ndarray, "n_rows"]] | None:
        """Return the cells of each batch, batches in the order of their names."""
        role = cells.roles.get("batch")
        codes = role.codes if role is not None else np.zeros(cells.n_cells, dtype=np.int32)
        # Cells without a batch, code -1, are one of their own, behind the others.
        codes = np.where(codes < 0, codes.max() + 1, codes)
        sets = (np.flatnonzero(codes == code) for code in np.unique(codes))
        return (part for rows in sets for part in self._divided(rows, cells))

    def _divided(
        self, rows: Int64[np.ndarray, "n_rows"], cells: Dataset
    ) -> Iterable[Int64[np.ndarray, "n_part"]]:
        if len(rows) <= MAX_SET:
            return [rows]
        if self.behaviour == "official":
            return [rows[start : start + MAX_SET] for start in range(0, len(rows), MAX_SET)]
        # By the cells' own counts, so that their order in the file does not matter.
        lookup = self.space.match(cells.genes).lookup
        seeds = cell_seeds(*entries_by_row(cells.counts[rows], lookup, len(self.space.names)))
        parts = np.array_split(np.argsort(seeds, kind="stable"), -(-len(rows) // MAX_SET))
        return [np.sort(rows[part]) for part in parts]


def _config(path: Path) -> Mapping[str, Any]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsError(
            f"{path} is no JSON: {error}", "the published config.json", "download it again"
        ) from error
    if not isinstance(table, dict):
        raise WeightsError(f"{path} is no table", "the published config.json", "download it again")
    return table


def _space(table: Mapping[str, Any], source: Path) -> GeneSpace:
    names = table.get("gene_list")
    if not isinstance(names, list) or not names:
        raise WeightsError(
            f"{source} has no gene_list", "the published config.json", "download it again"
        )
    return GeneSpace(tuple(map(str, names)), "ensembl")
