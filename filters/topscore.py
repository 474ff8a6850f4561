"""TopScore: keep the samples of the highest score. METHOD 2 (order), 4 (`clip_score`).

python filters/topscore.py --pool medium --fraction 0.3
"""

from __future__ import annotations

if __name__ == "__main__":
    import importlib
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])
    sys.exit(importlib.import_module("filters.topscore").main())

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from filters.command import Command
from filters.filter import Cut, Filter, Measured
from filters.maths import uids
from filters.maths.arrays import Array
from filters.options import Layers, option
from filters.outcome import is_in
from filters.pool.columns import NUMBERS, Rows, Stored, read_table
from filters.pool.errors import BadInput
from filters.pool.subset import stamps
from filters.work.view import View
from filters.work.work import Work
from filters.work.workdir import Saved

COLUMNS = {"l14": "clip_l14_similarity_score", "b32": "clip_b32_similarity_score"}


@dataclass(frozen=True)
class TopScore(Filter):
    """Keep the best rows by a score: a fraction or a number of those that reach this stage, or all above a threshold."""

    name: ClassVar[str] = "topscore"
    alternatives: ClassVar[tuple[tuple[str, ...], ...]] = (("fraction", "size", "threshold"),)

    score: str = option("l14, b32, another parquet column, the path of a parquet with uid,score, or in a recipe none: no such stage", "l14")
    fraction: float | None = option("share of the stage's input to keep", None, interval="(0, 1]")
    size: int | None = option("samples to keep, instead of a fraction", None, interval="[1, inf)")
    threshold: float | None = option("smallest score to keep, instead of a fraction", None, interval="(-inf, inf)")
    ties: str = option(
        "of equal scores at the end keep the smaller uids, exactly n in all; or all, as DataComp does [code]", "uid", choices=("uid", "all")
    )

    def known(self, work: Work, rows: Rows) -> Rows:
        if not is_table(self.score):
            return rows
        found = work.select(is_in, rows, _table(work, self.score)["uids"])
        if not found.count():
            raise BadInput(self.score, f"has a score of none of the pool's {rows.count():,} samples", "name the table of this pool")
        return found

    def measure(self, work: Work, rows: Rows) -> Measured:
        return Measured(columns={"score": score_column(work, rows, self.score)})

    def decide(self, work: Work, rows: Rows, seen: Measured) -> Cut:
        by = seen.columns["score"]
        if self.threshold is not None:
            return Cut(by=by, threshold=self.threshold)
        quota = self._quota(work, rows)
        if self.ties == "all" and self.size is None:
            # DataComp's threshold is the score at position int(n * f), counted from 0: it stays too.
            quota += 1
        return Cut(by=by, quota=quota, all_ties=self.ties == "all")

    def _quota(self, work: Work, rows: Rows) -> int:
        if self.size is None:
            return int(rows.count() * (self.fraction or 0))
        if self.size > rows.count():
            raise BadInput("size", f"{self.size:,} samples asked for, {rows.count():,} left ({work.left()})", "ask for fewer")
        return self.size


def score_column(work: Work, rows: Rows, score: str) -> Stored:
    """The score of each row, float32; no value where the source has none."""
    if is_table(score):
        table = _table(work, score)
        return work.column(score_of_table, rows, table["uids"], table["scores"])["score"]
    column = COLUMNS.get(score, score)
    work.pool.check_column(column, NUMBERS)
    return work.column(score_of_pool, rows, column)["score"]


def is_table(score: str) -> bool:
    return score.endswith(".parquet")


def _table(work: Work, path: str) -> dict[str, Saved]:
    return work.once(scores_by_uid, path, stamps(path))


def scores_by_uid(work: Work, path: str, stamps: object) -> dict[str, Array]:
    """A user's table: uids (n, 2) uint64 ascending, scores (n,) float64."""
    known, scores = read_table(path)
    return {"uids": known, "scores": scores}


def score_of_pool(view: View, column: str) -> dict[str, Array]:
    return {"score": _float32(view.numbers(column))}


def score_of_table(view: View, known: Saved, scores: Saved) -> dict[str, Array]:
    place = uids.find(np.asarray(known.load()), view.uids())
    return {"score": _float32(np.where(place >= 0, scores.load()[place], np.nan))}


def _float32(scores: Array) -> Array:
    """As DataComp stores and compares them; a number beyond float32 is none."""
    with np.errstate(over="ignore"):
        narrow = scores.astype(np.float32)
    narrow[~np.isfinite(narrow)] = np.nan
    return narrow


def recipe(layers: Layers) -> Filter:
    made: TopScore = layers.part(TopScore, "score")
    return made


COMMAND = Command("topscore", "Keep the samples of the highest score.", recipe, (("score", TopScore),))


def main(arguments: list[str] | None = None) -> int:
    return COMMAND.main(arguments)
