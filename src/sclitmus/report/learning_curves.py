"""How the score grows with what was learned from: a few cells per type, then shares, then all."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sclitmus.core.metric import Metric
from sclitmus.report.colours import LIGHT
from sclitmus.report.content import ReportData
from sclitmus.report.curves import Curve, Frame, named_curves, room_for
from sclitmus.report.families import families, family_of, setting_of
from sclitmus.report.marks import WIDE, chart_of, finish, marked, padded
from sclitmus.report.numbers import interval
from sclitmus.report.settings import Amount, amounts, in_words

if TYPE_CHECKING:
    import altair as alt

CAPTION = (
    "Lines are methods, named at their ends, bands their 95% intervals; thick and bold are the "
    "models under test. The test cells are the same throughout, but for types with too few cells "
    "to take part."
)
_HEIGHT = 340
_STEP = 1.2  # between two shares, in doublings of the cells per type
_ROOM = 0.02  # beyond a metric's bounds, so that a mark on one is whole
_GAP = 1.5  # between the two panels


def learning(data: ReportData, dataset: str, task: str) -> "alt.LayerChart | None":
    """Draw the headline's family over the amounts learned from; None where it has no two."""
    import altair as alt

    family = family_of(data.headline(task))
    steps = learned_from(data, dataset, task)
    if len(steps) < 2 or task not in data.label_tasks:
        return None
    at = _places(steps)
    curves = _curves(data, dataset, task, family, at)
    if not curves:
        return None
    ends = [v for c in curves for p in c.points for v in p[1:4] if v is not None]
    last = max(at.values())
    names = [curve.mark["name"] for curve in curves]
    across = room_for(names, (min(at.values()) - 0.25, last), WIDE)
    up = _within(data.metric(data.headline(task)), padded(min(ends), max(ends)))
    axis = alt.Axis(
        values=list(at.values()),
        labelExpr=_labels(at),
        labelOverlap=False,
        grid=False,
        domain=False,
    )
    title = families(data, [f"{family}.{step.name}" for step in steps])[0].title
    x_look: dict[str, Any] = {
        "title": None,
        "scale": alt.Scale(domain=list(across), nice=False, zero=False),
        "axis": axis,
    }
    y_look: dict[str, Any] = {
        "title": title,
        "scale": alt.Scale(domain=up, nice=False, zero=False),
        "axis": alt.Axis(tickCount=5),
    }
    frame = Frame(across, (up[0], up[1]), WIDE, _HEIGHT)
    layers = [*_panels(at, alt.X("x:Q", **x_look)), *named_curves(curves, frame, x_look, y_look)]
    return finish(alt.layer(*layers), WIDE, _HEIGHT)


def _within(metric: Metric | None, up: list[float]) -> list[float]:
    """Cut a range where no score can be: the band of a few draws may reach beyond."""
    low, high = (-math.inf, math.inf) if metric is None else metric.bounds
    return [max(up[0], low - _ROOM), min(up[1], high + _ROOM)]


def learned_from(data: ReportData, dataset: str, task: str) -> list[Amount]:
    """Return the amounts that the headline's family has scores for, from few to all."""
    family = family_of(data.headline(task))
    scored = data.scored(dataset, task)
    return amounts(setting_of(metric) for metric in scored if family_of(metric) == family)


def _places(steps: Sequence[Amount]) -> Mapping[Amount, float]:
    """Cells per type by their logarithm, shares one step apart."""
    shots = [step for step in steps if step.kind == "shots"]
    places = {step: math.log2(step.number) for step in shots}
    begin = max(places.values()) + _GAP if shots else 0.0
    rest = [step for step in steps if step.kind != "shots"]
    return places | {step: begin + i * _STEP for i, step in enumerate(rest)}


def _curves(
    data: ReportData, dataset: str, task: str, family: str, at: Mapping[Amount, float]
) -> list[Curve]:
    rows = {
        step: {
            row["method"]: row
            for row in data.scores(dataset, task, f"{family}.{step.name}")
            .drop_nulls("value")
            .iter_rows(named=True)
        }
        for step in at
    }
    curves = []
    for method in data.cards:
        if data.role_of(method) == "control":
            continue  # the floor lies far below, and the table of scores has it
        mine = [(step, rows[step][method]) for step in at if method in rows[step]]
        points = tuple(
            (at[step], row["value"], row["low"], row["high"], int(step.kind != "shots"))
            for step, row in mine
        )
        says = tuple(
            f"{in_words([step])}: {interval(row['value'], row['low'], row['high'])}"
            for step, row in mine
        )
        if points:
            curves.append(Curve(marked(data, method), points, says))
    return curves


def _labels(at: Mapping[Amount, float]) -> str:
    """Return the expression that names the ticks: numbers only, no name of the user's."""
    says = {"shots": "{:g}", "share": "{:g}%", "all": "all"}
    text = "''"
    for step, x in at.items():
        label = says[step.kind].format(step.number)
        text = f"abs(datum.value - {x:.6f}) < 0.001 ? '{label}' : ({text})"
    return text


def _panels(at: Mapping[Amount, float], x_axis: "alt.X") -> list["alt.Chart"]:
    """Name the two parts of the plot, and draw a rule between them."""
    import altair as alt

    shots = [x for step, x in at.items() if step.kind == "shots"]
    rest = [x for step, x in at.items() if step.kind != "shots"]
    titles = []
    if shots:
        titles.append({"x": shots[0], "says": "cells per type (log scale)"})
    if rest:
        titles.append({"x": rest[0], "says": "of the training cells"})
    layers: list[alt.Chart] = [
        chart_of(titles)
        .mark_text(align="left", baseline="bottom", dy=-4, dx=-4, fontSize=12, color=LIGHT["muted"])
        .encode(x=x_axis, y=alt.value(0), text="says:N")
    ]
    if shots and rest:
        layers.append(
            chart_of([{"x": (shots[-1] + rest[0]) / 2}])
            .mark_rule(color=LIGHT["rule"], strokeWidth=1)
            .encode(x=x_axis)
        )
    return layers
