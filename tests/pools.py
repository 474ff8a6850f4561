"""Small pools for the tests, written as DataComp writes them, by numpy and pyarrow alone."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

Array = npt.NDArray[Any]


@contextmanager
def disk(size: str) -> Iterator[Path]:
    """A disk of this size. Not below tmp_path: what a killed test left mounted there could not be cleared away."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, check=False).returncode:
            pytest.skip("mounting is not permitted")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "-l", folder], check=True)


def random_uids(rng: np.random.Generator, count: int) -> list[str]:
    return [rng.bytes(16).hex() for _ in range(count)]


def unit(rows: Array) -> Array:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def blobs(rng: np.random.Generator, count: int, width: int = 16, kinds: int = 5, spread: float = 0.5) -> Array:
    """Unit float16 rows around a few centres, some of them near-duplicates of another."""
    centres = rng.normal(size=(kinds, width))
    rows = centres[rng.integers(0, kinds, count)] + spread * rng.normal(size=(count, width))
    for at in range(1, count, 4):
        rows[at] = rows[rng.integers(0, at)] + 0.01 * rng.normal(size=width)
    return unit(rows).astype(np.float16) if count else np.zeros((0, width), np.float16)


def write_shard(
    folder: Path,
    key: str,
    uids: list[str],
    members: dict[str, Array],
    l14: Array | None = None,
    b32: Array | None = None,
    texts: list[str | None] | None = None,
    compressed: bool = False,
    sides: list[tuple[int, int]] | None = None,
) -> None:
    """One pair {key}.parquet, {key}.npz."""
    folder.mkdir(parents=True, exist_ok=True)
    n = len(uids)
    sides = [(512, 384)] * n if sides is None else sides
    l14 = np.linspace(0, 1, n, dtype=np.float32) if l14 is None else l14
    b32 = l14 if b32 is None else b32
    table = pa.table(
        {
            "uid": pa.array(uids, pa.string()),
            "url": pa.array([f"http://example.com/{uid}.jpg" for uid in uids], pa.string()),
            "text": pa.array(texts if texts is not None else [f"a picture of {uid}" for uid in uids], pa.string()),
            "original_width": pa.array([width for width, _ in sides], pa.int64()),
            "original_height": pa.array([height for _, height in sides], pa.int64()),
            "clip_b32_similarity_score": pa.array(b32, pa.float32()),
            "clip_l14_similarity_score": pa.array(l14, pa.float32()),
            "face_bboxes": pa.array([[] for _ in uids], pa.list_(pa.list_(pa.float64()))),
            "sha256": pa.array(["0" * 64] * n, pa.string()),
        }
    )
    pq.write_table(table, folder / f"{key}.parquet")
    save: Any = np.savez_compressed if compressed else np.savez
    save(folder / f"{key}.npz", **members)


def write_pool(folder: Path, rng: np.random.Generator, sizes: tuple[int, ...] = (40, 0, 70, 30), width: int = 16) -> dict[str, Any]:
    """Ragged shards, an empty one among them; returns what was written, in the pool's order."""
    count = sum(sizes)
    told = {"uids": random_uids(rng, count), "l14_img": blobs(rng, count, width), "l14": rng.normal(0.25, 0.05, count).astype(np.float32)}
    cut_into_shards(folder, told, sizes)
    return told


def cut_into_shards(folder: Path, told: dict[str, Any], sizes: tuple[int, ...]) -> None:
    """Write the same rows as shards of these sizes."""
    start = 0
    for number, size in enumerate(sizes):
        rows = slice(start, start + size)
        write_shard(folder, f"{number:032x}", told["uids"][rows], {"l14_img": told["l14_img"][rows]}, told["l14"][rows])
        start += size


def read_subset(path: Path) -> list[int]:
    """The uids of a subset file as integers, by the resharder's rule: high word, low word."""
    records = np.load(path)
    assert records.dtype == np.dtype("u8,u8"), "the resharder asserts this type"
    assert records.ndim == 1, "the resharder looks samples up in one dimension"
    return [int(high) << 64 | int(low) for high, low in records.tolist()]
