"""A report's tables and figures as files, for a paper."""

import re
from pathlib import Path
from typing import Literal

from sclitmus.report.content import ReportData
from sclitmus.report.figures import KINDS, save_figure
from sclitmus.report.tables import score_tables, verdict_table, write_table


def save_tables(data: ReportData, folder: Path) -> list[Path]:
    """Write verdicts, scores per dataset and task, differences and ranks.

    Each as ``.csv`` and ``.parquet`` with all columns; verdicts and scores also as ``.tex`` with
    the columns a paper wants.
    """
    paths = []
    frames = {
        "verdicts": data.analysis.verdicts,
        "scores": data.analysis.intervals,
        "differences": data.analysis.effects,
        "ranks": data.analysis.ranks,
    }
    for name, frame in frames.items():
        paths += [write_table(frame, folder / f"{name}{end}") for end in (".csv", ".parquet")]
    paths.append(write_table(verdict_table(data), folder / "verdicts.tex", "Verdicts"))
    for info in data.datasets:
        for task in data.tasks:
            for part, table in score_tables(data, info.id, task.id).items():
                name = "_".join(
                    ["scores", _safe(info.id), task.id, *([_safe(part)] if part else [])]
                )
                caption = f"{info.id}: {task.question}"
                paths.append(write_table(table, folder / f"{name}.tex", caption))
    return paths


def save_figures(data: ReportData, folder: Path, format: Literal["svg", "png"]) -> list[Path]:
    """Write every chart that the data have something to show in, as ``DATASET_TASK_KIND``."""
    paths = []
    for info in data.datasets:
        for task in data.tasks:
            for name, kind in KINDS.items():
                chart = kind.draw(data, info.id, task.id)
                if chart is None:
                    continue
                file = f"{_safe(info.id)}_{task.id}_{name}.{format}"
                paths.append(save_figure(chart, folder / file))
    return paths


def _safe(name: str) -> str:
    """Make a file name of a dataset's, which may hold anything."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.")[:80] or "dataset"
