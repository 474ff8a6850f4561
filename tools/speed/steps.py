"""The steps: what each of them is, its two sides, what it needs at least, and the limit that it is held against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from filters.maths.arrays import I64
from tools.speed import job, made, ours, peers, same
from tools.speed.job import Job, Run
from tools.speed.limits import Shape
from tools.speed.made import Sizes


class PoolKind(NamedTuple):
    rows: int
    shards: int
    width: int

    @property
    def name(self) -> str:
        return f"pool-{self.rows}-{self.shards}-{self.width}"


class Place(NamedTuple):
    pool: Path
    scratch: Path  # a folder for what the sides write


Side = Callable[[Run, Place], Job]
Rates = dict[str, float]  # a second: "gemm" operations at the step's block shape, "best" at the best one; bytes "warm", "disk", "write"


@dataclass(frozen=True)
class Limit:
    """What no program does faster on this machine."""

    words: str
    seconds: Callable[[Rates, dict[str, Any], int], dict[str, float]]  # of the rates, what our side told, the bytes needed: by part
    rates: tuple[str, ...]
    shape: Shape | None = None
    overlap: bool = False  # the parts go on at once: the longest counts, not the sum
    note: str = ""
    besides: Callable[[Rates, dict[str, Any]], dict[str, float]] | None = None  # seconds of what is not in it


@dataclass(frozen=True)
class Step:
    what: str
    samples: int
    ours: Side
    peer: Side | None = None
    peer_is: str = ""
    settings: tuple[str, ...] = ("1 thread",)  # of the peer; the best of them counts
    pool: PoolKind | None = None
    needed: Callable[[Path], int] | None = None  # bytes of the pool
    limit: Limit | None = None
    agree: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]] = same.nothing
    cold: bool = False
    allowed: int | None = None  # bytes of memory
    growth: bool = False


def member_bytes(pool: Path) -> int:
    return sum(member.shape[0] * member.row_bytes for member in ours.members(pool))


def column_bytes(pool: Path) -> int:
    """Of uid and score, as they lie in the files."""
    import pyarrow.parquet as pq

    total = 0
    for path in pool.glob("*.parquet"):
        meta = pq.ParquetFile(path).metadata
        chunks = (meta.row_group(group).column(at) for group in range(meta.num_row_groups) for at in range(meta.num_columns))
        total += sum(chunk.total_compressed_size for chunk in chunks if chunk.path_in_schema in ("uid", made.SCORE))
    return total


def pool_bytes(pool: Path) -> int:
    return member_bytes(pool) + column_bytes(pool)


# -- limits


def _reading(rate: str) -> Limit:
    words = {"warm": "the bytes at the rate of plain reads from the cache", "disk": "the bytes at the raw disk's rate"}[rate]
    return Limit(words, lambda rates, told, needed: {rate: needed / rates[rate]}, (rate,))


def _products(operations: float, shape: Shape, disk: bool = False) -> Limit:
    """Products alone; where files are cold, or reading alone where that is longer."""

    def seconds(rates: Rates, told: dict[str, Any], needed: int) -> dict[str, float]:
        return {"gemm": operations / rates["gemm"]} | ({"disk": needed / rates["disk"]} if disk else {})

    words = f"{'the longer of disk and ' if disk else ''}products at {' x '.join(map(str, shape))}"
    return Limit(words, seconds, ("gemm", *(["disk"] if disk else [])), shape, overlap=disk)


def _training(count: int, k: int) -> Limit:
    def seconds(rates: Rates, told: dict[str, Any], needed: int) -> dict[str, float]:
        return {"gemm": 2.0 * count * k * made.WIDTH * told["iterations"] / rates["gemm"]}

    shape = (1024, made.WIDTH, min(k, 1024))
    return Limit(f"products of its iterations at {' x '.join(map(str, shape))}", seconds, ("gemm",), shape)


def _of_whole_run(rates: Rates, told: dict[str, Any], needed: int) -> dict[str, float]:
    return {
        "reading": needed / rates["warm"],
        **{name: operations / rates["best"] for name, operations in told["flops"].items()},
        "writing": told["left_behind"] / rates["write"],
    }


def _sorting(rates: Rates, told: dict[str, Any]) -> dict[str, float]:
    return {"rows sorted on disk": told["sorted"] / rates["write"] + told["sorted"] / rates["warm"]}


WHOLE = Limit(
    "reading, products and writing, one after the other",
    _of_whole_run,
    ("warm", "best", "write"),
    note="The limit of a whole run: two columns and the embeddings of the pool read once from the cache; the products of training (of the "
    "iterations that were made), assignment and pairs at the best shape; what is left behind written once and synced. The embeddings "
    "sorted by cluster on disk, written once and read once, stand besides: a pool that fits in memory does not need them. Nothing is "
    "counted for what is neither reading, products nor writing.",
    besides=_sorting,
)


# -- the table


def steps(sizes: Sizes) -> dict[str, Step]:
    small = _files(sizes) | _assignments(sizes) | _kmeans(sizes) | _pairs() | _quotas() | _cuts(sizes)
    return small | _whole(sizes) | _growth(sizes) | _rivals(sizes) | _captions(sizes)


# How the sides get what they need.


def _alone(side: Callable[..., Job], *arguments: Any) -> Side:
    return lambda run, place: side(*arguments)


def _with_run(side: Callable[..., Job], *arguments: Any) -> Side:
    return lambda run, place: side(run, *arguments)


def _on_pool(side: Callable[..., Job], *arguments: Any) -> Side:
    return lambda run, place: side(run, place.pool, *arguments)


def _subset(side: Callable[..., Job], name: str) -> Side:
    return lambda run, place: side(run, place.pool, place.scratch / name)


def _whole_run(side: Callable[..., Job], name: str, *arguments: Any) -> Side:
    return lambda run, place: side(place.pool, place.scratch / name, *arguments)


ONE, OPENMP, WORKERS, PROCESSES = job.SETTINGS  # of the peers


def _files(sizes: Sizes) -> dict[str, Step]:
    return {
        "subset": _of_tables(sizes, "uid and score, threshold, sort, npy", _subset(ours.subset, "ours.npy")),
        "topscore": _of_tables(sizes, "the same as a whole run: repeated uids, `samples/`, hashes", _whole_run(ours.topscore, "ours.npy")),
        "read": _of_reading(sizes, "read `l14_img`, warm", False),
        "read_checked": _of_reading(sizes, "read `l14_img`, warm, CRC-32 compared", True),
        "read_cold": _of_reading(sizes, "read `l14_img`, cold, CRC-32 compared", True, cold=True),
    }


def _of_tables(sizes: Sizes, what: str, side: Side) -> Step:
    return Step(
        what,
        sizes.tables,
        side,
        _subset(peers.subset, "peer.npy"),
        "pandas, `int(uid[:16], 16)`, `arr.sort()`",
        (ONE, PROCESSES),
        PoolKind(sizes.tables, 4, 0),
        column_bytes,
        agree=same.equal("bytes"),
    )


def _of_reading(sizes: Sizes, what: str, verify: bool, cold: bool = False) -> Step:
    return Step(
        what,
        sizes.pool,
        _on_pool(ours.read, verify),
        _on_pool(peers.read),
        "`np.load(npz)[member]`",
        (ONE, WORKERS),
        PoolKind(sizes.pool, 4, made.WIDTH),
        member_bytes,
        _reading("disk" if cold else "warm"),
        same.equal("sums"),
        cold,
    )


def _assignments(sizes: Sizes) -> dict[str, Step]:
    return {f"assign_{k}{'_cold' * cold}": _of_assignment(sizes, k, cold) for k in (100, 500) for cold in (False, True)}


def _of_assignment(sizes: Sizes, k: int, cold: bool) -> Step:
    return Step(
        f"read, convert, assign, distance, K = {k}, {'cold' if cold else 'warm'}",
        sizes.pool,
        _on_pool(ours.assign, k),
        _on_pool(peers.assign, k),
        "`np.load`, `astype`, `faiss.IndexFlatIP`",
        (ONE, OPENMP, WORKERS),
        PoolKind(sizes.pool, 4, made.WIDTH),
        member_bytes,
        _products(2.0 * sizes.pool * made.WIDTH * k, (1024, made.WIDTH, k), cold),
        same.labels,
        cold,
    )


def _kmeans(sizes: Sizes) -> dict[str, Step]:
    """Points: faiss's 256 a centroid; with 4,000 the 64 of SemDeDup."""
    return {
        "kmeans_100": _of_training(sizes, 100, 256, 20),
        "kmeans_100_to_the_end": _of_training(sizes, 100, 256, 100),
        "kmeans_500": _of_training(sizes, 500, 256, 20),
        "kmeans_4000": _of_training(sizes, 4000, 64, 5),
    }


