"""Donors never on both sides, draws nested and paired, every type counted or left out by name."""

import numpy as np
import pytest
from annotators import cells_of
from hypothesis import given, settings
from hypothesis import strategies as st

from sclitmus.core.dataset import Dataset
from sclitmus.core.split import Split
from sclitmus.errors import NotApplicable
from sclitmus.tasks import label_splits as module
from sclitmus.tasks.annotation import Annotation
from sclitmus.tasks.label_splits import held_out_cells, share_of_each, shuffled_by_type
from sclitmus.tasks.novel_types import NovelTypes
from sclitmus.tasks.transfer import Transfer

TASKS = (Annotation(), Annotation(shots=(1, 3), draws=2, fractions=(0.5,), repeats=2), NovelTypes())


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def names_of(data: Dataset, role: str, rows: np.ndarray) -> set[str]:
    column = data.role(role)
    return {column.names[code] for code in column.codes[rows] if code >= 0}


@st.composite
def datasets(draw: st.DrawFn) -> Dataset:
    n = draw(st.integers(2, 60))
    some = st.sampled_from(["1", "2", "10", "", "B"])  # numbers, and cells without a label
    label = draw(st.lists(some, min_size=n, max_size=n))
    if not any(label):
        label[0] = "B"
    roles = {}
    if draw(st.booleans()):
        who = st.sampled_from(["", "d1", "d2", "d3"])
        roles["donor"] = draw(st.lists(who, min_size=n, max_size=n))
    return cells_of(label, **roles)


@given(datasets(), st.floats(0.05, 0.95), st.integers(0, 5))
def test_whatever_the_cells_no_donor_and_no_cell_is_on_both_sides(
    data: Dataset, share: float, seed: int
) -> None:
    train, test = held_out_cells(data, share, rng(seed))
    label = data.role("label").codes
    for rows in (train, test):
        assert (np.diff(rows) > 0).all()
        assert (label[rows] >= 0).all()
    assert not set(train) & set(test)
    known = (
        set() if "donor" not in data.roles else names_of(data, "donor", np.flatnonzero(label >= 0))
    )
    if len(known) > 1:
        assert not names_of(data, "donor", train) & names_of(data, "donor", test)
        donor = data.role("donor").codes
        # Nobody knows whether a cell of unknown donor is of a donor that is tested.
        assert (donor[np.r_[train, test]] >= 0).all()
        assert len(test)
        assert len(train)
    else:
        assert set(train) | set(test) == set(np.flatnonzero(label >= 0))


@given(datasets(), st.floats(0.05, 0.95))
def test_without_donors_each_type_gives_its_share(data: Dataset, share: float) -> None:
    data = data.without("donor")
    _, test = held_out_cells(data, share, rng())
    label = data.role("label").codes
    for code in range(len(data.role("label").names)):
        n, tested = (label == code).sum(), (label[test] == code).sum()
        assert tested >= 1
        if n > 1:
            assert n - tested >= 1
            assert abs(tested - share * n) <= 1


@given(st.lists(st.integers(0, 4), min_size=1, max_size=80), st.floats(0.01, 0.99))
def test_share_of_each_is_within_a_cell_of_the_share(codes: list[int], share: float) -> None:
    kept = share_of_each(np.array(codes), share, rng())
    assert len(set(kept)) == len(kept)
    for code in set(codes):
        n, n_kept = codes.count(code), (np.array(codes)[kept] == code).sum()
        assert 1 <= n_kept <= max(1, n - 1)
        assert abs(n_kept - share * n) <= 1


@settings(max_examples=40)
@given(datasets(), st.sampled_from(TASKS), st.integers(0, 3))
def test_every_split_keeps_the_contract(data: Dataset, task: object, seed: int) -> None:
    try:
        splits = task.splits(data, rng(seed))  # type: ignore[attr-defined]
    except NotApplicable:
        return
    assert [s.key for s in splits] == [s.key for s in task.splits(data, rng(seed))]  # type: ignore[attr-defined]
    assert len({s.name for s in splits}) == len(splits)
    label = data.role("label").codes
    labelled = np.flatnonzero(label >= 0)
    donors = "donor" in data.roles and len(names_of(data, "donor", labelled)) > 1
    for split in splits:
        parts = [split.train, split.validation, split.test]
        assert len(split.test)
        assert all((np.diff(rows) > 0).all() for rows in parts)
        together = np.concatenate(parts)
        assert len(np.unique(together)) == len(together)
        assert (label[together] >= 0).all()
        assert len(names_of(data, "label", split.train)) >= 2
        if donors:
            used = np.r_[split.train, split.validation]
            assert not names_of(data, "donor", used) & names_of(data, "donor", split.test)


