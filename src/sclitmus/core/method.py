"""What a method is: a card that says what it is and needs, and the few calls a task makes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, Self, runtime_checkable

import numpy as np
from jaxtyping import Float32, Float64

from sclitmus.core.dataset import Dataset

Kind = Literal["control", "baseline", "trained_on_target", "foundation", "supplied"]
Part = Literal["floor", "ceiling", "canary", "bar", "contender"]


@dataclass(frozen=True)
class MethodCard:
    """Who a method is, before any of its code is imported heavily or run.

    Attributes
    ----------
    id
        Name in records and on the command line.
    kind
        ``control`` (random, oracle), ``baseline`` (no learned weights from elsewhere),
        ``trained_on_target`` (fitted on the evaluated cells: scVI), ``foundation`` (frozen
        weights from elsewhere) or ``supplied`` (an embedding the user brought).
    part
        The part it plays in a verdict: ``floor`` and ``ceiling`` span the skill scale,
        ``canary`` shows what can be gamed, ``bar`` is a simple rival to beat, ``contender``
        is what is being judged.
    needs
        Roles of the dataset it cannot do without, for example ``("batch",)``.
    sees_labels
        Whether it is given the labels it will be scored on. Only controls are; the executor
        hides the label column from every other method.
    deterministic
        Whether two runs with different seeds give the same embedding.
    behaviour
        ``official`` or ``fixed`` for a ported foundation model, else empty.
    params
        Every setting that changes the result, recorded and part of the cache key.
    version
        Raised by hand when the code changes what it computes; part of the cache key.
    licence, non_commercial
        Of its code or weights; whether they forbid commercial use, which is said before they run.
    corpora
        Public ids of the pretraining data, to compute the overlap with the evaluated data.
    twin
        Id of the same thing without pretraining, with which it is compared where both ran.
    """

    id: str
    kind: Kind
    part: Part
    title: str
    summary: str = ""
    needs: tuple[str, ...] = ()
    sees_labels: bool = False
    deterministic: bool = True
    behaviour: str = ""
    params: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)
    version: int = 1
    doi: str = ""
    licence: str = ""
    non_commercial: bool = False
    gene_space: str = "the dataset's own genes"
    corpora: tuple[str, ...] = ()
    twin: str = ""

    @property
    def fingerprint(self) -> str:
        """What the cache key of an embedding is made of; titles and prose are not."""
        params = ",".join(f"{name}={self.params[name]!r}" for name in sorted(self.params))
        return f"{self.id}|v{self.version}|{self.behaviour}|{params}"


@runtime_checkable
class CellEmbedder(Protocol):
    """A method that turns each cell into a vector.

    Any class with these three members is one; it need not inherit from anything here.
    `sclitmus check` runs the conformance kit on it.
    """

    @property
    def card(self) -> MethodCard:
        """Who the method is."""

    def fit(self, train: Dataset, rng: np.random.Generator) -> Self:
        """Learn from cells without their labels; a frozen model returns itself.

        Raises
        ------
        NotApplicable
            If the method has no answer for such data (one batch, weights missing …).
        """

    def embed(self, cells: Dataset) -> Float32[np.ndarray, "n_cells d"]:
        """Return one row per cell, in the cells' order; finite; no row dropped."""


@runtime_checkable
class Annotator(Protocol):
    """A method that learns labels from labelled cells and names those of others.

    Optional members: ``features(cells)``, float ``(n_cells, d)``, the space in which it measures
    how far a cell is from those it learned from; ``remarks(cells)``, what a reader of its scores
    must know, for example that the best setting lies on the edge of those tried;
    ``markers(cells)``, how much each gene speaks for each class, from labelled cells: ``weights``,
    ``attention`` or ``gradient`` -> float ``(n_classes, n_genes)``.
    """

    @property
    def card(self) -> MethodCard:
        """Who the method is."""

    def fit(self, train: Dataset, rng: np.random.Generator) -> Self:
        """Learn from cells that all have a name in role ``label``.

        The classes are the names of that role, in their order. Where the cells have a role
        ``group`` or ``donor``, settings are chosen across its units.

        Raises
        ------
        NotApplicable
            If the method has no answer for such data (one class …).
        """

    def predict_scores(self, cells: Dataset) -> Float64[np.ndarray, "n_cells n_classes"]:
        """Return logits: the softmax of a row is the probability of each class; finite."""


Method = CellEmbedder | Annotator


@dataclass(frozen=True)
class GeneVectors:
    """A vector per gene.

    Attributes
    ----------
    names
        Name of each gene, unique or not as the model has them.
    kind
        Whether the names are gene symbols or Ensembl ids.
    vectors
        Row i belongs to gene i; a row of NaN where there is none for these cells.
    """

    names: tuple[str, ...]
    kind: Literal["symbol", "ensembl"]
    vectors: Float32[np.ndarray, "n_genes d"]


@runtime_checkable
class GeneEmbedder(Protocol):
    """A method that turns each gene into a vector."""

    @property
    def card(self) -> MethodCard:
        """Who the method is."""

    def fit(self, train: Dataset, rng: np.random.Generator) -> Self:
        """Get ready, without labels; a frozen model loads its weights and returns itself."""

    def gene_vectors(self, cells: Dataset | None = None) -> GeneVectors:
        """Return static vectors, or the mean over these cells of the contextual ones.

        Raises
        ------
        NotApplicable
            If the method has no such vectors.
        """
