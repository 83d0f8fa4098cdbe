"""Foundation models as annotators: arms, what they train and what not, on tiny random networks."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse

from sclitmus import catalog
from sclitmus.core import activity
from sclitmus.core.counts import InMemory
from sclitmus.core.dataset import Categories, Dataset
from sclitmus.core.method import Annotator
from sclitmus.data.simulate import simulate
from sclitmus.errors import MethodError, NotApplicable
from sclitmus.models.arms import change_genes, open_up
from sclitmus.models.fine_tuned import FineTuned
from sclitmus.models.frozen import FrozenModel, method_of
from sclitmus.models.heads import Classifier, Standard, make_head
from sclitmus.models.lessons import class_weights
from sclitmus.models.tokens import on_device

FIXTURES = Path(__file__).parent / "fixtures"
TINY: dict[str, dict[str, Any]] = {
    "scgpt": {"embsize": 16, "nheads": 2, "d_hid": 16, "nlayers": 2},
    "scbert": {"dim": 16, "depth": 2, "heads": 2, "dim_head": 8},
    "geneformer_v1_10m": {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 40,
    },
}
MODELS = tuple(TINY)
SHORT: dict[str, Any] = {"epochs": 4, "least_steps": 24}
QUICK = {"lr": 3e-3, "epochs": 8, "batch_cells": 16, "least_steps": 64}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Threads of a busy machine wait for each other longer than such networks compute."""
    monkeypatch.setenv("SCLITMUS_CACHE", str(tmp_path / "cache"))
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


def load(id: str, **settings: Any) -> FineTuned:
    name, *variants = id.split("@")
    given = {"config": TINY.get(name, {}), **QUICK, **settings}
    method = method_of(name, catalog.MODELS[name], variants, given)
    assert isinstance(method, FineTuned)
    return method


def simulated(**settings: Any) -> Dataset:
    given = {"n_cells": 100, "n_genes": 30, "n_types": 3, "n_batches": 1, "type_strength": 1.5}
    return simulate(**{**given, **settings}, seed=1)


def fitted(id: str, train: Dataset | None = None, seed: int = 0, **settings: Any) -> FineTuned:
    return load(id, **settings).fit(train or simulated(), np.random.default_rng(seed))


def weights(method: FineTuned) -> dict[str, torch.Tensor]:
    assert method.learned is not None
    return dict(method.learned.classifier.state_dict())


def head(method: FineTuned) -> list[torch.Tensor]:
    assert method.learned is not None
    return list(method.learned.classifier.head.parameters())


def remarks(method: FineTuned) -> str:
    return "\n".join(method.remarks(simulated()))


def port_of(model: str) -> Any:
    encoder = load(f"{model}@random_init@full").encoder
    return encoder.fit(simulated(), np.random.default_rng(0)).loaded


def k_cells(k: int, cells: Dataset) -> Dataset:
    codes = cells.role("label").codes
    return cells.take(np.concatenate([np.flatnonzero(codes == c)[:k] for c in range(3)]))


# --- what it learns


@pytest.mark.parametrize("arm", ["head", "last", "full", "full@shuffled"])
@pytest.mark.parametrize("model", MODELS)
def test_every_arm_with_gene_vectors_learns_planted_types(model: str, arm: str) -> None:
    cells = simulated(n_cells=180)
    train, test = cells.take(np.arange(100)), cells.take(np.arange(100, 180))
    # scBERT's mean over all genes tells less, and its gene vectors are not trained.
    settings = {"least_steps": 128} if model == "scbert" else {}
    method = fitted(f"{model}@random_init@{arm}", train, **settings)
    assert isinstance(method, Annotator)
    scores = method.predict_scores(test.without("label"))
    assert scores.dtype == np.float64
    assert scores.shape == (80, 3)
    assert np.isfinite(scores).all()
    named = np.array(train.role("label").names)[scores.argmax(1)]
    truly = np.array(test.role("label").names)[test.role("label").codes]
    assert (named == truly).mean() > 0.6  # chance is 1/3
    assert not method.collapsed
    assert method.features(test).shape == (80, 16)


