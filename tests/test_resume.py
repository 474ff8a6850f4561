"""Nothing is measured twice, nothing half-written is believed, and interruption changes no byte."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from filters import densprune
from filters.work.work import Silent
from tests.pools import write_pool
from tools.kill import EVENTS, can_trace, counted, killed, refused

PAGE = Path(__file__).parents[1] / "filters" / "densprune.py"


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """Large enough for a run to be met in its middle."""
    write_pool(tmp_path / "pool", np.random.default_rng(3), (900, 0, 1500, 600), width=48)
    return tmp_path / "pool"


def arguments(pool: Path, out: Path, *more: str) -> list[str]:
    return ["--metadata_dir", str(pool), "--save_path", str(out), "--concepts", "20", "--quiet", *more]


def manifest(out: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((out.with_suffix(".work") / "manifest.json").read_text())
    return told


def stage_files(out: Path) -> dict[Path, int]:
    """When each intermediate file was written. The origin tells what the folder has made, and grows with it."""
    files = [path for path in (out.with_suffix(".work") / "stages").rglob("*") if path.is_file() and path.name != "origin.json"]
    return {path: path.stat().st_mtime_ns for path in files}


def left_over(out: Path) -> list[Path]:
    """What no finished run may leave: temporary files, results on their way, sorted rows."""
    names = [path for path in out.parent.rglob("*") if path.suffix in (".tmp", ".try") or path.name.startswith((".tmp-", "parts-"))]
    return names + [path for path in out.parent.rglob("*") if path.name in ("leaving", "inside")]


def call(pool: Path, *more: str) -> list[str]:
    """A run in its own folder, as tools.kill takes it."""
    return [str(PAGE), *arguments(pool, Path("o.npy"), *more)]


def said(capfd: pytest.CaptureFixture[str], pool: Path, out: Path, *more: str) -> list[str]:
    """What a run says beside a line a stage."""
    capfd.readouterr()
    assert densprune.main([word for word in arguments(pool, out, *more) if word != "--quiet"]) == 0
    return [line for line in capfd.readouterr().err.splitlines() if "->" not in line]


def test_the_same_run_again_reads_nothing_of_the_pool_and_writes_no_stage(pool: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.npy"
    assert densprune.main(arguments(pool, out)) == 0
    first, before, told = out.read_bytes(), stage_files(out), manifest(out)
    assert told["bytes_read"] > 0
    assert densprune.main(arguments(pool, out)) == 0
    assert manifest(out)["bytes_read"] == 0
    assert stage_files(out) == before
    assert out.read_bytes() == first


def test_another_temperature_reads_nothing_and_decides_anew(pool: Path, tmp_path: Path) -> None:
    out, fresh = tmp_path / "o.npy", tmp_path / "fresh.npy"
    assert densprune.main(arguments(pool, out)) == 0
    before = stage_files(out)
    assert densprune.main(arguments(pool, out, "--temperature", "0.01")) == 0
    assert manifest(out)["bytes_read"] == 0
    assert stage_files(out) == before
    assert densprune.main(arguments(pool, fresh, "--temperature", "0.01")) == 0
    assert out.read_bytes() == fresh.read_bytes()


def test_another_seed_draws_anew_what_k_means_sees(pool: Path, tmp_path: Path) -> None:
    out, fresh = tmp_path / "o.npy", tmp_path / "fresh.npy"
    assert densprune.main(arguments(pool, out)) == 0
    before = out.read_bytes()
    assert densprune.main(arguments(pool, out, "--seed", "5")) == 0
    assert densprune.main(arguments(pool, fresh, "--seed", "5")) == 0
    assert out.read_bytes() == fresh.read_bytes() != before


def test_every_byte_of_a_member_is_read_at_least_once_and_counted(pool: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.npy"
    assert densprune.main(arguments(pool, out, "--no_dedup")) == 0
    assert manifest(out)["stages"][-1]["bytes_read"] >= 3000 * 48 * 2


def spoiled(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "harm", [spoiled, Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-5]), lambda path: path.write_bytes(b"")]
)
def test_a_stage_file_that_was_harmed_is_found_said_and_done_again(
    harm: Callable[[Path], Any], pool: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o.npy"
    assert densprune.main(arguments(pool, out)) == 0
    whole, good = out.read_bytes(), {path: path.read_bytes() for path in stage_files(out)}
    files = [path for path in good if path.parent.name != "checked"]
    for path in random.Random(5).sample(files, 12):
        harm(path)
    lines = said(capfd, pool, out)
    assert sum(int(line.split()[1]) for line in lines) <= 12  # two files may be of one result
    assert all("not as recorded" in line for line in lines)
    assert lines
    assert out.read_bytes() == whole
    assert {path: path.read_bytes() for path in good} == good


def copied(path: Path) -> None:
    """Another shard's result, with its record, in place of this one's."""
    for field in ("concept.npy", "distance.npy", "done"):
        (path.parent / f"{1:032x}.{field}").write_bytes((path.parent / f"{2:032x}.{field}").read_bytes())


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.write_text('{"files": {}}'),
        lambda path: path.write_text(path.read_text().replace('"size": ', '"size": 1')),
        lambda path: path.write_text("[1]"),
        copied,
    ],
    ids=["says nothing", "other sizes", "other json", "another shard's"],
)
def test_a_record_that_was_edited_or_is_another_s_is_found_and_named(
    harm: Callable[[Path], Any], pool: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o.npy"
    assert densprune.main(arguments(pool, out)) == 0
    whole = out.read_bytes()
    record = next((tmp_path / "o.work" / "stages").glob(f"nearest_concept-*/{2:032x}.done"))
    harm(record)
    (line,) = said(capfd, pool, out)
    assert "nearest_concept" in line
    assert f"{1 if harm is copied else 2:032x}" in line
    assert out.read_bytes() == whole
    assert not said(capfd, pool, out)


LEFT = ["manifest.json", "stages/origin.json", "samples/" + "0" * 32 + ".parquet", "concepts.parquet", "dedup_centroids.npy"]


@pytest.mark.parametrize("name", LEFT)
@pytest.mark.parametrize("harm", [spoiled, lambda path: path.write_bytes(path.read_bytes()[:-9]), lambda path: path.write_bytes(b"{}")])
def test_a_file_that_was_harmed_is_named_in_one_line_and_written_anew(
    harm: Callable[[Path], Any], name: str, pool: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o.npy"
    assert densprune.main(arguments(pool, out)) == 0
    whole = out.read_bytes()
    harm(tmp_path / "o.work" / name)
    (line,) = said(capfd, pool, out, "--temperature", "0.02")
    assert name in line
    assert not said(capfd, pool, out)
    assert out.read_bytes() == whole


def test_a_manifest_or_origin_of_another_pool_s_run_is_not_heeded(
    pool: Path, tiny_pool: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out, other = tmp_path / "o.npy", tmp_path / "other.npy"
    assert densprune.main(arguments(pool, out)) == 0
    write_pool(tmp_path / "b", np.random.default_rng(8), (80, 70))
    assert densprune.main(arguments(tmp_path / "b", other)) == 0
    for name in ("manifest.json", "stages/origin.json"):
        whole = out.read_bytes()
        shutil.copy(tmp_path / "other.work" / name, tmp_path / "o.work" / name)
        lines = said(capfd, pool, out)
        assert name in lines[0]
        assert str(tmp_path / "b") in lines[0]
        assert out.read_bytes() == whole


def test_stages_may_be_deleted_after_a_run(pool: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.npy"
    assert densprune.main(arguments(pool, out)) == 0
    whole = out.read_bytes()
    shutil.rmtree(tmp_path / "o.work" / "stages")
    assert densprune.main(arguments(pool, out)) == 0
    assert out.read_bytes() == whole


def killed_runs(pool: Path, out: Path, engine: str, seed: int) -> None:
    """Start the run again and again, killed at a random moment each time, then let it end."""
    chance = random.Random(seed)
    for _ in range(4):
        run = subprocess.Popen([sys.executable, *call(pool, "--engine", engine)], cwd=out.parent)
        time.sleep(chance.uniform(0.8, 2.5))
        run.kill()
        run.wait()
    subprocess.run([sys.executable, *call(pool, "--engine", engine)], cwd=out.parent, check=True)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A result in a folder of its own, which is the current one of the runs."""
    (tmp_path / "place").mkdir()
    return tmp_path / "place" / "o.npy"


