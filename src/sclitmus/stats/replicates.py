"""From records to the components of a score's error: half-samples, draws, and seeds.

The score of the full data is the estimate. Its sampling error comes from the scores of random
half-samples, the same for every method: with ``m`` of ``n`` units in each, their variance times
``m / (n - m)`` estimates the variance of the full-data score (delete-d jackknife, Shao and Wu
1989, doi:10.1214/aos/1176347263). The scores of half-samples may all be biased the same way (a
neighbour is farther among half the cells), so deviations are taken from the half-samples' own
mean, never from the full-data score.

Where a score is a mean over random draws of the cells that were learned from, the draws add their
part: the variance over ``n`` of them, divided by ``n``. They too are the same for every method.
Variation over seeds is a third component, independent between methods.
"""

from dataclasses import dataclass

import polars as pl

from sclitmus.errors import StudyError

GROUP = ["dataset", "task", "metric", "unit"]
NUMBER = [*GROUP, "method"]


@dataclass(frozen=True)
class Replicates:
    """What the records say, reduced to what the statistics need.

    Attributes
    ----------
    summary
        One row per number: dataset, task, metric, unit, method | status, value (mean over
        seeds), n_seeds, n_lost_seeds, note | sampling_sd, sampling_df, n_splits, seed_sd (of
        the mean), seed_df | reason: why there is no error estimate, empty where there is one.
    deviations
        One row per number and replicate: dataset, task, metric, unit, method, split,
        source, deviation. The squares of a number's deviations add up to its sampling variance.
    """

    summary: pl.DataFrame
    deviations: pl.DataFrame


def replicates(records: pl.DataFrame, weights: pl.DataFrame) -> Replicates:
    """Reduce records to values and deviations.

    Parameters
    ----------
    records
        Columns `core.record.RECORD_COLUMNS`.
    weights
        dataset, task, split, weight, and source and n_units where known: see
        `core.split.Replicate`.

    Raises
    ------
    StudyError
        If a number was recorded twice, or versions of a metric are mixed.
    """
    _refuse_mixtures(records)
    full = _full_scores(records)
    scored = _replicate_scores(records, weights, full)
    n_wanted = scored.group_by(GROUP).agg(n_wanted=pl.col("split").n_unique().cast(pl.Int64))
    n_scored = scored.group_by([*NUMBER, "seed"]).agg(n_scored=pl.len().cast(pl.Int64))
    complete = (
        n_scored.join(n_wanted.filter(pl.col("n_wanted") > 1), on=GROUP)
        .filter(pl.col("n_scored") == pl.col("n_wanted"))
        .drop("n_scored")
    )
    n_units = _n_units(scored)
    deviations = _deviations(scored.join(complete, on=[*NUMBER, "seed"]))
    summary = (
        full.join(_sampling(deviations, n_units), on=NUMBER, how="left")
        .join(n_wanted, on=GROUP, how="left")
        .join(n_scored.group_by(NUMBER).agg(pl.col("n_scored").max()), on=NUMBER, how="left")
        .with_columns(pl.col("n_splits", "n_wanted", "n_scored").fill_null(0))
        .with_columns(reason=_reason())
        .drop("n_wanted", "n_scored")
        .sort(NUMBER)
    )
    return Replicates(summary, deviations)


def _usable() -> pl.Expr:
    """A NaN that calls itself ok is no score."""
    return ((pl.col("status") == "ok") & pl.col("value").is_finite()).fill_null(value=False)


def _full_scores(records: pl.DataFrame) -> pl.DataFrame:
    """Mean and spread over the seeds, and what became of the lost seeds."""
    usable = _usable()
    note = pl.col("note").filter(~usable & (pl.col("note") != "")).sort().first()
    return (
        records.filter(pl.col("split") == "all")
        .group_by(NUMBER)
        .agg(
            status=pl.when(usable.any())
            .then(pl.lit("ok"))
            .when((pl.col("status") == "not_applicable").all())
            .then(pl.lit("not_applicable"))
            .otherwise(pl.lit("failed")),
            value=pl.col("value").filter(usable).mean(),
            n_seeds=usable.sum().cast(pl.Int64),
            n_lost_seeds=(~usable).sum().cast(pl.Int64),
            seed_sd=(pl.col("value").filter(usable).var(ddof=1) / usable.sum()).sqrt(),
            seed_df=pl.max_horizontal(usable.sum().cast(pl.Float64) - 1, pl.lit(1.0)),
            note=note,
        )
        .with_columns(
            note=pl.when(pl.col("n_lost_seeds") == 0)
            .then(pl.lit(""))
            .otherwise(pl.col("note").fill_null("the value is not a finite number"))
        )
    )


