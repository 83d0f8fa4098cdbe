"""NMI, ARI, Leiden and k-means against hand-worked cases, scikit-learn and scib-metrics."""

import random
import subprocess
import sys

import numpy as np
import pytest
from scipy import sparse

from sclitmus.metrics.clustering import (
    RESOLUTIONS,
    ari,
    best_by_nmi,
    contingency,
    leiden,
    leiden_scan,
    nmi,
)
from sclitmus.metrics.kmeans import kmeans, lloyd, plus_plus


def overlapping_types(n: int, n_types: int, d: int, gap: float, seed: int = 0):
    """Cells of equally likely Gaussian types whose means have standard deviation `gap`."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, n_types, n).astype(np.int32)
    z = rng.normal(size=(n_types, d))[label] * gap + rng.normal(size=(n, d))
    return z.astype(np.float32), label


def nearest_graph(z: np.ndarray, k: int) -> sparse.csr_matrix:
    """Symmetric graph of Gaussian weights between each cell and its k nearest, by brute force."""
    distance = np.sqrt(((z[:, None, :].astype(np.float64) - z[None]) ** 2).sum(-1))
    order = np.argsort(distance, axis=1)[:, 1 : k + 1]
    rows = np.repeat(np.arange(len(z)), k)
    weight = np.exp(-distance[rows, order.ravel()])
    graph = sparse.csr_matrix((weight, (rows, order.ravel())), shape=(len(z), len(z)))
    return graph.maximum(graph.T).tocsr()


# ---- agreement of two partitions


def test_contingency_by_hand():
    table, rows, columns = contingency(np.array([0, 0, 1, 1, 2]), np.array([1, 1, 1, 0, 3]))
    assert table.tolist() == [2, 1, 1, 1]
    assert rows.tolist() == [2, 2, 1]
    assert columns.tolist() == [1, 3, 0, 1]


def test_nmi_and_ari_by_hand():
    # Six cells, two labels of three; the clusters move one cell across.
    label, clusters = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 0, 1, 1, 1, 1])
    h_label = np.log(2)
    h_clusters = -(2 / 6) * np.log(2 / 6) - (4 / 6) * np.log(4 / 6)
    h_both = -(2 / 6) * np.log(2 / 6) - (1 / 6) * np.log(1 / 6) - (3 / 6) * np.log(3 / 6)
    expected = 2 * (h_label + h_clusters - h_both) / (h_label + h_clusters)
    assert nmi(label, clusters) == pytest.approx(expected, abs=1e-14)
    # Pairs: 1 + 3 + 0 together in both; 6 in label, 1 + 6 in clusters, of 15.
    assert ari(label, clusters) == pytest.approx((4 - 6 * 7 / 15) / ((6 + 7) / 2 - 6 * 7 / 15))


@pytest.mark.parametrize(("n", "n_a", "n_b"), [(50, 3, 4), (1000, 20, 150), (400, 7, 390)])
def test_nmi_and_ari_equal_scikit_learn(n: int, n_a: int, n_b: int):
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    rng = np.random.default_rng(n)
    a = rng.integers(0, n_a, n).astype(np.int32)
    noisy = np.where(rng.random(n) < 0.5, a, rng.integers(0, n_b, n)).astype(np.int32)
    assert nmi(a, noisy) == pytest.approx(normalized_mutual_info_score(a, noisy), abs=1e-12)
    assert ari(a, noisy) == pytest.approx(adjusted_rand_score(a, noisy), abs=1e-12)


def test_names_order_and_side_do_not_matter():
    rng = np.random.default_rng(3)
    a, b = rng.integers(0, 6, 300), rng.integers(0, 9, 300)
    renamed, rows = rng.permutation(9)[b], rng.permutation(300)
    for score in (nmi, ari):
        assert score(a, renamed) == pytest.approx(score(a, b), abs=1e-12)
        assert score(a[rows], b[rows]) == pytest.approx(score(a, b), abs=1e-12)
        assert score(b, a) == pytest.approx(score(a, b), abs=1e-12)


def test_degenerate_partitions():
    one, two, each = np.zeros(4, int), np.array([0, 0, 1, 1]), np.arange(4)
    assert nmi(one, one) == ari(one, one) == 1.0
    assert nmi(two, one) == ari(two, one) == 0.0
    assert nmi(each, each) == ari(each, each) == 1.0
    assert ari(two, each) == 0.0
    with pytest.raises(ValueError, match="shape"):
        nmi(np.array([], int), np.array([], int))
    with pytest.raises(ValueError, match="got 4 and 3"):
        ari(two, two[:3])
    with pytest.raises(ValueError, match="codes from 0"):
        ari(two, two - 1)


def test_ari_of_a_million_cells_does_not_overflow():
    codes = np.repeat(np.arange(2), 500_000)
    flipped = codes.copy()
    flipped[:250_000] = 1
    # Shares .25, .25, 0, .5 of the cells: pair shares, with n so large that n - 1 is n.
    together, in_a, in_b = 0.0625 + 0.0625 + 0.25, 0.5, 0.0625 + 0.5625
    expected = (together - in_a * in_b) / ((in_a + in_b) / 2 - in_a * in_b)
    assert ari(codes, flipped) == pytest.approx(expected, abs=1e-5)


def test_best_by_nmi_takes_the_first_of_equals():
    label = np.array([0, 0, 1, 1])
    clusterings = np.array([[0, 1, 0, 1], [1, 1, 0, 0], [0, 0, 1, 1]])
    assert best_by_nmi(clusterings, label) == 1


# ---- Leiden


def test_resolutions_are_those_of_scib():
    assert RESOLUTIONS == (0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0)


def test_leiden_finds_disconnected_cliques():
    block = np.ones((5, 5)) - np.eye(5)
    graph = sparse.csr_matrix(sparse.block_diag([block, block, block]))
    assert ari(leiden(graph, 1.0, seed=0), np.repeat(np.arange(3), 5)) == 1.0


def test_leiden_scan_equals_scib_metrics():
    """Values of scib_metrics 0.5.10's nmi_ari_cluster_labels_leiden, igraph 1.0.0, on this graph.

    Equal partitions, therefore equal to rounding; other versions of igraph may draw otherwise.
    """
    z, label = overlapping_types(600, 8, 10, gap=0.8)
    clusterings = leiden_scan(nearest_graph(z, 10), seed=42)
    assert clusterings.shape == (10, 600)
    assert clusterings.dtype == np.int32
    assert [nmi(label, codes) for codes in clusterings] == pytest.approx(SCIB_LEIDEN_NMI, abs=1e-12)
    assert [ari(label, codes) for codes in clusterings] == pytest.approx(SCIB_LEIDEN_ARI, abs=1e-12)


def test_leiden_depends_on_its_seed_alone():
    z, _ = overlapping_types(300, 5, 5, gap=0.3)
    graph = nearest_graph(z, 10)
    random.seed(1)
    state = random.getstate()
    alone = leiden(graph, 1.0, seed=5)
    assert random.getstate() == state
    random.seed(2)
    assert np.array_equal(leiden(graph, 1.0, seed=5), alone)
    assert np.array_equal(leiden_scan(graph, (0.4, 1.0), seed=5)[1], alone)


def test_leiden_of_a_graph_without_edges_leaves_each_cell_alone():
    assert sorted(leiden(sparse.csr_matrix((4, 4)), 1.0)) == [0, 1, 2, 3]


# ---- k-means


def test_lloyd_equals_scikit_learn_from_equal_starts():
    from sklearn.cluster import KMeans

    z, _ = overlapping_types(2000, 7, 12, gap=0.8)
    x = z - z.mean(axis=0)
    start = plus_plus(x, 7, np.random.default_rng(0))
    codes, inertia = lloyd(x, start)
    peer = KMeans(7, init=start, n_init=1, tol=0, max_iter=300).fit(x)
    assert ari(codes, peer.labels_) == 1.0
    assert inertia == pytest.approx(peer.inertia_, rel=1e-5)


def test_kmeans_is_as_good_as_scikit_learn():
    from sklearn.cluster import KMeans

    z, _ = overlapping_types(1500, 10, 8, gap=1.5)

    def inertia(codes: np.ndarray) -> float:
        return sum(
            float(((z[codes == c] - z[codes == c].mean(0)) ** 2).sum()) for c in np.unique(codes)
        )

    ours = np.mean([inertia(kmeans(z, 10, seed)) for seed in range(10)])
    theirs = np.mean([KMeans(10, n_init=1, random_state=s).fit(z).inertia_ for s in range(10)])
    assert ours == pytest.approx(theirs, rel=0.03)  # sd of one draw: about 0.05
    assert inertia(kmeans(z, 10, 0, n_init=5)) <= inertia(kmeans(z, 10, 0))


def test_kmeans_finds_separated_types_wherever_they_lie():
    z, label = overlapping_types(600, 4, 6, gap=30)
    assert ari(kmeans(z, 4, 0, n_init=3), label) == 1.0
    assert np.array_equal(kmeans(z, 4, 0), kmeans(z, 4, 0))
    assert ari(kmeans(z + np.float32(1e4), 4, 0, n_init=3), label) == 1.0


def test_kmeans_of_few_distinct_cells():
    z = np.repeat(np.array([[0.0], [1.0]], np.float32), 5, axis=0)
    codes = kmeans(z, 4, 0)
    assert codes.shape == (10,)
    assert not set(codes[:5]) & set(codes[5:])
    assert set(kmeans(z, 1, 0)) == {0}
    with pytest.raises(ValueError, match="got 11 for 10 cells"):
        kmeans(z, 11, 0)


def test_an_empty_cluster_restarts_at_the_cell_worst_off():
    x = np.array([[0.0], [0.1], [0.2], [9.0]], np.float32)
    codes, inertia = lloyd(x, np.array([[0.1], [-50.0]], np.float32))
    assert codes.tolist() == [0, 0, 0, 1]
    assert inertia == pytest.approx(0.02, abs=1e-6)


def test_import_is_light():
    check = (
        "import sys, sclitmus.metrics.clustering, sclitmus.metrics.kmeans; "
        "print([m for m in ('igraph', 'sklearn', 'faiss', 'numba') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


# From the graph of `test_leiden_scan_equals_scib_metrics`, one value per resolution.
SCIB_LEIDEN_NMI = [
    0.23504187142856992,
    0.3650485723407281,
    0.39433180529156064,
    0.46250585055073257,
    0.43570074562152844,
    0.4388594405732833,
    0.44596157995133007,
    0.4422948416465846,
    0.4509922337599746,
    0.4425330850169568,
]
SCIB_LEIDEN_ARI = [
    0.07874115750870131,
    0.2251119605986388,
    0.30078926092118574,
    0.4121848227594781,
    0.3919616051247288,
    0.38169133774697017,
    0.3698378614105614,
    0.3706628271638694,
    0.382153010922323,
    0.3527594285433651,
]
