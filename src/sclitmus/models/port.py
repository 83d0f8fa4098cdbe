"""What a model's file provides, so that everything else about running it is written once."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol, Self, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int32, Int64
from scipy import sparse

from sclitmus.core.dataset import Dataset, Genes
from sclitmus.models.gene_space import GeneSpace
from sclitmus.models.tokens import Batch, Tokens
from sclitmus.models.weights import Weights

Behaviour = Literal["official", "fixed"]


class Port(Protocol):
    """A network with its weights, its gene space, and its way of reading a cell.

    ``behaviour="official"`` does what the published code does, to the last rounding, its faults
    included. ``"fixed"`` makes an embedding depend on the cell alone: no batch-mates, no padding,
    no order of cells or genes, no random numbers.

    Attributes
    ----------
    network
        The ``torch.nn.Module``, in eval mode; it is moved to a device from outside.
    space
        The genes that it knows. ``Tokens.columns["gene"]`` counts in its rows.
    together
        None if cells do not influence each other. Else the number of consecutive cells that the
        published code passes through the network at once, which are then kept together.

    A port whose network reads more of a cell than its counts (its batch, say) also has
    ``beside(cells: Dataset) -> Mapping[str, np.ndarray]``: arrays with a row per cell of the
    dataset, which are added to `Tokens.cells`. One whose network costs little per token has
    ``cpu_tokens``, the tokens to pass at once on a CPU.
    """

    behaviour: Behaviour
    network: Any
    space: GeneSpace
    together: int | None

    @classmethod
    def load(cls, weights: Weights, behaviour: Behaviour) -> Self:
        """Read the published files.

        Raises
        ------
        WeightsError
            If a file is not what it should be, or a tensor is missing, left over or mis-shaped.
        """

    @classmethod
    def build(
        cls,
        config: Mapping[str, Any],
        genes: Genes,
        weights: Weights | None,
        behaviour: Behaviour,
        seed: int,
    ) -> Self:
        """Make the same network with random weights, drawn as the original draws them.

        Parameters
        ----------
        config
            Of the model's card: the published sizes.
        genes
            Of the dataset: they make up the gene space where the published one is not at hand.
        weights
            The published files that are at hand, for the gene space; or None.
        """

    def tokenise(
        self,
        counts: sparse.csr_matrix,
        lookup: Int32[np.ndarray, "n_genes"],
        rng: np.random.Generator,
    ) -> Tokens:
        """Turn counts (cells x the dataset's genes, raw) into tokens.

        Parameters
        ----------
        lookup
            Row in `space` of each column, -1 where the model does not know the gene.
        rng
            The random numbers the published code draws, in its order; `fixed` draws none.
        """

    def cells(self, batch: Batch) -> Any:
        """Return the embedding of each cell, a tensor (n_cells, d). Called under no_grad."""

    def gene_states(self, batch: Batch) -> Any:
        """Return a contextual vector per token, a tensor (n_tokens, d); see ``columns["gene"]``.

        Raises
        ------
        NotApplicable
            If the model has none.
        """

    def gene_table(self) -> Float32[np.ndarray, "n_rows d"]:
        """Return the static vector of every row of `space`.

        Raises
        ------
        NotApplicable
            If the model has none.
        """

    def partition(self, cells: Dataset) -> Iterable[Int64[np.ndarray, "n_rows"]] | None:
        """Return the sets of cells that must be embedded together, or None for no such sets."""


@runtime_checkable
class Trainable(Protocol):
    """What a port has beside the members of `Port` if its network can be trained further.

    One whose classifier may read every position (scBERT's) also has ``positions(batch)``, the last
    hidden states ``(n_cells, length, d)``, and ``length``, the positions of a cell, which are then
    not its tokens.

    Attributes
    ----------
    width
        d of `pooled`.
    trains_genes
        Whether the original trains its gene vectors: scBERT takes them from elsewhere.
    """

    @property
    def width(self) -> int: ...

    @property
    def trains_genes(self) -> bool: ...

    def pooled(self, batch: Batch) -> Any:
        """Return the vector of each cell that a classifier reads, a tensor (n_cells, d).

        Gradients flow through it, and it is not normalised. It is of the last block that runs.
        """

    def blocks(self) -> Sequence[Any]:
        """Return the blocks of the network that run, modules, the first first."""

    def final_norm(self) -> Any:
        """Return the normalisation behind the last block, a module, or None where there is none."""

    def gene_embedding(self) -> Any:
        """Return the parameter with the static gene vectors.

        Its first rows are those of `Port.space`; rows without a name there, and further rows, are
        of special tokens.
        """
