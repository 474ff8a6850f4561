"""An npz of some members of others, byte for byte as numpy.savez writes it, though no member is ever held.

Sizes and CRC-32s stand in the directories that the members come from. So the file is known before it is written: a list of parts,
each of them known bytes or a range of another file.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from filters.pool import store
from filters.pool.archive import AGAIN, Entry, Member
from filters.pool.errors import BadInput
from filters.pool.place import Place

Pulse = Callable[[int], None]  # called with the bytes that are read, and with 0 while nothing comes

NEWER = 45  # version of zip that has 64 bits
FIRST_DAY = 33  # 1980-01-01
OURS = 0o600 << 16  # who may read the member
FAR = (1 << 31) - 1  # from here on zipfile writes 64 bits
WORD = 0xFFFF_FFFF


@dataclass(frozen=True)
class Part:
    """Some of a file's bytes, and where they come from."""

    size: int  # in the file that is written
    known: bytes | None = None
    source: Place | None = None
    at: int = 0  # in the source
    packed: int = field(default=0)  # bytes there when they are deflated
    crc: int | None = None

    def read(self, begin: int, end: int, pulse: Pulse) -> Iterator[bytes]:
        """From one byte to another; what is deflated, all of it."""
        if self.known is not None:
            yield self.known[begin:end]
        elif self.packed:
            yield from _inflated(self, _range(self, 0, self.packed, pulse))
        else:
            yield from _range(self, begin, end, pulse)


def parts(members: Sequence[Member]) -> list[Part]:
    """The whole file."""
    made, listed, at = list[Part](), b"", 0
    for member in members:
        head = _head(member.entry)
        listed += _listed(member.entry, at)
        made += [Part(len(head), head), _body(member)]
        at += len(head) + member.entry.size
    end = listed + _end(len(members), len(listed), at)
    return [*made, Part(len(end), end)]


def _body(member: Member) -> Part:
    entry = member.entry
    return Part(entry.size, None, member.path, member.start, 0 if entry.stored else entry.packed, entry.crc)


def _range(part: Part, begin: int, end: int, pulse: Pulse) -> Iterator[bytes]:
    ranges = store.pieces(part.at + begin, part.at + end)
    if isinstance(part.source, Path):
        with part.source.open("rb") as file:
            for at, size in ranges:
                pulse(0)
                file.seek(at)
                yield file.read(size)
        return
    assert part.source is not None, "what is not known comes from somewhere"
    for data in store.fetched(part.source, ranges, pulse):
        pulse(len(data))
        yield data


def _inflated(part: Part, packed: Iterator[bytes]) -> Iterator[bytes]:
    """In pieces; not much more than it should be, whatever it claims to be."""
    unpack, size = zlib.decompressobj(-15), 0
    try:
        for data in packed:
            full = True
            while (data or full) and size <= part.size:
                some = unpack.decompress(data, store.PIECE)
                data, full, size = unpack.unconsumed_tail, len(some) == store.PIECE, size + len(some)
                yield some
    except zlib.error as error:
        raise BadInput(part.source, f"a member cannot be unpacked ({error})", AGAIN) from None


# -- the zip's own bytes


def _head(entry: Entry) -> bytes:
    name = entry.name.encode()
    extra = struct.pack("<HHQQ", 1, 16, entry.size, entry.size)
    told = (b"PK\3\4", NEWER, 0, 0, 0, FIRST_DAY, entry.crc, WORD, WORD, len(name), len(extra))
    return struct.pack("<4s5H3L2H", *told) + name + extra


def _listed(entry: Entry, at: int) -> bytes:
    name = entry.name.encode()
    large = [entry.size, entry.size] * (entry.size > FAR) + [at] * (at > FAR)
    extra = struct.pack(f"<HH{len(large)}Q", 1, 8 * len(large), *large) if large else b""
    size, at = WORD if entry.size > FAR else entry.size, WORD if at > FAR else at
    made, unix = NEWER, 3
    told = (b"PK\1\2", made, unix, NEWER, 0, 0, 0, 0, FIRST_DAY, entry.crc, size, size, len(name), len(extra), 0, 0, 0, OURS, at)
    return struct.pack("<4s4B4H3L5H2L", *told) + name + extra


def _end(count: int, size: int, at: int) -> bytes:
    newer = b""
    if at > FAR:
        newer = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, NEWER, NEWER, 0, 0, count, count, size, at)
        newer += struct.pack("<4sLQL", b"PK\6\7", 0, at + size, 1)
    return newer + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, size, min(at, WORD), 0)
