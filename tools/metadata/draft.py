"""A file that is written piece after piece in a folder apart, gone on with where it ends, and checked before it takes its name."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from filters.pool.errors import BadInput, from_os
from filters.pool.files import move
from filters.pool.place import Place
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

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)

    def put(self, folder: Path, pulse: Pulse) -> None:
        """Write it, in the folder, and give it its name."""
        # DataComp's baselines read whatever has ".parquet" in its path, so the name has not.
        path = folder / (hashlib.sha256(repr((self.target.name, self.parts, self.digest)).encode()).hexdigest()[:32] + END)
        try:
            for _ in range(TRIES):
                self._write(path, pulse)
                wrong = self._wrong(path, pulse)
                if wrong is None:
                    return move(path, self.target)
                path.unlink()
        except OSError as error:
            raise from_os(self.target, error) from None
        raise BadInput(self.source, wrong or "", "the Hub has it wrong, or the way to it spoils it: try again later")

    def _write(self, path: Path, pulse: Pulse) -> None:
        with path.open("ab") as file:
            if file.tell() > self.size or any(part.packed for part in self.parts):
                file.truncate(0)
            there = os.fstat(file.fileno()).st_size
            for part in self.parts:
                done = min(there, part.size)
                there -= done
                for data in part.read(done, pulse) if done < part.size else ():
                    file.write(data)
                    done += len(data)
                if done != part.size:
                    raise BadInput(part.source or self.source, f"{done:,} bytes came for {part.size:,}", "the same command goes on from here")
            file.flush()
            os.fsync(file.fileno())

    def _wrong(self, path: Path, pulse: Pulse) -> str | None:
        """What is wrong with it as it lies there."""
        if self.digest and digest(path, len(self.digest), pulse) != self.digest:
            return "does not have the digest that the Hub tells"
        at = 0
        for part in self.parts:
            if part.crc is not None and crc(path, at, part.size, pulse) != part.crc:
                return "fails the checksum of a member"
            at += part.size
        return None


def digest(path: Path, letters: int, pulse: Pulse) -> str:
    """As the Hub tells it: sha256, or, of a small file, what git has."""
    found = hashlib.sha256() if letters == 64 else hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    for data in _pieces(path, 0, path.stat().st_size, pulse):
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
