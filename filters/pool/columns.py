"""One value a sample, by shard, in pool order; and one bit a sample.

A `Column` gives the values of a shard's rows: from files that a pass left (`Stored`), or worked out from the uids (`Hashed`).
What a row lacks is NaN in a float column, -1 in a signed one, and not `known` among uids. `Rows` is a set of samples.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from filters.maths import uids
from filters.maths.arrays import I64, U8, U64, Array, Bool
from filters.pool.errors import BadInput, from_os
from filters.pool.files import read_npy
from filters.pool.place import Remote
from filters.pool.pool import Shard, unreadable
from filters.pool.store import Opened

if TYPE_CHECKING:
    import pyarrow as pa
    from _typeshed import WriteableBuffer

TEXTS = ("string", "large_string")
FLOATS: dict[str, np.dtype[Any]] = {"halffloat": np.dtype(np.float16), "float": np.dtype(np.float32)}
NUMBERS = ("float", "double", "halffloat", *(f"{sign}int{width}" for sign in ("", "u") for width in (8, 16, 32, 64)))


class Column(Protocol):
    @property
    def key(self) -> str: ...

    def read(self, shard: str) -> Array: ...


@dataclass(frozen=True)
class Stored:
    """A column that lies in files, one a shard."""

    name: str
    folder: Path
    key: str

    def read(self, shard: str) -> Array:
        """(n,) or (n, 2) values, mapped from the file."""
        values: Array = read_npy(self.folder / f"{shard}.{self.name}.npy")
        return values


@dataclass(frozen=True)
class Hashed:
    """A random-looking number a sample, from its uid."""

    uids: Stored
    seed: int
    purpose: int
    buckets: int = 0  # 0: all 64 bits, else below this number

    @property
    def key(self) -> str:
        return f"hash {self.uids.key} {self.seed} {self.purpose} {self.buckets}"

    def read(self, shard: str) -> Array:
        """(n,) uint64, or int32 below `buckets`."""
        words = uids.hashed(self.uids.read(shard), self.seed, self.purpose)
        return (words % np.uint64(self.buckets)).astype(np.int32) if self.buckets else words


def missing(values: Array) -> Bool:
    """(n,) where there is no value."""
    if values.dtype.kind == "f":
        return np.isnan(values)
    return np.asarray(values < 0) if values.dtype.kind == "i" else np.zeros(len(values), bool)


def nothing(rows: int, like: Array) -> Array:
    """(rows, ...) of the type of `like`, no value anywhere."""
    value = {"f": np.nan, "i": -1}.get(like.dtype.kind, 0)
    empty: Array = np.zeros((rows, *like.shape[1:]), like.dtype)
    if value:
        empty.fill(value)
    return empty


class Rows:
    """A set of samples: one bit each, by shard."""

    def __init__(self, bits: Iterable[U8], lengths: tuple[int, ...]) -> None:
        self.bits, self.lengths = tuple(bits), lengths

    @classmethod
    def of(cls, masks: Iterable[Bool]) -> Rows:
        packed = [(np.packbits(mask), len(mask)) for mask in masks]
        return cls((bits for bits, _ in packed), tuple(length for _, length in packed))

    @classmethod
    def all(cls, lengths: Iterable[int]) -> Rows:
        return cls.of(np.ones(n, bool) for n in lengths)

    def mask(self, shard: int) -> Bool:
        """(n,) bool of one shard."""
        return unpacked(self.bits[shard], self.lengths[shard])

    def counts(self) -> I64:
        """Samples in the set, by shard."""
        return np.array([np.bitwise_count(bits).sum() for bits in self.bits], np.int64)

    def count(self) -> int:
        return int(self.counts().sum())

    @cached_property
    def key(self) -> str:
        digest = hashlib.sha256(repr(self.lengths).encode())
        for bits in self.bits:
            digest.update(bits.tobytes())
        return digest.hexdigest()

    def _with(self, other: Rows, rule: Callable[[U8, U8], U8]) -> Rows:
        return Rows(map(rule, self.bits, other.bits), self.lengths)

    def __and__(self, other: Rows) -> Rows:
        return self._with(other, np.bitwise_and)

    def __or__(self, other: Rows) -> Rows:
        return self._with(other, np.bitwise_or)

    def __sub__(self, other: Rows) -> Rows:
        return self._with(other, lambda mine, theirs: mine & ~theirs)


def unpacked(bits: U8, length: int) -> Bool:
    return np.unpackbits(bits, count=length).view(bool)


BATCH = 1 << 16


def parquet_batches(shard: Shard, name: str, pulse: Callable[[int], None]) -> Iterator[pa.Array]:
    """One column of a shard's table, a batch at a time; raises BadInput when pyarrow cannot read it or it fails validation."""
    return (batch.column(0) for batch in table_batches(shard, [name], pulse))


