"""The card of a published model, from `cards/<id>.toml`: who it is, its files, what it was fed."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from sclitmus.errors import MethodError

CARDS = resources.files("sclitmus.models") / "cards"


@dataclass(frozen=True)
class WeightFile:
    """A published file.

    Attributes
    ----------
    name
        Its path in the model's folder, as the port asks for it.
    url
        ``https://…``, ``hf:OWNER/REPO/PATH@REVISION``, ``figshare:FILE_ID``, ``gdrive:FILE_ID``;
        empty where the authors hand it out in person, then `how` says how.
    size
        In bytes, where it is published; 0 if it is not.
    sha256
        Where it is published; else it is recorded at first use.
    how
        What to do where there is no direct link.
    optional
        Whether the model runs without it.
    """

    name: str
    url: str = ""
    size: int = 0
    sha256: str = ""
    how: str = ""
    optional: bool = False


@dataclass(frozen=True)
class ModelCard:
    """A published model.

    Attributes
    ----------
    id, title, summary, doi
        Names; one sentence on what it is; the paper.
    licence, non_commercial
        Of the weights, as the authors state it; shown before they are fetched or run.
    source
        Page of the official repository or of the weights.
    gene_space, organisms
        In words: which genes it knows, by which kind of name; which species.
    parameters
        Published number of parameters; 0 if none is.
    corpora
        Public ids of the data it was pretrained on, as far as the authors name them.
    corpora_note
        What is known of the pretraining data beyond ids.
    config
        Published configuration, for `@random_init` and to check the number of parameters.
    files
        What must lie in its folder.
    """

    id: str
    title: str
    summary: str
    doi: str
    licence: str
    non_commercial: bool
    source: str
    gene_space: str
    organisms: tuple[str, ...]
    parameters: int
    corpora: tuple[str, ...]
    corpora_note: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[WeightFile, ...] = ()


@cache
def model_card(id: str) -> ModelCard:
    """Read the card of a model.

    Raises
    ------
    MethodError
        If there is none of that name.
    """
    page = CARDS / f"{id}.toml"
    if not page.is_file():
        raise MethodError(
            f"there is no foundation model called {id!r}",
            f"one of: {', '.join(model_ids())}",
            "see docs/models for what each is",
        )
    fields = tomllib.loads(page.read_text(encoding="utf-8"))
    return ModelCard(
        **(
            fields
            | {name: tuple(fields[name]) for name in ("organisms", "corpora")}
            | {"files": tuple(WeightFile(**entry) for entry in fields.get("files", ()))}
        )
    )


@cache
def model_ids() -> tuple[str, ...]:
    """Return the ids of all models that have a card."""
    pages = (entry.name for entry in CARDS.iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in pages if name.endswith(".toml")))
