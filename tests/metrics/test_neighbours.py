import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse
from sklearn.neighbors import NearestNeighbors

from sclitmus.errors import MethodError, NotApplicable
from sclitmus.metrics import search
from sclitmus.metrics.neighbours import (
    Neighbours,
    connectivities,
    graph_connectivity,
    label_means,
    label_purity,
    nearest_neighbours,
)

GOLDEN = Path(__file__).parent / "golden" / "mixing.npz"


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as file:
        return dict(file)


def blobs(n: int, d: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.normal(scale=2, size=(8, d))
    return (centres[rng.integers(0, 8, n)] + rng.normal(size=(n, d))).astype(np.float32)


def true_distances(z: np.ndarray, k: int) -> np.ndarray:
    z = z.astype(np.float64)
    found = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(z)
    return np.sqrt(((z[:, None] - z[found.kneighbors(z)[1]]) ** 2).sum(axis=2))


def line(*positions: float) -> np.ndarray:
    return np.array(positions, dtype=np.float32)[:, None]


# --- nearest neighbours ---------------------------------------------------------------------


def test_neighbours_on_a_line_are_known_by_hand() -> None:
    found = nearest_neighbours(line(0, 1, 3, 7), 3)
    np.testing.assert_array_equal(found.indices, [[0, 1, 2], [1, 0, 2], [2, 1, 0], [3, 2, 1]])
    np.testing.assert_array_equal(found.distances, [[0, 1, 3], [0, 1, 2], [0, 2, 3], [0, 4, 6]])
    assert found.exact
    assert found.recall == 1.0


@pytest.mark.parametrize(
    ("n", "d", "k"), [(7, 1, 3), (500, 3, 90), (3000, 40, 91), (400, 3000, 15)]
)
def test_exact_neighbours_are_scikit_learns(n: int, d: int, k: int) -> None:
    z = blobs(n, d)
    found = nearest_neighbours(z, k)
    np.testing.assert_allclose(found.distances, true_distances(z, k), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found.indices[:, 0], np.arange(n))


def test_groups_are_skipped_without_loss() -> None:
    # Far more cells than ONE_GROUP: k-means groups, most of them skipped by the bound.
    z = blobs(6000, 10)
    found = nearest_neighbours(z, 30)
    assert found.exact
    np.testing.assert_allclose(found.distances, true_distances(z, 30), rtol=1e-5)


def test_neighbours_do_not_depend_on_seed_threads_order_or_layout() -> None:
    z = blobs(5000, 6)
    first = nearest_neighbours(z, 20)
    for other in (
        nearest_neighbours(z, 20, seed=5),
        nearest_neighbours(z, 20, threads=1),
        nearest_neighbours(np.asfortranarray(z), 20),
        nearest_neighbours(np.repeat(z, 2, axis=1)[:, ::2], 20),
        nearest_neighbours(z.astype(np.float64), 20),
    ):
        np.testing.assert_array_equal(other.indices, first.indices)
        np.testing.assert_array_equal(other.distances, first.distances)
    shuffled = np.random.default_rng(0).permutation(len(z))
    again = nearest_neighbours(z[shuffled], 20)
    np.testing.assert_allclose(again.distances, first.distances[shuffled], rtol=1e-5)


def test_far_from_the_origin_no_digit_is_lost() -> None:
    z = blobs(300, 5).astype(np.float64)
    near = nearest_neighbours(z, 10)
    far = nearest_neighbours(z + 1e6, 10)
    np.testing.assert_array_equal(far.indices, near.indices)
    np.testing.assert_allclose(far.distances, near.distances, rtol=1e-5)


@pytest.mark.parametrize("n", [400, 6000])
def test_tight_clusters_far_apart_keep_their_neighbours(n: int) -> None:
    # |x|² is 10⁸ and distances are 1: float32 products alone would order them by rounding.
    z = np.random.default_rng(0).normal(size=(n, 4)).round(2)  # few enough digits for float32
    z[: n // 2] += 8192
    found = nearest_neighbours(z, 20)
    np.testing.assert_allclose(found.distances, true_distances(z, 20), atol=4e-3)


def test_cells_on_a_few_points_in_many_groups() -> None:
    # Centres of k-means coincide: the bound between two of them must not divide by nothing.
    z = np.repeat(np.random.default_rng(0).normal(size=(12, 3)), 500, axis=0)
    z += np.random.default_rng(1).normal(scale=1e-3, size=z.shape)
    found = nearest_neighbours(z, 30)
    np.testing.assert_allclose(found.distances, true_distances(z, 30), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_extreme_units_neither_overflow_nor_vanish(scale: float) -> None:
    z = blobs(100, 4).astype(np.float64)
    found = nearest_neighbours(z * scale, 10)
    np.testing.assert_allclose(found.distances / scale, true_distances(z, 10), rtol=1e-5)


def test_each_cell_is_its_own_first_neighbour_among_duplicates() -> None:
    z = np.repeat(blobs(40, 3), 5, axis=0)
    found = nearest_neighbours(z, 7)
    np.testing.assert_array_equal(found.indices[:, 0], np.arange(200))
    assert (found.distances[:, :5] == 0).all()  # exactly, not up to rounding
    assert (found.distances[:, 5:] > 0).all()
    copies = found.indices[:, 1:5] // 5
    np.testing.assert_array_equal(copies, np.repeat(np.arange(200)[:, None] // 5, 4, axis=1))


@pytest.mark.parametrize("n", [50, 5000])
def test_all_cells_alike(n: int) -> None:
    found = nearest_neighbours(np.ones((n, 3)), 10)
    assert (found.distances == 0).all()
    np.testing.assert_array_equal(found.indices[:, 0], np.arange(n))
    assert all(len(set(row)) == 10 for row in found.indices.tolist())


def test_k_is_reduced_to_the_number_of_cells() -> None:
    assert nearest_neighbours(line(0, 2), 90).distances.tolist() == [[0, 2], [0, 2]]
    assert nearest_neighbours(line(4), 90).indices.tolist() == [[0]]
    assert nearest_neighbours(line(0, 2, 5), 3).k == 3


def test_the_recall_of_an_approximate_search_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "EXACT_COST", 0.0)
    z = blobs(8000, 12)
    found = nearest_neighbours(z, 30)
    assert not found.exact
    assert found.recall >= 0.99
    monkeypatch.setattr(search, "COST_CAP", 8000 * 600 * (12 + 25.0))  # one group or two
    poor = nearest_neighbours(z, 30)
    actual = (poor.distances <= true_distances(z, 30)[:, -1:] * (1 + 1e-6))[:, 1:].mean()
    assert poor.recall < found.recall
    assert poor.recall == pytest.approx(actual, abs=0.03)
    np.testing.assert_array_equal(poor.indices[:, 0], np.arange(8000))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(bad: float) -> None:
    z = blobs(20, 3)
    z[4, 1] = bad
    with pytest.raises(MethodError, match="1 of 20 rows"):
        nearest_neighbours(z, 5)


@pytest.mark.parametrize("shape", [(0, 3), (5,)])
def test_what_is_no_embedding_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(MethodError, match="shape"):
        nearest_neighbours(np.zeros(shape), 5)


def test_first_keeps_the_nearest_and_what_is_known_of_them() -> None:
    found = Neighbours(np.zeros((3, 5), np.int32), np.zeros((3, 5), np.float32), False, 0.98)
    assert found.first(2).indices.shape == (3, 2)
    assert found.first(9).k == 5
    assert (found.first(2).exact, found.first(2).recall) == (False, 0.98)


def test_search_lives_with_other_thread_pools_in_one_process() -> None:
    # faiss, torch and BLAS bring their own OpenMP; a fork after them must not hang either.
    script = """
import multiprocessing, numpy as np, faiss, torch
from sclitmus.metrics.neighbours import nearest_neighbours
z = np.random.default_rng(0).normal(size=(5000, 8)).astype(np.float32)
def indices(_): return nearest_neighbours(z, 10).indices.sum()
(torch.ones(400, 400) @ torch.ones(400, 400)).sum()
index = faiss.IndexFlatL2(8); index.add(z); index.search(z, 10)
here = indices(0)
torch.ones(10**6).exp().sum(); index.search(z, 10)
assert indices(0) == here
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(indices, [0, 1]) == [here, here]
print("done")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.strip() == "done", done.stderr


# --- graphs ---------------------------------------------------------------------------------


def test_connectivities_are_umaps(golden: dict[str, np.ndarray]) -> None:
    n = len(golden["z"])
    expected = sparse.coo_matrix(
        (golden["connectivities"], (golden["connectivities_row"], golden["connectivities_column"])),
        shape=(n, n),
    ).tocsr()
    graph = connectivities(nearest_neighbours(golden["z"], 15))
    assert abs(graph - expected).max() < 1e-5
    assert graph.nnz == expected.nnz
    assert abs(graph - graph.T).max() == 0
    assert graph.diagonal().sum() == 0


def test_connectivities_of_two_cells() -> None:
    graph = connectivities(nearest_neighbours(line(0, 5), 15))
    assert graph.toarray().tolist() == [[0, 1], [1, 0]]


def test_connectivities_of_duplicates_are_all_one() -> None:
    graph = connectivities(nearest_neighbours(np.zeros((6, 2)), 6))
    np.testing.assert_array_equal(graph.toarray(), 1 - np.eye(6))


def test_graph_connectivity_as_scib_metrics(golden: dict[str, np.ndarray]) -> None:
    found = nearest_neighbours(golden["z"], 15)
    value = graph_connectivity(found, golden["label"], compat=True)
    assert value == pytest.approx(float(golden["graph_connectivity"]), abs=1e-9)
    assert graph_connectivity(found, golden["label"]) >= value


def test_graph_connectivity_by_hand() -> None:
    # Type 0 is one piece of 3 cells; type 1 has 3 cells here and 2 there.
    z = line(0, 1, 2, 10, 11, 12, 50, 51)
    label = np.array([0, 0, 0, 1, 1, 1, 1, 1], dtype=np.int32)
    assert graph_connectivity(nearest_neighbours(z, 2), label) == pytest.approx((1 + 3 / 5) / 2)
    # One way only: 0 -> 1 <-> 2 leaves cell 0 out, as no cell has it for its neighbour.
    z = line(0, 2, 3)
    found = nearest_neighbours(z, 2)
    one_type = np.zeros(3, dtype=np.int32)
    assert graph_connectivity(found, one_type) == 1
    assert graph_connectivity(found, one_type, compat=True) == pytest.approx(2 / 3)


def test_graph_connectivity_does_not_depend_on_codes() -> None:
    z = blobs(300, 3)
    label = np.random.default_rng(0).integers(0, 4, 300).astype(np.int32)
    found = nearest_neighbours(z, 5)
    renamed = np.array([9, 2, 30, 0], dtype=np.int32)[label]
    assert graph_connectivity(found, renamed) == pytest.approx(graph_connectivity(found, label))


def test_purity_by_hand() -> None:
    label = np.array([0, 0, 1, 1], dtype=np.int32)
    purity = label_purity(nearest_neighbours(line(0, 1, 3, 7), 3), label)
    np.testing.assert_allclose(purity, [0.5, 0.5, 0, 0.5])
    np.testing.assert_allclose(label_means(purity, label), [0.5, 0.25])


def test_purity_needs_a_neighbour() -> None:
    with pytest.raises(NotApplicable, match="two cells"):
        label_purity(nearest_neighbours(line(0), 3), np.zeros(1, dtype=np.int32))


def test_label_means_leave_out_what_is_unknown() -> None:
    scores = np.array([1.0, np.nan, 3.0, np.nan])
    label = np.array([0, 0, 0, 2], dtype=np.int32)
    np.testing.assert_array_equal(label_means(scores, label), [2, np.nan, np.nan])
