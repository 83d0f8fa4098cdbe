"""The metrics of predicted labels, with their scales."""

from collections.abc import Callable, Mapping

import numpy as np

from sclitmus.core.metric import Metric
from sclitmus.metrics import classification

# Each is a function of a confusion matrix, rows truth.
Table = Callable[[np.ndarray], float]
CLASSIFICATION: Mapping[str, tuple[Table, str, str]] = {
    "macro_f1": (
        classification.macro_f1,
        "Macro-F1",
        "F1 of each type, averaged over the types: rare ones count as much as common ones.",
    ),
    "balanced_accuracy": (
        classification.balanced_accuracy,
        "Balanced accuracy",
        "Recall of each type, averaged over the types.",
    ),
    "accuracy": (
        classification.accuracy,
        "Accuracy",
        "Share of cells called right; a common type outweighs the rare ones.",
    ),
}


def classification_metrics(suffix: str, words: str) -> tuple[Metric, ...]:
    """Return the metrics of one setting, with its name behind theirs, and its words in the title.

    Parameters
    ----------
    suffix
        ``".k4"``; empty for a task with one setting.
    words
        ``", 4 cells per type"``.
    """
    whole = tuple(
        Metric(
            id=f"{name}{suffix}",
            compute=compute,
            title=f"{title}{words}",
            summary=summary,
            bounds=(0.0, 1.0),
        )
        for name, (compute, title, summary) in CLASSIFICATION.items()
    )
    recall = Metric(
        id=f"recall{suffix}",
        compute=_recall_by_position,
        title=f"Recall{words}",
        summary="Share of a type's cells that are called right.",
        bounds=(0.0, 1.0),
        unit="type",
    )
    return (*whole, recall)


def _recall_by_position(c: np.ndarray) -> Mapping[str, float]:
    recalls = enumerate(classification.recalls(c))
    return {f"type:{i}": float(recall) for i, recall in recalls if not np.isnan(recall)}


def _shares(c: np.ndarray) -> Mapping[str, float]:
    shares = c / np.maximum(c.sum(axis=1, keepdims=True), 1)
    return {f"pair:{i} → {j}": float(shares[i, j]) for i, j in zip(*np.nonzero(c), strict=True)}


CONFUSION = Metric(
    id="confusion",
    compute=_shares,
    title="Confusion",
    summary="Share of a true type's cells that are called another, or the same.",
    bounds=(0.0, 1.0),
    unit="pair",
)
