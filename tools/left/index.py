"""Where each sample of a finished run stands: an index over its uids, made on demand beside what the run left.

    WORK/index/
      uids.npy          (n, 2) uint64, ascending: the samples' positions in all that follows. A repeated uid comes as often as in the pool
      rows.npy          (n,) row in the pool, over all shards, of the first sample with that uid
      STAGE.places.npy  (n,) how many samples of its group the stage takes before this one; NOWHERE: it did not see it
      STAGE.counts.npy  (groups,) int64 samples that it saw
      STAGE.marks.npy   (m, 3) int64 group, place, position: the first, the last, and those on either side of the cut
      index.json        of which manifest it is

20 bytes a sample, and 4 more for each stage (twice as many of 4 billion samples or more). It is made in a given memory by sorting on
disk, whatever the number of samples, and it is there whole or not at all; another run in the folder makes it void.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from filters.command import Meter, Quiet
from filters.densprune import RANDOM
from filters.maths import cut, uids, uidsets
from filters.maths.arrays import I64, U64, Array
from filters.pool.columns import missing
from filters.pool.errors import from_os
from filters.pool.files import UNREADABLE, unsealed, write_sealed
from filters.pool.uidsort import sorted_list
from filters.work.workdir import WorkDir
from tools.left.recipe import Rule, Stage, main_column, rule_of
from tools.left.run import Run, harmed_named

MEMORY = 8e8  # bytes that sorting takes
SHIFT, POSITION = np.uint64(40), np.uint64((1 << 40) - 1)  # a group and a position share a word
MANY = 1 << 22  # uids that are found at once
ENDS = 3  # samples at either end of a group that are marked


@dataclass(frozen=True)
class Ranked:
    """A stage whose rule is known: its samples in the order in which it takes them."""

    stage: Stage
    rule: Rule
    stays: I64  # (groups,) how many it took

    @property
    def name(self) -> str:
        return self.stage.name

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(name for name in ("uid", main_column(self.stage), self.rule.by, self.rule.group) if name))


def ranked(run: Run) -> list[Ranked]:
    """The stages of a run that can be ranked, by what its manifest and its concepts tell."""
    told = {one["stage"]: one for one in run.manifest["stages"]}
    found = []
    for stage in run.recipe.stages:
        if stage.name not in told:
            continue
        seen = told[stage.name]["rows_in"] - told[stage.name]["invalid"]
        rule = rule_of(stage, seen, run.n)
        stays = run.concepts(stage.suffix)["kept"] if rule.group else np.array([told[stage.name]["rows_kept"]])
        found.append(Ranked(stage, rule, stays.astype(np.int64)))
    return found


class Index:
    """Opened by `Index.of`."""

    def __init__(self, run: Run, folder: Path) -> None:
        self.run, self.folder = run, folder
        self.stages = ranked(run)
        self.uids = np.load(folder / "uids.npy", mmap_mode="r")
        self.rows = np.load(folder / "rows.npy", mmap_mode="r")
        self._places = {one.name: np.load(folder / f"{one.name}.places.npy", mmap_mode="r") for one in self.stages}
        self.counts = {one.name: np.load(folder / f"{one.name}.counts.npy") for one in self.stages}
        self._starts = np.load(folder / "starts.npy")
        marks = {one.name: np.load(folder / f"{one.name}.marks.npy").tolist() for one in self.stages}
        self._marks = {name: {(group, place): position for group, place, position in rows} for name, rows in marks.items()}

    @classmethod
    def of(cls, run: Run, console: Quiet) -> Index:
        """The index of a run, which is made where there is none. Raises BadInput when it cannot be written, or the samples not be read."""
        folder = run.folder / "index"
        found = cls._found(run, folder)
        if found is None:
            held = WorkDir(run.folder)  # no other call makes it at the same time, and no run changes the samples
            try:
                found = cls._found(run, folder) or _Making(run, folder, console).make()
            except OSError as error:
                raise from_os(folder, error) from None
            finally:
                held.close()
        return found

    @classmethod
    def _found(cls, run: Run, folder: Path) -> Index | None:
        """The one that is there; None where it is another run's, or was harmed."""
        try:
            return cls(run, folder) if unsealed(folder / "index.json")["manifest"] == run.manifest["digest"] else None
        except (*UNREADABLE, EOFError):
            return None

    def find(self, words: U64) -> I64:
        """Positions of uids, (n, 2) uint64; -1 for those that no sample has."""
        return uids.find(self.uids, words)

    def times(self, position: int) -> int:
        """How many samples of the pool have the uid there."""
        words, end = self.uids[position], position + 1
        while end < len(self.uids) and (self.uids[end] == words).all():
            end += 1
        return end - position

    def at(self, position: int) -> tuple[int, int]:
        """Shard and row in it."""
        row = int(self.rows[position])
        shard = int(np.searchsorted(self._starts, row, side="right")) - 1
        return shard, row - int(self._starts[shard])

    def place(self, stage: str, position: int) -> int | None:
        """How many samples of its group a stage takes before this one; None where it did not see it."""
        found = self._places[stage][position]
        return None if found == np.iinfo(found.dtype).max else int(found)

    def marked(self, stage: str, group: int, place: int) -> int | None:
        """Position of the sample at a place, of those that are marked."""
        return self._marks[stage].get((group, place))


