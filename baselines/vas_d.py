"""VAS-D (arXiv 2402.02055), called NormSim-D later (arXiv 2405.19547): samples aligned with the variance of those that stay. METHOD 5.

From the best CLIP scores, round after round, the samples of smallest f^T S f leave, S the mean outer product of the survivors' unit
image embeddings; in the first round of the whole pool, before the score cut [code]. Rows are not normalised in the code [ours: they
are]. VAS takes S from all survivors [code], NormSim from a random tenth of them [code]: here it is always all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np

from baselines.baseline import Baseline
from filters.command import Command
from filters.filter import Cut, Filter, Measured, Plan, Recipe, sized
from filters.held import expect_hold, held_bytes, held_value, hold, values_in_play, values_of
from filters.maths.arrays import F32, Array
from filters.maths.blocks import BLOCK, unit
from filters.maths.search import on_device
from filters.maths.variance import NO_ROW, STAYS, Survivors, aligned, outer, per_round, variance
from filters.options import Layers, option
from filters.pool.columns import Rows
from filters.pool.errors import BadInput
from filters.pool.pool import Features
from filters.topscore import TopScore
from filters.work.plan import FLOPS, Cost
from filters.work.rates import Kernel, Site, Trial
from filters.work.view import View
from filters.work.work import Work
from filters.work.workdir import Saved

BESIDE = 80  # bytes a row: uid, round, what is known of its sum, and copies of that
TOGETHER = 25  # rounds after which their result is recorded: an interrupted run goes on there
AGAIN = 2.5  # over the root of the rounds: the share of rows that a round looks at, as on 12,000 real images; often it is less
LESS = "start from fewer by --score_fraction"


@dataclass(frozen=True)
class Rounds:
    """Its options."""

    alternatives: ClassVar[tuple[tuple[str, ...], ...]] = (("fraction", "size"),)

    features: str = option("npz member of image embeddings [code]", "l14_img")
    rounds: int = option("T, rounds in which samples leave [code]", 500, interval="[1, 30000]")
    fraction: float | None = option("final size, as a share of the pool [code: 0.2]", None, interval="(0, 1]")
    size: int | None = option("final size in samples, instead of a fraction [ours]", None, interval="[1, inf)")


@dataclass(frozen=True)
class VasD(Rounds, Filter):
    """Let the samples least aligned with the variance of the others leave, round after round."""

    name: ClassVar[str] = "vas_d"

    def measure(self, work: Work, rows: Rows) -> Measured:
        features = work.pool.features(self.features)
        first = work.once(pool_variance, work.population, features)
        found = work.once(leave, rows, features, self.rounds, sized(work.samples, self.fraction, self.size), first["variance"])
        return Measured(columns={"vas_round": work.column(round_of, rows, found["left"], found["starts"], self.rounds + 1)["round"]})

    def decide(self, work: Work, rows: Rows, seen: Measured) -> Cut:
        return Cut(by=seen.columns["vas_round"], threshold=self.rounds + 1)

    def expect(self, plan: Plan, rows: int) -> int:
        features, target = plan.pool.features(self.features), min(sized(plan.samples, self.fraction, self.size), rows)
        square = 8 * features.width**2
        with plan.once("pool_variance", square / 2):
            plan.scan(
                outer_products,
                plan.samples,
                plan.blocks(features, plan.samples) + _added(features, plan.samples),
                square * len(plan.pool.shards),
            )
        with plan.once("leave", 2 * rows + 8 * len(plan.pool.shards)):
            expect_hold(plan, rows, [features])
            plan.each(values_in_play, rows, plan.values(rows, 2))
            _expect_rounds(plan, rows, features, self.rounds, target)
            with plan.once("some_rounds", (2 * rows + square) * math.ceil(self.rounds / TOGETHER)):
                pass  # it is told above what they take
        plan.column(round_of, rows, plan.values(rows), "i4")
        plan.measured(rows, vas_round="i4")
        plan.each("beyond", rows, plan.values(rows))
        return target


def pool_variance(work: Work, population: Rows, features: Features) -> dict[str, Array]:
    """S of every sample of the pool."""
    sums, count = np.zeros((features.width,) * 2, np.int64), 0
    for part in work.scan(outer_products, population, features):
        sums, count = sums + part["sums"], count + int(part["count"][0])
    if not count:
        raise BadInput(work.pool.location, f"no row of '{features.name}' is finite and not zero", "name other features")
    return {"variance": variance(sums, count)}


def leave(work: Work, rows: Rows, features: Features, rounds: int, target: int, first: Saved) -> dict[str, Array]:
    """left: (m,) int16, the round in which each row left, 0 for one that stays, -1 for no valid row; starts: where shards begin."""
    held = hold(work, rows, [features])
    count = int(held.valid.sum())
    work.refuse_size(target, count)
    left = np.where(held.valid, STAYS, NO_ROW).astype(np.int16)
    uids, engine = values_of(work, rows, work.uids), work.engine
    survivors = Survivors(held.members[0], uids, left, engine.workers, work.settings.device)
    with work.shown("rounds", count * rounds) as watch, closing(survivors):
        race = Race(survivors, per_round(count, target, rounds), np.array(first.load()), watch)
        before: tuple[Saved, ...] = ()
        for begin in range(0, len(race.counts), TOGETHER):
            found = work.once(race.some_rounds, begin, *before)
            before = found["left"], found["sums"]
        left = np.array(before[0].load()) if before else left
    return {"left": left, "starts": held.starts}


@dataclass
class Race:
    """The rounds, some at a time. What is recorded of them is all that the next ones need."""

    survivors: Survivors
    counts: list[int]  # of rows that leave in each round
    first: F32  # S of the first round
    watch: Callable[[int], None]
    done: int = 0  # rounds

    def some_rounds(self, work: Work, begin: int, *before: Saved) -> dict[str, Array]:
        """The rounds from `begin` on. `before`: left and sums when they begin."""
        if begin != self.done:
            self.survivors.begin(*(np.array(saved.load()) for saved in before))
        for number in range(begin, min(begin + TOGETHER, len(self.counts))):
            self.watch(self.survivors.drop(number + 1, self.counts[number], None if number else self.first))
        self.done = begin + TOGETHER
        assert self.survivors.sums is not None, "a round has summed them"
        return {"left": self.survivors.left, "sums": self.survivors.sums}


def outer_products(view: View, features: Features) -> dict[str, Array]:
    """The sum of a shard's f f^T, and how many they are."""
    sums, count = np.zeros((features.width,) * 2, np.int64), 0
    for block in view.blocks(features.name):
        sums += outer(block.rows)
        count += len(block.at)
    return {"sums": sums, "count": np.array([count])}


