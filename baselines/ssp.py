"""SSP-Pruning: the samples farthest from the centroid of their concept, and of each concept a few. METHOD 2, after arXiv 2206.14486.

Sorscher et al. keep the hardest; density pruning's authors compare with that and a floor a concept, in a module that they did not
publish: the floor's size is [ours].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from baselines.baseline import Baseline
from filters.command import Command
from filters.concepts import assign, expect_assign, expect_members_and_spread, expect_train, members_and_spread, train
from filters.filter import Cut, Filter, Measured, Plan, sized
from filters.options import Layers, option
from filters.pool.columns import Rows
from filters.work.work import Work


@dataclass(frozen=True)
class SSP(Filter):
    """Keep a floor of each concept, then the hardest of the rest."""

    name: ClassVar[str] = "ssp"
    alternatives: ClassVar[tuple[tuple[str, ...], ...]] = (("fraction", "size"),)

    features: str = option("npz member that concepts are made of [ours]", "l14_img")
    concepts: int = option("k, the number of concepts [ours, as densprune; code: 10,000 by default]", 100, interval="[1, inf)")
    kmeans_iters: int = option("k-means iterations at most [code]", 100, interval="[1, inf)")
    kmeans_points_per_centroid: int = option("samples k-means sees, a concept [code: faiss's cap]", 256, interval="[1, inf)")
    balance: float = option("of N / k, the part that each concept keeps at least [code: 0.5 by default]", 0.5, interval="[0, 1]")
    fraction: float | None = option("final size, as a share of the pool", None, interval="(0, 1]")
    size: int | None = option("final size N, in samples, instead of a fraction", None, interval="[1, inf)")

    def measure(self, work: Work, rows: Rows) -> Measured:
        features = work.pool.features(self.features)
        centroids = train(work, rows, features, self.concepts, self.kmeans_iters, self.kmeans_points_per_centroid, "--concepts")
        near = assign(work, rows, features, centroids)
        return Measured({"ssp_concept": near["concept"], "ssp_distance": near["distance"]}, {"ssp_centroids": centroids})

    def decide(self, work: Work, rows: Rows, seen: Measured) -> Cut:
        concept, distance, n = seen.columns["ssp_concept"], seen.columns["ssp_distance"], sized(work.samples, self.fraction, self.size)
        work.refuse_size(n, rows.count())
        members = members_and_spread(work, rows, concept, distance, self.concepts)[0]
        return Cut(by=distance, quota=n, group=concept, floor=np.minimum(members, int(self.balance * n / self.concepts)))

    def expect(self, plan: Plan, rows: int) -> int:
        features, k, n = plan.pool.features(self.features), min(self.concepts, rows), sized(plan.samples, self.fraction, self.size)
        expect_train(plan, rows, features, k, self.kmeans_iters, self.kmeans_points_per_centroid)
        expect_assign(plan, rows, features, k)
        plan.measured(rows, ssp_concept="i4", ssp_distance="f4")
        expect_members_and_spread(plan, rows, k)
        first = plan.cut(rows, min(n, k * int(self.balance * n / k)), groups=k)
        return first + plan.cut(rows - first, n - first)


def recipe(layers: Layers) -> Filter:
    made: SSP = layers.part(SSP, "ssp")
    return made


BASELINE = Baseline(
    Command("ssp", "Keep the samples farthest from their concept's centroid, and some of each concept.", recipe, (("ssp", SSP),)),
    "arXiv 2206.14486; the floor [ours]",
    needs="parquet files, l14_img of the npz files",
    size_flag="size",
)
