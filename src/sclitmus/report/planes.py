"""Charts of two numbers per method: batches against types, the score against what it cost."""

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from sclitmus.report.colours import LIGHT
from sclitmus.report.content import ReportData
from sclitmus.report.marks import SQUARE, chart_of, finish, marked, named_points, padded
from sclitmus.report.numbers import amount, number

if TYPE_CHECKING:
    import altair as alt


def sides(data: ReportData, dataset: str, task: str) -> "alt.LayerChart | None":
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
    x_axis = alt.X("x:Q", title=data.title(batches), scale=scale, axis=axis)
    y_axis = alt.Y("y:Q", title=data.title(types), scale=scale, axis=axis)
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
    marks = [marked(data, row["method"]) | row for row in both.iter_rows(named=True)]
    for mark in marks:
        mark["says"] = f"mixed {number(mark['x'])}, types kept {number(mark['y'])}"
    return finish(
        alt.layer(contours, levels, *named_points(marks, x_axis, y_axis, domain, domain, False)),
        SQUARE,
        SQUARE,
    )


def cost(data: ReportData, dataset: str, task: str) -> "alt.LayerChart | None":
    return _against_cost(data, dataset, task, "seconds", "Time to embed (seconds, log)")


def memory(data: ReportData, dataset: str, task: str) -> "alt.LayerChart | None":
    return _against_cost(data, dataset, task, "peak_rss_mb", "Peak memory (MB, log)")


def _against_cost(
    data: ReportData, dataset: str, task: str, column: str, title: str
) -> "alt.LayerChart | None":
    import altair as alt

    if task in data.label_tasks:
        return (
            None  # seconds of an embedding, and of learning labels a hundred times, do not compare
        )
    metric = data.headline(task)
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
    marks = [marked(data, row["method"]) | row for row in frame.iter_rows(named=True)]
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
        title=data.title(metric),
        scale=alt.Scale(domain=up, nice=False),
        axis=alt.Axis(tickCount=5),
    )
    return finish(alt.layer(*named_points(marks, x_axis, y_axis, across, up, True)), SQUARE, 280)
