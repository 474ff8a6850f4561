"""How many samples each concept keeps: the projection onto a box-constrained simplex, in whole numbers. METHOD 2.6."""

from __future__ import annotations

import numpy as np

from filters.maths.arrays import F64, I64


def quota(target: F64, members: I64, total: int, balance: float = 0.0) -> I64:
    """The whole numbers nearest to `target` that fit the concepts and sum to `total` exactly.

    target   (k,) float64, share * N
    members  (k,) int64, the cap of each concept
    total    N, 0 <= N <= sum of members
    balance  0: at least one of a concept of two or more; above: at least int(balance * N / k) of each, members - 1 at most
    returns  (k,) int64, the minimum of ||x - target||^2 with lo <= x <= members and sum x = N; ties by concept id
    raises   ValueError where that cannot be
    Source: METHOD 2.6; floor of the box [code], but never below 0, and 0 for all when N < sum lo [ours].
    """
    if not 0 <= total <= members.sum():
        raise ValueError(f"total must be between 0 and the {members.sum()} members, got {total}")
    low = floors(members, total, balance)
    return _whole(project(target, low, members, total), target, low, members, total)


def floors(members: I64, total: int, balance: float = 0.0) -> I64:
    """What each concept keeps at least: (k,) int64."""
    if not 0 <= balance <= 1:
        raise ValueError(f"balance must be between 0 and 1, got {balance}")
    least = int(balance * total / len(members)) if balance else 1
    low = np.maximum(0, np.minimum(least, members - 1))
    return low if low.sum() <= total else np.zeros_like(low)


def project(target: F64, low: I64, high: I64, total: int) -> F64:
    """clip(target + shift, low, high) with the one shift that makes it sum to `total`.

    The sum grows piecewise linearly with the shift, and bends only where a concept leaves its floor or meets its cap: sort
    those 2k places, find the piece that holds `total`, and solve it. O(k log k).
    """
    bends = np.concatenate([low - target, high - target])
    order = np.argsort(bends)  # of equal bends any order: nothing grows between them
    slopes = np.concatenate([np.ones(len(low)), -np.ones(len(high))])[order].cumsum()
    bends = bends[order]
    sums = low.sum() + np.concatenate([[0.0], (slopes[:-1] * np.diff(bends)).cumsum()])
    piece = min(max(int(np.searchsorted(sums, total, side="right")) - 1, 0), len(bends) - 1)
    # On a flat piece the sum is already met: any shift of it gives the same numbers.
    shift = bends[piece] + (total - sums[piece]) / slopes[piece] if slopes[piece] > 0 else bends[piece]
    x: F64 = np.clip(target + shift, low, high)
    return x


def _whole(x: F64, target: F64, low: I64, high: I64, total: int) -> I64:
    """Round down, then hand out what is missing where it costs least (for the projection: the largest remainders)."""
    result = np.floor(x).astype(np.int64)
    while missing := total - int(result.sum()):
        # Rounding in x can leave one too many of a concept: then the same rule takes back.
        step = 1 if missing > 0 else -1
        room = np.flatnonzero(result < high if step > 0 else result > low)
        result[room[_smallest(step * (result[room] - target[room]), abs(missing))]] += step
    return result


def _smallest(cost: F64, count: int) -> I64:
    """Where the `count` smallest are, or all of fewer; of equals the first."""
    if count >= len(cost):
        return np.arange(len(cost))
    last = np.partition(cost, count - 1)[count - 1]
    below = np.flatnonzero(cost < last)
    return np.concatenate([below, np.flatnonzero(cost == last)[: count - len(below)]])