@pytest.mark.parametrize("model", MODELS)
def test_with_zeroed_vectors_genes_are_alike(model: str) -> None:
    """Counts of another gene are the same cell, unlike with vectors that are kept."""
    cells = simulated(n_cells=40)
    exchanged = replace(cells, store=sparse.csr_matrix(cells.counts[:, ::-1]).sorted_indices())
    differ = {}
    for arm in ("full", "full@zeroed"):
        method = fitted(f"{model}@random_init@{arm}", cells, least_steps=8, epochs=2)
        scores = method.predict_scores(cells)
        differ[arm] = np.abs(method.predict_scores(exchanged) - scores).max() / scores.std()
        rows = np.flatnonzero([bool(n) for n in method.learned.model.loaded.space.names])  # type: ignore[union-attr]
        table = method.learned.model.loaded.gene_embedding()[rows]  # type: ignore[union-attr]
        assert bool((table == 0).all()) == (arm == "full@zeroed")
    if model == "geneformer_v1_10m":  # all genes are alike, so only how many there are is left
        assert differ["full@zeroed"] < 1e-4
    assert differ["full@zeroed"] < 1e-4 < 1e-2 < differ["full"]


def test_scbert_s_own_head_knows_genes_by_their_place() -> None:
    cells = simulated(n_cells=180)
    train, test = cells.take(np.arange(100)), cells.take(np.arange(100, 180))
    method = fitted("scbert@random_init@last@zeroed@flatten", train)
    named = method.predict_scores(test).argmax(1)
    assert (named == test.role("label").codes).mean() > 0.9


# --- what is trained


@pytest.mark.parametrize("model", MODELS)
def test_an_arm_trains_what_it_says(model: str) -> None:
    start = {name: p.clone() for name, p in port_of(model).network.named_parameters()}
    last = {
        "scgpt": "transformer_encoder.layers.1.",
        "scbert": ("performer.net.layers.1.", "norm."),
        "geneformer_v1_10m": "bert.encoder.layer.1.",
    }[model]
    for arm, expected in {
        "head": set(),
        "last": {name for name in start if name.startswith(last)},
        "full": set(start) - {"pos_emb.emb.weight"},  # gene2vec is as published
    }.items():
        port = port_of(model)
        open_up(port, arm)  # type: ignore[arg-type]
        opened = {name for name, p in port.network.named_parameters() if p.requires_grad}
        assert opened == expected
        classifier = Classifier(port, make_head("bert", 16, 0, 3, 0), frozen=arm == "head")
        lookup = port.space.match(simulated().genes).lookup
        tokens = port.tokenise(simulated().counts, lookup, np.random.default_rng(0))
        classifier(on_device(tokens, "cpu")).square().sum().backward()
        grown = {n for n, p in port.network.named_parameters() if p.grad is not None}
        assert grown == expected


@pytest.mark.parametrize("model", MODELS)
def test_shuffling_moves_the_vectors_of_genes_and_no_other(model: str) -> None:
    port = port_of(model)
    before = port.gene_embedding().detach().clone()
    change_genes(port, "shuffled", np.random.default_rng(0))()
    after = port.gene_embedding().detach()
    genes = np.flatnonzero([bool(name) for name in port.space.names])
    others = np.setdiff1d(np.arange(len(before)), genes)
    assert len(others) >= 1
    assert torch.equal(before[others], after[others])
    assert not torch.equal(before[genes], after[genes])
    assert torch.equal(before[genes].sort(0).values, after[genes].sort(0).values)


def test_special_tokens_learn_where_genes_are_zeroed() -> None:
    port = port_of("scgpt")
    start = port.gene_embedding()[port.cls].clone()
    trained = fitted("scgpt@random_init@full@zeroed").learned
    assert trained is not None
    loaded: Any = trained.model.loaded
    assert not torch.equal(loaded.gene_embedding()[loaded.cls], start)


def test_the_head_alone_is_the_same_embedded_once_or_every_time() -> None:
    for model in MODELS:
        settings: dict[str, Any] = {"least_steps": 16, "epochs": 4, "lr": 1e-3}
        slow = fitted(f"{model}@random_init@head", embed_once=False, **settings)
        fast = fitted(f"{model}@random_init@head", **settings)
        for x, y in zip(head(slow), head(fast), strict=True):
            torch.testing.assert_close(x, y, rtol=0, atol=2e-4)
        a, b = (m.predict_scores(simulated()) for m in (slow, fast))
        np.testing.assert_allclose(a, b, atol=5e-3)
        assert slow.card.fingerprint == fast.card.fingerprint


