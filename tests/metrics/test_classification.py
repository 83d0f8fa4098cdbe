"""Names given to cells, against hand-worked tables and scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    jaccard_score,
    recall_score,
)

from sclitmus.errors import NotApplicable
from sclitmus.metrics.classification import (
    accuracy,
    balanced_accuracy,
    confusion,
    f1_per_class,
    jaccard_of_unknown,
    macro_f1,
    recalls,
)

AVERAGES = (accuracy, balanced_accuracy, macro_f1)


def named(n: int, n_classes: int, n_present: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """True and predicted codes; only some of the classes are ever true."""
    rng = np.random.default_rng(seed)
    y_true = rng.integers(0, n_present, n)
    y_pred = np.where(rng.random(n) < 0.6, y_true, rng.integers(0, n_classes, n))
    return y_true, y_pred


def test_hand_computed() -> None:
    # Truth 0 0 0 1 1, called 0 0 1 1 2; class 2 is only called, class 3 neither.
    c = confusion(np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 2]), 4)
    assert c.tolist() == [[2, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert accuracy(c) == pytest.approx(3 / 5)
    np.testing.assert_allclose(recalls(c), [2 / 3, 1 / 2, np.nan, np.nan])
    np.testing.assert_allclose(f1_per_class(c), [2 * 2 / (3 + 2), 2 * 1 / (2 + 2), np.nan, np.nan])
    assert balanced_accuracy(c) == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert macro_f1(c) == pytest.approx((4 / 5 + 1 / 2) / 2)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 60),
    n_classes=st.integers(1, 7),
    absent=st.integers(0, 3),
)
@pytest.mark.filterwarnings("ignore:y_pred contains classes:UserWarning")
@pytest.mark.filterwarnings("ignore:A single label was found:UserWarning")
def test_equals_scikit_learn(seed: int, n: int, n_classes: int, absent: int) -> None:
    y_true, y_pred = named(n, n_classes, max(1, n_classes - absent), seed)
    c = confusion(y_true, y_pred, n_classes)
    present = np.unique(y_true)
    labels = np.arange(n_classes)
    np.testing.assert_array_equal(c, confusion_matrix(y_true, y_pred, labels=labels))
    assert accuracy(c) == pytest.approx(accuracy_score(y_true, y_pred))
    assert balanced_accuracy(c) == pytest.approx(balanced_accuracy_score(y_true, y_pred))
    expected = f1_score(y_true, y_pred, labels=present, average="macro", zero_division=0)
    assert macro_f1(c) == pytest.approx(expected)
    for found, reference in ((recalls(c), recall_score), (f1_per_class(c), f1_score)):
        expected = reference(y_true, y_pred, labels=labels, average=None, zero_division=0)
        np.testing.assert_allclose(found[present], expected[present])
        assert np.isnan(np.delete(found, present)).all()


def test_macro_f1_differs_from_the_default_only_by_classes_only_called() -> None:
    y_true, y_pred = np.array([0, 0, 1, 1]), np.array([0, 2, 1, 1])
    assert macro_f1(confusion(y_true, y_pred, 3)) == pytest.approx((2 / 3 + 1) / 2)
    assert f1_score(y_true, y_pred, average="macro") == pytest.approx((2 / 3 + 1 + 0) / 3)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 80))
def test_order_names_and_further_classes_do_not_matter(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    y_true, y_pred = named(n, 5, 4, seed)
    order, names = rng.permutation(n), rng.permutation(9)  # four names that nobody has
    first = confusion(y_true, y_pred, 5)
    second = confusion(names[y_true][order], names[y_pred][order], 9)
    for score in AVERAGES:
        assert score(second) == pytest.approx(score(first), abs=1e-14)
    np.testing.assert_allclose(recalls(second)[names[:5]], recalls(first))


def test_one_class_and_constant_answers() -> None:
    assert [score(confusion(np.zeros(3, int), np.zeros(3, int), 1)) for score in AVERAGES] == [
        1
    ] * 3
    c = confusion(np.array([0, 1, 2]), np.zeros(3, int), 3)
    assert balanced_accuracy(c) == pytest.approx(1 / 3)
    np.testing.assert_allclose(f1_per_class(c), [0.5, 0, 0])  # never called: 0, not undefined


def test_no_cell_is_no_score() -> None:
    none = np.zeros(0, dtype=np.int64)
    c = confusion(none, none, 3)
    np.testing.assert_array_equal(c, np.zeros((3, 3)))
    for score in (*AVERAGES, recalls, f1_per_class):
        with pytest.raises(NotApplicable, match="no cell"):
            score(c)


def test_small_integers_do_not_overflow() -> None:
    codes = np.full(5, 120, dtype=np.int8)
    assert confusion(codes, codes, 121)[120, 120] == 5


@pytest.mark.parametrize(
    ("y_true", "y_pred"), [([0, 1], [0]), ([0, -1], [0, 0]), ([0, 0], [0, 2]), ([[0]], [[0]])]
)
def test_refuses_what_is_no_pair_of_codes(y_true: list[int], y_pred: list[int]) -> None:
    with pytest.raises(ValueError, match="must"):
        confusion(np.array(y_true), np.array(y_pred), 2)


def test_jaccard_of_unknown() -> None:
    truly = np.array([True, True, True, False, False])
    called = np.array([True, False, False, True, False])
    assert jaccard_of_unknown(truly, called) == pytest.approx(1 / 4)
    assert jaccard_of_unknown(truly, truly) == 1
    assert jaccard_of_unknown(truly, ~truly) == 0
    assert jaccard_of_unknown(truly, np.zeros(5, bool)) == 0
    rng = np.random.default_rng(0)
    truly, called = rng.random(200) < 0.3, rng.random(200) < 0.5
    assert jaccard_of_unknown(truly, called) == pytest.approx(jaccard_score(truly, called))
    with pytest.raises(NotApplicable, match="no cell"):
        jaccard_of_unknown(np.zeros(5, bool), called[:5])
