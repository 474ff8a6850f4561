"""submission/: what is wrong with a uid file is told with what comes of it; an entry is whole, or is not made; what is sent, and when."""

from __future__ import annotations

import argparse
import ast
import fcntl
import gzip
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from filters import topscore
from filters.pool.files import digest_of
from submission import datacomp, package, validate
from submission.published import EVERYTHING
from tests.bad_files import npy, npy_with_header
from tests.pools import Array, write_pool
from tests.stores import Uploads, uploads_server

ROOT = Path(__file__).parents[1]
REPO = os.environ.get("DATACOMP_REPO")
LOW = (1 << 64) - 1
Capture = pytest.CaptureFixture[str]


def records(numbers: list[int]) -> Array:
    return np.array([(number >> 64, number & LOW) for number in numbers], "u8,u8")


RNG = np.random.default_rng(3)
NUMBERS = sorted(int.from_bytes(RNG.bytes(16), "big") for _ in range(40))
GOOD = records(NUMBERS)


def told(capsys: Capture, code: int) -> list[str]:
    """The lines of a call that is refused, each whole: where, what, what comes of it, what to do."""
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    lines = err.splitlines()
    assert all(re.fullmatch(r"(validate|package): .+: .+; .+", line) for line in lines), err
    return lines


# -- a uid file: each fault, in one line with what DataComp's resharder does and what mends it


def savez(path: Path) -> None:
    np.savez(path.with_suffix(""), GOOD)
    path.with_suffix(".npz").rename(path)


def table(path: Path) -> None:
    pq.write_table(pa.table({"uid": [f"{number:032x}" for number in NUMBERS]}), path)


WHOLE = npy(GOOD)
ASSERTS, MAPS, RAW, NONE = "AssertionError", "ValueError", "raw uids", "no image is written"
FAULTS: dict[str, tuple[bytes | Callable[[Path], Any], str, str, str]] = {
    "unsorted": (npy(GOOD[::-1]), "record 1 is smaller than the one before, 39 such", "without a word", "--sort --keep_repeats"),
    "two exchanged": (npy(GOOD[[*range(30), 31, 30, *range(32, 40)]]), "record 31 is smaller than the one before, 1 such", "", "--sort"),
    "halves swapped": (npy(GOOD[["f1", "f0"]].astype("u8,u8")), "sorted by its second word", NONE, "y['f0'], y['f1'] = x['f1'], x['f0']"),
    "big-endian": (npy(GOOD.astype(">u8,>u8")), "is >u8,>u8, not u8,u8", ASSERTS, "tools/uids.py convert"),
    "named": (npy(GOOD.astype([("hi", "<u8"), ("lo", "<u8")])), "is <u8,<u8 named hi, lo, not", ASSERTS, "tools/uids.py convert"),
    "signed": (npy(records(NUMBERS[:9]).view("i8,i8")), "is <i8,<i8, not u8,u8", ASSERTS, "tools/uids.py convert"),
    "two columns": (npy(GOOD.view("u8").reshape(-1, 2)), "is <u8 of shape (n, 2), not", ASSERTS, "tools/uids.py convert"),
    "texts": (npy(np.array([f"{number:032x}" for number in NUMBERS], "S32")), "is texts, |S32, not", ASSERTS, "tools/uids.py convert"),
    "three words": (npy(np.zeros(3, "u8,u8,u8")), "'f2'", ASSERTS, "write records of u8,u8"),
    "floats": (npy(np.zeros(3)), "is '<f8' of shape (3,), not u8,u8", ASSERTS, "write records of u8,u8"),
    "a column": (npy(GOOD.reshape(-1, 1)), "has the shape (40, 1)", NONE, "reshape(-1)"),
    "no dimension": (npy(GOOD[0]), "has the shape ()", NONE, "reshape(-1)"),
    "objects": (lambda path: np.save(path, np.array([1, "a"], object)), "holds Python objects", MAPS, "write records"),
    "objects in records": (lambda path: np.save(path, np.array([(1, None)], "u8,O")), "holds Python objects", MAPS, "write records"),
    "empty": (npy(GOOD[:0]), "lists no uid", "train.py stops", "ask the filter for more"),
    "no byte": (b"", "holds no byte", NONE, "make it again"),
    "cut off": (WHOLE[:-40], f"has {len(WHOLE) - 40} bytes of {len(WHOLE)}", MAPS, "make it again"),
    "cut off in the header": (WHOLE[:60], "has a header that cannot be read", "", "make it again"),
    "no header that is one": (npy_with_header("{'descr': 7}", b""), "has a header that cannot be read", "", "make it again"),
    "too long": (WHOLE + bytes(16), "goes on for 16 bytes behind its last uid", "does not look there", "make it again"),
    "npz": (savez, "is an npz", RAW, "np.save the array"),
    "packed": (gzip.compress(WHOLE), "is packed by gzip", RAW, "gunzip"),
    "parquet": (table, "is a parquet table", RAW, "tools/uids.py convert"),
    "text": (b"a list of uids\n", "does not begin as an npy", RAW, "write records"),
    "raw": (GOOD.tobytes(), "does not begin as an npy", "opens it for writing", "np.fromfile(FILE, 'u8,u8')"),
}


