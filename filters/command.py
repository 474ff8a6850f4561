"""The command line that all filters share: settings in layers, the pool's place, progress, the last table, exit codes.

Exit 0: done. 2: the user's input is at fault, said in one line. 1: a fault of ours. 130, 143: interrupted.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from filters import summary
from filters.filter import Recipe
from filters.options import (
    NOT_KEPT,
    PRESETS,
    CallOptions,
    Flag,
    Layers,
    Places,
    Preset,
    RunOptions,
    flags_of,
    parser,
    preset_values,
    read_config,
    source_of,
    with_underscores,
)
from filters.outcome import Look, Verdict
from filters.pool.errors import REFUSED, BadInput, from_os, printable
from filters.pool.place import Place, is_url, kept, place
from filters.scores import computed
from filters.start import RESUMED, SIGNALS
from filters.work.engine import WorkerDied
from filters.work.plan import lasting, sized
from filters.work.status import Status
from filters.work.work import Progress, Silent, Work

DEMO = Path("demo_pool")
REDRAWN = 0.2  # seconds between two states of the line on a terminal
RETOLD = 30.0  # and between two lines elsewhere
PATIENCE = 1.0
PATH = re.compile(r"\.parquet$|\.py:\w+$")  # values of options that name a file
T = TypeVar("T")


class Terminated(BaseException):
    """SIGTERM: like KeyboardInterrupt, not to be caught by what handles errors."""


@dataclass(frozen=True)
class Command:
    """One command: how its flags become a recipe."""

    name: str
    description: str
    recipe: Callable[[Layers], Recipe]
    stages: tuple[tuple[str, type], ...]  # prefix of its flags, dataclass
    follows: dict[str, str] = field(default_factory=dict)  # flag -> the flag whose value it takes unless it is set
    exclusive: tuple[tuple[str, ...], ...] = ()  # flags that exclude each other, beside those that a stage declares
    heads: tuple[type, ...] = ()  # dataclasses of further flags, which belong to no stage
    usual: Preset = field(default_factory=dict)  # flag -> another default than that of all commands, and why

    def main(self, arguments: list[str] | None = None) -> int:
        """Run; returns the exit code."""
        return ended(self.name, RESUMED, partial(self._run, sys.argv[1:] if arguments is None else arguments))

    def groups(self) -> list[tuple[str, list[Flag]]]:
        """Its flags, by heading."""
        bare = len(self.stages) == 1
        stages = [(owner.__name__, flags_of(owner, prefix, bare)) for prefix, owner in self.stages]
        heads = [(owner.__name__.lower(), flags_of(owner)) for owner in self.heads]
        return [*heads, ("places", flags_of(Places)), *stages, ("run", flags_of(RunOptions)), ("call", flags_of(CallOptions))]

    def _staged(self) -> list[Flag]:
        bare = len(self.stages) == 1
        return [flag for prefix, owner in self.stages for flag in flags_of(owner, prefix, bare)]

    def flags(self) -> dict[str, Flag]:
        return {flag.name: flag for _, flags in self.groups() for flag in flags}

    def layers(self, arguments: list[str]) -> Layers:
        """Settings of a call."""
        flags = self.flags()
        given = vars(parser(self.name, self._described(), self.groups()).parse_args(with_underscores(arguments)))
        return self.settled({name: flags[name].read(value, f"--{name}") for name, value in given.items()}, "command line")

    def settled(self, given: dict[str, Any], source: str) -> Layers:
        """Settings in layers: default < preset < config file < what is given, by flag, its values read."""
        flags = self.flags()
        config = read_config(given["config"], flags) if given.get("config") else {}
        layers = Layers(
            flags, {name: flag.default for name, flag in flags.items()}, dict.fromkeys(flags, "default"), self._exclusive(flags)
        )
        pool = given.get("pool", config.get("pool"))
        if pool is None and "metadata_dir" in given:
            pool = "medium"
        layers = layers.over({name: value for name, (value, _) in self.usual.items()}, {name: tag for name, (_, tag) in self.usual.items()})
        layers = layers.over(*self._preset(pool, flags))
        layers = layers.over(config, dict.fromkeys(config, f"{given.get('config')}"))
        layers = layers.over(given, dict.fromkeys(given, source))
        return self._followed(layers)

    def _described(self) -> str:
        lines = [self.description, "", "Presets of --pool, each value with its source:"]
        for flag in self.flags().values():
            lines += [f"  --{flag.name} {value} [{tag}]: {', '.join(pools)}" for pools, value, tag in preset_values(flag.canonical)]
        return "\n".join(lines)

    def _exclusive(self, flags: dict[str, Flag]) -> tuple[tuple[str, ...], ...]:
        named = {(flag.prefix, flag.attribute): flag.name for flag in flags.values()}
        declared = [
            [named[prefix, name] for name in group] for prefix, owner in self.stages for group in getattr(owner, "alternatives", ())
        ]
        # A group of the command's own says more about its flags than the stage does.
        covered = [group for group in declared if not any(set(group) <= set(own) for own in self.exclusive)]
        return (*self.exclusive, *map(tuple, covered))

    def _preset(self, pool: str | None, flags: dict[str, Flag]) -> tuple[dict[str, Any], dict[str, str]]:
        if pool is None:
            return {}, {}
        chosen = {flag.name: PRESETS[pool][flag.canonical] for flag in flags.values() if flag.canonical in PRESETS[pool]}
        values = {name: value for name, (value, _) in chosen.items()} | {"pool": pool}
        return values, {name: f"preset {pool} [{tag}]" for name, (_, tag) in chosen.items()} | {"pool": "default"}

    def _followed(self, layers: Layers) -> Layers:
        free = {name: layers.values[other] for name, other in self.follows.items() if layers.sources[name] == "default"}
        new = {name: value for name, value in free.items() if value != "none"}  # no stage, and nothing to follow
        return layers.over(new, {name: f"as {self.follows[name]}" for name in new})

    def _run(self, arguments: list[str], interruption: Interruption) -> None:
        layers = self.layers(arguments)
        call: CallOptions = layers.part(CallOptions)
        if call.show_config:
            values = {name: kept(value) for name, value in layers.values.items()}
            print(json.dumps({"config": values, "from": layers.sources}, indent=2))
            return
        places: Places = layers.part(Places)
        if not places.pool:
            raise BadInput("command line", "neither --pool nor --metadata_dir is given", "give one; --pool demo needs no data")
        if call.dry_run:
            self._foresee(layers, places, call)
            return
        told = self._filter(layers, places, call, Quiet(interruption) if call.quiet else Console(self.name, interruption))
        if not call.quiet:
            print("\n\n".join(part for part in told if part))

    def _filter(self, layers: Layers, places: Places, call: CallOptions, progress: Progress) -> list[str]:
        """Run the recipe; gives the parts of the last table."""
        told: list[str] = []

        def look(work: Work, verdict: Verdict) -> None:
            work.progress.stage("table")
            try:
                told.append(summary.concepts(work, verdict))
            except BadInput as error:  # the table is for the eye: it costs no run
                progress.say(f"no table of concepts: {error}")

        outcome = self._made(layers).run(
            metadata_of(places, progress),
            *self._places(places),
            layers.part(RunOptions),
            overwrite=call.overwrite,
            progress=progress,
            config=self._config(layers),
            sources=self._sources(layers),
            look=None if call.quiet else Look(look, summary.expect_concepts),
        )
        return [summary.funnel(outcome), *told, summary.places(outcome)]

    def _foresee(self, layers: Layers, places: Places, call: CallOptions) -> None:
        """Print the plan of the run, and write nothing: not even the demo pool. Raises BadInput after it where the run would not start."""
        if places.pool == "demo" and not places.metadata_dir and not DEMO.exists():
            raise BadInput(DEMO, "is not drawn yet", "run once without --dry_run")
        look = Look(lambda work, verdict: None, summary.expect_concepts)
        metadata = metadata_of(places, Silent())
        plan = self._made(layers).plan(metadata, *self._places(places), layers.part(RunOptions), look)
        if not call.quiet:
            print(plan)
        if plan.short:
            raise plan.short

    def _made(self, layers: Layers) -> Recipe:
        try:
            return self.recipe(layers)
        except ValueError as error:
            raise BadInput("command line", str(error), "see --help") from None

    def _places(self, places: Places) -> tuple[str, str | None]:
        return places.save_path or f"{self.name}_{places.pool}.npy", places.work_dir

    def _config(self, layers: Layers) -> dict[str, Any]:
        """The settings as the manifest holds them; paths as they are found from any folder."""
        return {name: _from_anywhere(layers.flags[name], value) for name, value in layers.values.items() if name not in NOT_KEPT}

    def _sources(self, layers: Layers) -> dict[str, str]:
        """The tags of its stages' settings, as far as they have one."""
        found = {flag.name: source_of(flag, layers.values[flag.name], layers.values["pool"]) for flag in self._staged()}
        return {name: tag for name, tag in found.items() if tag}


