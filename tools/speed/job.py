"""One side of a step, measured in a process of its own.

Memory, reading and eviction are told by Linux: /proc, posix_fadvise, mincore.
"""

from __future__ import annotations

import ctypes
import mmap
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np

THREADS = 2  # of each side
SHORT, ENOUGH = 5.0, 0.5  # seconds: a first run below SHORT is a rehearsal; further ones are added until there are ENOUGH

Run = Callable[[Callable[[Any], Any], Iterable[Any]], list[Any]]


def nothing() -> None: ...


@dataclass(frozen=True)
class Job:
    """What is timed, and what it found."""

    work: Callable[[], Any]
    tell: Callable[[Any], dict[str, Any]] = lambda found: {}  # of what `work` returned: arrays to compare, and figures to report; not timed
    before: Callable[[], None] = nothing  # not timed


def timed(job: Job) -> tuple[dict[str, Any], dict[str, Any]]:
    """Seconds (a median), bytes held at most in the first run, beyond what was held before it and in all, bytes read and written in the
    last; and what the job tells."""
    family = [os.getpid(), *(child.pid for child in multiprocessing.active_children() if child.pid)]
    held = _reset(family)
    first, moved, found = _once(job, family)
    peak, seconds = sum(map(_peak, family)), list[float]()
    while first < SHORT and sum(seconds) < ENOUGH:
        found = None  # never two results in memory
        again, moved, found = _once(job, family)
        seconds.append(again)
    return {"seconds": statistics.median(seconds or [first]), "peak": peak - held, "total_peak": peak, **moved}, job.tell(found)


def _once(job: Job, family: list[int]) -> tuple[float, dict[str, int], Any]:
    job.before()
    before, began = io(family), time.perf_counter()
    found = job.work()
    seconds, after = time.perf_counter() - began, io(family)
    return seconds, {name: after[name] - before[name] for name in after}, found


def _status(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(f"{name}:")))


def _peak(pid: int) -> int:
    return _status(pid, "VmHWM")


def _reset(family: list[int]) -> int:
    """Forget the peaks so far; gives the bytes held now."""
    for pid in family:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    return sum(_status(pid, "VmRSS") for pid in family)


def io(family: list[int]) -> dict[str, int]:
    """Bytes: `read` by calls, whether from memory or from the disk, `disk` fetched from it, `written` by calls."""
    total = {"read": 0, "disk": 0, "written": 0}
    names = {"rchar": "read", "read_bytes": "disk", "wchar": "written"}
    for pid in family:
        for line in Path(f"/proc/{pid}/io").read_text().splitlines():
            name, _, value = line.partition(": ")
            if name in names:
                total[names[name]] += int(value)
    return total


# -- how a side runs its tasks


@contextmanager
def ours_runs() -> Iterator[Run]:
    """As a run of the product does: a thread a core, arithmetic on one thread each."""
    import pyarrow.parquet  # noqa: F401  before the clock starts
    import torch  # noqa: F401

    from filters.work.engine import Engine, one_thread_each

    with one_thread_each(), Engine("threads", THREADS) as engine:
        yield lambda task, items: list(engine.map(task, items))


SETTINGS = {"1 thread": (1, ""), "2 threads": (2, ""), "2 workers": (1, "threads"), "2 processes": (1, "processes")}


def environment(setting: str) -> dict[str, str]:
    """For a process of this setting: without OPENBLAS_CORETYPE and the like, which may halve numpy. '': nothing is limited."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("OPENBLAS_", "OMP_", "MKL_"))}
    if not setting:
        return plain
    threads = str(SETTINGS[setting][0])
    return plain | {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}


@contextmanager
def peer_runs(setting: str) -> Iterator[Run]:
    """One task after another, or two at a time."""
    kind = SETTINGS[setting][1]
    if not kind:
        yield in_turn
        return
    make = ThreadPool if kind == "threads" else multiprocessing.get_context("fork").Pool
    with make(THREADS) as workers:
        yield lambda task, items: workers.map(task, list(items), chunksize=1)


def in_turn(task: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    return [task(item) for item in items]


# -- cold files


def evict(paths: Iterable[Path]) -> None:
    """Take files out of the system's cache; raises RuntimeError when they stay."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if (share := resident(path)) > 0.01:
            raise RuntimeError(f"{path.name} stays in the cache ({share:.0%}): use a folder on a disk (TMPDIR)")


def resident(path: Path) -> float:
    """Share of a file's pages that are in memory."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        view = np.frombuffer(whole, np.uint8)
        pages = np.zeros(-(-len(view) // mmap.PAGESIZE), np.uint8)
        failed = ctypes.CDLL(None, use_errno=True).mincore(
            ctypes.c_void_p(view.ctypes.data), ctypes.c_size_t(len(view)), ctypes.c_void_p(pages.ctypes.data)
        )
        del view
        if failed:
            raise OSError(ctypes.get_errno(), "mincore")
    return float((pages & 1).mean())
