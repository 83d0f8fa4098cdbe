"""Figures of others beside the study's own, and marked so."""

import polars as pl

from sclitmus.report.content import ReportData
from sclitmus.report.grid import Cell, Column, Table
from sclitmus.report.numbers import interval
from sclitmus.report.text import sentence_case, spoken


def published_tables(data: ReportData) -> tuple[Table, ...]:
    """Return a table per dataset and task: what was published, and what came out here.

    Beside a published figure stand the study's own for the same metric, the best one first. Which
    of them is the same method is for the reader to say: the source had other cells and settings.
    """
    tables = []
    keys = data.published.select("dataset", "task").unique(maintain_order=True)
    for dataset, task in keys.iter_rows():
        mine = data.published.filter(pl.col("dataset") == dataset, pl.col("task") == task)
        rows = []
        for metric in mine["metric"].unique(maintain_order=True):
            card = data.metric(metric)
            title = card.title if card else metric
            for row in mine.filter(pl.col("metric") == metric).iter_rows(named=True):
                value, spread = row["value"], row["spread"]
                ends = (None, None) if spread is None else (value - spread, value + spread)
                says = "; ".join(filter(None, (row["source"], row["note"])))
                rows.append(
                    (
                        Cell(title),
                        Cell(row["method"], note=says),
                        Cell(interval(value, *ends), value),
                        Cell("published"),
                    )
                )
            for row in data.scores(dataset, task, metric).drop_nulls("value").iter_rows(named=True):
                text = interval(row["value"], row["low"], row["high"])
                name = data.names.get(row["method"], row["method"])
                rows.append((Cell(title), Cell(name), Cell(text, row["value"]), Cell("here")))
        tables.append(
            Table(
                f"{sentence_case(spoken(task))} on {dataset}",
                (
                    Column("Metric", "text"),
                    Column("Method", "text"),
                    Column("Value"),
                    Column("Whose", "text"),
                ),
                tuple(rows),
            )
        )
    return tuple(tables)