def _from_anywhere(flag: Flag, value: Any) -> Any:
    if not isinstance(value, str) or is_url(value):
        return kept(value)
    score = computed(value) if flag.attribute == "score" else None
    if score is not None:
        return str(score.from_anywhere())
    return str(Path(value).resolve()) if flag.options["path"] or PATH.search(value) else value


def metadata_of(places: Places, progress: Progress) -> Place:
    """Where the pool lies; makes the demo's."""
    if places.metadata_dir:
        return place(places.metadata_dir)
    if places.pool == "demo":
        return demo_pool(progress)
    return _downloaded(str(places.pool))


def _downloaded(pool: str) -> Place:
    """Where a pool of DataComp's is; raises BadInput, with the way to get it, where it is not."""
    folder, command = home(pool), f"python tools/download.py metadata --scale {pool}"
    if folder is None:
        what = f"DATACOMP_DIR is not set, so the place of pool {pool} is not known"
        raise BadInput("--pool", what, f"set it, and download the pool: {command}; or give --metadata_dir")
    if isinstance(folder, Path) and _is_bare(folder):
        raise BadInput(folder, f"pool {pool} is not there", f"download it: {command}; or give --metadata_dir")
    return folder


def _is_bare(folder: Path) -> bool:
    try:
        return not any(folder.iterdir())
    except FileNotFoundError:
        return True
    except OSError:
        return False  # whoever opens it says why it cannot be


