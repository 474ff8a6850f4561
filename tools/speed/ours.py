"""Our side of each step: the library's own functions, called as its passes call them."""

from __future__ import annotations

import itertools
import json
import shutil
import time
from collections import defaultdict
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from filters.maths.arrays import F32, I64, U64, Array
from filters.work.work import Silent
from tools.speed import made
from tools.speed.job import THREADS, Job, Run


def subset(run: Run, pool: Path, out: Path, threshold: float = made.THRESHOLD) -> Job:
    """Columns uid and score, threshold, uids sorted, npy: no more than that."""
    from filters.maths import uids
    from filters.pool.pool import Pool
    from filters.pool.subset import replacing

    def work() -> Path:
        chosen = np.concatenate(run(partial(_above, threshold), Pool.open(pool).shards))
        with replacing(out, out.with_suffix(".new"), [chosen[uids.order(chosen)]]):
            return out

    return Job(work, _bytes)


def _above(threshold: float, shard: Any) -> U64:
    from filters.pool.columns import read_numbers, read_uids

    chosen: U64 = read_uids(shard, _ignore)[read_numbers(shard, made.SCORE, _ignore) >= np.float32(threshold)]
    return chosen


def _ignore(size: int) -> None: ...


def _bytes(path: Path) -> dict[str, Any]:
    return {"bytes": np.frombuffer(path.read_bytes(), np.uint8)}


def topscore(pool: Path, out: Path, threshold: float = made.THRESHOLD) -> Job:
    """A whole run: also looks for repeated uids and writes samples/, each file with its hash."""
    from filters.options import RunOptions
    from filters.topscore import TopScore

    def work() -> Path:
        options = RunOptions(num_workers=THREADS)
        return TopScore(threshold=threshold).run(pool, out, options=options, overwrite=True).save_path

    return Job(work, _bytes, partial(shutil.rmtree, out.with_suffix(".work"), ignore_errors=True))


def members(pool: Path) -> list[Any]:
    from filters.pool.pool import Pool

    return [shard.member("l14_img") for shard in Pool.open(pool).shards]


def raw(member: Any, verify: bool) -> Any:
    """Every row of a member, block by block."""
    from filters.pool.embeddings import raw_blocks

    return raw_blocks(member, np.ones(member.shape[0], bool), verify, _ignore)


def read(run: Run, pool: Path, verify: bool) -> Job:
    found = members(pool)

    def rows(member: Any) -> int:
        return sum(len(block.at) for block in raw(member, verify))

    def tell(_: list[int]) -> dict[str, Any]:
        return {"sums": np.concatenate([row_sums(block.rows) for member in found for block in raw(member, True)])}

    return Job(lambda: run(rows, found), tell)


def row_sums(rows: Array) -> I64:
    """A number a row that changes with any of its bits but by chance."""
    words = np.ascontiguousarray(rows).view(np.uint16).astype(np.int64)
    return np.asarray((words * np.arange(1, words.shape[1] + 1)).sum(axis=1))


def assign(run: Run, pool: Path, k: int, width: int = made.WIDTH) -> Job:
    """Read, convert, nearest centroid, distance."""
    from filters.maths.search import Flat

    find, found = Flat(made.centroids(k, width)), members(pool)
    return Job(lambda: run(partial(_nearest, find), found), _labels)


def _nearest(find: Any, member: Any) -> tuple[I64, F32]:
    labels, distances = np.empty(member.shape[0], np.int32), np.empty(member.shape[0], np.float32)
    for block in raw(member, False):
        labels[block.at], cosines = find(block.rows)
        distances[block.at] = 1 - cosines
    return labels, distances


def _labels(found: list[tuple[I64, F32]]) -> dict[str, Any]:
    return {"labels": np.concatenate([one[0] for one in found]), "distances": np.concatenate([one[1] for one in found])}


