"""What a notebook calls: `read` data, `run` a question, `load` or `compare` what was found.

The command line is a thin layer over these functions.
"""

import difflib
import importlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sclitmus import catalog
from sclitmus.core.dataset import Dataset
from sclitmus.core.method import CellEmbedder, Method, MethodCard
from sclitmus.core.rng import rng_for
from sclitmus.core.task import Task
from sclitmus.data.read import read
from sclitmus.errors import MethodError, StudyError
from sclitmus.execution.events import Event, ignore
from sclitmus.execution.execute import execute as execute_study
from sclitmus.execution.identity import seen_by
from sclitmus.execution.plan import Plan
from sclitmus.execution.plan import plan as plan_study
from sclitmus.execution.resolve import made, resolve
from sclitmus.execution.result import load_result
from sclitmus.execution.store import Store
from sclitmus.execution.study import DatasetSpec, MethodSpec, Study, load_study
from sclitmus.execution.worker import checked
from sclitmus.results import Results

if TYPE_CHECKING:
    import polars as pl
    from anndata import AnnData

    from sclitmus.execution.stability import Effect
    from sclitmus.models.masked_course import Epoch
    from sclitmus.models.partial import OnProgress
    from sclitmus.models.pretraining import Pretrained
    from sclitmus.testing.report import Check

__all__ = [
    "Results",
    "check",
    "compare",
    "embed",
    "execute",
    "export_splits",
    "fetch",
    "load",
    "plan",
    "pretrain",
    "read",
    "run",
    "stability",
    "study",
]


def run(
    data: "str | Path | AnnData | Dataset | Study",
    *,
    out: str | Path | None = None,
    jobs: int | None = None,
    on_event: Callable[[Event], None] = ignore,
    **settings: Any,
) -> Results:
    """Assess methods on data, or run a study; the whole way from counts to a verdict.

    Parameters
    ----------
    data
        A file, an AnnData (never written into), a `Dataset`, the id of a bundled dataset, or a
        `Study` or the path of one.
    out
        Folder for the store, the records and the report; ``sclitmus-NAME`` by default. Running
        again with the same folder computes only what is missing.
    jobs
        Trials at the same time; by default one per core.
    settings
        What `study` takes: ``label``, ``batch``, ``donor``, ``methods``, ``tasks``, ``seeds``,
        ``embeddings``, ``commands``, ``references`` …

    Returns
    -------
    Results
        Verdicts, frames and the report.

    Raises
    ------
    SclitmusError
        If the input cannot be used. A method that fails does not raise: see `Results.failures`.
    """
    asked = data if isinstance(data, Study) else study(data, **settings)
    results = execute(asked, out or Path(f"sclitmus-{asked.name}"), jobs=jobs, on_event=on_event)
    results.write()
    return results


