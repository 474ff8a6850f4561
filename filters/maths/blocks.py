"""Unit rows, and the one block shape of every matrix product.

A BLAS may add up a row in another order in a block of another shape, or at another kernel's tail. So rows are multiplied in
blocks of exactly BLOCK rows, the last one padded with zeros, through torch on one thread: equal rows then get equal numbers
wherever they lie, and no result depends on the bounds of shards or on the number of workers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 1024
TILE = 1024


def measured(raw: Tensor, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Rows in float32 and their lengths: a product is divided by them sooner than a row, which costs a pass over memory less.

    raw      (n, d) float16, float32 or float64
    out      a former result, to be written over: a fresh block costs more than its conversion
    returns  (n, d) float32, and (n,) float32 lengths: 0, infinite or NaN where a row is all zero or not finite. Rows of the wider
             types come as unit rows, of length 1 or NaN: float32 holds any square of a float16, not of theirs
    """
    import torch

    rows = torch.empty(raw.shape, device=raw.device) if out is None or out.shape != raw.shape else out
    if raw.dtype != torch.float16:
        units, lengths = _unit_of_wide(raw)
        return rows.copy_(units), lengths
    return rows, torch.linalg.vector_norm(rows.copy_(raw), dim=1)


def valid(lengths: Tensor) -> Tensor:
    """(n,) bool: rows that are finite and not zero; the numbers of others mean nothing."""
    import torch

    found: Tensor = torch.isfinite(lengths) & (lengths > 0)
    return found


def unit(raw: Tensor, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Each row over its own length: (n, d) float32, and (n,) bool whether it is valid."""
    rows, lengths = measured(raw, out)
    return rows.div_(lengths[:, None]), valid(lengths)


def _unit_of_wide(raw: Tensor) -> tuple[Tensor, Tensor]:
    import torch

    wide = raw.to(torch.float64)
    if raw.dtype == torch.float64:
        wide = wide / wide.abs().amax(dim=1, keepdim=True)  # their squares may overflow; a row of zeros becomes NaN
    lengths = torch.linalg.vector_norm(wide, dim=1)
    return wide / lengths[:, None], torch.where(valid(lengths), 1.0, torch.nan)


def padded(rows: Tensor, start: int, size: int) -> Tensor:
    """Rows `start` to `start + size` of `rows`, followed by zeros where they end sooner: (size, d)."""
    block = rows[start : start + size]
    if len(block) == size:
        return block
    whole = rows.new_zeros((size, rows.shape[1]))
    whole[: len(block)] = block
    return whole


def nearest(rows: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """The centroid of largest inner product of each row, the first of equals. METHOD 2.2.

    rows       (n, d) float32
    centroids  (k, d) float32
    returns    (n,) int64 labels, (n,) float32 inner products
    """
    import torch

    labels = torch.empty(len(rows), dtype=torch.int64, device=rows.device)
    products = torch.empty(len(rows), dtype=torch.float32, device=rows.device)
    for start in range(0, len(rows), BLOCK):
        block = padded(rows, start, BLOCK)
        label, product = largest_of(block @ centroids[tile : tile + TILE].T for tile in range(0, len(centroids), TILE))
        size = min(BLOCK, len(rows) - start)
        labels[start : start + size], products[start : start + size] = label[:size], product[:size]
    return labels, products


def largest_of(tiles: Iterator[Tensor]) -> tuple[Tensor, Tensor]:
    """`first_largest` of tiles that lie side by side."""
    import torch

    tile = next(tiles)
    (at, best), start = first_largest(tile), tile.shape[1]
    del tile  # the next one gets its memory, which is in the cache
    for tile in tiles:
        other, value = first_largest(tile)
        better = value > best
        at, best = torch.where(better, other + start, at), torch.where(better, value, best)
        start += tile.shape[1]
        del tile
    return at, best


def first_largest(products: Tensor) -> tuple[Tensor, Tensor]:
    """Where each row's largest number is, the first of equals, and the number: (n,) int64, (n,)."""
    import torch

    if products.device.type != "cpu":
        best, at = products.max(dim=1)
        return at, best
    at = torch.from_numpy(products.numpy().argmax(axis=1))  # three times as fast as torch's
    return at, products.gather(1, at[:, None])[:, 0]
