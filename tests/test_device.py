"""What a GPU computes beside what the CPU does. `cpu:0` is the CPU by the GPU's way: everything here runs on it in every run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from filters.densprune import DensityPrune
from filters.maths import device as ways
from filters.maths import kmeans, pairs, split
from filters.maths.arrays import F32
from filters.maths.blocks import TILE
from filters.maths.search import Cells, Flat, Levels, Search, nearest_to
from filters.options import RunOptions
from filters.outcome import Verdict
from filters.pool.columns import unpacked
from filters.pool.errors import BadInput
from filters.pool.pool import Pool
from filters.semdedup import SemDeDup
from filters.topscore import TopScore
from filters.work import rates
from filters.work.engine import Engine
from filters.work.work import Settings, Work
from filters.work.workdir import WorkDir
from tests import reference
from tests.pools import Array, blobs, unit, write_pool
from tools import bench_gpu

GPU = torch.cuda.is_available()
on_a_gpu = [pytest.mark.gpu, pytest.mark.skipif(not GPU, reason="no GPU that torch can use")]
everywhere = pytest.mark.parametrize("device", ["cpu:0", pytest.param("cuda", marks=on_a_gpu)])
CLOSE = 4e-6 if GPU else 2e-6  # tensor cores round sums toward zero
KINDS = [np.float16, np.float32, np.float64]


def unlike(count: int, width: int, seed: int, kind: type = np.float16) -> Array:
    """Rows of many lengths, as float16 has them."""
    rng = np.random.default_rng(seed)
    rows = blobs(rng, count, width, kinds=40, spread=0.7).astype(np.float32)
    return (rows * 2.0 ** rng.integers(-3, 8, (count, 1))).astype(np.float16).astype(kind)


def directions(count: int, width: int, seed: int) -> F32:
    """Unit rows in twos that no single float16 tells apart."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(count, width))
    rows[1::2] = rows[: count // 2 * 2 : 2] * (1 + 2e-4 * rng.normal(size=(count // 2, width)))
    return unit(rows).astype(np.float32)


def assert_nearest(find: Search, raw: Array, centroids: Array, of_cpu: Search) -> None:
    """Labels are the CPU's but for ties, cosines those of float64."""
    found, expected = find(raw), of_cpu(raw)
    products = unit(raw.astype(np.float64)) @ centroids.astype(np.float64).T
    np.testing.assert_allclose(found.cosines, np.take_along_axis(products, found.labels[:, None], 1)[:, 0], atol=CLOSE)
    other = found.labels != expected.labels
    theirs = np.take_along_axis(products, expected.labels[:, None], 1)[:, 0]
    np.testing.assert_allclose(found.cosines[other], theirs[other], atol=CLOSE)
    assert other.mean() < 0.01


@everywhere
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 60, TILE + 300])
def test_labels_are_the_cpus_but_for_ties(device: str, kind: type, k: int) -> None:
    raw, centroids = unlike(ways.STEP + 900, 48, k, kind), directions(k, 48, k)
    assert_nearest(split.Split(centroids, device), raw, centroids, Flat(centroids))


@everywhere
def test_the_second_part_tells_centroids_apart_that_one_float16_does_not(device: str) -> None:
    raw, centroids = unlike(4000, 64, 1), directions(80, 64, 1)
    products = unit(raw.astype(np.float64)) @ centroids.astype(np.float64).T
    clear = np.diff(np.sort(products, axis=1)[:, -2:])[:, 0] > CLOSE
    in_one = unit(raw.astype(np.float64)) @ centroids.astype(np.float16).astype(np.float64).T
    assert (in_one.argmax(axis=1) != products.argmax(axis=1))[clear].mean() > 0.1
    np.testing.assert_array_equal(split.Split(centroids, device)(raw).labels[clear], products.argmax(axis=1)[clear])


@everywhere
def test_two_parts_hold_a_centroid_to_22_bits(device: str) -> None:
    centroids = directions(50, 64, 2) * (2.0 ** np.random.default_rng(0).integers(-14, 1, (50, 64))).astype(np.float32)
    first, second = split.parts(torch.from_numpy(centroids).to(device)).cpu().numpy().astype(np.float64).swapaxes(0, 1)
    np.testing.assert_allclose(first + second / split.SCALE, centroids, rtol=2.0**-22, atol=2.0**-36)