def study(
    data: "str | Path | AnnData | Dataset",
    *,
    label: str | None = None,
    batch: str | None = None,
    donor: str | None = None,
    roles: Mapping[str, str] | None = None,
    methods: Sequence[str | Method] = (),
    tasks: Sequence[str | Task] = (),
    seeds: int | Sequence[int] = 1,
    compute: Mapping[str, Any] | None = None,
    embeddings: Mapping[str, "str | Path | np.ndarray"] | None = None,
    commands: Mapping[str, str] | None = None,
    references: bool = True,
    projections: bool = True,
    counts: str | None = None,
    obs: Path | None = None,
    organism: str | None = None,
    invert_lognorm: bool = False,
    compat: Literal["", "scib"] = "",
    splits: Sequence[str | Path] = (),
    name: str = "",
) -> Study:
    """Put one dataset and the methods to assess on it into a study; nothing is computed.

    Parameters
    ----------
    data
        A file, an AnnData, a `Dataset`, the id of a bundled dataset, or a study file (.toml),
        whose own settings then hold and to which `methods`, `tasks` and `commands` add.
    label, batch, donor, roles
        obs columns and the roles they play.
    methods
        Ids, ``"module:Class"`` or objects, beside the references that always run.
    tasks
        Ids or objects; by default every task whose columns are given.
    seeds
        How many repetitions, or which seeds, for methods that are not deterministic.
    compute
        Settings of foundation models: weights, device, precision, batch_tokens, min_matched.
    embeddings
        Name -> file, ``"obsm:KEY"`` or array; each is assessed as a method.
    commands
        Name -> command line that turns ``{input}`` into ``{output}``.
    references
        Whether the tasks' simple methods and controls run too; without them no verdict is given.
    compat
        ``"scib"`` for the definitions of scib-metrics 0.5.10.
    splits
        Files of splits, to learn from and test the very cells that they name.
    """
    own = (
        *(_method_spec(method, compute) for method in methods),
        *(MethodSpec(id=id, command=line) for id, line in (commands or {}).items()),
    )
    numbers = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if isinstance(data, str | Path) and str(data).endswith(".toml"):
        asked = load_study(data)
        return replace(
            asked,
            methods=(*asked.methods, *own),
            tasks=tuple(tasks) or asked.tasks,
            seeds=asked.seeds if seeds == 1 else numbers,
            references=references and asked.references,
            projections=projections and asked.projections,
            compat=compat or asked.compat,
            splits=(*asked.splits, *map(Path, splits)),
        )
    dataset = _dataset(
        data,
        {"label": label, "batch": batch, "donor": donor} | dict(roles or {}),
        embeddings or {},
        counts=counts,
        obs=obs,
        organism=organism,
        invert_lognorm=invert_lognorm,
    )
    return Study(
        name=name or dataset.id,
        datasets=(DatasetSpec(dataset=dataset),),
        methods=(*(_brought(name) for name in dataset.embeddings), *own),
        tasks=tuple(tasks) or _answerable(dataset),
        seeds=numbers,
        references=references,
        projections=projections,
        compat=compat,
        splits=tuple(map(Path, splits)),
    )


def export_splits(
    data: "str | Path | AnnData | Dataset",
    out: str | Path,
    *,
    task: str,
    table: str | Path | None = None,
    **settings: Any,
) -> "pl.DataFrame":
    """Write down, by cell ids, which cells a task learns from and tests; run with ``splits=``.

    Parameters
    ----------
    out
        ``.parquet``, ``.csv`` or ``.tsv``.
    table
        Splits of your own instead of drawn ones: columns split, part, cell. They are checked
        against the data and get a hash, the dataset's name and the task's.
    settings
        Roles and reading, as for `study`.

    Raises
    ------
    NotApplicable
        If the task makes no sense for the data.
    DataError
        If the table names cells that the data lack, a cell twice in a split, or a setting or a
        held-out group that the task does not know.
    """
    from sclitmus.core.task import LabelTask
    from sclitmus.data.splits import read_splits, splits_table, write_splits
    from sclitmus.execution.given_splits import OnGivenSplits
    from sclitmus.execution.identity import Fingerprint
    from sclitmus.execution.plan import splits_of

    asked = resolve(study(data, tasks=(task,), references=False, **settings))
    fingerprint: Fingerprint = asked.datasets[0]
    if not isinstance(asked.tasks[0].object, LabelTask):
        raise StudyError(
            f"{task} learns nothing from labels: it scores all cells and random halves of them",
            "a task with training cells: annotation, transfer, novel_types …",
            "see `sclitmus list tasks`",
        )
    mine = asked.tasks[0].object
    if table is not None:
        file = replace(read_splits(Path(table)), dataset=fingerprint.dataset.id)
        mine = OnGivenSplits(mine, (file,))
    splits = splits_of(mine, fingerprint)
    frame = splits_table(fingerprint.dataset, task, splits)
    write_splits(Path(out), frame)
    return frame


def plan(study: Study, out: str | Path) -> Plan:
    """Say what `execute` would run, what is done already, what does not apply, and the cost."""
    store = Path(out) / "store"
    return plan_study(resolve(study), Store.open(store) if store.exists() else None)


def execute(
    study: Study,
    out: str | Path,
    *,
    jobs: int | None = None,
    on_event: Callable[[Event], None] = ignore,
) -> Results:
    """Run what is missing of a study and return all of its results; see `run`."""
    result = execute_study(study, out, jobs=jobs or default_jobs(), on_event=on_event)
    return Results(result, Path(out))


