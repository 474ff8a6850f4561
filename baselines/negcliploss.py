"""negCLIPLoss alone: the best share of the pool. METHOD 5."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from baselines.baseline import Baseline
from filters.command import Command
from filters.filter import Filter
from filters.negcliploss import NegCLIPLoss
from filters.options import Layers, option
from filters.score import Score
from filters.topscore import TopScore
from submission.published import MEDIUM

SOURCE = "arXiv 2405.19547, ypwang61/negCLIPLoss_NormSim [paper, code]"
NEEDS = "parquet files; img and txt embeddings of the npz files"


@dataclass(frozen=True)
class BestByNegCLIPLoss(NegCLIPLoss):
    """The score, and how many stay."""

    alternatives = (("fraction", "size"),)

    fraction: float | None = option("share of the pool to keep, int(n * fraction) exactly [code]", 0.3, interval="(0, 1]")
    size: int | None = option("samples to keep, instead of a fraction", None, interval="[1, inf)")

    def filter(self) -> TopScore:
        return TopScore(text_of(NegCLIPLoss, self), self.fraction, "pool", self.size)


def text_of(kind: type[Score], told: Score) -> str:
    """The text that names such a score, of one with further options."""
    return str(kind(**{one.name: getattr(told, one.name) for one in dataclasses.fields(kind)}))  # type: ignore[arg-type]


def recipe(layers: Layers) -> Filter:
    told: BestByNegCLIPLoss = layers.part(BestByNegCLIPLoss, "negcliploss")
    return told.filter()


BASELINE = Baseline(
    Command("negcliploss", "Keep the best by negCLIPLoss.", recipe, (("negcliploss", BestByNegCLIPLoss),)),
    SOURCE,
    MEDIUM["negcliploss"],
    needs=NEEDS,
    size_flag="size",
)
