"""Charts of one number per method: scores and ranks, each with its interval."""

from typing import TYPE_CHECKING, Any

import polars as pl

from sclitmus.report.colours import LIGHT
from sclitmus.report.content import ReportData
from sclitmus.report.marks import (
    WIDE,
    chart_of,
    colour_by_role,
    finish,
    in_focus,
    marked,
    names_axis,
    padded,
    points_by_role,
    tooltip,
)
from sclitmus.report.numbers import interval

if TYPE_CHECKING:
    import altair as alt


def span_of(data: ReportData, scores: pl.DataFrame) -> dict[str, tuple[str, float]]:
    """Return the best value among the floor methods and among the ceiling methods, with its name.

    The best floor, because a model that beats one random embedding and not the other has not
    left the floor.
    """
    found: dict[str, tuple[str, float]] = {}
    for row in scores.drop_nulls("value").iter_rows(named=True):
        part = data.cards[row["method"]].part
        if part in ("floor", "ceiling") and part not in found:
            found[part] = (data.names[row["method"]], float(row["value"]))
    return found


def scores(data: ReportData, dataset: str, task: str) -> "alt.LayerChart | None":
    import altair as alt

    metric = data.headline(task)
    frame = data.scores(dataset, task, metric).drop_nulls("value")
    if frame.is_empty():
        return None
    rows = [
        marked(data, row["method"])
        | {
            "value": row["value"],
            "low": row["low"] if row["low"] is not None else row["value"],
            "high": row["high"] if row["high"] is not None else row["value"],
            "says": interval(row["value"], row["low"], row["high"]),
        }
        for row in frame.iter_rows(named=True)
    ]
    span = span_of(data, frame)
    ends = [r[k] for r in rows for k in ("low", "high")] + [v for _, v in span.values()]
    scale = alt.Scale(domain=padded(min(ends), max(ends)), nice=False, zero=False)
    order = [r["name"] for r in rows]
    base = chart_of(rows).encode(
        y=alt.Y("name:N", sort=order, title=None, axis=names_axis()), **tooltip("says")
    )
    title = data.title(metric)
    axis = alt.Axis(tickCount=6)
    x = alt.X("value:Q", title=title, scale=scale, axis=axis)
    layers: list[Any] = [
        chart_of([{"value": value, "end": end}])
        .mark_rule(strokeDash=[2, 3], strokeWidth=1.5, color=LIGHT["control"])
        .encode(x=x)
        for end, (_, value) in span.items()
    ]
    layers += [
        chart_of([{"value": value, "says": end}])
        .mark_text(dy=-8, baseline="bottom", fontSize=11, color=LIGHT["muted"])
        .encode(x=x, y=alt.value(0), text="says:N")
        for end, (_, value) in span.items()
    ]
    layers.append(
        base.mark_rule(strokeWidth=2.5, strokeCap="round").encode(
            x=alt.X("low:Q", title=title, scale=scale, axis=axis),
            x2="high:Q",
            color=colour_by_role(),
            opacity=in_focus(0.55),
        )
    )
    layers.append(points_by_role(base.encode(x=x)))
    return finish(alt.layer(*layers), WIDE, 26 * len(rows))


def ranks(data: ReportData, dataset: str, task: str) -> "alt.LayerChart | None":
    import altair as alt

    frame = (
        data.analysis.ranks.filter(pl.col("dataset") == dataset, pl.col("task") == task)
        .drop_nulls("rank")
        .sort("rank")
    )
    if frame.is_empty():
        return None
    rows = [
        marked(data, row["method"])
        | {
            "rank": row["rank"],
            "low": row["rank_low"] if row["rank_low"] is not None else row["rank"],
            "high": row["rank_high"] if row["rank_high"] is not None else row["rank"],
            "group": f"group {row['group']}",
            "says": f"rank {row['rank']:g}, tie group {row['group']}",
        }
        for row in frame.iter_rows(named=True)
    ]
    last = max(len(rows), *(r["high"] for r in rows))
    scale = alt.Scale(domain=[0.5, last + 0.5], nice=False, zero=False)
    axis = alt.Axis(format="d", tickMinStep=1, values=list(range(1, int(last) + 1)))
    base = chart_of(rows).encode(
        y=alt.Y("name:N", sort=[r["name"] for r in rows], title=None, axis=names_axis()),
        **tooltip("says"),
    )
    layers = [
        base.mark_rule(strokeWidth=2.5, strokeCap="round").encode(
            x=alt.X("low:Q", title="Rank (1 is best)", scale=scale, axis=axis),
            x2="high:Q",
            color=colour_by_role(),
            opacity=in_focus(0.55),
        ),
        points_by_role(
            base.encode(x=alt.X("rank:Q", title="Rank (1 is best)", scale=scale, axis=axis))
        ),
    ]
    return finish(alt.layer(*layers), WIDE, 24 * len(rows))