def made(path: Path, how: bytes | Callable[[Path], Any]) -> Path:
    if callable(how):
        how(path)
    else:
        path.write_bytes(how)
    return path


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_a_uid_file_is_told_in_one_line_with_what_comes_of_it_and_what_mends_it(
    name: str, tmp_path: Path, capsys: Capture
) -> None:
    how, found, consequence, cure = FAULTS[name]
    path = made(tmp_path / "a.npy", how)
    before = path.read_bytes()
    (line,) = told(capsys, validate.main([str(path)]))
    assert re.fullmatch(f"validate: {path}: .*{re.escape(found)}.*: .*{consequence}.*; .*{re.escape(cure)}.*", line)
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["nothing", "folder", "foreign name"])
def test_what_is_no_uid_file_at_all_is_told(name: str, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "foreign name").write_bytes(WHOLE)
    said = {"nothing": "there is no such file", "folder": "is no file", "foreign name": "does not end in .npy"}[name]
    (line,) = told(capsys, validate.main([str(tmp_path / name)]))
    assert said in line


@pytest.mark.skipif(REPO is None, reason="DATACOMP_REPO names no checkout of mlfoundations/datacomp")
@pytest.mark.parametrize("name", FAULTS)
def test_the_resharder_takes_or_refuses_a_wrong_file_as_it_is_told(name: str, tmp_path: Path) -> None:
    source = (Path(str(REPO)) / "resharder.py").read_text()
    load = next(node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == "load_subset")
    names: dict[str, Any] = {"np": np, "Path": Path, "CloudPath": int, "u16": np.dtype("u8,u8")}
    exec(compile(ast.Module([load], []), "resharder.py", "exec"), names)
    how, _, consequence, _ = FAULTS[name]
    path = made(tmp_path / "a.npy", how)
    if consequence in (ASSERTS, MAPS):
        with pytest.raises({ASSERTS: AssertionError, MAPS: ValueError}[consequence]):
            names["load_subset"](subset_file=path)
    elif consequence not in (RAW, "") and name != "no byte":
        assert names["load_subset"](subset_file=path).dtype == "u8,u8"


def pool_of(folder: Path, numbers: list[int]) -> Path:
    """Parquet files alone, in no order."""
    folder.mkdir()
    for at in range(3):
        pq.write_table(pa.table({"uid": [f"{number:032x}" for number in numbers[at::3][::-1]]}), folder / f"{at:032x}.parquet")
    return folder


def test_a_good_file_is_summed_up(tmp_path: Path, capsys: Capture) -> None:
    np.save(tmp_path / "a.npy", records(sorted([*NUMBERS, *NUMBERS[:3], NUMBERS[0]])))
    pool = pool_of(tmp_path / "pool", [*NUMBERS, 7, 5 << 90])
    assert validate.main([str(tmp_path / "a.npy"), "--metadata-dir", str(pool), "--scale", "medium"]) == 0
    out, err = capsys.readouterr()
    rows = dict(line.split("  ", 1) for line in out.splitlines())
    assert rows["uids"].split()[0] == "44"
    assert rows["different"].split() == ["40"]
    assert rows["repeated"].split()[0] == "4"
    assert "legal" in rows["repeated"]
    assert rows["in the pool"] == "all, among 42 samples"
    assert rows["sha256"].strip() == hashlib.sha256((tmp_path / "a.npy").read_bytes()).hexdigest()
    assert validate.main([str(tmp_path / "a.npy"), "--quiet"]) == 0
    assert capsys.readouterr() == ("", err)


