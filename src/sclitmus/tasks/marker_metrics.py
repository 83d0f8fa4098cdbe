"""The metrics of a method's gene scores, with their scales."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int64

from sclitmus.core.metric import Metric

KINDS: Mapping[str, str] = {
    "weights": "weights",
    "attention": "attention received",
    "gradient": "gradient x input",
    "expression": "mean expression, for comparison",
    "random": "random scores, for comparison",
}
REFERENCES = ("expression", "random")
BEST = "best"  # of the method's own kinds


def overlap(scores: Float[np.ndarray, "n_genes"], true: Int64[np.ndarray, "n"], k: int) -> float:
    """Share of a type's markers among the `k` genes that score highest, of as many as can be."""
    first = np.argsort(-scores, kind="stable")[:k]
    return len(np.intersect1d(first, true)) / min(k, len(true))


def average_precision(scores: Float[np.ndarray, "n_genes"], true: Int64[np.ndarray, "n"]) -> float:
    """Area under precision and recall for a type's markers, over all genes; ties are grouped."""
    from sklearn.metrics import average_precision_score

    is_true = np.zeros(len(scores), dtype=bool)
    is_true[true] = True
    return float(average_precision_score(is_true, scores))


def more_than_chance(drop: Float[np.ndarray, "n"], chance: Float[np.ndarray, "n"]) -> float:
    """Mean over cells of how much more the first genes matter than others of like expression."""
    return float(np.mean(drop - chance))


def _metrics() -> Mapping[str, Metric]:
    table = {}
    for kind, words in {BEST: "best of its own scores", **KINDS}.items():
        for name, compute, title, summary, low in (
            (
                "overlap",
                overlap,
                "Overlap",
                "Share of a type's markers among the 20 genes that score highest.",
                0.0,
            ),
            (
                "aupr",
                average_precision,
                "AUPR",
                "Average precision of the gene scores for a type's markers.",
                0.0,
            ),
            (
                "faithfulness",
                more_than_chance,
                "Faithfulness",
                "Fall of the called type's probability when the 20 first genes are taken out, "
                "beyond that for 20 others of like expression.",
                -1.0,
            ),
        ):
            id = f"{name}.{kind}"
            table[id] = Metric(id, compute, f"{title}, {words}", summary, (low, 1.0))
    return table


METRICS: Mapping[str, Metric] = _metrics()
