"""What a task sees of one shard: the rows in play, their uids, their values, and blocks of their embeddings.

A task is a module-level function task(view, *arguments) that returns arrays by name. It never sees files, threads or progress.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from filters.maths.arrays import I64, U8, U64, Array, Bool
from filters.maths.blocks import BLOCK
from filters.pool import columns, embeddings, store
from filters.pool.columns import Column, Rows, Stored, unpacked
from filters.pool.embeddings import Block, Raw
from filters.pool.pool import Shard
from filters.work.engine import Stop
from filters.work.workdir import Unit, key_of

Task = Callable[..., Any]


@dataclass(frozen=True)
class Bits:
    """One shard's part of a `Rows` that is an argument."""

    bits: U8
    length: int

    def mask(self) -> Bool:
        return unpacked(self.bits, self.length)


@dataclass
class View:
    """One shard, and which of its rows are in play."""

    shard: Shard
    live: Bits
    uid_column: Stored | None
    checked: Path  # where it is marked that a member's CRC-32 was compared
    device: str
    memory: int  # bytes that it may hold beside its blocks
    stop: Stop
    unit: Unit | None = None  # where the results will lie
    bytes_read: int = 0
    streams: int = 0  # begun, not ended

    @cached_property
    def at(self) -> I64:
        """(m,) row numbers of the rows in play, ascending."""
        return np.flatnonzero(self.live.mask())

    def pulse(self, size: int = 0) -> None:
        self.stop.check()
        self.bytes_read += size

    def values(self, column: Column) -> Array:
        """(m, ...) of the rows in play."""
        return np.asarray(column.read(self.shard.key)[self.at])

    def uids(self) -> U64:
        """(m, 2) uint64 of the rows in play."""
        assert self.uid_column is not None, "the pass that parses uids cannot ask for them"
        return self.values(self.uid_column)

    def stored(self, features: str, size: int = BLOCK) -> Iterator[Raw]:
        """The rows in play as they lie, in the member's own type, whether valid or not, `size` at a time."""
        member = self.shard.member(features)
        self.shard.check_unchanged(member.path)
        mark = Unit(self.checked, f"{self.shard.key}.{key_of(features, repr(member.entry))[:16]}")
        verify = not mark.whole()
        self.streams += 1
        yield from embeddings.raw_blocks(member, self.live.mask(), verify, self.pulse, size)
        if verify:
            mark.save({})
        self.streams -= 1

    def raw(self, features: str) -> Iterator[Raw]:
        """The rows in play that are finite and not zero, in the member's own type, BLOCK at a time."""
        return embeddings.valid_raw_blocks(self.stored(features))

    def blocks(self, features: str) -> Iterator[Block]:
        """The same as unit rows in float32, on the device."""
        return embeddings.blocks(self.stored(features), self.device)

    def place(self, at: I64) -> I64:
        """Where rows of a block stand among the rows in play."""
        if not len(at):
            return at
        begin = int(np.searchsorted(self.at, at[0]))
        if self.at[begin + len(at) - 1] == at[-1]:
            return np.arange(begin, begin + len(at))  # nothing is left out between them
        return np.searchsorted(self.at, at)

    def numbers(self, column: str) -> Array:
        """(m,) of a parquet column, in its own float type or float64, for the rows in play; NaN where it has none."""
        return columns.read_numbers(self.shard, column, self.pulse)[self.at]

    def captions(self, column: str = "text") -> Iterator[tuple[I64, list[str | None]]]:
        """A text column of the rows in play, a batch at a time: their row numbers, and the texts."""
        yield from columns.text_batches(self.shard, column, self.at, self.pulse)

    def texts(self, column: str, at: I64) -> list[str | None]:
        """A text column's values at some rows of the shard."""
        return columns.read_texts(self.shard, column, at, self.pulse)


@dataclass(frozen=True)
class Job:
    """A task on a shard. `unit`: record what it returns there; a column's values belong to the rows in play, in their order."""

    task: Task
    arguments: tuple[Any, ...]
    view: View
    column: bool = False

    def __str__(self) -> str:
        return str(self.view.shard.parquet)


@dataclass(frozen=True)
class Done:
    result: Any
    rows: int
    bytes_read: int
    retries: tuple[str, ...] = ()  # why a store was asked again, each time


def run(job: Job) -> Done:
    """Carry out a job in whatever thread or process this is."""
    view, retries = job.view, list[str]()
    store.told_of_retries.set(retries.append)
    result = job.task(view, *job.arguments)
    assert not view.streams, "a task reads its blocks to the end: only then has the checksum been compared"
    if job.column:
        result = {name: _placed(view, name, values) for name, values in result.items()}
    if view.unit is not None:
        view.unit.save(result)
        result = list(result)
    return Done(result, len(view.at), view.bytes_read, tuple(retries))


def _placed(view: View, name: str, values: Array) -> Array:
    """Values of the rows in play at their places among all rows of the shard."""
    if np.shape(values)[:1] != view.at.shape:  # one alone would be everyone's
        raise ValueError(f"'{name}' must have a value for each of the {len(view.at):,} rows in play, got shape {np.shape(values)}")
    whole = columns.nothing(view.shard.rows, values)
    whole[view.at] = values
    return whole


def of_shard(argument: Any, shard: int) -> Any:
    """An argument as one shard's task gets it: of a set of rows, that shard's part."""
    return Bits(argument.bits[shard], argument.lengths[shard]) if isinstance(argument, Rows) else argument
