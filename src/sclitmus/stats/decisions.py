"""The verdict on each method, task and dataset: the rule, and the frame it makes."""

from collections.abc import Mapping
from typing import Any, Literal

import polars as pl

from sclitmus.stats.effects import ALPHA, JUDGED
from sclitmus.stats.pooled import POOLED
from sclitmus.stats.sentences import sentence, why

Verdict = Literal["clears the bar", "on the bar", "below the bar", "below the floor", "cannot say"]
VERDICTS: tuple[Verdict, ...] = (
    "clears the bar",
    "on the bar",
    "below the bar",
    "below the floor",
    "cannot say",
)

SCHEMA: dict[str, pl.DataType | type[pl.DataType]] = {
    "dataset": pl.String,
    "task": pl.String,
    "method": pl.String,
    "title": pl.String,
    "part": pl.String,
    "metric": pl.String,
    "verdict": pl.String,
    "why": pl.String,
    "sentence": pl.String,
    "status": pl.String,
    "score": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "bar": pl.String,
    "bar_score": pl.Float64,
    "n_bars": pl.Int64,
    "difference": pl.Float64,
    "difference_low": pl.Float64,
    "difference_high": pl.Float64,
    "p": pl.Float64,
    "p_holm": pl.Float64,
    "family": pl.String,
    "n_family": pl.Int64,
    "margin": pl.Float64,
    "equivalent": pl.Boolean,
    "mde": pl.Float64,
    "floor": pl.String,
    "floor_score": pl.Float64,
    "floor_difference": pl.Float64,
    "floor_low": pl.Float64,
    "floor_high": pl.Float64,
    "floor_verdict": pl.String,
    "n_datasets": pl.Int64,
    "n_seeds": pl.Int64,
    "n_splits": pl.Int64,
    "note": pl.String,
}

Row = dict[str, Any]  # one row of a polars frame, by column


def judge(bar: Mapping[str, Any] | None, floor: Mapping[str, Any] | None) -> Verdict:
    """Decide from the differences to the best bar and to the best floor.

    Parameters
    ----------
    bar, floor
        Rows of the effects frame (``against`` is ``best bar``, ``best floor``), or None where
        none was scored.

    Notes
    -----
    In this order, with 5% for each error:

    1. *below the floor*: shown to be less than the margin above the floor, and not shown to be
       above it at all. Not merely "not significant": a wide interval never gives this verdict.
    2. *on the bar*: shown to be within the margin of the best bar, significant or not.
    3. *clears the bar*, *below the bar*: different from the best bar after Holm's correction.
    4. *cannot say*: none of these was shown.
    """
    if judge_floor(floor) == "below the floor":
        return "below the floor"
    if bar is None or bar["p_holm"] is None:
        return "cannot say"
    if bar["equivalent"]:
        return "on the bar"
    if clears(bar):
        return "clears the bar"
    if bar["p_holm"] <= ALPHA:
        return "below the bar"
    return "cannot say"


def judge_floor(
    floor: Mapping[str, Any] | None,
) -> Literal["clears the floor", "below the floor", "cannot say"]:
    """Decide from the difference to the best floor alone."""
    if floor is None or floor["high"] is None:
        return "cannot say"
    if clears(floor):
        return "clears the floor"
    return "below the floor" if floor["high"] < floor["margin"] else "cannot say"


def clears(effect: Mapping[str, Any]) -> bool:
    """Whether a difference is shown to be above 0, after Holm's correction."""
    p = effect["p_holm"]
    return p is not None and bool(p <= ALPHA) and bool(effect["difference"] > 0)


def verdicts(
    records: pl.DataFrame,
    numbers: pl.DataFrame,
    effects: pl.DataFrame,
    methods: pl.DataFrame,
    tasks: pl.DataFrame,
    metrics: pl.DataFrame,
) -> pl.DataFrame:
    """Give a verdict on every contender, bar and canary, for every task and dataset.

    A bar is judged against the best other bar, so that a study of simple methods alone has an
    answer too. A method without a score has a row that says so: missing, failed and not
    applicable are three things.

    Parameters
    ----------
    records
        As written by the run.
    numbers, effects
        From `intervals`, and from `effects` with `pooled_effects` appended.
    methods, tasks, metrics
        method, title, part, deterministic; task, headline, margin; metric, title, direction.

    Returns
    -------
    pl.DataFrame
        Columns `SCHEMA`: contenders first, then bars, then canaries. `verdict` is one of
        `VERDICTS`, `why` its reason in a few words, `sentence` all of it with the numbers.
        `difference`, to the best bar, is positive where the method is better. `status` is
        ``ok``, ``failed``, ``not_applicable`` or ``missing``. Rows whose dataset is
        `pooled.POOLED` are about the mean over datasets.
    """
    titles = dict(methods.select("method", "title").iter_rows())
    scale = {row["metric"]: row for row in metrics.to_dicts()}
    scores = _scores(numbers)
    found = {
        (row["dataset"], row["task"], row["method"], row["against"]): row
        for row in effects.join(
            tasks, left_on=["task", "metric"], right_on=["task", "headline"], how="semi"
        ).to_dicts()
    }
    judged = methods.filter(pl.col("part").is_in(JUDGED)).to_dicts()
    judged.sort(key=lambda row: JUDGED.index(row["part"]))
    rows = []
    for task, metric, margin in tasks.select("task", "headline", "margin").iter_rows():
        datasets = records.filter(pl.col("task") == task)["dataset"].unique().sort().to_list()
        for dataset in [*datasets, *([POOLED] if len(datasets) > 1 else [])]:
            for method in judged:
                name = method["method"]
                bar, floor = (
                    found.get((dataset, task, name, f"best {kind}")) for kind in ("bar", "floor")
                )
                row: Row = {
                    "dataset": dataset,
                    "task": task,
                    "metric": metric,
                    "margin": margin,
                    "method": name,
                    "title": method["title"],
                    "part": method["part"],
                    "metric_title": scale[metric]["title"] if metric in scale else metric,
                }
                row |= scores.get((dataset, task, metric, name)) or _absence(
                    records, dataset, task, metric, name
                )
                lower = metric in scale and scale[metric]["direction"] == "lower"
                row |= _against(row["score"], bar, floor, titles, -1.0 if lower else 1.0)
                row["verdict"] = judge(bar, floor)
                row["why"] = why(row)
                row["note"] = _note(row, scores, methods)
                row["sentence"] = sentence(row)
                rows.append({column: row.get(column) for column in SCHEMA})
    return pl.DataFrame(rows, schema=SCHEMA)


