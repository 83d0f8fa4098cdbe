"""A model's published files, brought from where the authors put them.

One downloader for all hosts, and not huggingface_hub, a figshare client and gdown: every host is in
the end an address that answers to GET, and what matters is the same for all of them and not the
same in the three clients: to go on after a broken connection or a kill, never to mix two versions
of a file, to check length and checksum before a file gets its name, to know a consent page from a
checkpoint, to record the checksum for ever after. What hosts do differently is in `hosts`; what
networks do is in `download`. It is written on urllib, which is always there.
"""

import hashlib
import lzma
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from sclitmus.errors import WeightsError
from sclitmus.models.card import WeightFile, model_card, model_id
from sclitmus.models.download import download
from sclitmus.models.hosts import Hosts, source_of, split_member
from sclitmus.models.partial import CHUNK, Claims, OnProgress, Progress
from sclitmus.models.weights import (
    HEAD_BYTES,
    Weights,
    foreign,
    weights_home,
)

LOCK = ".fetch.lock"
# What reading a damaged archive raises.
BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    NotImplementedError,  # a zip of a version that does not exist
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
)
ARCHIVE = ".archive-"  # begins the name of an archive until what is wanted is out of it


def ignore(progress: Progress) -> None:
    """Do nothing with how far a download is."""


def fetch(
    id: str,
    *,
    into: str | Path | None = None,
    optional: bool = False,
    on_progress: OnProgress = ignore,
    hosts: Hosts | None = None,
) -> list[Path]:
    """Bring the files of a model into its folder; those that are there and right stay.

    Parameters
    ----------
    id
        Of the model's card; dashes for underscores will do.
    into
        Folder with a folder per model; by default `weights.weights_home`.
    optional
        Whether to bring the files too that the model can do without.
    on_progress
        Called some times a second.
    hosts
        Where the hosts are, and how long to bear with them.

    Returns
    -------
    list of Path
        The files of the model that are now there.

    Raises
    ------
    WeightsError
        If a file cannot be fetched, is not what it should be, or must be got by hand.
    MethodError
        If there is no such model.
    """
    weights = weights_in(id, into)
    hosts = hosts or Hosts()
    with _alone(weights.folder, on_progress):
        absent = wanted(weights, optional, on_progress)
        for archive, files in _by_archive(absent).items():
            if archive:
                _fetch_archive(weights, archive, files, hosts, on_progress)
                continue
            for file in files:
                _fetch_file(weights, file, hosts, on_progress)
    by_hand = [file for file in absent if not file.url and not file.optional]
    if by_hand:
        raise WeightsError(
            f"{weights.card.title}: no link to {', '.join(file.name for file in by_hand)}",
            f"these files in {weights.folder}",
            "; ".join(dict.fromkeys(file.how for file in by_hand if file.how))
            or f"see {weights.card.source}",
        )
    paths = [weights.folder / file.name for file in weights.card.files]
    return [path for path in paths if path.is_file()]


def weights_in(id: str, into: str | Path | None = None) -> Weights:
    """Return where `fetch` puts the files of a model."""
    card = model_card(model_id(id))
    return Weights(card, (Path(into).expanduser() if into else weights_home()) / card.id)


def wanted(
    weights: Weights, optional: bool = False, on_progress: OnProgress = ignore
) -> list[WeightFile]:
    """Return the files that are not there, or are there and wrong."""
    files = [file for file in weights.card.files if optional or not file.optional]
    return [file for file in files if not _is_right(weights, file, on_progress)]


def _is_right(weights: Weights, file: WeightFile, on_progress: OnProgress) -> bool:
    path = weights.folder / file.name
    if not path.is_file():
        return False
    with path.open("rb") as there:
        wrong = foreign(there.read(HEAD_BYTES))
    if file.size and path.stat().st_size != file.size:
        wrong = f"{path.stat().st_size} bytes long, not {file.size}"
    try:
        if not wrong:
            weights.sha256(file.name)
    except WeightsError as error:
        wrong = f"not the one it was ({error.needed})"
    if wrong:
        again = "; fetching it again" if file.url else ""
        on_progress(Progress(file.name, note=f"what is there is {wrong}{again}"))
    return not wrong


def _by_archive(files: list[WeightFile]) -> dict[str, list[WeightFile]]:
    """Return archive → the files to take out of it; "" → the files of their own."""
    groups: dict[str, list[WeightFile]] = {}
    for file in files:
        archive, member = split_member(file.url)
        if file.url:
            groups.setdefault(archive if member else "", []).append(file)
    return groups


def _fetch_file(weights: Weights, file: WeightFile, hosts: Hosts, on_progress: OnProgress) -> None:
    on_progress(Progress(file.name, note="asking for it"))
    source, told = source_of(file.url, hosts)
    known = _known(weights, file).joined(told, file.name)
    place = weights.folder / file.name
    arrived = download(source, place, known, hosts.patience, on_progress)
    weights.record(file.name, arrived.sha256, _origin(file.url, arrived.version))


