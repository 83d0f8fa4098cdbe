"""scVI, scANVI and scArches models that someone else trained and saved, run frozen.

Lopez et al. 2018, doi:10.1038/s41592-018-0229-2; Lotfollahi et al. 2022 (scArches: a new dataset
gets columns of its own for its batches), doi:10.1038/s41587-021-01001-7.

The encoder of a variational autoencoder: log counts of the genes it was trained on, a few linear
layers, the mean of the latent distribution. scvi-tools is not needed.

File: ``model.pt`` as ``model.save`` of scvi-tools (0.15 or later) writes it: weights, gene names
and what the data looked like.

fixed beside official: they differ only where the encoder reads the batch (``encode_covariates``)
and a cell's batch is not one that the model knows. scvi-tools then has to be trained further, so
official is not applicable. Here such a cell gets the mean of all batches that the model knows.
"""

import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from jaxtyping import Float32, Int32, Int64
from scipy import sparse
from torch import Tensor, nn

from sclitmus.core.dataset import Dataset, Genes
from sclitmus.errors import NotApplicable, WeightsError
from sclitmus.models.checkpoint import fill, read_torch, tensors_of
from sclitmus.models.gene_space import GeneSpace, entries_by_row
from sclitmus.models.port import Behaviour
from sclitmus.models.tokens import Batch, Tokens
from sclitmus.models.weights import Weights

FILE = "model.pt"
CLASSES = ("SCVI", "SCANVI")  # both embed a cell by the same encoder
ENSEMBL = re.compile(r"(ENS[A-Z]*G\d{11})(?:\.\d+)?(_PAR_Y)?")

UNUSED = {
    r"z_encoder\.var_encoder\..*": "spread of the latent distribution; its mean is the embedding",
    r"l_encoder\..*|library_log_.*": "library size",
    r"decoder\..*|px_r": "from the latent space back to counts",
    r"classifier.*|y_prior|groups_index\..*": "scANVI's classifier",
    r"(encoder_z2_z1|decoder_z1_z2)\..*": "scANVI's second latent variable",
    r"embeddings_dict\..*": "batch vectors of the decoder",
}


@dataclass(frozen=True)
class Config:
    """What scvi-tools says of the encoder, with its defaults."""

    n_genes: int
    n_hidden: int = 128
    n_latent: int = 10
    n_layers: int = 1
    log_variational: bool = True
    use_batch_norm: str = "both"
    use_layer_norm: str = "none"
    deeply_inject_covariates: bool = True  # the batch enters every layer, not the first alone
    n_batches: int = 0  # columns for the batch; 0 where the encoder does not read it


@dataclass(frozen=True)
class Saved:
    """What a model.pt holds.

    Attributes
    ----------
    batches
        Names of the batches in the order of their columns; empty if the encoder reads none.
    """

    tensors: Mapping[str, Tensor]
    names: tuple[str, ...]
    batches: tuple[str, ...]
    config: Config


