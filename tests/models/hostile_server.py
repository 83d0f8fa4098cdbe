"""A web server on this machine that misbehaves as it is told."""

import re
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

PIECE = 4096


@dataclass
class Hosted:
    """What is at one path, and how each request for it goes wrong.

    Attributes
    ----------
    then
        Content from the second request on, if it changes.
    cuts
        Bytes after which the connection of the first, second … request breaks.
    statuses
        Of the first, second … request, instead of an answer.
    length
        What Content-Length says of the whole, if it lies; "none", or "chunked" transfer.
    heeds_if_range
        Whether If-Range is looked at, and not just Range.
    pause
        Seconds between pieces.
    """

    content: bytes = b""
    then: bytes | None = None
    etag: str = '"one"'
    then_etag: str = '"two"'
    date: str = ""
    cuts: list[int] = field(default_factory=list)
    reset: bool = False  # break off with RST, not FIN
    statuses: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    length: int | str = ""
    ranges: bool = True
    heeds_if_range: bool = True
    redirect: str = ""
    kind: str = "application/octet-stream"
    pause: float = 0.0
    stall: bool = False  # fall silent in the middle
    asked: list[dict[str, str]] = field(default_factory=list)
    sent: int = 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "HostileServer"

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.close_connection = True
        hosted = self.server.at.get(self.path) or self.server.at.get(urlsplit(self.path).path)
        if hosted is None:
            self._answer(404, {"Content-Length": "0"})
            return
        n = len(hosted.asked)
        hosted.asked.append({"url": self.path, **{k.lower(): v for k, v in self.headers.items()}})
        if n < len(hosted.statuses) and hosted.statuses[n] != 200:
            self._answer(hosted.statuses[n], {"Content-Length": "0"} | hosted.headers)
        elif hosted.redirect:
            self._answer(302, {"Location": hosted.redirect, "Content-Length": "0"} | hosted.headers)
        else:
            self._send(hosted, n)

    def _send(self, hosted: Hosted, n: int) -> None:
        changed = n > 0 and hosted.then is not None
        content = hosted.then if changed and hosted.then is not None else hosted.content
        etag = hosted.then_etag if changed else hosted.etag
        status, start = 200, 0
        headers = {"Content-Type": hosted.kind, **hosted.headers}
        if etag:
            headers["ETag"] = etag
        if hosted.date:
            headers["Last-Modified"] = hosted.date
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        version = self.headers.get("If-Range")
        if hosted.heeds_if_range and version not in (None, etag, hosted.date):
            wanted = None
        if wanted and hosted.ranges:
            start = int(wanted[1])
            if start >= len(content):
                self._answer(
                    416, {"Content-Range": f"bytes */{len(content)}", "Content-Length": "0"}
                )
                return
            status = 206
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        whole = hosted.length if isinstance(hosted.length, int) else len(content)
        if hosted.length == "chunked":
            headers["Transfer-Encoding"] = "chunked"
        elif hosted.length != "none":
            headers["Content-Length"] = str(whole - start)
        self._answer(status, headers)
        self._pour(hosted, content[start:], hosted.cuts[n] if n < len(hosted.cuts) else None)

    def _pour(self, hosted: Hosted, body: bytes, cut: int | None) -> None:
        chunked = hosted.length == "chunked"
        shown = body if cut is None else body[:cut]
        try:
            for at in range(0, len(shown), PIECE):
                piece = shown[at : at + PIECE]
                framed = b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece
                self.wfile.write(framed)
                hosted.sent += len(piece)
                if hosted.pause:
                    time.sleep(hosted.pause)
                if hosted.stall and at:
                    time.sleep(2)
                    break
            if chunked and cut is None:
                self.wfile.write(b"0\r\n\r\n")
            if cut is not None and hosted.reset:
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.connection.close()
        except OSError:
            pass  # the client went away

    def _answer(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()


class HostileServer(ThreadingHTTPServer):
    """The server: put what it hosts into `at`, by path, with or without query."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.at: dict[str, Hosted] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # broken pipes are its business


@contextmanager
def hostile_server() -> Iterator[HostileServer]:
    """Run the server while the block runs."""
    server = HostileServer()
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
