from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toy import Toy, ToyTask, toy_dataset, toy_study

from sclitmus.core.dataset import Categories, Dataset
from sclitmus.core.method import MethodCard
from sclitmus.execution.identity import Fingerprint, code_of, embedding_key, seen_by
from sclitmus.execution.plan import plan
from sclitmus.execution.store import Store


def statuses(study: object, store: Store | None = None) -> list[tuple[str, str, int, str, str]]:
    trials = plan(study, store).trials  # type: ignore[arg-type]
    return [(t.dataset, t.method, t.seed, t.stage, t.status) for t in trials]


def test_deterministic_methods_run_once_others_per_seed() -> None:
    study = toy_study(Toy(id="a"), Toy(id="b", deterministic=False), seeds=(5, 7))
    assert statuses(study) == [
        ("toy", "a", 5, "embed", "run"),
        ("toy", "a", 5, "score", "run"),
        ("toy", "b", 5, "embed", "run"),
        ("toy", "b", 5, "score", "run"),
        ("toy", "b", 7, "embed", "run"),
        ("toy", "b", 7, "score", "run"),
    ]


def test_what_is_not_applicable_says_why() -> None:
    tasks = (ToyTask(), ToyTask(id="batches", needs=("batch",)))
    data = (toy_dataset("full"), toy_dataset("plain", batch=False), toy_dataset("two", n_cells=2))
    study = toy_study(Toy(id="a"), Toy(id="b", needs=("batch",)), tasks=tasks, datasets=data)
    reasons = {
        (t.dataset, t.method, t.task): t.reason
        for t in plan(study).trials
        if t.status == "not_applicable" and t.stage == "score"
    }
    no_batch = "the dataset has no batch column; give one with --batch COLUMN"
    needs = "b needs a batch column, which the data lack"
    assert reasons == {
        ("plain", "a", "batches"): no_batch,
        ("plain", "b", "means"): needs,
        ("plain", "b", "batches"): no_batch,
        **{("two", m, t): "too few cells to halve" for m in "ab" for t in ("means", "batches")},
    }
    embeds = {(t.dataset, t.method): t.status for t in plan(study).trials if t.stage == "embed"}
    assert embeds["two", "a"] == "not_applicable"  # no task asks for it
    assert embeds["plain", "a"] == "run"


def test_maps_are_planned_for_the_first_seed_of_what_runs() -> None:
    study = toy_study(Toy(id="b", deterministic=False), seeds=(5, 7), projections=True)
    assert [(s, stage) for _, _, s, stage, _ in statuses(study)] == [
        (5, "embed"),
        (5, "score"),
        (5, "project"),
        (7, "embed"),
        (7, "score"),
    ]


def test_planning_changes_nothing(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    made = plan(toy_study(Toy()), store)
    assert sorted(tmp_path.rglob("*")) == before
    assert made.count("run") == 2
    assert made.est_seconds(1) >= made.est_seconds(2) > 0
    assert made.est_mb(2) > 0
    assert [row["stage"] for row in made.rows()] == ["embed", "score means"]


def key(card: MethodCard, dataset: Dataset, seed: int = 0, code: str = "") -> str:
    return embedding_key(card, code, Fingerprint(dataset), seed)


def test_a_key_depends_on_what_the_method_sees_and_on_nothing_else() -> None:
    data, blind, control = toy_dataset(), Toy().card, Toy(sees_labels=True).card
    relabelled = replace(
        data, roles=dict(data.roles) | {"label": Categories.of(["x"] * data.n_cells)}
    )
    rebatched = replace(
        data, roles=dict(data.roles) | {"batch": Categories.of(["x"] * data.n_cells)}
    )
    counts = data.counts.copy()
    counts.data[0] += 1
    z = np.ones((data.n_cells, 2), np.float32)
    base = key(blind, data)
    assert key(blind, relabelled) == base
    assert key(control, relabelled) != key(control, data)
    assert key(blind, rebatched) != base
    assert key(blind, replace(data, store=counts)) != base
    assert key(blind, replace(data, embeddings={"mine": z})) == base
    assert key(blind, replace(data, id="renamed")) == base
    assert key(blind, data, seed=1) == base
    assert key(replace(blind, deterministic=False), data, seed=1) != base
    assert key(replace(blind, version=2), data) != base
    assert key(replace(blind, title="New"), data) == base
    assert key(blind, data, code="edited") != base


def test_a_supplied_embedding_has_a_key_of_its_own() -> None:
    z = np.ones((12, 2), np.float32)
    card = MethodCard("mine", "supplied", "contender", "Mine", params={"name": "mine"})
    one = replace(toy_dataset(), embeddings={"mine": z})
    assert key(card, one) == key(card, replace(one, embeddings={"mine": z, "other": 2 * z}))
    assert key(card, one) != key(card, replace(one, embeddings={"mine": 2 * z}))
    assert seen_by(card, one).embeddings.keys() == {"mine"}
    assert seen_by(Toy().card, one).embeddings == {}
    assert "label" not in seen_by(card, one).roles
    assert "label" in seen_by(Toy(sees_labels=True).card, one).roles


def test_a_lineage_is_hidden_like_the_label_that_it_tells_of() -> None:
    one = toy_dataset()
    lineage = Categories.of([name[:5] for name in one.cells])
    told = replace(one, roles={**one.roles, "lineage": lineage})
    assert seen_by(Toy().card, told).roles.keys() == {"batch"}
    assert "lineage" in seen_by(Toy(sees_labels=True).card, told).roles
    assert key(Toy().card, one) == key(Toy().card, told)
    assert key(Toy(sees_labels=True).card, one) != key(Toy(sees_labels=True).card, told)


def test_settings_and_source_of_an_object_are_its_code() -> None:
    assert code_of(Toy(seconds=1.0)) == code_of(Toy(seconds=1.0))
    assert code_of(Toy(seconds=1.0)) != code_of(Toy(seconds=2.0))

    namespace: dict[str, type] = {"Toy": Toy}
    exec("class Mine(Toy):\n    x = 1", namespace)
    first = code_of(namespace["Mine"]())
    exec("class Mine(Toy):\n    x = 2", namespace)
    assert code_of(namespace["Mine"]()) != first


@pytest.mark.parametrize("n_cells", [4, 5])
def test_planned_splits_say_how_many_cells_they_score(n_cells: int) -> None:
    planned = plan(toy_study(Toy(), datasets=(toy_dataset(n_cells=n_cells),)))
    assert [s.n_test for s in planned.splits] == [n_cells, n_cells // 2, n_cells // 2]
    assert [r.weight for r in planned.replicates] == [1.0, 1.0]
