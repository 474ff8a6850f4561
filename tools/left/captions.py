"""What the pool's own tables tell of a few samples: caption, size, url, scores."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from filters.command import Quiet
from filters.pool.columns import parquet_batches
from filters.pool.errors import BadInput
from filters.pool.pool import Pool, Shard
from tools.left.account import Sample
from tools.left.run import Run

COLUMNS = ("text", "url", "original_width", "original_height", "clip_b32_similarity_score", "clip_l14_similarity_score")


class Captions:
    """The tables of a run's pool, where they are still at hand."""

    def __init__(self, run: Run, metadata_dir: str | None, console: Quiet) -> None:
        """Raises BadInput for a --metadata_dir that is not the run's pool; one that moved away is only said."""
        try:
            self._pool: Pool | None = _opened(run, metadata_dir)
        except BadInput as error:
            if metadata_dir:
                raise
            console.say(f"no captions: {error}")
            self._pool = None

    def of(self, samples: Iterable[Sample]) -> dict[int, dict[str, Any]]:
        """Columns of each sample, by its position; none of a pool that is not at hand."""
        wanted: dict[int, dict[int, int]] = defaultdict(dict)
        for one in samples if self._pool else ():
            wanted[one.shard][one.row] = one.position
        found: dict[int, dict[str, Any]] = defaultdict(dict)
        for shard, rows in wanted.items():
            assert self._pool is not None, "there is something to read"
            for row, told in _read(self._pool.shards[shard], sorted(rows)).items():
                found[rows[row]] = told
        return found


def _opened(run: Run, metadata_dir: str | None) -> Pool:
    pool = Pool.open(metadata_dir or run.location, embeddings=False)
    if [shard.key for shard in pool.shards] != sorted(run.shards) or not all(one.like(run.shards[one.key]) for one in pool.shards):
        raise BadInput(pool.location, f"is not the pool of {run.folder}, or changed since", "name the run's own by --metadata_dir")
    return pool


def _read(shard: Shard, rows: list[int]) -> dict[int, dict[str, Any]]:
    """Some rows of a shard, ascending. What lies behind the last of them is not read."""
    found: dict[int, dict[str, Any]] = {row: {} for row in rows}
    for name in (name for name in COLUMNS if name in shard.columns):
        start, wanted = 0, np.array(rows)
        for batch in parquet_batches(shard, name, _nobody):
            here = wanted[(wanted >= start) & (wanted < start + len(batch))]
            for row in here.tolist():
                value = batch[row - start].as_py()
                found[row][name] = None if value != value else value  # JSON has no NaN
            start += len(batch)
            if start > rows[-1]:
                break
    return found


_nobody: Callable[[int], None] = lambda size: None  # noqa: E731 - nobody asks how much was read
