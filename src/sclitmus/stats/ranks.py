"""Rank intervals and groups of methods that cannot be told apart, in place of 1, 2, 3.

Where methods tie, percentiles of bootstrapped ranks do not cover the true ranks, because noise
alone spreads equal methods over distinct ranks. Instead, every pair is tested, all pairs at once
(max-t over joint draws, stepped down as by Romano and Wolf 2005, doi:10.1198/016214504000000539);
a method's rank lies between one more than the number of methods shown to be better and the
number not shown to be worse (Mogstad, Romano, Shaikh and Wilhelm 2024, doi:10.1093/restud/rdad006).
All rank intervals of a table hold together with 95%.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Bool, Float64, Int64

from sclitmus.core.rng import rng_for
from sclitmus.stats.draws import Draws, Estimates, Key, estimates_over_units
from sclitmus.stats.effects import ALPHA
from sclitmus.stats.pooled import ENOUGH_DATASETS, POOLED, dataset_values
from sclitmus.stats.replicates import Replicates

RANKED = ("contender", "bar", "floor")
"""A ceiling or a canary sees the labels; its rank would say nothing."""

SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "dataset": pl.String,
    "task": pl.String,
    "metric": pl.String,
    "method": pl.String,
    "part": pl.String,
    "score": pl.Float64,
    "rank": pl.Int64,
    "rank_low": pl.Int64,
    "rank_high": pl.Int64,
    "group": pl.Int64,
    "top": pl.Boolean,
    "p_best": pl.Float64,
    "n_methods": pl.Int64,
}


@dataclass(frozen=True)
class Ranking:
    """Where each method stands; 1 is best.

    Attributes
    ----------
    rank
        By score alone; equal scores share the better rank.
    low, high
        Interval of the rank; all hold together with 95%.
    group
        1 for the best-scoring method and all not shown to be worse than it, then again among
        the rest. Neighbouring groups may overlap in truth: the intervals say so.
    p_best
        Share of draws in which the method scores best.
    """

    rank: Int64[np.ndarray, "n_methods"]
    low: Int64[np.ndarray, "n_methods"]
    high: Int64[np.ndarray, "n_methods"]
    group: Int64[np.ndarray, "n_methods"]
    p_best: Float64[np.ndarray, "n_methods"]


def rank(drawn: Draws) -> Ranking:
    """Rank methods, from draws in which more is better."""
    joint = drawn.joint
    n = len(joint.methods)
    better = beats(drawn)
    scores = drawn.scores
    best = scores >= scores.max(axis=0)
    return Ranking(
        rank=1 + (joint.value[None, :] > joint.value[:, None]).sum(axis=1),
        low=1 + better.sum(axis=0),
        high=n - better.sum(axis=1),
        group=_groups(joint.value, better),
        p_best=(best / best.sum(axis=0)).mean(axis=1),
    )


def beats(drawn: Draws) -> Bool[np.ndarray, "n_methods n_methods"]:
    """Whether i is shown to be better than j, all pairs tested at once."""
    joint = drawn.joint
    n = len(joint.methods)
    one, other = np.triu_indices(n, k=1)
    difference, sd = joint.differences(one.tolist(), other.tolist())
    differs = (sd == 0) & (difference != 0)
    open_ = np.flatnonzero(sd > 0)
    while len(open_):
        # Pairs already told apart cannot be falsely told apart, so the others need less width.
        largest = np.zeros(2 * drawn.sampling.shape[1])
        for start in range(0, len(open_), 32):  # in blocks: 100 methods have 4950 pairs
            pairs = open_[start : start + 32]
            t = drawn.pivots(one[pairs].tolist(), other[pairs].tolist())
            np.maximum(largest, np.abs(t).max(axis=0), out=largest)
        told = np.abs(difference[open_]) > np.quantile(largest, 1 - ALPHA) * sd[open_]
        if not told.any():
            break
        differs[open_[told]] = True
        open_ = open_[~told]
    better = np.zeros((n, n), dtype=bool)
    better[one, other] = differs & (difference > 0)
    better[other, one] = differs & (difference < 0)
    return better


def _groups(
    value: Float64[np.ndarray, "n_methods"], better: Bool[np.ndarray, "n_methods n_methods"]
) -> Int64[np.ndarray, "n_methods"]:
    group = np.zeros(len(value), dtype=np.int64)
    number = 0
    while (group == 0).any():
        number += 1
        left = group == 0
        leader = int(np.where(left, value, -np.inf).argmax())
        group[left & ~better[leader]] = number
    return group


def ranks(
    source: Replicates,
    joint: Mapping[Key, Estimates],
    methods: pl.DataFrame,
    tasks: pl.DataFrame,
    metrics: pl.DataFrame,
    *,
    seed: int = 0,
    n_draws: int = 10_000,
) -> pl.DataFrame:
    """Ranks by the headline of each task, per dataset and, with enough of them, over datasets.

    Returns
    -------
    pl.DataFrame
        Columns `SCHEMA`, best first: rank, rank_low, rank_high (95%, all together), group (1 is
        the top group), top (not shown to be worse than anyone), p_best. Contenders, bars and
        floors are ranked; a method without an interval is not in the frame. Over datasets
        (dataset is `pooled.POOLED`) those are ranked that have a score on every one.
    """
    part = dict(methods.select("method", "part").iter_rows())
    direction = dict(metrics.select("metric", "direction").iter_rows())
    rows: list[dict[str, object]] = []
    for task, metric in tasks.select("task", "headline").iter_rows():
        if metric not in direction:
            continue
        tables = {key[0]: found for key, found in joint.items() if key[1:] == (task, metric)}
        tables = {name: found.toward(direction[metric]) for name, found in sorted(tables.items())}
        values = dataset_values(source, task, metric, direction[metric])
        tables |= _over_datasets({m: v for m, v in values.items() if part.get(m) in RANKED})
        for dataset, found in tables.items():
            ranked = [i for i, name in enumerate(found.methods) if part.get(name) in RANKED]
            if ranked:
                rng = rng_for(seed, "statistics", dataset, task, metric)
                table = found.take(ranked)
                ranking = rank(table.draw(rng, n_draws))
                about = {"dataset": dataset, "task": task, "metric": metric}
                sign = 1.0 if direction[metric] == "higher" else -1.0
                rows += _rows(about, table, ranking, part, sign)
    return pl.DataFrame(rows, schema=SCHEMA)


def _over_datasets(values: Mapping[str, Mapping[str, float]]) -> dict[str, Estimates]:
    datasets = sorted({dataset for scores in values.values() for dataset in scores})
    names = tuple(name for name in sorted(values) if len(values[name]) == len(datasets))
    if len(datasets) < ENOUGH_DATASETS or not names:
        return {}
    matrix = np.array([[values[name][dataset] for dataset in datasets] for name in names])
    return {POOLED: estimates_over_units(matrix, names)}


def _rows(
    about: Mapping[str, object],
    table: Estimates,
    ranking: Ranking,
    part: Mapping[str, str],
    sign: float,
) -> list[dict[str, object]]:
    return [
        {
            **about,
            "method": table.methods[i],
            "part": part[table.methods[i]],
            "score": sign * float(table.value[i]),
            "rank": int(ranking.rank[i]),
            "rank_low": int(ranking.low[i]),
            "rank_high": int(ranking.high[i]),
            "group": int(ranking.group[i]),
            "top": bool(ranking.low[i] == 1),
            "p_best": float(ranking.p_best[i]),
            "n_methods": len(table.methods),
        }
        for i in np.argsort(-table.value, kind="stable")
    ]
