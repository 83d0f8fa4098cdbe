"""Splits as files: the same cells come back, whatever their order; a changed file is noticed."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import sparse

from sclitmus.core.dataset import Categories, Dataset, Genes
from sclitmus.core.split import Split
from sclitmus.data.splits import SplitsFile, hash_of, read_splits, splits_table, write_splits
from sclitmus.errors import DataError
from sclitmus.tasks.annotation import Annotation
from sclitmus.tasks.novel_types import NovelTypes

HOSTILE = [
    'a,b "quoted"',
    "line\nbreak",
    "carriage\r\nreturn",
    "tab\there",
    "ü→🧬",
    "'",
    '"',
    "NA",
    "null",
    "001",
    "1e5",
    " spaces ",
    "\\n",
    "#comment",
    "-",
    "None",
    "x;y|z",
]
SUFFIXES = (".csv", ".tsv", ".parquet")


def data_of(cells: list[str] | None = None, n: int = 40) -> Dataset:
    cells = cells or [f"cell {i}" for i in range(n)]
    n = len(cells)
    label = Categories.of([("a", "b")[i % 2] for i in range(n)])
    genes = Genes(("A", "B"), ("", ""), "unknown")
    store = sparse.csr_matrix(np.ones((n, 2), dtype=np.float32))
    return Dataset("mine", store, genes, tuple(cells), {"label": label})


def kept(data: Dataset, splits: tuple[Split, ...]) -> list[tuple[object, ...]]:
    """What a split is, by cell ids."""
    cells = np.asarray(data.cells, dtype=object)
    parts = ("train", "validation", "test")
    return [
        (s.name, s.setting, s.held_out, *(frozenset(cells[getattr(s, part)]) for part in parts))
        for s in splits
    ]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_written_comes_back(suffix: str, tmp_path: Path) -> None:
    data = data_of(n=60)
    label = Categories.of([("a", "b", "c")[i % 3] for i in range(60)])
    data = Dataset("mine", data.store, data.genes, data.cells, {"label": label})
    for task in (Annotation(draws=2, repeats=1), NovelTypes()):
        splits = task.splits(data, np.random.default_rng(0))
        path = tmp_path / "deep" / f"splits{suffix}"
        write_splits(path, splits_table(data, task.card.id, splits))
        file = read_splits(path)
        assert (file.dataset, file.task) == ("mine", task.card.id)
        found = file.splits_of(data)
        assert [s.key for s in found] == [s.key for s in splits]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_cells_in_another_order_are_the_same_cells(suffix: str, tmp_path: Path) -> None:
    data = data_of()
    splits = Annotation(draws=2, repeats=1).splits(data, np.random.default_rng(0))
    write_splits(tmp_path / f"s{suffix}", splits_table(data, "annotation", splits))
    shuffled = data.take(np.random.default_rng(1).permutation(data.n_cells))
    found = read_splits(tmp_path / f"s{suffix}").splits_of(shuffled)
    assert kept(shuffled, found) == kept(data, splits)
    for split in found:
        assert (np.diff(split.train) > 0).all()
        assert (np.diff(split.test) > 0).all()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_hostile_names_survive(suffix: str, tmp_path: Path) -> None:
    data = data_of(HOSTILE)
    split = Split(
        'without "x", y\n→',
        np.arange(0, 5),
        np.arange(5, 12),
        validation=np.arange(12, len(HOSTILE)),
        setting="k,4",
        held_out='group:"\t,',
    )
    write_splits(tmp_path / f"s{suffix}", splits_table(data, "transfer", [split]))
    found = read_splits(tmp_path / f"s{suffix}").splits_of(data)
    assert kept(data, found) == kept(data, (split,))


def test_the_columns_are_those_that_are_documented() -> None:
    table = splits_table(data_of(), "transfer", [Split("s", np.array([1]), np.array([2]))])
    names = {"split", "part", "cell", "dataset", "task", "setting", "held_out", "hash"}
    assert set(table.columns) == names
    assert table.select("part", "cell").rows() == [("train", "cell 2"), ("test", "cell 1")]


def write(path: Path, *rows: tuple[str, ...], header: str = "split,part,cell") -> Path:
    path.write_text("\n".join([header, *(",".join(row) for row in rows)]))
    return path


TWO = [("s", "train", "cell 0"), ("s", "train", "cell 1"), ("s", "test", "cell 2")]


def test_three_columns_made_by_hand_are_enough(tmp_path: Path) -> None:
    file = read_splits(write(tmp_path / "s.csv", *TWO))
    (split,) = file.splits_of(data_of())
    assert (file.dataset, file.task, split.setting, split.held_out) == ("", "", "", "")
    assert list(split.train) == [0, 1]
    assert list(split.test) == [2]
    assert len(split.validation) == 0


def test_splits_keep_the_order_of_the_file_and_may_be_interleaved(tmp_path: Path) -> None:
    rows = [("z", *rest) for _, *rest in TWO] + [("a", *rest) for _, *rest in TWO]
    mixed = rows[::2] + rows[1::2]
    found = read_splits(write(tmp_path / "s.csv", *mixed)).splits_of(data_of())
    assert [s.name for s in found] == ["z", "a"]
    assert all(list(s.train) == [0, 1] for s in found)


def exported(tmp_path: Path) -> tuple[Path, pl.DataFrame]:
    data = data_of()
    splits = Annotation(shots=(1, 2), draws=2, fractions=()).splits(data, np.random.default_rng(0))
    table = splits_table(data, "annotation", splits)
    return tmp_path / "s.csv", table


def as_they_were(table: pl.DataFrame) -> pl.DataFrame:
    return table


def cell_lost(table: pl.DataFrame) -> pl.DataFrame:
    return table[1:]


def cell_added(table: pl.DataFrame) -> pl.DataFrame:
    extra = table[:1].with_columns(pl.lit("cell 39").alias("cell"), pl.lit("test").alias("part"))
    return pl.concat([table, extra])


def cell_added_without_its_hash(table: pl.DataFrame) -> pl.DataFrame:
    return cell_added(table).with_columns(
        pl.when(pl.int_range(pl.len()) == pl.len() - 1)
        .then(pl.lit(""))
        .otherwise("hash")
        .alias("hash")
    )


def part_changed(table: pl.DataFrame) -> pl.DataFrame:
    first = pl.int_range(pl.len()) == 0
    return table.with_columns(pl.when(first).then(pl.lit("test")).otherwise("part").alias("part"))


def setting_changed(table: pl.DataFrame) -> pl.DataFrame:
    last = pl.int_range(pl.len()) == pl.len() - 1
    return table.with_columns(
        pl.when(last).then(pl.lit("k9")).otherwise("setting").alias("setting")
    )


@pytest.mark.parametrize(
    "change",
    [cell_lost, cell_added, cell_added_without_its_hash, part_changed, setting_changed],
)
def test_a_changed_file_is_noticed(change, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path, table = exported(tmp_path)
    write_splits(path, change(table))
    with pytest.raises(DataError, match="not those it was written with"):
        read_splits(path)


def test_rows_in_another_order_are_no_change(tmp_path: Path) -> None:
    path, table = exported(tmp_path)
    write_splits(path, table.sample(fraction=1.0, shuffle=True, seed=0))
    assert {s.name for s in read_splits(path).splits_of(data_of())} == {
        "k1-01", "k1-02", "k2-01", "k2-02", "all",
    }  # fmt: skip


def test_the_hash_is_of_the_ids_by_part_and_of_nothing_else() -> None:
    parts = {"train": ["b", "a"], "test": ["c"]}
    assert hash_of(parts) == hash_of({"test": ["c"], "train": ["a", "b"], "validation": []})
    others = [
        {"train": ["a"], "test": ["b", "c"]},
        {"train": ["a", "b"], "validation": ["c"]},
        {"train": ["ab"], "test": ["c"]},
        {"train": ["a", "b", "b"], "test": ["c"]},
    ]
    assert len({hash_of(p) for p in (parts, *others)}) == 5


@pytest.mark.parametrize(
    ("rows", "header", "words"),
    [
        ([("s", "train")], "split,part", "no column 'cell'"),
        ([], "split,part,cell", "no rows"),
        ([("s", "learn", "cell 0")], "split,part,cell", "the part 'learn'"),
        (
            [("s", "test", "cell 0", "one"), ("s", "test", "cell 1", "two")],
            "split,part,cell,dataset",
            "about 2 datasets or tasks",
        ),
    ],
)
def test_a_table_that_is_none_of_splits_is_refused(
    rows: list[tuple[str, ...]], header: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=words):
        read_splits(write(tmp_path / "s.csv", *rows, header=header))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([*TWO, ("s", "test", "cell 99"), ("s", "test", "gone")], "names 2 cells .* 'cell 99'"),
        ([*TWO, ("s", "test", "cell 0")], "a cell twice"),
        ([*TWO, ("s", "train", "cell 0")], "a cell twice"),
        (TWO[:2], "none to test"),
        (TWO[2:], "none to learn from"),
        ([*TWO, ("s", "train", "no label")], "no label"),
        ([*TWO, ("s", "test", "no label")], "no label"),
    ],
)
def test_cells_that_do_not_fit_the_data_are_refused(
    rows: list[tuple[str, ...]], words: str, tmp_path: Path
) -> None:
    data = data_of([*(f"cell {i}" for i in range(10)), "no label"])
    codes = data.role("label").codes.copy()
    codes[-1] = -1
    roles = {"label": Categories(codes, ("a", "b"))}
    data = Dataset("mine", data.store, data.genes, data.cells, roles)
    with pytest.raises(DataError, match=words):
        read_splits(write(tmp_path / "s.csv", *rows)).splits_of(data)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("absent.csv", None),
        ("s.parquet", b"no parquet"),
        ("s.csv", b""),
        ("s.csv", b"\xff\xfe\x00broken"),
        ("s.csv", b'split,part,cell\n"never closed'),
    ],
)
def test_what_is_no_table_is_refused_with_a_remedy(
    name: str, content: bytes | None, tmp_path: Path
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=name):
        read_splits(path)


def test_a_file_that_cannot_be_written_is_refused_with_a_remedy(tmp_path: Path) -> None:
    table = splits_table(data_of(), "transfer", [Split("s", np.array([1]), np.array([2]))])
    with pytest.raises(DataError, match=r"one of: \.parquet, \.csv, \.tsv"):
        write_splits(tmp_path / "s.xlsx", table)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written"):
        write_splits(tmp_path / "file" / "s.csv", table)


def test_a_file_is_a_value() -> None:
    table = splits_table(data_of(), "transfer", [Split("s", np.array([1]), np.array([2]))])
    assert SplitsFile(Path("x"), "mine", "transfer", table).splits_of(data_of())[0].name == "s"
