"""The card of a published model, from `cards/<id>.toml`: who it is, its files, what it was fed."""

import difflib
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
        ``https://…``, ``hf:OWNER/REPO/PATH@REVISION``, ``figshare:FILE_ID``,
        ``figshare:ARTICLE_ID/FILE_ID``, ``gdrive:FILE_ID``, ``gdrive-folder:FOLDER_ID/NAME``;
        for a file in a tar or zip archive, any of these and ``!path/in/archive``. Empty where the
        authors hand it out in person, then `how` says how.
    size
        In bytes, to the byte, where it is published; 0 if it is not. Of the file itself, not of
        the archive it may lie in; so too the checksum.
    sha256
        Where it is published; else it is recorded at first use.
    how
        What to do where there is no direct link.
    optional
        Whether the model runs without it.
    instead
        Name of another file that serves as well: the same weights in another format.
    """

    name: str
    url: str = ""
    size: int = 0
    sha256: str = ""
    how: str = ""
    optional: bool = False
    instead: str = ""


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
    if id not in model_ids():
        close = difflib.get_close_matches(id, model_ids(), n=1)
        raise MethodError(
            f"there is no foundation model called {id!r}",
            f"one of: {', '.join(model_ids())}",
            f"did you mean {close[0]}?" if close else "see docs/models for what each is",
        )
    page = CARDS / f"{id}.toml"
    fields = tomllib.loads(page.read_text(encoding="utf-8"))
    return ModelCard(
        **(
            fields
            | {name: tuple(fields[name]) for name in ("organisms", "corpora")}
            | {"files": tuple(WeightFile(**entry) for entry in fields.get("files", ()))}
        )
    )


def model_id(name: str) -> str:
    """Return the id that a person means: ``Geneformer-V2-104M`` is ``geneformer_v2_104m``."""
    return name.strip().lower().replace("-", "_").replace(".", "_").partition("@")[0]


@cache
def model_ids() -> tuple[str, ...]:
    """Return the ids of all models that have a card."""
    pages = (entry.name for entry in CARDS.iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in pages if name.endswith(".toml")))
