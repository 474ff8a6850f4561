"""The whole loop for several subsets and seeds, and its table."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from filters.command import Quiet
from filters.pool import subset
from filters.pool.errors import BadInput
from tools.loop.checkout import Checkout
from tools.loop.reshard import WRITTEN_LAST, Reshard
from tools.loop.training import Evaluation, Training


@dataclass(frozen=True)
class Loop:
    """Each subset resharded once, a model for each seed, all evaluated; the folders are WORK/NAME/shards and WORK/NAME/seed0."""

    subsets: list[Path]
    source: Path
    sets: Path
    work: Path
    scale: str
    seeds: list[int]
    workers: int
    arguments: tuple[str, ...]

    def rows(self, checkout: Checkout, console: Quiet) -> Iterator[tuple[str, int, list[float]]]:
        """Name, samples and the mean over the tasks of each seed; what is done already is only read."""
        names = [path.stem for path in self.subsets]
        if len(set(names)) < len(names):
            raise BadInput("--subset", f"names {max(names, key=names.count)} twice", "give the files other names")
        if len(set(self.seeds)) < len(self.seeds):
            raise BadInput("--seeds", f"names {max(self.seeds, key=self.seeds.count)} twice", "give each once: equal seeds have no spread")
        self._check(checkout)
        for path in self.subsets:
            written = self._resharded(path, checkout, console)
            yield path.stem, written, [self._seed(path, seed, checkout, console) for seed in self.seeds]

    def _check(self, checkout: Checkout) -> None:
        """What would be told only after hours."""
        Evaluation(self.work, self.sets).tasklist(checkout)
        for path in self.subsets:
            listed, copy = subset.read(path), self.work / path.stem / "shards/sample_ids.npy"
            if copy.with_name(WRITTEN_LAST).is_file() and not np.array_equal(listed, subset.read(copy)):
                raise BadInput(copy.parents[1], f"was made of another subset than {path} is", "remove it, or name another --work_dir")

    def _resharded(self, path: Path, checkout: Checkout, console: Quiet) -> int:
        place = self.work / path.stem / "shards"
        job = Reshard(path, self.source, place, self.workers)
        found = job.made(checkout, console, overwrite=False, do=f"remove {place}, and it is made anew")
        console.say(f"{path.stem}: {len(subset.read(path)):,} listed, {len(found.place):,} written")
        return len(found.place)

    def _seed(self, path: Path, seed: int, checkout: Checkout, console: Quiet) -> float:
        place = self.work / path.stem / f"seed{seed}"
        trained = Training(place.with_name("shards"), place, self.scale, seed, self.arguments).made(checkout, console)
        metrics = Evaluation(place, self.sets).made(checkout, console)
        values = [value for value in metrics.values() if value is not None]
        if not values:
            raise BadInput(self.sets, "has no task with a main metric", "name other evaluation sets")
        told = statistics.mean(values)
        console.say(f"{path.stem} seed {seed}: loss {trained.first_loss:.2f} -> {trained.last_loss:.2f}, {told:.4f}")
        return told


def table(rows: list[tuple[str, int, list[float]]]) -> str:
    """Of a mean of several seeds the standard deviation beside it."""
    width = max(len("subset"), *(len(name) for name, _, _ in rows))
    lines = [f"{'subset':<{width}}  {'samples':>13}  {'seeds':>5}  {'mean':>7}  {'spread':>7}  each"]
    for name, samples, told in rows:
        spread = f"{statistics.stdev(told):>7.4f}" if len(told) > 1 else f"{'-':>7}"
        each = " ".join(f"{value:.4f}" for value in told)
        lines.append(f"{name:<{width}}  {samples:>13,}  {len(told):>5}  {statistics.mean(told):>7.4f}  {spread}  {each}")
    return "\n".join(lines)
