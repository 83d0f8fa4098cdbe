"""The first screen: what the study found, in words."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from sclitmus.report.content import ReportData
from sclitmus.report.numbers import interval, signed
from sclitmus.report.overlap import flattered, overlap
from sclitmus.report.text import counted, listed, sentence_case, spoken
from sclitmus.stats.pooled import POOLED


@dataclass(frozen=True)
class Verdict:
    """How a verdict word looks and what it means."""

    word: str
    icon: str
    tone: str
    meaning: str


WORDS: Mapping[str, Verdict] = {
    v.word: v
    for v in (
        Verdict("clears the bar", "up", "clears", "shown to be better than every simple baseline"),
        Verdict(
            "on the bar",
            "level",
            "even",
            "shown to be as good as the best simple baseline, within the margin that matters",
        ),
        Verdict(
            "below the bar", "down", "below", "shown to be worse than the best simple baseline"
        ),
        Verdict(
            "below the floor",
            "floor",
            "floor",
            "shown to be no better, by a margin that matters, than knowing nothing of the cells",
        ),
        Verdict("cannot say", "unsure", "unsure", "none of these was shown; the reason is given"),
    )
}


@dataclass(frozen=True)
class Strip:
    """The difference to the bar as a drawing, 0…100 from left to right, the bar at 50."""

    low: float
    value: float
    high: float
    margin_low: float
    margin_high: float


@dataclass(frozen=True)
class Row:
    """One model on one task, on one dataset or all."""

    dataset: str
    method: str
    verdict: Verdict
    sentence: str
    score: str
    rival: str
    difference: str
    skill: str
    strip: Strip | None
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Block:
    """The verdicts of one task."""

    task: str
    question: str
    headline: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Judged:
    """All verdicts, as the page shows them.

    Attributes
    ----------
    lead
        The answer: the models under test, or the simple baselines where there is no model; over
        all datasets where there are enough of them, else on each.
    each
        The same on each dataset, where `lead` is over all.
    baselines
        The simple baselines and canaries, each against the best other baseline.
    names_datasets
        Whether the rows of `lead` are about single datasets out of several.
    """

    lead: tuple[Block, ...]
    each: tuple[Block, ...]
    baselines: tuple[Block, ...]
    names_datasets: bool


def judged(data: ReportData) -> Judged:
    """Arrange the verdicts."""
    single = data.analysis.verdicts.filter(pl.col("dataset") != POOLED)
    part = "contender" if data.contenders else "bar"
    lead = leading(data)
    several = len(data.datasets) > 1
    over_all = POOLED in lead["dataset"]
    each = single.filter(pl.col("part") == part) if over_all else single.clear()
    others = single.filter(pl.col("part") != part) if data.contenders else single.clear()
    return Judged(
        _blocks(data, lead), _blocks(data, each), _blocks(data, others), several and not over_all
    )


def leading(data: ReportData) -> pl.DataFrame:
    """Return the verdicts the page opens with: for each task over all datasets, or on each.

    A few datasets carry no interval of a mean over datasets, and then each speaks for itself.
    """
    part = "contender" if data.contenders else "bar"
    mine = data.analysis.verdicts.filter(pl.col("part") == part)
    pooled = mine.filter(pl.col("dataset") == POOLED)
    sure = pooled.filter(pl.col("difference_low").is_not_null())["task"].unique()
    pooled = pooled.filter(pl.col("task").is_in(sure.implode()))
    rest = mine.filter(pl.col("dataset") != POOLED, ~pl.col("task").is_in(sure.implode()))
    return pl.concat([pooled, rest])


def _blocks(data: ReportData, verdicts: pl.DataFrame) -> tuple[Block, ...]:
    order = {word: place for place, word in enumerate(WORDS)}
    datasets = {info.id: place for place, info in enumerate(data.datasets)}
    ends = verdicts.select("difference_low", "difference_high", "difference")
    widest = max((abs(x) for row in ends.iter_rows() for x in row if x is not None), default=0.0)
    found = []
    for task in data.tasks:
        mine = verdicts.filter(pl.col("task") == task.id)
        best: dict[str, tuple[float, float]] = {}
        for row in mine.iter_rows(named=True):
            lead = -math.inf if row["difference"] is None else row["difference"]
            place = (order.get(row["verdict"], len(order)), -lead)
            best[row["method"]] = min(best.get(row["method"], place), place)
        rows = sorted(
            mine.iter_rows(named=True),
            key=lambda row: (
                best[row["method"]],
                datasets.get(row["dataset"], -1),
            ),
        )
        reach = max(widest, 2.5 * task.margin) * 1.05
        metric = data.metric(task.headline)
        found.append(
            Block(
                spoken(task.id),
                task.question,
                metric.title if metric else task.headline,
                tuple(_row(data, row, task.margin, reach) for row in rows),
            )
        )
    return tuple(found)


def _row(data: ReportData, row: Mapping[str, object], margin: float, reach: float) -> Row:
    word = str(row["verdict"])
    rival = row["bar"]
    skills = data.analysis.skill.filter(
        *(pl.col(name) == row[name] for name in ("dataset", "task", "metric", "method"))
    )
    skill = skills.row(0, named=True) if len(skills) else {}
    note = str(row.get("note") or "")
    note = f"{sentence_case(note).rstrip('.')}." if note else ""
    return Row(
        dataset="all datasets" if row["dataset"] == POOLED else str(row["dataset"]),
        method=data.names.get(str(row["method"]), str(row["method"])),
        verdict=WORDS.get(word, Verdict(word, "unsure", "unsure", "")),
        sentence=f"{row['sentence'] or ''} {note}".strip(),
        score=_interval(row, "score", "low", "high"),
        rival="" if rival is None else data.names.get(str(rival), str(rival)),
        difference=_signed(row),
        skill=_interval(skill, "skill", "low", "high"),
        strip=_strip(row, margin, reach),
        warnings=_warnings(data, str(row["method"]), str(row["dataset"])),
    )


def _warnings(data: ReportData, method: str, dataset: str) -> tuple[str, ...]:
    """Say of which of the row's datasets the method has seen cells in pretraining."""
    card = data.cards[method]
    return tuple(
        flattered(card, info)
        for info in data.datasets
        if dataset in (info.id, POOLED) and overlap(card, info)
    )