def home(pool: str) -> Place | None:
    """Where a pool of DataComp's has its place."""
    root = os.environ.get("DATACOMP_DIR")
    return place(root) / pool / "metadata" if root else None


def demo_pool(progress: Progress) -> Path:
    """Draw it, unless it is there."""
    from filters.pool import demo

    def watch(world: Iterable[T]) -> Iterator[T]:
        drawn = list(world)
        progress.say(f"drawing the demo pool of {len(drawn):,} pictures in {DEMO}")
        progress.begin("drawing", len(drawn))
        for one in drawn:
            yield one
            progress.advance(1)
        progress.end()

    try:
        demo.make(DEMO, watch=watch)
    except ValueError as error:
        raise BadInput(DEMO, str(error), "move it away") from None
    except OSError as error:
        raise from_os(DEMO, error) from None
    return DEMO / "metadata"


def ended(name: str, line: str, run: Callable[[Interruption], int | None]) -> int:
    """Run a command; gives its exit code, and says why where it did not come to its end. An interruption says the line."""
    interruption = Interruption(f"{name}: {line}")
    with interruption.heeded():
        try:
            return _settled(name, run, interruption)
        except (KeyboardInterrupt, Terminated) as stop:
            code = interruption.end(stop)
            if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
                os._exit(code)  # threads in the middle of a block are not waited for
            return code


def _settled(name: str, run: Callable[[Interruption], int | None], interruption: Interruption) -> int:
    try:
        return run(interruption) or 0
    except BrokenPipeError:  # whoever read the table has seen enough of it
        _drop_output()
        return 0
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        _drop_output()
        return _failed(name, str(from_os(error.filename or "standard output", error)), 2)
    except BadInput as error:
        return _failed(name, str(error), 2)
    except WorkerDied as error:
        return _failed(name, str(error), 1)


