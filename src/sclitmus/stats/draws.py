"""Joint estimates of all methods on the same data, and draws of what they could have been."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from jaxtyping import Float64

from sclitmus.stats.replicates import GROUP, Replicates, replicates

Key = tuple[str, str, str]  # dataset, task, metric
DRAWS_PER_SPREAD = 4
"""How many draws share a drawn covariance, which costs df times as much as they do."""
MOST_DF = 60
"""Beyond it Student's t is within 2% of the normal, and the drawn covariances cost memory."""


@dataclass(frozen=True)
class Estimates:
    """The scores of several methods on the same data, with their joint error.

    Attributes
    ----------
    methods
        Names of the rows.
    value
        Score on the full data, mean over seeds.
    deviations
        How each half-sample's score deviates, scaled so that ``deviations @ deviations.T`` is
        the sampling covariance of `value`.
    df
        Degrees of freedom of that covariance.
    seed_sd, seed_df
        Standard error of the mean over seeds and its degrees of freedom, independent between
        methods; 0 and 1 where one seed ran.
    """

    methods: tuple[str, ...]
    value: Float64[np.ndarray, "n_methods"]
    deviations: Float64[np.ndarray, "n_methods n_splits"]
    df: float
    seed_sd: Float64[np.ndarray, "n_methods"]
    seed_df: Float64[np.ndarray, "n_methods"]

    def toward(self, direction: str) -> "Estimates":
        """Turn the sign if `direction` is ``lower``, so that more is better."""
        if direction == "higher":
            return self
        return replace(self, value=-self.value, deviations=-self.deviations)

    def take(self, rows: Sequence[int]) -> "Estimates":
        """Keep these methods, in this order."""
        index = np.asarray(rows, dtype=np.int64)
        return Estimates(
            tuple(self.methods[i] for i in rows),
            self.value[index],
            self.deviations[index],
            self.df,
            self.seed_sd[index],
            self.seed_df[index],
        )

    def differences(
        self, one: Sequence[int], other: Sequence[int]
    ) -> tuple[Float64[np.ndarray, "n_pairs"], Float64[np.ndarray, "n_pairs"]]:
        """Return ``value[one] - value[other]`` and its standard error, pair by pair."""
        i, j = np.asarray(one, dtype=np.int64), np.asarray(other, dtype=np.int64)
        sampling = ((self.deviations[i] - self.deviations[j]) ** 2).sum(axis=1)
        seeds = self.seed_sd[i] ** 2 + self.seed_sd[j] ** 2
        return self.value[i] - self.value[j], np.sqrt(sampling + seeds)

    def draw(self, rng: np.random.Generator, n_draws: int, *, only_scores: bool = False) -> "Draws":
        """Draw errors of all methods' scores, jointly; see `Draws`.

        With `only_scores`, what `Draws.pivots` needs, the costly part, is left out.
        """
        half = (n_draws + 1) // 2
        n_methods, n_splits = self.deviations.shape
        n_spreads = 0 if only_scores else (half + DRAWS_PER_SPREAD - 1) // DRAWS_PER_SPREAD
        df = int(min(max(self.df, 1.0), MOST_DF))
        normal = rng.standard_normal
        chi = np.sqrt(
            rng.chisquare(self.seed_df[:, None], (n_methods, half)) / self.seed_df[:, None]
        )
        return Draws(
            joint=self,
            sampling=self.deviations @ normal((n_splits, half)),
            scale=np.sqrt(rng.chisquare(self.df, half) / self.df),
            seeds=self.seed_sd[:, None] * normal((n_methods, half)) / chi,
            spreads=(self.deviations @ normal((n_splits, df * n_spreads))).reshape(
                n_methods, df, n_spreads
            ),
        )


