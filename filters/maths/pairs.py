"""Largest similarity of each row to an earlier row of its cluster. METHOD 3.

Arrays in, arrays out. Blocks of the lower triangle, so memory is O(n + block * d), not O(n * n); rows stay in the type they
came in and become unit rows a block at a time.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from filters.maths.arrays import F32, I64, Array
from filters.maths.blocks import padded, unit

if TYPE_CHECKING:
    from torch import Tensor


def earlier_max(rows: Array, device: str = "cpu") -> tuple[F32, I64]:
    """M[i] = max over j < i of cos(x_i, x_j), and the first j that gives it.

    rows     (n, d) float16 or float32, finite and not zero, in the order of the cluster
    returns  (n,) float32, 0 for the first row and where every earlier row is at a right angle or farther; (n,) int64, -1 there
    Source: METHOD 3; never below 0 [code].
    """
    similarity, of = np.zeros(len(rows), np.float32), np.full(len(rows), -1, np.int64)
    # The block is a function of the cluster's size alone, so that its numbers are too.
    size = _block(len(rows))
    for start in range(0, len(rows), size):
        best, at = _of_block(rows, start, size, device)
        similarity[start : start + size], of[start : start + size] = best.numpy(), at.numpy()
    return similarity, of


def _block(n: int) -> int:
    """Rows of a block: small ones waste less on the diagonal, large ones multiply faster. Measured at d = 768."""
    return 64 if n <= 64 else 256 if n <= 1500 else 512


def _of_block(rows: Array, start: int, size: int, device: str) -> tuple[Tensor, Tensor]:
    import torch

    mine = _unit_block(rows, start, size, device)
    best, of = torch.zeros(size, device=device), torch.full((size,), -1, device=device)
    for other in range(0, start + size, size):
        products = mine @ (mine if other == start else _unit_block(rows, other, size, device)).T
        if other == start:
            products.masked_fill_(_not_earlier(size, device), -2)
        value, at = products.clamp_(max=1).max(dim=1)  # rounding gives copies a little more than 1
        of = torch.where(value > best, at + other, of)
        best = torch.maximum(value, best)
    here = min(size, len(rows) - start)
    return best[:here].cpu(), of[:here].cpu()


@lru_cache(4)
def _not_earlier(size: int, device: str) -> Tensor:
    """(size, size) bool: the columns that are no earlier row."""
    import torch

    return torch.ones((size, size), dtype=torch.bool, device=device).triu_()


def _unit_block(rows: Array, start: int, size: int, device: str) -> Tensor:
    import torch

    block = torch.from_numpy(np.ascontiguousarray(rows[start : start + size])).to(torch.device(device))
    return padded(unit(block)[0], 0, size)
