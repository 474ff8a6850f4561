"""What a baseline is: a command, and what is known of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from filters.command import Command
from filters.options import Preset

# Of rules over captions, which are Python's own work: threads would wait for each other.
ENGINE: Preset = {"engine": ("processes", "ours: words and languages take Python's time")}


class Published(NamedTuple):
    """Figures that its authors or DataComp published for the medium scale, in percent. METHOD 6."""

    size: str
    imagenet: float | None = None
    shifts: float | None = None
    vtab: float | None = None
    retrieval: float | None = None
    average: float | None = None

    def __str__(self) -> str:
        named = zip(("ImageNet", "shifts", "VTAB", "retrieval", "average"), self[1:], strict=True)
        told = [f"{name} {value}" for name, value in named if value is not None]
        return ", ".join([self.size] * bool(self.size) + told)


@dataclass(frozen=True)
class Baseline:
    """One entry of the catalogue."""

    command: Command
    source: str
    published: Published | None = None
    needs: str = "parquet files"  # of the pool, and of what is not in it
    size_flag: str | None = None  # the flag that sets how many samples stay; None: a rule decides

    @property
    def name(self) -> str:
        return self.command.name
