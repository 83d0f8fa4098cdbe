"""Labels from few cells: scores by hand, absences with their reasons, and what draws add."""

from dataclasses import asdict
from typing import Any

import numpy as np
import polars as pl
import pytest
from annotators import Always, Centroid, Faulty, Listens, Reads, cells_of
from asked import answers_of, asked, row_of, said, stream, values

from sclitmus.core.record import Absent
from sclitmus.core.split import Split
from sclitmus.errors import TaskError
from sclitmus.stats.replicates import replicates
from sclitmus.tasks.annotation import Annotation

A, B, C = 0, 1, 2
TINY = Annotation(shots=(1, 2), draws=2, fractions=(0.5,), repeats=2)
TRUTH = [A, A, A, B, B, C]


def planted(n: int = 60, **roles: Any) -> Any:
    """Three types, of which gene a, b or c tells; type c has a sixth of the cells."""
    label = ["a", "b", "a", "b", "a", "c"] * (n // 6)
    counts = np.array([[9 * (name == gene) + 1 for gene in "abc"] for name in label])
    return cells_of(label, counts, ("a", "b", "c"), **roles)


def by_hand(*calls: list[int], setting: str = "k1") -> tuple[Any, list[Split], list[Any]]:
    """Return six tested cells, and a split per list of calls."""
    label = ["a", "b", "c", "a", "b", "c", *(["a"] * 3 + ["b"] * 2 + ["c"])]
    data = cells_of(label)
    test, train = np.arange(6, 12), np.arange(6)
    splits = [
        Split(f"{setting}-{i + 1:02d}", test, train, setting=setting) for i in range(len(calls))
    ]
    return data, splits, [said([A, B, C], call) for call in calls]


def test_scores_are_those_by_hand() -> None:
    # One a is called b: TP of a 2 of 3, of b 2 with 1 false. F1: a 4/5, b 4/5, c 1.
    data, splits, answers = by_hand([A, A, B, B, B, C], TRUTH)
    rows = Annotation(shots=(1,), draws=2, fractions=()).score(data, splits, answers, stream())
    got = values(rows)
    assert got["accuracy.k1", "dataset"] == pytest.approx((5 / 6 + 1) / 2)
    assert got["balanced_accuracy.k1", "dataset"] == pytest.approx((8 / 9 + 1) / 2)
    assert got["macro_f1.k1", "dataset"] == pytest.approx((2.6 / 3 + 1) / 2)
    assert got["recall.k1", "type:a"] == pytest.approx((2 / 3 + 1) / 2)
    assert got["recall.k1", "type:c"] == 1
    first, second = values(rows, "draw-1-of-2"), values(rows, "draw-2-of-2")
    assert first["macro_f1.k1", "dataset"] == pytest.approx(2.6 / 3)
    assert second["macro_f1.k1", "dataset"] == 1
    assert first["macro_f1.few", "dataset"] == pytest.approx(2.6 / 3)
    assert got["macro_f1.few", "dataset"] == got["macro_f1.k1", "dataset"]
    assert row_of(rows, "macro_f1.all").status == "not_applicable"


def test_few_is_the_mean_over_the_shots_draw_by_draw() -> None:
    data, first, answers = by_hand([A, A, B, B, B, C], TRUTH)
    _, second, others = by_hand(TRUTH, [B, B, B, B, B, C], setting="k2")
    task = Annotation(shots=(1, 2), draws=2, fractions=())
    rows = task.score(data, [*first, *second], [*answers, *others], stream())
    # All a called b: F1 of a 0, of b 4/7 (2 right, 3 false), of c 1.
    worst = (0 + 4 / 7 + 1) / 3
    assert values(rows, "draw-1-of-2")["macro_f1.few", "dataset"] == pytest.approx(
        (2.6 / 3 + 1) / 2
    )
    assert values(rows, "draw-2-of-2")["macro_f1.few", "dataset"] == pytest.approx((1 + worst) / 2)
    expected = (2.6 / 3 + 1 + 1 + worst) / 4
    assert values(rows)["macro_f1.few", "dataset"] == pytest.approx(expected)


def test_confusion_says_what_each_type_was_taken_for() -> None:
    data, splits, answers = by_hand([A, A, B, B, B, C], setting="all")
    rows = Annotation(shots=(), fractions=()).score(data, splits, answers, stream())
    shares = {unit: v for (metric, unit), v in values(rows).items() if metric == "confusion"}
    assert shares == {
        "pair:a → a": pytest.approx(2 / 3),
        "pair:a → b": pytest.approx(1 / 3),
        "pair:b → b": 1,
        "pair:c → c": 1,
    }


def test_a_method_that_always_calls_one_type() -> None:
    rows = asked(TINY, Always(), planted())
    got = values(rows)
    for name in ("k1", "k2", "p50", "all"):
        assert got[f"balanced_accuracy.{name}", "dataset"] == pytest.approx(1 / 3)
        assert got[f"recall.{name}", "type:a"] == 1
        assert got[f"recall.{name}", "type:b"] == 0
        # F1 of a is 2n / (2n + others), half of the cells being a; the others have none.
        assert got[f"macro_f1.{name}", "dataset"] == pytest.approx(2 / 3 / 3)
        assert got[f"accuracy.{name}", "dataset"] == pytest.approx(0.5)


def test_replicates_that_are_named_are_those_that_are_scored() -> None:
    data = planted()
    splits = TINY.splits(data, np.random.default_rng(0))
    named = TINY.replicates(data, splits, stream())
    rows = TINY.score(data, splits, answers_of(TINY, Reads(), data, splits), stream())
    assert [r.name for r in named] == [
        *(f"half-{i:02d}" for i in range(20)),
        *("draw-1-of-2", "draw-2-of-2"),
    ]
    assert {r.split for r in rows} - {"all"} == {r.name for r in named}
    assert {(r.source, r.weight) for r in named if r.source == "draws"} == {("draws", 0.5)}
    tested = len(next(s for s in splits if s.setting == "all").test)
    assert {r.n_units for r in named if r.source == "units"} == {tested}
    have = {r.split for r in rows if r.metric == "macro_f1.all"}
    assert not any(name.startswith("draw") for name in have), "all cells are not drawn"
    assert {r.split for r in rows if r.metric == "macro_f1.k1"} == {"all", *(r.name for r in named)}


def test_other_numbers_of_draws_have_replicates_of_their_own() -> None:
    task = Annotation(shots=(1,), draws=3, fractions=(0.5,), repeats=2)
    data = planted()
    splits = task.splits(data, np.random.default_rng(0))
    named = {r.name: r.weight for r in task.replicates(data, splits, stream())}
    assert named["draw-3-of-3"] == pytest.approx(1 / 3)
    assert named["draw-2-of-2"] == pytest.approx(1 / 2)
    rows = task.score(data, splits, answers_of(task, Reads(), data, splits), stream())
    of = {m: {r.split for r in rows if r.metric == m} for m in ("macro_f1.k1", "macro_f1.p50")}
    assert "draw-3-of-3" in of["macro_f1.k1"]
    assert "draw-2-of-2" not in of["macro_f1.k1"]
    assert "draw-2-of-2" in of["macro_f1.p50"]


def test_the_error_of_a_score_holds_the_draws_and_the_tested_cells() -> None:
    # 400 cells; in draw i the first n_i are called wrong, so each draw's accuracy is known.
    n, wrong = 400, [40, 80, 120, 160]
    label = ["a", "b"] * (n // 2)
    data = cells_of([*label, "a", "b"])
    truth = data.role("label").codes[:n]
    test, train = np.arange(n), np.array([n, n + 1])
    splits, answers = [], []
    for i, m in enumerate(wrong):
        calls = truth.copy()
        calls[:m] = 1 - calls[:m]
        splits.append(Split(f"k4-{i + 1:02d}", test, train, setting="k4"))
        answers.append(said([A, B], list(calls)))
    task = Annotation(shots=(4,), draws=4, fractions=())
    named = task.replicates(data, splits, stream())
    rows = task.score(data, splits, answers, stream())
    about = {"dataset": "d", "task": "annotation"}
    records = pl.DataFrame(
        [about | {"method": "m", "seed": 0} | asdict(r) for r in rows if r.value]
    )
    weights = pl.DataFrame(
        [
            about | {"split": r.name, "weight": r.weight, "source": r.source, "n_units": r.n_units}
            for r in named
        ]
    )
    summary = replicates(records, weights).summary
    got = summary.filter(metric="accuracy.k4", unit="dataset").row(0, named=True)
    accuracy = 1 - np.array(wrong) / n
    assert got["value"] == pytest.approx(accuracy.mean())
    of_draws = accuracy.var(ddof=1) / 4
    # The share of draws in which a cell is right has a variance of its own over the cells.
    right = np.mean([answers[i]["test"].argmax(axis=1) == truth for i in range(4)], axis=0)
    of_cells = right.var(ddof=1) / n
    assert of_cells > 0.03 * of_draws  # or the test could not see it
    got_cells = got["sampling_sd"] ** 2 - of_draws
    assert got_cells == pytest.approx(of_cells, rel=0.6)  # 19 degrees of freedom
    assert got_cells > 0


def test_a_failed_split_fails_its_setting_and_no_other() -> None:
    # k = 1 learns from 3 cells, k = 2 from 6, half and all from more.
    rows = asked(TINY, Faulty(below=4), planted())
    failed = row_of(rows, "macro_f1.k1")
    assert (failed.status, failed.value) == ("failed", None)
    assert failed.note == "2 of 2 splits: RuntimeError: the solver did not converge"
    assert row_of(rows, "macro_f1.k2").value == 1
    few = row_of(rows, "macro_f1.few")
    assert few.status == "failed", "a mean that leaves the failure out would flatter"
    assert "did not converge" in few.note
    assert not [r for r in rows if r.metric == "macro_f1.k1" and r.split != "all"]


def test_what_does_not_apply_to_a_split_is_left_out_of_the_mean_and_named() -> None:
    rows = asked(TINY, Faulty(kind="refuse", below=4), planted())
    assert row_of(rows, "macro_f1.k1").status == "not_applicable"
    few = row_of(rows, "macro_f1.few")
    assert (few.value, few.note) == (1, "without macro_f1.k1")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("nan", "NaN or infinite values for 1 of"),
        ("inf", "NaN or infinite values for 1 of"),
        ("short", "array of shape (17, 3)"),
        ("one column less", "array of shape (18, 2)"),
        ("text", "type <U"),
    ],
)
def test_answers_that_are_no_logits_fail_with_the_reason(kind: str, words: str) -> None:
    rows = asked(TINY, Faulty(kind=kind), planted())
    for metric in TINY.metrics:
        row = row_of(rows, metric)
        assert row.status == "failed"
        assert words in row.note


