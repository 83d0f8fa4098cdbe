"""Embeddings that come ready-made, put into the order of the dataset's cells."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Float32, Int64

from sclitmus.core.dataset import Note
from sclitmus.data.wording import did_you_mean, listed, shown
from sclitmus.errors import DataError

FORMS = "NAME=FILE.npy, NAME=FILE.parquet, NAME=FILE.csv or NAME=obsm:KEY"
CELL_COLUMNS = (
    "cell",
    "cell_id",
    "cellid",
    "barcode",
    "index",
    "obs_names",
    "__index_level_0__",
    "",
)


@dataclass(frozen=True)
class Rows:
    """Which rows of the source the dataset kept.

    Attributes
    ----------
    kept
        Row in the source of each cell.
    n_source
        Number of rows of the source.
    cells
        Id of each kept cell, as the source writes it; not unique if the source's are not.
    """

    kept: Int64[np.ndarray, "n_cells"]
    n_source: int
    cells: tuple[str, ...]


def load_embedding(
    name: str,
    given: str | Path | npt.NDArray[Any],
    rows: Rows,
    obsm: Mapping[str, Callable[[], Any]],
) -> tuple[Float32[np.ndarray, "n_cells d"], tuple[Note, ...]]:
    """Return a float32 array, row i for cell i of the dataset, and notes.

    An array, a ``.npy`` file and an ``obsm`` key are aligned by position with the rows of the
    source, empty cells included. A ``.parquet``, ``.csv`` or ``.tsv`` table is aligned by its one
    column of text (else by a column called cell, cell_id, barcode or index), which holds the cell
    ids; rows of other cells are ignored and noted.

    Raises
    ------
    DataError
        If it cannot be found or read, has the wrong number of rows or lacks cells, or holds
        anything but finite numbers.
    """
    if isinstance(given, np.ndarray):
        return _by_position(name, given, rows), ()
    text = str(given)
    if text.startswith("obsm:") or (text in obsm and not Path(text).exists()):
        return _by_position(name, _from_obsm(name, text.removeprefix("obsm:"), obsm), rows), ()
    path = Path(given)
    if not path.is_file():
        raise DataError(
            f"embedding {shown(name)!r}: there is no file {shown(text)}, nor such a key in obsm "
            f"(it has: {listed(obsm, 20) or 'none'})",
            FORMS,
            did_you_mean(text, list(obsm)) + "check the path or the key",
        )
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return _by_position(name, _npy(name, path), rows), ()
    if suffix in (".parquet", ".csv", ".tsv"):
        return _by_id(name, path, rows)
    raise DataError(
        f"embedding {shown(name)!r}: {path.name} is of no known format",
        FORMS,
        "save the array with numpy.save('embedding.npy', z)",
    )


def _from_obsm(name: str, key: str, obsm: Mapping[str, Callable[[], Any]]) -> npt.NDArray[Any]:
    if key not in obsm:
        raise DataError(
            f"embedding {shown(name)!r}: obsm has no key {shown(key)!r} "
            f"(it has: {listed(obsm, 20) or 'none'})",
            "a key of obsm",
            did_you_mean(key, list(obsm)) + "give NAME=obsm:KEY with one of these keys",
        )
    value = obsm[key]()
    if hasattr(value, "toarray"):  # a sparse matrix
        value = value.toarray()
    return np.asarray(value)


def _npy(name: str, path: Path) -> npt.NDArray[Any]:
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"embedding {shown(name)!r}: {path} cannot be read: {error}",
            "a numeric array saved with numpy.save",
            "save it again: numpy.save('embedding.npy', numpy.asarray(z, dtype='float32'))",
        ) from error
    if isinstance(found, np.ndarray):
        return found
    raise DataError(
        f"embedding {shown(name)!r}: {path} is an archive of arrays",
        "one array, saved with numpy.save",
        "save the array alone: numpy.save('embedding.npy', z)",
    )


def _by_position(name: str, z: npt.NDArray[Any], rows: Rows) -> Float32[np.ndarray, "n_cells d"]:
    if z.ndim != 2 or z.shape[1] == 0:
        raise DataError(
            f"embedding {shown(name)!r} has shape {z.shape}",
            f"two dimensions: {rows.n_source} cells x at least one",
            "reshape it so that row i is cell i",
        )
    if z.shape[0] != rows.n_source:
        dropped = rows.n_source - len(rows.kept)
        also = f", of which {dropped} without any count were left out" if dropped else ""
        raise DataError(
            f"embedding {shown(name)!r} has {z.shape[0]} rows, the data have {rows.n_source} cells"
            + also,
            f"{rows.n_source} rows, in the order of the data",
            "make the embedding from the same file, or give a .parquet or .csv keyed by cell id",
        )
    return _finite(name, z, rows)


def _finite(name: str, z: npt.NDArray[Any], rows: Rows) -> Float32[np.ndarray, "n_cells d"]:
    """Kept rows as float32; refuses what is not a finite number, before or after."""
    if z.dtype.kind not in "buif":
        raise DataError(
            f"embedding {shown(name)!r} holds values of type {z.dtype}",
            "numbers",
            "save it as float32",
        )
    with np.errstate(over="ignore"):
        kept = np.ascontiguousarray(np.asarray(z[rows.kept]), dtype=np.float32)
    bad = np.flatnonzero(~np.isfinite(kept).all(axis=1))
    if len(bad):
        first = kept[bad[0]]
        value = first[~np.isfinite(first)][0]
        raise DataError(
            f"embedding {shown(name)!r} has {value} in {len(bad)} cells, first in cell "
            f"{shown(rows.cells[bad[0]])}",
            "a finite float32 in every place",
            "mend the model that made it; a cell cannot be left out of one method only",
        )
    return kept


def _by_id(
    name: str, path: Path, rows: Rows
) -> tuple[Float32[np.ndarray, "n_cells d"], tuple[Note, ...]]:
    ids, values = _table(name, path)
    for what, names in (("the table", ids), ("the data", rows.cells)):
        repeated = [cell for cell, n in Counter(names).items() if n > 1]
        if repeated:
            raise DataError(
                f"embedding {shown(name)!r}: {len(repeated)} cell ids occur more than once in "
                f"{what} ({listed(repeated)})",
                "each cell id once, to align by it",
                "give the embedding as a .npy array in the order of the data",
            )
    position = {cell: i for i, cell in enumerate(ids)}
    lacking = [cell for cell in rows.cells if cell not in position]
    if lacking:
        raise DataError(
            f"embedding {shown(name)!r}: {path.name} lacks {len(lacking)} of {len(rows.cells)} "
            f"cells ({listed(lacking)}); its own ids look like {listed(ids)}",
            "a row for every cell",
            "write the cell ids as the data do (mind suffixes such as -1), or embed all cells",
        )
    order = np.array([position[cell] for cell in rows.cells], dtype=np.int64)
    found = _finite(name, values, Rows(order, len(ids), rows.cells))
    # Rows of cells without counts are in the table but not in the dataset: extra, too.
    extra = len(ids) - len(rows.cells)
    text = f"{extra} rows of embedding {shown(name)!r} are of cells not in the data, or left out"
    return found, (Note("embedding", text, extra),) if extra else ()


def _table(name: str, path: Path) -> tuple[list[str], npt.NDArray[Any]]:
    """Cell ids and values of a table: one column of ids, all others numbers."""
    import polars as pl

    try:
        if path.suffix.lower() == ".parquet":
            table = pl.read_parquet(path)
        else:
            separator = "," if path.suffix.lower() == ".csv" else "\t"
            table = pl.read_csv(path, separator=separator, infer_schema_length=None)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(
            f"embedding {shown(name)!r}: {path} cannot be read: {error}",
            "a parquet, csv or tsv table, one row per cell",
            "write it again, for example with DataFrame.to_parquet",
        ) from error
    text = [
        c
        for c in table.columns
        if not (table[c].dtype.is_numeric() or table[c].dtype == pl.Boolean)
    ]
    if not text:  # ids may be numbers
        text = [c for c in table.columns if c.lower() in CELL_COLUMNS][:1]
    if len(text) != 1:
        raise DataError(
            f"embedding {shown(name)!r}: {path.name} has {len(text)} columns that are no numbers "
            f"({listed(text) or 'none'})",
            "one column of cell ids, and numbers in all others",
            "name the column of ids 'cell', and remove other columns of text",
        )
    numbers = table.drop(text[0])
    if numbers.width == 0:
        raise DataError(
            f"embedding {shown(name)!r}: {path.name} has only the column of cell ids",
            "at least one column of numbers",
            "write one column per dimension",
        )
    values = numbers.cast(pl.Float32).to_numpy()  # an empty field becomes NaN, which is refused
    return ["" if v is None else str(v) for v in table[text[0]].to_list()], values
