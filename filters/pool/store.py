"""Stores: folders listed, and files read by exact ranges, through fsspec. Nothing is read ahead of what was asked for.

What may go well the next time (429, 5xx, a connection or a body that breaks off) is tried again, later each time, or when the store
says. Whatever a store's library raises becomes BadInput, for its text may hold what is secret in a URL.
"""

from __future__ import annotations

import email.utils
import html
import io
import random
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import ContextVar
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urljoin, urlsplit

from filters.pool import hub
from filters.pool.errors import BadInput, shortened
from filters.pool.place import HTTP, Remote, Stamp
from filters.pool.redact import scrubbed

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

Range = tuple[int, int]  # first byte, number of bytes
Result = TypeVar("Result")

PIECE = 8 << 20  # bytes that one request asks for at most: a store takes tens of milliseconds to begin
BUFFER = 1 << 20  # bytes of a connection that aiohttp takes in before it has it wait; at its own 64 kB it does little else
IN_FLIGHT = 4  # requests of a worker at once
TRIES = 9  # of a request: in all a minute and a half, unless the store says when to come back
FIRST_TRIES = 4  # of the first one, when nothing is lost yet and the URL may be wrong
PAUSE, LONGEST = 0.5, 30.0  # seconds before the second try, doubled each time, and at most
PATIENCE = 600.0  # seconds that a store may have us wait
NOTICED = 0.5  # seconds after which a worker that waits sees that it should end
SILENCE = 60.0  # seconds without a byte before a connection is given up
LISTED = 1 << 27  # bytes of a list of names: that of millions of files; a server may go on for ever
INDEX = "index.txt"  # of a folder of a web server: the names of its files, one a line

EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "hf": "hub", "http": "http", "https": "http"}
LIST_ANEW = {"hf": {"refresh": True}}  # what makes a file system ask its store, and not its memory
ASK_ANEW = {"hf": {"refresh": True, "expand_info": True}}
VERSIONS = ("ETag", "etag", "blob_id", "generation", "content_md5", "mtime", "LastModified", "created")  # what tells that a file changed

told_of_retries: ContextVar[Callable[[str], None]] = ContextVar("told_of_retries", default=lambda why: None)


class Answered(Exception):
    """A web server's answer that is no success."""

    def __init__(self, status: int, headers: Mapping[str, str]) -> None:
        super().__init__(f"answered {status}")
        self.status, self.headers = status, headers


class Abandoned(Exception):
    """Nobody waits for the answer any more."""


# -- what is asked of a store


def listing(folder: Remote) -> dict[str, Remote]:
    """The files of a folder by name, with their stamps where the list tells them; raises BadInput when there is no list."""
    if folder.scheme in HTTP:
        return {name: folder / name for name in _names_of_web_page(folder)}
    entries = settled(folder, lambda: _filesystem(folder).ls(folder.url, detail=True, **LIST_ANEW.get(folder.scheme, {})), FIRST_TRIES)
    found = {}
    for entry in entries:
        name = entry["name"].rstrip("/").rpartition("/")[2]
        if entry["type"] == "file":
            found[name] = stamped(folder / name, _stamp_of(entry))
    return found


def tree(repository: Remote) -> dict[str, Remote]:
    """All files of a repository of the Hub, by path, with their stamps."""
    system = _filesystem(repository)
    found = settled(repository, lambda: system.find(repository.url, detail=True, refresh=True), FIRST_TRIES)
    prefix = repository.url.partition("://")[2] + "/"
    paths = {name.removeprefix(prefix): entry for name, entry in found.items()}
    return {path: stamped(repository / path, _stamp_of(entry)) for path, entry in paths.items()}


def commit(repository: Remote) -> str:
    """What is the newest of a repository of the Hub now."""
    return settled(repository, lambda: hub.commit(_filesystem(repository), repository), FIRST_TRIES)


def has(repository: Remote, commit: str) -> bool:
    """Whether a repository of the Hub still has a version."""
    return settled(repository, lambda: hub.has(_filesystem(repository), repository, commit), FIRST_TRIES)


