"""NormSim: how close an image comes to the images of the tasks that a model is wanted for. METHOD 5.

A value of every option that takes a score: `--score normsim:targets=tasks.npy,p=2`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from filters.maths import similar
from filters.maths.arrays import Array
from filters.maths.device import shared
from filters.options import option
from filters.pool.columns import Column, Rows
from filters.pool.errors import BadInput
from filters.pool.pool import Features
from filters.pool.subset import Stamp, stamps
from filters.pool.targets import load
from filters.score import Score
from filters.work.plan import FLOPS, Cost, Plan
from filters.work.rates import Kernel, Site, Trial
from filters.work.view import View
from filters.work.work import Work
from filters.work.workdir import Saved

DRAW = 7  # purpose of the draw of targets
TRIED = 2048, 16384  # targets at most by which the time is measured, on the CPU and on a GPU


@dataclass(frozen=True)
class NormSim(Score):
    """The p-norm of an image's cosines with target images."""

    name: ClassVar[str] = "normsim"

    targets: str | None = option("file of target images' embeddings: .npy, .npz or .pt, rows as wide as the features", None, path=True)
    p: str = option("of the norm: 2; or inf, the largest |cos| [paper]", "inf", choices=("2", "inf"))
    features: str = option("npz member that is compared with them [paper]", "l14_img")
    target_sample: int | None = option("targets to draw at random, where there are more [ours]", None, interval="[1, inf)", unset="all")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.targets is None:
            raise ValueError("targets must name a file of target images' embeddings")

    def column(self, work: Work, rows: Rows) -> Column:
        features, targets = work.pool.features(self.features), self._targets(work.settings.seed)
        _check_width(targets, features)
        if self.p == "inf":
            return work.column(largest_cosine, rows, features, targets)["score"]
        return work.column(norm_of_cosines, rows, features, work.once(root_of_targets, targets)["root"])["score"]

    def expect(self, plan: Plan, rows: int) -> None:
        features, targets = plan.pool.features(self.features), self._targets(plan.settings.seed)
        _check_width(targets, features)
        count, width = rows_of(targets).shape
        if self.p == "inf":
            tried = min(count, TRIED[plan.settings.device != "cpu"])
            compare = Cost({Kernel(comparing, (width, features.dtype, tried), 2 * width * tried / FLOPS): rows * count / tried})
            plan.column(largest_cosine, rows, plan.blocks(features, rows) + compare, "f4")
            return
        with plan.once("root_of_targets", 8 * width * width):
            add_up = Cost({Kernel(adding_up, (width,), 2 * width * width / FLOPS): count})
            plan.each("gram", count, Cost(), then=add_up)
        measure = Cost({Kernel(measuring, (width, features.dtype), 2 * width * width / FLOPS): rows})
        plan.column(norm_of_cosines, rows, plan.blocks(features, rows) + measure, "f4")

    def _targets(self, seed: int) -> Targets:
        assert self.targets is not None, "it was checked when the score was made"
        return Targets(str(Path(self.targets).resolve()), tuple(stamps(self.targets)), self.target_sample, seed)


@dataclass(frozen=True)
class Targets:
    """Which rows of which file, as it was when the run began."""

    path: str
    stamps: tuple[Stamp, ...]
    sample: int | None
    seed: int


@shared(2)
def rows_of(targets: Targets) -> Array:
    """(n, d), one for all shards that a process works on; mapped when all are taken."""
    if tuple(stamps(targets.path)) != targets.stamps:
        raise BadInput(targets.path, "changed during the run", "run again when nothing writes to it")
    rows = load(Path(targets.path))
    if targets.sample is None or targets.sample >= len(rows):
        return rows
    drawn = np.random.default_rng([targets.seed, DRAW]).choice(len(rows), targets.sample, replace=False, shuffle=False)
    return np.array(rows[np.sort(drawn)])


def _check_width(targets: Targets, features: Features) -> None:
    width = rows_of(targets).shape[1]
    if width != features.width:
        what = f"its rows are {width:,} wide, those of '{features.name}' {features.width:,}"
        raise BadInput(targets.path, what, "name embeddings of the same model")


def root_of_targets(work: Work, targets: Targets) -> dict[str, Array]:
    rows = rows_of(targets)
    with work.shown("gram", len(rows)) as advance:
        gram = similar.gram(rows)
        advance(len(rows))
    return {"root": similar.root(gram)}


def norm_of_cosines(view: View, features: Features, root: Saved) -> dict[str, Array]:
    return _scored(view, features, similar.Norm2(np.array(root.load()), view.device))


def largest_cosine(view: View, features: Features, targets: Targets) -> dict[str, Array]:
    return _scored(view, features, _largest(targets, view.device))


@shared(2)
def _largest(targets: Targets, device: str) -> similar.Norm:
    return _norm_inf(rows_of(targets), device)


def _norm_inf(targets: Array, device: str) -> similar.Norm:
    return similar.NormInf(targets) if device == "cpu" else similar.NormInfSent(targets, device)


def _scored(view: View, features: Features, norm: similar.Norm) -> dict[str, Array]:
    """float32."""
    score = np.full(len(view.at), np.nan, np.float32)
    for at, rows in view.stored(features.name, norm.size):
        score[view.place(at)] = norm(rows)
    return {"score": score}


# -- how long it takes, by trials


def comparing(site: Site, width: int, dtype: str, count: int) -> Trial:
    """Rows that are compared with so many targets."""
    return _trial(_norm_inf(_random(count, width, dtype), site.device), width, dtype)


def measuring(site: Site, width: int, dtype: str) -> Trial:
    """Rows that are multiplied with a root."""
    return _trial(similar.Norm2(np.eye(width), site.device), width, dtype)


def adding_up(site: Site, width: int) -> Trial:
    """Targets of which a root is made."""
    rows = _random(similar.ROWS, width, "<f2")

    def trial() -> float:
        similar.gram(rows)
        return len(rows)

    return trial


def _trial(norm: similar.Norm, width: int, dtype: str) -> Trial:
    rows = _random(norm.size, width, dtype)

    def trial() -> float:
        norm(rows)
        return len(rows)

    return trial


def _random(count: int, width: int, dtype: str) -> Array:
    return np.random.default_rng(0).standard_normal((count, width), np.float32).astype(dtype)
