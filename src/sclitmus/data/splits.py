"""Splits as files: which cells are learned from and which are scored, by their ids.

A table with a row per cell and split: ``split``, ``part`` (train, validation or test), ``cell``;
and ``dataset``, ``task``, ``setting``, ``held_out``, ``hash``, which may be left out of a table
made by hand. The hash is over the ids of a split's cells, so that a changed file is noticed.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int64

from sclitmus.core.dataset import Dataset
from sclitmus.core.split import Split
from sclitmus.errors import DataError

if TYPE_CHECKING:
    import polars as pl

# polars is imported where it is used: it starts threads, and workers are forked from a process
# that has imported this module.

PARTS = ("train", "validation", "test")
NEEDED = ("split", "part", "cell")
NAMED = ("dataset", "task", "setting", "held_out", "hash")


@dataclass(frozen=True)
class SplitsFile:
    """Splits of one dataset for one task.

    Attributes
    ----------
    table
        Columns `NEEDED` and `NAMED`, strings.
    """

    path: Path
    dataset: str
    task: str
    table: "pl.DataFrame"

    def splits_of(self, dataset: Dataset) -> tuple[Split, ...]:
        """Find the cells in a dataset.

        Raises
        ------
        DataError
            If a cell is not in it or has no label, or a split has a cell twice, or none to learn
            from or to test.
        NotApplicable
            If the dataset has no labels.
        """
        labels = dataset.role("label").codes
        row_of = {cell: row for row, cell in enumerate(dataset.cells)}
        unknown = sorted(set(self.table["cell"].unique()) - row_of.keys())
        if unknown:
            raise DataError(
                f"{self.path} names {len(unknown)} cells that {dataset.id!r} lacks, "
                f"the first {unknown[0]!r}",
                "cell ids of the dataset",
                "use the file that the splits were exported from; cells without counts are "
                "dropped on reading",
            )
        return tuple(
            self._split(str(name[0]), part, row_of, labels)
            for name, part in self.table.group_by(["split"], maintain_order=True)
        )

    def _split(
        self, name: str, cells: "pl.DataFrame", row_of: Mapping[str, int], labels: np.ndarray
    ) -> Split:
        import polars as pl

        rows = {part: _rows(cells.filter(pl.col("part") == part)["cell"], row_of) for part in PARTS}
        used = np.concatenate(list(rows.values()))
        if len(np.unique(used)) < len(used) or not (len(rows["test"]) and len(rows["train"])):
            raise DataError(
                f"{self.path}: split {name!r} has a cell twice, none to learn from or none to test",
                "cells to learn from and to test, each in one part, once",
                "correct the rows of that split",
            )
        n_unnamed = int((labels[used] < 0).sum())
        if n_unnamed:
            raise DataError(
                f"{self.path}: {n_unnamed} cells of split {name!r} have no label",
                "cells with a label, to learn from and to test alike",
                "remove their rows",
            )
        first = cells.row(0, named=True)
        return Split(
            name,
            rows["test"],
            rows["train"],
            validation=rows["validation"],
            setting=first["setting"],
            held_out=first["held_out"],
        )


def _rows(cells: "pl.Series", row_of: Mapping[str, int]) -> Int64[np.ndarray, "n"]:
    return np.sort(np.array([row_of[cell] for cell in cells], dtype=np.int64))


def splits_table(dataset: Dataset, task: str, splits: Iterable[Split]) -> "pl.DataFrame":
    """Write splits down by cell ids, a row per cell and split."""
    import polars as pl

    cells = np.asarray(dataset.cells, dtype=object)
    parts = []
    for split in splits:
        named = {part: cells[getattr(split, part)].tolist() for part in PARTS}
        mark = hash_of(named)
        for part, ids in named.items():
            about = {
                "dataset": dataset.id,
                "task": task,
                "split": split.name,
                "setting": split.setting,
                "held_out": split.held_out,
                "hash": mark,
                "part": part,
            }
            frame = pl.DataFrame({"cell": ids}, schema={"cell": pl.String})
            parts.append(frame.select(*(pl.lit(v).alias(k) for k, v in about.items()), "cell"))
    return pl.concat(parts)


def write_splits(path: Path, table: "pl.DataFrame") -> None:
    """Write a table of splits, in the format that the name of the file says.

    Raises
    ------
    DataError
        If the name says no format, or the file cannot be written.
    """
    writers: dict[str, Callable[[Path], object]] = {
        ".parquet": table.write_parquet,
        ".csv": table.write_csv,
        ".tsv": partial(table.write_csv, separator="\t"),
    }
    if path.suffix not in writers:
        raise DataError(
            f"splits to be written to {path}", f"one of: {', '.join(writers)}", "rename the file"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writers[path.suffix](path)
    except OSError as error:
        raise DataError(
            f"{path} cannot be written: {error.strerror}", "a writable folder", "choose another"
        ) from error


def hash_of(cells: Mapping[str, Iterable[str]]) -> str:
    """Hash the ids of a split's cells, whatever their order."""
    digest = hashlib.sha256()
    for part in PARTS:
        text = "\x1f".join(sorted(cells.get(part, ())))
        digest.update(f"{part}:{len(text)}:{text}".encode())
    return digest.hexdigest()[:16]


def read_splits(path: Path) -> SplitsFile:
    """Read a table of splits: parquet, or text with commas or tabs.

    Raises
    ------
    DataError
        If it cannot be read, lacks a column, is about several datasets or tasks, or was changed.
    """
    import polars as pl

    table = _read(path)
    lacking = [name for name in NEEDED if name not in table.columns]
    if lacking or table.is_empty():
        raise DataError(
            f"{path} has {'no rows' if not lacking else f'no column {lacking[0]!r}'}",
            f"a row per cell and split, with the columns {', '.join(NEEDED)}",
            "see docs/splits.md for the format",
        )
    table = table.with_columns(pl.lit("").alias(n) for n in NAMED if n not in table.columns)
    table = table.select(pl.col(*NEEDED, *NAMED).cast(pl.String).fill_null(""))
    other = sorted(set(table["part"].unique()) - set(PARTS))
    if other:
        raise DataError(
            f"{path} has the part {other[0]!r}", f"one of: {', '.join(PARTS)}", "correct the column"
        )
    about = table.select("dataset", "task").unique()
    if len(about) > 1:
        raise DataError(
            f"{path} is about {len(about)} datasets or tasks",
            "one dataset and one task per file",
            "keep each in a file of its own",
        )
    for name, part in table.group_by(["split"], maintain_order=True):
        ids = {p: part.filter(pl.col("part") == p)["cell"].to_list() for p in PARTS}
        marks = part.select("setting", "held_out", "hash").unique()
        if len(marks) > 1 or marks["hash"][0] not in ("", hash_of(ids)):
            raise DataError(
                f"{path}: the cells of split {name[0]!r} are not those it was written with",
                "a file as it was exported, or one without the column hash; and one setting, "
                "held_out and hash in all rows of a split",
                "export the splits again, or remove that column if the change was meant",
            )
    return SplitsFile(path, about["dataset"][0], about["task"][0], table)


def _read(path: Path) -> "pl.DataFrame":
    import polars as pl

    try:
        if path.suffix == ".parquet":
            return pl.read_parquet(path)
        comma = "\t" if path.suffix in (".tsv", ".txt") else ","
        return pl.read_csv(path, separator=comma, infer_schema=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(
            f"{path} cannot be read as a table: {error}",
            "a .parquet, .csv or .tsv file",
            "check the path and the format",
        ) from error
