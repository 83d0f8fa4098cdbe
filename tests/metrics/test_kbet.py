from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from sclitmus.errors import NotApplicable
from sclitmus.metrics import spectral
from sclitmus.metrics.kbet import kbet_per_label, kbet_scores
from sclitmus.metrics.neighbours import Neighbours, nearest_neighbours
from sclitmus.metrics.spectral import leading_eigenvectors

GOLDEN = Path(__file__).parent / "golden" / "mixing.npz"


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.fixture(scope="module")
def fifty(golden: dict[str, np.ndarray]) -> Neighbours:
    return nearest_neighbours(golden["z"], 50)


@pytest.mark.parametrize("reverse", [False, True])
def test_kbet_as_scib_metrics(
    golden: dict[str, np.ndarray], fifty: Neighbours, reverse: bool
) -> None:
    label = 6 - golden["label"] if reverse else golden["label"]
    name = "kbet_reversed" if reverse else "kbet"
    scores = kbet_scores(fifty, label, golden["batch"], compat=True)
    # pynndescent may miss a neighbour in diffusion space; one cell of the smallest type is 0.03.
    np.testing.assert_allclose(scores, golden[f"{name}_types"], atol=0.01)
    score = kbet_per_label(fifty, label, golden["batch"], compat=True)
    assert score == pytest.approx(float(golden[name]), abs=0.003)


def test_kbet_does_not_depend_on_the_order_of_types(
    golden: dict[str, np.ndarray], fifty: Neighbours
) -> None:
    scores = kbet_scores(fifty, golden["label"], golden["batch"])
    turned = kbet_scores(fifty, 6 - golden["label"], golden["batch"])
    np.testing.assert_allclose(turned[::-1], scores)
    # scib-metrics' values do: the first type's 14 cells leave 13 dimensions to all others.
    assert golden["kbet_types"][2] != golden["kbet_reversed_types"][4]


def test_types_without_an_answer_are_nan(golden: dict[str, np.ndarray], fifty: Neighbours) -> None:
    scores = kbet_scores(fifty, golden["label"], golden["batch"])
    np.testing.assert_array_equal(np.isnan(scores), [False] * 3 + [True, True] + [False] * 2)
    assert kbet_per_label(fifty, golden["label"], golden["batch"]) == pytest.approx(
        np.nanmean(scores)
    )


def one_type(n: int, shift: float) -> tuple[Neighbours, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    batch = rng.integers(0, 2, n).astype(np.int32)
    z = rng.normal(size=(n, 5))
    z[:, 0] += shift * batch
    return nearest_neighbours(z, 50), np.zeros(n, dtype=np.int32), batch


def test_mixed_batches_pass_at_the_level_of_the_test() -> None:
    # Neighbourhoods without replacement vary a little less than the test supposes.
    assert kbet_per_label(*one_type(900, shift=0)) == pytest.approx(0.96, abs=0.04)


def test_batches_next_to_each_other_are_rejected() -> None:
    assert kbet_per_label(*one_type(900, shift=6)) < 0.1


def test_batches_out_of_reach_of_each_other_are_rejected() -> None:
    assert kbet_per_label(*one_type(900, shift=100)) == 0  # the parts have one batch each


def test_a_type_in_small_pieces_is_rejected() -> None:
    # 30 pieces of 20 cells, each mixed: below three neighbourhoods' size, as in scib.
    rng = np.random.default_rng(0)
    z = rng.normal(size=(600, 2)) + 100 * (np.arange(600) % 30)[:, None]
    batch = rng.integers(0, 2, 600).astype(np.int32)
    near = nearest_neighbours(z, 15)
    assert kbet_per_label(near, np.zeros(600, dtype=np.int32), batch) == 0


def test_cells_without_a_neighbour_of_their_type_do_no_harm() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=(400, 3))
    label = (np.arange(400) % 40 == 0).astype(np.int32)  # ten cells scattered among another type
    batch = rng.integers(0, 2, 400).astype(np.int32)
    scores = kbet_scores(nearest_neighbours(z, 6), label, batch)
    assert scores[1] == 0
    assert scores[0] > 0.8


def test_nothing_to_mix(golden: dict[str, np.ndarray], fifty: Neighbours) -> None:
    with pytest.raises(NotApplicable, match="one batch"):
        kbet_per_label(fifty, golden["label"], np.zeros(len(golden["z"]), dtype=np.int32))
    with pytest.raises(NotApplicable, match="no type"):
        kbet_per_label(fifty, golden["batch"], golden["batch"])


# --- eigenvectors ---------------------------------------------------------------------------


def symmetric(n: int, seed: int) -> sparse.csr_matrix:
    half = sparse.random(n, n, density=20 / n, random_state=seed, dtype=np.float64)
    return sparse.csr_matrix(half + half.T)


@pytest.mark.parametrize("n", [60, 700])  # a full decomposition, and block Lanczos
def test_leading_eigenvectors_are_lapacks(n: int) -> None:
    matrix = symmetric(n, 1)
    matrix = matrix / np.abs(np.linalg.eigvalsh(matrix.toarray())).max()
    expected, vectors = np.linalg.eigh(matrix.toarray())
    by_size = np.argsort(-np.abs(expected))
    known = vectors[:, by_size[:2]].astype(np.float32)
    values, found = leading_eigenvectors(matrix.astype(np.float32), 40, known)
    np.testing.assert_allclose(values, expected[by_size[2:42]], atol=2e-6)
    np.testing.assert_allclose(found.T @ found, np.eye(40), atol=1e-5)
    np.testing.assert_allclose(known.T @ found, 0, atol=1e-5)
    residual = matrix @ found.astype(np.float64) - found * values
    assert np.linalg.norm(residual, axis=0).max() < 1.1e-3


def test_repeated_eigenvalues_are_all_found() -> None:
    # Five copies of one matrix: every eigenvalue comes five times, which blocks can follow.
    block = symmetric(120, 2)
    block = block / np.abs(np.linalg.eigvalsh(block.toarray())).max()
    matrix = sparse.csr_matrix(sparse.block_diag([block] * 5)).astype(np.float32)
    single = np.linalg.eigvalsh(block.toarray())
    single = single[np.argsort(-np.abs(single))]
    values, _ = leading_eigenvectors(matrix, 40, np.zeros((600, 0), dtype=np.float32))
    np.testing.assert_allclose(values, np.repeat(single[:8], 5), atol=1e-5)


def test_a_matrix_of_low_rank() -> None:
    # 600 rows but rank 3: the basis runs out, which must neither fail nor invent values.
    rng = np.random.default_rng(0)
    vectors = np.linalg.qr(rng.normal(size=(600, 3)))[0]
    matrix = sparse.csr_matrix((vectors * [1.0, -0.7, 0.5]) @ vectors.T).astype(np.float32)
    values, _ = leading_eigenvectors(matrix, 5, np.zeros((600, 0), dtype=np.float32))
    np.testing.assert_allclose(values, [1.0, -0.7, 0.5, 0, 0], atol=1e-5)


def test_where_blocks_do_not_converge_arpack_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = symmetric(500, 3).astype(np.float32)
    none = np.zeros((500, 0), dtype=np.float32)
    expected, _ = leading_eigenvectors(matrix, 10, none)
    monkeypatch.setattr(spectral, "RESTARTS", 0)
    values, vectors = leading_eigenvectors(matrix, 10, none)
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    np.testing.assert_allclose(matrix @ vectors, vectors * values, atol=1e-4)
