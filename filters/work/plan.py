"""The passes that a run will make, and what they cost: samples, bytes, disk, memory, time. Arithmetic over headers.

A `Plan` has the verbs of `Work`: it is told the same tasks in the same order, with what each takes of which kernel. What only the
rows themselves could tell is assumed, and noted where it matters: no sample is invalid or repeated, groups are as unequal as usual.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from filters.maths.arrays import F64
from filters.maths.cut import FEW, Search
from filters.maths.kmeans import COARSE_ITERATIONS, chunk_rows
from filters.maths.search import NEAR, coarse_count
from filters.pool.columns import TEXTS
from filters.pool.embeddings import piece_rows
from filters.pool.errors import BadInput
from filters.pool.place import Remote
from filters.pool.pool import Features, Pool
from filters.work import rates
from filters.work.rates import STARTING, Kernel, Rates
from filters.work.regroup import part_rows, room_of_part
from filters.work.view import Task
from filters.work.work import Settings, spoken

K_MEANS, SORTED, BATCHES, HELD = "k-means", "sorted rows", "batches of rows", "rows held at once"  # what rows are held in memory for
PROCESS = 0.4e9  # bytes of memory that a process takes, its blocks included
SAMPLE = 28  # bytes of memory a sample of the pool
FOLDERS = 10  # of a work folder itself, and small files in it: lock, origin, manifest, status
DISK_BLOCK = 4096  # files take whole ones
NPY_HEADER = 128
PARQUET_COLUMN = 700  # bytes that a column of a parquet file takes beside its values
UID_TEXT, TEXT = 34, 60  # bytes a row of a parquet file
FOOTER = 1 << 16  # bytes that are read of a parquet file beside the column
LARGE = 2048  # centroids, or rows of a group, beyond which a kernel's time is in proportion to them
USUAL_ITERATIONS = 50  # of k-means, after which no label changes: 26 to 70 were seen
Kind = str | np.dtype[Any]
SHOWN = 0.02  # of the run's time: shorter passes share a line
DAY = 86400
FLOPS = 40e9  # of a worker of an ordinary machine, where nothing has been measured


@dataclass(frozen=True)
class Cost:
    """What a pass does: units of kernels, and bytes of the pool that it reads."""

    units: Mapping[Kernel, float] = field(default_factory=dict)
    bytes_read: int = 0

    def __add__(self, other: Cost) -> Cost:
        units = {kernel: self.units.get(kernel, 0) + other.units.get(kernel, 0) for kernel in (*self.units, *other.units)}
        return Cost(units, self.bytes_read + other.bytes_read)

    def __mul__(self, times: float) -> Cost:
        return Cost({kernel: times * amount for kernel, amount in self.units.items()}, self.bytes_read)


@dataclass(frozen=True)
class Pass:
    """One pass over rows of the pool."""

    stage: str
    name: str
    samples: int
    bytes_read: int  # of the pool
    bytes_written: int  # to the work folder
    memory: int  # bytes beside what a process and the pool's samples take
    units: Mapping[Kernel, float]  # of each kernel, for the worker that has most to do
    usual: float = 1.0  # part of the samples after which it ends as a rule
    holds: str = SORTED  # what the memory is for

    def seconds(self, rates: Rates) -> float:
        return float(sum(amount * rates[kernel] for kernel, amount in self.units.items()))


@dataclass
class Expected:
    """What a stage takes and leaves, for all that headers tell."""

    name: str
    rows: int
    kept: int


class Plan:
    """Passes, in the order in which a run makes them."""

    def __init__(self, pool: Pool, settings: Settings, workers: int, processes: int = 1) -> None:
        self.pool, self.settings, self.workers, self.processes = pool, settings, workers, processes
        self.samples = pool.rows  # neither outside nor repeated
        self.passes: list[Pass] = []
        self.stages: list[Expected] = []
        self.notes: list[str] = []
        self.columns: dict[str, Kind] = {}  # of samples/: dtype by name
        self.having: dict[str, int] = {}  # rows that have a value in each
        self.disk, self.kept = 0, 0  # bytes of the work folder at its fullest; samples in OUT.npy
        self.listed = 0  # uids in OUT.npy
        self.rates: Rates = {}
        self.short: BadInput | None = None  # why the run would not start
        self.beyond: BadInput | None = None  # what --memory_gb does not allow
        self._held: dict[str, int] = {}  # bytes, by what they are for
        self._shards: F64 = np.array([shard.rows for shard in pool.shards], np.float64)
        self._busy = _busy(self._shards, workers)
        self._stored, self._inner, self._suffix = DISK_BLOCK * FOLDERS, "", ""
        self._small = 0  # bytes of small results, which are left behind as well
        self._read: set[str] = set()
        self._remote = isinstance(pool.location, Remote)
        if self._remote:
            self.holds("pieces of the store", rates.UNDER_WAY * (workers if processes == 1 else 1))

    # -- stages

    @contextmanager
    def stage(self, name: str, rows: int, suffix: str = "") -> Iterator[Expected]:
        """The passes of the block belong to it; its columns get the suffix."""
        stage, outer = Expected(name, rows, rows), self._suffix
        self.stages.append(stage)
        self._suffix = suffix
        yield stage
        self._suffix = outer

    def holds(self, what: str, size: int) -> None:
        """A table that every process keeps in memory, of this size in bytes."""
        self._held[what] = max(self._held.get(what, 0), self.processes * size)

    def note(self, text: str) -> None:
        """Something that had to be assumed."""
        if text not in self.notes:
            self.notes.append(text)

    # -- the verbs

    def each(self, task: Task | str, rows: int, cost: Cost, then: Cost | None = None) -> None:
        """A task on each shard, of which nothing is recorded. `then`: what one thread does with the results."""
        self._add(task, rows, cost, then=then)

    def column(self, task: Task | str, rows: int, cost: Cost, *dtypes: Kind, memory: int = 0) -> None:
        """A task on each shard that leaves a column of each of these types, and holds so many bytes of rows, all workers together."""
        self._record(task, rows, cost, [self._shards * np.dtype(dtype).itemsize for dtype in dtypes], memory=memory, holds=BATCHES)

    def scan(self, task: Task | str, rows: int, cost: Cost, *sizes: float) -> None:
        """A task on each shard that leaves arrays, of these sizes in bytes over all shards."""
        self._record(task, rows, cost, [self._share(size) for size in sizes])

    def regroup(
        self,
        task: Task,
        rows: int,
        groups: int,
        *arguments: Any,
        size: float,
        gives: int,
        carry: Mapping[str, Kind] | None = None,
        features: Features | None = None,
    ) -> None:
        """A task on all rows of a group together.

        size   rows that a row meets in its group, on average
        gives  bytes a row of what the task returns
        carry  columns that come along: dtype by name
        """
        carry = carry or {}
        item = 20 + sum(np.dtype(dtype).itemsize for dtype in carry.values()) + (row_bytes(features) if features else 0)
        if size > 1:
            self.note(f"{spoken(task.__name__)}: a row meets {size:,.0f} others in its group, on average")
        parts = _parts(rows, part_rows(rows, item, room_of_part(self.settings.memory_gb, self.workers), self.workers), groups)
        before = self._stored
        self.each("group_sizes", rows, self.values(rows))
        blocks = self.blocks(features, rows) if features else Cost()
        self._record("split", rows, blocks + self.values(rows, 3), [self._share(rows * item), 8 * len(parts) + 0 * self._shards])
        solve = Cost({rates_copying(): 2 * rows * item}) + solved(task, arguments, rows, size, tuple(carry), features)
        memory = int(2 * item * min(rows, self.workers * parts.max()))
        self._record(task, rows, solve, [parts * gives], parts, memory)
        self._store(_on_disk([np.array([8.0 * len(parts) * len(self._shards)])]))  # where each shard's rows begin in each part
        inside = self._stored - before
        self._record("collect", rows, self.values(rows, 3), [self._shards * gives])
        self._stored -= inside

    def leaves(self, task: Task, rows: int, cost: Cost, widths: list[int]) -> None:
        """A task that writes a parquet file for each shard, of columns of these widths in bytes."""
        files = [self._shards * (sum(widths) + 2 * len(widths)) + PARQUET_COLUMN * len(widths)]
        self._store(_on_disk(files) + self._small)
        recorded = Cost({Kernel(rates.recording, (), 1e-3): 2.0 * len(self._shards)})
        self._add(task, rows, cost + recorded, written=_on_disk(files))

    @contextmanager
    def once(self, name: str, size: float) -> Iterator[None]:
        """Passes that lead to a small result, of this size in bytes, and leave nothing but that."""
        before, self._inner = self._stored, f"{name}: "
        yield
        inside, self._inner = self._stored - before, ""
        self._small += _on_disk([np.array([size])])
        self._store(_on_disk([np.array([size])]))
        self._stored -= inside

    def measured(self, rows: int, **columns: Kind) -> None:
        """The columns that `Measured` names, by dtype. Every row is asked whether it has all of them."""
        self.columns |= {name + self._suffix: dtype for name, dtype in columns.items()}
        self.having |= {name + self._suffix: rows for name in columns}
        self.present(rows, len(columns))

    def present(self, rows: int, columns: int = 1) -> None:
        self.each("present", rows, self.values(rows, columns))

    def cut(self, rows: int, kept: int | None, groups: int = 1, bits: int = 32) -> int:
        """The exact cut: gives the rows that stay. None: a threshold decides how many."""
        if kept is None:
            self.note("how many a threshold leaves is not known before: all are counted on")
            self.each("beyond", rows, self.values(rows))
            return rows
        search, known = Search(np.ones(groups, np.int64), bits), 0
        while known == 0 or (rows >> max(0, known - _SAME_BITS[bits])) > FEW:
            self.each("counts", rows, self.values(rows, 2))
            known += search.bits
        if kept < rows:
            self.each("candidates", rows, self.values(rows, 2))
        self.each("stays", rows, self.values(rows, 2))
        return min(kept, rows)

    def counts(self, rows: int) -> None:
        """The rows of each group."""
        self.each("group_sizes", rows, self.values(rows))

    def k_means(self, features: Features, points: int, k: int, iterations: int) -> None:
        """Training on points that lie in the stages folder."""
        usual = min(iterations, USUAL_ITERATIONS)
        self.note(f"k-means with {k:,} centroids: {usual} of at most {iterations} iterations")
        train = trained(features, points, k) * (usual / _busy(_parts(points, chunk_rows(points, k), points), self.workers))
        size = points * row_bytes(features)
        order = Cost({rates_copying(): 3 * size, Kernel(rates.hashing, (), 0.8e-9): size})
        self._add(K_MEANS, points * iterations, Cost(), train + order, memory=size, usual=usual / iterations, holds=K_MEANS)

    def held(self, name: str, samples: int, cost: Cost, size: int, do: str, usual: float = 1.0) -> None:
        """What is done with rows that are all in memory, `size` bytes with what is found of them: refused where --memory_gb is less.

        do  what may be done about it
        """
        self.beyond = self.beyond or too_large(size, self.settings, do)
        self._add(name, samples, cost, parts=np.ones(self.workers), memory=size, usual=usual, holds=HELD)

    # -- what things cost

    def blocks(self, features: Features, rows: int) -> Cost:
        """Rows of a member, as unit rows. The first pass reads and checks all of it, later ones leave out pieces without a row."""
        members = [shard.member(features.name) for shard in self.pool.shards if shard.rows]
        if not members:
            return Cost()
        packed = sum(member.entry.packed for member in members)
        whole = int(self._shards.sum()) * row_bytes(features) if members[0].entry.stored else packed
        convert = Cost({Kernel(rates.converting, (features.width, features.dtype), features.width * 0.6e-9): rows})
        if features.name not in self._read:
            self._read.add(features.name)
            self._store(DISK_BLOCK * len(members))  # the marks that say that it was checked
            check = Cost({Kernel(rates.checking, (), 0.2e-9): packed})
            return convert + check + Cost({self._reading(features, again=False): packed}, whole)
        share = self._met(features, rows)
        return convert + Cost({self._reading(features, again=True): packed * share}, int(whole * share))

    def _reading(self, features: Features, again: bool) -> Kernel:
        far = isinstance(self.pool.shards[0].member(features.name).path, Remote)
        return self._fetching(features.name) if far else Kernel(rates.reading, (features.name, again), 0.3e-9)

    def _fetching(self, features: str | None) -> Kernel:
        self.note("bytes of the store come as fast as in a few trial reads")
        return Kernel(rates.fetching, (features,), rates.FAR)

    def _met(self, features: Features, rows: int) -> float:
        """The share of pieces in which at least one of the rows lies."""
        piece = piece_rows(self.pool.shards[0].member(features.name).path, row_bytes(features))
        return float(1 - (1 - rows / max(1, self.pool.rows)) ** min(piece, max(1, self._shards.max())))

    def parsed(self, column: str) -> Cost:
        """A parquet column, from end to end. Its size is that of its type: pyarrow dies of a damaged footer that is asked for it."""
        parse, values = Cost({Kernel(rates.parsing, (column,), 60e-9): self.pool.rows}), self.pool.rows * self._packed(column)
        if self._remote:
            return parse + Cost({self._fetching(None): values}, values)
        return parse + Cost({}, values + sum(min(FOOTER, shard.stamps[shard.parquet][0]) for shard in self.pool.shards))

    def _packed(self, column: str) -> int:
        """Bytes a row of a parquet column, as DataComp writes them."""
        kind = self.pool.shards[0].columns.get(column, "string")
        return UID_TEXT if column == "uid" else TEXT if kind in TEXTS else 2 + _width(kind)

    def values(self, rows: int, columns: int = 1) -> Cost:
        """Values of the rows, looked at once."""
        return Cost({Kernel(rates.counting, (), 15e-9): rows * columns})

    def found(self, rows: int, table: int) -> Cost:
        """Uids looked up in a table."""
        return Cost({Kernel(rates.finding, (table,), 1e-6): rows})

    # -- inside

    def _share(self, size: float) -> F64:
        """Bytes of each shard, by its rows."""
        share: F64 = self._shards * (size / max(1.0, self._shards.sum()))
        return share

    def _record(
        self, task: Task | str, rows: int, cost: Cost, arrays: list[F64], parts: F64 | None = None, memory: int = 0, holds: str = SORTED
    ) -> None:
        """A task that leaves a file of each array for each shard, or for each part."""
        size, units = sum(float(array.sum()) for array in arrays), len(self._shards if parts is None else parts)
        write = {Kernel(rates.writing, (), 3e-9): size, Kernel(rates.recording, (), 1e-3): 2.0 * units * (1 + len(arrays))}
        on_disk = _on_disk(arrays)
        self._store(on_disk)
        self._add(task, rows, cost + Cost(write), None, parts, memory, on_disk, holds=holds)

    def _store(self, size: int) -> None:
        self._stored += size
        self.disk = max(self.disk, self._stored)

    def _add(
        self,
        task: Task | str,
        samples: int,
        cost: Cost,
        then: Cost | None = None,
        parts: F64 | None = None,
        memory: int = 0,
        written: int = 0,
        usual: float = 1.0,
        holds: str = SORTED,
    ) -> None:
        shared = cost * (1 / (self._busy if parts is None else _busy(parts, self.workers)))
        name = self._inner + spoken(task if isinstance(task, str) else task.__name__)
        units = (shared + (then or Cost())).units
        self.passes.append(Pass(self.stages[-1].name, name, samples, cost.bytes_read, written, memory, units, usual, holds))

    # -- sums

    @property
    def memory(self) -> dict[str, int]:
        """Bytes, by what they are for."""
        most = max(self.passes, key=lambda one: one.memory)
        processes = f"{self.processes} process{'es' * (self.processes > 1)}"
        return {
            processes: int(PROCESS * self.processes),
            f"{self.pool.rows:,} samples": SAMPLE * self.pool.rows,
            most.holds: most.memory,
            **self._held,
        }

    def shares(self) -> dict[Kernel, float]:
        """Units of each kernel in the whole run."""
        total: Counter[Kernel] = Counter({STARTING: self.starts})
        for one in self.passes:
            for kernel, amount in one.units.items():
                total[kernel] += amount  # type: ignore[assignment]
        return dict(total)

    def usual_rates(self) -> Rates:
        """Those of an ordinary machine."""
        return {kernel: kernel.usual for kernel in self.shares()}

    @property
    def starts(self) -> int:
        """Times that the libraries are loaded: here, and in all worker processes at once."""
        return min(2, self.processes)

    def seconds(self, rates: Rates, stage: str | None = None) -> float:
        """Of a stage, or of the whole run and its start."""
        begin = self.starts * rates[STARTING] if stage is None else 0.0
        return begin + sum(one.seconds(rates) for one in self.passes if stage in (None, one.stage))

    def __str__(self) -> str:
        """A line a pass, and what the run takes in all."""
        head = f"{'stage':<15}{'pass':<22}{'samples':>16}{'read':>12}{'written':>12}{'time':>8}"
        lines = [f"{'start':<77}{lasting(self.starts * self.rates[STARTING]):>8}"]
        lines += [line for stage in self.stages for line in self._lines(stage)]
        read, written = sum(one.bytes_read for one in self.passes), sum(one.bytes_written for one in self.passes)
        whole = f"{'in all':<37}{self.pool.rows:>16,}{sized(read):>12}{sized(written):>12}{lasting(self.seconds(self.rates)):>8}"
        memory = f"{sized(sum(self.memory.values()))}: " + ", ".join(
            f"{sized(size)} for {name}" for name, size in self.memory.items() if size
        )
        told = [("memory", memory), ("disk", f"{sized(self.disk)} in the work folder at most, {sized(16 * self.listed)} for OUT.npy")]
        told += [("assumed", note) for note in self.notes]
        return "\n".join([head, *lines, whole, "", *(f"{name:<15}{text}" for name, text in told)])

    def _lines(self, stage: Expected) -> Iterator[str]:
        """Its passes, those together that take next to nothing; and their sum."""
        passes = [one for one in self.passes if one.stage == stage.name]
        total = max(self.seconds(self.rates), 1e-9)
        shown = [one for one in passes if one.seconds(self.rates) > SHOWN * total]
        yield _line(stage.name, f"-> {stage.kept:,}" * (stage.kept != stage.rows), stage.rows, passes, self.rates)
        for one in shown:
            yield _line("", one.name, one.samples, [one], self.rates)
        if shown and (rest := [one for one in passes if one not in shown]):
            yield _line("", f"{len(rest)} short pass{'es' * (len(rest) > 1)}", stage.rows, rest, self.rates)


def _line(stage: str, name: str, samples: int, passes: list[Pass], rates: Rates) -> str:
    read, written = sum(one.bytes_read for one in passes), sum(one.bytes_written for one in passes)
    time = lasting(sum(one.seconds(rates) for one in passes))
    return f"{stage:<15}{name:<22}{samples:>16,}{sized(read):>12}{sized(written):>12}{time:>8}"


def sized(size: float) -> str:
    """Bytes, in a unit that suits them."""
    for unit, one in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= one:
            return f"{size / one:.1f} {unit}" if size < 10 * one else f"{size / one:,.0f} {unit}"
    return f"{size:.0f} B"


def lasting(seconds: float) -> str:
    """A time: 0.4 s, 0:12, 3:40, 2:03:40, 3.1 d."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds > 2 * DAY:
        return f"{seconds / DAY:,.1f} d"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


