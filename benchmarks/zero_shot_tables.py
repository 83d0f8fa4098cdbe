"""The tables of docs/results/zero_shot.md, from the folder of a finished run.

sclitmus run studies/zero_shot.toml --out results-zero-shot
python benchmarks/zero_shot_tables.py results-zero-shot
"""

import sys

import polars as pl

import sclitmus
from sclitmus.stats.pooled import POOLED

METHODS = (
    "random_embedding",
    "random_projection",
    "hvg",
    "pca",
    "harmony",
    "scvi",
    "label_canary",
    "label_oracle",
)


def table(scores: pl.DataFrame, task: str, metric: str, digits: int = 2) -> None:
    """Print one metric: a row per dataset, a column per method, half the interval's width."""
    rows = scores.filter(
        pl.col("task") == task, pl.col("metric") == metric, pl.col("unit") == "dataset"
    )
    print("| dataset | " + " | ".join(METHODS) + " |")
    print("|---" * (len(METHODS) + 1) + "|")
    for dataset in rows["dataset"].unique(maintain_order=True).sort():
        cells = [dataset]
        for method in METHODS:
            row = rows.filter(pl.col("dataset") == dataset, pl.col("method") == method).to_dicts()
            if not row or row[0]["value"] is None:
                cells.append("n/a")
            elif row[0]["high"] is None:
                cells.append(f"{row[0]['value']:.{digits}f}")
            else:
                half = (row[0]["high"] - row[0]["low"]) / 2
                cells.append(f"{row[0]['value']:.{digits}f} ± {half:.{digits}f}")
        print("| " + " | ".join(cells) + " |")
    print()


def main(folder: str) -> None:
    """Print every table of the page."""
    results = sclitmus.load(folder)
    for task, metric in (
        ("cell_types", "avg_bio"),
        ("cell_types", "avg_bio_fixed"),
        ("cell_types", "purity"),
        ("cell_types", "relations"),
        ("integration", "integration"),
        ("integration", "mixing"),
        ("integration", "cilisi"),
        ("integration", "bras"),
        ("integration", "kbet"),
        ("integration", "pcr_comparison"),
    ):
        print(f"### {task}: {metric}\n")
        table(results.scores(), task, metric)
    print("### Verdicts over all datasets\n")
    for row in results.verdict().filter(pl.col("dataset") == POOLED).iter_rows(named=True):
        print(f"* {row['task']}: {row['sentence']}")
    print()
    for line in results.failures():
        print(f"* failed: {line}")


if __name__ == "__main__":
    main(sys.argv[1])
