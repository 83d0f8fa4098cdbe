"""All statistics of a study, from its records: frames in, frames out."""

from dataclasses import dataclass

import polars as pl

from sclitmus.stats.decisions import verdicts
from sclitmus.stats.draws import estimates
from sclitmus.stats.effects import effects
from sclitmus.stats.intervals import intervals
from sclitmus.stats.pooled import pooled_effects
from sclitmus.stats.ranks import ranks
from sclitmus.stats.replicates import replicates
from sclitmus.stats.skill import skill


@dataclass(frozen=True)
class Analysis:
    """What the records say; the columns of each frame are in the module of its name.

    Attributes
    ----------
    verdicts
        One row per dataset, task and judged method, and per task over all datasets.
    intervals
        One row per number: value, 95% interval, how it was had.
    effects
        One row per comparison of two methods, or of a method with the best bar or floor.
    skill
        Each score on the scale from floor to ceiling.
    ranks
        Rank intervals and groups by each task's headline.
    """

    verdicts: pl.DataFrame
    intervals: pl.DataFrame
    effects: pl.DataFrame
    skill: pl.DataFrame
    ranks: pl.DataFrame


def analyse(
    records: pl.DataFrame,
    weights: pl.DataFrame,
    methods: pl.DataFrame,
    tasks: pl.DataFrame,
    metrics: pl.DataFrame,
    *,
    seed: int = 0,
    n_draws: int = 10_000,
) -> Analysis:
    """Analyse a study. The same records and seed give the same frames.

    Parameters
    ----------
    records
        Columns `core.record.RECORD_COLUMNS`.
    weights
        dataset, task, split, weight, and source and n_units where known: see
        `core.split.Replicate`.
    methods
        method, title, part, deterministic.
    tasks
        task, headline, margin.
    metrics
        metric, title, direction, low, high.
    seed, n_draws
        Of the joint draws.

    Raises
    ------
    StudyError
        If a number was recorded twice, or versions of a metric are mixed.
    """
    source = replicates(records, weights)
    joint = estimates(source)
    numbers = intervals(source, metrics)
    compared = pl.concat(
        [
            effects(joint, methods, tasks, metrics, seed=seed, n_draws=n_draws),
            pooled_effects(source, methods, tasks, metrics, seed=seed, n_draws=n_draws),
        ]
    )
    return Analysis(
        verdicts=verdicts(records, numbers, compared, methods, tasks, metrics),
        intervals=numbers,
        effects=compared,
        skill=skill(joint, methods, metrics, seed=seed, n_draws=n_draws),
        ranks=ranks(source, joint, methods, tasks, metrics, seed=seed, n_draws=n_draws),
    )