def test_arms_begin_with_the_same_head_and_encoder() -> None:
    arms = ("head", "last", "full", "full@zeroed")
    methods = [fitted(f"scgpt@random_init@{arm}", lr=0.0, epochs=1) for arm in arms]
    for other in methods[1:]:
        assert all(torch.equal(a, b) for a, b in zip(head(methods[0]), head(other), strict=True))
    first = weights(methods[0])
    assert all(torch.equal(x, first[name]) for name, x in weights(methods[2]).items())
    again = weights(fitted("scgpt@random_init@head", lr=0.0, epochs=1, seed=1))
    differ = [name for name, x in again.items() if not torch.equal(x, first[name])]
    assert "network.encoder.embedding.weight" in differ  # random weights are of the seed too
    assert "head.7.weight" in differ


def test_published_weights_are_trained_in_memory_only(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "scgpt", tmp_path / "scgpt")
    files = {path.name: path.read_bytes() for path in (tmp_path / "scgpt").iterdir()}
    names = [name for name in json.loads(files["vocab.json"]) if not name.startswith("<")]
    cells = simulated(n_genes=len(names[:30]))
    cells = replace(cells, genes=replace(cells.genes, symbol=tuple(names[:30])))
    method = fitted("scgpt@full", cells, config={}, weights=tmp_path / "scgpt")
    frozen = FrozenModel("scgpt", catalog.MODELS["scgpt"], tmp_path / "scgpt")
    port: Any = frozen.fit(cells, np.random.default_rng(0)).loaded
    trained: Any = method.learned.model.loaded  # type: ignore[union-attr]
    assert not torch.equal(port.gene_embedding(), trained.gene_embedding())
    assert method.card.kind == "foundation"
    for name, data in files.items():
        assert (tmp_path / "scgpt" / name).read_bytes() == data


# --- few cells, classes, weights


def test_one_cell_per_class_is_enough_and_one_class_is_not() -> None:
    cells = k_cells(1, simulated())
    method = fitted("scgpt@random_init@last", cells)
    assert method.predict_scores(cells).argmax(1).tolist() == [0, 1, 2]
    assert "trained on 3 cells; no cells held out (the rarest type has 1" in remarks(method)
    assert "8 of at most 8 epochs; the weights are of the last, 8" in remarks(method)
    assert "each epoch passes over them 8 times" in remarks(method)
    with pytest.raises(NotApplicable, match="all cells are 'type 0'"):
        fitted("scgpt@random_init@last", cells.take(np.array([0])))


def test_class_weights_are_inverse_to_the_number_of_cells() -> None:
    codes = np.array([0] * 6 + [1] * 3 + [2])
    assert class_weights(codes, 3, True) == pytest.approx([10 / 18, 10 / 9, 10 / 3])
    assert class_weights(codes, 3, False).tolist() == [1, 1, 1]
    cells = simulated(type_strength=0.3)
    codes = cells.role("label").codes
    uneven = cells.take(np.sort(np.concatenate([np.flatnonzero(codes == 0), np.arange(20)])))
    share = []
    for weighted in (False, True):
        method = fitted("scgpt@random_init@head", uneven, weighted=weighted)
        p = np.exp(method.predict_scores(cells))
        share.append((p[:, 0] / p.sum(1)).mean())
    assert share[1] < share[0] - 0.1  # the frequent class is expected less


def test_collapse_is_named() -> None:
    cells = simulated(type_strength=0.0)
    named = np.array(["B cell"] * 90 + ["T cell"] * 10)
    cells = replace(cells, roles={"label": Categories.of(named)})
    method = fitted("scgpt@random_init@last", cells, epochs=2, least_steps=2)
    assert method.collapsed
    assert "collapsed: predicts only 'B cell'" in remarks(method)


def test_divergence_is_an_error_that_names_epoch_and_rate() -> None:
    with pytest.raises(MethodError, match=r"diverged at epoch \d+: .*loss is nan.*rate 1e\+30"):
        fitted("scgpt@random_init@full", lr=1e30)


# --- what does not matter


