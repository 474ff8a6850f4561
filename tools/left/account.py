"""What became of one sample, stage by stage, and what the smallest change would have been that keeps it.

Read from what a run left, by its index; only the quotas of other sizes are computed anew.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from filters.densprune import DensityPrune
from filters.maths import quota
from filters.maths.arrays import F64, I64
from filters.pool.errors import BadInput
from filters.semdedup import SemDeDup
from filters.topscore import TopScore
from tools.left.index import ENDS, Index, Ranked
from tools.left.run import harmed_named

PREFIX = {SemDeDup: "dedup", TopScore: "score", DensityPrune: ""}  # of densprune's flags
FILES, PARTS = 256, 32  # of samples that are kept open, and in memory


@dataclass(frozen=True)
class Sample:
    """A row of samples/."""

    position: int
    uid: str
    shard: int
    key: str
    row: int
    values: dict[str, Any]  # None where a stage did not see it

    @property
    def status(self) -> str:
        return str(self.values["status"])


@dataclass(frozen=True)
class Seen:
    """What a stage made of a sample."""

    stage: str
    took: bool
    by: str  # the column that decided
    value: float | None  # None: a draw
    place: int  # samples of its group that come before it
    of: int  # samples of its group
    stays: int  # that the stage took
    group: int | None = None
    last: Sample | None = None  # that was taken
    first: Sample | None = None  # that was not
    changes: list[tuple[str, Any]] = field(default_factory=list)  # options that would keep it, each by itself

    @property
    def missing(self) -> int:
        """Places that it would have taken more."""
        return max(0, self.place + 1 - self.stays)


@dataclass(frozen=True)
class Account:
    """All that is known of one sample."""

    sample: Sample
    times: int  # samples of the pool with this uid
    seen: list[Seen]
    chain: list[tuple[float, Sample]]  # similarity to the next, and that one: duplicates, up to the one that stands for it
    nearest: list[Sample]  # of its concept, nearest to the centroid first


class Accounts:
    """Accounts of a run's samples."""

    def __init__(self, index: Index) -> None:
        self._index, self._run = index, index.run
        self._tables = {one.name: self._run.concepts(one.stage.suffix) for one in index.stages if one.rule.group}
        self._sample, self._rows = cache(self._read), _Rows()

    def of(self, position: int) -> Account:
        sample = self._sample(position)
        seen = [one for one in (self._seen(ranked, sample) for ranked in self._index.stages) if one]
        return Account(sample, self._index.times(position), seen, list(self._chain(sample)), self._nearest(seen))

    # -- rows

    def _read(self, position: int) -> Sample:
        shard, row = self._index.at(position)
        part, at = self._rows.of(self._run.paths[shard], row)
        values = {name: part[name][at].as_py() for name in part.column_names}
        key = self._run.names[shard].removeprefix("samples/").removesuffix(".parquet")
        return Sample(position, values["uid"].hex(), shard, key, row, values)

    def _marked(self, one: Ranked, group: int, place: int) -> Sample | None:
        position = self._index.marked(one.name, group, place)
        return None if position is None else self._sample(position)

    # -- stages

    def _seen(self, one: Ranked, sample: Sample) -> Seen | None:
        place = self._index.place(one.name, sample.position)
        if place is None:
            return None
        group = int(sample.values[one.rule.group]) if one.rule.group else 0
        of, stays = int(self._index.counts[one.name][group]), int(one.stays[group])
        took = place < stays
        return Seen(
            stage=one.name,
            took=took,
            by=one.rule.by,
            value=None if one.rule.by == "uid" else sample.values[one.rule.by],
            place=place,
            of=of,
            stays=stays,
            group=group if one.rule.group else None,
            last=self._marked(one, group, stays - 1),
            first=self._marked(one, group, stays),
            changes=[] if took else list(self._changes(one, sample, group, place, of)),
        )

    def _changes(self, one: Ranked, sample: Sample, group: int, place: int, of: int) -> Iterator[tuple[str, Any]]:
        rule, stage = one.rule, one.stage.filter
        if isinstance(stage, SemDeDup):
            yield self._option(one, "fraction"), fraction_for(of, place + 1)
            yield self._option(one, "eps"), eps_for(sample.values[rule.by])
        elif isinstance(stage, TopScore):
            rows = self._run.n if stage.of == "pool" else of
            yield self._option(one, "size"), place + 1
            yield self._option(one, "fraction"), fraction_for(rows, place if stage.ties == "all" else place + 1)
            yield self._option(one, "threshold"), float(str(np.float32(sample.values[rule.by])))  # it is compared in float32
        elif isinstance(stage, DensityPrune):
            table = self._tables[one.name]
            size = size_for(table["share"], table["members"], stage.balance, int(table["quota"].sum()), group, place + 1)
            yield self._option(one, "size"), size
            yield self._option(one, "fraction"), fraction_for(self._run.n, size)

    def _option(self, one: Ranked, name: str) -> str:
        """As the run's command spells it; else by the filter's own name."""
        kind, config = type(one.stage.filter), self._run.manifest["config"]
        spelled = "_".join(part for part in (PREFIX.get(kind), name) if part)
        alone = len(self._index.stages) == 1 and name in config
        if (spelled in config or alone) and not one.stage.suffix:
            return f"--{spelled if spelled in config else name}"
        return f"{kind.__name__}.{name}"

    # -- what stands for a duplicate, what a concept is about

    def _chain(self, sample: Sample) -> Iterator[tuple[float, Sample]]:
        """From a duplicate to the earlier sample that it is like, and so on until one that the stage took."""
        for one in self._index.stages:
            if not isinstance(one.stage.filter, SemDeDup):
                continue
            like, of = (f"{name}{one.stage.suffix}" for name in ("dedup_similarity", "dedup_of"))
            while self._dropped(one, sample) and sample.values[of] is not None:
                words = np.frombuffer(sample.values[of], ">u8").astype(np.uint64).reshape(1, 2)
                similarity, sample = sample.values[like], self._sample(int(self._index.find(words)[0]))
                yield similarity, sample

    def _dropped(self, one: Ranked, sample: Sample) -> bool:
        place = self._index.place(one.name, sample.position)
        return place is not None and place >= one.stays[0]

    def _nearest(self, seen: list[Seen]) -> list[Sample]:
        """Where the stage takes by distance, the samples at the near end of its concept."""
        stages = {one.name: one for one in self._index.stages}
        for told in reversed(seen):
            one = stages[told.stage]
            if told.group is not None and one.rule.by != "uid":
                places = range(told.of - 1, -1, -1) if one.rule.largest else range(told.of)
                found = [self._marked(one, told.group, place) for place in places[:ENDS]]
                return [sample for sample in found if sample]
        return []