def test_no_label_is_seen_at_prediction() -> None:
    rows = asked(TINY, Faulty(kind="peek"), planted())
    assert {r.status for r in rows} == {"not_applicable"}
    assert "no label column" in row_of(rows, "macro_f1.all").note


def test_what_stands_for_the_label_is_hidden_with_it() -> None:
    data = planted(lineage=["x", "y", "x", "y", "x", "z"] * 10)
    rows = asked(TINY, Faulty(kind="lineage"), data)
    assert "no lineage column" in row_of(rows, "macro_f1.all").note


def test_it_learns_from_the_cells_of_the_split_with_their_roles() -> None:
    data = planted(donor=["x"] * 30 + ["y"] * 30, batch=["1"] * 60)
    split = TINY.splits(data, np.random.default_rng(0))[0]
    _, remarks = TINY.answer(Listens(), data, split, stream())
    assert remarks == ("3 cells of a,b,c; roles batch,donor,label",)


def test_types_with_too_few_cells_are_left_out_by_name() -> None:
    label = ["a", "b"] * 20 + ["rare"] * 2 + ["rarer"] * 2
    counts = np.ones((44, 4))
    data = cells_of(label, counts, ("a", "b", "rare", "rarer"))
    rows = asked(TINY, Reads(), data)
    note = row_of(rows, "macro_f1.k2").note
    assert note == ("2 types lack cells to learn from or to test and cannot take part: rare, rarer")
    assert row_of(rows, "macro_f1.k1").note == ""
    assert ("recall.k2", "type:rare") not in values(rows)
    assert ("recall.k1", "type:rare") in values(rows)


