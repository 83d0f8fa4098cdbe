"""An embedding → a file that other tools read, and `--embedding NAME=FILE` too."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from sclitmus.core.dataset import Dataset
from sclitmus.errors import DataError

FORMS = (".npy", ".parquet", ".h5ad")


def check_target(path: Path, source: str | Path | None) -> None:
    """Refuse a target before hours of work go into what cannot be written there.

    Parameters
    ----------
    source
        The file the cells were read from, or None.

    Raises
    ------
    DataError
        If the suffix is not known, the folder is not there, or it is the source itself.
    """
    if path.suffix not in FORMS:
        raise DataError(
            f"{path} ends in {path.suffix or 'nothing'}",
            f"a file ending in one of {', '.join(FORMS)}",
            "choose .npy (rows in the order of the source), .parquet (keyed by cell id) or .h5ad "
            "(a copy of the source with the embedding in obsm)",
        )
    if not path.parent.is_dir():
        raise DataError(f"there is no folder {path.parent}", "an existing folder", "make it first")
    if path.suffix == ".h5ad":
        if source is None or Path(source).suffix != ".h5ad":
            raise DataError(
                f"{path} would be a copy of {source or 'data without a file'}",
                "an .h5ad as the source",
                "write .npy or .parquet instead",
            )
        if path.exists() and path.samefile(source):
            raise DataError(
                f"{path} is the source itself", "another file", "the source is never written into"
            )


def write_embedding(
    path: Path,
    z: Float32[np.ndarray, "n_cells d"],
    cells: Dataset,
    name: str,
    source: str | Path | None = None,
) -> None:
    """Write an embedding of the cells of a dataset, whole or not at all.

    Cells of the source that the dataset left out (they have no counts) are rows of NaN in ``.npy``
    and ``.h5ad``, whose rows are those of the source, and not among those of ``.parquet``.

    Parameters
    ----------
    name
        Of the method; in an ``.h5ad`` the key is ``X_<name>``.
    """
    check_target(path, source)
    if path.suffix == ".npy":
        _whole(path, lambda to: _save(to, _in_source(z, cells)))
    elif path.suffix == ".parquet":
        _whole(path, lambda to: _save_table(to, z, cells))
    else:
        _whole(path, lambda to: _save_copy(to, _in_source(z, cells), name, Path(str(source))))


def _in_source(z: np.ndarray, cells: Dataset) -> Float32[np.ndarray, "n_source d"]:
    if cells.source_rows is None or cells.n_source is None:
        return z
    rows = np.full((cells.n_source, z.shape[1]), np.nan, dtype=np.float32)
    rows[cells.source_rows] = z
    return rows


def _save(path: Path, z: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, z)


def _save_table(path: Path, z: np.ndarray, cells: Dataset) -> None:
    import polars as pl

    columns = {"cell": list(cells.cells)} | {f"d{i}": z[:, i] for i in range(z.shape[1])}
    pl.DataFrame(columns).write_parquet(path)


def _save_copy(path: Path, z: np.ndarray, name: str, source: Path) -> None:
    import h5py
    from anndata.io import write_elem

    shutil.copyfile(source, path)
    with h5py.File(path, "r+") as file:
        write_elem(file.require_group("obsm"), f"X_{name}", z)


def _whole(path: Path, write: Callable[[Path], None]) -> None:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        write(unfinished)
        unfinished.replace(path)
    except OSError as error:
        raise DataError(
            f"{path} cannot be written: {error}",
            "room and permission there",
            "choose another --out",
        ) from error
    finally:
        unfinished.unlink(missing_ok=True)