_SAME_BITS = {32: 9, 64: 0}  # of a float32's bits, those that values of one kind have in common


def _width(kind: str) -> int:
    """Bytes of a number, by the name that Arrow gives its type."""
    named = {"halffloat": 2, "float": 4, "double": 8}
    return named.get(kind) or int("".join(filter(str.isdigit, kind)) or 8) // 8


def too_large(size: int, settings: Settings, do: str) -> BadInput | None:
    """The refusal of rows that must be in memory all at once, where --memory_gb does not allow so many bytes."""
    if size <= settings.memory_gb * 1e9:
        return None
    what = f"{sized(settings.memory_gb * 1e9)} do not hold the {sized(size)} of rows that must be in memory at once"
    return BadInput("--memory_gb", what, f"give --memory_gb {-int(-size // 1e9)}, or {do}")


def rates_copying() -> Kernel:
    return Kernel(rates.copying, (), 0.5e-9)


def row_bytes(features: Features) -> int:
    return features.width * int(np.dtype(features.dtype).itemsize)


def nearest(features: Features, rows: int, k: int) -> Cost:
    """The nearest of k centroids for each row."""
    if coarse := coarse_count(k):
        near = Kernel(rates.finding_near, (features.width,), 2 * features.width * NEAR / FLOPS)
        return _compared(features, rows, coarse) + Cost({near: rows})
    return _compared(features, rows, k)


