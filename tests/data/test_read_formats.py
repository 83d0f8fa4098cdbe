"""Every format gives the same Dataset."""

import gzip
import shutil
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from five_cells import BATCHES, CELLS, COUNTS, IDS, SYMBOLS, TYPES
from scipy import io, sparse

from sclitmus.core.dataset import Dataset
from sclitmus.data.read import read
from sclitmus.errors import DataError


def assert_the_five_cells(dataset: Dataset) -> None:
    assert np.array_equal(dataset.counts.toarray(), COUNTS)
    assert dataset.counts.dtype == np.float32
    assert dataset.counts.has_canonical_format
    assert dataset.cells == tuple(CELLS)
    assert dataset.genes.symbol == tuple(SYMBOLS)
    assert dataset.genes.ensembl == tuple(IDS)
    assert dataset.genes.organism == "human"
    assert np.array_equal(dataset.source_rows, np.arange(5))
    assert dataset.n_source == 5


def write_obs(path: Path) -> Path:
    pd.DataFrame({"cell": CELLS, "cell_type": TYPES, "batch": BATCHES}).to_csv(path, index=False)
    return path


def write_tenx_v3(path: Path) -> Path:
    by_cell = sparse.csr_matrix(COUNTS.astype(np.int32))
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["barcodes"] = np.array(CELLS, dtype="S")
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(by_cell, name)
        group["shape"] = np.array([4, 5])
        features = group.create_group("features")
        features["id"] = np.array(IDS, dtype="S")
        features["name"] = np.array(SYMBOLS, dtype="S")
        features["feature_type"] = np.array(["Gene Expression"] * 4, dtype="S")
        features["genome"] = np.array(["GRCh38"] * 4, dtype="S")
    return path


def write_tenx_v2(path: Path, genomes: tuple[str, ...] = ("GRCh38",)) -> Path:
    by_cell = sparse.csr_matrix(COUNTS.astype(np.int32))
    with h5py.File(path, "w") as file:
        for genome in genomes:
            group = file.create_group(genome)
            group["barcodes"] = np.array(CELLS, dtype="S")
            for name in ("data", "indices", "indptr"):
                group[name] = getattr(by_cell, name)
            group["shape"] = np.array([4, 5])
            group["genes"] = np.array(IDS, dtype="S")
            group["gene_names"] = np.array(SYMBOLS, dtype="S")
    return path


def write_mtx(folder: Path, *, v3: bool, prefix: str = "", barcodes: bool = True) -> Path:
    folder.mkdir(parents=True)
    io.mmwrite(folder / "matrix.mtx", sparse.coo_matrix(COUNTS.T.astype(np.int64)))
    third = ["\tGene Expression"] * 4 if v3 else [""] * 4
    lines = [f"{i}\t{s}{t}\n" for i, s, t in zip(IDS, SYMBOLS, third, strict=True)]
    (folder / ("features.tsv" if v3 else "genes.tsv")).write_text("".join(lines))
    if barcodes:
        (folder / "barcodes.tsv").write_text("".join(f"{cell}\n" for cell in CELLS))
    for file in list(folder.iterdir()):
        if v3:
            with file.open("rb") as plain, gzip.open(f"{file}.gz", "wb") as packed:
                shutil.copyfileobj(plain, packed)
            file.unlink()
    for file in list(folder.iterdir()):
        file.rename(folder / f"{prefix}{file.name}")
    return folder


def write_loom(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        file["matrix"] = COUNTS.T
        file["layers/spliced"] = COUNTS.T
        file["row_attrs/Gene"] = np.array(SYMBOLS, dtype="S")
        file["row_attrs/Accession"] = np.array(IDS, dtype="S")
        file["col_attrs/CellID"] = np.array(CELLS, dtype="S")
        file["col_attrs/cell_type"] = np.array(TYPES, dtype="S")
        file["col_attrs/batch"] = np.array(BATCHES, dtype="S")
        file["col_attrs/umap"] = np.zeros((5, 2))
        file.attrs["title"] = "five cells"
    return path


@pytest.mark.parametrize(
    "form", ["csr", "csc", "sparse array", "dense", "int64", "float64", "float16"]
)
def test_in_memory(make_adata, form):
    made = {
        "csr": sparse.csr_matrix(COUNTS),
        "csc": sparse.csc_matrix(COUNTS),
        "sparse array": sparse.csr_array(COUNTS),
        "dense": COUNTS,
        "int64": sparse.csr_matrix(COUNTS.astype(np.int64)),
        "float64": COUNTS.astype(np.float64),
        "float16": COUNTS.astype(np.float16),
    }[form]
    dataset = read(make_adata(made), label="cell_type", batch="batch")
    assert_the_five_cells(dataset)
    assert dataset.roles["label"].names == ("B", "Mono", "NK", "T")
    assert list(dataset.roles["label"].codes) == [3, 0, 3, 2, 1]
    assert dataset.columns == {"label": "cell_type", "batch": "batch"}
    assert dataset.id == "adata"


@pytest.mark.parametrize("form", ["csr", "csc", "dense"])
@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_h5ad_and_zarr(make_adata, tmp_path, form, suffix):
    x = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "dense": np.asarray}[form](COUNTS)
    adata = make_adata(x, uns={"title": "five cells", "citation": "GEO: GSE12345"})
    path = tmp_path / f"my.cells.{suffix}"
    (adata.write_h5ad if suffix == "h5ad" else adata.write_zarr)(path)
    dataset = read(path, label="cell_type", batch="batch")
    assert_the_five_cells(dataset)
    assert dataset.roles["batch"].names == ("one", "two")
    assert dataset.id == "my.cells"
    assert dataset.card.title == "five cells"
    assert dataset.card.corpora == ("GSE12345",)
    assert dataset.content_hash == read(adata, label="cell_type", batch="batch").content_hash