@dataclass(frozen=True)
class Draws:
    """Errors that all methods' scores could have had, drawn jointly.

    A multiplier bootstrap: each half-sample's deviation is weighted by a standard normal, so
    the draws have exactly the estimated covariance. That covariance is itself uncertain, with
    few half-samples (or seeds, or donors) very much so, and the draws carry that: each
    component is divided by a drawn estimate of its own scale, which gives any single difference
    the tails of Student's t (of the Behrens-Fisher distribution where seeds add their part).
    Each draw stands for its mirror image too, so all is exactly symmetric.

    Attributes
    ----------
    joint
        What is drawn from.
    sampling, seeds
        Errors ``(n_methods, n)`` by sampling, before division, and by seeds, after it.
    scale
        Drawn scale of `sampling`, the same for all methods: for statistics of the scores.
    spreads
        Fresh half-samples ``(n_methods, df, n_spreads)``, from which the scale of each
        difference is estimated anew: for tests of many differences at once. Each serves
        `DRAWS_PER_SPREAD` draws.
    """

    joint: Estimates
    sampling: Float64[np.ndarray, "n_methods n"]
    seeds: Float64[np.ndarray, "n_methods n"]
    scale: Float64[np.ndarray, "n"]
    spreads: Float64[np.ndarray, "n_methods df n_spreads"]

    @property
    def scores(self) -> Float64[np.ndarray, "n_methods n_draws"]:
        """Scores that all methods could have had; not clipped to a metric's bounds."""
        error = self.sampling / self.scale + self.seeds
        value = self.joint.value[:, None]
        return np.concatenate([value + error, value - error], axis=1)

    def pivots(
        self, one: Sequence[int], other: Sequence[int]
    ) -> Float64[np.ndarray, "n_pairs n_draws"]:
        """Errors of ``value[one] - value[other]`` in units of their standard error.

        All zero for two methods that move as one, whose difference has no error. Each pair is
        divided by a scale of its own: with one scale for all, the largest of many pivots is
        too small, and 28 pairs hold together in 93.6% where 95% are promised.
        """
        i, j = np.asarray(one, dtype=np.int64), np.asarray(other, dtype=np.int64)
        _, sd = self.joint.differences(i.tolist(), j.tolist())
        fresh = ((self.spreads[i] - self.spreads[j]) ** 2).mean(axis=1)
        true = ((self.joint.deviations[i] - self.joint.deviations[j]) ** 2).sum(axis=1)
        scale = np.sqrt(_divided(fresh, true[:, None], otherwise=1.0))
        n_half = self.sampling.shape[1]
        scale = np.tile(scale, DRAWS_PER_SPREAD)[:, :n_half]
        error = (self.sampling[i] - self.sampling[j]) / scale + self.seeds[i] - self.seeds[j]
        t = _divided(error, sd[:, None], otherwise=0.0)
        return np.concatenate([t, -t], axis=1)


def _divided(
    top: Float64[np.ndarray, "n m"], bottom: Float64[np.ndarray, "n 1"], otherwise: float
) -> Float64[np.ndarray, "n m"]:
    column = np.broadcast_to(bottom, top.shape)
    ratio = np.full_like(top, otherwise)
    np.divide(top, column, out=ratio, where=column > 0)
    return ratio


def estimates(source: Replicates) -> dict[Key, Estimates]:
    """Joint estimates for each dataset-level score of each dataset and task.

    Methods without an error estimate are left out; ``source.summary`` says why they have none.
    """
    summary = source.summary.filter(
        pl.col("sampling_sd").is_not_null(), pl.col("unit") == "dataset"
    )
    deviations = source.deviations.filter(pl.col("unit") == "dataset")
    if summary.is_empty():
        return {}
    rows = deviations.partition_by(GROUP, as_dict=True)
    groups = summary.partition_by(GROUP, as_dict=True, maintain_order=True)
    return {
        (str(key[0]), str(key[1]), str(key[2])): _assemble(group, rows[key])
        for key, group in groups.items()
    }


def _assemble(summary: pl.DataFrame, deviations: pl.DataFrame) -> Estimates:
    """Arrays of one group. Every method here has every half-sample that counts, so rows fit."""
    ordered = deviations.sort("method", "split")
    return Estimates(
        tuple(summary["method"].to_list()),
        summary["value"].to_numpy().astype(np.float64),
        ordered["deviation"].to_numpy().reshape(len(summary), -1).astype(np.float64),
        float(summary["sampling_df"][0]),
        summary["seed_sd"].fill_null(0.0).to_numpy().astype(np.float64),
        summary["seed_df"].to_numpy().astype(np.float64),
    )


def estimates_over_units(
    values: Float64[np.ndarray, "n_methods n_units"], methods: tuple[str, ...]
) -> Estimates:
    """Estimate the means over units drawn independently, such as datasets.

    The spread between units contains whatever error each unit's own value has.
    """
    n_units = values.shape[1]
    mean = values.mean(axis=1)
    return Estimates(
        methods,
        mean,
        (values - mean[:, None]) / np.sqrt(n_units * (n_units - 1)),
        n_units - 1.0,
        np.zeros(len(methods)),
        np.ones(len(methods)),
    )


def draws(
    records: pl.DataFrame,
    weights: pl.DataFrame,
    dataset: str,
    task: str,
    metric: str,
    rng: np.random.Generator,
    n_draws: int = 10_000,
) -> tuple[tuple[str, ...], Float64[np.ndarray, "n_methods n_draws"]]:
    """Draw the scores of all methods on one dataset, jointly, from what they could have been.

    Returns
    -------
    methods
        Names of the rows: the methods whose error could be estimated; none if no half-samples
        were scored.
    scores
        Draws, in the metric's own direction; not clipped to the metric's bounds.
    """
    here = (pl.col("dataset") == dataset, pl.col("task") == task, pl.col("metric") == metric)
    joint = estimates(replicates(records.filter(*here), weights)).get((dataset, task, metric))
    if joint is None:
        return (), np.empty((0, n_draws))
    return joint.methods, joint.draw(rng, n_draws, only_scores=True).scores
