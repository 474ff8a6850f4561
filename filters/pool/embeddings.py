"""One member as a stream of row blocks, never whole. METHOD 1.

A stored member is a byte range of the npz file: rows are read at their offset into one reused buffer, and where no row of a
piece is wanted, the piece is skipped. A deflated one is streamed. An offset read sees no flipped bit, so a member that has not
been verified is read from end to end, whatever rows are wanted, and its CRC-32 compared before the stream ends.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, NamedTuple

import numpy as np

from filters.maths.arrays import I64, Array, Bool
from filters.maths.blocks import BLOCK, measured, unit, valid
from filters.maths.search import on_device
from filters.pool.archive import AGAIN, Member
from filters.pool.errors import BadInput, from_os

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


def _piece_rows(member: Member) -> int:
    """Whole blocks, about PIECE_BYTES of them."""
    return BLOCK * max(1, PIECE_BYTES // (member.row_bytes * BLOCK))


def _stored_pieces(member: Member, wanted: Bool, verify: bool, pulse: Callable[[int], None]) -> Iterator[tuple[int, Array]]:
    size = _piece_rows(member)
    buffer = np.empty((size, member.width), member.dtype)
    descriptor = os.open(member.path, os.O_RDONLY)
    try:
        crc = zlib.crc32(os.pread(descriptor, member.header, member.start)) if verify else 0
        starts = [start for start in range(0, member.shape[0], size) if verify or wanted[start : start + size].any()]
        offsets = [member.start + member.header + start * member.row_bytes for start in starts]
        for start, offset in zip(starts, _fetched(descriptor, offsets, buffer.nbytes), strict=True):
            piece = buffer[: member.shape[0] - start]
            _read_at(descriptor, member, offset, piece)
            crc = zlib.crc32(piece.data, crc) if verify else 0
            pulse(piece.nbytes)
            yield start, piece
    finally:
        os.close(descriptor)
    if verify and crc != member.entry.crc:
        raise BadInput(member.path, f"'{member.name}' fails its checksum", AGAIN)


def _fetched(descriptor: int, offsets: list[int], size: int) -> Iterator[int]:
    """The offsets in turn, while the system fetches the next ones."""
    for number, offset in enumerate(offsets):
        for ahead in offsets[number + AHEAD : number + AHEAD + 1] if number else offsets[: AHEAD + 1]:
            os.posix_fadvise(descriptor, ahead, size, os.POSIX_FADV_WILLNEED)
        yield offset


def _read_at(descriptor: int, member: Member, offset: int, into: Array) -> None:
    view = into.data.cast("B")
    done = 0
    while done < len(view):
        got = os.preadv(descriptor, [view[done:]], offset + done)
        if not got:
            raise BadInput(member.path, f"ends inside '{member.name}'", AGAIN)
        done += got


def _deflated_pieces(member: Member, pulse: Callable[[int], None]) -> Iterator[tuple[int, Array]]:
    """Every piece in turn: zipfile compares the CRC-32 itself when it meets the end."""
    size = _piece_rows(member)
    buffer = np.empty((size, member.width), member.dtype)
    try:
        with zipfile.ZipFile(member.path) as zipped, zipped.open(member.entry.name) as stream:
            stream.read(member.header)
            for start in range(0, member.shape[0], size):
                piece = buffer[: min(size, member.shape[0] - start)]
                _fill(stream, member, piece)
                pulse(member.entry.packed * len(piece) // max(1, member.shape[0]))
                yield start, piece
            stream.read(1)
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise BadInput(member.path, f"'{member.name}' cannot be unpacked ({error})", AGAIN) from None


def _fill(stream: IO[bytes], member: Member, into: Array) -> None:
    view = memoryview(into.data.cast("B"))
    while view:
        got = stream.read(len(view))
        if not got:
            raise BadInput(member.path, f"ends inside '{member.name}'", AGAIN)
        view[: len(got)] = got
        view = view[len(got) :]
