import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sclitmus.errors import StoreError
from sclitmus.execution.store import FORMAT, Artifact, Missing, Store, npy, whole

KEY = "ab" * 16
Z = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


def test_what_is_put_is_found_with_its_meta(store: Store) -> None:
    put = store.put("embedding", KEY, npy(Z), {"seconds": 1.5})
    found = store.find("embedding", KEY)
    assert found == put
    assert found.meta == {"seconds": 1.5}
    np.testing.assert_array_equal(np.load(found.path, mmap_mode="r"), Z)
    assert store.find("embedding", "cd" * 16) == Missing("")
    assert list((store.root / "tmp").iterdir()) == []


@pytest.mark.parametrize("which", ["payload", "manifest"])
def test_every_flipped_bit_and_every_truncation_is_noticed(store: Store, which: str) -> None:
    put = store.put("embedding", KEY, npy(Z), {"seconds": 1.5})
    path = put.path if which == "payload" else put.path.with_name(f"{KEY}.manifest.json")
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.choice(len(good), size=60, replace=False):
        bad = bytearray(good)
        bad[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(bad)
        found = store.find("embedding", KEY)
        # Only white space of the manifest may differ without meaning anything else.
        assert isinstance(found, Missing) or found == put
        if which == "payload":
            assert isinstance(found, Missing)
    for length in (0, 1, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:length])
        found = store.find("embedding", KEY)
        assert isinstance(found, Missing)
        assert found.reason
    path.unlink()
    assert isinstance(store.find("embedding", KEY), Missing)
    assert isinstance(store.put("embedding", KEY, npy(Z)), Artifact)
    assert isinstance(store.find("embedding", KEY), Artifact)


def test_a_manifest_of_another_key_is_no_evidence(store: Store) -> None:
    other = "ab" + "cd" * 15
    put = store.put("embedding", KEY, npy(Z))
    for path in (put.path, put.path.with_name(f"{KEY}.manifest.json")):
        path.with_name(path.name.replace(KEY, other)).write_bytes(path.read_bytes())
    assert store.find("embedding", other) == Missing("its manifest is damaged")


def test_an_error_while_writing_leaves_what_was_there(store: Store) -> None:
    put = store.put("scores", KEY, whole(b"first"))

    def half_then_break(sink: io.BytesIO) -> None:
        sink.write(b"half")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        store.put("scores", KEY, half_then_break)
    assert store.find("scores", KEY) == put
    assert list((store.root / "tmp").iterdir()) == []


@contextlib.contextmanager
def tiny_disk(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_said_and_nothing_is_lost(tmp_path: Path) -> None:
    with tiny_disk(tmp_path / "disk") as disk:
        store = Store.open(disk / "store")
        put = store.put("embedding", KEY, npy(Z))
        with pytest.raises(StoreError, match="disk or quota is full") as caught:
            store.put("embedding", "cd" * 16, npy(np.zeros((200, 1000), np.float32)))
        assert "another disk" in caught.value.remedy
        assert store.find("embedding", KEY) == put
        assert store.find("embedding", "cd" * 16) == Missing("")
        assert list((store.root / "tmp").iterdir()) == []
        assert isinstance(store.put("embedding", "cd" * 16, npy(Z)), Artifact)


def test_a_full_disk_without_root(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: memoryview) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StoreError, match="disk or quota is full"):
        store.put("embedding", KEY, npy(Z))
    monkeypatch.undo()
    assert store.find("embedding", KEY) == Missing("")
    assert list((store.root / "tmp").iterdir()) == []


def test_a_store_of_another_version_is_refused(store: Store) -> None:
    (store.root / "FORMAT").write_text(f"{FORMAT + 1}\n")
    with pytest.raises(StoreError, match=f"format '{FORMAT + 1}'"):
        Store.open(store.root)


def test_a_file_in_the_way_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("I am a file")
    with pytest.raises(StoreError, match="cannot be used"):
        Store.open(tmp_path / "store")


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(store: Store) -> None:
    script = (
        "import sys, os; from pathlib import Path\n"
        "from sclitmus.execution.store import Store, _owner\n"
        "root = Path(sys.argv[1]); (root / 'tmp' / f'{_owner()}-0').touch()\n"
        "(root / 'scratch' / f'{_owner()}-1').mkdir(); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", script, str(store.root)], check=False)
    foreign = store.root / "tmp" / "elsewhere-1-2-3"  # on a shared disk; may well be alive
    foreign.touch()
    with store.scratch() as alive:
        assert len(list((store.root / "scratch").iterdir())) == 2
        Store.open(store.root)
        assert list((store.root / "scratch").iterdir()) == [alive]
        assert list((store.root / "tmp").iterdir()) == [foreign]
    assert not alive.exists()


def test_a_lock_held_by_a_killed_process_is_free(store: Store) -> None:
    script = (
        "import sys; from pathlib import Path; from sclitmus.execution.store import Store\n"
        "with Store(Path(sys.argv[1])).lock('k'):\n    print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(store.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    waited = []

    def on_wait() -> None:
        waited.append(holder.pid)
        holder.kill()

    with store.lock("k", on_wait):
        assert waited == [holder.pid]
    holder.communicate()