@everywhere
@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_of_equal_centroids_the_first_is_taken(device: str, kind: type) -> None:
    few = directions(7, 32, 3)[::2]
    find = split.Split(np.resize(few, (2 * TILE + 5, 32)), device)
    assert set(find(unlike(3000, 32, 3, kind)).labels.tolist()) == {0, 1, 2, 3}


def levels_of(centroids: F32) -> Levels:
    coarse = kmeans.train(centroids, len(centroids) // 10, 3)
    return Levels(coarse, nearest_to(coarse, centroids))


@everywhere
@pytest.mark.parametrize("kind", KINDS)
def test_two_levels_give_the_cpus_labels_but_for_ties(device: str, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    centroids = directions(700, 48, 4)
    raw, levels = unlike(5000, 48, 4, kind), levels_of(centroids)
    assert_nearest(split.SplitCells(centroids, levels, device), raw, centroids, Cells(centroids, levels))
    whole = split.SplitCells(centroids, levels, device)(raw)
    monkeypatch.setattr(split, "HELD_BYTES", 1000 * raw.itemsize * raw.shape[1])  # less on the device at a time
    np.testing.assert_array_equal(split.SplitCells(centroids, levels, device)(raw).labels, whole.labels)


@pytest.fixture(params=["all compared", "two levels"])
def search(request: pytest.FixtureRequest, device: str) -> Search:
    centroids = directions(300, 48, 5)
    return split.Split(centroids, device) if request.param == "all compared" else split.SplitCells(centroids, levels_of(centroids), device)


@everywhere
def test_a_row_has_the_same_numbers_wherever_it_lies(search: Search) -> None:
    raw = unlike(ways.STEP + 500, 48, 5)
    whole, order = search(raw), np.random.default_rng(0).permutation(len(raw))
    for part in (order, order[:1], order[5:400], np.repeat(order[7], 70)):
        found = search(raw[part])
        np.testing.assert_array_equal(found.labels, whole.labels[part])
        np.testing.assert_array_equal(found.cosines, whole.cosines[part])


@everywhere
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_that_is_not_finite_or_all_zero_has_no_cosine(search: Search, kind: type) -> None:
    raw = unlike(40, 48, 6, kind)
    raw[3], raw[5, 2], raw[7, 0], raw[9] = 0, np.inf, np.nan, -np.inf
    assert np.flatnonzero(np.isnan(search(raw).cosines)).tolist() == [3, 5, 7, 9]


@everywhere
def test_rows_arrive_as_they_were_whatever_the_number_of_threads(device: str) -> None:
    """More threads than lanes, and each lane's buffers used many times over, for rows of many widths."""

    def sent(number: int) -> bool:
        rng = np.random.default_rng(number)
        rows = rng.normal(size=(ways.STEP * 2 + number, 3 + number % 5)).astype(KINDS[number % 3])
        with ways.lane(device) as mine:
            arrived = torch.cat([step.clone() for step in mine.steps(rows)]).cpu().numpy()
        return np.array_equal(arrived[: len(rows)], rows) and not arrived[len(rows) :].any() and len(arrived) % ways.STEP == 0

    with ThreadPoolExecutor(3 * ways.LANES) as threads:
        assert all(threads.map(sent, range(40)))


# Pairs

CLUSTERS = [(1,), (2,), (40, 1, 1, 16, 17), (300,), (3,) * 900, (1, 256, 257), (1501, 20), (pairs.LARGEST + 700,)]


@everywhere
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", CLUSTERS, ids=str)
def test_similarities_are_the_cpus(device: str, kind: type, sizes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(len(sizes))
    rows = (blobs(rng, sum(sizes), 32) * 2.0 ** rng.integers(-2, 6, (sum(sizes), 1))).astype(kind)
    order, ends = rng.permutation(len(rows)), np.cumsum([0, *sizes])
    similarity, of = pairs.earlier_max(rows, order, ends, device)
    expected, _ = pairs.earlier_max(rows, order, ends)
    np.testing.assert_allclose(similarity, expected, atol=CLOSE)
    known, exact = np.flatnonzero(of >= 0), unit(rows.astype(np.float64))[order]
    np.testing.assert_allclose((exact[known] * exact[of[known]]).sum(axis=1), similarity[known], atol=CLOSE)
    starts = ends[np.searchsorted(ends, known, side="right") - 1]
    assert ((starts <= of[known]) & (of[known] < known)).all()


@everywhere
def test_blocks_that_are_not_kept_on_the_device_are_sent_again(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = blobs(np.random.default_rng(8), 3 * pairs.LARGEST, 32)
    arguments = (rows, np.random.default_rng(0).permutation(len(rows)), np.array([0, len(rows)]), device)
    kept = pairs.earlier_max(*arguments)
    monkeypatch.setattr(pairs, "KEPT_BYTES", 0)
    for mine, theirs in zip(pairs.earlier_max(*arguments), kept, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@everywhere
@pytest.mark.parametrize("n", [2, 70, 700, pairs.LARGEST + 9])
def test_of_equal_earlier_rows_the_first_is_named(device: str, n: int) -> None:
    rows = np.repeat(blobs(np.random.default_rng(0), 1), n, axis=0)
    assert pairs.earlier_max(rows, np.arange(n), np.array([0, n]), device)[1].tolist() == [-1] + [0] * (n - 1)


# k-means


@everywhere
def test_kmeans_is_as_good_as_the_cpus_and_the_same_for_any_workers_and_place(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    points = unlike(3 * ways.STEP, 32, 9)
    centroids = kmeans.train(points, 50, 8, 1, device)
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-6)
    assert Flat(centroids)(points).cosines.mean() == pytest.approx(Flat(kmeans.train(points, 50, 8))(points).cosines.mean(), abs=1e-3)
    np.testing.assert_array_equal(kmeans.train(points, 50, 8, 3, device), centroids)
    monkeypatch.setattr(ways, "RESIDENT", 0)
    np.testing.assert_array_equal(kmeans.train(points, 50, 8, 2, device), centroids)


# Whole stages

RECIPE = SemDeDup(fraction=0.7, clusters=9) >> TopScore(fraction=0.5) >> DensityPrune(concepts=7, size=150)


@pytest.fixture
def finished(device: str, tmp_path: Path) -> Iterator[tuple[Work, Verdict]]:
    write_pool(tmp_path / "pool", np.random.default_rng(11), (500, 0, 450, 300))
    held = WorkDir(tmp_path / "work")
    with Engine("threads", 2) as engine:
        work = Work(Pool.open(tmp_path / "pool"), held, engine, Settings(device=device))
        yield work, RECIPE.verdict(work, None)
    held.close()


def whole(work: Work, verdict: Verdict) -> dict[str, Array]:
    """The verdict's columns, the rows' own, and which rows were dropped where, in the pool's order."""
    keys = [shard.key for shard in work.pool.shards]
    told = {name: np.concatenate([np.asarray(column.read(key)) for key in keys]) for name, column in verdict.columns.items()}
    for name, rows in [("kept", verdict.kept), *verdict.dropped]:
        told[name] = np.concatenate([unpacked(bits, n) for bits, n in zip(rows.bits, rows.lengths, strict=True)])
    tables = [pq.read_table(shard.parquet, columns=["uid"]) for shard in work.pool.shards]
    told["uid"] = np.array([int(uid, 16) for table in tables for uid in table["uid"].to_pylist()], object)
    return told


@everywhere
def test_each_stage_keeps_what_its_columns_say(finished: tuple[Work, Verdict]) -> None:
    told = whole(*finished)

    def first(count: int, rows: Array, column: str, sign: int) -> set[int]:
        return reference.first(count, rows.tolist(), lambda row: sign * float(told[column][row]), lambda row: told["uid"][row])

    every = np.arange(1250)
    after_dedup = first(875, every, "dedup_similarity", 1)
    assert set(np.flatnonzero(~told["semdedup"])) == after_dedup
    after_score = first(437, np.array(sorted(after_dedup)), "score", -1)
    assert set(np.flatnonzero(told["kept"] | told["densityprune"])) == after_score
    assert told["kept"].sum() == 150
    for concept in range(7):
        members = np.array([row for row in sorted(after_score) if told["concept"][row] == concept])
        kept = members[told["kept"][members]]
        assert set(kept) == first(len(kept), members, "distance", -1)


@everywhere
def test_each_stage_measures_what_the_cpu_does_from_the_same_centroids(finished: tuple[Work, Verdict]) -> None:
    work, verdict = finished
    told = whole(work, verdict)
    vectors = np.concatenate([np.load(str(shard.member("l14_img").path))["l14_img"] for shard in work.pool.shards])
    for centroids, label, distance in (("dedup_centroids", "dedup_cluster", "dedup_distance"), ("centroids", "concept", "distance")):
        seen = np.flatnonzero(told[label] >= 0)
        table = np.array(verdict.arrays[centroids].load())
        expected = Flat(table)(vectors[seen])
        np.testing.assert_allclose(told[distance][seen], 1 - expected.cosines, atol=CLOSE)
        mine = (unit(vectors[seen].astype(np.float64)) * table[told[label][seen]]).sum(axis=1)
        np.testing.assert_allclose(mine, expected.cosines, atol=CLOSE)
    order = np.lexsort((told["uid"].astype(np.float64), -told["dedup_distance"], told["dedup_cluster"]))
    ends = np.concatenate([[0], np.flatnonzero(np.diff(told["dedup_cluster"][order])) + 1, [len(order)]])
    expected_similarity, _ = pairs.earlier_max(vectors, order, ends)
    np.testing.assert_allclose(told["dedup_similarity"][order], expected_similarity, atol=CLOSE)


# Forecasts, memory, refusals, the measuring program


@everywhere
def test_a_forecast_tries_the_devices_own_searches(device: str, tiny_pool: Path, tmp_path: Path) -> None:
    site = rates.Site(Pool.open(tiny_pool), tmp_path, device, 1, 1e9)
    assert rates.assigning(site, 16, 40)() == split.Split.size
    assert rates.finding_near(site, 16)() == split.SplitCells.size


def most_bytes(k: int, width: int) -> int:
    """What `device` says may lie there at a time: of a lane the largest user of it, each tile of products twice."""
    slots = 2 * ways.STEP_BYTES
    all_compared = 2 * ways.STEP * TILE * (4 + 8)
    two_levels = split.HELD_BYTES + 3 * split.TABLE_BYTES + all_compared
    of_pairs = pairs.KEPT_BYTES + 2 * 4 * pairs.LARGEST**2 + 3 * 4 * pairs.LARGEST * width
    return ways.LANES * (slots + max(two_levels, of_pairs)) + ways.RESIDENT + 2 * 8 * k * width


@pytest.mark.parametrize(("k", "width"), [(500, 768), (98_000, 768), (98_000, 1024)])
def test_the_device_holds_less_than_8_gb_whatever_the_pool(k: int, width: int) -> None:
    assert most_bytes(k, width) < 8e9


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="no GPU that torch can use")
def test_it_does() -> None:
    torch.cuda.reset_peak_memory_stats()
    rows = unlike(60_000, 768, 0)
    centroids = np.resize(directions(2000, 768, 0), (98_000, 768))
    find = split.SplitCells(centroids, Levels(centroids[:9800], np.arange(9800 * 256).reshape(9800, 256) % 98_000), "cuda")
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(find, [rows] * 16))
        ends = np.array([0, len(rows)])
        list(threads.map(lambda _: pairs.earlier_max(rows, np.arange(len(rows)), ends, "cuda"), range(8)))
    assert torch.cuda.max_memory_reserved() < 8e9


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="no GPU that torch can use")
def test_a_gpu_is_not_shared_among_processes(tiny_pool: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--engine"):
        TopScore(fraction=0.5).run(tiny_pool, tmp_path / "o.npy", options=RunOptions(device="cuda", engine="processes"))


@pytest.mark.skipif(GPU, reason="there is a GPU")
def test_the_program_that_measures_a_gpu_says_that_there_is_none() -> None:
    done = subprocess.run([sys.executable, "-m", "tools.bench_gpu"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "no GPU" in done.stderr


@everywhere
def test_every_step_of_that_program_runs(device: str) -> None:
    rows = bench_gpu.measured(device, 3000, 1)
    assert {row["step"].split(",")[0] for row in rows} == {"assign resident rows", "pairs", "assign a pool"}
    assert all(row["ours s"] > 0 and row["peer s"] > 0 for row in rows)
