"""scVI: seeded, silent, and alive on small data. Two epochs: nothing here is about quality."""

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from sclitmus.baselines.scvi import MINIBATCH, ScVI, _division
from sclitmus.core.dataset import Categories
from sclitmus.core.rng import rng_for
from sclitmus.data.simulate import simulate
from sclitmus.errors import NotApplicable

QUICK = ScVI(max_epochs=2, accelerator="cpu")


def test_same_seed_same_embedding_and_the_global_generators_are_left_alone() -> None:
    import torch

    cells = simulate(n_cells=80, n_genes=60)
    z = QUICK.fit(cells, rng_for(0, "a")).embed(cells)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 - the global state is what is tested
    before = torch.get_rng_state(), np.random.random()  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    again = QUICK.fit(cells, rng_for(0, "a")).embed(cells)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.random() == before[1]  # noqa: NPY002
    np.testing.assert_array_equal(again, z)
    assert z.shape == (80, 30)
    assert z.dtype == np.float32
    other = QUICK.fit(cells, rng_for(1, "a")).embed(cells)
    assert not np.allclose(other, z)


def test_silent_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    cells = simulate(n_cells=40, n_genes=30)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        QUICK.fit(cells, rng_for(0, "a")).embed(cells)
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("n_cells", [2, 3, 12])
def test_few_cells(n_cells: int) -> None:
    cells = simulate(n_cells=n_cells, n_genes=40)
    z = QUICK.fit(cells, rng_for(0, "a")).embed(cells)
    assert z.shape == (n_cells, 30)
    assert np.isfinite(z).all()


def test_one_cell_is_not_applicable() -> None:
    with pytest.raises(NotApplicable, match="at least 2 cells"):
        QUICK.fit(simulate(n_cells=1, n_genes=20), rng_for(0, "a"))


@pytest.mark.parametrize("n_cells", [2, 3, 128, 142, 143, 144, 285, 1000])
def test_no_minibatch_is_too_small_for_batch_normalisation(n_cells: int) -> None:
    learned_on, held_out = _division(n_cells, rng_for(0, "a"))
    assert sorted([*learned_on, *held_out]) == list(range(n_cells))
    last = len(learned_on) % MINIBATCH
    assert last == 0 or last >= 3 or len(learned_on) == n_cells == 2
    assert len(learned_on) >= 0.88 * n_cells


def test_a_last_minibatch_of_one_cell() -> None:
    # 143 cells: 90% rounded up is 129, one more than a minibatch.
    cells = simulate(n_cells=143, n_genes=20)
    assert np.isfinite(QUICK.fit(cells, rng_for(0, "a")).embed(cells)).all()


def test_a_cell_without_counts_among_the_frequent_genes_does_not_spoil_the_others() -> None:
    cells = simulate(n_cells=60, n_genes=20)
    counts = sparse.lil_matrix(cells.counts)
    counts[7, :] = 0
    rare = sparse.lil_matrix((60, 1), dtype=np.float32)
    rare[7, 0] = 3
    genes = replace(cells.genes, symbol=(*cells.genes.symbol, "RARE"), ensembl=("",) * 21)
    odd = replace(cells, store=sparse.csr_matrix(sparse.hstack([counts, rare])), genes=genes)
    z = QUICK.fit(odd, rng_for(0, "a")).embed(odd)
    assert z.shape == (60, 30)
    assert np.isfinite(z).all()


def test_batches_one_none_or_partly_unknown() -> None:
    cells = simulate(n_cells=40, n_genes=30)
    partly = Categories.of(["a"] * 15 + ["b"] * 15 + [None] * 10)
    for roles in ({}, {"batch": Categories.of(["a"] * 40)}, {"batch": partly}):
        there = replace(cells, roles=roles)
        assert QUICK.fit(there, rng_for(0, "a")).embed(there).shape == (40, 30)


def test_cells_of_a_new_batch_are_embedded_as_any_other() -> None:
    cells = simulate(n_cells=40, n_genes=30)
    fitted = QUICK.fit(cells, rng_for(0, "a"))
    moved = replace(cells, roles={"batch": Categories.of(["elsewhere"] * 40)})
    np.testing.assert_array_equal(fitted.embed(moved), fitted.embed(cells))


def test_default_epochs_are_on_the_card() -> None:
    assert ScVI().card.params["max_epochs"] == "min(400, 8e6 / n_cells)"
    assert QUICK.card.params["max_epochs"] == 2
