"""DataComp's `no_filter`: every sample of the pool. METHOD 4."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from baselines.baseline import Baseline
from baselines.random_draw import DRAW
from filters.command import Command
from filters.filter import Cut, Filter, Measured, Plan
from filters.options import Layers
from filters.pool.columns import Rows
from filters.work.work import Work
from submission.published import MEDIUM


@dataclass(frozen=True)
class NoFilter(Filter):
    """Keep everything."""

    name: ClassVar[str] = "no_filter"

    def measure(self, work: Work, rows: Rows) -> Measured:
        return Measured(columns={})

    def decide(self, work: Work, rows: Rows, seen: Measured) -> Cut:
        return Cut(by=work.hashed(DRAW), quota=rows.count())

    def expect(self, plan: Plan, rows: int) -> int:
        return plan.cut(rows, rows, bits=64)

    def looks_at_embeddings(self) -> bool:
        return False


def recipe(layers: Layers) -> Filter:
    made: NoFilter = layers.part(NoFilter, "no_filter")
    return made


BASELINE = Baseline(
    Command("no_filter", "Keep every sample of the pool.", recipe, (("no_filter", NoFilter),)),
    "DataComp baselines.py [code]",
    MEDIUM["no_filter"],
)
