"""One run: what must hold before it, the passes of its recipe, and what it leaves.

Everything is settled that can be before the work starts; nothing is put in its place before all of it is written.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filters import outcome
from filters.options import RunOptions, check_fields
from filters.outcome import Outcome, Verdict
from filters.pool.errors import BadInput, from_os
from filters.pool.files import sha256, temporary
from filters.pool.pool import Pool
from filters.work.engine import Engine, one_thread_each
from filters.work.work import Progress, Settings, Work
from filters.work.workdir import WorkDir

Decide = Callable[[Work, str | None], Verdict]


def run(
    decide: Decide,
    pool: Pool | str | Path,
    places: tuple[Path, Path],
    options: RunOptions,
    progress: Progress,
    told: dict[str, Any],
    overwrite: bool,
    look: Callable[[Work, Verdict], None] | None,
) -> Outcome:
    """`Recipe.run`, with every default settled.

    decide  the recipe: what becomes of the samples that are within
    places  save_path, work_dir
    told    what the manifest says of the recipe
    look    called when all is written, while passes are still possible
    """
    check_fields(options)
    save_path, folder = places
    _check_target(save_path, folder)
    pool = _opened(pool, options.features_dir)
    _check_apart(folder, pool)
    with contextlib.ExitStack() as stack:
        held = WorkDir(folder)
        stack.callback(held.close)
        before = held.read_manifest()
        outcome.settle_in(held, pool, before, progress.say)
        _check_replaceable(save_path, before, overwrite)
        stack.enter_context(one_thread_each())
        engine = stack.enter_context(Engine(options.engine, options.num_workers or _cores()))
        settings = Settings(options.seed, _device(options.device, options.engine), options.memory_gb, options.allow_invalid)
        work = Work(pool, held, engine, settings, progress)
        verdict = decide(work, options.within)
        result = outcome.leave(work, verdict, save_path, told | {"options": asdict(options)}, before)
        if look is not None:
            look(work, verdict)
        return result


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0))


def _opened(pool: Pool | str | Path, features_dir: str | None) -> Pool:
    if not isinstance(pool, Pool):
        return Pool.open(pool, features_dir)
    if features_dir is not None:
        raise ValueError("features_dir is given to Pool.open when a pool is opened first")
    return pool


def _check_target(path: Path, folder: Path) -> None:
    """Raise BadInput when no subset file can be written there: before the work, not after it."""
    if path.suffix != ".npy":
        raise BadInput(path, "does not end in .npy", "name the subset file OUT.npy")
    try:
        if path.is_dir():
            raise BadInput(path, "is a folder", "name a file")
        if os.path.realpath(path) == os.path.realpath(folder):
            raise BadInput(path, "is the work folder as well", "name another --work_dir")
        probe = temporary(path)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise from_os(path, error) from None


def _check_apart(folder: Path, pool: Pool) -> None:
    """Raise BadInput when what the run leaves would lie among the pool's own files."""
    place = pool.location.resolve()
    if folder.resolve() == place or (folder.resolve() == place.parent and place.name in ("samples", "stages")):
        raise BadInput(folder, f"is the place of the pool {pool.location}", "name another --work_dir")


def _check_replaceable(path: Path, before: dict[str, Any], overwrite: bool) -> None:
    if path.exists() and not overwrite and sha256(path) not in before.get("made", []):
        raise BadInput(path, "exists, and this work folder did not make it", "give --overwrite, or another --save_path")


def _device(name: str, engine: str) -> str:
    """auto: the GPU where there is one, for threads: each process would take as much of its memory as all threads together."""
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise BadInput("--device cuda", "no GPU that torch can use", "give --device cpu")
    if name == "cuda" and engine == "processes":
        raise BadInput("--device cuda", "asked for with --engine processes, each of which would fill it anew", "give --engine threads")
    return "cuda" if name == "cuda" or (name == "auto" and engine == "threads" and torch.cuda.is_available()) else "cpu"
