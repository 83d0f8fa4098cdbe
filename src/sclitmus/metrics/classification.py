"""How well cells are named, all from one confusion matrix: accuracy, recalls, macro F1.

A class that no cell of the test set has cannot be found or missed: it counts in no average. That
keeps a score the same whether or not the training data named further classes.
"""

import numpy as np
from jaxtyping import Bool, Float64, Int64, Integer

from sclitmus.errors import NotApplicable


def confusion(
    y_true: Integer[np.ndarray, "n_cells"],
    y_pred: Integer[np.ndarray, "n_cells"],
    n_classes: int,
) -> Int64[np.ndarray, "n_classes n_classes"]:
    """Count cells by true class (rows) and predicted class (columns).

    Parameters
    ----------
    y_true, y_pred
        Codes 0 … ``n_classes - 1``; a cell of an unknown class or without an answer has none and
        belongs in no confusion matrix.

    Raises
    ------
    ValueError
        If the lengths differ or a code is out of range.
    """
    if y_true.shape != y_pred.shape or y_true.ndim != 1:
        raise ValueError(
            f"y_true and y_pred must be vectors of one length, got {y_true.shape}, {y_pred.shape}"
        )
    for name, codes in (("y_true", y_true), ("y_pred", y_pred)):
        if len(codes) and not (codes.min() >= 0 and codes.max() < n_classes):
            raise ValueError(
                f"{name} must hold codes from 0 to {n_classes - 1}, "
                f"got {codes.min()} to {codes.max()}"
            )
    pair = y_true.astype(np.int64) * n_classes + y_pred
    return np.bincount(pair, minlength=n_classes**2).reshape(n_classes, n_classes)


def accuracy(c: Int64[np.ndarray, "n_classes n_classes"]) -> float:
    """Share of cells named right, 0 to 1.

    Raises
    ------
    NotApplicable
        If there is no cell.
    """
    _require_cells(c)
    return float(np.trace(c) / c.sum())


def recalls(c: Int64[np.ndarray, "n_classes n_classes"]) -> Float64[np.ndarray, "n_classes"]:
    """Share of each class's cells named right, in the order of the codes.

    Returns
    -------
    ndarray
        NaN for a class that no cell has. The caller leaves it out or records it as absent; it
        is no 0.

    Raises
    ------
    NotApplicable
        If there is no cell.
    """
    _require_cells(c)
    return _over_truth(np.diag(c), c.sum(axis=1), c)


def balanced_accuracy(c: Int64[np.ndarray, "n_classes n_classes"]) -> float:
    """Mean recall over the classes that cells have: a rare class counts as much as a common one.

    Naming all cells alike scores one over the number of those classes. Equal to
    ``sklearn.metrics.balanced_accuracy_score``.

    Raises
    ------
    NotApplicable
        If there is no cell.
    """
    return float(np.nanmean(recalls(c)))


def f1_per_class(c: Int64[np.ndarray, "n_classes n_classes"]) -> Float64[np.ndarray, "n_classes"]:
    """Harmonic mean of precision and recall of each class: ``2 TP / (2 TP + FP + FN)``.

    Returns
    -------
    ndarray
        NaN for a class that no cell has, predicted or not; 0 for a class no cell of which is
        found, also where it is never predicted (its precision is undefined).

    Raises
    ------
    NotApplicable
        If there is no cell.
    """
    _require_cells(c)
    return _over_truth(2 * np.diag(c), c.sum(axis=0) + c.sum(axis=1), c)


def macro_f1(c: Int64[np.ndarray, "n_classes n_classes"]) -> float:
    """Mean F1 over the classes that cells have.

    Equal to ``sklearn.metrics.f1_score(y_true, y_pred, labels=np.unique(y_true),
    average="macro", zero_division=0)``. Without ``labels`` scikit-learn also averages over the
    classes that are predicted but that no cell has, as zeros. Here such a class has no F1 of its
    own, and still costs: the cells that are given its name are missing from the recall of theirs.

    Raises
    ------
    NotApplicable
        If there is no cell.
    """
    return float(np.nanmean(f1_per_class(c)))


def jaccard_of_unknown(
    truly_unknown: Bool[np.ndarray, "n_cells"], called_unknown: Bool[np.ndarray, "n_cells"]
) -> float:
    """Cells rightly called unknown among all that are or are called so: ``TP / (TP + FP + FN)``.

    This is what scBERT reports as accuracy on novel types (doi:10.1038/s42256-022-00534-z): the
    accuracy over the union of both sets. It falls with the share of unknown cells in the data,
    and it is not the recall.

    Raises
    ------
    NotApplicable
        If no cell is truly unknown: the value would be 0 whatever is right.
    """
    if not truly_unknown.any():
        raise NotApplicable("no cell is of an unknown class")
    both = np.count_nonzero(truly_unknown & called_unknown)
    return float(both / np.count_nonzero(truly_unknown | called_unknown))


def _require_cells(c: Int64[np.ndarray, "n_classes n_classes"]) -> None:
    if c.sum() == 0:
        raise NotApplicable("there is no cell to name")


def _over_truth(
    part: Int64[np.ndarray, "n_classes"],
    whole: Int64[np.ndarray, "n_classes"],
    c: Int64[np.ndarray, "n_classes n_classes"],
) -> Float64[np.ndarray, "n_classes"]:
    """Divide for the classes that cells have; NaN for the others."""
    share = np.full(len(c), np.nan)
    np.divide(part, whole, out=share, where=c.sum(axis=1) > 0)
    return share
