"""Density-Based Pruning: keep of each concept as many samples as its complexity deserves. METHOD 2.

    python filters/densprune.py --pool medium

De-duplicate -> CLIP score -> density pruning [paper]. A concept that lies far from the others (d_inter) and is wide (d_intra)
is complex and keeps more; within it the samples farthest from the centroid stay.
"""

from __future__ import annotations

if __name__ == "__main__":
    import importlib
    import os
    import sys

    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    importlib.import_module("filters.start").densprune()

from dataclasses import dataclass
from functools import reduce
from typing import ClassVar

import numpy as np

from filters.command import Command
from filters.concepts import assign, expect_assign, expect_members_and_spread, expect_train, members_and_spread, train
from filters.filter import Cut, Filter, Measured, Plan, Recipe, sized
from filters.maths.arrays import F64, I64
from filters.maths.complexity import d_inter, d_intra, filled, share
from filters.maths.quota import quota
from filters.options import Layers, option
from filters.pool.columns import Rows
from filters.semdedup import SemDeDup
from filters.topscore import TopScore
from filters.work.work import Work

RANDOM = 3  # purpose of the hash that draws when random samples are preferred


@dataclass(frozen=True)
class DensityPrune(Filter):
    """Keep a quota of each concept, fitted to its complexity."""

    name: ClassVar[str] = "densityprune"
    alternatives: ClassVar[tuple[tuple[str, ...], ...]] = (("fraction", "size"),)

    features: str = option("npz member that concepts are made of [ours; code: a distilled DINOv2 L/14]", "l14_img")
    concepts: int = option("k, the number of concepts [code: 100 on medium, 500 on LAION]", 100, interval="[1, inf)")
    kmeans_iters: int = option("k-means iterations at most [code]", 100, interval="[1, inf)")
    kmeans_points_per_centroid: int = option("samples k-means sees, a concept [code: faiss's cap]", 256, interval="[1, inf)")
    neighbors: int = option("l, nearest other concepts that d_inter looks at [code]", 20, interval="[1, inf)")
    temperature: float = option("tau of the softmax over complexities [paper]", 0.1, interval="(0, inf)")
    complexity: str = option(
        "what a concept's share follows [paper: inter_intra; code: the others]",
        "inter_intra",
        choices=("inter_intra", "uniform", "cluster_size"),
    )
    balance: float = option("floor of each quota, as a part of N / k [code]", 0.0, interval="[0, 1]")
    fraction: float | None = option("final size, as a share of the pool [ours]", None, interval="(0, 1]")
    size: int | None = option("final size N, in samples, instead of a fraction", None, interval="[1, inf)")
    prefer: str = option(
        "which samples of a concept stay: hard, the farthest; easy, the nearest; or random [paper, code: hard]",
        "hard",
        choices=("hard", "easy", "random"),
    )

    def measure(self, work: Work, rows: Rows) -> Measured:
        features = work.pool.features(self.features)  # 2.1
        centroids = train(work, rows, features, self.concepts, self.kmeans_iters, self.kmeans_points_per_centroid, "--concepts")
        near = assign(work, rows, features, centroids)  # 2.2, 2.3
        return Measured(columns={"concept": near["concept"], "distance": near["distance"]}, arrays={"centroids": centroids})

    def decide(self, work: Work, rows: Rows, seen: Measured) -> Cut:
        concept, distance = seen.columns["concept"], seen.columns["distance"]
        spread = members_and_spread(work, rows, concept, distance, self.concepts)
        members, intra = spread[0], d_intra(spread)  # 2.4
        inter = d_inter(seen.arrays["centroids"].load(), self.neighbors)  # 2.4
        values = self._complexity(inter, intra, members)  # 2.5
        shares = members / members.sum() if self.complexity == "cluster_size" else share(values, self.temperature)
        n = sized(work.samples, self.fraction, self.size)
        work.refuse_size(n, rows.count())
        quotas = quota(shares * n, members, n, self.balance)  # 2.6
        return Cut(  # 2.7
            by=work.hashed(RANDOM) if self.prefer == "random" else distance,
            group=concept,
            quota=quotas,
            largest=self.prefer == "hard",
            table={
                "concept": np.arange(self.concepts, dtype=np.int64),
                "members": members,
                "d_intra": intra,
                "d_inter": inter,
                "complexity": filled(values),
                "share": shares,
                "target": shares * n,
                "quota": quotas,
            },
        )

    def expect(self, plan: Plan, rows: int) -> int:
        features, k = plan.pool.features(self.features), min(self.concepts, rows)
        expect_train(plan, rows, features, k, self.kmeans_iters, self.kmeans_points_per_centroid)
        expect_assign(plan, rows, features, k)
        plan.measured(rows, concept="i4", distance="f4")
        expect_members_and_spread(plan, rows, k)
        kept = plan.cut(rows, sized(plan.samples, self.fraction, self.size), groups=k)
        plan.counts(kept)
        return kept

    def _complexity(self, inter: F64, intra: F64, members: I64) -> F64:
        """C = d_inter * d_intra, or what stands for it. METHOD 2.5."""
        if self.complexity == "inter_intra":
            return inter * intra
        return np.ones(len(members)) if self.complexity == "uniform" else members.astype(np.float64)


@dataclass(frozen=True)
class Steps:
    """Which stages there are, in which order."""

    no_dedup: bool = option("do not de-duplicate", False)
    order: str = option("of the two stages before density pruning [paper]", "dedup,score", choices=("dedup,score", "score,dedup"))


def recipe(layers: Layers) -> Recipe:
    """The paper's: de-duplicate, best scores, density pruning."""
    steps: Steps = layers.part(Steps)
    stages: list[Recipe] = []
    for name in steps.order.split(","):
        if name == "dedup" and not steps.no_dedup:
            stages.append(layers.part(SemDeDup, "dedup"))
        if name == "score" and layers.values["score"] != "none":
            stages.append(layers.part(TopScore, "score"))
    last: Recipe = layers.part(DensityPrune)
    return reduce(lambda before, after: before >> after, [*stages, last])


COMMAND = Command(
    "densprune",
    "De-duplicate, keep the best image-text matches, then prune each concept by its complexity.",
    recipe,
    (("dedup", SemDeDup), ("score", TopScore), ("", DensityPrune), ("", Steps)),
    follows={"dedup_features": "features", "dedup_score": "score"},
    exclusive=(("dedup_fraction", "dedup_eps", "no_dedup"),),
)


def main(arguments: list[str] | None = None) -> int:
    return COMMAND.main(arguments)
