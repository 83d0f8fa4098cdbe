"""A foundation model as a method: its published weights, run frozen; or its untrained twin."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from jaxtyping import Float32

from sclitmus.core.dataset import Dataset, Genes
from sclitmus.core.method import GeneVectors, MethodCard
from sclitmus.errors import MethodError, NotApplicable
from sclitmus.models.card import ModelCard, card_in, model_card
from sclitmus.models.gene_space import MIN_MATCHED, Matched
from sclitmus.models.port import Behaviour, Port
from sclitmus.models.weights import Weights, model_folder

if TYPE_CHECKING:
    from sclitmus.models.fine_tuned import FineTuned

VARIANTS = ("official", "fixed", "random_init")
TUNED = {  # of a model that is trained further: settings of `FineTuned`
    "train": ("head", "last", "full"),
    "genes": ("zeroed", "shuffled"),
    "head": ("flatten",),
}


@dataclass(frozen=True, eq=False)
class FrozenModel:
    """A published model that is not trained any further.

    Parameters
    ----------
    id
        Of the model's card.
    port
        "module:Class" of its file.
    weights
        Folder of its published files; by default the one `sclitmus fetch` fills.
    behaviour
        ``"official"``: as the published code does it, faults included. ``"fixed"``: an embedding
        depends on the cell alone. docs/models says what that changes for each model.
    random_init
        The same network with random weights: what the architecture gives without pretraining.
    init_seed
        Of the random weights.
    device
        ``"auto"`` takes a GPU where there is one. Not part of the cache key.
    precision
        ``"float32"``, ``"bfloat16"`` or ``"float16"``; ``"auto"`` is bfloat16 on a GPU and float32
        elsewhere.
    batch_tokens
        Tokens per pass through the network; found by itself if None. Not part of the cache key.
    min_matched
        Smallest share of the genes that the model must know.
    config
        What differs from the card's: how a cell is read or embedded; sizes with `random_init`.
    """

    id: str
    port: str
    weights: str | Path | None = None
    behaviour: Behaviour = "fixed"
    random_init: bool = False
    init_seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    batch_tokens: int | None = None
    min_matched: float = MIN_MATCHED
    config: Mapping[str, Any] = field(default_factory=dict)
    loaded: Port | None = field(default=None, kw_only=True, repr=False)  # set by fit
    drawn: np.random.Generator | None = field(default=None, kw_only=True, repr=False)  # by fit

    @property
    def published(self) -> ModelCard:
        """The card of the published model, or that of the weights, with this one's settings.

        Raises
        ------
        MethodError
            If it does not have one of the settings.
        """
        card = card_in(model_folder(self.id, self.weights), model_card(self.id))
        return replace(card, config=_changed(card.config, self.config, self.id))

    @property
    def files(self) -> Weights:
        """Where its files are expected."""
        return Weights(self.published, model_folder(self.id, self.weights))

    @property
    def unavailable(self) -> str:
        """Why it cannot run whatever the cells, or nothing: the weights are missing."""
        if self.random_init:
            return ""
        try:
            self.files.require()
        except NotApplicable as absence:
            return absence.reason
        return ""

    @property
    def untrained(self) -> "FrozenModel | None":
        """Its own control: the same network with random weights; None where there is nothing to
        control, because the weights are not there or these are random already."""
        if self.random_init or self.files.missing():
            return None
        return replace(self, random_init=True)

    @property
    def arms(self) -> "tuple[FineTuned, ...]":
        """All ways to train it on labels, with its weights and without; none if it cannot be."""
        from sclitmus.models.fine_tuned import FineTuned
        from sclitmus.models.recipes import RECIPES

        if self.port not in RECIPES or self.behaviour != "fixed" or self.unavailable:
            return ()
        untrained = self.untrained
        starts = (self,) if untrained is None else (self, untrained)
        return tuple(
            FineTuned(start, train, genes)
            for start in starts
            for train in ("head", "last", "full")
            for genes in ("kept", "zeroed", "shuffled")
        )

    @property
    def card(self) -> MethodCard:
        model = self.published
        variant = "@random_init" if self.random_init else ""
        variant += "@official" if self.behaviour == "official" else ""
        params: dict[str, str | int | float | bool | None] = {
            "precision": self.precision,
            "min_matched": self.min_matched,
        }
        if self.random_init:
            params["init_seed"] = self.init_seed
        params |= {f"config.{name}": str(value) for name, value in self.config.items()}
        params["weights"] = self._weights_mark()
        title = f"{model.title}, random weights" if self.random_init else model.title
        title += ", as published" if self.behaviour == "official" else ""
        return MethodCard(
            id=f"{self.id}{variant}",
            kind="control" if self.random_init else "foundation",
            part="contender",
            title=title,
            summary=model.summary,
            deterministic=self.behaviour == "fixed",
            behaviour=self.behaviour,
            params=params,
            doi=model.doi,
            licence=model.licence,
            non_commercial=model.non_commercial and not self.random_init,
            gene_space=model.gene_space,
            corpora=() if self.random_init else model.corpora,
            twin="" if self.random_init else f"{self.id}@random_init{variant}",
        )

    def _weights_mark(self) -> str:
        """Checksums of the files that are at hand, so that other weights are another method."""
        files = self.files
        marks = [
            f"{file.name}:{files.sha256(file.name)[:12]}"
            for file in self.published.files
            if (files.folder / file.name).is_file()
        ]
        return " ".join(marks) or "missing"

    def fit(self, train: Dataset, rng: np.random.Generator) -> Self:
        """Load the weights; nothing is learned from the cells.

        Raises
        ------
        NotApplicable
            If the weights are not there, or the model knows too few of the genes.
        WeightsError
            If a file is not what it should be.
        """
        port = self.loaded if self.loaded is not None else self._load(train.genes)
        fitted = replace(self, loaded=port, drawn=rng)
        fitted.match(train.genes)
        return fitted

    def _load(self, genes: Genes) -> Port:
        files = self.files
        if not self.random_init:
            files.require()  # before the model's code is imported
        module, _, name = self.port.partition(":")
        make: type[Port] = getattr(import_module(module), name)
        if not self.random_init:
            return make.load(files, self.behaviour)
        at_hand = files if not files.missing() else None
        config = self.published.config
        return make.build(config, genes, at_hand, self.behaviour, self.init_seed)

    def match(self, genes: Genes) -> Matched:
        """Look up the genes of a dataset, or refuse when too few are known.

        Raises
        ------
        NotApplicable
            If fewer than `min_matched` of those that could match do.
        """
        port = self._port()
        matched = port.space.match(genes)
        kind = "symbols" if port.space.kind == "symbol" else "Ensembl ids"
        matched.require(self.min_matched, self.published.title, kind)
        return matched

    def embed(self, cells: Dataset) -> Float32[np.ndarray, "n_cells d"]:
        """Pass every cell through the network."""
        from sclitmus.models.inference import BLOCK_CELLS, embed_cells
        from sclitmus.models.unfinished import Unfinished, stream_state

        port, compute = self._port(), self._compute()
        unfinished = None
        if cells.n_cells > BLOCK_CELLS:  # less is not worth keeping
            stream = "" if self.card.deterministic else str(stream_state(compute.rng))
            unfinished = Unfinished(
                cells.content_hash, self.card.fingerprint, stream, str(BLOCK_CELLS)
            )
        return embed_cells(port, cells, self.match(cells.genes), compute, unfinished)

    def remarks(self, cells: Dataset) -> tuple[str, ...]:
        """Say what a reader of the result must know: how many of the genes the model knows."""
        return (str(self.match(cells.genes)),)

    def gene_vectors(self, cells: Dataset | None = None) -> GeneVectors:
        """Return a vector per gene: static, or the mean over these cells of its contextual ones.

        Raises
        ------
        NotApplicable
            If the model has no such vectors.
        """
        from sclitmus.models.inference import average_gene_states

        port = self._port()
        if cells is None:
            names, vectors = port.space.names, port.gene_table()
        else:
            names = port.space.names
            vectors = average_gene_states(port, cells, self.match(cells.genes), self._compute())
        named = np.flatnonzero([bool(name) for name in names])
        return GeneVectors(tuple(names[row] for row in named), port.space.kind, vectors[named])

    def _port(self) -> Port:
        if self.loaded is None:
            raise MethodError(
                f"{self.card.id} was asked to embed before its weights were loaded",
                "a fitted method",
                "embed with what fit returns: method.fit(train, rng).embed(cells)",
            )
        return self.loaded

    def _compute(self) -> Any:
        from sclitmus.models.inference import Compute

        return Compute(self.device, self.precision, self.batch_tokens, self.drawn)


def _changed(config: Mapping[str, Any], changes: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Return a configuration with some of its values changed, in its tables too."""
    unknown = [name for name in changes if name not in config]
    if unknown:
        raise MethodError(
            f"{model} was given the setting {', '.join(unknown)}",
            f"one of: {', '.join(config)}",
            "see docs/models for what each does",
        )
    return {
        name: _changed(value, changes[name], model)
        if isinstance(value, Mapping) and name in changes
        else changes.get(name, value)
        for name, value in config.items()
    }