def table_batches(shard: Shard, names: list[str], pulse: Callable[[int], None]) -> Iterator[pa.RecordBatch]:
    """Some columns of it, likewise."""
    import pyarrow as pa

    shard.check_unchanged(shard.parquet)
    for name in names:
        shard.column_type(name)
    rows = 0
    try:
        for batch in _batches_of(shard, names, pulse):
            rows += len(batch)
            yield batch
    except OSError as error:
        raise (unreadable if error.errno is None else from_os)(shard.parquet, error) from None
    except (pa.ArrowException, MemoryError, ValueError) as error:
        raise unreadable(shard.parquet, error) from None
    if rows != shard.rows:
        what = f"column '{names[0]}' has {rows:,} values, the footer {shard.rows:,} rows"
        raise BadInput(shard.parquet, what, "download it again")


def _batches_of(shard: Shard, names: list[str], pulse: Callable[[int], None]) -> Iterator[pa.RecordBatch]:
    if not isinstance(shard.parquet, Remote):
        yield from batches(shard.parquet, names, pulse)
        return
    import pyarrow.parquet as pq

    with Opened(shard.parquet, pulse) as file:
        yield from _batches(file, names, pulse, pq.read_metadata(io.BytesIO(shard.tail)))


def batches(path: Path, names: list[str], pulse: Callable[[int], None]) -> Iterator[pa.RecordBatch]:
    """Columns of a parquet file, validated: our readers use the raw buffers, and offsets may point outside."""
    with Counted(path) as file:
        yield from _batches(file, names, pulse, None)


def _batches(counted: Counted | Opened, names: list[str], pulse: Callable[[int], None], metadata: Any) -> Iterator[pa.RecordBatch]:
    """`metadata`: of the footer, where it is known. Of a column pyarrow then reads each row group's part, whole, and nothing else."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(counted, metadata=metadata, page_checksum_verification=True) as file:
        for batch in file.iter_batches(BATCH, columns=names, use_threads=False):
            batch.validate(full=True)
            yield batch
            pulse(counted.given())
        pulse(counted.given())


class Counted(io.FileIO):
    """A file that tells how much of it was read."""

    taken = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data: bytes = super().read(size) or b""
        self.taken += len(data)
        return data

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        size = super().readinto(buffer) or 0
        self.taken += size
        return size

    def given(self) -> int:
        """Bytes read since it was asked last."""
        taken, self.taken = self.taken, 0
        return taken


def read_uids(shard: Shard, pulse: Callable[[int], None]) -> U64:
    """(n, 2) uint64; raises BadInput that names the row of a uid that is null or not hexadecimal."""
    parts, row = [np.empty((0, 2), np.uint64)], 0
    for batch in parquet_batches(shard, "uid", pulse):
        try:
            parts.append(uids_of(batch))
        except uids.BadUid as bad:
            what = f"row {row + bad.row:,}: {bad.said}"
            raise BadInput(shard.parquet, what, "download it again") from None
        row += len(batch)
    return np.concatenate(parts)


def uids_of(batch: pa.Array) -> U64:
    if batch.null_count:
        raise uids.BadUid(int(np.flatnonzero(batch.is_null().to_numpy(zero_copy_only=False))[0]), None)
    return uids.parse(*text_buffers(batch))


def text_buffers(chunk: pa.Array) -> tuple[memoryview, I64]:
    """The bytes of a validated string array, and (n + 1,) int64 where each text starts and the last one ends."""
    _, offsets, data = chunk.buffers()
    wide = str(chunk.type).startswith("large")
    if offsets is None or not len(chunk):
        return memoryview(b""), np.zeros(len(chunk) + 1, np.int64)
    ends = np.frombuffer(offsets, np.int64 if wide else np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
    return memoryview(data or b""), ends.astype(np.int64)


def read_numbers(shard: Shard, name: str, pulse: Callable[[int], None]) -> Array:
    """(n,) in the column's own float type, whole numbers as float64; NaN where it is null or not finite."""
    kind = FLOATS.get(shard.column_type(name), np.dtype(np.float64))
    parts = [numbers_of(batch, kind) for batch in parquet_batches(shard, name, pulse)]
    return np.concatenate([np.empty(0, kind), *parts])


