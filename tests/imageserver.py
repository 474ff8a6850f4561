"""A web server of this machine with pictures, and with all that goes wrong with pictures on the web."""

from __future__ import annotations

import io
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image


def size_of(number: int) -> tuple[int, int]:
    """Odd ones are small."""
    return (320, 240) if number % 2 else (640, 480)


def picture(number: int) -> bytes:
    """A JPEG of grey noise in large grains, another one for each number."""
    width, height = size_of(number)
    grains = np.random.default_rng(number).integers(0, 256, (height // 16, width // 16, 1), np.uint8).repeat(3, axis=2)
    file = io.BytesIO()
    Image.fromarray(grains).resize((width, height), Image.Resampling.NEAREST).save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()


class Server(ThreadingHTTPServer):
    """/ok/N is a picture, /once/N only from the second request on; the other paths say what they do."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 512

    def __init__(self, host: str) -> None:
        super().__init__((host, 0), Handler)
        self.asked: Counter[str] = Counter()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is none."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *arguments: Any) -> None:
        """Nothing is printed."""

    def do_GET(self) -> None:  # http.server calls it so
        self.server.asked[self.path] += 1
        kind, _, rest = self.path.strip("/").partition("/")
        getattr(self, f"say_{kind}", self.say_gone)(rest)

    def _send(self, body: bytes, status: int = 200, size: int | None = None, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if size is None else size))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def say_ok(self, rest: str) -> None:
        self._send(picture(int(rest)))

    def say_once(self, rest: str) -> None:
        first = self.server.asked[self.path] <= 1
        self._send(b"", 503) if first else self.say_ok(rest)

    def say_slow(self, rest: str) -> None:
        time.sleep(0.3)
        self.say_ok(rest)

    def say_gone(self, rest: str) -> None:
        self._send(b"gone", 404)

    def say_broken(self, rest: str) -> None:
        self._send(b"", 500)

    def say_text(self, rest: str) -> None:
        self._send(b"<html>this is no image</html>")

    def say_cut(self, rest: str) -> None:
        whole = picture(int(rest))
        self._send(whole[: len(whole) // 2], size=len(whole))

    def say_huge(self, rest: str) -> None:
        self._send(b"\xff\xd8", size=1 << 40)

    def say_to(self, rest: str) -> None:
        self._send(b"", 302, Location=rest)

    def say_noai(self, rest: str) -> None:
        self._send(picture(0), X_Robots_Tag="noai")

    def say_endless(self, rest: str) -> None:
        """No length, and no end."""
        self.send_response(200)
        self.end_headers()
        while True:
            self.wfile.write(bytes(1 << 20))

    def say_trickle(self, rest: str) -> None:
        self.send_response(200)
        self.end_headers()
        while True:
            self.wfile.write(b".")
            time.sleep(0.05)

    def say_silent(self, rest: str) -> None:
        threading.Event().wait(60)


@contextmanager
def serving(host: str = "127.0.0.1") -> Iterator[Server]:
    with Server(host) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
