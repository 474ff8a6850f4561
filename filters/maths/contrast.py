"""How much better an image and a text fit each other than the others of a random batch: negCLIPLoss. METHOD 5.

Arrays in, arrays out. The products of a batch come in tiles, and of each tile alone the logarithms of the sums over its rows and
columns are kept: memory is O(m), not O(m * m). Each is taken from its own largest number: at the published temperature of 0.01
cosines that differ by 1 differ by a factor of e^100, more than float32 holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from filters.maths.arrays import F32, I64, U64, Array
from filters.maths.blocks import BLOCK, measured, padded, unit
from filters.maths.device import Lane, lane, products
from filters.maths.search import on_device
from filters.maths.split import held, multiplied

if TYPE_CHECKING:
    from torch import Tensor

TILE = 256  # texts that BLOCK images are multiplied with at a time: the products fit the cache
TOGETHER = 4 * BLOCK  # images that a tile of texts is made unit rows for
STEP = 4096  # both, on a GPU
LEAST = 1e-30  # of a sum of float32, beside terms that it has lost


def batches(drawn: U64, uids: U64, size: int) -> list[I64]:
    """Row numbers of each batch, in an order of its own: ceil(n / size) of them, their sizes within one.

    drawn  (n,) uint64, a random number of each row; of equal ones the (n, 2) uint64 uids decide: so no order of the rows matters
    Source: METHOD 5; in the code the last batch has what is left, which inflates its scores [ours].
    """
    return np.array_split(np.lexsort((uids[:, 1], uids[:, 0], drawn)), max(1, -(-len(drawn) // size)))


def scores(images: Array, texts: Array, temperature: float, device: str = "cpu") -> F32:
    """s_i = f_i.g_i - tau/2 (log sum_j exp(f_i.g_j / tau) + log sum_j exp(f_j.g_i / tau)) of one batch, the higher the better.

    images, texts  (m, d) float16, float32 or float64, finite and not zero: f and g are their unit rows
    temperature    tau > 0
    returns        (m,) float32
    Source: METHOD 5 [paper, code].
    """
    if device == "cpu":
        return _scores(_Units(images, texts, temperature), temperature)
    with lane(device) as mine:
        return _scores(_Sent(images, texts, temperature, mine), temperature)


def _scores(batch: _Units | _Sent, temperature: float) -> F32:
    import torch

    totals = torch.full((2, batch.count), -torch.inf, dtype=torch.float64, device=batch.device)
    for start, across, logits in batch.tiles():
        for total, begin, found in zip(totals, (start, across), batch.log_sums(logits), strict=True):
            part = total[begin : begin + len(found)]
            torch.logaddexp(part, found.double(), out=part)
    score: F32 = (batch.own() - temperature / 2 * totals.sum(dim=0)).float().cpu().numpy()
    return score


Tile = tuple[int, int, "Tensor"]  # first image, first text, f_i.g_j / tau of both


class _Units:
    """Unit rows, made a tile at a time."""

    device = "cpu"

    def __init__(self, images: Array, texts: Array, temperature: float) -> None:
        self._images, self._texts, self._tau, self.count = images, texts, temperature, len(images)

    def tiles(self) -> Iterator[Tile]:
        for start in range(0, self.count, TOGETHER):
            images, out = unit(on_device(self._images[start : start + TOGETHER], "cpu"))[0].div_(self._tau), None
            for across in range(0, self.count, TILE):
                out, _ = unit(on_device(self._texts[across : across + TILE], "cpu"), out)
                texts = padded(out, 0, TILE).T
                for begin in range(0, len(images), BLOCK):
                    yield start + begin, across, (padded(images, begin, BLOCK) @ texts)[: len(images) - begin, : len(out)]

    def log_sums(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Of rows and of columns, log sum exp: of each number one exponential, of how far it is below the largest."""
        largest = logits.max()
        terms = (logits - largest).exp_()
        return _logs(terms.sum(1), largest, logits), _logs(terms.sum(0), largest, logits.T)

    def own(self) -> Tensor:
        """(m,) float32 f_i.g_i."""
        import torch

        pairs = zip(*(torch.split(on_device(rows, "cpu"), BLOCK) for rows in (self._images, self._texts)), strict=True)
        return torch.cat([unit(images)[0].mul_(unit(texts)[0]).sum(dim=1) for images, texts in pairs])


def _logs(sums: Tensor, largest: Tensor, logits: Tensor) -> Tensor:
    """Logarithms of the sums; of those whose terms are too far below the largest for float32, from the rows' own largest."""
    logs = sums.log().add_(largest)
    lost = sums < LEAST
    if lost.any():
        logs[lost] = logits[lost].logsumexp(1)
    return logs


class _Sent:
    """The same on a GPU: float16 rows are multiplied as they lie, and the products divided by their lengths."""

    def __init__(self, images: Array, texts: Array, temperature: float, mine: Lane) -> None:
        take = multiplied if images.dtype == texts.dtype else measured
        (self._images, self._of_images), (self._texts, self._of_texts) = (take(held(rows, mine)) for rows in (images, texts))
        self.device, self._tau, self.count = mine.device, temperature, len(images)

    def tiles(self) -> Iterator[Tile]:
        for start in range(0, self.count, STEP):
            images, lengths = padded(self._images, start, STEP), self._of_images[start : start + STEP, None] * self._tau
            for across in range(0, self.count, STEP):
                theirs = self._of_texts[across : across + STEP]
                logits = products(images, padded(self._texts, across, STEP))[: len(lengths), : len(theirs)]
                yield start, across, logits.div_(lengths).div_(theirs)

    def log_sums(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        return logits.logsumexp(1), logits.logsumexp(0)

    def own(self) -> Tensor:
        import torch

        parts = zip(torch.split(self._images, STEP), torch.split(self._texts, STEP), strict=True)
        found = torch.cat([(images.float() * texts.float()).sum(dim=1) for images, texts in parts])
        return found / self._of_images / self._of_texts
