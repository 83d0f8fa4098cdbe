"""What of a network is trained, and what becomes of its gene vectors: the arms of a comparison."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

Train = Literal["head", "last", "full"]
GeneVectors = Literal["kept", "zeroed", "shuffled"]


def open_up(port: Any, train: Train) -> None:
    """Mark the encoder's parameters that are trained.

    ``"full"`` is all of them, ``"last"`` the last block and the normalisation behind it, ``"head"``
    none. Gene vectors that the original takes from elsewhere stay as they are.

    Parameters
    ----------
    port
        A `port.Trainable`.
    """
    port.network.requires_grad_(train == "full")
    if train == "last":
        port.blocks()[-1].requires_grad_(True)
        if port.final_norm() is not None:
            port.final_norm().requires_grad_(True)
    if not port.trains_genes:
        port.gene_embedding().requires_grad_(False)


def change_genes(port: Any, genes: GeneVectors, rng: np.random.Generator) -> Callable[[], None]:
    """Set the vectors of all genes to zero, or exchange them; special tokens keep theirs.

    Zeroed ones get no gradient and stay zero. Shuffled ones are trained where the arm trains them.

    Returns
    -------
    What ends the blocking of gradients, to be called when the training is over.
    """
    if genes == "kept":
        return _nothing
    table: Tensor = port.gene_embedding()
    rows = np.flatnonzero([bool(name) for name in port.space.names])
    at = torch.from_numpy(rows).to(table.device)
    with torch.no_grad():
        if genes == "shuffled":
            table[at] = table[torch.from_numpy(rng.permutation(rows)).to(table.device)]
            return _nothing
        table[at] = 0.0
    if not table.requires_grad:
        return _nothing

    def without_genes(gradient: Tensor) -> Tensor:
        return gradient.index_fill(0, at.to(gradient.device), 0.0)

    handle: Any = table.register_hook(without_genes)  # type: ignore[no-untyped-call]
    unblock: Callable[[], None] = handle.remove
    return unblock


def _nothing() -> None:
    pass
