"""Silhouettes against scikit-learn and scib-metrics; BRAS against all pairs."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.metrics import silhouette_samples
from threadpoolctl import threadpool_limits

from sclitmus.errors import MethodError, NotApplicable
from sclitmus.metrics import grouped_distances
from sclitmus.metrics.silhouette import (
    Silhouettes,
    asw,
    batch_asw,
    bras,
    isolated_labels,
    silhouettes,
)

GOLDEN = np.load(Path(__file__).parent / "golden" / "silhouette.npz")
CASES = sorted({key.split("/")[0] for key in GOLDEN})
PER_CELL = 2e-6  # float32 products, float64 sums
PER_SCORE = 2e-7


def cells(n: int, d: int, *, seed: int, spread: float = 1.0) -> tuple[np.ndarray, ...]:
    """Return z, label (5 unequal ones), batch (3)."""
    rng = np.random.default_rng(seed)
    label = rng.choice(5, n, p=(0.4, 0.3, 0.2, 0.08, 0.02)).astype(np.int32)
    batch = rng.integers(0, 3, n).astype(np.int32)
    z = 2 * rng.normal(size=(5, d))[label] + 0.5 * rng.normal(size=(3, d))[batch]
    return (z + spread * rng.normal(size=(n, d))).astype(np.float32), label, batch


def exact(z: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Silhouettes by scikit-learn from float64 distances that suffer no cancellation."""
    wide = z.astype(np.float64)
    widths: np.ndarray = silhouette_samples(cdist(wide, wide), label, metric="precomputed")
    return widths


def exact_by_batch(z: np.ndarray, label: np.ndarray, batch: np.ndarray) -> np.ndarray:
    widths = np.full(len(z), np.nan)
    for code in np.unique(label):
        rows = np.flatnonzero(label == code)
        if 1 < len(np.unique(batch[rows])) < len(rows):
            widths[rows] = exact(z[rows], batch[rows])
    return widths


def golden(case: str) -> Iterator[np.ndarray]:
    return (GOLDEN[f"{case}/{key}"] for key in ("z", "label", "batch"))


@pytest.mark.parametrize("case", CASES)
def test_equals_scib_metrics(case: str) -> None:
    z, label, batch = golden(case)
    widths = silhouettes(z, label, batch)
    np.testing.assert_allclose(widths.label, GOLDEN[f"{case}/widths"], rtol=0, atol=PER_CELL)
    scores = {
        "asw": asw(widths),
        "batch_asw": batch_asw(widths, label),
        "isolated_labels": isolated_labels(widths, label, batch, compat="scib"),
        "bras": bras(z, label, batch),
    }
    tolerance = {"bras": 1e-12}
    for name, score in scores.items():
        expected = float(GOLDEN[f"{case}/{name}"])
        assert score == pytest.approx(expected, abs=tolerance.get(name, PER_SCORE)), name


def test_hand_computed() -> None:
    # Two labels on a line: 0 and 1 against 3; the cell at 3 is alone.
    widths = silhouettes(np.array([[0.0], [1.0], [3.0]]), np.array([0, 0, 7], dtype=np.int32))
    np.testing.assert_allclose(widths.label, [(3 - 1) / 3, (2 - 1) / 2, 0], atol=1e-7)
    assert np.isnan(widths.batch).all()
    assert asw(widths) == pytest.approx((2 / 3 + 1 / 2 + 3) / 6)


@pytest.mark.parametrize(
    ("n", "d", "spread"),
    [(1500, 50, 1.0), (700, 300, 1.0), (900, 10, 1e-3), (40, 5, 1.0), (2100, 3, 1.0)],
)
def test_every_cell_equals_float64(n: int, d: int, spread: float) -> None:
    z, label, batch = cells(n, d, seed=n, spread=spread)
    widths = silhouettes(z, label, batch)
    np.testing.assert_allclose(widths.label, exact(z, label), rtol=0, atol=PER_CELL)
    by_batch = exact_by_batch(z, label, batch)
    np.testing.assert_allclose(widths.batch, by_batch, rtol=0, atol=PER_CELL)
    assert np.mean(widths.label) == pytest.approx(np.mean(exact(z, label)), abs=1e-7)
    assert np.nanmean(widths.batch) == pytest.approx(np.nanmean(by_batch), abs=1e-7)


