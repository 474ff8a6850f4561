"""SSP, VAS-D and D2 beside slow readings of them in float64, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from baselines import d2 as d2_page
from baselines import run
from baselines.d2 import D2
from baselines.ssp import SSP
from baselines.vas_d import TOGETHER, VasD
from filters.densprune import DensityPrune
from filters.filter import Filter, Recipe
from filters.maths.blocks import BLOCK
from filters.maths.graph import chosen, neighbours
from filters.maths.variance import ONE, STAYS, Survivors, aligned, outer, per_round, smallest
from filters.options import RunOptions
from filters.outcome import Outcome
from filters.pool.pool import Pool
from filters.topscore import TopScore
from filters.work import rates
from filters.work.engine import Engine, one_thread_each
from filters.work.work import Settings, Silent, Work
from filters.work.workdir import WorkDir
from tests.pools import Array, blobs, random_uids, read_subset, unit, write_shard

GPU = pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")])


def make(
    folder: Path, seed: int, sizes: tuple[int, ...] = (50, 0, 60, 40), width: int = 16, told: dict[str, Any] | None = None
) -> dict[str, Any]:
    """A pool with copies of rows under other uids, copies of scores, and one row that is not finite; returns what was written."""
    rng, n = np.random.default_rng(seed), sum(sizes)
    if told is None:
        told = {name: blobs(rng, n) for name in ("l14_img", "l14_txt")}
        told |= {"uids": random_uids(rng, n), "l14": rng.normal(0.25, 0.05, n).astype(np.float32)}
        for at in range(5, n, 9):
            for name in ("l14_img", "l14_txt", "l14"):
                told[name][at] = told[name][at - 4]
        told["l14_img"][7] = np.nan
    for number, end in enumerate(np.cumsum(sizes)):
        rows = slice(end - sizes[number], end)
        members = {name: told[name][rows] for name in ("l14_img", "l14_txt")}
        write_shard(folder, f"{number:032x}", told["uids"][rows], members, told["l14"][rows])
    return told


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forecasts try each kernel no longer than they must, and what is called without a run computes as it does in one."""
    monkeypatch.setattr(rates, "SECONDS", 0.0)
    with one_thread_each():
        yield


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    make(tmp_path / "pool", 7)
    return tmp_path / "pool"


def valid(told: dict[str, Any]) -> list[int]:
    return [at for at in range(len(told["uids"])) if np.isfinite(told["l14_img"][at]).all()]


def units(told: dict[str, Any], name: str = "l14_img") -> Array:
    return unit(told[name].astype(np.float64))


def uid(told: dict[str, Any], at: int) -> int:
    return int(told["uids"][at], 16)


def samples(outcome: Outcome) -> list[dict[str, Any]]:
    return [row for path in sorted((outcome.work_dir / "samples").iterdir()) for row in pq.read_table(path).to_pylist()]


def kept(recipe: Recipe, folder: Path, name: str = "o", **options: Any) -> set[int]:
    recipe.run(folder, folder.parent / f"{name}.npy", options=RunOptions(**options))
    return set(read_subset(folder.parent / f"{name}.npy"))


# -- SSP


@pytest.mark.parametrize(("seed", "concepts", "balance"), [(0, 6, 0.5), (1, 6, 1.0), (2, 6, 0.0), (3, 1, 0.5)])
def test_ssp_keeps_a_floor_of_each_concept_and_then_the_farthest(seed: int, concepts: int, balance: float, tmp_path: Path) -> None:
    told = make(tmp_path / "pool", seed)
    outcome = SSP(concepts=concepts, balance=balance, size=60).run(tmp_path / "pool", tmp_path / "o.npy")
    rows, centroids = samples(outcome), np.load(outcome.work_dir / "ssp_centroids.npy").astype(np.float64)
    assert {len(rows), outcome.status["invalid"]} == {150, 1}
    for at in valid(told):
        cosines = units(told)[at] @ centroids.T
        assert cosines[rows[at]["ssp_concept"]] >= cosines.max() - 1e-6
        assert rows[at]["ssp_distance"] == pytest.approx(1 - cosines.max(), abs=1e-6)
    hardest = sorted(valid(told), key=lambda at: (-rows[at]["ssp_distance"], uid(told, at)))
    expected: list[int] = []
    for concept in range(concepts):
        expected += [at for at in hardest if rows[at]["ssp_concept"] == concept][: int(balance * 60 / concepts)]
    expected += [at for at in hardest if at not in expected][: 60 - len(expected)]
    assert set(read_subset(tmp_path / "o.npy")) == {uid(told, at) for at in expected}


