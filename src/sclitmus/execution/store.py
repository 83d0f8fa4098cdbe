"""A folder of results by key: written whole or not at all, checked whenever they are read.

An artifact is a payload and a manifest. The manifest is renamed into place last, and holds the
payload's size and SHA-256, so a process killed at any instant leaves either a finished artifact
or none, and a file damaged later is noticed. Nothing is deleted on reading: a damaged artifact
counts as missing, and whoever recomputes it writes over it while holding the lock of its key.
Layout and reasons: docs/design/store.md.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, Literal, NoReturn, Protocol, cast

import numpy as np

from sclitmus.errors import StoreError

FORMAT = 1  # of the folder; raised when files move or change meaning
Stage = Literal["embedding", "answer", "scores", "projection", "shared", "failure"]
SUFFIX: Mapping[Stage, str] = {
    "embedding": ".npy",
    "answer": ".npz",
    "scores": ".parquet",
    "projection": ".npy",
    "shared": ".npy",
    "failure": ".json",
}
_serial = count()


class Sink(Protocol):
    """Where a payload is written to."""

    def write(self, data: bytes, /) -> int: ...


@dataclass(frozen=True)
class Artifact:
    """A payload that was there in full when it was looked up."""

    stage: Stage
    key: str
    path: Path
    sha256: str
    meta: Mapping[str, Any]


@dataclass(frozen=True)
class Missing:
    """No usable artifact; `reason` is empty where there never was one."""

    reason: str = ""


@dataclass(frozen=True)
class Store:
    """A store that is known to be of this version and writable. Made by `Store.open`."""

    root: Path

    @classmethod
    def open(cls, root: Path) -> "Store":
        """Open a store, making it where there is none, and clear what dead processes left.

        Raises
        ------
        StoreError
            If another version of the format wrote it, or the folder cannot be written.
        """
        version = root / "FORMAT"
        with _explained(root):
            for folder in (*SUFFIX, "locks", "tmp", "scratch"):
                (root / folder).mkdir(parents=True, exist_ok=True)
            if not version.exists():
                replace_file(version, whole(f"{FORMAT}\n".encode()), root / "tmp")
            found = version.read_text(encoding="utf-8", errors="replace").strip()
        if found != str(FORMAT):
            raise StoreError(
                f"the store {root} has format {found!r}",
                f"format {FORMAT}",
                "give another --out folder, or use the scLitmus version that wrote this one",
            )
        store = cls(root)
        store._sweep()
        return store

    def find(self, stage: Stage, key: str) -> Artifact | Missing:
        """Look an artifact up and verify every byte of it."""
        manifest, payload = self._paths(stage, key)
        try:
            body = json.loads(manifest.read_bytes())
            seal = body.pop("seal")
            if seal != _seal(body) or (body["stage"], body["key"]) != (stage, key):
                return Missing("its manifest is damaged")
        except FileNotFoundError:
            return Missing()
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return Missing("its manifest is damaged")
        try:
            size = payload.stat().st_size
            if size != body["bytes"]:
                return Missing(f"{payload.name} has {size} bytes instead of {body['bytes']}")
            if _sha256(payload) != body["sha256"]:
                return Missing(f"{payload.name} does not match its checksum")
        except OSError as error:
            return Missing(f"{payload.name} cannot be read: {error.strerror}")
        return Artifact(stage, key, payload, body["sha256"], body["meta"])

    def put(
        self,
        stage: Stage,
        key: str,
        write: Callable[[Sink], object],
        meta: Mapping[str, Any] | None = None,
    ) -> Artifact:
        """Store what `write` writes, in full or not at all. Call it holding the key's lock.

        Raises
        ------
        StoreError
            If the disk is full or the folder not writable; what was there before stays.
        """
        manifest, payload = self._paths(stage, key)
        tmp = self.root / "tmp"
        with _explained(self.root):
            payload.parent.mkdir(exist_ok=True)
            size, sha256 = replace_file(payload, write, tmp)
            body = {
                "stage": stage,
                "key": key,
                "bytes": size,
                "sha256": sha256,
                "meta": dict(meta or {}),
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            text = json.dumps(body | {"seal": _seal(body)}, indent=1, sort_keys=True)
            replace_file(manifest, whole(text.encode()), tmp)
        return Artifact(stage, key, payload, sha256, dict(meta or {}))

    def drop(self, stage: Stage, key: str) -> None:
        """Forget an artifact, if there is one."""
        with _explained(self.root):
            for path in self._paths(stage, key):
                path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def lock(self, key: str, on_wait: Callable[[], object] = lambda: None) -> Iterator[None]:
        """Hold `key` against every other process; the kernel lets go when this one dies.

        Parameters
        ----------
        on_wait
            Called once if another process holds the key.
        """
        from filelock import FileLock, Timeout

        lock = FileLock(self.root / "locks" / f"{key}.lock")
        with _explained(self.root):
            try:
                lock.acquire(timeout=0)
            except Timeout:
                on_wait()
                lock.acquire(poll_interval=0.1)
        try:
            yield
        finally:
            lock.release()

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """Make a folder that lives as long as the block, or until this process is found dead."""
        folder = self.root / "scratch" / f"{_owner()}-{next(_serial)}"
        with _explained(self.root):
            folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _paths(self, stage: Stage, key: str) -> tuple[Path, Path]:
        folder = self.root / stage / key[:2]
        return folder / f"{key}.manifest.json", folder / f"{key}{SUFFIX[stage]}"

    def _sweep(self) -> None:
        for left in [*(self.root / "tmp").iterdir(), *(self.root / "scratch").iterdir()]:
            if _owner_is_dead(left.name):
                shutil.rmtree(left, ignore_errors=True)
                with contextlib.suppress(OSError):
                    left.unlink(missing_ok=True)


def replace_file(path: Path, write: Callable[[Sink], object], tmp: Path) -> tuple[int, str]:
    """Write a file beside its place, make it durable, then rename it into place.

    Parameters
    ----------
    tmp
        Folder for the unfinished file, on the file system of `path`.

    Returns
    -------
    Size in bytes and SHA-256 of what was written.
    """
    unfinished = tmp / f"{_owner()}-{next(_serial)}"
    try:
        with unfinished.open("xb", buffering=0) as file:
            sink = _HashingSink(file.fileno())
            write(sink)
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)
    return sink.size, sink.digest.hexdigest()


def whole(data: bytes) -> Callable[[Sink], object]:
    """Return the writer of these bytes."""
    return lambda sink: sink.write(data)


def npy(array: np.ndarray) -> Callable[[Sink], object]:
    """Return the writer of an array in NumPy's own format."""
    return lambda sink: np.save(cast(Any, sink), array, allow_pickle=False)


