"""Each step beside a peer written as its users write it, both measured in one run.

    python -m tools.bench                        every step, medians of 3 runs of each side
    python -m tools.bench --only assign_100 cut_1 --repeat 5 --save_path bench.json

Machines differ and are shared: only the ratios mean something. Each side of a step runs in a process of its own, without
OPENBLAS_CORETYPE, which halves numpy where it is set; the two sides take turns. Pools are made in a temporary folder.
"""

from __future__ import annotations

if __name__ == "__main__":
    import importlib
    import os
    import sys

    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    importlib.import_module("filters.start").begin("tools.bench")

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Job = Callable[[], object]

ROWS, SHARDS, WIDTH = 200_000, 4, 768
THREADS = 2


# -- what the steps work on


def rows_of(rng: np.random.Generator, count: int, kinds: int = 300) -> Array:
    """Unit float16 rows around centres of Zipf-like weight, a fifth of them copies of another."""
    centres = rng.normal(size=(kinds, WIDTH)).astype(np.float32)
    rows = np.empty((count, WIDTH), np.float16)
    for start in range(0, count, 20_000):
        n = min(20_000, count - start)
        block = centres[(rng.random(n) ** 2 * kinds).astype(int)] + 0.9 * rng.normal(size=(n, WIDTH)).astype(np.float32)
        rows[start : start + n] = block / np.linalg.norm(block, axis=1, keepdims=True)
    rows[rng.integers(0, count, count // 5)] = rows[rng.integers(0, count, count // 5)]
    return rows


def make_pool(folder: Path, rows: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    rng = np.random.default_rng(0)
    for shard in range(SHARDS):
        n = rows // SHARDS
        table = pa.table(
            {"uid": [rng.bytes(16).hex() for _ in range(n)], "clip_l14_similarity_score": rng.normal(0.25, 0.05, n).astype(np.float32)}
        )
        pq.write_table(table, folder / f"{shard:032x}.parquet")
        np.savez(folder / f"{shard:032x}.npz", l14_img=rows_of(rng, n))


def centroids(k: int) -> Array:
    rows = rows_of(np.random.default_rng(1), k).astype(np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def npz_files(pool: Path) -> list[Path]:
    return sorted(pool.glob("*.npz"))


def on_threads(task: Callable[[Any], object], items: list[Any]) -> None:
    """As the product's engine does: a thread a core, each with one-threaded arithmetic."""
    from filters.work.engine import Engine, one_thread_each

    with one_thread_each(), Engine("threads", THREADS) as engine:
        for _ in engine.map(task, items):
            pass


def members(pool: Path) -> list[Any]:
    from filters.pool.pool import Pool

    return [shard.member("l14_img") for shard in Pool.open(pool).shards]


# -- the steps: each side gives what is timed


def subset_ours(pool: Path) -> Job:
    from filters.topscore import TopScore

    out = pool.parent / "subset.npy"

    def job() -> None:
        import shutil

        shutil.rmtree(out.with_suffix(".work"), ignore_errors=True)
        TopScore(threshold=0.3).run(pool, out, overwrite=True)

    return job


def subset_peer(pool: Path) -> Job:
    import pandas as pd

    def job() -> None:
        chosen: list[tuple[int, int]] = []
        for path in sorted(pool.glob("*.parquet")):
            table = pd.read_parquet(path, columns=["uid", "clip_l14_similarity_score"])
            kept = table[table["clip_l14_similarity_score"] >= 0.3]["uid"]
            chosen += [(int(uid[:16], 16), int(uid[16:], 16)) for uid in kept]
        array = np.array(chosen, np.dtype("u8,u8"))
        array.sort()
        np.save(pool.parent / "peer.npy", array)

    return job


def read_ours(pool: Path) -> Job:
    from filters.pool.embeddings import raw_blocks

    wanted = np.ones(ROWS // SHARDS, bool)
    found = members(pool)
    return lambda: on_threads(lambda member: sum(len(raw.at) for raw in raw_blocks(member, wanted, False, lambda size: None)), found)


def read_peer(pool: Path) -> Job:
    return lambda: [np.load(path)["l14_img"].shape for path in npz_files(pool)]


def assign_ours(k: int) -> Callable[[Path], Job]:
    def side(pool: Path) -> Job:
        import torch

        from filters.maths.blocks import nearest
        from filters.pool.embeddings import blocks, raw_blocks

        table, wanted, found = torch.from_numpy(centroids(k)), np.ones(ROWS // SHARDS, bool), members(pool)

        def task(member: Any) -> None:
            for block in blocks(raw_blocks(member, wanted, False, lambda size: None), "cpu"):
                label, product = nearest(block.rows, table)
                _ = label.numpy().astype(np.int32), 1 - product.numpy()

        return lambda: on_threads(task, found)

    return side


def assign_peer(k: int) -> Callable[[Path], Job]:
    def side(pool: Path) -> Job:
        import faiss

        index = faiss.IndexFlatIP(WIDTH)
        index.add(centroids(k))
        return lambda: [index.search(np.load(path)["l14_img"].astype(np.float32), 1) for path in npz_files(pool)]

    return side


def kmeans_points(k: int) -> Array:
    return rows_of(np.random.default_rng(2), min(256 * k, 100_000))


def kmeans_ours(k: int, iterations: int) -> Callable[[Path], Job]:
    def side(_: Path) -> Job:
        from filters.maths import kmeans
        from filters.work.engine import one_thread_each

        points = kmeans_points(k)

        def job() -> None:
            with one_thread_each():
                kmeans.train(points, k, iterations, THREADS)

        return job

    return side


def kmeans_peer(k: int, iterations: int) -> Callable[[Path], Job]:
    def side(_: Path) -> Job:
        import faiss

        points = kmeans_points(k).astype(np.float32)
        start = points[:k] / np.linalg.norm(points[:k], axis=1, keepdims=True)
        km = faiss.Kmeans(WIDTH, k, niter=iterations, spherical=True, max_points_per_centroid=10**9)
        return lambda: km.train(points, init_centroids=start)

    return side


def pairs_ours(n: int, clusters: int = 1) -> Callable[[Path], Job]:
    def side(_: Path) -> Job:
        from filters.maths.pairs import earlier_max

        parts = np.split(rows_of(np.random.default_rng(3), n * clusters), clusters)
        return lambda: on_threads(lambda part: [earlier_max(rows) for rows in part], [parts[at::THREADS] for at in range(THREADS)])

    return side


def pairs_peer(n: int, clusters: int = 1) -> Callable[[Path], Job]:
    def side(_: Path) -> Job:
        import torch

        parts = np.split(rows_of(np.random.default_rng(3), n * clusters), clusters)

        def job() -> None:
            for part in parts:
                rows = torch.nn.functional.normalize(torch.from_numpy(part).float())
                torch.triu(rows @ rows.T, diagonal=1).max(dim=0)

        return job

    return side


def quota_problem(k: int) -> tuple[Array, Array, int]:
    rng = np.random.default_rng(4)
    members_ = rng.integers(0, 20_000, k)
    total = int(members_.sum() * 0.3)
    return rng.dirichlet(np.full(k, 2.0)) * total, members_, total


def quota_ours(k: int) -> Callable[[Path], Job]:
    def side(_: Path) -> Job:
        from filters.maths.quota import quota

        target, sizes, total = quota_problem(k)
        return lambda: quota(target, sizes, total)

    return side


def quota_peer(k: int) -> Callable[[Path], Job]:
    def side(_: Path) -> Job:
        import osqp
        import scipy.sparse as sparse

        target, sizes, total = quota_problem(k)
        bounds = sparse.vstack([sparse.eye(k), np.ones((1, k))]).tocsc()
        low, high = np.append(np.minimum(1, sizes), total).astype(float), np.append(sizes, total).astype(float)

        def job() -> None:
            solver = osqp.OSQP()
            solver.setup(sparse.eye(k).tocsc(), -target, bounds, low, high, verbose=False)
            solver.solve()

        return job

    return side


def cut_problem(groups: int) -> tuple[Array, Array, Array, Array]:
    rng = np.random.default_rng(5)
    n = 4_000_000
    quotas = np.full(groups, int(0.3 * n / groups))
    return rng.normal(size=n).astype(np.float32), rng.integers(0, groups, n), rng.integers(0, 2**63, (n, 2)).astype(np.uint64), quotas


def cut_ours(groups: int) -> Callable[[Path], Job]:
    def side(_: Path) -> Job:
        from filters.maths import cut

        values, group, uids, quotas = cut_problem(groups)

        def job() -> None:
            key = cut.keys(values, True)
            search = cut.Search(quotas, 32)

            def word(number: int) -> Array:
                return key if number == 0 else uids[:, number - 1]

            while not search.done:
                search.narrow(search.counts(group, word))
                if not search.done and search.candidates <= cut.FEW:
                    rows = search.matches(group, word)
                    search.finish(group[rows], np.column_stack([key[rows], uids[rows]]))
            cut.stays(search.boundary, group, key, lambda rows: uids[rows])

        return job

    return side


def cut_peer(groups: int) -> Callable[[Path], Job]:
    def side(_: Path) -> Job:
        values, group, uids, quotas = cut_problem(groups)

        def job() -> None:
            order = np.lexsort((uids[:, 1], uids[:, 0], -values, group))
            ranked = group[order]
            rank = np.arange(len(order)) - np.searchsorted(ranked, ranked)
            keep = np.zeros(len(order), bool)
            keep[order[rank < quotas[ranked]]] = True

        return job

    return side


def whole_ours(pool: Path) -> Job:
    from filters.densprune import DensityPrune
    from filters.options import RunOptions
    from filters.semdedup import SemDeDup
    from filters.topscore import TopScore

    recipe = SemDeDup(fraction=0.8) >> TopScore(fraction=0.4) >> DensityPrune(concepts=100, fraction=0.15)
    out = pool.parent / "whole.npy"

    def job() -> None:
        import shutil

        shutil.rmtree(out.with_suffix(".work"), ignore_errors=True)
        recipe.run(pool, out, options=RunOptions(num_workers=THREADS), overwrite=True)

    return job


def whole_peer(pool: Path) -> Job:
    """numpy, faiss and the full matrix of each cluster, everything in memory."""
    import faiss
    import pandas as pd
    import torch

    def trained(rows: Array, k: int, iterations: int, points: int) -> tuple[Array, Array, Array]:
        km = faiss.Kmeans(WIDTH, k, niter=iterations, seed=1234, spherical=True, max_points_per_centroid=points)
        km.train(rows)
        product, label = km.index.search(rows, 1)
        return label[:, 0], 1 - product[:, 0], np.asarray(km.centroids)

    def job() -> None:
        rows = np.concatenate([np.load(path)["l14_img"].astype(np.float32) for path in npz_files(pool)])
        table = pd.concat([pd.read_parquet(path) for path in sorted(pool.glob("*.parquet"))])
        label, distance, _ = trained(rows, round((0.75 * len(rows)) ** 0.5), 20, 64)
        similarity = np.zeros(len(rows), np.float32)
        for cluster in np.unique(label):
            own = np.flatnonzero(label == cluster)
            own = own[np.argsort(-distance[own])]
            part = torch.from_numpy(rows[own])
            similarity[own] = torch.triu(part @ part.T, diagonal=1).max(dim=0).values.numpy()
        kept = np.argsort(similarity)[: int(0.8 * len(rows))]
        kept = kept[np.argsort(-table["clip_l14_similarity_score"].to_numpy()[kept])[: int(0.4 * len(kept))]]
        label, distance, centres = trained(rows[kept], 100, 100, 256)
        inter = np.sort(1 - centres @ centres.T, axis=1)[:, 1:21].mean(axis=1)
        intra = np.array([distance[label == concept].mean() for concept in range(100)])
        share = np.exp(inter * intra / 0.1)
        quota = np.minimum(share / share.sum() * 0.15 * len(rows), np.bincount(label, minlength=100)).astype(int)
        chosen = [np.flatnonzero(label == concept)[np.argsort(-distance[label == concept])[: quota[concept]]] for concept in range(100)]
        uids = table["uid"].to_numpy()[kept[np.concatenate(chosen)]]
        array = np.array([(int(uid[:16], 16), int(uid[16:], 16)) for uid in uids], np.dtype("u8,u8"))
        array.sort()

    return job


def gemm(k: int) -> Callable[[Path], Job]:
    """The machine's limit for assignment: the products alone, at the product's block shape."""

    def side(_: Path) -> Job:
        import torch

        from filters.maths.blocks import BLOCK, TILE

        block, table = torch.randn(BLOCK, WIDTH), torch.from_numpy(centroids(k))

        def task(count: int) -> None:
            for _ in range(count):
                for start in range(0, k, TILE):
                    block @ table[start : start + TILE].T

        return lambda: on_threads(task, [ROWS // BLOCK // THREADS] * THREADS)

    return side


@dataclass(frozen=True)
class Step:
    samples: int
    ours: Callable[[Path], Job]
    peer: Callable[[Path], Job]
    peer_is: str
    limit: Callable[[Path], Job] | None = None


STEPS = {
    "subset": Step(ROWS, subset_ours, subset_peer, "pandas, Python integers, array.sort()"),
    "read": Step(ROWS, read_ours, read_peer, "np.load(npz)[member]"),
    "assign_100": Step(ROWS, assign_ours(100), assign_peer(100), "np.load, astype, faiss.IndexFlatIP", gemm(100)),
    "assign_500": Step(ROWS, assign_ours(500), assign_peer(500), "np.load, astype, faiss.IndexFlatIP", gemm(500)),
    "kmeans_100": Step(25_600, kmeans_ours(100, 10), kmeans_peer(100, 10), "faiss.Kmeans, 10 iterations"),
    "kmeans_500": Step(100_000, kmeans_ours(500, 5), kmeans_peer(500, 5), "faiss.Kmeans, 5 iterations"),
    "pairs_4000": Step(8000, pairs_ours(4000, 2), pairs_peer(4000, 2), "the full matrix"),
    "pairs_20000": Step(40_000, pairs_ours(20_000, 2), pairs_peer(20_000, 2), "the full matrix"),
    "pairs_50": Step(20_000, pairs_ours(50, 400), pairs_peer(50, 400), "the full matrix"),
    "quota_100": Step(100, quota_ours(100), quota_peer(100), "OSQP"),
    "quota_50000": Step(50_000, quota_ours(50_000), quota_peer(50_000), "OSQP"),
    "cut_1": Step(4_000_000, cut_ours(1), cut_peer(1), "np.lexsort"),
    "cut_100": Step(4_000_000, cut_ours(100), cut_peer(100), "np.lexsort"),
    "cut_500": Step(4_000_000, cut_ours(500), cut_peer(500), "np.lexsort"),
    "whole": Step(ROWS, whole_ours, whole_peer, "numpy, faiss, full matrices, in memory"),
}


def measure(name: str, side: str, pool: Path) -> None:
    """In a process of its own: time one side once, after a first run that warms what can be warm; print it."""
    job: Job = getattr(STEPS[name], side)(pool)
    job()
    began = time.perf_counter()
    job()
    seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "peak": peak()}))


def peak() -> int:
    """Bytes this process held at most; what getrusage says begins with the parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))


def measured(name: str, side: str, pool: Path) -> dict[str, float]:
    plain = {key: value for key, value in os.environ.items() if not key.startswith("OPENBLAS_")}
    call = [sys.executable, "-m", "tools.bench", "--measure", name, side, str(pool)]
    done = subprocess.run(call, env=plain, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} {side}: {done.stderr.strip().splitlines()[-1]}")
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return told


def row(name: str, pool: Path, repeat: int) -> dict[str, Any]:
    """One step: its sides in turn, medians."""
    step = STEPS[name]
    sides = ["ours", "peer", *(["limit"] if step.limit else [])]
    runs = [{side: measured(name, side, pool) for side in sides} for _ in range(repeat)]
    median = {side: statistics.median(run[side]["seconds"] for run in runs) for side in sides}
    return {
        "step": name,
        "ours ns/sample": round(1e9 * median["ours"] / step.samples, 1),
        "peer ns/sample": round(1e9 * median["peer"] / step.samples, 1),
        "ratio": round(statistics.median(run["peer"]["seconds"] / run["ours"]["seconds"] for run in runs), 2),
        "share of limit": round(median["limit"] / median["ours"], 2) if step.limit else None,
        "peak MB": round(max(run["ours"]["peak"] for run in runs) / 1e6),
        "peer's peak MB": round(max(run["peer"]["peak"] for run in runs) / 1e6),
        "peer": step.peer_is,
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [f"| {' | '.join(rows[0])} |", f"|{'---|' * len(rows[0])}"]
    lines += [f"| {' | '.join('' if value is None else str(value) for value in one.values())} |" for one in rows]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(STEPS), default=list(STEPS), metavar="STEP", help=", ".join(STEPS))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--save_path", type=Path, help="JSON to write; the table goes beside it as .md")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        measure(given.measure[0], given.measure[1], Path(given.measure[2]))
        return
    with tempfile.TemporaryDirectory() as folder:
        pool = Path(folder) / "pool"
        make_pool(pool, ROWS)
        rows = []
        for name in given.only:
            rows.append(row(name, pool, given.repeat))
            print(rows[-1], file=sys.stderr, flush=True)
    print(table(rows))
    if given.save_path:
        given.save_path.write_text(json.dumps(rows, indent=2) + "\n")
        given.save_path.with_suffix(".md").write_text(table(rows) + "\n")
