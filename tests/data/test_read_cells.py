"""Cells, labels and batches: every odd case has a stated behaviour."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from five_cells import BATCHES, CELLS, COUNTS, TYPES

from sclitmus.core.dataset import Categories
from sclitmus.data.cells import repeated_rows
from sclitmus.data.read import read
from sclitmus.data.roles import categories
from sclitmus.data.simulate import simulate
from sclitmus.errors import DataError

HOSTILE = [
    "<script>alert('x')</script>", "two\nlines", "α/β T  cell", "x" * 10_000, '","\t{{7*7}}',
]  # fmt: skip


def obs(**columns):
    return pd.DataFrame({name: list(values) for name, values in columns.items()}, index=CELLS)


def notes(dataset, kind):
    return [note for note in dataset.notes if note.kind == kind]


def label(make_adata, values):
    return read(make_adata(obs=obs(type=values)), label="type")


def test_empty_cells_are_left_out_with_a_count(make_adata):
    x = COUNTS.copy()
    x[[0, 3]] = 0
    table = obs(type=["only here", "B", "B", "NK", "B"])
    dataset = read(make_adata(x, obs=table), label="type")
    assert dataset.cells == ("AAAC-1", "AAAC-2", "AAAC-4")
    assert list(dataset.source_rows) == [1, 2, 4]
    assert dataset.n_source == 5
    assert dataset.roles["label"].names == ("B",)  # the others' only cells are gone
    assert notes(dataset, "empty_cells")[0].count == 2
    assert notes(dataset, "empty_cells")[0].text.startswith("2 of 5 cells have no counts at all")


def test_only_empty_cells_are_refused(make_adata):
    with pytest.raises(DataError, match="none of the 5 cells"):
        read(make_adata(COUNTS * 0))


@pytest.mark.parametrize("shape", [(0, 4), (5, 0), (0, 0)])
def test_no_cells_or_no_genes_are_refused(shape):
    adata = AnnData(np.zeros(shape, dtype=np.float32))
    with pytest.raises(DataError, match=f"{shape[0]} cells and {shape[1]} genes"):
        read(adata)


@pytest.mark.parametrize("n", [1, 2])
def test_one_or_two_cells_are_read(make_adata, n):
    dataset = read(
        make_adata()[:n], label="cell_type", batch="batch", embeddings={"e": np.ones((n, 2))}
    )
    assert dataset.n_cells == n
    assert dataset.roles["batch"].names == ("one",)


def test_duplicate_cell_ids_get_a_suffix(make_adata):
    table = obs(type=TYPES)
    table.index = ["a", "b", "a", "a~2", "a"]
    with pytest.warns(UserWarning, match="not unique"):
        adata = make_adata(obs=table)
    dataset = read(adata)
    assert dataset.cells == ("a", "b", "a~3", "a~2", "a~4")
    assert notes(dataset, "duplicate_cell_ids")[0].count == 2
    assert list(adata.obs_names) == ["a", "b", "a", "a~2", "a"]


def test_missing_cell_ids_are_named_by_row(make_adata):
    table = obs(type=TYPES)
    table.index = ["a", "", "c", "d", "e"]
    dataset = read(make_adata(obs=table))
    assert dataset.cells == ("a", "cell-1", "c", "d", "e")
    assert notes(dataset, "cell_ids")[0].count == 1


def test_repeated_rows_are_counted_and_kept(make_adata):
    x = COUNTS.copy()
    x[3] = x[4] = x[0]
    dataset = read(make_adata(x))
    assert dataset.n_cells == 5
    assert notes(dataset, "duplicate_rows")[0].count == 2
    assert notes(read(make_adata()), "duplicate_rows") == []


def test_rows_alike_but_not_equal_are_not_repeated(monkeypatch):
    counts = simulate(500, 30, seed=1).counts
    monkeypatch.setattr("sclitmus.data.cells.BLOCK_VALUES", 100)
    repeats = 500 - len(np.unique(counts.toarray(), axis=0))
    assert sum(note.count for note in repeated_rows(counts)) == repeats


@pytest.mark.parametrize("missing", [None, np.nan, "", pd.NA])
def test_missing_labels_have_code_minus_one(make_adata, missing):
    dataset = label(make_adata, ["T", missing, "T", "B", missing])
    assert list(dataset.roles["label"].codes) == [1, -1, 1, 0, -1]
    assert dataset.roles["label"].names == ("B", "T")
    assert dataset.n_cells == 5
    assert notes(dataset, "missing_label")[0].count == 2


def test_all_labels_missing_is_read(make_adata):
    dataset = label(make_adata, [None] * 5)
    assert dataset.roles["label"].names == ()
    assert notes(dataset, "missing_label")[0].count == 5


@pytest.mark.parametrize("name", ["nan", "NA", "unknown", "Unassigned", "None", " ", "-"])
def test_names_that_may_mean_missing_stay_and_are_noted(make_adata, name):
    dataset = label(make_adata, ["T", name, "T", "B", name])
    assert name in dataset.roles["label"].names
    assert (dataset.roles["label"].codes >= 0).all()
    assert notes(dataset, "suspect_label")[0].count == 2


def test_names_alike_are_noted_not_merged(make_adata):
    dataset = label(make_adata, ["B cell", "b cell", "B cell ", "T", "T"])
    assert len(dataset.roles["label"].names) == 4
    assert notes(dataset, "alike_label")[0].count == 3


def test_unused_categories_vanish(make_adata):
    column = pd.Categorical(TYPES, categories=["Z", *sorted(set(TYPES)), "A"])
    dataset = label(make_adata, column)
    assert dataset.roles["label"].names == ("B", "Mono", "NK", "T")


def test_one_label_one_batch_one_cell_of_a_label_are_read(make_adata):
    table = obs(type=["T"] * 5, batch=["one"] * 5, rare=["T", "T", "T", "T", "B"])
    dataset = read(make_adata(obs=table), label="type", batch="batch", roles={"rare": "rare"})
    assert dataset.roles["label"].names == ("T",)
    assert dataset.roles["batch"].names == ("one",)
    assert list(dataset.roles["rare"].counts) == [1, 4]


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([3, 1, 3, 10, 1], ("1", "10", "3")),
        ([3.0, 1.0, np.nan, 3.0, 1.0], ("1", "3")),
        ([0.5, 1.5, 0.5, 0.5, 1.5], ("0.5", "1.5")),
        ([True, False, True, True, True], ("False", "True")),
        (pd.array([2, None, 2, 1, 1], dtype="Int64"), ("1", "2")),
        (pd.to_datetime(["2024-01-02"] * 5), ("2024-01-02 00:00:00",)),
    ],
)
def test_columns_of_other_types(make_adata, values, names):
    assert label(make_adata, values).roles["label"].names == names


@pytest.mark.parametrize(
    ("values", "what"),
    [
        (np.random.default_rng(0).normal(size=100).round(3), "numbers"),
        (np.repeat(np.linspace(0, 1, 25), 4), "numbers"),
        (np.random.default_rng(0).integers(0, 10_000, 100), "numbers"),
        ([f"barcode {i}" for i in range(100)], "names"),
    ],
)
def test_measurements_and_ids_are_no_groups(values, what):
    with pytest.raises(DataError, match=rf"different {what} in 100 cells"):
        categories(pd.DataFrame({"x": values}), "label", "x")


@pytest.mark.parametrize("values", [np.arange(100) // 4, [f"t{i // 2}" for i in range(100)]])
def test_many_groups_are_groups(values):
    found, _ = categories(pd.DataFrame({"x": values}), "label", "x")
    assert len(found.names) == len(set(values))


def test_codes_are_those_of_the_plain_definition():
    values = np.random.default_rng(1).choice(["b", "a", None, "", "c10", "c9"], 200)
    found, _ = categories(pd.DataFrame({"x": values}), "label", "x")
    plain = Categories.of(values)
    assert found.names == plain.names
    assert np.array_equal(found.codes, plain.codes)
    assert found.codes.dtype == np.int32


@pytest.mark.parametrize("on_disk", [False, True])
def test_hostile_names_pass_unharmed(make_adata, tmp_path, on_disk):
    table = pd.DataFrame({"<b>": HOSTILE, "batch": HOSTILE[::-1]}, index=HOSTILE)
    adata = make_adata(obs=table)
    if on_disk:
        adata.write_h5ad(tmp_path / "a.h5ad")
    dataset = read(tmp_path / "a.h5ad" if on_disk else adata, label="<b>", batch="batch")
    assert dataset.cells == tuple(HOSTILE)
    assert [dataset.roles["label"].names[code] for code in dataset.roles["label"].codes] == HOSTILE


def test_messages_stay_short_and_on_their_lines_whatever_the_names(make_adata):
    adata = make_adata(obs=obs(**{"x\ny": TYPES, "z" * 10_000: TYPES}))
    with pytest.raises(DataError) as error:
        read(adata, label="x\nz")
    assert len(str(error.value).splitlines()) == 3
    assert len(str(error.value)) < 1000


def test_absent_column_lists_what_is_there(make_adata):
    with pytest.raises(DataError) as error:
        read(make_adata(), label="celltype")
    assert error.value.seen == "there is no column 'celltype' in obs for the role 'label'"
    assert error.value.needed == "one of: cell_type, batch"
    assert error.value.remedy == "did you mean cell_type? give the name with --label COLUMN"


def test_a_role_with_two_columns_is_refused(make_adata):
    with pytest.raises(DataError, match="given two columns"):
        read(make_adata(), label="cell_type", roles={"label": "batch"})


def test_two_columns_of_one_name_are_refused(make_adata):
    table = pd.concat([obs(type=TYPES), obs(type=BATCHES)], axis=1)
    with pytest.raises(DataError, match="2 columns called 'type'"):
        categories(table, "label", "type")


def write(path, table):
    if path.suffix == ".parquet":
        table.to_parquet(path)
    else:
        table.to_csv(path, sep="," if ".csv" in path.name else "\t")
    return path


@pytest.mark.parametrize("name", ["obs.csv", "obs.csv.gz", "obs.tsv", "obs.parquet"])
def test_obs_table_is_aligned_by_cell_id(make_adata, tmp_path, name):
    table = obs(type=["NA", "B", "", "NK", "Mono"], cluster=[0, 1, 0, 2, 1])
    path = write(tmp_path / name, table.iloc[[4, 2, 0, 1, 3]])
    dataset = read(make_adata(), label="type", roles={"group": "cluster"}, batch="batch", obs=path)
    assert dataset.cells == tuple(CELLS)
    assert list(dataset.roles["label"].codes) == [2, 0, -1, 3, 1]
    assert dataset.roles["label"].names == ("B", "Mono", "NA", "NK")
    assert list(dataset.roles["group"].codes) == [0, 1, 0, 2, 1]
    assert dataset.roles["batch"].names == ("one", "two")


def test_obs_table_wins_over_the_file_and_may_lack_cells(make_adata):
    table = obs(cell_type=list("vwxyz")).iloc[:3]
    table.loc["other"] = ["q"]
    dataset = read(make_adata(), label="cell_type", obs=table)
    assert list(dataset.roles["label"].codes) == [0, 1, 2, -1, -1]
    assert [note.text for note in notes(dataset, "obs")] == [
        "2 cells (AAAC-3, AAAC-4) are not in the obs table",
        "1 rows of the obs table are of cells not in the data",
    ]
    assert notes(dataset, "missing_label")[0].count == 2


@pytest.mark.parametrize(
    ("index", "seen"),
    [(list("abcde"), "no cell id in the first column"), ([*CELLS[:4], CELLS[0]], "several rows")],
)
def test_obs_table_that_does_not_fit_is_refused(make_adata, tmp_path, index, seen):
    path = tmp_path / "obs.csv"
    pd.DataFrame({"type": TYPES}, index=index).to_csv(path)
    with pytest.raises(DataError, match=seen):
        read(make_adata(), label="type", obs=path)


@pytest.mark.parametrize(
    ("name", "content"),
    [("gone.csv", None), ("empty.csv", b""), ("bad.parquet", b"PAR1 no"), ("obs.xlsx", b"PK")],
)
def test_obs_table_that_cannot_be_read_is_refused(make_adata, tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=name):
        read(make_adata(), obs=tmp_path / name)
