"""Differences over all datasets: the datasets are the units, and a few are not enough."""

from collections.abc import Mapping

import numpy as np
import polars as pl

from sclitmus.core.rng import rng_for
from sclitmus.stats.draws import Estimates, estimates_over_units
from sclitmus.stats.effects import JUDGED, adjusted, compare, effect_row
from sclitmus.stats.replicates import Replicates

POOLED = "(all datasets)"
ENOUGH_DATASETS = 5
"""Fewer datasets have no interval: with 4, Student's t is 3.2 and rests on 3 differences."""


def pooled_effects(
    source: Replicates,
    methods: pl.DataFrame,
    tasks: pl.DataFrame,
    metrics: pl.DataFrame,
    *,
    seed: int = 0,
    n_draws: int = 10_000,
) -> pl.DataFrame:
    """Mean difference over datasets, of the headline of each task, to the best bar and floor.

    The datasets a method has a score on are its units; the best rival is the one with the best
    mean over them, among the rivals with a score on all of them. The interval speaks about the
    mean over further datasets like these, so it rests on the differences between datasets,
    which contain the error within each. With fewer than `ENOUGH_DATASETS` there is none.

    Returns
    -------
    pl.DataFrame
        Columns `effects.SCHEMA`, with `POOLED` as dataset. No rows for a task with one dataset.
    """
    part = dict(methods.select("method", "part").iter_rows())
    direction = dict(metrics.select("metric", "direction").iter_rows())
    rows: list[dict[str, object]] = []
    for task, metric, margin in tasks.select("task", "headline", "margin").iter_rows():
        if metric not in direction:
            continue
        values = dataset_values(source, task, metric, direction[metric])
        for method in sorted(values):
            if part.get(method) not in JUDGED or len(values[method]) < 2:
                continue
            for kind in ("bar", "floor"):
                joint = _over_datasets(values, method, part, kind)
                if len(joint.methods) > 1:
                    about = {
                        "dataset": POOLED,
                        "task": task,
                        "metric": metric,
                        "method": method,
                        "part": part[method],
                        "n_datasets": len(values[method]),
                    }
                    rng = rng_for(seed, "statistics", POOLED, task, metric)
                    rows.append(_row(about, kind, joint, margin, rng, n_draws))
    return adjusted(rows)


def dataset_values(
    source: Replicates, task: str, metric: str, direction: str
) -> dict[str, dict[str, float]]:
    """Score of each method on each dataset, signed so that more is better."""
    sign = 1.0 if direction == "higher" else -1.0
    scored = source.summary.filter(
        pl.col("task") == task,
        pl.col("metric") == metric,
        pl.col("unit") == "dataset",
        pl.col("status") == "ok",
    )
    values: dict[str, dict[str, float]] = {}
    for method, dataset, value in scored.select("method", "dataset", "value").iter_rows():
        values.setdefault(method, {})[dataset] = sign * value
    return values


def _over_datasets(
    values: Mapping[str, Mapping[str, float]], method: str, part: Mapping[str, str], kind: str
) -> Estimates:
    """The method first, then its rivals of one kind that have a score wherever it has one."""
    datasets = sorted(values[method])
    rivals = [
        name
        for name in sorted(values)
        if part.get(name) == kind and name != method and values[name].keys() >= set(datasets)
    ]
    names = (method, *rivals)
    matrix = np.array([[values[name][dataset] for dataset in datasets] for name in names])
    return estimates_over_units(matrix, names)


def _row(
    about: Mapping[str, object],
    kind: str,
    joint: Estimates,
    margin: float,
    rng: np.random.Generator,
    n_draws: int,
) -> dict[str, object]:
    rivals = list(range(1, len(joint.methods)))
    found = compare(joint.draw(rng, n_draws), 0, rivals)
    row = effect_row(about, f"best {kind}", joint, rivals, found, margin)
    if int(str(about["n_datasets"])) < ENOUGH_DATASETS:
        row |= dict.fromkeys(("low", "high", "sd", "p", "equivalent", "mde"))
    return row
