"""The tables of docs/results/annotation.md, from the folder of a finished run.

sclitmus run studies/annotation.toml --out results-annotation
python benchmarks/annotation_tables.py results-annotation
"""

import sys

import polars as pl

import sclitmus

TABLES = (
    ("annotation", "macro_f1.few"),
    ("annotation", "macro_f1.k1"),
    ("annotation", "macro_f1.k4"),
    ("annotation", "macro_f1.k16"),
    ("annotation", "macro_f1.all"),
    ("transfer", "macro_f1"),
    ("novel_types", "auroc.max_softmax"),
    ("novel_types", "auroc.energy"),
    ("novel_types", "auroc.mahalanobis"),
    ("novel_types", "jaccard"),
    ("novel_types", "ece"),
    ("novel_types", "ece.scaled"),
    ("fine_tuning", "macro_f1"),
    ("fine_tuning", "collapsed"),
    ("markers", "overlap.best"),
    ("markers", "faithfulness.best"),
)


def table(scores: pl.DataFrame, task: str, metric: str) -> None:
    """Print one metric: a row per method, a column per dataset, half the interval's width."""
    rows = scores.filter(
        pl.col("task") == task, pl.col("metric") == metric, pl.col("unit") == "dataset"
    )
    datasets = rows["dataset"].unique(maintain_order=True).sort().to_list()
    if not datasets:
        return
    print(f"### {task}: {metric}\n")
    print("| method | " + " | ".join(datasets) + " |")
    print("|---" * (len(datasets) + 1) + "|")
    for method in rows["method"].unique(maintain_order=True):
        cells = [method]
        for dataset in datasets:
            row = rows.filter(pl.col("dataset") == dataset, pl.col("method") == method).to_dicts()
            if not row or row[0]["value"] is None:
                cells.append("n/a")
            elif row[0]["high"] is None:
                cells.append(f"{row[0]['value']:.2f}")
            else:
                half = (row[0]["high"] - row[0]["low"]) / 2
                cells.append(f"{row[0]['value']:.2f} ± {half:.2f}")
        print("| " + " | ".join(cells) + " |")
    print()


def main(folder: str) -> None:
    """Print every table that the run has scores for, and what failed."""
    results = sclitmus.load(folder)
    for task, metric in TABLES:
        table(results.scores(), task, metric)
    for line in results.failures():
        print(f"* failed: {line}")


if __name__ == "__main__":
    main(sys.argv[1])
