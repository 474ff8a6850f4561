"""Largest similarity of each row to an earlier row of its cluster. METHOD 3.

Arrays in, arrays out. Small clusters are padded and multiplied many at a time; large ones in blocks of the lower triangle, so
memory is O(n + KEPT * block * d), not O(n * n). Rows stay in the type they came in and become unit rows a block at a time; on a
GPU float16 rows are multiplied as they lie, and the products divided by their lengths.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from filters.maths.arrays import F32, I64, Array
from filters.maths.blocks import BLOCK, first_largest, unit
from filters.maths.device import Lane, lane, lengths, products, shared, step_rows

if TYPE_CHECKING:
    from torch import Tensor

SMALL = (16, 32, 48, 64, 96, 128, 192, 256)  # sizes that clusters are padded to, BLOCK rows of them at a time
KEPT = 16  # unit blocks of a large cluster that are not made again for every later block: 25 MB at d = 768
KEPT_BYTES = 256 << 20  # on a GPU, of each thread
LARGEST = 4096  # rows of a block there

Found = tuple[I64, F32, I64]  # places in `order`, their similarities, and the places that gave them


def earlier_max(rows: Array, order: I64, ends: I64, device: str = "cpu") -> tuple[F32, I64]:
    """M[i] = max over j before i in its cluster of cos(x_i, x_j), and the first j that gives it.

    rows     (m, d) float16 or float32, finite and not zero
    order    (n,) int64 row numbers: cluster after cluster, each in its own order
    ends     (c + 1,) int64 ascending: cluster number a is order[ends[a]:ends[a + 1]]
    returns  by place in `order`: (n,) float32, 0 for a cluster's first row and where every earlier row is at a right angle or
             farther; (n,) int64 the place of j, -1 there
    Source: METHOD 3; never below 0 [code]. How a cluster is multiplied follows from its size alone, so that its numbers do too.
    """
    if device == "cpu":
        return _all_found(_Units(rows, order), ends)
    with lane(device) as mine:
        return _all_found(_Sent(rows, order, mine), ends)


def _all_found(units: _Units, ends: I64) -> tuple[F32, I64]:
    similarity, of = np.zeros(len(units.order), np.float32), np.full(len(units.order), -1, np.int64)
    for places, best, at in _found(units, ends):
        similarity[places], of[places] = best, at
    return similarity, of


class _Units:
    """Rows by their places in `order`, as unit rows; good until the next are asked for, unless copied."""

    device = "cpu"
    together = BLOCK  # rows of small clusters that are multiplied at a time

    def __init__(self, rows: Array, order: I64) -> None:
        self.rows, self.order = rows, order
        self._raw: Array = np.empty((0, rows.shape[1]), rows.dtype)
        self._out: Tensor | None = None

    def at(self, places: I64) -> Tensor:
        """(len(places), d) float32."""
        import torch

        if len(self._raw) != len(places):
            self._raw = np.empty((len(places), self.rows.shape[1]), self.rows.dtype)
        self.take(places, self._raw)
        self._out, _ = unit(torch.from_numpy(self._raw), self._out)
        return self._out

    def take(self, places: I64, out: Array) -> None:
        np.take(self.rows, self.order[places], axis=0, out=out, mode="clip")  # clip: numpy then writes straight into `out`

    def block(self, start: int, stop: int, size: int) -> Tensor:
        """(size, d) of the places from `start` on; after `stop` the last one again."""
        return self.at(np.minimum(np.arange(start, start + size), stop - 1))

    def plan(self, count: int) -> tuple[int, int]:
        """Rows of a block of a cluster of `count`, and how many blocks are kept. Small ones waste less on the diagonal, large ones
        multiply faster."""
        return 256 if count <= 1500 else 512, KEPT


class _Sent(_Units):
    """The same on a GPU, but that float16 rows stay as they are."""

    def __init__(self, rows: Array, order: I64, mine: Lane) -> None:
        super().__init__(rows, order)
        self.device, self._lane = mine.device, mine
        self.together = max(SMALL[-1], 1 << (step_rows(rows).bit_length() - 1))

    def at(self, places: I64) -> Tensor:
        import torch

        raw = self._lane.send((len(places), self.rows.shape[1]), self.rows.dtype, lambda out: self.take(places, out))
        return raw if raw.dtype == torch.float16 else unit(raw)[0]

    def plan(self, count: int) -> tuple[int, int]:
        size = min(LARGEST, self.together, max(512, 1 << (count - 1).bit_length()))
        return size, KEPT_BYTES // (4 * size * self.rows.shape[1])


def _cosines(mine: Tensor, theirs: Tensor) -> Tensor:
    """(..., n, d) and (..., m, d) as `at` gives them -> (..., n, m)."""
    import torch

    if mine.dtype != torch.float16:
        return mine @ theirs.transpose(-1, -2)
    return products(mine, theirs).div_(lengths(mine)[..., None]).div_(lengths(theirs)[..., None, :])


def _found(units: _Units, ends: I64) -> Iterator[Found]:
    sizes, least = np.diff(ends), 2
    for size in SMALL:
        chosen = np.flatnonzero((sizes >= least) & (sizes <= size))
        together, least = units.together // size, size + 1
        for begin in range(0, len(chosen), together):
            these = chosen[begin : begin + together]
            yield _of_small(units, ends[these], sizes[these], size)
    for cluster in np.flatnonzero(sizes >= least):
        yield from _of_large(units, int(ends[cluster]), int(ends[cluster + 1]))


def _of_small(units: _Units, starts: I64, sizes: I64, size: int) -> Found:
    """Clusters padded to one size; what they are padded with is later than all of their rows, and so never looked at."""
    within = np.arange(size)
    places = np.zeros((units.together // size, size), np.int64)
    places[: len(starts)] = np.minimum(starts[:, None] + within, len(units.order) - 1)
    held = np.zeros(places.shape, bool)
    held[: len(starts)] = within < sizes[:, None]
    rows = units.at(places.ravel()).view(*places.shape, -1)
    best, at = _largest(_cosines(rows, rows).masked_fill_(_not_earlier(size, units.device), -2))
    found = np.take_along_axis(places, at.reshape(places.shape), axis=1)
    kept = held.ravel()
    return places[held], np.maximum(best, 0)[kept], np.where(best > 0, found.ravel(), -1)[kept]


def _of_large(units: _Units, start: int, stop: int) -> Iterator[Found]:
    """One cluster, block by block."""
    size, most = units.plan(stop - start)
    kept: dict[int, Tensor] = {}
    for begin in range(start, stop, size):
        mine = units.block(begin, stop, size).clone()
        if len(kept) < most:
            kept[begin] = mine
        best, of = np.zeros(size, np.float32), np.full(size, -1, np.int64)
        for other in range(start, begin + size, size):
            theirs = mine if other == begin else kept[other] if other in kept else units.block(other, stop, size)
            cosines = _cosines(mine, theirs)
            if other == begin:
                cosines.masked_fill_(_not_earlier(size, units.device), -2)
            value, at = _largest(cosines)
            of = np.where(value > best, at + other, of)
            best = np.maximum(value, best)
        here = min(size, stop - begin)
        yield np.arange(begin, begin + here), best[:here], of[:here]


def _largest(products: Tensor) -> tuple[F32, I64]:
    """The largest of each row's products, and where it is first: (m,) float32, (m,) int64."""
    flat = products.clamp_(max=1).flatten(0, -2)  # rounding gives copies a little more than 1
    at, best = first_largest(flat)
    return best.cpu().numpy(), at.cpu().numpy()


@shared(8)
def _not_earlier(size: int, device: str) -> Tensor:
    """(size, size) bool: the columns that are no earlier row."""
    import torch

    return torch.ones((size, size), dtype=torch.bool, device=device).triu_()