def fetch(
    model: str,
    *,
    into: str | Path | None = None,
    optional: bool = False,
    on_progress: "OnProgress | None" = None,
) -> list[Path]:
    """Bring the published weights of a foundation model from where its authors put them.

    Its licence is in ``sclitmus.models.card.model_card(model).licence``; fetching accepts it.

    Parameters
    ----------
    model
        Its id; dashes and underscores are alike.
    into
        Folder with a folder per model; by default $SCLITMUS_WEIGHTS or ~/.cache/sclitmus/weights.
    optional
        Bring the files too that the model can do without.
    on_progress
        Called some times a second with a `models.partial.Progress`.

    Returns
    -------
    list of Path
        The files of the model that are now there.

    Raises
    ------
    WeightsError
        If a file cannot be fetched, is not what it should be, or must be got by hand.
    """
    from sclitmus.models import fetch as fetching

    told = on_progress or fetching.ignore
    return fetching.fetch(model, into=into, optional=optional, on_progress=told)


def pretrain(
    arch: str,
    data: Sequence[str | Path | Dataset],
    *,
    config: str | Path,
    out: str | Path,
    seed: int = 0,
    without: Sequence[str | Path | Dataset] = (),
    device: str = "auto",
    precision: str = "auto",
    organism: str | None = None,
    on_progress: "Callable[[str, int, int], object] | None" = None,
    on_epoch: "Callable[[Epoch], object] | None" = None,
) -> "Pretrained":
    """Train a small foundation model from scratch, and write it as its authors publish theirs.

    Parameters
    ----------
    arch
        ``"scgpt"``, ``"geneformer"`` or ``"scbert"``.
    data
        Files, folders with files, or datasets, of raw counts.
    config
        A .toml file; docs/pretraining.md lists what it may hold.
    out
        Folder of its own; run it with ``compute={"weights": out}``.
    without
        Data that the model will be assessed on: cells that are also in them are left out.
    on_progress, on_epoch
        Told what is done, of how much, and each epoch as it ends.

    Raises
    ------
    MethodError
        If corpus and settings do not fit, the folder is of something else, or training diverges.
    """
    from sclitmus.data.same_cells import same_cells
    from sclitmus.models.pretraining import pretrain as train
    from sclitmus.models.pretraining_settings import Settings

    settings = Settings.read(arch, Path(config))
    others = [_dataset(one, {}, {}) for one in without]
    corpus = []
    for source in (one for given in data for one in _files(given)):
        cells = _dataset(source, {}, {}, organism=organism)
        shared = [same_cells(cells, other) for other in others]
        if shared:
            cells = cells.take(np.setdiff1d(np.arange(cells.n_cells), np.concatenate(shared)))
        corpus.append(cells)
    return train(
        corpus,
        settings,
        Path(out),
        seed=seed,
        device=device,
        precision=precision,
        on_progress=on_progress,
        on_epoch=on_epoch,
    )


def _files(given: str | Path | Dataset) -> Sequence[str | Path | Dataset]:
    """Return the files of a folder, in the order of their names; anything else as it is."""
    if isinstance(given, Dataset) or not Path(given).is_dir() or Path(given).suffix == ".zarr":
        return [given]
    kinds = (".h5ad", ".zarr", ".h5", ".loom")
    found = sorted(path for path in Path(given).iterdir() if path.suffix in kinds)
    return found or [given]  # a folder in 10x's format


