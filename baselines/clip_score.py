"""DataComp's `clip_score`: the highest CLIP scores, and every sample that ties with the last. METHOD 4."""

from __future__ import annotations

from dataclasses import dataclass

from baselines.baseline import Baseline
from filters.command import Command
from filters.filter import Filter
from filters.options import Layers, check_fields, option
from filters.topscore import TopScore
from submission.published import MEDIUM


@dataclass(frozen=True)
class ClipScore:
    """As DataComp spells its options."""

    arch: str = option("whose CLIP score [code]", "l14", choices=("l14", "b32"))
    fraction: float | None = option(
        "the threshold is the score at position int(n * fraction), from 0; it stays [code]", None, interval="(0, 1]"
    )
    threshold: float | None = option("smallest score to keep, instead of a fraction [code]", None, interval="(-inf, inf)")
    size: int | None = option("samples to keep, exactly, instead of a fraction [ours]", None, interval="[1, inf)")

    alternatives = (("fraction", "threshold", "size"),)

    def __post_init__(self) -> None:
        check_fields(self)


def recipe(layers: Layers) -> Filter:
    told: ClipScore = layers.part(ClipScore, "clip_score")
    # DataComp's n counts samples without a score too.
    return TopScore(told.arch, told.fraction, "pool", size=told.size, threshold=told.threshold, ties="uid" if told.size else "all")


BASELINE = Baseline(
    Command("clip_score", "Keep the highest CLIP scores.", recipe, (("clip_score", ClipScore),)),
    "DataComp baselines.py [code]",
    MEDIUM["clip_score"],
    size_flag="size",
)
