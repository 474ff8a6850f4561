"""How far a run is: what its passes have done against its plan, and from that the time left. status.json tells schedulers."""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from filters.pool.errors import BadInput
from filters.pool.files import replacing
from filters.work.plan import Plan
from filters.work.rates import Rates
from filters.work.work import Progress

EVERY = 1.0  # seconds between two writings of status.json
PRIOR = 0.05  # of the planned time: so much must have passed before what a run has shown outweighs its plan


@dataclass(frozen=True)
class Status:
    """One moment of a run; as JSON, the content of status.json."""

    state: str = "running"  # running, done, failed, stopped
    stage: str = ""
    stage_number: int = 0  # k of n
    stages: int = 0
    pass_name: str = ""
    samples_done: int = 0  # of the pass
    samples_total: int = 0
    samples_per_second: float = 0.0
    bytes_read: int = 0  # of the pool, in the whole run
    bytes_per_second: float = 0.0  # in the pass
    pass_eta_seconds: float = 0.0
    eta_seconds: float = 0.0  # of the whole run
    seconds: float = 0.0  # since it started
    started: str = ""
    updated: str = ""
    pid: int = field(default_factory=os.getpid)
    error: str | None = None
    stage_seconds: dict[str, float] = field(default_factory=dict)  # of the stages so far
    planned_seconds: dict[str, float] = field(default_factory=dict)  # of all stages, as foreseen when the run started


class Watch:
    """Stands between the passes and whoever shows them; `with` writes the last status."""

    def __init__(self, plan: Plan, rates: Rates, progress: Progress, path: Path) -> None:
        self._progress, self._path = progress, path
        self._ahead = Ahead(plan, rates)
        planned = {stage.name: round(plan.seconds(rates, stage.name), 3) for stage in plan.stages}
        self._now = Status(stages=len(planned), started=_clock(), updated=_clock(), planned_seconds=planned)
        self._began = self._stage_began = self._pass_began = self._advanced = time.monotonic()
        self._inside = False  # of a pass
        self._before = 0  # bytes read when the pass began
        self._lock, self._over = threading.RLock(), threading.Event()
        self._ticker = threading.Thread(target=self._tick, name="status", daemon=True)

    def __enter__(self) -> Watch:
        self._write()
        self._ticker.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._ticker.join()
        state = "done" if kind is None else "failed" if issubclass(kind, Exception) else "stopped"
        told = None if error is None or state == "stopped" else str(error) if isinstance(error, BadInput) else repr(error)
        self._close_stage()
        with self._lock:
            self._now = replace(self.status(), state=state, error=told, eta_seconds=0.0, pass_eta_seconds=0.0)
        self._write()

    # -- what the passes tell

    def stage(self, name: str) -> None:
        with self._lock:
            self._close_stage()
            number = list(self._now.planned_seconds).index(name) + 1 if name in self._now.planned_seconds else self._now.stage_number
            self._now = replace(self._now, stage=name, stage_number=number)
        self._progress.stage(name)

    def begin(self, name: str, samples: int) -> None:
        with self._lock:
            self._pass_began = self._advanced = time.monotonic()
            self._before = self._now.bytes_read
            self._inside = True
            self._ahead.begin(self._now.stage, name, samples)
            self._now = replace(self._now, pass_name=name, samples_done=0, samples_total=samples)
        self._progress.begin(name, samples)
        self._progress.show(self.status())

    def advance(self, samples: int, size: int = 0) -> None:
        with self._lock:
            self._advanced = time.monotonic()
            done, read = self._now.samples_done + samples, self._now.bytes_read + size
            self._now = replace(self._now, samples_done=done, bytes_read=read)
        self._progress.advance(samples, size)
        self._progress.show(self.status())

    def end(self) -> None:
        with self._lock:
            self._ahead.end(time.monotonic() - self._began)
            self._inside = False
            self._progress.end()

    def say(self, line: str) -> None:
        self._progress.say(line)

    def show(self, status: Status) -> None:
        self._progress.show(status)

    # -- what is told

    def status(self) -> Status:
        """This moment."""
        with self._lock:
            now, here = time.monotonic(), self._now
            passed = self._advanced - self._pass_began
            left, after = self._ahead.left(here.samples_done, passed, now - self._pass_began)
            return replace(
                here,
                samples_per_second=round(here.samples_done / passed, 1) if passed else 0.0,
                bytes_per_second=round((here.bytes_read - self._before) / passed, 1) if passed else 0.0,
                pass_eta_seconds=round(left, 3),
                eta_seconds=round(left + after, 3),
                seconds=round(now - self._began, 3),
                updated=_clock(),
            )

    def _close_stage(self) -> None:
        now = time.monotonic()
        if self._now.stage:
            took = self._now.stage_seconds | {self._now.stage: round(now - self._stage_began, 3)}
            self._now = replace(self._now, stage_seconds=took)
        self._stage_began = now

    def _tick(self) -> None:
        while not self._over.wait(EVERY):
            with self._lock:  # never after the end of a pass: its line is gone then
                if self._inside:
                    self._progress.show(self.status())
            self._write()

    def _write(self) -> None:
        status = self.status() if self._now.state == "running" else replace(self._now, updated=_clock())
        try:
            with replacing(self._path) as file:
                file.write((json.dumps(asdict(status), indent=2) + "\n").encode())
        except BadInput:  # a full disk: the run itself will find out, and say so
            return


class Ahead:
    """The time that the passes which are not done will take, if they go on against the plan as those before did."""

    def __init__(self, plan: Plan, rates: Rates) -> None:
        self._passes, self._rates = plan.passes, rates
        self._seconds = [one.seconds(rates) for one in plan.passes]
        self._at, self._known = -1, False  # place in the plan of the pass that runs; whether it is there at all
        self._planned, self._part = 0.0, 1.0  # seconds of the passes that ran; how much of the pass is to be done in this run
        self._elapsed = 0.0  # when the last one ended

    def begin(self, stage: str, name: str, samples: int) -> None:
        """The next pass of this name. Those before it are recorded from an earlier run: they take no time."""
        places = range(self._at + 1, len(self._passes))
        named = [at for at in places if (self._passes[at].stage, self._passes[at].name) == (stage, name)]
        self._known = bool(named)
        if named:
            self._at = named[0]
            self._part = min(1.0, samples / max(1, self._passes[self._at].samples))

    def end(self, elapsed: float) -> None:
        if self._known:
            self._planned += self._seconds[self._at] * self._part
        self._elapsed = elapsed

    @property
    def pace(self) -> float:
        """Seconds that the run has taken for a planned one."""
        prior = PRIOR * sum(self._seconds)
        return (self._elapsed + prior) / (self._planned + prior) if self._planned + prior else 1.0

    def left(self, done: int, passed: float, since: float) -> tuple[float, float]:
        """Seconds of the pass that runs, and of all after it.

        done    samples of the pass; passed: seconds until they were done; since: seconds that the pass runs
        """
        if self._at < 0:
            return 0.0, self.pace * sum(self._seconds)
        usual = self._passes[self._at].samples * self._part * self._passes[self._at].usual  # samples after which it ends
        whole = passed * usual / done if done else self.pace * self._seconds[self._at] * self._part
        return max(0.0, whole - since), self.pace * sum(self._seconds[self._at + 1 :])


def _clock() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
