"""Rows with one key together, and their values back in pool order.

Three passes. Split: each shard writes one file of its rows, sorted by partition. Solve: each partition reads its slice of each
of these files and writes one file of results. Collect: each shard picks its rows' results. Nothing shared is written, so any of
it can be redone alone. A partition is a run of groups that fits the memory it may use.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from filters.maths.arrays import I32, I64, U64, Array
from filters.pool.columns import Column, Rows, missing, nothing
from filters.pool.errors import BadInput
from filters.pool.files import read_npy, room, write_at, write_npy, writing
from filters.pool.pool import Features
from filters.work.engine import Stop
from filters.work.view import Done, Task, View
from filters.work.workdir import Saved, Unit, key_of

if TYPE_CHECKING:
    from filters.work.work import Work

PARTS = 4  # a worker, at least
FEW = 8192  # rows that are not worth another part
VALUE = "value "  # before the names of columns that come along, among the fields of a record


@dataclass(frozen=True)
class Wish:
    """What a filter asked for: the arguments of `Work.regroup`."""

    task: Task
    arguments: tuple[Any, ...]
    rows: Rows
    by: Column
    groups: int
    carry: dict[str, Column]
    features: Features | None


@dataclass(frozen=True)
class Part:
    """All rows of some whole groups, in pool order."""

    group: I32  # (m,)
    uids: U64  # (m, 2)
    values: dict[str, Array]  # (m,) each, of the columns carried along
    rows: Array  # (m, d) embeddings in the member's own type, as they lie; (m, 0) when none were asked for
    device: str
    room: Room

    def in_order(self, order: I64) -> tuple[Array, I64]:
        """Rows, and the row numbers under which `order` finds its rows there: as they are while they are in memory.

        Rows that lie in a file are copied in that order, or each would be looked for all over the file, many times.
        """
        if not isinstance(self.rows, np.memmap):
            return self.rows, order
        arranged = self.room.make(self.rows.shape, self.rows.dtype)
        step = max(1, int(self.room.limit) // max(1, self.rows.itemsize * self.rows.shape[1]))
        for start in range(0, len(order), step):
            chosen = order[start : start + step]
            by_place = np.argsort(chosen)
            arranged[start : start + step][by_place] = self.rows[chosen[by_place]]  # one way through the file
        return arranged, np.arange(len(order))


@dataclass(frozen=True)
class Room:
    """Where rows are brought together: in memory up to `limit` bytes, beyond it in files of this folder."""

    folder: Path
    limit: float

    def make(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        return room(self.folder, shape, dtype, self.limit)


@dataclass(frozen=True)
class PartJob:
    task: Task
    arguments: tuple[Any, ...]
    unit: Unit
    slices: list[tuple[Path, int, int]]  # file of a shard; first and last record, the last excluded
    dtype: np.dtype[Any]
    device: str
    room: Room
    stop: Stop

    def __str__(self) -> str:
        return f"partition {self.unit.name} of {self.unit.folder}"


def carry_out(work: Work, folder: Path, wish: Wish) -> None:
    """Leave a column of each array that the task returns in `folder`."""
    dtype = record_type(wish.carry, work.pool.shards[0].key, wish.features)
    sizes = work.counts(wish.rows, wish.by, wish.groups)
    limit = room_of_part(work.settings.memory_gb, work.engine.workers)
    edges = bundles(sizes, part_rows(int(sizes.sum()), dtype.itemsize, limit, work.engine.workers))
    parts = folder / f"parts-{key_of(edges)[:16]}"  # other memory or workers give other parts
    _check_space(work, int(sizes.sum()) * dtype.itemsize, parts)
    with work.inside(parts):
        arguments = (wish.by, edges, wish.carry, wish.features)
        files = work.folder(split, "split", wish.rows, (wish.by, edges, *wish.carry.values(), wish.features))
        work.record(files, split, wish.rows, arguments, column=False)
        counts = np.stack([np.array(Unit(files, shard.key).load("counts")) for shard in work.pool.shards])  # (shards, parts)
        _solve_all(work, wish, files, counts, dtype, Room(parts, limit))
        work.record(folder, collect, wish.rows, (wish.by, edges, _starts(parts, counts), parts), column=True)


def clear_up(folder: Path) -> None:
    """Remove the sorted rows that runs which were stopped have left: of other memory or workers, or already collected."""
    for parts in folder.glob("parts-*"):
        shutil.rmtree(parts, ignore_errors=True)


def record_type(carry: dict[str, Column], shard: str, features: Features | None) -> np.dtype[Any]:
    """One row as it lies in a split file."""
    kept = [(VALUE + name, column.read(shard).dtype) for name, column in carry.items()]
    row = [("row", features.dtype, (features.width,))] if features else []
    return np.dtype([("uid", "<u8", (2,)), *kept, ("group", "<i4"), *row])


def room_of_part(memory_gb: float, workers: int) -> float:
    """Bytes that a part may take: each worker holds one part, and its rows once more in another order."""
    return memory_gb * 1e9 / (2 * workers)


def part_rows(rows: int, size: int, limit: float, workers: int) -> int:
    """Rows that a part of at most `limit` bytes may have, a row being of this size.

    A few parts a worker, where rows are many enough to be worth it: the last one to be done keeps the others waiting.
    """
    return max(1, min(int(limit / size), max(FEW, rows // (PARTS * workers))))


def bundles(sizes: I64, limit: int) -> I64:
    """Bounds of runs of groups of at most `limit` rows each; a larger group is a run of its own. (p + 1,) int64."""
    edges, rows = [0], 0
    for group, size in enumerate(sizes.tolist()):
        if rows and rows + size > limit:
            edges.append(group)
            rows = 0
        rows += size
    return np.array([*edges, len(sizes)], np.int64)


def _check_space(work: Work, size: int, parts: Path) -> None:
    """Raise BadInput when the sorted rows, less what an earlier run has left of them, will not fit."""
    need = size - sum(path.stat().st_size for path in parts.rglob("*"))
    free = shutil.disk_usage(work.dir.folder).free
    if need > free:
        what = f"{need / 1e9:,.1f} GB of sorted rows will not fit: {free / 1e9:,.1f} GB are free"
        raise BadInput(work.dir.folder, what, "name another --work_dir")


def group_sizes(view: View, by: Column, groups: int) -> dict[str, Array]:
    """Rows of each group: (groups,) int64."""
    values = view.values(by)
    return {"sizes": np.bincount(values[~missing(values)], minlength=groups)}


def _by_part(view: View, by: Column, edges: I64) -> tuple[I64, I64]:
    """Places (among the rows in play) of the rows that have a group, sorted by partition; rows of each partition."""
    values = view.values(by)
    places = np.flatnonzero(~missing(values))
    part = np.searchsorted(edges, values[places], side="right") - 1
    return places[np.argsort(part, kind="stable")], np.bincount(part, minlength=len(edges) - 1)


def split(view: View, by: Column, edges: I64, carry: dict[str, Column], features: Features | None) -> dict[str, Any]:
    """Write this shard's rows, sorted by partition."""
    assert view.unit is not None, "a split leaves a file"
    order, counts = _by_part(view, by, edges)
    slot = np.full(len(view.at), -1, np.int64)
    slot[order] = np.arange(len(order))
    records = np.empty(len(view.at), record_type(carry, view.shard.key, None))
    records["uid"], records["group"] = view.uids(), view.values(by)
    for name, column in carry.items():
        records[VALUE + name] = view.values(column)
    path = view.unit.temporary("rows")
    with writing(path, view.unit.path("rows")) as file:
        _write_records(view, file, records, slot, features)
    return {"rows": path, "counts": counts}


