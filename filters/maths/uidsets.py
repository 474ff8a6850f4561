"""Lists of uids as streams of blocks, of any length: counted, merged, drawn from.

A stream ascends, within its blocks and from one to the next; what it holds more than once is counted. Blocks of all streams are
merged as far as every stream is known, so memory is a few blocks a stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from filters.maths import cut, uids
from filters.maths.arrays import I64, U64, Array, Bool

DRAW = 4  # purpose of the hash by which records are drawn


class Listed(NamedTuple):
    """Different uids, ascending, and how often each is listed."""

    uids: U64  # (m, 2)
    times: I64  # (m,)


NONE = Listed(np.empty((0, 2), np.uint64), np.empty(0, np.int64))


class Window(NamedTuple):
    """What several streams hold of a range of uids. A row: one uid of one stream; rows of a uid lie together, streams ascending."""

    uids: U64  # (m, 2) the different ones, ascending
    starts: I64  # (m,) first row of each
    stream: I64  # (r,)
    times: I64  # (r,)

    @property
    def streams(self) -> I64:
        """(m,) how many streams list it."""
        return np.diff(self.starts, append=len(self.stream))

    @property
    def alone(self) -> Bool:
        """(m,) whether one stream lists it, and no other."""
        return np.asarray(self.streams == 1)

    @property
    def unlike(self) -> Bool:
        """(m,) whether those that list it do so unequally often."""
        return np.asarray(np.minimum.reduceat(self.times, self.starts) != np.maximum.reduceat(self.times, self.starts))


def counted(blocks: Iterable[U64]) -> Iterator[Listed]:
    """Each uid once, and how often it came. Blocks need not last: they are copied."""
    held = NONE  # the last uid: it may come again
    for block in blocks:
        both = np.concatenate([held.uids, block])
        if not len(block):
            continue
        starts = np.flatnonzero(np.concatenate([[True], uids.ascending(both)]))
        times = np.diff(starts, append=len(both))
        times[: len(held.times)] += held.times - 1
        different = both.take(starts, axis=0) if len(starts) < len(both) else both
        held = Listed(different[-1:], times[-1:])
        yield Listed(different[:-1], times[:-1])
    yield held


def expanded(listed: Listed) -> U64:
    """(n, 2) each uid as often as it is listed."""
    if (listed.times == 1).all():
        return listed.uids
    return np.repeat(listed.uids, listed.times, axis=0)


def once(listed: Listed) -> Listed:
    """Each uid listed once."""
    return Listed(listed.uids, np.ones_like(listed.times))


# -- merging


class _Cursor:
    """One stream, and how far it was taken."""

    def __init__(self, stream: Iterator[Listed]) -> None:
        self._stream, self._open, self._block = stream, True, 0
        self._hold(NONE)

    def _hold(self, listed: Listed) -> None:
        self._listed, self._at = listed, 0
        self._high = np.ascontiguousarray(listed.uids[:, 0])

    def filled(self) -> bool:
        """Whether there is something to take: half a block, while the stream goes on, or many streams would make tiny windows."""
        while self._open and 2 * (len(self._high) - self._at) <= self._block:
            listed = next(self._stream, None)
            self._open = listed is not None
            if listed is not None:
                rest = Listed(self._listed.uids[self._at :], self._listed.times[self._at :])
                self._hold(_together([rest, listed]) if len(rest.times) else listed)
                self._block = len(listed.times)
        return self._at < len(self._high)

    @property
    def last(self) -> tuple[int, int]:
        """Up to here the stream is known."""
        high, low = self._listed.uids[-1].tolist()
        return high, low

    def take(self, limit: tuple[int, int]) -> Listed:
        """All up to the limit, the limit included."""
        start, self._at = self._at, len(self._high) if self.last <= limit else self._end(limit)
        return Listed(self._listed.uids[start : self._at], self._listed.times[start : self._at])

    def _end(self, limit: tuple[int, int]) -> int:
        high, low = np.array(limit, np.uint64)
        left, right = (int(np.searchsorted(self._high, high, side=side)) for side in ("left", "right"))
        return left + int(np.searchsorted(self._listed.uids[left:right, 1], low, side="right"))


def _together(parts: list[Listed]) -> Listed:
    """One after the other."""
    return Listed(np.concatenate([part.uids for part in parts]), np.concatenate([part.times for part in parts]))


def merged(streams: Sequence[Iterator[Listed]]) -> Iterator[Window]:
    """The streams side by side, in ascending windows."""
    cursors = [_Cursor(stream) for stream in streams]
    while filled := [(number, cursor) for number, cursor in enumerate(cursors) if cursor.filled()]:
        limit = min(cursor.last for _, cursor in filled)
        yield _window([number for number, _ in filled], [cursor.take(limit) for _, cursor in filled])


def _window(numbers: list[int], parts: list[Listed]) -> Window:
    words, times = _together(parts)
    stream = np.repeat(numbers, [len(part.times) for part in parts])
    # Sorted runs, one after the other: what stable sorts are fast at.
    order = np.argsort(np.ascontiguousarray(words[:, 0]), kind="stable")
    rows = words.take(order, axis=0)
    if uids.descending(rows).any():  # high words that are equal, low words that are not
        order = np.lexsort((words[:, 1], words[:, 0]))
        rows = words.take(order, axis=0)
    starts = np.flatnonzero(np.concatenate([[True], uids.ascending(rows)]))
    return Window(rows.take(starts, axis=0), starts, stream.take(order), times.take(order))


def _where(window: Window, chosen: Bool, times: I64) -> Listed:
    rows = np.flatnonzero(chosen)
    return Listed(window.uids.take(rows, axis=0), times.take(rows))


def in_all(window: Window, streams: int) -> Listed:
    """What each of so many streams lists, as often as the one that lists it least."""
    return _where(window, window.streams == streams, np.minimum.reduceat(window.times, window.starts))


def in_any(window: Window) -> Listed:
    """What any stream lists, as often as the one that lists it most."""
    return Listed(window.uids, np.maximum.reduceat(window.times, window.starts))


def in_one(window: Window) -> Listed:
    """What one stream lists and no other, as often as it does."""
    return _where(window, window.alone, window.times.take(window.starts))


def in_first(window: Window) -> Listed:
    """What the first stream lists and no other, as often as it does."""
    return _where(window, window.alone & (window.stream.take(window.starts) == 0), window.times.take(window.starts))


def joined(window: Window) -> Listed:
    """What any stream lists, as often as all of them together."""
    return Listed(window.uids, np.add.reduceat(window.times, window.starts))


# -- drawing


class TooFew(ValueError):
    """A list has fewer records than were asked for."""


def drawn(stream: Callable[[], Iterable[Listed]], size: int, seed: int) -> Iterator[U64]:
    """`size` records of a list, those of the smallest hash: in ascending blocks, whatever was the order of the list.

    stream  gives the list from its start, each time it is called: three times at most, once of these as the result is taken
    raises  TooFew
    """
    boundary = _boundary(stream, size, seed)
    return (
        records[cut.stays(boundary, np.zeros(len(key), np.int64), key, records.__getitem__)] for records, key in _hashed(stream(), seed)
    )


def _boundary(stream: Callable[[], Iterable[Listed]], size: int, seed: int) -> cut.Boundary:
    search, first = cut.Search(np.array([size]), 64), True
    while not search.done:
        few = 0 <= search.candidates <= cut.FEW
        parts = (_asked(search, records, key, few) for records, key in _hashed(stream(), seed))
        if few:
            rows = np.concatenate(list(parts))
            search.finish(np.zeros(len(rows), np.int64), rows)
            continue
        counts = sum(parts, start=np.zeros((), np.int64))
        if first and counts.sum() < size:
            raise TooFew(f"{counts.sum():,}")
        search.narrow(counts)
        first = False
    return search.boundary


def _asked(search: cut.Search, records: U64, key: U64, few: bool) -> Array:
    """Of a block: the rows still in question when they are few, else their counts."""

    def word(number: int) -> U64:
        return key if number == 0 else records[:, number - 1]

    group = np.zeros(len(key), np.int64)
    if few:
        rows = search.matches(group, word)
        return np.column_stack([key[rows], records[rows]])
    return search.counts(group, word)


def _hashed(stream: Iterable[Listed], seed: int) -> Iterator[tuple[U64, U64]]:
    """Records, (n, 2), and the hash of each, (n,): one that is listed again gets another hash."""
    for listed in stream:
        records = expanded(listed)
        again = np.arange(len(records)) - np.repeat(listed.times.cumsum() - listed.times, listed.times)
        yield records, uids.mixed(uids.hashed(records, seed, DRAW) + again.astype(np.uint64))