def _of_training(sizes: Sizes, k: int, each: int, iterations: int) -> Step:
    count = int(k * each * sizes.share)
    told = f"{iterations} iterations" if iterations < 100 else f"at most {iterations} iterations: both end when nothing changes"
    return Step(
        f"k-means, K = {k:,}, {count:,} points, {told}",
        count,
        _alone(ours.kmeans, count, k, iterations),
        _alone(peers.kmeans, count, k, iterations),
        "`faiss.Kmeans`",
        (ONE, OPENMP),
        limit=_training(count, k),
        agree=same.objective(count, stops=iterations == 100),
    )


def _pairs() -> dict[str, Step]:
    return {
        "pairs_4000": _of_pairs("pairs, 2 clusters of 4,000", made.equal_clusters(4000, 2), 512, (ONE, OPENMP, WORKERS)),
        "pairs_20000": _of_pairs("pairs, 2 clusters of 20,000", made.equal_clusters(20_000, 2), 512, (ONE, OPENMP)),
        "pairs_50": _of_pairs("pairs, 2,000 clusters of 30 to 70", made.small_clusters(2000), 64, (ONE, OPENMP, WORKERS)),
    }


def _of_pairs(what: str, clusters: I64, block: int, settings: tuple[str, ...]) -> Step:
    return Step(
        what,
        int(clusters.sum()),
        _with_run(ours.pairs, clusters),
        _with_run(peers.pairs, clusters),
        "SemDeDup's full matrix",
        settings,
        limit=_products(float((clusters * (clusters - 1)).sum()) * made.WIDTH, (block, made.WIDTH, block)),
        agree=same.similarities,
    )