def _write_records(view: View, file: IO[bytes], records: Array, slot: I64, features: Features | None) -> None:
    """Each record at its slot. Embeddings come block by block: a shard's rows are never in memory at once."""
    if features is None:
        write_npy(file, records[np.argsort(slot, kind="stable")[(slot < 0).sum() :]])
        return
    dtype = np.dtype([*_fields(records.dtype), ("row", features.dtype, (features.width,))])
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (int((slot >= 0).sum()),)}
    np.lib.format.write_array_header_1_0(file, header)
    file.flush()
    start = file.tell()
    for raw in view.stored(features.name):
        place = view.place(raw.at)
        grouped = slot[place] >= 0
        block = np.empty(int(grouped.sum()), dtype)
        for name in records.dtype.names or ():
            block[name] = records[name][place[grouped]]
        block["row"] = raw.rows[grouped]
        _scatter(file.fileno(), start, block, slot[place[grouped]])


def _fields(dtype: np.dtype[Any]) -> list[tuple[str, Any]]:
    return [(name, dtype[name]) for name in dtype.names or ()]


def _scatter(descriptor: int, start: int, block: Array, slot: I64) -> None:
    """Write the records of a block at their slots; neighbours go together."""
    order = np.argsort(slot, kind="stable")
    block, slot = block[order], slot[order]
    for run in np.split(np.arange(len(slot)), np.flatnonzero(np.diff(slot) != 1) + 1):
        if len(run):
            data = memoryview(block[run[0] : run[-1] + 1].tobytes())
            write_at(descriptor, data, start + int(slot[run[0]]) * block.dtype.itemsize)


