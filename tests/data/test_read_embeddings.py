"""Supplied embeddings end up in the dataset's rows, or not at all."""

import numpy as np
import pandas as pd
import pytest
from five_cells import CELLS, COUNTS
from scipy import sparse

from sclitmus.data.read import read
from sclitmus.errors import DataError

Z = np.arange(10, dtype=np.float64).reshape(5, 2)


def table(z=Z, cells=CELLS):
    return pd.DataFrame(z, index=pd.Index(cells, name="cell"), columns=["d0", "d1"])


def write(path, given):
    if path.suffix == ".npy":
        np.save(path, given)
    elif path.suffix == ".parquet":
        given.to_parquet(path)
    else:
        given.to_csv(path, sep="," if path.suffix == ".csv" else "\t")
    return path


def refusal(make_adata, given, **parts):
    with pytest.raises(DataError) as error:
        read(make_adata(**parts), embeddings={"mine": given})
    return error.value


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int64", "bool"])
def test_array(make_adata, dtype):
    z = Z.astype(dtype)
    found = read(make_adata(), embeddings={"mine": z}).embeddings["mine"]
    assert found.dtype == np.float32
    assert np.array_equal(found, z.astype(np.float32))
    assert not np.shares_memory(found, z)


@pytest.mark.parametrize("as_text", [True, False])
def test_npy(make_adata, tmp_path, as_text):
    path = write(tmp_path / "z.npy", np.asfortranarray(Z))
    dataset = read(make_adata(), embeddings={"mine": str(path) if as_text else path})
    assert np.array_equal(dataset.embeddings["mine"], Z)


@pytest.mark.parametrize("suffix", ["parquet", "csv", "tsv"])
def test_table_is_aligned_by_cell_id(make_adata, tmp_path, suffix):
    order = [3, 0, 4, 1, 2]
    path = write(tmp_path / f"z.{suffix}", table().iloc[order])
    dataset = read(make_adata(), embeddings={"mine": path})
    assert np.array_equal(dataset.embeddings["mine"], Z)
    assert [note for note in dataset.notes if note.kind == "embedding"] == []


def test_parquet_without_an_index_and_with_ids_anywhere(make_adata, tmp_path):
    frame = table().reset_index()[["d0", "cell", "d1"]]
    frame.to_parquet(tmp_path / "z.parquet", index=False)
    dataset = read(make_adata(), embeddings={"mine": tmp_path / "z.parquet"})
    assert np.array_equal(dataset.embeddings["mine"], Z)


def test_ids_that_are_numbers(make_adata, tmp_path):
    adata = make_adata()
    adata.obs_names = list("43210")
    path = write(tmp_path / "z.csv", table(cells=[0, 1, 2, 3, 4]))
    assert np.array_equal(read(adata, embeddings={"mine": path}).embeddings["mine"], Z[::-1])


@pytest.mark.parametrize("key", ["obsm:X_scGPT", "X_scGPT"])
@pytest.mark.parametrize("made", [np.asarray, sparse.csr_matrix, lambda z: table(z)])
@pytest.mark.parametrize("on_disk", [False, True])
def test_obsm(make_adata, tmp_path, key, made, on_disk):
    adata = make_adata(obsm={"X_scGPT": made(Z)})
    if on_disk:
        adata.write_h5ad(tmp_path / "a.h5ad")
    dataset = read(tmp_path / "a.h5ad" if on_disk else adata, embeddings={"mine": key})
    assert np.array_equal(dataset.embeddings["mine"], Z)


def test_rows_of_empty_cells_are_left_out_of_every_form(make_adata, tmp_path):
    x = COUNTS.copy()
    x[[1, 2]] = 0
    adata = make_adata(x, obsm={"X_e": Z})
    given = {
        "array": Z,
        "npy": write(tmp_path / "z.npy", Z),
        "csv": write(tmp_path / "z.csv", table()),
        "obsm": "X_e",
    }
    dataset = read(adata, embeddings=given)
    for name in given:
        assert np.array_equal(dataset.embeddings[name], Z[[0, 3, 4]]), name


def test_values_of_empty_cells_may_be_anything(make_adata):
    x, z = COUNTS.copy(), Z.copy()
    x[1], z[1] = 0, np.nan
    assert read(make_adata(x), embeddings={"mine": z}).embeddings["mine"].shape == (4, 2)