def default_jobs() -> int:
    """One trial per core that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def load(folder: str | Path) -> Results:
    """Read the results of a finished run back from its folder; nothing is computed.

    Raises
    ------
    StoreError
        If there is no finished run in `folder`.
    """
    return Results(load_result(folder), Path(folder))


def compare(folders: Iterable[str | Path], out: str | Path | None = None) -> Results:
    """Judge the methods of several runs together, as if they had been one.

    A method that two runs share is taken from the first.

    Raises
    ------
    StudyError
        If fewer than two runs are given, or they scored different cells, so that a difference
        between their methods would not be paired.
    """
    from sclitmus.execution.merge import merge

    paths = [Path(folder) for folder in folders]
    merged = merge({str(path): load_result(path) for path in paths})
    return Results(merged, Path(out) if out is not None else None)


def embed(
    data: "str | Path | AnnData | Dataset",
    method: str | CellEmbedder,
    *,
    out: str | Path | None = None,
    seed: int = 0,
    on_start: Callable[[CellEmbedder, tuple[str, ...]], object] = lambda fitted, remarks: None,
    on_progress: Callable[[str, int, int], object] = lambda activity, done, total: None,
    compute: Mapping[str, Any] | None = None,
    **reading: Any,
) -> "np.ndarray":
    """Embed the cells of a dataset with one method; nothing is scored.

    Parameters
    ----------
    method
        Id, ``"module:Class"`` or object.
    out
        ``.npy`` (rows in the order of the source), ``.parquet`` (keyed by cell id) or ``.h5ad`` (a
        copy of the source with ``obsm["X_<method>"]``).
    on_start
        Called with the fitted method and its remarks (gene coverage) before the cells pass.
    on_progress
        Called with what is done, how many cells are, and of how many.
    compute
        Settings of a foundation model: weights, device, precision, batch_tokens, min_matched.
    reading
        What `read` takes: ``counts``, ``organism``, ``backed`` …

    Returns
    -------
    Array (n_cells, d), float32: row i is cell i of the dataset, without cells that have no counts.

    Raises
    ------
    NotApplicable
        If the method has no answer for these cells: weights missing, too few genes known.
    """
    from sclitmus.core.activity import heard_by
    from sclitmus.data.write import check_target, write_embedding

    source = data if isinstance(data, str | Path) and Path(data).exists() else None
    if out is not None:
        check_target(Path(out), source)
    embedder = _embedder(_method_spec(method, compute or {}))
    cells = seen_by(embedder.card, _dataset(data, {}, {}, **reading))
    fitted = embedder.fit(cells, rng_for(seed, "embed", embedder.card.id))
    on_start(fitted, tuple(getattr(fitted, "remarks", lambda cells: ())(cells)))
    with heard_by(on_progress):
        z = checked(fitted.embed(cells), cells.n_cells, embedder.card.id)
    if out is not None:
        write_embedding(Path(out), z, cells, embedder.card.id, source)
    return z


def stability(
    id: str,
    data: "str | Path | AnnData | Dataset" = "pbmc68k_reduced",
    compute: Mapping[str, Any] | None = None,
) -> "dict[str, tuple[Effect, ...]]":
    """Measure what a foundation model's embedding depends on besides the cell.

    Parameters
    ----------
    id
        Of the model; ``ID@random_init`` measures it with random weights.
    data
        Cells to measure it on, of which at most 32 are taken; real blood cells by default.
    compute
        As in `embed`.

    Returns
    -------
    Behaviour -> effects, for ``official`` and ``fixed``.

    Raises
    ------
    NotApplicable
        If the weights are missing, or the model does not know the genes.
    """
    from sclitmus.execution.stability import stability as measure

    cells = _dataset(data, {}, {}).without("label")
    found = {}
    for behaviour in ("official", "fixed"):
        method = _embedder(_method_spec(f"{id}@{behaviour}", compute))
        found[behaviour] = measure(method.fit(cells, rng_for(0, "stability")), cells)
    return found


def stability_lines(
    id: str, data: "str | Path | AnnData | Dataset", compute: Mapping[str, Any]
) -> dict[str, list[str]]:
    """Return `stability` as the lines of a table per behaviour."""
    from sclitmus.execution.stability import lines

    return {name: list(lines(effects)) for name, effects in stability(id, data, compute).items()}


def notices(card: MethodCard) -> list[str]:
    """Return what must be said before a method runs: that its weights are not for all uses."""
    if not card.non_commercial:
        return []
    return [f"{card.title}: weights under {card.licence}, not for commercial use"]


def licence_notices(study: Study) -> list[str]:
    """Return the notices of all of a study's methods."""
    cards = (made(spec).card for spec in study.methods)
    return [notice for card in cards for notice in notices(card)]


