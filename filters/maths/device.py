"""How rows get to a GPU, and how float16 rows are multiplied there as they lie.

A device named `cpu` has code of its own, made for its caches. Every other name takes the way described here; `cpu:0`, the same
processor by another name, takes it too: tests without a GPU run a GPU's code so.

Memory on the device, whatever the pool: LANES threads at a time, each with two buffers of STEP_BYTES, what `split` and `pairs`
say they hold, and a few tiles of products; the centroids, 8 bytes a number; k-means' points up to RESIDENT. Under 8 GB up to
98,000 centroids of 1,024 numbers, beside what CUDA takes for itself. Products of all lanes run on the default stream: memory that
one has done with goes to the next, and a copying stream of each lane's own waits for it by events alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial, wraps
from queue import Queue
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from filters.maths.arrays import Array
from filters.maths.blocks import padded
from filters.maths.search import on_device

if TYPE_CHECKING:
    from torch import Tensor

LANES = 4
STEP = 8192  # rows that are sent and multiplied at a time, the last ones followed by zeros: one shape, as in `blocks`
STEP_BYTES = 16 << 20  # and at most so much of wide ones
RESIDENT = 2 << 30

Kind = TypeVar("Kind")


def shared(size: int) -> Callable[[Callable[..., Kind]], Callable[..., Kind]]:
    """`lru_cache`, but threads that ask at the same time wait for one answer instead of making one each."""

    def decorated(function: Callable[..., Kind]) -> Callable[..., Kind]:
        cached, lock = lru_cache(size)(function), Lock()

        @wraps(function)
        def waiting(*arguments: Any) -> Kind:
            with lock:
                return cached(*arguments)

        return waiting

    return decorated


def products(rows: Tensor, others: Tensor) -> Tensor:
    """Inner products in float32. Of float16 rows each product of two numbers is exact, and added up in float32.

    rows     (..., n, d) float16 or float32
    others   (..., m, d) of the same type
    returns  (..., n, m) float32
    """
    import torch

    across = others.transpose(-1, -2)
    if rows.dtype != torch.float16:
        return torch.matmul(rows, across)
    if rows.device.type != "cuda":
        return torch.matmul(rows.float(), across.float())
    multiply = torch.mm if rows.ndim == 2 else torch.bmm
    found: Tensor = multiply(rows, across, out_dtype=torch.float32)
    return found


def lengths(rows: Tensor) -> Tensor:
    """(..., n, d) float16 -> (..., n) float32."""
    import torch

    found: Tensor = torch.linalg.vector_norm(rows, dim=-1, dtype=torch.float32)
    return found


def resident(points: Array, device: str) -> Any:
    """Points that are searched again and again: on the device where they fit, else as they are, to be sent each time."""
    return on_device(points, device) if device != "cpu" and points.nbytes <= RESIDENT else points


def step_rows(rows: Array | Tensor) -> int:
    """Rows of a step: from their type and width alone."""
    return max(1, min(STEP, STEP_BYTES // (rows.dtype.itemsize * rows.shape[1])))


class _Slot:
    """A pinned buffer and its place on the device."""

    def __init__(self, device: str) -> None:
        import torch

        self._device = device
        self.sent, self.used = (torch.get_device_module(device).Event() for _ in range(2))
        self._make(0)

    def _make(self, size: int) -> None:
        import torch

        self.host = torch.empty(size, dtype=torch.uint8, pin_memory=torch.device(self._device).type == "cuda")
        self.there = torch.empty(size, dtype=torch.uint8, device=self._device)

    def fit(self, size: int) -> None:
        self.sent.synchronize()  # what it held is on the device
        if len(self.host) < size:
            self._make(size)
            self.used.record()  # the default stream may not be done with what lay there before


class Lane:
    """One thread's way to the device: one buffer is filled and sent while what was sent from the other is multiplied."""

    def __init__(self, device: str) -> None:
        import torch

        self.device = device
        self._of = torch.get_device_module(device)
        self._copying = self._of.Stream()
        self._last, self._next = _Slot(device), _Slot(device)

    def send(self, shape: tuple[int, int], dtype: np.dtype[Any], fill: Callable[[Array], object]) -> Tensor:
        """Rows on the device, good until the next are sent. `fill` writes them into the array that it is given."""
        import torch

        self._last.used.record()  # whatever is done with the last rows has been asked for by now
        slot, size = self._next, shape[0] * shape[1] * dtype.itemsize
        self._last, self._next = slot, self._last
        slot.fit(size)
        rows = slot.host.numpy()[:size].view(dtype).reshape(shape)
        fill(rows)
        with self._of.stream(self._copying):
            self._copying.wait_event(slot.used)
            slot.there[:size].copy_(slot.host[:size], non_blocking=True)
            slot.sent.record(self._copying)
        slot.sent.wait(self._of.current_stream())
        return slot.there[:size].view(torch.from_numpy(rows).dtype).view(shape)

    def steps(self, rows: Array | Tensor) -> Iterator[Tensor]:
        """Rows on the device, step by step, each good until the next."""
        import torch

        size = step_rows(rows)
        for start in range(0, len(rows), size):
            if isinstance(rows, torch.Tensor):
                yield padded(rows, start, size)
            else:
                yield self.send((size, rows.shape[1]), rows.dtype, partial(_fill, rows[start : start + size]))


def _fill(rows: Array, out: Array) -> None:
    out[: len(rows)] = rows
    out[len(rows) :] = 0


@contextmanager
def lane(device: str) -> Iterator[Lane]:
    """A lane of this thread's own for as long as the block lasts; waits while all are taken."""
    free = _lanes(device)
    mine = free.get()
    try:
        yield mine
    finally:
        free.put(mine)


@shared(4)
def _lanes(device: str) -> Queue[Lane]:
    lanes: Queue[Lane] = Queue()
    for _ in range(LANES):
        lanes.put(Lane(device))
    return lanes