def test_a_prediction_does_not_depend_on_its_neighbours() -> None:
    for model in MODELS:
        method = fitted(f"{model}@random_init@full", least_steps=8, epochs=1)
        cells = simulated()
        scores = method.predict_scores(cells)
        some = np.array([40, 3, 77])
        alone = np.concatenate([method.predict_scores(cells.take(some[i : i + 1])) for i in (0, 1)])
        np.testing.assert_allclose(method.predict_scores(cells.take(some)), scores[some], atol=1e-4)
        np.testing.assert_allclose(alone, scores[some[:2]], atol=1e-4)


def test_passes_change_memory_and_not_the_result() -> None:
    at_once = fitted("geneformer_v1_10m@random_init@full", epochs=2, least_steps=8)
    in_parts = fitted(
        "geneformer_v1_10m@random_init@full", epochs=2, least_steps=8, batch_tokens=60
    )
    np.testing.assert_allclose(
        at_once.predict_scores(simulated()), in_parts.predict_scores(simulated()), atol=1e-3
    )
    assert at_once.card.fingerprint == in_parts.card.fingerprint


@dataclass(frozen=True, eq=False)
class Watched(InMemory):
    """Counts that refuse to be read whole."""

    def take(self, rows: np.ndarray) -> "Watched":
        return Watched(self.matrix[rows])

    def load(self) -> sparse.csr_matrix:
        assert self.shape[0] <= 256
        return self.matrix


@pytest.mark.parametrize("arm", ["head", "last"])
def test_counts_are_never_in_memory_whole(arm: str) -> None:
    cells = simulated(n_cells=300)
    watched = replace(cells, store=Watched(cells.counts))
    method = fitted(f"scgpt@random_init@{arm}", watched, epochs=1, least_steps=1)
    assert method.predict_scores(watched).shape == (300, 3)


def test_mixed_precision_learns_too() -> None:
    method = fitted("scgpt@random_init@full", precision="bf16-mixed")
    assert {x.dtype for x in weights(method).values()} == {torch.float32}
    scores = method.predict_scores(simulated())
    assert (scores.argmax(1) == simulated().role("label").codes).mean() > 0.9
    as_trained = replace(method, precision="32-true").predict_scores(simulated())
    assert 0 < np.abs(scores - as_trained).max() < 0.5  # it predicts in the same precision


# --- interrupted


def test_killed_and_resumed_training_gives_the_same_bits() -> None:
    quiet = fitted("scgpt@random_init@full", seed=5, **SHORT)
    n_steps = 4 * 6  # epochs, steps of 16 of 90 cells
    step = int(np.random.default_rng(1).integers(7, n_steps))
    script = [sys.executable, str(Path(__file__).with_name("killed_training.py")), str(step)]
    process = subprocess.run(script, check=False, capture_output=True, text=True)
    assert process.returncode == -signal.SIGKILL, process.stderr
    heard: list[tuple[str, int, int]] = []
    with activity.heard_by(lambda *word: heard.append(word)):
        resumed = fitted("scgpt@random_init@full", seed=5, **SHORT)
    first = next(done for what, done, _ in heard if what == "training")
    assert first == (step - 1) // 6 * 6 + 1 > 1
    assert heard[-1] == ("training", n_steps, n_steps)
    assert all(torch.equal(x, weights(quiet)[name]) for name, x in weights(resumed).items())


# --- names, cards, refusals


def test_names_of_the_catalogue() -> None:
    method = load("scgpt@random_init@zeroed@last", config={})
    assert (method.train, method.genes, method.model.random_init) == ("last", "zeroed", True)
    assert method.card.id == "scgpt@random_init@last@zeroed"
    assert method.card.kind == "control"
    assert method.card.twin == ""
    assert load("scgpt@zeroed@last", config={}).card.twin == method.card.id
    assert method.card.part == "contender"
    assert not method.card.deterministic
    assert load("scbert@full@flatten", config={}).card.id == "scbert@full@flatten"
    ids = (
        "scgpt@full",
        "scgpt@last",
        "scgpt@head",
        "scgpt@head@shuffled",
        "scgpt@random_init@head",
    )
    assert len({load(id, config={}).card.title for id in ids}) == len(ids)
    assert isinstance(method_of("scgpt", catalog.MODELS["scgpt"], ["official"], {}), FrozenModel)


