"""Where a model's published files lie, and that they are still those of the first time."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from sclitmus.errors import NotApplicable, WeightsError
from sclitmus.models.card import ModelCard, WeightFile

ENVIRONMENT = "SCLITMUS_WEIGHTS"
LEDGER = "checksums.json"  # in a model's folder: file → size, time of change and sha256
CHUNK = 1 << 22


def weights_home() -> Path:
    """Folder with one folder per model: $SCLITMUS_WEIGHTS, or ~/.cache/sclitmus/weights."""
    given = os.environ.get(ENVIRONMENT)
    return Path(given) if given else Path.home() / ".cache" / "sclitmus" / "weights"


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
        return [
            file
            for file in self.card.files
            if not file.optional and not (self.folder / file.name).is_file()
        ]

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
        how = next((file.how for file in missing if file.how and not file.url), "")
        get = f"; {how}" if how else f", get them with: sclitmus fetch {self.card.id}"
        raise NotApplicable(
            f"weights missing ({names} not in {self.folder}){get}, or give their folder with "
            "--weights"
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
        path = self.find(name)
        if path is None:
            raise WeightsError(
                f"there is no {name} in {self.folder}",
                f"the files of {self.card.title}",
                f"get them with: sclitmus fetch {self.card.id}",
            )
        return path

    def sha256(self, name: str) -> str:
        """Return the checksum of a file; it is recorded at first use and must never change.

        A file of unchanged size and time of change is not read again.

        Raises
        ------
        WeightsError
            If it differs from the published one or from that of its first use.
        """
        path = self.folder / name
        state = path.stat()
        published = next((file.sha256 for file in self.card.files if file.name == name), "")
        with _ledger(self.folder) as ledger:
            entry = ledger.get(name, {})
            seen = [state.st_size, state.st_mtime_ns]
            if entry.get("seen") == seen and published in ("", entry["sha256"]):
                return str(entry["sha256"])
            now = file_sha256(path)
            expected = published or entry.get("sha256", now)
            if now != expected:
                raise WeightsError(
                    f"{path} has the checksum {now[:16]}…",
                    f"{expected[:16]}…, "
                    + ("as published" if published else "as when it was first used"),
                    f"get it again with: sclitmus fetch {self.card.id}; if the change is meant, "
                    f"delete the line of {name} in {self.folder / LEDGER}",
                )
            ledger[name] = {"sha256": now, "seen": seen}
        return now


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file of any size."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(CHUNK):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def _ledger(folder: Path) -> Iterator[dict[str, Any]]:
    """Read the checksums of a folder and write them back if they changed.

    A folder that cannot be written to (a shared one) keeps no ledger: then files are only checked
    against published checksums.
    """
    path = folder / LEDGER
    if not os.access(folder, os.W_OK):
        yield _entries(path)
        return
    with FileLock(folder / f"{LEDGER}.lock"):
        ledger = _entries(path)
        before = json.dumps(ledger, sort_keys=True)
        yield ledger
        if json.dumps(ledger, sort_keys=True) != before:
            written = path.with_name(f"{LEDGER}.new")
            written.write_text(json.dumps(ledger, indent=1, sort_keys=True), encoding="utf-8")
            written.replace(path)


def _entries(path: Path) -> dict[str, Any]:
    try:
        entries: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise WeightsError(
            f"{path} cannot be read: {error}", "the checksums of the files beside it", "delete it"
        ) from error
    return entries
