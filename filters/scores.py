"""Scores by name: a parquet column, a user's table, or one that is computed; what every filter that ranks by a score shares."""

from __future__ import annotations

from importlib import import_module

import numpy as np

from filters.maths import uids
from filters.maths.arrays import Array
from filters.outcome import is_in
from filters.pool.columns import NUMBERS, Column, Rows, read_table, table_rows
from filters.pool.errors import BadInput
from filters.pool.subset import stamps
from filters.score import Score
from filters.work.plan import Plan
from filters.work.view import View
from filters.work.work import Work
from filters.work.workdir import Saved

COLUMNS = {"l14": "clip_l14_similarity_score", "b32": "clip_b32_similarity_score"}
COMPUTED = {"negcliploss": "filters.negcliploss:NegCLIPLoss", "normsim": "filters.normsim:NormSim"}  # name -> module:class


def computed(score: str) -> Score | None:
    """The score that is to be computed, where the text names one."""
    place = COMPUTED.get(score.partition(":")[0])
    if place is None:
        return None
    module, _, name = place.partition(":")
    made: Score = getattr(import_module(module), name).of(score)
    return made


def scored(work: Work, rows: Rows, score: str) -> Rows:
    """The rows that the source knows at all: of a table, those it lists; raises BadInput when it lists none."""
    if not _is_table(score):
        return rows
    found = work.select(is_in, rows, _table(work, score)["uids"])
    if not found.count():
        raise BadInput(score, f"has a score of none of the pool's {rows.count():,} samples", "name the table of this pool")
    return found


def score_column(work: Work, rows: Rows, score: str) -> Column:
    """The score of each row, float32; no value where the source has none."""
    if (made := computed(score)) is not None:
        return made.column(work, rows)
    if _is_table(score):
        table = _table(work, score)
        return work.column(score_of_table, rows, table["uids"], table["scores"])["score"]
    column = COLUMNS.get(score, score)
    work.pool.check_column(column, NUMBERS)
    return work.column(score_of_pool, rows, column)["score"]


def expect_scored(plan: Plan, rows: int, score: str) -> int:
    """What `scored` takes; gives the rows that a table can list at most."""
    if not _is_table(score):
        return rows
    listed = table_rows(score)
    with plan.once("scores_by_uid", 24 * listed):
        plan.note("which samples a table lists is not known before: as many as it has rows are counted on")
    plan.each(is_in, rows, plan.found(rows, listed))
    return min(rows, listed)


def expect_score(plan: Plan, rows: int, score: str) -> None:
    """What `score_column` takes."""
    if (made := computed(score)) is not None:
        made.expect(plan, rows)
    elif _is_table(score):
        plan.column(score_of_table, rows, plan.found(rows, table_rows(score)), "f4")
    else:
        plan.column(score_of_pool, rows, plan.parsed(COLUMNS.get(score, score)), "f4")


def _is_table(score: str) -> bool:
    return score.endswith(".parquet") and computed(score) is None


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
