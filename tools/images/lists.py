"""Lists of urls for img2dataset: parquet files of the rows that are wanted, each of whole shards but the last."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from filters.maths import uids
from filters.maths.arrays import Bool
from filters.pool.columns import TEXTS, table_batches, uids_of
from filters.pool.errors import BadInput
from filters.pool.files import replacing
from filters.pool.place import Place
from filters.pool.pool import Pool, unreadable
from tools.images.fates import Fates
from tools.images.urls import fault

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = ["uid", "url", "text", "face_bboxes"]
SHARDS = 50  # of a list: img2dataset reads one whole
Pulse = Callable[[int], None]


def check(pool: Pool) -> None:
    """Raise BadInput for a pool that lacks a column."""
    for name in ("uid", "url"):
        pool.check_column(name, TEXTS)
    for name in ("text", "face_bboxes"):
        for shard in pool.shards:
            shard.column_type(name)


def wanted(pool: Pool, fates: Fates, private: bool, pulse: Pulse) -> Iterator[pa.Table]:
    """The rows to ask for, in the pool's order; of a uid that the pool has twice the first. Fates are settled on the way."""
    left = fates.open()
    for shard in pool.shards:
        before = 0
        for batch in table_batches(shard, COLUMNS, pulse):
            with _named(shard.parquet, before):
                some = _taken(batch, fates, left, private)
                tables = [_table([batch.take(some)])] if some else []
            yield from tables
            before += len(batch)


@contextmanager
def _named(path: Place, before: int) -> Iterator[None]:
    """What is wrong with a batch of a table, which has so many rows before it, as bad input."""
    import pyarrow as pa

    try:
        yield
    except uids.BadUid as bad:
        raise BadInput(path, f"row {before + bad.row:,}: {bad.said}", "download it again") from None
    except (pa.ArrowException, ValueError) as error:
        raise unreadable(path, error) from None


def _taken(batch: pa.RecordBatch, fates: Fates, left: Bool, private: bool) -> list[int]:
    """Rows of a batch whose url may be asked. `left` are those that no row was found for yet."""
    at = fates.find(uids_of(batch.column("uid")))
    rows = np.flatnonzero((at >= 0) & left[at])
    rows = rows[np.sort(np.unique(at[rows], return_index=True)[1])]
    left[at[rows]] = False
    taken = []
    for row, url in zip(rows.tolist(), batch.column("url").take(rows).to_pylist(), strict=True):
        if why := fault(url, private):
            fates.refuse(int(at[row]), why)
        else:
            taken.append(row)
    fates.ask(at[taken])
    return taken


def again(lists: list[Path], fates: Fates, which: Bool) -> Iterator[pa.Table]:
    """Rows of earlier lists whose uid is one of these."""
    import pyarrow.parquet as pq

    for path in lists:
        table = pq.read_table(path)
        at = fates.find(np.concatenate([np.empty((0, 2), np.uint64), *map(uids_of, table["uid"].chunks)]))
        yield table.filter(which[at])


def write(folder: Path, tables: Iterable[pa.Table], shard: int) -> list[Path]:
    """Write them, so many rows a shard; gives the files."""
    import pyarrow.parquet as pq

    paths = []
    for number, table in enumerate(_cut(tables, SHARDS * shard)):
        paths.append(folder / f"{number:05}.parquet")
        with replacing(paths[-1]) as file:
            pq.write_table(table, file)
    return paths


def _cut(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of so many, the last one of those that are left."""
    import pyarrow as pa

    held, count = [_table([])], 0
    for table in tables:
        held.append(table)
        count += len(table)
        while count >= rows:
            whole = pa.concat_tables(held)
            yield whole.slice(0, rows)
            held, count = [whole.slice(rows)], count - rows
    if count:
        yield pa.concat_tables(held)


def _table(batches: list[pa.RecordBatch]) -> pa.Table:
    """In the types of DataComp's own files, which differ between pools."""
    import pyarrow as pa

    kinds = [pa.string(), pa.string(), pa.string(), pa.list_(pa.list_(pa.float64()))]
    schema = pa.schema(list(zip(COLUMNS, kinds, strict=True)))
    return pa.Table.from_batches(batches).select(COLUMNS).cast(schema) if batches else schema.empty_table()
