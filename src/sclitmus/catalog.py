"""Everything scLitmus knows by name, on one page: id → where its object lives.

Nothing heavy is imported until an entry is loaded, so listing is instant. Other packages add to
these tables without touching this file, by entry points in their own `pyproject.toml`::

    [project.entry-points."sclitmus.methods"]
    mymodel = "mypackage.embed:MyModel"

A method entry is a class (or a function) that takes the method's settings as keyword arguments
and returns a `core.method.CellEmbedder`; a task entry returns a `core.task.Task`; a metric entry
is a `core.metric.Metric`; a dataset entry is a function that returns a `core.dataset.Dataset`.
"""

import difflib
import importlib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from sclitmus.core.dataset import Dataset
from sclitmus.core.method import Annotator, CellEmbedder, Method
from sclitmus.core.metric import Metric
from sclitmus.core.task import LabelTask, Task, ZeroShotTask
from sclitmus.errors import MethodError, StudyError, TaskError

METHODS = {
    # Controls: the floor and the ceiling that every score is read against.
    "random_embedding": "sclitmus.baselines.random_embedding:RandomEmbedding",
    "random_projection": "sclitmus.baselines.random_projection:RandomProjection",
    "label_oracle": "sclitmus.baselines.label_oracle:LabelOracle",
    "label_canary": "sclitmus.baselines.label_canary:LabelCanary",
    # Simple rivals: the bar.
    "hvg": "sclitmus.baselines.hvg:HVG",
    "pca": "sclitmus.baselines.pca:PCA",
    "harmony": "sclitmus.baselines.harmony:Harmony",
    "scvi": "sclitmus.baselines.scvi:ScVI",
    # What names cells directly, from labelled ones: the floor and the bar where labels are learned.
    "majority": "sclitmus.baselines.majority:Majority",
    "nearest_centroid": "sclitmus.baselines.nearest_centroid:NearestCentroid",
    "knn": "sclitmus.baselines.knn:KNN",
    "lr_l1": "sclitmus.baselines.lr_l1:LogisticL1",
    "lr_l2": "sclitmus.baselines.lr_l2:LogisticL2",
    "pca_lr": "sclitmus.baselines.pca_lr:PCALogistic",
    "marker_score": "sclitmus.baselines.marker_score:MarkerScore",
}

MODELS = {
    # Foundation models, run frozen: id → the class that reads and runs it. The card of each, with
    # its licence, files and pretraining data, is models/cards/<id>.toml. Each also goes as
    # `<id>@random_init` (untrained) and `<id>@official` (as published, faults included); scGPT,
    # Geneformer and scBERT also trained on labels: `@head`, `@last`, `@full`, and of each
    # `@zeroed` or `@shuffled` gene vectors.
    "scgpt": "sclitmus.models.scgpt:ScGPT",
    "geneformer_v1_10m": "sclitmus.models.geneformer:Geneformer",
    "geneformer_v1_40m": "sclitmus.models.geneformer:Geneformer",
    "geneformer_v2_38m": "sclitmus.models.geneformer:Geneformer",
    "geneformer_v2_104m": "sclitmus.models.geneformer:Geneformer",
    "geneformer_v2_316m": "sclitmus.models.geneformer:Geneformer",
    "uce_4l": "sclitmus.models.uce:UCE",
    "uce_33l": "sclitmus.models.uce:UCE",
    "scfoundation": "sclitmus.models.scfoundation:ScFoundation",
    "scbert": "sclitmus.models.scbert:ScBERT",
    "scvi_frozen": "sclitmus.models.scvi_frozen:FrozenScVI",
    "cellplm": "sclitmus.models.cellplm:CellPLM",
    "transcriptformer_sapiens": "sclitmus.models.transcriptformer:TranscriptFormer",
    "aido_cell_3m": "sclitmus.models.aido_cell:AIDOCell",
    "aido_cell_10m": "sclitmus.models.aido_cell:AIDOCell",
    "aido_cell_100m": "sclitmus.models.aido_cell:AIDOCell",
    "scprint_medium": "sclitmus.models.scprint:ScPRINT",
    "state_se_600m": "sclitmus.models.state_se:StateSE",
    "ssl_scg": "sclitmus.models.ssl_scg:SSL",
}

TASKS = {
    "cell_types": "sclitmus.tasks.cell_types:CellTypes",
    "integration": "sclitmus.tasks.integration:Integration",
    "annotation": "sclitmus.tasks.annotation:Annotation",
    "transfer": "sclitmus.tasks.transfer:Transfer",
    "novel_types": "sclitmus.tasks.novel_types:NovelTypes",
    "fine_tuning": "sclitmus.tasks.fine_tuning:FineTuning",
    "markers": "sclitmus.tasks.markers:Markers",
}
ZERO_SHOT = ("cell_types", "integration")  # those that score plugins' metrics, too

