"""One HTML file that needs nothing else: it opens offline and asks no one for anything."""

import base64
import gzip
import hashlib
import json
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import polars as pl
from markupsafe import Markup

from sclitmus.errors import StoreError
from sclitmus.report import cards, coverage, sections, stability, verdicts
from sclitmus.report.colours import follow_theme, theme_css
from sclitmus.report.content import ReportData
from sclitmus.report.figures import KINDS, svg
from sclitmus.report.scatter import data_uri
from sclitmus.report.tables import to_csv, to_latex, to_parquet, verdict_table
from sclitmus.stats.pooled import POOLED

_FLUID = ("scores", "ranks")
"""Charts that are laid out anew for the width at hand; the others keep their shape."""

_MOST_INLINE = 1_500_000
"""Bytes of a table that still goes into the page; a larger one lies in the folder of the run."""


@dataclass(frozen=True)
class Chart:
    """A chart twice: drawn, for every reader, and as the program that makes it interactive."""

    id: str
    kind: str
    drawing: Markup
    says: str
    spec: dict[str, Any]


@dataclass(frozen=True)
class Download:
    """A table to save."""

    name: str
    uri: str
    says: str


def write_report(path: Path, data: ReportData) -> Path:
    """Write the report of a study as one self-contained HTML file.

    Nothing is run and no number is computed: the page shows what the frames hold.

    Parameters
    ----------
    path
        The file to write; its folder is made if need be.
    data
        Frames, cards and projections of the study.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    StoreError
        If the file cannot be written.
    """
    path = Path(path)
    html = render(data)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(html, encoding="utf-8")
    except OSError as error:
        raise StoreError(
            f"the report could not be written to {path}: {error.strerror}",
            "a folder with room in which files may be made",
            "free some space, or choose another --out",
        ) from error
    return path


def render(data: ReportData) -> str:
    """Return the page as text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("sclitmus.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["thousands"] = lambda n: f"{n:,}"
    environment.filters["sentence_case"] = verdicts.sentence_case
    charts = make_charts(data)
    scripts = [charting_library(), _template("report.js")]
    parts = {
        info.id: [sections.task_part(data, info.id, task.id) for task in data.tasks]
        for info in data.datasets
    }
    pooled_ranks = [
        (task.id, verdicts.spoken(task.id), table)
        for task in data.tasks
        if (table := sections.ranks_table(data, POOLED, task.id)) is not None
    ]
    return environment.get_template("page.html.j2").render(
        data=data,
        version=version("sclitmus"),
        csp=content_security_policy(scripts),
        css=Markup(theme_css() + _template("report.css")),
        scripts=[Markup(script) for script in scripts],
        specs=Markup(json_for_script({c.id: c.spec for c in charts.values()})),
        charts=charts,
        summary=verdicts.summary(data),
        words=verdicts.WORDS.values(),
        verdicts=verdicts.judged(data),
        parts=parts,
        pooled=POOLED,
        pooled_ranks=pooled_ranks,
        pictures={info.id: sections.pictures(data, info) for info in data.datasets},
        costs={info.id: sections.cost_table(data, info.id) for info in data.datasets},
        coverage=coverage.coverage(data),
        stability=stability.stability_tables(data),
        dataset_cards=cards.dataset_cards(data),
        method_cards=cards.method_cards(data),
        paragraph=cards.methods_paragraph(data),
        citations=cards.citations(data),
        downloads=downloads(data),
        provenance=flatten(data.provenance),
    )


def make_charts(data: ReportData) -> dict[tuple[str, str, str], Chart]:
    """Draw every chart that has something to show, by (kind, dataset, task)."""
    charts: dict[tuple[str, str, str], Chart] = {}
    for dataset in (POOLED, *(info.id for info in data.datasets)):
        for task in data.tasks:
            for kind in ("scores", "sides", "ranks", "cost", "memory"):
                if dataset == POOLED and kind != "ranks":
                    continue
                chart = KINDS[kind](data, dataset, task.id)
                if chart is None:
                    continue
                spec = chart.properties(background="transparent").to_dict()
                drawing = follow_theme(svg(spec))
                spec["config"]["padding"] = {"left": 4, "top": 6, "right": 10, "bottom": 6}
                if kind in _FLUID:
                    spec["width"] = "container"
                    spec["autosize"] = {"type": "fit-x", "contains": "padding"}
                charts[kind, dataset, task.id] = Chart(
                    f"chart-{len(charts)}",
                    kind,
                    Markup(drawing),
                    _in_words(kind, dataset, task.id),
                    json.loads(follow_theme(json.dumps(spec))),
                )
    return charts


def _in_words(kind: str, dataset: str, task: str) -> str:
    says = {
        "scores": "Dot and interval of each method's score, best first; floor and ceiling dotted",
        "sides": "Each method by how well batches are mixed and how well types are kept",
        "ranks": "Rank of each method with its interval",
        "cost": "Score of each method against the seconds it took",
        "memory": "Score of each method against its peak memory",
    }[kind]
    where = "all datasets" if dataset == POOLED else dataset
    return f"{says}: {verdicts.spoken(task)}, {where}. The table below holds the values."


def json_for_script(value: object) -> str:
    """Return JSON that is safe inside a script element, whatever names it holds.

    Only ``<``, ``>``, ``&`` and the two line separators can end a script element or change how
    it is read; as escapes they mean the same to JSON.
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def content_security_policy(scripts: list[str]) -> str:
    """Forbid everything but the page's own scripts, by their hash, and pictures it carries.

    Should a name ever escape the escaping, its script would still not run, and nothing on the
    page can send anything anywhere.
    """
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in scripts
    )
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
        "font-src data:; base-uri 'none'; form-action 'none'"
    )


@cache
def charting_library() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script, as bundled with vl-convert.

    Carriage returns are normalised away: a browser drops them before it hashes a script.
    """
    import vl_convert

    bundle = str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))
    bundle = bundle.replace("\r\n", "\n").replace("\r", "\n")
    return bundle.replace("</script", "<\\/script").replace("<!--", "<\\!--")


@cache
def _template(name: str) -> str:
    return files("sclitmus.report").joinpath("templates", name).read_text(encoding="utf-8")


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


def flatten(tree: object, name: str = "") -> tuple[tuple[str, str], ...]:
    """Return the leaves of nested mappings as (``outer.inner``, text)."""
    if isinstance(tree, dict):
        return tuple(
            leaf
            for key, value in tree.items()
            for leaf in flatten(value, f"{name}.{key}" if name else str(key))
        )
    if isinstance(tree, list | tuple):
        return ((name, ", ".join(map(str, tree))),)
    return ((name, str(tree)),)