class Network(nn.Module):
    """The encoder."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        widths = [config.n_genes] + [config.n_hidden] * config.n_layers
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            (
                f"Layer {i}",
                _layer(config, width, reads_batch=i == 0 or config.deeply_inject_covariates),
            )
            for i, width in enumerate(widths[:-1])
        )
        self.z_encoder = nn.ModuleDict(
            {
                "encoder": nn.ModuleDict({"fc_layers": nn.Sequential(layers)}),
                "mean_encoder": nn.Linear(config.n_hidden, config.n_latent),
            }
        )

        self.by_gene: Tensor | None = None  # first layer's weights, a row per gene

    def forward(self, gene: Tensor, x: Tensor, offsets: Tensor, batch: Tensor) -> Tensor:
        """Return latent means, (n_cells, n_latent).

        Parameters
        ----------
        gene, x, offsets
            Gene and log count of each entry; cell i has ``offsets[i]:offsets[i + 1]``.
        batch
            (n_cells, n_batches): weight of each known batch.
        """
        encoder: Any = self.z_encoder["encoder"]
        first, *others = encoder["fc_layers"]
        h = self._summed(first[0], gene, x, offsets, batch)
        h = first[1:](h)
        for layer in others:
            if layer[0].in_features != h.shape[1]:
                h = torch.cat([h, batch.to(h.dtype)], dim=1)
            h = layer(h)
        out: Tensor = self.z_encoder["mean_encoder"](h)
        return out

    def _summed(
        self, linear: nn.Linear, gene: Tensor, x: Tensor, offsets: Tensor, batch: Tensor
    ) -> Tensor:
        """Apply the first layer to the genes that are expressed alone: most counts are zero."""
        n_batches = batch.shape[1]
        n_genes = linear.in_features - n_batches
        if self.by_gene is None or self.by_gene.device != x.device:
            self.by_gene = linear.weight[:, :n_genes].T.contiguous()
        h = F.embedding_bag(
            gene,
            self.by_gene,
            offsets,
            mode="sum",
            per_sample_weights=x,
            include_last_offset=True,
        )
        return h + F.linear(batch, linear.weight[:, n_genes:], linear.bias)


def _layer(config: Config, width: int, *, reads_batch: bool) -> nn.Sequential:
    on = ("encoder", "both")
    d = config.n_hidden
    return nn.Sequential(
        nn.Linear(width + config.n_batches * reads_batch, d),
        # eps of the first, TensorFlow, version; scvi-tools keeps it.
        nn.BatchNorm1d(d, eps=1e-3) if config.use_batch_norm in on else nn.Identity(),
        nn.LayerNorm(d, elementwise_affine=False) if config.use_layer_norm in on else nn.Identity(),
        nn.ReLU(),
    )


@dataclass(frozen=True, eq=False)
class FrozenScVI:
    """The port: see `models.port.Port`."""

    network: Network
    space: GeneSpace
    config: Config
    batches: tuple[str, ...]
    behaviour: Behaviour
    together: int | None = None
    cpu_tokens: ClassVar[int] = 400_000  # a few small layers: thousands of cells at once

    @classmethod
    def load(cls, weights: Weights, behaviour: Behaviour) -> Self:
        path = weights.file(FILE)
        saved = _read(path)
        with torch.device("meta"):
            network = Network(saved.config)
        fill(network, saved.tensors, path, unused=UNUSED)
        return cls(network, _space(saved.names), saved.config, saved.batches, behaviour)

    @classmethod
    def build(
        cls,
        config: Mapping[str, Any],
        genes: Genes,
        weights: Weights | None,
        behaviour: Behaviour,
        seed: int,
    ) -> Self:
        batches: tuple[str, ...] = ()
        if weights is not None:
            saved = _read(weights.file(FILE))
            names, sizes, batches = saved.names, saved.config, saved.batches
        else:
            kind = genes.ensembl if any(genes.ensembl) else genes.symbol
            names = tuple(dict.fromkeys(name for name in kind if name))
            sizes = Config(n_genes=len(names), **config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # scvi-tools leaves torch's own initialisation as it is
            network = Network(sizes).eval().requires_grad_(False)
        return cls(network, _space(names), sizes, batches, behaviour)

    def tokenise(
        self,
        counts: sparse.csr_matrix,
        lookup: Int32[np.ndarray, "n_genes"],
        rng: np.random.Generator,
    ) -> Tokens:
        offsets, rows, values = entries_by_row(counts, lookup, self.config.n_genes)
        return Tokens(offsets, {"gene": rows, "count": values})

    def beside(self, cells: Dataset) -> Mapping[str, Int32[np.ndarray, "n_cells"]]:
        """Return the column of each cell's batch, -1 where the model knows no such batch.

        Raises
        ------
        NotApplicable
            If a batch is not known and the behaviour is official.
        """
        if not self.batches:
            return {}
        column = {name: i for i, name in enumerate(self.batches)}
        role = cells.roles.get("batch")
        names = role.names if role is not None else ()
        codes = role.codes if role is not None else np.full(cells.n_cells, -1, dtype=np.int32)
        # One more, for code -1: the batch of such a cell is not named.
        columns = np.array([*(column.get(name, -1) for name in names), -1], dtype=np.int32)
        batch = columns[codes]
        if self.behaviour == "official" and (batch < 0).any():
            unknown = ", ".join(name for name in names if name not in column)
            raise NotApplicable(
                "the encoder of this model reads the batch and does not know "
                f"{unknown or 'that of some cells'}; scvi-tools would first have to train it "
                "further (scArches); behaviour fixed takes the mean of the "
                f"{len(self.batches)} batches that it knows"
            )
        return {"batch": batch}

    def cells(self, batch: Batch) -> Tensor:
        counts = batch.columns["count"]
        x = torch.log1p(counts) if self.config.log_variational else counts
        offsets = torch.tensor(batch.offsets, device=x.device)
        out: Tensor = self.network(batch.columns["gene"], x, offsets, self._batch_weights(batch, x))
        return out

    def _batch_weights(self, batch: Batch, x: Tensor) -> Tensor:
        n = len(self.batches)
        weights = x.new_zeros((batch.n_cells, n))
        if n:
            column = batch.cells["batch"]
            weights[column < 0] = 1 / n
            known = torch.nonzero(column >= 0)[:, 0]
            weights[known, column[known]] = 1
        return weights

    def gene_states(self, batch: Batch) -> Tensor:
        raise NotApplicable("scVI reads a cell as a whole: it has no contextual gene vectors")

    def gene_table(self) -> Float32[np.ndarray, "n_rows d"]:
        raise NotApplicable("scVI has no vectors of genes")

    def partition(self, cells: Dataset) -> Iterable[Int64[np.ndarray, "n_rows"]] | None:
        return None


def _space(names: tuple[str, ...]) -> GeneSpace:
    """Tell by their look whether names are Ensembl ids (versions are dropped) or symbols."""
    found = [ENSEMBL.fullmatch(name) for name in names]
    ids = [match[1] + (match[2] or "") if match else "" for match in found]
    plain = tuple(id or name for id, name in zip(ids, names, strict=True))
    ensembl = 2 * sum(map(bool, ids)) > len(names)
    other = tuple((plain[i], i) for i, id in enumerate(ids) if bool(id) != ensembl)
    return GeneSpace(plain, "ensembl" if ensembl else "symbol", also=other)


def _read(path: Path) -> Saved:
    """Take the encoder out of a model.pt.

    Raises
    ------
    WeightsError
        If it is no model of scvi-tools, or one of another kind than scVI and scANVI.
    """
    state = read_torch(path, inert="any")  # the registry mentions pandas, numpy, callables …
    parts = ("model_state_dict", "var_names", "attr_dict")
    if not isinstance(state, dict) or any(part not in state for part in parts):
        raise WeightsError(
            f"{path} lacks {' or '.join(parts)}",
            "a model.pt as model.save of scvi-tools 0.15 or later writes it",
            "load an older model with scvi-tools and save it again",
        )
    attributes = state["attr_dict"]
    registry = attributes.get("registry_", {})
    kind = registry.get("model_name", "SCVI")
    if kind not in CLASSES:
        raise _not_ported(path, f"is a model of the class {kind}", " or ".join(CLASSES))
    settings = _settings(attributes.get("init_params_", {}))
    names = tuple(str(name) for name in state["var_names"])
    batches = _batches(path, registry, settings)
    known = {name: settings[name] for name in Config.__dataclass_fields__ if name in settings}
    config = Config(**(known | {"n_genes": len(names), "n_batches": len(batches)}))
    weights = {k: v for k, v in state["model_state_dict"].items() if k != "pyro_param_store"}
    return Saved(tensors_of(weights, path), names, batches, config)


def _settings(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten the arguments the model was made with; older versions save one flat table."""
    plain = saved.get("non_kwargs", {k: v for k, v in saved.items() if not isinstance(v, dict)})
    nested = saved.get("kwargs", {k: v for k, v in saved.items() if isinstance(v, dict)})
    return {**plain, **{k: v for table in nested.values() for k, v in table.items()}}


