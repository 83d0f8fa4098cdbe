"""The reference representation equals a plain dense computation."""

import numpy as np
from scipy import sparse
from sklearn.decomposition import PCA

from sclitmus.core.dataset import Dataset, Genes
from sclitmus.tasks.before import before


def make(counts: np.ndarray, id: str = "d") -> Dataset:
    n, g = counts.shape
    return Dataset(
        id=id,
        store=sparse.csr_matrix(counts.astype(np.float32)),
        genes=Genes(tuple(f"G{i}" for i in range(g)), ("",) * g, "human"),
        cells=tuple(map(str, range(n))),
    )


def test_equals_dense_pca_of_log_normalised_counts() -> None:
    counts = np.random.default_rng(0).poisson(2.0, size=(60, 30)) + np.eye(60, 30)
    expected = PCA(n_components=30, svd_solver="full").fit_transform(
        np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)
    )
    z = before(make(counts))
    assert z.shape == (60, 30)
    # Signs of components are arbitrary; distances between cells are not.
    np.testing.assert_allclose(np.abs(z[:, :5]), np.abs(expected[:, :5]), atol=1e-3)


def test_the_dataset_is_not_written_into() -> None:
    data = make(np.random.default_rng(1).poisson(2.0, size=(20, 10)) + 1)
    kept = data.counts.copy()
    before(data)
    assert (data.counts != kept).nnz == 0


def test_two_datasets_do_not_share_a_result() -> None:
    rng = np.random.default_rng(2)
    a, b = (make(rng.poisson(3.0, size=(15, 8)) + 1) for _ in range(2))
    assert not np.allclose(before(a), before(b))


def test_two_cells() -> None:
    assert before(make(np.array([[1, 2, 3], [3, 2, 1]]))).shape == (2, 2)
