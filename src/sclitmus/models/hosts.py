"""What the addresses on a card mean: Hugging Face, figshare, Google Drive, or a plain URL."""

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode, urljoin, urlsplit

from sclitmus.errors import WeightsError
from sclitmus.models.download import Patience, Source, read_text
from sclitmus.models.partial import Claims

KINDS = ("hf", "figshare", "gdrive", "gdrive-folder", "https", "http")
HEX = {40: "git-sha1", 64: "sha256"}  # Hugging Face's tags: of files in git, and of large ones


def _hugging_face() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def _token() -> str:
    """The user's token for Hugging Face, from where its own tools keep it."""
    given = os.environ.get("HF_TOKEN", "").strip()
    if given:
        return given
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    home = Path(os.environ.get("HF_HOME", cache / "huggingface"))
    place = Path(os.environ.get("HF_TOKEN_PATH", home / "token"))
    try:
        return place.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""


@dataclass(frozen=True)
class Hosts:
    """Where the hosts are, which a mirror or a test may change, and how long to bear with them.

    Attributes
    ----------
    hugging_face
        By default $HF_ENDPOINT, or huggingface.co.
    figshare, figshare_api
        Not www.figshare.com, whose firewall wants a browser.
    drive
        Google Drive.
    token
        For files on Hugging Face whose licence must be accepted; by default $HF_TOKEN, or what
        ``hf auth login`` left.
    """

    hugging_face: str = field(default_factory=_hugging_face)
    figshare: str = "https://ndownloader.figshare.com"
    figshare_api: str = "https://api.figshare.com/v2"
    drive: str = "https://drive.google.com"
    token: str = field(default_factory=_token, repr=False)
    patience: Patience = field(default_factory=Patience)


def split_member(address: str) -> tuple[str, str]:
    """Split ``ARCHIVE!inner/path`` into both; the second is empty for a file of its own."""
    archive, _, member = address.partition("!")
    return archive, member


def source_of(address: str, hosts: Hosts) -> tuple[Source, Claims]:
    """Return where a card's address leads to, and what its host says of the file beforehand.

    Raises
    ------
    WeightsError
        If it is no address of a known kind, or its host cannot say where the file is.
    """
    kind, _, rest = address.partition(":")
    make = MAKERS.get(kind)
    if make is None or not rest:
        raise WeightsError(
            f"the card says {address!r}",
            f"an address that begins with one of: {', '.join(KINDS)}",
            "correct the card of the model",
        )
    return make(address, rest, hosts)


def _plain(address: str, rest: str, hosts: Hosts) -> tuple[Source, Claims]:
    return Source(address, (address,), address), Claims()


def _on_hugging_face(address: str, rest: str, hosts: Hosts) -> tuple[Source, Claims]:
    found = re.fullmatch(r"([^/]+)/([^/]+)/(.+?)(?:@([^@]+))?", rest)
    if found is None:
        raise _misspelt(address, "hf:OWNER/REPO/PATH@REVISION")
    repository, path, revision = f"{found[1]}/{found[2]}", found[3], found[4] or "main"
    url = f"{hosts.hugging_face}/{repository}/resolve/{quote(revision, '')}/{quote(path)}"
    secret = {"Authorization": f"Bearer {hosts.token}"} if hosts.token else {}
    return HuggingFace(address, (url,), f"{hosts.hugging_face}/{repository}", secret), Claims()


class HuggingFace(Source):
    """A file of a repository on Hugging Face, which names its checksum and the commit."""

    def claims(self, url: str, status: int, headers: Message) -> Claims:
        if not self.own(url) or status >= 400:  # a cache's tags mean something else
            return Claims()
        tag = (headers["X-Linked-Etag"] or headers["ETag"] or "").removeprefix("W/").strip('"')
        hexadecimal = re.fullmatch(r"[0-9a-f]+", tag) is not None
        kind = HEX.get(len(tag), "") if hexadecimal else ""
        size = headers["X-Linked-Size"] or ""
        return Claims(
            int(size) if size.isdigit() else 0,
            {kind: tag} if kind else {},
            version=headers["X-Repo-Commit"] or "",
        )

    def refused(self, status: int, headers: Message) -> str:
        gated = headers["X-Error-Code"] == "GatedRepo"
        said = (
            f" ({headers['X-Error-Message']})" if headers["X-Error-Message"] and not gated else ""
        )
        accept = f"accept the licence at {self.page}"
        if self.secret:
            return f"{accept} with the account that your HF_TOKEN belongs to{said}"
        return (
            f"{accept}, make a token at https://huggingface.co/settings/tokens, and set HF_TOKEN "
            f"to it{said}"
        )