def test_zarr_of_the_third_format(make_adata, tmp_path):
    with anndata.settings.override(zarr_write_format=3):
        make_adata().write_zarr(tmp_path / "cells.zarr")
    assert_the_five_cells(read(tmp_path / "cells.zarr"))


def test_tenx_v3(tmp_path):
    path, obs = write_tenx_v3(tmp_path / "filtered.h5"), write_obs(tmp_path / "obs.csv")
    dataset = read(path, label="cell_type", obs=obs)
    assert_the_five_cells(dataset)
    assert list(dataset.roles["label"].codes) == [3, 0, 3, 2, 1]


def test_tenx_v2(tmp_path):
    assert_the_five_cells(read(write_tenx_v2(tmp_path / "old.h5")))


def test_tenx_v2_of_two_genomes_is_refused(tmp_path):
    path = write_tenx_v2(tmp_path / "barnyard.h5", ("GRCh38", "mm10"))
    with pytest.raises(DataError, match=r"2 genomes \(GRCh38, mm10\)"):
        read(path)


@pytest.mark.parametrize("v3", [True, False])
def test_mtx_folder(tmp_path, v3):
    assert_the_five_cells(read(write_mtx(tmp_path / "sample", v3=v3)))


def test_mtx_folder_with_a_prefix_as_on_geo(tmp_path):
    dataset = read(write_mtx(tmp_path / "geo", v3=True, prefix="GSM42_"))
    assert_the_five_cells(dataset)
    assert dataset.id == "geo"


def test_mtx_file_stands_for_its_folder(tmp_path):
    folder = write_mtx(tmp_path / "sample", v3=False)
    assert_the_five_cells(read(folder / "matrix.mtx"))


def test_mtx_without_barcodes_names_cells_by_row(tmp_path):
    dataset = read(write_mtx(tmp_path / "sample", v3=False, barcodes=False))
    assert dataset.cells == ("cell-0", "cell-1", "cell-2", "cell-3", "cell-4")
    assert np.array_equal(dataset.counts.toarray(), COUNTS)


def test_mtx_of_cells_by_genes_is_turned(tmp_path):
    folder = write_mtx(tmp_path / "sample", v3=False)
    io.mmwrite(folder / "matrix.mtx", sparse.coo_matrix(COUNTS.astype(np.int64)))
    assert_the_five_cells(read(folder))


def test_mtx_whose_files_do_not_fit_is_refused(tmp_path):
    folder = write_mtx(tmp_path / "sample", v3=False)
    (folder / "barcodes.tsv").write_text("A\nB\n")
    with pytest.raises(DataError, match="4 x 5, but there are 4 features and 2 barcodes"):
        read(folder)


def test_loom(tmp_path):
    dataset = read(write_loom(tmp_path / "cells.loom"), label="cell_type", batch="batch")
    assert_the_five_cells(dataset)
    assert list(dataset.roles["batch"].codes) == [0, 0, 1, 1, 1]
    assert dataset.card.title == "five cells"


def test_loom_layer_by_name(tmp_path):
    dataset = read(write_loom(tmp_path / "cells.loom"), counts="layers:spliced")
    assert_the_five_cells(dataset)


def test_content_decides_not_the_suffix(tmp_path):
    assert_the_five_cells(read(write_tenx_v3(tmp_path / "mislabelled.h5ad")))
    assert_the_five_cells(read(write_loom(tmp_path / "mislabelled.h5")))


def test_backed_object(make_adata, tmp_path):
    make_adata().write_h5ad(tmp_path / "cells.h5ad")
    backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    assert_the_five_cells(read(backed))
    backed.file.close()


def test_view_of_an_object(make_adata):
    adata = make_adata()[[3, 1]]
    dataset = read(adata, label="cell_type")
    assert adata.is_view
    assert np.array_equal(dataset.counts.toarray(), COUNTS[[3, 1]])
    assert dataset.cells == (CELLS[3], CELLS[1])
    assert dataset.roles["label"].names == ("B", "NK")


def test_blocks_smaller_than_the_data_give_the_same(make_adata, tmp_path, monkeypatch):
    monkeypatch.setattr("sclitmus.data.matrix.BLOCK", 3)
    for x in (sparse.csr_matrix(COUNTS), sparse.csc_matrix(COUNTS), COUNTS):
        make_adata(x).write_h5ad(tmp_path / "cells.h5ad")
        assert_the_five_cells(read(tmp_path / "cells.h5ad"))
    assert_the_five_cells(read(write_loom(tmp_path / "cells.loom")))


def test_unknown_object_is_refused():
    with pytest.raises(DataError, match=r"numpy\.ndarray was given as data"):
        read(COUNTS)
