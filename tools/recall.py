"""How many near-duplicates SemDeDup can find: those that meet in one cluster, against a search of all pairs.

    python -m tools.recall --metadata_dir demo_pool/metadata
    python -m tools.recall --metadata_dir DIR --rows 100000 --threshold 0.95 --clusters 1000

Prints, for several ways of clustering, the share of the pairs above the threshold that fall in one cluster, and the share of the
rows with an earlier row that alike which still have one there. The rows are the pool's first.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator

import numpy as np
import torch

from filters.maths import kmeans
from filters.maths.arrays import F32, I64, Array
from filters.maths.blocks import BLOCK, unit
from filters.maths.search import COARSER, Cells, Levels, nearest_to
from filters.pool.embeddings import raw_blocks
from filters.pool.errors import BadInput
from filters.pool.pool import Pool
from filters.semdedup import POINTS_PER_CENTROID, cheapest

WORKERS = 2


def rows_of(pool: Pool, features: str, count: int) -> F32:
    """The pool's first rows that are finite and not zero, as unit rows: (n, d) float32."""
    found: list[Array] = []
    for shard in pool.shards:
        for raw in raw_blocks(shard.member(features), np.ones(shard.rows, bool), False, lambda size: None):
            rows, valid = unit(torch.from_numpy(np.ascontiguousarray(raw.rows)))
            found.append(rows[valid].numpy())
            if sum(map(len, found)) >= count:
                return np.concatenate(found)[:count]
    return np.concatenate(found)


def pairs_above(rows: F32, threshold: float) -> I64:
    """(p, 2) int64: later and earlier row of each pair, by comparing all."""
    table, found = torch.from_numpy(rows), [np.empty((0, 2), np.int64)]
    for start in range(0, len(rows), BLOCK):
        alike = (table[start : start + BLOCK] @ table[: start + BLOCK].T > threshold).tril_(start - 1)
        found.append(alike.nonzero().numpy() + np.array([start, 0]))
    return np.concatenate(found)


def labels_of(rows: F32, k: int, points: int, iterations: int, two_levels: bool) -> I64:
    centroids = kmeans.train(rows[: k * points], k, iterations, WORKERS)
    if not two_levels:
        return kmeans.search(centroids, kmeans.levels(centroids))(rows).labels
    coarse = kmeans.train(centroids, max(1, k // COARSER), kmeans.COARSE_ITERATIONS, WORKERS)
    return Cells(centroids, Levels(coarse, nearest_to(coarse, centroids)))(rows).labels


def told(rows: F32, pairs: I64, k: int) -> Iterator[str]:
    """A line a way of clustering."""
    ways = [
        ("SemDeDup's authors", 256, 100, False),
        ("ours", POINTS_PER_CENTROID, 20, False),
        ("ours, in two levels", POINTS_PER_CENTROID, 20, True),
    ]
    whole = len(np.unique(pairs[:, 0]))
    for name, points, iterations, two_levels in ways:
        began = time.perf_counter()
        labels = labels_of(rows, k, points, iterations, two_levels)
        together = labels[pairs[:, 0]] == labels[pairs[:, 1]]
        held, seconds = len(np.unique(pairs[together, 0])), time.perf_counter() - began
        shares = f"{together.mean():>10.2%} of pairs{held / whole:>10.2%} of rows"
        yield f"{name:<22}{points:>5} points x {iterations:>3}{shares}{seconds:>8.1f} s"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--metadata_dir", required=True)
    parser.add_argument("--features", default="l14_img")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--threshold", type=float, default=0.9)
    parser.add_argument("--clusters", type=int, help="default: what costs least")
    given = parser.parse_args()
    try:
        rows = rows_of(Pool.open(given.metadata_dir), given.features, given.rows)
    except BadInput as error:
        print(f"recall: {error}", file=sys.stderr)
        return 2
    k = given.clusters or cheapest(len(rows))
    pairs = pairs_above(rows, given.threshold)
    print(f"{len(rows):,} rows, {len(pairs):,} pairs above {given.threshold}, {k:,} clusters")
    for line in told(rows, pairs, k) if len(pairs) else ():
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
