"""Every baseline by name: those of this folder, those that installed packages register, and a file of the user's own."""

from __future__ import annotations

import dataclasses
import inspect
import re
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from baselines import (
    basic_filter,
    clip_score,
    combined,
    d2,
    image_based,
    laion2b,
    negcliploss,
    negcliploss_normsim,
    no_filter,
    normsim,
    random_draw,
    soft_cap,
    ssp,
    text_based,
    vas_d,
)
from baselines.baseline import Baseline
from filters.command import Command
from filters.filter import Filter, Recipe
from filters.options import flags_of
from filters.pool.errors import BadInput, shortened
from filters.work import foreign

GROUP = "densprune.filters"  # of entry points

OURS = {
    one.name: one
    for one in (
        no_filter.BASELINE,
        clip_score.BASELINE,
        random_draw.BASELINE,
        combined.SEMDEDUP,
        combined.TOPSCORE,
        combined.DENSPRUNE,
        combined.DEDUP_SCORE,
        combined.SURVIVORS_RANDOM,
        laion2b.BASELINE,
        basic_filter.BASELINE,
        text_based.BASELINE,
        ssp.BASELINE,
        vas_d.VAS_D,
        vas_d.NORMSIM_D,
        d2.BASELINE,
        negcliploss.BASELINE,
        normsim.BASELINE,
        negcliploss_normsim.CHAIN,
        negcliploss_normsim.RANKS,
        image_based.IMAGE_BASED,
        image_based.INTERSECTION,
        soft_cap.BASELINE,
    )
}


def registered() -> dict[str, EntryPoint]:
    """Entry points of installed packages, by name."""
    return {point.name: point for point in entry_points(group=GROUP)}


def find(name: str) -> Baseline:
    """The baseline of this name, or the filter that path/to/file.py:Class names; raises BadInput."""
    if name in OURS:
        return OURS[name]
    path, _, wanted = name.rpartition(":")
    if path.endswith(".py"):
        return _of_own(getattr(foreign.load(Path(path)), wanted, None), name)
    if point := registered().get(name):
        return _of_own(_loaded(point), name)
    raise BadInput("--name", f"there is no baseline {name!r}", "see --list, or name path/to/file.py:Class")


def _loaded(point: EntryPoint) -> Any:
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        what = f"the package that registers it cannot be loaded ({type(error).__name__}: {error})"
        raise BadInput(point.name, what, "install it again") from None


def _of_own(found: Any, name: str) -> Baseline:
    """Of a filter class, whose fields become flags, or of a recipe, which has none."""
    if isinstance(found, Recipe):
        return Baseline(Command("recipe", repr(found), lambda layers: found, ()), name, needs="not told")
    fault = _fault(found)
    if fault:
        raise BadInput(name, fault, "see the README, A filter of your own")
    described = (found.__doc__ or "").strip().partition("\n")[0]
    command = Command(found.name, described, lambda layers: layers.part(found, found.name), ((found.name, found),))
    return Baseline(command, name, needs="not told", size_flag="size" if "size" in command.flags() else None)


def _fault(found: Any) -> str:
    """Why it cannot be run as a filter; empty when it can."""
    if not (isinstance(found, type) and issubclass(found, Filter)):
        return "there is no such class" if found is None else f"is {shortened(found)}, neither a Filter class nor a recipe"
    if inspect.isabstract(found):
        return f"does not say how to {' and '.join(sorted(found.__abstractmethods__))}"
    if not (dataclasses.is_dataclass(found) and found.__dataclass_params__.frozen):
        return "is no frozen dataclass"
    if not re.fullmatch(r"\w+", str(getattr(found, "name", ""))):
        return "has no `name` of letters, digits and _"
    return _fault_of_fields(found)


def _fault_of_fields(found: type[Filter]) -> str:
    flags = flags_of(found)
    taken = Command("", "", lambda layers: found(), ()).flags().keys() | {"name"}
    for flag in flags:
        if "text" not in flag.options:
            return f"its field {flag.name} is no option(...)"
        if flag.kind not in (bool, int, float, str):
            return f"its option {flag.name} is {flag.kind.__name__}, neither bool, int, float nor str"
        if flag.name in taken:
            return f"its option {flag.name} has the name of a flag that every command has"
    return ""
