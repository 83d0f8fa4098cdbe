"""Cells: their ids, the columns of obs that play a role, and rows that occur twice."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from sclitmus.core.dataset import Categories, Note
from sclitmus.core.rng import rng_for
from sclitmus.data.wording import did_you_mean, listed, shown
from sclitmus.errors import DataError

# Names that say there is no name. They stay as they are: a type may well be called "unknown".
SUSPECT = frozenset(
    "nan na n/a none null unknown unassigned unannotated unlabeled unlabelled - ? .".split()
)
MANY_NUMBERS = 20  # a column with more distinct numbers than this may be a measurement
BLOCK_VALUES = 4_000_000


def cell_ids(index: Sequence[Any] | pd.Index) -> tuple[tuple[str, ...], tuple[Note, ...]]:
    """Return unique cell ids, and notes on those that had to be changed.

    The first cell of an id keeps it, later ones get ``~2``, ``~3`` …; a missing or empty id
    becomes ``cell-ROW``.
    """
    raw = pd.Series(index, dtype=object)
    missing = raw.isna().to_numpy() | (raw == "").to_numpy(dtype=bool, na_value=False)
    ids = [
        f"cell-{i}" if gone else as_text(v)
        for i, (v, gone) in enumerate(zip(raw, missing, strict=True))
    ]
    notes: tuple[Note, ...] = ()
    if missing.any():
        n = int(missing.sum())
        notes += (Note("cell_ids", f"{n} cells without an id were named by their row", n),)
    if len(set(ids)) < len(ids):
        repeated = [name for name, n in Counter(ids).items() if n > 1]
        taken, turn, changed = set(ids), Counter[str](), 0
        for i, name in enumerate(ids):
            turn[name] += 1
            if turn[name] == 1:
                continue
            while (new := f"{name}~{turn[name]}") in taken:
                turn[name] += 1
            ids[i] = new
            taken.add(new)
            changed += 1
        text = (
            f"{len(repeated)} cell ids occur more than once ({listed(repeated)}); "
            f"{changed} cells were renamed ID~2, ID~3 …"
        )
        notes += (Note("duplicate_cell_ids", text, changed),)
    return tuple(ids), notes


def as_text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def read_obs(
    given: Path | str | pd.DataFrame, cells: Sequence[str]
) -> tuple[pd.DataFrame, tuple[Note, ...]]:
    """Read cell annotations from a csv, tsv or parquet file or a frame, one row per cell of `cells`.

    The first column (of a parquet file: the index, if it has one) holds the cell ids. Cells the
    table lacks have missing values; rows for other cells are ignored; both are noted.

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


def categories(obs: pd.DataFrame, role: str, column: str) -> tuple[Categories, tuple[Note, ...]]:
    """Read the column that plays a role. NaN, None and "" are missing (code -1); nothing else is.

    Whole numbers become their digits ("3", also from 3.0). Names keep every character.

    Raises
    ------
    DataError
        If there is no such column, or it holds measurements or one id per cell.
    """
    if column not in obs.columns:
        known = [str(name) for name in obs.columns]
        raise DataError(
            f"there is no column {shown(column)!r} in obs for the role {role!r}",
            f"one of: {listed(known, 40) or '(obs has no columns)'}",
            f"{did_you_mean(column, known)}give the name with --{role} COLUMN"
            + ("" if known else ", and the table that has it with --obs FILE.csv"),
        )
    values = obs[column]
    if isinstance(values, pd.DataFrame):
        raise DataError(
            f"obs has {values.shape[1]} columns called {shown(column)!r}",
            f"one column for the role {role!r}",
            "rename or remove the others",
        )
    codes, uniques = pd.factorize(values.astype(object), use_na_sentinel=True)
    names = [_name(value) for value in uniques]
    _refuse_measurement(uniques, names, codes, role, column)
    order = sorted({name for name in names if name})
    position = {name: i for i, name in enumerate(order)} | {"": -1}
    renumber = np.array([*(position[name] for name in names), -1], dtype=np.int32)
    found = Categories(renumber[codes], tuple(order))
    return found, _notes(found, role, column)