def kmeans(count: int, k: int, iterations: int, width: int = made.WIDTH) -> Job:
    from filters.maths.kmeans import train

    points, seen = made.points(count, width), [0]

    def watch(samples: int) -> None:
        seen[0] += samples

    def work() -> F32:
        seen[0] = 0
        return train(points, k, iterations, THREADS, watch=watch)

    return Job(work, lambda centroids: {"centroids": centroids, "iterations": seen[0] // count})


def pairs(run: Run, sizes: I64, width: int = made.WIDTH) -> Job:
    """Each worker gets its share of the clusters, one behind the other, as a partition has them."""
    from filters.maths.pairs import earlier_max

    parts = made.clusters(sizes, width)
    shares = [parts[at::THREADS] for at in range(THREADS)]
    jobs = [(np.concatenate(share), np.concatenate([[0], np.cumsum([len(part) for part in share])])) for share in shares]

    def similarity(job: tuple[Array, I64]) -> F32:
        return earlier_max(job[0], np.arange(len(job[0])), job[1], "cpu")[0]

    def tell(found: list[F32]) -> dict[str, Any]:
        by_part: list[F32] = [np.empty(0, np.float32)] * len(parts)
        for at, (largest, (_, ends)) in enumerate(zip(found, jobs, strict=True)):
            by_part[at::THREADS] = [largest[begin:end] for begin, end in pairwise(ends.tolist())]
        return {"similarity": np.concatenate(by_part)}

    return Job(lambda: run(similarity, jobs), tell)


def quota(k: int) -> Job:
    from filters.maths.quota import quota as projected

    target, members_, total = made.quota_problem(k)
    return Job(lambda: projected(target, members_, total), lambda quotas: {"quota": quotas})


SHARD = 500_000  # samples of one of DataComp's, or fewer


def cut(run: Run, n: int, groups: int) -> Job:
    """Counts of each shard's rows add up until the boundary is known; then each shard's rows are told."""
    from filters.maths import cut as counting

    values, group, uids, quotas = made.cut_problem(n, groups)
    step = min(SHARD, -(-n // THREADS))
    shards = [slice(begin, begin + step) for begin in range(0, n, step)]

    def words(shard: slice) -> Any:
        key = counting.keys(values[shard], True)
        return lambda number: key if number == 0 else uids[shard][:, number - 1]

    def counted(search: Any, shard: slice) -> I64:
        counts: I64 = search.counts(group[shard], words(shard))
        return counts

    def matching(search: Any, shard: slice) -> tuple[I64, U64]:
        word = words(shard)
        rows = search.matches(group[shard], word)
        return group[shard][rows], np.column_stack([word(0)[rows], uids[shard][rows]])

    def stays(search: Any, shard: slice) -> Array:
        return counting.stays(search.boundary, group[shard], words(shard)(0), lambda rows: uids[shard][rows])

    def work() -> Array:
        search = counting.Search(quotas, 32)
        while not search.done:
            search.narrow(sum(run(partial(counted, search), shards), start=np.zeros((), np.int64)))
            if not search.done and search.candidates <= counting.FEW:
                found = run(partial(matching, search), shards)
                search.finish(np.concatenate([one[0] for one in found]), np.concatenate([one[1] for one in found]))
        return np.concatenate(run(partial(stays, search), shards))

    return Job(work, lambda kept: {"kept": kept})


def negcliploss(run: Run, size: int, width: int = made.WIDTH) -> Job:
    """A batch a worker."""
    from filters.maths.contrast import scores

    batches = made.matched(size, THREADS, width)
    return Job(lambda: run(lambda batch: scores(batch[0], batch[1], 0.01), batches), lambda found: {"scores": np.concatenate(found)})


PART = 2048  # rows that a pass gives to a worker at a time, or fewer


def normsim(run: Run, rows: int, targets: int, p: str, width: int = made.WIDTH) -> Job:
    from filters.maths.similar import Norm, Norm2, NormInf, gram, root

    those, parts = made.centroids(targets, width), np.array_split(made.embeddings(np.random.default_rng(8), rows, width), -(-rows // PART))

    def work() -> list[F32]:
        norm: Norm = NormInf(those) if p == "inf" else Norm2(root(gram(those)), "cpu")
        return run(norm, parts)

    return Job(work, lambda found: {"norms": np.concatenate(found)})


# -- a whole run

FRACTIONS = (0.8, 0.4, 0.15)  # after SemDeDup, TopScore, DensityPrune
CONCEPTS = 100
K_MEANS = "centroids: k-means"  # the pass, within its stage
SORTED_BYTES = 2 * made.WIDTH + 24  # of a row that SemDeDup sorts: embedding, uid, distance, cluster


class Stopwatch(Silent):
    """Seconds and samples of each pass, by its stage and name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.samples: dict[str, int] = defaultdict(int)
        self._open: list[tuple[str, float]] = []
        self._stage = ""

    def stage(self, name: str) -> None:
        self._stage = name

    def begin(self, name: str, samples: int) -> None:
        self._open.append((f"{self._stage} {name}", time.perf_counter()))

    def advance(self, samples: int, size: int = 0) -> None:
        if self._open:
            self.samples[self._open[-1][0]] += samples

    def end(self) -> None:
        name, began = self._open.pop()
        self.seconds[name] += time.perf_counter() - began


def whole(pool: Path, out: Path, memory_gb: float = 4.0, concepts: int = CONCEPTS) -> Job:
    from filters.densprune import DensityPrune
    from filters.options import RunOptions
    from filters.semdedup import SemDeDup
    from filters.topscore import TopScore

    dedup, score, final = FRACTIONS
    recipe = SemDeDup(fraction=dedup) >> TopScore(fraction=score) >> DensityPrune(concepts=concepts, fraction=final)
    options = RunOptions(num_workers=THREADS, memory_gb=memory_gb)

    def work() -> Stopwatch:
        watch = Stopwatch()
        recipe.run(pool, out, options=options, overwrite=True, progress=watch)
        return watch

    return Job(work, partial(_told_of_run, out), partial(shutil.rmtree, out.with_suffix(".work"), ignore_errors=True))


def _told_of_run(out: Path, watch: Stopwatch) -> dict[str, Any]:
    folder = out.with_suffix(".work")
    manifest = json.loads((folder / "manifest.json").read_text())
    left = [path.stat().st_size for path in folder.rglob("*") if path.is_file() and "stages" not in path.parts]
    return {
        "left": np.array([stage["rows_kept"] for stage in manifest["stages"]]),
        "subset": np.load(out).view(np.uint64).reshape(-1, 2),
        "stages": {stage["stage"]: stage["seconds"] for stage in manifest["stages"]},
        "passes": {name: round(seconds, 3) for name, seconds in watch.seconds.items()},
        "sorted": manifest["stages"][0]["rows_in"] * SORTED_BYTES,
        "left_behind": sum(left) + out.stat().st_size,
        "flops": _flops(folder, watch, [stage["rows_in"] for stage in manifest["stages"]]),
    }


def _flops(folder: Path, watch: Stopwatch, rows_in: list[int]) -> dict[str, int]:
    """Of the products that the method asks for: 2 d each, of a pair or of a sample and a centroid."""
    import pyarrow.parquet as pq

    dedup, centroids = np.load(folder / "dedup_centroids.npy"), np.load(folder / "centroids.npy")
    cluster = np.concatenate([pq.read_table(path)["dedup_cluster"].to_numpy() for path in sorted((folder / "samples").glob("*"))])
    sizes = np.bincount(cluster[cluster >= 0].astype(np.int64)).astype(np.float64)
    seen = [watch.samples[f"{stage} {K_MEANS}"] for stage in ("semdedup", "densityprune")]
    counts = {
        "training": seen[0] * len(dedup) + seen[1] * len(centroids),
        "assignment": rows_in[0] * len(dedup) + rows_in[2] * len(centroids),
        "pairs": float((sizes * (sizes - 1) / 2).sum()),
    }
    return {name: int(2 * dedup.shape[1] * count) for name, count in counts.items()}


# -- captions: one thread, since a process a core has them to itself; nothing is remembered from one run to the next


def language(count: int) -> Job:
    from baselines.language import english
    from filters.work.workdir import Given

    texts, runs = made.captions(count), itertools.count()
    return Job(lambda: english(texts, Given(made.lid_model(), str(next(runs)))), lambda found: {"english": found})


def words(count: int, folder: Path) -> Job:
    """nltk has read its files before the clock starts."""
    from baselines.wordnet import name_something
    from filters.work.workdir import Given

    texts, (root, listed), runs = made.captions(count), made.wordnet(folder), itertools.count()
    dictionary = Given(root / "corpora" / "wordnet", "")
    name_something(["dog"], dictionary, Given(listed, ""))
    return Job(lambda: name_something(texts, dictionary, Given(listed, str(next(runs)))), lambda found: {"found": found})
