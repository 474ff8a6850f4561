"""eval_results.jsonl of DataComp's evaluate.py: whether it is whole, and its five columns. METHOD 6.

It has a line a task. The tasks of a column weigh the same, and so do all 38 that have a main metric in the average.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from filters.pool.errors import BadInput, from_os, shortened
from submission.datacomp import IMAGENET, RETRIEVAL, SHIFTS, TASKS, UNSCORED, VTAB
from submission.published import Published

NAME = "eval_results.jsonl"  # evaluate.py reads no other
EVALUATE = "run evaluate.py again: it does what the file lacks"
DELETE = "delete the line, and run evaluate.py again"


@dataclass(frozen=True)
class Results:
    """Main metrics, 0 to 1, by name of the task."""

    scores: dict[str, float]

    def published(self, size: str) -> Published:
        """The columns as tables show them, in percent."""
        groups = ((IMAGENET,), SHIFTS, VTAB, RETRIEVAL, tuple(self.scores))
        return Published(size, *(100 * fmean(self.scores[name] for name in group) for group in groups))


def read(path: Path) -> tuple[Results, list[BadInput]]:
    """The metrics, and what is wrong with the file. Raises BadInput when it cannot be opened."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise from_os(path, error) from None
    except UnicodeDecodeError:
        raise BadInput(path, "is no text", "name evaluate.py's " + NAME) from None
    scores: dict[str, float] = {}
    seen, faults = Counter[str](), []
    for number, line in enumerate(lines, 1):
        where = f"{path} line {number}"
        try:
            name, metrics = _task(where, line)
            seen[name] += 1
            scores |= _metric(f"{where} ({name})", name, metrics)
        except BadInput as error:
            faults.append(error)
    return Results(scores), [*faults, *_of_all(path, len(lines), seen)]


def _task(where: str, line: str) -> tuple[str, dict[str, Any]]:
    """Its name and metrics."""
    try:
        told = json.loads(line)
    except (ValueError, RecursionError):
        raise BadInput(where, f"is no JSON: {shortened(line)}", DELETE) from None
    if not isinstance(told, dict) or not isinstance(told.get("metrics"), dict):
        raise BadInput(where, "is no object of key, dataset and metrics", DELETE)
    key, name = str(told.get("key")), told.get("dataset")
    if key not in TASKS or TASKS[key] != name:
        what = f"is of {shortened(key)}, {shortened(name)}, which is none of DataComp's {len(TASKS)} tasks"
        raise BadInput(where, what, "delete the line")
    return TASKS[key], told["metrics"]


def _metric(where: str, name: str, metrics: dict[str, Any]) -> dict[str, float]:
    """The main metric by its name, where the task has one."""
    if "main_metric" not in metrics:
        raise BadInput(where, "has no main_metric", DELETE)
    value = metrics["main_metric"]
    if name in UNSCORED:
        if value is not None:
            raise BadInput(where, f"has a main_metric, {shortened(value)}: aggregate_scores.py then counts 39 tasks", DELETE)
        return {}
    if not _is_share(value):
        raise BadInput(where, f"has the main_metric {shortened(value)}, no number from 0 to 1", DELETE)
    if name == IMAGENET and not _is_share(metrics.get("acc1")):
        raise BadInput(where, "has no acc1 from 0 to 1, which evaluate.py --submit tells", DELETE)
    return {name: float(value)}


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _of_all(path: Path, lines: int, seen: Counter[str]) -> Iterator[BadInput]:
    if twice := [name for name, count in seen.items() if count > 1]:
        yield BadInput(path, f"has more than one line of {', '.join(twice)}", "keep one of each")
    if missing := [name for name in TASKS.values() if name not in seen]:
        yield BadInput(path, f"has {lines} lines, and of {len(TASKS)} tasks none of {', '.join(missing)}", EVALUATE)
