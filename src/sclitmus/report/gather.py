"""From what a run left behind to what a report shows."""

import polars as pl

from sclitmus.core.dataset import Categories
from sclitmus.execution.result import RunResult
from sclitmus.report.content import Projection, ReportData
from sclitmus.stats.analysis import Analysis


def report_data(result: RunResult, analysis: Analysis) -> ReportData:
    """Gather a report's frames, cards and maps; nothing is computed.

    Parameters
    ----------
    result
        A run, just finished or read back from its folder.
    analysis
        The statistics of its records.
    """
    return ReportData(
        study=result.study,
        records=result.records,
        splits=result.splits,
        analysis=analysis,
        methods=result.methods,
        tasks=result.tasks,
        metrics=result.metrics,
        datasets=result.datasets,
        projections={
            info.id: projection
            for info in result.datasets
            if (projection := _projection(result, info.id, info.n_cells)) is not None
        },
        notes=result.notes,
        published=result.published,
        stability=result.stability,
        provenance=dict(result.environment),
    )


def _projection(result: RunResult, dataset: str, n_cells: int) -> Projection | None:
    maps = result.projections.filter(pl.col("dataset") == dataset)
    cells = result.cells.filter(pl.col("dataset") == dataset).sort("row")
    if maps.is_empty():
        return None
    return Projection(
        xy={
            method: maps.filter(pl.col("method") == method).sort("row").select("x", "y").to_numpy()
            for method in maps["method"].unique(maintain_order=True)
        },
        label=_role(cells, "label"),
        batch=_role(cells, "batch"),
        n_total=n_cells,
    )


def _role(cells: pl.DataFrame, role: str) -> Categories | None:
    if role not in cells.columns or cells[role].is_null().all():
        return None
    return Categories.of(cells[role].to_list())
