"""A random draw: the samples of the smallest hash of uid and seed, so the same ones whatever the order of rows and shards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from baselines.baseline import Baseline
from filters.command import Command
from filters.filter import Cut, Filter, Measured, Plan, sized
from filters.options import Layers, option
from filters.pool.columns import Rows
from filters.work.work import Work

DRAW = 5  # purpose of the hash


@dataclass(frozen=True)
class RandomDraw(Filter):
    """Keep a random draw."""

    name: ClassVar[str] = "random"
    alternatives: ClassVar[tuple[tuple[str, ...], ...]] = (("fraction", "size"),)

    fraction: float | None = option("share of the pool to keep", None, interval="(0, 1]")
    size: int | None = option("samples to keep, instead of a fraction", None, interval="[1, inf)")

    def measure(self, work: Work, rows: Rows) -> Measured:
        return Measured(columns={})

    def decide(self, work: Work, rows: Rows, seen: Measured) -> Cut:
        quota = sized(work.samples, self.fraction, self.size)
        work.refuse_size(quota, rows.count())
        return Cut(by=work.hashed(DRAW), quota=quota, largest=False)

    def expect(self, plan: Plan, rows: int) -> int:
        return plan.cut(rows, sized(plan.samples, self.fraction, self.size), bits=64)

    def looks_at_embeddings(self) -> bool:
        return False


def recipe(layers: Layers) -> Filter:
    made: RandomDraw = layers.part(RandomDraw, "random")
    return made


BASELINE = Baseline(
    Command("random", "Keep a random draw of the pool.", recipe, (("random", RandomDraw),)), "DataComp, section 4", size_flag="size"
)
