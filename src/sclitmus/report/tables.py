"""Frames as files: CSV, parquet and LaTeX; and the two tables a paper wants."""

import io
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from sclitmus.errors import StudyError
from sclitmus.report.content import ReportData
from sclitmus.report.families import families
from sclitmus.report.numbers import interval, number

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "−": "$-$",
    "–": "--",
}

_VERDICT_COLUMNS = ("dataset", "task", "model", "verdict", "score", "best rival", "difference")


def write_table(frame: pl.DataFrame, path: Path, caption: str = "") -> Path:
    """Write a frame as ``.csv``, ``.parquet`` or ``.tex``, by its file name.

    Raises
    ------
    StudyError
        If the name ends otherwise.
    """
    path = Path(path)
    contents = {
        ".csv": lambda: to_csv(frame).encode(),
        ".parquet": lambda: to_parquet(frame),
        ".tex": lambda: to_latex(frame, caption, path.stem).encode(),
    }
    if path.suffix not in contents:
        raise StudyError(
            f"a table called {path.name}",
            "a name that ends in .csv, .parquet or .tex",
            "rename it",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(contents[path.suffix]())
    return path


def to_csv(frame: pl.DataFrame) -> str:
    """Return the frame as CSV; a missing value is an empty field."""
    return frame.write_csv()


def to_parquet(frame: pl.DataFrame) -> bytes:
    """Return the frame as a parquet file."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd")
    return buffer.getvalue()


def to_latex(frame: pl.DataFrame, caption: str = "", label: str = "") -> str:
    """Return the frame as a table for the booktabs package, everything in it escaped.

    Numbers are set right with three decimals, text left; a missing value is a dash.
    """
    numeric = [frame.schema[column].is_numeric() for column in frame.columns]
    lines = [
        r"\begin{table}",
        r"\centering",
        *([rf"\caption{{{escape_latex(caption)}}}"] if caption else []),
        *([rf"\label{{tab:{_slug(label)}}}"] if label else []),
        rf"\begin{{tabular}}{{{''.join('r' if n else 'l' for n in numeric)}}}",
        r"\toprule",
        " & ".join(escape_latex(column) for column in frame.columns) + r" \\",
        r"\midrule",
        *(" & ".join(_latex_cell(value) for value in row) + r" \\" for row in frame.iter_rows()),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def escape_latex(text: str) -> str:
    """Return text that LaTeX prints as it is."""
    return "".join(_LATEX.get(sign, sign) for sign in text.replace("\n", " "))


def verdict_table(data: ReportData) -> pl.DataFrame:
    """Return one row per dataset, task and model: the verdict with the numbers behind it."""
    return pl.DataFrame(
        [
            {
                "dataset": row["dataset"],
                "task": row["task"],
                "model": data.names.get(row["method"], row["method"]),
                "verdict": row["verdict"],
                "score": interval(row["score"], row["low"], row["high"]),
                "best rival": data.names.get(row["bar"], row["bar"] or "–"),
                "difference": interval(
                    row["difference"], row["difference_low"], row["difference_high"]
                ),
            }
            for row in data.analysis.verdicts.iter_rows(named=True)
        ],
        schema=dict.fromkeys(_VERDICT_COLUMNS, pl.String),
    )


def score_tables(data: ReportData, dataset: str, task: str) -> dict[str, pl.DataFrame]:
    """Return the tables of a task's scores: one, or where metrics are in families one for each.

    The first has no name and the headline with what stands beside it, or all metrics.
    """
    order = metric_order(data, task, data.scored(dataset, task))
    card = next(t for t in data.tasks if t.id == task)
    groups = families(data, order)
    parts: dict[str, list[str] | None] = {"": None}
    if any(len(family.members) > 1 for family in groups):
        parts[""] = [m for m in order if m in (card.headline, *card.beside)]
        parts |= {f.id: [m.metric for m in f.members] for f in groups if len(f.members) > 1}
        rest = [f.members[0].metric for f in groups if len(f.members) == 1]
        parts["other"] = [m for m in rest if m not in (card.headline, *card.beside)]
    return {
        name: table
        for name, metrics in parts.items()
        if not (table := score_table(data, dataset, task, metrics)).is_empty()
    }


def score_table(
    data: ReportData, dataset: str, task: str, metrics: Sequence[str] | None = None
) -> pl.DataFrame:
    """Return one row per method and one column per metric of a task, the best of the first on top.

    Parameters
    ----------
    metrics
        All that the task has values of, where none are given.
    """
    rows = data.analysis.intervals.filter(
        pl.col("dataset") == dataset, pl.col("task") == task, pl.col("unit") == "dataset"
    )
    order = metric_order(data, task, rows["metric"].unique().to_list())
    order = order if metrics is None else [m for m in metrics if m in order]
    values = {(row["method"], row["metric"]): row for row in rows.iter_rows(named=True)}
    methods = data.scores(dataset, task, order[0])["method"].to_list() if order else []
    methods += [m for m in data.cards if m not in methods and any((m, k) in values for k in order)]
    headline = order[:1]
    table = []
    for method in methods:
        cells: dict[str, str] = {"method": data.names[method]}
        for metric in order:
            row = values.get((method, metric))
            if row is None:
                cells[metric] = "–"
            elif metric in headline:
                cells[metric] = interval(row["value"], row["low"], row["high"])
            else:
                cells[metric] = number(row["value"])
        table.append(cells)
    return pl.DataFrame(table, schema=dict.fromkeys(["method", *order], pl.String))


def metric_order(data: ReportData, task: str, present: list[str]) -> list[str]:
    """Return the metrics that have values: the headline, those beside it, then the others."""
    card = next((t for t in data.tasks if t.id == task), None)
    first = [] if card is None else [card.headline, *card.beside]
    known = [*first, *(m.id for m in data.metrics if m.id not in first)]
    return [m for m in known if m in present] + sorted(m for m in present if m not in known)


def _latex_cell(value: object) -> str:
    if value is None or value != value:
        return "--"
    if isinstance(value, float):
        return f"{value:.3f}" if value >= 0 else f"$-${-value:.3f}"
    return escape_latex(str(value))


def _slug(text: str) -> str:
    return "".join(sign if sign.isalnum() else "-" for sign in text)
