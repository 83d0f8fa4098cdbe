"""The parts of the page about one dataset: scores, pictures, ranks, types and cost."""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from sclitmus.execution.result import DatasetInfo
from sclitmus.report import scatter
from sclitmus.report.cards import PARTS
from sclitmus.report.content import Projection, ReportData
from sclitmus.report.figures import per_type, role_of
from sclitmus.report.grid import Cell, Column, Table
from sclitmus.report.numbers import amount, interval, number
from sclitmus.report.tables import metric_order
from sclitmus.report.verdicts import sentence_case, spoken
from sclitmus.stats.pooled import POOLED

MOST_TYPES = 30
"""Rows of the table of types; the downloads have them all."""

_MARK = {"contender": "mark-contender", "bar": "mark-bar", "control": "mark-control"}


@dataclass(frozen=True)
class Panel:
    """One picture: its address and the numbers that name its groups."""

    title: str
    uri: str
    numbers: tuple[tuple[int, float, float], ...]
    alt: str


@dataclass(frozen=True)
class Pictures:
    """All pictures of a dataset, method by method, with the legends they share."""

    kind: str
    caption: str
    types: scatter.Legend
    batches: scatter.Legend
    rows: tuple[tuple[str, str, tuple[Panel, ...]], ...]


@dataclass(frozen=True)
class TaskPart:
    """One task on one dataset."""

    id: str
    title: str
    question: str
    main: Table
    more: Table | None
    absent: tuple[tuple[str, str], ...]
    types: Table | None
    ranks: Table | None


def method_cell(data: ReportData, method: str, *, part: bool = True) -> Cell:
    """Return the cell that names a method and, on request, the part it plays."""
    role = role_of(data, method)
    note = PARTS[data.cards[method].part] if part else ""
    return Cell(data.names[method], icon=_MARK[role], tone=f"role-{role}", note=note)


def task_part(data: ReportData, dataset: str, task: str) -> TaskPart:
    """Gather the tables of one task on one dataset."""
    card = next(t for t in data.tasks if t.id == task)
    present = (
        data.analysis.intervals.filter(
            pl.col("dataset") == dataset,
            pl.col("task") == task,
            pl.col("unit") == "dataset",
        )
        .drop_nulls("value")["metric"]
        .unique()
        .to_list()
    )
    order = metric_order(data, task, present)
    first = [m for m in (card.headline, *card.beside) if m in order]
    rest = [m for m in order if m not in first]
    return TaskPart(
        task,
        spoken(task),
        card.question,
        _main_table(data, dataset, task, first),
        _values_table(data, dataset, task, rest) if rest else None,
        _absent(data, dataset, task, card.headline),
        types_table(data, dataset, task),
        ranks_table(data, dataset, task),
    )


def _rows(data: ReportData, dataset: str, task: str, metric: str) -> dict[str, dict[str, object]]:
    frame = data.scores(dataset, task, metric)
    return {row["method"]: row for row in frame.iter_rows(named=True)}


def _main_table(data: ReportData, dataset: str, task: str, metrics: list[str]) -> Table:
    values = {m: _rows(data, dataset, task, m) for m in metrics}
    headline = metrics[0] if metrics else ""
    effects = {
        row["method"]: row
        for row in data.analysis.effects.filter(
            pl.col("dataset") == dataset,
            pl.col("task") == task,
            pl.col("metric") == headline,
            pl.col("against") == "best bar",
        ).iter_rows(named=True)
    }
    columns = [Column("Method", "text")]
    columns += [_metric_column(data, m) for m in metrics]
    if effects:
        columns += [Column("Difference to the best baseline"), Column("p (Holm)")]
    rows = []
    for method in values[headline] if headline else ():
        cells = [method_cell(data, method)]
        cells += [_value_cell(values[metric].get(method)) for metric in metrics]
        if effects:
            effect = effects.get(method, {})
            difference = _value_cell(effect, "difference")
            sign = "+" if (difference.sort or 0) > 0 else ""
            cells.append(Cell(f"{sign}{difference.text}", difference.sort))
            p = effect.get("p_holm")
            cells.append(Cell(number(p), p))
        rows.append(tuple(cells))
    caption = f"{sentence_case(spoken(task))} on {dataset}: scores with 95% intervals, best first"
    return Table(caption, tuple(columns), tuple(rows))


def _values_table(data: ReportData, dataset: str, task: str, metrics: list[str]) -> Table:
    values = {m: _rows(data, dataset, task, m) for m in metrics}
    methods = [m for m in data.cards if any(m in values[k] for k in metrics)]
    rows = []
    for method in methods:
        cells = [method_cell(data, method)]
        for metric in metrics:
            row = values[metric].get(method, {})
            value = row.get("value")
            cells.append(Cell(number(value), value))  # type: ignore[arg-type]  # a float column
        rows.append(tuple(cells))
    return Table(
        f"{sentence_case(spoken(task))} on {dataset}: every other metric",
        (Column("Method", "text"), *(_metric_column(data, m) for m in metrics)),
        tuple(rows),
    )