def test_uids_that_the_pool_lacks_are_counted_and_the_first_is_named(tmp_path: Path, capsys: Capture) -> None:
    np.save(tmp_path / "a.npy", records(sorted([*NUMBERS, NUMBERS[0], NUMBERS[20]])))
    pool = pool_of(tmp_path / "pool", [number for number in NUMBERS if number not in (NUMBERS[20], NUMBERS[33])])
    (line,) = told(capsys, validate.main([str(tmp_path / "a.npy"), "--metadata_dir", str(pool)]))
    assert f"3 of 42 records are not in {pool}, first record 21, uid {NUMBERS[20]:032x}: the resharder only warns" in line


def test_swapped_halves_that_were_sorted_afterwards_are_told_by_the_pool(tmp_path: Path, capsys: Capture) -> None:
    np.save(tmp_path / "a.npy", np.sort(GOOD[["f1", "f0"]].astype("u8,u8")))
    assert validate.main([str(tmp_path / "a.npy")]) == 0
    assert "not looked up" in capsys.readouterr().out
    (line,) = told(capsys, validate.main([str(tmp_path / "a.npy"), "--metadata_dir", str(pool_of(tmp_path / "pool", NUMBERS))]))
    assert "but with their halves swapped" in line
    assert "finds none of its samples" in line


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path, capsys: Capture) -> None:
    np.save(tmp_path / "a.npy", GOOD[::-1].astype([("a", ">u8"), ("b", ">u8")]))
    pool = pool_of(tmp_path / "pool", NUMBERS[:-1])
    lines = told(capsys, validate.main([str(tmp_path / "a.npy"), "--metadata_dir", str(pool)]))
    found = [">u8,>u8 named a, b", "record 1 is smaller", f"1 of 40 records are not in {pool}, first once sorted, uid {NUMBERS[-1]:032x}"]
    assert [part in line for part, line in zip(found, lines, strict=True)] == [True] * 3


