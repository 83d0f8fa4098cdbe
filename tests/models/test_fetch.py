"""Fetching weights from a server on this machine that does everything wrong that servers do."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_server import Hosted, HostileServer, hostile_server

from sclitmus import api
from sclitmus.errors import MethodError, WeightsError
from sclitmus.models import card as cards
from sclitmus.models import fetch as fetching
from sclitmus.models import partial
from sclitmus.models.download import Patience
from sclitmus.models.hosts import Hosts
from sclitmus.models.weights import LEDGER, Weights

CONTENT = np.random.default_rng(0).bytes(100_000)
OTHER = np.random.default_rng(1).bytes(100_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PATIENCE = Patience(attempts=3, wait=0.01, longest=0.05, timeout=5.0, enough=1000)
PAGE = b"<!DOCTYPE html><html><title>Sign in</title></html>"

Fetch = Callable[..., list[Path]]


@pytest.fixture
def server() -> Iterator[HostileServer]:
    with hostile_server() as running:
        yield running


@pytest.fixture
def hosts(server: HostileServer) -> Hosts:
    """All hosts are the server, each under a path of its own."""
    return Hosts(
        hugging_face=f"{server.url}/hf",
        figshare=f"{server.url}/ndownloader",
        figshare_api=f"{server.url}/api",
        drive=f"{server.url}/drive",
        token="",
        patience=PATIENCE,
    )


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Return a function that makes the card of a model ``toy_model`` with these files."""
    folder = tmp_path / "cards"
    folder.mkdir()
    monkeypatch.setattr(cards, "CARDS", folder)

    def make(*files: dict[str, Any], **fields: Any) -> None:
        about: dict[str, Any] = {
            "id": "toy_model",
            "title": "Toy",
            "summary": "Nothing.",
            "doi": "",
            "licence": "Toy-1.0",
            "non_commercial": False,
            "source": "https://example.org/toy",
            "gene_space": "none",
            "organisms": [],
            "parameters": 0,
            "corpora": [],
        } | fields
        lines = [f"{name} = {json.dumps(value)}" for name, value in about.items()]
        for file in files:
            lines += ["[[files]]", *(f"{name} = {json.dumps(v)}" for name, v in file.items())]
        (folder / "toy_model.toml").write_text("\n".join(lines))
        cards.model_card.cache_clear()
        cards.model_ids.cache_clear()

    yield make
    cards.model_card.cache_clear()
    cards.model_ids.cache_clear()


@pytest.fixture
def fetch(tmp_path: Path, hosts: Hosts) -> Fetch:
    def run(**settings: Any) -> list[Path]:
        return fetching.fetch("toy-model", **{"into": tmp_path, "hosts": hosts} | settings)

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "toy_model"


def left_over(folder: Path) -> list[str]:
    """What a fetch should not leave behind."""
    return [p.name for p in folder.rglob("*") if ".part" in p.name or ".archive" in p.name]


def ledger(folder: Path) -> Any:
    return json.loads((folder / LEDGER).read_text())


# A host that works


def test_a_file_arrives_and_its_checksum_is_recorded(
    server: HostileServer, put: Any, fetch: Fetch, folder: Path
) -> None:
    server.at["/w.pt"] = Hosted(CONTENT)
    put({"name": "sub/w.pt", "url": f"{server.url}/w.pt"})
    seen: list[partial.Progress] = []
    assert fetch(on_progress=seen.append) == [folder / "sub" / "w.pt"]
    assert (folder / "sub" / "w.pt").read_bytes() == CONTENT
    entry = ledger(folder)["sub/w.pt"]
    assert (entry["sha256"], entry["from"]) == (SHA256, f"{server.url}/w.pt")
    assert left_over(folder) == []
    assert (seen[-1].done, seen[-1].total) == (len(CONTENT), len(CONTENT))


def test_a_file_that_is_there_is_not_asked_for_again(
    server: HostileServer, put: Any, fetch: Fetch
) -> None:
    server.at["/w.pt"] = Hosted(CONTENT)
    put({"name": "w.pt", "url": f"{server.url}/w.pt"})
    assert fetch() == fetch()
    assert len(server.at["/w.pt"].asked) == 1