def test_ssp_and_density_pruning_share_their_concepts_in_one_work_folder(pool: Path, tmp_path: Path) -> None:
    DensityPrune(concepts=6, size=50).run(pool, tmp_path / "o.npy")
    SSP(concepts=6, size=50).run(pool, tmp_path / "o.npy")
    assert json.loads((tmp_path / "o.work" / "manifest.json").read_text())["bytes_read"] == 0


# -- VAS-D


def vas_d(told: dict[str, Any], start: list[int], target: int, rounds: int) -> set[int]:
    """One sample after another, all values in every round."""
    f, whole, live = units(told), valid(told), list(start)
    of = np.mean([np.outer(f[at], f[at]) for at in whole], axis=0)
    each = -(-(len(live) - target) // rounds)
    while len(live) > target:
        ranked = sorted(live, key=lambda at: (f[at] @ of @ f[at], -uid(told, at)))
        gone = ranked[: min(each, len(live) - target)]
        live = [at for at in live if at not in gone]
        of = np.mean([np.outer(f[at], f[at]) for at in live], axis=0)
    return {uid(told, at) for at in live}


@pytest.mark.parametrize(("seed", "rounds"), [(0, 1), (1, 8), (2, 8), (0, 500), (2, 500)])
def test_vas_d_keeps_what_a_slow_reading_keeps(seed: int, rounds: int, tmp_path: Path) -> None:
    told = make(tmp_path / "pool", seed)
    ranked = sorted(range(150), key=lambda at: (-told["l14"][at], uid(told, at)))
    start = [at for at in ranked[:90] if at in valid(told)]
    found = kept(TopScore(fraction=0.6, of="pool") >> VasD(fraction=0.4, rounds=rounds), tmp_path / "pool")
    assert found == vas_d(told, start, 60, rounds)


def test_vas_d_tells_in_which_round_a_sample_left(pool: Path, tmp_path: Path) -> None:
    outcome = VasD(size=100, rounds=7).run(pool, tmp_path / "o.npy")
    left = [row["vas_round"] for row in samples(outcome)]
    assert [left.count(at) for at in (*range(1, 9), None)] == [7, 7, 7, 7, 7, 7, 7, 100, 1]


def test_the_first_round_of_vas_d_looks_at_the_whole_pool(tmp_path: Path) -> None:
    """Seen from the pool the rows of one direction are many; among the best scores they are few."""
    n = 60
    told: dict[str, Any] = {name: np.zeros((n, 16), np.float16) for name in ("l14_img", "l14_txt")}
    told["l14_img"][:, 1], told["l14_txt"][:, 0] = 1, 1
    told["l14_img"][:12] = np.eye(16)[[0, 0, 0, 0] + [2] * 8]  # the best scores: 4 in one direction, 8 in another
    told["l14_img"][12:50] = np.eye(16)[0]
    told |= {"uids": random_uids(np.random.default_rng(0), n), "l14": np.linspace(1, 0, n, dtype=np.float32)}
    make(tmp_path / "pool", 0, (40, 20), told=told)
    found = kept(TopScore(fraction=0.2, of="pool") >> VasD(size=4, rounds=1), tmp_path / "pool")
    assert found == {uid(told, at) for at in range(4)}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("device", ["cpu", "cpu:0", GPU])
def test_rows_that_are_not_looked_at_again_would_not_have_left(seed: int, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(seed)
    rows, uids = blobs(rng, 3000, 24, kinds=30), rng.integers(0, 1 << 62, (3000, 2)).astype(np.uint64)
    rows[::50] = rows[1::50]
    counts, looked, found = per_round(3000, 1900, 100), [], []
    for everything in (False, True):
        if everything:
            monkeypatch.setattr(Survivors, "_may_leave", lambda self, live, count, of: np.ones(len(live), bool))
        survivors = Survivors(rows, uids, np.full(3000, STAYS, np.int16), 2, device)
        looked.append(sum(survivors.drop(number + 1, count) for number, count in enumerate(counts)))
        found.append(survivors.left)
        survivors.close()
    np.testing.assert_array_equal(found[0], found[1])
    assert looked[0] < looked[1] / 2


def test_the_sums_that_variance_is_made_of_are_exact_in_any_order() -> None:
    rng = np.random.default_rng(0)
    rows = torch.from_numpy(unit(rng.normal(size=(20_000, 8))).astype(np.float32))
    whole = [[round(float(x) * ONE) for x in row] for row in rows[:40]]
    assert outer(rows[:40]).tolist() == [[sum(row[i] * row[j] for row in whole) for j in range(8)] for i in range(8)]
    order = torch.from_numpy(rng.permutation(20_000))
    np.testing.assert_array_equal(outer(rows), outer(rows[order[:7777]]) + outer(rows[order[7777:]]))


def test_a_row_has_the_same_alignment_wherever_it_lies() -> None:
    rng = np.random.default_rng(1)
    rows = torch.from_numpy(unit(rng.normal(size=(3 * BLOCK + 100, 48))).astype(np.float32))
    of = torch.from_numpy(np.cov(rng.normal(size=(48, 100))).astype(np.float32))
    whole, order = aligned(rows, of), torch.from_numpy(rng.permutation(len(rows)))
    np.testing.assert_array_equal(aligned(rows[order], of), whole[order])
    np.testing.assert_array_equal(aligned(rows[order[:5]], of), whole[order[:5]])
    np.testing.assert_allclose(whole, np.einsum("ij,jk,ik->i", rows, of.double(), rows), rtol=1e-5)


def test_of_equal_values_the_largest_uids_are_smallest() -> None:
    uids = np.array([[1, 5], [1, 9], [2, 0], [0, 0]], np.uint64)
    assert sorted(smallest(np.array([3, 3, 3, 1], np.float32), uids, 3).tolist()) == [1, 2, 3]


@pytest.mark.parametrize(("start", "target", "rounds"), [(100, 40, 7), (100, 40, 60), (100, 40, 500), (100, 99, 3), (10, 10, 5)])
def test_rounds_are_equal_but_the_last_and_land_exactly(start: int, target: int, rounds: int) -> None:
    counts = per_round(start, target, rounds)
    assert sum(counts) == start - target
    assert len(counts) <= rounds
    assert set(counts[:-1]) <= {-(-(start - target) // rounds)}


class Stopping(Silent):
    """Interrupts a pass after so many steps, and counts how many it saw."""

    def __init__(self, name: str, after: int | None = None) -> None:
        self.name, self.after, self.seen, self.inside = name, after, 0, False

    def begin(self, name: str, samples: int) -> None:
        self.inside = name == self.name

    def advance(self, samples: int, size: int = 0) -> None:
        self.seen += self.inside
        if self.seen == self.after:
            raise KeyboardInterrupt


def test_vas_d_goes_on_where_it_was_interrupted(pool: Path, tmp_path: Path) -> None:
    recipe = VasD(size=50, rounds=90)
    whole = kept(recipe, pool, "whole")
    with pytest.raises(KeyboardInterrupt):
        recipe.run(pool, tmp_path / "o.npy", progress=Stopping("leave: rounds", 2 * TOGETHER - 5))
    watch = Stopping("leave: rounds")
    recipe.run(pool, tmp_path / "o.npy", progress=watch)
    assert watch.seen == 50 - TOGETHER  # of two a round, 99 samples leave in 50 rounds
    assert set(read_subset(tmp_path / "o.npy")) == whole
    assert not list((tmp_path / "o.work").rglob("inside"))


def test_samples_outside_do_not_count_for_the_first_round(tmp_path: Path) -> None:
    told = make(tmp_path / "pool", 5)
    half = {name: values[:75] for name, values in told.items()}
    make(tmp_path / "half", 5, (75,), told=half)
    np.save(
        tmp_path / "half_uids.npy", np.array(sorted((uid(half, at) >> 64, uid(half, at) % 2**64) for at in range(75)), np.dtype("u8,u8"))
    )
    recipe = TopScore(fraction=0.5, of="pool") >> VasD(fraction=0.2, rounds=2)
    within = {"within": str(tmp_path / "half_uids.npy"), "allow_invalid": True}
    assert kept(recipe, tmp_path / "pool", "one", **within) == kept(recipe, tmp_path / "half", "two", allow_invalid=True)


# -- D2


def d2(told: dict[str, Any], members: tuple[str, ...], k: int, gamma: float, count: int) -> set[int]:
    """Every pair of samples, and a whole list looked through for every choice."""
    places = sorted(valid(told), key=lambda at: uid(told, at))
    cosines = np.round(sum(units(told, name)[places] @ units(told, name)[places].T for name in members), 6)
    far = 2 * (len(members) - cosines)
    near = [sorted((j for j in range(len(places)) if j != i), key=lambda j: (far[i, j], j))[:k] for i in range(len(places))]
    score = [max(float(told["l14"][at]) + 0.115, 1e-7) for at in places]
    now = [score[i] + sum(np.exp(-far[i, j]) * score[j] for j in near[i]) for i in range(len(places))]
    found: list[int] = []
    while len(found) < count:
        best = max((i for i in range(len(places)) if i not in found), key=lambda i: (round(now[i], 9), -i))
        found.append(best)
        for j in near[best]:
            now[j] -= np.exp(-gamma * far[best, j]) * now[best]
    return {uid(told, places[i]) for i in found}


@pytest.mark.parametrize(
    ("seed", "features", "k", "gamma"),
    [(0, "l14_img,l14_txt", 1, 1.0), (1, "l14_img,l14_txt", 1, 1.0), (2, "l14_img", 5, 0.3), (3, "l14_txt,l14_img", 148, 2.0)],
)
def test_d2_keeps_what_a_slow_reading_keeps(seed: int, features: str, k: int, gamma: float, tmp_path: Path) -> None:
    told = make(tmp_path / "pool", seed)
    found = kept(D2(features=features, neighbors=k, gamma=gamma, fraction=0.4), tmp_path / "pool")
    assert found == d2(told, tuple(features.split(",")), k, gamma, 60)


@pytest.mark.parametrize("device", ["cpu", "cpu:0", GPU])
def test_neighbours_are_the_nearest_and_of_equals_the_first(device: str) -> None:
    rng = np.random.default_rng(3)
    rows = blobs(rng, 5000, 12, kinds=300)
    rows[100::7] = rows[3::7][: len(rows[100::7])]
    order = rng.permutation(5000)[:4900]
    near, far = neighbours([rows], order, 4096, 4, device)
    f = unit(rows[order].astype(np.float64))
    cosines = np.round(f[4096 : 4096 + len(near)] @ f.T, 6)
    cosines[np.arange(len(near)), 4096 + np.arange(len(near))] = -2
    expected = np.argsort(-cosines, axis=1, kind="stable")[:, :4]
    assert len(near) == 4900 - 4096 if device != "cpu" else BLOCK
    np.testing.assert_allclose(far, 2 * (1 - np.take_along_axis(cosines, expected, 1)), atol=4e-6)
    copies = np.take_along_axis(cosines, expected, 1) == 1
    np.testing.assert_array_equal(near[copies], expected[copies])


def test_d2_goes_on_where_it_was_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "pool", 6, (1500, 1300))
    monkeypatch.setattr(d2_page, "TOGETHER", 1)
    recipe = D2(size=500)
    whole = kept(recipe, tmp_path / "pool", "whole")
    with pytest.raises(KeyboardInterrupt):
        recipe.run(tmp_path / "pool", tmp_path / "o.npy", progress=Stopping("choose: neighbours", 2))
    watch = Stopping("choose: neighbours")
    recipe.run(tmp_path / "pool", tmp_path / "o.npy", progress=watch)
    assert watch.seen == 2  # of three blocks of 1024
    assert set(read_subset(tmp_path / "o.npy")) == whole


@pytest.mark.parametrize("k", [0, 4])
def test_more_neighbours_than_rows_are_no_question(k: int) -> None:
    with pytest.raises(ValueError, match="k must be 1 to 3"):
        neighbours([np.eye(4, dtype=np.float16)], np.arange(4), 0, k)


def test_choices_that_raise_a_neighbour_are_heeded() -> None:
    """A score below nothing takes less than nothing: its neighbour gains."""
    near, far = np.array([[1], [2], [1]], np.int32), np.zeros((3, 1), np.float32)
    assert chosen(np.array([5.0, -1.0, -3.0]), near, far, 1.0, 3).tolist() == [0, 2, 1]


# -- all of them

ALL: dict[str, Filter] = {"ssp": SSP(concepts=5, size=40), "vas_d": VasD(size=40, rounds=30), "d2": D2(size=40, neighbors=3)}


@pytest.mark.parametrize("name", ALL)
def test_the_cut_into_shards_the_order_and_the_workers_change_nothing(name: str, tmp_path: Path) -> None:
    told = make(tmp_path / "pool", 4)
    order = np.random.default_rng(0).permutation(150)
    mixed = {name: [values[at] for at in order] if isinstance(values, list) else values[order] for name, values in told.items()}
    make(tmp_path / "mixed", 4, (100, 3, 47), told=mixed)
    assert kept(ALL[name], tmp_path / "pool", "one", num_workers=1) == kept(ALL[name], tmp_path / "mixed", "two", num_workers=3)


def test_processes_keep_what_threads_keep(pool: Path) -> None:
    both = (ALL["vas_d"] & ALL["d2"]) | ALL["ssp"]
    assert kept(both, pool, "one") == kept(both, pool, "two", engine="processes", num_workers=1)


@pytest.mark.parametrize("name", ["vas_d", "d2"])
@pytest.mark.parametrize("device", ["cpu:0", GPU])
def test_a_gpu_keeps_the_same(name: str, device: str, pool: Path, tmp_path: Path) -> None:
    with Engine("threads", 2) as engine:
        held = WorkDir(tmp_path / "gpu.work")
        verdict = ALL[name].verdict(Work(Pool.open(pool), held, engine, Settings(device=device)), None)
        held.close()
    masks = [verdict.kept.mask(shard) for shard in range(4)]
    outcome = ALL[name].run(pool, tmp_path / "o.npy")
    assert np.concatenate(masks).tolist() == [row["status"] == "kept" for row in samples(outcome)]


class Named(Silent):
    """The passes of a run."""

    def __init__(self) -> None:
        self.passes: list[tuple[str, str]] = []
        self.at = ""

    def stage(self, name: str) -> None:
        self.at = name

    def begin(self, name: str, samples: int) -> None:
        self.passes.append((self.at, name))


def without_candidates(passes: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [one for one in passes if not one[1].endswith("candidates")]


@pytest.mark.parametrize("name", ALL)
def test_the_passes_of_a_plan_are_those_of_the_run(name: str, pool: Path, tmp_path: Path) -> None:
    plan, seen = ALL[name].plan(pool, tmp_path / "o.npy"), Named()
    ALL[name].run(pool, tmp_path / "o.npy", progress=seen)
    assert without_candidates([(one.stage, one.name) for one in plan.passes]) == without_candidates(seen.passes)
    assert plan.kept == 40
    assert plan.short is None


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    def call(pool: Path, *arguments: str) -> str:
        save = pool.parent / "refused.npy"
        before = list(pool.parent.iterdir())
        assert run.main(["--metadata_dir", str(pool), "--save_path", str(save), *arguments]) == 2
        assert "--dry_run" not in arguments or before == list(pool.parent.iterdir())
        return capsys.readouterr().err.splitlines()[-1]

    yield call


@pytest.mark.parametrize("name", ["vas_d", "normsim_d", "d2"])
def test_rows_beyond_the_memory_asked_for_are_refused_before_the_work_by_run_and_dry_run_alike(name: str, pool: Path, refused: Any) -> None:
    arguments = ["--name", name, "--fraction", "0.1", "--memory_gb", "0.000001"]
    line = refused(pool, *arguments)
    assert "--memory_gb 1" in line
    assert "kB" in line
    assert not (pool.parent / "refused.work").exists()
    assert refused(pool, *arguments, "--dry_run") == line


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--name", "d2", "--fraction", "0.4", "--neighbors", "149"), "149 neighbours asked for, 149 samples left"),
        (("--name", "d2", "--size", "150"), "150 samples asked for, 149 left"),
        (("--name", "d2", "--size", "15", "--features", "l14_img,clip"), "clip"),
        (("--name", "vas_d", "--fraction", "0.4"), "60 samples asked for, 44 left"),
        (("--name", "vas_d", "--fraction", "0.001"), "0 samples asked for"),
        (("--name", "ssp", "--size", "150"), "150 samples asked for, 149 left"),
        (("--name", "ssp", "--size", "15", "--concepts", "151"), "151 clusters asked for"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(arguments: tuple[str, ...], word: str, pool: Path, refused: Any) -> None:
    assert word in refused(pool, "--allow_invalid", *arguments)


def test_vas_d_starts_from_the_best_of_the_pool(pool: Path, tmp_path: Path) -> None:
    save = tmp_path / "command.npy"
    more = ["--fraction", "0.2", "--rounds", "9", "--score_fraction", "0.5", "--quiet"]
    assert run.main(["--name", "vas_d", "--metadata_dir", str(pool), "--save_path", str(save), *more]) == 0
    assert set(read_subset(save)) == kept(TopScore(fraction=0.5, of="pool") >> VasD(fraction=0.2, rounds=9), pool)