def stamp(file: Remote) -> Stamp:
    """Size and version of a file as they are now."""
    if file.scheme in HTTP:
        return settled(file, lambda: _web(file, 0, 1, None)[1])
    told = settled(file, lambda: _filesystem(file).info(file.url, **ASK_ANEW.get(file.scheme, {})))
    if told["type"] != "file":
        raise BadInput(file, "is a folder", "name a file")
    return _stamp_of(told)


def stamped(file: Remote, found: Stamp | None = None) -> Remote:
    """The file with its stamp, which is asked for unless it is given."""
    return Remote(file.url, file.user, file.query, found or file.stamp or stamp(file))


def fetched(file: Remote, ranges: Iterator[Range] | list[Range], pulse: Callable[[int], None] = lambda size: None) -> Iterator[bytes]:
    """The bytes of each range in turn, while those of the next ones are under way. `pulse(0)` is called while it waits."""
    over, told = threading.Event(), told_of_retries.get()
    flight: deque[Future[bytes]] = deque()
    with ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="densprune-store") as threads:
        try:
            for one in ranges:
                flight.append(threads.submit(_range, file, one, over, told))
                if len(flight) == IN_FLIGHT:
                    yield _awaited(flight.popleft(), pulse)
            while flight:
                yield _awaited(flight.popleft(), pulse)
        finally:
            over.set()
            for future in flight:
                future.cancel()


def _awaited(future: Future[bytes], pulse: Callable[[int], None]) -> bytes:
    while not wait([future], NOTICED).done:
        pulse(0)
    return future.result()


def _range(file: Remote, one: Range, over: threading.Event, told: Callable[[str], None]) -> bytes:
    def ask() -> bytes:
        data = _read(file, *one)
        if len(data) != one[1]:
            raise EOFError(f"sent {len(data):,} of {one[1]:,} bytes")
        return data

    return settled(file, ask, TRIES, over, told) if one[1] else b""


def _read(file: Remote, begin: int, size: int) -> bytes:
    """By whatever way of the file system's asks for this range and no more."""
    from fsspec.spec import AbstractFileSystem

    if file.scheme in HTTP:
        return _web(file, begin, begin + size, file.stamp)[0]
    system = _filesystem(file)
    if file.scheme == hub.SCHEME:
        return _of_hub(system, file, begin, begin + size)
    if system.async_impl or type(system).cat_file is not AbstractFileSystem.cat_file:
        return bytes(system.cat_file(file.url, start=begin, end=begin + size))
    with system.open(file.url, "rb", size=file.size, cache_type="none") as opened:
        opened.seek(begin)
        return bytes(opened.read(size))


class Opened(io.RawIOBase):
    """A file of a store, read where it is asked to be, in pieces of which several are under way. Tells how much of it was read."""

    def __init__(self, file: Remote, pulse: Callable[[int], None] = lambda size: None, window: Range = (0, 0)) -> None:
        """`window`: a range that is fetched at once, since the reads that follow lie in it."""
        self._file, self._pulse, self._at, self.taken = file, pulse, 0, 0
        begin = max(0, window[0])
        self._begin, self._window = begin, b""
        self._window = self._fetch(begin, min(file.size, sum(window)))

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}[whence]
        if at < 0:
            raise OSError(22, "a place before the first byte")
        self._at = at
        return at

    def tell(self) -> int:
        return self._at

    def read(self, size: int | None = -1, /) -> bytes:
        begin, end = self._at, self._file.size
        if size is not None and size >= 0:
            end = min(end, begin + size)
        self._at = max(begin, end)
        if self._begin <= begin and end <= self._begin + len(self._window):
            return self._window[begin - self._begin : max(begin, end) - self._begin]
        return self._fetch(begin, end)

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def _fetch(self, begin: int, end: int) -> bytes:
        data = b"".join(fetched(self._file, pieces(begin, end), self._pulse))
        self.taken += len(data)
        return data

    def given(self) -> int:
        """Bytes read since it was asked last."""
        taken, self.taken = self.taken, 0
        return taken