def _quotas() -> dict[str, Step]:
    osqp = Step("quota, K = 100", 100, _alone(ours.quota, 100), _alone(peers.quota, 100), "OSQP", agree=same.quotas(100))
    return {"quota_100": osqp, "quota_50000": Step("quota, K = 50,000", 50_000, _alone(ours.quota, 50_000), agree=same.quotas(50_000))}


def _cuts(sizes: Sizes) -> dict[str, Step]:
    n = sizes.cut
    return {
        f"cut_{groups}": Step(
            f"cut {n:,} samples to the quotas of {groups} groups",
            n,
            _with_run(ours.cut, n, groups),
            _alone(peers.cut, n, groups),
            "`np.lexsort`",
            agree=same.equal("kept"),
        )
        for groups in (1, 100, 500)
    }


def allowed(rows: int, memory_gb: float) -> int:
    """Bytes of memory that a run may take."""
    return int(0.4e9 + 28 * rows + 1e9 * memory_gb)


def _whole(sizes: Sizes) -> dict[str, Step]:
    one = Step(
        f"whole run, {sizes.whole:,} samples: SemDeDup, TopScore, DensityPrune",
        sizes.whole,
        _whole_run(ours.whole, "whole.npy", 4.0),
        _whole_run(peers.whole, "peer.npy"),
        "numpy, faiss, full matrices, OSQP, all in memory",
        (OPENMP,),
        PoolKind(sizes.whole, 8, made.WIDTH),
        pool_bytes,
        WHOLE,
        same.counts,
        allowed=allowed(sizes.whole, 4.0),
    )
    return {"whole": one}


def _growth(sizes: Sizes) -> dict[str, Step]:
    """Our side alone, with little memory for sorted rows, so that what grows with the pool shows."""
    return {
        f"growth_{rows}": Step(
            f"whole run, {rows:,} samples, --memory_gb 0.5",
            rows,
            _whole_run(ours.whole, "whole.npy", 0.5),
            pool=PoolKind(rows, 8, made.WIDTH),
            needed=pool_bytes,
            allowed=allowed(rows, 0.5),
            growth=True,
        )
        for rows in sizes.growth
    }


def _rivals(sizes: Sizes) -> dict[str, Step]:
    """One batch a worker, of half the size that is published; targets as many as fit the peer's matrix."""
    size, rows, targets = (int(count * sizes.share) for count in (16_384, 16_384, 20_000))
    loss = Step(
        f"negCLIPLoss, 2 batches of {size:,}, one shuffle",
        2 * size,
        _with_run(ours.negcliploss, size),
        _with_run(peers.negcliploss, size),
        "the whole matrix, `torch.exp`",
        (ONE, OPENMP, WORKERS),
        limit=_products(4.0 * size * size * made.WIDTH, (1024, made.WIDTH, 1024)),
        agree=same.close("scores", 1e-5),
    )
    return {"negcliploss": loss, "normsim": _of_norms(rows, targets, "inf"), "normsim_2": _of_norms(rows, targets, "2")}


def _of_norms(rows: int, targets: int, p: str) -> Step:
    """The limit of p = 2 is that of any way that looks at all targets once: their form, and the rows multiplied with it."""
    operations = {"inf": rows * targets, "2": (targets + rows) * made.WIDTH}[p] * 2.0 * made.WIDTH
    return Step(
        f"NormSim, p = {p}, {targets:,} targets",
        rows,
        _with_run(ours.normsim, rows, targets, p),
        _with_run(peers.normsim, rows, targets, p),
        "the whole matrix, `torch.norm`",
        (ONE, OPENMP, WORKERS),
        limit=_products(operations, (2048, made.WIDTH, 512)),
        agree=same.close("norms", 1e-5),
    )


def _captions(sizes: Sizes) -> dict[str, Step]:
    """A core's work: passes over captions run in processes, one a core."""
    count = int(200_000 * sizes.share)
    language = Step(
        f"language of {count:,} captions, 1 core",
        count,
        _alone(ours.language, count),
        _alone(peers.language, count),
        "pandas `apply` of fastText's `predict`",
        agree=same.equal("english"),
    )
    words = Step(
        f"ImageNet-21k's words in {count:,} captions, 1 core",
        count,
        lambda run, place: ours.words(count, place.scratch),
        lambda run, place: peers.words(count, place.scratch),
        "pandas `apply` of nltk's `synsets`",
        agree=same.equal("found"),
    )
    return {"language": language, "words": words}
