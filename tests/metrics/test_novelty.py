"""Novelty scores against their plain formulas, scipy and scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp
from scipy.special import softmax as scipy_softmax
from scipy.stats import entropy as scipy_entropy
from sklearn.covariance import ledoit_wolf
from sklearn.neighbors import NearestNeighbors

from sclitmus.errors import MethodError, NotApplicable
from sclitmus.metrics import novelty
from sclitmus.metrics.novelty import (
    NOVELTY_SCORES,
    energy,
    entropy,
    knn_distance,
    mahalanobis,
    margin,
    max_logit,
    max_softmax,
)

OF_PROBABILITIES = (max_softmax, entropy, margin)
OF_LOGITS = (*OF_PROBABILITIES, max_logit, energy)


def some_logits(n: int, n_classes: int, seed: int = 0, scale: float = 2.0) -> np.ndarray:
    return scale * np.random.default_rng(seed).normal(size=(n, n_classes))


@pytest.mark.parametrize("n_classes", [2, 3, 11])
def test_logit_scores_equal_their_formulas(n_classes: int) -> None:
    logits = some_logits(300, n_classes)
    p = scipy_softmax(logits, axis=1)
    ranked = np.sort(p, axis=1)
    np.testing.assert_allclose(max_softmax(logits), 1 - ranked[:, -1], atol=1e-14)
    np.testing.assert_allclose(entropy(logits), scipy_entropy(p, axis=1), atol=1e-14)
    np.testing.assert_allclose(margin(logits), 1 - (ranked[:, -1] - ranked[:, -2]), atol=1e-14)
    np.testing.assert_allclose(max_logit(logits), -logits.max(axis=1))
    np.testing.assert_allclose(energy(logits), -logsumexp(logits, axis=1), rtol=1e-13)


def test_hand_computed() -> None:
    logits = np.log(np.array([[0.5, 0.25, 0.25]])) + 3
    assert max_softmax(logits)[0] == pytest.approx(0.5)
    assert margin(logits)[0] == pytest.approx(0.75)
    assert entropy(logits)[0] == pytest.approx(1.5 * np.log(2))
    assert max_logit(logits)[0] == pytest.approx(np.log(2) - 3)
    assert energy(logits)[0] == pytest.approx(-3)


def test_very_sure_cells_stay_apart() -> None:
    # Taken literally, 1 - max p is exactly 0 for all of these.
    lead = np.array([40.0, 60.0, 100.0, 600.0])
    logits = np.column_stack([lead, np.zeros(4), np.full(4, -5.0)])
    second, third = np.exp(-lead), np.exp(-lead - 5)
    np.testing.assert_allclose(max_softmax(logits), second + third, rtol=1e-12)
    np.testing.assert_allclose(margin(logits), 2 * second + third, rtol=1e-12)
    expected = second * (1 + lead) + third * (1 + lead + 5)
    np.testing.assert_allclose(entropy(logits), expected, rtol=1e-12)


def test_huge_logits_do_not_overflow() -> None:
    worst = np.finfo(np.float64).min
    logits = np.array([[1e300, 0.0], [worst, 0.0], [worst, worst]])
    np.testing.assert_allclose(max_softmax(logits), [0, 0, 0.5])
    np.testing.assert_allclose(entropy(logits), [0, 0, np.log(2)])
    np.testing.assert_allclose(margin(logits), [0, 0, 1])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n_classes=st.integers(2, 8), shift=st.floats(-50, 50))
def test_invariances_of_logit_scores(seed: int, n_classes: int, shift: float) -> None:
    logits = some_logits(40, n_classes, seed)
    rng = np.random.default_rng(seed)
    rows, columns = rng.permutation(40), rng.permutation(n_classes)
    never = np.full((40, 1), -1e3)
    for score in OF_LOGITS:
        expected = score(logits)
        np.testing.assert_allclose(score(logits[rows][:, columns]), expected[rows], atol=1e-13)
        np.testing.assert_allclose(score(np.hstack([logits, never])), expected, atol=1e-13)
    for score in OF_PROBABILITIES:
        np.testing.assert_allclose(score(logits + shift), score(logits), atol=1e-11)
    for score in (max_logit, energy):
        np.testing.assert_allclose(score(logits + shift), score(logits) - shift, atol=1e-11)


def test_higher_is_more_novel() -> None:
    sure, torn = np.array([[5.0, 0.0, 0.0]]), np.array([[0.1, 0.0, 0.0]])
    for score in OF_LOGITS:
        assert score(torn)[0] > score(sure)[0]
    train = np.random.default_rng(0).normal(size=(50, 3))
    cells = np.array([[0.0, 0, 0], [9, 0, 0]])
    for found in (knn_distance(train, cells, 3), mahalanobis(train, np.zeros(50, int), cells)):
        assert found[1] > found[0]


def test_log_probabilities_have_no_energy() -> None:
    logits = some_logits(50, 4)
    normalised = logits - logsumexp(logits, axis=1, keepdims=True)
    for given_as in (normalised, normalised.astype(np.float32)):
        with pytest.raises(NotApplicable, match="log probabilities"):
            energy(given_as)
    np.testing.assert_array_equal(
        np.argsort(max_logit(normalised)), np.argsort(max_softmax(normalised))
    )


def test_one_known_class() -> None:
    logits = some_logits(20, 1)
    np.testing.assert_array_equal(max_softmax(logits), 0)
    np.testing.assert_array_equal(entropy(logits), 0)
    np.testing.assert_array_equal(max_logit(logits), -logits[:, 0])
    np.testing.assert_array_equal(energy(logits), -logits[:, 0])
    with pytest.raises(NotApplicable, match="two known classes"):
        margin(logits)


def test_no_cell_has_no_score_and_no_error() -> None:
    for score in OF_LOGITS:
        assert score(np.zeros((0, 3))).shape == (0,)
    train = np.random.default_rng(0).normal(size=(10, 3))
    assert knn_distance(train, np.zeros((0, 3))).shape == (0,)
    assert mahalanobis(train, np.zeros(10, int), np.zeros((0, 3))).shape == (0,)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_refuses_what_is_not_finite(bad: float) -> None:
    x = some_logits(30, 3)
    good, x[7, 2] = x.copy(), bad
    y = np.zeros(30, int)
    for score in OF_LOGITS:
        with pytest.raises(MethodError, match="1 of 30 cells"):
            score(x)
    for train, cells in ((x, good), (good, x)):
        with pytest.raises(MethodError, match="1 of 30 cells"):
            knn_distance(train, cells)
        with pytest.raises(MethodError, match="1 of 30 cells"):
            mahalanobis(train, y, cells)


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, y = some_logits(101, 6), np.arange(101) % 3

    def all_scores() -> list[np.ndarray]:
        scores = [score(logits) for score in OF_LOGITS]
        return [*scores, knn_distance(logits[:50], logits), mahalanobis(logits, y, logits)]

    whole = all_scores()
    monkeypatch.setattr("sclitmus.metrics.groups._BLOCK_BYTES", 8 * 6 * 7)
    monkeypatch.setattr(novelty, "_QUERIES", 9)
    monkeypatch.setattr(novelty, "_PIECE", 4)  # fewer than k
    for cut, expected in zip(all_scores(), whole, strict=True):
        np.testing.assert_allclose(cut, expected, rtol=1e-12)


@pytest.mark.parametrize(("k", "d", "offset"), [(1, 5, 0.0), (10, 40, 0.0), (3, 5, 1e5)])
def test_knn_distance_equals_scikit_learn(k: int, d: int, offset: float) -> None:
    rng = np.random.default_rng(d)
    train, cells = (rng.normal(size=(n, d)) + offset for n in (400, 150))
    reference = NearestNeighbors(n_neighbors=k, algorithm="kd_tree").fit(train)
    expected = reference.kneighbors(cells)[0][:, -1]
    np.testing.assert_allclose(knn_distance(train, cells, k), expected, rtol=1e-9)


def test_knn_distance_of_training_cells_and_small_sets() -> None:
    train = np.array([[0.0], [1.0], [5.0]])
    np.testing.assert_array_equal(knn_distance(train, train, 1), [0, 0, 0])
    np.testing.assert_array_equal(knn_distance(train, np.array([[2.0]]), 2), [2])
    np.testing.assert_array_equal(knn_distance(train, np.array([[2.0]]), 99), [3])  # the farthest
    with pytest.raises(NotApplicable, match="no training cell"):
        knn_distance(train[:0], train)
    with pytest.raises(ValueError, match="k must be"):
        knn_distance(train, train, 0)


def slow_mahalanobis(train: np.ndarray, y: np.ndarray, cells: np.ndarray) -> np.ndarray:
    means = np.array([train[y == code].mean(axis=0) for code in np.unique(y)])
    within = train - means[np.searchsorted(np.unique(y), y)]
    covariance, _ = ledoit_wolf(within, assume_centered=True)
    apart = cells[:, None, :] - means[None]
    solved = np.linalg.solve(covariance, apart.reshape(-1, train.shape[1]).T).T
    squares = np.einsum("ijk,ijk->ij", apart, solved.reshape(apart.shape))
    distance: np.ndarray = np.sqrt(squares.min(axis=1))
    return distance


@pytest.mark.parametrize(("n", "d"), [(300, 6), (60, 60), (25, 90)])
@pytest.mark.parametrize("n_classes", [1, 4])
def test_mahalanobis_equals_the_inverse_of_a_shrunk_covariance(
    n: int, d: int, n_classes: int
) -> None:
    rng = np.random.default_rng(n)
    mix = rng.normal(size=(d, d)) * np.geomspace(1, 0.01, d)
    y = 3 * (np.arange(n) % n_classes) + 2  # codes with gaps
    train = rng.normal(size=(n, d)) @ mix + 5 * rng.normal(size=(20, d))[y] + 100
    cells = rng.normal(size=(40, d)) @ mix + 100
    np.testing.assert_allclose(
        mahalanobis(train, y, cells), slow_mahalanobis(train, y, cells), rtol=1e-7
    )


def test_mahalanobis_knows_the_shape_of_a_class() -> None:
    rng = np.random.default_rng(1)
    train = rng.normal(size=(2000, 2)) * (10, 0.1)
    along, across = mahalanobis(train, np.zeros(2000, int), np.array([[8.0, 0], [0, 1.0]]))
    assert along == pytest.approx(0.8, abs=0.1)
    assert across > 3 * along


def test_mahalanobis_of_a_column_in_which_nothing_varies() -> None:
    rng = np.random.default_rng(2)
    train = np.column_stack([rng.normal(size=500), np.full(500, 7.0)])
    found = mahalanobis(train, np.zeros(500, int), np.array([[0.0, 7.0], [0.0, 8.0]]))
    assert np.isfinite(found).all()
    assert found[1] > 5 > found[0]
    # All rows on one line, so that no shrinkage is estimated at all.
    line = np.tile([[1.0, 1.0], [-1.0, -1.0]], (50, 1))
    off = mahalanobis(line, np.zeros(100, int), np.array([[1.0, 1.0], [1.0, -1.0]]))
    assert off[0] == pytest.approx(1, rel=1e-5)
    assert 100 < off[1] < np.inf


@pytest.mark.parametrize(
    ("train", "y"),
    [
        (np.zeros((0, 2)), np.zeros(0, int)),
        (np.full((6, 2), 0.1), np.zeros(6, int)),
        (np.arange(8.0).reshape(4, 2), np.arange(4)),
    ],
    ids=["no cell", "equal cells", "one cell per class"],
)
def test_mahalanobis_needs_variation_within_classes(train: np.ndarray, y: np.ndarray) -> None:
    with pytest.raises(NotApplicable, match=r"no (training cell|class varies)"):
        mahalanobis(train, y, np.zeros((3, 2)))


def test_the_list_of_scores_names_functions() -> None:
    from_logits = {name for name, (_, needs) in NOVELTY_SCORES.items() if needs == "logits"}
    assert from_logits == {score.__name__ for score in OF_LOGITS}
    assert set(NOVELTY_SCORES) - from_logits == {"knn_distance", "mahalanobis"}
    assert all(callable(getattr(novelty, name)) for name in NOVELTY_SCORES)


@pytest.mark.parametrize("shape", [(4,), (4, 0)])
def test_refuses_what_is_no_matrix(shape: tuple[int, ...]) -> None:
    with pytest.raises(MethodError, match="shape"):
        max_softmax(np.zeros(shape))