def pieces(begin: int, end: int) -> list[Range]:
    """A range in pieces that one request asks for."""
    return [(at, min(PIECE, end - at)) for at in range(begin, end, PIECE)]


# -- file systems


def _filesystem(file: Remote, scheme: str = "") -> Any:
    """What reads it: of its own scheme, unless its bytes are where another is spoken."""
    try:
        return _made(scheme or file.scheme)
    except ImportError as error:
        extra = EXTRAS.get(file.scheme)
        do = f"pip install 'densprune[{extra}]'" if extra else f"install what fsspec needs for {file.scheme}://"
        raise BadInput(file, f"needs a library that is not installed ({scrubbed(str(error))})", do) from None
    except ValueError:
        raise BadInput(file, "is of a protocol that fsspec does not know", "name a folder of s3, gs, hf, http or https") from None


@cache
def _made(scheme: str) -> Any:
    """One a process. Its own caches and retries are off: there is one way here of each."""
    import fsspec
    from fsspec.config import conf

    if scheme in HTTP:
        import aiohttp

        patience = aiohttp.ClientTimeout(total=None, sock_connect=SILENCE, sock_read=SILENCE)
        settings = {"timeout": patience, "trust_env": True, "read_bufsize": BUFFER}
        return fsspec.filesystem(scheme, use_listings_cache=False, client_kwargs=settings)
    if scheme in ("s3", "s3a"):
        once = {"max_pool_connections": 64, "retries": {"total_max_attempts": 1}, **conf.get("s3", {}).get("config_kwargs", {})}
        system = fsspec.filesystem(scheme, use_listings_cache=False, config_kwargs=once)
        system.retries = 1
        return system
    return fsspec.filesystem(scheme, use_listings_cache=False)


def _stamp_of(entry: Mapping[str, Any]) -> Stamp:
    version = next((entry[name] for name in VERSIONS if entry.get(name) is not None), "")
    if entry.get("lfs"):
        version = entry["lfs"]["sha256"]  # of the file itself; the Hub's blob_id is that of a pointer to it
    return int(entry["size"] or 0), str(version.timestamp() if isinstance(version, datetime) else version), 0


# -- web servers


def _web(file: Remote, begin: int, end: int, expected: Stamp | None) -> tuple[bytes, Stamp]:
    """A range of a file and the stamp that comes with it, checked against the one expected."""
    data, found = _asked(file, file.secret(), {}, begin, end)
    if expected is not None and found != expected:
        raise _changed(file)
    return data, found


def _changed(file: Remote) -> BadInput:
    return BadInput(file, "changed during the run", "run again when nothing writes to the pool")


def _asked(file: Remote, url: str, headers: Mapping[str, str], begin: int, end: int) -> tuple[bytes, Stamp]:
    from fsspec.asyn import sync

    system = _filesystem(file, "https")
    answer: tuple[bytes, Stamp] = sync(system.loop, _ask, system, file, url, headers, begin, end)
    return answer


async def _ask(system: Any, file: Remote, url: str, headers: Mapping[str, str], begin: int, end: int) -> tuple[bytes, Stamp]:
    import yarl

    session = await system.set_session()
    asked = {**headers, "Range": f"bytes={begin}-{end - 1}", "Accept-Encoding": "identity"}
    async with session.get(yarl.URL(url, encoded=True), headers=asked) as answer:
        total = answer.headers.get("Content-Range", "").rpartition("/")[2]
        version = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        if answer.status == 416 and total.isdecimal():
            return b"", (int(total), version, 0)  # it is shorter than that
        if answer.status == 200 and answer.content_length == 0:
            return b"", (0, version, 0)
        if answer.status == 200:
            # The body is not read: it is the whole file.
            raise BadInput(file, "is sent whole by a server that was asked for a range", "use a server that serves ranges")
        if answer.status != 206:
            raise Answered(answer.status, answer.headers)
        if not total.isdecimal() or not answer.headers["Content-Range"].startswith(f"bytes {begin}-"):
            what = f"was sent as {shortened(answer.headers.get('Content-Range'))}, asked for from byte {begin:,}"
            raise BadInput(file, what, "use a server that serves ranges")
        return await answer.content.readexactly(min(end, int(total)) - begin), (int(total), version, 0)


