"""AnnData, in memory, as .h5ad or as .zarr. The only module that imports anndata."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from sclitmus.data.matrix import Compressed, Dense, Matrix, matrix_of
from sclitmus.data.source import ABOUT, Place, Source, about_from
from sclitmus.errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData


def from_memory(adata: "AnnData", name: str = "the AnnData object") -> Source:
    """Describe an AnnData object. Nothing in it is changed, and nothing large is copied.

    Raises
    ------
    DataError
        If it is no AnnData object.
    """
    from anndata import AnnData

    if not isinstance(adata, AnnData):
        raise DataError(
            f"a {type(adata).__module__}.{type(adata).__name__} was given as data",
            "a path or an AnnData object",
            "wrap a matrix with anndata.AnnData(counts, obs, var); of a MuData take mdata['rna']",
        )
    layers: Mapping[str, Any] = adata.layers
    found = [("X", adata.X, adata.var)]
    found += [(f"layers:{key}", layers[key], adata.var) for key in layers]
    if adata.raw is not None:
        found.append(("raw", adata.raw.X, adata.raw.var))
    return Source(
        name=name,
        obs=adata.obs,
        places=tuple(
            Place(where, matrix_of(_in_memory(x)), var) for where, x, var in found if x is not None
        ),
        obsm={key: partial(adata.obsm.__getitem__, key) for key in adata.obsm},
        about=about_from(adata.uns),
    )


def _in_memory(x: Any) -> Any:
    """Matrix of a backed object, from its file; anything else as it is."""
    if hasattr(x, "to_memory"):
        return x.to_memory()
    if (
        not isinstance(x, np.ndarray) and not sparse.issparse(x) and hasattr(x, "id")
    ):  # h5py.Dataset
        return np.asarray(x)
    return x


@contextmanager
def open_h5ad(path: Path) -> Iterator[Source]:
    """Open an .h5ad file; matrices stay on disk until one is chosen."""
    import h5py

    with h5py.File(path, "r") as file:
        legacy = isinstance(file.get("obs"), h5py.Dataset) or "raw.X" in file
        if not legacy:
            yield _from_groups(file, path.name)
    if legacy:
        from anndata import read_h5ad

        # Layouts from before anndata 0.7 hold compound arrays, which only its own reader knows.
        with warnings.catch_warnings():
            for category in (FutureWarning, PendingDeprecationWarning):  # "this file is old"
                warnings.simplefilter("ignore", category)
            adata = read_h5ad(path)
        yield from_memory(adata, path.name)


@contextmanager
def open_zarr(path: Path) -> Iterator[Source]:
    """Open an AnnData .zarr folder; matrices stay on disk until one is chosen."""
    import zarr

    yield _from_groups(zarr.open_group(str(path), mode="r"), path.name)


def _from_groups(root: Any, name: str) -> Source:
    """Describe an AnnData on disk, be it an HDF5 file or a zarr group."""
    for needed in ("obs", "var"):
        if needed not in root:
            raise DataError(
                f"{name} has no {needed} (it has: {', '.join(sorted(root)) or 'nothing'})",
                "an AnnData file, with obs, var and X",
                "write it with adata.write_h5ad or adata.write_zarr; of a MuData file take one "
                "modality, mdata['rna'].write_h5ad(…)",
            )
    obs, var = _element(root["obs"], name), _element(root["var"], name)
    places = []
    if "X" in root:
        places += _place("X", root["X"], var, name)
    for key in root.get("layers") or ():
        places += _place(f"layers:{key}", root["layers"][key], var, name)
    if "raw" in root and "X" in root["raw"]:
        places += _place("raw", root["raw"]["X"], _element(root["raw"]["var"], name), name)
    obsm = root.get("obsm") or {}
    uns = root.get("uns") or {}
    return Source(
        name=name,
        obs=obs,
        places=tuple(places),
        obsm={key: partial(_element, obsm[key], name) for key in obsm},
        about=about_from({key: _element(uns[key], name) for key in uns if key in ABOUT}),
    )


def _element(stored: Any, name: str) -> Any:
    """Read a table or an array that is not worth leaving on disk."""
    from anndata._io.specs.registry import IORegistryError  # what the public reader raises
    from anndata.io import read_elem

    try:
        return read_elem(stored)
    except IORegistryError as error:
        raise DataError(
            f"{stored.name} of {name} is stored in a way this anndata does not know: "
            f"{str(error).splitlines()[0]}",
            "tables and arrays as anndata writes them",
            "upgrade anndata (pip install -U anndata); or write the file with the version here",
        ) from error


def _place(where: str, stored: Any, var: pd.DataFrame, name: str) -> list[Place]:
    matrix = _stored_matrix(stored, where, name)
    return [] if matrix is None else [Place(where, matrix, var)]


def _stored_matrix(stored: Any, where: str, name: str) -> Matrix | None:
    encoding = stored.attrs.get("encoding-type", stored.attrs.get("h5sparse_format", ""))
    if hasattr(stored, "shape"):
        if encoding == "null" or not stored.shape:
            return None  # X=None, as anndata writes it
        if len(stored.shape) == 2:
            return Dense(stored)
    shape = stored.attrs.get("shape", stored.attrs.get("h5sparse_shape"))
    if shape is not None and str(encoding).removesuffix("_matrix") in ("csr", "csc"):
        _refuse_missing_chunks(stored, where, name)
        return Compressed(
            stored["data"],
            stored["indices"],
            stored["indptr"],
            (int(shape[0]), int(shape[1])),
            "row" if str(encoding).startswith("csr") else "column",
        )
    raise DataError(
        f"{where} of {name} is stored as {encoding or 'an array of another form'!r}",
        "a dense array, or a CSR or CSC matrix",
        "write the file again with a current anndata",
    )


def _refuse_missing_chunks(stored: Any, where: str, name: str) -> None:
    """Refuse a sparse zarr matrix of which files are missing: zarr would read them as zeros.

    A chunk of nothing but zeros is not written at all, but sparse data hold no zeros, and indices
    are all 0 only if no cell has a second gene. Dense arrays cannot be told apart that way.
    """
    for part in ("data", "indices"):
        n_chunks = getattr(stored[part], "nchunks", 0)  # HDF5 datasets have none
        if n_chunks and stored["data"].shape[0] >= stored["indptr"].shape[0]:
            missing = n_chunks - stored[part].nchunks_initialized
            if missing:
                raise DataError(
                    f"{missing} of {n_chunks} chunks of {where}/{part} are missing in {name}",
                    "all files of the zarr folder",
                    "copy the folder again, completely",
                )