def test_the_api_fetches_into_the_home_of_weights(
    server: HostileServer, put: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCLITMUS_WEIGHTS", str(tmp_path / "home"))
    server.at["/w.pt"] = Hosted(CONTENT)
    put({"name": "w.pt", "url": f"{server.url}/w.pt"})
    assert api.fetch("Toy-Model") == [tmp_path / "home" / "toy_model" / "w.pt"]
    with pytest.raises(MethodError, match="toy_model"):
        api.fetch("toy_modle")


def test_optional_files_come_when_asked_for(
    server: HostileServer, put: Any, fetch: Fetch, folder: Path
) -> None:
    server.at["/a"] = server.at["/b"] = Hosted(CONTENT)
    put(
        {"name": "a", "url": f"{server.url}/a"},
        {"name": "b", "url": f"{server.url}/b", "optional": True},
    )
    assert fetch() == [folder / "a"]
    assert fetch(optional=True) == [folder / "a", folder / "b"]


# Connections that break


@pytest.mark.parametrize("reset", [False, True])
def test_a_broken_download_goes_on_where_it_stopped(
    server: HostileServer, put: Any, fetch: Fetch, folder: Path, reset: bool
) -> None:
    hosted = server.at["/w.pt"] = Hosted(CONTENT, cuts=[30_000, 20_000, 0, 40_000], reset=reset)
    put({"name": "w.pt", "url": f"{server.url}/w.pt"})
    fetch()
    assert (folder / "w.pt").read_bytes() == CONTENT
    assert [request.get("if-range") for request in hosted.asked[1:]] == ['"one"'] * 4
    if not reset:  # then what was under way is lost
        starts = [request.get("range") for request in hosted.asked]
        assert starts == [None, "bytes=30000-", "bytes=50000-", "bytes=50000-", "bytes=90000-"]
        assert hosted.sent == len(CONTENT)


def test_a_host_without_ranges_sends_all_again(
    server: HostileServer, put: Any, fetch: Fetch, folder: Path
) -> None:
    hosted = server.at["/w.pt"] = Hosted(CONTENT, cuts=[60_000], ranges=False)
    put({"name": "w.pt", "url": f"{server.url}/w.pt"})
    fetch()
    assert (folder / "w.pt").read_bytes() == CONTENT
    assert hosted.sent == 160_000


def test_a_host_that_always_breaks_off_is_given_up_and_what_came_is_kept(
    server: HostileServer, put: Any, fetch: Fetch, folder: Path
) -> None:
    server.at["/w.pt"] = Hosted(CONTENT, cuts=[50_000] + [0] * 9)
    put({"name": "w.pt", "url": f"{server.url}/w.pt"})
    with pytest.raises(WeightsError, match=r"stopped after 50000 of 100000.*\n.*\n.*50000 bytes"):
        fetch()
    assert not (folder / "w.pt").exists()
    server.at["/w.pt"] = again = Hosted(CONTENT)
    fetch()
    assert (folder / "w.pt").read_bytes() == CONTENT
    assert again.sent == 50_000


def test_a_silent_host_is_hung_up_on(
    server: HostileServer, put: Any, fetch: Fetch, folder: Path, hosts: Hosts
) -> None:
    hosted = server.at["/w.pt"] = Hosted(CONTENT, stall=True)
    put({"name": "w.pt", "url": f"{server.url}/w.pt"})
    impatient = Hosts(patience=Patience(2, 0.01, 0.01, timeout=0.2, enough=10**6), token="")
    with pytest.raises(WeightsError, match="timed out"):
        fetch(hosts=impatient)
    hosted.stall = False
    fetch()
    assert (folder / "w.pt").read_bytes() == CONTENT


def test_a_host_that_is_not_there_is_named(put: Any, fetch: Fetch, server: HostileServer) -> None:
    put({"name": "w.pt", "url": "http://127.0.0.1:9/w.pt"})
    with pytest.raises(WeightsError, match=r"127\.0\.0\.1:9 does not answer"):
        fetch()


# Lengths that are wrong


def test_a_length_beyond_the_end_is_noticed(
    server: HostileServer, put: Any, fetch: Fetch, folder: Path
) -> None:
    server.at["/w.pt"] = Hosted(CONTENT, length=200_000)
    put({"name": "w.pt", "url": f"{server.url}/w.pt"})
    with pytest.raises(WeightsError, match=r"w\.pt could not be fetched"):
        fetch()
    assert not (folder / "w.pt").exists()


@pytest.mark.parametrize("known", [{"size": 100_000}, {"sha256": SHA256}])
def test_a_length_short_of_the_end_is_noticed_where_anything_is_known_of_the_file(
    server: HostileServer, put: Any, fetch: Fetch, folder: Path, known: dict[str, Any]
) -> None:
    server.at["/w.pt"] = Hosted(CONTENT, length=60_000)
    put({"name": "w.pt", "url": f"{server.url}/w.pt"} | known)
    with pytest.raises(WeightsError, match=r"60000 bytes, the file has 100000|sha256"):
        fetch()
    assert not (folder / "w.pt").exists()


def test_more_than_was_announced_is_not_taken(
    server: HostileServer, put: Any, fetch: Fetch, folder: Path
) -> None:
    server.at["/w.pt"] = Hosted(CONTENT, length="chunked")
    put({"name": "w.pt", "url": f"{server.url}/w.pt", "size": 60_000})
    with pytest.raises(WeightsError, match="more than it announced"):
        fetch()
    assert not (folder / "w.pt").exists()
    assert left_over(folder) == []


def test_chunked_answers_need_no_length(
    server: HostileServer, put: Any, fetch: Fetch, folder: Path
) -> None:
    server.at["/w.pt"] = Hosted(CONTENT, length="chunked", cuts=[30_000])
    put({"name": "w.pt", "url": f"{server.url}/w.pt"})
    fetch()
    assert (folder / "w.pt").read_bytes() == CONTENT


def test_an_unknown_end_is_refused(server: HostileServer, put: Any, fetch: Fetch) -> None:
    server.at["/w.pt"] = Hosted(CONTENT, length="none")
    put({"name": "w.pt", "url": f"{server.url}/w.pt"})
    with pytest.raises(WeightsError, match="does not say how long"):
        fetch()
    put({"name": "w.pt", "url": f"{server.url}/w.pt", "size": len(CONTENT)})
    fetch()


# Files that change under way


@pytest.mark.parametrize("heeds", [True, False])
def test_two_versions_are_never_mixed(
    server: HostileServer, put: Any, fetch: Fetch, folder: Path, heeds: bool
) -> None:
    server.at["/w.pt"] = Hosted(CONTENT, then=OTHER, cuts=[40_000], heeds_if_range=heeds)
    put({"name": "w.pt", "url": f"{server.url}/w.pt"})
    fetch()
    assert (folder / "w.pt").read_bytes() == OTHER


def test_without_a_sign_of_the_version_nothing_is_gone_on_with(
    server: HostileServer, put: Any, fetch: Fetch, folder: Path
) -> None:
    hosted = Hosted(CONTENT, then=OTHER, cuts=[40_000] + [0] * 9, etag="", then_etag="")
    server.at["/w.pt"] = hosted
    put({"name": "w.pt", "url": f"{server.url}/w.pt"})
    with pytest.raises(WeightsError):
        fetch()
    server.at["/w.pt"] = again = Hosted(OTHER, etag="")
    fetch()
    assert (folder / "w.pt").read_bytes() == OTHER
    assert "range" not in again.asked[0]


def test_a_checksum_finds_pieces_that_do_not_fit_and_the_file_is_fetched_anew(
    server: HostileServer, put: Any, fetch: Fetch, folder: Path
) -> None:
    sha = hashlib.sha256(OTHER).hexdigest()
    hosted = Hosted(CONTENT, then=OTHER, cuts=[40_000], etag="", then_etag="")
    server.at["/w.pt"] = hosted
    put({"name": "w.pt", "url": f"{server.url}/w.pt", "sha256": sha})
    fetch()
    assert (folder / "w.pt").read_bytes() == OTHER
    assert hosted.sent == 40_000 + 60_000 + 100_000


def test_the_rest_of_a_file_that_shrank_is_not_asked_for_for_ever(
    server: HostileServer, put: Any, fetch: Fetch, folder: Path
) -> None:
    server.at["/w.pt"] = Hosted(CONTENT, then=OTHER[:9_000], cuts=[40_000], heeds_if_range=False)
    put({"name": "w.pt", "url": f"{server.url}/w.pt"})
    fetch()
    assert (folder / "w.pt").read_bytes() == OTHER[:9_000]


def test_a_file_that_changes_with_every_request_is_given_up(
    server: HostileServer, put: Any, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosted = server.at["/w.pt"] = Hosted(CONTENT, cuts=[50_000] * 99, heeds_if_range=False)
    send = type(hosted).__getattribute__

    def restless(self: Hosted, name: str) -> Any:
        return f'"{len(self.asked)}"' if name == "etag" else send(self, name)

    monkeypatch.setattr(Hosted, "__getattribute__", restless)
    put({"name": "w.pt", "url": f"{server.url}/w.pt"})
    with pytest.raises(WeightsError, match="no longer the one"):
        fetch()
    assert len(hosted.asked) < 20


def test_a_partial_file_of_another_address_is_not_gone_on_with(
    server: HostileServer, put: Any, fetch: Fetch, folder: Path
) -> None:
    server.at["/one"] = Hosted(CONTENT, cuts=[40_000] + [0] * 9)
    server.at["/two"] = Hosted(OTHER)
    put({"name": "w.pt", "url": f"{server.url}/one"})
    with pytest.raises(WeightsError):
        fetch()
    put({"name": "w.pt", "url": f"{server.url}/two"})
    fetch()
    assert (folder / "w.pt").read_bytes() == OTHER


@pytest.mark.parametrize("state", ["", "{", "[]", '{"size": "x"}', "\0\0"])
def test_a_damaged_note_of_a_partial_file_is_not_believed(
    server: HostileServer, put: Any, fetch: Fetch, folder: Path, state: str
) -> None:
    server.at["/w.pt"] = Hosted(CONTENT)
    put({"name": "w.pt", "url": f"{server.url}/w.pt"})
    folder.mkdir()
    (folder / "w.pt.part").write_bytes(OTHER[:5000])
    (folder / "w.pt.part.json").write_text(state)
    fetch()
    assert (folder / "w.pt").read_bytes() == CONTENT


# Other things than the file


@pytest.mark.parametrize(
    ("content", "kind", "words"),
    [
        (PAGE, "text/html; charset=utf-8", "a web page ('Sign in')"),
        (PAGE, "application/octet-stream", "a web page"),
        (b"\n  <html>", "", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "text/plain", "LFS pointer"),
        (b"", "application/octet-stream", "an empty file"),
    ],
)
def test_other_things_are_never_given_the_files_name(
    server: HostileServer,
    put: Any,
    fetch: Fetch,
    folder: Path,
    content: bytes,
    kind: str,
    words: str,
) -> None:
    server.at["/w.pt"] = Hosted(content, kind=kind)
    put({"name": "w.pt", "url": f"{server.url}/w.pt"})
    with pytest.raises(WeightsError) as refused:
        fetch()
    assert words in str(refused.value)
    assert not (folder / "w.pt").exists()
    assert left_over(folder) == []


@pytest.mark.parametrize("there", [PAGE, b"", CONTENT[:500]])
def test_what_is_there_and_wrong_is_fetched_again(
    server: HostileServer, put: Any, fetch: Fetch, folder: Path, there: bytes
) -> None:
    server.at["/w.pt"] = Hosted(CONTENT)
    put({"name": "w.pt", "url": f"{server.url}/w.pt", "size": len(CONTENT)})
    folder.mkdir()
    (folder / "w.pt").write_bytes(there)
    seen: list[partial.Progress] = []
    fetch(on_progress=seen.append)
    assert (folder / "w.pt").read_bytes() == CONTENT
    assert "what is there is" in seen[0].note


def test_a_file_changed_since_its_first_use_is_fetched_again_and_must_be_that_of_then(
    server: HostileServer, put: Any, fetch: Fetch, folder: Path
) -> None:
    server.at["/w.pt"] = Hosted(CONTENT)
    put({"name": "w.pt", "url": f"{server.url}/w.pt"})
    fetch()
    (folder / "w.pt").write_bytes(OTHER)
    fetch()
    assert (folder / "w.pt").read_bytes() == CONTENT
    server.at["/w.pt"] = Hosted(OTHER)  # now the host has another
    (folder / "w.pt").unlink()
    with pytest.raises(WeightsError, match="as when it was first used"):
        fetch()
    assert not (folder / "w.pt").exists()
    (folder / LEDGER).unlink()
    fetch()
    assert (folder / "w.pt").read_bytes() == OTHER


def test_a_link_is_replaced_and_what_it_pointed_to_is_left_alone(
    server: HostileServer, put: Any, fetch: Fetch, folder: Path, tmp_path: Path
) -> None:
    server.at["/w.pt"] = Hosted(CONTENT)
    put({"name": "w.pt", "url": f"{server.url}/w.pt", "sha256": SHA256})
    (tmp_path / "blob").write_bytes(OTHER)
    folder.mkdir()
    (folder / "w.pt").symlink_to(tmp_path / "blob")
    fetch()
    assert not (folder / "w.pt").is_symlink()
    assert (folder / "w.pt").read_bytes() == CONTENT
    assert (tmp_path / "blob").read_bytes() == OTHER


# Redirects, refusals, failures


def test_redirects_are_followed_to_another_host_without_the_token(
    server: HostileServer, put: Any, fetch: Fetch, folder: Path, hosts: Hosts
) -> None:
    with hostile_server() as cache:
        # Its tag is no checksum, and the signed address runs out once.
        tag = f'"{"0" * 64}"'
        cache.at["/blob"] = Hosted(CONTENT, cuts=[50_000], etag=tag, statuses=[200, 403])
        path = "/hf/owner/repo/resolve/main/sub/w.pt"
        server.at[path] = Hosted(redirect=f"{server.url}/hf/cached?x=1")
        server.at["/hf/cached"] = Hosted(redirect=f"{cache.url}/blob")
        put({"name": "w.pt", "url": "hf:owner/repo/sub/w.pt"})
        fetch(hosts=Hosts(hugging_face=f"{server.url}/hf", token="mine", patience=PATIENCE))
        assert (folder / "w.pt").read_bytes() == CONTENT
        assert server.at[path].asked[0]["authorization"] == "Bearer mine"
        assert server.at["/hf/cached"].asked[0]["authorization"] == "Bearer mine"
        assert all("authorization" not in request for request in cache.at["/blob"].asked)
        assert len(cache.at["/blob"].asked) == 3


@pytest.mark.parametrize(
    ("target", "words"),
    [("/w.pt", "more than 10 times"), ("file:///etc/passwd", "to file"), ("ftp://h/x", "to ftp")],
)
def test_redirects_that_lead_nowhere_are_refused(
    server: HostileServer, put: Any, fetch: Fetch, target: str, words: str
) -> None:
    server.at["/w.pt"] = Hosted(redirect=target)
    put({"name": "w.pt", "url": f"{server.url}/w.pt"})
    with pytest.raises(WeightsError, match=words):
        fetch()


def test_a_busy_host_is_asked_again_and_may_say_when(
    server: HostileServer, put: Any, fetch: Fetch
) -> None:
    busy = Hosted(CONTENT, statuses=[503, 429], headers={"Retry-After": "86400"})
    server.at["/w.pt"] = busy
    put({"name": "w.pt", "url": f"{server.url}/w.pt"})
    began = time.monotonic()
    fetch()
    assert len(busy.asked) == 3
    assert 0.1 <= time.monotonic() - began < 5  # twice the longest wait, and not a day


def test_what_is_gone_is_asked_for_once(server: HostileServer, put: Any, fetch: Fetch) -> None:
    gone = server.at["/w.pt"] = Hosted(statuses=[404] * 9)
    put({"name": "w.pt", "url": f"{server.url}/w.pt"})
    with pytest.raises(WeightsError, match=r"HTTP 404.*not there"):
        fetch()
    assert len(gone.asked) == 1


@pytest.mark.parametrize(
    ("token", "words"), [("", "set HF_TOKEN"), ("mine", "account that your HF_TOKEN belongs to")]
)
def test_a_gated_model_says_to_accept_the_licence(
    server: HostileServer, put: Any, fetch: Fetch, token: str, words: str
) -> None:
    gated = Hosted(statuses=[401] * 9, headers={"X-Error-Code": "GatedRepo"})
    server.at["/hf/owner/repo/resolve/v1/w.pt"] = gated
    put({"name": "w.pt", "url": "hf:owner/repo/w.pt@v1"})
    hub = f"{server.url}/hf"
    with pytest.raises(WeightsError) as refused:
        fetch(hosts=Hosts(hugging_face=hub, token=token, patience=PATIENCE))
    assert f"accept the licence at {hub}/owner/repo" in str(refused.value)
    assert words in str(refused.value)
    assert "mine" not in str(refused.value)


# What each host has of its own


def test_hugging_face_names_checksum_size_and_commit(
    server: HostileServer, put: Any, fetch: Fetch, folder: Path
) -> None:
    path = "/hf/owner/repo/resolve/main/w.pt"
    large = {"X-Linked-Etag": f'"{SHA256}"', "X-Linked-Size": "100000", "X-Repo-Commit": "abc"}
    server.at[path] = Hosted(redirect="/blob", headers=large)
    server.at["/blob"] = Hosted(CONTENT, etag='"of-the-cache"')
    put({"name": "w.pt", "url": "hf:owner/repo/w.pt@main"})
    fetch()
    assert ledger(folder)["w.pt"]["from"] == "hf:owner/repo/w.pt@main (abc)"
    (folder / "w.pt").unlink()
    (folder / LEDGER).unlink()
    server.at["/blob"] = Hosted(OTHER)
    with pytest.raises(WeightsError, match="as the host says"):
        fetch()
    assert not (folder / "w.pt").exists()


def test_small_files_on_hugging_face_are_checked_by_gits_own_hash(
    server: HostileServer, put: Any, fetch: Fetch, folder: Path
) -> None:
    # `printf 'hello\n' | git hash-object --stdin`
    tag = '"ce013625030ba8dba906f756967f9e9ca394464a"'
    path = "/hf/owner/repo/resolve/main/c.json"
    server.at[path] = Hosted(b"hello\n", etag=tag)
    put({"name": "c.json", "url": "hf:owner/repo/c.json"})
    fetch()
    (folder / "c.json").unlink()
    (folder / LEDGER).unlink()
    server.at[path] = Hosted(b"hullo\n", etag=tag)
    with pytest.raises(WeightsError, match="git-sha1"):
        fetch()


def test_a_published_checksum_is_compared_before_a_byte_is_taken(
    server: HostileServer, put: Any, fetch: Fetch
) -> None:
    linked = {"X-Linked-Etag": f'"{hashlib.sha256(OTHER).hexdigest()}"'}
    server.at["/hf/o/r/resolve/main/w.pt"] = Hosted(OTHER, headers=linked, pause=0.01)
    put({"name": "w.pt", "url": "hf:o/r/w.pt", "sha256": SHA256.upper()})
    with pytest.raises(WeightsError, match="as published"):
        fetch()
    assert server.at["/hf/o/r/resolve/main/w.pt"].sent < len(OTHER)


def test_figshares_firewall_is_gone_round(
    server: HostileServer, put: Any, fetch: Fetch, folder: Path
) -> None:
    server.at["/api/file/download/7"] = Hosted(CONTENT)
    put({"name": "w.pt", "url": "figshare:7"})
    for status in (202, 403):
        server.at["/ndownloader/files/7"] = Hosted(statuses=[status] * 9)
        fetch()
        assert (folder / "w.pt").read_bytes() == CONTENT
        (folder / "w.pt").unlink()


def test_figshare_tells_the_md5_of_a_file_of_an_article(
    server: HostileServer, put: Any, fetch: Fetch, folder: Path
) -> None:
    told = {"size": len(CONTENT), "computed_md5": hashlib.md5(CONTENT).hexdigest()}
    server.at["/api/articles/5/files/7"] = Hosted(json.dumps(told).encode())
    server.at["/ndownloader/files/7"] = Hosted(OTHER)
    put({"name": "w.pt", "url": "figshare:5/7"})
    with pytest.raises(WeightsError, match="md5"):
        fetch()
    server.at["/ndownloader/files/7"] = Hosted(CONTENT)
    assert fetch() == [folder / "w.pt"]


def test_googles_hash_is_checked(server: HostileServer, put: Any, fetch: Fetch) -> None:
    md5 = b64encode(hashlib.md5(CONTENT).digest()).decode()
    hashes = {"X-Goog-Hash": f"crc32c=AAAAAA==,md5={md5}"}
    server.at["/w.pt"] = Hosted(OTHER, headers=hashes)
    put({"name": "w.pt", "url": f"{server.url}/w.pt"})
    with pytest.raises(WeightsError, match="md5"):
        fetch()
    server.at["/w.pt"] = Hosted(CONTENT, headers=hashes)
    fetch()


CONSENT = """<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head>
<body><form action="/hidden"><input type="hidden" name="no" value="no"></form>
<form id="download-form" action="{action}?authuser=0" method="get">
<input type="submit" value="Download anyway"/><input type="hidden" name="id" value="F1">
<input type="hidden" name="confirm" value="t"><input type="hidden" name="uuid" value="a&amp;b">
</form></body></html>"""


def test_google_drives_question_about_large_files_is_answered(
    server: HostileServer, put: Any, fetch: Fetch, folder: Path
) -> None:
    with hostile_server() as other:
        page = CONSENT.format(action=f"{other.url}/download").encode()
        server.at["/drive/uc"] = Hosted(page, kind="text/html; charset=utf-8")
        form = "/download?authuser=0&id=F1&confirm=t&uuid=a%26b"
        other.at[form] = Hosted(
            CONTENT, cuts=[60_000], etag="", date="Mon, 02 Jan 2023 00:00:00 GMT"
        )
        put({"name": "w.pt", "url": "gdrive:F1"})
        fetch()
        assert (folder / "w.pt").read_bytes() == CONTENT
        assert server.at["/drive/uc"].asked[0]["url"] == "/drive/uc?id=F1&export=download"
        assert other.at[form].asked[1]["range"] == "bytes=60000-"


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("<html><title>Google Drive - Quota exceeded</title>Sorry</html>", "tomorrow"),
        ("<html><form action='/ServiceLogin'></form></html>", "sign-in"),
        ("<html><title>Other</title></html>", "'Other'"),
    ],
)
def test_google_drives_other_pages_are_told_apart(
    server: HostileServer, put: Any, fetch: Fetch, page: str, words: str
) -> None:
    server.at["/drive/uc"] = Hosted(page.encode(), kind="text/html")
    put({"name": "w.pt", "url": "gdrive:F1"})
    with pytest.raises(WeightsError, match=words):
        fetch()


