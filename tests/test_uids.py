"""uids are the integers of their hex digits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters.maths import uids
from filters.maths.arrays import U64

integers = st.one_of(st.integers(0, 2**128 - 1), st.integers(0, 3), st.integers(2**64, 2**64 + 3))


def words(numbers: list[int]) -> U64:
    return np.array([[number >> 64, number & (2**64 - 1)] for number in numbers], np.uint64).reshape(-1, 2)


@given(st.lists(st.tuples(integers, st.sampled_from(["x", "X", "032x", "032X"]))))
def test_a_uid_is_read_as_int_of_base_16_with_or_without_leading_zeros(told: list[tuple[int, str]]) -> None:
    np.testing.assert_array_equal(uids.from_texts([format(number, form) for number, form in told]), words([number for number, _ in told]))


@given(st.lists(integers))
def test_a_uid_is_printed_with_32_digits(numbers: list[int]) -> None:
    assert uids.to_texts(words(numbers)) == [f"{number:032x}" for number in numbers]


@given(st.lists(integers))
def test_uids_sort_as_128_bit_numbers(numbers: list[int]) -> None:
    assert [numbers[row] for row in uids.order(words(numbers))] == sorted(numbers)


@given(st.sets(integers), st.lists(integers))
def test_a_uid_is_found_in_a_table_when_it_is_there(table: set[int], asked: list[int]) -> None:
    ascending = sorted(table)
    expected = [ascending.index(number) if number in table else -1 for number in asked]
    assert uids.find(words(ascending), words(asked)).tolist() == expected


@pytest.mark.parametrize("text", ["", "g" * 32, "0x" + "0" * 30, "1" * 33, " " + "1" * 31, "1_0", "+1", "é" * 16])
def test_a_text_that_is_no_uid_is_named_by_its_row(text: str) -> None:
    with pytest.raises(uids.BadUid, match="row 2"):
        uids.from_texts(["0" * 32, "f", text, "zz"])


@given(st.lists(integers, min_size=1, unique=True))
def test_hashes_are_of_the_uid_alone_and_differ_by_seed_and_purpose(numbers: list[int]) -> None:
    table = words(numbers)
    hashed = uids.hashed(table, 1234, 2)
    np.testing.assert_array_equal(uids.hashed(table[::-1], 1234, 2), hashed[::-1])
    assert len(set(hashed.tolist())) == len(numbers)
    assert (uids.hashed(table, 1235, 2) != hashed).all()
    assert (uids.hashed(table, 1234, 3) != hashed).all()
