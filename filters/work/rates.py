"""How fast this machine does what passes are made of: the program's own kernels, tried for about two seconds.

A `Kernel` is one such thing: a function that prepares a trial of it, and the arguments of that function. Trials run on all workers
at once, since workers share caches, memory and the disk. A rate is the time that a worker takes for one unit while the others work.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from filters.maths import cut, uids
from filters.maths.arrays import F32, Array
from filters.maths.blocks import BLOCK, nearest, unit
from filters.maths.kmeans import search
from filters.maths.search import NEAR, Levels, Search
from filters.maths.split import Split
from filters.pool import store
from filters.pool.archive import Member
from filters.pool.columns import TEXTS, numbers_of, parquet_batches, uids_of
from filters.pool.embeddings import PIECE_BYTES
from filters.pool.errors import from_os
from filters.pool.place import Place, Remote
from filters.pool.pool import Pool, Shard
from filters.work.regroup import Part, Room
from filters.work.view import Task

SECONDS = 2.0  # for all kernels together
BURST = 0.02  # for a kernel at a time
FAR = 10e-9  # seconds that a byte of a store takes a worker, as a rule
TRIED = 1 << 20  # bytes of each request of a trial, of which a worker has several under way
UNDER_WAY = (store.IN_FLIGHT + 1) * store.PIECE  # bytes of a store that a worker holds at once
PROBES = 64  # places of the pool whose presence in the page cache is looked up

Trial = Callable[[], float]  # does some, and tells how many units that was


class Kernel(NamedTuple):
    """`prepare(site, *arguments)` gives a trial."""

    prepare: Callable[..., Trial]
    arguments: tuple[Any, ...] = ()
    usual: float = 0.0  # its rate on an ordinary machine, in seconds: until it is measured


Rates = Mapping[Kernel, float]  # seconds


@dataclass(frozen=True)
class Site:
    """Where a run will take place."""

    pool: Pool
    folder: Path  # on the disk of the work folder
    device: str
    workers: int
    memory: float  # bytes that the page cache may take


def measured(shares: Mapping[Kernel, float], site: Site, start: float) -> Rates:
    """The rate of each kernel.

    shares  units of each in the run, so that what takes long is tried for longer
    start   seconds that a process takes to start
    """
    rates = {STARTING: start}
    end = time.monotonic() + SECONDS
    with ThreadPoolExecutor(site.workers) as threads:
        benches = [_Bench(kernel, shares[kernel], site, threads) for kernel in shares if kernel != STARTING]
        free = [bench for bench in benches if not bench.dear]
        while free and time.monotonic() < end:
            max(free, key=_Bench.worth).burst()
    return rates | {bench.kernel: bench.rate for bench in benches}


class _Bench:
    """One kernel, tried on every worker."""

    def __init__(self, kernel: Kernel, units: float, site: Site, threads: ThreadPoolExecutor) -> None:
        self.kernel, self.units, self.threads = kernel, units, threads
        self.trials = [kernel.prepare(site, *kernel.arguments) for _ in range(site.workers)]
        self.seconds, self.done = 0.0, 0.0
        self.dear = kernel.prepare is fetching  # a store may want to be paid for what it sends: one trial is enough
        self.burst()
        if not self.dear and self.seconds < 2 * BURST * site.workers:  # so short that warming up was a part of it
            self.seconds, self.done = 0.0, 0.0
            self.burst()

    def burst(self) -> None:
        for seconds, done in self.threads.map(partial(_tried, least=0.0 if self.dear else BURST), self.trials):
            self.seconds, self.done = self.seconds + seconds, self.done + done

    @property
    def rate(self) -> float:
        return self.seconds / self.done if self.done else 0.0

    def worth(self) -> float:
        """Of another burst: its share of the run, over what has been spent on it."""
        return self.units * self.rate / self.seconds


def _tried(trial: Trial, least: float) -> tuple[float, float]:
    """Seconds, `least` at the least, and units."""
    begin, done = time.perf_counter(), trial()
    while (seconds := time.perf_counter() - begin) < least:
        done += trial()
    return seconds, done


# -- the start of a process


def starting(site: Site) -> Trial:
    """Processes that load their libraries."""
    raise AssertionError("it is timed where it happens, since it happens once: see loaded")


STARTING = Kernel(starting)


def loaded() -> float:
    """Load the libraries that passes use; gives the age of this process when that was needed, so when it has just started."""
    new = "torch" not in sys.modules
    import pyarrow as pa
    import pyarrow.parquet
    import torch

    torch.zeros(1)
    pa.array([0.0]).to_numpy(zero_copy_only=False)
    return _age() if new else 0.0


def _age() -> float:
    """Seconds since this process began."""
    told = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(told[19]) / os.sysconf("SC_CLK_TCK")


# -- the pool's bytes


def reading(site: Site, features: str, again: bool) -> Trial:
    """Bytes of a member: from the page cache, or from the disk, in the proportion that the run will meet."""
    members = [shard.member(features) for shard in site.pool.shards if shard.rows]
    places = _places(members)
    fits = sum(member.entry.packed for member in members) < site.memory
    warm = float(fits) if again else _cached_share(places)
    if not places[0].stored:
        return _inflating(places)
    chance, turn = np.random.default_rng(), itertools.cycle(places)
    into = bytearray(min(place.size for place in places))

    def trial() -> float:
        wanted = chance.random() < warm
        found = next((place for place in itertools.islice(turn, PROBES) if place.cached() == wanted), next(turn))
        with found.path.open("rb") as file:
            return os.preadv(file.fileno(), [into], found.offset)

    return trial


def fetching(site: Site, features: str | None) -> Trial:
    """Bytes of a store: of a member, or of its parquet files."""
    shards = [shard for shard in site.pool.shards if shard.rows]
    if features is None:
        return _fetching([(shard.parquet, 0, shard.stamps[shard.parquet][0]) for shard in shards], packed=False)
    members = [shard.member(features) for shard in shards]
    return _fetching([(member.path, member.start, member.entry.packed) for member in members], packed=not members[0].entry.stored)


def _fetching(places: list[tuple[Place, int, int]], packed: bool) -> Trial:
    """Bytes of these ranges, by as many requests at once as a worker has under way."""
    turn = itertools.cycle(places)

    def trial() -> float:
        file, at, size = next(turn)
        assert isinstance(file, Remote), "what lies on this machine is read"
        data = list(store.fetched(file, [(at, min(TRIED, size))] * store.IN_FLIGHT))
        for one in data if packed else []:
            zlib.decompressobj(-15).decompress(one)
        return sum(map(len, data))

    return trial


class _Place(NamedTuple):
    path: Path
    offset: int
    size: int
    stored: bool

    def cached(self) -> bool:
        """Whether it lies in the page cache. A file system that does not tell is read as it comes."""
        with self.path.open("rb") as file:
            try:
                return bool(os.preadv(file.fileno(), [bytearray(1)], self.offset, os.RWF_NOWAIT))
            except OSError:
                return False


def _places(members: list[Member]) -> list[_Place]:
    """Pieces all over the pool, in random order."""
    chance = np.random.default_rng()
    found = []
    for at in chance.integers(0, len(members), 4 * PROBES):
        member = members[at]
        begin = int(chance.integers(0, -(-member.entry.packed // PIECE_BYTES))) * PIECE_BYTES if member.entry.stored else 0
        size = min(PIECE_BYTES, member.entry.packed - begin)
        assert isinstance(member.path, Path), "a store has no page cache here"
        found.append(_Place(member.path, member.start + begin, size, member.entry.stored))
    return found


def _cached_share(places: list[_Place]) -> float:
    return sum(place.cached() for place in places[:PROBES]) / len(places[:PROBES])


def _inflating(places: list[_Place]) -> Trial:
    """Packed bytes of a deflated member."""
    with places[0].path.open("rb") as file:
        packed = os.pread(file.fileno(), min(places[0].size, 1 << 18), places[0].offset)

    def trial() -> float:
        zlib.decompressobj(-15).decompress(packed)
        return len(packed)

    return trial


def checking(site: Site) -> Trial:
    """Bytes whose CRC-32 is worked out."""
    data = bytes(PIECE_BYTES // 4)

    def trial() -> float:
        zlib.crc32(data)
        return len(data)

    return trial


def parsing(site: Site, column: str) -> Trial:
    """Values of a parquet column, of the pool's largest shard."""
    shard = max(site.pool.shards, key=lambda one: one.rows)
    if isinstance(shard.parquet, Remote):
        return _parsing_drawn(column, shard.columns[column])
    batches: Iterator[Any] = iter(())

    def trial() -> float:
        nonlocal batches
        batch = next(batches, None)
        if batch is None:
            batches = parquet_batches(shard, column, lambda size: None)
            batch = next(batches)
        _parse(shard, column, batch)
        return len(batch)

    return trial


