"""Lists of uids in the forms in which they are kept, as streams of blocks: of any length, nothing is ever in memory at once.

    .npy       `u8,u8`, which DataComp reads; and what it does not read: other words, other fields, two columns, texts
    .txt       hexadecimal, one a line
    .parquet   column `uid`, hexadecimal or 16 bytes, high byte first; of a column `status` only the rows that are kept or a success
    folder     its .parquet files
.npy and .txt may be packed, with .gz behind. Here a list is read as it lies; whether it is in order is for `uidsort`.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np

from filters.maths import uids
from filters.maths.arrays import U8, U64, Array
from filters.pool.columns import TEXTS, Counted, batches, uids_of
from filters.pool.errors import BadInput, from_os, shortened
from filters.pool.files import NpyHeader, read_npy_header
from filters.pool.place import Stamp
from filters.pool.pool import stamp, unreadable

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK = 1 << 15  # uids: what is done with a block fits in a core's cache
CHUNK = 1 << 21  # bytes of text
HELD = ("kept", "success")  # statuses of a run's samples, and of a download's
Pulse = Callable[[int], None]  # hears how many bytes were read


@dataclass(frozen=True)
class UidList:
    """A list of uids on disk."""

    path: Path
    stamps: dict[Path, Stamp]  # of its files
    form: str  # as a message may name it
    foreign: bool  # an npy that DataComp's tools refuse
    _read: Callable[[Path, Pulse], Iterator[U64]]

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(size for size, *_ in self.stamps.values())

    def blocks(self, pulse: Pulse) -> Iterator[U64]:
        """(n, 2) uint64 each, in the order of the list. A block is good until the next one is asked for."""
        for file, then in self.stamps.items():
            yield from self._read(file, pulse)
            if stamp(file) != then:
                raise BadInput(file, "changed during the run", "run again when nothing writes to it")


def opened(path: Path) -> UidList:
    """A list by its name; raises BadInput for a name of no known form, and for an npy whose records are no uids."""
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    stamps = {file: stamp(file) for file in files}
    if path.is_dir():
        if not files:
            raise BadInput(path, "holds no .parquet", "name a file of uids, or a folder of such tables")
        return UidList(path, stamps, f"folder of {len(files):,} parquet files", False, _parquet_blocks)
    return UidList(path, stamps, *_form(path), _READERS[_kind(path)])


def _kind(path: Path) -> str:
    name = path.name.removesuffix(".gz")
    kind = name[name.rfind(".") :] if "." in name else ""
    if kind not in _READERS or (kind == ".parquet" and name != path.name):
        raise BadInput(path, "ends in none of .npy, .txt, .npy.gz, .txt.gz, .parquet", "name it after what it is")
    return kind


def _form(path: Path) -> tuple[str, bool]:
    """What it is called, and whether it is foreign."""
    packed, kind = ", packed" if path.suffix == ".gz" else "", _kind(path)
    if kind != ".npy":
        return f"{kind.removeprefix('.')}{packed}", False
    with unpacked(path, lambda size: None) as (file, _):
        said = form_of(path, header_of(path, file)).said
    return f"npy of {said}{packed}", said != "u8,u8"


@contextmanager
def unpacked(path: Path, pulse: Pulse) -> Iterator[tuple[IO[bytes], Callable[[], None]]]:
    """The bytes of a file, or those that are packed in it; and what tells how much was read."""
    try:
        with Counted(path) as plain, gzip.GzipFile(fileobj=plain) if path.suffix == ".gz" else plain as file:
            yield file, lambda: pulse(plain.given())  # type: ignore[misc]
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise BadInput(path, f"is no whole gz file ({error})", "download it again") from None
    except OSError as error:
        raise from_os(path, error) from None


@contextmanager
def rows_named(path: Path, what: str, before: int) -> Iterator[None]:
    """A text that is no uid is named by its place, which is `before` more than in its block."""
    try:
        yield
    except uids.BadUid as bad:
        raise BadInput(path, f"{what} {before + bad.row:,}: {bad.said}", "mend the list") from None


# -- npy


class Form(NamedTuple):
    """How the records of an npy are to be read."""

    said: str
    record: np.dtype[Any]
    uids: Callable[[Array], U64]


WORDS = ("<u8", ">u8", "<i8", ">i8")
TEXT = re.compile(r"[|<>][SU](\d+)")


def header_of(path: Path, file: IO[bytes]) -> NpyHeader:
    try:
        return read_npy_header(file)
    except ValueError as error:
        raise BadInput(path, f"is no npy file ({error})", "name a uid subset file") from None


def form_of(path: Path, header: NpyHeader) -> Form:
    """Raises BadInput when the records are no uids."""
    descr, shape = header.descr, header.shape
    text = TEXT.fullmatch(descr) if isinstance(descr, str) else None
    if len(shape) == 1 and _is_pair(descr):
        kinds = [kind for _, kind in descr]
        said = "u8,u8" if descr == uids.SUBSET.descr else ",".join(kinds)
        names = "" if [name for name, _ in descr] == ["f0", "f1"] else f" named {', '.join(name for name, _ in descr)}"
        return Form(said + names, np.dtype(",".join(kinds)), _pairs)
    if shape[1:] == (2,) and descr in WORDS and not header.fortran:
        return Form(f"{descr} of shape (n, 2)", np.dtype(f"{descr},{descr}"), _pairs)
    if len(shape) == 1 and text and 1 <= int(text[1]) <= uids.DIGITS:
        return Form(f"texts, {descr}", np.dtype(descr), _texts)
    what = f"is {shortened(descr)} of shape {shape}, not one dimension of u8,u8"
    raise BadInput(path, what, "write it as DataComp's baselines do")


def _is_pair(descr: object) -> bool:
    """Whether records have two fields, each a word."""
    fields = descr if isinstance(descr, list) and len(descr) == 2 else []
    return bool(fields) and all(isinstance(one, tuple) and len(one) == 2 and isinstance(one[0], str) and one[1] in WORDS for one in fields)


def _pairs(records: Array) -> U64:
    if records.dtype == uids.SUBSET:
        return records.view(np.uint64).reshape(-1, 2)
    words = np.empty((len(records), 2), np.uint64)
    words[:, 0], words[:, 1] = records["f0"], records["f1"]  # a negative word is the one of the same bits
    return words


def _texts(records: Array) -> U64:
    letters = records.view(records.dtype.str[0].replace("|", "=") + ("u4" if records.dtype.kind == "U" else "u1")).reshape(len(records), -1)
    digits: U8 = np.where(letters < 128, letters, ord("?")).astype(np.uint8)
    lengths = np.strings.str_len(records)
    inside = np.arange(digits.shape[1]) < lengths[:, None]
    return uids.parse(digits[inside].tobytes(), np.concatenate([[0], lengths.cumsum()]))


def _npy_blocks(path: Path, pulse: Pulse) -> Iterator[U64]:
    with unpacked(path, pulse) as (file, told):
        header = header_of(path, file)
        form, count = form_of(path, header), header.shape[0]
        buffer: U8 = np.empty(min(BLOCK, count) * form.record.itemsize, np.uint8)
        for start in range(0, count, BLOCK):
            wanted = buffer[: min(BLOCK, count - start) * form.record.itemsize]
            if not _filled(file, wanted.data):
                raise BadInput(path, f"ends before the {count:,} uids of its header", "make it again: it is cut off")
            with rows_named(path, "record", start):
                block = form.uids(wanted.view(form.record))
            yield block
            told()
        if file.read(1):
            raise BadInput(path, f"goes on behind the {count:,} uids of its header", "make it again")


def _filled(file: IO[bytes], wanted: memoryview) -> bool:
    """Whether there was enough to fill it."""
    while wanted:
        size = file.readinto(wanted)  # type: ignore[attr-defined]
        if not size:
            return False
        wanted = wanted[size:]
    return True


# -- text


def _text_blocks(path: Path, pulse: Pulse) -> Iterator[U64]:
    before = 1  # lines are counted from one
    with unpacked(path, pulse) as (file, told):
        for lines in _lines(path, file):
            ends = np.flatnonzero(np.frombuffer(lines, np.uint8) == ord("\n"))
            with rows_named(path, "line", before):
                block = uids.parse(lines.replace(b"\n", b""), np.concatenate([[0], ends - np.arange(len(ends))]))
            yield block
            told()
            before += len(block)


def _lines(path: Path, file: IO[bytes]) -> Iterator[bytes]:
    """Whole lines, each with its end."""
    rest = b""
    while data := file.read(CHUNK):
        whole, end, rest = (rest + data).rpartition(b"\n")
        if len(rest) > CHUNK:
            raise BadInput(path, f"has a line of more than {CHUNK:,} bytes", "write one uid a line")
        if end:
            yield (whole + end).replace(b"\r\n", b"\n")
    if rest:
        yield rest + b"\n"


# -- parquet


def _parquet_blocks(path: Path, pulse: Pulse) -> Iterator[U64]:
    import pyarrow as pa

    before = 0
    try:
        for batch in batches(path, _columns(path), pulse):
            with rows_named(path, "row", before):
                block = _batch_uids(batch)
            yield block
            before += len(batch)
    except OSError as error:
        raise (unreadable if error.errno is None else from_os)(path, error) from None
    except (pa.ArrowException, MemoryError, ValueError) as error:
        raise unreadable(path, error) from None


def _columns(path: Path) -> list[str]:
    """`uid`, and `status` where there is one; raises BadInput when they are not what they should be."""
    import pyarrow.parquet as pq

    schema = pq.read_schema(path)
    wanted = {"uid": (*TEXTS, "fixed_size_binary[16]"), "status": TEXTS}
    found = [name for name in wanted if name == "uid" or name in schema.names]
    for name in found:
        kind = str(schema.field(name).type) if schema.names.count(name) == 1 else f"there {schema.names.count(name)} times"
        if kind not in wanted[name]:
            raise BadInput(path, f"column '{name}' is {kind}, not {' or '.join(wanted[name])}", "name a table of uids")
    return found


def _batch_uids(batch: pa.RecordBatch) -> U64:
    import pyarrow as pa
    import pyarrow.compute as pc

    column = batch.column("uid")
    words = uids_of(column) if str(column.type) in TEXTS else _binary_uids(column)
    if "status" not in batch.schema.names:
        return words
    status = batch.column("status")
    held: U64 = words[pc.is_in(status, value_set=pa.array(HELD, status.type)).to_numpy(zero_copy_only=False)]
    return held


def _binary_uids(column: pa.Array) -> U64:
    if column.null_count:
        raise uids.BadUid(int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0]), None)
    data = np.frombuffer(column.buffers()[1] or b"", ">u8")
    return data[2 * column.offset : 2 * (column.offset + len(column))].reshape(-1, 2).astype(np.uint64)


_READERS = {".npy": _npy_blocks, ".txt": _text_blocks, ".parquet": _parquet_blocks}
