"""PCR in closed form against the explicit regression on principal components."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression

from sclitmus.errors import NotApplicable
from sclitmus.metrics.variance import pcr, pcr_comparison, principal_scores

GOLDEN = np.load(Path(__file__).parent / "golden" / "silhouette.npz")
CASES = sorted({key.split("/")[0] for key in GOLDEN})


def regressed(z: np.ndarray, batch: np.ndarray, n_components: int | None = None) -> float:
    """Do it as it is defined: PCA, then a regression per component, weighted by variance."""
    pca = PCA(n_components, svd_solver="full").fit(z.astype(np.float64))
    scores = pca.transform(z)
    one_hot = (batch[:, None] == np.unique(batch)).astype(float)
    r2 = [LinearRegression().fit(one_hot, score).score(one_hot, score) for score in scores.T]
    return float(np.average(r2, weights=pca.explained_variance_))


@pytest.mark.parametrize("case", CASES)
def test_equals_scib_metrics(case: str) -> None:
    z, batch, before = (GOLDEN[f"{case}/{key}"] for key in ("z", "batch", "before"))
    assert pcr(z, batch) == pytest.approx(float(GOLDEN[f"{case}/pcr"]), abs=1e-12)
    assert pcr(z, batch, n_components=3) == pytest.approx(float(GOLDEN[f"{case}/pcr_3"]), abs=1e-12)
    comparison = pcr_comparison(before, z, batch, compat="scib")
    assert comparison == pytest.approx(float(GOLDEN[f"{case}/pcr_comparison"]), abs=1e-11)


@pytest.mark.parametrize(("n", "d"), [(200, 8), (30, 60)])
@pytest.mark.parametrize("n_components", [None, 1, 5])
def test_equals_the_regression(n: int, d: int, n_components: int | None) -> None:
    rng = np.random.default_rng(n)
    batch = rng.choice(4, n, p=(0.6, 0.2, 0.15, 0.05)).astype(np.int32)
    z = rng.normal(size=(n, d)) * np.geomspace(5, 0.1, d) + rng.normal(size=(4, d))[batch] + 40
    kept = n_components if n > d or n_components else n - 1  # the last component is empty
    assert pcr(z, batch, n_components=n_components) == pytest.approx(
        regressed(z, batch, kept), abs=1e-10
    )


def test_hand_computed() -> None:
    # Means 1 and 5 around 3: 4 · 2² between; within 4 · 1².
    z = np.array([[0.0], [2.0], [4.0], [6.0]])
    batch = np.array([3, 3, 8, 8], dtype=np.int32)
    assert pcr(z, batch) == pytest.approx(16 / 20)
    removed = np.array([[0.0], [2.0], [0.0], [2.0]])
    assert pcr_comparison(z, removed, batch) == 1
    assert pcr_comparison(z, z, batch) == 0


def test_more_batch_after_than_before_is_negative_unless_compat() -> None:
    rng = np.random.default_rng(0)
    batch = rng.integers(0, 2, 100).astype(np.int32)
    before = rng.normal(size=(100, 3))
    after = before + 3 * batch[:, None]
    expected = (pcr(before, batch) - pcr(after, batch)) / pcr(before, batch)
    assert expected < -1
    assert pcr_comparison(before, after, batch) == pytest.approx(expected)
    assert pcr_comparison(before, after, batch, compat="scib") == 0


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(5, 80), d=st.integers(1, 10))
def test_invariances(seed: int, n: int, d: int) -> None:
    rng = np.random.default_rng(seed)
    z, batch = rng.normal(size=(n, d)), rng.integers(0, 3, n).astype(np.int32)
    batch[:2] = 0, 1
    order, names = rng.permutation(n), rng.permutation(50)[:3].astype(np.int32)
    turned = 5 * (z @ np.linalg.qr(rng.normal(size=(d, d)))[0])[order] - 8
    score = pcr(z, batch)
    assert 0 <= score <= 1 + 1e-12
    assert pcr(turned, names[batch[order]]) == pytest.approx(score, abs=1e-9)


def test_blocks_and_float32_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    batch = rng.integers(0, 3, 500).astype(np.int32)
    z = (rng.normal(size=(500, 6)) + 1000).astype(np.float32)
    whole = pcr(z, batch), pcr(z, batch, n_components=2)
    monkeypatch.setattr("sclitmus.metrics.groups._BLOCK_BYTES", 8 * 6 * 33)
    assert (pcr(z, batch), pcr(z, batch, n_components=2)) == pytest.approx(whole, abs=1e-12)
    assert whole[0] == pytest.approx(pcr(z.astype(np.float64) - 1000, batch), abs=1e-10)


def test_noise_scores_its_degrees_of_freedom() -> None:
    rng = np.random.default_rng(3)
    batch = rng.integers(0, 6, 600).astype(np.int32)
    assert pcr(rng.normal(size=(600, 200)), batch) == pytest.approx(5 / 599, rel=0.1)


def test_nothing_to_explain() -> None:
    batch = np.array([0, 1, 0, 1], dtype=np.int32)
    rng = np.random.default_rng(1)
    with pytest.raises(NotApplicable, match="one batch"):
        pcr(rng.normal(size=(4, 2)), np.zeros(4, dtype=np.int32))
    for value in (0.0, 0.1, 1e6):
        with pytest.raises(NotApplicable, match="no variance"):
            pcr(np.full((4, 2), value, dtype=np.float32), batch)
    balanced = np.repeat(rng.normal(size=(2, 3)), 2, axis=0)
    with pytest.raises(NotApplicable, match="before integration"):
        pcr_comparison(balanced, rng.normal(size=(4, 2)), batch)


@pytest.mark.parametrize(("n", "d"), [(50, 7), (7, 50)])
def test_principal_scores_equal_pca_up_to_sign(n: int, d: int) -> None:
    x = np.random.default_rng(4).normal(size=(n, d)) + 3
    expected = PCA(4, svd_solver="full").fit_transform(x)
    np.testing.assert_allclose(np.abs(principal_scores(x, 4)), np.abs(expected), atol=1e-10)
