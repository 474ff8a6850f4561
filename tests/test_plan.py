"""The plan before the price: what a run will take, what it is refused, and what it says on its way."""

from __future__ import annotations

import json
import os
import pty
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from baselines.soft_cap import SoftCap
from filters import densprune, topscore
from filters.densprune import DensityPrune
from filters.filter import Filter, Measured, Recipe
from filters.options import RunOptions
from filters.pool.errors import BadInput
from filters.semdedup import SemDeDup
from filters.topscore import TopScore
from filters.work.cutting import Cut
from filters.work.room import free_memory
from filters.work.status import Ahead, Status
from filters.work.work import Silent, Work
from tests.pools import disk, write_pool, write_shard

PAGES = Path(__file__).parents[1] / "filters"
BLOCK = 4096  # of a disk

Capture = pytest.CaptureFixture[str]

WHOLE = SemDeDup(fraction=0.8) >> TopScore(fraction=0.5) >> DensityPrune(concepts=5, fraction=0.1)
RECIPES: dict[str, Recipe] = {
    "the paper's": WHOLE,
    "score first": TopScore(fraction=0.5) >> SemDeDup(fraction=0.8) >> DensityPrune(concepts=5, size=10),
    "no dedup": TopScore(fraction=0.5, ties="all") >> DensityPrune(concepts=5, fraction=0.2, complexity="uniform"),
    "dedup by score": SemDeDup(fraction=0.5, prefer="score"),
    "two sides": (TopScore(fraction=0.5) & SemDeDup(fraction=0.8)) - TopScore(score="b32", fraction=0.1),
    "either": TopScore(fraction=0.5) | TopScore(score="b32", fraction=0.1),
    "again and again": TopScore(fraction=0.5) >> SoftCap(draws=9000, batch=20),
}


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    write_pool(tmp_path / "pool", np.random.default_rng(3), (900, 0, 1500, 600), width=48)
    return tmp_path / "pool"


