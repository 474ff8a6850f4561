"""DataComp's `basic_filter`: English captions of some length, images of some size and no odd shape. METHOD 4."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from baselines import language
from baselines.baseline import ENGINE, Baseline
from filters.command import Command
from filters.filter import Cut, Filter, Measured, Plan
from filters.maths.arrays import Array
from filters.options import Layers, option
from filters.pool.columns import NUMBERS, TEXTS, Rows
from filters.work.view import View
from filters.work.work import Work
from filters.work.workdir import Given
from submission.published import MEDIUM

SIDES = ("original_width", "original_height")


@dataclass(frozen=True)
class BasicFilter(Filter):
    """Keep what passes five tests. Column `basic_filter`: how many, in the order of `basic`, before one fails."""

    name: ClassVar[str] = "basic_filter"

    lid_model: str | None = option(language.LID_TEXT, None, path=True)

    def measure(self, work: Work, rows: Rows) -> Measured:
        work.pool.check_column("text", TEXTS)
        for side in SIDES:
            work.pool.check_column(side, NUMBERS)
        return Measured(columns=work.column(basic, rows, language.lid_model(work, self.lid_model)))

    def decide(self, work: Work, rows: Rows, seen: Measured) -> Cut:
        return Cut(by=seen.columns["basic_filter"], threshold=5)

    def expect(self, plan: Plan, rows: int) -> int:
        cost = language.expect(plan, self.lid_model, rows)
        for column in ("text", *SIDES):
            cost += plan.parsed(column)
        plan.column(basic, rows, cost, "i1")
        plan.measured(rows, basic_filter="i1")
        return plan.cut(rows, None)

    def looks_at_embeddings(self) -> bool:
        return False


def basic(view: View, model: Given) -> dict[str, Array]:
    """0: the shorter side is below 200 pixels; 1: the longer is more than 3 times as long; 2: at most 2 words; 3: at most 5 characters;
    4: not English; 5: none of these. [code]"""
    sides = [view.numbers(side) for side in SIDES]
    short, long = np.minimum(*sides), np.maximum(*sides)
    with np.errstate(divide="ignore", invalid="ignore"):
        large, square = short >= 200, long / short <= 3.0
    tests = (language.worded(2), language.longer(5), lambda texts: language.english(texts, model))
    return {"basic_filter": language.tested(view, (large, square), tests)}


def recipe(layers: Layers) -> Filter:
    made: BasicFilter = layers.part(BasicFilter, "basic_filter")
    return made


BASELINE = Baseline(
    Command("basic_filter", "Keep English captions of images of some size.", recipe, (("basic_filter", BasicFilter),), usual=ENGINE),
    "DataComp baselines.py [code]",
    MEDIUM["basic_filter"],
    needs="parquet files; lid.176.bin, extra text",
)
