"""The rows of an ablation, one after the other in one work folder: what an earlier one has measured is found done."""

from __future__ import annotations

import time
import traceback
from collections import deque
from dataclasses import dataclass
from functools import partial

from filters.maths.arrays import I64
from filters.options import RunOptions
from filters.outcome import listing
from filters.pool.columns import Rows
from filters.pool.errors import BadInput, printable
from filters.pool.pool import Pool
from filters.run import Session, planned
from filters.work import room
from filters.work.work import Progress, Work
from filters.work.workdir import Spent
from tools.ablation import figures
from tools.ablation.entries import Setting
from tools.ablation.figures import Measure, Reference
from tools.ablation.folder import Folder
from tools.ablation.overlap import Kept
from tools.ablation.table import Row


@dataclass
class Runs:
    """Recipes on one pool."""

    held: Session
    pool: Pool
    options: RunOptions
    how: Measure
    folder: Folder
    progress: Progress

    def reference(self) -> Reference:
        """Measure the pool; says what it does not hold."""
        self.progress.say("reference: the whole pool, measured once")
        plan, _ = planned(partial(figures.foreseen, how=self.how), self.pool, self.options)
        room.check(plan, self.folder.path, self.folder.work)
        with self.held.work(plan, self.progress) as work:
            known = figures.reference(work, self.options.within, self.how)
        for line in known.missing:
            self.progress.say(f"not measured: {line}")
        self.folder.note(self.held.dir)
        return known

    def rows(self, known: Reference, settings: list[Setting]) -> tuple[list[Row], I64]:
        """A row a setting, and one a random draw from a rule that keeps more than the sizes asked for; (n, n) samples in common."""
        kept = Kept(self.held.dir.stages, known.rows, sum(1 + len(one.draws) for one in settings), self.options.memory_gb)
        waiting, rows = deque(settings), list[Row]()
        while waiting:
            setting = waiting.popleft()
            self.progress.say(f"{len(rows) + 1}/{len(rows) + 1 + len(waiting)} {printable(setting.label)}")
            row, samples = self._row(known, setting)
            rows.append(row)
            kept.add(samples)
            more = [size for size in setting.draws if row.figures and size < row.figures.size]
            waiting.extendleft(reversed([setting.drawn(size) for size in more]))
            self.folder.note(self.held.dir)
        return rows, kept.both()

    def _row(self, known: Reference, setting: Setting) -> tuple[Row, Rows | None]:
        try:
            return self._carried_out(known, setting)
        except BadInput as error:
            self.progress.say(f"no result: {error}")
            return Row(setting, error=str(error)), None
        except Exception as error:  # noqa: BLE001 - a filter of the user's own may raise anything; the other rows are done
            traceback.print_exc()
            return Row(setting, error=f"{type(error).__name__}: {error}"), None

    def _carried_out(self, known: Reference, setting: Setting) -> tuple[Row, Rows]:
        steps = setting.recipe.steps()
        plan, _ = planned(steps.foresee, self.pool, self.options)
        room.check(plan, self.folder.path, self.folder.work)
        began = time.monotonic()
        with self.held.work(plan, self.progress) as work:
            verdict = steps.decide(work, self.options.within)
            kept = verdict.kept
            spent = Spent(time.monotonic() - began, work.bytes_read)
            alone = _alone(work, spent)
            work.progress.stage("figures")
            told = figures.figures(work, known, kept)
            listed, blocks = listing(work, verdict)
            name = self.folder.save(setting.label, blocks)
        return Row(setting, name, told, listed, spent, alone), kept


def _alone(work: Work, spent: Spent) -> Spent | None:
    """What it would have taken without the passes that others have made."""
    spared = work.spared()
    return spared and Spent(spent.seconds + spared.seconds, spent.bytes_read + spared.bytes_read)
