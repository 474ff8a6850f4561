"""The exact cut: which rows of each group stay, found by counting. DESIGN "The cut".

Rows of a group are ordered by value and, where values are equal, by uid. `Search` narrows down, a few bits a pass, the last
row that stays; counts of a pass add up over shards, so memory does not grow with the pool. `stays` then decides a block of
rows. A row is three words: its value as an unsigned integer of the same order, and the two words of its uid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from filters.maths.arrays import I64, U64, Array, Bool

ONES = np.uint64(0xFFFFFFFFFFFFFFFF)
COUNTERS = 1 << 19  # of one shard's pass: 4 MB
FEW = 1 << 20  # candidates that may be sorted at once


def keys(values: Array, largest: bool) -> U64:
    """Values as words that ascend from the first to stay to the last: (n,) uint64, left-aligned.

    values  (n,) float32, float64 or an integer type; finite; -0.0 equals 0.0
    """
    width = 8 * values.dtype.itemsize
    if values.dtype.kind == "f":
        bits = (values + 0).view(f"u{values.dtype.itemsize}").astype(np.uint64)
        sign = np.uint64(1 << (width - 1))
        negative = (bits & sign) != 0
        bits = np.where(negative, ~bits, bits | sign)
    else:
        bits = (
            values.astype(np.int64).view(np.uint64) + np.uint64(1 << (width - 1)) if values.dtype.kind == "i" else values.astype(np.uint64)
        )
    aligned: U64 = (~bits if largest else bits) << np.uint64(64 - width)
    return aligned


@dataclass
class Boundary:
    """The last row of each group that stays."""

    words: U64  # (k, 3) value, uid high, uid low
    some: Bool  # (k,) False: nothing of the group stays


class Search:
    """Finds the boundary that leaves `quota` rows of each group.

    quota      (k,) int64, rows to keep; more than there are keeps all
    width      bits of the value's type
    all_ties   keep every row whose value equals the last one's
    """

    def __init__(self, quota: I64, width: int, all_ties: bool = False) -> None:
        self.need = quota.astype(np.int64)
        self.open = self.need > 0
        self.boundary = Boundary(np.zeros((len(quota), 3), np.uint64), self.open.copy())
        self.last_word = 0 if all_ties else 2
        self.width = width
        self.word, self.known = 0, 0
        self.candidates = -1  # not counted yet

    @property
    def bits(self) -> int:
        """Bits that the next pass finds."""
        affordable = (COUNTERS // max(1, len(self.need))).bit_length() - 1
        return min(max(4, min(16, affordable)), self._word_width() - self.known)

    @property
    def done(self) -> bool:
        return not self.open.any()

    def _word_width(self) -> int:
        return self.width if self.word == 0 else 64

    def matches(self, group: I64, words: Callable[[int], U64]) -> I64:
        """Rows of a block that are still in question. `words(w)` gives word w of all its rows; called only for words needed."""
        rows: I64 = np.flatnonzero(self.open[group])
        for word in range(self.word):
            rows = rows[words(word)[rows] == self.boundary.words[group[rows], word]]
        if self.known:
            shift = np.uint64(64 - self.known)
            rows = rows[words(self.word)[rows] >> shift == self.boundary.words[group[rows], self.word] >> shift]
        return rows

    def counts(self, group: I64, words: Callable[[int], U64]) -> I64:
        """(k, 2^bits) int64: rows in question by group and by their next bits. Adds up."""
        rows = self.matches(group, words)
        next_bits = (words(self.word)[rows] << np.uint64(self.known)) >> np.uint64(64 - self.bits)
        cell = (group[rows].astype(np.int64) << self.bits) | next_bits.astype(np.int64)
        return np.bincount(cell, minlength=len(self.need) << self.bits).reshape(len(self.need), -1)

    def narrow(self, counts: I64) -> None:
        """Take the summed counts of a pass: choose in each group the bin in which the boundary lies."""
        bits = self.bits
        below = counts.cumsum(axis=1)
        everything = self.open & (below[:, -1] <= self.need)
        self._close(everything, self.known)
        groups = np.flatnonzero(self.open)
        bins = (below[groups] < self.need[groups, None]).sum(axis=1)
        self.need[groups] -= np.where(bins > 0, below[groups, bins - 1], 0)
        self.boundary.words[groups, self.word] |= bins.astype(np.uint64) << np.uint64(64 - self.known - bits)
        inside = counts[groups, bins]
        fits = inside == self.need[groups]
        self.candidates = int(inside[~fits].sum())
        whole = np.zeros_like(self.open)
        whole[groups[fits]] = True
        self._advance(bits, whole)

    def _advance(self, bits: int, whole: Bool) -> None:
        self._close(whole, self.known + bits)
        self.known += bits
        if self.known < self._word_width():
            return
        if self.word == self.last_word:
            self._close(self.open.copy(), self.known)
        self.word, self.known = self.word + 1, 0

    def _close(self, groups: Bool, known: int) -> None:
        """The boundary of these groups is the end of the bin that `known` bits of the word describe."""
        rest = ONES >> np.uint64(known) if known < 64 else np.uint64(0)
        self.boundary.words[groups, self.word] |= rest
        self.boundary.words[groups, self.word + 1 :] = ONES
        self.open &= ~groups

    def finish(self, group: I64, words: U64) -> None:
        """Take all rows still in question: (m,) int64, (m, 3) uint64. Sorts them and reads the boundary off."""
        order = np.lexsort((words[:, 2], words[:, 1], words[:, 0], group))
        starts = np.searchsorted(group[order], np.flatnonzero(self.open))
        last = order[starts + self.need[self.open] - 1]
        self.boundary.words[self.open] = words[last]
        if self.last_word == 0:
            self.boundary.words[self.open, 1:] = ONES
        self.open[:] = False


def stays(boundary: Boundary, group: I64, key: U64, uids: Callable[[I64], U64]) -> Bool:
    """Which rows of a block stay: (n,) bool.

    group  (n,) int64     key  (n,) uint64 from `keys`
    uids   gives (m, 2) uint64 of the rows it is asked for: those that tie with the boundary's value
    """
    last = boundary.words[group]
    result: Bool = boundary.some[group] & (key < last[:, 0])
    tied: I64 = np.flatnonzero(boundary.some[group] & (key == last[:, 0]))
    if len(tied):
        uid, end = uids(tied), last[tied]
        result[tied] = (uid[:, 0] < end[:, 1]) | ((uid[:, 0] == end[:, 1]) & (uid[:, 1] <= end[:, 2]))
    return result
