"""What has come of a file so far, until the whole of it is there and right.

The bytes lie in ``NAME.part``; ``NAME.part.json`` says of which version of the file they are. The
file appears under its name when its length and every checksum known of it are right, never before.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from email.message import Message
from pathlib import Path
from typing import Any

from sclitmus.errors import WeightsError
from sclitmus.models.weights import HEAD_BYTES, foreign

CHUNK = 1 << 20
REPORT_SECONDS = 0.1


@dataclass(frozen=True)
class Progress:
    """How far a file is: bytes done of total (0 if unknown), and what happened, in words."""

    name: str
    done: int = 0
    total: int = 0
    note: str = ""


OnProgress = Callable[[Progress], None]


class Again(Exception):  # noqa: N818 - no error yet
    """Something that may go better next time, which should be after `wait` seconds."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.reason, self.wait = reason, wait


@dataclass(frozen=True)
class Claims:
    """What is said of a file before it is there.

    Attributes
    ----------
    size
        In bytes; 0 if unknown.
    hashes
        ``"sha256"``, ``"md5"`` or ``"git-sha1"`` → hex digits.
    by
        Who says so.
    version
        The commit, where the host names one.
    """

    size: int = 0
    hashes: Mapping[str, str] = field(default_factory=dict)
    by: str = "as the host says"
    version: str = ""

    def contradicts(self, other: "Claims") -> str:
        """Return a kind of checksum on which both differ, or nothing."""
        both = self.hashes.keys() & other.hashes.keys()
        return next((kind for kind in sorted(both) if self.hashes[kind] != other.hashes[kind]), "")

    def joined(self, other: "Claims", name: str) -> "Claims":
        """Put both together.

        Raises
        ------
        WeightsError
            If they cannot be about the same file.
        """
        kind = self.contradicts(other)
        if kind:
            raise another_file(name, kind, other.hashes[kind], self.hashes[kind], self.by)
        return replace(
            self,
            size=self.size or other.size,
            hashes={**other.hashes, **self.hashes},
            version=self.version or other.version,
        )


def another_file(name: str, kind: str, seen: str, needed: str, by: str) -> WeightsError:
    """Make the error of a file that is not the one it should be."""
    return WeightsError(
        f"{name} has the {kind} {seen[:16]}…",
        f"{needed[:16]}…, {by}",
        "the host may have another version by now: see its page; if that is meant, delete the "
        "entry of the file in checksums.json",
    )


@dataclass(frozen=True)
class Arrived:
    """A file that is in place: its checksum, and which version it is."""

    sha256: str
    version: str


