"""Where weights lie, and that a file which is no longer the one of the first time is noticed."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sclitmus.errors import NotApplicable, WeightsError
from sclitmus.models import weights as module
from sclitmus.models.card import ModelCard, WeightFile
from sclitmus.models.weights import (
    LEDGER,
    READ_ONLY,
    Weights,
    file_sha256,
    foreign,
    model_folder,
    weights_home,
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("SCLITMUS_WEIGHTS", str(tmp_path / "home"))
    module._digest.cache_clear()
    yield tmp_path / "home"
    module._digest.cache_clear()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "w.pt").write_bytes(b"weights")
    return tmp_path / "toy"


def toy(folder: Path, *files: WeightFile) -> Weights:
    blank = dict.fromkeys(("title", "summary", "doi", "licence", "source", "gene_space"), "Toy")
    card = ModelCard(
        id="toy", **blank, non_commercial=False, organisms=(), parameters=0, corpora=(),
        files=files or (WeightFile("w.pt", url="https://example.org/w.pt"),),
    )  # fmt: skip
    return Weights(card, folder)


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Note every file that is read for its checksum."""
    seen: list[Path] = []
    whole = module.file_sha256

    def noting(path: Path) -> str:
        seen.append(path)
        return whole(path)

    monkeypatch.setattr(module, "file_sha256", noting)
    return seen


# Where


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert model_folder("toy") == weights_home() / "toy"
    assert model_folder("toy", tmp_path) == tmp_path
    (tmp_path / "toy").mkdir()
    assert model_folder("toy", tmp_path) == tmp_path / "toy"
    monkeypatch.setenv("SCLITMUS_WEIGHTS", "~/w")
    assert weights_home() == Path.home() / "w"
    monkeypatch.delenv("SCLITMUS_WEIGHTS")
    assert weights_home() == Path.home() / ".cache" / "sclitmus" / "weights"


def test_missing_files_are_named_with_the_way_to_get_them(folder: Path) -> None:
    files = (
        WeightFile("w.pt", url="https://example.org/w.pt"),
        WeightFile("a.json", url="https://example.org/a.json"),
        WeightFile("b.csv", how="ask the authors"),
        WeightFile("c.csv", optional=True),
    )
    with pytest.raises(NotApplicable) as why:
        toy(folder, *files).require()
    for words in ("a.json, b.csv", str(folder), "sclitmus fetch toy", "ask the authors"):
        assert words in why.value.reason
    assert "w.pt" not in why.value.reason
    toy(folder).require()
    with pytest.raises(NotApplicable, match=r"w\.pt"):
        toy(folder / "nowhere").require()


@pytest.mark.parametrize("name", ["absent", "folder"])
def test_a_file_that_is_not_there(folder: Path, name: str) -> None:
    (folder / "folder").mkdir()
    with pytest.raises(WeightsError, match=f"there is no {name}"):
        toy(folder).file(name)
    assert toy(folder).find(name) is None


# That it is the same


def test_a_checksum_is_recorded_and_the_file_not_read_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = reads(monkeypatch)
    assert toy(folder).file("w.pt") == folder / "w.pt"
    assert json.loads((folder / LEDGER).read_text())["w.pt"]["sha256"] == sha(b"weights")
    module._digest.cache_clear()  # as in another process
    assert toy(folder).sha256("w.pt") == sha(b"weights")
    assert len(seen) == 1


def test_a_changed_file_is_refused_until_its_entry_is_deleted(folder: Path) -> None:
    toy(folder).file("w.pt")
    (folder / "w.pt").write_bytes(b"WEIGHTS")
    for _ in range(2):
        with pytest.raises(WeightsError, match="as when it was first used") as refused:
            toy(folder).file("w.pt")
    assert "delete the entry of w.pt" in refused.value.remedy
    (folder / LEDGER).write_text("{}")
    assert toy(folder).sha256("w.pt") == sha(b"WEIGHTS")


def same_times(path: Path, content: bytes, state: os.stat_result) -> None:
    path.write_bytes(content)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


