"""Worker processes may die: what they did not finish is done again."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from filters.filter import Cut, Filter, Measured
from filters.maths.arrays import Array
from filters.options import RunOptions, option
from filters.pool.columns import Rows
from filters.work.engine import TRIES, Engine, WorkerDied
from filters.work.view import View
from filters.work.work import Work

PROCESSES = RunOptions(engine="processes", num_workers=2)


def length_or_death(view: View, folder: str, deaths: int) -> dict[str, Array]:
    """Length of the url; the third shard's worker is killed, as the system does when memory is short, so many times."""
    if view.shard.index == 2 and len(list(Path(folder).iterdir())) < deaths:
        Path(folder, str(os.getpid())).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {"length": np.full(len(view.at), view.shard.index, np.float32)}


@dataclass(frozen=True)
class Deadly(Filter):
    """Keeps everything, unless its workers die too often."""

    name: ClassVar[str] = "deadly"
    folder: str = option("where each death is noted")
    deaths: int = option("how many there are", 0)

    def measure(self, work: Work, rows: Rows) -> Measured:
        return Measured(work.column(length_or_death, rows, self.folder, self.deaths))

    def decide(self, work: Work, rows: Rows, seen: Measured) -> Cut:
        return Cut(by=seen.columns["length"], threshold=0.0)


@pytest.mark.parametrize("deaths", [0, 1, 2])
def test_a_worker_that_was_killed_is_replaced_and_its_work_done_again(deaths: int, tiny_pool: Path, tmp_path: Path) -> None:
    (tmp_path / "deaths").mkdir()
    result = Deadly(str(tmp_path / "deaths"), deaths).run(tiny_pool, tmp_path / "o.npy", options=PROCESSES)
    assert result.status["kept"] == 140
    assert len(list((tmp_path / "deaths").iterdir())) == deaths


def test_a_shard_at_which_workers_die_again_and_again_is_named(tiny_pool: Path, tmp_path: Path) -> None:
    (tmp_path / "deaths").mkdir()
    with pytest.raises(WorkerDied, match=f"{2:032x}.parquet.*{TRIES} worker processes died"):
        Deadly(str(tmp_path / "deaths"), 99).run(tiny_pool, tmp_path / "o.npy", options=PROCESSES)
    assert not (tmp_path / "o.npy").exists()
    result = Deadly(str(tmp_path / "deaths"), 0).run(tiny_pool, tmp_path / "o.npy")
    assert result.status["kept"] == 140


def large(job: tuple[int, str]) -> bytes:
    """More than a pipe holds; the third, the first time, is killed while half of it is sent."""
    number, mark = job
    if number == 2 and not Path(mark).exists():
        Path(mark).touch()
        threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
    return bytes([number]) * 5_000_000


def test_a_worker_killed_in_the_middle_of_its_answer_is_replaced(tmp_path: Path) -> None:
    jobs = [(number, str(tmp_path / "killed")) for number in range(4)]
    with Engine("processes", 2) as engine:
        answers = []
        for answer in engine.map(large, jobs):
            answers.append(answer)
            time.sleep(1.5)  # meanwhile nobody reads
    assert answers == [bytes([number]) * 5_000_000 for number in range(4)]
    assert (tmp_path / "killed").exists()
