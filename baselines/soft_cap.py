"""Soft Cap Sampling: a sample is drawn again and again, less likely each time, and its uid repeated as often. METHOD 5."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from baselines.baseline import Baseline
from filters.command import Command
from filters.filter import Cut, Filter, Measured, Plan
from filters.held import held_value, values_of
from filters.maths import softcap
from filters.maths.arrays import I64, Array
from filters.maths.softcap import SPAN, Law, Race, Runners, asked, held_bytes
from filters.options import Layers, option
from filters.pool.columns import Column, Rows
from filters.pool.errors import BadInput
from filters.scores import computed, expect_score, expect_scored, score_column, scored
from filters.work.plan import SAMPLE, Cost
from filters.work.rates import Kernel, Site, Trial, writing
from filters.work.view import View
from filters.work.work import Work
from filters.work.workdir import Saved
from submission.published import MEDIUM

NOISE = 8  # purpose of the hash
STEPS = 8  # at most: after each of them a run that is stopped goes on from there
MOST = 2**31 - 1  # batches: what an int32 counts


@dataclass(frozen=True)
class SoftCap(Filter):
    """Draw samples with probabilities by their scores, each less likely once it was drawn."""

    name: ClassVar[str] = "soft_cap"
    repeats: ClassVar[bool] = True
    alternatives: ClassVar[tuple[tuple[str, ...], ...]] = (("draws",),)

    draws: int | None = option(
        "samples to list, repetitions counted: as many as the scale trains on [paper], so 12800000 for small, 128000000 for medium, "
        "1280000000 for large, 12800000000 for xlarge",
        None,
        interval="[1, inf)",
    )
    score: str = option("as TopScore takes it [ours; paper: M-FLYT's, which is not published for the pool]", "l14")
    batch: int = option("samples drawn at a time, without replacement; no more than there are [paper]", 100_000, interval="[1, inf)")
    penalty: float = option("what a draw takes from a sample's logit [paper]", 0.15, interval="[0, inf)")
    scale: float | None = option(
        "standard deviation that the scores get to be logits, as raw cosines are too flat [ours]; none: they are logits already",
        2.5,
        interval="(0, inf)",
        unset="none",
    )

    def known(self, work: Work, rows: Rows) -> Rows:
        return scored(work, rows, self.score)

    def measure(self, work: Work, rows: Rows) -> Measured:
        score = score_column(work, rows, self.score)
        valid = work.present(rows, score)
        counts = valid.counts()
        drawn = work.once(draws, valid, score, self.law(work.label, int(counts.sum())))
        column = work.column(draws_of, valid, drawn["draws"], counts.cumsum() - counts)
        return Measured(columns={"soft_cap_score": score, "draws": column["draws"]})

    def decide(self, work: Work, rows: Rows, seen: Measured) -> Cut:
        return Cut(by=seen.columns["draws"], threshold=1, repeat=seen.columns["draws"])

    def expect_known(self, plan: Plan, rows: int) -> int:
        return expect_scored(plan, rows, self.score)

    def expect(self, plan: Plan, rows: int) -> int:
        expect_score(plan, rows, self.score)
        plan.present(rows)
        law = self.law(self.name, rows)
        with plan.once("draws", 4.0 * rows):
            expect_draws(plan, rows, law)
        plan.column(draws_of, rows, plan.values(rows), "i4")
        plan.measured(rows, soft_cap_score="f4", draws="i4")
        plan.listed = law.total
        return min(plan.cut(rows, None), law.total)

    def looks_at_embeddings(self) -> bool:
        return computed(self.score) is not None

    def law(self, where: str, rows: int) -> Law:
        """What is drawn of so many rows; `where` stands in an error."""
        assert self.draws is not None, "it is the one of its group"
        if not rows:
            raise BadInput(where, "no sample has a score", f"give another --score than {self.score}")
        law = Law(self.draws, min(self.batch, rows), self.penalty, self.scale)
        if law.rounds > MOST:
            raise BadInput(where, f"{law.rounds:,} batches of {law.batch:,} samples", f"ask for fewer draws, {MOST:,} batches at most")
        return law


def draws(work: Work, rows: Rows, score: Column, law: Law) -> dict[str, Array]:
    """How often each of the rows is drawn, (n,) int32; some batches after the other."""
    before: Saved | None = None
    for first, last in steps(law):
        before = work.once(batches, rows, score, law, first, last, before)["draws"]
    assert before is not None, "there is one batch at least"
    return {"draws": before.load()}


def steps(law: Law) -> list[tuple[int, int]]:
    """Batches that are drawn before the result is recorded; whole spans, whose noise is looked at together."""
    size = SPAN * -(-law.rounds // (SPAN * STEPS))
    return [(first, min(first + size, law.rounds)) for first in range(0, law.rounds, size)]


def batches(work: Work, rows: Rows, score: Column, law: Law, first: int, last: int, before: Saved | None) -> dict[str, Array]:
    """The draws of batches `first` to `last`, and of those before."""
    scores, keys = values_of(work, rows, score), values_of(work, rows, work.hashed(NOISE))
    drawn = np.zeros(len(keys), np.int32) if before is None else np.array(before.load())
    with work.shown("race", law.size(first, last)) as watch:
        softcap.draw(scores, keys, drawn, law, first, last, work.engine.workers, watch)
    return {"draws": drawn}


def draws_of(view: View, drawn: Saved, starts: I64) -> dict[str, Array]:
    return {"draws": held_value(view, drawn.load(), starts)}


def expect_draws(plan: Plan, rows: int, law: Law) -> None:
    """What `draws` takes."""
    plan.note(f"{law.total:,} draws in {law.rounds:,} batches: a sample is asked {asked(law, rows) / rows:,.0f} times, on average")
    memory = max(0, held_bytes(law, rows) - SAMPLE * plan.pool.rows)
    for first, last in steps(law):
        for _ in ("scores", "keys"):
            plan.each("batches: values_in_play", rows, plan.values(rows))
        part = law.size(first, last)
        race = Cost({Kernel(racing, (), 60e-9): asked(law, rows) * part / law.total, Kernel(writing, (), 3e-9): 4 * rows})
        plan.held("batches: race", part, race, memory, "draw from fewer samples")
    with plan.once("batches", 4.0 * rows * len(steps(law))):
        pass  # it is told above what they take


def racing(site: Site) -> Trial:
    """Samples that are asked for noise, and those of them that win."""
    n, chance, numbers = 1 << 16, np.random.default_rng(0), itertools.count()
    scores, keys = chance.standard_normal(n, np.float32), chance.integers(0, 1 << 63, n).astype(np.uint64)
    drawn = np.zeros(n, np.int32)
    race = Race(Runners(scores, keys, drawn, 0.0, 2.5, 0.15), map)

    def trial() -> float:
        before = race.asked
        drawn[race.first(next(numbers), n >> 8)] += 1
        return race.asked - before

    return trial


def recipe(layers: Layers) -> Filter:
    made: SoftCap = layers.part(SoftCap, "soft_cap")
    return made


BASELINE = Baseline(
    Command(
        "soft_cap", "Draw samples by their scores, again and again, each less likely once it was drawn.", recipe, (("soft_cap", SoftCap),)
    ),
    "arXiv 2503.08805; published with M-FLYT's score, which is another than ours",
    MEDIUM["soft_cap"],
)
