"""Rounds in which the rows least aligned with the survivors' variance leave: f^T S f, S the mean of f f^T. METHOD 5, VAS-D.

S is summed in whole numbers, so it is the same in any order and whatever left before. A row's f^T S f is computed in blocks of one
shape, so that it depends on no other row. Survivors' sums only fall: a row whose last known sum, less all that can have left it
since, is beyond the last to leave is not looked at again. Which rows leave is what looking at all of them would give.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from filters.maths.arrays import F32, I64, U64, Array, Bool
from filters.maths.blocks import BLOCK, padded, unit
from filters.maths.search import on_device

if TYPE_CHECKING:
    from torch import Tensor

ONE = 1 << 16  # a unit row's numbers are rounded to this part of one: 2^31 rows then fit in 64 bits
STEP = 16 * BLOCK  # rows that a thread takes at a time
STAYS = 0  # of `left`
NO_ROW = -1


def outer(rows: Tensor) -> I64:
    """(d, d) int64: the exact sum of f f^T of unit rows (n, d) float32, in whole numbers of 1 / ONE^2; adds up."""
    import torch

    total = np.zeros((rows.shape[1], rows.shape[1]), np.int64)
    for part in torch.split(rows, STEP):
        whole = (part * ONE).round_().to(torch.float64)
        total += (whole.T @ whole).cpu().numpy().astype(np.int64)  # exact: below 2^53
    return total


def variance(sums: I64, count: int) -> F32:
    """S = sum f f^T / n: (d, d) float32."""
    mean: F32 = (sums / (count * float(ONE) ** 2)).astype(np.float32)
    return mean


def aligned(rows: Tensor, of: Tensor) -> Tensor:
    """f^T S f of unit rows: (n, d) and (d, d) float32 -> (n,)."""
    import torch

    found = [((block @ of) * block).sum(dim=1) for block in (padded(rows, start, BLOCK) for start in range(0, len(rows), BLOCK))]
    return torch.cat(found)[: len(rows)]


class Survivors:
    """Rows from which some leave, round after round.

    rows   (m, d) as they lie       uids  (m, 2) uint64, which decide between equals: the smaller stays
    left   (m,) int16: the round in which a row left, STAYS while it has not, NO_ROW for none. Written to
    sums   (d, d) int64 of the rows that have not left; None: to be summed
    """

    def __init__(self, rows: Array, uids: U64, left: Array, workers: int = 1, device: str = "cpu") -> None:
        self.rows, self.uids, self.device = rows, uids, device
        self._threads = ThreadPoolExecutor(workers)
        self.begin(left)

    def begin(self, left: Array, sums: I64 | None = None) -> None:
        """Go on from here."""
        self.left, self.sums = left, sums
        self._most = np.full(len(self.rows), np.inf)  # (m,) sum of (f, f_j)^2 over survivors j when it was last looked at
        self._least = np.full(len(self.rows), -np.inf)  # (m,) that and `_fallen` then: less `_fallen` now, what is left of it
        self._fallen = self._error = 0.0  # the most by which a sum can have fallen since the start; rounding of a sum

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)  # an interruption does not wait for steps under way

    def drop(self, number: int, count: int, first: F32 | None = None) -> int:
        """Let the `count` rows of smallest f^T S f leave in round `number`; gives how many rows were looked at.

        first  S of other rows than the survivors
        """
        live: I64 = np.flatnonzero(self.left == STAYS)
        if self.sums is None:
            self.sums = self._outer(live)
        of = variance(self.sums, len(live)) if first is None else first
        due = live if first is not None else live[self._may_leave(live, count, of)]
        values = self._aligned(due, of)
        if first is None:
            self._most[due] = values * float(len(live))
            self._least[due] = self._most[due] + self._fallen
        out = due[smallest(values, self.uids[due], count)]
        self.left[out] = number
        gone = self._outer(out)
        self.sums = self.sums - gone
        self._fallen += float(np.linalg.norm(gone / float(ONE) ** 2))  # no less than the largest eigenvalue
        return len(due)

    def _may_leave(self, live: I64, count: int, of: F32) -> Bool:
        """Which rows can be among the `count` smallest, whatever rounding did to the known sums and does to those of this round."""
        # |fl(f^T S f) - f^T S f| <= 2 (d + 1) 2^-24 |f|^T |S| |f|, and that is at most the norm of S; taken twice.
        self._error = max(self._error, len(live) * of.shape[0] * 2.0**-22 * float(np.linalg.norm(of)))
        last = np.partition(self._most[live], count - 1)[count - 1]
        return np.asarray(self._least[live] - self._fallen <= last + 4 * self._error)

    def _aligned(self, places: I64, of: F32) -> F32:
        matrix = on_device(of, self.device)
        parts = self._threads.map(lambda at: aligned(self._unit(at), matrix).cpu().numpy(), _steps(places))
        return np.concatenate([np.empty(0, np.float32), *parts])

    def _outer(self, places: I64) -> I64:
        parts = self._threads.map(lambda at: outer(self._unit(at)), _steps(places))
        return sum(parts, start=np.zeros((self.rows.shape[1], self.rows.shape[1]), np.int64))

    def _unit(self, places: I64) -> Tensor:
        return unit(on_device(self.rows[places], self.device))[0]


def _steps(places: I64) -> Iterator[I64]:
    return (places[start : start + STEP] for start in range(0, len(places), STEP))


def smallest(values: F32, uids: U64, count: int) -> I64:
    """Where the `count` smallest values are; of equals those of the largest uids. (n,) float32, (n, 2) uint64."""
    last = np.partition(values, count - 1)[count - 1]
    below, tied = np.flatnonzero(values < last), np.flatnonzero(values == last)
    order = np.lexsort((uids[tied, 1], uids[tied, 0]))[::-1]
    return np.concatenate([below, tied[order[: count - len(below)]]])


def per_round(start: int, target: int, rounds: int) -> list[int]:
    """How many leave in each round: ceil((start - target) / rounds), the last as many as are left. METHOD 5 [code].

    Rounds after the one that reaches the target, which the ceiling can leave, have none [ours; code: fails].
    """
    missing = start - target
    each = max(1, -(-missing // rounds))
    return [min(each, missing - begin) for begin in range(0, missing, each)]