def test_wrong_number_of_rows_says_both(make_adata):
    error = refusal(make_adata, Z[:4])
    assert error.seen == "embedding 'mine' has 4 rows, the data have 5 cells"
    x = COUNTS.copy()
    x[1] = 0
    error = refusal(make_adata, Z[:4], x=x)
    assert error.seen.endswith("5 cells, of which 1 without any count were left out")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
def test_what_is_not_finite_is_refused(make_adata, value):
    z = Z.copy()
    z[[2, 4], 1] = value
    assert "in 2 cells, first in cell AAAC-2" in refusal(make_adata, z).seen


@pytest.mark.parametrize(
    ("z", "seen"),
    [
        (Z[:, 0], r"shape \(5,\)"),
        (Z[:, :0], r"shape \(5, 0\)"),
        (Z[None], r"shape \(1, 5, 2\)"),
        (Z.astype(str), "values of type"),
        (Z + 1j, "values of type complex128"),
    ],
)
def test_what_is_no_matrix_of_numbers_is_refused(make_adata, z, seen):
    with pytest.raises(DataError, match=seen):
        read(make_adata(), embeddings={"mine": z})


def test_lacking_cells_are_counted_with_examples(make_adata, tmp_path):
    path = write(tmp_path / "z.csv", table(cells=[cell.split("-")[1] + "x" for cell in CELLS]))
    error = refusal(make_adata, path)
    assert "lacks 5 of 5 cells (AAAC-0, AAAC-1, AAAC-2, …); its own ids look like 0x" in error.seen


def test_other_cells_are_ignored_with_a_note(make_adata, tmp_path):
    z = np.vstack([[[9, 9]], Z, [[8, np.nan]]])
    path = write(tmp_path / "z.parquet", table(z, ["p", *CELLS, "q"]))
    dataset = read(make_adata(), embeddings={"mine": path})
    assert np.array_equal(dataset.embeddings["mine"], Z)
    assert [note.count for note in dataset.notes if note.kind == "embedding"] == [2]


def test_ids_that_repeat_cannot_align(make_adata, tmp_path):
    path = write(tmp_path / "z.csv", table(cells=[*CELLS[:4], CELLS[0]]))
    assert "occur more than once in the table (AAAC-0)" in refusal(make_adata, path).seen
    adata = make_adata()
    adata.obs_names = [*CELLS[:4], CELLS[0]]
    with pytest.raises(DataError, match=r"more than once in the data \(AAAC-0\)"):
        read(adata, embeddings={"mine": write(tmp_path / "y.csv", table())})
    assert read(adata, embeddings={"mine": Z}).embeddings["mine"].shape == (5, 2)


def test_an_empty_field_is_refused(make_adata, tmp_path):
    frame = table()
    frame.iloc[3, 0] = None
    error = refusal(make_adata, write(tmp_path / "z.csv", frame))
    assert "nan in 1 cells, first in cell AAAC-3" in error.seen


def test_two_columns_of_text_are_refused(make_adata, tmp_path):
    frame = table().assign(cell_type="T")
    error = refusal(make_adata, write(tmp_path / "z.parquet", frame))
    assert "2 columns that are no numbers (cell_type, cell)" in error.seen


@pytest.mark.parametrize(
    ("name", "content", "seen"),
    [
        ("pickle.npy", None, "cannot be read"),
        ("cut.npy", b"\x93NUMPY\x01\x00v\x00{'descr'", "cannot be read"),
        ("empty.npy", b"", "cannot be read"),
        ("html.parquet", b"<html></html>", "cannot be read"),
        ("empty.csv", b"", "cannot be read"),
        ("z.npz", b"PK", "of no known format"),
        ("z.pt", b"PK", "of no known format"),
    ],
)
def test_files_that_cannot_be_read(make_adata, tmp_path, name, content, seen):
    if content is None:
        np.save(tmp_path / name, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    else:
        (tmp_path / name).write_bytes(content)
    assert seen in refusal(make_adata, tmp_path / name).seen


def test_neither_file_nor_key(make_adata):
    error = refusal(make_adata, "X_scGTP", obsm={"X_scGPT": Z, "X_pca": Z})
    assert "no file X_scGTP, nor such a key in obsm (it has: X_scGPT, X_pca)" in error.seen
    assert error.remedy.startswith("did you mean X_scGPT?")
    assert "obsm has no key 'X_x'" in refusal(make_adata, "obsm:X_x", obsm={"X_pca": Z}).seen
