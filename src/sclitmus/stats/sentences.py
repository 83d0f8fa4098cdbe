"""A verdict in plain English, with its numbers."""

from collections.abc import Mapping
from typing import Any

from sclitmus.stats.effects import ALPHA
from sclitmus.stats.pooled import ENOUGH_DATASETS, POOLED

Row = Mapping[str, Any]


def why(row: Row) -> str:
    """Give the reason of a verdict in a few words.

    Parameters
    ----------
    row
        Columns of the verdict frame, and metric_title, bar_title, floor_title, reason.
    """
    digits = _digits(row)
    match row["verdict"]:
        case "below the floor":
            return f"not better than {row['floor_title']}, which knows nothing"
        case "clears the bar":
            return f"better than {_bars(row)}"
        case "below the bar":
            return f"worse than {row['bar_title']}"
        case "on the bar":
            return f"within ±{row['margin']:g} of {row['bar_title']}"
    return _why_not(row, digits)


def _why_not(row: Row, digits: int) -> str:
    if row["status"] != "ok":
        state = {"missing": "it did not run", "failed": "it failed"}
        return _joined(state.get(row["status"], "not applicable"), row["reason"])
    if row["dataset"] == POOLED and row["n_datasets"] < ENOUGH_DATASETS:
        return (
            f"too few datasets to generalise: {row['n_datasets']}, at least {ENOUGH_DATASETS} "
            "are needed"
        )
    if row["low"] is None and row["reason"]:
        return f"there is no interval: {row['reason']}"
    if row["difference"] is None:
        other = "other " if row["part"] == "bar" else ""
        return f"no {other}simple method was scored on the same half-samples"
    if row["p"] <= ALPHA < row["p_holm"]:
        return (
            f"p = {row['p']:.3f} alone, but {row['p_holm']:.3f} among the {row['n_family']} "
            "compared (Holm)"
        )
    return (
        f"the interval is too wide: a difference smaller than {_plain(row['mde'], digits)} "
        "would be missed more often than 1 time in 5"
    )


def sentence(row: Row) -> str:
    """Say the verdict in one or two sentences.

    Parameters
    ----------
    row
        As for `why`, with ``why`` in it.
    """
    digits = _digits(row)
    lead = {
        "cannot say": f"Cannot say whether {row['title']} clears the bar",
    }.get(row["verdict"], f"{row['title']} is {row['verdict']}".replace("is clears", "clears"))
    if row["score"] is None:
        return f"{lead}: {row['why']}."
    text = f"{lead}: {row['metric_title']} {_score(row, digits)}"
    if row["verdict"] == "below the floor":
        better = row["floor_difference"] >= 0
        text += f", {'no better' if better else 'worse'} than {_floor(row, digits)}"
        if row["difference"] is not None:
            text += f"; {row['bar_title']} reaches {_plain(row['bar_score'], digits)}"
        return f"{text}."
    if row["difference"] is not None:
        text += (
            f" against {_plain(row['bar_score'], digits)} for {_best_bar(row)} "
            f"(difference {_change(row, '', digits)})"
        )
    if row["verdict"] == "on the bar":
        text += f", which is within the margin of ±{row['margin']:g}"
    if row["verdict"] == "cannot say":
        text += f"; {row['why']}"
    return f"{text}.{_aside(row, digits)}"


def _aside(row: Row, digits: int) -> str:
    """What else must be said about the floor, if anything."""
    if row["floor_difference"] is None or row["floor_low"] is None:
        return ""
    if row["floor_verdict"] == "cannot say":
        return f" It is not shown to be better than {_floor(row, digits)}."
    if row["part"] == "bar":
        return f" It clears the floor, {_floor(row, digits)}."
    return ""


def _score(row: Row, digits: int) -> str:
    over = f" on average over {row['n_datasets']} datasets" if row["dataset"] == POOLED else ""
    if row["low"] is None:
        return _plain(row["score"], digits) + over
    low, high = _plain(row["low"], digits), _plain(row["high"], digits)
    return f"{_plain(row['score'], digits)} [{low}, {high}]{over}"


def _floor(row: Row, digits: int) -> str:
    return (
        f"{row['floor_title']} at {_plain(row['floor_score'], digits)} "
        f"(difference {_change(row, 'floor_', digits)})"
    )


def _change(row: Row, prefix: str, digits: int) -> str:
    value, low, high = (row[f"{prefix}{name}"] for name in ("difference", "low", "high"))
    if prefix == "":
        low, high = row["difference_low"], row["difference_high"]
    if low is None:
        return _signed(value, digits)
    return f"{_signed(value, digits)} [{_signed(low, digits)}, {_signed(high, digits)}]"


def _best_bar(row: Row) -> str:
    other = "other " if row["part"] == "bar" else ""
    which = f"the only {other}" if row["n_bars"] == 1 else f"the best {other}"
    return f"{row['bar_title']}, {which}simple method"


def _bars(row: Row) -> str:
    other = "other " if row["part"] == "bar" else ""
    if row["n_bars"] == 1:
        return f"{row['bar_title']}, the only {other}simple method"
    return f"each of {row['n_bars']} {other}simple methods"


def _digits(row: Row) -> int:
    """Two digits, or three where two would hide the difference or its interval."""
    ends = [("low", "high"), ("difference_low", "difference_high")]
    widths = [row[b] - row[a] for a, b in ends if row[a] is not None and row[b] is not None]
    fine = [*widths, abs(row["difference"] or 1.0) * 2]
    return 2 if min(fine) >= 0.02 else 3


def _plain(value: float, digits: int) -> str:
    return _minus(f"{value:.{digits}f}")


def _signed(value: float, digits: int) -> str:
    return _minus(f"{value:+.{digits}f}")


def _minus(text: str) -> str:
    """A true minus sign, and none before a zero."""
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", "−")


def _joined(state: str, reason: str) -> str:
    return f"{state}: {reason}" if reason else state
