"""What the README says is so."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from filters import densprune
from filters.pool import demo
from tools import ablate, readme

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
COMMANDS = [line for kind, block in BLOCKS.findall(TEXT) if kind == "bash" for line in block.splitlines() if line]
PROGRAMS = [block for kind, block in BLOCKS.findall(TEXT) if kind == "python"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the README's reader has made the demo pool."""
    folder = tmp_path_factory.mktemp("reader")
    demo.make(folder / "demo_pool")
    for program in PROGRAMS:
        if named := re.match(r"# (\w+\.py)\n", program):
            (folder / named[1]).write_text(program)
    return folder


def test_the_demo_pool_is_small(place: Path) -> None:
    assert sum(path.stat().st_size for path in (place / "demo_pool").rglob("*")) < 200e6


def test_every_command_runs_in_the_order_of_the_page(place: Path) -> None:
    for line in COMMANDS:
        program, page, *rest = shlex.split(line)
        assert program == "python"
        done = subprocess.run([sys.executable, str(ROOT / page), *rest], cwd=place, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert len(COMMANDS) >= 5
    assert (place / "colder.npy").read_bytes() == (place / "again.npy").read_bytes()


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.split("\n", 1)[0])
def test_every_program_runs(program: str, place: Path) -> None:
    (place / "program.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=place, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "kept" in done.stdout


def test_the_file_of_an_ablation_that_it_shows_is_one(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    told = [block for kind, block in BLOCKS.findall(TEXT) if kind == "toml"]
    assert told
    for block in told:
        (place / "shown.toml").write_text(block)
        layers, file = ablate.settled(["--filters", "shown.toml"])
        assert len(ablate.settings(file, "demo", layers.part(ablate.Ablation), 20_000)) > len(file.entries)


def test_every_flag_is_in_it() -> None:
    missing = [name for name in densprune.COMMAND.flags() if f"`--{name}`" not in TEXT]
    assert not missing


def test_the_option_tables_are_those_of_the_dataclasses() -> None:
    assert readme.renewed(TEXT) == TEXT


def test_the_make_targets_it_names_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^    make (\w+)$", TEXT, re.MULTILINE):
        assert f"\n{target}:" in makefile
