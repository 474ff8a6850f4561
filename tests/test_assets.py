"""Files that baselines download: once, whole, with the digest that is known of them, or not at all."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from baselines import assets
from baselines.assets import Asset
from filters.pool.errors import BadInput
from filters.pool.pool import Pool
from filters.work.engine import Engine
from filters.work.work import Silent, Work
from filters.work.workdir import WorkDir

BODY = b"a model, of sorts\n" * 200_000


class Told(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.passes: list[tuple[str, int]] = []
        self.done = 0

    def say(self, line: str) -> None:
        self.lines.append(line)

    def begin(self, name: str, samples: int) -> None:
        self.passes.append((name, samples))

    def advance(self, samples: int, size: int = 0) -> None:
        self.done += samples


class Server:
    """Answers on this machine: a list of what each request gets, the last one for ever."""

    def __init__(self, *answers: str) -> None:
        self.asked = 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer = answers[min(server.asked, len(answers) - 1)]
                server.asked += 1
                self.send_response(int(answer) if answer.isdigit() else 200)
                self.send_header("Content-Length", str(len(BODY)))
                self.end_headers()
                body = {"whole": BODY, "other": BODY[::-1], "short": BODY[: len(BODY) // 2]}.get(answer, b"")
                self.wfile.write(body)

            def log_message(self, *told: object) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/some/model.bin"

    def asset(self) -> Asset:
        return Asset("model.bin", self.url, hashlib.sha256(BODY).hexdigest(), "model")


@contextmanager
def serving(*answers: str) -> Iterator[Server]:
    server = Server(*answers)
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
        thread.join()


@pytest.fixture
def work(tiny_pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Work]:
    monkeypatch.setenv("DENSPRUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(assets, "PAUSE", 0.0)
    folder = WorkDir(tmp_path / "o.work")
    with Engine("threads", 1) as engine:
        yield Work(Pool.open(tiny_pool, embeddings=False), folder, engine, progress=Told())
    folder.close()


def told(work: Work) -> Told:
    assert isinstance(work.progress, Told)
    return work.progress


def in_cache(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache").glob("*") if not path.name.endswith(".lock"))


def test_a_file_is_downloaded_once_and_known_by_its_digest(work: Work, tmp_path: Path) -> None:
    with serving("whole") as server:
        for _ in range(2):
            found = assets.find(work, server.asset(), None)
    assert (found.path, found.key) == (tmp_path / "cache" / "model.bin", hashlib.sha256(BODY).hexdigest())
    assert found.path.read_bytes() == BODY
    assert (server.asked, in_cache(tmp_path)) == (1, ["model.bin"])
    assert told(work).passes[-1] == ("download model.bin", len(BODY))
    assert told(work).done >= len(BODY)


def test_a_file_of_the_cache_that_was_harmed_is_downloaded_again(work: Work, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "model.bin").write_bytes(BODY[:-1])
    with serving("whole") as server:
        assert assets.find(work, server.asset(), None).path.read_bytes() == BODY


@pytest.mark.parametrize("first", ["short", "503"])
def test_a_download_that_breaks_off_is_tried_again(first: str, work: Work, tmp_path: Path) -> None:
    with serving(first, "whole") as server:
        assert assets.find(work, server.asset(), None).path.read_bytes() == BODY
    assert (server.asked, in_cache(tmp_path)) == (2, ["model.bin"])
    assert any("tried again" in line for line in told(work).lines)


@pytest.mark.parametrize(
    ("answer", "asked", "says"),
    [("404", 1, "answered 404"), ("503", 3, "answered 503"), ("short", 3, "1,800,000 of 3,600,000 bytes"), ("other", 1, "has sha256")],
)
def test_what_cannot_be_had_is_told_in_one_line_with_the_flag_that_takes_a_path(
    answer: str, asked: int, says: str, work: Work, tmp_path: Path
) -> None:
    with serving(answer) as server, pytest.raises(BadInput) as refused:
        assets.find(work, server.asset(), None)
    line = str(refused.value)
    assert line.startswith(server.url)
    assert says in line
    assert "--model" in line
    assert (server.asked, in_cache(tmp_path)) == (asked, [])


def test_without_a_network_the_line_names_the_url_and_the_flag(work: Work) -> None:
    with serving("whole") as server:
        pass
    with pytest.raises(BadInput, match=r"cannot be reached .*--model") as refused:
        assets.find(work, server.asset(), None)
    assert refused.value.where == server.url


def test_what_a_killed_download_left_is_cleared_away(work: Work, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / ".tmp-123-model.bin").write_bytes(b"half")
    with serving("whole") as server:
        assets.find(work, server.asset(), None)
    assert in_cache(tmp_path) == ["model.bin"]


def test_a_file_that_is_named_is_taken_as_it_is_and_nothing_is_downloaded(work: Work, tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"mine")
    with serving("whole") as server:
        found = assets.find(work, server.asset(), str(tmp_path / "mine"))
        assert (found.path, found.key) == (tmp_path / "mine", hashlib.sha256(b"mine").hexdigest())
        for missing in (tmp_path / "not there", tmp_path):
            with pytest.raises(BadInput):
                assets.find(work, server.asset(), str(missing))
    assert server.asked == 0
