"""An interval on every number."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from jaxtyping import Float64
from scipy.special import stdtrit

from sclitmus.stats.replicates import NUMBER, Replicates

COLUMNS = (
    *NUMBER,
    *("status", "value", "low", "high", "sd", "n_seeds", "n_splits", "how"),
    *("beyond_bounds", "reason"),
)


def intervals(source: Replicates, metrics: pl.DataFrame, level: float = 0.95) -> pl.DataFrame:
    """Interval on every number: dataset-level scores and scores of single types.

    Parameters
    ----------
    source
        What `replicates` made of the records.
    metrics
        metric, low, high (bounds).
    level
        Share of repetitions in which the interval covers the expected score.

    Returns
    -------
    pl.DataFrame
        dataset, task, metric, unit, method, status, value (mean over seeds), low, high, sd,
        n_seeds, n_splits, how (in words), beyond_bounds (an end lies outside the metric's
        bounds; it is shown as it is, not clipped), reason (why value or interval is null, or
        which seeds are missing from the mean).
    """
    summary = source.summary
    sampling = summary["sampling_sd"].cast(pl.Float64).to_numpy() ** 2
    seeds = summary["seed_sd"].cast(pl.Float64).fill_null(0.0).to_numpy() ** 2
    dfs = (summary["sampling_df"].cast(pl.Float64).to_numpy(), summary["seed_df"].to_numpy())
    width = half_width((sampling, seeds), dfs, level)
    sd = pl.Series("sd", np.sqrt(sampling + seeds), nan_to_null=True)
    half = pl.Series("half", width, nan_to_null=True)
    return (
        summary.with_columns(sd, half)
        .with_columns(low=pl.col("value") - pl.col("half"), high=pl.col("value") + pl.col("half"))
        .join(metrics.select("metric", bound_low="low", bound_high="high"), on="metric", how="left")
        .with_columns(
            how=_how(),
            reason=_reason(),
            beyond_bounds=(
                (pl.col("low") < pl.col("bound_low")) | (pl.col("high") > pl.col("bound_high"))
            ).fill_null(value=False),
        )
        .select(COLUMNS)
        .sort(NUMBER)
    )


def half_width(
    variances: Sequence[Float64[np.ndarray, "n"]],
    dfs: Sequence[Float64[np.ndarray, "n"]],
    level: float,
) -> Float64[np.ndarray, "n"]:
    """Half the width of an interval whose error is a sum of independently estimated parts.

    The t quantiles of the parts are averaged with their variances as weights (Cochran and Cox,
    Experimental Designs, 1950). This never covers less than `level`; Satterthwaite's degrees of
    freedom cover 88% instead of 95% where two seeds carry the error.
    """
    total = np.sum(variances, axis=0)
    quantiles = [stdtrit(df, (1 + level) / 2) for df in dfs]
    weighted = np.sum([v * t for v, t in zip(variances, quantiles, strict=True)], axis=0)
    half = np.array(total)  # 0 stays 0, and NaN stays NaN
    np.divide(weighted, np.sqrt(total), out=half, where=total != 0.0)
    return half


def _how() -> pl.Expr:
    seeds = (
        pl.when(pl.col("n_seeds") == 1)
        .then(pl.lit("1 seed"))
        .otherwise(pl.format("{} seeds", pl.col("n_seeds")))
    )
    return (
        pl.when(pl.col("value").is_null())
        .then(pl.lit(""))
        .when(pl.col("half").is_null())
        .then(seeds)
        .otherwise(pl.format("{} half-samples, {}", pl.col("n_splits"), seeds))
    )


def _reason() -> pl.Expr:
    lost = pl.format(
        "{} of {} seeds have no score: {}",
        pl.col("n_lost_seeds"),
        pl.col("n_lost_seeds") + pl.col("n_seeds"),
        pl.col("note"),
    )
    return (
        pl.when((pl.col("status") == "ok") & (pl.col("n_lost_seeds") > 0))
        .then(
            pl.when(pl.col("reason") == "")
            .then(lost)
            .otherwise(pl.format("{}; {}", pl.col("reason"), lost))
        )
        .otherwise(pl.col("reason"))
    )
