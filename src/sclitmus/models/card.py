"""The card of a published model, from `cards/<id>.toml`: who it is, its files, what it was fed."""

import difflib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from sclitmus.errors import MethodError, WeightsError

CARDS = resources.files("sclitmus.models") / "cards"
OWN_CARD = "card.json"  # beside weights that are not the published ones
OWN_FIELDS = {  # what such a card may say otherwise, and of which type
    "title": str,
    "summary": str,
    "doi": str,
    "licence": str,
    "non_commercial": bool,
    "source": str,
    "gene_space": str,
    "organisms": list,
    "parameters": int,
    "corpora": list,
    "corpora_note": str,
    "config": dict,
    "files": list,
}


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


def card_in(folder: Path, card: ModelCard) -> ModelCard:
    """Return the card of the weights in a folder: the published one, or as changed by its own.

    Weights of the same architecture that others trained lie beside a ``card.json`` with the id of
    the model and what is different (`OWN_FIELDS`; of ``config`` some values are enough). What it
    does not say of the corpora is not taken from the published model.

    Raises
    ------
    WeightsError
        If it cannot be read, is of another model, or says what a card does not.
    """
    path = folder / OWN_CARD
    try:
        own: Any = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return card
    except (OSError, ValueError) as error:
        raise _unfit(path, f"cannot be read: {error}", card) from error
    if not isinstance(own, dict) or own.get("id") != card.id:
        named = own.get("id") if isinstance(own, dict) else own
        raise _unfit(path, f"is the card of {named!r}", card)
    own = {name: value for name, value in own.items() if name in OWN_FIELDS}
    wrong = [name for name, value in own.items() if not isinstance(value, OWN_FIELDS[name])]
    files = own.pop("files", [])
    if wrong or not all(isinstance(entry, dict) and "name" in entry for entry in files):
        raise _unfit(path, f"has another kind of {', '.join(wrong) or 'files'}", card)
    sums = {str(entry["name"]): str(entry.get("sha256", "")) for entry in files}
    changes = {"corpora": (), "corpora_note": ""} | own
    for name in ("organisms", "corpora"):
        if name in changes:
            changes[name] = tuple(changes[name])
    changes["config"] = {**card.config, **changes.get("config", {})}
    changes["files"] = tuple(
        WeightFile(file.name, sha256=sums.get(file.name, ""), optional=file.optional)
        for file in card.files
    )
    return replace(card, **changes)


def _unfit(path: Path, why: str, card: ModelCard) -> WeightsError:
    return WeightsError(
        f"{path} {why}",
        f"a JSON table with id {card.id!r} and what of the model's card is different: "
        + ", ".join(OWN_FIELDS),
        "take it from where the weights were trained; without it they are taken for the published",
    )


def model_id(name: str) -> str:
    """Return the id that a person means: ``Geneformer-V2-104M`` is ``geneformer_v2_104m``."""
    return name.strip().lower().replace("-", "_").replace(".", "_").partition("@")[0]


@cache
def model_ids() -> tuple[str, ...]:
    """Return the ids of all models that have a card."""
    pages = (entry.name for entry in CARDS.iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in pages if name.endswith(".toml")))