def _on_figshare(address: str, rest: str, hosts: Hosts) -> tuple[Source, Claims]:
    """``figshare:FILE`` or, so that figshare tells size and md5, ``figshare:ARTICLE/FILE``."""
    article, _, file = rest.rpartition("/")
    if not (file.isdigit() and (article.isdigit() or not article)):
        raise _misspelt(address, "figshare:FILE_ID or figshare:ARTICLE_ID/FILE_ID")
    addresses = (
        f"{hosts.figshare}/files/{file}",
        f"{hosts.figshare_api}/file/download/{file}",
    )
    page = f"https://figshare.com/articles/dataset/_/{article}" if article else addresses[0]
    source = Source(address, addresses, page)
    if not article:
        return source, Claims()
    url = f"{hosts.figshare_api}/articles/{article}/files/{file}"
    try:
        told = json.loads(read_text(source, url, hosts.patience))
    except ValueError as error:
        raise WeightsError(f"{url} is no JSON: {error}", "size and md5", "try later") from error
    md5 = told.get("computed_md5") or told.get("supplied_md5") or ""
    return source, Claims(told.get("size", 0), {"md5": md5} if md5 else {})


def _on_drive(address: str, rest: str, hosts: Hosts) -> tuple[Source, Claims]:
    url = f"{hosts.drive}/uc?{urlencode({'id': rest, 'export': 'download'})}"
    return Drive(address, (url,), f"{hosts.drive}/file/d/{rest}/view"), Claims()


def _in_drive_folder(address: str, rest: str, hosts: Hosts) -> tuple[Source, Claims]:
    """Look the file up in the list of a public folder, and of folders in it."""
    folder, *names = rest.split("/")
    if not names:
        raise _misspelt(address, "gdrive-folder:FOLDER_ID/NAME")
    page = f"{hosts.drive}/drive/folders/{folder}"
    source = Source(address, (hosts.drive,), page)
    for depth, name in enumerate(names):
        url = f"{hosts.drive}/embeddedfolderview?{urlencode({'id': folder})}"
        listed = _Links(read_text(source, url, hosts.patience)).found
        kind = "file" if depth == len(names) - 1 else "folder"
        ids = [id for what, id, title in listed if (what, title) == (kind, name)]
        if len(ids) != 1:
            titles = ", ".join(title for _, _, title in listed) or "nothing"
            raise WeightsError(
                f"the Google Drive folder of {address} has {len(ids) or 'no'} {kind}s called "
                f"{name}; it lists {titles[:200]}",
                "one of that name",
                f"see {page}; the authors may have moved it",
            )
        folder = ids[0]
    return _on_drive(address, folder, hosts)


class Drive(Source):
    """A file on Google Drive; before a large one comes a page that asks whether to go on."""

    def onward(self, url: str, page: str) -> str:
        form = _Form(page)
        if form.action:
            parts = urlsplit(urljoin(url, form.action))
            return parts._replace(
                query=urlencode(dict(parse_qsl(parts.query)) | form.fields)
            ).geturl()
        if "quota" in page.lower() or "too many users" in page.lower():
            raise WeightsError(
                f"Google Drive says that {self.name} was downloaded too often today",
                "a download within Google's quota",
                f"try again tomorrow; or, signed in, make a copy of {self.page} and download that",
            )
        if "accounts.google." in urlsplit(url).netloc or "ServiceLogin" in page:
            raise WeightsError(
                f"Google Drive wants a sign-in for {self.name}",
                "a file that is shared with everyone",
                f"open {self.page} in a browser, and put the file into the folder",
            )
        return super().onward(url, page)


class _Form(HTMLParser):
    """The form with which Google Drive asks whether to download a file it cannot scan."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.action = ""
        self.fields: dict[str, str] = {}
        self.inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "form" and given.get("id") == "download-form":
            self.action, self.inside = given.get("action") or "", True
        elif tag == "input" and self.inside and given.get("name"):
            self.fields[given["name"] or ""] = given.get("value") or ""

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag != "form"


class _Links(HTMLParser):
    """The entries of Google Drive's plain list of a folder: kind, id and title."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, str, str]] = []
        self.link: tuple[str, str] | None = None
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            link = re.search(r"/(?:file/d|drive/(folders))/([-\w]+)", dict(attrs).get("href") or "")
            self.link = ("folder" if link[1] else "file", link[2]) if link else None
            self.text = ""

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "a" and self.link:
            self.found.append((*self.link, self.text.strip()))
            self.link = None


def _misspelt(address: str, form: str) -> WeightsError:
    return WeightsError(f"the card says {address!r}", form, "correct the card of the model")


MAKERS: dict[str, Callable[[str, str, Hosts], tuple[Source, Claims]]] = {
    "hf": _on_hugging_face,
    "figshare": _on_figshare,
    "gdrive": _on_drive,
    "gdrive-folder": _in_drive_folder,
    "https": _plain,
    "http": _plain,  # for a test on this machine; no card has one
}
