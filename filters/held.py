"""All rows of a stage in memory at once, for methods that look at them again and again; beyond --memory_gb they are refused."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from filters.maths.arrays import I64, Array, Bool
from filters.pool.columns import Column, Rows
from filters.pool.pool import Features
from filters.work.plan import Plan, row_bytes
from filters.work.view import View
from filters.work.work import Work


@dataclass(frozen=True)
class Held:
    """Rows in the pool's order."""

    members: list[Array]  # (m, d) of each npz member, as they lie; zeros where there is no valid row
    valid: Bool  # (m,) whether every member has a valid row
    starts: I64  # (shards,) where each shard's rows begin


def hold(work: Work, rows: Rows, features: list[Features]) -> Held:
    """The rows' embeddings. That they fit was settled by `plan.held`."""
    m = rows.count()
    ends = np.concatenate([[0], rows.counts().cumsum()])
    valid, members = np.ones(m, bool), []
    for one in features:
        member, there = np.zeros((m, one.width), one.dtype), np.zeros(m, bool)
        for (begin, _), part in zip(pairwise(ends), work.each(valid_rows, rows, one), strict=True):
            member[begin + part["place"]], there[begin + part["place"]] = part["rows"], True
        members.append(member)
        valid &= there
    return Held(members, valid, ends[:-1])


def expect_hold(plan: Plan, rows: int, features: list[Features]) -> None:
    """What `hold` takes. What is then done with them is to be told to `plan.held`, with `held_bytes`."""
    for one in features:
        plan.each(valid_rows, rows, plan.blocks(one, rows))


def held_bytes(rows: int, features: list[Features], beside: int) -> int:
    """Bytes of memory that so many rows take.

    beside  bytes a row that the method holds beside them
    """
    return rows * (beside + sum(map(row_bytes, features)))


def values_of(work: Work, rows: Rows, column: Column) -> Array:
    """(m, ...) a column's values, in the order of the rows held."""
    return np.concatenate(list(work.each(values_in_play, rows, column)))


def valid_rows(view: View, features: Features) -> dict[str, Array]:
    """A shard's valid rows, and where they stand among those in play."""
    places, rows = [np.empty(0, np.int64)], [np.empty((0, features.width), features.dtype)]
    for raw in view.raw(features.name):
        places.append(view.place(raw.at))
        rows.append(raw.rows.copy())
    return {"place": np.concatenate(places), "rows": np.concatenate(rows)}


def values_in_play(view: View, column: Column) -> Array:
    return view.values(column)


def held_value(view: View, values: Array, starts: I64) -> Array:
    """What was found of a shard's rows while they were held."""
    begin = int(starts[view.shard.index])
    return np.array(values[begin : begin + len(view.at)])
