"""What is read from predictions on cells of known and unknown types."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress

import numpy as np
from jaxtyping import Bool, Float64, Int64

from sclitmus.core.dataset import Dataset
from sclitmus.core.record import Absent, Score
from sclitmus.core.split import Split
from sclitmus.core.task import Answer
from sclitmus.errors import NotApplicable
from sclitmus.metrics import calibration, novelty, openset
from sclitmus.tasks.distance_of_types import Kin
from sclitmus.tasks.label_scores import Values, absences
from sclitmus.tasks.open_set_metrics import METRICS, SCALED

REJECTED = 0.05  # of the validation cells, at the threshold
LOGIT_SCORES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "max_softmax": novelty.max_softmax,
    "entropy": novelty.entropy,
    "margin": novelty.margin,
    "max_logit": novelty.max_logit,
    "energy": novelty.energy,
}


def of_novel(
    dataset: Dataset, split: Split, answer: Answer, mask: Bool[np.ndarray, "n_test"], kin: Kin
) -> Values:
    """Tell cells of the held-out type from the others, by each measure of novelty.

    A held-out lineage speaks for far types only: the means over the types stay means over types.
    """
    truth = places(dataset, answer, split.test)[mask]
    logits = answer["test"][mask].astype(np.float64)
    is_novel = truth < 0
    if is_novel.all() or not is_novel.any():
        return {}
    correct = logits.argmax(axis=1) == truth
    scores = dict(_measured(logits))
    scores |= {
        name: answer[name][mask] for name in ("knn_distance", "mahalanobis") if name in answer
    }
    area = openset.auroc(scores["max_softmax"], is_novel)
    values: Values = {(f"auroc_{kin}", unit): area for unit in ("dataset", split.held_out)}
    if not split.held_out.startswith("type:"):
        return values | {("auroc.max_softmax", split.held_out): area}
    for name, score in scores.items():
        for metric, value in (
            (f"auroc.{name}", openset.auroc(score, is_novel)),
            (f"aupr.{name}", openset.aupr(score, is_novel)),
            (f"fpr95.{name}", openset.fpr_at_95_known_kept(score, is_novel)),
            (f"oscr.{name}", openset.oscr(score, is_novel, correct)),
        ):
            values[metric, "dataset"] = values[metric, split.held_out] = value
    return values | _at_threshold(answer, scores["max_softmax"], is_novel, correct)


def _measured(logits: Float64[np.ndarray, "n n_classes"]) -> Iterator[tuple[str, np.ndarray]]:
    for name, score in LOGIT_SCORES.items():
        # Log probabilities have no energy, and one class has no margin.
        with suppress(NotApplicable):
            yield name, score(logits)


def _at_threshold(
    answer: Answer,
    score: Float64[np.ndarray, "n"],
    is_novel: Bool[np.ndarray, "n"],
    correct: Bool[np.ndarray, "n"],
) -> Values:
    if not len(answer["validation"]):
        return {}
    known = novelty.max_softmax(answer["validation"].astype(np.float64))
    threshold = openset.threshold_for_rejection(known, REJECTED)
    at = openset.at_threshold(score, is_novel, correct, threshold)
    named = {name: getattr(at, name) for name in type(at).__dataclass_fields__}
    return {(name, "dataset"): value for name, value in named.items() if value is not None}


def on_knowns(
    dataset: Dataset, split: Split, answer: Answer, mask: Bool[np.ndarray, "n_test"]
) -> Values:
    """Hold the confidence in known cells against how often it is right."""
    truth, logits = _knowns(dataset, split, answer, mask)
    if not len(truth) or not split.held_out.startswith("type:"):
        return {}
    values: Values = {}
    for suffix, t in _temperatures(answer):
        p = calibration.softmax(logits, t)
        of = {
            "ece": calibration.top_label_ece(p, truth),
            "ece_mass": calibration.top_label_ece(p, truth, bins="mass"),
            "classwise_ece": calibration.classwise_ece(p, truth),
            "brier": calibration.brier(p, truth),
            "nll": calibration.nll(logits / t, truth),
        }
        values |= {(f"{name}{suffix}", "dataset"): value for name, value in of.items()}
    wrong = logits.argmax(axis=1) != truth
    kept = openset.risk_coverage(novelty.max_softmax(logits), wrong)
    return values | {("aurc", "dataset"): kept.aurc}


def curves(
    dataset: Dataset, splits: Sequence[Split], answers: Sequence[Answer | Absent]
) -> list[Score]:
    """Draw reliability and risk over the known cells of all splits that hold out a type."""
    found: dict[str, dict[str, list[np.ndarray]]] = {}
    for split, answer in zip(splits, answers, strict=True):
        if isinstance(answer, Absent) or not split.held_out.startswith("type:"):
            continue
        everything = np.ones(len(split.test), dtype=bool)
        truth, logits = _knowns(dataset, split, answer, everything)
        if not len(truth):
            continue
        right = logits.argmax(axis=1) == truth
        for suffix, t in _temperatures(answer):
            of = found.setdefault(suffix, {"sure": [], "right": []})
            of["sure"].append(calibration.softmax(logits, t).max(axis=1))
            of["right"].append(right)
    rows: list[Score] = []
    for suffix, of in found.items():
        sure, right = np.concatenate(of["sure"]), np.concatenate(of["right"])
        rows += _reliability(sure, right, suffix)
        if not suffix:
            kept = openset.risk_coverage(1 - sure, ~right)
            for coverage, risk in zip(kept.coverage, kept.risk, strict=True):
                rows.append(_row("risk", f"coverage:{coverage:.2f}", float(risk)))
    drawn = {row.metric for row in rows}
    bins = [metric for metric in METRICS.values() if metric.unit == "bin"]
    lacking = [metric for metric in bins if metric.id not in drawn]
    reason = "there are no known cells with a prediction, or none to set a temperature on"
    return rows + absences(lacking, Absent("not_applicable", reason))


def _reliability(
    sure: Float64[np.ndarray, "n"], right: Bool[np.ndarray, "n"], suffix: str
) -> Iterator[Score]:
    n = calibration.N_BINS
    bin_of = np.clip(np.ceil(sure * n) - 1, 0, n - 1).astype(np.int64)  # closed above, as for ece
    for b in np.unique(bin_of):
        inside = bin_of == b
        unit = f"bin:{b + 1:02d}"
        yield _row(f"bin_confidence{suffix}", unit, float(sure[inside].mean()))
        yield _row(f"bin_accuracy{suffix}", unit, float(right[inside].mean()))
        yield _row(f"bin_cells{suffix}", unit, float(inside.sum()))


def _row(metric: str, unit: str, value: float) -> Score:
    return Score(metric, METRICS[metric].version, value, unit)


def temperature_of(
    dataset: Dataset, split: Split, answer: Answer
) -> Float64[np.ndarray, "at_most_1"]:
    """Return the temperature that suits the validation cells; none where none can be told.

    Cells that are all called right suit any temperature near 0, at which a single wrong call among
    the test cells would cost without bound.
    """
    try:
        truth = places(dataset, answer, split.validation)
        found = calibration.fit_temperature(answer["validation"], truth)
    except NotApplicable:
        return np.empty(0)
    low, high = calibration.TEMPERATURE_BOUNDS
    inside = 1.01 * low < found < high / 1.01
    return np.array([found]) if inside else np.empty(0)


def _temperatures(answer: Answer) -> Iterator[tuple[str, float]]:
    """Yield 1, and the fitted temperature, with the suffixes of their metrics."""
    yield "", 1.0
    if len(answer["temperature"]):
        yield SCALED, float(answer["temperature"][0])


def _knowns(
    dataset: Dataset, split: Split, answer: Answer, mask: Bool[np.ndarray, "n_test"]
) -> tuple[Int64[np.ndarray, "n_known"], Float64[np.ndarray, "n_known n_classes"]]:
    truth = places(dataset, answer, split.test)
    known = mask & (truth >= 0)
    return truth[known], answer["test"][known].astype(np.float64)


def places(
    dataset: Dataset, answer: Answer, rows: Int64[np.ndarray, "n"]
) -> Int64[np.ndarray, "n"]:
    """Return the column of each cell's true class; -1 where it was not learned."""
    label = dataset.role("label")
    place = np.full(len(label.names) + 1, -1, dtype=np.int64)
    place[answer["classes"]] = np.arange(len(answer["classes"]))
    found: np.ndarray = place[label.codes[rows]]
    return found
