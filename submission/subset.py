"""Everything about a uid subset file that decides whether DataComp's tools find its samples: its form, its order, its pool.

It is read once, a block at a time; with a pool once more, beside the pool's own uids, sorted in a given memory.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from filters.command import Meter, Quiet
from filters.maths import uids
from filters.maths.arrays import U64
from filters.pool.errors import BadInput
from filters.pool.membership import Membership, compared, pool_uids, swapped
from filters.pool.pool import Pool
from filters.pool.uidfiles import UidList, opened
from filters.pool.uidsort import InOrder, Order, as_it_is, sorted_list
from submission.datacomp import SCALES
from submission.form import SORT, fault, looked_at

USED = 0.8  # of the memory, by sorting; the rest is the program's own
SURE = 10  # records that are in order by chance once in some millions
LOST = "the resharder finds none of its samples and only warns, no image is written, and its exit code is 0"
AMISS = "the resharder takes it without a word, reports as many images as it lists, and writes a few of them again and again"
SWAP = "swap them, then sort: x = np.load(FILE); y = x.copy(); y['f0'], y['f1'] = x['f1'], x['f0']; y.sort(); np.save(NEW, y)"
NOT_FOUND = "the resharder only warns of images that it did not find, with exit code 0, and --dataset-size would be too large"


@dataclass(frozen=True)
class Against:
    """What the uids are held against."""

    pool: Pool | None = None
    scale: str | None = None
    memory_gb: float = 1.0


@dataclass
class Report:
    """What was found in a file."""

    path: Path
    records: int = 0  # N of --dataset-size
    repeats: int | None = None  # records that list a uid again; None: not known
    sha256: str = ""
    pool: int | None = None  # samples of the pool in which all uids are
    faults: list[BadInput] = field(default_factory=list)

    def rows(self, against: Against) -> list[tuple[str, str]]:
        """Of a file without fault, what is told of it."""
        assert self.repeats is not None, "a file without fault is in order"
        told = [("file", str(self.path)), ("form", "npy of u8,u8, one dimension, ascending by high and low word")]
        told += [("uids", f"{self.records:>15,}  N of evaluate.py --dataset-size"), ("different", f"{self.records - self.repeats:>15,}")]
        again = "  of these list a uid again: legal, its sample is written as often" if self.repeats else ""
        told += [("repeated", f"{self.repeats:>15,}{again}")]
        found = f"all, among {self.pool:,} samples" if self.pool is not None else "not looked up: name its --metadata_dir"
        told += [("in the pool", found), ("sha256", self.sha256)]
        if against.scale and self.records > SCALES[against.scale]:
            told.insert(-1, ("scale", f"more uids than {against.scale} has samples, {SCALES[against.scale]:,}, as some are repeated"))
        return told


def examined(path: Path, against: Against, console: Quiet) -> Report:
    """Read it all, and find every fault that can be told. Raises BadInput when it, or the pool, cannot be read at all."""
    header, faults = looked_at(path)
    report = Report(path, faults=faults)
    if header:
        try:
            _read(report, header, opened(path), against, console)
        except BadInput as error:  # of its records, or of the pool's
            report.faults.append(error)
        console.end()
    return report


def _read(report: Report, header: int, listed: UidList, against: Against, console: Quiet) -> None:
    with listed.path.open("rb") as file:
        digest = hashlib.sha256(file.read(header))
    order = Order()
    for block in order.watch(listed.blocks(Meter(console, "read", listed.size))):
        digest.update(block.data.cast("B"))
    report.records, report.sha256 = order.records, digest.hexdigest()
    turned = order.falls > 0 and order.records >= SURE and _is_turned(listed, console)
    if turned:
        report.faults.append(fault(report.path, "is sorted by its second word: the halves of its uids are swapped", LOST, SWAP))
    elif order.falls:
        what = f"is not sorted: record {order.first_fall:,} is smaller than the one before, {order.falls:,} such"
        report.faults.append(fault(report.path, what, AMISS, SORT))
    else:
        report.repeats = order.repeats
        report.faults += _beyond(report, against.scale)
    if against.pool and not turned:
        _look_up(report, listed, against.pool, against.memory_gb, console)


def _is_turned(listed: UidList, console: Quiet) -> bool:
    """Whether a list that is not in order is in the order of (low, high) word."""
    order = Order()
    blocks = listed.blocks(Meter(console, "read", listed.size))
    return not any(order.falls for _ in order.watch(block[:, ::-1] for block in blocks))


def _beyond(report: Report, scale: str | None) -> list[BadInput]:
    """Of a list in order: that no pool of this scale can hold it."""
    different = report.records - (report.repeats or 0)
    if scale is None or different <= SCALES[scale]:
        return []
    what = f"lists {different:,} different uids, and {scale} has {SCALES[scale]:,} samples"
    return [fault(report.path, what, NOT_FOUND, "name the --scale of the pool that it was made from")]


def _look_up(report: Report, listed: UidList, pool: Pool, memory_gb: float, console: Quiet) -> None:
    limit = USED * 1e9 * memory_gb / 2

    def in_order(name: str, size: int, blocks: Callable[[Meter], Iterator[U64]]) -> InOrder:
        return stack.enter_context(sorted_list(blocks(Meter(console, f"sort {name}", size)), Path(tempfile.gettempdir()), limit))

    with ExitStack() as stack:
        mine = as_it_is(listed, "run again") if report.repeats is not None else in_order(str(report.path), listed.size, listed.blocks)
        theirs = in_order(str(pool.location), uids.SUBSET.itemsize * pool.rows, partial(pool_uids, pool))
        meter = Meter(console, "look up", mine.size + theirs.size)
        of = compared(mine, theirs, meter)
        if not of.strange:
            report.pool = pool.rows
        elif not of.found and compared(swapped(mine, meter), theirs, meter).found:
            report.faults.append(fault(report.path, f"none of its uids is in {pool.location}, but with their halves swapped", LOST, SWAP))
        else:
            report.faults.append(_strange(report, of, pool))


def _strange(report: Report, of: Membership, pool: Pool) -> BadInput:
    where = f"record {of.first_strange:,}" if report.repeats is not None else "once sorted"
    what = f"{of.strange:,} of {of.records:,} records are not in {pool.location}, first {where}, uid {of.strange_uid}"
    return fault(report.path, what, NOT_FOUND, "name the pool that it was made from, or make it from this one")
