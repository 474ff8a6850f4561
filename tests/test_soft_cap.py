"""Soft Cap Sampling: the draw, what is listed, what is left behind. METHOD 5. The reference is a loop over samples and rounds."""

from __future__ import annotations

import itertools
import json
import math
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from baselines import run
from baselines.soft_cap import SoftCap
from filters import summary
from filters.maths import softcap
from filters.maths.softcap import DEPTH, SPAN, Law
from filters.options import RunOptions
from filters.pool.errors import BadInput
from filters.pool.files import digest_of, told_of
from filters.topscore import TopScore
from filters.work.work import Silent
from tests.pools import Array, cut_into_shards, random_uids, read_subset, write_pool, write_shard
from tools import verify

WORD = 2**64
Capture = pytest.CaptureFixture[str]


# -- the reference


def mixed(word: int) -> int:
    """splitmix64's finaliser."""
    word = (word + 0x9E3779B97F4A7C15) % WORD
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 % WORD
    word = (word ^ word >> 27) * 0x94D049BB133111EB % WORD
    return word ^ word >> 31


def key_of(uid: str, seed: int) -> int:
    high, low = divmod(int(uid, 16), WORD)
    return mixed(mixed((high + mixed((mixed(seed) + 8) % WORD)) % WORD) ^ low)


def exponential(key: int, number: int) -> float:
    """The noise of a sample in a round: 256, 64, 16, 4 rounds and 1 share what is the least of theirs, by an heir of four."""
    least, heir = 0.0, -1
    for level, rounds in enumerate((256, 64, 16, 4, 1)):
        node = number // rounds
        word = mixed(key ^ mixed(node * 256 + level))
        if heir != node % 4:
            least -= math.log(((word >> 12) + 0.5) / 2**52) / rounds
        heir = word % 4
    return least


def expected_draws(scores: list[float], keys: list[int], total: int, batch: int, penalty: float, scale: float | None) -> list[int]:
    batch, n = min(batch, len(scores)), len(scores)
    if scale is not None:
        mean, deviation = statistics.fmean(scores), statistics.pstdev(scores)
        scores = [scale * (score - mean) / deviation if deviation else 0.0 for score in scores]
    draws = [0] * n
    for number, start in enumerate(range(0, total, batch)):
        arrival = [scores[at] - penalty * draws[at] - math.log(exponential(keys[at], number)) for at in range(n)]
        ranked = sorted(range(n), key=lambda at: (-arrival[at], keys[at]))
        for at in ranked[: min(batch, total - start)]:
            draws[at] += 1
    return draws


# -- the draw


def drawn(scores: Array, keys: Array, law: Law, *stops: int, workers: int = 1) -> Array:
    draws = np.zeros(len(keys), np.int32)
    for first, last in itertools.pairwise((0, *stops, law.rounds)):
        softcap.draw(scores, keys, draws, law, first, last, workers)
    return draws


