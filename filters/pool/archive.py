"""An npz file's directory: its members, where each lies, and that it is what it claims to be.

Only plain arrays are accepted: never a pickle. Everything here comes from the central directory, the local headers and the
npy headers, a few kilobytes a file.
"""

from __future__ import annotations

import hashlib
import io
import math
import struct
import zipfile
import zlib
from dataclasses import dataclass, field
from functools import lru_cache
from typing import IO

import numpy as np

from filters.pool.errors import BadInput, from_os, shortened
from filters.pool.files import HEADER_LIMIT, NpyHeader, read_npy_header
from filters.pool.place import Place, Remote, Stamp
from filters.pool.store import Opened, Range

AGAIN = "download the pair again"
LOCAL = struct.Struct("<4s22xHH")  # signature, ..., length of the name, length of the extra field
STRANGE = 0x61  # flags of an encrypted member, and of patched data
DTYPES = ("<f2", "<f4", "<f8")
TAIL, HEAD = 4096, 512  # bytes of a store's npz that are fetched at once: its directory, and the headers of a member


@dataclass(frozen=True)
class Entry:
    """A member as the central directory describes it."""

    name: str  # in the zip, with .npy
    at: int  # of the local header
    packed: int
    size: int
    crc: int
    stored: bool


@dataclass(frozen=True)
class Member:
    """One array of an npz: rows start at `data` in the file when it is stored."""

    path: Place
    name: str
    entry: Entry
    start: int  # of the member, its npy header included
    header: int  # bytes of the npy header
    header_crc: int  # their CRC-32
    dtype: str
    shape: tuple[int, ...]

    @property
    def width(self) -> int:
        return int(self.shape[1])

    @property
    def row_bytes(self) -> int:
        return self.shape[1] * int(np.dtype(self.dtype).itemsize)

    def checked(self, rows: int, parquet: Place) -> Member:
        """Itself; raises BadInput unless it is `rows` rows of floats."""
        if len(self.shape) != 2 or self.dtype not in DTYPES or self.shape[1] == 0:
            raise BadInput(self.path, f"'{self.name}' is {self.dtype} {self.shape}, not rows of float16, float32 or float64", AGAIN)
        if self.shape[0] != rows:
            raise BadInput(self.path, f"'{self.name}' has {self.shape[0]:,} rows, {parquet.name} {rows:,}", AGAIN)
        return self


@dataclass(frozen=True)
class Archive:
    path: Place
    entries: dict[str, Entry] = field(repr=False)  # by array name

    @classmethod
    def open(cls, path: Place) -> Archive:
        """Read the central directory; raises BadInput for a broken one, repeated names and overlapping members."""
        try:
            with _opened(path) as file, zipfile.ZipFile(file) as zipped:
                entries = [_entry(path, info) for info in zipped.infolist()]
                end = zipped.start_dir
        except OSError as error:
            raise from_os(path, error) from None
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise BadInput(path, f"is no whole npz file ({error})", AGAIN) from None
        _check_layout(path, entries, end)
        return cls(path, {entry.name.removesuffix(".npy"): entry for entry in entries})

    @property
    def fingerprint(self) -> str:
        told = sorted((e.name, e.at, e.packed, e.size, e.crc) for e in self.entries.values())
        return hashlib.sha256(repr(told).encode()).hexdigest()

    def member(self, name: str) -> Member:
        """Read the headers of one array; raises BadInput when they are not those of a plain array of the member's size."""
        if isinstance(self.path, Remote):
            return _member_of_store(self.path, self.path.stamp, name, self.entries[name])
        return _member(self.path, name, self.entries[name])


def _opened(path: Place, at: int | None = None) -> IO[bytes]:
    """The file; of a store, with what will be read at once of it: its end, or the headers at a place."""
    if not isinstance(path, Remote):
        return path.open("rb")
    window: Range = (path.size - TAIL, TAIL) if at is None else (at, HEAD)
    return Opened(path, window=window)  # type: ignore[return-value] # a raw file has all that is asked of it here


@lru_cache(1 << 17)
def _member_of_store(path: Remote, stamp: Stamp | None, name: str, entry: Entry) -> Member:
    """Asked for once a process: it takes a request."""
    return _member(path, name, entry)


def _member(path: Place, name: str, entry: Entry) -> Member:
    try:
        with _opened(path, entry.at) as file:
            start = _data_start(file, entry)
            header, crc = _npy_header(file, start, entry)
        dtype = _plain_type(header.descr)
    except (OSError, ValueError, zlib.error, EOFError, struct.error) as error:
        raise BadInput(path, f"'{name}' is no plain array ({error})", AGAIN) from None
    if header.fortran and len(header.shape) > 1:
        raise BadInput(path, f"'{name}' is stored by columns", "save it in C order")
    claimed = header.size + math.prod(header.shape) * dtype.itemsize
    if claimed != entry.size:
        raise BadInput(path, f"the header of '{name}' claims {claimed:,} bytes, the member holds {entry.size:,}", AGAIN)
    return Member(path, name, entry, start, header.size, crc, dtype.str, header.shape)


def _entry(path: Place, info: zipfile.ZipInfo) -> Entry:
    if info.flag_bits & STRANGE or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BadInput(path, f"member '{info.filename}' is encrypted or packed in an unknown way", "save it with numpy.savez")
    stored = info.compress_type == zipfile.ZIP_STORED
    if stored and info.compress_size != info.file_size:
        raise BadInput(path, f"stored member '{info.filename}' claims {info.compress_size:,} and {info.file_size:,} bytes", AGAIN)
    return Entry(info.filename, info.header_offset, info.compress_size, info.file_size, info.CRC, stored)


def _check_layout(path: Place, entries: list[Entry], end: int) -> None:
    names = [entry.name.removesuffix(".npy") for entry in entries]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise BadInput(path, f"holds two members named '{twice}'", AGAIN)
    ordered = sorted(entries, key=lambda entry: entry.at)
    for entry, following in zip(ordered, [*(e.at for e in ordered[1:]), end], strict=False):
        if entry.at + LOCAL.size + len(entry.name.encode()) + entry.packed > following:
            raise BadInput(path, f"member '{entry.name}' overlaps what follows it", AGAIN)


def _data_start(file: IO[bytes], entry: Entry) -> int:
    file.seek(entry.at)
    signature, name, extra = LOCAL.unpack(file.read(LOCAL.size))
    if signature != b"PK\x03\x04" or file.read(name) != entry.name.encode():
        raise ValueError("its local header is not the directory's")
    return entry.at + LOCAL.size + int(name) + int(extra)


def _npy_header(file: IO[bytes], start: int, entry: Entry) -> tuple[NpyHeader, int]:
    """The header of a member's npy, stored or deflated, and its CRC-32."""
    file.seek(start)
    if not entry.stored:
        packed = file.read(min(entry.packed, 2 * HEADER_LIMIT))
        file, start = io.BytesIO(zlib.decompressobj(-15).decompress(packed, 2 * HEADER_LIMIT)), 0
    header = read_npy_header(file)
    file.seek(start)
    return header, zlib.crc32(file.read(header.size))


def _plain_type(descr: object) -> np.dtype[np.generic]:
    """The type that the header names; raises ValueError unless it is one of plain numbers."""
    try:
        dtype = np.dtype(descr) if isinstance(descr, str) else None
    except (TypeError, ValueError):
        dtype = None
    if dtype is None or dtype.hasobject:
        raise ValueError(f"its type is {shortened(descr)}")
    return dtype
