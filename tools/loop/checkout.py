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
HOME = "https://github.com/mlfoundations/datacomp"
FILES = ("resharder.py", "train.py", "scale_configs.py", "evaluate.py", "tasklist.yml", "eval_utils/main.py")
GRACE = 10.0  # seconds that a script has to end when it is told to


@dataclass(frozen=True)
class Checkout:
    folder: Path
    python: str

    def missing(self) -> list[str]:
        """Its files that are not there."""
        return [name for name in FILES if not (self.folder / name).is_file()]

    def script(self, name: str) -> Path:
        """One of its files, from any folder; raises BadInput where it is not there."""
        path = self.folder.resolve() / name
        if not path.is_file():
            raise BadInput(path, "is not there", f"git clone {HOME}, and name it with --datacomp_dir")
        return path

    def output_of(self, arguments: list[str]) -> bytes:
        """stdout of a short run; raises BadInput where the Python does not run."""
        try:
            return subprocess.run([self.python, *arguments], env=_environment(), capture_output=True, check=True).stdout
        except subprocess.CalledProcessError as error:
            said = error.stderr.decode(errors="replace").strip().splitlines() or ["nothing"]
            raise BadInput(self.python, f"ended with {error.returncode} and said {said[-1]}", "name another --python") from None
        except OSError as error:
            raise from_os(self.python, error) from None

    def run(self, arguments: list[str], log: IO[bytes], tell: Callable[[Callable[[], str]], None]) -> str:
        """Run a script of the checkout to its end, what it says in a log; gives how it ended, which says little, for the user."""
        began, path = time.monotonic(), Path(log.name)
        try:
            process = subprocess.Popen(
                [self.python, *arguments], env=_environment(), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        except OSError as error:
            raise from_os(self.python, error) from None
        try:
            while process.poll() is None:
                time.sleep(0.1)
                tell(lambda: f"{path.name} has been written for {time.monotonic() - began:.0f} s")
        finally:
            _end(process)
        said = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
        return f"ended with {process.returncode}, its log {path} " + (f"ends {said[-1][:200]!r}" if said else "is empty")


@contextmanager
def logged(path: Path) -> Iterator[IO[bytes]]:
    """An empty log, held as long as a process writes to it: raises BadInput while one does, even if whoever began it was killed."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    except OSError as error:
        raise from_os(path, error) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(
                path, "is being written by another call, or by what one left behind", f"wait for it, or end it: fuser {path}"
            ) from None
        file.truncate(0)
        yield file


def _end(process: subprocess.Popen[bytes]) -> None:
    """Nothing of a script outlives us: its workers are of its session, and may outlive it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return  # all have come to their end
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)


def _environment() -> dict[str, str]:
    """Ours, without this repository; DataComp's checkpoints hold what torch unpickles only when it is told to."""
    places = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place and Path(place).resolve() != ROOT]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(places), "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
