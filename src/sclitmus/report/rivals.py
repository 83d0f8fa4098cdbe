"""Against the logistic regressions on genes, the best baseline and the untrained twin."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from sclitmus.report.content import ReportData
from sclitmus.report.numbers import number, signed
from sclitmus.report.text import joined
from sclitmus.stats.effects import ALPHA

LOGISTIC = ("lr_l1", "lr_l2")
"""Ids of the two: with an L1 penalty (Boiarsky et al. 2024) and with an L2 penalty."""

BOTH = "the better of the two logistic regressions on genes"

Effect = Mapping[str, Any]


@dataclass(frozen=True)
class Standing:
    """How a method stands to one or more rivals, of which all must be beaten.

    Attributes
    ----------
    state
        ``ahead``: shown to be better than each. ``behind``: shown to be worse than one of them.
        ``open``: neither. ``unknown``: not all were compared.
    effect
        The comparison with the best of them; empty where not all were compared.
    why
        What is lacking, where that is unknown.
    """

    state: Literal["ahead", "behind", "open", "unknown"]
    effect: Effect
    why: str = ""


def logistic_regressions(data: ReportData) -> list[str]:
    """Return those of the two that are in the study."""
    return [method for method in LOGISTIC if method in data.cards]


def standing(
    data: ReportData,
    dataset: str,
    task: str,
    metric: str,
    method: str,
    against: str = "bar",
    rivals: tuple[str, ...] = LOGISTIC,
) -> Standing:
    """Compare a method with rivals, after Holm's correction.

    Parameters
    ----------
    against
        The kind of comparison in the effects frame: ``bar`` or ``twin``.
    """
    rows = data.analysis.effects.filter(
        pl.col("dataset") == dataset,
        pl.col("task") == task,
        pl.col("metric") == metric,
        pl.col("method") == method,
        pl.col("against") == against,
        pl.col("reference").is_in(rivals),
    )
    found = {row["reference"]: row for row in rows.iter_rows(named=True)}
    if len(found) < len(rivals):
        lacking = [r for r in rivals if r not in found]
        return Standing("unknown", {}, why_not(data, dataset, task, metric, [method, *lacking]))
    closest = min(found.values(), key=lambda effect: effect["difference"])
    if all(_certain(effect) and effect["difference"] > 0 for effect in found.values()):
        return Standing("ahead", closest)
    if any(_certain(effect) and effect["difference"] < 0 for effect in found.values()):
        return Standing("behind", closest)
    return Standing("open", closest)


def why_not(data: ReportData, dataset: str, task: str, metric: str, methods: list[str]) -> str:
    """Say why methods were not compared: of the first that lacks a number, what became of it."""
    reasons = []
    for method in methods:
        name = data.names.get(method, method)
        row = data.scores(dataset, task, metric).filter(pl.col("method") == method)
        if row.is_empty():
            reasons.append(f"{name} did not run")
            continue
        found = row.row(0, named=True)
        state = {"failed": "failed", "not_applicable": "does not apply"}.get(found["status"])
        if state is not None:
            reasons.append(f"{name} {state}{f': {why}' if (why := found['reason']) else ''}")
        elif found["low"] is None:
            why = found["reason"] or "there is no interval"
            reasons.append(f"{name} has no interval: {why}")
    return joined(reasons) or "they were not scored on the same half-samples"


def against(data: ReportData, dataset: str, task: str, metric: str, effect: Effect) -> str:
    """Return ``0.610 against 0.551 of kNN, difference +0.059 [0.031, 0.087]``."""
    values = dict(data.scores(dataset, task, metric).select("method", "value").iter_rows())
    rival = effect["reference"]
    of = "" if effect["against"] == "twin" else f" of {data.names.get(rival, rival)}"
    change = signed(effect["difference"], effect["low"], effect["high"])
    return (
        f"{number(values.get(effect['method']))} against {number(values.get(rival))}{of}, "
        f"difference {change}"
    )


def missed(effect: Effect) -> str:
    """Return what difference would have gone unnoticed."""
    if effect["mde"] is None:
        return "there is no interval"
    return f"one smaller than {number(effect['mde'])} would be missed more often than 1 time in 5"


def leading_bar(data: ReportData, dataset: str, task: str, metric: str) -> str:
    """Say which simple method scores best, and whether that is shown; empty where none has."""
    ranked = data.scores(dataset, task, metric).drop_nulls("value")
    bars = [row for row in ranked.iter_rows(named=True) if data.cards[row["method"]].part == "bar"]
    if not bars:
        return ""
    best = bars[0]
    name = data.names[best["method"]]
    rows = data.analysis.effects.filter(
        pl.col("dataset") == dataset,
        pl.col("task") == task,
        pl.col("metric") == metric,
        pl.col("method") == best["method"],
        pl.col("against") == "best bar",
    )
    low_high = "" if best["low"] is None else f" [{number(best['low'])}, {number(best['high'])}]"
    text = f"{name} leads the simple methods ({number(best['value'])}{low_high})"
    if rows.is_empty():
        return text
    effect = rows.row(0, named=True)
    second = data.names.get(effect["reference"], effect["reference"])
    change = signed(effect["difference"], effect["low"], effect["high"])
    if _certain(effect) and effect["difference"] > 0:
        return f"{text}, and is shown to be better than each of the others"
    return f"{text}, but is not shown to be better than {second} (difference {change})"


def _certain(effect: Effect) -> bool:
    return effect["p_holm"] is not None and bool(effect["p_holm"] <= ALPHA)