METRICS = "sclitmus.metrics.suite:METRICS"  # one table: the metrics share what they compute

DATASETS = {
    "pbmc68k_reduced": "sclitmus.data.demo:pbmc68k_reduced",
}


@cache
def methods() -> Mapping[str, str]:
    """Return id → "module:Object" of every method, ours and those of installed plugins."""
    return _with_plugins("methods", METHODS | MODELS)


@cache
def tasks() -> Mapping[str, str]:
    """Return id → "module:Object" of every task."""
    return _with_plugins("tasks", TASKS)


@cache
def datasets() -> Mapping[str, str]:
    """Return id → "module:Object" of every dataset that can be named instead of a file."""
    return _with_plugins("datasets", DATASETS)


@cache
def metrics() -> Mapping[str, Metric]:
    """Return id → metric, ours and those of plugins, which the zero-shot tasks score like ours."""
    table: dict[str, Metric] = dict(_load(METRICS))
    for metric in _plugin_metrics():
        if metric.id in table:
            raise _clash("metrics", metric.id, repr(metric.compute))
        table[metric.id] = metric
    return table


@cache
def _plugin_metrics() -> tuple[Metric, ...]:
    return tuple(_load(target) for target in _with_plugins("metrics", {}).values())


def load_method(id: str, /, **params: Any) -> Method:
    """Make the method called `id` with these settings.

    Raises
    ------
    MethodError
        If no method has that name, or it does not take one of the settings.
    """
    name, *variants = id.split("@")
    target = _look_up("method", name if name in MODELS else id, methods(), MethodError)
    try:
        if name in MODELS:
            from sclitmus.models.frozen import method_of

            method: Any = method_of(name, target, variants, params)
        else:
            method = _load(target)(**params)
    except TypeError as error:
        raise MethodError(
            f"method {id!r} was given the settings {params}: {error}",
            "settings that the method takes",
            f"see `sclitmus list methods` for the settings of {id!r}",
        ) from error
    if not isinstance(method, CellEmbedder | Annotator):
        raise MethodError(
            f"{target} made a {type(method).__name__} without card, fit, or embed",
            "an object with the members of sclitmus.core.method.CellEmbedder, or of Annotator",
            "see docs/methods.md for how a method is written",
        )
    return method


def load_task(id: str, /, compat: str = "", **params: Any) -> Task:
    """Make the task called `id`, with these settings.

    Parameters
    ----------
    compat
        ``"scib"`` for the metric definitions of scib-metrics, in zero-shot tasks.

    Raises
    ------
    TaskError
        If no task has that name, or it does not take one of the settings.
    """
    make = _load(_look_up("task", id, tasks(), TaskError))
    given = {"extra": _plugin_metrics(), "compat": compat} if id in ZERO_SHOT else {}
    try:
        task: Task = make(**given, **params)
    except TypeError as error:
        raise TaskError(
            f"task {id!r} was given the settings {params}: {error}",
            "settings that the task takes",
            "see docs/tasks for the settings of each",
        ) from error
    if not isinstance(task, ZeroShotTask | LabelTask):
        raise TaskError(
            f"task {id!r} is a {type(task).__name__} that cannot be asked",
            "an object with the members of sclitmus.core.task.ZeroShotTask, or of LabelTask",
            "see docs/tasks/index.md for how a task is written",
        )
    return task


def load_dataset(id: str) -> Dataset:
    """Read the dataset called `id`.

    Raises
    ------
    StudyError
        If no dataset has that name.
    """
    dataset: Dataset = _load(_look_up("dataset", id, datasets(), StudyError))()
    return dataset


def _with_plugins(kind: str, own: Mapping[str, str]) -> Mapping[str, str]:
    table = dict(own)
    for point in entry_points(group=f"sclitmus.{kind}"):
        if point.name in table:
            raise _clash(kind, point.name, point.value)
        table[point.name] = point.value
    return table


def _clash(kind: str, name: str, target: str) -> StudyError:
    return StudyError(
        f"an installed package offers {target} as {kind} entry {name!r}, which is taken",
        "a name of its own for every entry",
        f"uninstall one of the packages, or rename the entry point in group sclitmus.{kind}",
    )


def _look_up(
    kind: str, id: str, table: Mapping[str, str], error: type[MethodError | TaskError | StudyError]
) -> str:
    if id in table:
        return table[id]
    close = difflib.get_close_matches(id, table, n=3)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    raise error(
        f"there is no {kind} called {id!r}",
        f"one of: {', '.join(table)}",
        f"{hint}`sclitmus list {kind}s` describes them",
    )


def _load(target: str) -> Any:
    module, _, name = target.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise StudyError(
            f"{target} cannot be loaded: {error}",
            "an importable module:Object",
            "reinstall the package that offers it, or correct its entry point",
        ) from error
