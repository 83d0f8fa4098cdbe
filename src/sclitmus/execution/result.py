"""What a run leaves behind in its folder, and how it is read back: a new report runs nothing."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Int64

from sclitmus.core.dataset import DatasetCard, Note
from sclitmus.core.method import MethodCard
from sclitmus.core.metric import Metric
from sclitmus.core.record import Record
from sclitmus.core.task import TaskCard
from sclitmus.errors import StoreError, StudyError
from sclitmus.execution.plan import Plan, PlannedReplicate, PlannedSplit, Trial
from sclitmus.execution.resolve import Resolved
from sclitmus.execution.store import explain, replace_file, whole
from sclitmus.execution.study import Study

FRAMES = ("records", "splits", "replicates", "projections", "cells", "stability", "published")
NUMBERS = {"value": pl.Float64, "seconds": pl.Float64, "peak_rss_mb": pl.Float64, "seed": pl.Int64}
RECORD_SCHEMA = {name: NUMBERS.get(name, pl.String) for name in Record.__dataclass_fields__}
SPLIT_SCHEMA = {
    "dataset": pl.String,
    "task": pl.String,
    "split": pl.String,
    "n_train": pl.Int64,
    "n_test": pl.Int64,
}
REPLICATE_SCHEMA = {
    "dataset": pl.String,
    "task": pl.String,
    "split": pl.String,
    "source": pl.String,
    "weight": pl.Float64,
    "n_units": pl.Int64,
}
PROJECTION_SCHEMA = {
    "dataset": pl.String,
    "method": pl.String,
    "row": pl.Int64,
    "x": pl.Float32,
    "y": pl.Float32,
}
PUBLISHED_SCHEMA = {
    "dataset": pl.String,
    "task": pl.String,
    "metric": pl.String,
    "method": pl.String,
    "value": pl.Float64,
    "spread": pl.Float64,
    "source": pl.String,
    "note": pl.String,
}
STABILITY_SCHEMA = {
    "dataset": pl.String,
    "method": pl.String,
    "seed": pl.Int64,
    "change": pl.String,
    "mean": pl.Float64,
    "largest": pl.Float64,
    "note": pl.String,
}


@dataclass(frozen=True)
class DatasetInfo:
    """What a report says about a dataset.

    Attributes
    ----------
    columns
        Role -> the obs column it was read from.
    counts_of
        Role -> name -> number of cells.
    missing
        Role -> number of cells without a name.
    """

    id: str
    n_cells: int
    n_genes: int
    organism: str
    card: DatasetCard
    notes: tuple[Note, ...]
    columns: Mapping[str, str]
    counts_of: Mapping[str, Mapping[str, int]]
    missing: Mapping[str, int]

    @property
    def labels(self) -> Mapping[str, int]:
        """Number of cells of each type; empty where types are not known."""
        return self.counts_of.get("label", {})

    @property
    def batches(self) -> Mapping[str, int]:
        """Number of cells of each batch; empty where batches are not known."""
        return self.counts_of.get("batch", {})


@dataclass(frozen=True)
class RunResult:
    """All that a report is made of.

    Attributes
    ----------
    records
        One row per number, `core.record.RECORD_COLUMNS`, in the order of the plan.
    splits
        dataset, task, split, n_train, n_test: how many cells were learned from and scored.
    replicates
        dataset, task, split, source, weight, n_units (see `core.split.Replicate`).
    projections
        dataset, method, row, x, y: the same rows of a dataset for every method.
    cells
        dataset, row, and the roles (label, batch …) of the rows in `projections`.
    stability
        dataset, method, seed, change, mean, largest, note: see `stability.Effect`.
    published
        dataset, task, metric, method, value, spread, source, note: figures of others.
    notes
        dataset, method, note: what methods remarked about datasets, and what is to be known of
        maps; an empty method for what concerns all.
    methods, tasks, metrics
        Cards of what took part, in the study's order.
    exit_status
        0 if nothing failed, else 1. What is not applicable has not failed.
    """

    study: str
    records: pl.DataFrame
    splits: pl.DataFrame
    replicates: pl.DataFrame
    projections: pl.DataFrame
    cells: pl.DataFrame
    stability: pl.DataFrame
    published: pl.DataFrame
    notes: tuple[Mapping[str, str], ...]
    methods: tuple[MethodCard, ...]
    tasks: tuple[TaskCard, ...]
    metrics: tuple[Metric, ...]
    datasets: tuple[DatasetInfo, ...]
    plan: Plan
    environment: Mapping[str, Any]
    exit_status: int

    def methods_frame(self) -> pl.DataFrame:
        """One row per method: method, title, kind, part, deterministic, behaviour, twin."""
        names = ("title", "kind", "part", "deterministic", "behaviour", "twin")
        return pl.DataFrame(
            {"method": [card.id for card in self.methods]}
            | {name: [getattr(card, name) for card in self.methods] for name in names},
        )

    def tasks_frame(self) -> pl.DataFrame:
        """One row per task: task, headline, direction, margin."""
        direction = {metric.id: metric.direction for metric in self.metrics}
        return pl.DataFrame(
            {
                "task": [card.id for card in self.tasks],
                "headline": [card.headline for card in self.tasks],
                "direction": [direction[card.headline] for card in self.tasks],
                "margin": [card.margin for card in self.tasks],
            }
        )

    def metrics_frame(self) -> pl.DataFrame:
        """One row per metric: metric, title, direction, low, high, chance, side."""
        return pl.DataFrame(
            {
                "metric": [m.id for m in self.metrics],
                "title": [m.title for m in self.metrics],
                "direction": [m.direction for m in self.metrics],
                "low": [float(m.bounds[0]) for m in self.metrics],
                "high": [float(m.bounds[1]) for m in self.metrics],
                "chance": [m.chance for m in self.metrics],
                "side": [m.side for m in self.metrics],
            },
            schema_overrides={"chance": pl.Float64},
        )

    def save(self, out: Path) -> None:
        """Write ``records.parquet`` … and ``run.json``, each of them whole or not at all.

        Raises
        ------
        StoreError
            If the disk is full or the folder not writable.
        """
        try:
            out.mkdir(parents=True, exist_ok=True)
            tmp = out / "store" / "tmp"  # swept at the next start
            tmp = tmp if tmp.is_dir() else out  # joint results have no store
            for name in FRAMES:
                buffer = io.BytesIO()
                getattr(self, name).write_parquet(buffer)
                data = buffer.getvalue()
                replace_file(out / f"{name}.parquet", whole(data), tmp)
            rest = {
                "study": self.study,
                "notes": list(self.notes),
                "methods": [asdict(card) for card in self.methods],
                "tasks": [asdict(card) for card in self.tasks],
                "metrics": [_scale(metric) for metric in self.metrics],
                "datasets": [asdict(info) for info in self.datasets],
                "trials": [asdict(trial) for trial in self.plan.trials],
                "planned_splits": [asdict(split) for split in self.plan.splits],
                "planned_replicates": [asdict(one) for one in self.plan.replicates],
                "environment": dict(self.environment),
                "exit_status": self.exit_status,
            }
            text = json.dumps(rest, indent=1).encode()
            replace_file(out / "run.json", whole(text), tmp)
        except OSError as error:
            explain(error, out)


def load_result(out: Path | str) -> RunResult:
    """Read what a run wrote to its folder.

    Raises
    ------
    StoreError
        If there is no finished run in it.
    """
    out = Path(out)
    try:
        rest = json.loads((out / "run.json").read_text(encoding="utf-8"))
        frames = {
            name: pl.read_parquet(io.BytesIO((out / f"{name}.parquet").read_bytes()))
            for name in FRAMES
        }
        return RunResult(
            study=rest["study"],
            **frames,
            notes=tuple(rest["notes"]),
            methods=tuple(MethodCard(**_with_tuples(card)) for card in rest["methods"]),
            tasks=tuple(TaskCard(**_with_tuples(card)) for card in rest["tasks"]),
            metrics=tuple(
                Metric(**_with_tuples(scale), compute=_not_here) for scale in rest["metrics"]
            ),
            datasets=tuple(_dataset_info(info) for info in rest["datasets"]),
            plan=Plan(
                tuple(Trial(**trial) for trial in rest["trials"]),
                tuple(PlannedSplit(**split) for split in rest["planned_splits"]),
                tuple(PlannedReplicate(**one) for one in rest["planned_replicates"]),
            ),
            environment=rest["environment"],
            exit_status=rest["exit_status"],
        )
    except FileNotFoundError as error:
        raise StoreError(
            f"{out} holds no finished run: there is no {Path(error.filename).name}",
            "the --out folder of `sclitmus run`",
            "run the study to its end first; it goes on from where it stopped",
        ) from error
    except (OSError, ValueError, KeyError, TypeError, pl.exceptions.PolarsError) as error:
        raise StoreError(
            f"the results in {out} are damaged: {error}",
            "the files as `sclitmus run` wrote them",
            "run the study again with the same --out; nothing finished is computed twice",
        ) from error


def records_frame(records: Sequence[Record]) -> pl.DataFrame:
    """Turn records into a frame of `core.record.RECORD_COLUMNS`."""
    columns = {name: [getattr(r, name) for r in records] for name in RECORD_SCHEMA}
    return pl.DataFrame(columns, schema=RECORD_SCHEMA)


def splits_frame(plan: Plan) -> pl.DataFrame:
    """Turn the planned splits into a frame."""
    columns = {name: [getattr(s, name) for s in plan.splits] for name in SPLIT_SCHEMA}
    return pl.DataFrame(columns, schema=SPLIT_SCHEMA)


def replicates_frame(plan: Plan) -> pl.DataFrame:
    """Turn the planned replicates into a frame."""
    columns = {name: [getattr(r, name) for r in plan.replicates] for name in REPLICATE_SCHEMA}
    return pl.DataFrame(columns, schema=REPLICATE_SCHEMA)


def published_frame(study: Study) -> pl.DataFrame:
    """Turn the published figures of a study into a frame."""
    rows = [{name: getattr(one, name) for name in PUBLISHED_SCHEMA} for one in study.published]
    return pl.DataFrame(rows, schema=PUBLISHED_SCHEMA)


def dataset_infos(resolved: Resolved) -> tuple[DatasetInfo, ...]:
    """Say of each dataset what a report shows."""
    infos = []
    for fingerprint in resolved.datasets:
        d = fingerprint.dataset
        roles = d.roles.items()
        infos.append(
            DatasetInfo(
                id=d.id,
                n_cells=d.n_cells,
                n_genes=d.n_genes,
                organism=d.genes.organism,
                card=d.card,
                notes=d.notes,
                columns=dict(d.columns),
                counts_of={
                    role: dict(zip(c.names, map(int, c.counts), strict=True)) for role, c in roles
                },
                missing={role: int((c.codes < 0).sum()) for role, c in roles},
            )
        )
    return tuple(infos)


def cells_frame(
    resolved: Resolved, rows_of: Mapping[str, Int64[np.ndarray, "n_shown"]]
) -> pl.DataFrame:
    """Name the roles of the rows that are drawn, dataset by dataset."""
    parts = []
    for fingerprint in resolved.datasets:
        d = fingerprint.dataset
        rows = list(rows_of.get(d.id, ()))
        columns: dict[str, Any] = {"dataset": [d.id] * len(rows), "row": rows}
        for role, column in d.roles.items():
            names = (*column.names, None)  # code -1 picks the last
            columns[role] = [names[column.codes[row]] for row in rows]
        strings = dict.fromkeys(d.roles, pl.String)
        schema = {"dataset": pl.String, "row": pl.Int64} | strings
        parts.append(pl.DataFrame(columns, schema=schema))
    return pl.concat(parts, how="diagonal")


def _scale(metric: Metric) -> dict[str, Any]:
    return {f.name: getattr(metric, f.name) for f in fields(metric) if f.name != "compute"}


def _not_here(scored: object) -> float:
    raise StudyError(
        "a metric read back from a run's folder was asked to compute",
        "a metric of the catalogue: what is read back is its scale only",
        "use sclitmus.catalog.metrics()",
    )


def _with_tuples(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(v) if isinstance(v, list) else v for name, v in entry.items()}


def _dataset_info(entry: dict[str, Any]) -> DatasetInfo:
    card = entry["card"] | {"corpora": tuple(entry["card"]["corpora"])}
    notes = tuple(Note(**note) for note in entry["notes"])
    return DatasetInfo(**entry | {"card": DatasetCard(**card), "notes": notes})
