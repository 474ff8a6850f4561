"""Figures that others have published for DataComp medium. METHOD 6. None of them was measured here."""

from __future__ import annotations

from typing import NamedTuple

from baselines import catalogue
from baselines.baseline import Published

HEADS = ("size", "ImageNet", "shifts", "VTAB", "retrieval", "average")  # of a Published


class Told(NamedTuple):
    """A filter, what was published of it, and by whom."""

    name: str
    figures: Published
    source: str


# What no baseline here has.
OTHERS = (
    Told("T-MARS", Published("25M", 33.0, 27.0, 36.3), "arXiv 2307.03132"),
    Told("SDM", Published("18M", 35.2, 27.1, 38.6, 26.8, 36.4), "as later papers tell it"),
)
DENSITY = (
    "Density-Based Pruning itself: of its runs on DataComp medium only the order against T-MARS is known, as reviewers state it: fewer "
    "than 25M samples, ImageNet above 33.0, shifts below 27.0, VTAB above 36.3, the average below T-MARS's."
)


def everything() -> list[Told]:
    """Those of the catalogue, then the others."""
    ours = [Told(one.name, one.published, one.source) for one in catalogue.OURS.values() if one.published]
    return [*ours, *OTHERS]
