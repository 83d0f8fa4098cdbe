"""Differences between methods: to each simple method, to the best of them, to the floor.

"Better than the best of several rivals" and "worse than the best" are not the same question
asked twice, and the best rival is picked by the same data that then judges it. The interval for
``score - max(rival scores)`` used here stays honest about both (multiple comparisons with the
best, Hsu 1984, doi:10.1214/aos/1176346586):

- its lower end is the smallest lower end over the rivals: a method beats the best when it beats
  every one, which needs no correction (intersection-union test);
- its upper end is the smallest upper end over the rivals, each widened so that all hold at once:
  in every draw the rival that looks best is picked anew (max-t over the joint draws).

A bootstrap of ``score - max(rival scores)`` itself, read off its percentiles, is not: among five
equal rivals one always looks better than it is, in the data and again in each draw, and a model
as good as all of them is called worse in a quarter of all studies (docs/design/statistics.md).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float64

from sclitmus.core.rng import rng_for
from sclitmus.stats.draws import Draws, Estimates, Key

ALPHA = 0.05
POWER = 0.80
JUDGED = ("contender", "bar", "canary")

SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "dataset": pl.String,
    "task": pl.String,
    "metric": pl.String,
    "method": pl.String,
    "part": pl.String,
    "against": pl.String,  # bar | best bar | floor | best floor | twin
    "reference": pl.String,
    "n_references": pl.Int64,
    "n_datasets": pl.Int64,
    "difference": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "sd": pl.Float64,
    "p": pl.Float64,
    "p_holm": pl.Float64,
    "family": pl.String,
    "n_family": pl.Int64,
    "margin": pl.Float64,
    "equivalent": pl.Boolean,
    "mde": pl.Float64,
}


@dataclass(frozen=True)
class Difference:
    """How far one method is from the best of its rivals; positive is better.

    Attributes
    ----------
    rival
        Position, among the rivals, of the one that scored best.
    difference, sd
        To that rival, and the standard error of it.
    low, high
        95% interval for the difference to the best rival.
    inner_low, inner_high
        90% interval, for the two one-sided tests of equivalence (Schuirmann 1987,
        doi:10.1007/BF01068419).
    p
        Two-sided, for "as good as the best rival"; agrees with `low` and `high`.
    mde
        Smallest true difference that would be found with 80% power, before Holm's correction.
    """

    rival: int
    difference: float
    sd: float
    low: float
    high: float
    inner_low: float
    inner_high: float
    p: float
    mde: float

    def equivalent(self, margin: float) -> bool:
        """Whether the difference is shown to be smaller than `margin` either way."""
        return -margin < self.inner_low and self.inner_high < margin


def compare(drawn: Draws, one: int, rivals: Sequence[int]) -> Difference:
    """Compare a method with the best of its rivals; one rival makes it a plain paired t.

    Parameters
    ----------
    drawn
        Draws from estimates in which more is better.
    one, rivals
        Rows of them.
    """
    ones = [one] * len(rivals)
    difference, sd = drawn.joint.differences(ones, rivals)
    t = drawn.pivots(ones, rivals)
    ratio = _ratio(difference, sd)
    worst = t.max(axis=0)
    tails = [POWER, 1 - ALPHA, 1 - ALPHA / 2]
    each = np.quantile(t, tails, axis=1)
    together = each[:, 0] if len(rivals) == 1 else np.quantile(worst, tails)
    lows = (difference - each * sd).min(axis=1)
    highs = (difference + together[:, None] * sd).min(axis=1)
    n_more = t.shape[1] + 1  # the estimate itself counts as a draw, so that p is never 0
    p_above = ((t >= ratio[:, None]).sum(axis=1).max() + 1) / n_more
    p_below = ((worst >= -ratio.min()).sum() + 1) / n_more
    rival = int(difference.argmin())
    return Difference(
        rival=rival,
        difference=float(difference[rival]),
        sd=float(sd[rival]),
        low=float(lows[2]),
        high=float(highs[2]),
        inner_low=float(lows[1]),
        inner_high=float(highs[1]),
        p=float(min(1.0, 2 * min(p_above, p_below))),
        mde=float((each[2, rival] + each[0, rival]) * sd[rival]),
    )


def _ratio(
    difference: Float64[np.ndarray, "n_pairs"], sd: Float64[np.ndarray, "n_pairs"]
) -> Float64[np.ndarray, "n_pairs"]:
    ratio = np.where(difference == 0, 0.0, np.copysign(np.inf, difference))
    np.divide(difference, sd, out=ratio, where=sd > 0)
    return ratio


def holm(p: Sequence[float]) -> list[float]:
    """Adjust p values so that the chance of any false finding is held (Holm 1979).

    The smallest is multiplied by their number, the next by one less, and none may fall below
    the one before it.
    """
    order = np.argsort(p, kind="stable")
    factors = np.arange(len(p), 0, -1)
    raised = np.maximum.accumulate(np.asarray(p, dtype=np.float64)[order] * factors)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(raised, 1.0)
    return [float(value) for value in adjusted]


def effects(
    joint: Mapping[Key, Estimates],
    methods: pl.DataFrame,
    tasks: pl.DataFrame,
    metrics: pl.DataFrame,
    *,
    seed: int = 0,
    n_draws: int = 10_000,
) -> pl.DataFrame:
    """Differences of every contender, canary and bar, for every dataset-level score.

    Parameters
    ----------
    joint
        From `draws.estimates`.
    methods, tasks, metrics
        method, part, and twin where known; task, headline, margin; metric, direction.
    seed
        Of the draws.

    Returns
    -------
    pl.DataFrame
        Columns `SCHEMA`. One row per method and rival (``against`` is ``bar`` or ``floor``), and
        one for the best bar and the best floor, `reference` being the one that scored best; and
        one for the method's own untrained ``twin``, where it ran. A bar is compared with the
        other bars. Positive is better, whichever way the metric runs.
        `p_holm` is over the family: methods of the same part, dataset, task and metric (and
        their rivals, where each is compared). `margin` and `equivalent` are null for metrics
        that are not the task's headline.
    """
    part = dict(methods.select("method", "part").iter_rows())
    twin = dict(methods.select("method", "twin").iter_rows()) if "twin" in methods.columns else {}
    direction = dict(metrics.select("metric", "direction").iter_rows())
    headline = {
        task: (m, margin)
        for task, m, margin in tasks.select("task", "headline", "margin").iter_rows()
    }
    rows: list[dict[str, object]] = []
    for (dataset, task, metric), raw in joint.items():
        if metric not in direction:
            continue
        better = raw.toward(direction[metric])
        drawn = better.draw(rng_for(seed, "statistics", dataset, task, metric), n_draws)
        name, margin = headline.get(task, ("", None))
        about = {"dataset": dataset, "task": task, "metric": metric, "n_datasets": 1}
        for one, method in enumerate(better.methods):
            if part.get(method) in JUDGED:
                named = about | {"method": method, "part": part[method]}
                mine = margin if name == metric else None
                rows += _rows(named, drawn, one, part, mine)
                if twin.get(method) in better.methods:
                    other = better.methods.index(twin[method])
                    found = compare(drawn, one, [other])
                    rows.append(effect_row(named, "twin", better, [other], found, mine))
    return adjusted(rows)


def _rows(
    about: Mapping[str, object],
    drawn: Draws,
    one: int,
    part: Mapping[str, str],
    margin: float | None,
) -> list[dict[str, object]]:
    """All comparisons of one method."""
    rows: list[dict[str, object]] = []
    for kind in ("bar", "floor"):
        rivals = [
            i for i, name in enumerate(drawn.joint.methods) if part.get(name) == kind and i != one
        ]
        if rivals:
            found = compare(drawn, one, rivals)
            rows.append(effect_row(about, f"best {kind}", drawn.joint, rivals, found, margin))
        for rival in rivals:
            found = compare(drawn, one, [rival])
            rows.append(effect_row(about, kind, drawn.joint, [rival], found, margin))
    return rows


def effect_row(
    about: Mapping[str, object],
    against: str,
    joint: Estimates,
    rivals: Sequence[int],
    found: Difference,
    margin: float | None,
) -> dict[str, object]:
    """One row of the frame; `p_holm` and the family's size come later."""
    return {
        **about,
        "against": against,
        "reference": joint.methods[rivals[found.rival]],
        "n_references": len(rivals),
        "difference": found.difference,
        "low": found.low,
        "high": found.high,
        "sd": found.sd,
        "p": found.p,
        "margin": margin,
        "equivalent": None if margin is None else found.equivalent(margin),
        "mde": found.mde,
    }


def adjusted(rows: Sequence[Mapping[str, object]]) -> pl.DataFrame:
    """Make the frame, with Holm's correction within each family; a row without p is in none."""
    families: dict[tuple[object, ...], list[dict[str, object]]] = {}
    for row in rows:
        key = tuple(row[name] for name in ("dataset", "task", "metric", "part", "against"))
        families.setdefault(key, []).append(dict(row))
    for (dataset, task, metric, part, against), family in families.items():
        tested = [row for row in family if row["p"] is not None]
        what = "difference" if len(tested) == 1 else "differences"
        name = f"{len(tested)} {what} of {part}s to {against}, {metric} of {task} on {dataset}"
        for row in family:
            row |= {"family": name, "n_family": len(tested)}
        p_values = [float(str(row["p"])) for row in tested]
        for row, p_holm in zip(tested, holm(p_values), strict=True):
            row["p_holm"] = p_holm
    return pl.DataFrame([row for family in families.values() for row in family], schema=SCHEMA)
