"""Stores on this machine: a web server and an S3 that count what they send, and misbehave when they are told to."""

from __future__ import annotations

import base64
import re
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Web:
    """What a web server serves, and what it does to whom."""

    folder: Path
    url: str = ""
    sent: int = 0  # bytes of bodies
    asked: Counter[str] = field(default_factory=Counter)  # requests by name
    faults: dict[str, list[str]] = field(default_factory=dict)  # by name, one a request
    sends: Counter[str] = field(default_factory=Counter)  # answers with a body, by name
    closed: dict[str, float] = field(default_factory=dict)  # by name, until when it is to be left alone
    early: int = 0  # requests that came before that
    meanwhile: dict[str, tuple[int, Callable[[], object]]] = field(default_factory=dict)  # by name, before which answer, what happens
    lists: bool = True  # a page of links
    links: str = ""  # more of them
    ranges: bool = True
    user: str | None = None  # user:password
    token: str | None = None  # of the query
    lock: threading.Lock = field(default_factory=threading.Lock)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each answer waits 40 ms for its second half
    web: Web

    def log_message(self, format: str, *args: Any) -> None: ...

    def do_GET(self) -> None:
        name = unquote(urlsplit(self.path).path).removeprefix("/pool").lstrip("/")
        with self.web.lock:
            self.web.asked[name] += 1
            fault = (self.web.faults.get(name) or ["none"]).pop(0)
            self.web.early += time.monotonic() < self.web.closed.get(name, 0)
        if not self._known():
            self.answer(401)
        elif fault.isdecimal():
            self.answer(int(fault))
        elif fault == "later":
            self.web.closed[name] = time.monotonic() + 1
            self.answer(429, {"Retry-After": "1"})
        elif not name and self.web.lists:
            links = "".join(f'<a href="{one.name}">x</a>' for one in self.web.folder.iterdir())
            self.answer(200, body=(self.web.links + links).encode())
        elif not name or not (self.web.folder / name).is_file():
            self.answer(404)
        else:
            self.file(name, fault)

    def _known(self) -> bool:
        user = "Basic " + base64.b64encode((self.web.user or "").encode()).decode()
        told = self.web.user is None or self.headers.get("Authorization") == user
        return told and (self.web.token is None or urlsplit(self.path).query == f"token={self.web.token}")

    def file(self, name: str, fault: str) -> None:
        with self.web.lock:
            self.web.sends[name] += 1
            number, action = self.web.meanwhile.get(name, (0, None))
            if action and self.web.sends[name] == number:
                action()
            told = (self.web.folder / name).stat()
        version, size = f'"{told.st_mtime_ns:x}"', told.st_size
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if not asked or not self.web.ranges:
            return self.answer(200, {"ETag": version}, (self.web.folder / name).read_bytes())
        begin, end = int(asked[1]), min(int(asked[2]) + 1, size)
        if begin >= end:
            return self.answer(416, {"Content-Range": f"bytes */{size}", "ETag": version})
        with (self.web.folder / name).open("rb") as opened:
            opened.seek(begin)
            data = opened.read(end - begin)
        return self.answer(206, {"Content-Range": f"bytes {begin}-{end - 1}/{size}", "ETag": version}, data, fault)

    def answer(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"", fault: str = "none") -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if fault in ("reset", "short"):
            body = body[: len(body) // 2]
            self.close_connection = True
        try:
            for at in range(0, len(body), 1 << 16):
                self.wfile.write(body[at : at + (1 << 16)])
                with self.web.lock:
                    self.web.sent += len(body[at : at + (1 << 16)])
        except OSError:
            self.close_connection = True  # whoever asked has gone
        if fault == "reset":
            self.connection.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()


@contextmanager
def web_server(folder: Path) -> Iterator[Web]:
    web = Web(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"web": web}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    web.url = f"http://127.0.0.1:{server.server_port}/pool"
    try:
        yield web
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass
class S3:
    """An S3 whose answers are counted."""

    endpoint: str = ""
    sent: int = 0  # bytes of bodies
    slow_downs: int = 0  # requests for objects that are still to be put off


@contextmanager
def s3_server() -> Iterator[S3]:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from moto.s3.models import s3_backends
    from werkzeug.serving import WSGIRequestHandler, make_server

    s3_backends.reset()
    told, app = S3(), DomainDispatcherApplication(create_backend_app)

    class Quiet(WSGIRequestHandler):
        def log(self, *args: Any) -> None: ...

    def counted(environ: Any, start: Any) -> Iterable[bytes]:
        if told.slow_downs and "HTTP_RANGE" in environ:
            told.slow_downs -= 1
            start("503 Slow Down", [("Content-Type", "application/xml")])
            return [b"<Error><Code>SlowDown</Code><Message>reduce your request rate</Message></Error>"]
        body = b"".join(app(environ, start))
        told.sent += len(body)
        return [body]

    server = make_server("127.0.0.1", 0, counted, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    told.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield told
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
