"""Where files lie: a path of this machine, or a URL of a store. What is secret in a URL is kept apart, and never shown."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote, unquote

from filters.pool.errors import BadInput
from filters.pool.redact import HIDDEN, shown

Stamp = tuple[int, int | str, int]  # size, time of change or version, inode: to notice a change during one run
HTTP = ("http", "https")
LOCAL = ("file", "local")
PLAIN = "!#$%&'()*+,/:;=?@[]~"  # what a URL may hold as it stands, letters and digits aside


@dataclass(frozen=True)
class Remote:
    """A file or a folder of a store. Picklable and small; equal to another of the same URL."""

    url: str  # as it may be shown
    user: str = field(default="", repr=False, compare=False)  # user:password@
    query: str = field(default="", repr=False, compare=False)  # ?name=value, of every file of a folder alike
    stamp: Stamp | None = field(default=None, repr=False, compare=False)  # of a file, as it was when the pool was opened

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> Remote:
        return replace(self, url=f"{self.url}/{quote(name) if self.scheme in HTTP else name}", stamp=None)

    @property
    def scheme(self) -> str:
        return self.url.partition("://")[0]

    @property
    def name(self) -> str:
        last = self.url.rpartition("/")[2]
        return unquote(last) if self.scheme in HTTP else last

    @property
    def size(self) -> int:
        assert self.stamp is not None, "a file is asked for its size before it is read"
        return self.stamp[0]

    def resolve(self) -> Remote:
        """As a path has it: the same place, however it is named."""
        return self

    def secret(self, end: str = "") -> str:
        """The whole URL, for the store alone."""
        scheme, _, rest = self.url.partition("://")
        return quote(f"{scheme}://{self.user}{rest}{end}{self.query}", PLAIN) if scheme in HTTP else self.url + end

    def secrets(self) -> list[str]:
        """What of the URL is for the store alone, as it is written and as it is meant."""
        parts = [*self.user.rstrip("@").split(":", 1), *re.split(r"[?&=]", self.query)]
        return [*parts, *map(unquote, parts)]


Place = Path | Remote


def is_url(text: object) -> bool:
    return isinstance(text, str) and "://" in text


def place(where: str | Place) -> Place:
    """The place that a text names; raises BadInput for a URL that cannot be read by ranges, or has secrets that its store does not take."""
    if not isinstance(where, str) or not is_url(where):
        return Path(where) if isinstance(where, str) else where
    scheme, _, rest = where.partition("://")
    if scheme in LOCAL:
        return Path(rest)
    url = shown(where)
    if "::" in where:
        raise BadInput(url, "names a store inside another", "name the folder itself")
    if url.endswith("://" + HIDDEN) or not url.partition("://")[2].strip("/"):
        raise BadInput(url, "is no URL of a folder", "write scheme://host/folder, and what is odd in a password as %2F")
    found: re.Match[str] | None = re.fullmatch(r"(?:([^/?#]*)@)?[^?#]*(\?[^#]*)?(?:#.*)?", rest, re.DOTALL)
    user, query = found.groups("") if found else ("", "")
    if scheme not in HTTP and (user or query):
        raise BadInput(url, "is given with a user, a password or a query", "leave them to the store's own settings: see README")
    return Remote(url.rstrip("/"), user and f"{user}@", query)


def local(where: str | Path, what: str) -> Path:
    """A path of this machine; raises BadInput for a URL."""
    if is_url(where):
        raise BadInput(where, f"is a URL, and {what} is written on this machine", "name a local path")
    return Path(where)


def kept(value: object) -> object:
    """An option as it may be kept: of a URL, what is not secret."""
    return shown(value) if isinstance(value, str) and is_url(value) else value
