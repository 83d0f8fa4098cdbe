"""Skill: where a score lies between the floor, which knows nothing, and the ceiling."""

from collections.abc import Mapping

import numpy as np
import polars as pl

from sclitmus.core.rng import rng_for
from sclitmus.stats.draws import Estimates, Key
from sclitmus.stats.effects import ALPHA

SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "dataset": pl.String,
    "task": pl.String,
    "metric": pl.String,
    "method": pl.String,
    "part": pl.String,
    "skill": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "floor": pl.String,
    "floor_score": pl.Float64,
    "ceiling": pl.String,
    "ceiling_score": pl.Float64,
    "reason": pl.String,
}


def skill(
    joint: Mapping[Key, Estimates],
    methods: pl.DataFrame,
    metrics: pl.DataFrame,
    *,
    seed: int = 0,
    n_draws: int = 10_000,
) -> pl.DataFrame:
    """(score - floor) / (ceiling - floor) for every dataset-level score.

    The floor is the floor method that scored best, the ceiling the ceiling method that scored
    best; both are named in the frame and move with the method's score in the draws. 0 is the
    floor and 1 the ceiling; below 0 is worse than knowing nothing.

    Returns
    -------
    pl.DataFrame
        Columns `SCHEMA`. `skill` is null, with the reason, where a floor or ceiling is missing
        or the ceiling is not shown to be above the floor.
    """
    part = dict(methods.select("method", "part").iter_rows())
    direction = dict(metrics.select("metric", "direction").iter_rows())
    rows: list[dict[str, object]] = []
    for (dataset, task, metric), raw in joint.items():
        if metric in direction:
            rng = rng_for(seed, "statistics", dataset, task, metric)
            about = {"dataset": dataset, "task": task, "metric": metric}
            found = _skills(raw, direction[metric], part, rng, n_draws)
            rows += [about | row for row in found]
    return pl.DataFrame(rows, schema=SCHEMA)


def _skills(
    raw: Estimates,
    direction: str,
    part: Mapping[str, str],
    rng: np.random.Generator,
    n_draws: int,
) -> list[dict[str, object]]:
    joint = raw.toward(direction)
    floor, ceiling = (_best(joint, part, kind) for kind in ("floor", "ceiling"))
    rows: list[dict[str, object]] = [
        {"method": name, "part": part.get(name)} for name in joint.methods
    ]
    if floor is None or ceiling is None:
        missing = " and no ".join(
            kind for kind, at in (("floor", floor), ("ceiling", ceiling)) if at is None
        )
        return [row | {"reason": f"no {missing} was scored"} for row in rows]
    scale = {
        "floor": joint.methods[floor],
        "floor_score": float(raw.value[floor]),
        "ceiling": joint.methods[ceiling],
        "ceiling_score": float(raw.value[ceiling]),
    }
    drawn = joint.draw(rng, n_draws, only_scores=True).scores
    span = drawn[ceiling] - drawn[floor]
    if joint.value[ceiling] <= joint.value[floor] or np.quantile(span, ALPHA / 2) <= 0:
        reason = "the ceiling is not shown to be above the floor, so there is no scale"
        return [row | scale | {"reason": reason} for row in rows]
    skills = (joint.value - joint.value[floor]) / (joint.value[ceiling] - joint.value[floor])
    low, high = np.quantile((drawn - drawn[floor]) / span, [ALPHA / 2, 1 - ALPHA / 2], axis=1)
    return [
        row
        | scale
        | {"skill": float(skills[i]), "low": float(low[i]), "high": float(high[i]), "reason": ""}
        for i, row in enumerate(rows)
    ]


def _best(joint: Estimates, part: Mapping[str, str], kind: str) -> int | None:
    rows = [i for i, name in enumerate(joint.methods) if part.get(name) == kind]
    return max(rows, key=lambda i: float(joint.value[i])) if rows else None
