"""The recipe of a manifest, as far as its filters are known here: its stages, their columns, and how each of them chose."""

from __future__ import annotations

import ast
from collections import Counter
from dataclasses import dataclass, field

from baselines.soft_cap import SoftCap
from filters.densprune import DensityPrune
from filters.filter import Filter
from filters.maths.arrays import Array, Bool
from filters.pool import columns
from filters.semdedup import SemDeDup
from filters.topscore import TopScore

KNOWN: dict[str, type[Filter]] = {one.__name__: one for one in (SemDeDup, TopScore, DensityPrune, SoftCap)}
MEASURED = {SemDeDup: "dedup_similarity", TopScore: "score", DensityPrune: "concept", SoftCap: "draws"}


@dataclass(frozen=True)
class Stage:
    """One filter of the recipe, and what its columns and files end in."""

    filter: Filter
    suffix: str

    @property
    def name(self) -> str:
        return self.filter.name + self.suffix


@dataclass
class Recipe:
    """The manifest's recipe, as far as its filters are known here."""

    stages: list[Stage] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    chain: bool = True  # each stage sees what the one before left


def recipe_of(text: str) -> Recipe:
    """Read `repr` of a recipe: names, plain values and the signs >> & | - only."""
    found, seen = Recipe(), Counter[str]()

    def walk(node: ast.expr) -> None:
        if isinstance(node, ast.BinOp):
            found.chain &= isinstance(node.op, ast.RShift)
            walk(node.left)
            walk(node.right)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in KNOWN:
            made = KNOWN[node.func.id](**{str(one.arg): ast.literal_eval(one.value) for one in node.keywords})
            seen[made.name] += 1
            found.stages.append(Stage(made, f"_{seen[made.name]}" if seen[made.name] > 1 else ""))
        else:
            found.unknown.append(ast.unparse(node)[:60])

    try:
        walk(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, TypeError):
        found.unknown.append(text[:60])
    found.chain &= not found.unknown
    return found


def main_column(stage: Stage) -> str:
    return MEASURED[type(stage.filter)] + stage.suffix


def in_stage(stage: Stage, part: dict[str, Array]) -> tuple[Bool, Bool]:
    """Of a chain's samples: which the stage saw, and which it left."""
    known = ~columns.missing(part[main_column(stage)])
    return known, known & (part["status"] != stage.name)


def final_size(density: DensityPrune, n: int) -> int:
    return density.size if density.size is not None else int(n * (density.fraction or 0))


@dataclass(frozen=True)
class Rule:
    """How a stage chose: by which column, in which groups, how many."""

    by: str  # a column, or "uid" for the draw
    largest: bool
    group: str | None = None
    threshold: float | None = None
    strict_ties: bool = True  # equal values fall by uid; else all of them stay
    quota: int | None = None  # rows that stay, when it is one number
    at_least: bool = False  # as many, or more where they tie


def rule_of(stage: Stage, seen: int, samples: int) -> Rule:
    one, suffix = stage.filter, stage.suffix
    if isinstance(one, SemDeDup):
        by = f"dedup_similarity{suffix}"
        return Rule(by, False, threshold=1 - one.eps) if one.eps is not None else Rule(by, False, quota=int(seen * (one.fraction or 0)))
    if isinstance(one, SoftCap):
        return Rule(f"draws{suffix}", True, threshold=1)
    if isinstance(one, TopScore):
        if one.threshold is not None:
            return Rule(f"score{suffix}", True, threshold=one.threshold)
        size = one.size if one.size is not None else int((samples if one.of == "pool" else seen) * (one.fraction or 0))
        plus = one.ties == "all" and one.size is None  # METHOD 4: the score at that position stays too
        return Rule(f"score{suffix}", True, strict_ties=one.ties == "uid", quota=min(seen, size + plus), at_least=one.ties == "all")
    assert isinstance(one, DensityPrune), "these are the filters known here"
    by = "uid" if one.prefer == "random" else f"distance{suffix}"
    return Rule(by, one.prefer == "hard", group=f"concept{suffix}")
