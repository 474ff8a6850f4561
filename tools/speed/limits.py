"""What this machine can do at most: float32 products, reading, writing. Each with THREADS threads, as either side has."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tools.speed.job import THREADS, evict

Shape = tuple[int, int, int]  # rows, width, columns
MIB = 1 << 20


# -- products

LIBRARIES = ("torch", "numpy")
LAYOUTS = ("rows @ columns.T", "columns @ rows.T", "rows @ table")  # columns: (n, d) as centroids lie; table: (d, n)
SHAPES = (
    *((1024, 768, columns) for columns in (100, 500, 1024, 2048)),
    *((rows, 768, rows) for rows in (64, 256, 512)),
    *((4096, 768, columns) for columns in (512, 1024, 2048)),
    (2048, 2048, 2048),
)


class Gemm(NamedTuple):
    """One way to multiply, and how fast it was."""

    library: str
    layout: str
    shape: Shape
    rate: float = 0.0  # operations a second, all threads together

    def __str__(self) -> str:
        return f"{self.rate / 1e9:.0f} GFLOP/s ({self.library}, {self.layout}, {' x '.join(map(str, self.shape))})"


def best_gemm(shape: Shape, seconds: float = 0.15) -> Gemm:
    """The fastest of both libraries and all layouts. The process must have one thread a product."""
    ways = [Gemm(*way, shape) for way in product(LIBRARIES, LAYOUTS)]
    return max((way._replace(rate=gemm_rate(way, seconds)) for way in ways), key=lambda way: way.rate)


def gemm_rate(way: Gemm, seconds: float) -> float:
    """All threads multiply operands of their own at once."""
    multiplies = [_multiply(way, seed) for seed in range(THREADS)]
    for one in multiplies:
        one()
    until = time.perf_counter() + seconds

    def repeated(one: Callable[[], Any]) -> float:
        began, count = time.perf_counter(), 0
        while (now := time.perf_counter()) < until or not count:
            one()
            count += 1
        return count / (now - began)

    with ThreadPoolExecutor(THREADS) as threads:
        rates = list(threads.map(repeated, multiplies))
    rows, width, columns = way.shape
    return 2.0 * rows * width * columns * sum(rates)


def _multiply(way: Gemm, seed: int) -> Callable[[], Any]:
    rows, width, columns = way.shape
    rng = np.random.default_rng(seed)
    left, right = (rng.standard_normal((count, width), np.float32) for count in (rows, columns))
    if way.layout == "columns @ rows.T":
        left, right = right, left
    turned = right.T.copy() if way.layout == "rows @ table" else right.T
    out = np.empty((len(left), len(right)), np.float32)
    if way.library == "numpy":
        return lambda: np.matmul(left, turned, out=out)
    import torch

    tensors = [torch.from_numpy(array) for array in (left, turned, out)]
    return lambda: torch.mm(tensors[0], tensors[1], out=tensors[2])


# -- the disk


class Read(NamedTuple):
    """One way to read files from end to end."""

    block: int
    workers: int
    direct: bool

    def __str__(self) -> str:
        return f"{self.block // 1024} KiB a read, {self.workers} at a time{', O_DIRECT' if self.direct else ''}"


WARM = tuple(Read(block, THREADS, False) for block in (MIB // 4, MIB, 4 * MIB))
COLD = tuple(Read(4 * MIB, workers, direct) for direct in (False, True) for workers in (1, 2, 4, 8))


def warm_rate(paths: list[Path]) -> tuple[float, str]:
    """Bytes a second out of the system's cache into one reused buffer a thread; and how."""
    read_rate(paths, WARM[0])
    return _best({way: read_rate(paths, way) for way in WARM})


def cold_rate(paths: list[Path]) -> tuple[float, str]:
    """Bytes a second of files that no cache of this system holds; and how."""
    rates = {}
    for way in COLD:
        evict(paths)
        rates[way] = read_rate(paths, way)
    return _best(rates)


def _best(rates: dict[Read, float]) -> tuple[float, str]:
    way = max(rates, key=lambda way: rates[way])
    return rates[way], str(way)


def read_rate(paths: list[Path], way: Read) -> float:
    """Each worker a run of blocks of its own; the last part of a file that is no whole block is left out."""
    places = [(path, at) for path in paths for at in range(0, path.stat().st_size - way.block + 1, way.block)]
    flags = os.O_RDONLY | (os.O_DIRECT if way.direct else 0)
    files = {path: os.open(path, flags) for path in paths}

    def read(mine: int, buffer: mmap.mmap) -> None:
        for path, at in places[len(places) * mine // way.workers : len(places) * (mine + 1) // way.workers]:
            os.preadv(files[path], [buffer], at)

    try:
        buffers = [mmap.mmap(-1, way.block) for _ in range(way.workers)]  # whole pages, as O_DIRECT asks
        began = time.perf_counter()
        with ThreadPoolExecutor(way.workers) as threads:
            list(threads.map(read, range(way.workers), buffers))
        return len(places) * way.block / (time.perf_counter() - began)
    finally:
        for file in files.values():
            os.close(file)


def write_rate(folder: Path, size: int = 256 * MIB) -> tuple[float, str]:
    """Bytes a second into a new file that is synced; and how."""
    data = np.random.default_rng(0).bytes(4 * MIB)

    def written(path: Path) -> None:
        with path.open("wb", buffering=0) as file:
            for _ in range(0, size, len(data)):
                file.write(data)
            os.fsync(file.fileno())
        path.unlink()

    rates = {}
    for workers in (1, THREADS):
        began = time.perf_counter()
        with ThreadPoolExecutor(workers) as threads:
            list(threads.map(written, [folder / f"written-{at}" for at in range(workers)]))
        rates[workers] = workers * size / (time.perf_counter() - began)
    best = max(rates, key=lambda workers: rates[workers])
    return rates[best], f"4 MiB a write, {best} at a time, synced"


# -- which machine


def machine(folder: Path) -> dict[str, Any]:
    """Processor, kernels, medium, and how busy it is before anything is measured; nothing that names this very machine."""
    import torch  # noqa: F401  so that its kernels are known too

    from filters.outcome import machine as processor

    told = processor("cpu")
    return {
        "processor": told["name"],
        "cores": os.cpu_count(),
        "torch": f"{told['torch_blas']}, {told['torch_cpu']}",
        "numpy": ", ".join(sorted({f"{one['internal_api']} {one['architecture']}" for one in told["kernels"] if one["architecture"]})),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "medium": medium(folder),
        "load": round(os.getloadavg()[0], 1),
    }


def medium(folder: Path) -> str:
    """File system and kind of device under a folder."""
    device = folder.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    kind = next((fields[fields.index("-") + 1] for fields in mounts if fields[2] == number), "unknown file system")
    place = Path(f"/sys/dev/block/{number}")
    if not place.exists():
        return f"{kind}, no block device"
    driver = place.resolve().name.rstrip("0123456789")
    return f"{kind} on {'a virtual disk' if driver.startswith('vd') else driver}"
