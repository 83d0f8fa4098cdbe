"""The headline on each group that was held out: one panel per group, the methods below another."""

from typing import TYPE_CHECKING, Any

import polars as pl

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

if TYPE_CHECKING:
    import altair as alt

MOST_PANELS = 12
"""Groups that are drawn; of more, the hardest."""

_COLUMNS = 5
_PANEL = 150  # pixels


def by_group(data: ReportData, dataset: str, task: str) -> "alt.ConcatChart | None":
    """Draw each method's score on each group with its interval; None without groups."""
    import altair as alt

    if task not in data.label_tasks:
        return None
    frame = data.units(dataset, task, data.headline(task), "group")
    # The floor lies far below, and the table of groups has it.
    controls = [method for method in data.cards if data.role_of(method) == "control"]
    frame = frame.filter(~pl.col("method").is_in(controls))
    if frame.is_empty():
        return None
    groups = hardest_first(data, frame, data.headline(task))[:MOST_PANELS]
    best_first = data.scores(dataset, task, data.headline(task))["method"].to_list()
    order = [data.names[m] for m in best_first if m in set(frame["method"])]
    rows = [
        marked(data, row["method"])
        | {
            "group": row["name"],
            "value": row["value"],
            "low": row["value"] if row["low"] is None else row["low"],
            "high": row["value"] if row["high"] is None else row["high"],
            "says": f"{row['name']}: {interval(row['value'], row['low'], row['high'])}",
        }
        for row in frame.iter_rows(named=True)
        if row["name"] in groups
    ]
    ends = [row[end] for row in rows for end in ("low", "high")]
    scale = alt.Scale(domain=padded(min(ends), max(ends)), nice=False, zero=False)
    columns = len(groups) if len(groups) <= _COLUMNS else _COLUMNS - 1
    panels = []
    for i, group in enumerate(groups):
        mine = [row for row in rows if row["group"] == group]
        first = i % columns == 0
        panel = _panel(mine, order, scale, first)
        panels.append(panel.properties(title=panel_title(group, _PANEL)))
    return finish_panels(panels, columns)


def caption(data: ReportData, dataset: str, task: str) -> str:
    """Say what the panels show, and which are left out."""
    frame = data.units(dataset, task, data.headline(task), "group")
    n = len(set(frame["name"]))
    title = data.title(data.headline(task)).split(", ")[0]
    text = f"{title} on each group, learned from the others, with 95% intervals; hardest first."
    if n > MOST_PANELS:
        text += f" {n - MOST_PANELS} easier groups are in the downloads."
    return text


def _panel(
    rows: list[dict[str, Any]], order: list[str], scale: "alt.Scale", first: bool
) -> "alt.LayerChart | alt.FacetChart":
    import altair as alt

    axis = alt.Axis(tickCount=3)
    names = names_axis(labelFontSize=12, labelLimit=190, labels=first, grid=True)
    base = chart_of(rows).encode(
        y=alt.Y("name:N", title=None, scale=alt.Scale(domain=order), axis=names), **tooltip("says")
    )
    rules = base.mark_rule(strokeWidth=2, strokeCap="round").encode(
        x=alt.X("low:Q", title=None, scale=scale, axis=axis),
        x2="high:Q",
        color=colour_by_role(),
        opacity=in_focus(0.55),
    )
    points = points_by_role(base.encode(x=alt.X("value:Q", title=None, scale=scale, axis=axis)))
    return alt.layer(rules, points).properties(width=_PANEL, height=19 * len(order))
