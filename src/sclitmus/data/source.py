"""What every format becomes on its way to a Dataset: tables, and matrices where they lie."""

import traceback
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sclitmus.core.dataset import Note
from sclitmus.data.matrix import Matrix
from sclitmus.errors import DataError, SclitmusError


@dataclass(frozen=True)
class Place:
    """A matrix that may hold raw counts.

    Attributes
    ----------
    where
        ``X``, ``layers:NAME`` or ``raw``: what ``--counts`` calls it.
    matrix
        Cells x genes, not yet loaded.
    var
        The genes of its columns, names in the index.
    """

    where: str
    matrix: Matrix
    var: pd.DataFrame


@dataclass(frozen=True)
class Source:
    """An opened file or object; nothing large is in memory that was not there before.

    Attributes
    ----------
    name
        What messages call it.
    obs
        One row per cell, cell ids in the index.
    places
        Where raw counts may be.
    obsm
        Loaders of the arrays that go with cells, by key.
    about
        What the file says of itself, in lower-case keys: title, source, licence, doi.
    path, stamp
        Where it is, if it is no object in memory, and what the file was like before it was opened:
        see `stored.stamp`.
    """

    name: str
    obs: pd.DataFrame
    places: tuple[Place, ...]
    obsm: Mapping[str, Callable[[], Any]] = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    path: Path | None = None
    stamp: tuple[int, int, int] | None = None


ABOUT = {
    "title": "title", "source": "source", "licence": "licence", "license": "licence", "doi": "doi",
    "citation": "source", "reference": "source",
}  # fmt: skip


def about_from(uns: Mapping[str, Any]) -> dict[str, str]:
    """Take what a file says of itself; the first key that fills an entry wins."""
    found: dict[str, str] = {}
    for key, entry in ABOUT.items():
        value = uns.get(key)
        if isinstance(value, np.ndarray) and value.size:
            value = value.ravel()[0]
        if isinstance(value, str) and value:
            found.setdefault(entry, value)
    return found


DAMAGE = (
    OSError,
    EOFError,
    RuntimeError,
    KeyError,
    ValueError,
    SystemError,
    MemoryError,
    zlib.error,
)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what readers raise on a damaged or foreign file into a DataError that names the file."""
    try:
        yield
    except SclitmusError:
        raise
    except PermissionError as error:
        raise DataError(
            f"{path} may not be read: {error.strerror}",
            "read permission on the file and its folders",
            f"change the permissions, for example with chmod u+r {path}",
        ) from error
    # What h5py, zarr, anndata, gzip, blosc and scipy raise on damaged files, as met in tests. A
    # damaged length can ask for a terabyte. A TypeError is theirs only if they raised it.
    except (*DAMAGE, TypeError) as error:
        if isinstance(error, TypeError) and _is_ours(error):
            raise
        first_line = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(
            f"{path} cannot be read: {first_line}",
            "a complete file of the format its name and content promise",
            "it is truncated, damaged or written by an unknown version: copy or download it again, "
            "and try to open it with the program that wrote it",
        ) from error


def _is_ours(error: Exception) -> bool:
    """Whether the line that raised an error is one of this package."""
    raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    return raised_in.is_relative_to(Path(__file__).parents[1])
