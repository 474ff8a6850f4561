"""What a filter is: measure one value a sample, decide how many stay, and the library cuts. DESIGN "The one idea".

    seen = filter.measure(work, rows)
    cut = filter.decide(work, rows, seen)
    rows = work.cut(rows, cut)

Filters compose: `a >> b` b sees what a left; `a & b` both keep it; `a | b` one keeps it; `a - b` a keeps it and b does not (of
these three both sides see the same input). Python binds `-` tighter than `>>`, and that tighter than `&`: use brackets.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from filters import outcome
from filters.maths import uids
from filters.maths.arrays import Array
from filters.options import RunOptions, check_fields
from filters.outcome import Look, Outcome, Verdict
from filters.pool.columns import Column, Rows
from filters.pool.errors import BadInput
from filters.pool.place import Place, local
from filters.pool.pool import Pool
from filters.run import Steps, foreseen, run, work_folder
from filters.work.cutting import Cut
from filters.work.plan import Plan
from filters.work.work import Progress, Silent, Work
from filters.work.workdir import Saved

__all__ = ["Cut", "Filter", "Measured", "Plan", "Recipe", "sized"]


def sized(samples: int, fraction: float | None, size: int | None) -> int:
    """How many are asked for: `size`, or a share of so many samples. METHOD 4: int(n * f) in double precision."""
    return size if size is not None else int(samples * (fraction or 0))


@dataclass(frozen=True)
class Measured:
    """What a filter saw: one value a sample, and small arrays found on the way, by the names under which they are left."""

    columns: Mapping[str, Column]
    arrays: Mapping[str, Saved] = field(default_factory=dict)


class Names:
    """Stage names, counted from left to right: the second of a kind gets _2, in status, columns and files."""

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()

    def suffix(self, kind: str) -> str:
        self._seen[kind] += 1
        return f"_{self._seen[kind]}" if self._seen[kind] > 1 else ""


class Recipe(ABC):
    """A filter, or filters put together."""

    @abstractmethod
    def apply(self, work: Work, rows: Rows, names: Names) -> Verdict:
        """What becomes of the rows."""

    @abstractmethod
    def foresee(self, plan: Plan, rows: int, names: Names) -> int:
        """What `apply` takes; gives the rows left."""

    @abstractmethod
    def filters(self) -> Iterator[Filter]:
        """Its filters, from left to right."""

    def __rshift__(self, other: Recipe) -> Recipe:
        return Combined(">>", self, other)

    def __and__(self, other: Recipe) -> Recipe:
        return Combined("&", self, other)

    def __or__(self, other: Recipe) -> Recipe:
        return Combined("|", self, other)

    def __sub__(self, other: Recipe) -> Recipe:
        return Combined("-", self, other)

    def run(
        self,
        pool: Pool | str | Place,
        save_path: str | Path,
        work_dir: str | Path | None = None,
        options: RunOptions | None = None,
        *,
        overwrite: bool = False,
        progress: Progress | None = None,
        config: dict[str, Any] | None = None,
        sources: dict[str, str] | None = None,
        look: Look | None = None,
    ) -> Outcome:
        """Filter the pool and write the uid subset file.

        pool       a pool, or the folder of its metadata, or its URL
        save_path  the .npy to write; replaced when this work folder made it, else only with `overwrite`
        work_dir   what the run leaves; default save_path with .work for .npy
        config     settings to note in the manifest
        sources    and the tags of these
        look       further passes, made when all is written
        raises     BadInput when the pool, a place or an option is at fault
        """
        places = _places(save_path, work_dir)
        told = {"recipe": repr(self), "preset": (config or {}).get("pool"), "config": config or {}, "sources": sources or {}}
        return run(self.steps(), pool, places, options or RunOptions(), progress or Silent(), told, overwrite, look)

    def plan(
        self,
        pool: Pool | str | Place,
        save_path: str | Path,
        work_dir: str | Path | None = None,
        options: RunOptions | None = None,
        look: Look | None = None,
    ) -> Plan:
        """What `run` with these arguments will do and take, from headers and from rates measured here in two seconds. Writes nothing.

        The plan's `short` is the BadInput that `run` would raise where memory or disk cannot suffice.
        """
        places = _places(save_path, work_dir)
        return foreseen(self.steps(), pool, places, options or RunOptions(), look)

    def steps(self) -> Steps:
        """As `filters.run` carries it out."""
        return Steps(self.foresee_verdict, self.verdict, any(one.looks_at_embeddings() for one in self.filters()))

    def foresee_verdict(self, plan: Plan, within: str | None) -> int:
        """What `verdict` takes; gives the rows left."""
        with plan.stage("pool", plan.pool.rows) as stage:
            rows = outcome.expect_population(plan, within)
            for one in self.filters():
                rows = one.expect_known(plan, rows)
            plan.samples = stage.kept = rows
        return self.foresee(plan, rows, Names())

    def verdict(self, work: Work, within: str | None) -> Verdict:
        """What becomes of every sample of the pool."""
        start = outcome.population(work, within)
        rows = start.kept
        for one in self.filters():
            rows = one.known(work, rows)
        work.population, work.samples = rows, rows.count()
        result = self.apply(work, rows, Names())
        outcome.refuse_nothing(work, result.kept)
        result.dropped = [*start.dropped, ("outside", start.kept - rows), *result.dropped]
        return result


def _places(save_path: str | Path, work_dir: str | Path | None) -> tuple[Path, Path]:
    """save_path, work_dir; raises BadInput for a URL."""
    path = local(save_path, "the subset file")
    return path, local(work_dir, "what a run leaves") if work_dir is not None else work_folder(path)


class Filter(Recipe):
    """One stage. A subclass is a frozen dataclass whose fields are its options."""

    name: ClassVar[str]  # of the stage: status of what it drops
    alternatives: ClassVar[tuple[tuple[str, ...], ...]] = ()  # groups of fields of which exactly one is given
    repeats: ClassVar[bool] = False  # it lists samples more than once, by Cut.repeat: a last step

    def __post_init__(self) -> None:
        check_fields(self)

    @abstractmethod
    def measure(self, work: Work, rows: Rows) -> Measured:
        """One value for each of the rows, in as many passes as it likes."""

    @abstractmethod
    def decide(self, work: Work, rows: Rows, seen: Measured) -> Cut:
        """Which of the rows stay, all of which have every value measured. Looks at small things only."""

    def known(self, work: Work, rows: Rows) -> Rows:
        """The rows that it can know at all; others are outside, as if the pool did not have them."""
        return rows

    def looks_at_embeddings(self) -> bool:
        """Whether it may ask for members of the pool's npz: where no filter does, none is opened."""
        return True

    def expect(self, plan: Plan, rows: int) -> int:
        """What `measure` and `decide` take, told to the plan in their words; gives the rows that stay."""
        plan.note(f"{self.name} does not say what it takes: one pass over values is counted on, and that all rows stay")
        plan.each("measure", rows, plan.values(rows))
        plan.measured(rows)
        return plan.cut(rows, rows)

    def expect_known(self, plan: Plan, rows: int) -> int:
        """What `known` takes; gives the rows that it can know."""
        return rows

    def filters(self) -> Iterator[Filter]:
        yield self

    def foresee(self, plan: Plan, rows: int, names: Names) -> int:
        suffix = names.suffix(self.name)
        with plan.stage(self.name + suffix, rows, suffix) as stage:
            stage.kept = self.expect(plan, rows) if rows else 0
        return stage.kept

    def apply(self, work: Work, rows: Rows, names: Names) -> Verdict:
        suffix = names.suffix(self.name)
        with work.stage(self.name + suffix, rows) as stage:
            seen = self.measure(work, rows)
            _check_measured(self.name, work, seen)
            valid = work.present(rows, *seen.columns.values())
            work.refuse_invalid(rows - valid)
            cut = self.decide(work, valid, seen)
            assert cut.repeat is None or self.repeats, "a filter that lists samples more than once says so by `repeats`"
            kept = work.cut(valid, cut)
            stage.invalid, stage.kept = stage.rows_in - valid.count(), kept.count()
            tables = {f"concepts{suffix}": cut.table | _kept(work, kept, cut)} if cut.table else {}
        if {"uid", "status"} & seen.columns.keys():
            raise ValueError(f"{self.name} measures a column named uid or status, which every sample has already")
        columns = {column + suffix: values for column, values in seen.columns.items()}
        arrays = {array + suffix: saved for array, saved in seen.arrays.items()}
        return Verdict(kept, [("invalid", rows - valid), (self.name + suffix, valid - kept)], columns, arrays, tables, cut.repeat)