def _parsing_drawn(column: str, kind: str) -> Trial:
    """Values of such a column of our own: those of a store are fetched for the run alone."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    words = np.random.default_rng(0).integers(0, 1 << 63, (BLOCK, 2))
    values = [f"{high:016x}{low:016x}" for high, low in words.tolist()] if kind in TEXTS else words[:, 0] / 2.0**63
    made = pa.BufferOutputStream()
    pq.write_table(pa.table({column: values}), made)
    data = made.getvalue()

    def trial() -> float:
        for batch in pq.ParquetFile(pa.BufferReader(data)).iter_batches(columns=[column], use_threads=False):
            batch.validate(full=True)
            _parse_as(kind, column, batch.column(0))
        return BLOCK

    return trial


def _parse(shard: Shard, column: str, batch: Any) -> None:
    _parse_as(shard.columns[column], column, batch)


def _parse_as(kind: str, column: str, batch: Any) -> None:
    if column == "uid":
        uids_of(batch)
    elif "string" not in kind:
        numbers_of(batch, np.dtype(np.float64))


# -- embeddings


def converting(site: Site, width: int, dtype: str) -> Trial:
    """Rows that become unit rows."""
    import torch

    piece, at = _rows(BLOCK, width).astype(dtype), np.arange(BLOCK)
    buffer = np.empty_like(piece)
    out = None

    def trial() -> float:
        nonlocal out
        np.take(piece, at, axis=0, out=buffer, mode="clip")
        out = unit(torch.from_numpy(buffer).to(torch.device(site.device)), out)[0]
        return BLOCK

    return trial


def assigning(site: Site, width: int, k: int) -> Trial:
    """Rows that find the nearest of k centroids: on the CPU unit rows, on a GPU rows as they lie."""
    import torch

    if site.device != "cpu":
        return _searching(Split(_rows(k, width), site.device), _rows(Split.size, width).astype(np.float16))
    rows, table = (torch.from_numpy(_rows(count, width)) for count in (BLOCK, k))

    def trial() -> float:
        nearest(rows, table)
        return BLOCK

    return trial


def finding_near(site: Site, width: int) -> Trial:
    """Rows that find their centroid among those near a coarse one, as in a search of two levels."""
    cells = 16
    near = np.random.default_rng(0).integers(0, 4 * BLOCK, (cells, NEAR))
    find = search(_rows(4 * BLOCK, width), Levels(_rows(cells, width), near), site.device)
    return _searching(find, _rows(BLOCK, width) if site.device == "cpu" else _rows(find.size, width).astype(np.float16))


def _searching(find: Search, rows: Array) -> Trial:
    def trial() -> float:
        find(rows)
        return len(rows)

    return trial


def solving(site: Site, task: Task, arguments: tuple[Any, ...], carried: tuple[str, ...], width: int, dtype: str, size: int) -> Trial:
    """Rows of a partition whose groups have `size` rows, by the very task that a regroup runs."""
    groups = max(1, 2 * BLOCK // size)
    n = groups * size
    part = Part(
        np.arange(n, dtype=np.int32) % groups,
        np.random.default_rng(0).integers(0, 1 << 63, (n, 2)).astype(np.uint64),
        {name: np.random.default_rng(1).random(n, np.float32) for name in carried},
        _rows(n, width).astype(dtype),
        site.device,
        Room(site.folder, math.inf),
    )

    def trial() -> float:
        task(part, *arguments)
        return n

    return trial


def _rows(count: int, width: int) -> F32:
    """Unit rows, whatever their number: a few random ones that come again would tie, so each is turned a little."""
    rows = np.random.default_rng(0).standard_normal((count, width), np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


# -- values


def counting(site: Site) -> Trial:
    """Values that are counted by their bits, as a cut does."""
    values, group = _rows(64, BLOCK).ravel(), np.zeros(64 * BLOCK, np.int64)

    def trial() -> float:
        keys = cut.keys(values, True)
        cut.Search(np.array([BLOCK]), 32).counts(group, lambda word: keys)
        return len(values)

    return trial


def finding(site: Site, table: int) -> Trial:
    """Uids that are looked up in a table."""
    count = min(max(1, table), 1 << 20)
    known = np.sort(np.random.default_rng(0).integers(0, 1 << 63, (count, 2)).astype(np.uint64), axis=0)
    asked = np.resize(known[np.random.default_rng(1).integers(0, len(known), 8 * BLOCK)], (8 * BLOCK, 2))

    def trial() -> float:
        uids.find(known, asked)
        return len(asked)

    return trial


def ordering(site: Site) -> Trial:
    """Uids that are sorted."""
    words = np.random.default_rng(0).integers(0, 1 << 63, (64 * BLOCK, 2)).astype(np.uint64)

    def trial() -> float:
        uids.order(words)
        return len(words)

    return trial


def copying(site: Site) -> Trial:
    """Bytes that are copied into a fresh array."""
    data = np.zeros(40 << 20, np.uint8)  # of a size for which malloc asks the system anew each time

    def trial() -> float:
        data.copy()
        return data.nbytes

    return trial


# -- files


def hashing(site: Site) -> Trial:
    """Bytes whose SHA-256 is worked out."""
    data = bytes(1 << 20)

    def trial() -> float:
        hashlib.sha256(data)
        return len(data)

    return trial


def writing(site: Site) -> Trial:
    """Bytes that are written, synced, read again for their SHA-256, and removed in the end."""
    data = os.urandom(1 << 20)

    def trial() -> float:
        with unnamed(site.folder) as file:
            for _ in range(8):
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
            for _ in range(8):
                hashlib.sha256(data)
        return 8 * len(data)

    return trial


def recording(site: Site) -> Trial:
    """Small files that are synced."""

    def trial() -> float:
        with unnamed(site.folder) as file:
            file.write(bytes(128))
            file.flush()
            os.fsync(file.fileno())
        return 1

    return trial


@contextmanager
def unnamed(folder: Path) -> Iterator[IO[bytes]]:
    """A file that no folder lists."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            yield file
    except OSError as error:
        raise from_os(folder, error) from None