def check(
    target: str | Method, *, label: str | None = None, batch: str | None = None
) -> "tuple[Check, ...]":
    """Check a method (id, ``module:Class`` or object) or a data file against its contract."""
    from sclitmus.testing import check_dataset, check_method

    if isinstance(target, str) and Path(target).exists():
        return check_dataset(read(target, label=label, batch=batch)).checks
    return check_method(made(_method_spec(target))).checks


def _embedder(spec: MethodSpec) -> CellEmbedder:
    method = made(spec)
    if not isinstance(method, CellEmbedder):
        raise MethodError(
            f"{method.card.id} names cells and gives no embedding of them",
            "a method that embeds",
            "assess it with `sclitmus run --tasks annotation`",
        )
    return method


def _dataset(
    data: "str | Path | AnnData | Dataset",
    roles: Mapping[str, str | None],
    embeddings: "Mapping[str, str | Path | np.ndarray]",
    **settings: Any,
) -> Dataset:
    """Read the data, or say which settings make no sense for data that are not read."""
    given = {name: column for name, column in roles.items() if column is not None}
    bundled = isinstance(data, str) and data in catalog.datasets() and not Path(data).exists()
    if isinstance(data, Dataset) or bundled:
        dataset = data if isinstance(data, Dataset) else catalog.load_dataset(str(data))
        wrong = [*given, *(name for name, value in settings.items() if value)]
        if wrong:
            raise StudyError(
                f"{', '.join(wrong)} given for {dataset.id!r}, whose columns are settled",
                "such settings only with a file or an AnnData",
                "leave them out, or give the file",
            )
        return replace(dataset, embeddings={**dataset.embeddings, **_arrays(embeddings, dataset)})
    if isinstance(data, str) and not Path(data).exists() and not Path(data).suffix:
        close = difflib.get_close_matches(data, catalog.datasets(), n=1)
        raise StudyError(
            f"{data!r} is neither a file nor the id of a dataset",
            f"a file, or one of: {', '.join(catalog.datasets())}",
            f"did you mean {close[0]}?" if close else "check the path",
        )
    return read(data, roles=given, embeddings=embeddings, **settings)


def _arrays(
    embeddings: "Mapping[str, str | Path | np.ndarray]", dataset: Dataset
) -> Mapping[str, np.ndarray]:
    from sclitmus.data.embeddings import Rows, load_embedding

    kept = dataset.source_rows
    rows = Rows(
        np.arange(dataset.n_cells) if kept is None else kept,
        dataset.n_cells if dataset.n_source is None else dataset.n_source,
        dataset.cells,
    )
    return {name: load_embedding(name, given, rows, {})[0] for name, given in embeddings.items()}


def _brought(name: str) -> MethodSpec:
    from sclitmus.baselines.supplied import Supplied

    return MethodSpec(object=Supplied(name))


def _method_spec(method: str | Method, compute: Mapping[str, Any] | None = None) -> MethodSpec:
    """Say which method is meant; `compute` are the settings of foundation models."""
    if not isinstance(method, str):
        return MethodSpec(object=method)
    if ":" not in method:
        model = method.partition("@")[0] in catalog.MODELS
        given = {
            name: str(value) if isinstance(value, Path) else value
            for name, value in (compute or {}).items()
            if value is not None
        }
        return MethodSpec(id=method, params=given if model else {})
    module, _, name = method.partition(":")
    try:
        made = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise MethodError(
            f"{method} cannot be loaded: {error}",
            "module:Class, importable from the current folder or installed",
            "check the spelling, or run with PYTHONPATH set to the folder of the module",
        ) from error
    return MethodSpec(object=made() if isinstance(made, type) else made)


def _answerable(dataset: Dataset) -> tuple[str, ...]:
    """Zero-shot tasks whose columns the dataset has: those that train anything are asked for.

    Raises
    ------
    StudyError
        If there is none.
    """
    tasks = [id for id in catalog.ZERO_SHOT if _lacks(id, dataset) == []]
    if tasks:
        return tuple(tasks)
    raise StudyError(
        f"{dataset.id!r} was read without the column of any role",
        "the column of the cell types at least, and that of the batches for integration",
        "add --label COLUMN and --batch COLUMN",
    )


def _lacks(task: str, dataset: Dataset) -> list[str]:
    return [role for role in catalog.load_task(task).card.needs if role not in dataset.roles]
