"""The main job on real images, where a folder of them is named by DENSPRUNE_DATA."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from filters import densprune
from tests.pools import read_subset, unit


@pytest.fixture(scope="module")
def run(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run on the real pool left, joined with the pool's own columns."""
    folder = tmp_path_factory.mktemp("real")
    metadata = real_data / "metadata"
    assert densprune.main(["--metadata_dir", str(metadata), "--save_path", str(folder / "o.npy"), "--quiet"]) == 0
    keys = sorted(path.stem for path in metadata.glob("*.parquet"))
    pool = pa.concat_tables(pq.read_table(metadata / f"{key}.parquet") for key in keys)
    left = pa.concat_tables(pq.read_table(folder / "o.work" / "samples" / f"{key}.parquet") for key in keys)
    rows = np.concatenate([np.load(metadata / f"{key}.npz")["l14_img"] for key in keys])
    return {"folder": folder, "pool": pool, "left": left, "rows": unit(rows.astype(np.float64))}


def test_the_funnel_is_that_of_the_preset(run: dict[str, Any]) -> None:
    manifest = json.loads((run["folder"] / "o.work" / "manifest.json").read_text())
    n = len(run["pool"])
    assert [stage["rows_kept"] for stage in manifest["stages"]] == [int(n * 0.8), int(int(n * 0.8) * 0.4), int(n * 0.15)]
    assert len(read_subset(run["folder"] / "o.npy")) == int(n * 0.15)


def test_a_dropped_duplicate_is_as_near_to_the_one_it_names_as_it_says(run: dict[str, Any]) -> None:
    uids = run["left"]["uid"].to_pylist()
    where = {uid: row for row, uid in enumerate(uids)}
    of, told = run["left"]["dedup_of"].to_pylist(), run["left"]["dedup_similarity"].to_numpy()
    known = [row for row, uid in enumerate(of) if uid is not None]
    exact = np.einsum("ij,ij->i", run["rows"][known], run["rows"][[where[of[row]] for row in known]])
    np.testing.assert_allclose(told[known], exact, atol=2e-5)


def test_pictures_that_are_the_same_file_do_not_both_stay(run: dict[str, Any]) -> None:
    digests = run["pool"]["sha256"].to_pylist()
    kept = [digest for digest, status in zip(digests, run["left"]["status"].to_pylist(), strict=True) if status == "kept"]
    assert len(set(kept)) == len(kept)
    assert len(set(digests)) < len(digests)


def test_the_kept_members_of_a_concept_are_the_farthest_that_reached_it(run: dict[str, Any]) -> None:
    left = run["left"].to_pandas()
    quota = pq.read_table(run["folder"] / "o.work" / "concepts.parquet").to_pandas().set_index("concept")["quota"]
    for concept, members in left[left["concept"].notna()].groupby("concept"):
        kept, pruned = (members[(members["status"] == "kept") == is_kept]["distance"] for is_kept in (True, False))
        assert len(kept) == quota[int(concept)]
        assert not len(kept) or not len(pruned) or kept.min() >= pruned.max()


def test_a_pool_with_b32_members_and_without_scores_works(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "real" / "fashion_clip_pool"
    if (folder / "metadata").is_dir():
        folder = folder / "metadata"
    options = ["--features", "b32_img", "--score", "none", "--concepts", "20", "--fraction", "0.3", "--quiet"]
    assert densprune.main(["--metadata_dir", str(folder), "--save_path", str(tmp_path / "o.npy"), *options]) == 0
    rows = sum(pq.read_metadata(path).num_rows for path in folder.glob("*.parquet"))
    assert len(read_subset(tmp_path / "o.npy")) == int(rows * 0.3)


def test_only_what_was_downloaded_counts_with_within(real_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.npy"
    places = ["--metadata_dir", str(real_data / "metadata"), "--within", str(real_data / "shards")]
    assert densprune.main([*places, "--save_path", str(out), "--quiet"]) == 0
    successes = sum(json.loads(path.read_text())["successes"] for path in (real_data / "shards").glob("*_stats.json"))
    told = json.loads((tmp_path / "o.work" / "manifest.json").read_text())
    assert (told["samples"], told["status"]["outside"]) == (successes, 12_000 - successes)
    assert len(read_subset(out)) == int(successes * 0.15)