@pytest.fixture
def whole(pool: Path, tmp_path: Path) -> bytes:
    """What a run gives that nothing befell."""
    assert densprune.main(arguments(pool, tmp_path / "whole.npy")) == 0
    return (tmp_path / "whole.npy").read_bytes()


@pytest.mark.parametrize("seed", [*range(1, 6), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(6, 51))])
def test_the_same_bytes_after_kill_9_at_random_moments(seed: int, pool: Path, out: Path, whole: bytes) -> None:
    killed_runs(pool, out, ("threads", "processes")[seed % 2], seed)
    assert out.read_bytes() == whole
    assert not left_over(out)


def test_the_same_bytes_after_kills_at_exact_points_one_after_the_other(pool: Path, out: Path, whole: bytes) -> None:
    steps = [("rename", 3), ("fsync", 17), ("torn", 12), ("open", 8), ("rename", 21), ("fsync", 40), ("torn", 31), ("remove", 25)]
    for event, number in [*steps, ("rename", 15), ("fsync", 30)]:
        assert killed(call(pool, "--num_workers", "1"), out.parent, event, number)
        assert not out.exists()
    subprocess.run([sys.executable, *call(pool)], cwd=out.parent, check=True)
    assert out.read_bytes() == whole
    assert not left_over(out)


