"""negCLIPLoss and NormSim, alone and in the published chains, beside a slow float64 reading of METHOD 5."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from baselines import run
from baselines.negcliploss_normsim import RankSum
from filters import densprune, topscore
from filters.filter import Recipe
from filters.maths import contrast, similar, uids
from filters.maths.arrays import F64, I64
from filters.negcliploss import APART, DRAW, TRIED, NegCLIPLoss, contrasting
from filters.normsim import NormSim, comparing
from filters.options import RunOptions
from filters.pool.errors import BadInput
from filters.pool.pool import Pool
from filters.score import Score
from filters.topscore import TopScore
from filters.work import rates
from filters.work.plan import Plan, lasting
from filters.work.work import Settings
from tests.pools import Array, blobs, random_uids, read_subset, unit, write_shard
from tests.test_plan import Seen, told

Told = dict[str, Any]
WIDTH = 16
devices = pytest.mark.parametrize("device", ["cpu", "cpu:0"])


# -- pools with images and texts, and the slow reading


def write(folder: Path, sizes: tuple[int, ...] = (37, 0, 70, 1), seed: int = 0, bad: tuple[int, ...] = ()) -> Told:
    """A pool whose texts lie near their images; image `bad[0]`, text `bad[1]` and so on in turn are NaN."""
    rng = np.random.default_rng(seed)
    count = sum(sizes)
    images = blobs(rng, count, WIDTH).astype(np.float32)
    texts = unit(images + rng.normal(size=(count, WIDTH)) / 4).astype(np.float16)
    told: Told = {"uids": random_uids(rng, count), "l14_img": (3 * images).astype(np.float16), "l14_txt": texts, "sizes": sizes}
    for number, row in enumerate(bad):
        told[("l14_img", "l14_txt")[number % 2]][row, 0] = (np.nan, np.inf)[number // 2 % 2]
    cut(folder, told, sizes)
    return told


def cut(folder: Path, told: Told, sizes: tuple[int, ...], **how: bool) -> None:
    start = 0
    for number, size in enumerate(sizes):
        rows = slice(start, start + size)
        members = {name: told[name][rows] for name in ("l14_img", "l14_txt")}
        write_shard(folder, f"{number:032x}", told["uids"][rows], members, **how)  # type: ignore[arg-type]
        start += size


def log_sum_exp(values: F64, axis: int) -> F64:
    top = values.max(axis=axis, keepdims=True)
    found: F64 = np.log(np.exp(values - top).sum(axis=axis)) + top.squeeze(axis)
    return found


def loss(images: Array, texts: Array, tau: float) -> F64:
    """Of one batch."""
    cosines = unit(images.astype(np.float64)) @ unit(texts.astype(np.float64)).T
    found: F64 = np.diag(cosines) - tau / 2 * (log_sum_exp(cosines / tau, 1) + log_sum_exp(cosines / tau, 0))
    return found


def drawn(told: Told, rows: I64, shuffle: int, size: int, seed: int = 1234) -> list[list[int]]:
    """The batches of some rows of one shard: in the order of hash(uid, seed, shuffle), sizes within one, the larger ones first."""
    words = uids.from_texts([told["uids"][row] for row in rows])
    order = sorted(zip(uids.hashed(words, seed, DRAW + APART * shuffle).tolist(), words.tolist(), rows.tolist(), strict=True))
    ordered = [row for _, _, row in order]
    count = math.ceil(len(rows) / size)
    sizes = [len(rows) // count + (number < len(rows) % count) for number in range(count)]
    return [ordered[sum(sizes[:number]) : sum(sizes[: number + 1])] for number in range(count)]


def losses(told: Told, size: int, shuffles: int, tau: float) -> F64:
    """Of a pool; NaN where a row has none."""
    whole = np.isfinite(told["l14_img"]).all(axis=1) & np.isfinite(told["l14_txt"]).all(axis=1)
    whole &= (told["l14_img"] != 0).any(axis=1) & (told["l14_txt"] != 0).any(axis=1)
    found, start = np.full(len(told["uids"]), np.nan), 0
    for count in told["sizes"]:
        rows = start + np.flatnonzero(whole[start : start + count])
        if len(rows):
            found[rows] = 0
        for shuffle in range(shuffles if len(rows) else 0):
            for batch in drawn(told, rows, shuffle, size):
                found[batch] += loss(told["l14_img"][batch], told["l14_txt"][batch], tau) / shuffles
        start += count
    return found


def norms(told: Told, targets: Array, p: float) -> F64:
    found: F64 = np.linalg.norm(unit(told["l14_img"].astype(np.float64)) @ unit(targets.astype(np.float64)).T, ord=p, axis=1)
    return found


def measured(pool: Path, score: Score | str, *, options: RunOptions | None = None, work: str = "w") -> dict[str, float]:
    """The score of each uid, as a run leaves it."""
    import pyarrow.parquet as pq

    work_dir = pool.parent / work
    TopScore(str(score), 1.0).run(pool, pool.parent / f"{work}.npy", work_dir, options or RunOptions(num_workers=2, allow_invalid=True))
    rows = [row for path in sorted((work_dir / "samples").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    return {row["uid"].hex(): np.nan if row["score"] is None else row["score"] for row in rows}


def of(told: Told, found: dict[str, float]) -> F64:
    return np.array([found[uid] for uid in told["uids"]])


# -- the arithmetic


@devices
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(("m", "tau"), [(1, 0.01), (5, 0.01), (300, 0.01), (300, 1.0), (300, 1e-6)])
def test_a_batch_agrees_with_float64(device: str, kind: type, m: int, tau: float) -> None:
    rng = np.random.default_rng(m)
    images: Array = (rng.normal(size=(m, 24)) * 2.0 ** rng.integers(-3, 4, (m, 1))).astype(kind)
    texts: Array = (images + rng.normal(size=(m, 24))).astype(kind)
    np.testing.assert_allclose(contrast.scores(images, texts, tau, device), loss(images, texts, tau), atol=1e-6)


@devices
def test_cosines_from_minus_one_to_one_neither_overflow_nor_vanish(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contrast, "STEP", 512)
    rng = np.random.default_rng(0)
    axes = np.eye(8)
    images = np.concatenate([np.repeat(axes[:1], 300, 0), -axes[:1], axes[1:], rng.normal(size=(100, 8))])
    texts = np.concatenate([np.repeat(axes[:1], 300, 0), axes[:1], -axes[1:], rng.normal(size=(100, 8))])
    for one, other in ((images, texts), (images, images), (images, -images), (images[:300], texts[:300]), (images[:300], -texts[:300])):
        np.testing.assert_allclose(contrast.scores(one, other, 0.01, device), loss(one, other, 0.01), atol=1e-6)
    # Of equal rows each is one of m that fit equally well.
    np.testing.assert_allclose(contrast.scores(images[:300], texts[:300], 0.01, device), -0.01 * np.log(300), atol=1e-6)


@devices
def test_many_tiles_give_the_same_scores(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    images, texts = rng.standard_normal((2, 1100 if device == "cpu" else 300, 12), np.float32).astype(np.float16)
    monkeypatch.setattr(contrast, "STEP", 96)
    monkeypatch.setattr(contrast, "TOGETHER", 1024)
    np.testing.assert_allclose(contrast.scores(images, texts, 0.01, device), loss(images, texts, 0.01), atol=1e-6)


@pytest.mark.parametrize("n", [0, 1, 9, 10, 11, 25, 99])
def test_there_are_as_many_batches_as_are_needed_and_their_sizes_are_within_one(n: int) -> None:
    rng = np.random.default_rng(n)
    words, marks = rng.integers(0, 3, n).astype(np.uint64), rng.integers(0, 1 << 60, (n, 2)).astype(np.uint64)  # many equal hashes
    found = contrast.batches(words, marks, 10)
    assert len(found) == max(1, math.ceil(n / 10))
    assert max(map(len, found)) - min(map(len, found)) <= 1
    assert sorted(np.concatenate(found).tolist()) == list(range(n))
    turned = contrast.batches(words[::-1], marks[::-1], 10)
    assert [(n - 1 - batch).tolist() for batch in turned] == [batch.tolist() for batch in found]


@devices
@pytest.mark.parametrize("p", ["2", "inf"])
@pytest.mark.parametrize("kinds", [(np.float16, np.float16), (np.float16, np.float32), (np.float64, np.float16)])
def test_norms_agree_with_float64(device: str, p: str, kinds: tuple[type, type], monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    for constant in ("ROWS", "TILE"):
        monkeypatch.setattr(similar, constant, 64)
    rows: Array = (9 * rng.normal(size=(150, 24))).astype(kinds[0])
    targets: Array = (9 * rng.normal(size=(170, 24))).astype(kinds[1])
    rows[7] = -targets[5]
    find: similar.Norm = similar.Norm2(similar.root(similar.gram(targets)), device)
    if p == "inf":
        find = similar.NormInf(targets) if device == "cpu" else similar.NormInfSent(targets, device)
    np.testing.assert_allclose(find(rows), norms({"l14_img": rows}, targets, float(p)), rtol=2e-6)
    assert len(find(rows[:0])) == 0


def test_the_2_norm_of_a_row_at_right_angles_to_every_target_is_nothing() -> None:
    targets = np.eye(24)[np.random.default_rng(0).integers(0, 12, 5000)]
    found = similar.Norm2(similar.root(similar.gram(targets)), "cpu")(np.eye(24)[12:])
    np.testing.assert_allclose(found, 0, atol=1e-5)


# -- over a pool


@pytest.mark.parametrize(("seed", "size", "shuffles", "tau"), [(0, 10, 1, 0.01), (1, 7, 3, 0.05), (2, 1000, 2, 0.01), (3, 2, 1, 0.5)])
def test_negcliploss_agrees_with_a_slow_reading(seed: int, size: int, shuffles: int, tau: float, tmp_path: Path) -> None:
    told = write(tmp_path / "pool", seed=seed, bad=(3, 40, 60, 61))
    found = of(told, measured(tmp_path / "pool", NegCLIPLoss(batch_size=size, shuffles=shuffles, temperature=tau)))
    expected = losses(told, size, shuffles, tau)
    assert np.isnan(expected).sum() == 4
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("p", ["2", "inf"])
def test_normsim_agrees_with_a_slow_reading(p: str, tmp_path: Path) -> None:
    told = write(tmp_path / "pool", bad=(5,))
    targets = (4 * np.random.default_rng(8).normal(size=(50, WIDTH))).astype(np.float16)
    torch.save({"image_features": torch.from_numpy(targets)}, tmp_path / "t.pt")
    found = of(told, measured(tmp_path / "pool", NormSim(str(tmp_path / "t.pt"), p)))
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(found, norms(told, targets, float(p)), rtol=2e-6)
    assert np.flatnonzero(np.isnan(found)).tolist() == [5]


def test_scores_do_not_depend_on_workers_engine_memory_or_the_order_of_rows(tmp_path: Path) -> None:
    told = write(tmp_path / "pool", (300, 200))
    score = NegCLIPLoss(batch_size=60, shuffles=2)
    first = measured(tmp_path / "pool", score)
    batch = 60 * 2 * 2 * WIDTH / 1e9
    less = RunOptions(num_workers=3, memory_gb=3 * 2.5 * batch)  # two batches at a time, of five
    assert measured(tmp_path / "pool", score, options=less, work="less") == first
    assert measured(tmp_path / "pool", score, options=RunOptions(engine="processes", num_workers=1), work="processes") == first
    turned = told | {name: np.concatenate([told[name][299::-1], told[name][:299:-1]]) for name in ("uids", "l14_img", "l14_txt")}
    cut(tmp_path / "turned", turned, (300, 200), compressed=True)
    assert measured(tmp_path / "turned", score, work="in another order") == first
    assert measured(tmp_path / "pool", score, options=RunOptions(seed=5, num_workers=2), work="seed") != first


def test_two_shuffles_share_what_one_has_measured(tmp_path: Path) -> None:
    write(tmp_path / "pool")
    measured(tmp_path / "pool", NegCLIPLoss(batch_size=9, shuffles=1))
    first = {path: path.stat().st_mtime_ns for path in (tmp_path / "w" / "stages").glob("contrast_of_batches-*/*.npy")}
    measured(tmp_path / "pool", NegCLIPLoss(batch_size=9, shuffles=2))
    both = {path: path.stat().st_mtime_ns for path in (tmp_path / "w" / "stages").glob("contrast_of_batches-*/*.npy")}
    assert len(both) == 2 * len(first) > 0
    assert first.items() <= both.items()


def test_targets_may_be_sampled_and_the_draw_follows_the_seed(tmp_path: Path) -> None:
    told = write(tmp_path / "pool")
    targets = np.random.default_rng(8).normal(size=(90, WIDTH)).astype(np.float32)
    np.save(tmp_path / "t.npy", targets)
    some = [
        of(told, measured(tmp_path / "pool", NormSim(str(tmp_path / "t.npy"), target_sample=20), options=RunOptions(seed=seed)))
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(some[0], some[1])
    assert (some[0] != some[2]).any()
    cosines = np.abs(unit(told["l14_img"].astype(np.float64)) @ unit(targets.astype(np.float64)).T)
    used = np.flatnonzero(np.isclose(cosines, some[0][:, None], atol=1e-6).any(axis=0))
    assert len(used) <= 20
    np.testing.assert_allclose(cosines[:, used].max(axis=1), some[0], atol=1e-6)
    whole = measured(tmp_path / "pool", NormSim(str(tmp_path / "t.npy"), target_sample=1000))
    np.testing.assert_allclose(of(told, whole), norms(told, targets, np.inf), atol=1e-6)


@pytest.mark.parametrize("p", ["2", "inf"])
def test_other_targets_under_the_same_name_are_measured_anew(p: str, tmp_path: Path) -> None:
    told = write(tmp_path / "pool")
    path = tmp_path / "t.npy"
    for seed in (1, 2):
        targets = np.random.default_rng(seed).normal(size=(40, WIDTH))
        np.save(path, targets)
        np.testing.assert_allclose(of(told, measured(tmp_path / "pool", NormSim(str(path), p))), norms(told, targets, float(p)), rtol=2e-6)


# -- as texts, on the command line, in a manifest


@pytest.mark.parametrize(
    "score",
    [
        NegCLIPLoss(),
        NegCLIPLoss("b32", 7, 2, 0.5),
        NormSim("t.npy"),
        NormSim("a,b=c.pt", "2", "b32_img", 9),
    ],
    ids=str,
)
def test_a_score_is_what_its_text_says(score: Score) -> None:
    assert type(score).of(str(score)) == score


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("normsim", "targets must name a file"),
        ("normsim:targets=missing.npy", "missing.npy"),
        ("normsim:targets=t.npy,p=3", "2, inf"),
        ("normsim:targets=narrow.npy", "its rows are 4 wide"),
        ("negcliploss:shuffles=0", "shuffles"),
        ("negcliploss:temperature=0", "temperature"),
        ("negcliploss:arch=h14", "l14, b32"),
        ("negcliploss:arch=b32", "'b32_img'"),
        ("negcliploss:batches=3", "'batches' is no option"),
    ],
)
@pytest.mark.parametrize("dry", [[], ["--dry_run"]], ids=["run", "dry run"])
def test_a_bad_score_is_told_in_one_line(
    text: str, said: str, dry: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "pool")
    monkeypatch.chdir(tmp_path)
    np.save("t.npy", np.ones((2, WIDTH)))
    np.save("narrow.npy", np.ones((2, 4)))
    assert topscore.main(["--metadata_dir", "pool", "--save_path", "o.npy", "--fraction", "0.5", "--score", text, *dry]) == 2
    line = capfd.readouterr().err
    assert said in line
    assert line.count("\n") == 1


def test_texts_of_another_width_and_a_pool_without_texts_are_refused(tmp_path: Path) -> None:
    told = write(tmp_path / "pool")
    cut(tmp_path / "odd", told | {"l14_txt": told["l14_txt"][:, :8]}, told["sizes"])
    with pytest.raises(BadInput, match="'l14_txt' 8"):
        measured(tmp_path / "odd", NegCLIPLoss())
    write_shard(tmp_path / "none", "0" * 32, told["uids"][:5], {"l14_img": told["l14_img"][:5]})
    with pytest.raises(BadInput, match="l14_txt"):
        measured(tmp_path / "none", NegCLIPLoss())


def test_a_batch_that_memory_does_not_hold_is_refused_before_work_starts(tmp_path: Path) -> None:
    write(tmp_path / "pool")
    with pytest.raises(BadInput, match=r"a batch of 70 pairs takes 4.5 kB, each of 4 workers may hold 2.0 kB.*--memory_gb"):
        measured(tmp_path / "pool", NegCLIPLoss(), options=RunOptions(num_workers=4, memory_gb=8e-6))


def test_densprune_takes_both_and_its_manifest_repeats_them_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "pool", (80, 60))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    np.save("t.npy", np.random.default_rng(0).normal(size=(30, WIDTH)))
    place = ["--metadata_dir", str(tmp_path / "pool"), "--concepts", "3", "--quiet"]
    for name, score in (("a", "negcliploss:shuffles=1,batch_size=32"), ("b", "normsim:targets=t.npy,p=2")):
        monkeypatch.chdir(tmp_path / "here")
        assert densprune.main([*place, "--score", score, "--dedup_prefer", "score", "--save_path", f"{name}.npy"]) == 0
        monkeypatch.chdir(tmp_path)
        assert densprune.main([*place, "--config", f"here/{name}.work/manifest.json", "--save_path", f"{name}.npy"]) == 0
        assert Path(f"{name}.npy").read_bytes() == Path(f"here/{name}.npy").read_bytes()
    config = json.loads(Path("here/b.work/manifest.json").read_text())["config"]
    assert config["score"] == config["dedup_score"] == f"normsim:targets={tmp_path}/here/t.npy,p=2"


def baseline(pool: Path, name: str, *more: str) -> set[str]:
    save_path = pool.parent / f"{name}.npy"
    assert run.main(["--name", name, "--metadata_dir", str(pool), "--save_path", str(save_path), "--quiet", *more]) == 0
    return {f"{uid:032x}" for uid in read_subset(save_path)}


def best(told: Told, values: F64, count: int) -> set[str]:
    """The uids of the largest; of equal ones the smaller."""
    ranked = sorted(zip(-values, told["uids"], strict=True))
    return {uid for _, uid in ranked[:count]}


def test_the_baselines_keep_what_the_paper_keeps(tmp_path: Path) -> None:
    told = write(tmp_path / "pool", (107, 50))
    targets = np.random.default_rng(3).normal(size=(40, WIDTH))
    np.save(tmp_path / "t.npy", targets)
    both = ("--negcliploss_batch_size", "20", "--negcliploss_shuffles", "2", "--normsim_targets", str(tmp_path / "t.npy"))
    scores, near = losses(told, 20, 2, 0.01), norms(told, targets, np.inf)
    first = best(told, scores, 47)
    assert baseline(tmp_path / "pool", "negcliploss", "--batch_size", "20", "--shuffles", "2") == first
    assert baseline(tmp_path / "pool", "normsim", "--targets", str(tmp_path / "t.npy"), "--fraction", "0.29") == best(told, near, 45)
    left = np.array([uid in first for uid in told["uids"]])
    assert baseline(tmp_path / "pool", "negcliploss_normsim", *both) == best(told, np.where(left, near, -1), 31)
    ranks = np.argsort(np.argsort([scores, near])).sum(axis=0)
    kept = baseline(tmp_path / "pool", "negcliploss_normsim_ranks", *both, "--ranks_size", "60")
    assert kept == best(told, ranks.astype(np.float64), 60)


def test_a_baseline_without_targets_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "pool")
    for name in ("normsim", "negcliploss_normsim", "negcliploss_normsim_ranks"):
        assert run.main(["--name", name, "--metadata_dir", str(tmp_path / "pool"), "--save_path", str(tmp_path / "o.npy")]) == 2
        assert "targets must name a file" in capfd.readouterr().err


def test_rows_of_equal_scores_have_equal_ranks_and_rows_without_one_are_invalid(tmp_path: Path) -> None:
    told = write(tmp_path / "pool", (30, 20))
    values = np.random.default_rng(0).integers(0, 6, (2, 50)).astype(np.float32)
    values[0, 4] = np.nan
    start = 0
    for number, size in enumerate((30, 20)):
        rows = slice(start, start + size)
        members = {name: told[name][rows] for name in ("l14_img", "l14_txt")}
        write_shard(tmp_path / "pool", f"{number:032x}", told["uids"][rows], members, values[0, rows], values[1, rows])
        start += size
    found = RankSum("l14", "b32", size=25).run(tmp_path / "pool", tmp_path / "o.npy", options=RunOptions(allow_invalid=True, num_workers=2))
    there = np.isfinite(values[0])
    ranks = sum((values[:, None, there] < values[:, :, None]).sum(axis=2))
    assert {f"{int(high):016x}{int(low):016x}" for high, low in found.uids()} == best(told, np.where(there, ranks, -1.0), 25)
    assert found.status["invalid"] == 1


# -- what it will take


def targets_file(folder: Path, count: int, width: int = WIDTH) -> str:
    np.save(folder / f"{count}.npy", np.random.default_rng(count).normal(size=(count, width)).astype(np.float16))
    return str(folder / f"{count}.npy")


RECIPES: dict[str, Callable[[str], Recipe]] = {
    "negcliploss": lambda path: TopScore("negcliploss:batch_size=20,shuffles=2", 0.5),
    "normsim, 2": lambda path: TopScore(f"normsim:targets={path},p=2", 0.5),
    "ranks": lambda path: RankSum("negcliploss:batch_size=20,shuffles=1", f"normsim:targets={path}", 0.2),
}


@pytest.mark.parametrize("name", RECIPES)
def test_the_passes_and_bytes_of_a_plan_are_those_of_the_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "SECONDS", 0.0)  # every kernel is tried once
    write(tmp_path / "pool", (70, 0, 50))
    recipe = RECIPES[name](targets_file(tmp_path, 30))
    plan, seen = recipe.plan(tmp_path / "pool", tmp_path / "o.npy"), Seen(tmp_path / "o.work")
    done = recipe.run(tmp_path / "pool", tmp_path / "o.npy", progress=seen)
    assert told([(one.stage, one.name, one.samples) for one in plan.passes]) == told(seen.passes)
    stage = json.loads((done.work_dir / "manifest.json").read_text())["stages"][0]
    assert sum(one.bytes_read for one in plan.passes if one.stage == stage["stage"]) == stage["bytes_read"]


def test_a_plan_counts_every_pair_of_a_batch_and_every_target(tmp_path: Path) -> None:
    write(tmp_path / "pool", (70, 0, 50))
    pool = Pool.open(tmp_path / "pool")

    def units(score: Score, kernel: Callable[..., object]) -> float:
        plan = Plan(pool, Settings(), 1)
        with plan.stage("topscore", 120):
            score.expect(plan, 120)
        return float(sum(amount * named.arguments[-1] for named, amount in plan.shares().items() if named.prepare is kernel))

    for shuffles in (1, 10):
        counted = units(NegCLIPLoss(batch_size=20, shuffles=shuffles), contrasting) / TRIED[0]
        assert counted == pytest.approx(shuffles * (70**2 / 4 + 50**2 / 3))
    for count, sample, seen in ((30, None, 30), (5000, None, 5000), (5000, 40, 40)):
        assert units(NormSim(targets_file(tmp_path, count), target_sample=sample), comparing) == 120 * seen
    assert lasting(3.14 * 86400) == "3.1 d"
