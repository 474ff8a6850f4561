"""The command line: settings in layers, places, what is printed, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from filters import densprune, semdedup, topscore
from filters.options import PRESETS
from tests.pools import read_subset, write_pool

ROOT = Path(__file__).parents[1]
Capture = pytest.CaptureFixture[str]


def settings(capsys: Capture, *arguments: str, command: Any = densprune) -> dict[str, Any]:
    """What --show_config prints."""
    assert command.main([*arguments, "--show_config"]) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    return told


def run(*arguments: object, command: Any = densprune) -> int:
    code: int = command.main([*map(str, arguments)])
    return code


@pytest.mark.parametrize("pool", ["small", "medium", "large", "xlarge"])
def test_a_preset_gives_the_values_of_the_method_each_with_its_source(pool: str, capsys: Capture) -> None:
    told = settings(capsys, "--pool", pool)
    expected = {"dedup_fraction": 0.8, "score": "l14", "score_fraction": 0.4, "fraction": 0.15, "temperature": 0.1, "neighbors": 20}
    expected |= {"balance": 0.0, "prefer": "hard", "concepts": 100 if pool in ("small", "medium") else 500, "seed": 1234}
    assert {name: told["config"][name] for name in expected} == expected
    assert told["from"]["temperature"] == f"preset {pool} [paper]"
    assert "ours" in told["from"]["score_fraction"]


def test_help_shows_every_preset_with_its_sources(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as stop:
        densprune.main(["--help"])
    assert stop.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for preset in PRESETS.values():
        for value, tag in preset.values():
            assert f"{value} [{tag}]" in shown


def test_a_preset_yields_to_a_config_file_and_that_to_a_flag(tmp_path: Path, capsys: Capture) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"temperature": 0.3, "neighbors": 7, "score-fraction": 0.5}))
    told = settings(capsys, "--pool", "small", "--config", str(config), "--neighbors", "9")
    assert (told["config"]["balance"], told["from"]["balance"]) == (0.0, "preset small [code]")
    assert (told["config"]["temperature"], told["from"]["temperature"]) == (0.3, str(config))
    assert (told["config"]["score_fraction"], told["config"]["neighbors"], told["from"]["neighbors"]) == (0.5, 9, "command line")


@pytest.mark.parametrize(
    ("given", "stays", "goes"),
    [
        (["--dedup_eps", "0.1"], ("dedup_eps", 0.1), "dedup_fraction"),
        (["--no_dedup"], ("no_dedup", True), "dedup_fraction"),
        (["--score_threshold", "0.2"], ("score_threshold", 0.2), "score_fraction"),
        (["--size", "12"], ("size", 12), "fraction"),
        (["--dedup_eps", "0"], ("dedup_eps", 0.0), "dedup_fraction"),
        (["--score_threshold", "0"], ("score_threshold", 0.0), "score_fraction"),
        (["--score_threshold", "-1e-3"], ("score_threshold", -1e-3), "score_fraction"),
    ],
)
def test_a_flag_unsets_those_of_the_preset_that_it_excludes(given: list[str], stays: tuple[str, Any], goes: str, capsys: Capture) -> None:
    told = settings(capsys, "--pool", "medium", *given)["config"]
    assert told[stays[0]] == stays[1]
    assert told[goes] is None


def test_the_hyphen_form_works_and_a_value_keeps_its_hyphens(capsys: Capture) -> None:
    told = settings(capsys, "--pool=medium", "--save-path", "a-b.npy", "--dedup-eps=0.1", "--num-workers=2")["config"]
    assert (told["save_path"], told["dedup_eps"], told["num_workers"]) == ("a-b.npy", 0.1, 2)


def test_dedup_features_follow_features_unless_they_are_given(capsys: Capture) -> None:
    assert settings(capsys, "--pool", "medium", "--features", "b32_img")["config"]["dedup_features"] == "b32_img"
    both = settings(capsys, "--pool", "medium", "--features", "b32_img", "--dedup_features", "dedup")["config"]
    assert (both["features"], both["dedup_features"]) == ("b32_img", "dedup")


def test_a_metadata_dir_alone_takes_the_preset_of_medium(capsys: Capture) -> None:
    assert settings(capsys, "--metadata_dir", "x")["config"]["pool"] == "medium"


def test_a_command_of_one_stage_takes_the_bare_names(capsys: Capture) -> None:
    assert settings(capsys, "--pool", "medium", command=semdedup)["config"]["fraction"] == 0.8
    told = settings(capsys, "--pool", "medium", "--threshold", "0.3", command=topscore)["config"]
    assert (told["score"], told["threshold"], told["fraction"]) == ("l14", 0.3, None)


def test_a_pool_lies_in_the_folder_that_datacomp_dir_names(tiny_pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "all" / "small").mkdir(parents=True)
    tiny_pool.rename(tmp_path / "all" / "small" / "metadata")
    monkeypatch.setenv("DATACOMP_DIR", str(tmp_path / "all"))
    monkeypatch.chdir(tmp_path)
    assert run("--pool", "small", "--concepts", 5, "--quiet") == 0
    assert (tmp_path / "densprune_small.npy").exists()
    assert (tmp_path / "densprune_small.work" / "manifest.json").exists()


def test_a_pool_whose_place_is_unknown_is_refused_with_the_way_to_get_it(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATACOMP_DIR", raising=False)
    assert run("--pool", "medium") == 2
    told = capsys.readouterr().err
    assert "DATACOMP_DIR" in told
    assert "python tools/download.py metadata --scale medium" in told


def test_quiet_prints_nothing(tiny_pool: Path, tmp_path: Path, capfd: Capture) -> None:
    assert run("--metadata_dir", tiny_pool, "--save_path", tmp_path / "o.npy", "--concepts", 5, "--quiet") == 0
    assert capfd.readouterr() == ("", "")


def test_the_last_table_tells_the_funnel_the_concepts_and_where_the_files_lie(tiny_pool: Path, tmp_path: Path, capsys: Capture) -> None:
    assert run("--metadata_dir", tiny_pool, "--save_path", tmp_path / "o.npy", "--concepts", 5, "--fraction", 0.2) == 0
    told = capsys.readouterr()
    lines = {" ".join(line.split()) for line in told.out.splitlines()}
    assert {"pool 140", "after semdedup 112", "after topscore 44", "after densityprune 28", "kept 28 20.0% of the pool"} <= lines
    assert "most complex concepts" in told.out
    assert "a picture of" in told.out
    assert str(tmp_path / "o.work" / "manifest.json") in told.out
    assert "semdedup  140 -> 112" in told.err


def test_a_manifest_repeats_its_run_to_the_same_bytes(tiny_pool: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "a.npy", tmp_path / "b.npy"
    within = tmp_path / "within.npy"
    assert (
        run("--metadata_dir", tiny_pool, "--save_path", within, "--no_dedup", "--score", "none", "--concepts", 2, "--size", 99, "--quiet")
        == 0
    )
    options = [
        "--concepts",
        6,
        "--temperature",
        0.02,
        "--prefer",
        "random",
        "--dedup_eps",
        0.1,
        "--size",
        11,
        "--seed",
        5,
        "--within",
        within,
    ]
    assert run("--metadata_dir", tiny_pool, "--save_path", first, *options, "--quiet") == 0
    manifest = tmp_path / "a.work" / "manifest.json"
    assert run("--metadata_dir", tiny_pool, "--save_path", second, "--config", manifest, "--quiet") == 0
    assert first.read_bytes() == second.read_bytes()
    assert len(read_subset(first)) == 11


def test_a_failed_run_leaves_the_last_good_one_as_it_was(tiny_pool: Path, tmp_path: Path) -> None:
    place = ["--metadata_dir", tiny_pool, "--save_path", tmp_path / "o.npy", "--concepts", 5, "--quiet"]
    assert run(*place) == 0
    left = {
        path: path.read_bytes() for path in (tmp_path / "o.work").rglob("*") if path.is_file() and path.name not in ("lock", "status.json")
    }
    (tmp_path / "beside").mkdir()
    for path in tiny_pool.glob("*.npz"):
        (tmp_path / "beside" / path.name).write_bytes(path.read_bytes())
    assert run(*place, "--features_dir", tmp_path / "beside", "--features", "nope") == 2
    assert run(*place, "--size", 139) == 2
    assert {path: path.read_bytes() for path in left} == left


def test_another_recipe_in_a_work_folder_takes_away_what_it_did_not_make(tiny_pool: Path, tmp_path: Path) -> None:
    place = ["--metadata_dir", tiny_pool, "--work_dir", tmp_path / "w", "--quiet", "--save_path"]
    assert run(*place, tmp_path / "a.npy", "--concepts", 5) == 0
    assert (tmp_path / "w" / "concepts.parquet").exists()
    assert run(*place, tmp_path / "b.npy", "--fraction", 0.5, command=topscore) == 0
    assert sorted(path.name for path in (tmp_path / "w").iterdir()) == ["lock", "manifest.json", "samples", "stages", "status.json"]


def test_a_reader_that_has_seen_enough_of_the_table_costs_nothing(tiny_pool: Path, tmp_path: Path) -> None:
    page = ROOT / "filters" / "densprune.py"
    line = f"{sys.executable} {page} --metadata_dir {tiny_pool} --concepts 5 --save_path o.npy | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    assert (tmp_path / "o.npy").exists()


@pytest.mark.parametrize(("shell", "code", "said"), [(">/dev/full", 2, "standard output: no space left to write"), (">&- 2>&-", 0, "")])
def test_an_output_that_is_full_or_closed_costs_no_run(shell: str, code: int, said: str, tiny_pool: Path, tmp_path: Path) -> None:
    page = ROOT / "filters" / "topscore.py"
    call = f"{sys.executable} {page} --metadata_dir {tiny_pool} --fraction 0.5 --save_path {tmp_path}/o.npy {shell}"
    done = subprocess.run(call, shell=True, capture_output=True, text=True, check=False)
    assert (done.returncode, said in done.stderr, "Traceback" in done.stderr) == (code, True, False)
    assert (tmp_path / "o.npy").exists()


def test_a_manifest_repeats_its_run_from_another_folder(tiny_pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert run("--metadata_dir", tiny_pool, "--save_path", "held.npy", "--fraction", 0.5, "--quiet", command=topscore) == 0
    assert run("--metadata_dir", tiny_pool, "--save_path", "a.npy", "--within", "held.npy", "--concepts", 4, "--quiet") == 0
    monkeypatch.chdir(tmp_path)
    assert run("--metadata_dir", tiny_pool, "--save_path", "b.npy", "--config", "here/a.work/manifest.json", "--quiet") == 0
    assert (tmp_path / "b.npy").read_bytes() == (tmp_path / "here" / "a.npy").read_bytes()


def test_other_settings_in_the_same_work_folder_replace_its_own_output(tiny_pool: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.npy"
    for size in (30, 20, 30):
        assert run("--metadata_dir", tiny_pool, "--save_path", out, "--concepts", 5, "--size", size, "--quiet") == 0
        assert len(read_subset(out)) == size


@pytest.mark.parametrize("page", ["densprune", "semdedup", "topscore"])
def test_a_page_runs_as_a_file_from_any_folder_on_either_engine(page: str, tmp_path: Path) -> None:
    write_pool(tmp_path / "pool", np.random.default_rng(7))
    few = ["--concepts", "5"] if page == "densprune" else []
    found = []
    for engine in ("threads", "processes"):
        call = [
            sys.executable,
            str(ROOT / "filters" / f"{page}.py"),
            "--metadata_dir",
            "pool",
            "--save_path",
            f"{engine}.npy",
            "--engine",
            engine,
        ]
        done = subprocess.run([*call, *few, "--num_workers", "2"], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        found.append((tmp_path / f"{engine}.npy").read_bytes())
    assert found[0] == found[1]


@pytest.mark.parametrize(("order", "first"), [("dedup,score", "semdedup"), ("score,dedup", "topscore")])
def test_order_says_which_stage_comes_first(order: str, first: str, tiny_pool: Path, tmp_path: Path) -> None:
    assert run("--metadata_dir", tiny_pool, "--save_path", tmp_path / "o.npy", "--order", order, "--concepts", 5, "--quiet") == 0
    manifest = json.loads((tmp_path / "o.work" / "manifest.json").read_text())
    assert [manifest["stages"][0]["stage"], manifest["stages"][2]["stage"]] == [first, "densityprune"]


def test_no_dedup_and_no_score_leave_density_pruning_alone(tiny_pool: Path, tmp_path: Path) -> None:
    assert (
        run("--metadata_dir", tiny_pool, "--save_path", tmp_path / "o.npy", "--no_dedup", "--score", "none", "--concepts", 5, "--quiet")
        == 0
    )
    manifest = json.loads((tmp_path / "o.work" / "manifest.json").read_text())
    assert [stage["stage"] for stage in manifest["stages"]] == ["densityprune"]
