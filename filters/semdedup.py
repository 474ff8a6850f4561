"""SemDeDup: drop what is semantically the same as an earlier sample of its cluster. METHOD 3.

python filters/semdedup.py --pool medium --eps 0.05
"""

from __future__ import annotations

if __name__ == "__main__":
    import importlib
    import os
    import sys

    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    importlib.import_module("filters.start").semdedup()

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from filters.command import Command
from filters.concepts import assign, expect_assign, expect_train, train
from filters.filter import Cut, Filter, Measured, Plan
from filters.maths import uids
from filters.maths.arrays import I64, Array
from filters.maths.pairs import earlier_max
from filters.options import Layers, option
from filters.pool.columns import Column, Rows
from filters.scores import expect_score, expect_scored, score_column, scored
from filters.work.regroup import Part
from filters.work.work import Work

SKEW = 1.5  # sum of squared cluster sizes over that of equal clusters, measured on CLIP embeddings
POINTS_PER_CENTROID = 64  # 99.7 % of pairs above 0.9 among 12,000 real images meet in a cluster; with faiss's 256, 99.8 %


@dataclass(frozen=True)
class SemDeDup(Filter):
    """Keep of each group of near-duplicates the one that comes first in its cluster's order."""

    name: ClassVar[str] = "semdedup"
    alternatives: ClassVar[tuple[tuple[str, ...], ...]] = (("fraction", "eps"),)

    fraction: float | None = option("share of the stage's input to keep: the least similar", None, interval="(0, 1]")
    eps: float | None = option("drop what is more similar than 1 - eps to an earlier one [code: 0.07 on LAION]", None, interval="[0, 1]")
    clusters: int | None = option(
        "k-means clusters; auto: what costs least, sqrt(1.5 n / 2), found on 64 samples a cluster [ours; code: 50,000 on 256]",
        None,
        interval="[1, inf)",
        unset="auto",
    )
    kmeans_iters: int = option("k-means iterations [ours; code: 100]", 20, interval="[1, inf)")
    features: str = option("npz member that tells what is alike [ours]", "l14_img")
    prefer: str = option(
        "who comes first in a cluster: hard, the farthest from its centroid; easy, the nearest; or the best score [code: hard]",
        "hard",
        choices=("hard", "easy", "score"),
    )
    score: str = option("the score of prefer score, as TopScore takes it", "l14")

    def known(self, work: Work, rows: Rows) -> Rows:
        return scored(work, rows, self.score) if self.prefer == "score" else rows

    def measure(self, work: Work, rows: Rows) -> Measured:
        features = work.pool.features(self.features)
        carry: dict[str, Column] = {}
        if self.prefer == "score":
            carry["score"] = score_column(work, rows, self.score)
            rows = work.present(rows, carry["score"])
        k = self.clusters or cheapest(rows.count())
        centroids = train(work, rows, features, k, self.kmeans_iters, POINTS_PER_CENTROID, "--dedup_clusters (alone --clusters)")
        near = assign(work, rows, features, centroids)
        carry["distance"] = near["distance"]
        alike = work.regroup(compare, rows, near["concept"], k, self.prefer, carry=carry, features=features)
        return Measured(
            columns={
                "dedup_cluster": near["concept"],
                "dedup_distance": near["distance"],
                "dedup_similarity": alike["similarity"],
                "dedup_of": alike["of"],
            },
            arrays={"dedup_centroids": centroids},
        )

    def decide(self, work: Work, rows: Rows, seen: Measured) -> Cut:
        by = seen.columns["dedup_similarity"]
        if self.eps is not None:
            return Cut(by=by, threshold=1 - self.eps, largest=False)
        return Cut(by=by, quota=int(rows.count() * (self.fraction or 0)), largest=False)

    def expect_known(self, plan: Plan, rows: int) -> int:
        return expect_scored(plan, rows, self.score) if self.prefer == "score" else rows

    def expect(self, plan: Plan, rows: int) -> int:
        features, carry = plan.pool.features(self.features), {"distance": "f4"}
        if self.prefer == "score":
            expect_score(plan, rows, self.score)
            plan.present(rows)
            carry["score"] = "f4"
        k = min(self.clusters or cheapest(rows), rows)
        expect_train(plan, rows, features, k, self.kmeans_iters, POINTS_PER_CENTROID)
        expect_assign(plan, rows, features, k)
        plan.regroup(compare, rows, k, self.prefer, size=SKEW * rows / k, gives=4 + uids.MAYBE.itemsize, carry=carry, features=features)
        plan.measured(rows, dedup_cluster="i4", dedup_distance="f4", dedup_similarity="f4", dedup_of=uids.MAYBE)
        return plan.cut(rows, None if self.eps is not None else int(rows * (self.fraction or 0)))


def cheapest(n: int) -> int:
    """Clusters for which assignment (2 n d K) and pairs (s n^2 d / K) cost least together. METHOD 3."""
    return max(1, round(math.sqrt(SKEW * n / 2)))


def compare(part: Part, prefer: str) -> dict[str, Array]:
    """Each row's largest similarity to an earlier row of its cluster, and that row's uid."""
    order, ends = clusters_in_order(part, prefer)
    similarity, earlier = np.empty(len(order), np.float32), np.empty(len(order), np.int64)
    similarity[order], earlier[order] = earlier_max(*part.in_order(order), ends, part.device)
    of = np.zeros(len(order), uids.MAYBE)
    found = earlier >= 0
    of["uid"][found], of["known"] = part.uids[order[earlier[found]]], found
    return {"similarity": similarity, "of": of}


def clusters_in_order(part: Part, prefer: str) -> tuple[I64, I64]:
    """Row numbers cluster after cluster, who stays first, equals by uid; and where each cluster begins and the last ends.

    METHOD 3: farthest from the centroid first [code].
    """
    sign = {"hard": -1, "easy": 1, "score": -1}[prefer]
    first = sign * part.values["score" if prefer == "score" else "distance"]
    order = np.lexsort((part.uids[:, 1], part.uids[:, 0], first, part.group))
    return order, np.concatenate([[0], np.flatnonzero(np.diff(part.group[order])) + 1, [len(order)]])


def recipe(layers: Layers) -> Filter:
    made: SemDeDup = layers.part(SemDeDup, "dedup")
    return made


COMMAND = Command("semdedup", "Drop samples that mean the same as an earlier one.", recipe, (("dedup", SemDeDup),))


def main(arguments: list[str] | None = None) -> int:
    return COMMAND.main(arguments)