def test_more_uids_than_the_scale_has_are_of_another_pool(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(datacomp.SCALES, "small", 40)
    np.save(tmp_path / "a.npy", records(sorted([*NUMBERS, NUMBERS[5]])))
    assert validate.main([str(tmp_path / "a.npy"), "--scale", "small"]) == 0
    assert "more uids than small has samples, 40, as some are repeated" in capsys.readouterr().out
    np.save(tmp_path / "a.npy", records([1, *NUMBERS]))
    (line,) = told(capsys, validate.main([str(tmp_path / "a.npy"), "--scale", "small"]))
    assert "lists 41 different uids, and small has 40 samples" in line


def test_what_a_fault_says_to_run_mends_it(tmp_path: Path, capsys: Capture) -> None:
    pool = pool_of(tmp_path / "pool", NUMBERS)
    for name in ("unsorted", "halves swapped", "big-endian", "two columns", "texts", "a column", "raw"):
        path, new = made(tmp_path / "a.npy", FAULTS[name][0]), tmp_path / "new.npy"
        (line,) = told(capsys, validate.main([str(path)]))
        cure = re.search(r"(python tools/uids.py .*|(x = )?np\.(load|save).*)$", line)
        assert cure
        if cure[0].startswith("python"):
            words = [{"FILE": str(path), "NEW.npy": str(new)}.get(word, word) for word in shlex.split(cure[0])]
            subprocess.run([sys.executable, str(ROOT / words[1]), *words[2:], "--overwrite", "--quiet"], check=True)
        else:
            exec(cure[0], {"np": np, "FILE": path, "NEW": new})
        assert new.read_bytes() == WHOLE, name
        assert validate.main([str(new), "--metadata_dir", str(pool), "--quiet"]) == 0


# -- an entry

GROUPS = {
    "ImageNet": {"imagenet1k": "ImageNet 1k"},
    "shifts": {
        "imagenet_sketch": "ImageNet Sketch",
        "imagenetv2": "ImageNet v2",
        "imagenet-a": "ImageNet-A",
        "imagenet-o": "ImageNet-O",
        "imagenet-r": "ImageNet-R",
        "objectnet": "ObjectNet",
    },
    "VTAB": {
        "vtab/caltech101": "Caltech-101",
        "vtab/cifar100": "CIFAR-100",
        "vtab/clevr_count_all": "CLEVR Counts",
        "vtab/clevr_closest_object_distance": "CLEVR Distance",
        "vtab/dtd": "Describable Textures",
        "vtab/eurosat": "EuroSAT",
        "vtab/kitti_closest_vehicle_distance": "KITTI Vehicle Distance",
        "vtab/flowers": "Oxford Flowers-102",
        "vtab/pets": "Oxford-IIIT Pet",
        "vtab/pcam": "PatchCamelyon",
        "vtab/resisc45": "RESISC45",
        "vtab/svhn": "SVHN",
        "sun397": "SUN397",
    },
    "retrieval": {
        "retrieval/flickr_1k_test_image_text_retrieval": "Flickr",
        "retrieval/mscoco_2014_5k_test_image_text_retrieval": "MSCOCO",
        "misc/winogavil": "WinoGAViL",
    },
    "others": {
        "cifar10": "CIFAR-10",
        "country211": "Country211",
        "fgvc_aircraft": "FGVC Aircraft",
        "food101": "Food-101",
        "gtsrb": "GTSRB",
        "mnist": "MNIST",
        "voc2007": "Pascal VOC 2007",
        "renderedsst2": "Rendered SST2",
        "cars": "Stanford Cars",
        "stl10": "STL-10",
        "wilds/iwildcam": "iWildCam",
        "wilds/camelyon17": "Camelyon17",
        "wilds/fmow": "FMoW",
        "fairness/dollar_street": "Dollar Street",
        "fairness/geode": "GeoDE",
    },
    "unscored": {"fairness/fairface": "FairFace", "fairness/utkface": "UTKFace"},
}
Line = dict[str, Any]


def evaluated() -> list[Line]:
    """As evaluate.py writes them."""
    rng, lines = np.random.default_rng(5), []
    for group, tasks in GROUPS.items():
        for key, name in tasks.items():
            score = float(rng.uniform(0.05, 0.7))
            metrics = {"acc1": score, "acc5": min(1.0, 2 * score), "mean_per_class_recall": score, "main_metric": score}
            lines.append({"key": key, "dataset": name, "metrics": {"main_metric": None} if group == "unscored" else metrics})
    return lines


def write_lines(path: Path, lines: list[Line]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


NAMES = {
    "method_name": "Density pruning, 15 % | tau 0.1",
    "author": "Ada O'Neil",
    "email": "ada@uni-somewhere.org",
    "hf_username": "ada",
    "hf_repo_name": "density-15",
    "eval_images": "none",
}


class Made:
    """A run on a small pool, its training's results, and calls of package.py on them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.pool = folder, folder / "pool"
        self.path, self.work, self.entry = folder / "out.npy", folder / "out.work", folder / "out.entry"
        self.results = folder / "trained" / "eval_results.jsonl"

    def call(self, *more: object, **changed: object) -> int:
        """With these flags instead; None: without."""
        given: dict[str, object] = {"work": self.work, "results": self.results, "scale": "small", **NAMES, **changed}
        path = given.pop("path", self.path)
        flags = [f"--{name}={value}" for name, value in given.items() if value is not None]
        return package.main([str(path), *flags, *map(str, more)])


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = Made(tmp_path_factory.mktemp("original"))
    write_pool(made.pool, np.random.default_rng(7))
    places = ["--metadata_dir", str(made.pool), "--save_path", str(made.path)]
    assert topscore.COMMAND.main([*places, "--fraction", "0.45", "--seed", "77", "--quiet"]) == 0
    made.results.parent.mkdir()
    write_lines(made.results, evaluated())
    return made.folder


@pytest.fixture
def run(original: Path, tmp_path: Path) -> Made:
    shutil.copytree(original, tmp_path / "run")
    return Made(tmp_path / "run")


def datacomps_parser() -> argparse.ArgumentParser:
    """The flags of evaluate.py that bear on a submission, as its parser spells them."""
    made = argparse.ArgumentParser()
    for name in ("track", "train_output_dir", "output_dir", "samples", "dataset-size", "method_name", "author", "email"):
        made.add_argument(f"--{name}")
    for name in ("hf_username", "hf_repo_name", "writeup", "data_dir"):
        made.add_argument(f"--{name}")
    for name in ("submit", "upload_checkpoint"):
        made.add_argument(f"--{name}", action="store_true")
    return made


def test_an_entry_holds_what_a_reviewer_needs_and_what_evaluate_takes(run: Made, capsys: Capture) -> None:
    assert run.call("--metadata_dir", run.pool, "--confirm_rules") == 0
    count = len(np.load(run.path))
    files = {str(path.relative_to(run.entry)): path for path in run.entry.rglob("*") if path.is_file()}
    assert files.keys() == {
        *("README.md", "SHA256SUMS", "entry.json", "manifest.json", "submit.sh"),
        *("small_scale/results.jsonl", "small_scale/samples/out.npy"),
    }
    assert files["small_scale/samples/out.npy"].read_bytes() == run.path.read_bytes()
    assert files["small_scale/results.jsonl"].read_bytes() == run.results.read_bytes()
    assert files["manifest.json"].read_bytes() == (run.work / "manifest.json").read_bytes()
    sums = dict(line.split("  ")[::-1] for line in files["SHA256SUMS"].read_text().splitlines())
    assert sums == {
        name: hashlib.sha256(files[name].read_bytes()).hexdigest() for name in files.keys() - {"README.md", "SHA256SUMS", "submit.sh"}
    }
    assert json.loads(files["entry.json"].read_text())["dataset_size"] == count
    command = files["submit.sh"].read_text()
    assert command.partition("\n")[2].strip() in capsys.readouterr().out
    words = shlex.split(command.replace("\\\n", " "), comments=True)
    assert words[:2] == ["python", "evaluate.py"]
    flags = datacomps_parser().parse_args(words[2:])
    assert (flags.submit, flags.track, flags.dataset_size) == (True, "filtering", str(count))
    assert Path(flags.samples).read_bytes() == run.path.read_bytes()
    assert (flags.train_output_dir, flags.output_dir) == (str(run.results.parent), None)
    assert {name: getattr(flags, name, "none") for name in NAMES} == NAMES
    assert [name for name, path in files.items() if NAMES["email"] in path.read_text("latin1")] == ["submit.sh"]


def test_where_results_and_training_lie_apart_evaluate_is_told_both(run: Made) -> None:
    assert run.call("--upload_checkpoint", train_output_dir="/far/away", writeup="https://uni-somewhere.org/density") == 0
    flags = datacomps_parser().parse_args(shlex.split((run.entry / "submit.sh").read_text().replace("\\\n", " "), comments=True)[2:])
    assert (flags.train_output_dir, flags.output_dir) == ("/far/away", str(run.results.parent))
    assert (flags.upload_checkpoint, flags.writeup) == (True, "https://uni-somewhere.org/density")


def test_the_columns_are_datacomps_and_stand_among_those_published(run: Made) -> None:
    assert run.call(scale="medium") == 0
    scores = {line["dataset"]: line["metrics"]["main_metric"] for line in evaluated()}
    expected = [np.mean([scores[name] for name in GROUPS[group].values()]) for group in ("ImageNet", "shifts", "VTAB", "retrieval")]
    expected.append(np.mean([score for score in scores.values() if score is not None]))
    found = json.loads((run.entry / "entry.json").read_text())["columns"]
    assert list(found.values()) == pytest.approx([100 * value for value in expected])
    card = (run.entry / "README.md").read_text()
    ours = next(line for line in card.splitlines() if line.startswith("| **this entry**"))
    assert [f"{100 * value:.2f}" for value in expected] == [cell.strip() for cell in ours.split("|")[3:8]]
    assert all(f"| {told.name} |" in card for told in EVERYTHING)
    assert run.call("--overwrite") == 0
    assert "no_filter" not in (run.entry / "README.md").read_text()  # of small nothing is published


def test_the_card_tells_recipe_options_funnel_seed_versions_hardware_and_rules(run: Made) -> None:
    assert run.call() == 0
    card, manifest = (run.entry / "README.md").read_text(), json.loads((run.work / "manifest.json").read_text())
    assert "# Density pruning, 15 % \\| tau 0.1" in card
    assert manifest["recipe"] in card
    assert "| `--fraction` | 0.45 |  |" in card
    assert re.search(r'\| `--score` \| "l14" \| \[paper\] \|', card)
    assert "| topscore | 140 | 0 | 63 |" in card
    assert "- seed: 77\n" in card
    assert f"torch {manifest['versions']['torch'][:12]}" in card
    assert manifest["machine"]["name"] in card
    assert "- [x] The entry is a list of uids of one pool, by its manifest" in card
    assert card.count("- [ ]") == 4
    assert run.call("--overwrite", "--confirm_rules", eval_images="ImageNet's training images, by their CLIP embeddings") == 0
    card = (run.entry / "README.md").read_text()
    assert card.count("- [ ]") == 0
    assert "used: ImageNet's training images, by their CLIP embeddings." in card


CHANGES: dict[str, tuple[Callable[[list[Line]], Any], list[str]]] = {
    "missing": (lambda lines: lines.pop(3), ["has 39 lines, and of 40 tasks none of ImageNet-A;"]),
    "two missing": (lambda lines: (lines.pop(3), lines.pop(0)), ["has 38 lines, and of 40 tasks none of ImageNet 1k, ImageNet-A;"]),
    "twice": (lambda lines: lines.append(lines[2]), ["has more than one line of ImageNet v2;"]),
    "no metric": (lambda lines: lines[9]["metrics"].pop("main_metric"), ["line 10 (CLEVR Counts): has no main_metric;"]),
    "null": (lambda lines: lines[9]["metrics"].update(main_metric=None), ["line 10 (CLEVR Counts): has the main_metric None, no number"]),
    "nan": (lambda lines: lines[9]["metrics"].update(main_metric=float("nan")), ["line 10 (CLEVR Counts): has the main_metric nan,"]),
    "percent": (
        lambda lines: lines[9]["metrics"].update(main_metric=31.4),
        ["line 10 (CLEVR Counts): has the main_metric 31.4, no number"],
    ),
    "too long": (lambda lines: lines[9]["metrics"].update(main_metric=10**400), ["line 10 (CLEVR Counts): has the main_metric 1000"]),
    "scored": (lambda lines: lines[39]["metrics"].update(main_metric=0.5), ["line 40 (UTKFace): has a main_metric, 0.5"]),
    "no acc1": (lambda lines: lines[0]["metrics"].pop("acc1"), ["line 1 (ImageNet 1k): has no acc1"]),
    "acc1 nan": (lambda lines: lines[0]["metrics"].update(acc1=float("nan")), ["line 1 (ImageNet 1k): has no acc1"]),
    "unknown": (lambda lines: lines.append(lines[0] | {"key": "mine"}), ["line 41: is of 'mine', 'ImageNet 1k', which is none"]),
    "misnamed": (lambda lines: lines[0].update(dataset="ImageNet"), ["line 1: is of 'imagenet1k', 'ImageNet'", "none of ImageNet 1k;"]),
    "no object": (lambda lines: lines[0].update(metrics=3), ["line 1: is no object", "none of ImageNet 1k;"]),
    "all": (lambda lines: lines.clear(), ["has 0 lines, and of 40 tasks none of Caltech-101, CIFAR-10"]),
}


@pytest.mark.parametrize("name", CHANGES)
def test_results_that_are_not_those_of_all_tasks_make_no_entry(name: str, run: Made, capsys: Capture) -> None:
    change, expected = CHANGES[name]
    lines = evaluated()
    change(lines)
    write_lines(run.results, lines)
    found = told(capsys, run.call())
    assert [part in line for part, line in zip(expected, found, strict=True)] == [True] * len(expected)
    assert not run.entry.exists()


def test_a_line_that_is_no_json_is_named(run: Made, capsys: Capture) -> None:
    run.results.write_text(run.results.read_text() + '\n{"key": ')
    lines = told(capsys, run.call())
    assert [re.findall(r"line (\d+): is no JSON", line) for line in lines] == [["41"], ["42"]]


PLACEHOLDERS = {
    "method_name": ["method", "Method name", "[your method name, please be descriptive!]", "Your method", "TODO", "<name>", "  "],
    "author": ["author", "Your Name", "[your name]", "J", "john doe"][:3],
    "email": ["your@email.com", "[your@email.com]", "me@example.com", "a@b.example.org", "ada", "ada@uni", "x@localhost.test"],
    "hf_username": ["username", "your-username", "hf_username", "$hf_username", "ada/density", "ada-"],
    "hf_repo_name": ["repo", "<REPO_NAME>", "your_repo", "two words", "density--15", "density.git", "density..15"],
    "writeup": ["your link", "https://example.com/paper", "paper.pdf"],
    "eval_images": ["todo"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in PLACEHOLDERS.items() for value in values])
def test_a_name_that_nobody_has_filled_in_makes_no_entry(name: str, value: str, run: Made, capsys: Capture) -> None:
    (line,) = told(capsys, run.call(**{name: value}))
    assert line.startswith(f"package: --{name}: {value!r}" if value.strip() else f"package: command line: no --{name}")
    assert not run.entry.exists()


def test_a_subset_that_is_not_the_manifest_s_makes_no_entry(run: Made, capsys: Capture) -> None:
    np.save(run.path, np.load(run.path)[1:])
    (line,) = told(capsys, run.call())
    assert f"out.npy: is not the subset of {run.work}/manifest.json: its sha256 is" in line
    assert not run.entry.exists()


def test_a_manifest_that_was_edited_or_is_not_there_or_is_of_a_larger_pool_makes_no_entry(
    run: Made, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(datacomp.SCALES, "small", 139)
    (line,) = told(capsys, run.call())
    assert "is of a pool of 140 samples, and small has 139; name the --scale" in line
    path = run.work / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"seed": 3}))
    (line,) = told(capsys, run.call())
    assert "manifest.json: is not as a run wrote it" in line
    assert digest_of(manifest) == manifest["digest"]
    path.unlink()
    (line,) = told(capsys, run.call())
    assert "manifest.json: there is no such file" in line


@pytest.mark.parametrize("lacks", ["pool", "recipe", "stages", "machine"])
def test_a_manifest_that_lacks_what_a_run_writes_makes_no_entry_even_with_a_digest(lacks: str, run: Made, capsys: Capture) -> None:
    path = run.work / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest[lacks]
    path.write_text(json.dumps(manifest | {"digest": digest_of(manifest)}))
    assert "manifest.json: is not as a run wrote it" in told(capsys, run.call("--quiet"))[0]
    assert not run.entry.exists()


def test_names_that_break_what_reads_them_are_told_in_one_line(run: Made, capsys: Capture) -> None:
    long = run.folder / ("x" * 300)
    assert "File name too long" in told(capsys, validate.main([str(long)]))[0]
    for name in ("work", "save_path"):
        assert [line for line in told(capsys, run.call(**{name: long})) if "File name too long" in line]
    assert "is no file" in told(capsys, run.call(path="."))[0]
    (line,) = told(capsys, run.call(save_path=run.folder / "two::names"))
    assert "evaluate.py takes it for two" in line
    (line,) = told(capsys, run.call(save_path=run.folder / "two\nlines"))
    assert "SHA256SUMS has a line a file" in line
    assert not run.entry.exists()


def test_all_that_is_wrong_with_an_entry_is_told_at_once_and_nothing_is_written(run: Made, capsys: Capture) -> None:
    np.save(run.path, np.load(run.path)[::-1])
    write_lines(run.results, evaluated()[1:])
    before = set(run.folder.iterdir())
    lines = told(capsys, run.call(work=run.folder, author=None, email="your@email.com"))
    parts = ["no --author", "--email", "is not sorted", "none of ImageNet 1k", "manifest.json: there is no such file"]
    assert [part in line for part, line in zip(parts, lines, strict=True)] == [True] * 5
    assert set(run.folder.iterdir()) == before
    assert len(told(capsys, package.main([str(run.path)]))) == 3 + 6 + 1  # what is needed, names, and the order of the file


def test_results_by_another_name_are_refused_as_evaluate_would_not_read_them(run: Made, capsys: Capture) -> None:
    other = run.results.rename(run.results.with_name("results.jsonl"))
    (line,) = told(capsys, run.call(results=other))
    assert "is not named eval_results.jsonl" in line


def test_an_entry_is_replaced_only_when_that_is_asked_for_and_nothing_else_ever(run: Made, capsys: Capture) -> None:
    assert run.call() == 0
    before = (run.entry / "README.md").read_bytes()
    capsys.readouterr()
    (line,) = told(capsys, run.call(author="Another One"))
    assert "exists; give --overwrite" in line
    assert (run.entry / "README.md").read_bytes() == before
    assert run.call("--overwrite", author="Another One") == 0
    assert b"Another One" in (run.entry / "README.md").read_bytes()
    (run.folder / "home").mkdir()
    (run.folder / "home" / "dear.txt").touch()
    capsys.readouterr()
    (line,) = told(capsys, run.call("--overwrite", save_path=run.folder / "home"))
    assert "is there and is no entry" in line
    assert (run.folder / "home" / "dear.txt").exists()
    assert not [path for path in run.folder.iterdir() if path.name.startswith(".")]


def test_an_entry_is_made_by_one_call_at_a_time_and_what_was_left_is_cleared_away(run: Made, capsys: Capture) -> None:
    left = run.folder / ".out.entry.tmp"
    (left / "small_scale").mkdir(parents=True)
    (left / "half").touch()
    with left_held(left):
        (line,) = told(capsys, run.call("--quiet"))
    assert "out.entry: is being made by another call" in line
    assert (left / "half").exists()
    assert run.call("--quiet") == 0
    assert not left.exists()
    assert not (run.entry / "half").exists()


@contextmanager
def left_held(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(descriptor)


# -- the Hub


@pytest.fixture
def loopback() -> Iterator[Uploads]:
    with uploads_server() as server:
        yield server


TOKEN = "hf_secretsecretsecret"


def pushed(run: Made, endpoint: str, *more: str) -> subprocess.CompletedProcess[str]:
    """As a person calls it, from another folder."""
    given: dict[str, object] = {"work": run.work, "results": run.results, "scale": "small", **NAMES}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": endpoint, "HF_TOKEN": TOKEN, "HF_HOME": str(run.folder / "hf"), "HF_HUB_DISABLE_XET": "1"}
    words = [str(run.path), *(f"--{name}={value}" for name, value in given.items()), "--overwrite", *more]
    page = str(ROOT / "submission" / "package.py")
    return subprocess.run([sys.executable, page, *words], cwd=run.folder, env=environment, capture_output=True, text=True, check=False)


def test_an_entry_that_is_pushed_arrives_as_it_is_but_for_what_is_private(run: Made, loopback: Uploads) -> None:
    done = pushed(run, loopback.url)
    assert (done.returncode, loopback.seen) == (0, [])  # nothing is sent unless it is asked for
    done = pushed(run, loopback.url, "--push", "ada/density-15")
    assert done.returncode == 0, done.stderr
    files = {str(path.relative_to(run.entry)): path.read_bytes() for path in run.entry.rglob("*") if path.is_file()}
    assert loopback.committed == {name: data for name, data in files.items() if name != "submit.sh"}
    assert loopback.large.keys() == {hashlib.sha256(run.path.read_bytes()).hexdigest()}
    assert loopback.tokens == {f"Bearer {TOKEN}"}
    everything = done.stdout + done.stderr + "".join(data.decode("latin1") for data in files.values())
    assert TOKEN not in everything
    assert NAMES["email"].encode() not in b"".join(loopback.committed.values())


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        ({"create": 401}, "the Hub does not know you (HTTP 401); log in"),
        ({"create": 403, "preupload": 403}, "the Hub does not let you write there (HTTP 403); take a token"),
        ({"commit": 500}, "the Hub fails (HTTP 500); run again later"),
    ],
)
def test_what_the_hub_refuses_is_told_in_one_line_and_the_entry_stays(
    refusal: dict[str, int], said: str, run: Made, loopback: Uploads
) -> None:
    loopback.refusal = refusal
    done = pushed(run, loopback.url, "--push", "ada/density-15", "--quiet")
    assert done.returncode == 2
    assert f"package: --push ada/density-15: {said}" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert TOKEN not in done.stdout + done.stderr
    assert (run.entry / "README.md").exists()


def test_a_hub_that_is_not_there_is_told(run: Made) -> None:
    done = pushed(run, "http://127.0.0.1:9", "--push", "ada/density-15")
    assert done.returncode == 2
    assert "the Hub is not reached" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("repository", ["density-15", "a/b/c", "ada/", "a b/c", "ada--x/density", "ada/density.git", "ada/density-"])
def test_a_push_to_what_is_no_repository_is_refused_before_anything_is_done(repository: str, run: Made, capsys: Capture) -> None:
    (line,) = told(capsys, run.call("--push", repository))
    assert "is not USER/NAME" in line
    assert not run.entry.exists()


# -- DataComp's own


@pytest.mark.skipif(REPO is None, reason="DATACOMP_REPO names no checkout of mlfoundations/datacomp")
def test_tasks_columns_and_flags_are_those_of_datacomp() -> None:
    folder = Path(str(REPO))
    tasks = re.findall(r"^([\w/-]+):\n  name: (.+)$", (folder / "tasklist.yml").read_text(), re.MULTILINE)
    assert dict(tasks) == datacomp.TASKS == {key: name for group in GROUPS.values() for key, name in group.items()}
    source = ast.parse((folder / "aggregate_scores.py").read_text())
    groups = next(ast.literal_eval(node.value) for node in source.body if isinstance(node, ast.Assign))
    assert [groups[name] for name in ("ImageNet dist. shifts", "VTAB", "Retrieval")] == [
        set(GROUPS[name].values()) for name in ("shifts", "VTAB", "retrieval")
    ]
    flags = set(re.findall(r'"--([\w-]+)"', (folder / "evaluate.py").read_text()))
    assert {action.option_strings[0][2:] for action in datacomps_parser()._actions if "help" not in action.dest} <= flags
