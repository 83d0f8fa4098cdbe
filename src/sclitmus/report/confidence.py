"""What confidence is worth: reliability diagrams, and errors against the share of cells kept."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sclitmus.report.colours import LIGHT
from sclitmus.report.content import ReportData
from sclitmus.report.curves import Curve, Frame, named_curves, room_for
from sclitmus.report.marks import (
    WIDE,
    chart_of,
    finish,
    finish_panels,
    in_focus,
    marked,
    padded,
    panel_title,
    tooltip,
)
from sclitmus.report.numbers import number
from sclitmus.report.open_set import panel_methods
from sclitmus.report.rivals import logistic_regressions

if TYPE_CHECKING:
    import altair as alt

SCALED = ".scaled"
_PANEL = 165  # pixels
_COLUMNS = 5
_STATES = {"": "as predicted", SCALED: "after temperature scaling"}

RELIABILITY = (
    "Share of cells called right against the confidence they were called with. On the dotted line "
    "confidence means what it says, below it is too high. Solid line and dots: as predicted; "
    "dashed line and rings: after temperature scaling. A large mark stands for many cells."
)
RISK = (
    "Where the least sure cells are left unnamed, fewer of the others are wrong: the lower the "
    "curve, and the more it falls to the left, the more confidence is worth."
)


def reliability(data: ReportData, dataset: str, task: str) -> "alt.ConcatChart | None":
    """Draw accuracy against confidence, before and after temperature scaling, panel by method."""
    methods = reliable_methods(data, dataset, task)
    bins = {
        method: [row for suffix in _STATES for row in _bins(data, dataset, task, method, suffix)]
        for method in methods
    }
    drawn = {method: rows for method, rows in bins.items() if rows}
    if not drawn:
        return None
    most = max(row["cells"] for rows in drawn.values() for row in rows)
    panels = [
        _diagram(rows, data.names[method], most, first=i % _COLUMNS == 0)
        for i, (method, rows) in enumerate(drawn.items())
    ]
    return finish_panels(panels, _COLUMNS)


def reliable_methods(data: ReportData, dataset: str, task: str) -> list[str]:
    """Return the best models under test and the two logistic regressions on genes."""
    best = panel_methods(data, dataset, task)
    return list(dict.fromkeys([*best, *logistic_regressions(data)]))


def risk(data: ReportData, dataset: str, task: str) -> "alt.LayerChart | None":
    """Draw the share of errors among the cells kept, surest first."""
    import altair as alt

    frame = data.units(dataset, task, "risk", "coverage")
    curves = []
    for method in data.cards:
        mine = [row for row in frame.iter_rows(named=True) if row["method"] == method]
        at = sorted((float(row["name"]), row["value"]) for row in mine)
        if at and data.role_of(method) != "control":
            points = tuple((x, y, None, None, 0) for x, y in at)
            says = tuple(f"errors {number(y)} among the {x:.0%} surest" for x, y in at)
            curves.append(Curve(marked(data, method), points, says))
    if not curves:
        return None
    ys = [point[1] for curve in curves for point in curve.points]
    across = room_for([curve.mark["name"] for curve in curves], (0.0, 1.0), WIDE)
    up = padded(0.0, max(*ys, 0.01))
    up[0] = 0.0
    x_look = {
        "title": "share of the known cells kept, surest first",
        "scale": alt.Scale(domain=list(across), nice=False),
        "axis": alt.Axis(
            values=[0, 0.25, 0.5, 0.75, 1], format="%", titleAnchor="start", grid=False
        ),
    }
    y_look = {
        "title": "errors among them",
        "scale": alt.Scale(domain=up, nice=False),
        "axis": alt.Axis(tickCount=5),
    }
    frame_of = Frame(across, (up[0], up[1]), WIDE, 280)
    return finish(alt.layer(*named_curves(curves, frame_of, x_look, y_look)), WIDE, 280)


def _bins(
    data: ReportData, dataset: str, task: str, method: str, suffix: str
) -> list[dict[str, Any]]:
    parts = {}
    for name in ("bin_confidence", "bin_accuracy", "bin_cells"):
        frame = data.units(dataset, task, f"{name}{suffix}", "bin")
        rows = frame.iter_rows(named=True)
        parts[name] = {row["name"]: row["value"] for row in rows if row["method"] == method}
    return [
        marked(data, method)
        | {
            "x": parts["bin_confidence"][name],
            "y": accuracy,
            "cells": parts["bin_cells"][name],
            "state": _STATES[suffix],
            "says": f"{_STATES[suffix]}: confidence {number(parts['bin_confidence'][name])}, "
            f"right {number(accuracy)}, {parts['bin_cells'][name]:,.0f} cells",
        }
        for name, accuracy in sorted(parts["bin_accuracy"].items())
        if name in parts["bin_confidence"] and name in parts["bin_cells"]
    ]


def _diagram(
    rows: Sequence[dict[str, Any]], name: str, most: float, *, first: bool
) -> "alt.LayerChart | alt.FacetChart":
    import altair as alt

    scale = alt.Scale(domain=[0, 1], nice=False)
    axis = alt.Axis(values=[0, 0.5, 1], format=".1f")
    x = alt.X("x:Q", title="confidence", scale=scale, axis=axis)
    y = alt.Y("y:Q", title="called right" if first else None, scale=scale, axis=axis)
    diagonal = (
        chart_of([{"x": 0.0, "y": 0.0}, {"x": 1.0, "y": 1.0}])
        .mark_line(strokeDash=[2, 3], strokeWidth=1.2, color=LIGHT["control"])
        .encode(x=x, y=y)
    )
    ink = {"contender": "accent", "bar": "rival", "control": "control"}[rows[0]["role"]]
    layers: list[alt.Chart] = [diagonal]
    size = alt.Size("cells:Q", scale=alt.Scale(domain=[0, most], range=[8, 130]), legend=None)
    for state, dash in zip(_STATES.values(), ([1, 0], [4, 3]), strict=True):
        mine = [row for row in rows if row["state"] == state]
        if not mine:
            continue
        base = chart_of(mine).encode(x=x, y=y, **tooltip("says"))
        layers.append(
            base.mark_line(strokeWidth=1.6, strokeDash=dash, color=LIGHT[ink]).encode(
                opacity=in_focus(0.8)
            )
        )
        filled = state == _STATES[""]
        layers.append(
            base.mark_point(
                filled=filled, shape="circle", color=LIGHT[ink], strokeWidth=1.4
            ).encode(size=size, opacity=in_focus(1.0))
        )
    return alt.layer(*layers).properties(
        width=_PANEL, height=_PANEL, title=panel_title(name, _PANEL)
    )