class _Rows:
    """Rows of samples files, a row group at a time."""

    def __init__(self) -> None:
        self._file, self._part = lru_cache(FILES)(self._open), lru_cache(PARTS)(self._read)

    def of(self, path: Path, row: int) -> tuple[pa.Table, int]:
        """The row group of a row, and the row's place in it. Raises BadInput when it cannot be read."""
        with harmed_named(path):
            meta = self._file(path).metadata
            for group in range(meta.num_row_groups):
                if row < meta.row_group(group).num_rows:
                    return self._part(path, group), row
                row -= meta.row_group(group).num_rows
        raise BadInput(path, "has fewer rows than when it was indexed", "run the filter again")

    def _open(self, path: Path) -> pq.ParquetFile:
        return pq.ParquetFile(path, page_checksum_verification=True)

    def _read(self, path: Path, group: int) -> pa.Table:
        return self._file(path).read_row_group(group)


# -- the smallest change that keeps a sample


def fraction_for(rows: int, wanted: int) -> float:
    """The smallest fraction f, to as few digits as will do, with int(rows * f) = wanted."""
    for digits in range(1, 17):
        found: float = math.ceil(wanted / rows * 10**digits) / 10**digits
        if int(rows * found) == wanted:
            return found
    least: float = wanted / rows
    return least if int(rows * least) >= wanted else math.nextafter(least, 1.0)


def eps_for(similarity: float) -> float:
    """The largest eps of seven digits that takes a similarity: SemDeDup compares with 1 - eps in float32."""
    steps = math.floor((1 - similarity) * 1e7)
    while steps > 0 and np.float32(1 - steps / 1e7) < np.float32(similarity):
        steps -= 1
    return max(0, steps) / 1e7


def size_for(share: F64, members: I64, balance: float, now: int, concept: int, wanted: int) -> int:
    """The smallest size above `now` of which a concept's quota is `wanted` or more, which is at most its members.

    Without rounding a quota only grows with the size; rounded it may be one less or more. So the search begins at the first size at
    which it could be `wanted`.
    """
    low, high = now + 1, int(members.sum())

    def unrounded(size: int) -> float:
        return float(quota.project(share * size, quota.floors(members, size, balance), members, size)[concept])

    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if unrounded(middle) > wanted - 1 else (middle + 1, high)
    while quota.quota(share * low, members, low, balance)[concept] < wanted:
        low += 1
    return low
