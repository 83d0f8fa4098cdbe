"""Half-samples: right size, every type kept, donors whole, and a variance that is the true one."""

import numpy as np
import pytest
from scipy import sparse

from sclitmus.core.dataset import Categories, Dataset, Genes
from sclitmus.tasks import half_samples as module
from sclitmus.tasks.half_samples import half_samples


def dataset(label: list[str], donor: list[str] | None = None) -> Dataset:
    n = len(label)
    roles = {"label": Categories.of(label)}
    if donor is not None:
        roles["donor"] = Categories.of(donor)
    return Dataset(
        id="d",
        store=sparse.csr_matrix(np.ones((n, 2), dtype=np.float32)),
        genes=Genes(("A", "B"), ("", ""), "human"),
        cells=tuple(map(str, range(n))),
        roles=roles,
    )


def test_halves_hold_half_of_each_type_to_within_one_cell() -> None:
    labels = ["a"] * 7 + ["b"] * 20 + ["c"] * 73
    data = dataset(labels)
    full, *halves = half_samples(data, np.arange(100), np.random.default_rng(0))
    assert full.name == "all"
    assert full.weight == 0.0
    assert len(halves) == module.N_HALF_SAMPLES
    for half in halves:
        kept = np.array(labels)[half.test]
        for name, count in (("a", 7), ("b", 20), ("c", 73)):
            assert abs((kept == name).sum() - count / 2) <= 1
        assert half.weight == pytest.approx(len(half.test) / (100 - len(half.test)))
        assert np.all(np.diff(half.test) > 0)


def test_every_cell_has_the_same_chance() -> None:
    data = dataset(["a"] * 3 + ["b"] * 8)
    rng = np.random.default_rng(1)
    counts = np.zeros(11)
    draws = 300
    for _ in range(draws):
        for half in half_samples(data, np.arange(11), rng)[1:]:
            counts[half.test] += 1
    share = counts / (draws * module.N_HALF_SAMPLES)
    assert np.abs(share - 0.5).max() < 0.03  # five standard errors of a share at 6,000 draws


def test_donors_stay_whole() -> None:
    donor = [f"d{i % 8}" for i in range(80)]
    data = dataset(["a", "b"] * 40, donor)
    for half in half_samples(data, np.arange(80), np.random.default_rng(0))[1:]:
        kept = {donor[i] for i in half.test}
        assert len(kept) == 4
        assert len(half.test) == 40
        assert half.weight == 1.0


def test_few_donors_fall_back_to_cells() -> None:
    data = dataset(["a", "b"] * 40, [f"d{i % 5}" for i in range(80)])
    half = half_samples(data, np.arange(80), np.random.default_rng(0))[1]
    assert len({i % 5 for i in half.test}) == 5


def test_rows_that_are_not_scored_never_appear() -> None:
    rows = np.arange(0, 100, 3)
    data = dataset(["a", "b"] * 50)
    for split in half_samples(data, rows, np.random.default_rng(0)):
        assert set(split.test) <= set(rows)


def test_three_cells_cannot_be_halved() -> None:
    data = dataset(["a", "b", "b"])
    assert [s.name for s in half_samples(data, np.arange(3), np.random.default_rng(0))] == ["all"]


def test_large_data_are_subsampled_and_weighted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SUBSAMPLE", 20)
    data = dataset(["a", "b"] * 100)
    half = half_samples(data, np.arange(200), np.random.default_rng(0))[1]
    assert len(half.test) == 20
    assert half.weight == pytest.approx(20 / 180)


def test_weighted_variance_over_half_samples_is_that_of_the_mean() -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(size=400)
    data = dataset(["a"] * 400)
    estimates = []
    for _ in range(100):
        _, *halves = half_samples(data, np.arange(400), rng)
        scores = np.array([x[half.test].mean() for half in halves])
        estimates.append(scores.var(ddof=1) * halves[0].weight)
    assert np.mean(estimates) == pytest.approx(x.var(ddof=1) / 400, rel=0.1)
