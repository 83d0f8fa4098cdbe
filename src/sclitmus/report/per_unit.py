"""Scores of single types and groups: which metric is shown, as a table and as a chart."""

from typing import TYPE_CHECKING

import polars as pl

from sclitmus.report.colours import LIGHT
from sclitmus.report.content import ReportData
from sclitmus.report.families import family_of, setting_of
from sclitmus.report.grid import Cell, Column, Table
from sclitmus.report.marks import chart_of, finish, names_axis
from sclitmus.report.settings import amounts
from sclitmus.report.text import mid_sentence, sentence_case, spoken

if TYPE_CHECKING:
    import altair as alt

MOST_UNITS = 30
"""Rows of a table of types or groups; the downloads have them all."""

_MOST_DRAWN = 40


def unit_metrics(data: ReportData, dataset: str, task: str, kind: str = "type") -> list[str]:
    """Return the metrics with one value per unit: the one to show, and others of its family.

    Shown is the headline, or the first metric that has such values; where its family says how
    much was learned from, the one that learned most, and beside it some that learned little.
    """
    scored = data.scored(dataset, task, kind)
    known = [m.id for m in data.metrics if m.id in scored] or sorted(scored)
    if data.headline(task) in known:
        return [data.headline(task)]
    family = [m for m in known if family_of(m) == family_of(known[0])] if known else []
    by_amount = amounts(map(setting_of, family))
    if not by_amount:
        return known[:1]
    names = [f"{family_of(known[0])}.{amount.name}" for amount in by_amount]
    few = [n for n, a in zip(names, by_amount, strict=True) if a.kind == "shots"] or names[:-1]
    some = dict.fromkeys([few[0], few[len(few) // 2], few[-1]]) if few else {}
    return [names[-1], *(name for name in some if name != names[-1])]


def unit_table(
    data: ReportData, dataset: str, task: str, metric: str, kind: str = "type"
) -> Table | None:
    """Return the values per type or group, hardest first, with shades that follow the value."""
    frame = data.units(dataset, task, metric, kind)
    if frame.is_empty():
        return None
    hardest = hardest_first(data, frame, metric)
    methods = [m for m in data.cards if m in set(frame["method"])]
    values = {(r["name"], r["method"]): r["value"] for r in frame.iter_rows(named=True)}
    low, high = frame["value"].min(), frame["value"].max()
    span = (high - low) or 1.0  # type: ignore[operator]  # a float column
    role = "label" if kind == "type" else kind
    counts = next((d.counts_of.get(role, {}) for d in data.datasets if d.id == dataset), {})
    rows = []
    for name in hardest[:MOST_UNITS]:
        cells = [Cell(name), Cell(f"{counts[name]:,}" if name in counts else "–", counts.get(name))]
        for method in methods:
            value = values.get((name, method))
            shade = None if value is None else (value - low) / span
            cells.append(Cell("–" if value is None else f"{value:.2f}", value, shade=shade))
        rows.append(tuple(cells))
    left = len(hardest) - len(rows)
    tail = f"; the {left} easiest are in the downloads" if left else ""
    return Table(
        f"{_named(data, task, metric, kind)} on {dataset}, hardest first{tail}",
        (
            Column(sentence_case(kind), "text"),
            Column("Cells"),
            *(Column(data.names[m]) for m in methods),
        ),
        tuple(rows),
        "heat",
    )


def _named(data: ReportData, task: str, metric: str, kind: str) -> str:
    """Return ``Recall of each type``; of several tasks and settings, which."""
    card = data.metric(metric)
    title = card.title if card else metric
    if task not in data.label_tasks:
        return f"{title} of each {kind}"
    name, _, setting = title.partition(", ")
    rest = f", {setting}," if setting else ""
    return f"{sentence_case(spoken(task))}: {mid_sentence(name)} of each {kind}{rest}"


def hardest_first(data: ReportData, frame: pl.DataFrame, metric: str) -> list[str]:
    """Order units by the mean score of the models under test, or of all methods."""
    judged = frame.filter(pl.col("method").is_in(set(data.contenders) or set(data.cards)))
    means = (judged if len(judged) else frame).group_by("name").agg(pl.col("value").mean())
    lower = data.lower_is_better(metric)
    order: list[str] = means.sort("value", "name", descending=[lower, False])["name"].to_list()
    return order


def types(data: ReportData, dataset: str, task: str) -> "alt.LayerChart | None":
    """Draw one value per type and method."""
    import altair as alt

    shown = unit_metrics(data, dataset, task)
    frame = data.units(dataset, task, shown[0], "type") if shown else pl.DataFrame()
    if frame.is_empty():
        return None
    means = frame.group_by("name").agg(pl.col("value").mean()).sort("value", "name")
    keep = means["name"].to_list()[:_MOST_DRAWN]
    values = [
        {"name": data.names[row["method"]], "type": row["name"], "value": row["value"]}
        for row in frame.filter(pl.col("name").is_in(keep)).iter_rows(named=True)
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
    values_shown = frame["value"].to_numpy()
    low, high = float(values_shown.min()), float(values_shown.max())
    dark = low + 0.66 * (high - low)
    texts = base.mark_text(fontSize=10).encode(
        text=alt.Text("value:Q", format=".2f"),
        color=alt.condition(
            alt.datum.value > dark, alt.value(LIGHT["paper"]), alt.value(LIGHT["ink"])
        ),
    )
    columns = len({v["name"] for v in values})
    return finish(alt.layer(squares, texts), 52 * columns, 22 * len(keep))
