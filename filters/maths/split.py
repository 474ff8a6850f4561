"""The searches of `search` on a GPU: the same rules, so the same labels but for ties. METHOD 2.2, 3.

float16 rows are multiplied as they lie, centroids in two float16 parts that together hold 22 bits of each number, all products
exact and added up in float32. Wider rows are made unit rows and multiplied in float32.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from filters.maths.arrays import F32, I64, Array
from filters.maths.blocks import TILE, first_largest, largest_of, measured
from filters.maths.device import Lane, lane, lengths, products, step_rows
from filters.maths.search import CHUNK, NEAR, TOGETHER, Found, Levels, on_device

if TYPE_CHECKING:
    from torch import Tensor

SCALE = 2048  # of the second part, or it would be too small for float16
GROUPS = 256  # of rows of one cell, that are multiplied at a time
HELD_BYTES = 256 << 20  # rows of a search in two levels that lie on the device, a lane
TABLE_BYTES = 128 << 20  # and centroids gathered for groups of them


def parts(centroids: Tensor) -> Tensor:
    """(k, d) float32 -> (k, 2, d) float16: a centroid is the first part and 1 / SCALE of the second."""
    import torch

    first = centroids.to(torch.float16)
    return torch.stack([first, ((centroids - first) * SCALE).to(torch.float16)], dim=1)


def joined(rows: Tensor, table: Tensor) -> Tensor:
    """Inner products with centroids in p parts, 2 or, of float32, 1: (..., n, d) and (..., m, p, d) give (..., n, m) float32."""
    import torch

    of_parts = products(rows, table.flatten(-3, -2)).view(*rows.shape[:-1], *table.shape[-3:-1])
    return of_parts[..., 0] if table.shape[-2] == 1 else torch.add(of_parts[..., 0], of_parts[..., 1], alpha=1 / SCALE)


def multiplied(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Rows as they are multiplied, and what their products are divided by. NaN or infinite where a row is not finite or all zero."""
    import torch

    return (raw, lengths(raw)) if raw.dtype == torch.float16 else measured(raw)


class Split:
    """Compares each row with every centroid; of equals the first is taken."""

    size = CHUNK // 2

    def __init__(self, centroids: F32, device: str) -> None:
        self.device = device
        self._whole = on_device(centroids, device)
        self._parts = parts(self._whole)

    def __call__(self, raw: Array | Tensor) -> Found:
        with lane(self.device) as mine:
            return _brought(map(self.nearest, mine.steps(raw)), len(raw))

    def nearest(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Labels and cosines of one step's rows."""
        rows, divisors = multiplied(raw)
        table = self.table(raw)
        label, product = largest_of(joined(rows, table[start : start + TILE]) for start in range(0, len(table), TILE))
        return label, product / divisors

    def table(self, raw: Tensor) -> Tensor:
        """The centroids as such rows are multiplied with them: (k, p, d)."""
        import torch

        return self._parts if raw.dtype == torch.float16 else self._whole[:, None]


class SplitCells:
    """Compares each row with every coarse centroid, then with the centroids near the one that it is nearest to."""

    size = CHUNK

    def __init__(self, centroids: F32, levels: Levels, device: str) -> None:
        self._coarse, self._fine = Split(levels.coarse, device), Split(centroids, device)
        self._near = on_device(levels.near, device)

    def __call__(self, raw: Array | Tensor) -> Found:
        size = min(self.size, max(1, HELD_BYTES // (raw.dtype.itemsize * raw.shape[1])))
        with lane(self._fine.device) as mine:
            found = [self._found(held(raw[start : start + size], mine), mine) for start in range(0, len(raw), size)]
        return Found(*map(np.concatenate, zip(*found, strict=True)))

    def _found(self, rows: Tensor, mine: Lane) -> Found:
        """Of rows on the device."""
        import torch

        coarse = _brought(map(self._coarse.nearest, mine.steps(rows)), len(rows))
        together = max(1, min(GROUPS, TABLE_BYTES // (4 * NEAR * rows.shape[1])))
        cells, places = grouped(coarse.labels, together)
        batches = zip(*(torch.split(on_device(of, self._fine.device), together) for of in (cells, places)), strict=True)
        fine = _brought((self._of_groups(rows, *batch) for batch in batches), places.size)
        labels, cosines, real = np.empty(len(rows), np.int64), np.empty(len(rows), np.float32), places >= 0
        labels[places[real]], cosines[places[real]] = fine.labels[real.ravel()], fine.cosines[real.ravel()]
        return Found(labels, cosines)

    def _of_groups(self, rows: Tensor, cells: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Of g groups of rows, TOGETHER in each, that have a cell in common."""
        near = self._near[cells]  # (g, NEAR)
        members, divisors = multiplied(rows[places.flatten()])
        table = self._fine.table(rows)[near]  # (g, NEAR, p, d)
        at, product = first_largest(joined(members.view(*places.shape, -1), table).flatten(0, 1))
        return near.gather(1, at.view(places.shape)).flatten(), product / divisors


def held(raw: Array | Tensor, mine: Lane) -> Tensor:
    """All rows on the device."""
    import torch

    if isinstance(raw, torch.Tensor):
        return raw
    steps = mine.steps(raw)
    whole = torch.empty(raw.shape, dtype=torch.from_numpy(raw[:0]).dtype, device=mine.device)
    for part, step in zip(torch.split(whole, step_rows(raw)), steps, strict=True):
        part.copy_(step[: len(part)])
    return whole


def grouped(cells: I64, together: int) -> tuple[I64, I64]:
    """Rows of one cell, TOGETHER in a group: (g,) the cell of each group; (g, TOGETHER) its rows, -1 where it has fewer.

    g is a multiple of `together`; groups without rows fill it up.
    """
    sizes = np.bincount(cells)
    groups = -(-sizes // TOGETHER)
    order = np.argsort(cells, kind="stable")
    moved = (groups.cumsum() - groups) * TOGETHER - (sizes.cumsum() - sizes)  # from a place in `order` to one in a group
    count = -(-int(groups.sum()) // together) * together
    places = np.full(count * TOGETHER, -1)
    places[np.arange(len(cells)) + moved[cells[order]]] = order
    return np.resize(np.repeat(np.arange(len(sizes)), groups), count), places.reshape(-1, TOGETHER)


def _brought(found: Iterable[tuple[Tensor, Tensor]], count: int) -> Found:
    """Results from the device, all at the end: waiting for each would stop what runs ahead."""
    import torch

    labels, cosines = (torch.cat(steps)[:count].cpu().numpy() for steps in zip(*found, strict=True))
    return Found(labels, cosines)
