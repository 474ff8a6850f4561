"""One run: what must hold before it, the passes of its recipe, and what it leaves.

Everything is settled that can be before the work starts; nothing is put in its place before all of it is written.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from filters import outcome
from filters.options import RunOptions, check_fields
from filters.outcome import Look, Outcome, Verdict
from filters.pool.errors import REFUSED, BadInput, from_os
from filters.pool.files import sha256
from filters.pool.place import Place, Remote, kept
from filters.pool.pool import Pool
from filters.work import room
from filters.work.engine import Engine, one_thread_each
from filters.work.plan import Plan
from filters.work.rates import Kernel, Rates, Site, loaded, measured
from filters.work.status import Watch
from filters.work.work import Progress, Settings, Work
from filters.work.workdir import WorkDir, beside, clear_beside

LONG = 300.0  # planned seconds from which on a run measures its rates too, for the time left


class Steps(NamedTuple):
    """A recipe: what it takes, what becomes of the samples that are within, and whether it looks at embeddings at all."""

    foresee: Callable[[Plan, str | None], int]  # gives the rows left
    decide: Callable[[Work, str | None], Verdict]
    embeddings: bool


def run(
    steps: Steps,
    pool: Pool | str | Place,
    places: tuple[Path, Path],
    options: RunOptions,
    progress: Progress,
    told: dict[str, Any],
    overwrite: bool,
    look: Look | None,
) -> Outcome:
    """`Recipe.run`, with every default settled.

    places  save_path, work_dir
    told    what the manifest says of the recipe
    look    called when all is written, while passes are still possible
    """
    save_path, folder = places
    check_fields(options)
    _check_places(save_path, folder)
    plan = _planned(steps, pool, places, options, look)
    room.check(plan, *places)
    with session(plan.pool, folder, options, progress.say) as held:
        clear_beside(save_path, folder)
        _check_replaceable(save_path, held.before, overwrite)
        with held.work(plan, progress) as work:
            verdict = steps.decide(work, options.within)
            kept_options = {name: kept(value) for name, value in asdict(options).items()}
            result = outcome.leave(work, verdict, save_path, told | {"options": kept_options}, held.before)
            if look is not None:
                look.carry_out(work, verdict)
            held.dir.sweep()
            return result


@dataclass
class Session:
    """A pool, a work folder and workers: held for one recipe, or for one after the other."""

    dir: WorkDir
    engine: Engine
    before: dict[str, Any]  # what the folder's last run has left word of
    _rates: dict[Kernel, float] = field(default_factory=dict)  # measured so far

    @contextlib.contextmanager
    def work(self, plan: Plan, progress: Progress) -> Iterator[Work]:
        """The passes of one recipe, told to `progress` and to status.json as the plan foresees them."""
        with Watch(plan, self._rates_of(plan), progress, self.dir.folder / "status.json") as watch:
            yield Work(plan.pool, self.dir, self.engine, plan.settings, watch)

    def _rates_of(self, plan: Plan) -> Rates:
        usual = plan.usual_rates()
        if plan.seconds(usual) > LONG and not usual.keys() <= self._rates.keys():
            self._rates |= measured(plan.shares(), _site(plan, self.dir.folder), 0.0)
        return {**usual, **self._rates}


@contextlib.contextmanager
def session(pool: Pool, folder: Path, options: RunOptions, say: Callable[[str], None]) -> Iterator[Session]:
    """Hold a work folder; raises BadInput when another run does, or when it is another pool's."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(refusals_named(folder))
        held = WorkDir(folder)
        stack.callback(held.close)
        before = outcome.settle_in(held, pool, say)
        stack.enter_context(one_thread_each())
        engine = stack.enter_context(Engine(options.engine, options.num_workers or _cores()))
        yield Session(held, engine, before)


def foreseen(steps: Steps, pool: Pool | str | Place, places: tuple[Path, Path], options: RunOptions, look: Look | None) -> Plan:
    """`Recipe.plan`, with every default settled."""
    check_fields(options)
    start = loaded()
    plan = _planned(steps, pool, places, options, look)
    try:
        room.check(plan, *places)
    except BadInput as short:
        plan.short = short
    with one_thread_each():
        # Where there is no room for the run, there may be none for a trial.
        plan.rates = measured(plan.shares(), _site(plan, Path(tempfile.gettempdir()) if plan.short else places[1]), start)
    return plan


def _planned(steps: Steps, pool: Pool | str | Place, places: tuple[Path, Path], options: RunOptions, look: Look | None) -> Plan:
    """What the run will take."""
    pool = _opened(pool, options.features_dir, steps.embeddings)
    check_reachable(pool, options.engine)
    check_apart(places[1], pool)
    plan, kept = planned(steps.foresee, pool, options)
    with plan.stage("results", kept):
        outcome.expect_leaving(plan, kept)
    if look is not None:
        look.expect(plan)
    return plan


def planned(foresee: Callable[[Plan, str | None], int], pool: Pool, options: RunOptions) -> tuple[Plan, int]:
    """What a recipe will take of an open pool, and the rows it leaves; what leaving its result takes is not in it."""
    workers = options.num_workers or _cores()
    settings = Settings(options.seed, _device(options.device, options.engine), options.memory_gb, options.allow_invalid)
    plan = Plan(pool, settings, workers, 1 + workers if options.engine == "processes" else 1)
    return plan, foresee(plan, options.within)


def _site(plan: Plan, folder: Path) -> Site:
    spare = room.free_memory() - sum(plan.memory.values())
    return Site(plan.pool, room.existing(folder), plan.settings.device, plan.workers, spare)


@contextlib.contextmanager
def refusals_named(folder: Path) -> Iterator[None]:
    """What the system refuses anywhere, a read of a failing disk for instance, is told in one line."""
    try:
        yield
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        raise from_os(error.filename or folder, error) from error


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0))


def _opened(pool: Pool | str | Place, features_dir: str | None, embeddings: bool) -> Pool:
    if not isinstance(pool, Pool):
        return Pool.open(pool, features_dir, embeddings=embeddings)
    if features_dir is not None:
        raise ValueError("features_dir is given to Pool.open when a pool is opened first")
    return pool


def check_reachable(pool: Pool, engine: str) -> None:
    """Raise BadInput for a pool that worker processes would not find."""
    if isinstance(pool.location, Remote) and pool.location.scheme == "memory" and engine == "processes":
        raise BadInput(pool.location, "lies in the memory of this process, and others do not see it", "give --engine threads")


def work_folder(path: Path) -> Path:
    """Of a subset file, when no other is named."""
    check_name(path)
    return path.with_suffix(".work")


def check_name(path: Path) -> None:
    if path.suffix != ".npy":
        raise BadInput(path, "does not end in .npy", "name the subset file OUT.npy")


def check_target(path: Path, folder: Path) -> None:
    """Raise BadInput when no subset file can be written there: before the work, not after it."""
    check_name(path)
    probe = beside(path, folder, "try")
    try:
        if path.is_dir():
            raise BadInput(path, "is a folder", "name a file")
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise from_os(path, error) from None


def _check_places(path: Path, folder: Path) -> None:
    check_target(path, folder)
    if os.path.realpath(path) == os.path.realpath(folder):
        raise BadInput(path, "is the work folder as well", "name another --work_dir")


def check_apart(folder: Path, pool: Pool) -> None:
    """Raise BadInput when what the run leaves would lie among the pool's own files."""
    place = pool.location.resolve()
    if isinstance(place, Remote):
        return
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
