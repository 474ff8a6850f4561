"""The one way to write a file, whole or not at all; and the header of an npy.

A file is written under a temporary name, synced and renamed. What the system refuses becomes BadInput that names the place.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import math
import os
import re
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from filters.maths.arrays import Array
from filters.pool.errors import from_os

TEMPORARY = re.compile(r"\.tmp-\d+-.+")
HEADER_LIMIT = 10_000  # as numpy has it
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)  # of a file that says nothing


def temporary(path: Path) -> Path:
    """Where this thread writes a file before it is renamed. One left over from a run that was stopped may still write its own."""
    return path.with_name(f".tmp-{threading.get_native_id()}-{path.name}")


@contextmanager
def writing(path: Path, target: Path) -> Iterator[IO[bytes]]:
    """A new file, in a folder made for it, synced before it is closed; removed when the block fails. Errors name the target."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except BaseException as error:
        with contextlib.suppress(OSError):
            path.unlink()
        if isinstance(error, OSError):
            raise from_os(target, error) from None
        raise


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A new file that takes the name of `path` when the block has ended well."""
    new = temporary(path)
    with writing(new, path) as file:
        yield file
    move(new, path)


def move(new: Path, path: Path) -> None:
    """Rename, and make it last through a loss of power."""
    try:
        new.rename(path)
        sync_folder(path.parent)
    except OSError as error:
        raise from_os(path, error) from None
    finally:
        with contextlib.suppress(OSError):
            new.unlink()


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def told_of(path: Path) -> dict[str, Any]:
    """Size and sha256 of a file, as records tell them."""
    return {"size": path.stat().st_size, "sha256": sha256(path)}


def digest_of(told: Mapping[str, Any]) -> str:
    """sha256 of everything but the digest, as JSON with sorted keys."""
    rest = {name: value for name, value in told.items() if name != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def write_sealed(path: Path, told: dict[str, Any], indent: int | None = None) -> None:
    """A JSON file that carries a digest of what it says."""
    with replacing(path) as file:
        file.write(json.dumps(told | {"digest": digest_of(told)}, indent=indent).encode() + b"\n")


def unsealed(path: Path) -> dict[str, Any]:
    """What such a file says; raises one of UNREADABLE when it is not as it was written."""
    told: dict[str, Any] = json.loads(path.read_text())
    if told["digest"] != digest_of(told):
        raise ValueError(f"{path} was edited")
    return told


def write_npy(file: IO[bytes], values: Array) -> None:
    """Like np.save, but a full disk is told by its errno."""
    values = np.ascontiguousarray(values)
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(values))
    file.write(values.reshape(-1).view(np.uint8).data)


def write_at(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


def room(folder: Path, shape: tuple[int, ...], dtype: np.dtype[Any], limit: float) -> Array:
    """An array to be filled: in memory, or, of more than `limit` bytes, in a file that has no name and goes with the array."""
    size = math.prod(shape) * dtype.itemsize
    if size <= limit:
        return np.empty(shape, dtype)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk is told now: a map of it would end the process
            return np.memmap(file, dtype, "r+", shape=shape)
    except OSError as error:
        raise from_os(folder, error) from None


class NpyHeader(NamedTuple):
    descr: Any  # as np.dtype takes it; not looked at yet
    fortran: bool
    shape: tuple[int, ...]
    size: int  # bytes of the header itself


def read_npy_header(file: IO[bytes]) -> NpyHeader:
    """The header of an npy; raises ValueError when it is none. numpy's own reader lets a flipped bit out as any exception."""
    magic = file.read(8)
    if magic[:6] != b"\x93NUMPY" or magic[6:] not in (b"\x01\x00", b"\x02\x00"):
        raise ValueError("it does not begin as an npy of version 1 or 2")
    width = 2 * magic[6]
    length = int.from_bytes(file.read(width), "little")
    if length > HEADER_LIMIT:
        raise ValueError(f"its header claims {length:,} bytes")
    told = _literal(file.read(length))
    if not isinstance(told, dict) or told.keys() != {"descr", "fortran_order", "shape"}:
        raise ValueError("its header is no dictionary of descr, fortran_order and shape")
    shape = told["shape"]
    if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError(f"its shape is {str(shape)[:60]}")
    if not isinstance(told["fortran_order"], bool):
        raise ValueError("its order is neither True nor False")
    return NpyHeader(told["descr"], told["fortran_order"], shape, 8 + width + length)


def read_npy(path: Path) -> Array:
    """An npy of ours, mapped; what has no rows is made anew."""
    with path.open("rb") as file:
        header = read_npy_header(file)
    dtype = np.lib.format.descr_to_dtype(header.descr)
    return np.memmap(path, dtype, "r", header.size, header.shape) if math.prod(header.shape) else np.empty(header.shape, dtype)


# CPython 3.11 raises SystemError when two threads build syntax trees at once, as literal_eval does, and numpy's reader with it.
_ONE_AT_A_TIME = threading.Lock()


def _literal(header: bytes) -> object:
    try:
        with _ONE_AT_A_TIME:
            return ast.literal_eval(header.decode("latin1").strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise ValueError("its header is no Python literal") from None
