"""tools/datacomp.py train, evaluate and loop: scripts are judged by what they leave, not by how they end.

The checkout here is a stand-in whose scripts leave what a test has put ready. With DATACOMP_REPO and DATACOMP_PYTHON the real ones run too.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from baselines import run as baselines
from filters.pool import demo
from tests.test_datacomp_loop import IN_INPUT, alive, run, sample, write_shard
from tests.test_datacomp_loop import checkout as checkout
from tests.test_datacomp_loop import python as python
from tools.loop import evalset
from tools.loop.checkout import ROOT

Capture = pytest.CaptureFixture[str]
TRAIN = """
import os, shutil, subprocess, sys, time
here = os.path.dirname(os.path.realpath(__file__))
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
out = os.path.join(given["--output_dir"], given["--exp_name"])
with open(os.path.join(here, "calls"), "a") as file:
    print("train", given["--exp_name"], given["--seed"], file=file)
if os.path.exists(os.path.join(here, "hang")):
    child = subprocess.Popen(["sleep", "600"])
    with open(os.path.join(here, "pids"), "w") as file:
        print(os.getpid(), child.pid, file=file)
    time.sleep(600)
if os.path.exists(os.path.join(here, "ready")):
    shutil.copytree(os.path.join(here, "ready"), out, dirs_exist_ok=True)
print("the last word")
"""
EVALUATE = """
import json, os, sys
here = os.path.dirname(os.path.realpath(__file__))
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
with open(os.path.join(here, "calls"), "a") as file:
    print("evaluate", os.path.basename(given["--train_output_dir"]), file=file)
tasks = [line.split(":")[0] for line in open(os.path.join(os.path.dirname(__file__), "tasklist.yml")) if line[0] not in " #"]
with open(os.path.join(here, "scores.json")) as file:
    scores = json.load(file)
with open(os.path.join(given["--train_output_dir"], "eval_results.jsonl"), "w") as file:
    for task in tasks:
        if task in scores:
            print(json.dumps({"key": task, "dataset": task, "metrics": {"main_metric": scores[task]}}), file=file)
"""
RESHARD = """
import os, shutil, sys
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
here = os.path.dirname(os.path.realpath(__file__))
shutil.copytree(os.path.join(here, "resharded"), given["-o"], dirs_exist_ok=True)
shutil.copy(given["-s"], os.path.join(given["-o"], "sample_ids.npy"))
"""


@pytest.fixture
def stand_in(checkout: Path, python: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose scripts do what is asked for: one epoch, and a task `own` with 0.5."""
    for name, text in {"train.py": TRAIN, "evaluate.py": EVALUATE, "resharder.py": RESHARD}.items():
        (checkout / name).write_text(text)
    (checkout / "scale_configs.py").write_text("SCALE_CONFIGS = {}\n")
    (python.parent / "modules/open_clip/__init__.py").write_text("add_model_config = print\n")
    (checkout / "tasklist.yml").write_text("# of the test\nown:\n  name: own\n  size: 3\nother/task:\n  name: Other\n")
    (checkout / "scores.json").write_text('{"own": 0.5, "other/task": 0.25}')
    ready = checkout / "ready"
    (ready / "checkpoints").mkdir(parents=True)
    (ready / "info.pkl").write_bytes(b"info")
    (ready / "params.txt").write_text("batch_size: 8\nepochs: 1\n")
    (ready / "out.log").write_text("Train Epoch: 0 Loss: 5.25 (5.2) Logit\nTrain Epoch: 0 Loss: 4.125 (4.7) Logit\n")
    save(checkout)
    monkeypatch.setenv("DATACOMP_REPO", str(checkout))
    monkeypatch.setenv("DATACOMP_PYTHON", str(python))
    return checkout


