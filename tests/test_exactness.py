"""What a run computes is what METHOD says: random small pools against `tests.reference`, and against faiss and OSQP.

The stored centroids are taken as given; everything after them is computed again, slowly, from the pool as it was written.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from operator import itemgetter
from pathlib import Path
from random import Random
from typing import Any

import faiss
import numpy as np
import osqp
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from scipy import sparse

from filters.densprune import DensityPrune
from filters.filter import Filter, Recipe
from filters.maths import kmeans
from filters.maths.quota import project, quota
from filters.options import RunOptions
from filters.pool.errors import BadInput
from filters.semdedup import SemDeDup
from filters.topscore import TopScore
from filters.work.engine import one_thread_each
from tests import reference
from tests.pools import Array, blobs, cut_into_shards, read_subset, unit, write_shard

COSINE = 2e-5  # how far a float32 cosine of up to 24 numbers may be from float64's
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


# Pools


@dataclass(frozen=True)
class Plan:
    """How a random pool is made; the same plan gives the same pool."""

    seed: int
    sizes: tuple[int, ...]
    width: int = 8
    form: str = "blobs"  # blobs | few: six vectors | identical: one | axes: +-1 on an axis, so that cosines are exactly -1, 0, 1
    kinds: int = 4
    spread: float = 0.5
    near: float = 0.2  # part of the rows that nearly copy an earlier one
    copies: float = 0.2  # part of the rows that copy an earlier one, score and all
    score_step: float = 0.0  # scores in multiples of this
    uid_form: str = "random"  # random | short: fewer digits | shared: one of two high words
    bad_vectors: int = 0
    bad_scores: int = 0
    repeated: int = 0
    order: int | None = None  # the same rows in another order

    @property
    def count(self) -> int:
        return sum(self.sizes)

    def written(self, folder: Path) -> dict[str, Any]:
        """The pool, on disk and as it was written: uids, l14_img, l14, in the pool's order."""
        rng = np.random.default_rng(self.seed)
        rows, scores = _rows(self, rng), rng.normal(0.25, 0.05, self.count)
        for at in range(1, self.count):
            earlier = int(rng.integers(0, at))
            if rng.random() < self.near:
                rows[at] = rows[earlier] + 0.01 * rng.normal(size=self.width)
            if rng.random() < self.copies:
                rows[at], scores[at] = rows[earlier], scores[earlier]
        if self.score_step:
            scores = np.round(scores / self.score_step) * self.score_step
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        for at in rng.permutation(self.count)[: self.bad_vectors]:
            rows[at] = rng.choice([0.0, np.nan, np.inf])
        for at in rng.permutation(self.count)[: self.bad_scores]:
            scores[at] = rng.choice([np.nan, np.inf, -np.inf])
        uids = _uids(self, rng)
        for at in rng.permutation(np.arange(1, self.count))[: self.repeated]:
            uids[at] = uids[int(rng.integers(0, at))]
        order = np.arange(self.count) if self.order is None else np.random.default_rng(self.order).permutation(self.count)
        rows, scores = rows.astype(np.float16), scores.astype(np.float32)
        told = {"uids": [uids[at] for at in order], "l14_img": rows[order], "l14": scores[order]}
        cut_into_shards(folder, told, self.sizes)
        return told


def _rows(plan: Plan, rng: np.random.Generator) -> Array:
    if plan.form == "axes":
        return np.asarray(np.eye(plan.width)[rng.integers(0, plan.width, plan.count)] * rng.choice([-1.0, 1.0], (plan.count, 1)))
    if plan.form in ("few", "identical"):
        distinct = 1 if plan.form == "identical" else 6
        return np.asarray(rng.normal(size=(distinct, plan.width))[rng.integers(0, distinct, plan.count)])
    centres, spreads = rng.normal(size=(plan.kinds, plan.width)), plan.spread * rng.uniform(0.1, 2, plan.kinds)
    kind = rng.integers(0, plan.kinds, plan.count)
    return np.asarray(centres[kind] + spreads[kind, None] * rng.normal(size=(plan.count, plan.width)))


def _uids(plan: Plan, rng: np.random.Generator) -> list[str]:
    highs = [int.from_bytes(rng.bytes(8), "big") for _ in range(2)]
    found: dict[int, str] = {}
    while len(found) < plan.count:
        value = int.from_bytes(rng.bytes(16), "big")
        if plan.uid_form == "short":
            value >>= 4 * int(rng.integers(0, 28))
        if plan.uid_form == "shared":
            value = highs[int(rng.integers(0, 2))] << 64 | value % 2**64
        found[value] = f"{value:x}" if plan.uid_form == "short" else f"{value:032x}"
    return list(found.values())


def random_plan(rng: Random) -> Plan:
    count = rng.randint(5, rng.choice([12, 60, 200, 200, 200]))
    cuts = sorted(rng.choices(range(count + 1), k=rng.randint(0, 3)))
    if len(cuts) > 1 and rng.random() < 0.5:
        cuts[1] = cuts[0]  # an empty shard
    bad = [0, 0, 0, 0, 1, 2] if count > 20 else [0]
    return Plan(
        seed=rng.randrange(2**32),
        sizes=tuple(end - start for start, end in itertools.pairwise([0, *cuts, count])),
        width=rng.randint(4, 24),
        form=rng.choice(["blobs"] * 8 + ["few", "axes", "identical"]),
        kinds=rng.randint(1, 8),
        spread=rng.choice([0.05, 0.3, 1.0]),
        near=rng.choice([0.0, 0.3]),
        copies=rng.choice([0.0, 0.1, 0.5]),
        score_step=rng.choice([0.0, 0.03]),
        uid_form=rng.choice(["random", "short", "shared"]),
        bad_vectors=rng.choice(bad),
        bad_scores=rng.choice(bad),
        repeated=rng.choice(bad),
    )


# Runs


@dataclass(frozen=True)
class Case:
    """A pool and what is run on it."""

    plan: Plan
    density: DensityPrune
    dedup: SemDeDup | None = None
    top: TopScore | None = None
    seed: int = 1234
    workers: int = 2

    @property
    def parts(self) -> list[Recipe]:
        return [part for part in (self.dedup, self.top, self.density) if part is not None]

    def recipe(self, stages: int = 3) -> Recipe:
        return reduce(lambda before, after: before >> after, self.parts[:stages])

    @property
    def options(self) -> RunOptions:
        return RunOptions(seed=self.seed, num_workers=self.workers, device="cpu", allow_invalid=True)


