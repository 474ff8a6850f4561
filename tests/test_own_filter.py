"""A filter of one's own, in a file anywhere or in an installed package, runs as ours do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from baselines import catalogue, run
from filters.pool.errors import BadInput
from tests.pools import read_subset, write_pool

ROOT = Path(__file__).parents[1]
FILTER = '''
from dataclasses import dataclass
from typing import ClassVar

from filters.filter import Cut, Filter, Measured
from filters.options import option

SIGN = 1


def height(view):
    return {"height": SIGN * view.numbers("clip_l14_similarity_score")}


@dataclass(frozen=True)
class Mine(Filter):
    """Keep what is high."""

    name: ClassVar[str] = "mine"
    at_least: float = option("how high", 0.25)

    def measure(self, work, rows):
        return Measured(columns=work.column(height, rows))

    def decide(self, work, rows, seen):
        return Cut(by=seen.columns["height"], threshold=self.at_least)
'''


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    (tmp_path / "elsewhere").mkdir()
    path = tmp_path / "elsewhere" / "my.py"
    path.write_text(FILTER)
    return path


def call(pool: Path, name: str, save_path: Path, *more: str) -> int:
    return run.main(["--name", name, "--metadata_dir", str(pool), "--save_path", str(save_path), "--quiet", *more])


@pytest.mark.parametrize("values", ["[:1]", "[1:]", ".mean()"])
def test_values_that_are_not_one_a_row_are_refused_by_name(values: str, mine: Path, tiny_pool: Path, tmp_path: Path) -> None:
    mine.write_text(FILTER.replace('similarity_score")}', f'similarity_score"){values}}}'))
    with pytest.raises(ValueError, match=r"'height' must have a value for each of the \d+ rows in play, got shape \("):
        call(tiny_pool, f"{mine}:Mine", tmp_path / "o.npy")


@pytest.mark.parametrize("engine", ["threads", "processes"])
def test_it_keeps_what_it_says_on_every_engine(engine: str, mine: Path, tmp_path: Path) -> None:
    told = write_pool(tmp_path / "pool", np.random.default_rng(3))
    assert call(tmp_path / "pool", f"{mine}:Mine", tmp_path / "out.npy", "--engine", engine, "--at-least", "0.3") == 0
    expected = {int(uid, 16) for uid, score in zip(told["uids"], told["l14"], strict=True) if score >= np.float32(0.3)}
    assert set(read_subset(tmp_path / "out.npy")) == expected


def test_its_run_repeats_by_its_manifest_from_any_folder(
    mine: Path, tiny_pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(mine.parent)
    assert call(tiny_pool, "my.py:Mine", tmp_path / "out.npy", "--at_least", "0.2") == 0
    monkeypatch.chdir(tmp_path)
    config = ["--config", str(tmp_path / "out.work/manifest.json"), "--metadata_dir", str(tiny_pool)]
    assert run.main([*config, "--save_path", "again.npy", "--quiet"]) == 0
    assert (tmp_path / "again.npy").read_bytes() == (tmp_path / "out.npy").read_bytes()


def test_what_it_measured_is_measured_again_when_its_file_changed(mine: Path, tiny_pool: Path, tmp_path: Path) -> None:
    assert call(tiny_pool, f"{mine}:Mine", tmp_path / "out.npy") == 0
    before = read_subset(tmp_path / "out.npy")
    stages = sorted((tmp_path / "out.work/stages").glob("height-*"))
    assert call(tiny_pool, f"{mine}:Mine", tmp_path / "out.npy", "--at_least", "0.3") == 0
    assert sorted((tmp_path / "out.work/stages").glob("height-*")) == stages
    mine.write_text(FILTER.replace("SIGN = 1", "SIGN = -1"))
    assert call(tiny_pool, f"{mine}:Mine", tmp_path / "out.npy", "--at_least", "-0.25") == 0
    assert set(before).isdisjoint(read_subset(tmp_path / "out.npy"))


def test_a_recipe_in_a_file_runs_too(mine: Path, tiny_pool: Path, tmp_path: Path) -> None:
    text = FILTER + "\nfrom filters.topscore import TopScore\n\nBEST = TopScore(fraction=0.5) >> Mine(at_least=0.2)\n"
    mine.write_text(text)
    assert call(tiny_pool, f"{mine}:BEST", tmp_path / "out.npy") == 0
    assert json.loads((tmp_path / "out.work/manifest.json").read_text())["recipe"].endswith(">> Mine(at_least=0.2))")


def test_it_has_help_and_a_plan(mine: Path, tiny_pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        call(tiny_pool, f"{mine}:Mine", tmp_path / "out.npy", "--help")
    assert "--at_least" in capsys.readouterr().out
    assert run.main(["--name", f"{mine}:Mine", "--metadata_dir", str(tiny_pool), "--dry_run"]) == 0
    assert "mine does not say what it takes" in capsys.readouterr().out
    assert not (tmp_path / "out.npy").exists()


def test_a_worker_that_would_load_another_file_than_its_parent_refuses(mine: Path, tiny_pool: Path, tmp_path: Path) -> None:
    later = f"\n\nfrom pathlib import Path\n\nPath({str(mine)!r}).write_text(Path({str(mine)!r}).read_text() + '# later')\n"
    mine.write_text(FILTER + later)
    assert call(tiny_pool, f"{mine}:Mine", tmp_path / "out.npy", "--engine", "processes") == 2
    assert not (tmp_path / "out.npy").exists()


ODD = {
    "texts": ('{"height": np.array(["a"] * len(view.at))}', "no number a sample"),
    "complex numbers": ('{"height": np.ones(len(view.at), complex)}', "no number a sample"),
    "dates": ('{"height": np.zeros(len(view.at), "M8[s]")}', "no number a sample"),
    "two numbers": ('{"height": np.zeros((len(view.at), 2))}', "no number a sample"),
}


@pytest.mark.parametrize("odd", ODD)
def test_what_is_no_number_a_sample_is_told_by_its_name(odd: str, mine: Path, tiny_pool: Path, tmp_path: Path) -> None:
    made, said = ODD[odd]
    mine.write_text("import numpy as np\n" + FILTER.replace('{"height": SIGN * view.numbers("clip_l14_similarity_score")}', made))
    with pytest.raises(ValueError, match=said):
        call(tiny_pool, f"{mine}:Mine", tmp_path / "out.npy")


def test_a_measure_that_gives_nothing_is_told(mine: Path, tiny_pool: Path, tmp_path: Path) -> None:
    mine.write_text(FILTER.replace("return Measured(columns=work.column(height, rows))", "return None"))
    with pytest.raises(ValueError, match="no Measured"):
        call(tiny_pool, f"{mine}:Mine", tmp_path / "out.npy")


FAULTS = {
    "no such class": (FILTER, "Other", "there is no such class"),
    "a function": (FILTER, "height", "neither a Filter class nor a recipe"),
    "no dataclass": (FILTER.replace("@dataclass(frozen=True)", ""), "Mine", "is no frozen dataclass"),
    "not frozen": (FILTER.replace("(frozen=True)", ""), "Mine", "is no frozen dataclass"),
    "no decision": (FILTER.replace("def decide", "def decided"), "Mine", "does not say how to decide"),
    "no name": (FILTER.replace('name: ClassVar[str] = "mine"', ""), "Mine", "has no `name`"),
    "a name that is a path": (FILTER.replace('"mine"', '"../mine"'), "Mine", "has no `name`"),
    "a bare field": (FILTER.replace('option("how high", 0.25)', "0.25"), "Mine", "at_least is no option"),
    "a field of a strange type": (FILTER.replace("at_least: float", "at_least: list"), "Mine", "at_least is list"),
    "a flag of all commands": (FILTER.replace("at_least", "seed"), "Mine", "seed has the name of a flag"),
    "no Python": ("def (", "Mine", "SyntaxError"),
    "an error at import": ("1 / 0", "Mine", "ZeroDivisionError"),
    "a missing library": ("import there_is_none", "Mine", "ModuleNotFoundError"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_holds_no_filter_is_told_in_one_line(
    fault: str, mine: Path, tiny_pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, wanted, said = FAULTS[fault]
    mine.write_text(text)
    assert call(tiny_pool, f"{mine}:{wanted}", tmp_path / "out.npy") == 2
    line = capsys.readouterr().err
    assert said in line
    assert line.count("\n") == 1
    assert str(mine) in line


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"none\.py"):
        catalogue.find(str(tmp_path / "none.py:Mine"))


@pytest.mark.parametrize("engine", ["threads", "processes"])
def test_an_installed_package_registers_its_filter_by_an_entry_point(engine: str, tiny_pool: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    for folder in ("theirs", "theirs-1.0.dist-info"):
        (site / folder).mkdir(parents=True)
    (site / "theirs/__init__.py").write_text("")
    (site / "theirs/high.py").write_text(FILTER)
    (site / "theirs-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (site / "theirs-1.0.dist-info/entry_points.txt").write_text("[densprune.filters]\nhigh = theirs.high:Mine\nlost = theirs.low:Mine\n")
    command = [sys.executable, str(ROOT / "baselines/run.py")]
    environment = os.environ | {"PYTHONPATH": str(site)}

    def told(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, check=False)

    place = ["--metadata_dir", str(tiny_pool), "--save_path", str(tmp_path / "out.npy"), "--engine", engine]
    done = told("--name", "high", *place)
    assert done.returncode == 0, done.stderr
    assert "after mine" in done.stdout
    if engine == "threads":
        assert "high: registered" in told("--list").stdout
        lost = told("--name", "lost", *place)
        assert lost.returncode == 2
        assert "theirs.low" in lost.stderr
