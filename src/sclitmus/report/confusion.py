"""What each type was taken for: one square per true and called type, and the commonest mistakes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from sclitmus.report.colours import LIGHT
from sclitmus.report.content import ReportData
from sclitmus.report.grid import Cell, Column, Table
from sclitmus.report.marks import chart_of, finish, names_axis, panel_title
from sclitmus.report.text import counted, sentence_case, spoken
from sclitmus.report.units import pair_of

if TYPE_CHECKING:
    import altair as alt

CONFUSION = "confusion"
MOST_DRAWN = 40
"""Types in a map; of more, those that are taken for others most."""

MOST_MISTAKES = 15
"""Rows of the table of mistakes."""

_NUMBERED = 14  # types, up to which the squares have room for their numbers
_SIDE = 340  # pixels, at least, of a map
_LEAST = 11  # pixels of a square


@dataclass(frozen=True)
class Confusions:
    """Shares of a method's calls: rows of truth, call, value; and what the record says of them."""

    method: str
    shares: pl.DataFrame
    note: str


def confusions(data: ReportData, dataset: str, task: str) -> tuple[Confusions, ...]:
    """Return what every method took each type for, in the order of the cards.

    A seed that never took a type for another has no record of that pair: its share is 0 there, and
    a pair's mean over the seeds that have it is brought to all seeds.
    """
    frame = data.units(dataset, task, CONFUSION, "pair")
    known = set(next((d.labels for d in data.datasets if d.id == dataset), {}))
    recorded = _recorded(data, dataset, task)
    n_seeds = dict(recorded.group_by("method").agg(pl.col("seed").n_unique()).iter_rows())
    noted = recorded.filter(pl.col("note") != "").group_by("method").agg(pl.col("note").first())
    notes = dict(noted.iter_rows())
    found = []
    for method in data.cards:
        mine = frame.filter(pl.col("method") == method)
        if mine.is_empty():
            continue
        pairs = [pair_of(name, known) for name in mine["name"]]
        shares = pl.DataFrame(
            {
                "truth": [truth for truth, _ in pairs],
                "call": [call for _, call in pairs],
                "value": mine["value"] * mine["n_seeds"] / n_seeds[method],
            }
        )
        found.append(Confusions(method, shares, notes.get(method, "")))
    return tuple(found)


def shown_methods(data: ReportData, dataset: str, task: str) -> dict[str, str]:
    """Return the best model under test and the best simple baseline that have confusions."""
    have = set(data.units(dataset, task, CONFUSION, "pair")["method"])
    found = {}
    for part in ("contender", "bar"):
        best = next((m for m in data.leaders(dataset, task, part) if m in have), None)
        if best is not None:
            found[part] = best
    return found


def contender(data: ReportData, dataset: str, task: str) -> "alt.LayerChart | None":
    """Draw the confusions of the best model under test."""
    return _map(data, dataset, task, "contender")


def bar(data: ReportData, dataset: str, task: str) -> "alt.LayerChart | None":
    """Draw the confusions of the best simple baseline."""
    return _map(data, dataset, task, "bar")


def _map(data: ReportData, dataset: str, task: str, part: str) -> "alt.LayerChart | None":
    import altair as alt

    shown = shown_methods(data, dataset, task)
    if part not in shown:
        return None
    of = {c.method: c for c in confusions(data, dataset, task) if c.method in shown.values()}
    types = _drawn(list(of.values()))
    mine = of[shown[part]]
    numbered = len(types) <= _NUMBERED
    name = data.names[mine.method]
    rows = [
        {
            "name": name,
            "truth": row["truth"],
            "call": row["call"],
            "value": row["value"],
            "right": row["truth"] == row["call"],
            "says": f"{row['value']:.0%} of {row['truth']} called {row['call']}",
        }
        for row in mine.shares.iter_rows(named=True)
        if row["truth"] in types and row["call"] in types
    ]
    side = max(_SIDE, _LEAST * len(types))
    limit, size = (90, 9) if len(types) > 25 else (130, 12)
    axis = names_axis(labelLimit=limit, labelFontSize=size, labelOverlap=False)
    below = names_axis(
        labelLimit=limit, labelFontSize=size, labelOverlap=False, labelAngle=-50, orient="bottom"
    )
    scale = alt.Scale(domain=types, paddingInner=0.04)
    base = chart_of(rows).encode(
        x=alt.X("call:N", title="called", scale=scale, axis=below),
        y=alt.Y("truth:N", title="true type", scale=scale, axis=axis),
        tooltip=[
            alt.Tooltip("name:N", title="method"),
            alt.Tooltip("says:N", title=" "),
        ],
    )
    # The shade is an opacity, so that it follows the reader's theme; numbers must stand on it.
    darkest = 0.5 if numbered else 0.95
    layers = [
        base.mark_rect(color=LIGHT["accent"]).encode(
            opacity=alt.Opacity(
                "value:Q", scale=alt.Scale(domain=[0, 1], range=[0.05, darkest]), legend=None
            )
        )
    ]
    if numbered:
        layers.append(
            base.mark_text(fontSize=11, color=LIGHT["ink"]).encode(
                text=alt.Text("value:Q", format=".2f")
            )
        )
    title = f"{name}{f' ({mine.note})' if mine.note else ''}"
    chart = alt.layer(*layers).properties(title=panel_title(title, side))
    return finish(chart, side, side)


