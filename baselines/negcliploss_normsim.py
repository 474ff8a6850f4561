"""The published chains of negCLIPLoss and NormSim. METHOD 5.

One after the other: the top 30 % by negCLIPLoss, of these the closest to the targets, 20 % of the pool. Or both at once: the
largest sums of both ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from baselines.baseline import Baseline
from baselines.negcliploss import NEEDS, SOURCE, BestByNegCLIPLoss
from baselines.normsim import TARGETS, BestByNormSim
from filters.command import Command
from filters.filter import Cut, Filter, Measured, Plan, Recipe, sized
from filters.maths.arrays import Array
from filters.negcliploss import NegCLIPLoss
from filters.normsim import NormSim
from filters.options import Layers, option
from filters.pool.columns import Column, Rows
from filters.scores import expect_score, score_column
from filters.work.plan import Cost
from filters.work.rates import Kernel, Site, Trial
from filters.work.view import View
from filters.work.work import Work
from filters.work.workdir import Saved
from submission.published import MEDIUM


def chain(layers: Layers) -> Recipe:
    first: BestByNegCLIPLoss = layers.part(BestByNegCLIPLoss, "negcliploss")
    then: BestByNormSim = layers.part(BestByNormSim, "normsim")
    return first.filter() >> then.filter()


@dataclass(frozen=True)
class RankSum(Filter):
    """Keep the largest sums of the ranks by two scores."""

    name: ClassVar[str] = "rank_sum"
    alternatives: ClassVar[tuple[tuple[str, ...], ...]] = (("fraction", "size"),)

    first: str = option("a score, as TopScore takes it")
    second: str = option("another")
    fraction: float | None = option("share of the pool to keep", None, interval="(0, 1]")
    size: int | None = option("samples to keep, instead of a fraction", None, interval="[1, inf)")

    def measure(self, work: Work, rows: Rows) -> Measured:
        scores = [score_column(work, rows, score) for score in (self.first, self.second)]
        both = work.present(rows, *scores)
        ordered = [work.once(sorted_values, both, score)["values"] for score in scores]
        ranks = work.column(sum_of_ranks, both, *scores, *ordered)["sum"]
        return Measured(columns={"first_score": scores[0], "second_score": scores[1], "rank_sum": ranks})

    def decide(self, work: Work, rows: Rows, seen: Measured) -> Cut:
        quota = sized(work.samples, self.fraction, self.size)
        work.refuse_size(quota, rows.count())
        return Cut(by=seen.columns["rank_sum"], quota=quota)

    def expect(self, plan: Plan, rows: int) -> int:
        for score in (self.first, self.second):
            expect_score(plan, rows, score)
        plan.present(rows, 2)
        for _ in range(2):
            with plan.once("sorted_values", 4 * rows):
                plan.each(values_of, rows, plan.values(rows), then=Cost({Kernel(sorting, (), 30e-9): rows}))
        plan.column(sum_of_ranks, rows, Cost({Kernel(ranking, (rows,), 200e-9): 2 * rows}), "f8")
        plan.measured(rows, first_score="f4", second_score="f4", rank_sum="f8")
        return plan.cut(rows, sized(plan.samples, self.fraction, self.size), bits=64)


def sorted_values(work: Work, rows: Rows, score: Column) -> dict[str, Array]:
    """(n,) float32 of all rows, ascending."""
    values, filled = work.room((rows.count(),), np.dtype(np.float32)), 0
    for part in work.each(values_of, rows, score):
        values[filled : filled + len(part)] = part
        filled += len(part)
    values.sort()
    return {"values": values}


def values_of(view: View, score: Column) -> Array:
    return view.values(score)


def sum_of_ranks(view: View, first: Column, second: Column, of_first: Saved, of_second: Saved) -> dict[str, Array]:
    """float64: how many rows have a smaller value, by either score; so equal values have equal ranks [ours]."""
    ranks = (np.searchsorted(of.load(), view.values(by)) for by, of in ((first, of_first), (second, of_second)))
    return {"sum": sum(ranks, start=np.zeros(len(view.at)))}


def sorting(site: Site) -> Trial:
    """Values that are sorted."""
    values = np.random.default_rng(0).random(1 << 18, np.float32)

    def trial() -> float:
        np.sort(values)
        return len(values)

    return trial


def ranking(site: Site, count: int) -> Trial:
    """Values that are looked up among so many."""
    chance = np.random.default_rng(0)
    ordered, asked = np.sort(chance.random(min(count, 1 << 24), np.float32)), chance.random(1 << 14, np.float32)

    def trial() -> float:
        np.searchsorted(ordered, asked)
        return len(asked)

    return trial


@dataclass(frozen=True)
class Share:
    """How many stay by the sum of both ranks."""

    alternatives = (("fraction", "size"),)

    fraction: float | None = option("share of the pool to keep, int(n * fraction) exactly [code]", 0.2, interval="(0, 1]")
    size: int | None = option("samples to keep, instead of a fraction", None, interval="[1, inf)")


def ranks(layers: Layers) -> Filter:
    first: NegCLIPLoss = layers.part(NegCLIPLoss, "negcliploss")
    second: NormSim = layers.part(NormSim, "normsim")
    told: Share = layers.part(Share, "ranks")
    return RankSum(str(first), str(second), told.fraction, told.size)


BOTH = f"{NEEDS}; {TARGETS.replace('--', '--normsim_')}"
CHAIN = Baseline(
    Command(
        "negcliploss_normsim",
        "Keep the best by negCLIPLoss, of these the closest to target images.",
        chain,
        (("negcliploss", BestByNegCLIPLoss), ("normsim", BestByNormSim)),
    ),
    SOURCE,
    MEDIUM["negcliploss_normsim"],
    needs=BOTH,
    size_flag="normsim_size",
)
RANKS = Baseline(
    Command(
        "negcliploss_normsim_ranks",
        "Keep the largest sums of the ranks by negCLIPLoss and by closeness to target images.",
        ranks,
        (("negcliploss", NegCLIPLoss), ("normsim", NormSim), ("ranks", Share)),
    ),
    f"{SOURCE}; equal scores have equal ranks [ours]",
    needs=BOTH,
    size_flag="ranks_size",
)
