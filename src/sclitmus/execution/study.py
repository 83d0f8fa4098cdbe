"""What is asked for: datasets × methods × tasks × seeds, from Python or from a TOML file."""

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sclitmus.core.dataset import Dataset
from sclitmus.core.method import Method
from sclitmus.core.task import Task
from sclitmus.errors import StudyError

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

Param = str | int | float | bool | None


@dataclass(frozen=True)
class DatasetSpec:
    """One dataset: a file, the id of a bundled one, or one already in memory.

    Attributes
    ----------
    path, id, dataset
        Where it comes from. With a `path` or a `dataset`, `id` is what records call it.
    label, batch, donor
        Names of the obs columns that play these roles.
    roles
        Further roles, as role -> obs column.
    counts
        Where the raw counts are, if not where they are looked for by themselves.
    organism
        ``human``, ``mouse`` …; empty to recognise it by the gene names.
    invert_lognorm
        Whether to turn log-normalised values back into counts where that is exact.
    embeddings
        Ready-made embeddings as name -> file or ``obsm:KEY``; each becomes a method.
    obs
        A table of cell annotations to add to the file's own.
    """

    path: Path | None = None
    id: str = ""
    dataset: Dataset | None = None
    label: str | None = None
    batch: str | None = None
    donor: str | None = None
    roles: Mapping[str, str] = field(default_factory=dict)
    counts: str | None = None
    organism: str | None = None
    invert_lognorm: bool = False
    embeddings: Mapping[str, str] = field(default_factory=dict)
    obs: Path | None = None


@dataclass(frozen=True)
class MethodSpec:
    """One method: an id of the catalogue with settings, an object, or an external command.

    Attributes
    ----------
    id
        Id in the catalogue; for a command, what records call it.
    params
        Settings of a method of the catalogue.
    name
        What records call it instead of `id`, to run one method with several settings.
    object
        A `core.method.CellEmbedder` or `Annotator` made by the user.
    command
        A command line that speaks the file contract, with ``{input}`` and ``{output}``.
    """

    id: str = ""
    params: Mapping[str, Param] = field(default_factory=dict)
    name: str = ""
    object: Method | None = None
    command: str = ""