@pytest.mark.slow
@pytest.mark.parametrize("event", EVENTS)
def test_the_same_bytes_after_a_kill_at_each_point(event: str, pool: Path, out: Path, whole: bytes) -> None:
    for number in range(1, counted(call(pool, "--num_workers", "1"), out.parent)[event] + 1):
        shutil.rmtree(out.parent)
        out.parent.mkdir()
        assert killed(call(pool, "--num_workers", "1"), out.parent, event, number)
        assert not out.exists() or out.read_bytes() == whole
        assert densprune.main(arguments(pool, out)) == 0
        assert out.read_bytes() == whole
        assert not left_over(out)


@pytest.mark.parametrize(
    "event", ["rename", "fsync", *(pytest.param(event, marks=pytest.mark.slow) for event in ("torn", "remove", "open"))]
)
def test_a_run_killed_as_it_replaces_an_earlier_result_leaves_the_old_or_the_new(event: str, pool: Path, out: Path, whole: bytes) -> None:
    earlier = arguments(pool, out, "--temperature", "0.01", "--prefer", "easy")
    assert densprune.main(earlier) == 0
    old = out.read_bytes()
    assert densprune.main(arguments(pool, out)) == 0
    total = counted(call(pool), out.parent)[event]
    for back in (0, 1, 3):
        assert densprune.main(earlier) == 0
        assert out.read_bytes() == old
        assert killed(call(pool), out.parent, event, total - back)
        assert out.read_bytes() in (old, whole)
        assert densprune.main(arguments(pool, out)) == 0
        assert out.read_bytes() == whole
        assert not left_over(out)


@pytest.mark.parametrize("when", [30, *(pytest.param(when, marks=pytest.mark.slow) for when in (2, 9, 20, 40, 60, 75, 90, 100, 120))])
@pytest.mark.parametrize("fault", ["signal=KILL", "error=ENOSPC", "error=EIO"])
@pytest.mark.parametrize("calls", ["write", "fsync"])
def test_a_write_that_is_killed_or_refused_costs_no_byte(calls: str, fault: str, when: int, pool: Path, out: Path, whole: bytes) -> None:
    if not can_trace():
        pytest.skip("strace is not here, or may not trace")
    ran = refused(call(pool, "--num_workers", "1"), out.parent, f"{calls}:{fault}:when={when}")
    assert ran.returncode == (-signal.SIGKILL if "KILL" in fault else 2)
    if ran.returncode == 2:
        assert ran.stderr.count("\n") == 1
        assert "o.work" in ran.stderr
    assert not out.exists()
    assert densprune.main(arguments(pool, out)) == 0
    assert out.read_bytes() == whole
    assert not left_over(out)


