"""From predictions on several splits to scores: the mean over the splits, and its replicates."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64

from sclitmus.core.dataset import Dataset
from sclitmus.core.metric import Metric
from sclitmus.core.record import Absent, Score
from sclitmus.core.split import ALL, Replicate, Split
from sclitmus.core.task import Answer
from sclitmus.metrics import classification
from sclitmus.tasks.halves import Half

Values = dict[tuple[str, str], float]
"""(metric, unit) -> value; what is not defined on these cells is not there."""

Valued = Callable[[Split, Answer, Bool[np.ndarray, "n_test"]], Values]
"""Score an answer on some of the test cells."""


@dataclass(frozen=True)
class Setting:
    """Splits whose scores are averaged, with a method's answers on them.

    Attributes
    ----------
    metrics
        Its metrics by the names that `Valued` gives their values.
    drawn
        Whether the splits are random draws, whose spread is part of the error.
    note
        What the reader of its scores must know.
    """

    metrics: Mapping[str, Metric]
    splits: tuple[Split, ...]
    answers: tuple[Answer | Absent, ...]
    drawn: bool = False
    note: str = ""


def draw_names(n: int) -> tuple[str, ...]:
    """Name the replicates of a mean over `n` random draws; one draw has none."""
    return tuple(f"draw-{i + 1}-of-{n}" for i in range(n)) if n > 1 else ()


def draw_replicates(sizes: Sequence[int]) -> tuple[Replicate, ...]:
    """Return the replicates of means over so many draws each."""
    return tuple(
        Replicate(name, "draws", 1 / n) for n in dict.fromkeys(sizes) for name in draw_names(n)
    )


def scores_of(
    setting: Setting,
    valued: Valued,
    halves: Sequence[Half],
    lacking: Mapping[str, str] | None = None,
) -> list[Score]:
    """Score a setting: its mean over splits on all cells and on each half, and each draw.

    Parameters
    ----------
    lacking
        Why a metric that gets no value has none, by its name, where that is not the cells' doing.

    Returns
    -------
    A score of every metric of the setting, or the reason why it has none.
    """
    absent = [answer for answer in setting.answers if isinstance(answer, Absent)]
    if absent:
        worst = next((a for a in absent if a.status == "failed"), absent[0])
        note = f"{len(absent)} of {len(setting.answers)} splits: {worst.note}"
        return absences(setting.metrics.values(), Absent(worst.status, note))
    pairs = [
        (split, answer)
        for split, answer in zip(setting.splits, setting.answers, strict=True)
        if not isinstance(answer, Absent)
    ]
    full = [valued(s, a, np.ones(len(s.test), dtype=bool)) for s, a in pairs]
    rows = _rows(setting, ALL, _mean(full, full), setting.note)
    # What is always kept whole or not at all has halves of the mean, and none of its own.
    whole = {s.held_out for s, _ in pairs if all(_all_or_none(h.keeps[s.test]) for h in halves)}
    for half in halves:
        means = _mean([valued(s, a, half.keeps[s.test]) for s, a in pairs], full)
        means = {key: value for key, value in means.items() if key[1] not in whole}
        rows += _rows(setting, half.replicate.name, means)
    if setting.drawn:
        for name, values in zip(draw_names(len(full)), full, strict=True):
            rows += _rows(setting, name, values)
    have = {row.metric for row in rows if row.split == ALL}
    for name, metric in setting.metrics.items():
        if metric.id not in have:
            reason = (lacking or {}).get(name, "it is not defined on these cells")
            rows += absences([metric], Absent("not_applicable", reason))
    return rows


def _all_or_none(mask: Bool[np.ndarray, "n_test"]) -> bool:
    return bool(mask.all() or not mask.any())


def absences(metrics: Iterable[Metric], absent: Absent) -> list[Score]:
    """Say of each metric why it has no score."""
    return [Score(m.id, m.version, None, "dataset", absent.status, absent.note) for m in metrics]


def _mean(each: Sequence[Values], full: Sequence[Values]) -> Values:
    """Mean over the splits that have a value on all their cells, and have one on these.

    A half may lack a split's group, or the donors of its type: the others speak for it then. The
    splits that are left differ from half to half, which adds to their spread what lies between
    splits: right where groups are the units, and elsewhere an error on the safe side.
    """
    found: dict[tuple[str, str], list[float]] = {}
    for values, whole in zip(each, full, strict=True):
        for key in values.keys() & whole.keys():
            found.setdefault(key, []).append(values[key])
    keys = dict.fromkeys(key for whole in full for key in whole)  # in their order
    return {key: float(np.mean(found[key])) for key in keys if key in found}


def _rows(setting: Setting, split: str, values: Values, note: str = "") -> list[Score]:
    rows = []
    for (name, unit), value in values.items():
        metric = setting.metrics[name]
        rows.append(Score(metric.id, metric.version, value, unit, note=note, split=split))
    return rows


def mean_over(rows: Sequence[Score], of: Sequence[str], metric: Metric) -> list[Score]:
    """Average dataset-level scores of several metrics, replicate by replicate.

    A metric that does not apply is left out of every replicate; one that failed, or none that
    applies, leaves no mean.

    Parameters
    ----------
    of
        Names of the metrics.
    """
    mine = [row for row in rows if row.metric in of and row.unit == "dataset"]
    values: dict[str, dict[str, float]] = {}
    for row in mine:
        if row.value is not None:
            values.setdefault(row.split, {})[row.metric] = row.value
    complete = values.get(ALL, {}).keys()
    absent = sorted((row.status, row.note) for row in mine if row.status != "ok")
    if not complete or (absent and absent[0][0] == "failed"):
        status, note = absent[0] if absent else ("not_applicable", "no setting has a score")
        return [Score(metric.id, metric.version, None, "dataset", status, note)]
    left_out = [name for name in of if name not in complete]
    note = f"without {', '.join(left_out)}" if left_out else ""
    return [
        Score(
            metric.id,
            metric.version,
            float(np.mean([found[name] for name in complete])),
            note=note if split == ALL else "",
            split=split,
        )
        for split, found in values.items()
        if found.keys() >= complete
    ]


def truth_and_call(
    dataset: Dataset, split: Split, answer: Answer, mask: Bool[np.ndarray, "n_test"]
) -> tuple[Int64[np.ndarray, "n"], Int64[np.ndarray, "n"]]:
    """Return the true and the called class of the cells whose class was learned."""
    place = np.full(len(dataset.role("label").names) + 1, -1, dtype=np.int64)
    place[answer["classes"]] = np.arange(len(answer["classes"]))
    truth = place[dataset.role("label").codes[split.test]]
    known = mask & (truth >= 0)
    return truth[known], answer["test"][known].argmax(axis=1).astype(np.int64)


def classified(
    dataset: Dataset, split: Split, answer: Answer, mask: Bool[np.ndarray, "n_test"]
) -> Values:
    """Accuracy, balanced accuracy, macro-F1, and the recall of each type."""
    truth, call = truth_and_call(dataset, split, answer, mask)
    if not len(truth):
        return {}
    c = classification.confusion(truth, call, len(answer["classes"]))
    values = {
        ("accuracy", "dataset"): classification.accuracy(c),
        ("balanced_accuracy", "dataset"): classification.balanced_accuracy(c),
        ("macro_f1", "dataset"): classification.macro_f1(c),
    }
    names = dataset.role("label").names
    for code, recall in zip(answer["classes"], classification.recalls(c), strict=True):
        if not np.isnan(recall):  # the type is not among these cells
            values["recall", f"type:{names[code]}"] = float(recall)
    return values


def confusion_scores(
    metric: Metric, dataset: Dataset, split: Split, answer: Answer, note: str = ""
) -> list[Score]:
    """Say what share of each true type's cells was called each type, where it is above 0."""
    everything = np.ones(len(split.test), dtype=bool)
    truth, call = truth_and_call(dataset, split, answer, everything)
    if not len(truth):
        return absences([metric], Absent("not_applicable", "no type that is tested was learned"))
    c = classification.confusion(truth, call, len(answer["classes"]))
    shares = c / np.maximum(c.sum(axis=1, keepdims=True), 1)
    names = [dataset.role("label").names[code] for code in answer["classes"]]
    return [
        Score(
            metric.id, metric.version, float(shares[i, j]), pair_of(names[i], names[j]), note=note
        )
        for i, j in zip(*np.nonzero(c), strict=True)
    ]


def pair_of(truth: str, call: str) -> str:
    """Name the unit of a confusion; an arrow in a name would make two pairs look alike."""
    return f"pair:{truth.replace('→', '->')} → {call.replace('→', '->')}"
