"""Two passes. First the tars, one after the other: each leaves the rows of its images, sorted by their place in the pool. Then the
pool's shards: each gathers its rows, a slice of each tar's. So tars are read once, from end to end, and nothing grows with the pool but
the index of its uids, 24 bytes a sample on disk. A tar that is done is not read again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from filters.command import Meter, Quiet
from filters.maths import uids
from filters.maths.arrays import I64, U64, Array, Bool
from filters.pool.columns import read_uids, text_batches
from filters.pool.errors import BadInput, from_os
from filters.pool.files import replacing, room
from filters.pool.pool import Pool, Shard
from filters.work.engine import Engine
from filters.work.work import is_whole
from filters.work.workdir import Unit, key_of
from tools.embedding.encoders import Encoder
from tools.embedding.folder import FAULTS, Folder
from tools.embedding.images import Batch, Decoded, Origin, batches, decode

HALF = np.dtype(np.float16)
Stamp = list[int]  # of a tar: size and date


@dataclass(frozen=True)
class Run:
    """What the passes work with."""

    pool: Pool
    tars: dict[Path, Stamp]
    folder: Folder
    encoder: Encoder
    engine: Engine
    console: Quiet
    name: str  # of the members: NAME_img, NAME_txt
    batch_size: int
    memory: float  # bytes that the rows of a shard may take in memory

    @property
    def starts(self) -> I64:
        """(shards + 1,) where each shard's rows begin, counted through the pool."""
        return np.cumsum([0, *(shard.rows for shard in self.pool.shards)])

    def unit(self, kind: str, name: str) -> Unit:
        return Unit(self.folder.held.stages / f"{kind}-{self.folder.key}", name)

    @property
    def units(self) -> list[Unit]:
        """Where the rows of each tar lie: elsewhere when it has changed. A copy of the same date is the same: days of work hang on it."""
        return [self.unit("tars", f"{tar.stem}-{key_of(*stamp)[:8]}") for tar, stamp in self.tars.items()]

    def todo(self, units: list[Unit]) -> list[bool]:
        """Of each unit whether it is to be done; says which were harmed since they were."""
        whole = list(self.engine.map(is_whole, units))
        harmed = [unit for unit, fine in zip(units, whole, strict=True) if not fine and unit.recorded()]
        for unit in harmed:
            unit.forget()
        if harmed:
            self.console.say(f"{len(harmed)} of {len(units)} results not as recorded, first {harmed[0]}: done again")
        return [not fine for fine in whole]


def stamp(tar: Path) -> Stamp:
    try:
        status = tar.stat()
    except OSError as error:
        raise from_os(tar, error) from None
    return [status.st_size, status.st_mtime_ns]


# -- the index


def index(run: Run) -> Callable[[U64], I64]:
    """Finds the row of a uid, counted through the pool; of a repeated uid the first, which is the one that filters keep."""
    unit = run.unit("index", "uids")
    if run.todo([unit])[0]:
        listed = np.empty((run.pool.rows, 2), np.uint64)
        for number, shard in enumerate(run.pool.shards):
            listed[run.starts[number] : run.starts[number + 1]] = read_uids(shard, lambda size: None)
        unit.save(_sorted(listed))
    table, rows = unit.load("words").T, unit.load("row")  # each word in one piece: numpy would copy it for every search

    def find(wanted: U64) -> I64:
        place = uids.find(table, wanted)
        found = place >= 0
        place[found] = rows[place[found]]
        return place

    return find


def _sorted(listed: U64) -> dict[str, Array]:
    """Ascending uids, each once, their high words and their low words; and the first row of each."""
    order = uids.order(listed)
    listed = listed[order]
    first = np.concatenate([[True], uids.ascending(listed)]) if len(listed) else np.zeros(0, bool)
    return {"words": listed[first].T, "row": order[first]}


# -- first pass: the tars


def embed_images(run: Run, find: Callable[[U64], I64]) -> None:
    """Leave a unit of each tar."""
    units, tars = run.units, list(run.tars)
    todo = [at for at, wanted in enumerate(run.todo(units)) if wanted]

    broken: list[BadInput] = []

    def jobs() -> Iterator[Batch]:
        for at in todo:
            try:
                yield from batches(tars[at], at, find, run.batch_size, run.encoder.preparation)
            except BadInput as fault:  # the other tars are done meanwhile
                run.console.say(str(fault))
                broken.append(fault)

    meter = Meter(run.console, "images", sum(run.tars[tars[at]][0] for at in todo))
    parts: list[Embedded] = []
    for part in _embedded(run, jobs()):
        parts = [*(parts if parts and parts[0].origin.tar == part.origin.tar else ()), part]  # of a broken tar there is no last one
        meter(part.origin.size)
        if part.origin.last:
            units[part.origin.tar].save(_unit(tars[part.origin.tar], parts))
    run.console.end()
    if broken:
        what = f"{broken[0].found}; of {len(units)} tars {len(broken)} cannot be read, all others are done"
        raise BadInput(broken[0].where, what, broken[0].do)
    if changed := [tar for tar in tars if stamp(tar) != run.tars[tar]]:
        raise BadInput(changed[0], "changed during the run", "run again when nothing writes to it")


class Embedded(NamedTuple):
    """The rows of a batch."""

    origin: Origin
    rows: Array  # (m, width) float16
    good: Bool  # (m,) whether the image could be decoded; where not, the row says nothing
    faults: list[str]


