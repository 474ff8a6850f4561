"""Which samples each setting keeps, a bit each, and how much two of them have in common."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from filters.maths.arrays import F64, I64, Array
from filters.pool.columns import Rows
from filters.pool.files import room

STEP = 1 << 20  # bytes of bits that are compared at once


class Kept:
    """Subsets of one pool: in memory where --memory_gb allows, else in a file that goes with it."""

    def __init__(self, folder: Path, like: Rows, most: int, memory_gb: float) -> None:
        self._bits: Array = room(folder, (most, sum(map(len, like.bits))), np.dtype(np.uint8), memory_gb * 1e9)
        self._count = 0

    def add(self, rows: Rows | None) -> None:
        """The next one; None where a setting has none."""
        self._bits[self._count] = 0 if rows is None else np.concatenate(rows.bits)
        self._count += 1

    def both(self) -> I64:
        """(n, n) int64 samples that two of them share; on the diagonal their sizes."""
        found = np.zeros((self._count, self._count), np.int64)
        for start in range(0, self._bits.shape[1], STEP):
            block = np.asarray(self._bits[: self._count, start : start + STEP])
            for one, other in itertools.combinations_with_replacement(range(self._count), 2):
                found[one, other] += int(np.bitwise_count(block[one] & block[other]).sum())
        return np.triu(found) + np.triu(found, 1).T


def jaccard(both: I64) -> F64:
    """(n, n) of the samples that one of two has, the share that both have; NaN where neither has any."""
    sizes = np.diag(both)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(both / (sizes[:, None] + sizes - both))


def contained(both: I64) -> F64:
    """(n, n) of the samples that the first has, the share that the second has too."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(both / np.diag(both)[:, None])


def pairs(both: I64) -> Iterator[tuple[int, int]]:
    """Each two that have samples."""
    return itertools.combinations(np.flatnonzero(np.diag(both)).tolist(), 2)
