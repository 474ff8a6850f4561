"""One member as a stream of row blocks, never whole. METHOD 1.

A stored member is a byte range of the npz file: rows are read at their offset into one reused buffer, and where no row of a
piece is wanted, the piece is skipped. A deflated one is streamed. An offset read sees no flipped bit, so a member that has not
been verified is read from end to end, whatever rows are wanted, and its CRC-32 compared before the stream ends.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from filters.maths.arrays import I64, U8, Array, Bool
from filters.maths.blocks import BLOCK, measured, unit, valid
from filters.maths.search import on_device
from filters.pool import store
from filters.pool.archive import AGAIN, Member
from filters.pool.errors import BadInput, from_os
from filters.pool.place import Place, Remote

if TYPE_CHECKING:
    from torch import Tensor

PIECE_BYTES = 4 << 20
AHEAD = 2  # pieces that the system fetches while one is worked on: a cold disk gave 1.5 GB/s so, 0.6 without


class Raw(NamedTuple):
    at: I64  # (m,) row numbers in the shard, ascending
    rows: Array  # (m, d) in the member's own type; valid only until the next block


class Block(NamedTuple):
    at: I64  # (m,) row numbers in the shard, ascending
    rows: Tensor  # (m, d) float32 unit rows


def raw_blocks(member: Member, wanted: Bool, verify: bool, pulse: Callable[[int], None], size: int = BLOCK) -> Iterator[Raw]:
    """The wanted rows as they lie, in order, `size` at a time.

    wanted  (rows,) bool
    verify  read everything and compare the CRC-32; raises BadInput when it differs
    pulse   called with the bytes of each read
    """
    buffer = np.empty((min(size, member.shape[0]), member.width), member.dtype)
    at = np.empty(len(buffer), np.int64)
    filled = 0
    for start, piece in _pieces(member, wanted, verify, pulse):
        rows = np.flatnonzero(wanted[start : start + len(piece)])
        if not filled and len(rows) == len(piece):
            whole = len(rows) // size * size
            yield from _views(start, piece[:whole], size)
            rows = rows[whole:]
        while len(rows):
            take = rows[: len(buffer) - filled]
            end = filled + len(take)
            np.take(piece, take, axis=0, out=buffer[filled:end], mode="clip")  # clip: numpy then writes straight into `out`
            at[filled:end] = take + start
            filled, rows = end % len(buffer), rows[len(take) :]
            if end == len(buffer):
                yield Raw(at.copy(), buffer)
    if filled:
        yield Raw(at[:filled].copy(), buffer[:filled])


def _views(start: int, piece: Array, size: int) -> Iterator[Raw]:
    """Whole blocks of a piece, where it lies."""
    for begin in range(0, len(piece), size):
        yield Raw(np.arange(start + begin, start + begin + size), piece[begin : begin + size])


def valid_raw_blocks(blocks: Iterator[Raw]) -> Iterator[Raw]:
    """The rows that are finite and not zero, as they lie."""
    out = None
    for raw in blocks:
        out, lengths = measured(on_device(raw.rows, "cpu"), out)
        kept = valid(lengths).numpy()
        yield raw if kept.all() else Raw(raw.at[kept], raw.rows[kept])


def blocks(raws: Iterator[Raw], device: str) -> Iterator[Block]:
    """Valid rows only, unit length, on the device; good until the next block."""
    out = None
    for raw in raws:
        out, good = unit(on_device(raw.rows, device), out)
        kept = good.cpu().numpy()
        yield Block(raw.at, out) if kept.all() else Block(raw.at[kept], out[good])


def _pieces(member: Member, wanted: Bool, verify: bool, pulse: Callable[[int], None]) -> Iterator[tuple[int, Array]]:
    """(first row, (m, d) rows) of each piece; skips pieces without wanted rows when a skip is possible and nothing is verified."""
    try:
        yield from _stored_pieces(member, wanted, verify, pulse) if member.entry.stored else _deflated_pieces(member, pulse)
    except OSError as error:
        raise from_os(member.path, error) from None


def piece_rows(place: Place, row_bytes: int) -> int:
    """Rows of a piece: whole blocks, about PIECE_BYTES of them, or as many as one request to a store asks for."""
    return BLOCK * max(1, (store.PIECE if isinstance(place, Remote) else PIECE_BYTES) // (row_bytes * BLOCK))


def _stored_pieces(member: Member, wanted: Bool, verify: bool, pulse: Callable[[int], None]) -> Iterator[tuple[int, Array]]:
    size, rows = piece_rows(member.path, member.row_bytes), member.shape[0]
    crc = member.header_crc
    starts = [start for start in range(0, rows, size) if verify or wanted[start : start + size].any()]
    begin = member.start + member.header
    ranges = [(begin + start * member.row_bytes, min(size, rows - start) * member.row_bytes) for start in starts]
    for start, data in zip(starts, _read(member, ranges, size * member.row_bytes, pulse), strict=True):
        crc = zlib.crc32(data.data, crc) if verify else 0
        yield start, data.view(member.dtype).reshape(-1, member.width)
    if verify and crc != member.entry.crc:
        raise BadInput(member.path, f"'{member.name}' fails its checksum", AGAIN)


def _read(member: Member, ranges: list[store.Range], size: int, pulse: Callable[[int], None]) -> Iterator[U8]:
    """The bytes of each range in turn, in one buffer of this size; the next ones come while they are worked on."""
    buffer = np.empty(size, np.uint8)
    for data in _from_disk(member, ranges, buffer) if isinstance(member.path, Path) else _from_store(member.path, ranges, buffer, pulse):
        pulse(data.nbytes)
        yield data


def _from_store(place: Remote, ranges: list[store.Range], buffer: U8, pulse: Callable[[int], None]) -> Iterator[U8]:
    for data in store.fetched(place, ranges, pulse):
        into = buffer[: len(data)]
        into[:] = np.frombuffer(data, np.uint8)
        yield into


def _from_disk(member: Member, ranges: list[store.Range], buffer: U8) -> Iterator[U8]:
    descriptor = os.open(member.path, os.O_RDONLY)  # type: ignore[arg-type] # a path
    try:
        for number, (offset, size) in enumerate(ranges):
            for ahead, length in ranges[number + AHEAD : number + AHEAD + 1] if number else ranges[: AHEAD + 1]:
                os.posix_fadvise(descriptor, ahead, length, os.POSIX_FADV_WILLNEED)
            _read_at(descriptor, member, offset, buffer[:size].data)
            yield buffer[:size]
    finally:
        os.close(descriptor)


def _read_at(descriptor: int, member: Member, offset: int, view: memoryview) -> None:
    done = 0
    while done < len(view):
        got = os.preadv(descriptor, [view[done:]], offset + done)
        if not got:
            raise BadInput(member.path, f"ends inside '{member.name}'", AGAIN)
        done += got


def _deflated_pieces(member: Member, pulse: Callable[[int], None]) -> Iterator[tuple[int, Array]]:
    """Every piece in turn, unpacked as it comes; the CRC-32 is compared at the end."""
    size = piece_rows(member.path, member.row_bytes)
    buffer = np.empty((size, member.width), member.dtype)
    try:
        stream = _Unpacked(member, pulse)
        stream.fill(memoryview(bytearray(member.header)))
        for start in range(0, member.shape[0], size):
            piece = buffer[: min(size, member.shape[0] - start)]
            stream.fill(piece.data.cast("B"))
            yield start, piece
        stream.end()
    except zlib.error as error:
        raise BadInput(member.path, f"'{member.name}' cannot be unpacked ({error})", AGAIN) from None


_NOTHING = np.empty(0, np.uint8)


class _Unpacked:
    """What a deflated member holds, from its first byte to its last."""

    def __init__(self, member: Member, pulse: Callable[[int], None]) -> None:
        self._member, self._crc = member, 0
        self._unpack = zlib.decompressobj(-15)
        end = member.start + member.entry.packed
        ranges = [(at, min(PIECE_BYTES, end - at)) for at in range(member.start, end, PIECE_BYTES)]
        self._packed = _read(member, ranges, PIECE_BYTES, pulse)

    def fill(self, view: memoryview) -> None:
        while view:
            data = self._some(len(view))
            if not data:
                raise BadInput(self._member.path, f"ends inside '{self._member.name}'", AGAIN)
            view[: len(data)] = data
            view = view[len(data) :]

    def end(self) -> None:
        if self._some(1) or self._crc != self._member.entry.crc:
            raise BadInput(self._member.path, f"'{self._member.name}' fails its checksum", AGAIN)

    def _some(self, most: int) -> bytes:
        """Up to so many bytes; none at the end."""
        data = b""
        while not data and not self._unpack.eof:
            packed = self._unpack.unconsumed_tail or next(self._packed, _NOTHING).data
            if not packed:
                break
            data = self._unpack.decompress(packed, most)
        self._crc = zlib.crc32(data, self._crc)
        return data
