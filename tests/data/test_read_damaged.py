"""Files that cannot be read end in a DataError with a remedy, never in a traceback."""

import gzip
import shutil

import h5py
import numpy as np
import pytest
from five_cells import COUNTS
from scipy import sparse

from sclitmus.data.matrix import Compressed
from sclitmus.data.read import read
from sclitmus.errors import DataError


def refusal(path, **settings):
    with pytest.raises(DataError) as error:
        read(path, **settings)
    assert error.value.needed
    assert error.value.remedy
    return error.value


@pytest.mark.parametrize(
    ("name", "content", "seen", "remedy"),
    [
        ("page.h5ad", b"\n<!DOCTYPE html><html>404", "an HTML or XML page", "direct link"),
        ("lfs.h5ad", b"version https://git-lfs.github.com/spec/v1\n", "git-lfs", "git lfs pull"),
        ("cells.h5ad.gz", gzip.compress(b"x" * 99, mtime=0), "gzip-compressed", "gunzip"),
        ("cells.h5ad", gzip.compress(b"x" * 99, mtime=0), "gzip-compressed", "gunzip"),
        ("cells.zip", b"PK\x03\x04zip", "zip archive", "unpack"),
        ("empty.h5ad", b"", "empty (0 bytes)", "again"),
        ("noise.h5ad", bytes(range(256)) * 9, "no known format", "copy or download it again"),
        ("seurat.rds", b"RDX3\n", "no known format", "zellkonverter"),
        ("table.csv", b"cell,CD3D\na,1\n", "no known format", "build an AnnData"),
    ],
)
def test_foreign_files(tmp_path, name, content, seen, remedy):
    (tmp_path / name).write_bytes(content)
    error = refusal(tmp_path / name)
    assert seen in error.seen
    assert remedy in error.remedy
    assert str(tmp_path / name) in error.seen


def test_absent_file_with_a_near_name(tmp_path):
    (tmp_path / "pbmc3k.h5ad").touch()
    error = refusal(tmp_path / "pbmc3K.h5ad")
    assert "there is no file or folder" in error.seen
    assert error.remedy.startswith("did you mean pbmc3k.h5ad?")
    assert "there is no file" in refusal(tmp_path / "no" / "such" / "folder.h5ad").seen


def test_folder_without_the_files(tmp_path):
    (tmp_path / "notes.txt").touch()
    error = refusal(tmp_path)
    assert "has no matrix.mtx (it has: notes.txt)" in error.seen


def test_folder_above_the_right_one(tmp_path):
    (tmp_path / "hg19").mkdir()
    (tmp_path / "hg19" / "matrix.mtx").touch()
    assert str(tmp_path / "hg19") in refusal(tmp_path).remedy


def test_folder_of_two_samples(tmp_path):
    for name in ("A_matrix.mtx", "B_matrix.mtx"):
        (tmp_path / name).touch()
    assert "2 files for matrix.mtx: A_matrix.mtx, B_matrix.mtx" in refusal(tmp_path).seen


@pytest.mark.parametrize(
    "content", [b"", b"%%MatrixMarket matrix coordinate integer general\n4 5 9\n1"]
)
def test_broken_mtx(tmp_path, content):
    (tmp_path / "matrix.mtx").write_bytes(content)
    (tmp_path / "genes.tsv").write_text("a\tA\n" * 4)
    assert "cannot be read" in refusal(tmp_path).seen


def test_broken_gzip(tmp_path):
    (tmp_path / "matrix.mtx.gz").write_bytes(gzip.compress(b"%%MatrixMarket" * 50, mtime=0)[:20])
    (tmp_path / "features.tsv.gz").write_bytes(gzip.compress(b"a\tA\n" * 99, mtime=0)[:20])
    assert "cannot be read" in refusal(tmp_path).seen


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
@pytest.mark.parametrize("keep", [0.2, 0.5, 0.8, 0.95, 0.999])
def test_truncated_h5ad(make_adata, tmp_path, form, keep):
    path = tmp_path / "cells.h5ad"
    make_adata(form(COUNTS)).write_h5ad(path, compression="gzip")
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    assert "cannot be read" in refusal(path, label="cell_type").seen