def caption(data: ReportData, dataset: str, task: str) -> str:
    """Say what the maps show, and what they leave out; nothing where there are none."""
    of = [
        c
        for c in confusions(data, dataset, task)
        if c.method in shown_methods(data, dataset, task).values()
    ]
    if not of:
        return ""
    types, drawn = _types(of), _drawn(of)
    text = "Rows are true types, columns what their cells were called; a row adds up to 1."
    if len(drawn) < len(types):
        text += (
            f" Shown are the {len(drawn)} most confused of {len(types)} types; the others are in "
            "the downloads."
        )
    return text


def mistakes_table(data: ReportData, dataset: str, task: str) -> Table | None:
    """Return the commonest mistakes of all methods, by the mean share over methods."""
    every = confusions(data, dataset, task)
    wrong = [
        {"method": c.method, **row}
        for c in every
        for row in c.shares.iter_rows(named=True)
        if row["truth"] != row["call"]
    ]
    if not wrong:
        return None
    frame = pl.DataFrame(wrong)
    worst = (
        frame.group_by("truth", "call")
        .agg(pl.col("value").sum())
        .sort("value", "truth", "call", descending=[True, False, False])
    )
    shares = {(r["method"], r["truth"], r["call"]): r["value"] for r in wrong}
    pairs = list(worst.head(MOST_MISTAKES).select("truth", "call").iter_rows())
    rows = []
    for truth, call in pairs:
        cells = [Cell(f"{truth}, called {call}")]
        for c in every:
            value = shares.get((c.method, truth, call), 0.0)
            cells.append(Cell(f"{value:.2f}", value, shade=value))
        rows.append(tuple(cells))
    left = len(worst) - len(pairs)
    tail = f"; {counted(left, 'rarer one')} in the downloads" if left else ""
    where = "" if len({c.note for c in every}) < 2 else ", each method on the group it is worst on"
    return Table(
        f"{sentence_case(spoken(task))} on {dataset}: the commonest mistakes, as shares of the "
        f"true type's cells{where}{tail}",
        (Column("Mistake", "text"), *(Column(data.names[c.method]) for c in every)),
        tuple(rows),
        "heat",
    )


def _types(of: list[Confusions]) -> list[str]:
    return sorted({name for c in of for name in (*c.shares["truth"], *c.shares["call"])})


def _drawn(of: list[Confusions]) -> list[str]:
    """Return the types to draw, by name: the same for every map, so that maps can be compared."""
    types = _types(of)
    if len(types) <= MOST_DRAWN:
        return types
    wrong = dict.fromkeys(types, 0.0)
    for c in of:
        for truth, call, value in c.shares.iter_rows():
            if truth != call:
                wrong[truth] += value
                wrong[call] += value
    most = sorted(types, key=lambda name: (-wrong[name], name))[:MOST_DRAWN]
    return sorted(most)


def _recorded(data: ReportData, dataset: str, task: str) -> pl.DataFrame:
    return data.records.filter(
        pl.col("dataset") == dataset,
        pl.col("task") == task,
        pl.col("metric") == CONFUSION,
        pl.col("status") == "ok",
        pl.col("split") == "all",
    )
