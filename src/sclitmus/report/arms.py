"""How often training went wrong: seeds that failed, and seeds that predict one type only."""

from collections.abc import Iterator

import polars as pl

from sclitmus.report.content import ReportData
from sclitmus.report.text import spoken

COLLAPSED = "collapsed"
"""The metric that says that training ended in one answer for every cell, and how a method's remark
on it begins."""


def sentences(data: ReportData, dataset: str) -> Iterator[str]:
    """Say it of each method under test, twins too, that lost a seed or collapsed."""
    for task in data.label_tasks:
        for method in data.contenders:
            parts = [
                *_failed(data, dataset, task, method),
                *_collapsed(data, dataset, task, method),
            ]
            if parts:
                yield f"{data.names[method]}, {spoken(task)}: {'; '.join(parts)}."


def _rows(data: ReportData, dataset: str, task: str, method: str, metric: str) -> pl.DataFrame:
    return data.records.filter(
        pl.col("dataset") == dataset,
        pl.col("task") == task,
        pl.col("method") == method,
        pl.col("metric") == metric,
        pl.col("split") == "all",
    )


def _failed(data: ReportData, dataset: str, task: str, method: str) -> Iterator[str]:
    rows = _rows(data, dataset, task, method, data.headline(task))
    lost = rows.filter(pl.col("status") == "failed")
    if len(lost):
        notes = [note for note in lost["note"].unique(maintain_order=True) if note]
        why = f" ({'; '.join(notes)})" if notes else ""
        yield f"in {_of_seeds(lost['seed'].n_unique(), rows)} it failed{why}"


def _collapsed(data: ReportData, dataset: str, task: str, method: str) -> Iterator[str]:
    begins = f"{task}: {COLLAPSED}"
    said = [
        note["note"].removeprefix(begins).lstrip(": ")
        for note in data.notes
        if note["dataset"] == dataset
        and note["method"] == method
        and note["note"].startswith(begins)
    ]
    rows = _rows(data, dataset, task, method, COLLAPSED).filter(pl.col("status") == "ok")
    n = rows.filter(pl.col("value") > 0)["seed"].n_unique()
    what = f" ({'; '.join(dict.fromkeys(said))})" if any(said) else ""
    if n:
        headlines = _rows(data, dataset, task, method, data.headline(task))
        yield f"in {_of_seeds(n, headlines)} it {COLLAPSED}{what}"
    elif said:
        # A remark is kept once for all seeds that made it, and may be about some splits only.
        yield f"it {COLLAPSED} at least once{what}"


def _of_seeds(n: int, rows: pl.DataFrame) -> str:
    n_seeds = rows["seed"].n_unique()
    return f"{n} of {n_seeds} {'seed' if n_seeds == 1 else 'seeds'}"