def test_types_that_no_setting_can_learn_are_named_too() -> None:
    # "lone" has one cell, which is tested; nothing is learned about it, in any setting.
    label = ["a", "b"] * 20 + ["lone"]
    data = cells_of(label, np.ones((41, 3)), ("a", "b", "lone"))
    rows = asked(TINY, Reads(), data)
    assert "lone" in row_of(rows, "macro_f1.all").note


def test_settings_that_nobody_can_answer_are_absent_with_the_reason() -> None:
    task = Annotation(shots=(1, 16), draws=2, fractions=())
    rows = asked(task, Reads(), planted(24))
    row = row_of(rows, "macro_f1.k16")
    assert row.status == "not_applicable"
    assert row.note == "fewer than two types have that many training cells"
    few = row_of(rows, "macro_f1.few")
    assert few.note.startswith("without macro_f1.k16")


def test_tied_scores_are_the_first_class_and_move_nothing() -> None:
    data = planted()
    flat = cells_of([data.role("label").names[c] for c in data.role("label").codes],
                    np.ones((60, 3)), ("a", "b", "c"))  # fmt: skip
    got = values(asked(TINY, Reads(), flat))
    assert got["recall.all", "type:a"] == 1
    assert got["recall.all", "type:b"] == 0


def test_unlabelled_cells_and_cells_of_unknown_donor_are_neither_learned_nor_tested() -> None:
    label = ["a", "b", ""] * 20
    donor = (["x", "x", "x", "y", "y", "y", "", "", "", "z", "z", "z"] * 5)[:60]
    data = cells_of(label, donor=donor)
    for split in TINY.splits(data, np.random.default_rng(0)):
        used = np.r_[split.train, split.test]
        assert (data.role("label").codes[used] >= 0).all()
        assert (data.role("donor").codes[used] >= 0).all()


