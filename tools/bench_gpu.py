"""Each product on a GPU beside a peer written as its users write it, and beside what the GPU can do at most.

    python -m tools.bench_gpu                 medians of 5 runs of each side, in turn; prints a table
    python -m tools.bench_gpu --rows 200000

The limits are measured too: a copy inside the GPU's memory, a large float16 product, a copy from pinned memory.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from filters.concepts import assign, train
from filters.maths.arrays import F32, Array
from filters.maths.pairs import earlier_max
from filters.maths.search import on_device
from filters.maths.split import Split
from filters.outcome import population
from filters.pool.pool import Pool
from filters.work.engine import Engine, one_thread_each
from filters.work.work import Settings, Work
from filters.work.workdir import WorkDir

if TYPE_CHECKING:
    from torch import Tensor

WIDTH = 768
Row = dict[str, Any]


def measured(device: str, rows: int, repeat: int) -> list[Row]:
    """All steps on a device, on so many rows."""
    raw = unit_rows(rows)
    return [*resident(device, raw, repeat), *pairs(device, raw, repeat), streamed(device, raw, repeat)]


def unit_rows(count: int) -> Array:
    rng = np.random.default_rng(0)
    blocks = [rng.normal(size=(min(20_000, count - start), WIDTH)).astype(np.float32) for start in range(0, count, 20_000)]
    return np.concatenate([(block / np.linalg.norm(block, axis=1, keepdims=True)).astype(np.float16) for block in blocks])


def seconds(device: str, repeat: int, *sides: Callable[[], object]) -> list[float]:
    """The median of each side, in turn, after one run of each that does not count."""
    import torch

    wait = torch.get_device_module(device).synchronize

    def once(side: Callable[[], object]) -> float:
        wait()
        start = time.perf_counter()
        side()
        wait()
        return time.perf_counter() - start

    runs = [[once(side) for side in sides] for _ in range(repeat + 1)][1:]
    return [statistics.median(of_side) for of_side in zip(*runs, strict=True)]


def row(step: str, ours: float, peer: float, limit: float, limit_is: str) -> Row:
    return {
        "step": step,
        "ours s": ours,
        "peer s": peer,
        "ratio": peer / ours,
        "limit s": limit,
        "of limit": limit / ours,
        "limit": limit_is,
    }


def resident(device: str, raw: Array, repeat: int) -> Iterator[Row]:
    """Rows that lie on the device: ours in two float16 parts, the peer in one."""
    rows = on_device(raw, device)
    read, product = read_seconds(device, rows, repeat), flop_seconds(device, repeat)
    for k in (100, 500):
        centroids = unit_rows(k).astype(np.float32)
        find, table = Split(centroids, device), on_device(centroids, device).half().T
        ours, peer = seconds(device, repeat, lambda find=find: find(rows), lambda table=table: (rows @ table).max(dim=1).indices.cpu())  # type: ignore[misc]
        bound = max((read, "memory"), (2 * 2 * len(raw) * WIDTH * k * product, "tensor cores"))
        yield row(f"assign resident rows, K = {k}", ours, peer, *bound)


def read_seconds(device: str, rows: Tensor, repeat: int) -> float:
    """What reading the rows once takes: half of copying them."""
    import torch

    into = torch.empty_like(rows)
    return seconds(device, repeat, lambda: into.copy_(rows))[0] / 2


def flop_seconds(device: str, repeat: int) -> float:
    """A floating-point operation of a large float16 product."""
    import torch

    side = 8192 if device == "cuda" else 256
    square = torch.ones((side, side), dtype=torch.float16, device=device)
    return seconds(device, repeat, lambda: square @ square)[0] / (2 * side**3)


def pairs(device: str, raw: Array, repeat: int) -> Iterator[Row]:
    """A cluster that lies in the CPU's memory. The limit: half of the matrix, at the rate of a large product."""
    rate = flop_seconds(device, repeat)
    for count in (4000, 20_000):
        rows = raw[:count]
        order, ends = np.arange(len(rows)), np.array([0, len(rows)])
        ours, peer = seconds(device, repeat, lambda: earlier_max(rows, order, ends, device), lambda: full_matrix(on_device(rows, device)))  # noqa: B023
        yield row(f"pairs, cluster of {len(rows):,}", ours, peer, len(rows) ** 2 * WIDTH * rate, "tensor cores")


def full_matrix(rows: Tensor) -> Tensor:
    """As SemDeDup's own code: all cosines, in float16."""
    return (rows @ rows.T).triu_(1).max(dim=0).values.cpu()


def streamed(device: str, raw: Array, repeat: int) -> Row:
    """A pool in the page cache. The limit: the copy of its rows from pinned memory; the peer: np.load, then all at once."""
    import torch

    pinned = torch.empty(raw.shape, dtype=torch.float16, pin_memory=device == "cuda")
    with tempfile.TemporaryDirectory() as folder, one_thread_each(), Engine("threads", 8) as engine:
        pool = made_pool(Path(folder) / "pool", raw)
        held = WorkDir(Path(folder) / "work")
        work = Work(pool, held, engine, Settings(device=device))
        rows, features = population(work, None).kept, pool.features("l14_img")
        trained = train(work, rows, features, 100, 2, 16, "")
        centroids = np.array(trained.load())
        numbers = iter(range(2 * repeat + 2))

        def ours() -> None:
            work.dir.stages = held.folder / f"stages-{next(numbers)}"  # nothing is done yet
            assign(work, rows, features, trained)

        def peer() -> None:
            for shard in pool.shards:
                whole_shard(np.load(str(shard.member("l14_img").path))["l14_img"], centroids, device)

        mine, theirs, limit = seconds(device, repeat, ours, peer, lambda: pinned.to(device, copy=True))
        held.close()
        return row("assign a pool, K = 100", mine, theirs, limit, "PCIe")


def made_pool(folder: Path, raw: Array) -> Pool:
    folder.mkdir()
    for number, part in enumerate(np.array_split(raw, 16)):
        uids = [f"{number:08x}{at:024x}" for at in range(len(part))]
        pq.write_table(pa.table({"uid": uids}), folder / f"{number:032x}.parquet")
        np.savez(folder / f"{number:032x}.npz", l14_img=part)
    return Pool.open(folder)


def whole_shard(rows: Array, centroids: F32, device: str) -> None:
    (on_device(rows, device) @ on_device(centroids, device).half().T).max(dim=1).indices.cpu()


def table(rows: list[Row]) -> str:
    """Markdown."""
    shown = [[f"{value:.3g}" if isinstance(value, float) else value for value in one.values()] for one in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in [list(rows[0]), ["---"] * len(rows[0]), *shown])


def main() -> int:
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeat", type=int, default=5)
    given = parser.parse_args()
    if not torch.cuda.is_available():
        print("bench_gpu: no GPU that torch can use; nothing to measure", file=sys.stderr)
        return 2
    rows = measured("cuda", given.rows, given.repeat)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {torch.cuda.max_memory_reserved() / 1e9:.1f} GB at most\n")
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
