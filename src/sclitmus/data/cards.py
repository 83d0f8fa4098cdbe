"""Cards of the datasets that come along, one TOML file each in cards/."""

import tomllib
from importlib import resources

from sclitmus.core.dataset import DatasetCard


def card(id: str) -> DatasetCard:
    """Return the card of a bundled dataset."""
    text = resources.files("sclitmus.data").joinpath("cards", f"{id}.toml").read_text("utf-8")
    fields = tomllib.loads(text)
    return DatasetCard(**(fields | {"corpora": tuple(fields.get("corpora", ()))}))
