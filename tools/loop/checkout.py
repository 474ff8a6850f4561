"""DataComp's checkout and the Python that runs it. Its scripts run as they are, in processes that never see this repository."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from filters.pool.errors import BadInput, from_os

ROOT = Path(__file__).parents[2]
OUTSIDE = Path(__file__).with_name("outside.py")
CLONE = "git clone https://github.com/mlfoundations/datacomp, and name it with --datacomp_dir"
FILES = ("resharder.py", "train.py", "scale_configs.py", "evaluate.py", "tasklist.yml", "eval_utils/main.py")
GRACE = 10.0  # seconds that a script has to end when it is told to


@dataclass(frozen=True)
class Checkout:
    folder: Path
    python: str

    def missing(self) -> list[str]:
        """Its files that are not there."""
        return [name for name in FILES if not (self.folder / name).is_file()]

    def output_of(self, arguments: list[str]) -> bytes:
        """stdout of a short run; raises BadInput where the Python does not run."""
        try:
            return subprocess.run([self.python, *arguments], env=_environment(), capture_output=True, check=True).stdout
        except subprocess.CalledProcessError as error:
            said = error.stderr.decode(errors="replace").strip().splitlines() or ["nothing"]
            raise BadInput(self.python, f"ended with {error.returncode} and said {said[-1]}", "name another --python") from None
        except OSError as error:
            raise from_os(self.python, error) from None

    def run(self, script: str, arguments: list[str], log: IO[bytes], tell: Callable[[Callable[[], str]], None]) -> str:
        """Run a script of the checkout to its end, what it says in a log; gives how it ended, which says little, for the user."""
        if missing := self.missing():
            raise BadInput(self.folder, f"has no {', '.join(missing)}", CLONE)
        began, path = time.monotonic(), Path(log.name)
        log.truncate(0)
        process = self._started(arguments, log)
        try:
            while process.poll() is None:
                time.sleep(0.1)
                tell(lambda: f"{path.name} has been written for {time.monotonic() - began:.0f} s")
        finally:
            _end(process)
        said = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
        return f"{script} ended with {process.returncode}, its log is {path}" + (f" and ends {said[-1].strip()[:200]!r}" if said else "")

    def _started(self, arguments: list[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
        call = [self.python, *arguments]
        try:
            return subprocess.Popen(call, env=_environment(), stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        except OSError as error:
            raise from_os(self.python, error) from None


@contextmanager
def held(log: Path) -> Iterator[IO[bytes]]:
    """A log, locked for us and for each process that writes it: one that outlives a kill -9 of ours keeps the same command off."""
    with _opened(log) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(log, "is being written by what another call began", f"wait for its end, or end it: fuser {log}") from None
        yield file


def _opened(log: Path) -> IO[bytes]:
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        return log.open("ab")
    except OSError as error:
        raise from_os(log, error) from None


def _end(process: subprocess.Popen[bytes]) -> None:
    """Nothing of a script outlives us: its workers are of its session."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
    with contextlib.suppress(ProcessLookupError):  # no number of a group is given away while one of it lives
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _environment() -> dict[str, str]:
    """Ours, without this repository; DataComp's checkpoints hold what torch unpickles only when it is told to."""
    places = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place and Path(place).resolve() != ROOT]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(places), "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
