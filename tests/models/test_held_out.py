"""Which cells are held out: shares, whole units, and where there is no room."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from sclitmus.core.dataset import Categories, Dataset, Genes
from sclitmus.models.held_out import HeldOut, held_out

Names = Sequence[str | None]


def cells_of(label: Names, **roles: Names) -> Dataset:
    n = len(label)
    given = {"label": label, **roles}
    columns = {name: Categories.of(list(values)) for name, values in given.items()}
    counts = sparse.csr_matrix(np.ones((n, 1), dtype=np.float32))
    return Dataset("d", counts, Genes(("A",), ("",), "human"), tuple(map(str, range(n))), columns)


def divided(cells: Dataset, seed: int = 0, share: float = 0.1) -> HeldOut:
    division = held_out(cells, np.random.default_rng(seed), share)
    both = np.concatenate([division.learned, division.held])
    assert np.array_equal(np.sort(both), np.arange(cells.n_cells))
    return division


def test_every_class_gives_its_share_and_at_least_one() -> None:
    label = ["A"] * 100 + ["B"] * 36 + ["C"] * 5
    division = divided(cells_of(label))
    names, counts = np.unique(np.array(label)[division.held], return_counts=True)
    assert dict(zip(names.tolist(), counts.tolist(), strict=True)) == {"A": 10, "B": 4, "C": 1}
    assert division.said == "15 cells held out at random"
    other = divided(cells_of(label), seed=1)
    assert not np.array_equal(other.held, division.held)


def test_few_cells_of_a_class_leave_no_room() -> None:
    division = divided(cells_of(["A"] * 100 + ["B"] * 4))
    assert len(division.held) == 0
    assert division.said == "no cells held out (the rarest type has 4, needed 5)"
    assert len(divided(cells_of(["A"] * 100 + ["B"] * 5), share=0.0).held) == 0


@pytest.mark.parametrize("role", ["donor", "group"])
def test_whole_units_are_held_out(role: str) -> None:
    label = ["A", "B"] * 60
    units = [f"d{i // 2 % 6}" for i in range(120)]  # both types in each
    division = divided(cells_of(label, **{role: units}))
    held, learned = (set(np.array(units)[rows]) for rows in (division.held, division.learned))
    assert len(held) == 1
    assert not held & learned
    assert division.said == f"20 cells held out, 1 of 6 {role}s"


def test_units_that_cannot_be_spared_are_not_taken() -> None:
    label = ["A", "B"] * 60
    alone: list[str | None] = [f"d{i % 2}" for i in range(120)]  # a type each …
    alone[118:] = ["d2", "d2"]  # … and one that is too small
    said = divided(cells_of(label, donor=alone)).said
    assert said == "12 cells held out at random: no whole donors can be spared"


def test_groups_go_before_donors_and_two_are_too_few() -> None:
    label = ["A", "B"] * 60
    donors: list[str | None] = [f"d{i // 2 % 6}" for i in range(120)]
    groups: list[str | None] = [f"g{i // 2 % 3}" for i in range(120)]
    assert "1 of 3 groups" in divided(cells_of(label, donor=donors, group=groups)).said
    two: list[str | None] = [f"g{i // 2 % 2}" for i in range(120)]
    assert "1 of 6 donors" in divided(cells_of(label, donor=donors, group=two)).said


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-1, 5)), min_size=1, max_size=80))
def test_no_class_is_ever_lost(cells: list[tuple[int, int]]) -> None:
    label = [f"t{t}" for t, _ in cells]
    donor = [None if d < 0 else f"d{d}" for _, d in cells]
    division = divided(cells_of(label, donor=donor))
    assert set(np.array(label)[division.learned]) == set(label)
    assert len(division.held) <= max(len(cells) // 2, len(set(label)))
