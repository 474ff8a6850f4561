"""The uid subset file: read, check, write by rename, read back; and the uids of what a user holds. METHOD 1.

DataComp's resharder takes an unsorted file without a word and loses almost every sample: nothing is written here that is not
ascending, and nothing is read that is not.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from filters.maths import uids
from filters.maths.arrays import U64
from filters.pool.errors import BadInput, from_os, shortened
from filters.pool.files import move, read_npy_header, writing
from filters.pool.place import Place, Remote
from filters.pool.store import fetched, pieces, stamp, stamped

Map = Callable[[Callable[[Path], U64], Iterable[Path]], Iterable[U64]]


@contextmanager
def replacing(path: Path, new: Path, blocks: Iterable[U64]) -> Iterator[str]:
    """Write a subset file; gives its sha256, and puts it in place when the block ends well.

    new     where it is written first, beside `path`; what a killed run left there is written over
    blocks  (n, 2) uint64 each, ascending, also from one to the next; repetition is legal
    The file appears under `path` whole or not at all: written beside it, synced, read back, renamed.
    """
    try:
        with writing(new, path) as file:
            written = _write(file, blocks)
        sha256, found = _read_back(new)
        assert found == written, "what was written reads back"
        yield sha256
        move(new, path)
    finally:
        new.unlink(missing_ok=True)


def _write(file: IO[bytes], blocks: Iterable[U64]) -> tuple[int, int]:
    """Number and CRC-32 of the records. They are counted on the way: numpy's header has room for any number."""
    _write_header(file, 0)
    start, count, crc = file.tell(), 0, 0
    last = np.empty((0, 2), np.uint64)
    for block in blocks:
        bounds = np.concatenate([last, block[:1]])
        assert not uids.descending(block).any() and not uids.descending(bounds).any(), "a subset is written in ascending order"
        data = np.ascontiguousarray(block).reshape(-1).view(np.uint8).data
        file.write(data)
        count, crc, last = count + len(block), zlib.crc32(data, crc), block[-1:].copy() if len(block) else last
    file.seek(0)
    _write_header(file, count)
    assert file.tell() == start, "headers are of one size"
    return count, crc


