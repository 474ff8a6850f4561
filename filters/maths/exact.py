"""The centroid of largest inner product, all compared, however many; rows and centroids as they lie. METHOD 4 (`image_based`).

What `torch.argmax` of float32 products gives: of equals the first; and for a row that is not finite the first whose product is
not a number, else the first of the largest. Another BLAS rounds sums another way: where two centroids are equally near but for
rounding, another machine may find the other one, as DataComp's own code may on another GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from filters.maths.arrays import F32, I64, Array, Bool
from filters.maths.blocks import TILE, largest_of, nearest
from filters.maths.device import STEP, lane
from filters.maths.search import on_device

if TYPE_CHECKING:
    from torch import Tensor

Watch = Callable[[int], None]


class Exact:
    """Finds labels for rows, (n, d) float16, float32 or float64, n at least 1: (n,) int64."""

    size = STEP  # rows to ask for at once

    def __init__(self, centroids: F32, device: str) -> None:
        self.device, self._table = device, on_device(centroids, device)

    def __call__(self, raw: Array) -> I64:
        found = self._on_cpu(raw) if self.device == "cpu" else self._sent(raw)
        labels, products = (part[: len(raw)].cpu().numpy() for part in found)
        for at in np.flatnonzero(~np.isfinite(products)):  # tiles are merged as if every product were a number
            labels[at] = (self._table @ on_device(raw[at : at + 1], self.device).float()[0]).argmax()
        return labels

    def _on_cpu(self, raw: Array) -> tuple[Tensor, Tensor]:
        return nearest(on_device(raw, "cpu").float(), self._table)

    def _sent(self, raw: Array) -> tuple[Tensor, Tensor]:
        import torch

        with lane(self.device) as mine:
            steps = [self._of_step(step.float()) for step in mine.steps(raw)]
        labels, products = zip(*steps, strict=True)
        return torch.cat(labels), torch.cat(products)

    def _of_step(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return largest_of(rows @ self._table[start : start + TILE].T for start in range(0, len(self._table), TILE))


def met(rows: Array, find: Exact, k: int, workers: int, watch: Watch) -> Bool:
    """(k,) the centroids that are the nearest one of at least one row.

    rows   (n, d); read a step at a time, so they may lie in a file
    watch  called with the rows seen after each step
    """
    found = np.zeros(k, bool)
    threads = ThreadPoolExecutor(workers)
    try:
        for labels in threads.map(lambda start: find(np.array(rows[start : start + find.size])), range(0, len(rows), find.size)):
            found[labels] = True
            watch(len(labels))
    finally:
        threads.shutdown(wait=False, cancel_futures=True)  # an interruption does not wait for steps under way
    return found
