"""Where a model's published files lie, and that they are still those of the first time."""

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from filelock import FileLock

from sclitmus.errors import NotApplicable, WeightsError
from sclitmus.models.card import ModelCard, WeightFile

log = logging.getLogger(__name__)

ENVIRONMENT = "SCLITMUS_WEIGHTS"
LEDGER = "checksums.json"  # in a model's folder: file → sha256, what it was like then, its origin
READ_ONLY = "read-only"  # in the home: ledgers of folders that nothing can be written to
PUBLISHED, FIRST_USE = "as published", "as when it was first used"
HEAD_BYTES = 512  # enough to tell a web page or a pointer from a checkpoint
LOCK_SECONDS = 600  # another process may be reading gigabytes; after that its lock is not heeded


def weights_home() -> Path:
    """Folder with one folder per model: $SCLITMUS_WEIGHTS, or ~/.cache/sclitmus/weights."""
    given = os.environ.get(ENVIRONMENT)
    return Path(given).expanduser() if given else Path.home() / ".cache" / "sclitmus" / "weights"


def model_folder(id: str, given: str | Path | None = None) -> Path:
    """Folder of a model's files.

    Parameters
    ----------
    given
        The user's --weights: the folder itself, or one that holds a folder named as the model.
    """
    if given is None:
        return weights_home() / id
    folder = Path(given).expanduser()
    return folder / id if (folder / id).is_dir() else folder


@dataclass(frozen=True)
class Weights:
    """The published files of a model, in a folder."""

    card: ModelCard
    folder: Path

    def missing(self) -> list[WeightFile]:
        """Return the files that the model cannot do without and that are not there."""
        return [file for file in self.card.files if not file.optional and not self._is_there(file)]

    def _is_there(self, file: WeightFile) -> bool:
        names = (file.name, file.instead) if file.instead else (file.name,)
        return any((self.folder / name).is_file() for name in names)

    def require(self) -> None:
        """Make sure that all files are there.

        Raises
        ------
        NotApplicable
            If one is missing; the reason says how to get it.
        """
        missing = self.missing()
        if not missing:
            return
        names = ", ".join(file.name for file in missing)
        fetched = [f"get them with: sclitmus fetch {self.card.id}"]
        ways = fetched if any(file.url for file in missing) else []
        ways += dict.fromkeys(file.how for file in missing if file.how and not file.url)
        raise NotApplicable(
            f"weights missing ({names} not in {self.folder}); {'; '.join(ways or fetched)}, or "
            "give their folder with --weights"
        )

    def find(self, name: str) -> Path | None:
        """Return the path of a file that is there, checked against its checksum, or None."""
        path = self.folder / name
        if not path.is_file():
            return None
        self.sha256(name)
        return path

    def file(self, name: str) -> Path:
        """Return the path of a file, checked against its checksum.

        Raises
        ------
        WeightsError
            If it is not there, or is not the file that it was when it was first used.
        """
        self.sha256(name)
        return self.folder / name

    def sha256(self, name: str) -> str:
        """Return the checksum of a file; it is recorded at first use and must never change.

        A file is read again only if its size, times or inode are not those of the last time.

        Raises
        ------
        WeightsError
            If it is not there, or its checksum differs from the published one or from that of its
            first use.
        """
        path = self.folder / name
        stamp = self._stamp(name)
        with _ledger(self.folder) as ledger:
            entry = ledger.get(name, {})
            same = entry.get("seen") == list(stamp)
            digest = str(entry["sha256"]) if same else _digest(path, stamp)
            expected, whence = self.expected(name, entry)
            if expected and digest != expected:
                raise WeightsError(
                    f"{path} has the checksum {digest[:16]}…",
                    f"{expected[:16]}…, {whence}",
                    f"get it again with: sclitmus fetch {self.card.id}{_if_meant(whence, name)}",
                )
            ledger[name] = entry | {"sha256": digest, "seen": list(stamp)}
        return digest

    def expected(self, name: str, entry: dict[str, Any] | None = None) -> tuple[str, str]:
        """Return the checksum that a file must have, and why; empty where nothing is known."""
        published = next((file.sha256 for file in self.card.files if file.name == name), "")
        if published:
            return published.lower(), PUBLISHED
        if entry is None:
            with _ledger(self.folder) as ledger:
                entry = ledger.get(name, {})
        return str(entry.get("sha256", "")), FIRST_USE

    def record(self, name: str, sha256: str, origin: str) -> None:
        """Note the checksum of a file that was just fetched, and where it came from."""
        with _ledger(self.folder) as ledger:
            ledger[name] = {"sha256": sha256, "seen": list(self._stamp(name)), "from": origin}

    def _stamp(self, name: str) -> tuple[int, ...]:
        """What changes when a file does: a copy may keep size and time, but not all of these."""
        path = self.folder / name
        if not path.is_file():
            raise WeightsError(
                f"there is no {name} in {self.folder}",
                f"the files of {self.card.title}",
                f"get them with: sclitmus fetch {self.card.id}",
            )
        state = path.stat()
        return state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino


def _if_meant(whence: str, name: str) -> str:
    if whence == PUBLISHED:
        return ""
    return f"; if the change is meant, delete the entry of {name} in the folder's {LEDGER}"


@lru_cache(maxsize=256)
def _digest(path: Path, stamp: tuple[int, ...]) -> str:
    """Checksum of a file as it was at `stamp`; cached, for folders that keep no ledger."""
    digest = file_sha256(path)
    after = path.stat()
    if (after.st_size, after.st_mtime_ns) != stamp[:2]:
        raise WeightsError(
            f"{path} changed while it was read", "a finished file", "wait until it is complete"
        )
    return digest


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file of any size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def foreign(head: bytes) -> str:
    """Say what the first bytes of a file show it to be, if that is no checkpoint; else nothing."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if not head:
        return "an empty file"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<!--")):
        return "a web page (a host's error or consent page saved under this name)"
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file it points to"
    if head.startswith(b"\x1f\x8b"):
        return "a gzip archive"
    return ""


@contextmanager
def _ledger(folder: Path) -> Iterator[dict[str, Any]]:
    """Read the checksums of a folder and write them back if they changed, one process at a time.

    For a folder that cannot be written to (a shared one) what is not in its own ledger is kept in
    the user's; where that fails too, checksums are known for the length of the process only.
    """
    own = folder / LEDGER
    shared: dict[str, Any] = {}
    lock = _locked(own) if folder.is_dir() else None
    if lock is None:
        shared = _entries(own)
        place = hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:16]
        own = weights_home() / READ_ONLY / f"{place}.json"
        lock = _locked(own) if folder.is_dir() else None
    try:
        kept = _entries(own)
        # Where both have a checksum, the folder's own holds; what the file was like then may
        # look different from here (another machine's inodes), so that of the user's is taken.
        ledger = kept | {
            name: entry
            for name, entry in shared.items()
            if kept.get(name, {}).get("sha256") != entry["sha256"]
        }
        before = json.dumps(ledger, sort_keys=True)
        yield ledger
        if lock is not None and json.dumps(ledger, sort_keys=True) != before:
            _write(own, ledger)
    finally:
        if lock is not None:
            lock.release()


def _locked(path: Path) -> FileLock | None:
    """Take the lock of a ledger, or return None where nothing can be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(path.parent, os.W_OK):
            return None
        lock = FileLock(f"{path}.lock", timeout=LOCK_SECONDS)
        lock.acquire()
    except (OSError, NotImplementedError):  # no permission, read-only disk, no locks, never free
        return None
    return lock


def _write(path: Path, ledger: dict[str, Any]) -> None:
    new = path.with_name(f"{path.name}.new")
    try:
        with new.open("w", encoding="utf-8") as file:
            json.dump(ledger, file, indent=1, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError as error:  # a full disk is no reason not to use the weights
        log.warning("checksums were not recorded in %s: %s", path, error)
        new.unlink(missing_ok=True)


def _entries(path: Path) -> dict[str, Any]:
    try:
        entries: Any = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    whole = isinstance(entries, dict) and all(
        isinstance(entry, dict) and isinstance(entry.get("sha256"), str)
        for entry in entries.values()
    )
    if not whole:
        raise _damaged(path, "it is no table of checksums")
    return dict(entries)


def _damaged(path: Path, why: str) -> WeightsError:
    return WeightsError(
        f"{path} cannot be read: {why}",
        "the checksums of the files of a model",
        "delete it; the checksums of the files as they are now will be recorded",
    )
