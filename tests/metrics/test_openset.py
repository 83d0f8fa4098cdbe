"""Open-set scores against all pairs, all thresholds, and scikit-learn."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from sclitmus.errors import MethodError, NotApplicable
from sclitmus.metrics.openset import (
    at_threshold,
    aupr,
    auroc,
    fpr_at_95_known_kept,
    known_rejected_at_95_novel_caught,
    oscr,
    prevalence,
    risk_coverage,
    threshold_for_rejection,
)

RANKED = (auroc, aupr, fpr_at_95_known_kept, known_rejected_at_95_novel_caught)
seeds = st.integers(0, 2**32 - 1)


def cells(seed: int, n: int, *, n_values: int | None = None) -> tuple[np.ndarray, ...]:
    """Novelty (of few distinct values, if asked), is_novel (both kinds), correct."""
    rng = np.random.default_rng(seed)
    is_novel = rng.random(n) < 0.3
    is_novel[:2] = True, False
    novelty = rng.normal(size=n) + is_novel
    if n_values is not None:
        novelty = np.clip(np.round(novelty), 0, n_values - 1)
    return novelty, is_novel, rng.random(n) < 0.7


def pairwise(low: np.ndarray, high: np.ndarray) -> float:
    return float(((low[:, None] < high) + 0.5 * (low[:, None] == high)).sum())


def curve(novelty: np.ndarray, is_novel: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, ...]:
    """CCR and FPR at every threshold, one after the other, from accepting none to all."""
    thresholds = [-np.inf, *np.unique(novelty)]
    accepted = [novelty <= t for t in thresholds]
    ccr = [(a & correct & ~is_novel).sum() / (~is_novel).sum() for a in accepted]
    kept = [(a & ~is_novel).sum() / (~is_novel).sum() for a in accepted]
    fpr = [(a & is_novel).sum() / is_novel.sum() for a in accepted]
    return np.array(ccr), np.array(kept), np.array(fpr)


def test_hand_computed() -> None:
    novelty = np.array([0.1, 0.2, 0.4, 0.4, 0.9])
    is_novel = np.array([False, False, False, True, True])
    correct = np.array([True, False, True, False, True])
    assert prevalence(is_novel) == pytest.approx(2 / 5)
    # Pairs won by 0.4: 1, 1, half; by 0.9: all three.
    assert auroc(novelty, is_novel) == pytest.approx(5.5 / 6)
    # 0.9 first: precision 1 for half the recall; then both at 0.4: 2 of 3.
    assert aupr(novelty, is_novel) == pytest.approx((1 + 2 / 3) / 2)
    # The second known is named wrong: its pairs are lost.
    assert oscr(novelty, is_novel, correct) == pytest.approx(3.5 / 6)
    assert fpr_at_95_known_kept(novelty, is_novel) == pytest.approx(1 / 2)
    assert known_rejected_at_95_novel_caught(novelty, is_novel) == pytest.approx(1 / 3)


@settings(max_examples=50, deadline=None)
@given(seed=seeds, n=st.integers(2, 120), n_values=st.sampled_from([None, 1, 2, 5]))
def test_equals_scikit_learn_and_all_pairs(seed: int, n: int, n_values: int | None) -> None:
    novelty, is_novel, correct = cells(seed, n, n_values=n_values)
    n_pairs = is_novel.sum() * (~is_novel).sum()
    expected = pairwise(novelty[~is_novel], novelty[is_novel]) / n_pairs
    assert auroc(novelty, is_novel) == pytest.approx(expected, abs=1e-14)
    assert auroc(novelty, is_novel) == pytest.approx(roc_auc_score(is_novel, novelty))
    assert aupr(novelty, is_novel) == pytest.approx(average_precision_score(is_novel, novelty))
    for positive, score, found in (
        (~is_novel, -novelty, fpr_at_95_known_kept(novelty, is_novel)),
        (is_novel, novelty, known_rejected_at_95_novel_caught(novelty, is_novel)),
    ):
        fpr, tpr, _ = roc_curve(positive, score, drop_intermediate=False)
        assert found == pytest.approx(fpr[np.argmax(tpr >= 0.95)])
    expected = pairwise(novelty[~is_novel & correct], novelty[is_novel]) / n_pairs
    assert oscr(novelty, is_novel, correct) == pytest.approx(expected, abs=1e-14)


@settings(max_examples=30, deadline=None)
@given(seed=seeds, n=st.integers(2, 60), n_values=st.sampled_from([None, 1, 3]))
def test_equals_the_curve_over_all_thresholds(seed: int, n: int, n_values: int | None) -> None:
    novelty, is_novel, correct = cells(seed, n, n_values=n_values)
    ccr, kept, fpr = curve(novelty, is_novel, correct)
    assert oscr(novelty, is_novel, correct) == pytest.approx(np.trapezoid(ccr, fpr), abs=1e-13)
    assert fpr_at_95_known_kept(novelty, is_novel) == fpr[np.argmax(kept >= 0.95)]
    caught = 1 - fpr >= 0.95 - 1e-12
    assert known_rejected_at_95_novel_caught(novelty, is_novel) == pytest.approx(
        1 - kept[caught].max()
    )


@settings(max_examples=30, deadline=None)
@given(seed=seeds, n=st.integers(2, 80), n_values=st.sampled_from([None, 4]))
def test_invariances(seed: int, n: int, n_values: int | None) -> None:
    novelty, is_novel, correct = cells(seed, n, n_values=n_values)
    order = np.random.default_rng(seed).permutation(n)
    other = np.exp(3 * novelty + 1)[order]
    for score in RANKED:
        assert score(other, is_novel[order]) == score(novelty, is_novel)
    closed = correct[~is_novel].mean()
    value = oscr(novelty, is_novel, correct)
    assert oscr(other, is_novel[order], correct[order]) == value
    assert oscr(novelty, is_novel, correct | is_novel) == value  # not read for novel cells
    assert 0 <= value <= min(closed, auroc(novelty, is_novel)) + 1e-15
    assert oscr(novelty, is_novel, np.ones(n, bool)) == auroc(novelty, is_novel)
    assert auroc(-novelty, is_novel) == pytest.approx(1 - auroc(novelty, is_novel))
    first = risk_coverage(novelty, ~correct)
    second = risk_coverage(other, ~correct[order])
    np.testing.assert_array_equal(second.risk, first.risk)
    assert second.aurc == first.aurc


def test_all_tied() -> None:
    novelty, is_novel = np.full(10, 0.3), np.arange(10) < 4
    correct = np.arange(10) % 2 == 0
    assert prevalence(is_novel) == 0.4
    assert auroc(novelty, is_novel) == 0.5
    assert aupr(novelty, is_novel) == pytest.approx(0.4)
    assert fpr_at_95_known_kept(novelty, is_novel) == 1
    assert known_rejected_at_95_novel_caught(novelty, is_novel) == 1
    assert oscr(novelty, is_novel, correct) == pytest.approx(0.5 * correct[4:].mean())
    assert threshold_for_rejection(novelty) == 0.3
    found = at_threshold(novelty, is_novel, correct, 0.3)
    assert (found.known_rejected, found.novel_recall, found.novel_precision) == (0, 0, None)
    curve = risk_coverage(novelty, ~correct)
    np.testing.assert_allclose(curve.risk, 0.5)
    assert curve.aurc == pytest.approx(0.5)


def test_perfect_and_inverted() -> None:
    is_novel = np.arange(40) >= 30
    correct = np.arange(40) % 3 > 0
    up = np.arange(40.0)
    assert [score(up, is_novel) for score in RANKED] == [1, 1, 0, 0]
    assert oscr(up, is_novel, correct) == pytest.approx(2 / 3)
    assert auroc(-up, is_novel) == 0
    assert fpr_at_95_known_kept(-up, is_novel) == 1
    assert known_rejected_at_95_novel_caught(-up, is_novel) == 1
    assert oscr(-up, is_novel, correct) == 0


@pytest.mark.parametrize("n", [20, 60, 180, 300, 1000])
def test_95_percent_is_exact_where_it_is_a_whole_number(n: int) -> None:
    # Knowns at 1 … n, a novel cell just above each: 95% of the knowns leave 95% of them in.
    novelty = np.concatenate([np.arange(n), np.arange(n) + 0.5])
    is_novel = np.arange(2 * n) >= n
    assert fpr_at_95_known_kept(novelty, is_novel) == pytest.approx(0.95 - 1 / n)
    assert known_rejected_at_95_novel_caught(novelty, is_novel) == pytest.approx(0.95 - 1 / n)


def test_infinite_novelty_is_the_newest() -> None:
    novelty, is_novel = np.array([0.0, 1.0, np.inf]), np.array([False, False, True])
    assert auroc(novelty, is_novel) == 1
    assert at_threshold(novelty, is_novel, ~is_novel, 1.0).known_accuracy == 1


@pytest.mark.parametrize("value", [True, False])
def test_one_kind_of_cell_is_no_question(value: bool) -> None:
    novelty, is_novel = np.arange(5.0), np.full(5, value)
    match = "every cell is novel" if value else "no cell is novel"
    for score in RANKED:
        with pytest.raises(NotApplicable, match=match):
            score(novelty, is_novel)
    with pytest.raises(NotApplicable, match=match):
        oscr(novelty, is_novel, is_novel)
    with pytest.raises(NotApplicable, match=match):
        at_threshold(novelty, is_novel, is_novel, 0.5)
    assert prevalence(is_novel) == float(value)


def test_no_cell_is_no_question() -> None:
    none, no = np.zeros(0), np.zeros(0, bool)
    questions: list[Callable[[], object]] = [
        *(lambda score=score: score(none, no) for score in RANKED),
        lambda: prevalence(no),
        lambda: oscr(none, no, no),
        lambda: at_threshold(none, no, no, 0.5),
        lambda: threshold_for_rejection(none),
        lambda: risk_coverage(none, no),
    ]
    for ask in questions:
        with pytest.raises(NotApplicable, match="no "):
            ask()


def test_nan_is_refused_with_a_remedy() -> None:
    novelty, is_novel, correct = cells(0, 30)
    novelty[[3, 8]] = np.nan
    questions: list[Callable[[], object]] = [
        *(lambda score=score: score(novelty, is_novel) for score in RANKED),
        lambda: oscr(novelty, is_novel, correct),
        lambda: at_threshold(novelty, is_novel, correct, 0.5),
        lambda: threshold_for_rejection(novelty),
        lambda: risk_coverage(novelty, correct),
    ]
    for ask in questions:
        with pytest.raises(MethodError, match="NaN in 2 of 30 cells") as caught:
            ask()
        assert caught.value.needed
        assert caught.value.remedy


def test_refuses_flags_that_are_none() -> None:
    novelty, is_novel, correct = cells(0, 30)
    with pytest.raises(ValueError, match="is_novel must be booleans"):
        auroc(novelty, is_novel.astype(int))
    with pytest.raises(ValueError, match="is_novel must be booleans"):
        auroc(novelty, is_novel[1:])
    with pytest.raises(ValueError, match="correct must be booleans"):
        oscr(novelty, is_novel, correct.astype(int))
    with pytest.raises(ValueError, match="wrong must be booleans"):
        risk_coverage(novelty, correct[:4])


def test_at_threshold_by_hand() -> None:
    novelty = np.array([0.1, 0.5, 0.6, 0.5, 0.7, 0.8])
    is_novel = np.array([False, False, False, True, True, True])
    correct = np.array([True, False, True, True, True, True])
    found = at_threshold(novelty, is_novel, correct, 0.5)  # cells at the threshold are accepted
    assert found.known_accuracy == pytest.approx(1 / 3)
    assert found.known_rejected == pytest.approx(1 / 3)
    assert found.novel_recall == pytest.approx(2 / 3)
    assert found.novel_precision == pytest.approx(2 / 3)
    assert found.jaccard == pytest.approx(2 / 4)
    assert at_threshold(novelty, is_novel, correct, np.inf).novel_precision is None
    everything = at_threshold(novelty, is_novel, correct, -np.inf)
    assert (everything.known_accuracy, everything.novel_recall, everything.jaccard) == (0, 1, 0.5)
    with pytest.raises(ValueError, match="NaN"):
        at_threshold(novelty, is_novel, correct, np.nan)


@settings(max_examples=60, deadline=None)
@given(
    seed=seeds,
    n=st.integers(1, 150),
    percent=st.integers(0, 99),
    n_values=st.sampled_from([None, 1, 3]),
)
def test_threshold_is_the_lowest_that_keeps_the_rate(
    seed: int, n: int, percent: int, n_values: int | None
) -> None:
    rng = np.random.default_rng(seed)
    novelty = rng.normal(size=n) if n_values is None else rng.integers(0, n_values, n) * 1.0
    threshold = threshold_for_rejection(novelty, percent / 100)
    assert threshold in novelty
    assert 100 * (novelty > threshold).sum() <= percent * n
    lower = novelty[novelty < threshold]
    if len(lower):
        assert 100 * (novelty > lower.max()).sum() > percent * n


def test_a_rate_that_is_a_whole_number_of_cells_rejects_that_number() -> None:
    # 0.29 · 100 is 28.999999999999996, 0.07 · 100 is 7.000000000000001.
    novelty = np.random.default_rng(0).permutation(100) * 1.0
    for rate, rejected in ((0.29, 29), (0.07, 7), (0.05, 5), (0.0, 0), (0.999, 99)):
        assert (novelty > threshold_for_rejection(novelty, rate)).sum() == rejected
    assert threshold_for_rejection(novelty[:19]) == novelty[:19].max()


@pytest.mark.parametrize("rate", [-0.1, 1.0, np.nan])
def test_refuses_rates_out_of_range(rate: float) -> None:
    with pytest.raises(ValueError, match="rate must be"):
        threshold_for_rejection(np.arange(5.0), rate)


def test_risk_coverage_by_hand() -> None:
    uncertainty = np.array([0.3, 0.1, 0.2, 0.4])
    wrong = np.array([True, False, False, True])
    found = risk_coverage(uncertainty, wrong, coverages=(0.01, 0.5, 0.6, 1.0))
    np.testing.assert_allclose(found.coverage, [0.01, 0.5, 0.6, 1])
    np.testing.assert_allclose(found.risk, [0, 0, 1 / 3, 1 / 2])  # 1, 2, 3 and 4 cells
    assert found.aurc == pytest.approx((0 + 0 + 1 / 3 + 2 / 4) / 4)
    # Two tied cells, one of them wrong: half an error after the first.
    tied = risk_coverage(np.array([1.0, 1.0, 2.0]), np.array([True, False, False]))
    assert tied.aurc == pytest.approx((1 / 2 + 1 / 2 + 1 / 3) / 3)
    assert len(tied.risk) == len(tied.coverage) == 20


def test_risk_of_ties_is_that_of_a_random_order() -> None:
    uncertainty, _, correct = cells(4, 40, n_values=4)
    rng = np.random.default_rng(0)
    found = risk_coverage(uncertainty, ~correct)
    drawn = [risk_coverage(uncertainty + 0.01 * rng.random(40), ~correct).aurc for _ in range(2000)]
    assert found.aurc == pytest.approx(np.mean(drawn), abs=4 * np.std(drawn) / np.sqrt(2000))


@pytest.mark.parametrize("coverages", [(0.0, 1.0), (0.5, 1.1), (np.nan,)])
def test_refuses_coverages_out_of_range(coverages: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="coverages must be"):
        risk_coverage(np.arange(5.0), np.zeros(5, bool), coverages)


def test_many_cells_do_not_overflow() -> None:
    rng = np.random.default_rng(0)
    is_novel = rng.random(300_000) < 0.5
    novelty = rng.normal(size=300_000) + is_novel
    assert auroc(novelty, is_novel) == pytest.approx(roc_auc_score(is_novel, novelty), abs=1e-12)
