"""Embeddings brought along."""

from dataclasses import replace

import numpy as np
import pytest

from sclitmus.baselines.supplied import Supplied
from sclitmus.core.rng import rng_for
from sclitmus.data.simulate import simulate
from sclitmus.errors import NotApplicable


def test_hands_on_the_rows_of_the_cells() -> None:
    z = np.arange(20, dtype=np.float32).reshape(10, 2)
    cells = replace(simulate(n_cells=10), embeddings={"mine": z})
    fitted = Supplied("mine").fit(cells, rng_for(0, "a"))
    np.testing.assert_array_equal(fitted.embed(cells), z)
    np.testing.assert_array_equal(fitted.embed(cells.take(np.array([4, 1]))), z[[4, 1]])
    fitted.embed(cells)[:] = -1
    assert z[0, 1] == 1


def test_absence_names_what_is_there() -> None:
    z = np.zeros((10, 2), dtype=np.float32)
    cells = replace(simulate(n_cells=10), embeddings={"mine": z, "other": z})
    with pytest.raises(NotApplicable, match="no embedding named 'mien'; it has: mine, other"):
        Supplied("mien").fit(cells, rng_for(0, "a"))


def test_the_card_bears_its_name() -> None:
    card = Supplied("mine").card
    assert (card.id, card.kind, card.part) == ("mine", "supplied", "contender")
    assert card.params["name"] == "mine"