class _HashingSink:
    """Writes to a descriptor until all is written or an error says why not."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes, /) -> int:
        view = memoryview(data).cast("B")
        while view:
            written = os.write(self.descriptor, view)
            self.digest.update(view[:written])
            self.size += written
            view = view[written:]
        return len(data)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # a folder cannot be opened there; NTFS journals renames
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _seal(body: Mapping[str, Any]) -> str:
    """Checksum of the manifest itself, so that a flipped bit in it is noticed too."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _owner() -> str:
    """Name this process so that a later one can tell whether it still lives.

    A process number alone is used again by the system; with its start time it is not. The host
    is in the name because on a shared disk another machine's processes only look dead.
    """
    import psutil

    host = socket.gethostname().replace("-", "_")
    return f"{host}-{os.getpid()}-{int(psutil.Process().create_time() * 100)}"


def _owner_is_dead(name: str) -> bool:
    import psutil

    parts = name.split("-")
    if len(parts) != 4 or parts[0] != socket.gethostname().replace("-", "_"):
        return False
    try:
        return int(psutil.Process(int(parts[1])).create_time() * 100) != int(parts[2])
    except psutil.NoSuchProcess:
        return True
    except (psutil.Error, ValueError):
        return False


@contextlib.contextmanager
def _explained(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        explain(error, root)


def explain(error: OSError, root: Path) -> NoReturn:
    """Turn an operating system's refusal into an error that says what to do.

    Raises
    ------
    StoreError
        Always.
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise StoreError(
            f"the disk or quota is full: {error.strerror} while writing {root}",
            "free space for the results",
            "free some space, or give an --out folder on another disk; finished results are kept "
            "and the same command goes on from them",
        ) from error
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        raise StoreError(
            f"{error.filename or root} cannot be written: {error.strerror}",
            "a folder this user may write",
            "give another --out folder, or correct the permissions",
        ) from error
    raise StoreError(
        f"the store {root} cannot be used: {error}",
        "a folder on a working disk that supports file locks",
        "give an --out folder on a local disk",
    ) from error
