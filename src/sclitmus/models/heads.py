"""What stands on an encoder to name cell types, as the authors of each model have it."""

from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn

from sclitmus.models.tokens import Batch

Head = Literal["scbert", "scgpt", "bert", "flatten"]

FLOOR = 0.1  # of the mean scale: a dimension that hardly varies stays small
ROUNDING = 1e-3  # of the vectors' own size: what varies less is the same in all cells
FLAT = (512, 128)  # widths of scBERT's classifier


class Standard(nn.Module):
    """Pooled vectors around 0 and of scale 1, by the encoder as it was before training.

    Cells' vectors differ by a few hundredths of their length, so a head on the vectors themselves
    learns their mean long before what tells types apart: docs/models/fine_tuning.md has numbers.
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, d: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(d))
        self.register_buffer("scale", torch.ones(d))

    def set_by(self, vectors: Tensor) -> None:
        """Take mean and scale of vectors (n_cells, d)."""
        self.centre.copy_(vectors.mean(0))
        own = (vectors - vectors.mean(0)).square().mean(0)
        least = torch.maximum(FLOOR**2 * own.mean(), ROUNDING**2 * vectors.square().mean())
        self.scale.copy_(torch.where(least > 0, own.clamp(min=least).sqrt(), 1.0))

    def forward(self, x: Tensor) -> Tensor:
        """Return vectors (n_cells, d)."""
        return (x - self.centre) / self.scale


class Flatten(nn.Module):
    """scBERT's classifier, which reads every position: Yang et al. 2022.

    One linear map for all positions makes a number of each; three layers follow. A gene is known
    by its position here, whatever its vector. With 16,906 genes it has more parameters than the
    encoder that is trained.
    """

    def __init__(self, d: int, length: int, n_classes: int) -> None:
        super().__init__()
        self.each = nn.Linear(d, 1)
        self.rest = nn.Sequential(
            nn.Linear(length, FLAT[0]),
            nn.ReLU(),
            nn.Linear(FLAT[0], FLAT[1]),
            nn.ReLU(),
            nn.Linear(FLAT[1], n_classes),
        )

    def forward(self, states: Tensor) -> Tensor:
        """Return logits (n_cells, n_classes) of hidden states (n_cells, length, d)."""
        out: Tensor = self.rest(torch.relu(self.each(states).squeeze(2)))
        return out


def make_head(kind: Head, d: int, length: int, n_classes: int, seed: int) -> nn.Module:
    """Make a head with random weights, which depend on seed and shapes alone.

    Parameters
    ----------
    kind
        ``"flatten"``: scBERT's, `Flatten`. The others read pooled vectors, `Standard` first:
        ``"scgpt"``: two layers with ReLU and normalisation, then a linear one (Cui et al. 2024);
        ``"bert"``: a layer with tanh, then a linear one, as BERT classifies (Theodoris et al.
        2023); ``"scbert"``: the layers of `Flatten` behind its first, ours.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "flatten":
            return Flatten(d, length, n_classes)
        hidden: list[nn.Module] = []
        if kind == "scbert":
            hidden = [nn.Linear(d, FLAT[0]), nn.ReLU(), nn.Linear(*FLAT), nn.ReLU()]
        elif kind == "bert":
            hidden = [nn.Linear(d, d), nn.Tanh()]
        else:
            for _ in range(2):
                hidden += [nn.Linear(d, d), nn.ReLU(), nn.LayerNorm(d)]
        width = FLAT[1] if kind == "scbert" else d
        return nn.Sequential(Standard(d), *hidden, nn.Linear(width, n_classes))


class Classifier(nn.Module):
    """Encoder and head as one network: a batch of tokens -> logits.

    Parameters
    ----------
    port
        A `port.Trainable`; its network becomes part of this one.
    frozen
        Whether no gradient goes into the encoder.
    """

    def __init__(self, port: Any, head: nn.Module, frozen: bool) -> None:
        super().__init__()
        self.network = port.network
        self.head = head
        self.port = port
        self.frozen = frozen

    def read(self, batch: Batch) -> Tensor:
        """Return what the head reads of each cell."""
        states: Tensor
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            if isinstance(self.head, Flatten):
                states = self.port.positions(batch)
            else:
                states = self.port.pooled(batch)
        return states

    def scale_by(self, vectors: Float32[np.ndarray, "n_cells d"]) -> None:
        """Set the scale of what a head on pooled vectors reads; see `Standard`."""
        first: Any = next(self.head.children())
        first.set_by(torch.from_numpy(vectors))

    def forward(self, batch: Batch) -> Tensor:
        """Return logits (n_cells, n_classes)."""
        out: Tensor = self.head(self.read(batch))
        return out