def _known(weights: Weights, file: WeightFile) -> Claims:
    expected, whence = weights.expected(file.name)
    return Claims(file.size, {"sha256": expected} if expected else {}, by=whence)


def _origin(url: str, version: str) -> str:
    return f"{url} ({version})" if version else url


def _fetch_archive(
    weights: Weights, url: str, files: list[WeightFile], hosts: Hosts, on_progress: OnProgress
) -> None:
    """Bring an archive, take the files out of it, and delete it."""
    place = weights.folder / f"{ARCHIVE}{hashlib.sha256(url.encode()).hexdigest()[:12]}"
    version = ""
    if not place.is_file():

        def named(progress: Progress) -> None:
            on_progress(replace(progress, name=url.rpartition("/")[2]))

        named(Progress("", note="asking for it"))
        source, told = source_of(url, hosts)
        arrived = download(source, place, told, hosts.patience, named, archive=True)
        version = arrived.version
    left = {split_member(file.url)[1]: file for file in files}
    seen: list[str] = []
    try:
        for name, size, stream in _members(place):
            seen.append(name)
            file = left.pop(name, None)
            if file is not None:
                sha256 = _take_out(weights, file, size, stream, on_progress)
                weights.record(file.name, sha256, _origin(file.url, version))
            if not left:
                break
    except BROKEN as error:
        if isinstance(error, OSError) and error.errno is not None:  # of this disk
            raise _cannot_write(weights.folder, error) from error
        place.unlink(missing_ok=True)
        raise WeightsError(
            f"the archive {url} cannot be unpacked: {error}",
            "a whole tar or zip archive",
            "run the same command again; if that is no better, tell the authors",
        ) from error
    if left:
        raise WeightsError(
            f"the archive {url} has no {', '.join(left)}; it has {', '.join(seen[:10])}",
            "the files that the card names",
            f"see {weights.card.source}; the authors may have changed it",
        )
    place.unlink()


def _members(place: Path) -> Iterator[tuple[str, int, Any]]:
    """Yield name, size and content of each file in an archive, in its order."""
    if zipfile.is_zipfile(place):
        with zipfile.ZipFile(place) as zipped:
            for info in zipped.infolist():
                if not info.is_dir():
                    with zipped.open(info) as stream:
                        yield info.filename.removeprefix("./"), info.file_size, stream
        return
    with tarfile.open(place, "r|*") as tarred:  # read once, from front to end
        for member in tarred:
            if member.isfile():
                yield member.name.removeprefix("./"), member.size, tarred.extractfile(member)


def _take_out(
    weights: Weights, file: WeightFile, size: int, stream: BinaryIO, on_progress: OnProgress
) -> str:
    """Write one file of an archive to its place, and return its checksum."""
    path = weights.folder / file.name
    path.parent.mkdir(parents=True, exist_ok=True)
    _require_room(path, size)
    part = path.with_name(f"{path.name}.part")
    digest, done = hashlib.sha256(), 0
    try:
        with part.open("wb") as out:
            while block := stream.read(CHUNK):
                out.write(block)
                digest.update(block)
                done += len(block)
                on_progress(Progress(file.name, done, size, "unpacking"))
            out.flush()
            os.fsync(out.fileno())
        _check(weights, file, part, done, size, digest.hexdigest())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return digest.hexdigest()


def _check(
    weights: Weights, file: WeightFile, part: Path, done: int, size: int, sha256: str
) -> None:
    with part.open("rb") as written:
        wrong = foreign(written.read(HEAD_BYTES))
    if done != (file.size or size):
        wrong = f"{done} bytes long, not {file.size or size}"
    if wrong:
        raise WeightsError(
            f"{file.url} is {wrong}", "the published file", f"see {weights.card.source}"
        )
    _known(weights, file).joined(Claims(hashes={"sha256": sha256}), file.name)


def _require_room(path: Path, size: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if size > free:
        raise WeightsError(
            f"{path.parent} has room for {free / 1e9:.2f} GB",
            f"{size / 1e9:.2f} GB for {path.name}",
            "make room, then run the same command again",
        )


@contextmanager
def _alone(folder: Path, on_progress: OnProgress) -> Iterator[None]:
    """Let no other process fetch into the same folder; wait for one that does."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            note = "another process is fetching it; waiting for that"
            on_progress(Progress(folder.name, note=note))
            lock.acquire()
    except OSError as error:
        raise _cannot_write(folder, error) from error
    try:
        yield
    finally:
        lock.release()


def _cannot_write(folder: Path, error: OSError) -> WeightsError:
    return WeightsError(
        f"{folder} cannot be written to: {error.strerror or error}",
        "a folder with room, and leave to write to it",
        "make room or give another folder with --into; what came so far is kept",
    )
