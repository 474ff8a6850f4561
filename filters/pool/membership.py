"""How much of a list of uids is in a pool: both in order, side by side, whatever their length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from filters.maths import uids
from filters.maths.arrays import U64
from filters.maths.uidsets import Window, counted, merged
from filters.pool.columns import read_uids
from filters.pool.pool import Pool
from filters.pool.uidfiles import Pulse
from filters.pool.uidsort import InOrder


@dataclass
class Membership:
    """What a list and a pool have in common."""

    uids: int = 0  # different ones of the list
    records: int = 0  # of the list
    found: int = 0  # of the different ones, in the pool
    strange: int = 0  # records that are not
    first_strange: int = 0  # the first of these, in ascending order, counted from zero
    strange_uid: str = ""  # and its uid

    def add(self, window: Window) -> None:
        mine = window.stream.take(window.starts) == 0
        times, strange = window.times.take(window.starts)[mine], window.alone[mine]
        if strange.any() and not self.strange:
            first = int(strange.argmax())
            self.first_strange = self.records + int(times[:first].sum())
            self.strange_uid = uids.to_texts(window.uids[mine][first : first + 1])[0]
        self.uids += len(times)
        self.records += int(times.sum())
        self.found += int((~strange).sum())
        self.strange += int(times[strange].sum())


def compared(listed: InOrder, pool: InOrder, pulse: Pulse) -> Membership:
    found = Membership()
    for window in merged([listed.read(pulse), pool.read(pulse)]):
        found.add(window)
    return found


def swapped(listed: InOrder, pulse: Pulse) -> InOrder:
    """The first uids of a list with high and low word in each other's place: of a list written so, these are in the pool."""
    words = np.concatenate([part.uids for part in islice(listed.read(pulse), 2)])[:, ::-1]
    words = words[uids.order(words)]
    return InOrder(words.nbytes, lambda pulse: counted([words]))


def pool_uids(pool: Pool, pulse: Pulse) -> Iterator[U64]:
    """Of a shard after the other, as they lie."""
    for shard in pool.shards:
        words = read_uids(shard, lambda size: None)
        yield words
        pulse(words.nbytes)
