"""Broken and odd files, made on purpose: zips written by hand, forged headers, flipped bits."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.pools import Array

# -- any file


def edit(path: Path, change: Callable[[bytearray], object]) -> None:
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)


def flip(path: Path, at: int, bit: int = 0) -> None:
    """One bit the other way; a negative place counts from the end."""

    def other(data: bytearray) -> None:
        data[at] ^= 1 << bit

    edit(path, other)


def truncate(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


# -- npz


def npy(array: Array, **forged: Any) -> bytes:
    """An array as np.save writes it, with other claims in its header: descr, fortran_order, shape."""
    stream = io.BytesIO()
    header = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": array.shape} | forged
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue() + array.tobytes()


def npy_with_header(text: str, data: bytes, version: bytes = b"\x01\x00") -> bytes:
    """An npy whose header is this very text."""
    padded = text.encode() + b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY" + version + len(padded).to_bytes(2, "little") + padded + data


@dataclass(frozen=True)
class Piece:
    """One member of a zip, and what the zip says of it; None: the truth."""

    name: str
    data: bytes
    deflated: bool = False
    flags: int = 0
    method: int | None = None
    crc: int | None = None
    size: int | None = None
    packed: int | None = None
    at: int | None = None
    extra: bytes = b""  # in the local header
    central_extra: bytes = b""
    local_name: str | None = None

    @property
    def body(self) -> bytes:
        if not self.deflated:
            return self.data
        packer = zlib.compressobj(wbits=-15)
        return packer.compress(self.data) + packer.flush()


def write_zip(path: Path, *pieces: Piece, comment: bytes = b"", prefix: bytes = b"", zip64: bool = False) -> None:
    """A zip file, laid out by hand. zip64: sizes and places only in zip64 records."""
    body, directory = bytearray(prefix), bytearray()
    for piece in pieces:
        at = len(body) if piece.at is None else piece.at
        packed = len(piece.body) if piece.packed is None else piece.packed
        size = len(piece.data) if piece.size is None else piece.size
        crc = zlib.crc32(piece.data) if piece.crc is None else piece.crc
        method = (8 if piece.deflated else 0) if piece.method is None else piece.method
        name, local = piece.name.encode(), (piece.local_name or piece.name).encode()
        about = (20, piece.flags, method, 0, 33, crc)
        shown = (0xFFFFFFFF, 0xFFFFFFFF) if zip64 else (packed, size)
        wide = struct.pack("<HHQQ", 1, 16, size, packed) if zip64 else b""
        far = struct.pack("<HHQQQ", 1, 24, size, packed, at) if zip64 else b""
        body += struct.pack("<4s5H3I2H", b"PK\3\4", *about, *shown, len(local), len(wide + piece.extra)) + local + wide + piece.extra
        body += piece.body
        extra = far + piece.central_extra
        place = 0xFFFFFFFF if zip64 else at
        directory += struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, *about, *shown, len(name), len(extra), 0, 0, 0, 0, place) + name + extra
    start = len(body)
    end = b""
    if zip64:
        end += struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, len(pieces), len(pieces), len(directory), start)
        end += struct.pack("<4sIQI", b"PK\6\7", 0, start + len(directory), 1)
    counts = (0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF) if zip64 else (len(pieces), len(pieces), len(directory), start)
    end += struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, *counts, len(comment)) + comment
    path.write_bytes(bytes(body + directory) + end)


def member_start(path: Path, name: str) -> int:
    """Where the bytes of a member begin."""
    with zipfile.ZipFile(path) as zipped:
        at = zipped.getinfo(name).header_offset
    name_length, extra = struct.unpack_from("<HH", path.read_bytes(), at + 26)
    return int(at + 30 + name_length + extra)


def directory_start(path: Path) -> int:
    with zipfile.ZipFile(path) as zipped:
        return int(zipped.start_dir)


# -- parquet


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table] = lambda table: table, **how: Any) -> None:
    """The same table again, changed, or written in another way."""
    pq.write_table(change(pq.read_table(path)), path, **how)


def with_column(name: str, values: pa.Array) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.set_column(table.column_names.index(name), name, values)


def with_uids(*changes: tuple[int, str | None]) -> Callable[[pa.Table], pa.Table]:
    """Other uids in some rows."""

    def change(table: pa.Table) -> pa.Table:
        uids = table["uid"].to_pylist()
        for row, uid in changes:
            uids[row] = uid
        return with_column("uid", pa.array(uids, pa.string()))(table)

    return change


def chunk_bytes(path: Path, column: str) -> range:
    """Where the pages of a column lie, in a file of one row group."""
    with pq.ParquetFile(path) as file:
        group = file.metadata.row_group(0)
        chunk = next(group.column(at) for at in range(group.num_columns) if group.column(at).path_in_schema.split(".")[0] == column)
        start = chunk.dictionary_page_offset or chunk.data_page_offset
        return range(start, start + chunk.total_compressed_size)


def footer_start(path: Path) -> int:
    data = path.read_bytes()
    return len(data) - 8 - int.from_bytes(data[-8:-4], "little")


def varint(number: int) -> bytes:
    """A thrift integer: zigzag, seven bits a byte."""
    number, out = number << 1 if number >= 0 else (-number << 1) - 1, bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def declare_rows(path: Path, rows: int, everywhere: bool) -> None:
    """Have the footer say that the table has so many rows: once, for the whole file, or for its row groups and columns as well."""
    data, start = path.read_bytes(), footer_start(path)
    with pq.ParquetFile(path) as file:
        true = b"\x16" + varint(file.metadata.num_rows)
    footer = data[start:-8].replace(true, b"\x16" + varint(rows), -1 if everywhere else 1)
    path.write_bytes(data[:start] + footer + len(footer).to_bytes(4, "little") + b"PAR1")