def round_of(view: View, left: Saved, starts: Saved, never: int) -> dict[str, Array]:
    found = held_value(view, left.load(), np.asarray(starts.load())).astype(np.int32)
    return {"round": np.where(found == STAYS, never, found).astype(np.int32)}


def _added(features: Features, rows: int) -> Cost:
    """Outer products of rows."""
    return Cost({Kernel(adding, (features.width,), 4 * features.width**2 / FLOPS): rows})


def _expect_rounds(plan: Plan, rows: int, features: Features, rounds: int, target: int) -> None:
    """All rows in the first round, later a part of those that have not left. Those that leave are summed, as all are at the start."""
    again = min(1.0, AGAIN / math.sqrt(rounds))
    plan.note(f"a round of vas_d looks at {again:.0%} of the samples left; were it at all of them, {1 / again:.0f} times as long")
    looked = rows + again * rounds * (rows + target) / 2
    look = Kernel(looking, (features.width, features.dtype), 2 * features.width**2 / FLOPS)
    ranked = rounds * (rows + target) / 2 * plan.workers  # by one thread
    cost = Cost({look: looked, Kernel(ranking, (), 15e-9): ranked}) + _added(features, 2 * rows - target)
    plan.held("rounds", rows * rounds, cost, held_bytes(rows, [features], BESIDE), LESS, min(1.0, looked / (rows * rounds)))


def adding(site: Site, width: int) -> Trial:
    """Unit rows whose outer products are summed."""
    rows = on_device(np.full((BLOCK, width), 1 / width, np.float32), site.device)

    def trial() -> float:
        outer(rows)
        return BLOCK

    return trial


def looking(site: Site, width: int, dtype: str) -> Trial:
    """Rows whose f^T S f is computed."""
    rows, of = np.ones((BLOCK, width), dtype), on_device(np.zeros((width, width), np.float32), site.device)

    def trial() -> float:
        aligned(unit(on_device(rows[::-1], site.device))[0], of).cpu()
        return BLOCK

    return trial


def ranking(site: Site) -> Trial:
    """Rows of which it is found whether they can leave."""
    survivors = Survivors(np.empty((64 * BLOCK, 0), np.float16), np.empty((0, 2), np.uint64), np.zeros(64 * BLOCK, np.int16))
    survivors.close()

    def trial() -> float:
        survivors.may_leave(np.flatnonzero(survivors.left == STAYS), BLOCK, np.ones((1, 1), np.float32))
        return 64 * BLOCK

    return trial


@dataclass(frozen=True)
class FromBest(Rounds):
    """Its options, and where it starts."""

    score: str = option("by which the samples that it starts from are chosen, as TopScore takes it [code: l14]", "l14")
    score_fraction: float = option("the best of the pool that it starts from, as a share of the pool [code]", 0.3, interval="(0, 1]")


def recipe(prefix: str) -> Callable[[Layers], Recipe]:
    """Best scores, then the rounds."""

    def made(layers: Layers) -> Recipe:
        told: FromBest = layers.part(FromBest, prefix)
        last = VasD(**{one.name: getattr(told, one.name) for one in fields(Rounds)})
        return TopScore(told.score, told.score_fraction, "pool") >> last

    return made


def _baseline(name: str, description: str, source: str) -> Baseline:
    command = Command(name, description, recipe(name), ((name, FromBest),))
    return Baseline(command, source, needs="parquet files, l14_img of the npz files", size_flag="size")


VAS_D = _baseline(
    "vas_d",
    "From the best scores, let those least aligned with the variance of the survivors leave, round after round.",
    "arXiv 2402.02055",
)
NORMSIM_D = _baseline(
    "normsim_d",
    "VAS-D under its later name: the authors take the variance of a random tenth of the survivors, here of all.",
    "arXiv 2405.19547",
)