class Seen(Silent):
    """What a run begins, and how full its folder gets."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.fullest = folder, 0
        self.passes: list[tuple[str, str, int]] = []
        self.shown: list[Status] = []
        self.at = ""

    def stage(self, name: str) -> None:
        self.at = name

    def begin(self, name: str, samples: int) -> None:
        self.passes.append((self.at, name, samples))
        self.look()

    def advance(self, samples: int, size: int = 0) -> None:
        self.look()

    def end(self) -> None:
        self.look()

    def show(self, status: Status) -> None:
        self.shown.append(status)

    def look(self) -> None:
        """Files take whole blocks, and each folder one."""
        found = [path for path in self.folder.rglob("*") if path.name != "status.json"]
        self.fullest = max(self.fullest, BLOCK * sum(map(self.blocks, found)))

    def blocks(self, path: Path) -> int:
        try:
            return -(-path.stat().st_size // BLOCK) if path.is_file() else 1
        except FileNotFoundError:  # renamed meanwhile
            return 0


def told(passes: list[tuple[str, str, int]]) -> list[tuple[str, str, int]]:
    """Whether the last value of a cut needs looking at single samples depends on the values: such passes may come or not."""
    return [one for one in passes if not one[1].endswith("candidates")]


# -- the plan is what happens


@pytest.mark.parametrize("name", RECIPES)
def test_the_passes_of_a_plan_are_those_of_the_run(name: str, tiny_pool: Path, tmp_path: Path) -> None:
    plan = RECIPES[name].plan(tiny_pool, tmp_path / "o.npy")
    seen = Seen(tmp_path / "o.work")
    RECIPES[name].run(tiny_pool, tmp_path / "o.npy", progress=seen)
    named = [(one.stage, one.name, one.samples) for one in plan.passes]
    if name in ("two sides", "either"):  # how far the sides overlap is not known before
        assert [one[:2] for one in told(named)] == [one[:2] for one in told(seen.passes)]
    else:
        assert told(named) == told(seen.passes)


def test_the_bytes_of_a_plan_are_those_that_are_read(pool: Path, tmp_path: Path) -> None:
    plan = WHOLE.plan(pool, tmp_path / "o.npy")
    WHOLE.run(pool, tmp_path / "o.npy")
    manifest = json.loads((tmp_path / "o.work" / "manifest.json").read_text())
    stages = {stage["stage"]: stage["bytes_read"] for stage in manifest["stages"]}
    assert sum(one.bytes_read for one in plan.passes) == pytest.approx(manifest["bytes_read"], rel=0.05)
    for name in ("semdedup", "densityprune"):
        assert sum(one.bytes_read for one in plan.passes if one.stage == name) == stages[name]


@pytest.mark.parametrize("name", RECIPES)
def test_the_work_folder_takes_what_the_plan_says_and_not_much_less(name: str, pool: Path, tmp_path: Path) -> None:
    plan = RECIPES[name].plan(pool, tmp_path / "o.npy")
    seen = Seen(tmp_path / "o.work")
    RECIPES[name].run(pool, tmp_path / "o.npy", progress=seen)
    assert seen.fullest <= plan.disk <= 1.5 * seen.fullest


def test_what_stays_of_each_stage_is_foreseen_where_a_fraction_says_it(pool: Path, tmp_path: Path) -> None:
    plan = WHOLE.plan(pool, tmp_path / "o.npy")
    outcome = WHOLE.run(pool, tmp_path / "o.npy")
    assert [(stage.name, stage.kept) for stage in plan.stages[1:-1]] == [(stage.name, stage.kept) for stage in outcome.funnel]
    assert plan.kept == outcome.status["kept"]


class Foreign(Filter):
    """A filter that does not say what it takes."""

    name = "foreign"

    def measure(self, work: Work, rows: Any) -> Measured:
        raise NotImplementedError

    def decide(self, work: Work, rows: Any, seen: Measured) -> Cut:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("recipe", "word"),
    [
        (TopScore(threshold=0.2), "threshold"),
        (DensityPrune(concepts=5, fraction=0.1), "at most 100 iterations"),
        (TopScore(fraction=0.5) & TopScore(score="b32", fraction=0.5), "overlap"),
    ],
)
def test_what_headers_cannot_tell_is_said_to_be_assumed(recipe: Recipe, word: str, tiny_pool: Path, tmp_path: Path) -> None:
    shown = str(recipe.plan(tiny_pool, tmp_path / "o.npy"))
    assert any(word in line for line in shown.splitlines() if line.startswith("assumed"))


def test_a_filter_that_says_nothing_of_its_cost_is_said_to(tiny_pool: Path, tmp_path: Path) -> None:
    from dataclasses import dataclass

    shown = str(dataclass(frozen=True)(Foreign)().plan(tiny_pool, tmp_path / "o.npy"))
    assert "foreign does not say what it takes" in shown


# -- a dry run


def test_a_dry_run_prints_every_stage_and_writes_nothing(tiny_pool: Path, tmp_path: Path, capsys: Capture) -> None:
    before = {path: path.stat().st_mtime_ns for path in [tmp_path, *tmp_path.rglob("*")]}
    arguments = ["--metadata_dir", str(tiny_pool), "--save_path", str(tmp_path / "o.npy"), "--concepts", "5"]
    assert densprune.main([*arguments, "--dry_run"]) == 0
    assert {path: path.stat().st_mtime_ns for path in [tmp_path, *tmp_path.rglob("*")]} == before
    shown = capsys.readouterr().out
    for word in ("semdedup", "topscore", "densityprune", "memory", "disk", "in all"):
        assert word in shown


def test_a_dry_run_does_not_draw_the_demo_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.chdir(tmp_path)
    assert densprune.main(["--pool", "demo", "--dry_run"]) == 2
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().err.count("\n") == 1


# -- what is refused


def vast_npz(path: Path, rows: int, width: int) -> None:
    """An archive of which only the headers are on the disk: its one member is a hole."""
    header = f"{{'descr': '<f2', 'fortran_order': False, 'shape': ({rows}, {width})}}\n".encode()
    header = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    size, name = len(header) + 2 * rows * width, b"l14_img.npy"
    sizes = struct.pack("<HHQQ", 1, 16, size, size)  # both sizes, as ZIP64 has them
    common = struct.pack("<HHHHHIIIHH", 45, 0, 0, 0, 0, 0, 2**32 - 1, 2**32 - 1, len(name), len(sizes))
    with path.open("wb") as file:
        file.write(b"PK\x03\x04" + common + name + sizes + header)
        start = file.seek(2 * rows * width, os.SEEK_CUR)
        directory = b"PK\x01\x02" + struct.pack("<H", 45) + common + struct.pack("<HHHII", 0, 0, 0, 0, 0) + name + sizes
        end = struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, 1, 1, len(directory), start)
        file.write(directory + b"PK\x06\x06" + end + b"PK\x06\x07" + struct.pack("<IQI", 0, start + len(directory), 1))
        file.write(b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(directory), 2**32 - 1, 0))


@pytest.fixture
def vast_pool(tmp_path: Path) -> Path:
    """Forty samples of a hundred GB each."""
    rng = np.random.default_rng(1)
    write_shard(tmp_path / "pool", "0", [rng.bytes(16).hex() for _ in range(40)], {})
    try:
        vast_npz(tmp_path / "pool" / "0.npz", 40, 50_000_000_000)
    except OSError as error:
        pytest.skip(f"no file of 4 TB with a hole can be here: {error}")
    return tmp_path / "pool"


@pytest.mark.parametrize(
    ("options", "do"), [(RunOptions(memory_gb=1e6), "--memory_gb"), (RunOptions(), "fewer"), (RunOptions(engine="processes"), "fewer")]
)
def test_a_run_that_memory_cannot_hold_does_not_start(options: RunOptions, do: str, vast_pool: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as refused:
        SemDeDup(fraction=0.5, clusters=40).run(vast_pool, tmp_path / "o.npy", options=options)
    assert "memory" in refused.value.where
    assert "needed" in refused.value.found
    assert "free" in refused.value.found
    assert do in refused.value.do
    assert [path.name for path in tmp_path.iterdir()] == ["pool"]


@pytest.fixture
def small_disk() -> Iterator[Path]:
    with disk("400k") as folder:
        yield folder


@pytest.mark.parametrize("dry", [[], ["--dry_run"]])
def test_a_run_that_the_disk_cannot_hold_does_not_start(
    dry: list[str], pool: Path, small_disk: Path, tmp_path: Path, capsys: Capture
) -> None:
    place = ["--metadata_dir", str(pool), "--save_path", str(tmp_path / "o.npy"), "--work_dir", str(small_disk / "w")]
    assert densprune.main([*place, "--concepts", "5", *dry]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    for word in (str(small_disk), "needed", "free", "another --work_dir"):
        assert word in line
    assert not list(small_disk.iterdir())
    assert not (tmp_path / "o.npy").exists()


def test_what_an_earlier_run_left_is_not_needed_twice(pool: Path, tmp_path: Path, small_disk: Path) -> None:
    class Interrupting(Silent):
        def begin(self, name: str, samples: int) -> None:
            if name == "compare":
                raise KeyboardInterrupt

    resize = ["mount", "-o", "remount,size=100m", str(small_disk)]
    subprocess.run(resize, check=True)
    with pytest.raises(KeyboardInterrupt):
        WHOLE.run(pool, tmp_path / "o.npy", small_disk / "w", progress=Interrupting())
    left = WHOLE.plan(pool, tmp_path / "o.npy").disk - sum(path.stat().st_size for path in small_disk.rglob("*") if path.is_file())
    held = os.statvfs(small_disk)
    size = (held.f_blocks - held.f_bfree) * held.f_frsize + left + 50_000
    subprocess.run([*resize[:2], f"remount,size={size // 1024}k", str(small_disk)], check=True)
    assert WHOLE.run(pool, tmp_path / "o.npy", small_disk / "w").status["kept"] == 300


GROUPS: dict[str, tuple[str, dict[str, str], float]] = {
    "none": ("0::/\n", {}, 8e9),
    "version 2, of a group around": (
        "0::/a/b\n",
        {
            "a/memory.max": "5000000000",
            "a/memory.current": "3000000000",
            "a/memory.stat": "inactive_file 1000000000\n",
            "a/b/memory.max": "max",
        },
        3e9,
    ),
    "version 1": (
        "4:cpu,memory:/box\n0::/\n",
        {
            "memory/box/memory.limit_in_bytes": "2000000000",
            "memory/box/memory.usage_in_bytes": "500000000",
            "memory/box/memory.stat": "total_active_file 100000000\n",
        },
        1.6e9,
    ),
    "one that is mounted as the root": (
        "4:memory:/docker/1\n",
        {
            "memory/memory.limit_in_bytes": "1000000000",
            "memory/memory.usage_in_bytes": "0",
            "memory/memory.stat": "",
        },
        1e9,
    ),
}


@pytest.mark.parametrize("name", GROUPS)
def test_free_memory_is_the_least_of_the_machine_and_its_control_groups(name: str, tmp_path: Path) -> None:
    groups, files, expected = GROUPS[name]
    for path, text in ({"proc/meminfo": "MemTotal: 9 kB\nMemAvailable: 7812500 kB\n", "proc/self/cgroup": groups} | files).items():
        place = tmp_path / (path if path.startswith("proc") else f"groups/{path}")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    assert free_memory(tmp_path / "proc", tmp_path / "groups") == expected


# -- on the way


def test_status_is_whole_json_at_every_moment_and_ends_done(pool: Path, tmp_path: Path) -> None:
    path, over, states = tmp_path / "o.work" / "status.json", threading.Event(), []

    def poll() -> None:
        while not over.is_set():
            if path.exists():
                states.append(json.loads(path.read_text()))

    watcher = threading.Thread(target=poll)
    watcher.start()
    try:
        WHOLE.run(pool, tmp_path / "o.npy")
    finally:
        over.set()
        watcher.join()
    last = json.loads(path.read_text())
    assert {one["state"] for one in states} <= {"running", "done"}
    assert (last["state"], last["error"], last["pid"]) == ("done", None, os.getpid())
    assert (last["stage_number"], last["stages"]) == (5, 5)
    assert last["bytes_read"] == json.loads((tmp_path / "o.work" / "manifest.json").read_text())["bytes_read"]
    assert last["stage_seconds"].keys() == last["planned_seconds"].keys() == {"pool", "semdedup", "topscore", "densityprune", "results"}


class Ending(Silent):
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def begin(self, name: str, samples: int) -> None:
        if name == "nearest concept":
            raise self.error


@pytest.mark.parametrize(
    ("error", "state", "line"),
    [
        (KeyboardInterrupt(), "stopped", None),
        (BadInput("a.npz", "is gone", "find it"), "failed", "a.npz: is gone; find it"),
        (RuntimeError("oh"), "failed", "RuntimeError('oh')"),
    ],
)
def test_status_says_how_a_run_ended(error: BaseException, state: str, line: str | None, tiny_pool: Path, tmp_path: Path) -> None:
    with pytest.raises(type(error)):
        WHOLE.run(tiny_pool, tmp_path / "o.npy", progress=Ending(error))
    last = json.loads((tmp_path / "o.work" / "status.json").read_text())
    assert (last["state"], last["error"], last["stage"]) == (state, line, "semdedup")


def test_what_is_recorded_already_takes_none_of_the_time_left(tiny_pool: Path, tmp_path: Path) -> None:
    plan = WHOLE.plan(tiny_pool, tmp_path / "o.npy")
    ahead = Ahead(plan, plan.rates)
    ahead.begin("results", "write shard", 140)
    assert sum(ahead.left(done=0, passed=0.0, since=0.0)) == pytest.approx(plan.seconds(plan.rates, "results"))


def test_a_run_twice_as_slow_as_its_plan_has_twice_the_time_left(tiny_pool: Path, tmp_path: Path) -> None:
    plan = WHOLE.plan(tiny_pool, tmp_path / "o.npy")
    ahead, elapsed = Ahead(plan, plan.rates), 0.0
    for one in plan.passes[:-1]:
        ahead.begin(one.stage, one.name, one.samples)
        elapsed += 2 * one.seconds(plan.rates)
        ahead.end(elapsed)
    ahead.begin(plan.passes[-1].stage, plan.passes[-1].name, plan.passes[-1].samples)
    left, after = ahead.left(done=0, passed=0.0, since=0.0)
    assert after == 0
    assert left == pytest.approx(2 * plan.passes[-1].seconds(plan.rates), rel=0.1)


def command(pool: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, str(PAGES / "densprune.py"), "--metadata_dir", str(pool), "--save_path", str(out), "--concepts", "5", *more]


def test_off_a_terminal_lines_are_plain_and_one_a_stage(tiny_pool: Path, tmp_path: Path) -> None:
    done = subprocess.run(command(tiny_pool, tmp_path / "o.npy"), capture_output=True, text=True, check=True)
    assert [line.split()[1] for line in done.stderr.splitlines()] == ["semdedup", "topscore", "densityprune"]
    assert "\r" not in done.stderr


def test_on_a_terminal_one_line_is_written_over(pool: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    shown = bytearray()

    def read() -> None:
        try:
            while part := os.read(ours, 4096):
                shown.extend(part)
        except OSError:  # nobody writes any more
            return

    reader = threading.Thread(target=read)
    reader.start()
    with subprocess.Popen(command(pool, tmp_path / "o.npy"), stderr=theirs, stdout=subprocess.DEVNULL) as run:
        os.close(theirs)
    reader.join()
    os.close(ours)
    assert run.returncode == 0
    assert any(line.startswith("stage 1/6 pool: parse uids") and " left" in line for line in shown.decode().split("\r"))
    assert "densprune: semdedup  3,000 -> 2,400" in shown.decode()


def test_a_quiet_run_prints_nothing_and_still_tells_its_status(tiny_pool: Path, tmp_path: Path, capfd: Capture) -> None:
    arguments = ["--metadata_dir", str(tiny_pool), "--save_path", str(tmp_path / "o.npy"), "--fraction", "0.5", "--quiet"]
    assert topscore.main(arguments) == 0
    assert capfd.readouterr() == ("", "")
    assert json.loads((tmp_path / "o.work" / "status.json").read_text())["state"] == "done"