@settings(max_examples=30)
@given(datasets(), st.integers(0, 3))
def test_shots_are_k_cells_a_type_and_nested(data: Dataset, seed: int) -> None:
    task = Annotation(shots=(1, 2, 4), draws=3, fractions=())
    try:
        splits = {s.name: s for s in task.splits(data, rng(seed))}
    except NotApplicable:
        return
    label = data.role("label").codes
    everything = splits["all"]
    have = np.bincount(label[everything.train], minlength=len(data.role("label").names))
    for k in (1, 2, 4):
        wanted = set(np.flatnonzero(have >= k))
        for i in (1, 2, 3):
            split = splits.get(f"k{k}-{i:02d}")
            if len(wanted) < 2:
                assert split is None
                continue
            assert split is not None
            codes, n = np.unique(label[split.train], return_counts=True)
            assert set(codes) == wanted
            assert (n == k).all()
            assert set(split.train) <= set(everything.train)
            # Of the cells that all settings test, those whose type takes part.
            assert list(split.test) == [r for r in everything.test if label[r] in wanted]
            fewer = splits.get(f"k{k // 2}-{i:02d}")
            if k > 1 and fewer is not None:
                mine = [r for r in fewer.train if label[r] in wanted]
                assert set(mine) <= set(split.train)


def test_draws_differ_and_do_not_depend_on_the_number_of_shots() -> None:
    data = cells_of(["a", "b"] * 50)
    few = Annotation(shots=(1, 4), draws=5, fractions=()).splits(data, rng())
    same = Annotation(shots=(4, 1), draws=5, fractions=()).splits(data, rng())
    assert {s.name: s.key for s in few} == {s.name: s.key for s in same}
    assert len({s.key for s in few}) == len(few)
    assert len({tuple(s.train) for s in few if s.setting == "k4"}) == 5


def test_two_donors_are_one_for_each_side() -> None:
    data = cells_of(["a", "b"] * 10, donor=["x"] * 10 + ["y"] * 10)
    train, test = held_out_cells(data, 0.3, rng())
    assert (len(train), len(test)) == (10, 10)
    assert len(names_of(data, "donor", train)) == len(names_of(data, "donor", test)) == 1


def test_one_donor_is_divided_by_cells() -> None:
    data = cells_of(["a", "b"] * 10, donor=["x"] * 20)
    train, test = held_out_cells(data, 0.3, rng())
    assert (len(train), len(test)) == (14, 6)


def test_donors_are_held_out_such_that_most_types_are_on_both_sides() -> None:
    # Type c is in donors x and y alone; only with x or y held out, not both, it is on both sides.
    label = ["a", "b", "c"] * 2 + ["a", "b"] * 4
    donor = ["x"] * 3 + ["y"] * 3 + ["u"] * 2 + ["v"] * 2 + ["w"] * 2 + ["z"] * 2
    data = cells_of(label, donor=donor)
    for seed in range(5):
        _, test = held_out_cells(data, 0.3, rng(seed))
        held = names_of(data, "donor", test)
        assert len(held) == 2
        assert len(held & {"x", "y"}) == 1


def test_only_labelled_cells_make_a_donor_known() -> None:
    data = cells_of(["a", "a", "b", "b", "", ""], donor=["x", "x", "x", "x", "y", "y"])
    train, test = held_out_cells(data, 0.5, rng())
    assert set(train) | set(test) == {0, 1, 2, 3}


def test_more_test_cells_than_needed_are_thinned_by_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TEST", 30)
    label = np.array(["a"] * 180 + ["b"] * 20)
    data = cells_of(label, donor=["x"] * 100 + ["y"] * 100)
    train, test = held_out_cells(data, 0.5, rng())
    assert len(train) == 100
    assert len(test) == pytest.approx(30, abs=1)


def test_a_type_with_fewer_cells_than_k_is_left_out_of_that_setting() -> None:
    label = ["a"] * 20 + ["b"] * 20 + ["rare"] * 4
    splits = Annotation(shots=(1, 2, 4), draws=2, fractions=()).splits(cells_of(label), rng())
    data = cells_of(label)
    took_part = {s.setting: names_of(data, "label", s.test) for s in splits}
    # One of the four cells is tested, which leaves three.
    assert took_part == {
        "k1": {"a", "b", "rare"},
        "k2": {"a", "b", "rare"},
        "k4": {"a", "b"},
        "all": {"a", "b", "rare"},
    }


def test_one_cell_per_type_leaves_nothing_to_learn_from() -> None:
    data = cells_of([f"t{i}" for i in range(10)])
    for task in (Annotation(), NovelTypes()):
        with pytest.raises(NotApplicable, match=r"needs (two|three) types"):
            task.splits(data, rng())


