"""From names to objects: the one place where a study's ids are looked up and its files read."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from jaxtyping import Float32

from sclitmus import catalog
from sclitmus.core.dataset import Dataset
from sclitmus.core.method import CellEmbedder, MethodCard
from sclitmus.errors import StudyError
from sclitmus.execution.identity import Fingerprint, code_of
from sclitmus.execution.study import DatasetSpec, MethodSpec, Study


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

    method: CellEmbedder
    name: str

    @property
    def card(self) -> MethodCard:
        return replace(
            self.method.card, id=self.name, title=f"{self.method.card.title} ({self.name})"
        )

    @property
    def unavailable(self) -> str:
        return str(getattr(self.method, "unavailable", ""))

    @property
    def untrained(self) -> CellEmbedder | None:
        twin: CellEmbedder | None = getattr(self.method, "untrained", None)
        return twin

    def fit(self, train: Dataset, rng: np.random.Generator) -> Self:
        return replace(self, method=self.method.fit(train, rng))

    def embed(self, cells: Dataset) -> Float32[np.ndarray, "n_cells d"]:
        return self.method.embed(cells)

    def remarks(self, cells: Dataset) -> tuple[str, ...]:
        remarks = getattr(self.method, "remarks", None)
        return tuple(remarks(cells)) if callable(remarks) else ()


def resolve(study: Study) -> Resolved:
    """Read the datasets and make the methods, the references and the tasks.

    The references of the tasks come first, in the tasks' order, then the embeddings brought
    with a dataset, then the study's methods. A method of the study that bears the name of a
    reference takes its place.

    Raises
    ------
    StudyError
        If a name does not exist, or two things bear the same one.
    DataError, MethodError, TaskError
        If a dataset cannot be read, or a method or a task cannot be made.
    """
    tasks = tuple(
        Chosen(catalog.load_task(task, study.compat))
        if isinstance(task, str)
        else Chosen(task, code_of(task))
        for task in study.tasks
    )
    _refuse_twins("tasks", [chosen.object.card.id for chosen in tasks])
    datasets = tuple(_dataset(spec) for spec in study.datasets)
    _refuse_twins("datasets", [dataset.id for dataset in datasets])

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
    brought = dict.fromkeys(name for spec in study.datasets for name in spec.embeddings)
    methods = (
        *(Chosen(catalog.load_method(id)) for id in references if id not in taken),
        *(_brought(name) for name in brought if name not in taken),
        *own,
        *(twin for twin in twins if twin.object.card.id not in taken),
    )
    _refuse_twins("methods", [chosen.object.card.id for chosen in methods])
    return Resolved(study, tuple(Fingerprint(dataset) for dataset in datasets), methods, tasks)


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
    return Chosen(Renamed(chosen.object, spec.name), chosen.code) if spec.name else chosen


def made(spec: MethodSpec) -> CellEmbedder:
    """Return the method that is meant.

    Raises
    ------
    MethodError, StudyError
        If it does not exist or does not take its settings.
    """
    method: CellEmbedder = _method(spec).object
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
