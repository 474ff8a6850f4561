"""Files that a baseline needs beside the pool: by a path of the user's, or downloaded once to a cache. Each is known by its sha256.

The cache is $DENSPRUNE_CACHE, else ~/.cache/densprune. A file appears there whole and with the digest that DataComp's code names,
or not at all; one that was harmed since is downloaded again.
"""

from __future__ import annotations

import fcntl
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filters.pool.errors import BadInput, from_os
from filters.pool.files import replacing, sha256
from filters.work.plan import Plan
from filters.work.work import Work
from filters.work.workdir import Given

RELEASE = "https://github.com/sagadre/datacomp_baseline_assets/releases/download/v0.1.0-alpha"  # DataComp's own files
TRIES = 3  # of a download that breaks off
PAUSE = 2.0  # seconds before the next one
TIMEOUT = 60.0  # seconds without a byte
PIECE = 1 << 20


@dataclass(frozen=True)
class Asset:
    """A file that others publish."""

    name: str  # in the cache
    url: str
    sha256: str
    flag: str  # takes the path of a file to read instead


class Broken(Exception):
    """A download that broke off, and may go well the next time."""


def find(work: Work, asset: Asset, path: str | None) -> Given:
    """The file at the path; without one, the published file, which is downloaded unless the cache has it. Raises BadInput."""
    if path is not None:
        return given(path, asset.flag)
    target = cache() / asset.name
    if not _has(target, asset):
        with _alone(target):
            if not _has(target, asset):
                _download(work, asset, target)
    return Given(target, asset.sha256)


def given(path: str, flag: str) -> Given:
    """A file of the user's, whatever it holds."""
    try:
        return Given(Path(path), sha256(Path(path)))
    except IsADirectoryError:
        raise BadInput(path, "is a folder", f"name a file by --{flag}") from None
    except OSError as error:
        raise from_os(path, error) from None


def expect(plan: Plan, asset: Asset, path: str | None) -> None:
    """What `find` will have to do; raises BadInput for a path at which there is no file."""
    if path is None and not (cache() / asset.name).is_file():
        plan.note(f"{asset.name} is downloaded from {asset.url}, in no time")
    if path is not None and not Path(path).is_file():
        raise BadInput(path, "is no file", f"name one by --{asset.flag}")


def cache() -> Path:
    return Path(os.environ.get("DENSPRUNE_CACHE") or Path.home() / ".cache" / "densprune")


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """One process at a time: the others wait for what it downloads, and whatever is half written is nobody's any more."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = target.with_name(f".{target.name}.lock").open("w")
    except OSError as error:
        raise from_os(target.parent, error) from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _has(target: Path, asset: Asset) -> bool:
    try:
        return sha256(target) == asset.sha256
    except FileNotFoundError:
        return False
    except OSError as error:
        raise from_os(target, error) from None


def _download(work: Work, asset: Asset, target: Path) -> None:
    for left in target.parent.glob(f".tmp-*-{target.name}"):
        left.unlink(missing_ok=True)
    elsewhere = f"give the path of a copy by --{asset.flag}"
    for tries_left in reversed(range(TRIES)):
        try:
            return _fetch(work, asset, target, elsewhere)
        except Broken as error:
            if not tries_left:
                raise BadInput(asset.url, str(error), f"try again, or {elsewhere}") from None
            work.progress.say(f"{asset.url}: {error}; tried again")
            time.sleep(PAUSE)
    raise AssertionError("the last try returns or raises")


def _fetch(work: Work, asset: Asset, target: Path, elsewhere: str) -> None:
    with _response(asset.url, elsewhere) as response:
        size = int(response.headers.get("Content-Length") or 0)
        work.progress.say(f"downloading {asset.url} to {target}")
        with work.shown(f"download {asset.name}", size) as advance, replacing(target) as file:
            for piece in _pieces(response, size):
                file.write(piece)
                advance(len(piece))
            file.flush()
            if (found := sha256(Path(file.name))) != asset.sha256:
                raise BadInput(asset.url, f"has sha256 {found}, not {asset.sha256}", elsewhere)


@contextmanager
def _response(url: str, elsewhere: str) -> Iterator[http.client.HTTPResponse]:
    try:
        response = urllib.request.urlopen(url, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code >= 500:
            raise Broken(f"answered {error.code} {error.reason}") from None
        raise BadInput(url, f"answered {error.code} {error.reason}", elsewhere) from None
    except (OSError, http.client.HTTPException) as error:
        raise BadInput(url, f"cannot be reached ({getattr(error, 'reason', None) or error})", elsewhere) from None
    with response:
        yield response


def _pieces(response: http.client.HTTPResponse, size: int) -> Iterator[bytes]:
    """What it sends; raises Broken unless that is as much as it said."""
    got = 0
    while piece := _read(response.read):
        got += len(piece)
        yield piece
    if got < size:
        raise Broken(f"sent {got:,} of {size:,} bytes")


def _read(read: Callable[[int], bytes]) -> bytes:
    try:
        return read(PIECE)
    except (OSError, http.client.HTTPException) as error:
        raise Broken(f"broke off ({error})") from None