@dataclass(frozen=True)
class Run:
    """What a run was given and what it left, in the pool's order."""

    case: Case
    uids: list[int]
    vectors: Array  # (n, d) float16
    scores: Array  # (n,) float32
    samples: list[dict[str, Any]]
    concepts: list[dict[str, Any]]
    centroids: Array
    dedup_centroids: Array | None
    subset: list[int]
    records: Array  # the subset file, as numpy reads it
    told: dict[str, int]  # the outcome's status

    @cached_property
    def units(self) -> dict[int, Array]:
        """float64 unit rows of the rows that have one."""
        return {at: reference.unit(row) for at, row in enumerate(self.vectors) if reference.is_valid(row)}

    @cached_property
    def pool(self) -> list[int]:
        """Each uid's first row."""
        return [at for at, uid in enumerate(self.uids) if uid not in self.uids[:at]]

    def column(self, name: str) -> list[Any]:
        return [sample[name] for sample in self.samples]

    def values(self, column: str, sign: int = 1) -> Callable[[int], float]:
        return lambda at: sign * float(self.samples[at][column])

    def rows(self, *status: str) -> set[int]:
        return {at for at, sample in enumerate(self.samples) if sample["status"] in status}

    def having(self, column: str) -> list[int]:
        return [at for at, sample in enumerate(self.samples) if sample[column] is not None]

    def best_score(self, at: int) -> float:
        return -float(self.scores[at])

    def by_uid(self, at: int) -> int:
        return self.uids[at]


@contextlib.contextmanager
def work_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        yield Path(folder)


def samples_of(work_dir: Path) -> list[dict[str, Any]]:
    files = sorted((work_dir / "samples").iterdir())
    rows = [row for file in files for row in pq.read_table(file, page_checksum_verification=True).to_pylist()]
    return [row | {"uid": int.from_bytes(row["uid"], "big")} for row in rows]


def run(case: Case) -> Run:
    with work_folder() as folder:
        told = case.plan.written(folder / "pool")
        outcome = case.recipe().run(folder / "pool", folder / "out.npy", options=case.options)
        work = folder / "out.work"
        return Run(
            case,
            [int(uid, 16) for uid in told["uids"]],
            told["l14_img"],
            told["l14"],
            samples_of(work),
            pq.read_table(work / "concepts.parquet").to_pylist(),
            np.load(work / "centroids.npy"),
            np.load(work / "dedup_centroids.npy") if case.dedup else None,
            read_subset(folder / "out.npy"),
            np.load(folder / "out.npy"),
            outcome.status,
        )


@contextlib.contextmanager
def about(case: object) -> Iterator[None]:
    """Names the case in a failure."""
    try:
        yield
    except AssertionError as error:
        error.add_note(f"in {case!r}")
        raise


def random_density(rng: Random, left: int, pool: int) -> DensityPrune:
    """Any options; most sizes and numbers of concepts fit `left` samples."""
    size = max(1, int(left * rng.choice([0.0, 1.0, *(rng.random() for _ in range(6))])))
    sized: dict[str, Any] = rng.choice([{"size": size}, {"fraction": min(1.0, (size + 0.5) / pool)}])
    return DensityPrune(
        concepts=rng.randint(1, left + 3) if rng.random() < 0.1 else rng.randint(1, max(1, min(left, rng.choice([3, 12, 30, 60])))),
        kmeans_iters=rng.choice([1, 5, 100]),
        kmeans_points_per_centroid=rng.choice([2, 256, 256]),
        neighbors=rng.choice([1, 2, 5, 20]),
        temperature=rng.choice([1e-3, 0.01, 0.1, 0.1, 1.0, rng.uniform(0.003, 0.3)]),
        complexity=rng.choice(["inter_intra", "inter_intra", "inter_intra", "uniform", "cluster_size"]),
        balance=rng.choice([0.0, 0.0, 1.0, rng.random(), rng.random()]),
        prefer=rng.choice(["hard", "hard", "easy", "random"]),
        **sized,
    )