@pytest.mark.parametrize("how", ["in place", "replaced", "by another name"])
def test_another_file_of_the_same_size_and_time_is_noticed(folder: Path, how: str) -> None:
    path = folder / "w.pt"
    other = folder / "other"
    if how == "by another name":
        os.link(path, other)
    toy(folder).file("w.pt")
    time.sleep(0.01)
    same_times(path if how == "in place" else other, b"WEIGHTS", path.stat())
    if how == "replaced":
        other.replace(path)
    assert path.read_bytes() == b"WEIGHTS"
    with pytest.raises(WeightsError, match="first used"):
        toy(folder).file("w.pt")


def test_a_file_that_was_only_touched_or_copied_back_is_accepted(folder: Path) -> None:
    toy(folder).file("w.pt")
    os.utime(folder / "w.pt", (1, 1))
    (folder / "w.pt").chmod(0o600)
    toy(folder).file("w.pt")
    (folder / "w.pt").unlink()
    (folder / "w.pt").write_bytes(b"weights")
    toy(folder).file("w.pt")


def test_links_are_followed(folder: Path, tmp_path: Path) -> None:
    """The cache of huggingface_hub holds links named as the files."""
    (tmp_path / "blob1").write_bytes(b"one")
    (tmp_path / "blob2").write_bytes(b"two")
    (folder / "w.pt").unlink()
    (folder / "w.pt").symlink_to(tmp_path / "blob1")
    assert toy(folder).sha256("w.pt") == sha(b"one")
    (folder / "w.pt").unlink()
    (folder / "w.pt").symlink_to(tmp_path / "blob2")
    with pytest.raises(WeightsError):
        toy(folder).file("w.pt")
    (tmp_path / "blob2").unlink()
    with pytest.raises(WeightsError, match="there is no"):
        toy(folder).file("w.pt")
    assert [file.name for file in toy(folder).missing()] == ["w.pt"]


def test_the_published_checksum_counts_more_than_that_of_the_first_use(folder: Path) -> None:
    toy(folder).file("w.pt")
    right = toy(folder, WeightFile("w.pt", sha256=sha(b"weights").upper()))
    assert right.sha256("w.pt") == sha(b"weights")
    wrong = toy(folder, WeightFile("w.pt", sha256=sha(b"other")))
    with pytest.raises(WeightsError, match="as published") as refused:
        wrong.file("w.pt")
    assert "if the change is meant" not in refused.value.remedy
    (folder / "w.pt").write_bytes(b"other")
    assert wrong.sha256("w.pt") == sha(b"other")  # what was there first no longer matters


def test_a_file_being_written_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = module.file_sha256

    def slowly(path: Path) -> str:
        digest = whole(path)
        path.write_bytes(b"weights and more")
        return digest

    monkeypatch.setattr(module, "file_sha256", slowly)
    with pytest.raises(WeightsError, match="changed while it was read"):
        toy(folder).file("w.pt")
    assert not (folder / LEDGER).exists()


# The ledger


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '"x"', '{"w.pt": 3}', '{"w.pt": {}}', '{"w.pt": {"sha256": 3}}', "\xff"]
)
def test_a_damaged_ledger_is_named_and_not_overwritten(folder: Path, text: str) -> None:
    (folder / LEDGER).write_bytes(text.encode("latin-1"))
    with pytest.raises(WeightsError, match=LEDGER) as refused:
        toy(folder).file("w.pt")
    assert "delete it" in refused.value.remedy
    assert (folder / LEDGER).read_bytes() == text.encode("latin-1")


def test_a_ledger_of_the_first_layout_is_read(folder: Path) -> None:
    state = (folder / "w.pt").stat()
    old = {"sha256": sha(b"weights"), "seen": [state.st_size, state.st_mtime_ns]}
    (folder / LEDGER).write_text(json.dumps({"w.pt": old}))
    toy(folder).file("w.pt")
    assert len(json.loads((folder / LEDGER).read_text())["w.pt"]["seen"]) == 4


def test_entries_of_other_files_and_origins_stay(folder: Path) -> None:
    (folder / "b").write_bytes(b"b")
    weights = toy(folder)
    weights.record("b", sha(b"b"), "hf:owner/repo/b (abc)")
    weights.file("w.pt")
    os.utime(folder / "b", (1, 1))
    weights.file("b")
    kept: dict[str, Any] = json.loads((folder / LEDGER).read_text())
    assert kept.keys() == {"b", "w.pt"}
    assert kept["b"]["from"] == "hf:owner/repo/b (abc)"


