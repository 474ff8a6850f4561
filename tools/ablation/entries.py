"""The file of an ablation: which filters and recipes, with which settings, become the rows of its table.

    size = [0.15]                     # of every entry that takes a size and sets none: samples, or a share of the pool

    [[filter]]
    name = "densprune"                # of a baseline, or path/to/my.py:Class; its flags follow by name
    temperature = [0.05, 0.1, 0.2]    # a list is a sweep; several lists: each with each

    [[filter]]
    label = "my subset"
    file = "subset.npy"               # uids that were chosen elsewhere

    [[filter]]
    steps = [{ name = "semdedup", eps = 0.05 }, { name = "clip_score", fraction = 0.3 }]

Beside these an entry may have `group`, a heading of the table, and `published = true`: its published figures belong to these settings.
"""

from __future__ import annotations

import itertools
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from baselines import catalogue
from baselines.baseline import Baseline
from baselines.random_draw import RandomDraw
from filters.command import Command
from filters.filter import Cut, Filter, Measured, Plan, Recipe
from filters.maths.arrays import Array
from filters.options import CallOptions, Flag, Places, RunOptions, flags_of, option
from filters.outcome import held_uids, is_in
from filters.pool import subset
from filters.pool.columns import Rows
from filters.pool.errors import BadInput, from_os, shortened
from filters.work.view import View
from filters.work.work import Work
from filters.work.workdir import Saved
from submission.published import Published

OWN = {"name": str, "label": str, "group": str, "file": str, "steps": list, "published": bool}  # keys that are no flags
NO_FLAGS = {flag.name for owner in (Places, RunOptions, CallOptions) for flag in flags_of(owner)}  # of a whole ablation, not of an entry


@dataclass(frozen=True)
class UidFile(Filter):
    """Keep what a uid subset file lists."""

    name: ClassVar[str] = "file"
    file: str = option("uid subset file")

    def measure(self, work: Work, rows: Rows) -> Measured:
        path = Path(self.file)
        held = work.once(held_uids, path, subset.stamps(path))["uids"]
        columns = work.column(listed, rows, held)
        there, known = int(work.counts(rows, columns["listed"], 2)[1]), len(held.load())
        if there < known:
            work.progress.say(f"{self.file}: {known - there:,} of its {known:,} uids are not among the pool's samples")
        return Measured(columns=columns)

    def decide(self, work: Work, rows: Rows, seen: Measured) -> Cut:
        return Cut(by=seen.columns["listed"], threshold=1)

    def expect(self, plan: Plan, rows: int) -> int:
        held = subset.held_at_most(Path(self.file), rows)
        plan.column(listed, rows, plan.found(rows, held), "i1")
        plan.counts(rows)
        return min(held, plan.cut(rows, None))

    def looks_at_embeddings(self) -> bool:
        return False


def listed(view: View, held: Saved) -> dict[str, Array]:
    return {"listed": is_in(view, held).astype(np.int8)}


UID_FILE = Baseline(Command("file", UidFile.__doc__ or "", lambda layers: layers.part(UidFile, "file"), (("file", UidFile),)), "yours")


@dataclass(frozen=True)
class Setting:
    """One row of the table."""

    label: str
    group: str
    recipe: Recipe
    published: Published | None = None
    swept: tuple[str, str, float] | None = None  # entry, flag and value of a sweep over numbers
    draws: tuple[int, ...] = ()  # sizes at which a random draw of what it keeps is shown too

    def drawn(self, size: int) -> Setting:
        """A random draw of this size from what it keeps."""
        return Setting(f"{self.label}, random draw to {size:,}", self.group, self.recipe >> RandomDraw(size=size))