def numbers_of(batch: pa.Array, kind: np.dtype[Any]) -> Array:
    numbers: Array = batch.to_numpy(zero_copy_only=False).astype(kind)
    numbers[~np.isfinite(numbers)] = np.nan
    return numbers


def read_texts(shard: Shard, name: str, rows: I64, pulse: Callable[[int], None]) -> list[str | None]:
    """The texts of a few rows, ascending."""
    return [text for _, texts in text_batches(shard, name, rows, pulse) for text in texts]


def text_batches(shard: Shard, name: str, rows: I64, pulse: Callable[[int], None]) -> Iterator[tuple[I64, list[str | None]]]:
    """The texts of some rows, ascending, a batch at a time, and which rows those are."""
    start = 0
    for batch in parquet_batches(shard, name, pulse):
        here = rows[np.searchsorted(rows, start) : np.searchsorted(rows, start + len(batch))]
        yield here, batch.take(here - start).to_pylist()
        start += len(batch)


def read_table(path: str) -> tuple[U64, Array]:
    """A user's scores: (m, 2) uint64 uids, ascending, each once, and (m,) float64, NaN where null or not finite.

    raises  BadInput for a file without columns uid and score, a uid that is none, and one uid with two scores
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            _check_table(path, file.schema_arrow)
            parts: list[tuple[U64, Array]] = []
            begin = 0
            for batch in file.iter_batches(BATCH, columns=["uid", "score"]):
                parts.append(_table_part(path, begin, batch))
                begin += len(batch)
    except OSError as error:
        raise (unreadable if error.errno is None else from_os)(path, error) from None
    except (pa.ArrowException, ValueError) as error:
        raise unreadable(path, error) from None
    known = np.concatenate([np.empty((0, 2), np.uint64), *(part[0] for part in parts)])
    return _once_each(path, known, np.concatenate([np.empty(0), *(part[1] for part in parts)]))


def table_rows(path: str) -> int:
    """Rows of a user's scores, as the footer says."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return int(pq.read_metadata(path).num_rows)
    except OSError as error:
        raise (unreadable if error.errno is None else from_os)(path, error) from None
    except (pa.ArrowException, ValueError) as error:
        raise unreadable(path, error) from None


def _check_table(path: str, schema: pa.Schema) -> None:
    for name, kinds in (("uid", TEXTS), ("score", NUMBERS)):
        kind = str(schema.field(name).type) if schema.names.count(name) == 1 else f"there {schema.names.count(name)} times"
        if kind not in kinds:
            raise BadInput(path, f"column '{name}' is {kind}, not {' or '.join(kinds)}", "name a table of uid and score")


def _table_part(path: str, begin: int, batch: pa.RecordBatch) -> tuple[U64, Array]:
    batch.validate(full=True)
    try:
        return uids_of(batch.column("uid")), numbers_of(batch.column("score"), np.dtype(np.float64))
    except uids.BadUid as bad:
        what = f"row {begin + bad.row:,}: {bad.said}"
        raise BadInput(path, what, "mend the table") from None


def _once_each(path: str, known: U64, scores: Array) -> tuple[U64, Array]:
    order = uids.order(known)
    known, scores = known[order], scores[order]
    again = np.concatenate([[False], ~uids.ascending(known)]) if len(known) else np.zeros(0, bool)
    unequal = again[1:] & ~((scores[1:] == scores[:-1]) | (np.isnan(scores[1:]) & np.isnan(scores[:-1])))
    if unequal.any():
        at = int(np.flatnonzero(unequal)[0])
        what = f"uid {uids.to_texts(known[at : at + 1])[0]} has two scores, {scores[at]} and {scores[at + 1]}"
        raise BadInput(path, what, "give each uid one score")
    return known[~again], scores[~again]
