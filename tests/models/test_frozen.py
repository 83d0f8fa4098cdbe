"""A published model as a method: its variants, settings, card and control."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from sclitmus import catalog
from sclitmus.api import notices
from sclitmus.core.method import CellEmbedder, GeneEmbedder
from sclitmus.data.simulate import simulate
from sclitmus.errors import MethodError
from sclitmus.models.frozen import FrozenModel

FIXTURES = Path(__file__).parent / "fixtures"


def load(id: str, **settings: object) -> FrozenModel:
    model = catalog.load_method(id, **settings)
    assert isinstance(model, FrozenModel)
    return model


def test_every_model_is_an_embedder_of_cells_and_of_genes_with_a_card() -> None:
    for id in catalog.MODELS:
        model = load(id)
        assert isinstance(model, CellEmbedder)
        assert isinstance(model, GeneEmbedder)
        assert model.card.id == id
        assert model.card.behaviour == "fixed"
        assert model.card.kind == "foundation"


def test_variants_are_named_behind_an_at_sign() -> None:
    official = load("scgpt@official")
    assert (official.behaviour, official.random_init) == ("official", False)
    twin = load("scgpt@official@random_init")
    assert (twin.behaviour, twin.random_init) == ("official", True)
    assert twin.card.id == "scgpt@random_init@official"
    assert twin.card.corpora == ()  # it has seen nothing
    titles = [load(id).card.title for id in ("scgpt", "scgpt@official", "scgpt@random_init")]
    assert len(set(titles)) == 3
    with pytest.raises(MethodError, match=r"variant 'untrained'[\s\S]*@random_init"):
        load("scgpt@untrained")


def test_settings_are_those_of_the_card() -> None:
    model = load("scgpt", config={"max_seq_len": 300})
    assert model.published.config["max_seq_len"] == 300
    assert model.published.config["embsize"] == 512
    assert model.card.fingerprint != load("scgpt").card.fingerprint
    nested = load("state_se_600m", config={"model": {"nlayers": 2}}).published.config["model"]
    assert (nested["nlayers"], nested["nhead"]) == (2, 16)
    with pytest.raises(MethodError, match="setting n_layer"):
        _ = load("scgpt", config={"n_layer": 2}).card
    with pytest.raises(MethodError, match="setting depth"):
        _ = load("state_se_600m", config={"model": {"depth": 2}}).card


def test_other_weights_are_another_method(tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(FIXTURES / "scgpt", tmp_path / name)
    same = [load("scgpt", weights=tmp_path / name).card.fingerprint for name in ("a", "b")]
    assert same[0] == same[1]  # wherever they lie
    args = tmp_path / "b" / "args.json"
    args.write_text(args.read_text().replace("0.2", "0.1"))
    (tmp_path / "b" / "checksums.json").unlink()
    assert load("scgpt", weights=tmp_path / "b").card.fingerprint != same[0]


def test_the_control_is_there_when_the_weights_are(tmp_path: Path) -> None:
    assert load("scgpt", weights=tmp_path).untrained is None
    shutil.copytree(FIXTURES / "scgpt", tmp_path / "scgpt")
    twin = load("scgpt", weights=tmp_path).untrained
    assert twin is not None
    assert twin.card.id == "scgpt@random_init"
    assert twin.untrained is None


def test_non_commercial_weights_are_announced_and_random_ones_are_free() -> None:
    assert "not for commercial use" in notices(load("state_se_600m").card)[0]
    assert notices(load("state_se_600m@random_init").card) == []
    assert notices(load("scgpt").card) == []


def test_a_model_asked_before_it_is_fitted_says_so() -> None:
    with pytest.raises(MethodError, match="before its weights were loaded"):
        load("scgpt").embed(simulate(n_cells=4, n_genes=10))


@pytest.mark.parametrize("id", ["ssl_scg", "scvi_frozen", "cellplm"])
def test_untrained_models_run_on_a_dataset_s_own_genes(id: str) -> None:
    cells = simulate(n_cells=30, n_genes=40)
    z = load(f"{id}@random_init").fit(cells, np.random.default_rng(0)).embed(cells)
    assert z.shape[0] == 30
    assert z.std(axis=0).max() > 0
