"""Gene scores of a method, on cells whose markers were planted."""

from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import pytest
from annotators import Centroid, cells_of
from asked import asked, row_of, stream, values

from sclitmus.core.dataset import Dataset
from sclitmus.core.record import Score
from sclitmus.tasks.marker_metrics import METRICS, average_precision, more_than_chance, overlap
from sclitmus.tasks.markers import Markers, markers_of

N_GENES, N_PLANTED = 300, 20


def planted(n_each: int = 50, seed: int = 0) -> Dataset:
    """Make three types, each with `N_PLANTED` genes of its own."""
    rng = np.random.default_rng(seed)
    means = np.ones((3, N_GENES))
    for code in range(3):
        means[code, N_PLANTED * code : N_PLANTED * (code + 1)] = 6
    label = [name for name in "abc" for _ in range(n_each)]
    counts = rng.poisson(means[np.repeat(np.arange(3), n_each)])
    counts[:, -1] += 1
    return cells_of(label, counts)


@dataclass(frozen=True)
class Scored(Centroid):
    """Names cells by their planted genes and scores genes rightly, or by chance."""

    honest: bool = True
    kind: str = "weights"
    found: np.ndarray | None = field(default=None)

    def fit(self, train: Dataset, rng: np.random.Generator) -> Self:
        fitted = super().fit(train, rng)
        means = fitted.means
        assert means is not None
        scores = means - (means.sum(axis=0) - means) / 2
        if not self.honest:
            scores = np.random.default_rng(3).random(scores.shape)
        return replace(fitted, found=scores)

    def markers(self, cells: Dataset) -> dict[str, Any]:
        return {self.kind: self.found}


@pytest.fixture(scope="module")
def honest() -> list[Score]:
    return asked(Markers(), Scored(), planted())


def test_overlap_is_of_as_many_as_can_be() -> None:
    scores = np.array([5.0, 4.0, 3.0, 2.0, 1.0])
    assert overlap(scores, np.array([0, 1, 4]), k=2) == 1.0
    assert overlap(scores, np.array([0, 4]), k=3) == 0.5


def test_average_precision_of_two_markers() -> None:
    # Found at places 1 and 4: precision 1 and 1/2, each half of the recall.
    assert average_precision(np.array([4.0, 3.0, 2.0, 1.0]), np.array([0, 3])) == 0.75


def test_deletion_is_held_against_deletion_of_others() -> None:
    assert more_than_chance(np.array([0.5, 0.3]), np.array([0.1, 0.1])) == pytest.approx(0.3)


def test_planted_markers_are_the_true_ones() -> None:
    data = planted()
    true = markers_of(data, np.arange(data.n_cells))
    for code in range(3):
        planted_ones = set(range(N_PLANTED * code, N_PLANTED * (code + 1)))
        found = set(true[code].tolist())
        assert planted_ones <= found
        assert len(found - planted_ones) <= 3  # of 280 others, at a false discovery rate of 5%


def test_a_method_that_uses_its_markers_is_faithful(honest: list[Score]) -> None:
    found = values(honest)
    assert found["overlap.weights", "dataset"] > 0.95
    assert found["aupr.weights", "dataset"] > 0.95
    assert found["faithfulness.weights", "dataset"] > 0.3
    assert found["overlap.best", "dataset"] == found["overlap.weights", "dataset"]


def test_references_stand_beside_it(honest: list[Score]) -> None:
    found = values(honest)
    assert found["overlap.random", "dataset"] < 0.25
    # A type's own genes are also its most expressed ones here.
    assert found["overlap.expression", "dataset"] > 0.9


def test_scores_by_chance_are_neither_right_nor_faithful() -> None:
    found = values(asked(Markers(), Scored(honest=False), planted()))
    assert found["overlap.weights", "dataset"] < 0.25
    assert abs(found["faithfulness.weights", "dataset"]) < 0.1


def test_kinds_that_a_method_lacks_say_so(honest: list[Score]) -> None:
    row = row_of(honest, "overlap.attention")
    assert (row.status, row.value) == ("not_applicable", None)
    assert "no such scores" in row.note
    assert {row.metric for row in honest} == set(METRICS)


def test_faithfulness_has_replicates() -> None:
    data, task = planted(), Markers()
    splits = task.splits(data, np.random.default_rng(0))
    named = {one.name for one in task.replicates(data, splits, stream())}
    rows = asked(task, Scored(), data)
    of = {row.split for row in rows if row.metric == "faithfulness.weights"}
    assert named
    assert of == named | {"all"}


def test_methods_without_scores_of_genes_do_not_apply() -> None:
    rows = asked(Markers(), Centroid(), planted())
    assert {row.status for row in rows} == {"not_applicable"}
    assert all("no scores of genes" in row.note for row in rows)
    rows = asked(Markers(), planted().counts.toarray().astype(np.float32), planted())
    assert all("says nothing of genes" in row.note for row in rows)
