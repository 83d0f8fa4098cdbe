"""The methods that name cells: hand-computed scores, what they share, and data that is awkward."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from scipy.special import softmax

from sclitmus import catalog
from sclitmus.baselines.expression import Components, Expression
from sclitmus.baselines.knn import KNN
from sclitmus.baselines.lr_l1 import LogisticL1
from sclitmus.baselines.lr_l2 import LogisticL2
from sclitmus.baselines.majority import Majority
from sclitmus.baselines.marker_score import MarkerScore
from sclitmus.baselines.nearest_centroid import TEMPERATURE, NearestCentroid
from sclitmus.baselines.pca_lr import PCALogistic
from sclitmus.core.dataset import Categories, Dataset, Genes
from sclitmus.core.method import Annotator
from sclitmus.core.rng import rng_for
from sclitmus.data.simulate import simulate
from sclitmus.errors import MethodError, NotApplicable
from sclitmus.learning import tuning

LEARNERS = (NearestCentroid, KNN, MarkerScore, LogisticL1, LogisticL2, PCALogistic)
ALL = (Majority, *LEARNERS)
REGRESSIONS = (LogisticL1, LogisticL2, PCALogistic)


def rng() -> np.random.Generator:
    return rng_for(0, "annotators")


def dataset(counts: Any, labels: list[str], **roles: list[str]) -> Dataset:
    matrix = sparse.csr_matrix(np.asarray(counts, dtype=np.float32))
    n, d = matrix.shape
    names = {"label": labels, **roles}
    return Dataset(
        "made",
        matrix,
        Genes(tuple(f"G{i}" for i in range(d)), ("",) * d, "unknown"),
        tuple(f"cell-{i}" for i in range(n)),
        {role: Categories.of(values) for role, values in names.items()},
    )


def halves(n_cells: int = 300, **settings: Any) -> tuple[Dataset, Dataset]:
    cells = simulate(n_cells=n_cells, n_genes=120, **settings)
    rows = np.arange(n_cells)
    return cells.take(rows[::2]), cells.take(rows[1::2])


def accuracy(fitted: Any, cells: Dataset) -> float:
    scores = fitted.predict_scores(cells.without("label"))
    return float((scores.argmax(axis=1) == cells.role("label").codes).mean())


# ---- what all of them do


@pytest.mark.parametrize("method", ALL)
def test_contract_and_catalog(method: type) -> None:
    card = method().card
    assert isinstance(method(), Annotator)
    assert isinstance(catalog.load_method(card.id), method)
    assert card.deterministic
    assert not card.sees_labels
    is_floor = method is Majority
    assert (card.kind, card.part) == (("control", "floor") if is_floor else ("baseline", "bar"))


@pytest.mark.parametrize("method", LEARNERS)
def test_planted_types_are_found(method: type) -> None:
    train, test = halves()
    before = train.content_hash
    unfitted = method()
    fitted = unfitted.fit(train, rng())
    scores = fitted.predict_scores(test.without("label"))
    assert scores.shape == (test.n_cells, 4)
    assert scores.dtype == np.float64
    assert np.isfinite(scores).all()
    assert accuracy(fitted, test) > 0.97
    assert train.content_hash == before
    with pytest.raises(MethodError, match="before it was fitted"):
        unfitted.predict_scores(test)


@pytest.mark.parametrize("method", ALL)
def test_a_cell_is_scored_the_same_alone_and_among_others(method: type) -> None:
    train, test = halves(n_cells=120)
    fitted = method().fit(train, rng())
    together = fitted.predict_scores(test)
    np.testing.assert_allclose(
        fitted.predict_scores(test.take(np.array([17]))), together[[17]], atol=1e-4
    )
    again = method().fit(train, rng()).predict_scores(test)
    np.testing.assert_array_equal(again, together)


@pytest.mark.parametrize("method", ALL)
def test_classes_keep_the_order_of_their_names(method: type) -> None:
    # Numbers as names are sorted as text: "10" comes before "9".
    train, test = halves()
    numbers = {"type 0": "9", "type 1": "10", "type 2": "0", "type 3": "-1"}
    renamed = [
        replace(cells, roles={"label": Categories.of([numbers[n] for n in names_of(cells)])})
        for cells in (train, test)
    ]
    order = [renamed[0].role("label").names.index(numbers[f"type {i}"]) for i in range(4)]
    plain = method().fit(train.without("batch", "donor"), rng()).predict_scores(test)
    other = method().fit(renamed[0], rng()).predict_scores(renamed[1])
    # Only folds of cross-validation, and with them the choice of a setting, may differ.
    if method in REGRESSIONS or method is KNN:
        assert (plain.argmax(axis=1) == np.argsort(order)[other.argmax(axis=1)]).mean() > 0.97
    else:
        np.testing.assert_allclose(plain, other[:, order], atol=1e-6)


def names_of(cells: Dataset) -> list[str]:
    label = cells.role("label")
    return [label.names[code] for code in label.codes]


@pytest.mark.parametrize("method", ALL)
def test_one_class_is_not_applicable(method: type) -> None:
    cells = simulate(n_cells=30, n_genes=20, n_types=1)
    with pytest.raises(NotApplicable, match="the training cells have one"):
        method().fit(cells, rng())


@pytest.mark.parametrize("method", LEARNERS)
def test_other_genes_are_refused(method: type) -> None:
    train, test = halves(n_cells=60)
    fitted = method().fit(train, rng())
    turned = replace(test.genes, symbol=test.genes.symbol[::-1])
    with pytest.raises(MethodError, match="not the same or not in the same order"):
        fitted.predict_scores(replace(test, genes=turned))


# ---- awkward data


@pytest.mark.parametrize("method", ALL)
def test_one_cell_of_each_class(method: type) -> None:
    cells = simulate(n_cells=200, n_genes=150, n_types=3, type_strength=1.5)
    label = cells.role("label").codes
    rows = np.array([np.flatnonzero(label == code)[0] for code in range(3)])
    fitted = method().fit(cells.take(rows), rng())
    assert np.isfinite(fitted.predict_scores(cells)).all()
    assert accuracy(fitted, cells) > (0.3 if method is Majority else 0.7)


@pytest.mark.parametrize("method", ALL)
def test_a_class_with_one_cell_among_many(method: type) -> None:
    train, test = halves()
    code = train.role("label").codes
    kept = np.flatnonzero((code != 2) | (np.cumsum(code == 2) == 1))
    fitted = method().fit(train.take(kept), rng())
    assert fitted.predict_scores(test).shape == (test.n_cells, 4)


@pytest.mark.parametrize("method", ALL)
def test_five_hundred_classes(method: type) -> None:
    cells = simulate(n_cells=1000, n_genes=60, n_types=4)
    names = [f"{i % 500}" for i in range(1000)]
    many = replace(cells, roles={"label": Categories.of(names)})
    scores = method().fit(many, rng()).predict_scores(many.take(np.arange(50)))
    assert scores.shape == (50, 500)
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("method", ALL)
def test_a_cell_that_expresses_no_gene_of_the_training_cells(method: type) -> None:
    counts = np.array([[5, 0, 1, 0], [4, 1, 0, 0], [0, 6, 1, 0], [1, 7, 0, 0]] * 3)
    train = dataset(counts, ["a", "a", "b", "b"] * 3)
    test = dataset([[0, 0, 0, 9], [6, 0, 0, 0]], ["a", "a"])
    scores = method().fit(train, rng()).predict_scores(test)
    assert np.isfinite(scores).all()
    if method is not Majority:
        assert scores[1].argmax() == 0


@pytest.mark.parametrize("method", ALL)
def test_cells_that_are_all_alike(method: type) -> None:
    train = dataset([[3, 1, 2]] * 12, ["a", "a", "b"] * 4)
    scores = method().fit(train, rng()).predict_scores(train)
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(scores, np.tile(scores[0], (12, 1)), atol=1e-6)


# ---- each by itself


def test_majority_gives_the_frequencies() -> None:
    train = dataset(np.ones((4, 3)), ["b", "a", "b", "b"])
    scores = Majority().fit(train, rng()).predict_scores(train)
    np.testing.assert_allclose(np.exp(scores), [[0.25, 0.75]] * 4)


def test_nearest_centroid_is_the_cosine_to_the_class_means() -> None:
    train, test = halves(n_cells=80)
    x, z = (
        Expression.of(train).read(cells, "x").toarray().astype(np.float64)
        for cells in (train, test)
    )
    code = train.role("label").codes
    means = np.array([x[code == k].mean(axis=0) for k in range(4)])
    cosine = (z @ means.T) / np.linalg.norm(z, axis=1)[:, None] / np.linalg.norm(means, axis=1)
    scores = NearestCentroid().fit(train, rng()).predict_scores(test)
    np.testing.assert_allclose(scores, cosine / TEMPERATURE, atol=1e-3)


def test_expression_is_the_logarithm_of_counts_per_ten_thousand_of_all_genes() -> None:
    train = dataset([[1, 0, 3], [0, 0, 2]], ["a", "b"])
    test = dataset([[1, 6, 1]], ["a"])
    expression = Expression.of(train)
    assert expression.seen.tolist() == [0, 2]
    expected = np.log1p([[1e4 / 8, 1e4 / 8]])
    np.testing.assert_allclose(expression.read(test, "x").toarray(), expected, rtol=1e-6)


def test_knn_counts_votes_and_lets_the_nearer_break_a_tie() -> None:
    train = dataset([[9, 0], [9, 1], [0, 9], [1, 9]], ["a", "b", "b", "a"])
    fitted = KNN().fit(train, rng())
    assert fitted.neighbourhood is not None
    assert fitted.neighbourhood.choice.value == 1
    two = replace(fitted.neighbourhood, choice=tuning.Choice(2.0))
    scores = replace(fitted, neighbourhood=two).predict_scores(dataset([[8, 0]], ["?"]))
    np.testing.assert_allclose(np.exp(scores), [[0.5, 0.5]], atol=1e-5)
    assert scores.argmax() == 0
    one = fitted.predict_scores(dataset([[8, 0]], ["?"]))
    np.testing.assert_allclose(one, np.log([[1.01 / 1.02, 0.01 / 1.02]]))


def test_knn_agrees_with_scikit_learn() -> None:
    from sklearn.neighbors import KNeighborsClassifier

    train, test = halves(n_cells=400, type_strength=0.4)
    fitted = KNN().fit(train, rng())
    learned = fitted.neighbourhood
    assert learned is not None
    theirs = KNeighborsClassifier(int(learned.choice.value), metric="cosine", algorithm="brute")
    theirs.fit(learned.unit, learned.codes)
    p = theirs.predict_proba(fitted.features(test))
    ours = softmax(fitted.predict_scores(test), axis=1)
    np.testing.assert_allclose(ours, p, atol=0.03)  # the prior votes
    assert np.argmax(learned.choice.scores) == tuple(
        k == learned.choice.value for k in (30, 15, 10, 5, 3, 1)
    ).index(True)


def test_marker_score_by_hand() -> None:
    # Gene 0 marks a, gene 1 marks b, gene 2 says nothing.
    train = dataset([[90, 0, 10], [80, 0, 20], [0, 90, 10], [0, 80, 20]], ["a", "a", "b", "b"])
    fitted = MarkerScore(n_markers=1).fit(train, rng())
    assert fitted.learned is not None
    assert fitted.learned.markers.tolist() == [[0], [1]]
    effect = fitted.markers(train)["weights"]
    assert effect[0].argmax() == 0
    assert effect[1].argmax() == 1
    x = np.log1p(np.array([90, 80, 0, 0]) * 100)
    standard = (x - x.mean()) / (x.std() + 0.1)
    np.testing.assert_allclose(fitted.predict_scores(train)[:, 0], standard / 0.15, rtol=1e-4)


@pytest.mark.parametrize("method", REGRESSIONS)
def test_features_are_components_of_the_training_cells_alone(method: type) -> None:
    train, test = halves()
    fitted = method().fit(train, rng())
    x = Expression.of(train).read(train, "x").toarray().astype(np.float64)
    z = fitted.features(train)
    assert z.shape == (150, 50)
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-4)
    values = np.linalg.svd(x - x.mean(axis=0), compute_uv=False)[:50]
    np.testing.assert_allclose(np.linalg.norm(z, axis=0), values, rtol=1e-3)
    one = fitted.features(test.take(np.array([3])))
    np.testing.assert_allclose(one, fitted.features(test)[[3]], atol=1e-4)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_components_of_few_cells(n: int) -> None:
    x = sparse.csr_matrix(np.arange(n * 6, dtype=np.float32).reshape(n, 6) ** 2)
    assert Components.of(x).read(x).shape == (n, max(1, n - 1))


@pytest.mark.parametrize("method", REGRESSIONS)
def test_the_edge_of_the_grid_is_remarked(method: type, monkeypatch: pytest.MonkeyPatch) -> None:
    train, _ = halves(n_cells=200, type_strength=0.3)
    fitted = method().fit(train, rng())
    assert fitted.remarks(train) == ()
    learned = fitted.learned
    on_edge = replace(learned.tuned, choice=tuning.Choice(1e4, (0.5,), True))
    told = replace(fitted, learned=replace(learned, tuned=on_edge)).remarks(train)
    assert told == ("C = 10000 is the edge of the grid 0.0001 … 10000",)


@pytest.mark.parametrize("method", [KNN, *REGRESSIONS])
def test_settings_are_chosen_across_groups(method: type, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    honest = tuning.folds

    def watched(y: np.ndarray, groups: np.ndarray | None, *rest: Any) -> Any:
        seen.append(groups)
        return honest(y, groups, *rest)

    monkeypatch.setattr(tuning, "folds", watched)
    train, _ = halves(n_cells=120, donors=6)
    method().fit(train, rng())
    np.testing.assert_array_equal(seen[0], train.role("donor").codes)
    groups = Categories.of(["x", "y", "z"] * 20)
    method().fit(replace(train, roles={**train.roles, "group": groups}), rng())
    np.testing.assert_array_equal(seen[1], groups.codes)
    method().fit(train.without("donor"), rng())
    assert seen[2] is None


@pytest.mark.parametrize("method", [LogisticL1, LogisticL2, MarkerScore])
def test_markers_speak_for_planted_genes(method: type) -> None:
    # Types differ in ten genes each, the others are noise.
    random = np.random.default_rng(0)
    code = np.arange(240) % 3
    rate = np.full((240, 60), 1.0)
    for k in range(3):
        rate[np.ix_(code == k, range(10 * k, 10 * k + 10))] = 5.0
    train = dataset(random.poisson(rate) + 0, [f"t{k}" for k in code])
    weights = method().fit(train, rng()).markers(train)["weights"]
    assert weights.shape == (3, 60)
    for k in range(3):
        best = np.argsort(-weights[k])[:8]
        assert ((best >= 10 * k) & (best < 10 * k + 10)).all()


@pytest.mark.data
def test_real_cells(shared_data: Any) -> None:
    from sclitmus.data.read import read

    cells = read(shared_data / "kang_ifnb.h5ad", label="cell_type", batch="batch")
    order = np.random.default_rng(0).permutation(cells.n_cells)
    train, test = cells.take(np.sort(order[:700])), cells.take(np.sort(order[700:1500]))
    least = {NearestCentroid: 0.85, KNN: 0.75, MarkerScore: 0.75, PCALogistic: 0.85}
    least |= {LogisticL1: 0.85, LogisticL2: 0.85}
    names = train.role("label").names
    truth = np.array(names_of(test))
    for method, wanted in least.items():
        scores = method().fit(train, rng()).predict_scores(test.without("label"))
        called = np.array(names)[scores.argmax(axis=1)]
        assert (called == truth).mean() > wanted, method
