"""Folds hold whole groups out; the choice is by cells, ties go to the stronger penalty."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sclitmus.learning.tuning import Choice, choose, folds

GRID = (0.1, 1.0, 10.0)


@given(
    st.lists(st.integers(0, 3), min_size=5, max_size=60),
    st.booleans(),
    st.integers(0, 2**16),
)
def test_folds_hold_every_cell_out_once(codes: list[int], grouped: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    y = np.unique(codes, return_inverse=True)[1]
    groups = rng.integers(-1, 4, len(y)) if grouped else None
    parts = folds(y, groups, rng)
    held = np.concatenate([held for _, held in parts])
    np.testing.assert_array_equal(np.sort(held), np.arange(len(y)))
    for fit, out in parts:
        assert not np.intersect1d(fit, out).size
        assert len(fit) + len(out) == len(y)
        if groups is not None and len(np.unique(groups)) > 1:
            assert not np.intersect1d(groups[fit], groups[out]).size


def test_folds_have_a_like_share_of_every_class() -> None:
    y = np.repeat([0, 1, 2], [50, 25, 5])
    for _, held in folds(y, None, np.random.default_rng(0)):
        np.testing.assert_array_equal(np.bincount(y[held]), [10, 5, 1])


def test_one_group_is_as_none() -> None:
    y = np.repeat([0, 1], 20)
    parts = folds(y, np.full(40, 3), np.random.default_rng(0))
    assert [len(held) for _, held in parts] == [8] * 5


def test_groups_are_dealt_so_that_classes_are_even() -> None:
    # Ten donors of eight cells; the last two donors have all cells of the rare class.
    groups = np.repeat(np.arange(10), 8)
    y = np.where((groups >= 8) & (np.arange(80) % 2 == 0), 1, 0)
    parts = folds(y, groups, np.random.default_rng(0))
    assert [len(held) for _, held in parts] == [16] * 5
    assert sorted(int(y[held].sum()) for _, held in parts) == [0, 0, 0, 4, 4]


def test_two_groups_are_two_folds() -> None:
    groups = np.arange(40) % 2
    parts = folds(np.repeat([0, 1], 20), groups, np.random.default_rng(0))
    assert sorted(int(groups[held][0]) for _, held in parts) == [0, 1]


def chosen(table: list[list[float]], sizes: list[int]) -> Choice:
    """Choose from the accuracies of each group, which is a fold."""
    groups = np.repeat(np.arange(len(sizes)), sizes)
    y = np.arange(len(groups)) % 2
    return choose(
        y,
        groups,
        np.random.default_rng(0),
        GRID,
        lambda fold: np.array(table[int(groups[fold[1]][0])]),
    )


def test_every_cell_counts_once() -> None:
    choice = chosen([[1.0, 0.0, 0.0], [0.2, 0.6, 0.2]], [10, 40])
    assert choice.value == 1.0
    np.testing.assert_allclose(choice.scores, [18 / 50, 24 / 50, 8 / 50])


def test_the_stronger_penalty_wins_a_tie_even_one_that_rounding_hides() -> None:
    assert chosen([[0.1, 0.7, 0.2], [0.7, 0.1, 0.6]], [10, 10]).value == 0.1
    third = 1 / 3
    assert chosen([[third, third, 0.0], [third, third + 1e-16, 0.0]], [9, 9]).value == 0.1


@pytest.mark.parametrize(
    ("accuracies", "value", "on_edge"),
    [
        ([0.9, 0.5, 0.4], 0.1, True),
        ([0.4, 0.9, 0.5], 1.0, False),
        ([0.4, 0.5, 0.9], 10.0, True),
        ([0.9, 0.9, 0.4], 0.1, False),  # a plateau: a wider grid would change nothing
        ([0.4, 0.9, 0.9], 1.0, False),
    ],
)
def test_edge_of_the_grid(accuracies: list[float], value: float, on_edge: bool) -> None:
    choice = chosen([accuracies, accuracies], [10, 10])
    assert (choice.value, choice.on_edge) == (value, on_edge)
    expected = (f"C = {value:g} is the edge of the grid 0.1 … 10",) if on_edge else ()
    assert choice.remark(GRID) == expected


@pytest.mark.parametrize("per_class", [1, 2, 4])
def test_few_cells_are_not_tuned(per_class: int) -> None:
    def never(fold: object) -> np.ndarray:
        raise AssertionError("asked to fit")

    y = np.repeat(np.arange(5), per_class)
    assert choose(y, None, np.random.default_rng(0), GRID, never, 1.0) == Choice(1.0)


def test_a_rare_class_does_not_stop_tuning() -> None:
    y = np.repeat([0, 1, 2], [40, 40, 1])
    choice = choose(y, None, np.random.default_rng(0), GRID, lambda fold: np.array([0.0, 1, 0]))
    assert choice == Choice(1.0, (0.0, 1.0, 0.0))


def test_folds_on_threads_are_the_same() -> None:
    y = np.arange(60) % 3

    def accuracies(fold: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        return np.array([fold[1][0] % 2, 0.5, fold[1][-1] % 3 / 3])

    one, two = (
        choose(y, None, np.random.default_rng(0), GRID, accuracies, threads=threads)
        for threads in (1, 2)
    )
    assert one == two