def test_five_hundred_types_with_three_cells_each() -> None:
    data = cells_of([f"{i % 500}" for i in range(1500)])
    splits = Annotation(draws=2, repeats=1).splits(data, rng())
    by_setting = {s.setting: s for s in splits}
    # One of three is tested, two are learned from: there is no third for k = 4.
    assert set(by_setting) == {"k1", "k2", "p10", "p25", "p50", "p75", "all"}
    assert len(by_setting["k1"].train) == len(by_setting["k1"].test) == 500
    assert len(by_setting["k2"].train) == 1000


def test_labels_that_are_numbers_keep_their_names() -> None:
    data = cells_of([str(i % 3 + 8) for i in range(30)])  # "10" sorts before "8"
    split = Annotation(shots=(2,), draws=1, fractions=()).splits(data, rng())[0]
    column = data.role("label")
    drawn = [column.names[c] for c in column.codes[split.train]]
    assert sorted(drawn) == ["10", "10", "8", "8", "9", "9"]


def test_shuffled_by_type_is_a_permutation_of_each_type() -> None:
    codes = np.array([2, 0, 2, 0, 0])
    order = shuffled_by_type(codes, rng())
    assert sorted(order.by_type[0]) == [1, 3, 4]
    assert sorted(order.by_type[2]) == [0, 2]
    assert list(order.first(2, np.array([2]))) == list(order.by_type[2][:2])


def test_transfer_holds_out_each_group_and_tests_only_types_that_others_have() -> None:
    label = ["a", "b", "own"] * 4 + ["a", "b"] * 4 + ["", "a"]
    group = ["x"] * 12 + ["y"] * 8 + ["y", ""]
    data = cells_of(label, group=group)
    splits = Transfer().splits(data, rng())
    assert [(s.name, s.held_out) for s in splits] == [
        ("without x", "group:x"),
        ("without y", "group:y"),
    ]
    assert names_of(data, "label", splits[0].test) == {"a", "b"}
    assert names_of(data, "label", splits[1].train) == {"a", "b", "own"}
    for split in splits:
        assert not {20, 21} & {*split.train, *split.test}
        assert not names_of(data, "group", split.train) & names_of(data, "group", split.test)


@pytest.mark.parametrize(
    ("label", "group", "words"),
    [
        (["a", "b"] * 3, ["x"] * 6, "needs two of them"),
        (["a", "b"] * 3, ["x", "y"] * 3, "no group has a type"),
        (["a"] * 6, ["x", "y"] * 3, "no group has a type"),
    ],
)
def test_transfer_without_groups_to_speak_of_does_not_apply(
    label: list[str], group: list[str], words: str
) -> None:
    with pytest.raises(NotApplicable, match=words):
        Transfer().splits(cells_of(label, group=group), rng())


def test_novel_types_never_learn_the_type_nor_set_a_threshold_on_it() -> None:
    lineage = {"t1": "T", "t2": "T", "b": "B", "m": "M"}
    label = [name for name in lineage for _ in range(20)]
    data = cells_of(label, lineage=[lineage[name] for name in label])
    splits = NovelTypes().splits(data, rng())
    assert [s.held_out for s in splits] == ["type:b", "type:m", "type:t1", "type:t2", "lineage:T"]
    for split in splits:
        kind, _, name = split.held_out.partition(":")
        novel = {name} if kind == "type" else {"t1", "t2"}
        assert names_of(data, "label", split.train) == set(lineage) - novel
        assert names_of(data, "label", split.validation) == set(lineage) - novel
        assert names_of(data, "label", split.test) == set(lineage)


def test_novel_types_holds_out_at_most_so_many_and_no_tiny_type() -> None:
    label = [f"t{i}" for i in range(6) for _ in range(20)] + ["tiny"] * 8
    splits = NovelTypes(most=3).splits(cells_of(label), rng())
    assert len(splits) == 3
    # Two of eight cells are tested: too few to say whether the type is recognised.
    assert "type:tiny" not in {s.held_out for s in NovelTypes().splits(cells_of(label), rng())}


def test_rows_parts_and_meaning_are_all_in_the_key_of_a_split() -> None:
    rows = np.arange(4)
    split = Split("s", rows[:1], rows[1:2], validation=rows[2:3], setting="k1", held_out="group:x")
    others = [
        Split("s", rows[1:2], rows[:1], validation=rows[2:3], setting="k1", held_out="group:x"),
        Split("s", rows[:1], rows[1:3], setting="k1", held_out="group:x"),
        Split("s", rows[:1], rows[1:2], validation=rows[2:3], setting="k2", held_out="group:x"),
        Split("s", rows[:1], rows[1:2], validation=rows[2:3], setting="k1", held_out="group:y"),
        Split("s", rows[:1], rows[1:2], validation=rows[2:3], setting="group:x", held_out="k1"),
    ]
    assert len({one.key for one in (split, *others)}) == 6
