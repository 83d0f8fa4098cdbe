"""Files that a model is pretrained on, and the cells in them that others hold too."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from sclitmus.core.dataset import Dataset
from sclitmus.data.read import read
from sclitmus.data.same_cells import same_cells
from sclitmus.errors import DataError
from sclitmus.execution.corpus_files import read_corpus


def counts_of(n_cells: int, n_genes: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.poisson(np.exp(rng.normal(0, 1, n_genes)), (n_cells, n_genes))


def write(path: Path, counts: np.ndarray, first: int = 0, donors: int = 3) -> Path:
    n_cells, n_genes = counts.shape
    obs = pd.DataFrame(
        {"donor": [f"d{i % donors}" for i in range(n_cells)]},
        index=[f"{path.stem}-{i}" for i in range(n_cells)],
    )
    var = pd.DataFrame(index=[f"GENE{first + i}" for i in range(n_genes)])
    anndata.AnnData(sparse.csr_matrix(counts.astype(np.float32)), obs, var).write_h5ad(path)
    return path


def test_the_same_cells_are_found_whatever_genes_and_names_the_files_have(tmp_path: Path) -> None:
    counts = counts_of(40, 120, 0)
    again = counts[[3, 17, 30]][:, 20:].copy()  # fewer genes
    again[0, :4] += 1  # counted a little otherwise
    mixed = np.vstack([counts_of(5, 100, 1), again])
    first = read(write(tmp_path / "first.h5ad", counts))
    second = read(write(tmp_path / "second.h5ad", mixed, first=20))
    assert same_cells(first, second).tolist() == [3, 17, 30]
    assert same_cells(second, first).tolist() == [5, 6, 7]
    stranger = read(write(tmp_path / "stranger.h5ad", counts, first=5000))
    assert same_cells(first, stranger).tolist() == []


def test_cells_with_few_genes_in_common_are_not_called_the_same(tmp_path: Path) -> None:
    few = np.ones((4, 10))
    one, two = (read(write(tmp_path / f"{n}.h5ad", few)) for n in "ab")
    assert same_cells(one, two).tolist() == []


@pytest.mark.data
def test_the_cells_that_real_files_are_known_to_share_are_found(shared_data: Path) -> None:
    """Checked by their barcodes where the files have any: 66 and 34."""

    def of(name: str) -> Dataset:
        return read(shared_data / f"{name}.h5ad")

    tested = of("pbmc_3chem")
    assert len(same_cells(of("pbmc_3batch_silver"), tested)) == 66
    assert len(same_cells(of("pbmc_7study_silver"), tested)) == 34


def test_a_corpus_is_read_from_files_and_folders_without_the_cells_of_others(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    counts = counts_of(30, 80, 2)
    write(folder / "b.h5ad", counts_of(20, 80, 3))
    write(folder / "a.h5ad", counts)
    (folder / "notes.txt").write_text("not counts")
    single = write(tmp_path / "single.h5ad", counts_of(10, 80, 4))
    tested = write(tmp_path / "tested.h5ad", counts[:7])
    corpus = read_corpus([folder, single], column="donor", without=[tested])
    assert [(source.id, source.n_cells) for source in corpus] == [
        ("a", 23),
        ("b", 20),
        ("single", 10),
    ]
    assert corpus[0].role("group").names == ("d0", "d1", "d2")
    assert [note.count for note in corpus[0].notes if note.kind == "shared_cells"] == [7]
    assert set(corpus[0].cells).isdisjoint({f"a-{i}" for i in range(7)})
    with pytest.raises(DataError, match="all 30 cells of a"):
        read_corpus([folder / "a.h5ad"], without=[folder / "a.h5ad"])
    with pytest.raises(DataError, match="no file to learn from"):
        read_corpus([])


def test_large_files_stay_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "cells.h5ad", counts_of(30, 80, 2))
    monkeypatch.setattr("sclitmus.execution.corpus_files.ON_DISK", 10)
    [source] = read_corpus([path])
    assert "stay on disk" in " ".join(note.text for note in source.notes)
