"""Small studies with known answers, as the frames a run writes."""

from collections.abc import Mapping, Sequence

import polars as pl

from sclitmus.core.record import RECORD_COLUMNS
from sclitmus.core.rng import rng_for

PARTS = {
    "model": "contender",
    "other": "contender",
    "pca": "bar",
    "scvi": "bar",
    "random_projection": "floor",
    "random_embedding": "floor",
    "label_oracle": "ceiling",
    "label_canary": "canary",
}
TITLES = {
    "model": "MyModel",
    "other": "Other",
    "pca": "PCA",
    "scvi": "scVI",
    "random_projection": "a random projection",
    "random_embedding": "a random embedding",
    "label_oracle": "the label oracle",
    "label_canary": "the label canary",
}


def record(method: str, value: float | None, **given: object) -> dict[str, object]:
    """One record; whatever is not given is ordinary."""
    row: dict[str, object] = dict.fromkeys(RECORD_COLUMNS)
    row |= {
        "study": "s",
        "dataset": "d",
        "task": "cell_types",
        "method": method,
        "behaviour": "",
        "metric": "avg_bio",
        "metric_version": "1",
        "seed": 0,
        "split": "all",
        "unit": "dataset",
        "value": value,
        "status": "ok",
        "note": "",
        "key": "",
    }
    return row | given


def frame(rows: Sequence[Mapping[str, object]]) -> pl.DataFrame:
    schema = dict.fromkeys(RECORD_COLUMNS, pl.String)
    schema |= {"seed": pl.Int64, "value": pl.Float64, "seconds": pl.Float64}
    return pl.DataFrame([dict(row) for row in rows], schema=schema | {"peak_rss_mb": pl.Float64})


def planted(
    scores: Mapping[str, float],
    *,
    shared: float = 0.02,
    own: float = 0.005,
    n_splits: int = 20,
    n_seeds: int = 1,
    datasets: Sequence[str] = ("d",),
    direction: str = "higher",
    seed: int = 0,
) -> dict[str, pl.DataFrame]:
    """Make the five frames of a study: true scores in, noisy half-samples out.

    `shared` and `own` are the standard errors that all methods have in common, and that each
    has of its own. The full-data scores are exactly `scores` in every dataset.
    """
    rows, splits = [], []
    for dataset in datasets:
        rng = rng_for(seed, "test study", dataset)
        splits += [{"dataset": dataset, "task": "cell_types", "split": "all", "weight": 0.0}]
        for r in range(n_splits):
            name = f"half-{r:02d}"
            splits.append({"dataset": dataset, "task": "cell_types", "split": name, "weight": 1.0})
        common = rng.normal(0, shared, n_splits)
        for method, score in scores.items():
            noise = rng.normal(0, own, n_splits) + common
            for s in range(n_seeds):
                off = 0.0 if n_seeds == 1 else 0.001 * (s - (n_seeds - 1) / 2)
                rows.append(record(method, score + off, dataset=dataset, seed=s))
                rows += [
                    record(method, score + off + e, dataset=dataset, seed=s, split=f"half-{r:02d}")
                    for r, e in enumerate(noise)
                ]
    return {
        "records": frame(rows),
        "weights": pl.DataFrame(splits),
        "methods": pl.DataFrame(
            [
                {"method": m, "title": TITLES[m], "part": PARTS[m], "deterministic": m != "scvi"}
                for m in scores
            ]
        ),
        "tasks": pl.DataFrame([{"task": "cell_types", "headline": "avg_bio", "margin": 0.02}]),
        "metrics": pl.DataFrame(
            [
                {
                    "metric": "avg_bio",
                    "title": "AvgBIO",
                    "direction": direction,
                    "low": 0.0,
                    "high": 1.0,
                }
            ]
        ),
    }
