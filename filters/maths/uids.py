"""128-bit uids: parse, print, order, hash, look up.

Everywhere (n, 2) uint64: high word, low word. A uid is the integer of its hex digits, as DataComp's resharder reads it, so one
of fewer than 32 digits is padded with zeros on the left. METHOD 1.
"""

from __future__ import annotations

import binascii
from collections.abc import Sequence

import numpy as np

from filters.maths.arrays import I64, U8, U64, Array, Bool

DIGITS = 32
SUBSET = np.dtype("u8,u8")  # a record of the uid subset file
MAYBE = np.dtype([("uid", "<u8", (2,)), ("known", "?")])  # a uid, or none


class BadUid(ValueError):
    """A text that is no uid: `row` is where it stands, `said` what is wrong with it."""

    def __init__(self, row: int, text: object) -> None:
        shown = repr(text)
        self.row = row
        self.said = f"uid {shown if len(shown) <= 60 else shown[:59] + '…'} is not 1 to {DIGITS} hexadecimal digits"
        super().__init__(f"row {row}: {self.said}")


def parse(data: bytes | memoryview, ends: I64) -> U64:
    """The uids of texts that lie one after the other.

    data     ASCII hex digits
    ends     (n + 1,) int64: text i is data[ends[i]:ends[i + 1]]
    returns  (n, 2) uint64
    raises   BadUid for a text that is empty, longer than 32 digits or not hexadecimal
    """
    lengths = np.diff(ends)
    wrong = np.flatnonzero((lengths < 1) | (lengths > DIGITS))
    if len(wrong):
        raise BadUid(int(wrong[0]), _text(data, ends, int(wrong[0])))
    text = data[ends[0] : ends[-1]] if (lengths == DIGITS).all() else _padded(data, ends)
    try:
        packed = binascii.unhexlify(text)
    except ValueError:
        raise _first_bad(data, ends) from None
    return np.frombuffer(packed, ">u8").reshape(-1, 2).astype(np.uint64)


def _text(data: bytes | memoryview, ends: I64, row: int) -> str:
    return bytes(data[ends[row] : ends[row + 1]]).decode(errors="replace")


def _padded(data: bytes | memoryview, ends: I64) -> bytes:
    lengths = np.diff(ends)
    digits = np.frombuffer(data, np.uint8)[ends[0] : ends[-1]]
    result: U8 = np.full((len(lengths), DIGITS), ord("0"), np.uint8)
    result[np.arange(DIGITS) >= DIGITS - lengths[:, None]] = digits
    return result.tobytes()


def _first_bad(data: bytes | memoryview, ends: I64) -> BadUid:
    hexadecimal = set("0123456789abcdefABCDEF")
    texts = ((row, _text(data, ends, row)) for row in range(len(ends) - 1))
    return next(BadUid(row, text) for row, text in texts if not set(text) <= hexadecimal)


def from_texts(texts: Sequence[object]) -> U64:
    """(n, 2) uint64 of n texts; raises BadUid, also for what is no text."""
    data = [_bytes(row, text) for row, text in enumerate(texts)]
    return parse(b"".join(data), np.cumsum([0, *map(len, data)], dtype=np.int64))


def _bytes(row: int, text: object) -> bytes:
    if not isinstance(text, str) or not text.isascii():
        raise BadUid(row, text)
    return text.encode()


def big_endian(uids: U64) -> bytes:
    """16 bytes a uid, high byte first."""
    return np.ascontiguousarray(uids, dtype=">u8").tobytes()


def to_texts(uids: U64) -> list[str]:
    """32 hex digits a uid."""
    digits = big_endian(uids).hex()
    return [digits[at : at + DIGITS] for at in range(0, len(digits), DIGITS)]


def order(uids: U64) -> I64:
    """The permutation that sorts uids ascending; equal uids keep their order."""
    high = np.ascontiguousarray(uids[:, 0])
    first: I64 = np.argsort(high)  # not stable, and four times as fast
    ranked = high[first]
    again = ranked[1:] == ranked[:-1]
    if not again.any():
        return first
    # Random uids share a high word once in a blue moon: only those runs need the low word.
    tied = np.flatnonzero(np.concatenate([[False], again]) | np.concatenate([again, [False]]))
    rows = first[tied]
    first[tied] = rows[np.lexsort((rows, uids[rows, 1], uids[rows, 0]))]
    return first


def order_of_many(uids: U64) -> I64:
    """A permutation that sorts uids ascending, equal ones in any order, in 50 bytes a uid beside them, however many are equal."""
    first: I64 = np.argsort(uids[:, 0])
    if not _falls(uids[:, 0].take(first), uids[:, 1].take(first)):
        return first
    first = np.argsort(uids[:, 1])
    return first.take(np.argsort(uids[:, 0].take(first), kind="stable"))


def _falls(high: U64, low: U64) -> bool:
    """Whether a low word is followed by a smaller one of the same high word."""
    return bool(((high[1:] == high[:-1]) & (low[1:] < low[:-1])).any())


def ascending(uids: U64) -> Bool:
    """(n - 1,) whether each uid is followed by a larger one."""
    high, low = uids[:, 0], uids[:, 1]
    result: Bool = (high[:-1] < high[1:]) | ((high[:-1] == high[1:]) & (low[:-1] < low[1:]))
    return result


def descending(uids: U64) -> Bool:
    """(n - 1,) whether each uid is followed by a smaller one."""
    return ascending(uids[::-1])[::-1]


def find(table: U64, uids: U64) -> I64:
    """Where each uid stands in an ascending table without repetition: (n,) int64, -1 where it does not."""
    at = np.searchsorted(table[:, 0], uids[:, 0], side="left")
    end = np.searchsorted(table[:, 0], uids[:, 0], side="right")
    last = end
    # Binary search by the low word inside each run of equal high words: one step for random uids.
    while (open_ := at < end).any():
        middle = (at + end) // 2
        below = open_ & (table[np.minimum(middle, len(table) - 1), 1] < uids[:, 1])
        at, end = np.where(below, middle + 1, at), np.where(open_ & ~below, middle, end)
    found = at < last
    found[found] = table[at[found], 1] == uids[found, 1]
    return np.where(found, at, -1)


def hashed(uids: U64, seed: int, purpose: int) -> U64:
    """A random-looking number of each uid: (n,) uint64, another one for each seed and purpose.

    Draws take the smallest: then they depend on no order of rows or shards.
    """
    start = mixed(mixed(np.array([seed % 2**64], np.uint64)) + np.uint64(purpose))
    return mixed(mixed(uids[:, 0] + start) ^ uids[:, 1])


def mixed(words: Array) -> U64:
    """The finaliser of splitmix64: a bijection of 64-bit words."""
    words = np.asarray(words, np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    words ^= words >> np.uint64(31)
    return words
