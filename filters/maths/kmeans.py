"""Spherical k-means on a sample. METHOD 2.2.

`train` is what `faiss.Kmeans(d, k, niter, spherical=True)` does, with a start and a rule for empty clusters of our own that
depend on nothing but the rows and their order. Partial sums belong to fixed chunks and are added in the chunks' order, so the
number of workers changes no bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from filters.maths.arrays import F32, F64, I64, Array
from filters.maths.blocks import BLOCK, nearest, unit

if TYPE_CHECKING:
    from torch import Tensor

CHUNK_BLOCKS = 8


class Assigned(NamedTuple):
    labels: I64  # (n,)
    products: F32  # (n,) inner product with the own centroid
    sums: F64  # (k, d) sum of each cluster's unit rows


Watch = Callable[[int], None]


def train(points: Array, k: int, iterations: int, workers: int = 1, device: str = "cpu", watch: Watch | None = None) -> F32:
    """k centroids of unit length.

    points      (n, d) float16 or float32, finite and not zero, in the order of the draw; used as unit rows
    k           1 or more; more than there are distinct rows leaves clusters without members
    iterations  at most; ends sooner when no label changes
    watch       called with the points seen after each iteration
    returns     (k, d) float32, unit rows
    raises      ValueError for no points or k < 1
    Source: METHOD 2.2; the start is the first k distinct rows, an empty cluster takes half of the largest [ours].
    """
    if k < 1 or not len(points):
        raise ValueError(f"k-means needs k >= 1 and at least one point, got k = {k} and {len(points)} points")
    centroids = _unit(points[_start(points, k)])
    before: I64 | None = None
    threads = ThreadPoolExecutor(workers)
    try:
        for _ in range(iterations):
            found = _assign(points, centroids, threads, device)
            if before is not None and np.array_equal(found.labels, before):
                break
            before = found.labels
            centroids = _update(points, found, centroids)
            if watch is not None:
                watch(len(points))
    finally:
        threads.shutdown(wait=False, cancel_futures=True)  # an interruption does not wait for chunks under way
    return centroids


def _start(points: Array, k: int) -> I64:
    """Where the first k distinct rows are; when there are fewer, they come again until there are k."""
    seen: dict[bytes, int] = {}
    for at, row in enumerate(points):
        seen.setdefault(row.tobytes(), at)
        if len(seen) == k:
            break
    return np.resize(np.fromiter(seen.values(), np.int64, len(seen)), k)


def _assign(points: Array, centroids: F32, threads: ThreadPoolExecutor, device: str) -> Assigned:
    labels, products = np.empty(len(points), np.int64), np.empty(len(points), np.float32)
    sums = np.zeros(centroids.shape, np.float64)
    on_device = _tensor(centroids, device)
    # A chunk's sums are (k, d): chunks grow with k so that adding them up stays cheap.
    size = BLOCK * max(CHUNK_BLOCKS, -(-len(centroids) // BLOCK))
    starts = range(0, len(points), size)
    parts = threads.map(lambda start: _assign_chunk(points[start : start + size], on_device), starts)
    for start, part in zip(starts, parts, strict=True):
        labels[start : start + size], products[start : start + size] = part.labels, part.products
        sums += part.sums
    return Assigned(labels, products, sums)


def _assign_chunk(points: Array, centroids: Tensor) -> Assigned:
    import torch

    # On the CPU: a GPU adds in any order.
    labels, products, sums = [], [], torch.zeros(centroids.shape)
    for start in range(0, len(points), BLOCK):
        rows, _ = unit(_tensor(points[start : start + BLOCK], centroids.device))
        label, product = nearest(rows, centroids)
        sums.index_add_(0, label.cpu(), rows.cpu())
        labels.append(label)
        products.append(product)
    return Assigned(torch.cat(labels).cpu().numpy(), torch.cat(products).cpu().numpy(), sums.numpy().astype(np.float64))


def _update(points: Array, found: Assigned, centroids: F32) -> F32:
    sums, labels = found.sums.copy(), found.labels.copy()
    changed = set(_fill_empty(labels, found.products, len(centroids)))
    for cluster in changed:
        rows = np.array([part.sum(axis=0, dtype=np.float64) for part in _unit_parts(points[labels == cluster])])
        sums[cluster] = rows.sum(axis=0)
    lengths = np.sqrt(np.einsum("ij,ij->i", sums, sums))
    # No members, or members that cancel out: the cluster stays where it was.
    moved = lengths > 0
    result = centroids.copy()
    result[moved] = sums[moved] / lengths[moved, None]
    return result


def _fill_empty(labels: I64, products: F32, k: int) -> Iterator[int]:
    """Give each empty cluster, in place, the half of the largest that lies farthest from its centroid; yield who changed."""
    sizes = np.bincount(labels, minlength=k)
    for empty in np.flatnonzero(sizes == 0):
        largest = int(sizes.argmax())
        if sizes[largest] < 2:
            return
        members = np.flatnonzero(labels == largest)
        moved = members[np.argsort(products[members], kind="stable")[: len(members) // 2]]
        labels[moved] = empty
        sizes[largest], sizes[empty] = len(members) - len(moved), len(moved)
        yield from (largest, int(empty))


def _unit_parts(points: Array) -> Iterator[F32]:
    for start in range(0, len(points), BLOCK):
        yield _unit(points[start : start + BLOCK])


def _unit(points: Array) -> F32:
    result: F32 = unit(_tensor(points, "cpu"))[0].numpy()
    return result


def _tensor(array: Array, device: object) -> Tensor:
    import torch

    return torch.from_numpy(np.ascontiguousarray(array)).to(torch.device(str(device)))
