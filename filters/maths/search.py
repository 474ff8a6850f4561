"""The nearest of k centroids: all compared, or, of very many, in two levels. METHOD 2.2, 3.

Two levels: a row is compared with COARSER times fewer coarse centroids, made of the centroids themselves, then with the NEAR
centroids that lie nearest to its coarse one. So the centroids alone say where a row belongs, and most rows (above 99.5 % where it
was measured) go to the nearest of all. Every product has a fixed shape: a row's numbers depend on no other row. `split` has
the same for a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from filters.maths.arrays import F32, I64, Array
from filters.maths.blocks import BLOCK, first_largest, measured, nearest, padded

if TYPE_CHECKING:
    from torch import Tensor

TWO_LEVELS = 6000  # centroids from which on: about 50 million samples at SemDeDup's cheapest number. METHOD 3
COARSER = 10
NEAR = 256
TOGETHER = 32  # rows of one cell that are multiplied at a time
CHUNK = 1 << 16  # rows that two levels like to get at once: enough of each cell


class Found(NamedTuple):
    labels: I64  # (n,)
    cosines: F32  # (n,) NaN for a row that is not finite or all zero, whose label means nothing


class Search(Protocol):
    """Finds centroids for rows: (n, d) float16, float32 or float64, n at least 1."""

    size: int  # rows to ask for at once

    def __call__(self, raw: Array) -> Found: ...


class Flat:
    """Compares each row with every centroid; of equals the first is taken."""

    size = BLOCK

    def __init__(self, centroids: F32) -> None:
        self._centroids = on_device(centroids, "cpu")

    def __call__(self, raw: Array) -> Found:
        labels, cosines = np.empty(len(raw), np.int64), np.empty(len(raw), np.float32)
        out = None
        for start in range(0, len(raw), BLOCK):
            at = slice(start, start + BLOCK)
            out, lengths, _ = measured(on_device(raw[at], "cpu"), out)
            label, product = nearest(out, self._centroids)
            labels[at], cosines[at] = label.numpy(), (product / lengths).numpy()
        return Found(labels, cosines)


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
                rows, lengths, _ = measured(on_device(raw[at], "cpu"))
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
