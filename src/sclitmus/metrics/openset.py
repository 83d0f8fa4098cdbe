"""Does a novelty score tell cells of unknown classes from those of known ones, and at what price?

Throughout, `novelty` is higher for what looks newer, from any classifier or none, and a
threshold is a value of it: a cell is **rejected**, called novel, where its novelty is above the
threshold, and **accepted** where it is at or below. Cells with equal novelty therefore fall on
one side together, whatever their order; rates and areas move from one distinct value to the
next. Sorting is the whole cost: ``O(n log n)``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64, Real

from sclitmus.errors import MethodError, NotApplicable
from sclitmus.metrics.classification import jaccard_of_unknown

COVERAGES = tuple(percent / 100 for percent in range(5, 101, 5))
"""Shares of cells kept at which a risk-coverage curve is read."""

# A product such as 0.29 · 100 comes out a hair below the whole number it stands for.
_ROUNDING = 1e-9


def prevalence(is_novel: Bool[np.ndarray, "n_cells"]) -> float:
    """Share of novel cells: what `aupr` is for a score that knows nothing.

    Raises
    ------
    NotApplicable
        If there is no cell.
    """
    if len(is_novel) == 0:
        raise NotApplicable("there is no cell")
    return float(np.mean(is_novel))


def auroc(novelty: Real[np.ndarray, "n_cells"], is_novel: Bool[np.ndarray, "n_cells"]) -> float:
    """Probability that a novel cell looks newer than a known one; a tie counts half. 0 to 1.

    0.5 is a score that knows nothing. Equal to ``sklearn.metrics.roc_auc_score``.

    Raises
    ------
    NotApplicable
        If no cell is novel, or none is known.
    MethodError
        If a novelty is NaN.
    """
    known, novel = _known_and_novel(novelty, is_novel)
    return _share_of_ordered_pairs(known, novel, int(known.sum()))


def aupr(novelty: Real[np.ndarray, "n_cells"], is_novel: Bool[np.ndarray, "n_cells"]) -> float:
    """Average precision of the novel class, from the newest-looking cell down. 0 to 1.

    The sum over distinct values of the gain in recall times the precision there, without
    interpolation. A score that knows nothing reaches the `prevalence`, so the two belong side by
    side, and values of data of different prevalence do not compare. Equal to
    ``sklearn.metrics.average_precision_score``.

    Raises
    ------
    NotApplicable
        If no cell is novel, or none is known.
    MethodError
        If a novelty is NaN.
    """
    known, novel = _known_and_novel(novelty, is_novel)[:, ::-1]
    caught = np.cumsum(novel)
    precision = caught / (caught + np.cumsum(known))
    return float(novel @ precision / novel.sum())


def fpr_at_95_known_kept(
    novelty: Real[np.ndarray, "n_cells"], is_novel: Bool[np.ndarray, "n_cells"]
) -> float:
    """Share of novel cells accepted at the lowest threshold that keeps 95% of the knowns.

    The convention of ODIN (Liang et al. 2018, doi:10.48550/arXiv.1706.02690), where known is
    the positive class: "FPR at 95% TPR". 0 is best; 0.95 is a score that knows nothing; 1 where
    all cells are tied. At least 95% are kept, more where cells are tied or few.

    Raises
    ------
    NotApplicable
        If no cell is novel, or none is known.
    MethodError
        If a novelty is NaN.
    """
    known, novel = _known_and_novel(novelty, is_novel)
    return _share_passed_at_95(known, novel)


def known_rejected_at_95_novel_caught(
    novelty: Real[np.ndarray, "n_cells"], is_novel: Bool[np.ndarray, "n_cells"]
) -> float:
    """Share of knowns rejected at the highest threshold that catches 95% of the novel cells.

    The other convention of "FPR at 95% TPR", where novel is the positive class. 0 is best; 0.95
    is a score that knows nothing; 1 where all cells are tied. At least 95% are caught, more where
    cells are tied or few.

    Raises
    ------
    NotApplicable
        If no cell is novel, or none is known.
    MethodError
        If a novelty is NaN.
    """
    known, novel = _known_and_novel(novelty, is_novel)
    return _share_passed_at_95(novel[::-1], known[::-1])


def oscr(
    novelty: Real[np.ndarray, "n_cells"],
    is_novel: Bool[np.ndarray, "n_cells"],
    correct: Bool[np.ndarray, "n_cells"],
) -> float:
    """Area under the open-set classification rate curve. 0 to the accuracy on the knowns.

    Over all thresholds, the share of knowns that are accepted and named right against the share
    of novel cells accepted, by the trapezoid rule. That area is the share of pairs of a known
    and a novel cell in which the known one is named right and looks less new, half where they
    tie. With all knowns named right it is the `auroc`.

    Source: Dhamija et al. 2018, doi:10.48550/arXiv.1811.04110; by pairs, Wang et al. 2022,
    doi:10.48550/arXiv.2210.13458.

    Parameters
    ----------
    correct
        Whether the cell is named right; not read for novel cells.

    Raises
    ------
    NotApplicable
        If no cell is novel, or none is known.
    MethodError
        If a novelty is NaN.
    """
    _require_flags("correct", correct, novelty)
    _require_both(novelty, is_novel)
    wrong, right, novel = _tally(novelty, np.where(is_novel, 2, correct), 3)
    return _share_of_ordered_pairs(right, novel, int(wrong.sum() + right.sum()))


def threshold_for_rejection(
    validation_novelty: Real[np.ndarray, "n_validation"], rate: float = 0.05
) -> float:
    """Return the lowest threshold that rejects at most `rate` of some known cells.

    To be chosen on known cells that are neither trained on nor tested on, and never on novel
    ones. Fewer than ``1 / rate`` cells set the threshold at the newest-looking of them.

    Parameters
    ----------
    validation_novelty
        Novelty of known cells.
    rate
        At least 0, below 1.

    Raises
    ------
    NotApplicable
        If there is no cell.
    MethodError
        If a novelty is NaN.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"rate must be at least 0 and below 1, got {rate}")
    _require_no_nan(validation_novelty)
    n = len(validation_novelty)
    if n == 0:
        raise NotApplicable("there is no known cell to choose a threshold on")
    place = n - 1 - min(n - 1, int(rate * n + _ROUNDING))
    return float(np.partition(validation_novelty, place)[place])


