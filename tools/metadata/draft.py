"""A file that is written piece after piece in a folder apart, gone on with where it ends, and checked before it takes its name."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from filters.pool.errors import BadInput, from_os
from filters.pool.files import move
from filters.pool.place import Place, Remote
from tools.metadata.npz import Part, Pulse

PIECE = 1 << 20
END = ".part"
TRIES = 2  # of a file: what a loss of power left of it need not be what was written


@dataclass(frozen=True)
class Draft:
    """What a file will be."""

    target: Path
    source: Place  # as messages name it
    parts: tuple[Part, ...]
    digest: str = ""  # of the whole, where that is known

    @cached_property
    def size(self) -> int:
        return sum(part.size for part in self.parts)

    @property
    def restarts(self) -> bool:
        """Whether it cannot be gone on with: of what is deflated nobody knows where a byte comes from."""
        return any(part.packed for part in self.parts)

    def path(self, folder: Path) -> Path:
        """Where it grows. DataComp's baselines read whatever has ".parquet" in its path, so the name has not."""
        told = repr((self.target.name, self.parts, self.digest))
        return folder / (hashlib.sha256(told.encode()).hexdigest()[:32] + END)

    def there(self, folder: Path) -> int:
        """Bytes of it that are written already."""
        path = self.path(folder)
        size = path.stat().st_size if path.exists() else 0
        return 0 if self.restarts or size > self.size else size

    def to_fetch(self, folder: Path) -> int:
        """Bytes that have to come for the rest of it."""
        there, left = self.there(folder), 0
        for part in self.parts:
            done = min(there, part.size)
            there -= done
            left += (part.packed or part.size - done) if isinstance(part.source, Remote) else 0
        return left

    def data(self, begin: int, end: int, pulse: Pulse) -> Iterator[bytes]:
        """What lies from one byte to another; raises BadInput when less comes."""
        at = 0
        for part in self.parts:
            first, last = max(0, begin - at), min(part.size, end - at)
            at += part.size
            if first >= last:
                continue
            came = 0
            for data in part.read(first, last, pulse):
                yield data
                came += len(data)
            if came != last - first:
                raise BadInput(
                    part.source or self.source, f"{came:,} bytes came for {last - first:,}", "the same command goes on from here"
                )

    def begin(self, folder: Path, size: int, pulse: Pulse) -> None:
        """Write so much of it, from where it ends."""
        try:
            self._grow(self.path(folder), min(self.size, self.there(folder) + size), pulse)
        except OSError as error:
            raise from_os(self.target, error) from None

    def put(self, folder: Path, pulse: Pulse) -> None:
        """Write it all, in the folder, and give it its name."""
        path, wrong = self.path(folder), None
        try:
            for _ in range(TRIES):
                self._grow(path, self.size, pulse)
                wrong = self._wrong(path, pulse)
                if wrong is None:
                    return move(path, self.target)
                path.unlink()
        except OSError as error:
            raise from_os(self.target, error) from None
        if any(isinstance(part.source, Path) for part in self.parts):
            raise BadInput(self.target, "is not what it was when it was checked", "remove it, and call the same command again")
        raise BadInput(self.source, str(wrong), "the Hub has it wrong, or the way to it spoils it: try again later")

    def is_at(self, path: Path, pulse: Pulse) -> bool:
        """Whether a file is what this one will be."""
        return path.stat().st_size == self.size and self._wrong(path, pulse) is None

    def _grow(self, path: Path, end: int, pulse: Pulse) -> None:
        with path.open("ab") as file:
            if file.tell() > self.size or self.restarts:
                file.truncate(0)
            for data in self.data(os.fstat(file.fileno()).st_size, end, pulse):
                file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def _wrong(self, path: Path, pulse: Pulse) -> str | None:
        """What is wrong with a file of its size."""
        if self.digest and digest(path, len(self.digest), pulse) != self.digest:
            return "does not have the digest that the Hub tells"
        at = 0
        for part in self.parts:
            expected = zlib.crc32(part.known) if part.known is not None else part.crc
            if expected is not None and crc(path, at, part.size, pulse) != expected:
                return "fails the checksum of a member"
            at += part.size
        return None


def digest(path: Path, letters: int, pulse: Pulse) -> str:
    """As the Hub tells it: sha256, or, of a small file, what git has."""
    size = path.stat().st_size
    found = hashlib.sha256() if letters == 64 else hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    for data in _pieces(path, 0, size, pulse):
        found.update(data)
    return found.hexdigest()


def crc(path: Path, at: int, size: int, pulse: Pulse) -> int:
    return _crc(_pieces(path, at, size, pulse))


def _crc(pieces: Iterable[bytes]) -> int:
    found = 0
    for data in pieces:
        found = zlib.crc32(data, found)
    return found


def _pieces(path: Path, at: int, size: int, pulse: Pulse) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(at)
        while size and (data := file.read(min(PIECE, size))):
            pulse(0)
            yield data
            size -= len(data)
