"""TopScore: keep the samples of the highest score. METHOD 2 (order), 4 (`clip_score`).

python filters/topscore.py --pool medium --fraction 0.3
"""

from __future__ import annotations

if __name__ == "__main__":
    import importlib
    import os
    import sys

    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    importlib.import_module("filters.start").topscore()

from dataclasses import dataclass
from typing import ClassVar

from filters.command import Command
from filters.filter import Cut, Filter, Measured, Plan, sized
from filters.options import Layers, option
from filters.pool.columns import Rows
from filters.scores import computed, expect_score, expect_scored, score_column, scored
from filters.work.work import Work


@dataclass(frozen=True)
class TopScore(Filter):
    """Keep the best rows by a score: a fraction or a number of those that reach this stage, or all above a threshold."""

    name: ClassVar[str] = "topscore"
    alternatives: ClassVar[tuple[tuple[str, ...], ...]] = (("fraction", "size", "threshold"),)

    score: str = option(
        "l14, b32, another parquet column, the path of a parquet with uid,score, one that is computed (negcliploss:..., normsim:...), or "
        "(densprune) none: no such stage",
        "l14",
    )
    fraction: float | None = option("share to keep: of what reaches the stage, or of the pool", None, interval="(0, 1]")
    of: str = option("what the fraction is a share of", "stage", choices=("stage", "pool"))
    size: int | None = option("samples to keep, instead of a fraction", None, interval="[1, inf)")
    threshold: float | None = option("smallest score to keep, instead of a fraction", None, interval="(-inf, inf)")
    ties: str = option(
        "of equal scores at the end keep the smaller uids, exactly n in all; or all, as DataComp does [code]", "uid", choices=("uid", "all")
    )

    def known(self, work: Work, rows: Rows) -> Rows:
        return scored(work, rows, self.score)

    def measure(self, work: Work, rows: Rows) -> Measured:
        return Measured(columns={"score": score_column(work, rows, self.score)})

    def decide(self, work: Work, rows: Rows, seen: Measured) -> Cut:
        by = seen.columns["score"]
        if self.threshold is not None:
            return Cut(by=by, threshold=self.threshold)
        quota = self._quota(rows.count(), work.samples)
        if quota > rows.count() and (self.size is not None or (self.of == "pool" and self.ties == "uid")):
            work.refuse_size(quota, rows.count())
        return Cut(by=by, quota=quota, all_ties=self.ties == "all")

    def expect_known(self, plan: Plan, rows: int) -> int:
        return expect_scored(plan, rows, self.score)

    def expect(self, plan: Plan, rows: int) -> int:
        expect_score(plan, rows, self.score)
        plan.measured(rows, score="f4")
        return plan.cut(rows, None if self.threshold is not None else self._quota(rows, plan.samples))

    def looks_at_embeddings(self) -> bool:
        return computed(self.score) is not None

    def _quota(self, rows: int, samples: int) -> int:
        """rows reach the stage, of so many samples of the pool."""
        wanted = sized(samples if self.of == "pool" else rows, self.fraction, self.size)
        # DataComp's threshold is the score at position int(n * f), counted from 0: it stays too.
        return wanted + (self.ties == "all" and self.size is None)


def recipe(layers: Layers) -> Filter:
    made: TopScore = layers.part(TopScore, "score")
    return made


COMMAND = Command("topscore", "Keep the samples of the highest score.", recipe, (("score", TopScore),))


def main(arguments: list[str] | None = None) -> int:
    return COMMAND.main(arguments)
