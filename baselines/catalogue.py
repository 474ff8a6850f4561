"""Every baseline by name: those of this folder, those that installed packages register, and a file of the user's own."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from baselines import clip_score, combined, no_filter, random_draw
from baselines.baseline import Baseline
from filters.command import Command
from filters.filter import Filter
from filters.pool.errors import BadInput
from filters.work import foreign

GROUP = "densprune.filters"  # of entry points

OURS = {
    one.name: one
    for one in (
        no_filter.BASELINE,
        clip_score.BASELINE,
        random_draw.BASELINE,
        combined.SEMDEDUP,
        combined.DENSPRUNE,
        combined.DEDUP_SCORE,
        combined.SURVIVORS_RANDOM,
    )
}


def registered() -> dict[str, Any]:
    """Entry points of installed packages, by name."""
    return {point.name: point for point in entry_points(group=GROUP)}


def find(name: str) -> Baseline:
    """The baseline of this name, or the filter that path/to/file.py:Class names; raises BadInput."""
    if name in OURS:
        return OURS[name]
    path, _, wanted = name.rpartition(":")
    if path.endswith(".py"):
        return _of_class(getattr(foreign.load(Path(path)), wanted, None), name)
    if point := registered().get(name):
        return _of_class(point.load(), name)
    raise BadInput("--name", f"there is no baseline {name!r}", "see --list, or name path/to/file.py:Class")


def _of_class(owner: Any, name: str) -> Baseline:
    if not (isinstance(owner, type) and issubclass(owner, Filter)):
        raise BadInput(name, f"is {type(owner).__name__}, no Filter class", "name path/to/file.py:Class")
    first = (owner.__doc__ or "").strip().partition("\n")[0]
    command = Command(owner.name, first, lambda layers: layers.part(owner, owner.name), ((owner.name, owner),))
    return Baseline(command, name, needs="not told", size_flag="size" if "size" in command.flags() else None)
