"""`Work`: the passes over a pool. Progress, resume, memory and order of results are settled here, once.

Four verbs. `scan`: a task on each shard, results that add up. `column`: a task on each shard, values a row. `regroup`: a task on
all rows of a group together, values a row. `once`: a small result that took long. Each call has a key, made of the function,
its arguments, the rows, the pool's fingerprint and our sources; what is recorded under the key is not computed again.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from filters.maths.arrays import Array, Bool
from filters.pool.columns import TEXTS, Column, Hashed, Rows, Stored, missing, read_uids
from filters.pool.errors import BadInput
from filters.pool.files import room
from filters.pool.pool import Features, Pool, Shard
from filters.work import regroup
from filters.work.cutting import Cut, carry_out
from filters.work.engine import Engine
from filters.work.view import Bits, Done, Job, Task, View, of_shard, run
from filters.work.workdir import Saved, Spent, Unit, WorkDir, foreign_key, key_of, source_key

if TYPE_CHECKING:
    from filters.work.status import Status

INVALID_SHARE = 0.01
RETOLD = 30.0  # seconds between two lines about requests that were tried again


class Progress(Protocol):
    """Whoever shows how far a run is."""

    def stage(self, name: str) -> None: ...  # the passes that follow belong to it
    def begin(self, name: str, samples: int) -> None: ...
    def advance(self, samples: int, size: int = 0) -> None: ...  # samples done, bytes of the pool read for them
    def end(self) -> None: ...
    def say(self, line: str) -> None: ...
    def show(self, status: Status) -> None: ...  # how far the whole run is; now and then, from any thread


class Silent:
    """Shows nothing."""

    def stage(self, name: str) -> None: ...
    def begin(self, name: str, samples: int) -> None: ...
    def advance(self, samples: int, size: int = 0) -> None: ...
    def end(self) -> None: ...
    def say(self, line: str) -> None: ...
    def show(self, status: Status) -> None: ...


@dataclass(frozen=True)
class Settings:
    """What a run needs to know beside its pool and its recipe."""

    seed: int = 1234
    device: str = "cpu"
    memory_gb: float = 4.0
    allow_invalid: bool = False


@dataclass
class Stage:
    """What became of the rows of one stage; the funnel is a list of these."""

    name: str
    rows_in: int
    invalid: int = 0
    kept: int | None = None  # not known yet
    seconds: float = 0.0
    bytes_read: int = 0

    def line(self) -> str:
        return f"{self.name}  {self.rows_in:,} -> {self.kept:,}  {self.bytes_read / 1e9:.1f} GB  {self.seconds:.0f} s"


@dataclass
class Work:
    """The passes over one pool, into one work folder, by one engine."""

    pool: Pool
    dir: WorkDir
    engine: Engine
    settings: Settings = field(default_factory=Settings)
    progress: Progress = field(default_factory=Silent)
    samples: int = 0  # in the population: what fractions of the pool are taken of
    funnel: list[Stage] = field(default_factory=list)
    bytes_read: int = 0
    made: set[str] = field(default_factory=set)  # results that it has left, by name of their folder
    reused: set[str] = field(default_factory=set)  # and found there

    def __post_init__(self) -> None:
        self._stages = self.dir.stages
        self._label, self._inner = "", ""
        self._retries, self._retold = 0, -RETOLD
        self._invalid = self.none()
        self._uids: Stored | None = None
        self.population = self.everything()  # the samples that are neither outside nor repeated
        self.pool.check_column("uid", TEXTS)
        self.progress.stage("pool")
        self._uids = self.column(parse_uids, self.everything())["uid"]

    # -- rows

    def everything(self) -> Rows:
        return Rows.all(shard.rows for shard in self.pool.shards)

    def none(self) -> Rows:
        return Rows.of(np.zeros(shard.rows, bool) for shard in self.pool.shards)

    @property
    def uids(self) -> Stored:
        assert self._uids is not None, "uids are parsed first"
        return self._uids

    def hashed(self, purpose: int, buckets: int = 0) -> Hashed:
        """A random-looking number a sample: another one for each seed and purpose."""
        return Hashed(self.uids, self.settings.seed, purpose, buckets)

    # -- the verbs

    def scan(self, task: Task, rows: Rows, *arguments: Any) -> Iterator[dict[str, Array]]:
        """task(view, *arguments) of each shard, in the pool's order; sum or join what it yields, a shard at a time."""
        folder = self.folder(task, "scan", rows, arguments)
        self.record(folder, task, rows, arguments, column=False)
        units = (Unit(folder, shard.key) for shard in self.pool.shards)
        # Copies: a map keeps its file open, and there may be thousands of shards.
        return ({name: np.array(unit.load(name)) for name in unit.names()} for unit in units)

    def column(self, task: Task, rows: Rows, *arguments: Any) -> dict[str, Stored]:
        """task(view, *arguments) gives arrays that belong to the rows in play, in their order: a column each."""
        folder = self.folder(task, "column", rows, arguments)
        self.record(folder, task, rows, arguments, column=True)
        return self._columns(folder)

    def regroup(
        self,
        task: Task,
        rows: Rows,
        by: Column,
        groups: int,
        *arguments: Any,
        carry: dict[str, Column] | None = None,
        features: Features | None = None,
    ) -> dict[str, Stored]:
        """task(part, *arguments), a part being all rows of some groups: a column of each array, in the part's order.

        by        group of a row, 0 to groups - 1; rows without one are left out
        carry     columns that come along; features: embeddings that do
        """
        carry = carry or {}
        folder = self.folder(task, "regroup", rows, (by, groups, *carry, *carry.values(), features, *arguments))
        if self._todo(folder):
            with self._counted(folder):
                regroup.carry_out(self, folder, regroup.Wish(task, arguments, rows, by, groups, carry, features))
        else:
            self._reuse(folder)
        regroup.clear_up(folder)
        return self._columns(folder)

    def once(self, function: Callable[..., dict[str, Array]], *arguments: Any) -> dict[str, Saved]:
        """function(work, *arguments): small arrays that took long. Passes inside it leave nothing behind but these."""
        key = self._key(function, "once", (self.settings.seed, *arguments))  # the seed: it may draw, as it is given `work`
        folder = self._stages / f"{function.__name__}-{key[:16]}"
        unit = Unit(folder, "once")
        with self.inside(folder / "inside", f"{function.__name__}: "):
            if self._whole([unit])[0]:
                self._reuse(folder)
            else:
                with self._counted(folder):
                    unit.save(function(self, *arguments))
        return {name: Saved(unit.path(name), f"{key} {name}") for name in unit.names()}

    def cut(self, rows: Rows, cut: Cut) -> Rows:
        """The rows that stay. Decisions are never recorded: what they look at is."""
        return carry_out(self, rows, cut)

    # -- passes whose results are not recorded

    def each(self, task: Task, rows: Rows, *arguments: Any) -> Iterator[Any]:
        """task(view, *arguments) of each shard, in the pool's order."""
        return (done.result for done in self._run(task, rows, arguments, {}, False))

    def select(self, task: Task, rows: Rows, *arguments: Any) -> Rows:
        """The rows of which task(view, *arguments), (m,) bool, is true."""
        return Rows.of(done.result for done in self._run(_selected, rows, (task, *arguments), {}, False, task.__name__))

    def present(self, rows: Rows, *columns: Column) -> Rows:
        """The rows that have a value in every column."""
        return self.select(_present, rows, *columns)

    def counts(self, rows: Rows, group: Column, groups: int) -> Array:
        """(groups,) int64 rows of each group."""
        parts = self.each(regroup.group_sizes, rows, group, groups)
        return sum((part["sizes"] for part in parts), start=np.zeros(groups, np.int64))

    def room(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """An array to be filled: in memory where --memory_gb allows, else in a file that goes with it."""
        return room(self.dir.stages, shape, dtype, self.settings.memory_gb * 1e9)

    # -- stages

    @contextmanager
    def stage(self, name: str, rows: Rows) -> Iterator[Stage]:
        """Counts what a stage takes; its passes are shown under its name."""
        stage, began, before, label = Stage(name, rows.count()), time.monotonic(), self.bytes_read, self._label
        self.funnel.append(stage)
        self._label = name
        self.progress.stage(name)
        try:
            yield stage
        finally:
            self._label = label
            stage.seconds, stage.bytes_read = time.monotonic() - began, self.bytes_read - before
            if stage.kept is not None:
                self.progress.say(stage.line())

    def refuse_invalid(self, invalid: Rows) -> None:
        """Raise BadInput when too many samples of the pool have turned out invalid."""
        self._invalid = self._invalid | invalid
        counts = self._invalid.counts()
        if self.settings.allow_invalid or counts.sum() <= INVALID_SHARE * self.samples:
            return
        worst = self.pool.shards[int(counts.argmax())]
        what = f"{counts.sum():,} of {self.samples:,} samples are invalid (no finite value), {counts.max():,} of them in this shard"
        raise BadInput(worst.parquet, what, "download it again, or give --allow_invalid")

    def refuse_size(self, asked: int, left: int) -> None:
        """Raise BadInput unless so many samples can be kept of those that are left."""
        if not 0 < asked <= left:
            what = f"{asked:,} samples asked for, {left:,} left ({self.left()})"
            raise BadInput("final size", what, "give a --fraction or --size that fits, or keep more in the stages before")

    def left(self) -> str:
        """What each stage left so far, in words."""
        return ", ".join([f"pool {self.samples:,}", *(f"{stage.name} {stage.kept:,}" for stage in self.funnel if stage.kept is not None)])

    # -- inside

    def _key(self, function: Callable[..., Any], verb: str, arguments: tuple[Any, ...]) -> str:
        name = f"{function.__module__}.{function.__qualname__}"
        place = (self.settings.device, self.pool.fingerprint, source_key())
        return key_of(verb, name, foreign_key(function), *place, *arguments)

    @property
    def label(self) -> str:
        """Name of the stage at work."""
        return self._label

    def folder(self, task: Task, verb: str, rows: Rows, arguments: tuple[Any, ...]) -> Path:
        """Where the results of this very pass lie."""
        return self._stages / f"{task.__name__}-{self._key(task, verb, (rows, *arguments))[:16]}"

    @contextmanager
    def inside(self, folder: Path, called: str = "") -> Iterator[None]:
        """What passes of the block record lies here, and goes when the block ends well; so does what a run that was stopped left.

        They are shown as `called`.
        """
        outer, inner = self._stages, self._inner
        self._stages, self._inner = folder, inner + called
        try:
            yield
        finally:
            self._stages, self._inner = outer, inner
        shutil.rmtree(folder, ignore_errors=True)

    def _view(self, shard: Shard, rows: Rows, unit: Unit | None) -> View:
        live = Bits(rows.bits[shard.index], rows.lengths[shard.index])
        share = int(self.settings.memory_gb * 1e9 / self.engine.workers)
        return View(shard, live, self._uids, self.dir.stages / "checked", self.settings.device, share, self.engine.stop, unit)

    def _run(
        self, task: Task, rows: Rows, arguments: tuple[Any, ...], units: dict[int, Unit], column: bool, name: str = ""
    ) -> Iterator[Done]:
        """The task on each shard, or on those that have a unit to fill."""
        shards = [shard for shard in self.pool.shards if not units or shard.index in units]
        jobs = (
            Job(
                task,
                tuple(of_shard(argument, shard.index) for argument in arguments),
                self._view(shard, rows, units.get(shard.index)),
                column,
            )
            for shard in shards
        )
        total = int(rows.counts()[[shard.index for shard in shards]].sum())
        yield from self.watched(name or task.__name__, self.engine.map(run, jobs), total)

    @contextmanager
    def shown(self, name: str, total: int) -> Iterator[Callable[..., None]]:
        """Show how far something is: gives what to call with the samples done, and the bytes read for them."""
        self.progress.begin(self._inner + spoken(name), total)
        try:
            yield self.progress.advance
        finally:
            self.progress.end()

    def watched(self, name: str, done: Iterable[Done], total: int) -> Iterator[Done]:
        """Show and count what comes back from the workers."""
        with self.shown(name, total) as advance:
            for one in done:
                self.bytes_read += one.bytes_read
                advance(one.rows, one.bytes_read)
                self._heed(one.retries)
                yield one

    def _heed(self, retries: tuple[str, ...]) -> None:
        """Say now and then that a store had to be asked again."""
        self._retries += len(retries)
        if retries and time.monotonic() > self._retold + RETOLD:
            self.progress.say(f"{self._retries:,} requests tried again so far, the last: {retries[-1]}")
            self._retold = time.monotonic()

    def _todo(self, folder: Path) -> dict[int, Unit]:
        """The units of a pass that are not there, or not whole, by shard."""
        units = [Unit(folder, shard.key) for shard in self.pool.shards]
        return {at: unit for at, (unit, whole) in enumerate(zip(units, self._whole(units), strict=True)) if not whole}

    def _whole(self, units: list[Unit]) -> list[bool]:
        """Of each unit whether it is whole; says which were harmed since they were done."""
        asked = {unit.record: (unit, unit.stamps()) for unit in units if not self.dir.known_whole(unit)}
        answers = dict(zip(asked, self.engine.map(is_whole, [unit for unit, _ in asked.values()]), strict=True))
        for unit, stamps in asked.values():
            if answers[unit.record]:
                self.dir.note_whole(unit, stamps)
        found = [answers.get(unit.record, True) for unit in units]
        harmed = [unit for unit, whole in zip(units, found, strict=True) if not whole and unit.recorded()]
        for unit in harmed:
            unit.forget()
        if harmed:
            self.progress.say(f"{len(harmed)} of {len(units)} results not as recorded, first {harmed[0]}: done again")
        return found

    @contextmanager
    def _counted(self, folder: Path) -> Iterator[None]:
        """Note what the block's passes, whose result lies there, take."""
        began, before = time.monotonic(), self.bytes_read
        yield
        self.made.add(folder.name)
        self.dir.spent[folder.name] = Spent(time.monotonic() - began, self.bytes_read - before)

    def _reuse(self, folder: Path) -> None:
        """Note that a result is there already."""
        if folder.parent == self.dir.stages and folder.name not in self.made:
            self.reused.add(folder.name)

    def spared(self) -> Spent | None:
        """What the passes took of which this work has found the results; None where that is not known of all."""
        known = [self.dir.spent.get(name) for name in self.reused]
        told = [spent for spent in known if spent is not None]
        return Spent(sum(one.seconds for one in told), sum(one.bytes_read for one in told)) if len(told) == len(known) else None

    def record(self, folder: Path, task: Task, rows: Rows, arguments: tuple[Any, ...], column: bool) -> None:
        """Fill the units of a pass that are missing."""
        if units := self._todo(folder):
            with self._counted(folder):
                for _ in self._run(task, rows, arguments, units, column):
                    pass
        else:
            self._reuse(folder)

    def _columns(self, folder: Path) -> dict[str, Stored]:
        names = Unit(folder, self.pool.shards[0].key).names()
        return {name: Stored(name, folder, f"{folder.name} {name}") for name in names}


def spoken(task: str) -> str:
    """The name of a task's pass."""
    return task.strip("_").replace("_", " ")


def is_whole(unit: Unit) -> bool:
    return unit.whole()


def parse_uids(view: View) -> dict[str, Array]:
    """(n, 2) uint64."""
    return {"uid": read_uids(view.shard, view.pulse)}


def _selected(view: View, task: Task, *arguments: Any) -> Bool:
    chosen = np.zeros(view.shard.rows, bool)
    chosen[view.at] = task(view, *arguments)
    return chosen


def _present(view: View, *columns: Column) -> Bool:
    there = np.ones(len(view.at), bool)
    for column in columns:
        there &= ~missing(view.values(column))
    return there