def _replicate_scores(
    records: pl.DataFrame, weights: pl.DataFrame, full: pl.DataFrame
) -> pl.DataFrame:
    """Scores of the replicates that count, of the methods that have a full score.

    A replicate counts if at least half of those methods have a score on it. One on which a
    score makes no sense for anybody (a rare type fell out) is thus no method's fault; one that
    a single method lacks is that method's gap. A source with one replicate says nothing, and
    draws alone are not the whole error: they count where halves do.
    """
    known = weights.columns
    n_units = pl.col("n_units") if "n_units" in known else pl.lit(0)
    source = pl.col("source") if "source" in known else pl.lit("units")
    wanted = weights.filter(pl.col("weight") > 0).select(
        "dataset", "task", "split", "weight", source=source, n_units=n_units.fill_null(0)
    )
    scored = full.filter(pl.col("status") == "ok").select(NUMBER)
    replicate = (
        records.filter(_usable())
        .join(wanted, on=["dataset", "task", "split"])
        .join(scored, on=NUMBER, how="semi")
        .select(*NUMBER, "seed", "split", "source", "value", "weight", "n_units")
    )
    of_units = pl.col("source") == "units"
    counted = (
        replicate.group_by([*GROUP, "split", "source"])
        .agg(n=pl.col("method").n_unique())
        .join(scored.group_by(GROUP).agg(n_methods=pl.len()), on=GROUP)
        .filter(2 * pl.col("n") >= pl.col("n_methods"))
        .filter(
            of_units | ((pl.len().over([*GROUP, "source"]) > 1) & (of_units.sum().over(GROUP) > 1))
        )
    )
    return replicate.join(counted, on=[*GROUP, "split"], how="semi")


def _deviations(complete: pl.DataFrame) -> pl.DataFrame:
    """Scaled deviations from the mean of their source; no replicate of any seed is lacking."""
    part = [*NUMBER, "source"]
    mean, n = pl.col("value").mean().over(part), pl.col("split").n_unique().over(part)
    return (
        complete.sort([*NUMBER, "split", "seed"])
        .group_by([*NUMBER, "split"], maintain_order=True)
        .agg(pl.col("value").mean(), pl.col("source", "weight").first())
        .select(
            *NUMBER,
            "split",
            "source",
            deviation=(pl.col("value") - mean) * (pl.col("weight") / (n - 1)).sqrt(),
        )
    )


def _n_units(scored: pl.DataFrame) -> pl.DataFrame:
    return scored.group_by([*GROUP, "source"]).agg(pl.col("n_units").first())


def _sampling(deviations: pl.DataFrame, n_units: pl.DataFrame) -> pl.DataFrame:
    """Sampling error of each number, and the degrees of freedom of its group's."""
    part = deviations.group_by([*NUMBER, "source"]).agg(
        variance=pl.col("deviation").pow(2).sum(), n_splits=pl.len().cast(pl.Int64)
    )
    of_number = part.group_by(NUMBER).agg(
        sampling_sd=pl.col("variance").sum().sqrt(), n_splits=pl.col("n_splits").sum()
    )
    return of_number.join(_degrees(part, n_units), on=GROUP)


def _degrees(part: pl.DataFrame, n_units: pl.DataFrame) -> pl.DataFrame:
    """Degrees of freedom of the sampling variance of a group, whose methods share replicates.

    Given the data, the variance over half-samples is a chi-square on ``n_splits - 1``; what it
    estimates, the variance between the units, is one on ``n_units - 1``. The relative variance
    of their product gives Satterthwaite's degrees of freedom of a source. It matters for
    donors: 20 half-samples of 6 donors have 3.5 degrees of freedom, not 19. Of the sources
    together they are Satterthwaite's of a sum, each with its mean variance over the methods.
    """
    a = 1 / (pl.col("n_splits") - 1)
    units = pl.col("n_units").cast(pl.Float64)
    b = pl.when(units > 1).then(1 / (units - 1)).otherwise(0.0)
    source = (
        part.group_by([*GROUP, "source"])
        .agg(pl.col("variance").mean(), pl.col("n_splits").first())
        .join(n_units, on=[*GROUP, "source"])
        .with_columns(df=1 / (a + b + 2 * a * b))
    )
    total = pl.col("variance").sum()
    return source.group_by(GROUP).agg(
        sampling_df=pl.when((total > 0) & (pl.len() > 1))
        .then(total.pow(2) / (pl.col("variance").pow(2) / pl.col("df")).sum())
        .otherwise(pl.col("df").min())
    )


def _reason() -> pl.Expr:
    missing = pl.col("n_wanted") - pl.col("n_scored")
    return (
        pl.when(pl.col("status") != "ok")
        .then(pl.col("note"))
        .when(pl.col("sampling_sd").is_not_null())
        .then(pl.lit(""))
        .when(pl.col("n_wanted") == 0)
        .then(pl.lit("no half-samples were scored"))
        .when(pl.col("n_wanted") == 1)
        .then(pl.lit("only one half-sample was scored; an interval needs at least 2"))
        .otherwise(pl.format("{} of {} half-samples have no score", missing, pl.col("n_wanted")))
    )


def _refuse_mixtures(records: pl.DataFrame) -> None:
    """A number recorded twice, or two versions of a metric, must not be averaged unseen."""
    key = [*NUMBER, "seed", "split"]
    twice = records.group_by(key).len().filter(pl.col("len") > 1).sort(key)
    if not twice.is_empty():
        raise StudyError(
            f"{len(twice)} numbers are recorded more than once, the first is {twice.row(0)[:-1]}",
            f"one record per {', '.join(key)}",
            "keep the records of one study, and give two behaviours of a model two names",
        )
    mixed = (
        records.filter(_usable())
        .group_by("metric")
        .agg(pl.col("metric_version").unique().sort())
        .filter(pl.col("metric_version").list.len() > 1)
        .sort("metric")
    )
    if not mixed.is_empty():
        name, versions = mixed.row(0)
        raise StudyError(
            f"metric {name} was recorded in versions {', '.join(versions)}",
            "one version of each metric",
            "score the stored outcomes again with this version of sclitmus",
        )
