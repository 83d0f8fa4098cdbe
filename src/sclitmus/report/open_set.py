"""How well each held-out type is told from the known ones: models under test over the bars."""

from typing import TYPE_CHECKING, Any

import polars as pl

from sclitmus.report.colours import LIGHT
from sclitmus.report.content import ReportData
from sclitmus.report.marks import (
    chart_of,
    colour_by_role,
    finish_panels,
    in_focus,
    marked,
    names_axis,
    padded,
    panel_title,
    points_by_role,
    tooltip,
)
from sclitmus.report.numbers import interval
from sclitmus.report.per_unit import hardest_first
from sclitmus.report.text import listed

if TYPE_CHECKING:
    import altair as alt

NOVEL = "novel_types"
"""The task in which types are held out."""

KINDS_OF_UNIT = ("type", "lineage")
MOST_PANELS = 3
"""Methods that get a panel of their own; the best ones."""

_WIDTHS = {1: 420, 2: 340, 3: 250}  # pixels of a panel, by how many there are
_NEARNESS = ("near", "far")


def novel(data: ReportData, dataset: str, task: str) -> "alt.ConcatChart | None":
    """Draw the headline per held-out type, one panel per model; None where none was held out."""
    import altair as alt

    if task != NOVEL:
        return None
    frame = _held_out(data, dataset, task)
    panels = panel_methods(data, dataset, task)
    if frame.is_empty() or not panels:
        return None
    metric = data.headline(task)
    order = hardest_first(data, frame, metric)
    bars = {m for m in data.cards if data.cards[m].part == "bar"}
    shown = frame.filter(pl.col("method").is_in([*panels, *bars]))
    rows = [
        marked(data, row["method"])
        | {
            "type": row["name"],
            "value": row["value"],
            "low": row["value"] if row["low"] is None else row["low"],
            "high": row["value"] if row["high"] is None else row["high"],
            "says": f"{row['name']}: {interval(row['value'], row['low'], row['high'])}",
        }
        for row in shown.iter_rows(named=True)
    ]
    card = data.metric(metric)
    chance = None if card is None else card.chance
    ends = [row[end] for row in rows for end in ("low", "high")]
    ends += [] if chance is None else [chance]
    scale = alt.Scale(domain=padded(min(ends), max(ends)), nice=False, zero=False)
    width = _WIDTHS[len(panels)]
    drawn = []
    for i, method in enumerate(panels):
        name = data.names[method]
        mine = [row for row in rows if row["name"] == name]
        others = [{**row, "role": "bar"} for row in rows if row["name"] != name]
        others = [row for row in others if row["name"] in {data.names[m] for m in bars}]
        layers = _panel(mine, others, order, scale, chance, first=i == 0)
        height = 22 * len(order)
        drawn.append(
            alt.layer(*layers).properties(
                width=width, height=height, title=panel_title(name, width, 20)
            )
        )
    return finish_panels(drawn, MOST_PANELS)


def caption(data: ReportData, dataset: str, task: str) -> str:
    """Say what the dots are."""
    panels = panel_methods(data, dataset, task)
    rest = [m for m in _models(data, dataset, task) if m not in panels] if data.contenders else []
    title = data.title(data.headline(task))
    text = f"{title}, for each type held out, hardest first. "
    text += "Large dots with a 95% interval: the method named above; diamonds: "
    text += "the simple baselines" if data.contenders else "the other simple baselines"
    text += ", which the table of types names."
    if rest:
        text += f" Without {listed([data.names[m] for m in rest])}."
    return text


def panel_methods(data: ReportData, dataset: str, task: str) -> list[str]:
    """Return the best models under test, or the best simple baselines where there are none."""
    return _models(data, dataset, task)[:MOST_PANELS]


def _models(data: ReportData, dataset: str, task: str) -> list[str]:
    tested = data.leaders(dataset, task, "contender")
    tested = [method for method in tested if method in data.under_test]
    return tested or data.leaders(dataset, task, "bar")


def _held_out(data: ReportData, dataset: str, task: str) -> pl.DataFrame:
    """Return the headline of each held-out type and lineage, named with how near it is."""
    parts = []
    for kind in KINDS_OF_UNIT:
        near = {
            name: word
            for word in _NEARNESS
            for name in data.units(dataset, task, f"auroc_{word}", kind)["name"]
        }
        frame = data.units(dataset, task, data.headline(task), kind)
        suffix = " lineage" if kind == "lineage" else ""
        words = [
            f"{name}{suffix}{f' ({near[name]})' if name in near else ''}" for name in frame["name"]
        ]
        parts.append(frame.with_columns(name=pl.Series("name", words, dtype=pl.String)))
    return pl.concat(parts)


def _panel(
    mine: list[dict[str, Any]],
    others: list[dict[str, Any]],
    order: list[str],
    scale: "alt.Scale",
    chance: float | None,
    *,
    first: bool,
) -> list["alt.Chart"]:
    import altair as alt

    look = {"labelFontSize": 12, "labelLimit": 190, "grid": True}
    y = alt.Y(
        "type:N",
        title=None,
        scale=alt.Scale(domain=order),
        axis=names_axis(**look, labels=first),
    )
    axis = alt.Axis(tickCount=4)
    x = alt.X("value:Q", title=None, scale=scale, axis=axis)
    layers: list[alt.Chart] = []
    if chance is not None:
        layers += [
            chart_of([{"value": chance}])
            .mark_rule(strokeDash=[2, 3], strokeWidth=1.5, color=LIGHT["control"])
            .encode(x=x),
        ]
        layers.append(
            chart_of([{"value": chance, "says": "chance"}])
            .mark_text(dy=-4, baseline="bottom", fontSize=11, color=LIGHT["muted"])
            .encode(x=x, y=alt.value(0), text="says:N")
        )
    if others:
        around = chart_of(others).encode(x=x, y=y, **tooltip("says"))
        layers.append(points_by_role(around, 32))
    base = chart_of(mine).encode(y=y, **tooltip("says"))
    layers.append(
        base.mark_rule(strokeWidth=2.5, strokeCap="round").encode(
            x=alt.X("low:Q", title=None, scale=scale, axis=axis),
            x2="high:Q",
            color=colour_by_role(),
            opacity=in_focus(0.55),
        )
    )
    layers.append(points_by_role(base.encode(x=x)))
    return layers