def _solve_all(work: Work, wish: Wish, files: Path, counts: I64, dtype: np.dtype[Any], room: Room) -> None:
    ends = counts.cumsum(axis=1)  # in each shard's file
    paths = [Unit(files, shard.key).path("rows") for shard in work.pool.shards]
    jobs = (
        PartJob(
            wish.task,
            wish.arguments,
            part_unit(room.folder, part),
            [(path, int(end[part] - count[part]), int(end[part])) for path, end, count in zip(paths, ends, counts, strict=True)],
            dtype,
            work.settings.device,
            room,
            work.engine.stop,
        )
        for part in range(counts.shape[1])
    )
    for _ in work.watched(wish.task.__name__, work.engine.map(solve, jobs), int(counts.sum())):
        pass


def solve(job: PartJob) -> Done:
    """Bring a partition's rows together, run the task on them, leave its results in the partition's order."""
    if not job.unit.whole():
        job.unit.save(job.task(_assemble(job), *job.arguments))
    return Done(None, sum(stop - start for _, start, stop in job.slices), 0)


def _assemble(job: PartJob) -> Part:
    total = sum(stop - start for _, start, stop in job.slices)
    whole = {name: job.room.make((total, *kind.shape), kind.base) for name, kind in _fields(job.dtype)}
    filled = 0
    for path, start, stop in job.slices:
        job.stop.check()
        records = read_npy(path)[start:stop]
        for name, values in whole.items():
            values[filled : filled + len(records)] = records[name]
        filled += len(records)
    carried = {name.removeprefix(VALUE): whole[name] for name in whole if name.startswith(VALUE)}
    return Part(whole["group"], whole["uid"], carried, whole.get("row", np.empty((total, 0))), job.device, job.room)


def _starts(parts: Path, counts: I64) -> Saved:
    """(shards, parts) int64: where each shard's rows begin in each partition."""
    unit = Unit(parts, "starts")
    unit.save({"rows": counts.cumsum(axis=0) - counts})
    return Saved(unit.path("rows"), "starts")


def collect(view: View, by: Column, edges: I64, starts: Saved, parts: Path) -> dict[str, Array]:
    """The results of this shard's rows; those without a group have none."""
    order, counts = _by_part(view, by, edges)
    start, begin = starts.load()[view.shard.index], counts.cumsum() - counts
    first = part_unit(parts, 0)
    result = {name: nothing(len(view.at), first.load(name)) for name in first.names()}
    for part in np.flatnonzero(counts):
        places = order[begin[part] : begin[part] + counts[part]]
        for name, whole in result.items():
            whole[places] = part_unit(parts, int(part)).load(name)[start[part] : start[part] + counts[part]]
    return result


def part_unit(parts: Path, part: int) -> Unit:
    return Unit(parts, f"part-{part}")