def _strip(row: Mapping[str, object], margin: float, reach: float) -> Strip | None:
    value = _float(row["difference"])
    if value is None:
        return None
    low, high = _float(row["difference_low"]), _float(row["difference_high"])

    def at(x: float) -> float:
        return round(50 + 50 * max(-1.0, min(1.0, x / reach)), 2)

    return Strip(
        at(value if low is None else low),
        at(value),
        at(value if high is None else high),
        at(-margin),
        at(margin),
    )


def _interval(row: Mapping[str, object], value: str, low: str, high: str) -> str:
    return interval(_float(row.get(value)), _float(row.get(low)), _float(row.get(high)))


def _signed(row: Mapping[str, object]) -> str:
    ends = ("difference", "difference_low", "difference_high")
    return signed(*(_float(row[name]) for name in ends))


def _float(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and value == value else None


def summary(data: ReportData) -> tuple[str, ...]:
    """Say in a few sentences what was found: one per task, then on what it rests."""
    lead = leading(data)
    several = len(data.datasets) > 1
    sentences = []
    if not data.contenders:
        sentences.append(
            "No model was under test: these are the simple baselines, each judged against the "
            "best of the others."
        )
    for task in data.tasks:
        mine = lead.filter(pl.col("task") == task.id)
        parts = []
        for word in WORDS:
            said = mine.filter(pl.col("verdict") == word)
            if said.is_empty():
                continue
            about = dict.fromkeys(said["method"])
            names = []
            for method in about:
                where = said.filter(pl.col("method") == method)["dataset"].to_list()
                everywhere = len(where) == len(data.datasets) or where == [POOLED]
                place = "" if everywhere or not several else f" on {listed(where, 4)}"
                names.append(f"{data.names.get(method, method)}{place}")
            parts.append(_said(word, names))
            if len(said) == 1 and len(mine) == 1:
                parts[-1] += _against(data, said.row(0, named=True))
        if parts:
            sentences.append(f"{sentence_case(spoken(task.id))}: {'; '.join(parts)}.")
    if lead.is_empty():
        sentences.append("There is no verdict: nothing has a score that can be compared.")
    return (*sentences, _scope(data))


def _said(word: str, names: list[str]) -> str:
    if word == "cannot say":
        clear = "clears" if len(names) == 1 else "clear"
        return f"it cannot be said whether {listed(names)} {clear} the bar"
    if word == "clears the bar":
        return f"{listed(names)} {'clears' if len(names) == 1 else 'clear'} the bar"
    return f"{listed(names)} {'is' if len(names) == 1 else 'are'} {word}"


def _against(data: ReportData, row: Mapping[str, object]) -> str:
    bar, score, reached = row["bar"], _float(row["score"]), _float(row["bar_score"])
    if bar is None or score is None or reached is None:
        return f" ({row['why']})" if row["why"] else ""
    name = data.names.get(str(bar), str(bar))
    return f" ({score:.2f} against {reached:.2f} of {name}, the best simple baseline)"


def _scope(data: ReportData) -> str:
    n_cells = sum(d.n_cells for d in data.datasets)
    rivals = [data.names[c.id] for c in data.cards.values() if c.part == "bar"]
    datasets = counted(len(data.datasets), "dataset")
    text = f"Judged on {datasets} ({n_cells:,} cells)"
    if rivals:
        text += f" against {counted(len(rivals), 'simple baseline')} ({listed(rivals, 8)})"
    failed = data.records.filter(pl.col("status") == "failed")
    trials = failed.select("dataset", "task", "method").unique()
    if len(trials):
        text += f". {counted(len(trials), 'trial')} failed in whole or in part: see coverage"
    return text + "."
