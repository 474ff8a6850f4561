"""What became of each uid of a subset, by names that are few: a byte or two a uid, however many there are."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np

from filters.maths import uids
from filters.maths.arrays import I64, U64, Array, Bool
from tools.images.kinds import kind_of, may_pass
from tools.images.shards import Answers

OUTSIDE, ARRIVED, ASKED = "not in the pool", "arrived", "asked"
REFUSED, FAILED = "refused: ", "failed: "
BLOCK = 1 << 16


class Fates:
    """Of (n, 2) uids, ascending, each once."""

    def __init__(self, words: U64) -> None:
        self.uids = words
        self._names = [OUTSIDE, ARRIVED, ASKED]
        self._codes: Array = np.zeros(len(words), np.int16)

    def _code(self, name: str) -> int:
        if name not in self._names:
            self._names.append(name)
        return self._names.index(name)

    def find(self, words: U64) -> I64:
        """(m,) where each stands; -1 where it is not of the subset."""
        return uids.find(self.uids, words)

    def refuse(self, at: int, why: str) -> None:
        self._codes[at] = self._code(REFUSED + why)

    def ask(self, at: I64) -> None:
        """Until an answer is heard there is none."""
        self._codes[at] = self._code(ASKED)

    def hear(self, answers: Answers) -> None:
        """A later answer counts, but what has arrived is there."""
        at = self.find(answers.uids)
        self._codes[at[answers.arrived & (at >= 0)]] = self._code(ARRIVED)
        for row in np.flatnonzero(~answers.arrived & (at >= 0)):
            if self._codes[at[row]] != self._code(ARRIVED):
                self._codes[at[row]] = self._code(FAILED + kind_of(answers.errors[row]))

    def _of(self, wanted: Callable[[str], object]) -> Bool:
        """(n,) those of a name that is wanted."""
        chosen = np.array([bool(wanted(name)) for name in self._names])
        result: Bool = chosen[self._codes]
        return result

    def open(self) -> Bool:
        """(n,) those whose url is to be asked: of which nothing is known, or that failed in a way that may pass."""
        return self._of(lambda name: name == OUTSIDE or _for_now(name))

    def failed_for_now(self) -> Bool:
        """(n,) those that may come if they are asked for again."""
        return self._of(_for_now)

    def missing(self) -> Iterator[U64]:
        """Those that have not arrived, ascending."""
        for begin in range(0, len(self.uids), BLOCK):
            yield self.uids[begin : begin + BLOCK][self._codes[begin : begin + BLOCK] != self._code(ARRIVED)]

    def counts(self) -> Counter[str]:
        """How many there are of each name."""
        found = np.bincount(self._codes, minlength=len(self._names))
        return Counter({name: int(count) for name, count in zip(self._names, found, strict=True) if count})

    def unanswered(self) -> int:
        """How many were asked for, and nothing is heard of them yet."""
        return self.counts()[ASKED]


def _for_now(name: str) -> bool:
    return name == ASKED or (name.startswith(FAILED) and may_pass(name.removeprefix(FAILED)))


def by_kind(counts: Counter[str], prefix: str) -> list[tuple[str, int]]:
    """Most frequent first."""
    found = [(re.sub(f"^{prefix}", "", name), count) for name, count in counts.items() if name.startswith(prefix)]
    return sorted(found, key=lambda one: (-one[1], one[0]))
