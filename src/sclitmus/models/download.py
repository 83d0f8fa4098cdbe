"""One address → one file, on a network that breaks off, truncates, redirects and lies.

Redirects are followed here and not by urllib, so that a token never travels to another host and a
consent page can be passed. What came before a failure is gone on with: see `partial`.
"""

import http.client
import ssl
import time
import urllib.request
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import Message
from email.utils import parsedate_to_datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from sclitmus.errors import WeightsError
from sclitmus.models.partial import CHUNK, Again, Arrived, Claims, OnProgress, Partial

HOPS = 10  # redirects and consent pages in a row
PAGE_BYTES = 8 << 20  # read at most of a web page
MOVED = (301, 302, 303, 307, 308)
# Worth another attempt. 202 is how the firewall in front of figshare.com asks for a browser.
PASSING = (202, 408, 425, 429, 500, 502, 503, 504)
HEADERS = {
    "User-Agent": "sclitmus",
    "Accept-Encoding": "identity",  # else lengths and ranges are those of a compressed body
}


@dataclass(frozen=True)
class Patience:
    """How long a host is borne with.

    Attributes
    ----------
    attempts
        That may fail in a row; also, how often a file may be begun anew.
    wait, longest
        Seconds before the second attempt, doubled each time up to the longest.
    timeout
        Seconds of silence after which a connection is given up.
    enough
        New bytes after which the count of attempts begins anew.
    """

    attempts: int = 5
    wait: float = 1.0
    longest: float = 60.0
    timeout: float = 30.0
    enough: int = CHUNK


@dataclass(frozen=True)
class Source:
    """A file on a host.

    Attributes
    ----------
    name
        As the card has it.
    addresses
        Asked in turn.
    page
        Where a person may look.
    secret
        Headers for the hosts of `addresses`, never sent to one that they redirect to.
    """

    name: str
    addresses: tuple[str, ...]
    page: str
    secret: Mapping[str, str] = field(default_factory=dict, repr=False)

    def claims(self, url: str, status: int, headers: Message) -> Claims:
        """Return what an answer says of the whole file."""
        hashes = {}
        for part in ",".join(headers.get_all("X-Goog-Hash", [])).split(","):
            kind, _, value = part.strip().partition("=")
            if kind == "md5":
                hashes["md5"] = _hex(value)
        if status == 200 and headers["Content-MD5"]:  # with 206 it is that of the piece
            hashes["md5"] = _hex(headers["Content-MD5"])
        return Claims(hashes={kind: value for kind, value in hashes.items() if value})

    def onward(self, url: str, page: str) -> str:
        """Return the address that a web page, sent instead of the file, leads on to.

        Raises
        ------
        WeightsError
            If it does not lead to the file.
        """
        title = page.partition("<title>")[2].partition("</title>")[0].strip()
        named = f" ({title[:80]!r})" if title else ""
        raise WeightsError(
            f"{_host(url)} sent a web page{named} instead of {self.name}",
            "the file itself",
            f"open {self.page} in a browser; download it there and put it into the folder",
        )

    def refused(self, status: int, headers: Message) -> str:
        """Say what to do where access is refused."""
        return f"see {self.page}"

    def own(self, url: str) -> bool:
        """Whether an address is on a host that was asked in the first place."""
        return any(_origin(url) == _origin(address) for address in self.addresses)


def download(
    source: Source,
    path: Path,
    known: Claims,
    patience: Patience,
    on_progress: OnProgress,
    archive: bool = False,
) -> Arrived:
    """Bring a file to `path`, going on with what an earlier call left.

    Parameters
    ----------
    known
        What is known of it beforehand; it must be so.
    archive
        Whether it may be a compressed archive.

    Raises
    ------
    WeightsError
        If the host refuses it, keeps failing, or has another file; if there is no room. What came
        so far is kept, unless it is wrong.
    """
    part = Partial(path, source.name, known, on_progress, archive)
    failed = 0
    while True:
        before = part.size
        try:
            if not part.complete:
                address = source.addresses[failed % len(source.addresses)]
                _attempt(source, address, part, patience)
            return part.accept()
        except Again as trouble:
            failed = 0 if part.size - before >= patience.enough else failed + 1
            if failed >= patience.attempts or part.restarts > patience.attempts:
                kept = f"{part.size} bytes are kept; " if part.size else ""
                raise WeightsError(
                    f"{source.name} could not be fetched: {trouble.reason}",
                    "a host that sends the whole file",
                    f"{kept}run the same command again, later perhaps, or see {source.page}",
                ) from trouble
            wait = _wait(patience, failed, trouble)
            part.report(f"{trouble.reason}; next attempt in {wait:.0f} s")
        finally:
            part.close()
        time.sleep(wait)


def read_text(source: Source, url: str, patience: Patience) -> str:
    """Return a page or a list that a host sends.

    Raises
    ------
    WeightsError
        If it keeps failing to.
    """
    failed = 0
    while True:
        try:
            with _ask(url, {}, patience) as answer:
                if answer.status == 200:
                    return bytes(answer.read(PAGE_BYTES)).decode("utf-8", errors="replace")
                _judge(source, url, answer)
        except (Again, OSError, http.client.HTTPException) as trouble:
            failed += 1
            if failed >= patience.attempts:
                raise WeightsError(
                    f"{url} could not be read: {_said(trouble)}",
                    "an answer",
                    f"try again later, or see {source.page}",
                ) from trouble
            time.sleep(_wait(patience, failed, trouble))


