"""Does a metric keep the contract of `core.metric.Metric`, and does it tell noise from truth?"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32

from sclitmus.core.metric import Metric
from sclitmus.errors import NotApplicable
from sclitmus.testing.report import ID, ContractError, Finding, Measured, Report, run_checks

N_CELLS = 240
N_TYPES = 4
N_BATCHES = 2


def check_metric(metric: Metric) -> Report:
    """Check a zero-shot metric on planted embeddings.

    The embeddings are noise, noise shifted by type, by batch and by both, and the labels
    themselves, of 240 cells of four types in two batches; the last type is in one batch only.
    """
    trial = _Trial(metric)
    return Report(f"metric {metric.id}", run_checks(_CHECKS, trial))


@dataclass(frozen=True)
class _Trial:
    metric: Metric

    @cached_property
    def label(self) -> Int32[np.ndarray, "n_cells"]:
        return (np.arange(N_CELLS) % N_TYPES).astype(np.int32)

    @cached_property
    def batch(self) -> Int32[np.ndarray, "n_cells"]:
        batch = np.arange(N_CELLS) // N_TYPES % N_BATCHES
        return np.where(self.label == N_TYPES - 1, 0, batch).astype(np.int32)

    @cached_property
    def embeddings(self) -> Mapping[str, Float32[np.ndarray, "n_cells d"]]:
        noise = np.random.default_rng(0).normal(size=(N_CELLS, 10))
        by_type = 6.0 * np.eye(10)[self.label]
        by_batch = 6.0 * np.eye(10)[5 + self.batch]
        planted = {
            "noise": noise,
            "types kept, batches mixed": noise + by_type,
            "types lost, batches apart": noise + by_batch,
            "types kept, batches apart": noise + by_type + by_batch,
            "labels": np.eye(10)[self.label] + 0.01 * noise,
        }
        return {name: z.astype(np.float32) for name, z in planted.items()}

    @cached_property
    def values(self) -> Mapping[str, Mapping[str, float]]:
        return {name: self.measure(z) for name, z in self.embeddings.items()}

    def measure(
        self, z: Float32[np.ndarray, "n_cells d"], rows: slice | np.ndarray = slice(None)
    ) -> Mapping[str, float]:
        from sclitmus.metrics.suite import ScoredEmbedding, score_all

        before = self.embeddings["types kept, batches apart"]
        scored = ScoredEmbedding(
            z=np.ascontiguousarray(z[rows]),
            label=self.label[rows],
            batch=self.batch[rows],
            before=np.ascontiguousarray(before[rows]),
            label_names=tuple(f"type {i}" for i in range(N_TYPES)),
        )
        scores = score_all(scored, {self.metric.id: self.metric})
        for score in scores:
            if score.status == "not_applicable":
                raise NotApplicable(score.note)
            if score.status == "failed" or score.value is None:
                raise ContractError(
                    f"no value: {score.note}", "a finite number, or NotApplicable", "see its note"
                )
        return {score.unit: float(score.value) for score in scores if score.value is not None}


def _declared(trial: _Trial) -> Finding:
    metric = trial.metric
    low, high = metric.bounds
    faults = []
    if not ID.fullmatch(metric.id):
        faults.append(f"id {metric.id!r}: letters, digits and _ . @ + - only, at most 64")
    if not (metric.title and metric.summary):
        faults.append("title or summary is empty")
    if not low < high:
        faults.append(f"bounds {metric.bounds}: the smaller first")
    if metric.chance is not None and not low <= metric.chance <= high:
        faults.append(f"chance {metric.chance} is outside the bounds {metric.bounds}")
    if metric.direction not in ("higher", "lower"):
        faults.append(f"direction {metric.direction!r}: higher or lower")
    if metric.side not in ("types", "batches", "both"):
        faults.append(f"side {metric.side!r}: types, batches or both")
    if faults:
        raise ContractError(
            "; ".join(faults), "what core.metric.Metric describes", "mend the Metric"
        )
    return f"{low:g} to {high:g}, {metric.direction} is better"


def _values(trial: _Trial) -> Finding:
    for name, units in trial.values.items():
        for unit, value in units.items():
            if not math.isfinite(value):
                raise ContractError(
                    f"{value} for {unit} of the embedding {name!r}",
                    "a finite number, or NotApplicable",
                    "raise NotApplicable(why) where there is no value",
                )
    return ", ".join(
        f"{name}: {units.get('dataset', math.nan):.3f}" for name, units in trial.values.items()
    )


def _bounds(trial: _Trial) -> Finding:
    low, high = trial.metric.bounds
    slack = 1e-6
    for name, units in trial.values.items():
        for unit, value in units.items():
            if not low - slack <= value <= high + slack:
                raise ContractError(
                    f"{value:g} for {unit} of the embedding {name!r}",
                    f"within its bounds {trial.metric.bounds}",
                    "state the true bounds; do not clip",
                )
    return ""


def _repeatable(trial: _Trial) -> Finding:
    z = trial.embeddings["types kept, batches mixed"]
    first, second = trial.values["types kept, batches mixed"], trial.measure(z)
    if first != second:
        raise ContractError(
            f"{first}, then {second}", "equal input, equal value", "seed from the input"
        )
    return ""


def _right_way(trial: _Trial) -> Finding:
    """A planted answer must not be worse than the planted mistake it is the answer to."""
    good = "types kept, batches mixed"
    bad = {
        "types": ("types lost, batches apart", "noise"),
        "batches": ("types kept, batches apart",),
        "both": ("types lost, batches apart", "types kept, batches apart"),
    }[trial.metric.side]
    sign = 1.0 if trial.metric.direction == "higher" else -1.0
    value = {
        name: sign * units["dataset"] for name, units in trial.values.items() if "dataset" in units
    }
    if good not in value:
        raise NotApplicable("it has no value for the whole dataset")
    for name in bad:
        if value[good] < value[name]:
            raise ContractError(
                f"{name!r} scores {sign * value[name]:.3f}, better than {good!r} with "
                f"{sign * value[good]:.3f}",
                f"that {trial.metric.direction} is better",
                "turn the direction round, or state another side",
            )
    return f"{good}: {sign * value[good]:.3f}; " + "; ".join(
        f"{name}: {sign * value[name]:.3f}" for name in bad
    )


def _noise(trial: _Trial) -> Finding:
    value = trial.values["noise"].get("dataset")
    if value is None:
        raise NotApplicable("it has no value for the whole dataset")
    chance = trial.metric.chance
    stated = "states no chance level" if chance is None else f"states chance as {chance:g}"
    return Measured(value, f"pure noise scores {value:.3f}; the metric {stated}")


def _cell_order(trial: _Trial) -> Finding:
    order = np.random.default_rng(1).permutation(N_CELLS)
    name = "types kept, batches mixed"
    there, here = trial.values[name], trial.measure(trial.embeddings[name], order)
    off = max(abs(there[unit] - here.get(unit, math.inf)) for unit in there)
    return Measured(off, f"with the cells shuffled it changes by {off:.2g}")


def _rotation(trial: _Trial) -> Finding:
    name = "types kept, batches mixed"
    z = trial.embeddings[name]
    q, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(z.shape[1], z.shape[1])))
    there, here = trial.values[name], trial.measure((z @ q).astype(np.float32))
    off = max(abs(there[unit] - here.get(unit, math.inf)) for unit in there)
    return Measured(off, f"with the axes rotated it changes by {off:.2g}")


_CHECKS: Mapping[str, Callable[[Any], Finding]] = {
    "declared": _declared,
    "values": _values,
    "bounds": _bounds,
    "repeatable": _repeatable,
    "right_way": _right_way,
    "noise": _noise,
    "cell_order": _cell_order,
    "rotation": _rotation,
}
