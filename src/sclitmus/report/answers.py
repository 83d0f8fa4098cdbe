"""What the label tasks found on a dataset, in sentences, each made of numbers in the frames."""

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from sclitmus.report import arms, few_labels
from sclitmus.report.content import ReportData
from sclitmus.report.numbers import interval, number
from sclitmus.report.open_set import NOVEL
from sclitmus.report.rivals import (
    BOTH,
    LOGISTIC,
    against,
    leading_bar,
    logistic_regressions,
    missed,
    standing,
    why_not,
)
from sclitmus.report.text import joined, mid_sentence, sentence_case, spoken

ECE, SCALED = "ece", "ece.scaled"

_STANDS = {
    "ahead": "is better than",
    "behind": "is worse than",
    "open": "is not shown to be better or worse than",
}


@dataclass(frozen=True)
class Answer:
    """A question in a few words, and a sentence or two on each method it was asked of."""

    question: str
    sentences: tuple[str, ...]


def answers(data: ReportData, dataset: str) -> tuple[Answer, ...]:
    """Return what can be said of a dataset; nothing where no labels were learned on it."""
    asked = (
        ("How many labelled cells are needed?", few_labels.sentences),
        ("Do they know what they do not know?", novel),
        ("Does pretraining help?", pretraining),
        ("Did training succeed?", arms.sentences),
    )
    found = (Answer(question, tuple(say(data, dataset))) for question, say in asked)
    return tuple(answer for answer in found if answer.sentences)


def novel(data: ReportData, dataset: str) -> Iterator[str]:
    """Say how well unknown types are recognised, and whether confidence means anything."""
    if NOVEL not in data.label_tasks or not data.scored(dataset, NOVEL):
        return
    metric = data.headline(NOVEL)
    title = mid_sentence(data.title(metric))
    if not data.contenders:
        said = leading_bar(data, dataset, NOVEL, metric)
        if said:
            yield f"{sentence_case(title)}: {said}."
        errors = [_calibration(data, dataset, method) for method in logistic_regressions(data)]
        if any(errors):
            yield f"Calibration error: {joined([error for error in errors if error])}."
        return
    scores = {row["method"]: row for row in data.scores(dataset, NOVEL, metric).to_dicts()}
    for method in data.under_test:
        name = data.names[method]
        row = scores.get(method)
        if row is None or row["value"] is None:
            why = why_not(data, dataset, NOVEL, metric, [method])
            yield f"It cannot be said of {name}: {why}."
            continue
        found = standing(data, dataset, NOVEL, metric, method)
        if found.state == "unknown":
            score = interval(row["value"], row["low"], row["high"])
            said = f"{name}: {title} {score}; it cannot be compared with {BOTH}: {found.why}."
        else:
            numbers = against(data, dataset, NOVEL, metric, found.effect)
            verdict = _verdict(data, dataset, method)
            said = f"{name} {_STANDS[found.state]} {BOTH} ({title}: {numbers}){verdict}."
        errors = [_calibration(data, dataset, m) for m in (method, found.effect.get("reference"))]
        if errors[0]:
            said += f" Calibration error: {joined([error for error in errors if error])}."
        yield said


def pretraining(data: ReportData, dataset: str) -> Iterator[str]:
    """Compare each model with its untrained twin, where both ran."""
    for task in data.label_tasks:
        metric = data.headline(task)
        title = mid_sentence(data.title(metric))
        for method in data.under_test:
            twin = data.cards[method].twin
            if twin not in data.cards or not data.scored(dataset, task):
                continue
            name, other = data.names[method], data.names[twin]
            found = standing(data, dataset, task, metric, method, "twin", (twin,))
            if found.state == "unknown":
                yield f"{sentence_case(spoken(task))}: it cannot be said of {name}: {found.why}."
                continue
            words = {
                "ahead": f"{name} is better than {other}",
                "behind": f"{name} is worse than {other}",
                "open": f"no difference is shown between {name} and {other}",
            }[found.state]
            numbers = against(data, dataset, task, metric, found.effect)
            tail = f"; {missed(found.effect)}" if found.state == "open" else ""
            yield f"{sentence_case(spoken(task))}: {words} ({title}: {numbers}){tail}."


def _verdict(data: ReportData, dataset: str, method: str) -> str:
    """Return the verdict on it, against the best of all simple methods."""
    rows = data.analysis.verdicts.filter(
        pl.col("dataset") == dataset, pl.col("task") == NOVEL, pl.col("method") == method
    )
    if rows.is_empty() or rows["bar"][0] is None:
        return ""
    word, bar = rows["verdict"][0], rows["bar"][0]
    if bar in LOGISTIC and word == "cannot say":
        return ""
    if word == "cannot say":
        return f"; whether it clears the bar, set by {data.names[bar]}, cannot be said"
    by = "" if word == "below the floor" else f", set by {data.names[bar]}"
    return f"; it {'' if word.startswith('clears') else 'is '}{word}{by}"


def _calibration(data: ReportData, dataset: str, method: str | None) -> str:
    """Return ``0.120 for MyModel (0.045 after temperature scaling)``; empty where unknown."""
    if method is None:
        return ""
    before, after = (
        dict(data.scores(dataset, NOVEL, metric).select("method", "value").iter_rows()).get(method)
        for metric in (ECE, SCALED)
    )
    if before is None:
        return ""
    scaled = "" if after is None else f" ({number(after)} after temperature scaling)"
    return f"{number(before)} for {data.names[method]}{scaled}"