def _of_hub(system: Any, file: Remote, begin: int, end: int) -> bytes:
    """From where the Hub has it for now, or from where it has it next."""
    linked = hub.linked(file.url, file.stamp)
    link = linked.get(system, file)
    try:
        return _linked_range(file, link, begin, end)
    except Answered as answer:
        if answer.status not in hub.RUN_OUT or link.headers:
            raise
    try:
        return _linked_range(file, linked.get(system, file, stale=link), begin, end)
    except Answered as answer:
        if answer.status not in hub.RUN_OUT:
            raise
        raise ConnectionError(f"where the Hub says that it is, a fresh link is answered {answer.status}") from None


def _linked_range(file: Remote, link: hub.Link, begin: int, end: int) -> bytes:
    if file.stamp is not None and not link.is_to(file.stamp):
        raise _changed(file)
    data, found = _asked(file, link.url, link.headers, begin, end)
    if found[0] != file.size:
        raise _changed(file)
    return data


def _names_of_web_page(folder: Remote) -> list[str]:
    """Names in index.txt, else the links of the folder's own page."""
    do = f"put a file {INDEX} there with the names of its files, one a line"
    index = _page(folder, f"/{INDEX}")
    if index is not None:
        return [line.strip() for line in index.splitlines() if line.strip()]
    page = _page(folder, "/")
    if page is None:
        raise BadInput(folder, f"has neither {INDEX} nor a page of links", do)
    return _linked(page, folder)


def _linked(page: str, folder: Remote) -> list[str]:
    """Names of the files in the folder that a page links to."""
    home = urlsplit(folder.url + "/").path
    paths = (_path_of(link, folder) for link in re.findall(r"""<a\s[^>]*?href=["']?([^"'\s>]+)""", page, re.I))
    names = (html.unescape(path.removeprefix(home)) for path in paths if path.startswith(home))
    return list(dict.fromkeys(unquote(name) for name in names if name and "/" not in name))


def _path_of(link: str, folder: Remote) -> str:
    """Where a link leads; nowhere when it is none."""
    try:
        return urlsplit(urljoin(folder.url + "/", link)).path
    except ValueError:
        return ""


def _page(folder: Remote, end: str) -> str | None:
    """A text of a web server; None where it is not there."""
    from fsspec.asyn import sync

    def ask() -> str | None:
        system = _filesystem(folder)
        text: str | None = sync(system.loop, _text, system, folder, end)
        return text

    return settled(folder, ask, FIRST_TRIES)


async def _text(system: Any, folder: Remote, end: str) -> str | None:
    import yarl

    session = await system.set_session()
    async with session.get(yarl.URL(folder.secret(end), encoded=True)) as answer:
        if answer.status in (404, 410):
            return None
        if answer.status != 200:
            raise Answered(answer.status, answer.headers)
        data = bytearray()
        async for piece in answer.content.iter_any():
            data += piece
            if len(data) > LISTED:
                raise BadInput(f"{folder}{end}", f"goes on behind {LISTED:,} bytes", "put a list of the folder's names there")
        return data.decode("utf-8", "replace")


# -- failures


def settled(
    file: Remote,
    ask: Callable[[], Result],
    tries: int = TRIES,
    over: threading.Event | None = None,
    told: Callable[[str], None] | None = None,
) -> Result:
    """What a store answers, after as many tries as it takes. `over` ends them early."""
    over, told = over or threading.Event(), told or told_of_retries.get()
    for number in range(tries):
        try:
            return ask()
        except BadInput:
            raise
        except Exception as error:  # noqa: BLE001 - of any library; its text and its traceback may hold secrets
            why, pause = _passing(file, error, number)
        if number == tries - 1:
            break
        told(f"{file}: {why}")
        if over.wait(pause):
            raise Abandoned
    raise BadInput(file, f"{why}, {tries} times", "check the store and the way to it; the same command goes on from here")