def entry(kind: str, id: str, title: str) -> str:
    link = f"file/d/{id}/view?usp=drive_web" if kind == "file" else f"drive/folders/{id}"
    return (
        f'<div class="flip-entry" id="entry-{id}"><a href="https://drive.google.com/{link}">'
        f'<div class="flip-entry-icon"><img src="x"/></div>'
        f'<div class="flip-entry-title">{title}</div></a></div>'
    )


def test_files_are_looked_up_in_google_drive_folders(
    server: HostileServer, put: Any, fetch: Fetch, folder: Path
) -> None:
    server.at["/drive/embeddedfolderview?id=TOP"] = Hosted(
        (entry("folder", "IN", "sub") + entry("file", "F0", "a.json")).encode(), kind="text/html"
    )
    server.at["/drive/embeddedfolderview?id=IN"] = Hosted(
        (entry("file", "F1", "R&amp;D.pt") + entry("file", "F2", "x") * 2).encode(),
        kind="text/html",
        statuses=[500],
    )
    server.at["/drive/uc?id=F0&export=download"] = Hosted(b'{"a": 1}', kind="application/json")
    server.at["/drive/uc?id=F1&export=download"] = Hosted(CONTENT)
    files = [{"name": "a.json", "url": "gdrive-folder:TOP/a.json"}]
    put(*files, {"name": "w.pt", "url": "gdrive-folder:TOP/sub/R&D.pt"})
    fetch()
    assert (folder / "w.pt").read_bytes() == CONTENT
    assert json.loads((folder / "a.json").read_text()) == {"a": 1}
    for name, words in (
        ("b.json", "no files called b.json; it lists sub, a.json"),
        ("sub/x", "2 files called x"),
    ):
        put({"name": "b", "url": f"gdrive-folder:TOP/{name}"})
        with pytest.raises(WeightsError, match=words):
            fetch()


