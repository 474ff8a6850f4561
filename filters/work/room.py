"""Memory and disk that a run may take, and whether a plan fits into them. Linux tells; where it does not, nothing is refused."""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path

from filters.pool.errors import BadInput, from_os
from filters.work.plan import HELD, K_MEANS, SORTED, Plan, sized


def check(plan: Plan, save_path: Path, folder: Path) -> None:
    """Raise BadInput when the plan cannot fit, with what would."""
    if plan.beyond is not None:
        raise plan.beyond
    _check_memory(plan)
    try:
        _check_disk(plan, save_path, folder)
    except OSError as error:
        raise from_os(folder, error) from None


def _check_memory(plan: Plan) -> None:
    needed, free = sum(plan.memory.values()), free_memory()
    if needed <= free:
        return
    terms = ", ".join(f"{sized(size)} for {name}" for name, size in plan.memory.items())
    most = max(plan.memory, key=lambda name: plan.memory[name])
    do = _LESS.get(most, "give fewer --num_workers, or --engine threads" if plan.processes > 1 else "use a larger machine")
    raise BadInput("memory", f"too little: {sized(needed)} needed ({terms}), {sized(free)} free", do)


_LESS = {
    SORTED: "give a smaller --memory_gb, or ask for more clusters",
    K_MEANS: "ask for fewer clusters or concepts, or fewer points for each",
    HELD: "let fewer samples reach the stage, or use a larger machine",
}


def _check_disk(plan: Plan, save_path: Path, folder: Path) -> None:
    """The work folder and OUT.npy may lie on two disks. What an earlier run has left in the folder is not needed twice."""
    held, out = _size(folder), 16 * plan.kept
    places = [(folder, plan.disk - held, "--work_dir"), (save_path, out, "--save_path")]
    if _same_disk(folder, save_path):
        places = [(folder, plan.disk - held + out, "--work_dir on a larger disk")]
    for place, needed, do in places:
        free = shutil.disk_usage(existing(place)).free
        if needed > free:
            raise BadInput(place, f"too little space: {sized(needed)} needed, {sized(free)} free", f"free some, or name another {do}")


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    path = path.absolute()
    return next(one for one in (path, *path.parents) if one.is_dir())


def _same_disk(one: Path, other: Path) -> bool:
    return existing(one).stat().st_dev == existing(other).stat().st_dev


def _size(folder: Path) -> int:
    """Bytes that the files of a folder take."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += 512 * (Path(place) / name).lstat().st_blocks
            except FileNotFoundError:  # of a run that is at work here: it will be told apart by the lock
                continue
    return total


def free_memory(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> float:
    """Bytes that this process may still take: of the machine, and of each control group that it is in."""
    return min([_machine(proc), *_limits(proc, groups)])


def _machine(proc: Path) -> float:
    lines = _read(proc / "meminfo").splitlines()
    return next((1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), math.inf)


def _limits(proc: Path, groups: Path) -> list[float]:
    """Of the groups of version 1 and 2, and of those around them, as far as they can be seen from here."""
    found = []
    for line in _read(proc / "self" / "cgroup").splitlines():
        _, kinds, path = line.split(":", 2)
        if kinds and "memory" not in kinds.split(","):
            continue
        root, names = (groups / "memory", _OLD) if kinds else (groups, _NEW)
        place = root / path.strip("/")
        found += [_left(one, *names) for one in (place, *place.parents) if one.is_relative_to(root)]
    return found


_OLD = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file", "total_active_file")
_NEW = ("memory.max", "memory.current", "inactive_file", "active_file")


def _left(group: Path, most: str, used: str, *given_back: str) -> float:
    """What a group may still take; the page cache gives way."""
    limit, taken = _read(group / most).strip(), _read(group / used).strip()
    if not limit.isdigit() or not taken.isdigit():
        return math.inf
    told = dict(line.split() for line in _read(group / "memory.stat").splitlines())
    return float(limit) - float(taken) + sum(float(told.get(name, 0)) for name in given_back)


def _read(path: Path) -> str:
    """What the system says there; empty where it says nothing."""
    try:
        return path.read_text()
    except OSError:
        return ""
