"""What a baseline is: a command, and what is known of it."""

from __future__ import annotations

from dataclasses import dataclass

from filters.command import Command
from filters.options import Preset
from submission.published import Published

# Of rules over captions, which are Python's own work: threads would wait for each other.
ENGINE: Preset = {"engine": ("processes", "ours: words and languages take Python's time")}


@dataclass(frozen=True)
class Baseline:
    """One entry of the catalogue."""

    command: Command
    source: str
    published: Published | None = None  # for the medium scale; METHOD 6
    needs: str = "parquet files"  # of the pool, and of what is not in it
    size_flag: str | None = None  # the flag that sets how many samples stay; None: a rule decides

    @property
    def name(self) -> str:
        return self.command.name
