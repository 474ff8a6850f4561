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
from pathlib import Path
from typing import IO

import numpy as np

from filters.pool.errors import BadInput, from_os, shortened
from filters.pool.files import HEADER_LIMIT, NpyHeader, read_npy_header

AGAIN = "download the pair again"
LOCAL = struct.Struct("<4s22xHH")  # signature, ..., length of the name, length of the extra field
STRANGE = 0x61  # flags of an encrypted member, and of patched data
DTYPES = ("<f2", "<f4", "<f8")


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

    path: Path
    name: str
    entry: Entry
    start: int  # of the member, its npy header included
    header: int  # bytes of the npy header
    dtype: str
    shape: tuple[int, ...]

    @property
    def width(self) -> int:
        return int(self.shape[1])

    @property
    def row_bytes(self) -> int:
        return self.shape[1] * int(np.dtype(self.dtype).itemsize)

    def checked(self, rows: int, parquet: Path) -> Member:
        """Itself; raises BadInput unless it is `rows` rows of floats."""
        if len(self.shape) != 2 or self.dtype not in DTYPES or self.shape[1] == 0:
            raise BadInput(self.path, f"'{self.name}' is {self.dtype} {self.shape}, not rows of float16, float32 or float64", AGAIN)
        if self.shape[0] != rows:
            raise BadInput(self.path, f"'{self.name}' has {self.shape[0]:,} rows, {parquet.name} {rows:,}", AGAIN)
        return self


@dataclass(frozen=True)
class Archive:
    path: Path
    entries: dict[str, Entry] = field(repr=False)  # by array name

    @classmethod
    def open(cls, path: Path) -> Archive:
        """Read the central directory; raises BadInput for a broken one, repeated names and overlapping members."""
        try:
            with zipfile.ZipFile(path) as zipped:
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
        entry = self.entries[name]
        try:
            with self.path.open("rb") as file:
                start = _data_start(file, entry)
                header = _npy_header(file, start, entry)
            dtype = _plain_type(header.descr)
        except (OSError, ValueError, zlib.error, EOFError, struct.error) as error:
            raise BadInput(self.path, f"'{name}' is no plain array ({error})", AGAIN) from None
        if header.fortran and len(header.shape) > 1:
            raise BadInput(self.path, f"'{name}' is stored by columns", "save it in C order")
        claimed = header.size + math.prod(header.shape) * dtype.itemsize
        if claimed != entry.size:
            raise BadInput(self.path, f"the header of '{name}' claims {claimed:,} bytes, the member holds {entry.size:,}", AGAIN)
        return Member(self.path, name, entry, start, header.size, dtype.str, header.shape)


def _entry(path: Path, info: zipfile.ZipInfo) -> Entry:
    if info.flag_bits & STRANGE or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BadInput(path, f"member '{info.filename}' is encrypted or packed in an unknown way", "save it with numpy.savez")
    stored = info.compress_type == zipfile.ZIP_STORED
    if stored and info.compress_size != info.file_size:
        raise BadInput(path, f"stored member '{info.filename}' claims {info.compress_size:,} and {info.file_size:,} bytes", AGAIN)
    return Entry(info.filename, info.header_offset, info.compress_size, info.file_size, info.CRC, stored)


def _check_layout(path: Path, entries: list[Entry], end: int) -> None:
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


def _npy_header(file: IO[bytes], start: int, entry: Entry) -> NpyHeader:
    """The header of a member's npy, stored or deflated."""
    file.seek(start)
    head = file.read(min(entry.packed, 2 * HEADER_LIMIT))
    return read_npy_header(io.BytesIO(head if entry.stored else zlib.decompressobj(-15).decompress(head, 2 * HEADER_LIMIT)))


def _plain_type(descr: object) -> np.dtype[np.generic]:
    """The type that the header names; raises ValueError unless it is one of plain numbers."""
    try:
        dtype = np.dtype(descr) if isinstance(descr, str) else None
    except (TypeError, ValueError):
        dtype = None
    if dtype is None or dtype.hasobject:
        raise ValueError(f"its type is {shortened(descr)}")
    return dtype