@dataclass(frozen=True)
class TaskSpec:
    """A task of the catalogue with settings of its own."""

    id: str
    params: Mapping[str, Param | Sequence[int] | Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Published:
    """A figure that others published, to be shown beside those of the study, and marked so.

    Attributes
    ----------
    dataset, task, metric
        Which of the study's own figures it stands beside.
    method
        What was assessed, in the words of the source.
    value, spread
        The figure, and half the width of its interval where one was given.
    source, note
        Where it was published; what was done differently there.
    """

    dataset: str
    task: str
    metric: str
    method: str
    value: float
    source: str
    spread: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Study:
    """A question put to methods: every dataset × method × task × seed.

    Attributes
    ----------
    tasks
        Ids of the catalogue, such with settings, or tasks made by the user. The references of
        each task run too.
    seeds
        Repetitions of methods that are not deterministic; the others run once.
    projections
        Whether to draw a map of each embedding for the report.
    references
        Whether the tasks' references run too. Without them no verdict can be given.
    compat
        ``"scib"`` scores by the definitions of scib-metrics 0.5.10, flaws included.
    splits
        Files of splits to be used instead of drawn ones; see `data.splits`.
    published
        Figures of others, for the report.
    """

    name: str
    datasets: tuple[DatasetSpec, ...]
    methods: tuple[MethodSpec, ...]
    tasks: tuple[str | TaskSpec | Task, ...]
    seeds: tuple[int, ...] = (0,)
    projections: bool = True
    references: bool = True
    compat: Literal["", "scib"] = ""
    splits: tuple[Path, ...] = ()
    published: tuple[Published, ...] = ()

    def __post_init__(self) -> None:
        if not self.datasets or not self.tasks:
            raise StudyError(
                f"study {self.name!r} has {len(self.datasets)} datasets, {len(self.tasks)} tasks",
                "at least one of each",
                "name a dataset and a task; `sclitmus list tasks` shows what there is",
            )
        seeds = self.seeds
        if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
            raise StudyError(
                f"study {self.name!r} has the seeds {list(seeds)}",
                "different whole numbers, 0 or greater, at least one",
                "for five repetitions write seeds = [0, 1, 2, 3, 4]",
            )


def load_study(path: Path | str) -> Study:
    """Read a study from TOML; `studies/quickstart.toml` shows the format.

    File names in it are relative to the folder of the study file.

    Raises
    ------
    StudyError
        If the file is not there, is no TOML, or has a key or value that does not belong.
    """
    path = Path(path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StudyError(
            f"{path} cannot be read: {error.strerror}",
            "a study file",
            "see studies/quickstart.toml for the format",
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StudyError(
            f"{path} is no TOML: {error}", "a TOML file", "correct the file at that place"
        ) from error
    from pydantic import ValidationError

    form = _form()
    try:
        parsed = form.model_validate(table)
    except ValidationError as error:
        raise _explained(path, error, form) from error
    read: dict[str, Any] = parsed.model_dump()
    folder = path.resolve().parent
    return Study(
        name=read["name"] or path.stem,
        datasets=tuple(_dataset(entry, folder, path) for entry in read["datasets"]),
        methods=tuple(MethodSpec(**entry) for entry in read["methods"]),
        tasks=tuple(TaskSpec(**t) if t["params"] else t["id"] for t in read["tasks"]),
        seeds=tuple(range(read["seeds"]) if isinstance(read["seeds"], int) else read["seeds"]),
        projections=read["projections"],
        references=read["references"],
        compat=read["compat"],
        splits=tuple(folder / name for name in read["splits"]),
        published=tuple(Published(**entry) for entry in read["published"]),
    )


def _form() -> "type[BaseModel]":
    """Build what a study file may hold; pydantic is imported only where text enters."""
    from pydantic import (
        BaseModel,
        ConfigDict,
        Field,
        StrictBool,
        StrictFloat,
        StrictInt,
        StrictStr,
        field_validator,
    )

    class Table(BaseModel):
        model_config = ConfigDict(extra="forbid")

    class DatasetTable(Table):
        path: StrictStr | None = None
        id: StrictStr = ""
        label: StrictStr | None = None
        batch: StrictStr | None = None
        donor: StrictStr | None = None
        roles: dict[str, StrictStr] = Field(default_factory=dict)
        counts: StrictStr | None = None
        organism: StrictStr | None = None
        invert_lognorm: StrictBool = False
        embeddings: dict[str, StrictStr] = Field(default_factory=dict)
        obs: StrictStr | None = None

    class MethodTable(Table):
        id: StrictStr
        params: dict[str, StrictBool | StrictInt | StrictFloat | StrictStr] = Field(
            default_factory=dict
        )
        name: StrictStr = ""
        command: StrictStr = ""

    class TaskTable(Table):
        id: StrictStr
        params: dict[
            str, StrictBool | StrictInt | StrictFloat | StrictStr | list[StrictInt | StrictFloat]
        ] = Field(default_factory=dict)

    class PublishedTable(Table):
        dataset: StrictStr
        task: StrictStr
        metric: StrictStr
        method: StrictStr
        value: StrictFloat
        source: StrictStr
        spread: StrictFloat | None = None
        note: StrictStr = ""

    class StudyTable(Table):
        name: StrictStr = ""
        datasets: list[DatasetTable]
        methods: list[MethodTable] = Field(default_factory=list)
        tasks: list[TaskTable]
        seeds: list[StrictInt] | StrictInt = 1
        projections: StrictBool = True
        references: StrictBool = True
        compat: Literal["", "scib"] = ""
        splits: list[StrictStr] = Field(default_factory=list)
        published: list[PublishedTable] = Field(default_factory=list)

        @field_validator("datasets", "methods", "tasks", mode="before")
        @classmethod
        def _spell_out(cls, entries: Any) -> Any:
            # What needs nothing but its id may be written as a string.
            if not isinstance(entries, list):
                return entries
            return [{"id": e} if isinstance(e, str) else e for e in entries]

    return StudyTable


def _dataset(entry: dict[str, Any], folder: Path, path: Path) -> DatasetSpec:
    if not entry["path"] and not entry["id"]:
        raise StudyError(
            f"a dataset of {path} has neither path nor id",
            "a file, or the id of a bundled dataset",
            'add path = "cells.h5ad"; `sclitmus list datasets` shows the bundled ones',
        )
    files = {
        name: value if value.startswith("obsm:") else str(folder / value)
        for name, value in entry["embeddings"].items()
    }
    where = {key: folder / entry[key] if entry[key] else None for key in ("path", "obs")}
    return DatasetSpec(**{**entry, **where, "embeddings": files})


def _explained(path: Path, error: "ValidationError", form: "type[BaseModel]") -> StudyError:
    """Say the first thing that is wrong by its key, with the keys that would be right."""
    first = error.errors(include_url=False)[0]
    place = [part for part in first["loc"] if not _is_type_name(part)]
    key = ".".join(str(part) for part in place)
    if first["type"] == "extra_forbidden":
        allowed = _keys_at(form, place[:-1])
        close = difflib.get_close_matches(str(place[-1]), allowed, n=3)
        return StudyError(
            f"{path} has the key {key!r}, which means nothing here",
            f"one of: {', '.join(allowed)}",
            f"did you mean {' or '.join(close)}?" if close else "remove it",
        )
    if first["type"] == "missing":
        return StudyError(
            f"{path} has no {key!r}", f"the key {key!r}", "see studies/quickstart.toml"
        )
    return StudyError(
        f"{path} has {key} = {first['input']!r}",
        first["msg"].removeprefix("Input should be "),
        f"correct {key}; studies/quickstart.toml shows the format",
    )


def _is_type_name(part: str | int) -> bool:
    # Where a value may be of several types, pydantic adds the one that it tried to its place.
    return isinstance(part, str) and part in {"int", "str", "float", "bool", "list[int]"}


def _keys_at(form: "type[BaseModel]", place: Sequence[str | int]) -> list[str]:
    from pydantic import BaseModel

    here: Any = form
    for part in place:
        if isinstance(part, str):
            inner = here.model_fields[part].annotation
            here = next(
                (t for t in getattr(inner, "__args__", ()) if issubclass(t, BaseModel)), here
            )
    return list(here.model_fields)