@dataclass(frozen=True)
class Step:
    """A filter of an entry, and the flags that the file gives it; a list of values is a sweep."""

    baseline: Baseline
    called: str
    given: dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """One table of the file."""

    where: str
    steps: tuple[Step, ...]
    label: str | None
    group: str
    published: bool

    def settings(self, preset: str, every: dict[str, str], sizes: tuple[int, ...]) -> Iterator[Setting]:
        """Its rows.

        preset  pool whose preset holds; every: features and score, for the flags of these names; sizes: in samples
        raises  BadInput that names the entry
        """
        lists = [(at, name) for at, step in enumerate(self.steps) for name, value in step.given.items() if isinstance(value, list)]
        for values in itertools.product(*(self.steps[at].given[name] for at, name in lists)):
            chosen = [dict(step.given) for step in self.steps]
            for (at, name), value in zip(lists, values, strict=True):
                chosen[at][name] = value
            told = ", ".join(f"{name} {_spoken(value)}" for (_, name), value in zip(lists, values, strict=True))
            sweep = (self._called, lists[0][1], float(values[0])) if len(lists) == 1 and _is_number(values[0]) else None
            yield from self._sized(chosen, ", ".join(part for part in (self._called, told) if part), sweep, preset, every, sizes)

    @property
    def _called(self) -> str:
        return self.label or " >> ".join(step.called + _fixed(step.given) for step in self.steps)

    def _sized(
        self,
        chosen: list[dict[str, Any]],
        label: str,
        sweep: tuple[str, str, float] | None,
        preset: str,
        every: dict[str, str],
        sizes: tuple[int, ...],
    ) -> Iterator[Setting]:
        """At each of the sizes, where the last step takes one and sets none."""
        flag, last = self.steps[-1].baseline.size_flag, chosen[-1]
        published = self.steps[0].baseline.published if self.published else None
        if flag is None or not sizes or self._sets_size(last, flag):
            recipe = self._recipe(chosen, preset, every)
            rule = flag is None and not any(one.repeats for one in recipe.filters())  # nothing can follow one that repeats
            yield Setting(label, self.group, recipe, published, sweep, sizes if rule else ())
            return
        for size in sizes:
            at_size = f"{label}, {size:,}" if len(sizes) > 1 else label
            line = sweep and (f"{sweep[0]}, {size:,}" if len(sizes) > 1 else sweep[0], *sweep[1:])
            yield Setting(at_size, self.group, self._recipe([*chosen[:-1], last | {flag: size}], preset, every), published, line)

    def _sets_size(self, given: dict[str, Any], flag: str) -> bool:
        command = self.steps[-1].baseline.command
        groups = [group for group in command.settled({}, self.where).exclusive if flag in group]
        return any(name in given for name in {flag}.union(*groups))

    def _recipe(self, chosen: list[dict[str, Any]], preset: str, every: dict[str, str]) -> Recipe:
        recipes = (self._made(step.baseline.command, given, preset, every) for step, given in zip(self.steps, chosen, strict=True))
        try:
            return reduce(lambda before, after: before >> after, recipes)
        except BadInput as error:
            raise _named(error, self.where) from None

    def _made(self, command: Command, given: dict[str, Any], preset: str, every: dict[str, str]) -> Recipe:
        flags = {name: flag for name, flag in command.flags().items() if name not in NO_FLAGS}
        read = {name: flags[name].read(value, self.where) for name, value in given.items()}
        common = {name: every[flag.attribute] for name, flag in flags.items() if flag.attribute in every and flag.kind is str}
        return command.recipe(command.settled({"pool": preset} | common | read, self.where))


def _named(error: BadInput, where: str) -> BadInput:
    return error if error.where.startswith(where) else BadInput(where, f"{error.where}: {error.found}", error.do)


def _spoken(value: Any) -> str:
    return "yes" if value is True else "no" if value is False else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _fixed(given: dict[str, Any]) -> str:
    """The flags that are not swept, as a part of a label."""
    return "".join(f", {name} {_spoken(value)}" for name, value in given.items() if not isinstance(value, list))


# -- reading


