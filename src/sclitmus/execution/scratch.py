"""One copy of a dataset on disk that every worker maps into memory instead of reading its own.

Counts that stay in their own file are not copied: workers read them there. Only when a method wants
all of them at once, a copy is made that every worker maps.
"""

import hashlib
import pickle
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Int64
from scipy import sparse

from sclitmus.core.counts import Counts
from sclitmus.core.dataset import Dataset
from sclitmus.data.backed import Backed
from sclitmus.execution.identity import Fingerprint
from sclitmus.execution.store import explain

COUNTS = ("data", "indices", "indptr")
BLOCK_CELLS = 4096  # written at a time


@dataclass(frozen=True)
class Shelf:
    """The datasets that jobs of a run need: each is put there for its first job and removed
    after its last."""

    folder: Path
    fingerprints: Mapping[str, Fingerprint]
    jobs_left: Counter[str]

    @classmethod
    def of(
        cls, folder: Path, fingerprints: Sequence[Fingerprint], datasets: Iterable[str]
    ) -> "Shelf":
        """Make an empty shelf in `folder` for jobs on these `datasets`, one id per job."""
        return cls(folder, {f.dataset.id: f for f in fingerprints}, Counter(datasets))

    def take(self, dataset: str) -> Path:
        """Return where a dataset is, once it is there."""
        place = self.folder / str(list(self.fingerprints).index(dataset))
        if not place.exists():
            save(self.fingerprints[dataset], place)
        return place

    def release(self, dataset: str) -> None:
        """Say that a job is done with a dataset."""
        self.jobs_left[dataset] -= 1
        if self.jobs_left[dataset] == 0:
            place = self.folder / str(list(self.fingerprints).index(dataset))
            shutil.rmtree(place, ignore_errors=True)


def save(fingerprint: Fingerprint, folder: Path) -> None:
    """Write a dataset and its hashes to an empty folder.

    Raises
    ------
    StoreError
        If the disk is full or the folder cannot be written.
    """
    dataset = fingerprint.dataset
    hashes = {
        "content_hash": dataset.content_hash,
        "counts": fingerprint.counts,
        "roles": fingerprint.roles,
        "embeddings": fingerprint.embeddings,
    }
    names = tuple(dataset.embeddings)
    try:
        folder.mkdir()
        if isinstance(dataset.store, Backed):
            rest = replace(dataset, embeddings={})
        else:
            counts = dataset.counts
            for part in COUNTS:
                np.save(folder / f"{part}.npy", getattr(counts, part))
            empty = sparse.csr_matrix(counts.shape, dtype=counts.dtype)
            rest = replace(dataset, store=empty, embeddings={})
        for i, name in enumerate(names):
            np.save(folder / f"embedding-{i}.npy", dataset.embeddings[name])
        with (folder / "rest.pickle").open("wb") as file:
            pickle.dump((rest, names, hashes), file)
    except OSError as error:
        explain(error, folder)


def load(folder: Path) -> Fingerprint:
    """Map a saved dataset into memory.

    The arrays may be written to, but what is written stays with this process (copy on write):
    a method that scribbles on its input harms no other.

    Raises
    ------
    DataError
        If the counts stay in their own file, and it was written to since.
    """
    with (folder / "rest.pickle").open("rb") as file:
        rest: Dataset
        hashes: Mapping[str, str | Mapping[str, str]]
        rest, names, hashes = pickle.load(file)  # written by this run, in a folder of its own
    counts: Any
    if isinstance(rest.store, Backed):
        rest.store.matrix.refuse_changed()
        counts = Shelved(rest.store, folder)
    else:
        counts = _map(folder, rest.store.shape)
    embeddings = {name: _mapped(folder / f"embedding-{i}.npy") for i, name in enumerate(names)}
    dataset = replace(rest, store=counts, embeddings=embeddings)
    # Known already: neither is computed a second time in a worker.
    object.__setattr__(dataset, "_content_hash", hashes["content_hash"])
    fingerprint = Fingerprint(dataset)
    fingerprint.__dict__.update({name: hashes[name] for name in ("counts", "roles", "embeddings")})
    return fingerprint


@dataclass(frozen=True, eq=False)
class Shelved:
    """Counts that stay in their own file; `load` maps a copy that all workers share.

    The first worker to ask for all of them makes the copy, in bounded memory, for the others, too.
    """

    counts: Backed
    folder: Path

    @property
    def shape(self) -> tuple[int, int]:
        return self.counts.shape

    @property
    def nnz(self) -> int:
        return self.counts.nnz

    def blocks(self, n: int) -> Iterator[sparse.csr_matrix]:
        return self.counts.blocks(n)

    def take(self, rows: Int64[np.ndarray, "n_rows"]) -> Counts:
        return self.counts.take(rows)

    def hashed(self) -> hashlib.blake2b:
        return self.counts.hashed()

    def load(self) -> sparse.csr_matrix:
        return self._whole

    @cached_property
    def _whole(self) -> sparse.csr_matrix:
        from filelock import FileLock

        place = self.folder / "whole"
        try:
            with FileLock(self.folder / "whole.lock"):
                if not place.exists():
                    partial = self.folder / "partial"
                    shutil.rmtree(partial, ignore_errors=True)  # of a worker that was killed
                    partial.mkdir()
                    _write(self.counts, partial)
                    partial.replace(place)
        except OSError as error:
            explain(error, place)
        return _map(place, self.shape)


def _write(counts: Backed, folder: Path) -> None:
    """Write the three arrays of all counts, block by block.

    Not into mapped files: a full disk would kill the process instead of raising an error.
    """
    indptr = counts.indptr
    np.save(folder / "indptr.npy", indptr)
    with (folder / "data.npy").open("wb") as data, (folder / "indices.npy").open("wb") as indices:
        _begin(data, np.dtype(np.float32), counts.nnz)
        _begin(indices, indptr.dtype, counts.nnz)
        for block in counts.blocks(BLOCK_CELLS):
            data.write(np.ascontiguousarray(block.data).data)
            indices.write(block.indices.astype(indptr.dtype).data)


def _begin(file: BinaryIO, dtype: np.dtype[Any], n: int) -> None:
    """Write the head of an .npy file of n values."""
    head = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (n,)}
    np.lib.format.write_array_header_1_0(file, head)


def _map(folder: Path, shape: tuple[int, int]) -> sparse.csr_matrix:
    data, indices, indptr = (_mapped(folder / f"{part}.npy") for part in COUNTS)
    return sparse.csr_matrix((data, indices, indptr), shape=shape, copy=False)


def _mapped(path: Path) -> np.ndarray:
    return np.asarray(np.load(path, mmap_mode="c", allow_pickle=False))
