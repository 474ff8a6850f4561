"""The exact cut keeps what sorting would keep."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters.maths import cut
from filters.maths.arrays import I64, Array, Bool

TYPES = [np.float32, np.float64, np.int16, np.int32, np.uint64]


@st.composite
def blocks(draw: st.DrawFn) -> dict[str, Any]:
    """Rows with values that often tie, uids that share words, and a quota for each group."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from(TYPES))
    words = rng.integers(0, 5, (60, 2)) if draw(st.booleans()) else rng.integers(0, 2**63, (60, 2))
    uids = rng.permutation(np.unique(words.astype(np.uint64), axis=0))[: draw(st.integers(0, 60))]
    values = rng.integers(-3, 4, len(uids)) / 2 if draw(st.booleans()) else 3 * rng.normal(size=len(uids))
    values = np.abs(values) if kind == np.uint64 else values
    groups = draw(st.integers(1, 4))
    quota = rng.integers(0, 25, groups)
    return {"values": values.astype(kind), "uids": uids, "group": rng.integers(0, groups, len(uids)), "quota": quota}


def found(block: dict[str, Any], largest: bool, all_ties: bool, few: int, shards: int = 3) -> Bool:
    """The rows that stay, found by counting in shards."""
    key = cut.keys(block["values"], largest)
    words = np.column_stack([key, block["uids"]]).astype(np.uint64)
    parts = np.array_split(np.arange(len(key)), shards)
    search = cut.Search(block["quota"], 8 * block["values"].dtype.itemsize, all_ties)
    while not search.done:
        search.narrow(sum((search.counts(block["group"][rows], lambda w, r=rows: words[r, w]) for rows in parts), np.zeros((), np.int64)))  # type: ignore[misc]
        if not search.done and search.candidates <= few:
            rows = search.matches(block["group"], lambda w: words[:, w])
            assert len(rows) == search.candidates
            search.finish(block["group"][rows], words[rows])
    return cut.stays(search.boundary, block["group"], key, lambda rows: block["uids"][rows])


def sorted_out(block: dict[str, Any], largest: bool, all_ties: bool) -> Bool:
    """The same by sorting Python numbers."""
    stays = np.zeros(len(block["values"]), bool)
    sign = -1 if largest else 1
    for group, quota in enumerate(block["quota"].tolist()):
        ranked = sorted(
            (sign * block["values"][row].item(), *map(int, block["uids"][row]), row) for row in np.flatnonzero(block["group"] == group)
        )
        last = ranked[:quota][-1][0] if quota and ranked else None
        for rank, (value, *_, row) in enumerate(ranked):
            stays[row] = rank < quota or (all_ties and value == last)
    return stays


@settings(max_examples=400)
@given(blocks(), st.booleans(), st.booleans(), st.sampled_from([0, 5, 1000]))
def test_each_group_keeps_its_quota_of_the_first_rows_by_value_then_uid(
    block: dict[str, Any], largest: bool, all_ties: bool, few: int
) -> None:
    np.testing.assert_array_equal(found(block, largest, all_ties, few), sorted_out(block, largest, all_ties))


@given(blocks(), st.integers(1, 7))
def test_how_rows_are_spread_over_shards_does_not_matter(block: dict[str, Any], shards: int) -> None:
    np.testing.assert_array_equal(found(block, True, False, 0, shards), found(block, True, False, 1000, 1))


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=2), st.booleans())
def test_keys_order_as_their_values(values: list[float], largest: bool) -> None:
    array: Array = np.array(values, np.float32)
    key = cut.keys(array, largest)
    before = array[:-1] > array[1:] if largest else array[:-1] < array[1:]
    np.testing.assert_array_equal(key[:-1] < key[1:], before)


def test_minus_zero_ties_with_zero() -> None:
    key = cut.keys(np.array([0.0, -0.0], np.float32), largest=True)
    assert key[0] == key[1]


@pytest.mark.parametrize("quota", [0, 1, 10**12])
def test_many_groups_need_no_more_counters_than_the_budget(quota: int) -> None:
    quotas: I64 = np.full(50_000, quota)
    assert len(quotas) << cut.Search(quotas, 32).bits <= 2 * cut.COUNTERS