def _wait(patience: Patience, failed: int, trouble: Exception) -> float:
    """Seconds before the next attempt: doubled each time, or what the host asks for."""
    own = patience.wait * 2.0 ** max(failed - 1, 0)
    asked = trouble.wait if isinstance(trouble, Again) else 0.0
    return min(max(own, asked), patience.longest)


def _attempt(source: Source, address: str, part: Partial, patience: Patience) -> None:
    """Ask for what is missing and take in what comes."""
    answer, claims = _follow(source, address, part, patience)
    with answer:
        if answer.status == 416:
            part.discard()
            raise Again("the host has less of the file than is here")
        if answer.status == 206:
            part.go_on(claims, answer)
        else:
            part.begin(claims, answer)
        # Where no length ends the body, its end must be seen.
        ends = answer.headers["Content-Length"] is not None and not answer.chunked
        while not (ends and part.complete):
            try:
                block = answer.read1(CHUNK)
            except (OSError, http.client.HTTPException) as error:
                raise Again(f"the connection broke off ({_said(error)})") from error
            if not block:
                break
            part.take(block)
    part.end()


def _follow(source: Source, address: str, part: Partial, patience: Patience) -> tuple[Any, Claims]:
    """Return the answer that carries the file, behind redirects and pages that lead on to it."""
    url, claims = address, Claims()
    for _ in range(HOPS):
        answer = _ask(
            url, part.headers() | (dict(source.secret) if source.own(url) else {}), patience
        )
        try:
            # The first to speak of the file is the host itself, not a cache that it redirects to.
            claims = claims.joined(source.claims(url, answer.status, answer.headers), source.name)
            target = _onward(source, url, answer, part.path)
        except (OSError, http.client.HTTPException) as error:
            answer.close()
            raise Again(f"the connection broke off ({_said(error)})") from error
        except BaseException:
            answer.close()
            raise
        if not target:
            return answer, claims
        answer.close()
        _refuse_insecure(source, url, target)
        url = target
    raise WeightsError(
        f"{source.name} is redirected more than {HOPS} times, last to {_host(url)}",
        "an address that leads to the file",
        f"see {source.page}",
    )


def _onward(source: Source, url: str, answer: Any, path: Path) -> str:
    """Return where an answer leads to; nothing if it carries the file."""
    if answer.status in MOVED and answer.headers["Location"]:
        return urljoin(url, str(answer.headers["Location"]))
    if answer.status not in (200, 206, 416):
        _judge(source, url, answer)
    page = answer.headers.get_content_type() == "text/html" and path.suffix != ".html"
    if answer.status != 416 and page:
        return source.onward(url, answer.read(PAGE_BYTES).decode("utf-8", errors="replace"))
    return ""


class _AsTheyAre(urllib.request.HTTPErrorProcessor):
    """Hands every answer on, redirects and refusals too."""

    def http_response(self, request: Any, response: Any) -> Any:
        return response

    https_response = http_response


@cache
def _opener() -> urllib.request.OpenerDirector:
    """Proxies as the environment has them; cookies, which a consent page may set."""
    return urllib.request.build_opener(_AsTheyAre, urllib.request.HTTPCookieProcessor())


def _ask(url: str, headers: Mapping[str, str], patience: Patience) -> Any:
    request = urllib.request.Request(url, headers=HEADERS | dict(headers))
    try:
        return _opener().open(request, timeout=patience.timeout)
    except (OSError, http.client.HTTPException) as error:
        cause = getattr(error, "reason", error)
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise WeightsError(
                f"{_host(url)} does not prove who it is: {cause.verify_message}",
                "a certificate that this machine trusts",
                "behind a proxy that opens TLS, set SSL_CERT_FILE to its certificate",
            ) from error
        raise Again(f"{_host(url)} does not answer ({_said(cause)})") from error


def _judge(source: Source, url: str, answer: Any) -> None:
    """Raise what an answer without the file means."""
    status, host = answer.status, _host(url)
    if status in PASSING:
        browser = ": it asks for a browser" if status == 202 else ""
        raise Again(f"{host} answers with HTTP {status}{browser}", _retry_after(answer.headers))
    # A signed address may have run out, and another address may be open.
    if not source.own(url) or len(source.addresses) > 1:
        raise Again(f"{host} answers with HTTP {status}")
    if status in (401, 403):
        raise WeightsError(
            f"{host} refuses {source.name} (HTTP {status})",
            "leave to download it",
            source.refused(status, answer.headers),
        )
    gone = ": it is not there" if status in (404, 410) else ""
    raise WeightsError(
        f"{host} answers with HTTP {status} for {source.name}{gone}",
        "the published file",
        f"see {source.page}; the authors may have moved it",
    )


def _refuse_insecure(source: Source, url: str, target: str) -> None:
    before, after = urlsplit(url).scheme, urlsplit(target).scheme
    if after not in ("http", "https") or (before, after) == ("https", "http"):
        raise WeightsError(
            f"{source.name} is redirected from {before} to {after}",
            "an encrypted connection all the way",
            f"see {source.page}",
        )


def _retry_after(headers: Message) -> float:
    """Seconds the host asks to wait: a number or a date."""
    text = headers["Retry-After"] or ""
    if text.isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0


def _hex(base64: str) -> str:
    try:
        return b64decode(base64).hex()
    except ValueError:
        return ""


def _host(url: str) -> str:
    return urlsplit(url).netloc


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _said(error: Any) -> str:
    return str(error) or type(error).__name__
