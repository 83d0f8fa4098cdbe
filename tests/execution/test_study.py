from pathlib import Path

import pytest
from toy import Toy, ToyTask, toy_dataset, toy_study

from sclitmus.errors import MethodError, StudyError
from sclitmus.execution.resolve import resolve
from sclitmus.execution.study import DatasetSpec, MethodSpec, Study, load_study

QUICKSTART = Path(__file__).parents[2] / "studies" / "quickstart.toml"

WHOLE = """
name = "mine"
tasks = ["cell_types"]
seeds = [3, 1]
projections = false

[[datasets]]
path = "data/my.h5ad"
id = "cells"
label = "type"
roles = { condition = "drug" }
embeddings = { a = "a.npy", b = "obsm:X_b" }

[[methods]]
id = "pca"
name = "pca_20"
params = { n_components = 20, fast = true }

[[methods]]
id = "other"
command = "embed {input} {output}"
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(text)
    return path


def test_every_key_is_read_and_files_are_relative_to_the_study(tmp_path: Path) -> None:
    assert load_study(written(tmp_path, WHOLE)) == Study(
        name="mine",
        datasets=(
            DatasetSpec(
                path=tmp_path / "data" / "my.h5ad",
                id="cells",
                label="type",
                roles={"condition": "drug"},
                embeddings={"a": str(tmp_path / "a.npy"), "b": "obsm:X_b"},
            ),
        ),
        methods=(
            MethodSpec("pca", {"n_components": 20, "fast": True}, "pca_20"),
            MethodSpec("other", command="embed {input} {output}"),
        ),
        tasks=("cell_types",),
        seeds=(3, 1),
        projections=False,
    )


def test_the_short_forms(tmp_path: Path) -> None:
    text = 'datasets = ["pbmc68k_reduced"]\nmethods = ["pca"]\ntasks = ["cell_types"]\nseeds = 3'
    study = load_study(written(tmp_path, text))
    assert study.name == "study"
    assert study.datasets == (DatasetSpec(id="pbmc68k_reduced"),)
    assert study.methods == (MethodSpec("pca"),)
    assert study.seeds == (0, 1, 2)


def test_the_quickstart_is_a_study() -> None:
    study = load_study(QUICKSTART)
    assert study.tasks == ("cell_types", "integration")
    assert study.seeds == (0,)


@pytest.mark.parametrize(
    ("old", "new", "seen", "help"),
    [
        ('label = "type"', 'lable = "type"', "datasets.0.lable", "did you mean label"),
        ("seeds = [3, 1]", "seed = [3, 1]", "'seed'", "did you mean seeds"),
        ('id = "pca"', 'ids = "pca"', "methods.0", "id"),
        ("seeds = [3, 1]", "seeds = [3, -1]", "[3, -1]", "0 or greater"),
        ("seeds = [3, 1]", "seeds = [3, 3]", "[3, 3]", "different"),
        ("seeds = [3, 1]", 'seeds = ["a"]', "seeds", "integer"),
        ("seeds = [3, 1]", "seeds = 0", "[]", "at least one"),
        ('tasks = ["cell_types"]', "", "tasks", "tasks"),
        ('tasks = ["cell_types"]', "tasks = []", "0 tasks", "name a dataset and a task"),
        ("projections = false", 'projections = "no"', "projections", "boolean"),
        ('name = "mine"', "name = ", "TOML", "correct"),
        ('path = "data/my.h5ad"\nid = "cells"', "", "neither path nor id", "sclitmus list"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, seen: str, help: str) -> None:
    assert old in WHOLE
    with pytest.raises(StudyError) as caught:
        load_study(written(tmp_path, WHOLE.replace(old, new, 1)))
    assert seen in caught.value.seen
    assert help in f"{caught.value.needed} {caught.value.remedy}"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"nowhere\.toml"):
        load_study(tmp_path / "nowhere.toml")


def test_references_come_first_and_own_methods_take_their_place() -> None:
    task = ToyTask(references=("random_embedding", "pca"))
    mine = Toy(id="pca")
    resolved = toy_study(mine, Toy(id="z"), tasks=(task, ToyTask(id="b", references=("pca",))))
    ids = [chosen.object.card.id for chosen in resolved.methods]
    assert ids == ["random_embedding", "pca", "z"]
    assert resolved.methods[1].object is mine


def test_a_method_can_run_with_several_settings() -> None:
    methods = (MethodSpec("pca"), MethodSpec("pca", {"n_components": 5}, name="pca_5"))
    data = (DatasetSpec(dataset=toy_dataset()),)
    resolved = resolve(Study("s", data, methods, (ToyTask(),)))
    cards = [chosen.object.card for chosen in resolved.methods]
    assert [card.id for card in cards] == ["pca", "pca_5"]
    assert [card.params["n_components"] for card in cards] == [50, 5]


@pytest.mark.parametrize(
    ("methods", "datasets"),
    [((Toy(), Toy()), None), ((Toy(),), (toy_dataset(), toy_dataset()))],
)
def test_twins_are_refused(methods: tuple[Toy, ...], datasets: None) -> None:
    with pytest.raises(StudyError, match="are called toy"):
        toy_study(*methods, datasets=datasets)


def test_an_unknown_method_is_the_catalogues_to_refuse() -> None:
    data = (DatasetSpec(dataset=toy_dataset()),)
    with pytest.raises(MethodError, match="'pcaa'"):
        resolve(Study("s", data, (MethodSpec("pcaa"),), (ToyTask(),)))
