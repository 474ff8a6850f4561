"""Whether a list of uids is in order; and the order for one that is not, in memory of a given size.

A list is cut into runs that fit in memory; each is sorted and written to a file without a name, which goes when it is closed; the
runs are merged whenever the list is read.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO

import numpy as np

from filters.maths import uids
from filters.maths.arrays import U64
from filters.maths.uidsets import Listed, counted, joined, merged
from filters.pool.errors import BadInput, from_os
from filters.pool.files import write_at
from filters.pool.uidfiles import BLOCK, Pulse, UidList

SORTED = 64  # bytes that a uid takes while it is sorted
MERGED = 200  # and while it is merged
SMALL = 1 << 10  # uids that are worth a read
SIZE = uids.SUBSET.itemsize


@dataclass
class Order:
    """What the order of a list is, told from its blocks as they pass."""

    records: int = 0
    falls: int = 0  # records smaller than the one before
    first_fall: int = 0  # the first of them
    repeats: int = 0  # records equal to the one before

    def watch(self, blocks: Iterable[U64]) -> Iterator[U64]:
        last = np.empty((0, 2), np.uint64)
        for block in blocks:
            self._add(np.concatenate([last, block[:1]]), self.records)
            self._add(block, self.records + 1)
            self.records += len(block)
            last = block[-1:].copy() if len(block) else last
            yield block

    def _add(self, block: U64, second: int) -> None:
        """Count of a block whose second record has this number in the list."""
        ascending = uids.ascending(block)
        if ascending.all():
            return
        falls = np.flatnonzero(uids.descending(block))
        if len(falls) and not self.falls:
            self.first_fall = second + int(falls[0])
        self.falls += len(falls)
        self.repeats += int((~ascending).sum()) - len(falls)


@dataclass(frozen=True)
class InOrder:
    """A list in order, which can be read again."""

    size: int  # bytes of one reading
    read: Callable[[Pulse], Iterator[Listed]]


def as_it_is(one: UidList, do: str) -> InOrder:
    """A list that should be in order. Reading raises BadInput at the first record that is smaller than the one before."""

    def checked(pulse: Pulse) -> Iterator[U64]:
        order = Order()
        for block in order.watch(one.blocks(pulse)):
            if order.falls:
                raise BadInput(one.path, f"is not sorted: record {order.first_fall:,} is smaller than the one before", do)
            yield block

    return InOrder(one.size, lambda pulse: counted(checked(pulse)))


@contextmanager
def sorted_list(blocks: Iterable[U64], folder: Path, limit: float) -> Iterator[InOrder]:
    """Sort.

    folder  of the file without a name
    limit   bytes of memory that sorting and, afterwards, reading may take
    """
    with _nameless(folder) as file:
        ends = [0, *_ends(file.fileno(), folder, blocks, max(BLOCK, int(limit / SORTED)))]
        step = min(BLOCK, max(SMALL, int(limit / MERGED / len(ends))))
        yield InOrder(SIZE * ends[-1], lambda pulse: _merged(file.fileno(), ends, step, pulse))


def _nameless(folder: Path) -> IO[bytes]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=folder, buffering=0)
    except OSError as error:
        raise from_os(folder, error) from None


def _ends(descriptor: int, folder: Path, blocks: Iterable[U64], rows: int) -> Iterator[int]:
    """Write sorted runs of so many rows, one after the other; gives where each ends."""
    end = 0
    for run in _runs(blocks, rows):
        order = uids.order_of_many(run)
        for start in range(0, len(run), BLOCK):
            part = run.take(order[start : start + BLOCK], axis=0)
            try:
                write_at(descriptor, part.view(np.uint8).data.cast("B"), SIZE * (end + start))
            except OSError as error:
                raise from_os(folder, error) from None
        end += len(run)
        yield end


def _runs(blocks: Iterable[U64], rows: int) -> Iterator[U64]:
    run, filled = np.empty((rows, 2), np.uint64), 0
    for block in blocks:
        while len(block):
            part, block = block[: rows - filled], block[rows - filled :]
            run[filled : filled + len(part)] = part
            filled += len(part)
            if filled == rows:
                yield run
                filled = 0
    if filled:
        yield run[:filled]


def _merged(descriptor: int, ends: list[int], step: int, pulse: Pulse) -> Iterator[Listed]:
    runs = [counted(_read(descriptor, start, end, step, pulse)) for start, end in pairwise(ends)]
    return map(joined, merged(runs))


def _read(descriptor: int, start: int, end: int, step: int, pulse: Pulse) -> Iterator[U64]:
    """The rows from start to end, `step` at a time."""
    buffer = np.empty((min(step, end - start), 2), np.uint64)
    for at in range(start, end, step):
        block = buffer[: min(step, end - at)]
        data, offset = block.data.cast("B"), SIZE * at
        while data:
            size = os.preadv(descriptor, [data], offset)
            assert size, "the file has what was written"
            data, offset = data[size:], offset + size
        yield block
        pulse(block.nbytes)
