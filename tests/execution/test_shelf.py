"""A dataset whose counts stay in their own file goes to the workers as its path."""

import os
import pickle
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from toy import Toy, toy_dataset, toy_study

from sclitmus.core.dataset import Dataset
from sclitmus.data.read import read
from sclitmus.errors import DataError, StoreError
from sclitmus.execution.events import Planned
from sclitmus.execution.execute import PRELOAD_LIGHT, execute
from sclitmus.execution.identity import Fingerprint
from sclitmus.execution.scratch import Shelved, load, save


@pytest.fixture
def file(tmp_path: Path) -> Path:
    toy = toy_dataset()
    counts = sparse.vstack([toy.counts[:5], toy.counts[:1] * 0, toy.counts[5:]], format="csr")
    label = [f"type {i % 3}" for i in range(13)]
    obs = pd.DataFrame({"label": label}, index=[f"cell {i}" for i in range(13)])
    anndata.AnnData(counts, obs=obs).write_h5ad(tmp_path / "toy.h5ad")
    return tmp_path / "toy.h5ad"


@pytest.fixture
def dataset(file: Path) -> Dataset:
    return read(file, label="label", backed=True)


def test_a_worker_reads_the_same_cells(dataset: Dataset, file: Path, tmp_path: Path) -> None:
    whole = read(file, label="label", backed=False)
    save(
        Fingerprint(replace(dataset, embeddings={"e": np.eye(12, dtype=np.float32)})),
        tmp_path / "0",
    )
    assert sorted(p.name for p in (tmp_path / "0").iterdir()) == ["embedding-0.npy", "rest.pickle"]
    there = load(tmp_path / "0").dataset
    assert (there.n_cells, there.n_genes, there.nnz) == (12, 6, whole.nnz)
    assert np.array_equal(there.embeddings["e"], np.eye(12))
    assert replace(there, embeddings={}).content_hash == whole.content_hash
    blocks = [block.toarray() for block in there.blocks(5)]
    assert np.array_equal(np.concatenate(blocks), whole.counts.toarray())
    part = there.take(np.array([11, 0]))
    assert np.array_equal(part.counts.toarray(), whole.counts.toarray()[[11, 0]])
    assert not (tmp_path / "0" / "whole").exists()


def test_all_counts_are_copied_once_for_all_workers(dataset: Dataset, tmp_path: Path) -> None:
    save(Fingerprint(dataset), tmp_path / "0")
    (tmp_path / "0" / "partial").mkdir()  # of a worker that was killed
    (tmp_path / "0" / "partial" / "data.npy").write_bytes(b"half")
    first, second = (load(tmp_path / "0").dataset for _ in range(2))
    whole = dataset.counts
    assert (first.counts != whole).nnz == 0
    written = (tmp_path / "0" / "whole" / "data.npy").stat()
    assert (second.counts != whole).nnz == 0
    assert (tmp_path / "0" / "whole" / "data.npy").stat() == written
    assert first.counts is replace(first, roles={}).counts
    first.counts.data[:] = 9  # of this process alone
    assert (second.counts != whole).nnz == 0
    for part in ("data", "indices", "indptr"):
        assert getattr(second.counts, part).dtype == getattr(whole, part).dtype


def test_a_full_disk_is_an_error_of_the_store(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(Fingerprint(dataset), tmp_path / "0")

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("sclitmus.execution.scratch._write", full)
    with pytest.raises(StoreError, match="disk or quota is full"):
        _ = load(tmp_path / "0").dataset.counts


def test_a_file_that_changed_on_the_way_is_refused(
    dataset: Dataset, file: Path, tmp_path: Path
) -> None:
    save(Fingerprint(dataset), tmp_path / "0")
    os.utime(file, (1, 1))
    with pytest.raises(DataError, match=r"toy\.h5ad has changed since it was read"):
        load(tmp_path / "0")


def test_it_can_be_sent_to_another_process(dataset: Dataset, tmp_path: Path) -> None:
    save(Fingerprint(dataset), tmp_path / "0")
    there = load(tmp_path / "0").dataset
    assert isinstance(there.store, Shelved)
    assert there.counts.nnz == dataset.nnz
    again = pickle.loads(pickle.dumps(there))
    assert (again.counts != dataset.counts).nnz == 0


METHODS = (Toy(), Toy(id="b", kind="noise", deterministic=False))


def test_records_are_those_of_counts_in_memory(file: Path, tmp_path: Path) -> None:
    results = []
    for name, backed in (("backed", True), ("memory", False)):
        dataset = read(file, label="label", backed=backed)
        study = toy_study(*METHODS, datasets=(dataset,))
        result = execute(study, tmp_path / name, jobs=2, preload=PRELOAD_LIGHT)
        assert result.exit_status == 0
        results.append(result.records.drop("seconds", "peak_rss_mb"))
    assert results[0].equals(results[1])


def test_a_run_on_a_file_that_changes_says_so(dataset: Dataset, file: Path, tmp_path: Path) -> None:
    def touch(event: object) -> None:
        if isinstance(event, Planned):
            os.utime(file, (1, 1))

    study = toy_study(*METHODS, datasets=(dataset,))
    result = execute(study, tmp_path / "out", jobs=1, preload=PRELOAD_LIGHT, on_event=touch)
    assert set(result.records["status"]) == {"failed"}
    notes = result.records["note"].unique().to_list()
    assert all("toy.h5ad has changed since it was read" in note for note in notes)
