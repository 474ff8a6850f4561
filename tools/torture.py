"""Kill a run again and again, on each engine and number of workers: the result is the same bytes, or it is said which differ.

    python -m tools.torture                                         on the demo pool; the one sha256 goes to stdout
    python -m tools.torture --kills 50 --engines threads --workers 1 --seed 7

A kill meets the run just before a random rename, fsync, remove or opening of a file, or at a file half written. The next run goes on
in what the killed one left, and is killed as well; one that comes to its end is compared, and the next begins anew.
"""

from __future__ import annotations

if __name__ == "__main__":
    import importlib
    import os
    import sys

    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    importlib.import_module("filters.start").begin("tools.torture")

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filters.pool.files import sha256
from tools.kill import EVENTS, counted, killed

PAGE = Path(__file__).parents[1] / "filters" / "densprune.py"


class Cell:
    """Runs on one engine, with so many workers, in a folder of their own."""

    def __init__(self, folder: Path, pool: list[str], engine: str, workers: int) -> None:
        self.folder, self.name = folder, f"{engine}, workers {workers}"
        how = ["--engine", engine, "--num_workers", str(workers), "--save_path", "o.npy", "--quiet"]
        self.call = [str(PAGE), *pool, *how]

    def empty(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()

    def results(self, kills: int, chance: random.Random) -> Iterator[str]:
        """What runs that came to their end made, and what is wrong with what they left."""
        self.empty()
        counts = counted(self.call, self.folder)
        yield self.result()
        self.empty()
        for kill in range(kills):
            event = EVENTS[kill % len(EVENTS)]
            number = chance.randint(1, counts[event])
            met = killed(self.call, self.folder, event, number)
            say(f"{self.name}: {'killed at' if met else 'ended before'} {event} {number} of {counts[event]}")
            if not met:
                yield self.result()
                self.empty()
        subprocess.run([sys.executable, *self.call], cwd=self.folder, check=True)
        yield self.result()

    def result(self) -> str:
        left = [path.name for path in self.folder.rglob("*") if ".tmp" in path.name or path.name == "leaving"]
        return f"left over: {left[0]}" if left else sha256(self.folder / "o.npy")


def say(line: str) -> None:
    print(f"torture: {line}", file=sys.stderr, flush=True)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--pool", default="demo")
    made.add_argument("--metadata_dir", type=Path, help="of a pool that lies elsewhere; the demo is made here when it is not given")
    made.add_argument("--kills", type=int, default=10, help="in each cell")
    made.add_argument("--engines", nargs="+", default=["threads", "processes"], choices=["threads", "processes"])
    made.add_argument("--workers", nargs="+", type=int, default=[1, 2])
    made.add_argument("--seed", type=int, default=1)
    return made


def place(pool: str, metadata_dir: Path | None) -> list[str]:
    """The flags of the pool; the demo's is made first, where it can be used again."""
    if metadata_dir is None and pool == "demo":
        from filters.pool import demo

        demo.make(Path("demo_pool"))
        metadata_dir = Path("demo_pool/metadata")
    return ["--pool", pool, *(["--metadata_dir", str(metadata_dir.resolve())] if metadata_dir else [])]


def main(arguments: list[str] | None = None) -> int:
    given = parser().parse_args(arguments)
    pool = place(given.pool, given.metadata_dir)
    first, wrong = "", 0
    with tempfile.TemporaryDirectory() as folder:
        for engine in given.engines:
            for workers in given.workers:
                cell = Cell(Path(folder, f"{engine}{workers}"), pool, engine, workers)
                for result in cell.results(given.kills, random.Random(f"{given.seed} {cell.name}")):
                    first = first or result
                    if result != first:
                        say(f"{cell.name}: {result}, not {first}")
                        wrong += 1
    if not wrong:
        print(first)
    return min(wrong, 1)