def _passing(file: Remote, error: Exception, number: int) -> tuple[str, float]:
    """What went wrong, and the seconds until it is worth another try; raises BadInput when it never is."""
    status, headers = _status(error)
    if status is not None and file.scheme == hub.SCHEME and (refused := hub.refusal(file, status, hub.READING)):
        raise refused from None
    if status in (401, 403) or (status is None and _is(error, PermissionError, _UNKNOWN_USER)):
        what = f"answered {status}" if status else "no credentials that it takes"
        raise BadInput(file, f"{what}: not permitted", "give credentials where the store's library looks for them: see README") from None
    if status in (404, 410) or (status is None and isinstance(error, FileNotFoundError)):
        raise BadInput(file, "is not there", "check the URL") from None
    said = shortened(scrubbed(str(error).split("\n")[0], file.secrets()) or type(error).__name__, 160)
    if status in _LATER or (status or 0) >= 500:
        return f"answered {status}", _pause(headers, number)
    if status is None and _is(error, _BROKEN, _BROKEN_TOO):
        return f"broke off ({said})", _pause(headers, number)
    what = f"answered {status}" if status else f"cannot be read ({type(error).__name__}: {said})"
    raise BadInput(file, what, "check the URL, and what its store needs") from None


_LATER = (408, 425, 429)
_BROKEN = (ConnectionError, TimeoutError, EOFError)
_BROKEN_TOO = {"ClientConnectionError", "ClientPayloadError", "HTTPClientError", "ConnectionError", "TransportError"}  # of the libraries
_NEVER = {"ClientConnectorCertificateError"}
_UNKNOWN_USER = {"NoCredentialsError", "PartialCredentialsError", "LocalTokenNotFoundError", "DefaultCredentialsError"}


def _is(error: BaseException, kinds: type[BaseException] | tuple[type[BaseException], ...], names: set[str]) -> bool:
    """Whether it is of these kinds, some of which are known by name alone: their libraries need not be installed."""
    known = {one.__name__ for one in type(error).__mro__}
    return (isinstance(error, kinds) or bool(known & names)) and not known & _NEVER


def _status(error: BaseException | None) -> tuple[int | None, Mapping[str, str]]:
    """The status that a web server gave and its headers, wherever the libraries that passed it on have put them."""
    while error is not None and not _is(error, _BROKEN, _BROKEN_TOO):  # what is beneath a broken connection was no answer
        response = getattr(error, "response", None)
        meta = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
        told = [meta.get("HTTPStatusCode"), getattr(response, "status_code", None)]
        told += [getattr(error, name, None) for name in ("status", "code")]
        status = next((one for one in told if isinstance(one, int) and 400 <= one < 600), None)
        if status is not None:
            return status, meta.get("HTTPHeaders") or getattr(response, "headers", None) or getattr(error, "headers", None) or {}
        error = error.__cause__ or error.__context__
    return None, {}


def _pause(headers: Mapping[str, str], number: int) -> float:
    """Seconds until the next try: what the store asks for, else longer each time. Not the same for all who wait."""
    told = {name.lower(): value for name, value in headers.items()}
    window = re.search(r";\s*t=(\d+)", told.get("ratelimit", ""))  # the Hub's way to say it
    asked = told.get("retry-after", window[1] if window else "").strip()
    spread = random.uniform(0.5, 1.0)
    if asked.isdecimal():
        return min(float(asked), PATIENCE) + PAUSE * spread
    try:
        until = email.utils.parsedate_to_datetime(asked).timestamp() - time.time()
    except (ValueError, OverflowError):
        return min(PAUSE * (1 << number), LONGEST) * spread
    return min(max(0.0, until), PATIENCE) + PAUSE * spread
