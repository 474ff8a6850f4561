"""Nothing is measured twice, nothing half-written is believed, and interruption changes no byte."""

from __future__ import annotations

import json
import os
import random
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


def temporary_files(out: Path) -> list[Path]:
    return [path for path in out.parent.rglob("*") if "tmp" in path.name.removeprefix(out.parent.name)]


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
def test_a_stage_file_that_was_harmed_is_found_and_done_again(harm: Callable[[Path], Any], pool: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.npy"
    assert densprune.main(arguments(pool, out)) == 0
    whole, good = out.read_bytes(), {path: path.read_bytes() for path in stage_files(out)}
    files = [path for path in good if path.parent.name != "checked"]
    for path in random.Random(5).sample(files, 12):
        harm(path)
    assert densprune.main(arguments(pool, out)) == 0
    assert out.read_bytes() == whole
    assert {path: path.read_bytes() for path in stage_files(out)} == good


def test_stages_may_be_deleted_after_a_run(pool: Path, tmp_path: Path) -> None:
    import shutil

    out = tmp_path / "o.npy"
    assert densprune.main(arguments(pool, out)) == 0
    whole = out.read_bytes()
    shutil.rmtree(tmp_path / "o.work" / "stages")
    assert densprune.main(arguments(pool, out)) == 0
    assert out.read_bytes() == whole


def killed_runs(pool: Path, out: Path, engine: str, seed: int) -> int:
    """Start the run again and again, killed at a random moment each time, then let it end; returns how many were met alive."""
    chance, met = random.Random(seed), 0
    for _ in range(4):
        run = subprocess.Popen([sys.executable, str(PAGE), *arguments(pool, out, "--engine", engine)])
        time.sleep(chance.uniform(1.0, 3.0))
        met += run.poll() is None
        run.kill()
        run.wait()
    subprocess.run([sys.executable, str(PAGE), *arguments(pool, out, "--engine", engine)], check=True)
    return met


@pytest.mark.parametrize("engine", ["threads", "processes"])
@pytest.mark.parametrize("seed", [1, 2, pytest.param(3, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)])
def test_the_same_bytes_after_kill_9_at_random_moments(engine: str, seed: int, pool: Path, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole.npy", tmp_path / "o.npy"
    assert densprune.main(arguments(pool, whole)) == 0
    killed_runs(pool, out, engine, seed)
    assert out.read_bytes() == whole.read_bytes()
    assert not temporary_files(out)


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