@dataclass(frozen=True)
class AtThreshold:
    """What a classifier that may say "unknown" does at one threshold; shares, 0 to 1.

    Attributes
    ----------
    known_accuracy
        Knowns accepted and named right, of all knowns.
    known_rejected
        Knowns rejected, of all knowns; compare with the rate the threshold was chosen for.
    novel_recall
        Novel cells rejected, of all novel cells.
    novel_precision
        Novel cells among the rejected; None where none is rejected.
    jaccard
        Novel cells rejected, among all that are novel or rejected: scBERT's accuracy on novel
        types.
    """

    known_accuracy: float
    known_rejected: float
    novel_recall: float
    novel_precision: float | None
    jaccard: float


def at_threshold(
    novelty: Real[np.ndarray, "n_cells"],
    is_novel: Bool[np.ndarray, "n_cells"],
    correct: Bool[np.ndarray, "n_cells"],
    threshold: float,
) -> AtThreshold:
    """Score the calls made at one threshold: rejected above it, accepted at or below it.

    Parameters
    ----------
    correct
        Whether the cell is named right where it is accepted; not read for novel cells.

    Raises
    ------
    NotApplicable
        If no cell is novel, or none is known.
    MethodError
        If a novelty is NaN.
    """
    if np.isnan(threshold):
        raise ValueError("threshold must be a number, got NaN")
    _require_flags("correct", correct, novelty)
    _require_both(novelty, is_novel)
    rejected = novelty > threshold
    n_known, n_novel = np.count_nonzero(~is_novel), np.count_nonzero(is_novel)
    n_rejected, n_caught = np.count_nonzero(rejected), np.count_nonzero(rejected & is_novel)
    return AtThreshold(
        known_accuracy=float(np.count_nonzero(correct & ~rejected & ~is_novel) / n_known),
        known_rejected=float((n_rejected - n_caught) / n_known),
        novel_recall=float(n_caught / n_novel),
        novel_precision=float(n_caught / n_rejected) if n_rejected else None,
        jaccard=jaccard_of_unknown(is_novel, rejected),
    )


@dataclass(frozen=True)
class RiskCoverage:
    """Errors among the cells a classifier keeps when it leaves out those it is least sure of.

    Attributes
    ----------
    coverage
        Shares of cells kept.
    risk
        Share of wrong ones among the kept, at each coverage.
    aurc
        Mean of the risk over all numbers of kept cells, 1 to all: the area under the curve.
        Lower is better; the share of wrong cells is a score that knows nothing.
    """

    coverage: Float64[np.ndarray, "n_coverages"]
    risk: Float64[np.ndarray, "n_coverages"]
    aurc: float


