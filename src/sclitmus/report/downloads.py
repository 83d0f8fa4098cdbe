"""The study's tables inside the page, to be saved from it."""

import gzip
from dataclasses import dataclass

import polars as pl

from sclitmus.report.content import ReportData
from sclitmus.report.scatter import data_uri
from sclitmus.report.tables import to_csv, to_latex, to_parquet, verdict_table

_MOST_INLINE = 1_500_000
"""Bytes of a table that still goes into the page; a larger one lies in the folder of the run."""


@dataclass(frozen=True)
class Download:
    """A table to save."""

    name: str
    uri: str
    says: str


def downloads(data: ReportData) -> tuple[Download, ...]:
    """Return the tables as addresses that hold them; the records packed, they are many."""
    found = []
    for name, frame, says in (
        ("verdicts", data.analysis.verdicts, "one row per model, task and dataset"),
        ("scores", data.analysis.intervals, "every score with its interval"),
        ("effects", data.analysis.effects, "differences to each baseline and to the best one"),
        ("skill", data.analysis.skill, "every score between floor and ceiling"),
        ("ranks", data.analysis.ranks, "ranks, intervals and tie groups"),
        ("cost", data.cost, "seconds and memory"),
    ):
        content = to_csv(_flat(frame)).encode()
        if len(content) > _MOST_INLINE // 4:
            packed = gzip.compress(content, mtime=0)
            found.append(Download(f"{name}.csv.gz", data_uri(packed, "application/gzip"), says))
        else:
            found.append(Download(f"{name}.csv", data_uri(content, "text/csv"), says))
    latex = to_latex(verdict_table(data), "Verdicts", "verdicts").encode()
    found.append(
        Download("verdicts.tex", data_uri(latex, "application/x-tex"), "for a paper (booktabs)")
    )
    says = "every number, one row each"
    packed = gzip.compress(to_csv(_flat(data.records)).encode(), mtime=0)
    found.append(Download("records.csv.gz", data_uri(packed, "application/gzip"), says))
    columns = to_parquet(data.records)
    found.append(
        Download("records.parquet", data_uri(columns, "application/vnd.apache.parquet"), says)
    )
    return tuple(d for d in found if len(d.uri) < _MOST_INLINE)


def _flat(frame: pl.DataFrame) -> pl.DataFrame:
    """Write lists as text: CSV has none."""
    nested = [name for name, kind in frame.schema.items() if kind.is_nested()]
    return frame.with_columns(
        pl.col(name).map_elements(str, return_dtype=pl.String) for name in nested
    )
