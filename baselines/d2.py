"""D2 pruning (arXiv 2310.07931): scores and diversity balanced by messages between nearest neighbours.

Each sample gets a share of its neighbours' scores, then the best is chosen again and again, and takes a share of its score from its
neighbours. As the authors' program for DataComp has it [code]: CLIP L/14 scores plus 0.115, image and text embeddings side by side,
squared distances, one neighbour, gamma 1 both ways, messages along the edges of a sample's own neighbours. Their neighbours come
from a coarse index, and choices from a sorted list that is looked through once; here both are exact [ours], of unit rows [ours].
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from baselines.baseline import Baseline
from filters.command import Command
from filters.filter import Cut, Filter, Measured, Plan, sized
from filters.held import Held, expect_hold, held_bytes, held_value, hold, values_in_play, values_of
from filters.maths.arrays import F32, I32, I64, Array
from filters.maths.graph import block_rows, chosen, neighbours, received
from filters.options import Layers, option
from filters.pool.columns import Column, Rows
from filters.pool.errors import BadInput
from filters.pool.pool import Features, Pool
from filters.scores import expect_score, expect_scored, score_column, scored
from filters.work.plan import FLOPS, Cost
from filters.work.rates import Kernel, Site, Trial
from filters.work.view import View
from filters.work.work import Work
from filters.work.workdir import Saved

BESIDE, A_NEIGHBOUR = 120, 130  # bytes a row: uid, places, scores, the heap; and of each of its neighbours
TOGETHER = 64  # blocks of rows after which their neighbours are recorded: an interrupted run goes on there
LEAST = 1e-7  # of a score [code]
LESS = "choose among fewer: a filter before it, or --within"
GROUP = 20_000  # samples of a trial


@dataclass(frozen=True)
class D2(Filter):
    """Keep what scores high and differs from what is kept."""

    name: ClassVar[str] = "d2"
    alternatives: ClassVar[tuple[tuple[str, ...], ...]] = (("fraction", "size"),)

    features: str = option("npz members that tell how far samples are, side by side [code]", "l14_img,l14_txt")
    neighbors: int = option("k, nearest neighbours of a sample [code]", 1, interval="[1, 256]")
    gamma: float = option("how fast messages of a choice fade with distance [code]", 1.0, interval="[0, inf)")
    score: str = option("of a sample at the start, as TopScore takes it [code]", "l14")
    offset: float = option("added to the score, so that few are negative [code]", 0.115, interval="(-inf, inf)")
    fraction: float | None = option("final size, as a share of the pool [code: 0.3 on small]", None, interval="(0, 1]")
    size: int | None = option("final size in samples, instead of a fraction [ours]", None, interval="[1, inf)")

    def known(self, work: Work, rows: Rows) -> Rows:
        return scored(work, rows, self.score)

    def measure(self, work: Work, rows: Rows) -> Measured:
        score = score_column(work, rows, self.score)
        rows = work.present(rows, score)
        options = (self.neighbors, self.gamma, self.offset, sized(work.samples, self.fraction, self.size))
        found = work.once(choose, rows, self._features(work.pool), score, *options)
        return Measured({"d2_choice": work.column(choice_of, rows, found["choice"], found["starts"])["choice"]})

    def decide(self, work: Work, rows: Rows, seen: Measured) -> Cut:
        return Cut(by=seen.columns["d2_choice"], threshold=sized(work.samples, self.fraction, self.size), largest=False, strict=True)

    def expect_known(self, plan: Plan, rows: int) -> int:
        return expect_scored(plan, rows, self.score)

    def expect(self, plan: Plan, rows: int) -> int:
        features, target = self._features(plan.pool), min(sized(plan.samples, self.fraction, self.size), rows)
        expect_score(plan, rows, self.score)
        plan.present(rows)
        with plan.once("choose", 4 * rows + 8 * len(plan.pool.shards)):
            expect_hold(plan, rows, features)
            plan.each(values_in_play, rows, plan.values(rows, 2))
            plan.each(values_in_play, rows, plan.values(rows))
            _expect_choice(plan, rows, features, self.neighbors, target)
            with plan.once("some_neighbours", 8 * self.neighbors * rows):
                pass  # it is told above what they take
        plan.column(choice_of, rows, plan.values(rows), "i4")
        plan.measured(rows, d2_choice="i4")
        plan.each("beyond", rows, plan.values(rows))
        return target

    def _features(self, pool: Pool) -> list[Features]:
        return [pool.features(name) for name in self.features.split(",")]


def choose(
    work: Work, rows: Rows, features: list[Features], score: Column, k: int, gamma: float, offset: float, target: int
) -> dict[str, Array]:
    """choice: (m,) int32, the number of the choice that took a row, m for none, -1 for no valid row; starts: where shards begin."""
    held = hold(work, rows, features)
    count = int(held.valid.sum())
    work.refuse_size(target, count)
    if k >= count:
        raise BadInput("--neighbors", f"{k:,} neighbours asked for, {count:,} samples left ({work.left()})", "ask for fewer")
    uids, scores = values_of(work, rows, work.uids), values_of(work, rows, score).astype(np.float64)
    order = np.flatnonzero(held.valid)
    order = order[np.lexsort((uids[order, 1], uids[order, 0]))]
    near, far = nearest_of_all(work, held, order, k)
    before = received(np.maximum(scores[order] + offset, LEAST), near, far)
    with work.shown("choices", target) as watch:
        taken = chosen(before, near, far, gamma, target, watch)
    choice = np.where(held.valid, len(held.valid), -1).astype(np.int32)
    choice[order[taken]] = np.arange(target)
    return {"choice": choice, "starts": held.starts}


def nearest_of_all(work: Work, held: Held, order: I64, k: int) -> tuple[I32, F32]:
    """`neighbours` of every row, block after block: (n, k) each."""
    step = TOGETHER * block_rows(work.settings.device)
    with work.shown("neighbours", len(order)) as watch:
        graph = Graph(held.members, order, k, watch)
        parts = [work.once(graph.some_neighbours, begin, begin + step) for begin in range(0, len(order), step)]
    near, far = (np.concatenate([part[name].load() for part in parts]) for name in ("near", "far"))
    return near, far


@dataclass
class Graph:
    """Rows whose neighbours are looked for."""

    members: list[Array]
    order: I64
    k: int
    watch: Callable[[int], None]

    def some_neighbours(self, work: Work, begin: int, end: int) -> dict[str, Array]:
        """Of the places from `begin` to `end`."""
        device = work.settings.device
        threads, found = ThreadPoolExecutor(work.engine.workers), []
        starts = range(begin, min(end, len(self.order)), block_rows(device))
        try:
            for part in threads.map(lambda start: neighbours(self.members, self.order, start, self.k, device), starts):
                found.append(part)
                self.watch(len(part[0]))
        finally:
            threads.shutdown(wait=False, cancel_futures=True)  # an interruption does not wait for blocks under way
        return {name: np.concatenate(arrays) for name, arrays in zip(("near", "far"), zip(*found, strict=True), strict=True)}


def choice_of(view: View, choice: Saved, starts: Saved) -> dict[str, Array]:
    return {"choice": held_value(view, choice.load(), np.asarray(starts.load()))}


def _expect_choice(plan: Plan, rows: int, features: list[Features], k: int, target: int) -> None:
    """Every row with every other, then one choice after another by one thread."""
    width = sum(one.width for one in features)
    size = held_bytes(rows, features, BESIDE + A_NEIGHBOUR * k)
    compare = Kernel(
        comparing, (tuple((one.width, one.dtype) for one in features), k), 2 * width * block_rows(plan.settings.device) / FLOPS
    )
    plan.held("neighbours", rows, Cost({compare: rows * max(1.0, rows / block_rows(plan.settings.device))}), size, LESS)
    plan.held("choices", target, Cost({Kernel(choosing, (k,), 5e-6): target * plan.workers}), size, LESS)


def comparing(site: Site, kinds: tuple[tuple[int, str], ...], k: int) -> Trial:
    """Rows that are compared with one block of others."""
    size = block_rows(site.device)
    members = [np.random.default_rng(0).standard_normal((k + size, width), np.float32).astype(dtype) for width, dtype in kinds]

    def trial() -> float:
        neighbours(members, np.arange(k + size), 0, k, site.device)
        return 2 * size  # the second block, of k rows, takes as long as the first

    return trial


def choosing(site: Site, k: int) -> Trial:
    """Choices."""
    rng = np.random.default_rng(0)
    near, far = rng.integers(0, GROUP, (GROUP, k)).astype(np.int32), rng.random((GROUP, k), np.float32)

    def trial() -> float:
        chosen(rng.random(GROUP), near, far, 1.0, GROUP // 4)
        return GROUP // 4

    return trial


def recipe(layers: Layers) -> Filter:
    made: D2 = layers.part(D2, "d2")
    return made


BASELINE = Baseline(
    Command("d2", "Choose high scores, each choice lowering the scores of its nearest neighbours.", recipe, (("d2", D2),)),
    "arXiv 2310.07931",
    needs="parquet files, l14_img and l14_txt of the npz files",
    size_flag="size",
)