def lock_out(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> None:
    """As if these could not be written to (the tests may run as root, who always can)."""
    free = os.access

    def access(path: Any, mode: int) -> bool:
        return free(path, mode) and not (mode == os.W_OK and Path(path) in folders)

    monkeypatch.setattr(module.os, "access", access)


def test_a_folder_that_cannot_be_written_to_has_its_ledger_at_home(
    folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock_out(monkeypatch, folder)
    seen = reads(monkeypatch)
    toy(folder).file("w.pt")
    module._digest.cache_clear()
    toy(folder).file("w.pt")
    assert len(seen) == 1
    assert sorted(path.name for path in folder.iterdir()) == ["w.pt"]
    assert len(list((home / READ_ONLY).glob("*.json"))) == 1
    (folder / "w.pt").write_bytes(b"WEIGHTS")
    with pytest.raises(WeightsError, match="first used"):
        toy(folder).file("w.pt")


def test_the_ledger_of_a_shared_folder_holds_for_those_who_only_read_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / LEDGER).write_text(json.dumps({"w.pt": {"sha256": sha(b"first"), "seen": []}}))
    lock_out(monkeypatch, folder)
    with pytest.raises(WeightsError, match="first used"):
        toy(folder).file("w.pt")
    (folder / LEDGER).write_text(json.dumps({"w.pt": {"sha256": sha(b"weights"), "seen": []}}))
    seen = reads(monkeypatch)
    module._digest.cache_clear()
    for _ in range(2):  # inodes may differ between machines: read once by each user
        toy(folder).file("w.pt")
        module._digest.cache_clear()
    assert len(seen) == 1


def test_nothing_can_be_written_anywhere(
    folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.write_text("not a folder")
    lock_out(monkeypatch, folder)
    seen = reads(monkeypatch)
    for _ in range(3):
        assert toy(folder).sha256("w.pt") == sha(b"weights")
    assert len(seen) == 1  # kept for the length of the process
    (folder / "w.pt").write_bytes(b"WEIGHTS")
    assert toy(folder).sha256("w.pt") == sha(b"WEIGHTS")


def test_a_lock_that_cannot_be_taken_is_no_hindrance(folder: Path) -> None:
    (folder / f"{LEDGER}.lock").mkdir()
    assert toy(folder).sha256("w.pt") == sha(b"weights")


def test_a_full_disk_is_no_hindrance(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    assert toy(folder).sha256("w.pt") == sha(b"weights")
    assert sorted(p.name for p in folder.iterdir()) == [f"{LEDGER}.lock", "w.pt"]


def test_many_processes_at_once_agree(folder: Path) -> None:
    names = [f"f{i}" for i in range(12)]
    for name in names:
        (folder / name).write_bytes(name.encode())
    code = (
        "import sys; from pathlib import Path; from sclitmus.models.weights import Weights\n"
        "card = type('C', (), {'files': (), 'id': 'toy', 'title': 'Toy'})\n"
        "for name in sys.argv[2:]: Weights(card, Path(sys.argv[1])).file(name)\n"
    )
    orders = [names, names[::-1], names[6:] + names[:6]]
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(folder), *order]) for order in orders
    ]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    kept = json.loads((folder / LEDGER).read_text())
    assert {name: entry["sha256"] for name, entry in kept.items()} == {
        name: sha(name.encode()) for name in names
    }


# Small parts


def test_the_checksum_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    # NIST's test vector of SHA-256 for "abc".
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_sha256(tmp_path / "abc") == known


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html>", "web page"),
        (b"\xef\xbb\xbf \n<HTML>", "web page"),
        (b'<?xml version="1.0"?><Error>', "web page"),
        (b"version https://git-lfs.github.com/spec/v1", "LFS pointer"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"PK\x03\x04", ""),
        (b'{"a": 1}', ""),
        (b"\x80\x02}q\x00", ""),
    ],
)
def test_what_the_first_bytes_show(head: bytes, words: str) -> None:
    assert words in foreign(head)
    assert bool(foreign(head)) == bool(words)
