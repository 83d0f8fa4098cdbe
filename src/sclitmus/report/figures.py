"""The charts: frames in, Vega-Lite out; the same for the page and for a figure in a paper."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from sclitmus.errors import StudyError
from sclitmus.report.colours import LIGHT
from sclitmus.report.content import ReportData
from sclitmus.report.marks import (
    SQUARE,
    chart_of,
    colour_by_role,
    finish,
    in_focus,
    named_points,
    names_axis,
    padded,
    points_by_role,
    tooltip,
)
from sclitmus.report.numbers import amount, interval, number

if TYPE_CHECKING:
    import altair as alt


_WIDE = 560


def figure(data: ReportData, kind: str, dataset: str, task: str) -> "alt.LayerChart":
    """Make one chart.

    Parameters
    ----------
    kind
        One of `KINDS`: ``scores`` (dot and interval, floor and ceiling), ``sides`` (batches
        mixed against types kept), ``ranks`` (with their intervals), ``cost`` and ``memory``
        (against the headline score), ``types`` (one value per type and method).
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
    chart = KINDS[kind](data, dataset, task)
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


def role_of(data: ReportData, method: str) -> str:
    """Return which of `ROLES` a method plays on the page."""
    part = data.cards[method].part
    return part if part in ("contender", "bar") else "control"


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


