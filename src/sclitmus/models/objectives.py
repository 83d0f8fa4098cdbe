"""What each architecture is pretrained to do: hide some genes of a cell, and predict them.

An objective is the network of a port with the head that its authors put on it in pretraining, whose
parameters have the names of the published checkpoints. Facts are of the official code, see
docs/pretraining.md.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from sclitmus.errors import WeightsError
from sclitmus.models.geneformer import Geneformer
from sclitmus.models.masking import hide, with_columns
from sclitmus.models.pretraining_settings import Objective as Settings
from sclitmus.models.scbert import ScBERT
from sclitmus.models.scgpt import ScGPT
from sclitmus.models.tokens import Batch, Tokens

MASK_VALUE = -1.0  # scGPT: what stands in the place of a hidden bin


class Objective(nn.Module):
    """A network and its heads: batch -> predictions of what was hidden.

    Attributes
    ----------
    measures
        What is measured of each prediction; the first is the loss.
    judged_by
        The measure in which it is compared with averages.
    """

    measures: tuple[str, ...]
    judged_by: ClassVar[str] = "cross_entropy"

    def __init__(self, port: Any, settings: Settings) -> None:
        super().__init__()
        self.network = port.network
        self.port = port
        self.settings = settings

    def hidden(self, tokens: Tokens, rng: np.random.Generator) -> Tokens:
        """Hide tokens: adds the columns ``masked`` (bool) and ``target``, and changes the input."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> Tensor:
        """Return predictions (n_masked, k)."""
        raise NotImplementedError

    def measured(self, predicted: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return each measure of each prediction (n_masked,); they are differentiable."""
        raise NotImplementedError

    def loss(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each prediction, (n_masked,)."""
        return self.measured(predicted, target)[self.measures[0]]

    def head(self) -> Mapping[str, Tensor]:
        """Return the tensors of the heads, by their names in a published checkpoint."""
        raise NotImplementedError

    def fill_head(self, tensors: Mapping[str, Tensor], source: Path) -> None:
        """Take the heads of a published checkpoint, beside whose network they were trained.

        Raises
        ------
        WeightsError
            If one of their tensors is missing or has another shape.
        """
        wanted = self.head()
        lacking = [
            name
            for name, own in wanted.items()
            if name not in tensors or tensors[name].shape != own.shape
        ]
        if lacking:
            raise WeightsError(
                f"{source} has no {', '.join(lacking)} of the shape that predicts hidden genes",
                "a checkpoint of pretraining, with its head",
                "take the published checkpoint: one that was fine-tuned has another head",
            )
        with torch.no_grad():
            for name, own in wanted.items():
                own.copy_(tensors[name])


class GeneQuery(nn.Module):
    """scGPT's second decoder ("MVC", GEPC): a gene's query times the cell's vector."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.gene2query = nn.Linear(d, d)
        self.W = nn.Linear(d, d, bias=False)

    def forward(self, cells: Tensor, genes: Tensor) -> Tensor:
        """Return a value per gene, both arguments (n, d)."""
        out: Tensor = (self.W(torch.sigmoid(self.gene2query(genes))) * cells).sum(1)
        return out


class ScGPTObjective(Objective):
    """Bins of hidden genes, by mean squared error: Cui et al. 2024.

    Genes that are not expressed are no tokens, so none is predicted to be zero.
    """

    port: ScGPT
    judged_by: ClassVar[str] = "mse"

    def __init__(self, port: ScGPT, settings: Settings, mean: float) -> None:
        super().__init__(port, settings)
        d = port.width
        layers = nn.Linear(d, d), nn.LeakyReLU(), nn.Linear(d, d), nn.LeakyReLU(), nn.Linear(d, 1)
        self.decoder = nn.ModuleDict({"fc": nn.Sequential(*layers)})
        # Ours: from 0, the first hundreds of steps do nothing but find the mean bin.
        nn.init.constant_(layers[-1].bias, mean)
        self.mvc_decoder = GeneQuery(d) if settings.gepc else None
        self.measures = ("loss", "mse", "mse_gepc") if settings.gepc else ("loss", "mse")

    def hidden(self, tokens: Tokens, rng: np.random.Generator) -> Tokens:
        value = tokens.columns["value"]
        masked = hide(tokens, tokens.columns["gene"] >= 0, self.settings.share, rng)
        value_seen = np.where(masked, np.float32(MASK_VALUE), value)
        return with_columns(tokens, value=value_seen, target=value, masked=masked)

    def forward(self, batch: Batch) -> Tensor:
        gene, masked = batch.columns["gene"], batch.columns["masked"]
        rows = torch.where(gene < 0, self.port.cls, gene)
        states = self.network(rows, batch.columns["value"], list(batch.offsets))
        predicted = [self.decoder["fc"](states[masked]).squeeze(1)]
        if self.mvc_decoder is not None:
            first = torch.tensor(batch.offsets[:-1], device=gene.device)
            of = torch.tensor(batch.lengths, device=gene.device)
            cell = torch.repeat_interleave(first, of)[masked]
            genes = self.network.encoder(rows[masked])
            predicted.append(self.mvc_decoder(states[cell], genes))
        return torch.stack(predicted, 1)

    def measured(self, predicted: Tensor, target: Tensor) -> dict[str, Tensor]:
        errors = (predicted - target[:, None]).square()
        names = ("mse", "mse_gepc")
        each = {name: errors[:, i] for i, name in zip(range(errors.shape[1]), names, strict=False)}
        return {"loss": errors.sum(1), **each}

    def head(self) -> Mapping[str, Tensor]:
        return {
            name: tensor
            for name, tensor in self.state_dict().items()
            if name.startswith(("decoder.", "mvc_decoder."))
        }


class GeneformerObjective(Objective):
    """Which gene has a hidden rank, by cross-entropy over all tokens: Theodoris et al. 2023.

    The head is BertForMaskedLM's. The number of hidden genes is the share of a cell's, rounded
    down, where the original draws each gene apart.
    """

    port: Geneformer
    measures = ("cross_entropy", "error")

    def __init__(self, port: Geneformer, settings: Settings) -> None:
        super().__init__(port, settings)
        config = port.config
        transform = Transform(config.hidden_size, config)
        self.transform = transform
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.output = None
        if not settings.tied:
            self.output = nn.Parameter(torch.empty(config.vocab_size, config.hidden_size))
            nn.init.normal_(self.output, 0.0, config.initializer_range)
        nn.init.normal_(transform.dense.weight, 0.0, config.initializer_range)
        nn.init.zeros_(transform.dense.bias)

    def hidden(self, tokens: Tokens, rng: np.random.Generator) -> Tokens:
        gene, row = tokens.columns["gene"], tokens.columns["row"]
        masked = hide(tokens, gene >= 0, self.settings.share, rng)
        chance = rng.random(len(row))
        kept = chance < self.settings.kept
        other = ~kept & (chance < self.settings.kept + self.settings.random)
        any_token = rng.integers(len(self.port.tokens), size=len(row))
        seen = np.where(masked & ~kept, self.port.tokens["<mask>"], row)
        seen = np.where(masked & other, any_token, seen)
        return with_columns(tokens, row=seen.astype(row.dtype), target=gene, masked=masked)

    def forward(self, batch: Batch) -> Tensor:
        columns = batch.columns
        states = self.network(columns["row"], columns["position"], list(batch.offsets))
        table = self.network.table if self.output is None else self.output
        out: Tensor = F.linear(self.transform(states[columns["masked"]]), table, self.bias)
        return out

    def measured(self, predicted: Tensor, target: Tensor) -> dict[str, Tensor]:
        lost = F.cross_entropy(predicted, target, reduction="none")
        return {"cross_entropy": lost, "error": (predicted.argmax(1) != target).float()}

    def head(self) -> Mapping[str, Tensor]:
        start = "cls.predictions."
        tensors = {f"{start}bias": self.bias.detach()}
        for name, tensor in self.transform.state_dict().items():
            tensors[f"{start}transform.{name}"] = tensor
        if self.output is not None:
            tensors |= {
                f"{start}decoder.weight": self.output.detach(),
                f"{start}decoder.bias": self.bias.detach().clone(),  # two names of one
            }
        return tensors


class Transform(nn.Module):
    """What BertForMaskedLM does with a state before it is compared with the genes."""

    def __init__(self, d: int, config: Any) -> None:
        super().__init__()
        self.dense = nn.Linear(d, d)
        self.LayerNorm = nn.LayerNorm(d, config.layer_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.LayerNorm(torch.relu(self.dense(x)))
        return out


class ScBERTObjective(Objective):
    """Bins of hidden genes among those above bin 0, by cross-entropy: Yang et al. 2022."""

    port: ScBERT
    measures = ("cross_entropy", "mse", "error")

    def __init__(self, port: ScBERT, settings: Settings) -> None:
        super().__init__(port, settings)
        self.to_out = nn.Linear(port.width, port.network.token_emb.num_embeddings)

    @property
    def mask(self) -> int:
        """The token of a hidden bin: the last one."""
        return self.port.network.token_emb.num_embeddings - 1

    def hidden(self, tokens: Tokens, rng: np.random.Generator) -> Tokens:
        bins = tokens.columns["bin"]
        masked = hide(tokens, bins > 0, self.settings.share, rng, whole="up")
        chance = rng.random(len(bins))
        seen = np.where(masked & (chance >= self.settings.kept), self.mask, bins)
        return with_columns(tokens, bin=seen.astype(bins.dtype), target=bins, masked=masked)

    def forward(self, batch: Batch) -> Tensor:
        gene, masked, length = batch.columns["gene"], batch.columns["masked"], self.port.length
        lengths = torch.tensor(batch.lengths, device=gene.device)
        cell = torch.repeat_interleave(torch.arange(batch.n_cells, device=gene.device), lengths)
        at = cell * length + gene
        bins = gene.new_zeros(batch.n_cells * length)
        bins[at] = batch.columns["bin"]
        states = self.network(bins.view(-1, length), False).flatten(0, 1)
        out: Tensor = self.to_out(states[at[masked]])
        return out

    def measured(self, predicted: Tensor, target: Tensor) -> dict[str, Tensor]:
        bins = predicted[:, 1:-1].float()  # neither 0 nor the mask, as the original judges it
        levels = torch.arange(1, bins.shape[1] + 1, device=bins.device, dtype=torch.float32)
        return {
            "cross_entropy": F.cross_entropy(predicted, target, reduction="none"),
            "mse": (bins.softmax(1) @ levels - target).square(),
            "error": (bins.argmax(1) + 1 != target).float(),
        }

    def head(self) -> Mapping[str, Tensor]:
        return {f"to_out.{name}": tensor for name, tensor in self.to_out.state_dict().items()}
