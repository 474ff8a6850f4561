"""Sample, train, assign: what every filter that knows concepts shares. METHOD 2.2 and 2.3."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from filters.filter import Cut
from filters.maths import complexity, kmeans
from filters.maths.arrays import F32, I64, Array
from filters.maths.device import shared
from filters.maths.search import NEAR, Levels, Search, coarse_count
from filters.pool.columns import Column, Rows, Stored
from filters.pool.errors import BadInput
from filters.pool.pool import Features
from filters.work.plan import Plan, nearest, row_bytes
from filters.work.view import View
from filters.work.work import Work
from filters.work.workdir import Saved

SAMPLE = 2  # purpose of the hash that draws the rows k-means sees


def train(work: Work, rows: Rows, features: Features, k: int, iterations: int, points_per_centroid: int, flag: str) -> Saved:
    """Centroids of the rows: (k, d) float32, unit rows.

    k-means sees at most k * points_per_centroid rows, drawn by the smallest hash(uid, seed), in that order. METHOD 2.2 [code].
    An error names `flag`.
    """
    if k > rows.count():
        what = f"{k:,} clusters asked for, {rows.count():,} samples reach this stage ({work.left()})"
        raise BadInput(work.label, what, f"ask for fewer by {flag}")
    return work.once(centroids, rows, features, k, iterations, points_per_centroid)["centroids"]


def assign(work: Work, rows: Rows, features: Features, trained: Saved) -> dict[str, Stored]:
    """Columns `concept` (int32: the centroid of largest inner product) and `distance` (float32: 1 - cos). METHOD 2.2, 2.3."""
    levels = work.once(levels_of, trained)
    return work.column(nearest_concept, rows, features, trained, levels["coarse"], levels["near"])


def members_and_spread(work: Work, rows: Rows, concept: Column, distance: Column, k: int) -> I64:
    """(2, k) int64: members of each concept, and the sum of their distances. METHOD 2.4."""
    parts = work.scan(spread, rows, concept, distance, k)
    return sum((part["spread"] for part in parts), start=np.zeros((2, k), np.int64))


def expect_train(plan: Plan, rows: int, features: Features, k: int, iterations: int, points_per_centroid: int) -> None:
    """What `train` takes."""
    points = min(k * points_per_centroid, rows)
    with plan.once("centroids", 4 * k * features.width):
        plan.cut(rows, points, bits=64)
        plan.scan(sampled, points, plan.blocks(features, points), points * row_bytes(features), points * 24)
        plan.k_means(features, points, k, iterations)


def expect_assign(plan: Plan, rows: int, features: Features, k: int) -> None:
    """What `assign` takes."""
    with plan.once("levels of", coarse_count(k) * (4 * features.width + 8 * NEAR)):
        pass  # it looks at centroids alone
    plan.column(nearest_concept, rows, plan.blocks(features, rows) + nearest(features, rows, k), "i4", "f4")


def expect_members_and_spread(plan: Plan, rows: int, k: int) -> None:
    """What `members_and_spread` takes."""
    plan.scan(spread, rows, plan.values(rows, 4), 16 * k * len(plan.pool.shards))


def centroids(work: Work, rows: Rows, features: Features, k: int, iterations: int, points_per_centroid: int) -> dict[str, Array]:
    """Draw, then train."""
    drawn = work.cut(rows, Cut(by=work.hashed(SAMPLE), quota=min(k * points_per_centroid, rows.count()), largest=False))
    points = _in_hash_order(work, lambda: work.scan(sampled, drawn, features, work.hashed(SAMPLE)))
    if not len(points):
        what = f"none of {drawn.count():,} sampled rows of '{features.name}' is finite and not zero"
        raise BadInput(work.pool.location, what, "download the pool again, or name other features")
    with work.shown("k-means", len(points) * iterations) as watch:
        return {"centroids": kmeans.train(points, k, iterations, work.engine.workers, work.settings.device, watch)}


def levels_of(work: Work, trained: Saved) -> dict[str, Array]:
    """How the centroids are searched."""
    return kmeans.levels(np.array(trained.load()), work.engine.workers, work.settings.device)._asdict()


def _in_hash_order(work: Work, parts: Callable[[], Iterator[dict[str, Array]]]) -> Array:
    """The drawn rows in the order of the draw. They may be many: never more of them in memory than once, and one shard's part."""
    words = np.concatenate([part["hash"] for part in parts()])
    place = np.empty(len(words), np.int64)
    place[np.lexsort((words[:, 2], words[:, 1], words[:, 0]))] = np.arange(len(words))
    points, begin = np.empty((0, 0)), 0
    for part in parts():
        rows = part["rows"]
        points = points if len(points) else work.room((len(words), rows.shape[1]), rows.dtype)
        points[place[begin : begin + len(rows)]] = rows
        begin += len(rows)
    return points


def sampled(view: View, features: Features, by: Column) -> dict[str, Array]:
    """The shard's drawn rows as they lie, and what orders them: (m, 3) uint64 hash and uid."""
    order, rows = np.column_stack([view.values(by), view.uids()]), []
    places = [np.empty(0, np.int64)]
    for raw in view.raw(features.name):
        places.append(view.place(raw.at))
        rows.append(raw.rows.copy())
    empty = np.empty((0, features.width), features.dtype)
    return {"hash": order[np.concatenate(places)], "rows": np.concatenate([empty, *rows])}


def nearest_concept(view: View, features: Features, trained: Saved, coarse: Saved, near: Saved) -> dict[str, Array]:
    find = _search(trained, coarse, near, view.device)
    concept, distance = np.full(len(view.at), -1, np.int32), np.full(len(view.at), np.nan, np.float32)
    for at, rows in view.stored(features.name, find.size):
        place, (label, cosine) = view.place(at), find(rows)
        concept[place] = np.where(np.isnan(cosine), -1, label)
        distance[place] = _distance(cosine)
    return {"concept": concept, "distance": distance}


@shared(2)
def _search(trained: Saved, coarse: Saved, near: Saved, device: str) -> Search:
    """One for all shards that a process works on: very many centroids are hundreds of megabytes."""
    return kmeans.search(np.array(trained.load()), Levels(np.array(coarse.load()), np.array(near.load())), device)


def _distance(product: F32) -> F32:
    distance: F32 = np.maximum(np.float32(1) - product, np.float32(0))
    return distance


def spread(view: View, concept: Column, distance: Column, k: int) -> dict[str, Array]:
    return {"spread": complexity.spread(view.values(concept), view.values(distance), k)}
