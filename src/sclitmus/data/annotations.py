"""Cell annotations from a table beside the counts, for formats that hold none."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from sclitmus.core.dataset import Note
from sclitmus.data.wording import as_text, listed
from sclitmus.errors import DataError


def read_obs(
    given: Path | str | pd.DataFrame, cells: Sequence[str]
) -> tuple[pd.DataFrame, tuple[Note, ...]]:
    """Read cell annotations from a file or a frame: one row per cell of `cells`, in their order.

    The first column of a csv, tsv or parquet file, or the index a parquet file or a frame was
    given, holds the cell ids. Cells the table lacks have missing values; rows for other cells are
    ignored; both are noted.

    Raises
    ------
    DataError
        If the file cannot be read, repeats a cell id, or knows none of the cells.
    """
    if isinstance(given, pd.DataFrame):
        name, table = "the obs table", given.copy(deep=False)
    else:
        name, table = Path(given).name, _table(Path(given))
    ids = [as_text(v) for v in table.index]
    repeated = [name for name, n in Counter(ids).items() if n > 1]
    if repeated:
        raise DataError(
            f"{name} has several rows for {len(repeated)} cells ({listed(repeated)})",
            "one row per cell id",
            "remove the repeated rows",
        )
    table.index = pd.Index(ids, dtype=object)
    known = set(ids)
    lacking = [cell for cell in cells if cell not in known]
    if len(lacking) == len(cells):
        raise DataError(
            f"no cell id in the first column of {name} ({listed(ids)}) is in the data "
            f"({listed(cells)})",
            "the same cell ids in both",
            "put the cell ids first, and write them as the data do: mind suffixes such as -1",
        )
    notes: tuple[Note, ...] = ()
    if lacking:
        text = f"{len(lacking)} cells ({listed(lacking)}) are not in {name}"
        notes += (Note("obs", text, len(lacking)),)
    extra = len(ids) - (len(cells) - len(lacking))
    if extra:
        notes += (Note("obs", f"{extra} rows of {name} are of cells not in the data", extra),)
    return table.reindex(pd.Index(cells, dtype=object)), notes


def _table(path: Path) -> pd.DataFrame:
    suffix = [s.lower() for s in path.suffixes if s.lower() != ".gz"][-1:]
    try:
        if suffix == [".parquet"]:
            table = pd.read_parquet(path)
            return (
                table
                if not isinstance(table.index, pd.RangeIndex)
                else table.set_index(table.columns[0])
            )
        if suffix in ([".csv"], [".tsv"], [".txt"]):
            separator = "," if suffix == [".csv"] else "\t"
            first = pd.read_csv(path, sep=separator, nrows=0).columns[0]
            # Only the empty field is missing: pandas would take a type called "NA" for one, too.
            return pd.read_csv(
                path, sep=separator, dtype={first: str}, keep_default_na=False, na_values=[""],
            ).set_index(first)  # fmt: skip
    except (OSError, ValueError, IndexError) as error:
        raise DataError(
            f"{path} cannot be read as a table: {error}",
            "a csv, tsv or parquet file with the cell ids in its first column",
            "check the path, and write the table again, for example with DataFrame.to_csv",
        ) from error
    raise DataError(
        f"{path} has a suffix that is not known for tables",
        ".csv, .tsv (also with .gz) or .parquet",
        "convert or rename the file",
    )