def test_a_disk_that_cannot_be_read_is_one_line(pool: Path, out: Path, whole: bytes) -> None:
    if not can_trace():
        pytest.skip("strace is not here, or may not trace")
    ran = refused(call(pool, "--num_workers", "1"), out.parent, "preadv,preadv2:error=EIO:when=2")
    assert (ran.returncode, ran.stderr.count("\n")) == (2, 1)
    assert ".npz: Input/output error" in ran.stderr
    assert densprune.main(arguments(pool, out)) == 0
    assert out.read_bytes() == whole


def test_what_a_killed_run_was_writing_goes_when_the_next_writes_elsewhere(pool: Path, out: Path) -> None:
    assert densprune.main(arguments(pool, out)) == 0
    assert killed(call(pool), out.parent, "rename", counted(call(pool), out.parent)["rename"])
    assert left_over(out)
    other = arguments(pool, out.with_name("p.npy"), "--work_dir", str(out.with_suffix(".work")))
    assert densprune.main(other) == 0
    assert not left_over(out)


class Interrupting(Silent):
    """Raises KeyboardInterrupt when the n-th pass begins, as Ctrl-C would."""

    def __init__(self, at: int) -> None:
        self.left = at

    def begin(self, name: str, samples: int) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("at", [1, 3, 5, 8, 13, 18])
def test_the_same_bytes_after_an_interruption_between_any_passes(at: int, pool: Path, tmp_path: Path) -> None:
    from filters.densprune import DensityPrune
    from filters.semdedup import SemDeDup
    from filters.topscore import TopScore

    recipe = SemDeDup(fraction=0.8) >> TopScore(fraction=0.5) >> DensityPrune(concepts=20, fraction=0.1)
    whole, out = tmp_path / "whole.npy", tmp_path / "o.npy"
    recipe.run(pool, whole)
    with pytest.raises(KeyboardInterrupt):
        recipe.run(pool, out, progress=Interrupting(at))
    assert not out.exists()
    recipe.run(pool, out)
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_says_so_in_one_line_and_leaves_no_output(number: int, code: int, pool: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.npy"
    run = subprocess.Popen([sys.executable, str(PAGE), *arguments(pool, out)], stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "o.work" / "stages" / "origin.json").exists() and run.poll() is None:
        time.sleep(0.01)
    os.kill(run.pid, number)
    _, told = run.communicate(timeout=30)
    assert (run.returncode, told.count("\n")) == (code, 1), told
    assert not out.exists()
    assert densprune.main(arguments(pool, out)) == 0


SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


@pytest.mark.parametrize(("number", "code"), SIGNALS)
@pytest.mark.parametrize("delay", [0.1, 0.2, 0.4])
@pytest.mark.parametrize("program", ["filters/densprune.py", "tools/verify.py"])
def test_a_signal_while_libraries_are_imported_is_one_line(program: str, delay: float, number: int, code: int, tmp_path: Path) -> None:
    begun = [sys.executable, str(PAGE.parents[1] / program), "--help"]
    run = subprocess.Popen(begun, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    time.sleep(delay)
    run.send_signal(number)
    _, told = run.communicate(timeout=30)
    assert (run.returncode, told.count("\n"), "stopped" in told) == (code, 1, True) or (run.returncode, told) == (0, "")


@pytest.mark.parametrize(("number", "code"), SIGNALS)
@pytest.mark.parametrize("engine", ["threads", "processes"])
@pytest.mark.parametrize("how", ["to all its processes", "twice"])
def test_a_signal_is_one_line_and_the_next_run_goes_on(
    how: str, engine: str, number: int, code: int, pool: Path, out: Path, whole: bytes
) -> None:
    met = 0
    for delay in (1.2, 1.6):  # workers begin, some are half begun
        begun = [sys.executable, *call(pool, "--engine", engine)]
        run = subprocess.Popen(begun, cwd=out.parent, stderr=subprocess.PIPE, text=True, start_new_session=True)
        time.sleep(delay)
        if run.poll() is None:
            os.killpg(run.pid, number) if how == "to all its processes" else run.send_signal(number)
        if how == "twice":
            time.sleep(0.01)
            run.send_signal(number)
        _, told = run.communicate(timeout=30)
        assert (run.returncode, told.count("\n")) in ((code, 1), (0, 0)), told
        met += run.returncode == code
    assert met
    assert densprune.main(arguments(pool, out)) == 0
    assert out.read_bytes() == whole
    assert not left_over(out)