def _write_header(file: IO[bytes], count: int) -> None:
    header = {"descr": uids.SUBSET.descr, "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(file, header)


def _read_back(path: Path) -> tuple[str, tuple[int, int]]:
    """sha256 of a file that was just written; number and CRC-32 of its records."""
    sha256, crc = hashlib.sha256(), 0
    with path.open("rb") as file:
        header = read_npy_header(file)
        file.seek(0)
        sha256.update(file.read(header.size))
        while data := file.read(1 << 20):
            sha256.update(data)
            crc = zlib.crc32(data, crc)
    return sha256.hexdigest(), (header.shape[0], crc)


def read(path: Place) -> U64:
    """(n, 2) uint64 of a subset file; raises BadInput unless it is 1-D `u8,u8` in ascending order (repetition is legal).

    A file of this machine is mapped, one of a store is brought into memory.
    """
    try:
        data = _brought(path) if isinstance(path, Remote) else path
        with io.BytesIO(data) if isinstance(data, bytes) else data.open("rb") as file:
            header = read_npy_header(file)
            size = file.seek(0, io.SEEK_END)
    except OSError as error:
        raise from_os(path, error) from None
    except ValueError as error:
        raise BadInput(path, f"is no npy file ({error})", "name a uid subset file") from None
    if header.descr != uids.SUBSET.descr or len(header.shape) != 1:
        what = f"is {shortened(header.descr)} of shape {header.shape}, not one dimension of u8,u8"
        raise BadInput(path, what, "write it as DataComp's baselines do")
    if size != header.size + header.shape[0] * uids.SUBSET.itemsize:
        raise BadInput(path, f"holds {size - header.size:,} bytes of {header.shape[0]:,} uids", "make it again: it is cut off")
    words = _words(data, header.size, header.shape[0])
    wrong = np.flatnonzero(uids.descending(words))
    if len(wrong):
        raise BadInput(path, f"is not sorted: record {wrong[0] + 1:,} is smaller than the one before", "sort it by (high, low) word")
    return words


def _brought(file: Remote) -> bytes:
    known = stamped(file)
    return b"".join(fetched(known, pieces(0, known.size)))


def _words(data: bytes | Path, start: int, count: int) -> U64:
    if not count:
        return np.empty((0, 2), np.uint64)
    if isinstance(data, bytes):
        return np.frombuffer(data, np.uint64, offset=start).reshape(-1, 2)
    return np.memmap(data, np.uint64, "r", start, (count, 2))


def held(path: Place, run: Map = map) -> U64:
    """The uids a user holds, ascending, each once.

    path  a subset file, or a folder of downloaded webdataset shards: of each shard img2dataset's parquet where it is there
          (rows with status success), else the json members of the tar
    run   like `map`: reads files in parallel
    """
    if isinstance(path, Remote) or not path.is_dir():
        return _unique(read(path))
    files = held_files(path)
    if not files:
        raise BadInput(path, "holds neither .tar nor .parquet files", "name the folder of the downloaded shards")
    return _unique(np.concatenate(list(run(held_in, files))))


def held_at_most(path: Place, most: int) -> int:
    """How many uids a user can hold, as far as headers tell."""
    if isinstance(path, Remote):
        return min(most, stamped(path).size // uids.SUBSET.itemsize)
    if path.is_dir():
        return most
    try:
        return min(most, path.stat().st_size // uids.SUBSET.itemsize)
    except OSError as error:
        raise from_os(path, error) from None


def held_files(folder: Path) -> list[Path]:
    """A file a shard, the parquet before the tar; where there are tars, a parquet without one says nothing is held."""
    tars = {path.stem for path in folder.glob("*.tar")}
    tables = {path.stem for path in folder.glob("*.parquet")}
    shards = sorted(tars or tables)
    return [folder / (f"{shard}.parquet" if shard in tables else f"{shard}.tar") for shard in shards]


Stamp = tuple[str, int, int | str, int]


def stamps(place: str | Place) -> list[Stamp]:
    """Path, size, inode and time of the last change of any kind of the file, or of the files that `held` reads in the folder.

    What was read of them holds as long as these do. Not the date: copying may set it back.
    """
    if isinstance(place, Remote):
        return [(str(place), *stamp(place))]
    path = Path(place)
    try:
        files = held_files(path) if path.is_dir() else [path]
        return [(str(file.resolve()), (told := file.stat()).st_size, told.st_ino, told.st_ctime_ns) for file in files]
    except OSError as error:
        raise from_os(path, error) from None


def _unique(found: U64) -> U64:
    found = found[uids.order(found)]
    first = np.concatenate([[True], uids.ascending(found)]) if len(found) else np.zeros(0, bool)
    result: U64 = found[first]
    return result


def held_in(path: Path) -> U64:
    """The uids that a shard holds, as they lie, by its parquet or by its tar."""
    texts = list(_parquet_uids(path) if path.suffix == ".parquet" else _tar_uids(path))
    try:
        return uids.from_texts(texts)
    except uids.BadUid as bad:
        what = f"sample {bad.row:,}: {bad.said}"
        raise BadInput(path, what, "download the shard again") from None


def _parquet_uids(path: Path) -> Iterator[object]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=["uid", "status"])
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise BadInput(path, f"gives no columns uid and status ({reason})", "name a folder that img2dataset wrote") from None
    pairs = zip(table["uid"].to_pylist(), table["status"].to_pylist(), strict=True)
    return (uid for uid, status in pairs if status == "success")


def _tar_uids(path: Path) -> Iterator[object]:
    with whole_tar(path) as tar:
        for member in tar:
            if member.isfile() and member.name.endswith(".json"):
                yield json_uid(path, member.name, tar.extractfile(member))


@contextmanager
def whole_tar(path: Path) -> Iterator[tarfile.TarFile]:
    """A tar to be read to its end; raises BadInput when it is not whole."""
    try:
        with tarfile.open(path, "r:") as tar:
            yield tar
            _check_end(path, tar)
    except OSError as error:
        raise from_os(path, error) from None
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise BadInput(path, f"is no whole tar file ({error})", "download the shard again") from None


def _check_end(path: Path, tar: tarfile.TarFile) -> None:
    """A tar ends with a block of zeros; tarfile takes any header that it cannot read for the end."""
    assert tar.fileobj is not None, "an open tar has a file"
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise BadInput(path, f"is no whole tar file (byte {tar.offset:,} is neither a member nor the end)", "download the shard again")


def json_uid(path: Path, name: str, file: Any) -> object:
    try:
        return json.load(file)["uid"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        what = f"member {name} has no uid ({type(error).__name__}: {error})"
        raise BadInput(path, what, "download with the uid column") from None
