"""NormSim alone: the share of the pool that comes closest to target images. METHOD 5."""

from __future__ import annotations

from dataclasses import dataclass

from baselines.baseline import Baseline
from baselines.negcliploss import SOURCE, text_of
from filters.command import Command
from filters.filter import Filter
from filters.normsim import NormSim
from filters.options import Layers, option
from filters.topscore import TopScore

TARGETS = "embeddings of target images (--targets)"


@dataclass(frozen=True)
class BestByNormSim(NormSim):
    """The score, and how many stay."""

    alternatives = (("fraction", "size"),)

    fraction: float | None = option("share of the pool to keep, int(n * fraction) exactly [code]", 0.2, interval="(0, 1]")
    size: int | None = option("samples to keep, instead of a fraction", None, interval="[1, inf)")

    def filter(self) -> TopScore:
        return TopScore(text_of(NormSim, self), self.fraction, "pool", self.size)


def recipe(layers: Layers) -> Filter:
    told: BestByNormSim = layers.part(BestByNormSim, "normsim")
    return told.filter()


BASELINE = Baseline(
    Command("normsim", "Keep the images closest to target images.", recipe, (("normsim", BestByNormSim),)),
    SOURCE,
    needs=f"parquet files; img embeddings of the npz files; {TARGETS}",
    size_flag="size",
)
