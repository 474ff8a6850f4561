"""How close rows come to target rows: NormSim. METHOD 5.

Arrays in, arrays out. ||G f||_2 needs of all targets only a root of G^T G, d numbers wide; ||G f||_inf compares with each of them,
a tile at a time: nothing of n * targets is held.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

import numpy as np

from filters.maths.arrays import F32, F64, Array
from filters.maths.blocks import measured, padded, unit
from filters.maths.device import lane, products, resident, step_rows
from filters.maths.search import on_device
from filters.maths.split import multiplied

if TYPE_CHECKING:
    from torch import Tensor

ROWS = 2048  # that are compared with TILE targets at a time: the targets are made unit rows once for so many
TILE = 512


class Norm(Protocol):
    """The norm of each row: (n, d) float16, float32 or float64 -> (n,) float32, NaN for a row that is not finite or all zero."""

    size: int  # rows to ask for at once

    def __call__(self, raw: Array) -> F32: ...


def gram(targets: Array) -> F64:
    """G^T G, (d, d) float64. G are the unit rows of the targets, (n, d)."""
    import torch

    total = torch.zeros(targets.shape[1], targets.shape[1], dtype=torch.float64)
    for start in range(0, len(targets), ROWS):
        rows = on_device(targets[start : start + ROWS], "cpu").double()
        rows /= rows.abs().amax(dim=1, keepdim=True)  # float64's own squares may overflow
        rows /= torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        total.addmm_(rows.T, rows)
    found: F64 = total.numpy()
    return found


def root(gram: F64) -> F64:
    """R with R^T R = G^T G, so that ||R f|| = ||G f||. Of the form f^T (G^T G) f itself, where f is at right angles to all targets,
    the root of a rounding error would be left."""
    values, vectors = np.linalg.eigh(gram)
    found: F64 = np.sqrt(np.maximum(values, 0))[:, None] * vectors.T
    return found


class Norm2:
    """||G f||_2 = ||R f||_2. METHOD 5."""

    size = ROWS

    def __init__(self, root: F64, device: str) -> None:
        self._across = on_device(root.astype(np.float32), device).T

    def __call__(self, raw: Array) -> F32:
        import torch

        found = np.empty(len(raw), np.float32)
        for start in range(0, len(raw), ROWS):
            block, _ = unit(on_device(raw[start : start + ROWS], self._across.device))
            norms = torch.linalg.vector_norm(padded(block, 0, ROWS) @ self._across, dim=1)
            found[start : start + len(block)] = norms[: len(block)].cpu().numpy()
        return found


class NormInf:
    """||G f||_inf, the largest |cos|. METHOD 5."""

    size = ROWS

    def __init__(self, targets: Array) -> None:
        self._targets = targets

    def __call__(self, raw: Array) -> F32:
        return np.concatenate([np.empty(0, np.float32), *(self._of(raw[at : at + ROWS]) for at in range(0, len(raw), ROWS))])

    def _of(self, raw: Array) -> F32:
        import torch

        rows, _ = unit(on_device(raw, "cpu"))
        block, best, out = padded(rows, 0, ROWS), torch.zeros(ROWS), None
        for start in range(0, len(self._targets), TILE):
            out, _ = unit(on_device(self._targets[start : start + TILE], "cpu"), out)
            torch.maximum(best, (block @ padded(out, 0, TILE).T).abs_().amax(dim=1), out=best)
        found: F32 = best[: len(rows)].clamp_(max=1).numpy()
        return found


class NormInfSent:
    """The same on a GPU: float16 rows are multiplied as they lie. Targets stay on the device where they fit, else they are sent again."""

    def __init__(self, targets: Array, device: str) -> None:
        self._device, self._targets = device, resident(targets, device)
        self._step = step_rows(targets)
        self.size = 4 * self._step
        self._as_they_are = targets.dtype == np.float16

    def __call__(self, raw: Array) -> F32:
        import torch

        with lane(self._device) as mine:
            parts = [self._of(step) for step in mine.steps(raw)]
        return torch.cat([torch.empty(0, device=self._device), *parts])[: len(raw)].cpu().numpy()

    def _of(self, raw: Tensor) -> Tensor:
        import torch

        take = multiplied if self._as_they_are and raw.dtype == torch.float16 else measured
        rows, lengths = take(raw)
        best = torch.zeros(len(rows), device=rows.device)
        for step in self._steps():
            targets, sizes = take(step)
            cosines = products(rows, padded(targets, 0, self._step))[:, : len(sizes)].div_(sizes)
            torch.maximum(best, cosines.abs_().amax(dim=1), out=best)
        return (best / lengths).clamp_(max=1)

    def _steps(self) -> Iterator[Tensor]:
        import torch

        for start in range(0, len(self._targets), self._step):
            step = self._targets[start : start + self._step]
            yield step if isinstance(step, torch.Tensor) else on_device(step, self._device)
