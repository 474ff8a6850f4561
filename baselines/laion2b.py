"""DataComp's `laion2b`: the rule by which LAION-2B was made, English captions of some CLIP score. METHOD 4."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from baselines import language
from baselines.baseline import ENGINE, Baseline
from filters.command import Command
from filters.filter import Cut, Filter, Measured, Plan
from filters.maths.arrays import Array
from filters.options import Layers
from filters.pool.columns import NUMBERS, TEXTS, Rows
from filters.scores import COLUMNS
from filters.work.view import View
from filters.work.work import Work
from submission.published import MEDIUM

SCORE = COLUMNS["b32"]
LEAST = 0.28


@dataclass(frozen=True)
class Laion2B(Filter):
    """Keep what passes two tests. Column `laion2b`: how many, in the order of `laion`, before one fails."""

    name: ClassVar[str] = "laion2b"

    def measure(self, work: Work, rows: Rows) -> Measured:
        work.pool.check_column("text", TEXTS)
        work.pool.check_column(SCORE, NUMBERS)
        return Measured(columns=work.column(laion, rows, language.cld3()))

    def decide(self, work: Work, rows: Rows, seen: Measured) -> Cut:
        return Cut(by=seen.columns["laion2b"], threshold=2)

    def expect(self, plan: Plan, rows: int) -> int:
        cost = language.expect_cld3(plan, rows) + plan.parsed("text") + plan.parsed(SCORE)
        plan.column(laion, rows, cost, "i1")
        plan.measured(rows, laion2b="i1")
        return plan.cut(rows, None)

    def looks_at_embeddings(self) -> bool:
        return False


def laion(view: View, library: str) -> dict[str, Array]:
    """0: the B/32 score is below 0.28; 1: not English; 2: neither. Another `library` may tell languages otherwise. [code]"""
    score = view.numbers(SCORE)
    passed = language.tested(view, (score >= score.dtype.type(LEAST),), (language.english_by_cld3,))
    passed[np.isnan(score)] = -1
    return {"laion2b": passed}


def recipe(layers: Layers) -> Filter:
    made: Laion2B = layers.part(Laion2B, "laion2b")
    return made


BASELINE = Baseline(
    Command("laion2b", "Keep English captions of a B/32 score of at least 0.28.", recipe, (("laion2b", Laion2B),), usual=ENGINE),
    "DataComp baselines.py [code]",
    MEDIUM["laion2b"],
    needs="parquet files; extra text",
)
