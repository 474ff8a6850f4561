"""resharder.py, and whether it did what it was asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from filters.command import Quiet
from filters.pool import subset
from filters.pool.errors import BadInput, from_os
from tools.loop.checkout import Checkout, held
from tools.loop.shards import Comparison, input_shards, read_back, tars

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

    def made(self, checkout: Checkout, console: Quiet, overwrite: bool) -> Comparison:
        """Run, unless it has come to its end before; raises BadInput where the output is not right, whatever the exit code was."""
        if not len(subset.read(self.subset)):
            raise BadInput(self.subset, "lists no uid", "name a subset that keeps some")
        with held(self.log) as log:
            if self._is_there(overwrite):
                return self._judged(console, "remove it, give --overwrite, or name another --output_dir")
            return self._judged(console, checkout.run("resharder.py", self._arguments(checkout), log, console.tell))

    def _arguments(self, checkout: Checkout) -> list[str]:
        """The number of shards is told: the resharder would end at a gap in their names."""
        numbers = [int(path.stem) for path in input_shards(self.source)]
        places = ["-i", str(self.source.resolve()), "-o", str(self.output.resolve()), "-s", str(self.subset.resolve())]
        shards = ["--first-shard", str(numbers[0]), "-n", str(numbers[-1] - numbers[0] + 1)]
        return [str(checkout.folder.resolve() / "resharder.py"), *places, *shards, "-j", str(self.workers)]

    def _is_there(self, overwrite: bool) -> bool:
        """Whether the output is to be judged as it is; else it is an empty folder now. A resharder that was stopped has no meta.json."""
        try:
            self.output.mkdir(parents=True, exist_ok=True)
            found = list(self.output.iterdir())
            if (self.output / "meta.json").is_file() and not overwrite:
                return True
            self._clear(found)
        except OSError as error:
            raise from_os(self.output, error) from None
        return False

    def _clear(self, found: list[Path]) -> None:
        """What a resharder left; its own --overwrite does not wait until all is gone."""
        names = {path.name for path in found}
        if found and ("sample_ids.npy" not in names or not all(map(WRITTEN.fullmatch, names))):
            raise BadInput(self.output, "holds what no resharder wrote", "name another --output_dir")
        for path in found:
            path.unlink()

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
