"""Stores on this machine: a web server, an S3 and a Hub that count what they send, and misbehave when they are told to."""

from __future__ import annotations

import base64
import hashlib
import json
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
from urllib.parse import parse_qs, unquote, urlsplit


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
    more: str = ""  # of that page
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
        elif fault.startswith("until "):
            self.answer(503, {"Retry-After": fault.removeprefix("until ")})
        elif fault == "later":
            self.web.closed[name] = time.monotonic() + 1
            self.answer(429, {"Retry-After": "1"})
        elif not name and self.web.lists:
            links = "".join(f'<a href="{one.name}">x</a>' for one in self.web.folder.iterdir())
            self.answer(200, body=(self.web.more + links).encode())
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
            for at in range(0, len(body) if self.command != "HEAD" else 0, 1 << 16):
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
    with _served(web, Handler) as port:
        web.url = f"http://127.0.0.1:{port}/pool"
        yield web


@contextmanager
def _served(web: Web, handler: type[Handler]) -> Iterator[int]:
    """Gives the port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (handler,), {"web": web}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass
class Hub(Web):
    """A Hub's data sets: below `folder` lie the files of each version, in a folder of the commit's name.

    A file is asked for at the Hub, which gives a link to another host that is signed, and good for so many requests. `faults` are
    the other host's, by a file's path, "hub:" before it: the Hub's, and "info", "tree".
    """

    newest: str = "a" * 40
    page: int = 1000  # entries of a page of the list
    good_for: int = 1_000_000  # requests of a link
    links: Counter[str] = field(default_factory=Counter)  # requests by signature
    strangers: set[str] = field(default_factory=set)  # what the other host was told of who asks
    latency: float = 0.0  # seconds before each answer

    @property
    def endpoint(self) -> str:
        return self.url


class HubHandler(Handler):
    web: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        time.sleep(self.web.latency)
        path = unquote(urlsplit(self.path).path)
        found = re.fullmatch(r"/(?:(cdn)/|(api)/)?datasets/[\w-]+/\w+(?:/(revision|tree|resolve)/(\w+))?(?:/(.*))?", path)
        if not found:
            return self.answer(404)  # it is asked who else is there, too
        cdn, api, step, commit, name = found.groups("")
        commit = self.web.newest if commit in ("", "main") else commit
        key = name if cdn else "tree" if step == "tree" else "info" if api else f"hub:{name}"
        with self.web.lock:
            self.web.asked[key] += 1
            fault = (self.web.faults.get(key) or ["none"]).pop(0)
        if cdn:
            return self.bytes_of(f"{commit}/{name}", fault)
        return self.of_hub(commit, name, step if api else "resolve", fault)

    def of_hub(self, commit: str, name: str, step: str, fault: str) -> None:
        if self.web.token and self.headers.get("Authorization") != f"Bearer {self.web.token}":
            self.answer(401, {"X-Error-Message": "Invalid username or password."})
        elif fault.isdecimal():
            self.answer(int(fault), {"RateLimit": '"api";r=0;t=0'} if fault == "429" else {})
        elif not (self.web.folder / commit).is_dir():
            self.answer(404, {"X-Error-Code": "RevisionNotFound"})
        elif step == "resolve":
            self.link(commit, name, fault)
        else:
            self.told(self.tree(commit, name) if step == "tree" else {"id": "mlfoundations/x", "sha": commit})

    def do_POST(self) -> None:
        """What is asked of some paths."""
        commit = re.sub(r".*/paths-info/", "", urlsplit(self.path).path)
        root = self.web.folder / (self.web.newest if commit == "main" else commit)
        asked = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.told([self.entry(root, root / name) for name in asked["paths"] if (root / name).exists()])

    def told(self, what: Any) -> None:
        told, more = what if isinstance(what, tuple) else (what, {})
        self.answer(200, {"Content-Type": "application/json", **more}, json.dumps(told).encode())

    def tree(self, commit: str, below: str) -> tuple[list[dict[str, Any]], dict[str, str]]:
        """A page of the list, and the link to the next."""
        asked = parse_qs(urlsplit(self.path).query)
        root = self.web.folder / commit
        found = sorted(root.joinpath(below).rglob("*") if asked.get("recursive") == ["true"] else root.joinpath(below).iterdir())
        at = int(asked.get("cursor", ["0"])[0])
        entries = [self.entry(root, path) for path in found[at : at + self.web.page]]
        if at + self.web.page >= len(found):
            return entries, {}
        path = urlsplit(self.path).path
        following = f"{self.web.url}{path}?recursive={asked['recursive'][0]}&cursor={at + self.web.page}"
        return entries, {"Link": f'<{following}>; rel="next"'}

    def entry(self, root: Path, path: Path) -> dict[str, Any]:
        name = str(path.relative_to(root))
        if path.is_dir():
            return {"type": "directory", "oid": "0" * 40, "size": 0, "path": name}
        size = path.stat().st_size
        return {"type": "file", "oid": "1" * 40, "size": size, "path": name, "lfs": {"oid": digest(path), "size": size, "pointerSize": 134}}

    def link(self, commit: str, name: str, fault: str) -> None:
        path = self.web.folder / commit / name
        if not path.is_file():
            return self.answer(404, {"X-Error-Code": "EntryNotFound"})
        with self.web.lock:
            signature = f"signed{len(self.web.links):04}"
            self.web.links[signature] = 0
        other = self.web.url.replace("127.0.0.1", "localhost")
        location = f"{other}/cdn/datasets/org/x/resolve/{commit}/{name}?Signature={signature}"
        version = "f" * 64 if fault == "changed" else digest(path)
        told = {"X-Repo-Commit": commit, "X-Linked-Etag": f'"{version}"', "X-Linked-Size": str(path.stat().st_size)}
        return self.answer(302, {"Location": location, "ETag": '"pointer"', **told})

    def bytes_of(self, name: str, fault: str) -> None:
        signature = parse_qs(urlsplit(self.path).query)["Signature"][0]
        with self.web.lock:
            self.web.strangers.add(self.headers.get("Authorization", ""))
            self.web.links[signature] += 1
            stale = self.web.links[signature] > self.web.good_for
        if stale:
            self.answer(403)
        elif fault.isdecimal():
            self.answer(int(fault), {"Retry-After": "0"} if fault == "429" else {})
        elif fault == "whole":
            self.answer(200, {}, (self.web.folder / name).read_bytes())
        else:
            self.file(name, fault)

    def answer(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"", fault: str = "none") -> None:
        if fault == "spoilt":
            body = body[:-1] + bytes([body[-1] ^ 1])
        super().answer(status, headers, body, fault)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def hub_server(folder: Path) -> Iterator[Hub]:
    hub = Hub(folder)
    with _served(hub, HubHandler) as port:
        hub.url = f"http://127.0.0.1:{port}"
        yield hub


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


class Uploads(ThreadingHTTPServer):
    """What of the Hugging Face Hub an upload meets; `refusal` is its answer to the step of that name."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), UploadHandler)
        self.refusal: dict[str, int] = {}
        self.seen: list[str] = []
        self.tokens: set[str | None] = set()
        self.large: dict[str, bytes] = {}  # by sha256
        self.committed: dict[str, bytes] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class UploadHandler(BaseHTTPRequestHandler):
    server: Uploads

    def do_POST(self) -> None:
        step = re.sub(r".*(create|validate-yaml|preupload|batch|commit)(/main)?$", r"\1", self.path)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append(step)
        self.server.tokens.add(self.headers["Authorization"])
        if step in self.server.refusal:
            self.answer({"error": "no"}, self.server.refusal[step])
        else:
            steps = {"create": self.create, "preupload": self.modes, "batch": self.batch, "commit": self.commit}
            self.answer(steps[step](body) if step in steps else {})

    def create(self, body: bytes) -> Any:
        return {"url": f"{self.server.url}/ada/density-15"}

    def modes(self, body: bytes) -> Any:
        files = [file["path"] for file in json.loads(body)["files"]]
        kinds = {True: "lfs", False: "regular"}
        return {"files": [{"path": path, "uploadMode": kinds[path.endswith(".npy")], "shouldIgnore": False} for path in files]}

    def batch(self, body: bytes) -> Any:
        wanted = json.loads(body)["objects"]
        uploads = [{"upload": {"href": f"{self.server.url}/{one['oid']}"}} for one in wanted]
        return {"transfer": "basic", "objects": [one | {"actions": upload} for one, upload in zip(wanted, uploads, strict=True)]}

    def commit(self, body: bytes) -> Any:
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.server.committed[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "lfsFile":
                self.server.committed[line["value"]["path"]] = self.server.large[line["value"]["oid"]]
        return {"success": True, "commitOid": "0" * 40, "commitUrl": f"{self.server.url}/ada/density-15/commit/0"}

    def do_PUT(self) -> None:
        self.server.large[self.path[1:]] = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer({})

    def answer(self, told: Any, code: int = 200) -> None:
        data = json.dumps(told).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def uploads_server() -> Iterator[Uploads]:
    with Uploads() as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()
