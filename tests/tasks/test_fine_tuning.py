"""The task about training: one split, tested once; collapsed and failed seeds stay in sight."""

import numpy as np
from annotators import Always, Centroid, cells_of
from asked import asked, row_of, values
from planted import near_and_far

from sclitmus.tasks.fine_tuning import FineTuning


def test_one_split_without_shared_donors() -> None:
    rng = np.random.default_rng(0)
    donor = [f"d{i % 8}" for i in range(200)]
    data = cells_of(list("ab" * 100), rng.poisson(2, (200, 4)) + 1, donor=donor)
    (split,) = FineTuning().splits(data, rng)
    codes = data.role("donor").codes
    assert not set(codes[split.train]) & set(codes[split.test])
    assert len(split.validation) == 0


def test_what_learns_is_not_collapsed() -> None:
    found = values(asked(FineTuning(), Centroid(), near_and_far()))
    assert found["macro_f1", "dataset"] > 0.8
    assert found["collapsed", "dataset"] == 0.0


def test_one_answer_for_all_is_collapsed() -> None:
    label = ["a"] * 30 + ["b"] * 30
    counts = np.ones((60, 2))
    data = cells_of(label, counts, genes=("a", "b"))
    found = values(asked(FineTuning(), Always(), data))
    assert found["collapsed", "dataset"] == 1.0
    assert found["balanced_accuracy", "dataset"] == 0.5


def test_a_seed_that_fails_has_a_note_and_no_value() -> None:
    class Diverges(Centroid):
        def fit(self, train, rng):  # type: ignore[no-untyped-def]
            raise ValueError("loss is NaN at epoch 3")

    rows = asked(FineTuning(), Diverges(), near_and_far())
    row = row_of(rows, "macro_f1")
    assert row.status == "failed"
    assert "loss is NaN" in row.note
    assert {row.metric for row in rows} == set(FineTuning().metrics)