class _Making:
    """One making of an index."""

    def __init__(self, run: Run, folder: Path, console: Quiet) -> None:
        self._run, self._target, self._console = run, folder, console
        self._new = folder.with_name("index.new")
        self._lengths = [_rows_of(path) for path in run.paths]
        self._n = sum(self._lengths)
        self._kind = np.uint32 if self._n < np.iinfo(np.uint32).max else np.uint64

    def make(self) -> Index:
        shutil.rmtree(self._new, ignore_errors=True)
        self._new.mkdir()
        try:
            np.save(self._new / "starts.npy", np.cumsum([0, *self._lengths[:-1]], dtype=np.int64))
            table = self._sort_uids()
            positions = self._locate(table)
            for one in ranked(self._run):
                self._rank(one, positions)
            (self._new / "positions.npy").unlink()
            write_sealed(self._new / "index.json", {"manifest": self._run.manifest["digest"]})
            shutil.rmtree(self._target, ignore_errors=True)
            self._new.rename(self._target)
            return Index(self._run, self._target)
        finally:
            shutil.rmtree(self._new, ignore_errors=True)
            self._console.end()

    def _array(self, name: str, shape: tuple[int, ...], kind: Any) -> Array:
        """An array on disk, whose room is taken now: a full disk would otherwise be a fault of memory."""
        made = np.lib.format.open_memmap(self._new / name, "w+", np.dtype(kind), shape, fortran_order=len(shape) > 1)
        with (self._new / name).open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
        return made

    def _batches(self, what: str, names: list[str]) -> Iterator[dict[str, Array]]:
        meter = Meter(self._console, f"index: {what}", self._run.size)
        return self._run.batches(names, meter)

    def _sort_uids(self) -> Array:
        table, end = self._array("uids.npy", (self._n, 2), np.uint64), 0
        with sorted_list((part["uid"] for part in self._batches("uids", ["uid"])), self._new, MEMORY) as found:
            for listed in found.read(Meter(self._console, "index: uids in order", found.size)):
                words = uidsets.expanded(listed)
                table[end : end + len(words)] = words
                end += len(words)
        return table

    def _locate(self, table: Array) -> Array:
        """Position of each row, and the first row of each position."""
        positions, rows = self._array("positions.npy", (self._n,), self._kind), self._array("rows.npy", (self._n,), self._kind)
        rows[:] = np.iinfo(self._kind).max
        start = 0
        for words in _together((part["uid"] for part in self._batches("places", ["uid"])), MANY):
            order = uids.order_of_many(words)  # neighbours are found together: a look at a page of the table serves many
            found = np.empty(len(order), np.int64)
            found[order] = uids.find(table, words[order])
            positions[start : start + len(found)] = found
            new = rows[found] == np.iinfo(self._kind).max
            at, first = np.unique(found[new], return_index=True)
            rows[at] = start + np.flatnonzero(new)[first]
            start += len(found)
        return positions

    def _rank(self, one: Ranked, positions: Array) -> None:
        """Places of a stage: its samples are sorted by value, then position, which is the order of uids."""
        places = self._array(f"{one.name}.places.npy", (self._n,), self._kind)
        places[:] = np.iinfo(self._kind).max
        ties = _Ties()
        total, taken, marks = np.zeros(len(one.stays), np.int64), np.zeros(len(one.stays), np.int64), []
        with sorted_list(self._records(one, positions, total), self._new, MEMORY) as found:
            for listed in found.read(Meter(self._console, f"index: {one.name} in order", found.size)):
                group = (listed.uids[:, 1] >> SHIFT).astype(np.int64)
                at = (listed.uids[:, 1] & POSITION).astype(np.int64)
                place = _counted_on(group, taken)
                places[at] = place if one.rule.strict_ties else ties.shared(listed.uids[:, 0], place)
                wanted = (place < ENDS) | (place >= total[group] - ENDS) | (np.abs(place - one.stays[group] + 0.5) < 1)
                marks.append(np.stack([group, place, at], axis=1)[wanted])
        np.save(self._new / f"{one.name}.counts.npy", total)
        np.save(self._new / f"{one.name}.marks.npy", np.concatenate([np.empty((0, 3), np.int64), *marks]))

    def _records(self, one: Ranked, positions: Array, total: I64) -> Iterable[U64]:
        """What sorts the samples that a stage saw: (m, 2) uint64. Counts them by group."""
        start = 0
        for part in self._batches(one.name, one.columns):
            seen = np.flatnonzero(~missing(part[main_column(one.stage)]))
            group = part[one.rule.group][seen].astype(np.int64) if one.rule.group else np.zeros(len(seen), np.int64)
            total += np.bincount(group, minlength=len(total))
            words = np.empty((len(seen), 2), np.uint64)
            words[:, 0] = _keys(one.rule, part, int(self._run.manifest["seed"]))[seen]
            words[:, 1] = (group.astype(np.uint64) << SHIFT) | positions[start : start + len(part["uid"])][seen].astype(np.uint64)
            yield words
            start += len(part["uid"])