def _scores(numbers: pl.DataFrame) -> dict[tuple[str, str, str, str], Row]:
    """Score and interval by dataset, task, metric, method; the mean for all datasets together."""
    at = ["task", "metric", "method"]
    scored = numbers.filter(pl.col("unit") == "dataset", pl.col("status") == "ok")
    pooled = scored.group_by(at).agg(
        pl.lit(POOLED).alias("dataset"),
        pl.lit("ok").alias("status"),
        pl.lit("").alias("reason"),
        pl.col("value").sort_by("dataset").mean(),
        pl.col("dataset").len().cast(pl.Int64).alias("n_datasets"),
        pl.col("n_seeds").min(),
    )
    both = pl.concat([scored.with_columns(n_datasets=pl.lit(1, pl.Int64)), pooled], how="diagonal")
    columns = ["status", "low", "high", "n_seeds", "n_splits", "reason", "n_datasets"]
    return {
        (row["dataset"], row["task"], row["metric"], row["method"]): {
            "score": row["value"],
            **{name: row[name] for name in columns},
        }
        for row in both.iter_rows(named=True)
    }


def _absence(records: pl.DataFrame, dataset: str, task: str, metric: str, method: str) -> Row:
    """Why there is no score: the reason of the headline itself, or of the whole trial."""
    row: Row = dict.fromkeys(("score", "low", "high", "n_seeds", "n_splits"))
    row["n_datasets"] = 0 if dataset == POOLED else 1
    tried = records.filter(
        pl.col("task") == task,
        pl.col("method") == method,
        (pl.col("dataset") == dataset) | (dataset == POOLED),
        pl.col("unit") == "dataset",
    )
    headline = tried.filter(pl.col("metric") == metric)
    tried = headline if len(headline) else tried
    for status in ("failed", "not_applicable"):
        notes = tried.filter(pl.col("status") == status)["note"].sort()
        if len(notes):
            return row | {"status": status, "reason": notes[0] or ""}
    if len(tried.filter(pl.col("status") == "ok")):
        reason = f"{metric} was not recorded on the full data, or is not a finite number"
        return row | {"status": "failed", "reason": reason}
    return row | {"status": "missing", "reason": "there is no record of it"}


def _against(
    score: float | None, bar: Row | None, floor: Row | None, titles: Mapping[str, str], sign: float
) -> Row:
    """The differences, under the names of the verdict frame."""
    row: Row = {}
    for kind, effect in (("bar", bar), ("floor", floor)):
        got = effect or {}
        reference, difference = got.get("reference"), got.get("difference")
        row[kind] = reference
        row[f"{kind}_title"] = titles.get(reference, reference) if reference else None
        row[f"{kind}_score"] = (
            None if score is None or difference is None else score - sign * difference
        )
    row |= {
        name: (bar or {}).get(name)
        for name in ("difference", "p", "p_holm", "family", "n_family", "equivalent", "mde")
    }
    row |= {f"difference_{end}": (bar or {}).get(end) for end in ("low", "high")}
    row |= {f"floor_{name}": (floor or {}).get(name) for name in ("difference", "low", "high")}
    row["n_bars"] = (bar or {}).get("n_references")
    row["floor_verdict"] = judge_floor(floor)
    return row


def _note(row: Row, scores: Mapping[tuple[str, str, str, str], Row], methods: pl.DataFrame) -> str:
    """What the reader must know besides: seeds not varied, seeds lost, bars left out."""
    notes = [row["reason"]] if row["status"] == "ok" and row["reason"] else []
    wobbly = dict(methods.filter(~pl.col("deterministic")).select("method", "title").iter_rows())
    for name in (row["method"], row["bar"]):
        at = scores.get((row["dataset"], row["task"], row["metric"], name))
        if name in wobbly and at is not None and at["n_seeds"] == 1:
            notes.append(f"variation of {wobbly[name]} over seeds was not measured: one seed ran")
    n_bars = len(methods.filter(pl.col("part") == "bar", pl.col("method") != row["method"]))
    if row["n_bars"] is not None and row["n_bars"] < n_bars:
        notes.append(f"{n_bars - row['n_bars']} of {n_bars} simple methods had no usable score")
    return "; ".join(notes)