def _metric_column(data: ReportData, metric: str) -> Column:
    card = data.metric(metric)
    if card is None:
        return Column(metric)
    hints = ["lower is better"] if card.direction == "lower" else []
    hints += [f"chance {card.chance:g}"] if card.chance is not None else []
    return Column(card.title, explain=", ".join(hints))


def _value_cell(row: Mapping[str, object] | None, value: str = "value") -> Cell:
    if not row:
        return Cell("–")
    point, low, high = (row.get(name) for name in (value, "low", "high"))
    return Cell(interval(point, low, high), point)  # type: ignore[arg-type]  # float columns


def _absent(
    data: ReportData, dataset: str, task: str, headline: str
) -> tuple[tuple[str, str], ...]:
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
    return tuple(found.items())


def types_table(data: ReportData, dataset: str, task: str) -> Table | None:
    """Return the values per type, hardest first, with shades that follow the value."""
    frame = per_type(data, dataset, task)
    if frame.is_empty():
        return None
    models = set(data.contenders) or set(data.cards)
    judged = frame.filter(pl.col("method").is_in(models))
    hardest = (judged if len(judged) else frame).group_by("type").agg(pl.col("value").mean())
    hardest = hardest.sort("value", "type")
    methods = [m for m in data.cards if m in set(frame["method"])]
    values = {(r["type"], r["method"]): r["value"] for r in frame.iter_rows(named=True)}
    low, high = frame["value"].min(), frame["value"].max()
    span = (high - low) or 1.0  # type: ignore[operator]  # a float column
    counts = next((d.labels for d in data.datasets if d.id == dataset), {})
    rows = []
    for name in hardest["type"].head(MOST_TYPES).to_list():
        cells = [Cell(name), Cell(f"{counts[name]:,}" if name in counts else "–", counts.get(name))]
        for method in methods:
            value = values.get((name, method))
            shade = None if value is None else (value - low) / span
            cells.append(Cell("–" if value is None else f"{value:.2f}", value, shade=shade))
        rows.append(tuple(cells))
    metric = frame["metric"][0]
    card = data.metric(metric)
    left = len(hardest) - len(rows)
    tail = f"; the {left} easiest are in the downloads" if left else ""
    return Table(
        f"{card.title if card else metric} of each type on {dataset}, hardest first{tail}",
        (
            Column("Type", "text"),
            Column("Cells"),
            *(Column(data.names[m]) for m in methods),
        ),
        tuple(rows),
        "heat",
    )


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
    scores = {t.headline: _rows(data, dataset, t.id, t.headline) for t in data.tasks}
    rows = []
    for row in cost.sort("seconds", nulls_last=True).iter_rows(named=True):
        cells = [
            method_cell(data, row["method"]),
            Cell(amount(row["seconds"]), row["seconds"]),
            Cell(amount(row["peak_rss_mb"]), row["peak_rss_mb"]),
        ]
        for values in scores.values():
            value = values.get(row["method"], {}).get("value")
            cells.append(Cell(number(value), value))  # type: ignore[arg-type]  # a float column
        rows.append(tuple(cells))
    return Table(
        f"Cost of embedding {dataset}, fastest first",
        (
            Column("Method", "text"),
            Column("Seconds"),
            Column("Peak memory, MB"),
            *(_metric_column(data, headline) for headline in scores),
        ),
        tuple(rows),
    )


def pictures(data: ReportData, info: DatasetInfo) -> Pictures | None:
    """Draw every method's cells by type and by batch; the same colours throughout a dataset."""
    projection = data.projections.get(info.id)
    if projection is None or not projection.xy:
        return None
    types, batches = scatter.legend(projection.label), scatter.legend(projection.batch)
    n_drawn = len(next(iter(projection.xy.values())))
    shown = f"{n_drawn:,} of {projection.n_total:,}" if n_drawn < projection.n_total else "all"
    rows = []
    for method in (m for m in data.cards if m in projection.xy):
        panels = _panels(projection, method, data.names[method], types, batches)
        rows.append((data.names[method], PARTS[data.cards[method].part], panels))
    caption = (
        f"{projection.kind} of {shown} cells. A picture, not evidence: distances between groups "
        "and the sizes of groups mean little; the scores are computed in the full embedding."
    )
    return Pictures(projection.kind, caption, types, batches, tuple(rows))


def _panels(
    projection: Projection,
    method: str,
    name: str,
    types: scatter.Legend,
    batches: scatter.Legend,
) -> tuple[Panel, ...]:
    xy = projection.xy[method]
    panels = []
    for title, column, colours in (
        ("by type", projection.label, types),
        ("by batch", projection.batch, batches),
    ):
        if column is None:
            continue
        uri = scatter.data_uri(scatter.draw(xy, column, colours), "image/png")
        numbers = scatter.anchors(xy, column, colours) if title == "by type" else ()
        alt = f"{projection.kind} of {name}, cells coloured {title}"
        panels.append(Panel(title, uri, numbers, alt))
    if not panels:
        uri = scatter.data_uri(scatter.draw(xy, None, types), "image/png")
        panels.append(Panel("all cells", uri, (), f"{projection.kind} of {name}"))
    return tuple(panels)