def _scores(data: ReportData, dataset: str, task: str) -> "alt.LayerChart | None":
    import altair as alt

    metric = _headline(data, task)
    frame = data.scores(dataset, task, metric).drop_nulls("value")
    if frame.is_empty():
        return None
    rows = [
        _mark(data, row["method"])
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
    title = _title(data, metric)
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
    return finish(alt.layer(*layers), _WIDE, 26 * len(rows))


def _ranks(data: ReportData, dataset: str, task: str) -> "alt.LayerChart | None":
    import altair as alt

    frame = _of(data.analysis.ranks, dataset, task).drop_nulls("rank").sort("rank")
    if frame.is_empty():
        return None
    rows = [
        _mark(data, row["method"])
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
    return finish(alt.layer(*layers), _WIDE, 24 * len(rows))


def _sides(data: ReportData, dataset: str, task: str) -> "alt.LayerChart | None":
    import altair as alt

    beside = next((t.beside for t in data.tasks if t.id == task), ())
    side_of = {m.id: m.side for m in data.metrics}
    batches = next((m for m in beside if side_of.get(m) == "batches"), None)
    types = next((m for m in beside if side_of.get(m) == "types"), None)
    if batches is None or types is None:
        return None
    across = data.scores(dataset, task, batches).select("method", x="value")
    up = data.scores(dataset, task, types).select("method", y="value")
    both = across.join(up, on="method").drop_nulls(["x", "y"])
    if both.is_empty():
        return None
    ends = np.array([*both["x"], *both["y"], 0.0, 1.0])
    beyond = ends.min() < 0 or ends.max() > 1
    domain = padded(ends.min(), ends.max()) if beyond else [0.0, 1.0]
    curves = [
        {"x": float(x), "y": float(level * x / (2 * x - level)), "level": level}
        for level in (0.2, 0.4, 0.6, 0.8)
        for x in np.geomspace(level / (2 - level), 1, 40)
    ]
    scale, axis = alt.Scale(domain=domain, nice=False), alt.Axis(tickCount=5)
    x_axis = alt.X("x:Q", title=_title(data, batches), scale=scale, axis=axis)
    y_axis = alt.Y("y:Q", title=_title(data, types), scale=scale, axis=axis)
    contours = (
        chart_of(curves)
        .mark_line(color=LIGHT["rule"], strokeWidth=1, clip=True)
        .encode(x=x_axis, y=y_axis, detail="level:N")
    )
    levels = (
        chart_of([c for c in curves if c["x"] == 1.0])
        .mark_text(align="left", dx=4, fontSize=10, color=LIGHT["muted"])
        .encode(x=x_axis, y=y_axis, text=alt.Text("level:Q", format=".1f"))
    )
    marks = [_mark(data, row["method"]) | row for row in both.iter_rows(named=True)]
    for mark in marks:
        mark["says"] = f"mixed {number(mark['x'])}, types kept {number(mark['y'])}"
    return finish(
        alt.layer(contours, levels, *named_points(marks, x_axis, y_axis, domain, domain, False)),
        SQUARE,
        SQUARE,
    )


def _cost(data: ReportData, dataset: str, task: str) -> "alt.LayerChart | None":
    return _against_cost(data, dataset, task, "seconds", "Time to embed (seconds, log)")


def _memory(data: ReportData, dataset: str, task: str) -> "alt.LayerChart | None":
    return _against_cost(data, dataset, task, "peak_rss_mb", "Peak memory (MB, log)")


def _against_cost(
    data: ReportData, dataset: str, task: str, column: str, title: str
) -> "alt.LayerChart | None":
    import altair as alt

    metric = _headline(data, task)
    cost = data.cost.filter(pl.col("dataset") == dataset).select("method", x=column)
    frame = (
        data.scores(dataset, task, metric)
        .select("method", y="value")
        .join(cost, on="method")
        .drop_nulls(["x", "y"])
        .filter(pl.col("x") > 0)
    )
    if frame.is_empty():
        return None
    marks = [_mark(data, row["method"]) | row for row in frame.iter_rows(named=True)]
    for mark in marks:
        mark["says"] = f"{amount(mark['x'])} {title.split('(')[1].split(',')[0]}"
    xs, ys = [m["x"] for m in marks], [m["y"] for m in marks]
    across = [min(xs) / 2, max(xs) * 2]
    up = padded(min(ys), max(ys))
    x_axis = alt.X(
        "x:Q",
        title=title,
        scale=alt.Scale(type="log", domain=across, nice=False),
        axis=alt.Axis(format=",~r", tickCount=4, grid=False, labelOverlap=True),
    )
    y_axis = alt.Y(
        "y:Q",
        title=_title(data, metric),
        scale=alt.Scale(domain=up, nice=False),
        axis=alt.Axis(tickCount=5),
    )
    return finish(alt.layer(*named_points(marks, x_axis, y_axis, across, up, True)), SQUARE, 280)


def _types(data: ReportData, dataset: str, task: str) -> "alt.LayerChart | None":
    import altair as alt

    frame = per_type(data, dataset, task)
    if frame.is_empty():
        return None
    hardest = frame.group_by("type").agg(pl.col("value").mean()).sort("value")["type"].to_list()
    keep = hardest[:40]
    values = [
        {"name": data.names[row["method"]], "type": row["type"], "value": row["value"]}
        for row in frame.filter(pl.col("type").is_in(keep)).iter_rows(named=True)
    ]
    base = chart_of(values).encode(
        x=alt.X(
            "name:N", title=None, sort=list(data.names.values()), axis=alt.Axis(labelAngle=-40)
        ),
        y=alt.Y("type:N", title=None, sort=keep, axis=names_axis()),
    )
    squares = base.mark_rect().encode(
        color=alt.Color("value:Q", scale=alt.Scale(range=["#eef3f6", LIGHT["accent"]]), legend=None)
    )
    shown = frame["value"].to_numpy()
    dark = float(shown.min() + 0.66 * (shown.max() - shown.min()))
    texts = base.mark_text(fontSize=10).encode(
        text=alt.Text("value:Q", format=".2f"),
        color=alt.condition(
            alt.datum.value > dark, alt.value(LIGHT["paper"]), alt.value(LIGHT["ink"])
        ),
    )
    columns = len({v["name"] for v in values})
    return finish(alt.layer(squares, texts), 52 * columns, 22 * len(keep))


def per_type(data: ReportData, dataset: str, task: str) -> pl.DataFrame:
    """Return (type, method, value) of the task's first metric that has one value per type."""
    rows = data.analysis.intervals.filter(
        pl.col("dataset") == dataset,
        pl.col("task") == task,
        pl.col("unit").str.starts_with("type:"),
    ).drop_nulls("value")
    if rows.is_empty():
        return pl.DataFrame(schema={"type": pl.String, "method": pl.String, "value": pl.Float64})
    present = rows["metric"].unique().to_list()
    order = [m.id for m in data.metrics if m.id in present] or sorted(present)
    return rows.filter(pl.col("metric") == order[0]).select(
        "method", "metric", "value", type=pl.col("unit").str.strip_prefix("type:")
    )


KINDS: Mapping[str, Callable[[ReportData, str, str], "alt.LayerChart | None"]] = {
    "scores": _scores,
    "sides": _sides,
    "ranks": _ranks,
    "cost": _cost,
    "memory": _memory,
    "types": _types,
}


def _of(frame: pl.DataFrame, dataset: str, task: str) -> pl.DataFrame:
    return frame.filter(pl.col("dataset") == dataset, pl.col("task") == task)


def _headline(data: ReportData, task: str) -> str:
    return next((t.headline for t in data.tasks if t.id == task), "")


def _title(data: ReportData, metric: str) -> str:
    card = data.metric(metric)
    if card is None:
        return metric
    arrow = "" if card.direction == "higher" else " (lower is better)"
    return f"{card.title}{arrow}"


def _mark(data: ReportData, method: str) -> dict[str, Any]:
    return {"name": data.names[method], "role": role_of(data, method)}