class Partial:
    """A file that is coming.

    Parameters
    ----------
    path
        Where it will be.
    name
        Its address as the card has it; what is left of another address is not gone on with.
    known
        What is known of it beforehand; it must be so.
    archive
        Whether it may be a compressed archive.
    """

    def __init__(
        self, path: Path, name: str, known: Claims, on_progress: OnProgress, archive: bool
    ) -> None:
        self.path, self.name, self.known = path, name, known
        self.on_progress, self.archive = on_progress, archive
        self.place = path.with_name(f"{path.name}.part")
        self.state_place = path.with_name(f"{path.name}.part.json")
        self.file: Any = None
        self.digests: dict[str, Any] = {}
        self.hashed = 0  # bytes that the digests have seen
        self.restarts = 0
        self.reported = 0.0
        self.size, self.state = self._left_behind()
        self.pieces = 1 if self.size else 0

    def _left_behind(self) -> tuple[int, dict[str, Any]]:
        """What an earlier call left, if it is of the same file and can be gone on with."""
        try:
            state = json.loads(self.state_place.read_text(encoding="utf-8"))
            size = self.place.stat().st_size
            claims = Claims(state["size"], dict(state["hashes"]))
            # Without a sign of its version or a checksum of the whole, pieces might not fit.
            safe = bool(state["etag"] or state["date"] or claims.hashes or self.known.hashes)
            same = state["name"] == self.name and not self.known.contradicts(claims)
            fits = 0 < size <= state["size"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return 0, {}
        return (size, state) if safe and same and fits else (0, {})

    @property
    def complete(self) -> bool:
        return bool(self.state) and self.size == self.state["size"] > 0

    def headers(self) -> dict[str, str]:
        """Return what to ask for: all, or the rest of the version that was begun with."""
        if not (self.size and self.state):
            return {}
        version = self.state["etag"] or self.state["date"]
        return {"Range": f"bytes={self.size}-", **({"If-Range": version} if version else {})}

    def begin(self, claims: Claims, answer: Any) -> None:
        """Start with an answer that carries the file from its beginning."""
        claims = self.known.joined(claims, self.name)
        length = None if answer.chunked else _number(answer.headers["Content-Length"])
        if length is None and not claims.size and not answer.chunked:
            raise Again("the host does not say how long the file is, so that its end is unknown")
        if length is not None and claims.size and length != claims.size:
            raise Again(f"the host announces {length} bytes, the file has {claims.size}")
        self.restarts += self.size > 0
        self.size, self.pieces = 0, 1
        self.state = {
            "name": self.name,
            "size": length or claims.size,
            "hashes": dict(claims.hashes),
            "version": claims.version,
            **_signs(answer.headers),
        }
        self._require_room()
        self._open("wb")

    def go_on(self, claims: Claims, answer: Any) -> None:
        """Go on with an answer that carries the rest, if it is of the same version."""
        unit, _, place = (answer.headers["Content-Range"] or "").partition(" ")
        span, _, total = place.partition("/")
        signs = _signs(answer.headers)
        same = (
            unit == "bytes"
            and span.startswith(f"{self.size}-")
            and _number(total) in (None, self.state["size"])
            and all(sign in ("", self.state[kind] or sign) for kind, sign in signs.items())
            and not claims.contradicts(Claims(hashes=self.state["hashes"]))
        )
        if not same:
            self.discard()
            raise Again("the file on the host is no longer the one that was begun with")
        self.pieces += 1
        self.state["hashes"] = {**claims.hashes, **self.state["hashes"]}
        self._require_room()
        self._open("ab")

    def take(self, block: bytes) -> None:
        """Add the next bytes."""
        if self.state["size"] and self.size + len(block) > self.state["size"]:
            self.discard()
            raise Again("the host sends more than it announced")
        if self.size == 0:
            self._refuse_foreign(block[:HEAD_BYTES])
        left = memoryview(block)
        try:
            while left:  # an unbuffered file may take less than it is given
                left = left[self.file.write(left) :]
        except OSError as error:
            raise self._cannot_write(error) from error
        for digest in self.digests.values():
            digest.update(block)
        self.size += len(block)
        self.hashed = self.size
        if time.monotonic() - self.reported > REPORT_SECONDS:
            self.report()

    def end(self) -> None:
        """Note that the host has nothing more to send."""
        total = self.state["size"]
        if total and self.size < total:
            raise Again(f"the host stopped after {self.size} of {total} bytes")
        if not self.size:
            self.discard()
            raise Again("the host sends an empty file")
        self.state["size"] = self.size

    def accept(self) -> Arrived:
        """Check the whole and give it its name.

        Raises
        ------
        WeightsError
            If it is not the file it should be.
        """
        if self.file is None:
            self._open("ab")
        needed = {**self.state["hashes"], **self.known.hashes}
        found = {kind: self.digests[kind].hexdigest() for kind in {"sha256", *needed}}
        wrong = next((kind for kind, value in needed.items() if found[kind] != value), "")
        if wrong:
            spliced = self.pieces > 1 and not self.restarts
            self.discard()
            if spliced:  # what was begun with and what came later may not belong together
                raise Again(f"the pieces together do not have the {wrong} that they should")
            by = self.known.by if wrong in self.known.hashes else Claims.by
            raise another_file(self.name, wrong, found[wrong], needed[wrong], by)
        try:
            os.fsync(self.file.fileno())
            self.close()
            self.place.replace(self.path)
        except OSError as error:
            raise self._cannot_write(error) from error
        self.state_place.unlink(missing_ok=True)
        self.report()
        return Arrived(found["sha256"], self.state["version"])

    def discard(self) -> None:
        """Forget what came so far."""
        self.close()
        self.place.unlink(missing_ok=True)
        self.state_place.unlink(missing_ok=True)
        self.size, self.pieces, self.state = 0, 0, {}
        self.restarts += 1

    def report(self, note: str = "") -> None:
        self.reported = time.monotonic()
        self.on_progress(Progress(self.path.name, self.size, self.state.get("size", 0), note))

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None

    def _open(self, mode: str) -> None:
        """Open the file and note its version; what is in it already is read for the checksums."""
        kinds = {"sha256", *self.state["hashes"], *self.known.hashes}
        try:
            self.file = self.place.open(mode, buffering=0)  # a kill loses nothing
            if not self.size or self.hashed != self.size or kinds != self.digests.keys():
                self.digests = {kind: _digest(kind, self.state["size"]) for kind in kinds}
                self._hash_again()
            new = self.state_place.with_name(f"{self.state_place.name}.new")
            new.write_text(json.dumps(self.state), encoding="utf-8")
            new.replace(self.state_place)
        except OSError as error:
            raise self._cannot_write(error) from error

    def _hash_again(self) -> None:
        left = self.size
        with self.place.open("rb") as file:
            while left and (block := file.read(min(CHUNK, left))):
                for digest in self.digests.values():
                    digest.update(block)
                left -= len(block)
        self.hashed = self.size

    def _refuse_foreign(self, head: bytes) -> None:
        kind = foreign(head)
        if kind and not (self.archive and "gzip" in kind):
            self.discard()
            raise WeightsError(
                f"the host sent {kind} instead of {self.name}",
                "the file itself",
                "open the page of the model in a browser and look there",
            )

    def _require_room(self) -> None:
        folder = self.path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(folder).free
        except OSError as error:
            raise self._cannot_write(error) from error
        needed = self.state["size"] - self.size
        if needed > free:
            raise WeightsError(
                f"{folder} has room for {free / 1e9:.2f} GB",
                f"{needed / 1e9:.2f} GB for {self.path.name}",
                "make room, or give another folder with --into",
            )

    def _cannot_write(self, error: OSError) -> WeightsError:
        return WeightsError(
            f"{self.path.parent} cannot be written to: {error.strerror or error}",
            "a folder with room, and leave to write to it",
            "make room or give another folder with --into; what came so far is kept",
        )


def _digest(kind: str, size: int) -> Any:
    if kind == "git-sha1":  # git hashes a header with the length before the content
        return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    return hashlib.new(kind, usedforsecurity=kind == "sha256")


def _signs(headers: Message) -> dict[str, str]:
    """What tells this version of a file from another: a strong ETag, and its date."""
    tag = headers["ETag"] or ""
    return {"etag": tag if tag.startswith('"') else "", "date": headers["Last-Modified"] or ""}


def _number(text: str | None) -> int | None:
    return int(text) if text and text.strip().isdigit() else None