def _check_measured(name: str, work: Work, seen: object) -> None:
    """A filter of the user's own may measure anything."""
    if not isinstance(seen, Measured):
        raise ValueError(f"{name}.measure gives {type(seen).__name__}, no Measured")
    for column, values in seen.columns.items():
        found = values.read(work.pool.shards[0].key)
        if found.dtype != uids.MAYBE and (found.ndim != 1 or found.dtype.kind not in "fiu"):
            raise ValueError(f"{name} measures '{column}' as {found.dtype} of shape {found.shape}: no number a sample")


def _kept(work: Work, kept: Rows, cut: Cut) -> dict[str, Array]:
    assert cut.group is not None, "a table has a row a group"
    return {"kept": work.counts(kept, cut.group, len(next(iter(cut.table.values()))))}


@dataclass(frozen=True)
class Combined(Recipe):
    """Two recipes and how they are put together."""

    sign: str
    left: Recipe
    right: Recipe

    def __post_init__(self) -> None:
        for one in (*self.left.filters(), *(self.right.filters() if self.sign != ">>" else ())):
            if one.repeats:
                raise BadInput(repr(self), f"{one.name} lists samples more than once", "let it come last: after >>, beside no & | -")

    def __repr__(self) -> str:
        return f"({self.left!r} {self.sign} {self.right!r})"

    def filters(self) -> Iterator[Filter]:
        yield from self.left.filters()
        yield from self.right.filters()

    def foresee(self, plan: Plan, rows: int, names: Names) -> int:
        left = self.left.foresee(plan, rows, names)
        right = self.right.foresee(plan, left if self.sign == ">>" else rows, names)
        if self.sign != ">>":
            plan.note("how far two sides overlap is not known before: the most that can stay is counted on")
        return {">>": right, "&": min(left, right), "|": min(rows, left + right), "-": left}[self.sign]

    def apply(self, work: Work, rows: Rows, names: Names) -> Verdict:
        left = self.left.apply(work, rows, names)
        right = self.right.apply(work, left.kept if self.sign == ">>" else rows, names)
        kept, dropped = _RULES[self.sign](left, right)
        if both := left.columns.keys() & right.columns.keys():
            raise ValueError(f"two filters of {self!r} measure a column named {min(both)}")
        arrays, tables = left.arrays | right.arrays, left.tables | right.tables
        return Verdict(kept, dropped, left.columns | right.columns, arrays, tables, right.repeat)


Dropped = list[tuple[str, Rows]]


def _then(left: Verdict, right: Verdict) -> tuple[Rows, Dropped]:
    return right.kept, [*left.dropped, *right.dropped]


def _both(left: Verdict, right: Verdict) -> tuple[Rows, Dropped]:
    return left.kept & right.kept, [*left.dropped, *((name, rows & left.kept) for name, rows in right.dropped)]


def _either(left: Verdict, right: Verdict) -> tuple[Rows, Dropped]:
    return left.kept | right.kept, [(name, rows - right.kept) for name, rows in left.dropped]


def _without(left: Verdict, right: Verdict) -> tuple[Rows, Dropped]:
    return left.kept - right.kept, [*left.dropped, ("excluded", left.kept & right.kept)]


_RULES = {">>": _then, "&": _both, "|": _either, "-": _without}