def _compared(features: Features, rows: int, k: int) -> Cost:
    """Each row with all of k centroids: the coarse ones of a search in two levels, however many, are never searched in two."""
    tried = min(k, LARGE)
    return Cost({Kernel(rates.assigning, (features.width, tried), 2 * features.width * tried / FLOPS): rows * k / tried})


def trained(features: Features, points: int, k: int) -> Cost:
    """One iteration of k-means; of very many centroids, the coarse ones are found as well."""
    count = coarse_count(k)
    coarse = nearest(features, k * COARSE_ITERATIONS, count) if count else Cost()
    convert = Cost({Kernel(rates.converting, (features.width, features.dtype), features.width * 0.6e-9): points})
    return nearest(features, points, k) + convert + coarse


def solved(task: Task, arguments: tuple[Any, ...], rows: int, size: float, carried: tuple[str, ...], features: Features | None) -> Cost:
    """A regroup's task on groups of this size."""
    tried = max(1, min(round(size), LARGE))
    width, dtype = (features.width, features.dtype) if features else (0, "<f4")
    usual = 2 * width * tried / FLOPS + 1e-6
    return Cost({Kernel(rates.solving, (task, arguments, carried, width, dtype, tried), usual): rows * max(1.0, size / tried)})


def _parts(rows: int, limit: int, most: int) -> F64:
    """Sizes of parts of at most `limit` rows each."""
    count = max(1, min(-(-rows // limit), most))
    return np.diff(np.minimum(np.arange(count + 1, dtype=np.float64) * max(limit, rows / count), rows))


def _busy(jobs: Iterable[float], workers: int) -> float:
    """How many workers are at work on average until the last of these jobs, taken in order, is done."""
    free, total = [0.0] * workers, 0.0
    for job in jobs:
        heapq.heapreplace(free, free[0] + job)
        total += job
    return total / max(free) if total else 1.0


def _on_disk(arrays: list[F64]) -> int:
    """Bytes of units of one file an array, each with its record, in a folder."""
    blocks = sum(float(np.ceil((array + NPY_HEADER) / DISK_BLOCK).sum()) for array in arrays)
    return int(DISK_BLOCK * (blocks + len(arrays[0]) + 1))
