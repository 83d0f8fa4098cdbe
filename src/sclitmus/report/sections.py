"""The parts of the page about one dataset and task: tables, and what is to be known of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from sclitmus.report import confusion
from sclitmus.report.content import ReportData
from sclitmus.report.families import setting_of
from sclitmus.report.grid import Cell, Column, Table
from sclitmus.report.metric_tables import (
    Folded,
    main_table,
    method_cell,
    metric_column,
    other_tables,
    rows_of,
)
from sclitmus.report.numbers import amount, number
from sclitmus.report.per_unit import unit_metrics, unit_table
from sclitmus.report.settings import amounts, in_words
from sclitmus.report.tables import metric_order
from sclitmus.report.text import joined, sentence_case, spoken
from sclitmus.stats.pooled import POOLED

_SHARED = 3  # methods without a score for one reason, from which on they share a line


@dataclass(frozen=True)
class TaskPart:
    """One task on one dataset.

    Attributes
    ----------
    more
        Tables of the other metrics.
    absent
        Methods without a score, whether they are several, and the reason.
    notes
        What the scores that there are rest on.
    groups
        The table of the held-out groups, where there are any.
    mapped, mistakes
        What the maps of confusions show, and the table of the commonest ones.
    types, types_more
        The table of types, and the same in other settings.
    """

    id: str
    title: str
    question: str
    main: Table
    more: tuple[Folded, ...]
    absent: tuple[tuple[str, bool, str], ...]
    notes: tuple[str, ...]
    groups: Table | None
    mapped: str
    mistakes: Table | None
    types: Table | None
    types_more: tuple[Folded, ...]
    ranks: Table | None


def task_part(data: ReportData, dataset: str, task: str) -> TaskPart:
    """Gather the tables of one task on one dataset."""
    card = next(t for t in data.tasks if t.id == task)
    order = metric_order(data, task, data.scored(dataset, task))
    first = [m for m in (card.headline, *card.beside) if m in order]
    by_type = [unit_table(data, dataset, task, m) for m in unit_metrics(data, dataset, task)]
    types = [table for table in by_type if table is not None]
    by_group = unit_metrics(data, dataset, task, "group")
    return TaskPart(
        task,
        spoken(task),
        card.question,
        main_table(data, dataset, task, first),
        other_tables(data, dataset, task, order, first),
        _absent(data, dataset, task, card.headline),
        _notes(data, dataset, task),
        unit_table(data, dataset, task, by_group[0], "group") if by_group else None,
        confusion.caption(data, dataset, task),
        confusion.mistakes_table(data, dataset, task),
        types[0] if types else None,
        tuple(Folded(table.caption, table) for table in types[1:]),
        ranks_table(data, dataset, task),
    )


def _absent(
    data: ReportData, dataset: str, task: str, headline: str
) -> tuple[tuple[str, bool, str], ...]:
    """Return the methods without a headline value, and the recorded reason."""
    rows = data.records.filter(
        pl.col("dataset") == dataset,
        pl.col("task") == task,
        pl.col("status") != "ok",
    )
    found: dict[str, str] = {}
    scored = data.scores(dataset, task, headline).drop_nulls("value")["method"].to_list()
    for row in rows.iter_rows(named=True):
        if row["method"] not in scored:
            words = f"{spoken(row['status'])}: {row['note'] or 'no reason was recorded'}"
            found.setdefault(data.names[row["method"]], words)
    sharing: dict[str, list[str]] = {}
    for name, words in found.items():
        sharing.setdefault(words, []).append(name)
    return tuple(
        line
        for words, names in sharing.items()
        for line in (
            [(joined(names), True, words)]
            if len(names) >= _SHARED
            else [(name, False, words) for name in names]
        )
    )


def _notes(data: ReportData, dataset: str, task: str) -> tuple[str, ...]:
    """Return what the records say of scores that are there, with the metrics it is about.

    Only where labels are learned: what the zero-shot tasks note is said in the methods' cards.
    """
    if task not in data.label_tasks:
        return ()
    rows = data.records.filter(
        pl.col("dataset") == dataset,
        pl.col("task") == task,
        pl.col("status") == "ok",
        pl.col("split") == "all",
        pl.col("metric") != confusion.CONFUSION,
        pl.col("note").fill_null("") != "",
    )
    said: dict[str, list[str]] = {}
    for note, metric in rows.select("note", "metric").unique(maintain_order=True).iter_rows():
        said.setdefault(note, []).append(metric)
    return tuple(f"{_settings(metrics)}{note}" for note, metrics in said.items())


def _settings(metrics: Sequence[str]) -> str:
    """Name the amounts learned from that metrics are about, if that is what sets them apart."""
    about = amounts(dict.fromkeys(map(setting_of, metrics)))
    return f"{sentence_case(in_words(about))}: " if about else ""


def ranks_table(data: ReportData, dataset: str, task: str) -> Table | None:
    """Return the ranks with their intervals and tie groups."""
    frame = data.analysis.ranks.filter(pl.col("dataset") == dataset, pl.col("task") == task)
    frame = frame.drop_nulls("rank").sort("rank")
    if frame.is_empty():
        return None
    chances = "p_best" in frame.columns
    rows = []
    for row in frame.iter_rows(named=True):
        low, high = row["rank_low"], row["rank_high"]
        between = "–" if low is None or high is None else f"{low:g} to {high:g}"
        cells = [
            method_cell(data, row["method"], part=False),
            Cell(f"{row['rank']:g}", row["rank"]),
            Cell(between, low),
            Cell(str(row["group"])),
        ]
        if chances:
            p = row["p_best"]
            cells.append(Cell("–" if p is None else f"{p:.0%}", p))
        rows.append(tuple(cells))
    where = "all datasets" if dataset == POOLED else dataset
    return Table(
        f"{sentence_case(spoken(task))} on {where}: methods of one tie group cannot be told apart",
        (
            Column("Method", "text"),
            Column("Rank"),
            Column("95% interval"),
            Column("Tie group"),
            *((Column("Chance best"),) if chances else ()),
        ),
        tuple(rows),
    )


def cost_table(data: ReportData, dataset: str) -> Table | None:
    """Return seconds and memory beside the headline scores they bought."""
    cost = data.cost.filter(pl.col("dataset") == dataset)
    if cost.is_empty():
        return None
    scores = [rows_of(data, dataset, t.id, t.headline) for t in data.tasks]
    rows = []
    for row in cost.sort("seconds", nulls_last=True).iter_rows(named=True):
        cells = [
            method_cell(data, row["method"]),
            Cell(amount(row["seconds"]), row["seconds"]),
            Cell(amount(row["peak_rss_mb"]), row["peak_rss_mb"]),
        ]
        for values in scores:
            value = values.get(row["method"], {}).get("value")
            cells.append(Cell(number(value), value))  # type: ignore[arg-type]  # a float column
        rows.append(tuple(cells))
    caption = f"Cost of embedding {dataset}, fastest first"
    if data.label_tasks:
        caption = f"Cost on {dataset}, fastest first: of embedding, or of learning on all splits"
    return Table(
        caption,
        (
            Column("Method", "text"),
            Column("Seconds"),
            Column("Peak memory, MB"),
            *(metric_column(data, t.headline) for t in data.tasks),
        ),
        tuple(rows),
    )