@pytest.mark.parametrize("oddity", ["far from the origin", "one cell far away", "one-hot", "twins"])
def test_holds_where_float32_products_cancel(oddity: str) -> None:
    z, label, batch = cells(800, 20, seed=3)
    if oddity == "far from the origin":
        z = z.astype(np.float64) + 1e4
    elif oddity == "one cell far away":
        z[17] = 1e6
    elif oddity == "one-hot":
        noise = np.random.default_rng(4).normal(size=(800, 5))
        z = (np.eye(5)[label] + 1e-2 * noise).astype(np.float32)
    else:
        z[::2] = z[1::2]
    widths = silhouettes(z, label, batch)
    np.testing.assert_allclose(widths.label, exact(z, label), rtol=0, atol=PER_CELL)
    np.testing.assert_allclose(
        widths.batch, exact_by_batch(z, label, batch), rtol=0, atol=2 * PER_CELL
    )


def test_many_tiny_groups() -> None:
    z, _, _ = cells(600, 4, seed=8)
    label = (np.arange(600) // 2).astype(np.int32)
    batch = (np.arange(600) % 97).astype(np.int32)
    widths = silhouettes(z, label, batch)
    np.testing.assert_allclose(widths.label, exact(z, label), rtol=0, atol=PER_CELL)
    assert np.isnan(widths.batch).all()  # each label has two cells, in two batches


def test_threads_do_not_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    z, label, batch = cells(700, 12, seed=9)
    found = []
    for n_threads in (1, 2, 5):
        for module in ("parallel", "grouped_distances"):
            monkeypatch.setattr(f"sclitmus.metrics.{module}.n_threads", lambda n=n_threads: n)
        with threadpool_limits(1):
            found.append(silhouettes(z, label, batch))
    for other in found[1:]:
        np.testing.assert_array_equal(other.label, found[0].label)
        np.testing.assert_array_equal(other.batch, found[0].batch)


def test_rounds_pair_all_panels_once_and_never_share_one() -> None:
    for n_panels in (1, 2, 7, 8):
        rounds = list(grouped_distances._rounds(n_panels))
        pairs = [pair for tiles in rounds for pair in tiles]
        assert sorted(pairs) == [(i, j) for i in range(n_panels) for j in range(i, n_panels)]
        for tiles in rounds:
            panels = [panel for i, j in tiles for panel in {i, j}]
            assert len(panels) == len(set(panels))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(12, 120), d=st.integers(2, 12))
def test_invariances(seed: int, n: int, d: int) -> None:
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, d))
    label, batch = (rng.integers(0, 3, n).astype(np.int32) for _ in range(2))
    label[:4], batch[:4] = (0, 0, 1, 1), (0, 1, 0, 0)
    rotation = np.linalg.qr(rng.normal(size=(d, d)))[0]
    order = rng.permutation(n)
    names = rng.permutation(90)[:3].astype(np.int32)
    # Turned; for silhouettes also moved (cosine distance has an origin); cells shuffled; renamed.
    turned = 7 * (z @ rotation)[order]
    other_label, other_batch = names[label[order]], names[batch[order]]

    def scores(points: np.ndarray, types: np.ndarray, batches: np.ndarray) -> list[float]:
        widths = silhouettes(points, types, batches)
        return [
            asw(widths),
            batch_asw(widths, types),
            isolated_labels(widths, types, batches, compat="scib"),
        ]

    np.testing.assert_allclose(
        scores(turned + 3, other_label, other_batch), scores(z, label, batch), atol=PER_CELL
    )
    assert bras(turned, other_label, other_batch) == pytest.approx(bras(z, label, batch), abs=1e-9)
    assert -1 <= np.min(silhouettes(z, label).label) <= np.max(silhouettes(z, label).label) <= 1


def test_one_label_or_a_label_per_cell_has_no_asw() -> None:
    z, _, batch = cells(30, 4, seed=1)
    for label in (np.zeros(30, dtype=np.int32), np.arange(30, dtype=np.int32)):
        widths = silhouettes(z, label, batch)
        assert np.isnan(widths.label).all()
        with pytest.raises(NotApplicable, match="two labels"):
            asw(widths)
        with pytest.raises(NotApplicable, match="two labels"):
            isolated_labels(widths, label, batch)
    one_label = np.zeros(30, dtype=np.int32)
    widths = silhouettes(z, one_label, batch)
    np.testing.assert_allclose(widths.batch, exact(z, batch), rtol=0, atol=PER_CELL)


