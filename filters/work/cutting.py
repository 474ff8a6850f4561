"""What a filter decides, and the exact cut that carries it out over shards. The arithmetic is `maths.cut`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from filters.maths import cut as counting
from filters.maths.arrays import I64, U64, Array, Bool
from filters.pool.columns import Column, Rows
from filters.work.view import View

if TYPE_CHECKING:
    from filters.work.work import Work


@dataclass(frozen=True)
class Cut:
    """How many samples stay, of which group, by which value.

    Either `quota` or `threshold` is given.
    """

    by: Column
    quota: int | I64 | None = None  # rows that stay; (k,) with a group: of each
    group: Column | None = None  # 0 to k - 1
    largest: bool = True  # the largest values stay, else the smallest
    threshold: float | None = None  # values on its good side stay; compared in the column's own type
    strict: bool = False  # a value equal to the threshold goes
    all_ties: bool = False  # rows whose value equals the last one's stay too; else the smaller uids
    floor: I64 | None = None  # (k,) first so many of each group, then the best of the rest up to `quota` in all
    repeat: Column | None = None  # how often each row that stays is listed; None: once
    table: dict[str, Array] = field(default_factory=dict)  # (k,) columns found on the way, to be kept with the result


def carry_out(work: Work, rows: Rows, cut: Cut) -> Rows:
    """The rows that stay."""
    if cut.threshold is not None:
        return work.select(_beyond, rows, cut.by, cut.threshold, cut.largest, cut.strict)
    assert cut.quota is not None, "a cut has a quota or a threshold"
    if cut.floor is not None:
        assert isinstance(cut.quota, int), "with a floor a group, the quota is of all groups together"
        if cut.floor.sum() > cut.quota:
            raise ValueError(f"the floors ask for {cut.floor.sum():,} rows, the quota for {cut.quota:,} in all")
        first = _by_quota(work, rows, cut, cut.floor, cut.group)
        return first | _by_quota(work, rows - first, cut, np.array([cut.quota - first.count()]), None)
    return _by_quota(work, rows, cut, np.atleast_1d(np.asarray(cut.quota, np.int64)), cut.group)


def _by_quota(work: Work, rows: Rows, cut: Cut, quota: I64, group: Column | None) -> Rows:
    width = 8 * cut.by.read(work.pool.shards[0].key).dtype.itemsize
    search = counting.Search(quota, width, cut.all_ties)
    while not search.done:
        parts = work.each(_counts, rows, cut.by, group, cut.largest, search)
        search.narrow(sum((part["counts"] for part in parts), start=np.zeros((), np.int64)))
        if not search.done and search.candidates <= counting.FEW:
            found = list(work.each(_candidates, rows, cut.by, group, cut.largest, search))
            search.finish(*(np.concatenate([part[name] for part in found]) for name in ("group", "words")))
    return work.select(_stays, rows, cut.by, group, cut.largest, search.boundary)


def _beyond(view: View, by: Column, threshold: float, largest: bool, strict: bool) -> Bool:
    values = view.values(by)
    with np.errstate(over="ignore"):  # a threshold beyond the type is infinite
        limit = values.dtype.type(threshold)
    beyond: Bool = values > limit if largest else values < limit
    return beyond if strict else beyond | (values == limit)


class _Block:
    """The rows of a shard as the search wants them; uids are read only when asked for."""

    def __init__(self, view: View, by: Column, group: Column | None, largest: bool) -> None:
        self.view = view
        values = view.values(by)
        self.width = 8 * values.dtype.itemsize
        self.key = counting.keys(values, largest)
        self.group: I64 = np.zeros(len(self.key), np.int64) if group is None else view.values(group).astype(np.int64)

    def word(self, number: int) -> U64:
        return self.key if number == 0 else self.view.uids()[:, number - 1]


def _counts(view: View, by: Column, group: Column | None, largest: bool, search: counting.Search) -> dict[str, Array]:
    block = _Block(view, by, group, largest)
    if block.width != search.width:
        raise ValueError(f"{view.shard.parquet}: its values have {block.width} bits, those of the first shard {search.width}")
    return {"counts": search.counts(block.group, block.word)}


def _candidates(view: View, by: Column, group: Column | None, largest: bool, search: counting.Search) -> dict[str, Array]:
    block = _Block(view, by, group, largest)
    rows = search.matches(block.group, block.word)
    return {"group": block.group[rows], "words": np.column_stack([block.key[rows], view.uids()[rows]])}


def _stays(view: View, by: Column, group: Column | None, largest: bool, boundary: counting.Boundary) -> Bool:
    block = _Block(view, by, group, largest)
    return counting.stays(boundary, block.group, block.key, lambda rows: view.uids()[rows])