@pytest.mark.parametrize(
    ("n", "batch", "total", "penalty", "scale"),
    [
        (40, 7, 2000, 0.15, 2.5),  # over the bounds of two spans
        (60, 20, 1190, 0.15, None),
        (30, 29, 800, 0.5, 2.5),
        (12, 12, 200, 0.15, 2.5),  # everyone in each whole batch
        (25, 1, 300, 0.0, 6.0),
        (3, 2, 7, 40.0, None),
    ],
)
@pytest.mark.parametrize("pieces", ["whole", "small"])
def test_draws_are_those_of_a_loop_over_samples_and_rounds(
    n: int, batch: int, total: int, penalty: float, scale: float | None, pieces: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if pieces == "small":
        monkeypatch.setattr(softcap, "PIECE", 8)
        monkeypatch.setattr(softcap, "TRIED", 3)  # thresholds that are far off
    rng = np.random.default_rng(n)
    scores, keys = rng.normal(0, 2, n).astype(np.float32), rng.integers(0, 2**63, n).astype(np.uint64)
    law = Law(total, batch, penalty, scale)
    expected = expected_draws(scores.tolist(), keys.tolist(), total, batch, penalty, scale)
    assert drawn(scores, keys, law).tolist() == expected
    assert drawn(scores, keys, law, law.rounds // 3, workers=3).tolist() == expected


@pytest.mark.parametrize("scale", [2.5, None])
def test_the_order_of_samples_and_their_neighbours_in_memory_change_no_draw(scale: float | None) -> None:
    rng = np.random.default_rng(1)
    scores, keys = rng.normal(0, 2, 70_000).astype(np.float32), rng.integers(0, 2**63, 70_000).astype(np.uint64)
    law, order = Law(30_500, 1000, 0.15, scale), rng.permutation(70_000)
    np.testing.assert_array_equal(drawn(scores, keys, law)[order], drawn(scores[order], keys[order], law))


@pytest.mark.parametrize(
    ("scores", "scale"),
    [([1e-42, 2e-42, 0, 3e-42], 2.5), ([3e38, -3e38, 1e38, 0], 2.5), ([0.3] * 4, 2.5), ([3e38, -3e38, 1e38, 0], None), ([1e17] * 4, None)],
)
def test_scores_of_any_size_and_spread_can_be_drawn_by(scores: list[float], scale: float | None) -> None:
    keys = np.arange(4).astype(np.uint64)
    draws = drawn(np.array(scores, np.float32), keys, Law(400, 3, 0.15, scale))
    assert draws.sum() == 400
    assert draws.tolist() == expected_draws(np.array(scores, np.float32).tolist(), keys.tolist(), 400, 3, 0.15, scale)


def probabilities(logits: tuple[float, ...], batch: int, rounds: int, penalty: float) -> dict[tuple[int, ...], float]:
    """Of each number of draws: all orders of every batch, one after the other."""
    found = {(0,) * len(logits): 1.0}
    for _ in range(rounds):
        then: Counter[tuple[int, ...]] = Counter()
        for draws, before in found.items():
            weights = [math.exp(logit - penalty * count) for logit, count in zip(logits, draws, strict=True)]
            for order in itertools.permutations(range(len(logits)), batch):
                chance, left = before, math.fsum(weights)
                for at in order:
                    chance, left = chance * weights[at] / left, left - weights[at]
                then[tuple(count + (at in order) for at, count in enumerate(draws))] += chance  # type: ignore[assignment]
        found = dict(then)
    return found


@pytest.mark.parametrize(
    ("logits", "batch", "rounds", "penalty"), [((0.0, 1.0, -1.0, 2.0), 2, 3, 0.5), ((0.5, 0.0, -2.0, 1.0, 1.0), 3, 2, 0.15)]
)
def test_draws_have_the_probabilities_of_batches_without_replacement(
    logits: tuple[float, ...], batch: int, rounds: int, penalty: float
) -> None:
    expected = probabilities(logits, batch, rounds, penalty)
    trials, scores, rng = 1000, np.array(logits, np.float32), np.random.default_rng(5)
    law, found = Law(batch * rounds, batch, penalty, None), Counter[tuple[int, ...]]()
    for _ in range(trials):
        found[tuple(drawn(scores, rng.integers(0, 2**63, len(logits)).astype(np.uint64), law).tolist())] += 1
    assert found.keys() <= expected.keys()
    often = [draws for draws, chance in expected.items() if chance * trials > 5]
    rest = trials - sum(found[draws] for draws in often), trials * (1 - math.fsum(expected[draws] for draws in often))
    seen = [*(found[draws] for draws in often), rest[0]]
    assert stats.chisquare(seen, [*(expected[draws] * trials for draws in often), rest[1]]).pvalue > 1e-3


def noise_of(keys: Array, number: int) -> Array:
    least, heir = np.zeros(len(keys)), np.zeros(len(keys), np.uint8)
    for level in range(DEPTH + 1):
        least, heir = softcap.noise(keys, level, number, least, heir)
    return least


def test_noise_is_exponential_in_each_round_and_independent_between_rounds_of_any_distance() -> None:
    keys = np.random.default_rng(2).integers(0, 2**63, 40_000).astype(np.uint64)
    first = noise_of(keys, 0)
    assert stats.kstest(first, "expon").pvalue > 1e-3
    for other in (1, 3, 4, 21, 64, 255, SPAN):
        second = noise_of(keys, other)
        assert stats.kstest(second, "expon").pvalue > 1e-3
        assert stats.kstest(np.minimum(first, second) * 2, "expon").pvalue > 1e-3
        quarters = [np.digitize(stats.expon.cdf(one), [0.25, 0.5, 0.75]) for one in (first, second)]
        assert stats.chisquare(np.bincount(4 * quarters[0] + quarters[1], minlength=16)).pvalue > 1e-3


# -- what a run leaves


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A pool, what was drawn of it, and where that lies."""
    folder = tmp_path_factory.mktemp("soft_cap")
    told = write_pool(folder / "pool", np.random.default_rng(9), (40, 0, 70, 30))
    result = RECIPE.run(folder / "pool", folder / "o.npy")
    return told | {"pool": folder / "pool", "work": folder / "o.work", "out": folder / "o.npy", "result": result}


RECIPE = SoftCap(draws=500, batch=32)


def samples(work: Path) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = pa.concat_tables(pq.read_table(path) for path in sorted((work / "samples").glob("*.parquet"))).to_pydict()
    return found


def test_the_draws_column_is_the_references(told: dict[str, Any]) -> None:
    keys = [key_of(uid, 1234) for uid in told["uids"]]
    assert samples(told["work"])["draws"] == expected_draws(told["l14"].tolist(), keys, 500, 32, 0.15, 2.5)


def test_a_uid_is_listed_as_often_as_its_sample_was_drawn_in_ascending_order(told: dict[str, Any]) -> None:
    listed, left = read_subset(told["out"]), samples(told["work"])
    assert len(listed) == sum(left["draws"]) == 500
    assert listed == sorted(listed)
    draws = {int(uid.hex(), 16): count for uid, count in zip(left["uid"], left["draws"], strict=True)}
    assert Counter(listed) == Counter(draws)
    assert max(draws.values()) > 1
    assert left["status"] == ["kept" if count else "soft_cap" for count in left["draws"]]


def test_the_resharders_lookup_gives_each_sample_its_draws(told: dict[str, Any]) -> None:
    subset, left = np.load(told["out"]), samples(told["work"])
    for uid, count in zip(left["uid"], left["draws"], strict=True):
        asked = np.array(divmod(int(uid.hex(), 16), WORD), np.uint64).view(np.dtype("u8,u8"))[0]
        assert np.searchsorted(subset, asked, "right") - np.searchsorted(subset, asked, "left") == count


def test_samples_and_draws_are_both_told(told: dict[str, Any]) -> None:
    result, manifest = told["result"], json.loads((told["work"] / "manifest.json").read_text())
    assert result.listed == manifest["listed"] == len(result.uids()) == 500
    assert result.status["kept"] == manifest["status"]["kept"] == sum(count > 0 for count in samples(told["work"])["draws"])
    assert "--dataset-size" in summary.funnel(result)
    assert "500" in summary.funnel(result)


@pytest.mark.parametrize(("engine", "workers"), [("threads", 1), ("threads", 3), pytest.param("processes", 2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("sizes", [(140,), (1, 0, 99, 40)])
def test_the_same_bytes_however_the_pool_is_cut_and_worked_at(
    engine: str, workers: int, sizes: tuple[int, ...], told: dict[str, Any], tmp_path: Path
) -> None:
    back = {name: told[name][::-1] for name in ("uids", "l14", "l14_img")}
    cut_into_shards(tmp_path / "pool", back, sizes)
    RECIPE.run(tmp_path / "pool", tmp_path / "o.npy", options=RunOptions(engine=engine, num_workers=workers))
    assert (tmp_path / "o.npy").read_bytes() == told["out"].read_bytes()


def test_another_seed_gives_another_draw_in_the_same_work_folder_too(told: dict[str, Any], tmp_path: Path) -> None:
    for seed, name in ((1, "o"), (5, "o"), (5, "fresh")):
        RECIPE.run(told["pool"], tmp_path / f"{name}.npy", options=RunOptions(seed=seed))
    assert read_subset(tmp_path / "o.npy") == read_subset(tmp_path / "fresh.npy") != read_subset(told["out"])
    assert len(read_subset(tmp_path / "o.npy")) == 500


def test_after_other_filters_only_what_they_left_is_drawn(told: dict[str, Any], tmp_path: Path) -> None:
    (TopScore(fraction=0.25) >> (TopScore(score="b32", fraction=0.8) >> SoftCap(draws=300))).run(told["pool"], tmp_path / "o.npy")
    best = [int(told["uids"][at], 16) for at in np.argsort(-told["l14"])[:28]]
    assert Counter(read_subset(tmp_path / "o.npy")).keys() == set(best)


def test_a_batch_of_more_than_there_are_draws_each_sample_once(told: dict[str, Any], tmp_path: Path) -> None:
    SoftCap(draws=3 * 140 + 9).run(told["pool"], tmp_path / "o.npy")
    assert Counter(Counter(read_subset(tmp_path / "o.npy")).values()) == {3: 131, 4: 9}


def test_invalid_repeated_and_outside_samples_are_never_drawn(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    uids, scores = random_uids(rng, 50), rng.normal(0.3, 0.1, 51).astype(np.float32)
    scores[[3, 7]], scores[50] = np.nan, 9.0
    write_shard(tmp_path / "pool", f"{0:032x}", [*uids, uids[5]], {}, scores)
    held = sorted((int(uid, 16) >> 64, int(uid, 16) % WORD) for uid in uids[:40] for _ in range(2))
    np.save(tmp_path / "held.npy", np.array(held, np.dtype("u8,u8")))
    options = RunOptions(within=str(tmp_path / "held.npy"), allow_invalid=True)
    SoftCap(draws=120, batch=30).run(tmp_path / "pool", tmp_path / "o.npy", options=options)
    left = samples(tmp_path / "o.work")
    assert [left["draws"][at] for at in (3, 7, *range(40, 51))] == [None] * 13
    assert [left["status"][at] for at in (3, 7, *range(40, 51))] == ["invalid"] * 2 + ["outside"] * 10 + ["repeated"]
    valid = [at for at in range(40) if at not in (3, 7)]
    keys = [key_of(uids[at], 1234) for at in valid]
    assert [left["draws"][at] for at in valid] == expected_draws(scores[valid].tolist(), keys, 120, 30, 0.15, 2.5)


def test_a_table_of_logits_is_drawn_by_as_it_is(told: dict[str, Any], tmp_path: Path) -> None:
    logits = np.random.default_rng(8).normal(0, 2.5, 100).astype(np.float32)
    pq.write_table(pa.table({"uid": told["uids"][:100], "score": logits}), tmp_path / "mine.parquet")
    SoftCap(draws=220, batch=20, score=str(tmp_path / "mine.parquet"), scale=None).run(told["pool"], tmp_path / "o.npy")
    left = samples(tmp_path / "o.work")
    keys = [key_of(uid, 1234) for uid in told["uids"][:100]]
    assert left["draws"][:100] == expected_draws(logits.tolist(), keys, 220, 20, 0.15, None)
    assert left["status"][100:] == ["outside"] * 40


class Stopping(Silent):
    """Ends the run when a race begins for the second time."""

    def __init__(self) -> None:
        self.races: list[int] = []
        self.stopping = True

    def begin(self, name: str, samples: int) -> None:
        self.races += [samples] * name.endswith("race")
        if self.stopping and len(self.races) > 1:
            raise KeyboardInterrupt


def test_a_draw_that_was_stopped_goes_on_after_its_last_step(told: dict[str, Any], tmp_path: Path) -> None:
    recipe, watch = SoftCap(draws=1500, batch=4), Stopping()
    with pytest.raises(KeyboardInterrupt):
        recipe.run(told["pool"], tmp_path / "o.npy", progress=watch)
    watch.stopping = False
    recipe.run(told["pool"], tmp_path / "o.npy", progress=watch)
    assert watch.races == [4 * SPAN, 1500 - 4 * SPAN, 1500 - 4 * SPAN]
    recipe.run(told["pool"], tmp_path / "once.npy")
    assert (tmp_path / "o.npy").read_bytes() == (tmp_path / "once.npy").read_bytes()


# -- what is refused

LAST = SoftCap(draws=10)
TOP = TopScore(fraction=0.5)


@pytest.mark.parametrize(
    "built",
    [
        lambda: LAST >> TOP,
        lambda: LAST & TOP,
        lambda: TOP | LAST,
        lambda: TOP - LAST,
        lambda: LAST - TOP,
        lambda: (TOP >> LAST) >> TOP,
        lambda: TOP & (TOP >> LAST),
        lambda: LAST >> LAST,
    ],
)
def test_it_can_only_come_last(built: Any) -> None:
    with pytest.raises(BadInput, match="soft_cap lists samples more than once; let it come last") as refused:
        built()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("words", "told_in_it"),
    [
        ("", "draws"),
        ("--draws 0", "[1, inf)"),
        ("--draws 10 --batch 0", "[1, inf)"),
        ("--draws 10 --penalty -1", "[0, inf)"),
        ("--draws 10 --scale 0", "(0, inf)"),
        ("--draws 10 --score nothing", "nothing"),
        ("--draws 12800000000 --batch 1", "batches"),
    ],
)
def test_what_cannot_be_drawn_is_one_line_and_exit_2(
    words: str, told_in_it: str, told: dict[str, Any], tmp_path: Path, capsys: Capture
) -> None:
    assert call(told["pool"], tmp_path, words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert told_in_it in error


def test_a_pool_without_any_score_is_told_in_one_line(tmp_path: Path, capsys: Capture) -> None:
    write_shard(tmp_path / "pool", f"{0:032x}", random_uids(np.random.default_rng(1), 5), {}, np.full(5, np.nan, np.float32))
    assert call(tmp_path / "pool", tmp_path, "--draws 10 --allow_invalid") == 2
    assert "no sample has a score" in capsys.readouterr().err


# -- tools/verify.py


def call(pool: Path, folder: Path, words: str) -> int:
    places = ["--metadata_dir", str(pool), "--save_path", str(folder / "o.npy"), "--quiet"]
    return run.main(["--name", "soft_cap", *places, *words.split()])


def verified(work: Path, capsys: Capture) -> list[str]:
    """What is said to be wrong."""
    capsys.readouterr()
    code = verify.main([str(work), "--share", "1"])
    wrong = [line for line in capsys.readouterr().out.splitlines() if line.startswith("WRONG")]
    assert code == bool(wrong)
    return wrong


@pytest.mark.parametrize(
    "words", ["--draws 300 --batch 40", "--draws 20 --batch 8 --seed 3 --score b32 --scale none --penalty 1", "--draws 300"]
)
def test_verify_finds_a_run_right(words: str, told: dict[str, Any], tmp_path: Path, capsys: Capture) -> None:
    assert call(told["pool"], tmp_path, words) == 0
    assert verified(tmp_path / "o.work", capsys) == []


def resealed(work: Path, **more: Any) -> None:
    """The manifest as a run that left these files would have written it."""
    manifest = json.loads((work / "manifest.json").read_text()) | more
    manifest["files"] = {name: told_of(work / name) for name in manifest["files"]}
    (work / "manifest.json").write_text(json.dumps(manifest | {"digest": digest_of(manifest)}))


def with_draws(work: Path, *changes: int) -> list[str]:
    """Other draws of as many samples of the first shard, which were drawn twice at least. Gives their uids."""
    path = work / "samples" / f"{0:032x}.parquet"
    table = pq.read_table(path)
    draws = table["draws"].to_pylist()
    chosen = [at for at, count in enumerate(draws) if count >= 2][: len(changes)]
    for at, change in zip(chosen, changes, strict=True):
        draws[at] += change
    pq.write_table(table.set_column(table.schema.get_field_index("draws"), "draws", pa.array(draws, pa.int32())), path)
    return [table["uid"][at].as_py().hex() for at in chosen]


def test_verify_finds_a_count_that_was_changed_in_the_samples(told: dict[str, Any], tmp_path: Path, capsys: Capture) -> None:
    call(told["pool"], tmp_path, "--draws 900 --batch 100")
    (uid,) = with_draws(tmp_path / "o.work", 1)
    resealed(tmp_path / "o.work")
    wrong = verified(tmp_path / "o.work", capsys)
    assert any("kept" in line for line in wrong)
    assert any("draws" in line and uid in line for line in wrong)


def test_verify_finds_a_draw_that_was_given_to_another_sample_in_every_file(told: dict[str, Any], tmp_path: Path, capsys: Capture) -> None:
    call(told["pool"], tmp_path, "--draws 900 --batch 100")
    more, less = (int(uid, 16) for uid in with_draws(tmp_path / "o.work", 1, -1))
    listed = read_subset(tmp_path / "o.npy")
    listed.remove(less)
    records = sorted((uid >> 64, uid % WORD) for uid in [*listed, more])
    np.save(tmp_path / "o.npy", np.array(records, np.dtype("u8,u8")))
    resealed(tmp_path / "o.work", sha256=told_of(tmp_path / "o.npy")["sha256"])
    wrong = verified(tmp_path / "o.work", capsys)
    assert [line.partition(":")[0] for line in wrong] == ["WRONG  draws"]