def _name(value: object) -> str:
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return as_text(value)


def _refuse_measurement(
    uniques: Any, names: list[str], codes: np.ndarray[Any, Any], role: str, column: str
) -> None:
    numbers = all(isinstance(v, (float, int, np.number)) for v in uniques)
    fractions = numbers and any(not float(v).is_integer() for v in uniques)
    n_cells, n_names = int((codes >= 0).sum()), len(names)
    if n_names <= MANY_NUMBERS:
        return
    if fractions or (numbers and 2 * n_names > n_cells) or n_names == n_cells:
        what = "numbers" if numbers else "names"
        raise DataError(
            f"column {shown(column)!r} has {n_names} different {what} in {n_cells} cells "
            f"({listed(names)})",
            f"a column of groups for the role {role!r}, far fewer than there are cells",
            f"name another column with --{role} COLUMN, or bin the values first",
        )


def _notes(found: Categories, role: str, column: str) -> tuple[Note, ...]:
    notes: tuple[Note, ...] = ()
    missing = int((found.codes < 0).sum())
    if missing:
        text = (
            f"{missing} of {len(found.codes)} cells have no {role} in column {shown(column)!r}; "
            f"questions about the {role} leave them out"
        )
        notes += (Note(f"missing_{role}", text, missing),)
    counts = found.counts
    suspects = [
        i for i, name in enumerate(found.names) if name.strip().casefold() in SUSPECT | {""}
    ]
    if suspects:
        n = int(counts[suspects].sum())
        text = (
            f"{n} cells have the {role} {listed(repr(found.names[i]) for i in suspects)}, which is "
            f"taken as a name like any other; empty those entries of {shown(column)!r} if it means "
            "missing"
        )
        notes += (Note(f"suspect_{role}", text, n),)
    alike = Counter(" ".join(name.split()).casefold() for name in found.names)
    twins = [name for name in found.names if alike[" ".join(name.split()).casefold()] > 1]
    if twins:
        text = (
            f"{role} names that differ only in case or spaces are different names: "
            f"{listed(map(repr, twins), 6)}"
        )
        notes += (Note(f"alike_{role}", text, len(twins)),)
    return notes


def repeated_rows(counts: sparse.csr_matrix) -> tuple[Note, ...]:
    """Count cells whose counts are those of an earlier cell. They are kept.

    Rows are compared by a 64-bit linear hash, one random odd weight per gene, so two different
    rows are taken as equal with a probability of about 1e-19.
    """
    n_cells, n_genes = counts.shape
    weights = rng_for(0, "repeated rows").integers(0, 2**63, n_genes, dtype=np.uint64) * 2 + 1
    hashes = np.zeros(n_cells, dtype=np.uint64)
    filled = np.flatnonzero(np.diff(counts.indptr))
    step = max(1, int(BLOCK_VALUES / max(counts.nnz / max(n_cells, 1), 1)))
    for first in range(0, len(filled), step):
        rows = filled[first : first + step]
        start, stop = counts.indptr[rows[0]], counts.indptr[rows[-1] + 1]
        terms = counts.data[start:stop].astype(np.uint64) * weights[counts.indices[start:stop]]
        hashes[rows] = np.add.reduceat(terms, counts.indptr[rows] - start)
    repeats = n_cells - len(np.unique(hashes))
    if not repeats:
        return ()
    text = f"{repeats} cells have exactly the counts of another cell; they are kept"
    return (Note("duplicate_rows", text, repeats),)


def merge_roles(roles: Mapping[str, str], named: Mapping[str, str | None]) -> dict[str, str]:
    """Merge the named roles (label, batch, donor) with the others; the same role twice is an error.

    Raises
    ------
    DataError
        If a role is given two columns.
    """
    merged = dict(roles)
    for role, column in named.items():
        if column is None:
            continue
        if merged.get(role, column) != column:
            raise DataError(
                f"the role {role!r} is given two columns, {column!r} and {merged[role]!r}",
                "one column per role",
                "leave one of them out",
            )
        merged[role] = column
    return merged