@pytest.mark.parametrize(
    ("id", "said"),
    [
        ("scgpt@zeroed", r"does not say what is trained[\s\S]*scgpt@full@zeroed"),
        ("scgpt@full@last", r"asks for full and for last"),
        ("scgpt@full@zeroed@shuffled", r"asks for zeroed and for shuffled"),
        ("scgpt@full@untrained", r"variant 'untrained'[\s\S]*@full"),
        ("scgpt@official@full", r"one of ScGPT, Geneformer, ScBERT, as `fixed`"),
        ("scgpt@full@flatten", r"head flatten[\s\S]*scBERT"),
        ("uce_4l@full", r"uce_4l was to be trained further"),
    ],
)
def test_names_that_make_no_sense(id: str, said: str) -> None:
    with pytest.raises(MethodError, match=said):
        load(id, config={})


def test_the_card_has_every_setting_that_changes_the_result() -> None:
    method = load("scbert@last")
    different: dict[str, Any] = {
        "train": "full",
        "genes": "zeroed",
        "head": "flatten",
        "epochs": 3,
        "lr": 0.1,
        "batch_cells": 7,
        "clip": 2.0,
        "patience": 1,
        "accumulate": 2,
        "weighted": True,
        "validation": 0.2,
        "least_steps": 9,
        "precision": "bf16-mixed",
    }
    ways = [method, *(replace(method, **{name: x}) for name, x in different.items())]
    assert len({way.card.fingerprint for way in ways}) == len(ways)
    same: dict[str, Any] = {"device": "cpu", "batch_tokens": 5, "embed_once": False}
    assert replace(method, **same).card.fingerprint == method.card.fingerprint


def test_recipes_are_those_of_the_papers() -> None:
    def plan(id: str) -> dict[str, Any]:
        return dict(
            method_of(id.split("@")[0], catalog.MODELS[id.split("@")[0]], ["full"], {}).card.params
        )

    scgpt, geneformer, scbert = (plan(id) for id in ("scgpt", "geneformer_v2_104m", "scbert"))
    told = ("optimiser", "lr", "batch_cells", "epochs", "weight_decay")
    assert [scgpt[name] for name in told] == ["adam", 1e-4, 32, 20, 0.0]
    assert [geneformer[name] for name in told] == ["adamw", 5e-5, 12, 10, 0.001]
    assert [scbert[name] for name in told] == ["adam", 1e-4, 32, 10, 0.0]
    assert geneformer["config.emb_layer"] == "0"  # the last layer, as a classifier has it
    assert load("geneformer_v2_104m@full", config={"emb_layer": -1}).encoder.config == {
        "emb_layer": -1
    }


def test_heads_read_standardised_vectors_but_no_rounding() -> None:
    x = torch.from_numpy(np.random.default_rng(0).normal(5.0, [1.0, 0.3, 1e-3], (500, 3))).float()
    standard = Standard(3)
    standard.set_by(x)
    assert standard(x).mean(0).abs().max() < 1e-3
    assert standard(x).std(0)[:2] == pytest.approx([1, 1], abs=2e-3)
    assert standard(x).std(0)[2] < 0.05  # as small as it was beside the others
    standard.set_by(5 + 1e-7 * x)  # the same vector but for rounding
    assert standard(5 + 1e-7 * x).abs().max() < 1e-3
    standard.set_by(torch.zeros(4, 3))
    assert standard(torch.zeros(4, 3)).tolist() == [[0.0] * 3] * 4


def test_scbert_s_head_has_the_published_size() -> None:
    with torch.device("meta"):
        made = make_head("flatten", 200, 16_907, 11, 0)
    assert sum(p.numel() for p in made.parameters()) == 8_724_180
    assert made(torch.empty(2, 16_907, 200, device="meta")).shape == (2, 11)


def test_its_control_is_the_same_arm_from_random_weights(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "scgpt", tmp_path / "scgpt")
    twin = load("scgpt@last@zeroed", weights=tmp_path / "scgpt").untrained
    assert twin is not None
    assert twin.card.id == "scgpt@random_init@last@zeroed"
    assert twin.untrained is None
    assert "weights" in load("scgpt@last", weights=tmp_path / "none").unavailable
    assert twin.unavailable == ""


def test_asked_before_it_is_trained_it_says_so() -> None:
    with pytest.raises(MethodError, match="asked before it was trained"):
        load("scgpt@head").predict_scores(simulated())
    with pytest.raises(MethodError, match="precision 'float32'"):
        fitted("scgpt@random_init@head", precision="float32")