def _embedded(run: Run, jobs: Iterator[Batch]) -> Iterator[Embedded]:
    """Threads do all of it: beside a GPU too many of them would wait for each other. Processes decode, and the model stays here."""
    if run.engine.kind == "threads":
        return run.engine.map(lambda batch: _encoded(run.encoder, decode(batch)), jobs)
    return (_encoded(run.encoder, decoded) for decoded in run.engine.map(decode, jobs))


def _encoded(encoder: Encoder, decoded: Decoded) -> Embedded:
    return Embedded(decoded.origin, encoder.images(decoded.pixels), decoded.good, decoded.faults)


def _unit(tar: Path, parts: list[Embedded]) -> dict[str, Array]:
    """Rows of a tar in ascending order of their places; of one place in the order of the tar."""
    at, good, rows = (np.concatenate(some) for some in zip(*((one.origin.at, one.good, one.rows) for one in parts), strict=True))
    order = np.argsort(at, kind="stable")
    order = order[good[order]]
    told = "".join(f"{tar.name}/{fault}\n" for one in parts for fault in one.faults)
    last = parts[-1].origin
    return {
        "at": at[order],
        "rows": rows[order],
        "bad": np.sort(at[~good]),
        "faults": np.frombuffer(told.encode(), np.uint8),
        "counts": np.array([last.images, last.outside]),
    }


# -- captions


def embed_captions(run: Run) -> None:
    """Leave a unit of each shard: rows of its captions, NaN where it has none."""
    units = [run.unit("captions", shard.key) for shard in run.pool.shards]
    todo = [wanted for wanted in zip(run.pool.shards, units, run.todo(units), strict=True) if wanted[2]]
    meter = Meter(run.console, "captions", sum(shard.rows for shard, _, _ in todo) * 2 * run.encoder.width)
    for shard, unit, _ in todo:
        rows = _empty(run, shard)
        for at, texts in _captions(shard, run.batch_size):
            rows[at] = run.encoder.captions(texts)
            meter(rows[at].nbytes)
        unit.save({"rows": rows})
    run.console.end()


def _captions(shard: Shard, size: int) -> Iterator[tuple[I64, list[str]]]:
    """Rows that have a caption, `size` at a time."""
    told = (
        (int(row), text)
        for rows, texts in text_batches(shard, "text", np.arange(shard.rows), lambda size: None)
        for row, text in zip(rows, texts, strict=True)
        if text is not None
    )
    while some := list(islice(told, size)):
        yield np.array([row for row, _ in some]), [text for _, text in some]


def _empty(run: Run, shard: Shard) -> Array:
    """(rows, width) without a value."""
    rows = room(run.folder.held.stages, (shard.rows, run.encoder.width), HALF, run.memory)
    rows.fill(np.nan)
    return rows


# -- second pass: the pool's shards


def gather(run: Run, text: bool) -> tuple[dict[str, Any], Counter[str]]:
    """Write every npz; gives size and sha256 of each, and what there was."""
    units = run.units
    made_of = key_of(*(unit.name for unit in units))
    files, counts = {}, _of_tars(units)
    meter = Meter(run.console, "shards", 2 * run.encoder.width * run.pool.rows)
    for number, shard in enumerate(run.pool.shards):
        told = run.folder.written(shard.key, made_of)
        if not told:
            found = _write(run, number, units, text)
            run.folder.note_written(shard.key, made_of, found)
            told = run.folder.written(shard.key, made_of)
        files[shard.key] = told["file"]
        counts.update(told["counts"])
        meter(2 * run.encoder.width * shard.rows)
    run.console.end()
    _list_faults(run.folder.path / FAULTS, units)
    return files, counts


def _of_tars(units: list[Unit]) -> Counter[str]:
    seen = sum((np.array(unit.load("counts")) for unit in units), start=np.zeros(2, np.int64))
    return Counter({"images": int(seen[0]), "outside": int(seen[1])})


def _write(run: Run, number: int, units: list[Unit], text: bool) -> dict[str, int]:
    """One shard's npz."""
    shard, begin = run.pool.shards[number], int(run.starts[number])
    rows, filled = _empty(run, shard), np.zeros(shard.rows, bool)
    bad, again = np.zeros(shard.rows, bool), 0
    for unit in units:
        at, part = _slice(unit.load("at"), begin, shard.rows)
        new = ~filled[at] & np.concatenate([[True], at[1:] != at[:-1]])[: len(at)]  # the first in the order of the tars
        rows[at[new]] = unit.load("rows")[part][new]
        filled[at[new]] = True
        again += int((~new).sum())
        bad[_slice(unit.load("bad"), begin, shard.rows)[0]] = True
    members = {f"{run.name}_img": rows} | ({f"{run.name}_txt": run.unit("captions", shard.key).load("rows")} if text else {})
    save: Any = np.savez
    with replacing(run.folder.npz(shard.key)) as file:
        save(file, **members)
    return {"rows": shard.rows, "embedded": int(filled.sum()), "undecodable": int((bad & ~filled).sum()), "again": again}


def _slice(at: I64, begin: int, rows: int) -> tuple[I64, slice]:
    """Of ascending places those in a shard, counted from its first row, and where they stand."""
    first, last = np.searchsorted(at, [begin, begin + rows])
    return np.asarray(at[first:last]) - begin, slice(int(first), int(last))


def _list_faults(path: Path, units: list[Unit]) -> None:
    told = [np.asarray(unit.load("faults")).tobytes() for unit in units]
    path.unlink(missing_ok=True)
    if any(told):
        with replacing(path) as file:
            file.writelines(told)
