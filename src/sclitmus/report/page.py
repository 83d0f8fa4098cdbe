"""One HTML file that needs nothing else: it opens offline and asks no one for anything."""

import base64
import hashlib
import json
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup

from sclitmus.errors import StoreError
from sclitmus.report import answers, cards, coverage, sections, stability, verdicts
from sclitmus.report.colours import follow_theme, theme_css
from sclitmus.report.content import ReportData
from sclitmus.report.downloads import downloads
from sclitmus.report.figures import KINDS, Kind, svg
from sclitmus.report.pictures import pictures
from sclitmus.report.published import published_tables
from sclitmus.report.text import sentence_case, spoken
from sclitmus.stats.pooled import POOLED


@dataclass(frozen=True)
class Chart:
    """A chart twice: drawn, for every reader, and as the program that makes it interactive."""

    id: str
    kind: str
    drawing: Markup
    says: str
    spec: dict[str, Any]
    caption: str = ""


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
    environment.filters["sentence_case"] = sentence_case
    charts = make_charts(data)
    scripts = [charting_library(), _template("report.js")]
    parts = {
        info.id: [sections.task_part(data, info.id, task.id) for task in data.tasks]
        for info in data.datasets
    }
    pooled_ranks = [
        (task.id, spoken(task.id), table)
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
        answers={info.id: answers.answers(data, info.id) for info in data.datasets},
        pictures={info.id: pictures(data, info) for info in data.datasets},
        costs={info.id: sections.cost_table(data, info.id) for info in data.datasets},
        published=published_tables(data),
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
            for name, kind in KINDS.items():
                if not kind.on_page or (dataset == POOLED and name != "ranks"):
                    continue
                chart = kind.draw(data, dataset, task.id)
                if chart is None:
                    continue
                spec = chart.to_dict() | {"background": "transparent"}
                drawing = follow_theme(svg(spec))
                spec["config"]["padding"] = {"left": 4, "top": 6, "right": 10, "bottom": 6}
                if kind.fluid:
                    spec["width"] = "container"
                    spec["autosize"] = {"type": "fit-x", "contains": "padding"}
                charts[name, dataset, task.id] = Chart(
                    f"chart-{len(charts)}",
                    name,
                    Markup(drawing),
                    _in_words(kind, dataset, task.id),
                    json.loads(follow_theme(json.dumps(spec))),
                    _caption(data, kind, dataset, task.id),
                )
    return charts


def _in_words(kind: Kind, dataset: str, task: str) -> str:
    where = "all datasets" if dataset == POOLED else dataset
    return f"{kind.says}: {spoken(task)}, {where}. The table below holds the values."


def _caption(data: ReportData, kind: Kind, dataset: str, task: str) -> str:
    if isinstance(kind.caption, str):
        return kind.caption
    return kind.caption(data, dataset, task)


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
