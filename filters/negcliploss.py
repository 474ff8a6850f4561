"""negCLIPLoss: how much better an image and its text fit each other than they fit the others of random batches. METHOD 5.

A value of every option that takes a score: `--score negcliploss:arch=b32,shuffles=2`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from filters.maths import contrast
from filters.maths.arrays import I64, Array
from filters.options import option
from filters.pool.columns import Column, Hashed, Rows
from filters.pool.errors import BadInput
from filters.pool.pool import Features, Pool
from filters.score import Score
from filters.work.plan import FLOPS, Cost, Plan, row_bytes, sized
from filters.work.rates import Kernel, Site, Trial
from filters.work.view import View
from filters.work.work import Work

DRAW = 6  # purpose of the hash that draws the batches of the first shuffle
APART = 256  # from one shuffle's purpose to the next one's
TRIED = 2048, 8192  # rows of a batch by which the time is measured, on the CPU and on a GPU


@dataclass(frozen=True)
class NegCLIPLoss(Score):
    """Image and text against random batches of the same shard."""

    name: ClassVar[str] = "negcliploss"

    arch: str = option("whose embeddings [paper: l14, b32]", "l14", choices=("l14", "b32"))
    batch_size: int = option(
        "B, pairs of a batch; a shard is cut into ceil(n / B), their sizes within one [code; ours]", 32768, interval="[2, inf)"
    )
    shuffles: int = option("K, how often batches are drawn anew; the score is the mean [code]", 10, interval="[1, inf)")
    temperature: float = option("tau [code]", 0.01, interval="[0.000001, 1000000]")

    def column(self, work: Work, rows: Rows) -> Column:
        image, text = self._members(work.pool)
        self._check_room(image, text, work.pool, work.settings.memory_gb, work.engine.workers)
        rows = work.present(rows, work.column(paired, rows, image, text)["pair"])
        drawn = [
            work.column(contrast_of_batches, rows, image, text, self.batch_size, self.temperature, work.hashed(DRAW + APART * shuffle))
            for shuffle in range(self.shuffles)
        ]
        scores = [one["score"] for one in drawn]
        return scores[0] if self.shuffles == 1 else work.column(mean_of_shuffles, rows, *scores)["score"]

    def expect(self, plan: Plan, rows: int) -> None:
        image, text = self._members(plan.pool)
        self._check_room(image, text, plan.pool, plan.settings.memory_gb, plan.workers)
        plan.column(paired, rows, plan.blocks(image, rows) + plan.blocks(text, rows), "i1")
        plan.present(rows)
        shards = [shard.rows * rows / max(1, plan.pool.rows) for shard in plan.pool.shards]
        held = max(shards) * _pair_bytes(image, text)
        share = plan.settings.memory_gb * 1e9 / plan.workers
        reads = [plan.blocks(one, rows) for _ in range(math.ceil(held / share)) for one in (image, text)]
        tried = TRIED[plan.settings.device != "cpu"]
        kernel = Kernel(contrasting, (image.width, image.dtype, tried), 2 * image.width / FLOPS)
        multiply = Cost({kernel: sum(n * n / max(1, math.ceil(n / self.batch_size)) for n in shards)})
        for _ in range(self.shuffles):
            plan.column(contrast_of_batches, rows, sum(reads, start=multiply), "f4", memory=int(plan.workers * min(share, held)))
        if self.shuffles > 1:
            plan.column(mean_of_shuffles, rows, plan.values(rows, self.shuffles), "f4")

    def _members(self, pool: Pool) -> tuple[Features, Features]:
        """Of image and text."""
        image, text = (pool.features(f"{self.arch}_{kind}") for kind in ("img", "txt"))
        if image.width != text.width:
            what = f"'{image.name}' is {image.width} wide, '{text.name}' {text.width}"
            raise BadInput(pool.location, what, "name a pool whose images and texts were embedded together")
        return image, text

    def _check_room(self, image: Features, text: Features, pool: Pool, memory_gb: float, workers: int) -> None:
        """Raise BadInput when a worker's share of the memory does not hold a batch."""
        size = min(self.batch_size, max(shard.rows for shard in pool.shards))
        needed, share = size * _pair_bytes(image, text), memory_gb * 1e9 / workers
        if needed > share:
            what = f"a batch of {size:,} pairs takes {sized(needed)}, each of {workers} workers may hold {sized(share)}"
            raise BadInput(str(self), what, "give a larger --memory_gb, fewer --num_workers, or a smaller batch_size")


def _pair_bytes(image: Features, text: Features) -> int:
    return row_bytes(image) + row_bytes(text)


def paired(view: View, image: Features, text: Features) -> dict[str, Array]:
    """int8, no value for a row whose image or text has no direction."""
    good = np.zeros((2, len(view.at)), bool)
    for features, found in zip((image, text), good, strict=True):
        for raw in view.raw(features.name):
            found[view.place(raw.at)] = True
    return {"pair": np.where(good.all(axis=0), 0, -1).astype(np.int8)}


def contrast_of_batches(view: View, image: Features, text: Features, batch_size: int, temperature: float, draw: Hashed) -> dict[str, Array]:
    """float32, of one shuffle. As many batches are held at a time as fit."""
    score = np.full(len(view.at), np.nan, np.float32)
    drawn = contrast.batches(view.values(draw), view.uids(), batch_size)
    together = max(1, view.memory // (_pair_bytes(image, text) * max(1, len(drawn[0]))))
    for start in range(0, len(drawn), together):
        batches = drawn[start : start + together]
        ends = np.cumsum([len(batch) for batch in batches])[:-1]
        members = (np.split(_gathered(view, one, np.concatenate(batches)), ends) for one in (image, text))
        for batch, images, texts in zip(batches, *members, strict=True):
            score[batch] = contrast.scores(images, texts, temperature, view.device)
    return {"score": score}


def _gathered(view: View, features: Features, wanted: I64) -> Array:
    """Some of the rows in play, in this order, as they lie."""
    rows, place = np.empty((len(wanted), features.width), features.dtype), np.full(len(view.at), -1)
    place[wanted] = np.arange(len(wanted))
    for raw in view.stored(features.name):
        to = place[view.place(raw.at)]
        rows[to[to >= 0]] = raw.rows[to >= 0]
    return rows


def mean_of_shuffles(view: View, *scores: Column) -> dict[str, Array]:
    total = sum((view.values(score).astype(np.float64) for score in scores), start=np.zeros(len(view.at)))
    return {"score": (total / len(scores)).astype(np.float32)}


def contrasting(site: Site, width: int, dtype: str, size: int) -> Trial:
    """Pairs of an image and a text of one batch, of this size."""
    images, texts = np.random.default_rng(0).standard_normal((2, size, width), np.float32).astype(dtype)

    def trial() -> float:
        contrast.scores(images, texts, 0.01, site.device)
        return size * size

    return trial
