"""Nearest neighbours, exactly, and a choice that passes messages among them. D2 pruning, arXiv 2310.07931.

Arrays in, arrays out. Rows are compared in blocks of one shape, in the order of their places, so that which neighbours a row has
depends on nothing else; of equally near ones the first place is nearest.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from filters.maths.arrays import F32, F64, I32, I64, Array
from filters.maths.blocks import BLOCK, first_largest, unit
from filters.maths.search import on_device

if TYPE_CHECKING:
    from torch import Tensor

ON_GPU = 4 * BLOCK  # rows of a block there
EVERY = 1 << 14  # choices after which `watch` is called


def block_rows(device: str) -> int:
    """Rows that are compared with as many others at a time."""
    return BLOCK if device == "cpu" else ON_GPU


def neighbours(members: Sequence[Array], order: I64, begin: int, k: int, device: str = "cpu") -> tuple[I32, F32]:
    """The k nearest other rows of a block of rows, and how far they are: squared distances of unit rows, added up over the members.

    members  (m, d) each, float16 or wider, as they lie
    order    (n,) which rows there are, n > k; a row's place is that in `order`
    begin    place of the block's first row
    returns  (b, k) int32 places, the nearest first; (b, k) float32
    """
    import torch

    if not 0 < k < len(order):
        raise ValueError(f"k must be 1 to {len(order) - 1:,}, as many as there are other rows, got {k}")
    size = block_rows(device)
    mine = _tile(members, order, begin, size, device)
    near = torch.full((size, k), -torch.inf, device=mine.device)
    places = torch.zeros((size, k), dtype=torch.int64, device=mine.device)
    for start in range(0, len(order), size):
        products = mine @ _tile(members, order, start, size, device).T
        if start == begin:
            products.fill_diagonal_(-torch.inf)
        products[:, max(0, len(order) - start) :] = -torch.inf
        at, found = _largest(products, min(k, size))
        # Stable: places found before are smaller.
        near, chosen = torch.cat([near, found], dim=1).sort(dim=1, descending=True, stable=True)
        near, places = near[:, :k], torch.cat([places, at + start], dim=1).gather(1, chosen[:, :k])
    count = min(size, len(order) - begin)
    far = (2 * (len(members) - near)).clamp_(min=0)
    return places[:count].cpu().numpy().astype(np.int32), far[:count].cpu().numpy()


def _tile(members: Sequence[Array], order: I64, start: int, size: int, device: str) -> Tensor:
    """(size, sum of d): the unit rows of the members side by side; after the last row, the last one again."""
    import torch

    at = order[np.minimum(np.arange(start, start + size), len(order) - 1)]
    return torch.cat([unit(on_device(member[at], device))[0] for member in members], dim=1)


def _largest(products: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Where each row's k largest numbers are, of equals the first: (n, k) int64, and the numbers. Writes to `products`."""
    import torch

    found = []
    for _ in range(k):
        at, best = first_largest(products)
        products.scatter_(1, at[:, None], -torch.inf)
        found.append((at, best))
    return torch.stack([at for at, _ in found], dim=1), torch.stack([best for _, best in found], dim=1)


def received(scores: F64, near: I32, far: F32, gamma: float = 1.0) -> F64:
    """Each row's score and what its neighbours send: s_i + sum over its neighbours j of exp(-gamma d_ij) s_j.

    scores  (n,)      near, far  (n, k) from `neighbours`
    """
    found = scores.copy()
    for place, distance in zip(near.T, far.T, strict=True):
        found += np.exp(-gamma * distance.astype(np.float64)) * scores[place]
    return found


def chosen(scores: F64, near: I32, far: F32, gamma: float, count: int, watch: Callable[[int], None] | None = None) -> I64:
    """(count,) places in the order of choice: the largest score, of equals the first place, and each choice lowers its neighbours.

    A chosen row takes exp(-gamma d) of its own score from each of its neighbours. Scores that changed lie in a heap, the others in
    the order in which they began, so that a choice costs k log n.
    """
    order: I64 = np.argsort(-scores, kind="stable")
    taken, now, found = np.exp(-gamma * far.astype(np.float64)), scores.copy(), np.empty(count, np.int64)
    begun = np.zeros(len(scores), bool)  # chosen, or its score has changed: `order` does not speak for it any more
    done = np.zeros(len(scores), bool)
    heap: list[tuple[float, int]] = []
    at = 0
    for number in range(count):
        while at < len(order) and begun[order[at]]:
            at += 1
        while heap and (done[heap[0][1]] or -now[heap[0][1]] != heap[0][0]):
            heapq.heappop(heap)
        first = (float(-now[order[at]]), int(order[at])) if at < len(order) else None
        best = heap[0][1] if first is None or (heap and heap[0] < first) else first[1]
        begun[best] = done[best] = True
        found[number] = best
        for place, part in zip(near[best].tolist(), taken[best].tolist(), strict=True):
            now[place] -= part * now[best]
            if not done[place]:
                begun[place] = True
                heapq.heappush(heap, (float(-now[place]), place))
        if watch is not None and (number + 1) % EVERY == 0:
            watch(EVERY)
    return found
