"""The obs columns that play a role: label, batch, donor …"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from sclitmus.core.dataset import Categories, Note
from sclitmus.data.wording import as_text, did_you_mean, listed, shown
from sclitmus.errors import DataError

# Names that say there is no name. They stay as they are: a type may well be called "unknown".
SUSPECT = frozenset(
    (
        "nan", "na", "n/a", "none", "null", "unknown", "unassigned", "unannotated", "unlabeled",
        "unlabelled", "-", "?", ".", "",
    )
)  # fmt: skip
MANY_NUMBERS = 20  # a column with more distinct numbers than this may be a measurement


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
    suspects = [i for i, name in enumerate(found.names) if name.strip().casefold() in SUSPECT]
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
