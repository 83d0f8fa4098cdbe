"""Marks the charts share: what a role looks like, names beside points, the axes."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sclitmus.report.colours import LIGHT
from sclitmus.report.content import ReportData
from sclitmus.report.placement import Align, place_labels

if TYPE_CHECKING:
    import altair as alt

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

ROLES = ("contender", "bar", "control")
"""What a mark's colour and shape say; floor, ceiling and canary are all controls."""

# Text needs more contrast than a mark.
TEXT = {"contender": "accent", "bar": "rival", "control": "muted"}

FOCUS = "focus"
"""Name of the charts' parameter that holds the method the page's reader points at."""

# The reader's font may be wider than the one a chart was drawn with; names stand on the left.
_PADDING = {"left": 24, "top": 6, "right": 10, "bottom": 6}
SQUARE = 380  # pixels, of a chart whose both axes are scores
WIDE = 560


def chart_of(rows: Sequence[Mapping[str, Any]]) -> "alt.Chart":
    import altair as alt

    return alt.Chart(alt.Data(values=list(rows)))  # type: ignore[no-untyped-call]  # altair's own


def marked(data: ReportData, method: str) -> dict[str, Any]:
    """Return what every mark of a method carries."""
    return {"name": data.names[method], "role": data.role_of(method)}


def padded(low: float, high: float) -> list[float]:
    room = max((high - low) * 0.06, 0.01)
    return [float(low - room), float(high + room)]


def colour_by_role() -> "alt.Color":
    import altair as alt

    colours = [LIGHT["accent"], LIGHT["rival"], LIGHT["control"]]
    return alt.Color("role:N", scale=alt.Scale(domain=ROLES, range=colours), legend=None)


def in_focus(opacity: float, else_opacity: float = 0.12) -> Any:
    """Faint where the page puts another method into focus; a file has none in focus."""
    import altair as alt

    return alt.condition(
        f"{FOCUS} == '' || datum.name == {FOCUS}", alt.value(opacity), alt.value(else_opacity)
    )


def points_by_role(chart: "alt.Chart", size: float | None = None) -> "alt.Chart":
    """Points whose shape says the role too; `size`, in square pixels, where all are of one role."""
    import altair as alt

    shapes = alt.Scale(domain=ROLES, range=["circle", "diamond", "square"])
    sizes = alt.Scale(domain=ROLES, range=[100, 70, 45])
    by_role = alt.Size("role:O", scale=sizes, legend=None)
    points: alt.Chart = chart.mark_point(filled=True).encode(
        color=colour_by_role(),
        opacity=in_focus(1.0),
        shape=alt.Shape("role:N", scale=shapes, legend=None),
        size=by_role if size is None else alt.value(size),
    )
    return points


def named_points(
    marks: list[dict[str, Any]],
    x_axis: "alt.X",
    y_axis: "alt.Y",
    across: list[float],
    up: list[float],
    log: bool,
) -> list["alt.Chart"]:
    """Points with their names beside them, placed so that names do not cover one another."""
    import altair as alt

    width, height = float(SQUARE), float(280 if log else SQUARE)
    x = np.array([m["x"] for m in marks], dtype=np.float64)
    y = np.array([m["y"] for m in marks], dtype=np.float64)
    left, right = np.log(across) if log else across
    px = ((np.log(x) if log else x) - left) / (right - left) * width
    py = (up[1] - y) / (up[1] - up[0]) * height
    shown = [short(m["name"]) for m in marks]
    widths = np.array([6.4 * len(name) for name in shown])
    places = place_labels(px, py, widths, (width, height))
    groups: dict[tuple[Align, str], list[dict[str, Any]]] = {}
    for mark, name, place in zip(marks, shown, places, strict=True):
        spot = left + place.x / width * (right - left)
        at_x = float(np.exp(spot) if log else spot)
        at_y = float(up[1] - place.y / height * (up[1] - up[0]))
        group = groups.setdefault((place.align, mark["role"]), [])
        group.append({"name": mark["name"], "says": name, "x": at_x, "y": at_y})
    layers: list[alt.Chart] = [
        chart_of(at)
        .mark_text(align=align, baseline="middle", fontSize=12, color=LIGHT[TEXT[role]])
        .encode(x=x_axis, y=y_axis, text="says:N", opacity=in_focus(1.0))
        for (align, role), at in groups.items()
    ]
    base = chart_of(marks).encode(x=x_axis, y=y_axis, **tooltip("says"))
    return [*layers, points_by_role(base)]


def short(name: str) -> str:
    return name if len(name) <= 26 else f"{name[:25]}…"


def names_axis(**changes: Any) -> "alt.Axis":
    """Return an axis of names; `changes` are properties of it that are different here."""
    import altair as alt

    look: dict[str, Any] = {
        "labelLimit": 150,
        "labelFontSize": 13,
        "labelColor": LIGHT["ink"],
        "ticks": False,
        "domain": False,
        "labelPadding": 8,
        "grid": False,
    }
    return alt.Axis(**look | changes)


def tooltip(says: str) -> dict[str, Any]:
    import altair as alt

    return {"tooltip": [alt.Tooltip("name:N", title="method"), alt.Tooltip(f"{says}:N", title=" ")]}


def finish(chart: Any, width: int, height: int) -> "alt.LayerChart":
    """Give a chart its size, and the look of them all."""
    finished: alt.LayerChart = _dressed(chart, width=width, height=max(height, 40))
    return finished


def finish_panels(panels: Sequence[Any], columns: int) -> "alt.ConcatChart":
    """Put charts of one kind side by side, so many in a row, with the look of them all."""
    import altair as alt

    spacing = {"row": 22, "column": 14}
    finished: alt.ConcatChart = _dressed(alt.concat(*panels, columns=columns, spacing=spacing))
    return finished


def panel_title(text: str, width: int, offset: int = 6) -> "alt.Title":
    """Return the heading of a panel, cut to its width, so far above it."""
    import altair as alt

    return alt.Title(
        text, anchor="start", limit=width, fontSize=12, fontWeight="normal",
        color=LIGHT["ink"], offset=offset,
    )  # fmt: skip


def _dressed(chart: Any, **size: int) -> Any:
    import altair as alt

    axis = {
        "gridColor": LIGHT["rule"],
        "gridOpacity": 0.7,
        "domainColor": LIGHT["rule"],
        "tickColor": LIGHT["rule"],
        "labelColor": LIGHT["muted"],
        "titleColor": LIGHT["muted"],
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "titlePadding": 8,
    }
    # Each of these calls copies the whole chart, so there are few.
    return (
        chart.add_params(alt.param(name=FOCUS, value=""))
        .properties(background=LIGHT["paper"], **size)
        .configure(
            font=FONT, aria=False, padding=_PADDING, view=alt.ViewConfig(stroke=None), axis=axis
        )
    )
