"""Every model in the catalogue has a card, and every card says what it must."""

import re
import tomllib
from collections import Counter
from dataclasses import fields
from pathlib import PurePosixPath

import pytest

from sclitmus.catalog import MODELS
from sclitmus.errors import MethodError
from sclitmus.models.card import CARDS, ModelCard, WeightFile, model_card, model_id, model_ids
from sclitmus.models.hosts import split_member

# Of each kind of address, after its first colon.
ADDRESSES = {
    "https": r"//[-\w.]+/\S+",
    "hf": r"[-\w.]+/[-\w.]+/[^\n@]+(@[-\w.]+)?",
    "figshare": r"(\d+/)?\d+",
    "gdrive": r"[-\w]{20,}",
    "gdrive-folder": r"[-\w]{20,}/\S+",
}
TEXTS = ("id", "title", "summary", "doi", "licence", "source", "gene_space", "corpora_note")


def test_every_model_has_a_card_and_every_card_a_model() -> None:
    assert sorted(model_ids()) == sorted(MODELS)


@pytest.mark.parametrize("id", model_ids())
def test_a_card_says_what_it_must(id: str) -> None:
    card = model_card(id)
    assert card.id == id
    for name in TEXTS:
        assert isinstance(getattr(card, name), str), name
    for name in ("title", "summary", "licence", "gene_space"):
        assert getattr(card, name).strip(), f"{name} is empty"
    assert card.source.startswith("https://")
    assert card.doi == "" or re.fullmatch(r"10\.\d{4,}/\S+", card.doi)
    assert isinstance(card.non_commercial, bool)
    assert isinstance(card.parameters, int)
    assert card.parameters >= 0
    assert card.organisms or not card.parameters  # an architecture that anyone trains has none
    assert all(isinstance(name, str) and name.strip() for name in card.organisms + card.corpora)
    assert [name for name, n in Counter(card.corpora).items() if n > 1] == []
    assert card.corpora or card.corpora_note, "nothing is said of what it was pretrained on"


@pytest.mark.parametrize("id", model_ids())
def test_a_licence_against_commercial_use_is_marked_so(id: str) -> None:
    card = model_card(id)
    if re.search(r"non-?commercial|\bNC\b|-NC-|GenBio", card.licence, re.IGNORECASE):
        assert card.non_commercial
    if card.licence in ("MIT", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause"):
        assert not card.non_commercial


@pytest.mark.parametrize("id", model_ids())
def test_the_files_of_a_card(id: str) -> None:
    files = model_card(id).files
    names = [file.name for file in files]
    assert len(set(names)) == len(names)
    for file in files:
        path = PurePosixPath(file.name)
        assert path.parts, "no name"
        assert not path.is_absolute()
        assert ".." not in path.parts
        assert file.url or file.how, f"{file.name}: neither a link nor how to get it"
        assert file.sha256 == "" or re.fullmatch("[0-9a-f]{64}", file.sha256)
        # A rounded size would refuse the true file.
        assert file.size == 0 or (file.size > 0 and file.size % 1000), f"{file.size} is rounded"
        if file.url:
            address, member = split_member(file.url)
            kind, _, rest = address.partition(":")
            assert kind in ADDRESSES, file.url
            assert re.fullmatch(ADDRESSES[kind], rest), file.url
            assert "!" not in member
            assert "#" not in address, f"{file.url}: a file in an archive is written ARCHIVE!path"
            assert not member.startswith(("/", "."))


@pytest.mark.parametrize("id", model_ids())
def test_a_card_has_no_other_fields(id: str) -> None:
    page = tomllib.loads((CARDS / f"{id}.toml").read_text(encoding="utf-8"))
    assert page.keys() <= {field.name for field in fields(ModelCard)}
    for file in page.get("files", ()):
        assert file.keys() <= {field.name for field in fields(WeightFile)}


@pytest.mark.parametrize("name", ["", "../weights", "scgpt.toml", "SCGPT", "geneformer"])
def test_an_unknown_model_is_named_with_those_there_are(name: str) -> None:
    with pytest.raises(MethodError) as unknown:
        model_card(name)
    assert repr(name) in str(unknown.value)
    assert "scgpt" in unknown.value.needed


@pytest.mark.parametrize(
    ("name", "id"),
    [
        ("geneformer-v2-104m", "geneformer_v2_104m"),
        (" Geneformer_V2_104M ", "geneformer_v2_104m"),
        ("uce-4l@random_init", "uce_4l"),
        ("AIDO.Cell-3M", "aido_cell_3m"),
    ],
)
def test_names_as_people_write_them(name: str, id: str) -> None:
    assert model_id(name) == id