def _drop_output() -> None:
    """What is left of it would be tried again when the process ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _failed(name: str, line: str, code: int) -> int:
    with contextlib.suppress(OSError):  # of an stderr that cannot be written the code is left
        print(f"{name}: {line}", file=sys.stderr, flush=True)
    return code


class Interruption:
    """Turns SIGINT and SIGTERM into exceptions, and raises again what a library under way has swallowed.

    A keypress may reach us twice: another one ends the process at once only when the first has not in PATIENCE seconds.
    """

    def __init__(self, line: str) -> None:
        self._line = line
        self._since = 0.0
        self._kind: type[BaseException] | None = None

    def check(self) -> None:
        if self._kind is not None:
            raise self._kind

    def _handle(self, number: int, frame: object) -> None:
        if self._kind is None:
            self._kind, self._since = KeyboardInterrupt if number == signal.SIGINT else Terminated, time.monotonic()
            self.check()
        elif time.monotonic() > self._since + PATIENCE:
            os._exit(self.end(self._kind()))

    def end(self, stop: BaseException) -> int:
        """Say it, once: signals that come from now on are too late. Gives the exit code."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)
        print(self._line, file=sys.stderr, flush=True)
        return 130 if isinstance(stop, KeyboardInterrupt) else 143

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """For as long as the block lasts; only the main thread hears signals."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class Quiet(Silent):
    """Shows nothing, but ends when it should."""

    def __init__(self, interruption: Interruption) -> None:
        self._interruption = interruption

    def begin(self, name: str, samples: int) -> None:
        self._interruption.check()

    def advance(self, samples: int, size: int = 0) -> None:
        self._interruption.check()

    def tell(self, line: Callable[[], str]) -> None:
        """How far it is, in a line; now and then."""
        self._interruption.check()


class Console(Quiet):
    """Progress on stderr: one line that is written over where stderr is a terminal, else one every half minute; a line a stage."""

    def __init__(self, name: str, interruption: Interruption) -> None:
        super().__init__(interruption)
        self.name = name
        self._terminal = sys.stderr.isatty()
        self._shown, self._width = time.monotonic(), 0
        self._lock = threading.RLock()  # lines come from the passes and from the clock

    def show(self, status: Status) -> None:
        self._now_and_then(lambda: line_of(status))

    def tell(self, line: Callable[[], str]) -> None:
        super().tell(line)
        self._now_and_then(line)

    def _now_and_then(self, line: Callable[[], str]) -> None:
        with self._lock:
            if time.monotonic() - self._shown < (REDRAWN if self._terminal else RETOLD):
                return
            self._shown = time.monotonic()
            if self._terminal:
                self._draw(line())
            else:
                self.say(line())

    def end(self) -> None:
        self._draw("")

    def say(self, line: str) -> None:
        with self._lock:
            self._draw("")
            print(f"{self.name}: {line}", file=sys.stderr, flush=True)

    def _draw(self, line: str) -> None:
        """Write over the line that is there."""
        if not self._terminal or not (line or self._width):
            return
        with self._lock:
            shown = line[: shutil.get_terminal_size().columns - 1]
            print("\r" + shown.ljust(self._width) + ("" if shown else "\r"), end="", file=sys.stderr, flush=True)
            self._width = len(shown)


class Meter:
    """How far a command is, by the bytes that it has read."""

    def __init__(self, console: Quiet, name: str, size: int) -> None:
        self._console, self._name, self._size = console, name, size
        self._done, self._began = 0, time.monotonic()

    def __call__(self, size: int) -> None:
        self._done += size
        self._console.tell(self._line)

    def _line(self) -> str:
        rate = self._done / max(1e-9, time.monotonic() - self._began)
        left = lasting(max(0, self._size - self._done) / max(1.0, rate))
        return f"{self._name}  {min(1.0, self._done / max(1, self._size)):.0%}  {left} left  {sized(rate)}/s"


def show(rows: list[tuple[str, str]]) -> None:
    """Print facts by name, a line each."""
    width = max(len(name) for name, _ in rows)
    print("\n".join(printable(f"{name:<{width}}  {text}") for name, text in rows), flush=True)


def line_of(status: Status) -> str:
    """Where a run is: stage 2/5 semdedup: split  45%  pass 0:12, run 3:40 left  1.2M/s  1.8 GB/s."""
    part = status.samples_done / status.samples_total if status.samples_total else 0.0
    rates = [f"{counted(status.samples_per_second)}/s"] * bool(status.samples_done)
    rates += [f"{sized(status.bytes_per_second)}/s"] * bool(status.bytes_per_second)
    place = f"stage {status.stage_number}/{status.stages} {status.stage}: {status.pass_name}"
    left = f"pass {lasting(status.pass_eta_seconds)}, run {lasting(status.eta_seconds)} left"
    return "  ".join([place, f"{part:.0%}", left, *rates])


def counted(number: float) -> str:
    """Samples, in a unit that suits them."""
    return f"{number / 1e6:.1f}M" if number >= 1e6 else f"{number / 1e3:.0f}k" if number >= 1e3 else f"{number:.0f}"