def _keys(rule: Rule, part: dict[str, Array], seed: int) -> U64:
    return uids.hashed(part["uid"], seed, RANDOM) if rule.by == "uid" else cut.keys(part[rule.by], rule.largest)


def _together(blocks: Iterable[U64], rows: int) -> Iterator[U64]:
    """The same rows in blocks of at least so many, but for the last."""
    held: list[U64] = []
    for block in blocks:
        held.append(block)
        if sum(map(len, held)) >= rows:
            yield np.concatenate(held)
            held = []
    if held:
        yield np.concatenate(held)


class _Ties:
    """Places where equal values stay or go together: all of them have the place of the first."""

    def __init__(self) -> None:
        self._key, self._place = np.zeros(0, np.uint64), np.zeros(0, np.int64)  # of the last row

    def shared(self, key: U64, place: I64) -> I64:
        keys, places = np.concatenate([self._key, key]), np.concatenate([self._place, place])
        starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
        found: I64 = places[starts].repeat(np.diff(starts, append=len(keys)))
        self._key, self._place = keys[-1:], found[-1:]
        return found[len(found) - len(place) :]


def _counted_on(group: I64, taken: I64) -> I64:
    """Place of each row in its group, after those taken before, which are counted."""
    order = np.argsort(group, kind="stable")
    counts = np.bincount(group, minlength=len(taken))
    starts = np.cumsum(counts) - counts
    place = np.empty(len(group), np.int64)
    place[order] = np.arange(len(group)) - starts[group[order]] + taken[group[order]]
    taken += counts
    return place


def _rows_of(path: Path) -> int:
    with harmed_named(path):
        return int(pq.read_metadata(path).num_rows)
