"""The catalogue: everything in it loads, plugins join it, a name is never taken twice."""

from importlib.metadata import EntryPoint

import pytest

from sclitmus import catalog
from sclitmus.core.method import MethodCard
from sclitmus.core.metric import Metric
from sclitmus.errors import MethodError, StudyError, TaskError

SPREAD = Metric("spread", lambda e: 0.5, "Spread", "half, always", bounds=(0, 1))


class Plugin:
    """A method that an installed package offers."""

    card = MethodCard(id="plugin", kind="foundation", part="contender", title="Plugin")

    def fit(self, train: object, rng: object) -> "Plugin":
        return self

    def embed(self, cells: object) -> None:
        return None


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Pretend that packages with these entry points are installed."""

    def install(**points: tuple[str, str]) -> None:
        made = [EntryPoint(n, value, f"sclitmus.{g}") for n, (g, value) in points.items()]
        monkeypatch.setattr(
            catalog, "entry_points", lambda group: [p for p in made if p.group == group]
        )
        clear()

    def clear() -> None:
        for table in ("methods", "tasks", "metrics", "datasets", "_plugin_metrics"):
            getattr(catalog, table).cache_clear()

    yield install
    clear()


def test_every_method_and_task_loads_under_its_own_name() -> None:
    assert {id: catalog.load_method(id).card.id for id in catalog.methods()} == {
        id: id for id in catalog.methods()
    }
    for id in catalog.tasks():
        task = catalog.load_task(id)
        assert task.card.id == id
        assert task.card.headline in task.metrics
        assert set(task.card.beside) <= set(task.metrics)
        assert set(task.card.references) <= set(catalog.methods())


def test_a_plugin_is_loaded_like_ours(plugins) -> None:  # type: ignore[no-untyped-def]
    plugins(plugin=("methods", f"{__name__}:Plugin"))
    assert list(catalog.methods())[-1] == "plugin"
    assert catalog.load_method("plugin").card.title == "Plugin"


def test_a_plugins_metric_is_scored_by_tasks_about_embeddings(plugins) -> None:  # type: ignore[no-untyped-def]
    plugins(spread=("metrics", f"{__name__}:SPREAD"))
    assert "spread" in catalog.metrics()
    for task in catalog.ZERO_SHOT:
        assert "spread" in catalog.load_task(task).metrics
    # It is a function of an embedding; those that learn labels have none.
    assert "spread" not in catalog.load_task("annotation").metrics


class Namer:
    """What learns labels, from an installed package."""

    card = MethodCard(id="namer", kind="baseline", part="bar", title="Namer")

    def fit(self, train: object, rng: object) -> "Namer":
        return self

    def predict_scores(self, cells: object) -> None:
        return None


def test_what_learns_labels_is_loaded_like_what_embeds(plugins) -> None:  # type: ignore[no-untyped-def]
    plugins(namer=("methods", f"{__name__}:Namer"))
    assert catalog.load_method("namer").card.title == "Namer"


def test_a_task_takes_settings_and_refuses_those_it_does_not_know() -> None:
    task = catalog.load_task("annotation", shots=[1, 3], draws=2)
    assert task.card.beside[:2] == ("macro_f1.k1", "macro_f1.k3")
    with pytest.raises(TaskError, match="n_shots"):
        catalog.load_task("annotation", n_shots=3)
    with pytest.raises(TaskError, match="draws 0"):
        catalog.load_task("annotation", draws=0)
    with pytest.raises(TaskError, match="shots"):
        catalog.load_task("annotation", shots=4)  # one number is no list
    with pytest.raises(TaskError, match="cell_types"):
        catalog.load_task("cell_types", compat="", extra=())


def test_a_name_that_is_taken_is_refused(plugins) -> None:  # type: ignore[no-untyped-def]
    plugins(pca=("methods", f"{__name__}:Plugin"))
    with pytest.raises(StudyError, match="taken"):
        catalog.methods()


def test_a_plugin_that_does_not_import_is_an_error_that_names_it(plugins) -> None:  # type: ignore[no-untyped-def]
    plugins(gone=("methods", "no_such_package:Gone"))
    with pytest.raises(StudyError, match="no_such_package"):
        catalog.load_method("gone")


@pytest.mark.parametrize(
    ("load", "error"), [(catalog.load_method, MethodError), (catalog.load_task, TaskError)]
)
def test_a_misspelt_name_gets_a_suggestion(load, error) -> None:  # type: ignore[no-untyped-def]
    name = "harmoni" if error is MethodError else "cell_typs"
    with pytest.raises(error, match="did you mean"):
        load(name)


def test_a_wrong_setting_is_the_methods_error() -> None:
    with pytest.raises(MethodError, match="n_component"):
        catalog.load_method("pca", n_component=3)