def test_more_cells_do_not_hurt_a_centroid() -> None:
    rng = np.random.default_rng(0)
    label = ["a", "b", "c"] * 60
    centre = {name: rng.normal(size=20) for name in "abc"}
    counts = rng.poisson([np.exp(1 + 0.5 * centre[name]) for name in label]) + 1
    got = values(asked(Annotation(draws=5, repeats=2), Centroid(), cells_of(label, counts)))
    k1, k16, every = (got[f"macro_f1.{s}", "dataset"] for s in ("k1", "k16", "all"))
    assert k1 is not None
    assert k16 is not None
    assert every is not None
    assert k1 < k16 - 0.02
    assert k16 < every + 0.02


@pytest.mark.parametrize(
    "given",
    [
        {"shots": (0, 1)},
        {"shots": (1, 1)},
        {"shots": (1.5,)},
        {"draws": 0},
        {"draws": 2.5},
        {"repeats": 0},
        {"fractions": (1.0,)},
        {"fractions": (0.1, 0.1)},
        {"fractions": (0.0,)},
        {"test_share": 1.0},
    ],
)
def test_settings_that_make_no_sense_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(TaskError, match="annotation with"):
        Annotation(**given)


def test_lists_of_a_study_file_are_as_good_as_tuples() -> None:
    given: dict[str, Any] = {"shots": [1, 2], "fractions": [0.5]}
    assert Annotation(**given) == Annotation(shots=(1, 2), fractions=(0.5,))


def test_without_shots_the_headline_is_all_cells() -> None:
    task = Annotation(shots=(), fractions=(0.025,))
    assert task.card.headline == "macro_f1.all"
    assert task.card.beside == ("macro_f1.p2.5", "macro_f1.all")
    rows = asked(task, Reads(), planted())
    assert row_of(rows, "macro_f1.all").value == 1
    assert row_of(rows, "macro_f1.p2.5").value == 1
    assert {r.metric for r in rows} == set(task.metrics)


def test_an_answer_that_is_absent_everywhere_is_absent_everywhere() -> None:
    data = planted()
    splits = TINY.splits(data, np.random.default_rng(0))
    lost = [Absent("failed", "killed")] * len(splits)
    rows = TINY.score(data, splits, lost, stream())
    assert {r.metric for r in rows} == set(TINY.metrics)
    assert {r.status for r in rows} == {"failed"}
