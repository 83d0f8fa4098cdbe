import subprocess
import sys

import numpy as np
import pytest

from sclitmus.errors import NotApplicable
from sclitmus.execution.projection import MAX_CELLS, projected_rows, umap


def blobs(n: int = 60) -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = np.array([[0, 0, 0], [50, 0, 0], [0, 50, 0]])[np.arange(n) % 3]
    return (centres + rng.normal(size=(n, 3))).astype(np.float32)


def test_far_groups_stay_apart_and_the_map_is_the_same_again() -> None:
    z = blobs()
    xy = umap(z)
    assert xy.shape == (60, 2)
    assert xy.dtype == np.float32
    centres = np.stack([xy[i::3].mean(axis=0) for i in range(3)])
    spread = max(np.linalg.norm(xy[i::3] - centres[i], axis=1).max() for i in range(3))
    apart = min(np.linalg.norm(centres[i] - centres[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert apart > spread
    np.testing.assert_array_equal(umap(z), xy)


@pytest.mark.parametrize("n", [5, 6, 16])
def test_few_cells_can_be_drawn(n: int) -> None:
    assert np.isfinite(umap(blobs(n))).all()


def test_equal_cells_can_be_drawn() -> None:
    assert umap(np.ones((30, 2), np.float32)).shape == (30, 2)


def test_too_few_cells_have_no_map() -> None:
    with pytest.raises(NotApplicable, match="needs 5 cells; there are 4"):
        umap(blobs(4))


def test_all_cells_are_shown_up_to_a_number_and_the_same_ones_above_it() -> None:
    np.testing.assert_array_equal(projected_rows(7), np.arange(7))
    rows = projected_rows(3 * MAX_CELLS)
    assert len(np.unique(rows)) == MAX_CELLS
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(rows, projected_rows(3 * MAX_CELLS))
    assert abs(rows.mean() - 1.5 * MAX_CELLS) < 0.05 * MAX_CELLS


def test_nothing_heavy_is_imported_with_the_module() -> None:
    code = (
        "import sys; from sclitmus.execution import projection, study, worker\n"
        "heavy = {'torch', 'scanpy', 'umap', 'polars', 'pydantic', 'sklearn', 'anndata', 'numba'}\n"
        "sys.exit(' '.join(heavy & sys.modules.keys()) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
