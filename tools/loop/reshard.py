"""resharder.py, and whether it did what it was asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from filters.command import Quiet
from filters.pool import subset
from filters.pool.errors import BadInput, from_os
from tools.loop.checkout import Checkout, logged
from tools.loop.shards import Comparison, input_shards, read_back, tars

ANEW = "give --overwrite to make it anew, or another --output_dir"
KNOWN_BY = "sample_ids.npy"  # what a resharder writes first
WRITTEN_LAST = "meta.json"  # one that was stopped has none
WRITTEN = re.compile(r"\d{8}(\.tar|_stats\.json)|sample_ids\.npy|meta\.json")


@dataclass(frozen=True)
class Reshard:
    """The samples of a subset, out of a folder of shards into another."""

    subset: Path
    source: Path
    output: Path
    workers: int

    @property
    def log(self) -> Path:
        return self.output.with_name(f"{self.output.name}.log")

    def made(self, checkout: Checkout, console: Quiet, overwrite: bool, do: str = ANEW) -> Comparison:
        """Run, unless it has come to its end before; raises BadInput where the output is not right, whatever the exit code was."""
        if not len(subset.read(self.subset)):
            raise BadInput(self.subset, "lists no uid", "name a subset that keeps some")
        if not overwrite and (self.output / WRITTEN_LAST).is_file():
            return self._judged(console, do)
        arguments = self._arguments(checkout)  # before anything is cleared away
        with logged(self.log) as log:
            self._clear()
            ended = checkout.run(arguments, log, console.tell)
        return self._judged(console, f"resharder.py {ended}")

    def _arguments(self, checkout: Checkout) -> list[str]:
        """The number of shards is told: the resharder would end at a gap in their names."""
        numbers = [int(path.stem) for path in input_shards(self.source)]
        places = ["-i", str(self.source.resolve()), "-o", str(self.output.resolve()), "-s", str(self.subset.resolve())]
        shards = ["--first-shard", str(numbers[0]), "-n", str(numbers[-1] - numbers[0] + 1)]
        return [str(checkout.script("resharder.py")), *places, *shards, "-j", str(self.workers)]

    def _found(self) -> list[Path]:
        """What lies in the output, which is a folder from now on."""
        try:
            self.output.mkdir(parents=True, exist_ok=True)
            return list(self.output.iterdir())
        except OSError as error:
            raise from_os(self.output, error) from None

    def _clear(self) -> None:
        """What a resharder left, by which it is known last; its own --overwrite does not wait until all is gone."""
        found = self._found()
        names = {path.name for path in found}
        if self.output.resolve() in (self.source.resolve(), self.subset.resolve().parent):
            raise BadInput(self.output, "is where the shards or the subset are read from", "name another --output_dir")
        if found and (KNOWN_BY not in names or not all(map(WRITTEN.fullmatch, names))):
            raise BadInput(self.output, "holds what no resharder wrote", "name another --output_dir")
        try:
            for path in sorted(found, key=lambda path: path.name == KNOWN_BY):
                path.unlink()
        except OSError as error:
            raise from_os(self.output, error) from None

    def _judged(self, console: Quiet, do: str) -> Comparison:
        total = sum(path.stat().st_size for folder in (self.source, self.output) for path in tars(folder))
        done = [0]

        def pulse(size: int) -> None:
            done[0] += size
            console.tell(lambda: f"read back  {done[0] / total:.0%}")

        found, faults = read_back(self.subset, self.source, self.output, pulse)
        if faults:
            raise BadInput(self.output, "; ".join(faults[:3]), do)
        return found