def random_cases(seed: int) -> tuple[Case, Case]:
    """Density pruning alone, and the paper's chain, on one random pool."""
    rng = Random(seed)
    plan = random_plan(rng)
    most = plan.count - plan.bad_vectors - plan.repeated
    alone = Case(plan, random_density(rng, most, plan.count), seed=rng.randint(0, 3), workers=rng.randint(1, 3))
    keep, part, eps = rng.uniform(0.4, 1), rng.uniform(0.3, 1), rng.choice([0.0, 1e-3, 0.01, 0.05, 0.2, 0.5])
    by_eps, by_threshold = rng.random() < 0.5, rng.random() < 0.25
    dedup = SemDeDup(
        eps=eps if by_eps else None,
        fraction=None if by_eps else keep,
        clusters=rng.choice([None, rng.randint(1, min(most, 12))]),
        prefer=rng.choice(["hard", "hard", "easy", "score"]),
    )
    left = most // (4 if eps > 1e-3 else 2) if by_eps else int((most - plan.bad_scores) * keep)
    sized: dict[str, Any] = rng.choice([{"fraction": part}, {"fraction": part}, {"size": max(1, int(left * part))}])
    top = TopScore(**({"threshold": 0.21} if by_threshold else sized), ties=rng.choice(["uid", "uid", "all"]))
    left = max(1, (left // 2 if by_threshold else int(left * part)) - plan.bad_scores)
    return alone, replace(alone, density=random_density(rng, left, plan.count), dedup=dedup, top=top)


def runs_of(count: int) -> tuple[list[Run], list[tuple[Case, BadInput]]]:
    """Runs on so many random pools, and the refusals."""
    done: list[Run] = []
    refused: list[tuple[Case, BadInput]] = []

    @settings(max_examples=count, deadline=None, derandomize=True, phases=[Phase.generate])
    @given(st.integers(0, 2**64))
    def collect(seed: int) -> None:
        for case in random_cases(seed):
            try:
                done.append(run(case))
            except BadInput as error:
                refused.append((case, error))

    collect()
    return done, refused


@pytest.fixture(scope="module")
def drawn() -> tuple[list[Run], list[tuple[Case, BadInput]]]:
    return runs_of(255)


@pytest.fixture(scope="module")
def runs(drawn: tuple[list[Run], list[tuple[Case, BadInput]]]) -> list[Run]:
    return drawn[0]


# What became of each sample

EXACT: list[Callable[[list[Run]], None]] = []


def exact(test: Callable[[list[Run]], None]) -> Callable[[list[Run]], None]:
    """A test that holds for any runs: of the awkward pools too."""
    EXACT.append(test)
    return test


def entering(one: Run, stage: str) -> set[int]:
    """The rows that reach a stage, by what the run says became of them."""
    pool = set(one.pool)
    if stage == "semdedup" or one.case.dedup is None:
        return pool
    past_dedup = one.rows("topscore", "densityprune", "kept") | (one.rows("invalid") & set(one.having("dedup_similarity")))
    return past_dedup if stage == "topscore" else past_dedup - one.rows("topscore", "invalid")


def valid(one: Run, stage: str) -> set[int]:
    """Those of them that have what the stage needs."""
    scored = {at for at, score in enumerate(one.scores) if np.isfinite(score)}
    needed = scored if stage == "topscore" else set(one.units)
    if stage == "semdedup" and one.case.dedup and one.case.dedup.prefer == "score":
        needed &= scored
    return entering(one, stage) & needed


def chains(runs: list[Run]) -> list[tuple[Run, SemDeDup, TopScore]]:
    return [(one, one.case.dedup, one.case.top) for one in runs if one.case.dedup and one.case.top]


def test_at_least_two_hundred_random_pools_are_really_filtered(drawn: tuple[list[Run], list[tuple[Case, BadInput]]]) -> None:
    done, refused = drawn
    assert len([one for one in done if one.case.dedup is None]) >= 200
    assert len(chains(done)) >= 200
    assert len(refused) < 0.1 * len(done)


@exact
def test_every_sample_of_the_pool_is_told_once_in_order_with_one_status(runs: list[Run]) -> None:
    for one in runs:
        with about(one.case):
            assert one.column("uid") == one.uids
            stages = {"semdedup", "topscore", "densityprune"} if one.case.dedup else {"densityprune"}
            assert {sample["status"] for sample in one.samples} <= stages | {"kept", "invalid", "outside", "repeated"}
            assert Counter(one.column("status")) == Counter({status: n for status, n in one.told.items() if n})
            assert one.rows("repeated") == set(range(len(one.uids))) - set(one.pool)


@exact
def test_a_sample_without_a_value_is_invalid_where_a_stage_first_needs_it(runs: list[Run]) -> None:
    for one in runs:
        with about(one.case):
            stages = ["semdedup", "topscore", "densityprune"] if one.case.dedup else ["densityprune"]
            assert one.rows("invalid") == {at for stage in stages for at in entering(one, stage) - valid(one, stage)}


@exact
def test_a_column_has_values_exactly_where_its_stage_saw_a_valid_sample(runs: list[Run]) -> None:
    columns = {"semdedup": ["dedup_cluster", "dedup_distance", "dedup_similarity"], "topscore": ["score"], "densityprune": ["concept"]}
    for one in runs:
        with about(one.case):
            assert one.having("distance") == one.having("concept")
            for stage in columns if one.case.dedup else ["densityprune"]:
                for column in columns[stage]:
                    assert set(one.having(column)) == valid(one, stage), column


@exact
def test_the_subset_file_holds_exactly_the_kept_uids_ascending_each_once(runs: list[Run]) -> None:
    for one in runs:
        with about(one.case):
            kept = [one.uids[at] for at in one.rows("kept")]
            assert one.subset == sorted(kept)
            assert all(before < after for before, after in itertools.pairwise(one.subset))


@exact
def test_the_resharder_finds_each_kept_uid_once_and_no_other(runs: list[Run]) -> None:
    for one in runs:
        wanted = np.array([divmod(uid, 2**64) for uid in one.uids], np.dtype("u8,u8"))
        found = np.searchsorted(one.records, wanted, "right") - np.searchsorted(one.records, wanted, "left")
        kept = {one.uids[at] for at in one.rows("kept")}
        with about(one.case):
            assert found.tolist() == [int(uid in kept) for uid in one.uids]


# Density-Based Pruning


def assert_nearest(one: Run, centroids: Array, labels: list[int | None], distances: list[float | None]) -> None:
    assert centroids.dtype == np.float32
    wide = centroids.astype(np.float64)
    for at, (label, distance) in enumerate(zip(labels, distances, strict=True)):
        if label is not None and distance is not None:
            products = wide @ one.units[at]
            assert products[label] >= products.max() - 1e-5, at
            assert distance == pytest.approx(1 - products[label], abs=COSINE, rel=0), at


@exact
def test_a_concept_is_the_centroid_of_largest_inner_product_and_the_distance_is_one_minus_it(runs: list[Run]) -> None:
    for one in runs:
        with about(one.case):
            assert_nearest(one, one.centroids, one.column("concept"), one.column("distance"))


@exact
def test_a_cluster_of_semdedup_is_the_nearest_centroid_too(runs: list[Run]) -> None:
    for one, _, _ in chains(runs):
        assert one.dedup_centroids is not None
        with about(one.case):
            assert_nearest(one, one.dedup_centroids, one.column("dedup_cluster"), one.column("dedup_distance"))


@exact
def test_centroids_have_unit_length_and_there_are_as_many_as_asked_for(runs: list[Run]) -> None:
    for one in runs:
        with about(one.case):
            assert one.centroids.shape == (one.case.density.concepts, one.case.plan.width)
            assert np.linalg.norm(one.centroids.astype(np.float64), axis=1) == pytest.approx(1, abs=1e-6)
            if one.case.dedup and one.dedup_centroids is not None:
                # METHOD 3: the cheapest K is about sqrt(s*N/2), s = 1.5.
                wanted = one.case.dedup.clusters or pytest.approx((1.5 * len(one.pool) / 2) ** 0.5, abs=1)
                assert len(one.dedup_centroids) == wanted
                assert np.linalg.norm(one.dedup_centroids.astype(np.float64), axis=1) == pytest.approx(1, abs=1e-6)


@exact
def test_equal_rows_get_equal_numbers_wherever_they_lie(runs: list[Run]) -> None:
    for one in runs:
        for columns in (("dedup_cluster", "dedup_distance"), ("concept", "distance")) if one.case.dedup else (("concept", "distance"),):
            found: dict[bytes, Any] = {}
            for at in one.having(columns[0]):
                numbers = tuple(one.samples[at][column] for column in columns)
                with about(one.case):
                    assert found.setdefault(one.vectors[at].tobytes(), numbers) == numbers, at


def close(found: float | None, wanted: float | None) -> bool:
    """Equal to 1e-6, or to 2e-7 where that is more; None only where None is wanted."""
    if found is None or wanted is None:
        return found is wanted
    return abs(found - wanted) <= max(2e-7, 1e-6 * abs(wanted))


@exact
def test_concepts_tell_members_spread_and_distance_to_the_others(runs: list[Run]) -> None:
    for one in runs:
        k = one.case.density.concepts
        labels, distances = ([one.samples[at][name] for at in one.having("concept")] for name in ("concept", "distance"))
        intra, inter = reference.d_intra(labels, distances, k), reference.d_inter(one.centroids, one.case.density.neighbors)
        with about(one.case):
            assert [row["concept"] for row in one.concepts] == list(range(k))
            assert [row["members"] for row in one.concepts] == [labels.count(concept) for concept in range(k)]
            for row, wanted_intra, wanted_inter in zip(one.concepts, intra, inter, strict=True):
                assert close(row["d_intra"], wanted_intra), (row, wanted_intra)
                assert close(row["d_inter"], wanted_inter), (row, wanted_inter)


@exact
def test_complexity_is_inter_times_intra_and_undefined_takes_the_mean_of_the_defined(runs: list[Run]) -> None:
    for one in runs:
        if one.case.density.complexity != "inter_intra":
            continue
        labels, distances = ([one.samples[at][name] for at in one.having("concept")] for name in ("concept", "distance"))
        intra = reference.d_intra(labels, distances, one.case.density.concepts)
        wanted = reference.complexity(reference.d_inter(one.centroids, one.case.density.neighbors), intra)
        with about(one.case):
            for row, value in zip(one.concepts, wanted, strict=True):
                assert close(row["complexity"], value), (row, value)


def shares(one: Run) -> list[float]:
    """METHOD 2.5, from the complexities that the run tells: another test checks them."""
    members, stage = [row["members"] for row in one.concepts], one.case.density
    if stage.complexity == "inter_intra":
        return reference.share([row["complexity"] for row in one.concepts], stage.temperature)
    return [1 / len(members) if stage.complexity == "uniform" else count / sum(members) for count in members]


@exact
def test_a_share_is_the_softmax_of_complexity_and_a_target_the_share_of_the_final_size(runs: list[Run]) -> None:
    for one in runs:
        stage = one.case.density
        n = stage.size if stage.size is not None else int(len(one.pool) * (stage.fraction or 0))
        with about(one.case):
            assert len(one.subset) == n
            for row, wanted in zip(one.concepts, shares(one), strict=True):
                assert close(row["share"], wanted), (row, wanted)
                assert row["target"] == pytest.approx(row["share"] * n, rel=1e-12)


@dataclass(frozen=True)
class Problem:
    """What METHOD 2.6 solves."""

    target: list[float]
    low: list[int]
    high: list[int]
    n: int


def problem(one: Run) -> Problem:
    members = [row["members"] for row in one.concepts]
    n = len(one.subset)
    return Problem([row["target"] for row in one.concepts], reference.box(members, n, one.case.density.balance), members, n)


@exact
def test_quotas_are_the_whole_numbers_of_least_objective_in_the_box_and_sum_to_the_final_size(runs: list[Run]) -> None:
    for one in runs:
        asked, quotas = problem(one), [row["quota"] for row in one.concepts]
        with about(one.case):
            assert sum(quotas) == asked.n
            assert all(low <= x <= high for low, x, high in zip(asked.low, quotas, asked.high, strict=True))
            best = reference.objective(reference.integer_optimum(asked.target, asked.low, asked.high, asked.n), asked.target)
            assert reference.objective(quotas, asked.target) == pytest.approx(best, rel=1e-9, abs=1e-9)


@exact
def test_of_concepts_with_equal_targets_the_smaller_id_gets_what_is_over(runs: list[Run]) -> None:
    for one in runs:
        asked, quotas = problem(one), [row["quota"] for row in one.concepts]
        for first, second in itertools.combinations(range(len(quotas)), 2):
            if asked.target[first] == asked.target[second] and quotas[first] < quotas[second]:
                with about(one.case):
                    assert quotas[first] == asked.high[first] or quotas[second] == asked.low[second], (first, second)


@exact
def test_of_each_concept_exactly_the_quota_of_farthest_or_nearest_members_is_kept(runs: list[Run]) -> None:
    for one in runs:
        prefer, order = one.case.density.prefer, one.values("distance", -1 if one.case.density.prefer == "hard" else 1)
        for row in one.concepts:
            members = [at for at in one.having("concept") if one.samples[at]["concept"] == row["concept"]]
            kept = one.rows("kept") & set(members)
            with about(one.case):
                assert len(kept) == row["quota"] == row["kept"]
                if prefer != "random":
                    assert kept == reference.first(row["quota"], members, order, one.by_uid), row


# SemDeDup


def clusters(one: Run, dedup: SemDeDup) -> Iterator[list[int]]:
    """Rows of each cluster in the order of METHOD 3: farthest from the centroid first (or nearest, or best score), equals by uid."""
    by = one.values("dedup_distance", -1 if dedup.prefer == "hard" else 1)
    if dedup.prefer == "score":
        by = one.best_score
    rows = one.having("dedup_cluster")
    for cluster in sorted({one.samples[at]["dedup_cluster"] for at in rows}):
        members = [at for at in rows if one.samples[at]["dedup_cluster"] == cluster]
        yield sorted(members, key=lambda at: (by(at), one.uids[at]))


def cosines(one: Run, order: list[int]) -> Array:
    rows = np.stack([one.units[at] for at in order])
    return np.asarray(rows @ rows.T)


@exact
def test_similarity_is_the_largest_to_an_earlier_row_of_the_cluster(runs: list[Run]) -> None:
    for one, dedup, _ in chains(runs):
        for order in clusters(one, dedup):
            wanted = reference.earlier_similarity(cosines(one, order))
            found = [one.samples[at]["dedup_similarity"] for at in order]
            with about(one.case):
                assert found == pytest.approx(wanted, abs=COSINE, rel=0)
                assert found[0] == 0
                assert min(found) >= 0


@exact
def test_dedup_of_names_the_earliest_row_that_gave_the_similarity(runs: list[Run]) -> None:
    for one, dedup, _ in chains(runs):
        row_of = {one.uids[at]: at for at in one.pool}
        for order in clusters(one, dedup):
            alike = cosines(one, order)
            for place, at in enumerate(order):
                sample = one.samples[at]
                with about(one.case):
                    assert (sample["dedup_of"] is None) == (sample["dedup_similarity"] == 0), at
                    if sample["dedup_of"] is not None:
                        earlier = order[:place]
                        named = row_of[int.from_bytes(sample["dedup_of"], "big")]
                        assert named in earlier, at
                        assert alike[place, earlier.index(named)] >= alike[place, :place].max() - COSINE, at
                        same = [row for row in earlier if one.vectors[row].tobytes() == one.vectors[named].tobytes()]
                        assert same[0] == named, at


@exact
def test_semdedup_drops_what_is_above_one_minus_eps_or_keeps_exactly_the_fraction_of_least_similarity(runs: list[Run]) -> None:
    for one, dedup, _ in chains(runs):
        reached, similarity = valid(one, "semdedup"), one.values("dedup_similarity")
        if dedup.eps is not None:
            stay = {at for at in reached if not np.float32(similarity(at)) > np.float32(1 - dedup.eps)}
        else:
            stay = reference.first(int(len(reached) * (dedup.fraction or 0)), reached, similarity, one.by_uid)
        with about(one.case):
            assert stay == reached - one.rows("semdedup")


def test_an_eps_of_zero_drops_nothing_because_no_cosine_is_above_one() -> None:
    for width in (8, 16, 24):
        copies = Plan(3, (150,), width=width, near=0, copies=0.9)
        one = run(chain(copies, dedup=SemDeDup(eps=0.0), top=TopScore(fraction=1.0), concepts=1, size=1))
        assert max(one.column("dedup_similarity")) <= 1
        assert one.told["semdedup"] == 0


# TopScore


@exact
def test_topscore_keeps_the_largest_scores_or_datacomps_rule_or_what_reaches_the_threshold(runs: list[Run]) -> None:
    for one, _, top in chains(runs):
        reached = sorted(valid(one, "topscore"))
        with about(one.case):
            assert [np.float32(one.samples[at]["score"]) for at in reached] == [one.scores[at] for at in reached]
            assert set(reached) - one.rows("topscore") == best(one, top, reached)


def best(one: Run, top: TopScore, reached: list[int]) -> set[int]:
    """The rows that TopScore keeps of those that reach it."""
    if top.threshold is not None:
        return {at for at in reached if one.scores[at] >= np.float32(top.threshold)}
    if top.ties == "all" and top.fraction is not None:
        return set(np.array(reached)[reference.datacomp_clip_score(one.scores[reached], top.fraction)].tolist())
    count = top.size if top.size is not None else int(len(reached) * (top.fraction or 0))
    stay = reference.first(count, reached, one.best_score, one.by_uid)
    if top.ties == "all":
        stay = {at for at in reached if one.scores[at] >= min(one.scores[at] for at in stay)}
    return stay


# What cannot be done


def refusal(case: Case) -> list[int]:
    """What the pool and each stage leave, down to the stage that cannot go on; raises where all can."""
    with work_folder() as folder:
        told = case.plan.written(folder / "pool")
        pool, left = len({int(uid, 16) for uid in told["uids"]}), []
        usable = {int(uid, 16) for uid, row in zip(told["uids"], told["l14_img"], strict=True) if reference.is_valid(row)}
        left.append(pool)
        for number, stage in enumerate(case.parts):
            reach = len(usable) if number == 0 else left[-1]
            if isinstance(stage, SemDeDup) and (stage.clusters or 1) > reach:
                return left
            if isinstance(stage, TopScore) and (stage.size or 1) > reach:
                return left
            if isinstance(stage, DensityPrune):
                size = stage.size if stage.size is not None else int(pool * (stage.fraction or 0))
                assert stage.concepts > reach or not 0 < size <= reach
                return left
            try:
                outcome = case.recipe(number + 1).run(folder / "pool", folder / "out.npy", options=case.options)
            except BadInput:
                return [*left, 0]
            left.append(outcome.status["kept"])
    raise AssertionError("no stage that prunes")


def assert_tells(error: BadInput, counts: list[int]) -> None:
    words = str(error).replace("(", " ").replace(")", " ").replace(", ", " ").replace(";", " ").split()
    assert all(f"{count:,}" in words for count in counts), str(error)


def test_a_run_is_refused_only_where_it_cannot_be_done_and_the_line_says_what_each_stage_left(
    drawn: tuple[list[Run], list[tuple[Case, BadInput]]],
) -> None:
    for case, error in drawn[1]:
        with about(case):
            assert_tells(error, refusal(case))


# Awkward pools


def chain(plan: Plan, *, dedup: SemDeDup | None = None, top: TopScore | None = None, **density: Any) -> Case:
    return Case(plan, DensityPrune(**density), dedup or SemDeDup(fraction=0.8), top or TopScore(fraction=0.75))


FIFTY = Plan(1, (20, 0, 29, 1))
AWKWARD = {
    "one sample in the pool": Case(Plan(2, (1,)), DensityPrune(concepts=1, size=1)),
    "one sample through every stage": chain(Plan(2, (0, 1)), dedup=SemDeDup(eps=0.1), top=TopScore(threshold=0.0), concepts=1, size=1),
    "one concept": chain(FIFTY, concepts=1, size=11),
    "one concept, its complexity cluster_size": Case(FIFTY, DensityPrune(concepts=1, size=50, complexity="cluster_size")),
    "all vectors identical": Case(replace(FIFTY, form="identical", near=0), DensityPrune(concepts=1, size=20)),
    "all vectors identical, more concepts than points": Case(replace(FIFTY, form="identical", near=0), DensityPrune(concepts=7, size=20)),
    "all vectors identical through every stage": chain(replace(FIFTY, form="identical", near=0), concepts=3, fraction=0.5),
    "all vectors and scores equal": chain(replace(FIFTY, form="identical", near=0, score_step=10), concepts=2, prefer="easy", size=9),
    "more concepts than distinct points": Case(replace(FIFTY, form="few", near=0), DensityPrune(concepts=20, size=31)),
    "as many concepts as samples": Case(FIFTY, DensityPrune(concepts=50, size=20)),
    "as many concepts as samples, all kept": Case(replace(FIFTY, copies=0), DensityPrune(concepts=50, size=50, prefer="easy")),
    "concepts without members": Case(Plan(3, (120,), near=0, copies=0.6), DensityPrune(concepts=30, kmeans_points_per_centroid=1, size=25)),
    "k-means saw one sample a concept": Case(FIFTY, DensityPrune(concepts=6, kmeans_points_per_centroid=1, size=25)),
    "fewer kept than concepts of two": Case(replace(FIFTY, copies=0), DensityPrune(concepts=12, size=3)),
    "one kept": Case(FIFTY, DensityPrune(concepts=5, size=1, complexity="uniform")),
    "all kept": Case(FIFTY, DensityPrune(concepts=5, fraction=1.0)),
    "all kept but one": Case(FIFTY, DensityPrune(concepts=5, size=49, temperature=1e-3)),
    "every quota at its floor": Case(FIFTY, DensityPrune(concepts=6, size=30, balance=1.0, temperature=1e-3)),
    "a floor that rounds to nothing": Case(FIFTY, DensityPrune(concepts=8, size=10, balance=0.1, temperature=1e-3)),
    "right angles and opposites": chain(Plan(4, (30, 30), form="axes", near=0, copies=0), concepts=9, size=20),
    "right angles in one cluster": chain(
        Plan(5, (60,), form="axes", near=0, copies=0), dedup=SemDeDup(eps=0.0, clusters=1), concepts=3, size=5
    ),
    "empty shards around": chain(Plan(6, (0, 33, 0, 20, 0)), concepts=4, size=10),
    "a shard a sample": chain(Plan(7, (1,) * 30), concepts=4, size=10),
    "nearly all invalid": Case(Plan(8, (40,), bad_vectors=37), DensityPrune(concepts=1, size=2)),
    "one uid again and again": Case(Plan(9, (30,), repeated=29), DensityPrune(concepts=1, size=1)),
    "blocks do not divide it": chain(
        Plan(10, (1500, 1, 1100), width=24, kinds=2, copies=0.3, score_step=0.01, uid_form="shared"),
        dedup=SemDeDup(eps=0.01, clusters=2),
        top=TopScore(fraction=0.9, ties="all"),
        concepts=23,
        size=700,
    ),
    "over a thousand concepts": Case(Plan(11, (1150,), copies=0, near=0), DensityPrune(concepts=1030, kmeans_iters=2, size=300)),
}


@pytest.mark.parametrize("case", AWKWARD.values(), ids=AWKWARD.keys())
def test_an_awkward_pool_gives_a_defined_result_that_is_as_exact(case: Case) -> None:
    found = [run(case)]
    for holds in EXACT:
        holds(found)


def test_a_concept_without_members_has_no_spread_the_mean_complexity_and_no_quota() -> None:
    found = run(AWKWARD["concepts without members"]).concepts
    empty, others = ([row for row in found if (row["members"] > 0) is some] for some in (False, True))
    assert 3 < len(empty) < 27
    mean = sum(row["complexity"] for row in others) / len(others)
    assert mean > 0.01
    for row in empty:
        assert row["d_intra"] is None
        assert row["quota"] == row["kept"] == 0
        assert row["complexity"] == pytest.approx(mean, rel=1e-9)


def test_without_a_defined_complexity_all_shares_are_equal() -> None:
    for case in (AWKWARD["one concept"], AWKWARD["all vectors identical, more concepts than points"]):
        found = run(case)
        assert [row["share"] for row in found.concepts] == pytest.approx([1 / len(found.concepts)] * len(found.concepts))


REFUSED = {
    "nothing to keep": (Case(FIFTY, DensityPrune(concepts=2, fraction=0.01)), [50]),
    "more than the pool": (Case(FIFTY, DensityPrune(concepts=2, size=51)), [51, 50]),
    "more than is left": (chain(FIFTY, concepts=2, size=31), [31, 50, 40, 30]),
    "more concepts than samples": (chain(FIFTY, concepts=31, size=5), [31, 50, 40, 30]),
    "more clusters than samples": (chain(FIFTY, dedup=SemDeDup(fraction=0.5, clusters=51), concepts=2, size=5), [51, 50]),
    "more best scores than samples": (chain(FIFTY, top=TopScore(size=41), concepts=2, size=5), [41, 50, 40]),
    "no score reaches the threshold": (chain(FIFTY, top=TopScore(threshold=9.0), concepts=2, size=5), [50, 40, 0]),
}


@pytest.mark.parametrize(("case", "counts"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_done_is_refused_with_the_counts_that_each_stage_left(case: Case, counts: list[int]) -> None:
    with pytest.raises(BadInput) as caught:
        run(case)
    assert_tells(caught.value, counts)


# The quota, against OSQP and every possibility


def random_problem(rng: np.random.Generator, most: int = 40, k: int | None = None) -> tuple[Problem, float]:
    """Targets that sum to n, some far beyond what their concept has; and the balance."""
    k = k or int(rng.integers(1, 13))
    members = rng.integers(0, most, k)
    members[rng.integers(k)] += 1
    n = int(rng.integers(1, members.sum() + 1))
    balance = float(rng.choice([0.0, rng.random(), 1.0]))
    target = (rng.dirichlet(np.full(k, rng.choice([0.1, 1.0, 100.0]))) * n).tolist()
    return Problem(target, reference.box(members.tolist(), n, balance), members.tolist(), n), balance


def osqp_optimum(asked: Problem) -> Array:
    k, solver = len(asked.target), osqp.OSQP()
    rows = sparse.vstack([sparse.csc_matrix(np.ones((1, k))), sparse.identity(k)], format="csc")
    low, high = np.array([asked.n, *asked.low], float), np.array([asked.n, *asked.high], float)
    tight = {"eps_abs": 1e-10, "eps_rel": 1e-10, "max_iter": 200_000, "polishing": True}
    solver.setup(sparse.identity(k, format="csc") * 2, -2 * np.array(asked.target), rows, low, high, verbose=False, **tight)
    solved = solver.solve(raise_error=True)
    return np.asarray(solved.x)


def projected(asked: Problem) -> Array:
    return np.asarray(project(np.array(asked.target), np.array(asked.low), np.array(asked.high), asked.n))


def assert_projected(asked: Problem) -> None:
    """The clip formula of METHOD 2.6, and OSQP's optimum of the same problem."""
    found = projected(asked)
    scale = 1.0 + max(asked.target)
    assert found == pytest.approx(reference.projection(asked.target, asked.low, asked.high, asked.n), abs=1e-9 * scale)
    assert found == pytest.approx(osqp_optimum(asked), abs=1e-5 * scale)


@exact
def test_the_real_quota_of_the_runs_is_the_optimum_that_osqp_finds(runs: list[Run]) -> None:
    for one in runs[::4]:
        with about(one.case):
            assert_projected(problem(one))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(0, 2**32))
def test_the_real_quota_of_any_targets_is_the_optimum_that_osqp_finds(seed: int) -> None:
    assert_projected(random_problem(np.random.default_rng(seed))[0])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(0, 2**32))
def test_no_whole_numbers_in_the_box_are_nearer_to_the_targets_than_the_quota(seed: int) -> None:
    rng = np.random.default_rng(seed)
    asked, balance = random_problem(rng, 7, int(rng.integers(1, 6)))
    found = quota(np.array(asked.target), np.array(asked.high), asked.n, balance).tolist()
    best = min(reference.objective(x, asked.target) for x in reference.every_quota(asked.low, asked.high, asked.n))
    assert tuple(found) in set(reference.every_quota(asked.low, asked.high, asked.n))
    assert reference.objective(found, asked.target) == pytest.approx(best, abs=1e-9)
    greedy = reference.integer_optimum(asked.target, asked.low, asked.high, asked.n)
    assert reference.objective(greedy, asked.target) == pytest.approx(best, abs=1e-9), "the reference itself"


# Filters put together


def random_filter(rng: Random, n: int) -> Filter:
    return rng.choice(
        [
            TopScore(fraction=rng.uniform(0.2, 1), ties=rng.choice(["uid", "all"])),
            TopScore(score="original_width", size=rng.randint(1, n // 2)),  # equal for all: by uid alone
            TopScore(score="b32", threshold=rng.uniform(0.2, 0.3)),
            SemDeDup(eps=rng.choice([0.01, 0.1, 0.4])),
            SemDeDup(fraction=rng.uniform(0.3, 0.9), clusters=rng.randint(1, 4), prefer="score"),
            DensityPrune(concepts=rng.randint(1, 4), size=rng.randint(1, n // 3), prefer=rng.choice(["hard", "random"])),
        ]
    )


def outcome_of(recipe: Recipe, folder: Path, options: RunOptions) -> tuple[set[int], dict[int, str]]:
    """Kept uids and each uid's status; nothing kept is an error, and then no status is told."""
    out = folder / "out.npy"
    try:
        recipe.run(folder / "pool", out, options=options)
    except BadInput as error:
        assert "left" in str(error) or "reach" in str(error)
        return set(), {}
    return set(read_subset(out)), {sample["uid"]: sample["status"] for sample in samples_of(folder / "out.work")}


@settings(max_examples=25, deadline=None, derandomize=True, phases=[Phase.generate])
@given(st.integers(0, 2**64))
def test_filters_put_together_keep_what_the_set_operation_on_what_each_keeps_alone_gives(seed: int) -> None:
    rng = Random(seed)
    plan = replace(random_plan(rng), bad_vectors=0, bad_scores=0, repeated=0)
    a, b = random_filter(rng, plan.count), random_filter(rng, plan.count)
    second = b.name + ("_2" if a.name == b.name else "")
    options = RunOptions(device="cpu", num_workers=2)
    with work_folder() as folder, about((plan, a, b)):
        pool = {int(uid, 16) for uid in plan.written(folder / "pool")["uids"]}
        (in_a, _), (in_b, _) = outcome_of(a, folder, options), outcome_of(b, folder, options)
        for recipe, wanted, lost in (
            (a & b, in_a & in_b, {uid: a.name if uid not in in_a else second for uid in pool}),
            (a | b, in_a | in_b, dict.fromkeys(pool, a.name)),
            (a - b, in_a - in_b, {uid: a.name if uid not in in_a else "excluded" for uid in pool}),
        ):
            kept, status = outcome_of(recipe, folder, options)
            assert kept == wanted, recipe
            assert not kept or status == {uid: "kept" if uid in kept else lost[uid] for uid in pool}, recipe


@settings(max_examples=25, deadline=None, derandomize=True, phases=[Phase.generate])
@given(st.integers(0, 2**64))
def test_a_second_filter_keeps_what_it_keeps_of_the_pool_that_the_first_one_left(seed: int) -> None:
    rng = Random(seed)
    plan = replace(random_plan(rng), bad_vectors=0, bad_scores=0, repeated=0)
    a, b = random_filter(rng, plan.count), random_filter(rng, plan.count // 3 + 2)
    options = RunOptions(device="cpu", num_workers=2)
    with work_folder() as folder, about((plan, a, b)):
        pool = {int(uid, 16) for uid in plan.written(folder / "pool")["uids"]}
        a.run(folder / "pool", folder / "a.npy", options=options)
        in_a = set(read_subset(folder / "a.npy"))
        alone, alone_status = outcome_of(b, folder, replace(options, within=str(folder / "a.npy")))
        kept, status = outcome_of(a >> b, folder, options)
        second = b.name + ("_2" if a.name == b.name else "")
        assert kept == alone
        if kept:
            assert alone_status == {uid: "kept" if uid in kept else b.name if uid in in_a else "outside" for uid in pool}
            assert status == {uid: "kept" if uid in kept else second if uid in in_a else a.name for uid in pool}


def test_the_columns_of_a_second_filter_of_a_kind_end_in_2() -> None:
    with work_folder() as folder:
        told = FIFTY.written(folder / "pool")
        twice = TopScore(fraction=0.5) >> DensityPrune(concepts=2, size=20) >> TopScore(fraction=0.5) >> DensityPrune(concepts=3, size=5)
        twice.run(folder / "pool", folder / "out.npy", options=RunOptions(device="cpu"))
        samples = samples_of(folder / "out.work")
        assert list(samples[0]) == ["uid", "score", "concept", "distance", "score_2", "concept_2", "distance_2", "status"]
        assert [sample["score"] for sample in samples] == told["l14"].tolist()
        assert Counter(sample["status"] for sample in samples) == {
            "topscore": 25, "densityprune": 5, "topscore_2": 10, "densityprune_2": 5, "kept": 5
        }  # fmt: skip
        assert [row["kept"] for row in pq.read_table(folder / "out.work" / "concepts_2.parquet").to_pylist()] == [
            sum(sample["concept_2"] == concept and sample["status"] == "kept" for sample in samples) for concept in range(3)
        ]


# Scores of the user's own


@settings(max_examples=20, deadline=None, derandomize=True, phases=[Phase.generate])
@given(st.integers(0, 2**64))
def test_samples_that_a_table_of_scores_lacks_are_outside_and_the_fraction_is_of_the_others(seed: int) -> None:
    rng = Random(seed)
    plan = replace(random_plan(rng), bad_vectors=0, bad_scores=0, repeated=0)
    fraction = rng.uniform(0.1, 1)
    with work_folder() as folder, about((plan, fraction)):
        told = plan.written(folder / "pool")
        uids = {int(uid, 16): uid for uid in told["uids"]}
        known = {uid: rng.randrange(9) / 8 for uid in rng.sample(sorted(uids), rng.randint(len(uids) // 2, len(uids)))}
        strangers = {rng.randrange(2**128): 2.0 for _ in range(3)}
        rows = [*known.items(), *strangers.items()]
        rng.shuffle(rows)
        table = {"uid": [uids.get(uid, f"{uid:x}") for uid, _ in rows], "score": [score for _, score in rows]}
        pq.write_table(pa.table(table), folder / "scores.parquet")
        recipe = TopScore(score=str(folder / "scores.parquet"), fraction=fraction)
        kept, status = outcome_of(recipe, folder, RunOptions(device="cpu", num_workers=2))
        assert kept == set(sorted(known, key=lambda uid: (-known[uid], uid))[: int(len(known) * fraction)])
        if kept:
            assert {uid for uid, told in status.items() if told == "topscore"} == set(known) - kept


@pytest.mark.parametrize("fraction", [0.29, 0.3, 0.5, 0.57, 1.0])
def test_a_fraction_is_truncated_in_double_precision_and_all_ties_stay_where_datacomp_keeps_them(fraction: float) -> None:
    """100 * 0.29 is 28.999999999999996: 28."""
    scores = np.round(np.random.default_rng(11).normal(0.25, 0.05, 100), 2).astype(np.float32)
    uids = [f"{at * 7919 % 101:032x}" for at in range(100)]
    with work_folder() as folder:
        write_shard(folder / "pool", "0" * 32, uids, {"l14_img": blobs(np.random.default_rng(1), 100)}, scores)
        options = RunOptions(device="cpu")
        assert len(outcome_of(TopScore(fraction=fraction), folder, options)[0]) == int(100 * fraction)
        kept, _ = outcome_of(TopScore(fraction=fraction, ties="all"), folder, options)
        wanted = reference.datacomp_clip_score(scores, fraction)
        assert kept == {int(uid, 16) for uid, stays in zip(uids, wanted, strict=True) if stays}


# k-means, against faiss

KMEANS = [(300, 8, 5, 0.5), (1000, 16, 20, 0.2), (2000, 24, 40, 1.0), (6000, 16, 30, 0.5), (500, 4, 12, 0.1), (800, 32, 60, 0.7)]


def points_of(count: int, width: int, kinds: int, spread: float) -> Array:
    rows = blobs(np.random.default_rng(count), count, width, kinds, spread).astype(np.float64)
    return np.asarray(unit(rows).astype(np.float32))


def train(points: Array, k: int, iterations: int, workers: int = 1) -> Array:
    with one_thread_each():
        return np.asarray(kmeans.train(points, k, iterations, workers))


def value(points: Array, centroids: Array) -> float:
    """Sum of the inner products of each point and its centroid, which spherical k-means makes large."""
    return float((points.astype(np.float64) @ centroids.astype(np.float64).T).max(1).sum())


def faiss_from(points: Array, start: Array, iterations: int) -> Array:
    limits = {"min_points_per_centroid": 1, "max_points_per_centroid": len(points)}
    peer = faiss.Kmeans(points.shape[1], len(start), niter=iterations, spherical=True, seed=1234, **limits)
    peer.train(points, init_centroids=start)
    return np.asarray(peer.centroids)


@pytest.mark.parametrize(("count", "width", "k", "spread"), KMEANS)
def test_faiss_finds_little_to_better_in_our_centroids(count: int, width: int, k: int, spread: float) -> None:
    points = points_of(count, width, k, spread)
    ours = train(points, k, 100)
    assert value(points, faiss_from(points, ours, 20)) < 1.005 * value(points, ours)


def test_from_the_same_start_our_centroids_are_as_good_as_those_of_faiss() -> None:
    ratios = []
    for count, width, k, spread in KMEANS:
        points = points_of(count, width, k, spread)
        _, first = np.unique(points, axis=0, return_index=True)
        ratios.append(value(points, train(points, k, 100)) / value(points, faiss_from(points, points[np.sort(first)[:k]], 100)))
    assert np.mean(ratios) > 0.99


@pytest.mark.parametrize(("count", "width", "k", "spread"), KMEANS)
def test_when_no_label_changes_a_centroid_is_the_direction_of_the_sum_of_its_points(count: int, width: int, k: int, spread: float) -> None:
    points = points_of(count, width, k, spread)
    centroids = train(points, k, 1000).astype(np.float64)
    labels = (points.astype(np.float64) @ centroids.T).argmax(1)
    for concept in range(k):
        assert centroids[concept] == pytest.approx(direction(points[labels == concept]), abs=1e-5)


def direction(rows: Array) -> Array:
    total = rows.astype(np.float64).sum(0)
    return np.asarray(total / np.linalg.norm(total))


def test_a_cluster_that_is_left_empty_takes_half_of_the_largest() -> None:
    """The first two rows point the same way at different lengths: one of their two equal centroids is left empty."""
    points = points_of(7, 5, 2, 1.0)
    found = train(np.concatenate([points[:1], 2 * points[:1], points[1:]]), 2, 1)
    rows = np.concatenate([points[:1], points[:1], points[1:]])
    halves = [np.isin(np.arange(8), half) for half in itertools.combinations(range(8), 4)]
    assert any(np.allclose(found, [direction(rows[~half]), direction(rows[half])], atol=1e-6) for half in halves)


@pytest.mark.parametrize(("count", "width", "k", "spread"), KMEANS)
def test_the_number_of_workers_changes_no_bit_of_the_centroids(count: int, width: int, k: int, spread: float) -> None:
    points = points_of(count, width, k, spread).astype(np.float16)
    assert len({train(points, k, 20, workers=workers).tobytes() for workers in (1, 2, 3)}) == 1


# The same rows, cut and computed otherwise


def left_by(plan: Plan, recipe: Recipe, options: RunOptions) -> tuple[Any, ...]:
    """The bytes of the subset file, of the centroids, and each uid's numbers."""
    with work_folder() as folder:
        plan.written(folder / "pool")
        recipe.run(folder / "pool", folder / "out.npy", options=replace(options, device="cpu", allow_invalid=True))
        work = folder / "out.work"
        arrays = [(work / name).read_bytes() for name in ("centroids.npy", "dedup_centroids.npy", "concepts.parquet")]
        return (folder / "out.npy").read_bytes(), samples_of(work), *arrays


def test_other_shards_and_any_number_of_workers_give_the_same_bytes_and_numbers() -> None:
    recipe = SemDeDup(eps=0.02) >> TopScore(fraction=0.9) >> DensityPrune(concepts=6, fraction=0.2, prefer="random")
    for seed, total in enumerate((60, 61, 200, 199, 1300)):
        plans = [Plan(seed, sizes, score_step=0.02, repeated=3, bad_vectors=1) for sizes in cuts(seed, total)]
        first = left_by(plans[0], recipe, RunOptions(num_workers=1))
        for plan, workers in zip(plans[1:], (2, 3, 1), strict=True):
            with about((plan, workers)):
                assert left_by(plan, recipe, RunOptions(num_workers=workers)) == first


def cuts(seed: int, total: int) -> list[tuple[int, ...]]:
    """One shard, two, many, and some with empty ones among them."""
    rng = np.random.default_rng(seed)
    places = [[], [1], sorted(rng.integers(0, total, 9)), [0, total // 3, total // 3, total]]
    return [tuple(int(n) for n in np.diff([0, *some, total])) for some in places]


def test_the_order_of_the_rows_changes_neither_who_is_kept_nor_anybodys_numbers() -> None:
    recipe = SemDeDup(eps=0.02) >> TopScore(fraction=0.9) >> DensityPrune(concepts=6, fraction=0.2, kmeans_points_per_centroid=10)
    for seed, sizes in enumerate([(90, 30), (200,), (600, 0, 700)]):
        plan = Plan(seed, sizes, score_step=0.02, copies=0.3)
        subset, samples, *tables = left_by(plan, recipe, RunOptions(num_workers=2))
        again, others, *others_tables = left_by(replace(plan, order=5), recipe, RunOptions(num_workers=2))
        with about(plan):
            assert (again, others_tables) == (subset, tables)
            assert others != samples
            assert sorted(others, key=itemgetter("uid")) == sorted(samples, key=itemgetter("uid"))


def test_processes_give_the_same_bytes_and_numbers_as_threads() -> None:
    plan = Plan(21, (70, 0, 130), score_step=0.02, repeated=2, bad_vectors=1)
    recipe = SemDeDup(fraction=0.8, prefer="score") >> TopScore(fraction=0.9) >> DensityPrune(concepts=6, fraction=0.2)
    processes = left_by(plan, recipe, RunOptions(engine="processes", num_workers=2))
    assert processes == left_by(plan, recipe, RunOptions(engine="threads", num_workers=2))


def test_random_members_depend_on_the_seed_alone_and_another_seed_takes_others() -> None:
    stage = DensityPrune(concepts=1, size=60, prefer="random")
    plan = Plan(22, (70, 60), copies=0.5)
    kept = [run(Case(plan, stage, seed=seed, workers=workers)).subset for seed, workers in ((5, 1), (5, 3), (6, 2))]
    assert kept[0] == kept[1]
    assert kept[0] != kept[2]
    # Any 60 of 130 are as likely: two draws share 28 on average, and 60 with a probability of 1e-38.
    assert 10 < len(set(kept[0]) & set(kept[2])) < 46
    fewer = run(Case(plan, replace(stage, size=20), seed=5)).subset
    assert set(fewer) < set(kept[0])


def test_a_final_fraction_is_of_the_samples_that_the_user_holds() -> None:
    stage = DensityPrune(concepts=2, fraction=0.3)
    with work_folder() as folder:
        FIFTY.written(folder / "pool")
        held, _ = outcome_of(TopScore(size=39), folder, RunOptions(device="cpu"))
        np.save(folder / "held.npy", np.array([divmod(uid, 2**64) for uid in sorted(held)], np.dtype("u8,u8")))
        kept, status = outcome_of(stage, folder, RunOptions(device="cpu", within=str(folder / "held.npy")))
        assert len(kept) == int(39 * 0.3) == 11
        assert {uid for uid, what in status.items() if what == "outside"} == set(status) - held


# The same, longer


@pytest.mark.slow
@settings(max_examples=2000, deadline=None)
@given(st.integers(0, 2**64))
def test_thousands_of_other_pools_are_as_exact(seed: int) -> None:
    for case in random_cases(seed):
        try:
            found = [run(case)]
        except BadInput as error:
            with about(case):
                assert_tells(error, refusal(case))
        else:
            for holds in EXACT:
                holds(found)
