"""The charts: frames in, Vega-Lite out; the same for the page and for a figure in a paper."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sclitmus.errors import StudyError
from sclitmus.report import (
    confidence,
    confusion,
    groups,
    learning_curves,
    open_set,
    per_unit,
    planes,
    standings,
)
from sclitmus.report.content import ReportData

if TYPE_CHECKING:
    import altair as alt

    Drawing = alt.LayerChart | alt.ConcatChart


@dataclass(frozen=True)
class Kind:
    """A kind of chart.

    Attributes
    ----------
    draw
        Takes the study, a dataset and a task; None where there is nothing to show.
    says
        What it shows, for those who do not see it.
    caption
        What stands above it on the page, or what says so of a study, a dataset and a task.
    fluid
        Whether it is laid out anew for the width at hand; the others keep their shape.
    on_page
        Whether the page has it; the others only go to files.
    """

    draw: "Callable[[ReportData, str, str], Drawing | None]"
    says: str
    caption: str | Callable[[ReportData, str, str], str] = ""
    fluid: bool = False
    on_page: bool = True


KINDS: Mapping[str, Kind] = {
    "scores": Kind(
        standings.scores,
        "Dot and interval of each method's score, best first; floor and ceiling dotted",
        fluid=True,
    ),
    "sides": Kind(
        planes.sides, "Each method by how well batches are mixed and how well types are kept"
    ),
    "ranks": Kind(standings.ranks, "Rank of each method with its interval", fluid=True),
    "cost": Kind(planes.cost, "Score of each method against the seconds it took"),
    "memory": Kind(planes.memory, "Score of each method against its peak memory"),
    "types": Kind(per_unit.types, "One value per type and method", on_page=False),
    "learning": Kind(
        learning_curves.learning,
        "Each method's score against how many cells it learned from, with intervals",
        learning_curves.CAPTION,
        fluid=True,
    ),
    "confusion": Kind(confusion.contender, "What the best model under test took each type for"),
    "confusion_bar": Kind(confusion.bar, "What the best simple baseline took each type for"),
    "groups": Kind(
        groups.by_group, "Each method's score on each group that was held out", groups.caption
    ),
    "novel": Kind(
        open_set.novel, "How well each held-out type was told from the known", open_set.caption
    ),
    "reliability": Kind(
        confidence.reliability,
        "Share of cells called right against confidence, before and after temperature scaling",
        confidence.RELIABILITY,
    ),
    "risk": Kind(
        confidence.risk,
        "Share of errors against the share of cells kept, for each method",
        confidence.RISK,
        fluid=True,
    ),
}


def figure(data: ReportData, kind: str, dataset: str, task: str) -> "Drawing":
    """Make one chart.

    Parameters
    ----------
    kind
        One of `KINDS`: ``scores`` (dot and interval, floor and ceiling), ``sides`` (batches
        mixed against types kept), ``ranks`` (with their intervals), ``cost`` and ``memory``
        (against the headline score), ``types`` (one value per type and method); where labels are
        learned ``learning`` (the score against how much was learned from), ``confusion`` and
        ``confusion_bar`` (of the best model under test, and the best simple baseline), ``groups``
        (each held-out group), ``novel`` (each held-out type), ``reliability`` and ``risk``
        (what confidence is worth).
    dataset, task
        Which part of the study; `stats.pooled.POOLED` for all datasets where the frames have it.

    Raises
    ------
    StudyError
        If there is no such kind, or nothing to draw.
    """
    if kind not in KINDS:
        raise StudyError(
            f"a figure of kind {kind!r}", f"one of {', '.join(KINDS)}", "choose one of these kinds"
        )
    chart = KINDS[kind].draw(data, dataset, task)
    if chart is None:
        raise StudyError(
            f"no values for a {kind} figure of {task} on {dataset}",
            "at least one method with a value",
            "look at the coverage matrix of the report for the reason",
        )
    return chart


def save_figure(chart: "alt.TopLevelMixin", path: Path) -> Path:
    """Write a chart as ``.svg`` or ``.png`` (at twice its size), by its file name.

    Raises
    ------
    StudyError
        If the name ends otherwise.
    """
    import vl_convert

    path = Path(path)
    if path.suffix == ".svg":
        content = svg(chart.to_dict()).encode()
    elif path.suffix == ".png":
        content = vl_convert.vegalite_to_png(chart.to_dict(), scale=2, allowed_base_urls=[])
    else:
        raise StudyError(
            f"a figure called {path.name}", "a name that ends in .svg or .png", "rename it"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def svg(spec: dict[str, Any]) -> str:
    """Draw a Vega-Lite specification; nothing is fetched."""
    import vl_convert

    return str(vl_convert.vegalite_to_svg(spec, allowed_base_urls=[]))