def test_one_batch_has_no_batch_score() -> None:
    z, label, _ = cells(60, 4, seed=1)
    batch = np.full(60, 2, dtype=np.int32)
    with pytest.raises(NotApplicable, match="two batches"):
        batch_asw(silhouettes(z, label, batch), label)
    with pytest.raises(NotApplicable, match="two batches"):
        bras(z, label, batch)


def test_no_label_is_isolated_if_all_are_everywhere() -> None:
    label, batch = np.repeat([0, 1], 20).astype(np.int32), np.tile([0, 1], 20).astype(np.int32)
    widths = silhouettes(np.random.default_rng(0).normal(size=(40, 3)), label, batch)
    with pytest.raises(NotApplicable, match="every label is in every batch"):
        isolated_labels(widths, label, batch)
    assert isolated_labels(widths, label, batch, compat="scib") == pytest.approx(asw(widths))


def test_isolated_labels_count_alike() -> None:
    label = np.array([0, 0, 0, 0, 1, 2, 2, 2], dtype=np.int32)
    batch = np.array([0, 1, 0, 1, 0, 1, 1, 1], dtype=np.int32)
    widths = Silhouettes(np.array([9, 9, 9, 9, 1.0, 0, 0.5, 0.4]), np.zeros(8))
    assert isolated_labels(widths, label, batch) == pytest.approx(((1 + 1) / 2 + (0.3 + 1) / 2) / 2)


def test_equal_cells_have_silhouette_zero() -> None:
    label, batch = np.repeat([0, 1], 6).astype(np.int32), np.tile([0, 1, 2], 4).astype(np.int32)
    for value in (0.0, 0.1, 1e8):
        z = np.full((12, 3), value, dtype=np.float32)
        widths = silhouettes(z, label, batch)
        np.testing.assert_array_equal(widths.label, 0)
        np.testing.assert_array_equal(widths.batch, 0)
        assert bras(z, label, batch) == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_refuses_what_is_not_finite(bad: float) -> None:
    z, label, _ = cells(30, 4, seed=1)
    z[7, 2] = bad
    with pytest.raises(MethodError, match="1 of 30 cells"):
        silhouettes(z, label)


def slow_bras(z: np.ndarray, label: np.ndarray, batch: np.ndarray) -> float:
    means = []
    for code in np.unique(label):
        x, b = z[label == code].astype(np.float64), batch[label == code]
        if not 1 < len(np.unique(b)) < len(x):
            continue
        # As sklearn.metrics.pairwise.cosine_distances: 1 from a cell at the origin to others.
        length = np.linalg.norm(x, axis=1, keepdims=True)
        u = x / np.where(length == 0, 1, length)
        distance = 1 - u @ u.T
        np.fill_diagonal(distance, 0)
        scores = []
        for i, row in enumerate(distance):
            own = b == b[i]
            if own.sum() == 1:
                scores.append(1.0)
                continue
            inside, outside = row[own].sum() / (own.sum() - 1), row[~own].mean()
            scores.append(1 - abs(outside - inside) / max(inside, outside))
        means.append(np.mean(scores))
    return float(np.mean(means))


def test_bras_equals_all_pairs_also_with_cells_at_the_origin() -> None:
    z, label, batch = cells(300, 6, seed=11)
    label[:4], batch[:4] = 9, (0, 1, 1, 2)  # batches of one cell inside a label
    assert bras(z, label, batch) == pytest.approx(slow_bras(z, label, batch), abs=1e-12)
    z[[2, 50, 51]] = 0
    assert bras(z, label, batch) == pytest.approx(slow_bras(z, label, batch), abs=1e-12)


def test_bras_is_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    z, label, batch = cells(300, 6, seed=12)
    whole = bras(z, label, batch)
    monkeypatch.setattr("sclitmus.metrics.groups._BLOCK_BYTES", 8 * 6 * 17)
    assert bras(z, label, batch) == pytest.approx(whole, abs=1e-14)


def test_bras_knows_mixed_from_apart() -> None:
    rng = np.random.default_rng(5)
    batch = rng.integers(0, 2, 400).astype(np.int32)
    label = np.zeros(400, dtype=np.int32)
    noise = rng.normal(size=(400, 8))
    apart = noise + 20 * np.eye(8)[batch]
    assert bras(noise, label, batch) > 0.95
    assert bras(apart, label, batch) < 0.2
