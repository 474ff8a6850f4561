"""Both sides of each measured step find the same; and the README shows what was measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from baselines.wordnet import DEBIAN
from tools.bench import JSON, ROOT
from tools.speed import made, ours, peers, same, table
from tools.speed.job import Job, evict, in_turn, resident

WIDTH = 32


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench") / "pool"
    made.pool(folder, 6000, 3, WIDTH)
    return folder


def found(job: Job) -> dict[str, Any]:
    job.before()
    return job.tell(job.work())


def test_the_subset_has_the_same_bytes_by_pandas_by_the_parts_and_by_a_whole_run(pool: Path, tmp_path: Path) -> None:
    peer = found(peers.subset(in_turn, pool, tmp_path / "peer.npy"))
    assert len(peer["bytes"]) > 16 * 1000
    same.equal("bytes")(found(ours.subset(in_turn, pool, tmp_path / "ours.npy")), peer)
    same.equal("bytes")(found(ours.topscore(pool, tmp_path / "run.npy")), peer)


@pytest.mark.parametrize("verify", [False, True])
def test_every_row_is_read(verify: bool, pool: Path) -> None:
    same.equal("sums")(found(ours.read(in_turn, pool, verify)), found(peers.read(in_turn, pool)))


def test_samples_get_the_nearest_of_the_centroids(pool: Path) -> None:
    same.labels(found(ours.assign(in_turn, pool, 50, WIDTH)), found(peers.assign(in_turn, pool, 50, WIDTH)))


@pytest.mark.parametrize(("iterations", "stops"), [(3, False), (100, True)])
def test_kmeans_reaches_the_same_objective(iterations: int, stops: bool) -> None:
    sides = (found(side(5000, 20, iterations, WIDTH)) for side in (ours.kmeans, peers.kmeans))
    same.objective(5000, stops, WIDTH)(*sides)


@pytest.mark.parametrize("sizes", [made.equal_clusters(1100, 3), made.small_clusters(25)], ids=["large", "small"])
def test_pairs_are_as_similar_as_in_the_full_matrix(sizes: Any) -> None:
    sides = (found(side(in_turn, sizes, WIDTH)) for side in (ours.pairs, peers.pairs))
    same.similarities(*sides)


def test_captions_are_in_the_language_and_have_the_words_that_they_have_one_at_a_time(tmp_path: Path) -> None:
    same.equal("english")(found(ours.language(300)), found(peers.language(300)))
    if not DEBIAN.is_dir():
        pytest.skip("there is no WordNet in /usr/share/wordnet")
    same.equal("found")(found(ours.words(300, tmp_path)), found(peers.words(300, tmp_path)))


def test_quotas_sum_exactly_and_are_as_near_as_those_of_osqp() -> None:
    same.quotas(100)(found(ours.quota(100)), found(peers.quota(100)))


def test_the_scores_of_batches_and_the_norms_are_those_of_whole_matrices() -> None:
    same.close("scores", 1e-5)(*(found(side(in_turn, 300, WIDTH)) for side in (ours.negcliploss, peers.negcliploss)))
    for p in ("inf", "2"):
        same.close("norms", 1e-5)(*(found(side(in_turn, 300, 90, p, WIDTH)) for side in (ours.normsim, peers.normsim)))


@pytest.mark.parametrize("groups", [1, 20])
def test_the_same_samples_stay_as_when_all_are_sorted(groups: int) -> None:
    same.equal("kept")(found(ours.cut(in_turn, 20_000, groups)), found(peers.cut(20_000, groups)))


def test_as_many_stay_after_each_stage_of_a_whole_run(pool: Path, tmp_path: Path) -> None:
    mine = found(ours.whole(pool, tmp_path / "ours.npy", concepts=30))
    same.counts(mine, found(peers.whole(pool, tmp_path / "peer.npy", concepts=30)))
    assert {"semdedup centroids: k-means", "densityprune nearest concept"} <= mine["passes"].keys()
    assert all(mine["flops"].values()), "the limit is made of these"


DIFFERENT: dict[str, tuple[Callable[..., Any], dict[str, Any], dict[str, Any]]] = {
    "bytes": (same.equal("bytes"), {"bytes": np.arange(3)}, {"bytes": np.arange(4)}),
    "labels": (
        same.labels,
        {"labels": np.zeros(10), "distances": np.full(10, 0.2)},
        {"labels": np.ones(10), "distances": np.full(10, 0.2)},
    ),
    "similarities": (same.similarities, {"similarity": np.array([0.5])}, {"similarity": np.array([0.501])}),
    "counts": (same.counts, {"left": np.array([5, 3])}, {"left": np.array([5, 4])}),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_sides_that_differ_are_told(name: str) -> None:
    compare, mine, theirs = DIFFERENT[name]
    with pytest.raises(same.Differ):
        compare(mine, theirs)


def test_an_evicted_file_is_cold(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(1 << 20))
    assert resident(tmp_path / "file") == 1
    try:
        evict([tmp_path / "file"])
    except RuntimeError:
        pytest.skip("this file system keeps its files in memory")
    assert resident(tmp_path / "file") == 0


def test_the_tables_of_the_readme_are_those_of_the_json() -> None:
    text = (ROOT / "README.md").read_text()
    assert table.renewed(text, json.loads(JSON.read_text())) == text
    assert "<!-- speed -->" in text


def test_the_json_names_no_place() -> None:
    assert not [place for place in ("/tmp", "/home", "/root", str(ROOT)) if place in JSON.read_text()]
