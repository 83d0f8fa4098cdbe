"""Tables of methods by metrics: the headline's, one per family of metrics, and the rest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from sclitmus.report.cards import PARTS
from sclitmus.report.content import ReportData
from sclitmus.report.families import Family, families, family_of
from sclitmus.report.grid import Cell, Column, Table
from sclitmus.report.numbers import interval, number
from sclitmus.report.text import mid_sentence, sentence_case, spoken

_MARK = {"contender": "mark-contender", "bar": "mark-bar", "control": "mark-control"}

Row = Mapping[str, object]


@dataclass(frozen=True)
class Folded:
    """A table behind a line that opens it, or open already."""

    says: str
    table: Table
    open: bool = False


def method_cell(data: ReportData, method: str, *, part: bool = True) -> Cell:
    """Return the cell that names a method and, on request, the part it plays."""
    role = data.role_of(method)
    note = PARTS[data.cards[method].part] if part else ""
    return Cell(data.names[method], icon=_MARK[role], tone=f"role-{role}", note=note)


def main_table(data: ReportData, dataset: str, task: str, metrics: Sequence[str]) -> Table:
    """Return the headline and the metrics beside it, with the difference to the best baseline.

    Metrics of the headline's own family come last, their intervals below them.
    """
    values = {m: rows_of(data, dataset, task, m) for m in metrics}
    headline = metrics[0] if metrics else ""
    of_family = [m for m in metrics if family_of(m) == family_of(headline)]
    words = {m.metric: m.words for m in families(data, of_family)[0].members} if metrics else {}
    effects = {
        row["method"]: row
        for row in data.analysis.effects.filter(
            pl.col("dataset") == dataset,
            pl.col("task") == task,
            pl.col("metric") == headline,
            pl.col("against") == "best bar",
        ).iter_rows(named=True)
    }
    plain = [m for m in metrics if m == headline or m not in words]
    settings = [m for m in metrics if m not in plain]
    columns = [Column("Method", "text"), *(metric_column(data, m) for m in plain)]
    if effects:
        columns += [Column("Difference to the best baseline"), Column("p (Holm)")]
    columns += [Column(words[m]) for m in settings]
    rows = []
    for method, found in values[headline].items() if headline else ():
        if not _asked(data, found):
            continue
        cells = [method_cell(data, method)]
        cells += [_value_cell(values[metric].get(method)) for metric in plain]
        if effects:
            effect = effects.get(method, {})
            difference = _value_cell(effect, "difference")
            sign = "+" if (difference.sort or 0) > 0 else ""
            p = effect.get("p_holm")
            cells += [Cell(f"{sign}{difference.text}", difference.sort), Cell(number(p), p)]
        cells += [_two_lines(values[metric].get(method)) for metric in settings]
        rows.append(tuple(cells))
    caption = f"{sentence_case(spoken(task))} on {dataset}: scores with 95% intervals, best first"
    return Table(caption, tuple(columns), tuple(rows))


def other_tables(
    data: ReportData, dataset: str, task: str, metrics: Sequence[str], shown: Sequence[str]
) -> tuple[Folded, ...]:
    """Return the tables of the other metrics: one per family, and one of all that have none.

    Families that hold a metric as it is and in one other way share a table. That one, and the one
    of the headline's family, are open.

    Parameters
    ----------
    metrics
        All that have values.
    shown
        Those that the main table has; a family of which it has all members is left out.
    """
    found = [
        family
        for family in families(data, metrics)
        if any(member.metric not in shown for member in family.members)
    ]
    title = f"{sentence_case(spoken(task))} on {dataset}"
    tables = []
    twofold: dict[str, list[Family]] = {}
    single: list[str] = []
    for family in found:
        if family.twofold:
            twofold.setdefault(family.twofold, []).append(family)
        elif len(family.members) == 1:
            single.append(family.members[0].metric)
        else:
            columns = {m.metric: Column(m.words or family.title) for m in family.members}
            hint = _hints(data, family.members[0].metric)
            caption = f"{title}: {family.title}{f' ({hint})' if hint else ''}"
            table = _values_table(data, dataset, task, columns, caption)
            own = family.id == family_of(data.headline(task))
            tables.append(Folded(family.title, table, own))
    for same in twofold.values():
        words = same[0].members[1].words
        columns = {
            member.metric: Column(family.title, explain=mid_sentence(member.words) or "as it is")
            for family in same
            for member in family.members
        }
        says = f"as it is and {mid_sentence(words)}"
        caption = f"{title}: {_shared_hint(data, columns)}{says}"
        table = _values_table(data, dataset, task, columns, caption, part=False)
        tables.append(Folded(", ".join(family.title for family in same), table, open=True))
    if single:
        every = not tables
        says = "Every other metric" if every else "Other metrics"
        caption = f"{title}: {'every other metric' if every else 'other metrics'}"
        columns = {m: metric_column(data, m) for m in single}
        tables.append(Folded(says, _values_table(data, dataset, task, columns, caption)))
    return tuple(tables)


def rows_of(data: ReportData, dataset: str, task: str, metric: str) -> dict[str, Row]:
    """Return the dataset-level rows of a metric by method, best first."""
    frame = data.scores(dataset, task, metric)
    return {row["method"]: row for row in frame.iter_rows(named=True)}


def metric_column(data: ReportData, metric: str) -> Column:
    """Return the heading of a metric's column."""
    card = data.metric(metric)
    return Column(metric if card is None else card.title, explain=_hints(data, metric))


def _values_table(
    data: ReportData,
    dataset: str,
    task: str,
    columns: Mapping[str, Column],
    caption: str,
    *,
    part: bool = True,
) -> Table:
    values = {m: rows_of(data, dataset, task, m) for m in columns}
    found = {m: [values[k][m] for k in columns if m in values[k]] for m in data.cards}
    methods = [m for m, mine in found.items() if any(_asked(data, row) for row in mine)]
    rows = []
    for method in methods:
        cells = [method_cell(data, method, part=part)]
        for metric in columns:
            value = values[metric].get(method, {}).get("value")
            cells.append(Cell(number(value), value))  # type: ignore[arg-type]  # a float column
        rows.append(tuple(cells))
    return Table(caption, (Column("Method", "text"), *columns.values()), tuple(rows))


def _asked(data: ReportData, row: Row) -> bool:
    """Whether a method belongs in a table: what learns labels is not asked about embeddings.

    The page says so below the table. A study without such methods shows all of them.
    """
    return not (data.label_tasks and row["status"] == "not_applicable")


def _hints(data: ReportData, metric: str) -> str:
    card = data.metric(metric)
    if card is None:
        return ""
    hints = ["lower is better"] if card.direction == "lower" else []
    hints += [f"chance {card.chance:g}"] if card.chance is not None else []
    return ", ".join(hints)


def _shared_hint(data: ReportData, metrics: Mapping[str, Column]) -> str:
    hints = {_hints(data, metric) for metric in metrics}
    hint = hints.pop() if len(hints) == 1 else ""
    return f"{hint}; " if hint else ""


def _value_cell(row: Row | None, value: str = "value") -> Cell:
    if not row:
        return Cell("–")
    point, low, high = (row.get(name) for name in (value, "low", "high"))
    return Cell(interval(point, low, high), point)  # type: ignore[arg-type]  # float columns


def _two_lines(row: Row | None) -> Cell:
    """Return a value with its interval below it, where columns are many."""
    cell = _value_cell(row)
    value, _, ends = cell.text.partition(" ")
    return Cell(value, cell.sort, note=ends)
