"""What a run found, to look at: verdicts, frames, figures, the report."""

import json
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import polars as pl

from sclitmus.errors import StudyError
from sclitmus.execution.result import RunResult
from sclitmus.stats.analysis import Analysis, analyse

if TYPE_CHECKING:
    from sclitmus.report.content import ReportData


@dataclass(frozen=True)
class Results:
    """What a run found: records, statistics, verdicts, and the report of them.

    Attributes
    ----------
    result
        Records, splits, cards, maps and provenance, as the run left them.
    folder
        Where the run's files are, or None for a comparison that is not written.
    """

    result: RunResult = field(repr=False)
    folder: Path | None

    @cached_property
    def analysis(self) -> Analysis:
        """All statistics: intervals, differences, skill, ranks and verdicts, each a frame."""
        r = self.result
        return analyse(
            r.records, r.replicates, r.methods_frame(), r.tasks_frame(), r.metrics_frame()
        )

    def verdict(self) -> pl.DataFrame:
        """Return one row per dataset, task and method: the verdict, its numbers, and a sentence."""
        return self.analysis.verdicts

    def to_frame(self) -> pl.DataFrame:
        """Return the records: one row per number, columns `core.record.RECORD_COLUMNS`."""
        return self.result.records

    def scores(self) -> pl.DataFrame:
        """Return every score with its 95% interval."""
        return self.analysis.intervals

    def sentences(self) -> list[str]:
        """Return the verdicts in words, contenders before simple methods."""
        frame = self.verdict()
        first = frame.filter(pl.col("part") == "contender")
        return (first if len(first) else frame)["sentence"].to_list()

    @property
    def n_failed(self) -> int:
        """How many trials failed; what is not applicable has not failed."""
        return len(self.failures())

    def failures(self) -> list[str]:
        """Return a line per method, dataset and task that failed, with the reason."""
        rows = (
            self.result.records.filter(pl.col("status") == "failed")
            .group_by("dataset", "method", "task", maintain_order=True)
            .agg(pl.col("note").first())
        )
        return [f"{d} × {m}, {t}: {note}" for d, m, t, note in rows.iter_rows()]

    def report(self, path: str | Path) -> Path:
        """Write the report as one self-contained HTML file and return its path."""
        from sclitmus.report.page import write_report

        return write_report(Path(path), self.report_data())

    def report_data(self) -> "ReportData":
        """Gather what the report shows."""
        from sclitmus.report.gather import report_data

        return report_data(self.result, self.analysis)

    def figures(self, folder: str | Path, format: Literal["svg", "png"] = "svg") -> list[Path]:
        """Write every figure of the report to a folder."""
        from sclitmus.report.export import save_figures

        return save_figures(self.report_data(), Path(folder), format)

    def tables(self, folder: str | Path) -> list[Path]:
        """Write verdicts, scores, differences and ranks as CSV, parquet and LaTeX."""
        from sclitmus.report.export import save_tables

        return save_tables(self.report_data(), Path(folder))

    @property
    def report_path(self) -> Path | None:
        """Where `write` puts the report."""
        return None if self.folder is None else self.folder / "report.html"

    def write(self) -> None:
        """Write records, ``verdict.json`` and ``report.html`` to the folder.

        Raises
        ------
        StoreError
            If the disk is full or the folder not writable.
        """
        from sclitmus.execution.store import replace_file, whole

        if self.folder is None or self.report_path is None:
            raise StudyError(
                "these results have no folder", "a folder", "give one: compare(folders, out=…)"
            )
        self.result.save(self.folder)
        verdict = {
            "study": self.result.study,
            "exit_status": self.result.exit_status,
            "failures": self.failures(),
            "verdicts": self.verdict().to_dicts(),
            "environment": dict(self.result.environment),
        }
        text = json.dumps(verdict, indent=1, allow_nan=False)
        replace_file(self.folder / "verdict.json", whole(text.encode()), self.folder)
        self.report(self.report_path)

    def _repr_html_(self) -> str:
        """Show the verdicts in a notebook."""
        rows = "".join(
            f"<tr><td>{escape(d)}</td><td>{escape(t)}</td><td><b>{escape(v)}</b></td>"
            f"<td style='text-align:left'>{escape(s)}</td></tr>"
            for d, t, v, s in self.verdict()
            .select("dataset", "task", "verdict", "sentence")
            .iter_rows()
        )
        where = escape(str(self.report_path)) if self.report_path else ""
        return f"<table><tbody>{rows}</tbody></table><p>{where}</p>"
