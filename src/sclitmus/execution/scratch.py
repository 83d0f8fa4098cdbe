"""One copy of a dataset on disk that every worker maps into memory instead of reading its own."""

import pickle
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy import sparse

from sclitmus.core.dataset import Dataset
from sclitmus.execution.identity import Fingerprint
from sclitmus.execution.store import explain

COUNTS = ("data", "indices", "indptr")


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
    empty = sparse.csr_matrix(dataset.counts.shape, dtype=dataset.counts.dtype)
    rest = replace(dataset, counts=empty, embeddings={})
    try:
        folder.mkdir()
        for part in COUNTS:
            np.save(folder / f"{part}.npy", getattr(dataset.counts, part))
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
    """
    with (folder / "rest.pickle").open("rb") as file:
        rest: Dataset
        hashes: Mapping[str, str | Mapping[str, str]]
        rest, names, hashes = pickle.load(file)  # written by this run, in a folder of its own
    data, indices, indptr = (_mapped(folder / f"{part}.npy") for part in COUNTS)
    counts = sparse.csr_matrix((data, indices, indptr), shape=rest.counts.shape, copy=False)
    embeddings = {name: _mapped(folder / f"embedding-{i}.npy") for i, name in enumerate(names)}
    dataset = replace(rest, counts=counts, embeddings=embeddings)
    # Known already: neither is computed a second time in a worker.
    object.__setattr__(dataset, "_content_hash", hashes["content_hash"])
    fingerprint = Fingerprint(dataset)
    fingerprint.__dict__.update({name: hashes[name] for name in ("counts", "roles", "embeddings")})
    return fingerprint


def _mapped(path: Path) -> np.ndarray:
    return np.asarray(np.load(path, mmap_mode="c", allow_pickle=False))
