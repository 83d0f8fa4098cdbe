"""What each model's embedding depends on besides the cell, as one table per dataset."""

import polars as pl

from sclitmus.report.content import ReportData
from sclitmus.report.grid import Cell, Column, Table
from sclitmus.report.numbers import number


def stability_tables(data: ReportData) -> tuple[Table, ...]:
    """Return change by model: mean shift of a cell, 1 being as far as to another cell."""
    frame = data.stability
    tables = []
    for dataset in frame["dataset"].unique(maintain_order=True):
        mine = frame.filter(pl.col("dataset") == dataset)
        mine = mine.filter(pl.col("seed") == pl.col("seed").min().over("method"))
        methods = mine["method"].unique(maintain_order=True).to_list()
        rows = [
            (Cell(change), *(_cell(mine, method, change) for method in methods))
            for change in mine["change"].unique(maintain_order=True)
        ]
        columns = (
            Column("What was changed", "text"),
            *(Column(data.names.get(method, method)) for method in methods),
        )
        tables.append(Table(dataset, columns, tuple(rows)))
    return tuple(tables)


def _cell(frame: pl.DataFrame, method: str, change: str) -> Cell:
    rows = frame.filter(pl.col("method") == method, pl.col("change") == change)
    if rows.is_empty():
        return Cell("–")
    row = rows.row(0, named=True)
    if row["mean"] is None:
        return Cell("–", note=row["note"])
    return Cell(number(row["mean"]), row["mean"], note=f"at most {number(row['largest'])}")
