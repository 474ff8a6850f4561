"""The nearest of k centroids: all compared, or, of very many, in two levels. METHOD 2.2, 3.

Two levels: a row is compared with COARSER times fewer coarse centroids, made of the centroids themselves, then with the NEAR
centroids that lie nearest to its coarse one. So the centroids alone say where a row belongs, and most rows (above 99.5 % where it
was measured) go to the nearest of all. Every product has a fixed shape: a row's numbers depend on no other row. `split` has
the same for a GPU.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from filters.maths.arrays import F32, I64, Array
from filters.maths.blocks import BLOCK, TILE, first_largest, measured, nearest, padded

if TYPE_CHECKING:
    from torch import Tensor

TWO_LEVELS = 6000  # centroids from which on: about 50 million samples at SemDeDup's cheapest number. METHOD 3
COARSER = 10
NEAR = 256
TOGETHER = 32  # rows of one cell that are multiplied at a time
CHUNK = 1 << 16  # rows that two levels like to get at once: enough of each cell


def coarse_count(k: int) -> int:
    """Coarse centroids of a search among k; 0 where all are compared."""
    return k // COARSER if k >= TWO_LEVELS else 0


class Found(NamedTuple):
    labels: I64  # (n,)
    cosines: F32  # (n,) NaN for a row that is not finite or all zero, whose label means nothing


class Search(Protocol):
    """Finds centroids for rows: (n, d) float16, float32 or float64, n at least 1."""

    size: int  # rows to ask for at once

    def __call__(self, raw: Array) -> Found: ...


class Flat:
    """Compares each row with every centroid; of equals the first is taken."""

    size = 2 * BLOCK

    def __init__(self, centroids: F32) -> None:
        self._centroids = on_device(centroids, "cpu")
        self._find = self._of_few if len(centroids) <= TILE else self._of_many

    def __call__(self, raw: Array) -> Found:
        labels, cosines = np.empty(len(raw), np.int64), np.empty(len(raw), np.float32)
        for start in range(0, len(raw), self.size):
            at = slice(start, start + self.size)
            labels[at], cosines[at] = self._find(on_device(raw[at], "cpu"))
        return Found(labels, cosines)

    def _of_many(self, raw: Tensor) -> tuple[I64, F32]:
        rows, lengths = measured(raw, _desk(self.size, raw.shape[1], 1).rows[: len(raw)])
        label, product = nearest(rows, self._centroids)
        return label.numpy(), (product / lengths).numpy()

    def _of_few(self, raw: Tensor) -> tuple[I64, F32]:
        """As `nearest`, in the fewest calls: threads hand on Python's lock at each, which took a third of the time."""
        import torch

        desk, n, across = _desk(self.size, raw.shape[1], len(self._centroids)), len(raw), self._centroids.T
        _, lengths = measured(raw, desk.rows[:n])
        if n % BLOCK:
            desk.rows[n:].zero_()
        for rows, products in desk.blocks[: -(-n // BLOCK)]:
            torch.mm(rows, across, out=products)
        label = desk.products[:n].argmax(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return label, desk.products[desk.at[:n], label] / lengths.numpy()


class _Desk:
    """What a thread writes over again and again: fresh memory costs more than what is done with it."""

    def __init__(self, size: int, width: int, k: int) -> None:
        import torch

        self.shape, self.rows, products = (size, width, k), torch.zeros(size, width), torch.empty(size, k)
        self.blocks = list(zip(torch.split(self.rows, BLOCK), torch.split(products, BLOCK), strict=True))
        self.products, self.at = products.numpy(), np.arange(size)


_own = threading.local()


def _desk(size: int, width: int, k: int) -> _Desk:
    """This thread's."""
    desk: _Desk | None = getattr(_own, "desk", None)
    if desk is None or desk.shape != (size, width, k):
        desk = _own.desk = _Desk(size, width, k)
    return desk


class Levels(NamedTuple):
    """What a search in two levels goes by; both empty where all centroids are compared."""

    coarse: F32  # (c, d)
    near: I64  # (c, NEAR) the centroids nearest to each coarse one, ascending


class Cells:
    """Compares each row with every coarse centroid, then with the centroids near the one that it is nearest to."""

    size = CHUNK

    def __init__(self, centroids: F32, levels: Levels) -> None:
        self._centroids, self._coarse = on_device(centroids, "cpu"), Flat(levels.coarse)
        self._near = levels.near

    def __call__(self, raw: Array) -> Found:
        cells, _ = self._coarse(raw)
        labels, cosines = np.empty(len(raw), np.int64), np.empty(len(raw), np.float32)
        for cell, members in _grouped(cells):
            near = self._near[cell]
            table = self._centroids[on_device(near, "cpu")].T
            for start in range(0, len(members), TOGETHER):
                at = members[start : start + TOGETHER]
                rows, lengths = measured(on_device(raw[at], "cpu"))
                label, product = first_largest(padded(rows, 0, TOGETHER) @ table)
                labels[at] = near[label[: len(at)].numpy()]
                cosines[at] = (product[: len(at)] / lengths).numpy()
        return Found(labels, cosines)


def nearest_to(coarse: F32, centroids: F32, device: str = "cpu") -> I64:
    """(c, NEAR) int64: of each coarse centroid the centroids nearest to it, ascending, so that of equals the first is found."""
    import torch

    table, width = on_device(centroids, device).T, min(NEAR, len(centroids))
    blocks = (padded(on_device(coarse, device), start, TOGETHER) @ table for start in range(0, len(coarse), TOGETHER))
    near: I64 = torch.cat([products.topk(width, dim=1).indices for products in blocks])[: len(coarse)].sort(dim=1).values.cpu().numpy()
    return near


def _grouped(cells: I64) -> Iterator[tuple[int, I64]]:
    """Each cell that has rows, and the rows."""
    order = np.argsort(cells, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(cells[order])) + 1):
        if len(members):
            yield int(cells[members[0]]), members


def on_device(array: Array, device: object) -> Tensor:
    import torch

    return torch.from_numpy(np.ascontiguousarray(array)).to(torch.device(str(device)))