@dataclass(frozen=True)
class File:
    """What an ablation's file says."""

    path: Path
    top: dict[str, Any]  # flags of the ablation itself
    entries: tuple[Entry, ...]

    def settings(self, preset: str, every: dict[str, str], sizes: tuple[int, ...]) -> list[Setting]:
        """The rows of the table; raises BadInput for two of one label."""
        found = [setting for entry in self.entries for setting in entry.settings(preset, every, sizes)]
        counts = Counter(setting.label for setting in found)
        if twice := [label for label, count in counts.items() if count > 1]:
            raise BadInput(self.path, f"{counts[twice[0]]} rows are called {shortened(twice[0])}", "give their entries a label each")
        return found


def read(path: Path, flags: dict[str, Flag]) -> File:
    """The file, its names looked up; raises BadInput that names the file and the entry.

    flags  those of the ablation that the file may set
    """
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise from_os(path, error) from None
    except (ValueError, RecursionError) as error:
        raise BadInput(path, f"is no TOML ({error})", "mend the line that it names") from None
    entries = told.pop("filter", [])
    if not isinstance(entries, list) or not entries:
        raise BadInput(path, "has no [[filter]]", "write a table for each filter")
    top = {name.replace("-", "_"): value for name, value in told.items()}
    for name in top:
        if name not in flags:
            raise BadInput(
                path, f"{shortened(name)} is no setting of an ablation, which has {', '.join(flags)}", "write it below its [[filter]]"
            )
    read_top = {name: flags[name].read(value, str(path)) for name, value in top.items()}
    return File(path, read_top, tuple(_entry(f"{path}: filter {at}", one) for at, one in enumerate(entries, 1)))


def _entry(where: str, told: Any) -> Entry:
    own, flags = _keys(where, told)
    where = f"{where} ({own.get('label') or own.get('name') or own.get('file') or 'steps'})"
    steps = own.get("steps")
    if steps is not None and (flags or "name" in own or "file" in own or not steps):
        raise BadInput(where, "has steps, and a name, a file or flags beside them, or no steps at all", "write them in its steps")
    made = tuple(_step(where, *_keys(where, step)) for step in steps) if steps else (_step(where, own, flags),)
    published = own.get("published", False)
    if published and (steps or made[0].baseline.published is None):
        raise BadInput(where, "is to show published figures, and there are none of it", "leave `published` out")
    return Entry(where, made, own.get("label"), own.get("group", ""), published)


def _keys(where: str, told: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keys of an entry that are not flags, and its flags."""
    if not isinstance(told, dict):
        raise BadInput(where, f"is {shortened(told)}, no table", 'write { name = "...", ... }')
    own = {name: value for name, value in told.items() if name in OWN}
    for name, value in own.items():
        if type(value) is not OWN[name] or value == "":
            raise BadInput(where, f"{name} is {shortened(value)}, no {OWN[name].__name__}", "mend it")
    return own, {name.replace("-", "_"): value for name, value in told.items() if name not in OWN}


def _step(where: str, own: dict[str, Any], flags: dict[str, Any]) -> Step:
    if ("name" in own) == ("file" in own):
        raise BadInput(where, "has no name and no file, or both", "give it one of them")
    if "file" in own:
        return Step(UID_FILE, Path(own["file"]).stem, _checked(where, UID_FILE.command, flags | {"file": own["file"]}))
    try:
        baseline = catalogue.find(own["name"])
    except BadInput as error:
        raise BadInput(where, f"{error.where}: {error.found}", error.do) from None
    return Step(baseline, own["name"].rpartition(":")[2], _checked(where, baseline.command, flags))


def _checked(where: str, command: Command, given: dict[str, Any]) -> dict[str, Any]:
    """The flags, each of which the command must have; the values are read when all of a row are known."""
    known = command.flags().keys() - NO_FLAGS
    for name, value in given.items():
        if name not in known:
            raise BadInput(
                where, f"{shortened(name)} is no option of {command.name}, which has {', '.join(sorted(known))}", "mend the name"
            )
        if value == []:
            raise BadInput(where, f"{name} is a list of nothing", "give it values")
    return given