@pytest.mark.parametrize(
    "url", ["hf:owner/repo", "figshare:abc", "gdrive-folder:X", "s3://b/x", "file:///x", "nothing"]
)
def test_a_card_that_is_misspelt_says_so(put: Any, fetch: Fetch, url: str) -> None:
    put({"name": "w.pt", "url": url})
    with pytest.raises(WeightsError, match="the card says"):
        fetch()


# Archives


def tarred(mode: str = "w:gz", **files: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:
        tar.addfile(tarfile.TarInfo("./in"), io.BytesIO())
        for name, content in files.items():
            info = tarfile.TarInfo(f"./in/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("./in/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return out.getvalue()


def zipped(**files: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(f"in/{name}", content)
    return out.getvalue()


@pytest.mark.parametrize("archive", [tarred(a=CONTENT, b=OTHER), zipped(a=CONTENT, b=OTHER)])
def test_files_are_taken_out_of_an_archive_that_is_fetched_once(
    server: HostileServer, put: Any, fetch: Fetch, folder: Path, archive: bytes
) -> None:
    hosted = server.at["/x.tar.gz"] = Hosted(archive, cuts=[50_000])
    url = f"{server.url}/x.tar.gz"
    put(
        {"name": "deep/one", "url": f"{url}!in/a", "sha256": SHA256, "size": len(CONTENT)},
        {"name": "two", "url": f"{url}!in/b"},
    )
    fetch()
    assert (folder / "deep" / "one").read_bytes() == CONTENT
    assert (folder / "two").read_bytes() == OTHER
    assert hosted.sent == len(archive)
    assert left_over(folder) == []
    assert ledger(folder)["two"]["from"] == f"{url}!in/b"
    fetch()
    assert len(hosted.asked) == 2


@pytest.mark.parametrize("inner", ["in/c", "in/link", "../in/a", "in"])
def test_a_file_that_an_archive_has_not_is_named(
    server: HostileServer, put: Any, fetch: Fetch, inner: str, folder: Path
) -> None:
    server.at["/x.tar.gz"] = Hosted(tarred(a=CONTENT))
    put({"name": "one", "url": f"{server.url}/x.tar.gz!{inner}", "size": 5})
    with pytest.raises(WeightsError) as refused:
        fetch()
    assert inner in str(refused.value)
    assert not (folder / "one").exists()


@pytest.mark.parametrize(
    "archive",
    [tarred(a=CONTENT)[:60_000], tarred("w:", a=CONTENT)[:60_000], zipped(a=CONTENT)[:60_000]],
)
def test_a_broken_archive_is_fetched_again_the_next_time(
    server: HostileServer, put: Any, fetch: Fetch, folder: Path, archive: bytes
) -> None:
    server.at["/x"] = Hosted(archive)
    put({"name": "one", "url": f"{server.url}/x!in/a"})
    with pytest.raises(WeightsError, match="cannot be unpacked"):
        fetch()
    assert not (folder / "one").exists()
    server.at["/x"] = Hosted(tarred(a=CONTENT))
    fetch()
    assert (folder / "one").read_bytes() == CONTENT


def test_a_member_that_is_not_what_it_should_be_gets_no_name(
    server: HostileServer, put: Any, fetch: Fetch, folder: Path
) -> None:
    server.at["/x"] = Hosted(tarred(a=OTHER, b=PAGE))
    for file in ({"sha256": SHA256, "url": "in/a"}, {"size": 5, "url": "in/a"}, {"url": "in/b"}):
        put({"name": "one"} | file | {"url": f"{server.url}/x!{file['url']}"})
        with pytest.raises(WeightsError):
            fetch()
        assert not (folder / "one").exists()


# This machine


def test_no_room_is_said_before_anything_is_written(
    server: HostileServer, put: Any, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.at["/w.pt"] = Hosted(CONTENT)
    put({"name": "w.pt", "url": f"{server.url}/w.pt"})

    def almost_full(path: Path) -> Any:
        return type("Usage", (), {"free": 10})

    monkeypatch.setattr(partial.shutil, "disk_usage", almost_full)
    with pytest.raises(WeightsError, match="has room for"):
        fetch()


def test_a_folder_that_cannot_be_written_to_is_named(
    server: HostileServer, put: Any, fetch: Fetch, tmp_path: Path
) -> None:
    server.at["/w.pt"] = Hosted(CONTENT)
    put({"name": "w.pt", "url": f"{server.url}/w.pt"})
    (tmp_path / "file").write_text("")
    with pytest.raises(WeightsError, match="cannot be written to"):
        fetch(into=tmp_path / "file")


def test_files_without_a_link_are_explained_after_the_others_came(
    server: HostileServer, put: Any, fetch: Fetch, folder: Path
) -> None:
    server.at["/a"] = Hosted(CONTENT)
    put({"name": "w.pt", "how": "ask the authors"}, {"name": "a", "url": f"{server.url}/a"})
    with pytest.raises(WeightsError, match="ask the authors"):
        fetch()
    assert (folder / "a").read_bytes() == CONTENT
    (folder / "w.pt").write_bytes(CONTENT)
    assert fetch() == [folder / "w.pt", folder / "a"]


# Processes and the command line

DRIVER = """
import sys, pathlib
from sclitmus.models import card, hosts, download
card.CARDS = pathlib.Path(sys.argv.pop(1))
hosts.Patience = lambda: download.Patience(3, 0.01, 0.05, 5.0, 1000)
{before}
from sclitmus.cli import main
sys.argv[0] = "sclitmus"
main()
"""


@pytest.fixture
def command(tmp_path: Path, server: HostileServer) -> Callable[..., subprocess.Popen[str]]:
    """Return a function that starts `sclitmus fetch …` with the test's card."""

    def start(*arguments: str, before: str = "") -> subprocess.Popen[str]:
        code = DRIVER.format(before=before)
        return subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "cards"), "fetch", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"SCLITMUS_WEIGHTS": str(tmp_path), "HF_ENDPOINT": f"{server.url}/hf"},
        )

    return start


def test_the_command_shows_the_terms_and_prints_the_paths(
    server: HostileServer, put: Any, command: Any, folder: Path
) -> None:
    server.at["/hf/o/r/resolve/main/w.pt"] = Hosted(CONTENT)
    url = "hf:o/r/w.pt"
    put({"name": "w.pt", "url": url, "size": len(CONTENT)}, non_commercial=True)
    out, err = (asking := command("toy-model")).communicate(timeout=60)
    assert (asking.returncode, out) == (2, "")
    for words in ("Toy-1.0", "100.0 kB", url, "example.org/toy", "non-commercial", "--yes"):
        assert words in err
    assert not (folder / "w.pt").exists()
    out, err = (taking := command("toy-model", "--yes")).communicate(timeout=60)
    assert (taking.returncode, out) == (0, f"{folder / 'w.pt'}\n"), err
    assert "w.pt: 100.0 kB of 100.0 kB" in err
    out, err = (third := command("toy_model")).communicate(timeout=60)
    assert (third.returncode, out) == (0, f"{folder / 'w.pt'}\n"), err
    assert "all files are there" in err


def test_the_command_says_how_to_get_files_without_a_link(
    server: HostileServer, put: Any, command: Any
) -> None:
    put({"name": "w.pt", "how": "ask the authors by letter"})
    out, err = (asking := command("toy-model", "--yes")).communicate(timeout=60)
    assert (asking.returncode, out) == (2, "")
    assert "by hand  w.pt: ask the authors by letter" in err
    assert "Traceback" not in err


def test_a_killed_download_goes_on(
    server: HostileServer, put: Any, command: Any, fetch: Fetch, folder: Path
) -> None:
    hosted = server.at["/w.pt"] = Hosted(CONTENT, pause=0.05)
    put({"name": "w.pt", "url": f"{server.url}/w.pt"})
    running = command("toy-model", "--yes")
    part = folder / "w.pt.part"
    wait_until(lambda: part.exists() and part.stat().st_size > 20_000)
    running.send_signal(signal.SIGKILL)
    running.communicate(timeout=60)
    kept = part.stat().st_size
    assert not (folder / "w.pt").exists()
    hosted.pause = 0.0
    fetch()
    assert (folder / "w.pt").read_bytes() == CONTENT
    assert hosted.asked[-1]["range"] == f"bytes={kept}-"


def test_a_whole_partial_file_is_not_asked_for_again(
    server: HostileServer, put: Any, fetch: Fetch, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the last byte and the renaming."""
    hosted = server.at["/w.pt"] = Hosted(CONTENT)
    put({"name": "w.pt", "url": f"{server.url}/w.pt"})
    with monkeypatch.context() as patch:
        patch.setattr(partial.os, "fsync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fetch()
    assert (folder / "w.pt.part").stat().st_size == len(CONTENT)
    fetch()
    assert (folder / "w.pt").read_bytes() == CONTENT
    assert len(hosted.asked) == 1


def test_two_processes_fetch_once(
    server: HostileServer, put: Any, command: Any, folder: Path
) -> None:
    hosted = server.at["/w.pt"] = Hosted(CONTENT, pause=0.03)
    put({"name": "w.pt", "url": f"{server.url}/w.pt"})
    both = [command("toy-model", "--yes") for _ in range(2)]
    said = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert len(hosted.asked) == 1
    assert (folder / "w.pt").read_bytes() == CONTENT


def test_a_disk_that_fills_up_keeps_what_came(
    server: HostileServer, put: Any, command: Any, fetch: Fetch, folder: Path
) -> None:
    hosted = server.at["/w.pt"] = Hosted(CONTENT)
    put({"name": "w.pt", "url": f"{server.url}/w.pt"})
    limit = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))"
    )
    out, err = (full := command("toy-model", "--yes", before=limit)).communicate(timeout=60)
    assert (full.returncode, out) == (2, "")
    assert "cannot be written to" in err
    assert "Traceback" not in err
    assert (folder / "w.pt.part").stat().st_size == 50_000
    fetch()
    assert (folder / "w.pt").read_bytes() == CONTENT
    assert hosted.asked[-1]["range"] == "bytes=50000-"


def wait_until(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_was_fetched_is_what_the_ports_find(
    server: HostileServer, put: Any, fetch: Fetch, folder: Path
) -> None:
    server.at["/w.pt"] = Hosted(CONTENT)
    put({"name": "w.pt", "url": f"{server.url}/w.pt"})
    fetch()
    weights = Weights(cards.model_card("toy_model"), folder)
    weights.require()
    assert weights.file("w.pt").read_bytes() == CONTENT
