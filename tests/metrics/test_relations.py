"""Relations between types against scGraph, an explicit version of it, and planted geometry."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from scipy.stats import trim_mean
from sklearn.decomposition import PCA

from sclitmus.errors import NotApplicable
from sclitmus.metrics.relations import relation_profiles, relations

GOLDEN = np.load(Path(__file__).parent / "golden" / "relations.npz")


def types_on_a_line(seed: int = 0, n: int = 900) -> tuple[np.ndarray, ...]:
    """Return (before, label, batch): six types at growing gaps, three batches shifted apart."""
    rng = np.random.default_rng(seed)
    label, batch = (rng.integers(0, k, n).astype(np.int32) for k in (6, 3))
    place = np.array([0.0, 1, 3, 6, 10, 15])
    before = 0.3 * rng.normal(size=(n, 20))
    before[:, 0] += place[label]
    before[:, 1:4] += 5 * np.eye(3)[batch]
    return before.astype(np.float32), label, batch


def explicit(z: np.ndarray, label: np.ndarray, batch: np.ndarray, before: np.ndarray) -> float:
    """Follow the definition step by step, in tables."""

    def relative(x: np.ndarray, codes: np.ndarray) -> pd.DataFrame:
        names = np.unique(codes)
        centroid = np.stack([trim_mean(x[codes == name], 0.05, axis=0) for name in names])
        table = pd.DataFrame(cdist(centroid, centroid), index=names, columns=names)
        return table / table.max()

    tables = []
    for code in np.unique(batch):
        rows = batch == code
        tables.append(relative(PCA(10).fit_transform(before[rows].astype(float)), label[rows]))
    consensus = pd.concat(tables).groupby(level=0).mean()
    found = relative(z.astype(float), label)
    scores = []
    for name in consensus:
        expected, seen = consensus[name].drop(name), found[name].drop(name)
        covariance = np.cov(expected, seen, aweights=1 / expected)
        scores.append(covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1]))
    return float(np.mean(scores))


@pytest.mark.parametrize("name", ["close", "drifted"])
def test_equals_scgraph(name: str) -> None:
    parts = (GOLDEN[key] for key in (name, "label", "batch", "before"))
    # scGraph computes its components and trimmed means in float32.
    expected = pytest.approx(float(GOLDEN[f"{name}/score"]), abs=1e-6)
    assert relations(*parts, min_batch=100) == expected


def test_equals_the_definition_step_by_step() -> None:
    before, label, batch = types_on_a_line()
    z = before @ np.random.default_rng(1).normal(size=(20, 4))
    expected = explicit(z, label, batch, before)
    assert relations(z, label, batch, before) == pytest.approx(expected, abs=1e-9)


def test_islands_that_drift_lose_and_faithful_embeddings_win() -> None:
    before, label, batch = types_on_a_line()
    drifted = np.array([9.0, 0, 5, 1, 12, 3])[label][:, None] + before[:, 4:6]
    kept = before[:, :1] * 4
    assert relations(kept, label, batch, before) > 0.99
    assert relations(drifted, label, batch, before) < 0.5


def test_batch_effects_do_not_enter_the_consensus() -> None:
    before, label, batch = types_on_a_line()
    strong = before.astype(np.float64)
    strong[:, 1:4] += 500 * np.eye(3)[batch]
    z = before[:, :2]
    expected = relations(z, label, batch, before)
    assert relations(z, label, batch, strong) == pytest.approx(expected, abs=1e-6)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_invariances(seed: int) -> None:
    rng = np.random.default_rng(seed)
    before, label, batch = types_on_a_line(seed % 97, 300)
    z = rng.normal(size=(300, 5)) + rng.normal(size=(6, 5))[label]
    order, names = rng.permutation(300), rng.permutation(40)[:6].astype(np.int32)
    rotation = np.linalg.qr(rng.normal(size=(20, 20)))[0]
    # The embedding may be moved, scaled, mirrored; trimming by coordinate forbids turning it.
    moved = (3 * z * [1, -1, 1, -1, 1] + 7)[order]
    other = relations(moved, names[label[order]], batch[order] + 4, (before @ rotation)[order])
    assert other == pytest.approx(relations(z, label, batch, before), abs=1e-6)


def test_one_batch_is_the_same_as_none() -> None:
    before, label, batch = types_on_a_line()
    z = before[:, :3]
    expected = relations(z, label, np.zeros_like(batch), before)
    assert relations(z, label, None, before) == expected


def test_equal_distances_tell_nothing() -> None:
    before, label, batch = types_on_a_line()
    for z in (np.eye(6)[label], np.ones((len(label), 2))):
        profiles = relation_profiles(z, label, batch, before)
        assert profiles == dict.fromkeys(range(6), 0.0)


def test_rare_types_and_small_batches_are_left_out() -> None:
    before, label, batch = types_on_a_line()
    label[label == 5] = 4
    label[:9] = 5
    assert sorted(relation_profiles(before, label, batch, before)) == [0, 1, 2, 3, 4]
    with pytest.raises(NotApplicable, match="no batch has 400 cells"):
        relations(before, label, batch, before, min_batch=400)


def test_too_few_types_to_relate() -> None:
    before, label, batch = types_on_a_line()
    with pytest.raises(NotApplicable, match="2 types have 10 cells"):
        relations(before, label % 2, batch, before)
    # Each batch holds a pair of types: no type meets two others.
    with pytest.raises(NotApplicable, match="meets two others"):
        relations(before, label, label // 2, before)