def risk_coverage(
    uncertainty: Real[np.ndarray, "n_cells"],
    wrong: Bool[np.ndarray, "n_cells"],
    coverages: Sequence[float] = COVERAGES,
) -> RiskCoverage:
    """Trace the risk over the coverage, surest cells first.

    Where a coverage divides tied cells it keeps a part of them at random, and the risk is the
    expected one. A coverage keeps whole cells, the next number up.

    Source: Geifman et al. 2019, doi:10.48550/arXiv.1805.08206.

    Parameters
    ----------
    uncertainty
        Any novelty score.
    wrong
        Of known cells, whether the name is wrong; novel cells, where given, are always wrong.
    coverages
        Above 0, at most 1.

    Raises
    ------
    NotApplicable
        If there is no cell.
    MethodError
        If an uncertainty is NaN.
    """
    grid = np.asarray(coverages, dtype=np.float64)
    if not ((grid > 0) & (grid <= 1)).all():
        raise ValueError(f"coverages must be above 0 and at most 1, got {tuple(coverages)}")
    _require_no_nan(uncertainty)
    _require_flags("wrong", wrong, uncertainty)
    n = len(uncertainty)
    if n == 0:
        raise NotApplicable("there is no cell")
    right, errors = _tally(uncertainty, wrong.astype(np.int64), 2)
    kept_at = np.concatenate([[0], np.cumsum(right + errors)])
    errors_at = np.concatenate([[0], np.cumsum(errors)])
    n_kept = np.arange(1, n + 1)
    risk = np.interp(n_kept, kept_at, errors_at) / n_kept
    on_grid = np.maximum(np.ceil(grid * n - _ROUNDING).astype(np.int64), 1)
    return RiskCoverage(grid, risk[on_grid - 1], float(risk.mean()))


def _known_and_novel(
    novelty: Real[np.ndarray, "n_cells"], is_novel: Bool[np.ndarray, "n_cells"]
) -> Int64[np.ndarray, "2 n_values"]:
    """Count known and novel cells at each distinct value, in rising order."""
    _require_both(novelty, is_novel)
    return _tally(novelty, is_novel.astype(np.int64), 2)


def _tally(
    values: Real[np.ndarray, "n_cells"], kind: Int64[np.ndarray, "n_cells"], n_kinds: int
) -> Int64[np.ndarray, "n_kinds n_values"]:
    """Count the cells of each kind at each distinct value, in rising order."""
    distinct, place = np.unique(values, return_inverse=True)
    counts = np.bincount(kind * len(distinct) + place, minlength=n_kinds * len(distinct))
    return counts.reshape(n_kinds, len(distinct))


def _share_of_ordered_pairs(
    low: Int64[np.ndarray, "n_values"], high: Int64[np.ndarray, "n_values"], n_low: int
) -> float:
    """Share of pairs in which the cell counted in `low` has the lower value; ties are halves."""
    twice = int(high @ (2 * np.cumsum(low) - low))
    return twice / (2 * n_low * int(high.sum()))


def _share_passed_at_95(
    kept: Int64[np.ndarray, "n_values"], passed: Int64[np.ndarray, "n_values"]
) -> float:
    """Share of the second kind taken along until 95% of the first are in."""
    # In whole numbers, for 0.95 · n is no whole number where it should be.
    enough = int(np.argmax(20 * np.cumsum(kept) >= 19 * kept.sum()))
    return float(passed[: enough + 1].sum() / passed.sum())


def _require_both(
    novelty: Real[np.ndarray, "n_cells"], is_novel: Bool[np.ndarray, "n_cells"]
) -> None:
    _require_no_nan(novelty)
    _require_flags("is_novel", is_novel, novelty)
    n_novel = np.count_nonzero(is_novel)
    if n_novel == 0:
        raise NotApplicable("no cell is novel")
    if n_novel == len(is_novel):
        raise NotApplicable("every cell is novel")


def _require_flags(
    name: str, flags: Bool[np.ndarray, "n_cells"], values: Real[np.ndarray, "n_cells"]
) -> None:
    if flags.dtype != np.bool_ or flags.shape != values.shape:
        raise ValueError(
            f"{name} must be booleans of shape {values.shape}, got {flags.dtype} {flags.shape}"
        )


def _require_no_nan(novelty: Real[np.ndarray, "n_cells"]) -> None:
    bad = np.count_nonzero(np.isnan(novelty))
    if bad:
        raise MethodError(
            seen=f"a novelty of NaN in {bad} of {len(novelty)} cells",
            needed="a number for every cell, for cells to be put in order",
            remedy="repair the scores or features of the method; no cell may be left out",
        )
