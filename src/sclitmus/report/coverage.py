"""What ran and what did not: ok, not applicable, failed and missing are four different things."""

from dataclasses import dataclass

import polars as pl

from sclitmus.report.content import ReportData
from sclitmus.report.grid import Cell, Column, Table
from sclitmus.report.text import spoken

LOOK = {
    "ok": ("up-small", "clears"),
    "in part": ("half", "even"),
    "not applicable": ("dash", "unsure"),
    "failed": ("cross", "floor"),
    "missing": ("dot", "below"),
}


@dataclass(frozen=True)
class Coverage:
    """The matrix, and the reasons its numbers point to."""

    tables: tuple[Table, ...]
    reasons: tuple[tuple[int, str, str], ...]
    complete: bool


def coverage(data: ReportData) -> Coverage:
    """Return dataset by task and method: one table per dataset, reasons numbered throughout."""
    numbers: dict[tuple[str, str], int] = {}
    tables = []
    complete = True
    for dataset in data.datasets:
        rows = []
        for method, name in data.names.items():
            cells = [Cell(name)]
            for task in data.tasks:
                state, reasons = _state(data, dataset.id, task.id, method)
                complete &= state == "ok"
                marks = [numbers.setdefault((state, r), len(numbers) + 1) for r in reasons]
                icon, tone = LOOK[state]
                note = " ".join(f"({mark})" for mark in marks)
                cells.append(Cell(f"{state} {note}".strip(), icon=icon, tone=tone))
            rows.append(tuple(cells))
        columns = (Column("Method", "text"), *(Column(spoken(t.id), "text") for t in data.tasks))
        tables.append(Table(dataset.id, columns, tuple(rows), "coverage"))
    listed = tuple((n, state, reason) for (state, reason), n in numbers.items())
    return Coverage(tuple(tables), listed, complete)


def _state(data: ReportData, dataset: str, task: str, method: str) -> tuple[str, list[str]]:
    """Return the state of one trial and the reasons for what is not there."""
    rows = data.records.filter(
        pl.col("dataset") == dataset, pl.col("task") == task, pl.col("method") == method
    )
    if rows.is_empty():
        return "missing", ["no record: the trial has not run, or was stopped"]
    lost = rows.filter(pl.col("status") != "ok")
    reasons = _reasons(lost)
    statuses = set(rows["status"].unique())
    if statuses == {"ok"}:
        return "ok", []
    if "ok" in statuses:
        headline = next(t.headline for t in data.tasks if t.id == task)
        broken = "failed" in statuses or headline in set(lost["metric"])
        return ("in part" if broken else "ok"), reasons
    return ("failed" if "failed" in statuses else "not applicable"), reasons


def _reasons(lost: pl.DataFrame) -> list[str]:
    """Return each reason once, with the metrics it is about where it is not about all."""
    found = []
    for note in lost["note"].unique(maintain_order=True).to_list():
        metrics = lost.filter(pl.col("note").eq_missing(note))["metric"].unique().sort().to_list()
        text = note or "no reason was recorded"
        about = ", ".join(m for m in metrics if m)
        found.append(f"{about}: {text}" if about and len(metrics) <= 4 else text)
    return found
