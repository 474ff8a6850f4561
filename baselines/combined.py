"""Recipes of known filters: the simple ones that density pruning has to beat, and its control."""

from __future__ import annotations

from dataclasses import dataclass

from baselines.baseline import Baseline
from baselines.random_draw import RandomDraw
from filters import densprune, semdedup, topscore
from filters.command import Command
from filters.filter import Recipe
from filters.options import Layers, check_fields, option
from filters.semdedup import SemDeDup
from filters.topscore import TopScore

EMBEDDINGS = "parquet files, l14_img of the npz files"


@dataclass(frozen=True)
class Final:
    """What is left in the end."""

    alternatives = (("fraction", "size"),)

    fraction: float | None = option("final size, as a share of the pool [ours]", None, interval="(0, 1]")
    size: int | None = option("final size in samples, instead of a fraction", None, interval="[1, inf)")

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class BestOfAll(Final):
    """What is left in the end, by which score."""

    score: str = option("as TopScore takes it", "l14")


def dedup_score(layers: Layers) -> Recipe:
    told: BestOfAll = layers.part(BestOfAll)
    dedup: SemDeDup = layers.part(SemDeDup, "dedup")
    return dedup >> TopScore(told.score, told.fraction, "pool", told.size)


def survivors_random(layers: Layers) -> Recipe:
    told: Final = layers.part(Final)
    dedup: SemDeDup = layers.part(SemDeDup, "dedup")
    best: TopScore = layers.part(TopScore, "score")
    return dedup >> best >> RandomDraw(told.fraction, told.size)


DEDUP_SCORE = Baseline(
    Command(
        "dedup_score",
        "De-duplicate, then keep the best scores, straight to the final size.",
        dedup_score,
        (("dedup", SemDeDup), ("", BestOfAll)),
        follows={"dedup_score": "score"},
    ),
    "ours: the strongest simple recipe on small pools of real images",
    needs=EMBEDDINGS,
    size_flag="size",
)
SURVIVORS_RANDOM = Baseline(
    Command(
        "survivors_random",
        "A random draw from what de-duplication and score leave: what density pruning is to be compared with.",
        survivors_random,
        (("dedup", SemDeDup), ("score", TopScore), ("", Final)),
        follows={"dedup_score": "score"},
    ),
    "ours: density pruning's control",
    needs=EMBEDDINGS,
    size_flag="size",
)
DENSPRUNE = Baseline(densprune.COMMAND, "arXiv 2401.04578", needs=EMBEDDINGS, size_flag="size")
TOPSCORE = Baseline(topscore.COMMAND, "arXiv 2304.14108; ties and sizes exact [ours]", size_flag="size")
SEMDEDUP = Baseline(semdedup.COMMAND, "arXiv 2303.09540", needs=EMBEDDINGS)