def save(checkout: Path, epoch: int = 1, weight: float = 1.0) -> None:
    state = {"epoch": epoch, "state_dict": {"module.visual": torch.tensor([weight])}, "optimizer": {"lr": np.float64(0.5)}}
    torch.save(state, checkout / "ready/checkpoints/epoch_latest.pt")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder as reshard leaves it."""
    (tmp_path / "data").mkdir()
    np.save(tmp_path / "data/sample_ids.npy", np.array([(0, 3)], "u8,u8"))
    return tmp_path / "data"


def train(data: Path, *more: object) -> int:
    return run("train", "--data_dir", data, "--output_dir", data.parent / "model", "--tiny", *more)


def calls(checkout: Path) -> list[str]:
    return (checkout / "calls").read_text().splitlines() if (checkout / "calls").exists() else []


# -- train


def test_a_training_that_came_to_its_end_is_told_and_not_done_twice(stand_in: Path, data: Path, capsys: Capture) -> None:
    assert train(data) == 0
    told = dict(line.rsplit(None, 1) for line in capsys.readouterr().out.splitlines())
    assert told == {"epochs": "1", "first loss": "5.2500", "last loss": "4.1250"}
    assert train(data) == 0
    assert calls(stand_in) == ["train model 0"]


def cut(path: Path, share: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


FAULTS: list[tuple[Callable[[Path], object], str]] = [
    (lambda ready: (ready / "info.pkl").unlink(), "has no info.pkl"),
    (lambda ready: save(ready.parent, epoch=0), "has a checkpoint of 0 epochs of 1"),
    (lambda ready: save(ready.parent, weight=float("nan")), "has a checkpoint with numbers that are not finite, in module.visual"),
    (lambda ready: (ready / "out.log").write_text("Epoch: 0 Loss: nan (nan) x"), "logged the losses [nan]"),
    (lambda ready: (ready / "out.log").write_text(""), "logged the losses []"),
    (lambda ready: (ready / "checkpoints/epoch_latest.pt").unlink(), "has no checkpoints/epoch_latest.pt"),
    (lambda ready: cut(ready / "checkpoints/epoch_latest.pt", 0.9), "has a checkpoint that cannot be read"),
    (lambda ready: cut(ready / "checkpoints/epoch_latest.pt", 0.0), "has a checkpoint that cannot be read"),
    (shutil.rmtree, "has no info.pkl; has no checkpoints/epoch_latest.pt; logged the losses []"),
    (lambda ready: (ready / "checkpoints/epoch_latest.pt").write_bytes(b"\x80\x02K\x01."), "has a checkpoint that cannot be read"),
    (lambda ready: torch.save([1], ready / "checkpoints/epoch_latest.pt"), "has a checkpoint that cannot be read"),
    (lambda ready: (ready / "out.log").write_text("Epoch: 0 Loss: none ("), "logged the losses [nan]"),
]


@pytest.mark.parametrize(("harm", "said"), FAULTS)
def test_a_training_that_left_something_else_is_named_though_it_ended_with_0(
    stand_in: Path, data: Path, harm: Callable[[Path], object], said: str, capsys: Capture
) -> None:
    harm(stand_in / "ready")
    assert train(data) == 2
    error = capsys.readouterr().err
    assert said in error
    assert f"train.py ended with 0, its log {data.parent}/model.log ends 'the last word'" in error
    assert error.count("\n") == 1


def test_what_another_training_left_is_not_gone_on_with(stand_in: Path, data: Path, capsys: Capture) -> None:
    assert train(data) == 0
    assert train(data, "--seed", "2") == 2
    assert "was made of another subset or with other settings" in capsys.readouterr().err
    (data.parent / "model.json").write_text("[")
    assert train(data) == 2
    assert "was made of another subset or with other settings" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_training_ends_with_its_processes_and_goes_on(stand_in: Path, data: Path, number: int) -> None:
    (stand_in / "hang").touch()
    command = [sys.executable, ROOT / "tools/datacomp.py", "train", "--data_dir", data, "--output_dir", data.parent / "model", "--tiny"]
    process = subprocess.Popen([*map(str, command)], stderr=subprocess.DEVNULL)
    while not (stand_in / "pids").exists() or not (stand_in / "pids").read_text().endswith("\n"):
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(30) == 128 + number
    for pid in map(int, (stand_in / "pids").read_text().split()):
        assert not alive(pid)
    (stand_in / "hang").unlink()
    assert train(data) == 0


def test_while_a_script_works_on_for_one_that_was_killed_nobody_else_begins(stand_in: Path, data: Path, capsys: Capture) -> None:
    (stand_in / "hang").touch()
    command = [sys.executable, ROOT / "tools/datacomp.py", "train", "--data_dir", data, "--output_dir", data.parent / "model", "--tiny"]
    process = subprocess.Popen([*map(str, command)], stderr=subprocess.DEVNULL)
    while not (stand_in / "pids").exists() or not (stand_in / "pids").read_text().endswith("\n"):
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert train(data) == 2
    assert (
        "model.log: is being written by another call, or by what one left behind; wait for it, or end it: fuser" in capsys.readouterr().err
    )
    for pid in map(int, (stand_in / "pids").read_text().split()):
        os.kill(pid, signal.SIGKILL)
        while alive(pid):
            time.sleep(0.05)
    (stand_in / "hang").unlink()
    assert train(data) == 0


# -- evaluate


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder as train leaves it."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model/info.pkl").touch()
    return tmp_path / "model"


def evaluate(folder: Path, sets: Path) -> int:
    return run("evaluate", "--train_dir", folder, "--eval_dir", sets)


def test_each_task_of_the_list_has_its_metric(stand_in: Path, model: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "sets").mkdir()
    assert evaluate(model, tmp_path / "sets") == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [["own", "0.5000"], ["other/task", "0.2500"]]
    (tmp_path / "sets/tasklist.yml").write_text("own:\n  name: own\n")
    assert evaluate(model, tmp_path / "sets") == 0
    assert capsys.readouterr().out.split() == ["own", "0.5000"]
    assert calls(stand_in) == ["evaluate model"]


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ('{"own": 0.5}', "has no result of 1 of 2 tasks, first other/task"),
        ("{}", "has no result of 2 of 2 tasks, first own"),
        ('{"own": NaN, "other/task": 1}', "has a result that is no number, first own"),
        ('{"own": "0.5", "other/task": 1}', "is not as evaluate.py writes it"),
        ('{"own": 1%s, "other/task": 1}' % ("0" * 400), "is not as evaluate.py writes it"),
        ("no json", "has no result of 2 of 2 tasks, first own"),
    ],
)
def test_a_task_without_result_is_named(stand_in: Path, model: Path, tmp_path: Path, scores: str, said: str, capsys: Capture) -> None:
    (stand_in / "scores.json").write_text(scores)
    assert evaluate(model, tmp_path) == 2
    assert said in capsys.readouterr().err


def test_results_that_were_cut_off_are_named(stand_in: Path, model: Path, tmp_path: Path, capsys: Capture) -> None:
    (model / "eval_results.jsonl").write_text('{"key": "own", "metr')
    assert evaluate(model, tmp_path) == 2
    assert "eval_results.jsonl: is not as evaluate.py writes it" in capsys.readouterr().err


def test_results_of_other_sets_are_not_taken_for_those_of_these(stand_in: Path, model: Path, tmp_path: Path, capsys: Capture) -> None:
    for sets, labels in (("one", "0"), ("two", "1")):
        (tmp_path / sets / "wds_own_test").mkdir(parents=True)
        (tmp_path / sets / "wds_own_test/labels").write_text(labels)
    assert evaluate(model, tmp_path / "one") == 0
    assert evaluate(model, tmp_path / "two") == 2
    assert "has results of another wds_own_test; remove eval_results.jsonl" in capsys.readouterr().err
    assert evaluate(model, tmp_path / "one") == 0
    (model / "eval_results.jsonl").unlink()
    assert evaluate(model, tmp_path / "two") == 0
    assert calls(stand_in) == ["evaluate model"] * 2


@pytest.mark.parametrize(("name", "sets", "said"), [("none", "", "none: has no info.pkl"), ("model", "none", "none: is no folder")])
def test_a_folder_that_is_no_model_or_no_sets_is_named(
    stand_in: Path, model: Path, name: str, sets: str, said: str, capsys: Capture
) -> None:
    assert evaluate(model.with_name(name), model.parent / sets) == 2
    assert said in capsys.readouterr().err
    assert calls(stand_in) == []


# -- evaluation sets


def test_a_set_of_a_folder_is_laid_out_as_evaluate_reads_one(tmp_path: Path) -> None:
    (tmp_path / "classnames.txt").write_text("cat\ndog\n")
    (tmp_path / "templates.txt").write_text("a photo of a {c}\n")
    pq.write_table(pa.table({"image": [b"one", b"two", b"three"], "label": [0, 1, 1]}), tmp_path / "test.parquet")
    assert run("evalset", "--from_dir", tmp_path, "--output_dir", tmp_path / "sets") == 0
    place = tmp_path / f"sets/wds_{evalset.TASK}_test"
    assert (place / "classnames.txt").read_text() == "cat\ndog\n"
    assert (place / "zeroshot_classification_templates.txt").read_text() == "a photo of a {c}\n"
    assert (place / "test/nshards.txt").read_text().strip() == "1"
    with tarfile.open(place / "test/0.tar") as tar:
        found = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    assert [found[name] for name in sorted(found) if name.endswith(".jpg")] == [b"one", b"two", b"three"]
    assert [found[name] for name in sorted(found) if name.endswith(".cls")] == [b"0", b"1", b"1"]
    assert run("evalset", "--from_dir", tmp_path, "--output_dir", tmp_path / "sets") == 2
    (tmp_path / "others").mkdir()
    (tmp_path / "others/tasklist.yml").write_text("mine")
    assert run("evalset", "--from_dir", tmp_path, "--output_dir", tmp_path / "others") == 2
    assert (tmp_path / "others/tasklist.yml").read_text() == "mine"


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        ([b"one"], [None], "has label None"),
        ([b"one"], [1.0], "has label 1.0"),
        ([b"one", None], [0, 1], "row 1 has no bytes of an image"),
        ([b"", b"one"], [0, 1], "row 0 has no bytes of an image"),
        ([{"bytes": b"one"}], [0], "row 0 has no bytes of an image"),
    ],
)
def test_a_table_of_other_types_makes_no_set(
    tmp_path: Path, images: list[object], labels: list[object], said: str, capsys: Capture
) -> None:
    (tmp_path / "classnames.txt").write_text("cat\ndog\n")
    (tmp_path / "templates.txt").write_text("a photo of a {c}\n")
    pq.write_table(pa.table({"image": images, "label": labels}), tmp_path / "test.parquet")
    assert run("evalset", "--from_dir", tmp_path, "--output_dir", tmp_path / "sets") == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "sets").exists()


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("templates.txt", "no place for the class\n", "templates.txt: line 1 has no {c}"),
        ("classnames.txt", "cat\n", "has label 1, and 1 class names"),
        ("templates.txt", "", "templates.txt: holds no line"),
    ],
)
def test_a_folder_of_which_no_set_can_be_made_is_named(tmp_path: Path, name: str, text: str, said: str, capsys: Capture) -> None:
    texts = {"classnames.txt": "cat\ndog\n", "templates.txt": "a photo of a {c}\n"} | {name: text}
    for file, body in texts.items():
        (tmp_path / file).write_text(body)
    pq.write_table(pa.table({"image": [b"one"], "label": [1]}), tmp_path / "test.parquet")
    assert run("evalset", "--from_dir", tmp_path, "--output_dir", tmp_path / "sets") == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "sets").exists()


# -- loop


@pytest.fixture
def pool(stand_in: Path, tmp_path: Path) -> Path:
    """Shards, two subsets of them, and what the resharder makes of either."""
    write_shard(tmp_path / "shards", 0, [sample("000000000", IN_INPUT[0])])
    write_shard(stand_in / "resharded", 0, [sample(f"{IN_INPUT[0]}-0", IN_INPUT[0])])
    (stand_in / "resharded/meta.json").write_text(json.dumps({"output_count": 1, "output_shard_count": 1}))
    for name in ("first", "second"):
        np.save(tmp_path / f"{name}.npy", np.array([(0, 3)], "u8,u8"))
    return tmp_path


def loop(pool: Path, *more: object) -> int:
    subsets = ("--subset", pool / "first.npy", pool / "second.npy")
    places = ("--shards_dir", pool / "shards", "--eval_dir", pool, "--work_dir", pool / "work")
    return run("loop", *subsets, *places, "--seeds", "0", "1", "--tiny", *more)


def test_the_loop_makes_a_table_of_subsets_and_seeds_and_goes_on_where_it_was(stand_in: Path, pool: Path, capsys: Capture) -> None:
    assert loop(pool) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[-2:] == [[name, "1", "2", "0.3750", "0.0000", "0.3750", "0.3750"] for name in ("first", "second")]
    assert len(calls(stand_in)) == 8
    (pool / "work/second/seed1/eval_results.jsonl").unlink()
    assert loop(pool) == 0
    assert calls(stand_in)[8:] == ["evaluate seed1"]


def test_a_resharder_that_was_stopped_begins_anew(stand_in: Path, pool: Path, capsys: Capture) -> None:
    places = ("--subset", pool / "first.npy", "--shards_dir", pool / "shards", "--output_dir", pool / "out")
    assert run("reshard", *places) == 0
    (pool / "out/meta.json").unlink()
    (pool / "out/00000007.tar").write_bytes(b"cut off")
    assert run("reshard", *places) == 0
    assert not (pool / "out/00000007.tar").exists()
    (pool / "out/meta.json").unlink()
    (pool / "out/mine.txt").touch()
    assert run("reshard", *places) == 2
    assert "out: holds what no resharder wrote; name another --output_dir" in capsys.readouterr().err


def test_two_subsets_of_one_name_are_refused(stand_in: Path, pool: Path, capsys: Capture) -> None:
    (pool / "elsewhere").mkdir()
    (pool / "second.npy").rename(pool / "elsewhere/first.npy")
    places = ("--shards_dir", pool / "shards", "--eval_dir", pool, "--work_dir", pool / "work", "--tiny")
    assert run("loop", "--subset", pool / "first.npy", pool / "elsewhere/first.npy", *places) == 2
    assert "--subset: names first twice" in capsys.readouterr().err
    assert calls(stand_in) == []


def test_seeds_that_are_named_twice_and_tasks_without_a_metric_make_no_table(stand_in: Path, pool: Path, capsys: Capture) -> None:
    assert loop(pool, "--seeds", "1", "2", "1") == 2
    assert "--seeds: names 1 twice" in capsys.readouterr().err
    (stand_in / "scores.json").write_text('{"own": null, "other/task": null}')
    assert loop(pool) == 2
    assert "has no task with a main metric" in capsys.readouterr().err


def test_shards_of_another_subset_are_named_with_what_makes_them_anew(stand_in: Path, pool: Path, capsys: Capture) -> None:
    assert loop(pool) == 0
    np.save(pool / "second.npy", np.array([(0, 3), (0, 3)], "u8,u8"))
    assert loop(pool, "--seeds", "0", "1", "2") == 2
    assert f"work/second: was made of another subset than {pool}/second.npy is; remove it, or name" in capsys.readouterr().err
    assert len(calls(stand_in)) == 8  # it is told before anything runs
    shutil.rmtree(pool / "work/second")
    write_shard(pool / "work/first/shards", 1, [])
    assert loop(pool) == 2
    assert f"remove {pool}/work/first/shards, and it is made anew" in capsys.readouterr().err


REAL = {name: os.environ.get(name) for name in ("DATACOMP_REPO", "DATACOMP_PYTHON")}


@pytest.mark.slow
@pytest.mark.skipif(
    not all(REAL.values()), reason="DATACOMP_REPO and DATACOMP_PYTHON name no checkout of mlfoundations/datacomp and its Python"
)
def test_datacomps_own_scripts_train_and_evaluate_a_tiny_model(tmp_path: Path, capsys: Capture) -> None:
    demo.make(tmp_path / "pool", 600, 2)
    out = tmp_path / "some.npy"
    metadata = tmp_path / "pool/metadata"
    assert baselines.main(["--name", "random", "--size", "300", "--metadata_dir", str(metadata), "--save_path", str(out), "--quiet"]) == 0
    assert run("evalset", "--demo", "--output_dir", tmp_path / "sets") == 0
    places = ("--shards_dir", tmp_path / "pool/shards", "--eval_dir", tmp_path / "sets", "--work_dir", tmp_path / "work")
    capsys.readouterr()
    assert run("loop", "--subset", out, *places, "--tiny") == 0
    row = capsys.readouterr().out.splitlines()[-1].split()
    assert row[:3] == ["some", "300", "1"]
    assert 1 / 61 < float(row[3]) <= 1  # of 61 kinds
