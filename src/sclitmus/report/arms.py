"""How often training went wrong: seeds that failed, and seeds that predict one type only."""

from collections.abc import Iterator

import polars as pl

from sclitmus.report.content import ReportData
from sclitmus.report.text import spoken

COLLAPSED = "collapsed"
"""How the remark of a method begins whose training ended in one answer for every cell."""


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


def _headlines(data: ReportData, dataset: str, task: str, method: str) -> pl.DataFrame:
    return data.records.filter(
        pl.col("dataset") == dataset,
        pl.col("task") == task,
        pl.col("method") == method,
        pl.col("metric") == data.headline(task),
        pl.col("split") == "all",
    )


def _failed(data: ReportData, dataset: str, task: str, method: str) -> Iterator[str]:
    rows = _headlines(data, dataset, task, method)
    lost = rows.filter(pl.col("status") == "failed")
    if len(lost):
        notes = [note for note in lost["note"].unique(maintain_order=True) if note]
        why = f" ({'; '.join(notes)})" if notes else ""
        yield f"in {_of_seeds(lost['seed'].n_unique(), rows)} it failed{why}"


def _collapsed(data: ReportData, dataset: str, task: str, method: str) -> Iterator[str]:
    begins = f"{task}: {COLLAPSED}"
    mine = [
        note
        for note in data.notes
        if note["dataset"] == dataset
        and note["method"] == method
        and note["note"].startswith(begins)
    ]
    if not mine:
        return
    rows = _headlines(data, dataset, task, method)
    seeds = {note["seed"] for note in mine if "seed" in note}
    # Notes that do not say the seed are kept once for all seeds that gave them.
    n, least = (len(seeds), "") if seeds else (1, "at least ")
    texts = dict.fromkeys(note["note"].removeprefix(begins).lstrip(": ") for note in mine)
    what = f" ({'; '.join(texts)})" if any(texts) else ""
    yield f"in {least}{_of_seeds(n, rows)} it {COLLAPSED}{what}"


def _of_seeds(n: int, rows: pl.DataFrame) -> str:
    n_seeds = max(rows["seed"].n_unique(), n)
    return f"{n} of {n_seeds} {'seed' if n_seeds == 1 else 'seeds'}"
