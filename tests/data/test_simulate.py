"""Simulated cells have what was planted in them."""

import numpy as np
import pytest

from sclitmus.data.simulate import simulate


def share_explained(dataset, role):
    """Share of the variance of log counts between the groups of a role, mean over genes."""
    x = np.log1p(dataset.counts.toarray())
    codes = dataset.roles[role].codes
    means = np.stack([x[codes == code].mean(0) for code in range(codes.max() + 1)])
    weights = np.bincount(codes) / len(codes)
    between = (weights[:, None] * (means - x.mean(0)) ** 2).sum(0)
    return float((between / x.var(0)).mean())


def test_shape_and_roles():
    dataset = simulate(600, 300, 4, 2)
    assert dataset.counts.shape == (600, 300)
    assert dataset.counts.dtype == np.float32
    assert list(dataset.roles["label"].counts) == [150] * 4
    assert list(dataset.roles["batch"].counts) == [300] * 2
    assert "donor" not in dataset.roles
    assert (dataset.counts.data == np.rint(dataset.counts.data)).all()


def test_equal_seeds_give_equal_cells():
    assert simulate(seed=1).content_hash == simulate(seed=1).content_hash
    assert simulate(seed=1).content_hash != simulate(seed=2).content_hash


def test_strength_is_what_separates_groups():
    def shares(**strength):
        dataset = simulate(seed=0, **strength)
        return share_explained(dataset, "label"), share_explained(dataset, "batch")

    nothing = shares(type_strength=0, batch_strength=0)
    assert nothing[0] == pytest.approx(
        3 / 599, abs=0.002
    )  # expected of chance: (groups - 1) / (n - 1)
    assert nothing[1] == pytest.approx(1 / 599, abs=0.002)
    types = shares(type_strength=1.0, batch_strength=0)
    assert types[0] > 0.2
    assert types[1] < 0.01
    batches = shares(type_strength=0, batch_strength=1.0)
    assert batches[0] < 0.02
    assert batches[1] > 0.1


def test_counts_vary_more_than_poisson():
    x = simulate(3000, 50, type_strength=0, batch_strength=0).counts.toarray()
    mean, variance = x.mean(0), x.var(0)
    assert np.median((variance - mean) / mean**2) == pytest.approx(0.5 + 0.09, abs=0.1)  # 1 / size


def test_donors_are_nested_in_batches():
    dataset = simulate(600, 20, n_batches=3, donors=7)
    pairs = set(zip(dataset.roles["donor"].codes, dataset.roles["batch"].codes, strict=True))
    assert len(dataset.roles["donor"].names) == 7
    assert len(pairs) == 7


def test_no_cell_is_empty_even_with_hardly_any_gene():
    for shape in ((1, 1), (2, 1), (500, 2)):
        dataset = simulate(*shape)
        assert (np.asarray(dataset.counts.sum(axis=1)).ravel() > 0).all()
