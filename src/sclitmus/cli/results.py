"""`report` and `compare`: what earlier runs found."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sclitmus.cli.app import OK, SOME_FAILED, app

if TYPE_CHECKING:
    from sclitmus.results import Results


@app.command
def report(
    folder: Path,
    /,
    *,
    out: Path | None = None,
    figures: Path | None = None,
    tables: Path | None = None,
    format: Literal["svg", "png"] = "svg",
) -> int:
    """Write the report of a finished run again, or its figures and tables; runs nothing.

    Parameters
    ----------
    folder
        The --out folder of a run.
    out
        The HTML file; by default FOLDER/report.html.
    figures
        Folder to write every figure to, as svg or png.
    tables
        Folder to write the verdict, scores and differences to, as CSV, parquet and LaTeX.
    format
        Format of the figures.
    """
    from sclitmus import api

    results = api.load(folder)
    print(results.report(out or folder / "report.html"))
    for path in results.figures(figures, format) if figures else ():
        print(path)
    for path in results.tables(tables) if tables else ():
        print(path)
    return OK


@app.command
def compare(*folders: Path, out: Path | None = None) -> int:
    """Judge the methods of several runs together, as if they had been one.

    The runs must have scored the same cells of the same data, which is checked.

    Parameters
    ----------
    folders
        The --out folders of two or more runs.
    out
        Folder for the joint report.html, records.parquet and verdict.json.
    """
    from sclitmus import api

    results = api.compare(folders, out)
    if out is not None:
        results.write()
    print_verdict(results)
    return SOME_FAILED if results.n_failed else OK


def print_verdict(results: "Results") -> None:
    """Print the verdicts in words, what failed and why, and last the path of the report."""
    for sentence in results.sentences():
        print(f"- {sentence}")
    for line in results.failures():
        print(f"! {line}", file=sys.stderr)
    if results.report_path is not None:
        print(f"\nreport: {results.report_path}")
