"""Figures that others have published for DataComp medium, in percent. METHOD 6. None of them was measured here."""

from __future__ import annotations

from typing import NamedTuple

HEADS = ("size", "ImageNet", "shifts", "VTAB", "retrieval", "average")  # of a Published


class Published(NamedTuple):
    """Size of the subset, and DataComp's five columns as far as they are told."""

    size: str
    imagenet: float | None = None
    shifts: float | None = None
    vtab: float | None = None
    retrieval: float | None = None
    average: float | None = None

    def __str__(self) -> str:
        named = zip(HEADS[1:], self[1:], strict=True)
        told = [f"{name} {value}" for name, value in named if value is not None]
        return ", ".join([self.size] * bool(self.size) + told)


class Told(NamedTuple):
    """A filter, what was published of it, and by whom."""

    name: str
    figures: Published
    source: str


_DATACOMP = "DataComp, arXiv 2304.14108"

EVERYTHING = (
    Told("no_filter", Published("128M", 17.55, 15.20, 25.92, 21.85, 25.80), _DATACOMP),
    Told("basic_filter", Published("30M", 22.55, 19.30, 28.36, 25.12, 28.49), _DATACOMP),
    Told("laion2b", Published("13M", 23.04, 19.80, 30.71, 23.26, 29.19), _DATACOMP),
    Told("text_based", Published("", 25.48, 21.55, 32.83, 24.85, 30.66), _DATACOMP),
    Told("image_based", Published("", 26.78, 21.30, 31.88, 25.61, 31.18), _DATACOMP),
    Told("clip_score", Published("38M", 27.25, 23.04, 33.77, 25.07, 32.78), _DATACOMP),
    Told("image_based_intersect_clip_score", Published("14M", 29.72, 23.87, 34.57, 23.12, 32.81), _DATACOMP),
    Told("negcliploss", Published("33M", 28.8, average=34.4), "arXiv 2405.19547"),
    Told("negcliploss_normsim", Published("22M", 32.7, 26.5, 37.5, 26.5, 35.7), "arXiv 2405.19547"),
    Told("T-MARS", Published("25M", 33.0, 27.0, 36.3), "arXiv 2307.03132"),
    Told("SDM", Published("18M", 35.2, 27.1, 38.6, 26.8, 36.4), "as later papers tell it"),
    Told("soft_cap", Published("128M draws", 40.1, average=37.7), "M-FLYT's score, arXiv 2503.08805"),
)
MEDIUM = {told.name: told.figures for told in EVERYTHING}

DENSITY = (
    "Density-Based Pruning itself: of its runs on DataComp medium only the order against T-MARS is known, as reviewers state it: fewer "
    "than 25M samples, ImageNet above 33.0, shifts below 27.0, VTAB above 36.3, the average below T-MARS's."
)
