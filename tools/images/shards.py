"""A folder of shards as img2dataset leaves them, and how one of them gets there: whole, under the next number.

img2dataset writes into a folder of its own. What is whole there is moved; what is not never gets here. The tar comes last: a number
is taken when its tar is there, and all that tells of what was asked are the tables beside the tars.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from filters.maths.arrays import U64, Bool
from filters.pool.columns import uids_of
from filters.pool.errors import BadInput, from_os, shortened
from filters.pool.files import UNREADABLE, move, replacing
from filters.pool.subset import held_in

if TYPE_CHECKING:
    import pyarrow as pa

DIGITS = 8  # of a shard's number
SUCCESS = "success"


@dataclass(frozen=True)
class Answers:
    """What came of the urls of one shard."""

    uids: U64  # (n, 2)
    arrived: Bool  # (n,)
    errors: list[str | None]  # n
    size: int  # bytes of the images
    last_key: str  # the largest of its samples' keys


@dataclass
class Shards:
    """The folder, and the first number that is free."""

    folder: Path
    free: int = 0

    def __post_init__(self) -> None:
        try:
            self._step()
        except OSError as error:
            raise from_os(self.folder, error) from None

    def _step(self) -> None:
        while self.path(self.free, ".tar").exists():
            self.free += 1

    def path(self, number: int, end: str) -> Path:
        return self.folder / f"{number:0{DIGITS}}{end}"

    def answers(self) -> Iterator[Answers]:
        """Of every shard that is here, in ascending order. One without statistics was never finished, and says nothing."""
        for stats in sorted(self.folder.glob("*_stats.json")):
            tar, table = beside(stats, ".tar"), beside(stats, ".parquet")
            if not tar.exists():
                continue
            if not table.exists():
                raise BadInput(tar, f"has no {table.name} beside it that tells which urls it is of", "name a folder that img2dataset wrote")
            yield answers_in(table, tar)

    def last_statistics(self) -> Path | None:
        return max(self.folder.glob("*_stats.json"), default=None)

    def adopt(self, staged: Path) -> None:
        """Take over a shard that is whole, by its statistics."""
        table, tar = beside(staged, ".parquet"), beside(staged, ".tar")
        for path in (table, tar):
            _sync(path)
        with replacing(self.path(self.free, "_stats.json")) as file:
            file.write(staged.read_bytes())
        move(table, self.path(self.free, ".parquet"))
        move(tar, self.path(self.free, ".tar"))
        self._step()


def whole(staged: Path) -> Answers:
    """Of a shard, by its statistics; raises BadInput when it is not whole."""
    table, tar = beside(staged, ".parquet"), beside(staged, ".tar")
    found = answers_in(table, tar)
    _check_same(tar, found)
    return found


def finished(folder: Path, known: Container[Path] = ()) -> list[Path]:
    """Statistics of the shards that img2dataset says are done, in ascending order; without those that are known."""
    fresh = [path for path in sorted(folder.glob("*_stats.json")) if path not in known]
    return [path for path in fresh if beside(path, ".tar").exists() and _written(path)]


def beside(stats: Path, end: str) -> Path:
    """Another file of the shard."""
    return stats.with_name(stats.name.removesuffix("_stats.json") + end)


def _written(stats: Path) -> bool:
    """Statistics are what is written last of a shard, but not at once."""
    try:
        return isinstance(json.loads(stats.read_text())["successes"], int)
    except UNREADABLE:
        return False


def answers_in(table: Path, tar: Path) -> Answers:
    """Raises BadInput for a table that is none of img2dataset's, with DataComp's uids."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        read = pq.read_table(table, columns=["uid", "status", "error_message", "key"]).combine_chunks()
        arrived: Bool = pc.equal(read["status"], SUCCESS).fill_null(False).to_numpy(zero_copy_only=False)
        errors = read["error_message"].cast(pa.string()).to_pylist()
        return Answers(_words(read["uid"]), arrived, errors, tar.stat().st_size, max(map(_key, read["key"].to_pylist()), default=""))
    except OSError as error:
        raise from_os(table, error) from None
    except (pa.ArrowException, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise BadInput(table, f"is no table of img2dataset's with uids ({reason})", "name a folder that it wrote") from None


def _key(value: object) -> str:
    if not re.fullmatch("[0-9]+", str(value)):
        raise ValueError(f"a key is {shortened(value)}")
    return str(value)


def _words(column: pa.ChunkedArray) -> U64:
    parts = [np.empty((0, 2), np.uint64), *map(uids_of, column.chunks)]
    return np.concatenate(parts)


def _check_same(tar: Path, told: Answers) -> None:
    """What the table says has arrived is in the tar, which has an end."""
    held, wanted = (words[np.lexsort(words.T)] for words in (held_in(tar), told.uids[told.arrived]))
    if not np.array_equal(held, wanted):
        raise BadInput(tar, f"holds {len(held):,} images, its table tells of {len(wanted):,}", "download the shard again")


def _sync(path: Path) -> None:
    try:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    except OSError as error:
        raise from_os(path, error) from None