@pytest.mark.parametrize("where", ["X/data", "X/indptr", "obs/cell_type/codes", "var/_index"])
def test_h5ad_with_overwritten_bytes(make_adata, tmp_path, where):
    path = tmp_path / "cells.h5ad"
    make_adata().write_h5ad(path, compression="gzip")
    with h5py.File(path) as file:
        chunk = file[where].id.get_chunk_info(0)
    whole = bytearray(path.read_bytes())
    whole[chunk.byte_offset : chunk.byte_offset + chunk.size] = b"\xff" * chunk.size
    path.write_bytes(whole)
    assert str(path) in refusal(path, label="cell_type").seen


def test_h5ad_of_a_later_anndata(make_adata, tmp_path):
    path = tmp_path / "cells.h5ad"
    make_adata().write_h5ad(path)
    with h5py.File(path, "r+") as file:
        file["obs/cell_type"].attrs["encoding-type"] = "categorical-of-the-future"
    error = refusal(path, label="cell_type")
    assert "/obs of cells.h5ad is stored in a way this anndata does not know" in error.seen
    assert "categorical-of-the-future" in error.seen


@pytest.mark.parametrize("part", ["data", "indices"])
def test_zarr_with_a_chunk_missing(make_adata, tmp_path, part):
    """zarr reads a chunk that is not there as zeros: counts would be lost without a word."""
    path = tmp_path / "cells.zarr"
    make_adata().write_zarr(path)
    (path / "X" / part / "0").unlink()
    error = refusal(path)
    assert error.seen == f"1 of 1 chunks of X/{part} are missing in cells.zarr"


def test_zarr_with_a_table_missing(make_adata, tmp_path):
    path = tmp_path / "cells.zarr"
    make_adata().write_zarr(path)
    (path / ".zmetadata").unlink()
    shutil.rmtree(path / "var")
    assert "has no var" in refusal(path).seen


@pytest.mark.parametrize(
    ("groups", "seen", "remedy"),
    [
        (
            ["mod/rna", "obs2"],
            "neither AnnData, 10x nor loom (it holds: mod, obs2)",
            "mdata['rna']",
        ),
        (["weights"], "it holds: weights", "convert it to .h5ad"),
        (["obs"], "has no var (it has: obs)", "adata.write_h5ad"),
    ],
)
def test_other_hdf5_files(tmp_path, groups, seen, remedy):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        for group in groups:
            file.create_group(group)
    error = refusal(tmp_path / "other.h5")
    assert seen in error.seen
    assert remedy in error.remedy


def test_tables_that_do_not_belong_to_the_matrix(make_adata, tmp_path):
    path = tmp_path / "cells.h5ad"
    make_adata(COUNTS).write_h5ad(path)
    with h5py.File(path, "r+") as file:
        del file["X"]
        file["X"] = COUNTS[:3]
    assert (
        "X of cells.h5ad is 3 x 4, but there are 5 rows in obs and 4 in var" in refusal(path).seen
    )


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("indices", [0, 9, 1]),
        ("indices", [0, 2**32 + 1, 1]),
        ("indptr", [0, 2, 1]),
        ("indptr", [0, 2, 9]),
    ],
)
def test_inconsistent_sparse_matrix(part, value):
    parts = {"data": np.ones(3), "indices": np.array([0, 1, 1]), "indptr": np.array([0, 2, 3])}
    parts[part] = np.array(value)
    with pytest.raises(DataError, match="is inconsistent"):
        Compressed(**parts, shape=(2, 4)).load()


def test_file_without_permission(make_adata, tmp_path, monkeypatch):
    path = tmp_path / "cells.h5ad"
    make_adata().write_h5ad(path)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.open", refuse)  # as root may read everything
    assert "may not be read: Permission denied" in refusal(path).seen


def test_layout_from_before_anndata_07(tmp_path):
    """obs and var as compound arrays, the sparse matrix by its h5sparse attributes."""
    x = sparse.csr_matrix(COUNTS)
    with h5py.File(tmp_path / "old.h5ad", "w") as file:
        group = file.create_group("X")
        group.attrs["h5sparse_format"], group.attrs["h5sparse_shape"] = "csr", (5, 4)
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(x, name)
        cells = [(f"c{i}".encode(), kind) for i, kind in enumerate([1, 0, 1, 1, 0])]
        file["obs"] = np.array(cells, dtype=[("index", "S8"), ("type", "i4")])
        file["var"] = np.array([(f"G{i}".encode(),) for i in range(4)], dtype=[("index", "S8")])
    dataset = read(tmp_path / "old.h5ad", label="type")
    assert np.array_equal(dataset.counts.toarray(), COUNTS)
    assert list(dataset.roles["label"].codes) == [1, 0, 1, 1, 0]