def _batches(
    path: Path, registry: Mapping[str, Any], settings: Mapping[str, Any]
) -> tuple[str, ...]:
    """Return the batches that the encoder reads, and refuse what else it may read."""
    if settings.get("latent_distribution", "normal") != "normal":
        raise _not_ported(path, "has a latent distribution whose mean is sampled", "'normal'")
    if settings.get("extra_encoder_kwargs"):
        raise _not_ported(path, "has extra_encoder_kwargs", "a plain encoder")
    if not settings.get("encode_covariates", False):
        return ()
    fields = registry.get("field_registries", {})

    def state(name: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = fields.get(name, {}).get("state_registry", {})
        return found

    more = [*state("extra_categorical_covs").get("field_keys", ())]
    more += [*state("extra_continuous_covs").get("columns", ())]
    if more:
        listed = ", ".join(map(str, more))
        raise _not_ported(path, f"has an encoder that reads {listed}", "no covariate but the batch")
    if settings.get("batch_representation", "one-hot") != "one-hot":
        raise _not_ported(path, "has an encoder that reads batch vectors", "one-hot batches")
    names = tuple(str(name) for name in state("batch").get("categorical_mapping", ()))
    return names if len(names) > 1 else ()  # a single batch has no column


def _not_ported(path: Path, seen: str, needed: str) -> WeightsError:
    return WeightsError(
        f"{path} {seen}",
        needed,
        "such a model is not ported; embed with scvi-tools and supply that",
    )
