"""Spherical k-means on a sample. METHOD 2.2.

`train` is what `faiss.Kmeans(d, k, niter, spherical=True)` does, with a start and a rule for empty clusters of our own that
depend on nothing but the rows and their order. Partial sums belong to fixed chunks and are added in the chunks' order, so the
number of workers changes no bit. `search` gives what finds the centroids of rows: training and assignment find by the same rule.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from filters.maths.arrays import F32, F64, I64, Array
from filters.maths.blocks import BLOCK, unit
from filters.maths.device import resident
from filters.maths.search import Cells, Flat, Found, Levels, Search, coarse_count, nearest_to, on_device
from filters.maths.split import Split, SplitCells

CHUNKS = 16  # at most: enough for the workers to share them evenly, few enough for their sums to cost little
COARSE_ITERATIONS = 5


Watch = Callable[[int], None]
NOTHING = 1e-6  # length of a sum of unit rows that cancel out but for rounding


class _State(NamedTuple):
    labels: I64  # (n,) -1: none yet
    products: F32  # (n,) inner product of the unit row with its own centroid
    sums: F64  # (k, d) of each cluster's unit rows


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
    state = _State(np.full(len(points), -1, np.int64), np.empty(len(points), np.float32), np.zeros((k, points.shape[1])))
    centroids, held = _unit(points[_start(points, k)]), resident(points, device)
    threads = ThreadPoolExecutor(workers)
    try:
        for _ in range(iterations):
            if not _assign(points, held, search(centroids, levels(centroids, workers, device), device), state, threads):
                break
            centroids = _moved(_without_empty(points, state), centroids)
            if watch is not None:
                watch(len(points))
    finally:
        threads.shutdown(wait=False, cancel_futures=True)  # an interruption does not wait for chunks under way
    return centroids


def levels(centroids: F32, workers: int = 1, device: str = "cpu") -> Levels:
    """How the centroids are searched, from them alone: all compared, or of TWO_LEVELS and more in two levels."""
    count = coarse_count(len(centroids))
    if not count:
        return Levels(centroids[:0], np.empty((0, 0), np.int64))
    coarse = train(centroids, count, COARSE_ITERATIONS, workers, device)
    return Levels(coarse, nearest_to(coarse, centroids, device))


def search(centroids: F32, by: Levels, device: str = "cpu") -> Search:
    """What finds the nearest centroid of rows."""
    if device != "cpu":
        return SplitCells(centroids, by, device) if len(by.coarse) else Split(centroids, device)
    return Cells(centroids, by) if len(by.coarse) else Flat(centroids)


def _start(points: Array, k: int) -> I64:
    """Where the first k distinct rows are; when there are fewer, they come again until there are k."""
    seen: dict[bytes, int] = {}
    for at, row in enumerate(points):
        seen.setdefault(row.tobytes(), at)
        if len(seen) == k:
            break
    return np.resize(np.fromiter(seen.values(), np.int64, len(seen)), k)


def _assign(points: Array, held: Any, find: Search, state: _State, threads: ThreadPoolExecutor) -> bool:
    """Give each point its centroid and bring the sums up to date, in place. Returns whether a point changed.

    Only points that change their cluster touch the sums: after a few iterations they are few. `held` is the points for `find`.
    """
    size = max(find.size, chunk_rows(len(points), len(state.sums)))
    parts = [slice(start, start + size) for start in range(0, len(points), size)]
    found = threads.map(
        lambda part: _assign_chunk(points[part], find(held[part]), state.labels[part], state.products[part], state.sums.shape), parts
    )
    changed = False
    for added in found:
        if added is not None:
            state.sums[:] += added
            changed = True
    return changed


def chunk_rows(n: int, k: int) -> int:
    """Points of a chunk: no fewer than clusters, since what it adds to the sums is (k, d)."""
    return BLOCK * max(2, -(-n // (CHUNKS * BLOCK)), -(-k // BLOCK))


def _assign_chunk(points: Array, found: Found, labels: I64, products: F32, shape: tuple[int, ...]) -> F32 | None:
    """What the chunk adds to the sums; None when none of its points changed."""
    after, products[:] = found
    moved = np.flatnonzero(after != labels)
    added = np.zeros(shape, np.float32) if len(moved) else None
    for at in np.split(moved, range(BLOCK, len(moved), BLOCK)):
        if added is not None:
            _move(added, _unit(points[at]), labels[at], after[at])
    labels[:] = after
    return added


def _move(sums: Array, rows: F32, before: I64, after: I64) -> None:
    """Take rows out of the sums of their clusters before (-1: of none) and put them into those after."""
    import torch

    # On the CPU: a GPU adds in any order.
    added, total = torch.from_numpy(rows.astype(sums.dtype, copy=False)), torch.from_numpy(sums)
    total.index_add_(0, torch.from_numpy(after), added)
    had = np.flatnonzero(before >= 0)
    total.index_add_(0, torch.from_numpy(before[had]), added[torch.from_numpy(had)], alpha=-1)


def _without_empty(points: Array, state: _State) -> F64:
    """The sums, after each empty cluster was given a half of the largest."""
    labels = state.labels.copy()
    _fill_empty(labels, state.products, len(state.sums))
    sums, moved = state.sums.copy(), np.flatnonzero(labels != state.labels)
    for at in np.split(moved, range(BLOCK, len(moved), BLOCK)):
        _move(sums, _unit(points[at]), state.labels[at], labels[at])
    return sums


def _moved(sums: F64, centroids: F32) -> F32:
    lengths = np.sqrt(np.einsum("ij,ij->i", sums, sums))
    # No members, or members that cancel out but for rounding: the cluster stays where it was.
    moved = lengths > NOTHING
    result = centroids.copy()
    result[moved] = sums[moved] / lengths[moved, None]
    return result


def _fill_empty(labels: I64, products: F32, k: int) -> None:
    """Give each empty cluster, in place, the half of the largest that lies farthest from its centroid."""
    sizes = np.bincount(labels, minlength=k)
    for empty in np.flatnonzero(sizes == 0):
        largest = int(sizes.argmax())
        if sizes[largest] < 2:
            return
        members = np.flatnonzero(labels == largest)
        moved = members[np.argsort(products[members], kind="stable")[: len(members) // 2]]
        labels[moved] = empty
        sizes[largest], sizes[empty] = len(members) - len(moved), len(moved)


def _unit(points: Array) -> F32:
    rows: F32 = unit(on_device(points, "cpu"))[0].numpy()
    return rows
