"""The counts that were chosen: brought into memory, or left on disk where they are too many."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int64, UInt64
from scipy import sparse

from sclitmus.core.counts import Counts, InMemory
from sclitmus.core.dataset import Note
from sclitmus.data.backed import survey
from sclitmus.data.cells import gene_weights, row_hashes
from sclitmus.data.choose import Chosen, not_exact, too_large
from sclitmus.data.counts import LARGEST_COUNT
from sclitmus.data.lognorm import TOTAL_COLUMNS, Blocks, Refused, Scales, find_scales, to_counts
from sclitmus.data.matrix import Matrix
from sclitmus.data.source import Source
from sclitmus.data.stored import StoredMatrix, why_not
from sclitmus.errors import DataError

# Counts that would take more bytes than this stay on disk, unless the caller decides.
MEMORY_LIMIT = 4 * 2**30
BYTES_PER_COUNT = 8  # a float32 and an int32
Columns = Int64[np.ndarray, "n_genes"]


@dataclass(frozen=True)
class Loaded:
    """Counts of every row of the source, the empty ones, too.

    Attributes
    ----------
    counts
        In memory or on disk.
    lengths
        Number of genes each row has counts of.
    hashes
        Of each row's counts; see `cells.row_hashes`.
    notes
        What was done to the values, or where they are.
    """

    counts: Counts
    lengths: Int64[np.ndarray, "n_rows"]
    hashes: UInt64[np.ndarray, "n_rows"]
    notes: tuple[Note, ...] = ()


def load(source: Source, chosen: Chosen, columns: Columns | None, backed: bool | None) -> Loaded:
    """Read the counts of these columns into memory, or only look through them.

    Parameters
    ----------
    columns
        Ascending; None for all.
    backed
        Whether to leave them on disk; by default if they would take more than `MEMORY_LIMIT`.

    Raises
    ------
    DataError
        If they cannot be read, are too large or do not invert, or cannot be left on disk.
    """
    large = chosen.nnz * BYTES_PER_COUNT > MEMORY_LIMIT
    if not backed and (backed is False or not large):
        return _in_memory(source, chosen, columns)
    matrix = chosen.place.matrix
    why = why_not(source.path, matrix)
    if not why and source.path is not None:
        return _on_disk(source, chosen, columns, StoredMatrix.of(source.path, matrix, source.stamp))
    if backed:
        raise _must_be_read(source, chosen, why)
    loaded = _in_memory(source, chosen, columns)
    if source.path is None:  # an object, in memory before
        return loaded
    text = f"{chosen.place.where} {why}: all of its counts were read into memory"
    return replace(loaded, notes=(*loaded.notes, Note("memory", text)))


def _in_memory(source: Source, chosen: Chosen, columns: Columns | None) -> Loaded:
    place = chosen.place
    notes: tuple[Note, ...] = ()
    if chosen.inverted:
        values = place.matrix.load(_precision(place.matrix))
        scales, notes = _scales(source, chosen, lambda: [values])
        matrix = to_counts(values, scales.scale)
    else:
        matrix = place.matrix.load()
        _refuse_too_large(source, chosen, float(matrix.data.max(initial=0)))
    if columns is not None:
        matrix = sparse.csr_matrix(matrix[:, columns])
    hashes = row_hashes(matrix, gene_weights(matrix.shape[1]))
    return Loaded(InMemory(matrix), np.diff(matrix.indptr).astype(np.int64), hashes, notes)


def _on_disk(
    source: Source, chosen: Chosen, columns: Columns | None, stored: StoredMatrix
) -> Loaded:
    scale = None
    notes: tuple[Note, ...] = (Note("memory", f"counts stay on disk, in {stored.path.name}"),)
    if chosen.inverted:
        precision = _precision(chosen.place.matrix)
        scales, inverted = _scales(source, chosen, lambda: stored.blocks(precision))
        scale, notes = scales.scale, (*inverted, *notes)
    found = survey(stored, columns, scale)
    if not chosen.inverted:
        _refuse_too_large(source, chosen, found.largest)
    return Loaded(found.counts, found.counts.lengths, found.hashes, notes)


def _refuse_too_large(source: Source, chosen: Chosen, largest: float) -> None:
    if largest > LARGEST_COUNT:  # of duplicates, which were summed
        raise too_large(source, chosen.place, largest)


def _scales(source: Source, chosen: Chosen, blocks: Blocks) -> tuple[Scales, tuple[Note, ...]]:
    """Find out how the values invert to counts, and say so."""
    place = chosen.place
    totals = {
        name: pd.to_numeric(source.obs[name], errors="coerce").to_numpy(dtype=np.float64)
        for name in TOTAL_COLUMNS
        if name in source.obs.columns and place.matrix.shape[0] == len(source.obs)
    }
    found = find_scales(blocks, totals)
    if isinstance(found, Refused):
        raise not_exact(source, place, found)
    text = (
        f"counts were had back exactly from the log-normalised values in {place.where}, {found.how}"
    )
    if found.unchecked:
        text += f"; in {found.unchecked} cells all values are equal, so nothing could check that"
    return found, (Note("inverted", text, len(found.scale)),)


def _precision(matrix: Matrix) -> type[np.floating[Any]]:
    return np.float64 if matrix.dtype == np.float64 else np.float32


def _must_be_read(source: Source, chosen: Chosen, why: str) -> DataError:
    return DataError(
        f"{chosen.place.where} of {source.name} {why}, and cannot stay on disk",
        "a file whose counts are stored cell by cell: .h5ad or AnnData .zarr (CSR or dense), "
        "10x .h5, or .loom",
        "give the path of such a file; or write one: adata.X = adata.X.tocsr(), then "
        "adata.write_h5ad(…); or leave backed=True out",
    )
