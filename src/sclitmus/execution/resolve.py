"""From names to objects: the one place where a study's ids are looked up and its files read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from jaxtyping import Float32, Float64

from sclitmus import catalog
from sclitmus.core.dataset import Dataset
from sclitmus.core.method import Annotator, CellEmbedder, Method, MethodCard
from sclitmus.core.task import Task
from sclitmus.data.splits import SplitsFile, read_splits
from sclitmus.errors import StudyError
from sclitmus.execution.given_splits import OnGivenSplits, with_given_splits
from sclitmus.execution.identity import Fingerprint, code_of
from sclitmus.execution.study import DatasetSpec, MethodSpec, Study, TaskSpec


@dataclass(frozen=True)
class Chosen:
    """A method or a task that takes part, with `identity.code_of` it where a user made it."""

    object: Any
    code: str = ""


@dataclass(frozen=True)
class Resolved:
    """A study with everything it names at hand."""

    study: Study
    datasets: tuple[Fingerprint, ...]
    methods: tuple[Chosen, ...]
    tasks: tuple[Chosen, ...]


@dataclass(frozen=True)
class Renamed:
    """A method under another name, so that it can take part with several settings."""

    method: Any
    name: str

    @property
    def card(self) -> MethodCard:
        card: MethodCard = self.method.card
        return replace(card, id=self.name, title=f"{card.title} ({self.name})")

    @property
    def unavailable(self) -> str:
        return str(getattr(self.method, "unavailable", ""))

    @property
    def untrained(self) -> Method | None:
        twin: Method | None = getattr(self.method, "untrained", None)
        return twin

    def fit(self, train: Dataset, rng: np.random.Generator) -> Self:
        return replace(self, method=self.method.fit(train, rng))

    def remarks(self, cells: Dataset) -> tuple[str, ...]:
        remarks = getattr(self.method, "remarks", None)
        return tuple(remarks(cells)) if callable(remarks) else ()


class RenamedEmbedder(Renamed):
    """What embeds, under another name."""

    def embed(self, cells: Dataset) -> Float32[np.ndarray, "n_cells d"]:
        embedder: CellEmbedder = self.method
        return embedder.embed(cells)


class RenamedAnnotator(Renamed):
    """What learns labels, under another name."""

    def predict_scores(self, cells: Dataset) -> Float64[np.ndarray, "n_cells n_classes"]:
        annotator: Annotator = self.method
        return annotator.predict_scores(cells)

    def features(self, cells: Dataset) -> Float64[np.ndarray, "n_cells d"] | None:
        features = getattr(self.method, "features", None)
        return features(cells) if callable(features) else None


def renamed(method: Method, name: str) -> Renamed:
    """Give a method another name."""
    if isinstance(method, Annotator):
        return RenamedAnnotator(method, name)
    return RenamedEmbedder(method, name)


def resolve(study: Study) -> Resolved:
    """Read the datasets and make the methods, the references and the tasks.

    The references of the tasks come first, in the tasks' order, then the embeddings brought
    with a dataset, then the study's methods, then their untrained twins and, for a task that asks
    for them, all ways to train them. A method of the study that bears the name of a reference
    takes its place.

    Raises
    ------
    StudyError
        If a name does not exist, or two things bear the same one.
    DataError, MethodError, TaskError
        If a dataset cannot be read, or a method or a task cannot be made.
    """
    tasks = tuple(_task(task, study.compat) for task in study.tasks)
    _refuse_twins("tasks", [chosen.object.card.id for chosen in tasks])
    if study.splits:
        given = tuple(read_splits(path) for path in study.splits)
        tasks = tuple(replace(task, object=with_given_splits(task.object, given)) for task in tasks)
    datasets = tuple(_dataset(spec) for spec in study.datasets)
    _refuse_twins("datasets", [dataset.id for dataset in datasets])
    if study.splits:
        _refuse_unused(given, tasks, datasets)

    own = [_method(spec) for spec in study.methods]
    _refuse_twins("methods", [chosen.object.card.id for chosen in own])
    taken = {chosen.object.card.id for chosen in own}
    references = dict.fromkeys(
        id for task in tasks for id in task.object.card.references if study.references
    )
    # Beside every foundation model its untrained twin: what the architecture gives by itself.
    twins = [
        Chosen(twin)
        for chosen in own
        if study.references and (twin := getattr(chosen.object, "untrained", None)) is not None
    ]
    arms = [
        Chosen(arm)
        for chosen in own
        if any(task.object.card.arms for task in tasks)
        for arm in getattr(chosen.object, "arms", ())
    ]
    brought = dict.fromkeys(name for spec in study.datasets for name in spec.embeddings)
    methods = (
        *(Chosen(catalog.load_method(id)) for id in references if id not in taken),
        *(_brought(name) for name in brought if name not in taken),
        *own,
        *(one for one in (*twins, *arms) if one.object.card.id not in taken),
    )
    _refuse_twins("methods", [chosen.object.card.id for chosen in methods])
    return Resolved(study, tuple(Fingerprint(dataset) for dataset in datasets), methods, tasks)


def _refuse_unused(
    given: Sequence[SplitsFile], tasks: Sequence[Chosen], datasets: Sequence[Dataset]
) -> None:
    """Refuse files of splits that would be passed over in silence."""
    asked = {t.object.card.id for t in tasks if isinstance(t.object, OnGivenSplits)}
    for file in given:
        if file.task not in asked or file.dataset not in {dataset.id for dataset in datasets}:
            raise StudyError(
                f"{file.path} has splits of {file.dataset!r} for {file.task!r}",
                f"a dataset of the study, {', '.join(d.id for d in datasets)}, and one of its "
                f"tasks that learn labels: {', '.join(t.object.card.id for t in tasks)}",
                "name that task, or write the file with `sclitmus splits import`",
            )
    _refuse_twins("files of splits", [f"{file.task} on {file.dataset}" for file in given])


def _task(task: str | TaskSpec | Task, compat: str) -> Chosen:
    if isinstance(task, str):
        return Chosen(catalog.load_task(task, compat))
    if isinstance(task, TaskSpec):
        return Chosen(catalog.load_task(task.id, compat, **task.params))
    return Chosen(task, code_of(task))


def _dataset(spec: DatasetSpec) -> Dataset:
    settings: dict[str, Any] = {
        name: getattr(spec, name)
        for name in ("label", "batch", "donor", "roles", "counts", "organism", "obs")
        if getattr(spec, name)
    }
    if spec.invert_lognorm:
        settings["invert_lognorm"] = True
    if spec.path is not None:
        from sclitmus.data.read import read

        return read(spec.path, id=spec.id or None, embeddings=spec.embeddings, **settings)
    if settings:
        raise StudyError(
            f"dataset {spec.id!r} is not read from a file, but {', '.join(settings)} is set",
            "settings of reading only together with a path",
            "remove them, or give the file with path = …",
        )
    if spec.dataset is None:
        return _with_embeddings(catalog.load_dataset(spec.id), spec.embeddings)
    dataset = replace(spec.dataset, id=spec.id or spec.dataset.id)
    return _with_embeddings(dataset, spec.embeddings)


def _with_embeddings(dataset: Dataset, given: Mapping[str, str]) -> Dataset:
    if not given:
        return dataset
    from sclitmus.data.embeddings import Rows, load_embedding

    kept = np.arange(dataset.n_cells) if dataset.source_rows is None else dataset.source_rows
    n_source = dataset.n_cells if dataset.n_source is None else dataset.n_source
    rows = Rows(kept, n_source, dataset.cells)
    embeddings, notes = dict(dataset.embeddings), list(dataset.notes)
    for name, file in given.items():
        embeddings[name], said = load_embedding(name, file, rows, {})
        notes += said
    return replace(dataset, embeddings=embeddings, notes=tuple(notes))


def _method(spec: MethodSpec) -> Chosen:
    given = [name for name in ("object", "command") if getattr(spec, name)]
    if len(given) > 1 or not (given or spec.id):
        raise StudyError(
            f"a method is given by {' and '.join(given) or 'nothing'}",
            "one of: id (of the catalogue), object, command",
            "see studies/quickstart.toml",
        )
    if spec.object is not None:
        chosen = Chosen(spec.object, code_of(spec.object))
    elif spec.command:
        chosen = Chosen(_command(spec))  # a program's version is its settings' to tell
    else:
        chosen = Chosen(catalog.load_method(spec.id, **spec.params))
    return Chosen(renamed(chosen.object, spec.name), chosen.code) if spec.name else chosen


def made(spec: MethodSpec) -> Method:
    """Return the method that is meant.

    Raises
    ------
    MethodError, StudyError
        If it does not exist or does not take its settings.
    """
    method: Method = _method(spec).object
    return method


def _command(spec: MethodSpec) -> CellEmbedder:
    from sclitmus.baselines.external import External

    return External(spec.command, id=spec.id or "external")


def _brought(name: str) -> Chosen:
    from sclitmus.baselines.supplied import Supplied

    return Chosen(Supplied(name))


def _refuse_twins(what: str, ids: list[str]) -> None:
    twins = sorted({id for id in ids if ids.count(id) > 1})
    if twins:
        raise StudyError(
            f"two {what} are called {', '.join(twins)}",
            f"{what} of different names, since records tell them apart by name",
            "give one of them another: name = … for a method, id = … for a dataset",
        )