def variant(settings: dict[str, Any], names: Iterable[str], id: str) -> dict[str, Any]:
    """Turn the parts of a name behind @ into settings: ``scgpt@random_init@official``.

    Raises
    ------
    MethodError
        If there is no such variant.
    """
    for name in names:
        if name not in VARIANTS:
            raise MethodError(
                f"{id!r} asks for the variant {name!r}",
                f"one of: {', '.join(f'@{known}' for known in VARIANTS)}; fine-tuned: "
                f"{', '.join(f'@{part}' for parts in TUNED.values() for part in parts)}",
                f"for example {id.partition('@')[0]}@random_init",
            )
        if name == "random_init":
            settings = settings | {"random_init": True}
        else:
            settings = settings | {"behaviour": name}
    return settings


def method_of(
    name: str, target: str, variants: Iterable[str], params: Mapping[str, Any]
) -> "FrozenModel | FineTuned":
    """Make the method that a name of the catalogue means: ``scgpt@random_init@last@zeroed``.

    Parameters
    ----------
    name, target
        Id of a model's card, and "module:Class" of its port.
    variants
        What stands behind the @ signs.
    params
        Settings of `FrozenModel`, and of `FineTuned` where an arm is among the variants.

    Raises
    ------
    MethodError
        If there is no such variant, or some do not go together.
    TypeError
        If there is no such setting.
    """
    from sclitmus.models.fine_tuned import FineTuned

    variants = tuple(variants)
    id = "@".join([name, *variants])
    kinds = {part: kind for kind, parts in TUNED.items() for part in parts}
    tuned = [part for part in variants if part in kinds]
    frozen = variant({}, (part for part in variants if part not in kinds), id)
    if not tuned:
        return FrozenModel(name, target, **(dict(params) | frozen))
    arm: dict[str, Any] = {}
    for part in tuned:
        kind = kinds[part]
        if kind in arm:
            raise MethodError(
                f"{id!r} asks for {arm[kind]} and for {part}",
                "one of: " + ", ".join(f"@{known}" for known in TUNED[kind]),
                "leave one of them out",
            )
        arm[kind] = part
    if "train" not in arm:
        raise MethodError(
            f"{id!r} does not say what is trained",
            "one of: " + ", ".join(f"@{known}" for known in TUNED["train"]),
            f"for example {name}@full@{'@'.join(tuned)}",
        )
    own = {f.name for f in fields(FineTuned)} - {"model"}
    model = FrozenModel(
        name, target, **({n: x for n, x in params.items() if n not in own} | frozen)
    )
    method = FineTuned(model, **({n: x for n, x in params.items() if n in own} | arm))
    _ = method.recipe  # refuse now what cannot be trained
    return method
