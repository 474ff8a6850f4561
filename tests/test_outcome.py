"""What a run leaves behind is an interface: names, types, and what they mean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from filters.densprune import DensityPrune
from filters.filter import Recipe
from filters.pool.pool import Pool
from filters.semdedup import SemDeDup
from filters.topscore import TopScore
from tests.pools import read_subset, unit, write_pool, write_shard
from tools import uids

RECIPE = SemDeDup(fraction=0.8) >> TopScore(fraction=0.5) >> DensityPrune(concepts=6, fraction=0.2)

BINARY = pa.binary(16)
SAMPLES = {
    "uid": BINARY, "dedup_cluster": pa.int32(), "dedup_distance": pa.float32(), "dedup_similarity": pa.float32(), "dedup_of": BINARY,
    "score": pa.float32(), "concept": pa.int32(), "distance": pa.float32(), "status": pa.string(),
}  # fmt: skip
CONCEPTS = {
    "concept": pa.int64(), "members": pa.int64(), "d_intra": pa.float64(), "d_inter": pa.float64(), "complexity": pa.float64(),
    "share": pa.float64(), "target": pa.float64(), "quota": pa.int64(), "kept": pa.int64(),
}  # fmt: skip


@pytest.fixture
def told(tmp_path: Path) -> dict[str, Any]:
    told = write_pool(tmp_path / "pool", np.random.default_rng(7))
    return told | {"result": RECIPE.run(tmp_path / "pool", tmp_path / "o.npy"), "work": tmp_path / "o.work"}


def samples(work: Path) -> pa.Table:
    return pa.concat_tables(pq.read_table(path) for path in sorted((work / "samples").glob("*.parquet")))


def test_a_sample_has_its_columns_in_order_and_type(told: dict[str, Any]) -> None:
    for path in (told["work"] / "samples").glob("*.parquet"):
        schema = pq.read_schema(path)
        assert dict(zip(schema.names, schema.types, strict=True)) == SAMPLES
        assert schema.names == list(SAMPLES)


def test_samples_are_the_pools_rows_in_order_by_shard(told: dict[str, Any]) -> None:
    assert sorted(path.stem for path in (told["work"] / "samples").glob("*.parquet")) == [f"{n:032x}" for n in range(4)]
    assert [uid.hex() for uid in samples(told["work"])["uid"].to_pylist()] == told["uids"]


def test_what_is_kept_in_samples_is_what_the_subset_file_lists(told: dict[str, Any]) -> None:
    assert uids.main(["diff", str(told["work"] / "samples"), str(told["result"].save_path), "--sort", "--quiet"]) == 0


def test_a_column_is_null_where_its_stage_did_not_see_the_sample(told: dict[str, Any]) -> None:
    table = samples(told["work"])
    status = np.array(table["status"].to_pylist())
    gone = {"dedup_cluster": [], "score": ["semdedup"], "concept": ["semdedup", "topscore"], "distance": ["semdedup", "topscore"]}
    for name, stages in gone.items():
        np.testing.assert_array_equal(table[name].is_null().to_numpy(), np.isin(status, stages))


def test_every_sample_has_one_status_and_the_kept_ones_are_the_subset(told: dict[str, Any]) -> None:
    table = samples(told["work"])
    counts = {name: table["status"].to_pylist().count(name) for name in set(table["status"].to_pylist())}
    assert counts == {"kept": 28, "semdedup": 28, "topscore": 56, "densityprune": 28}
    kept = [
        int(uid.hex(), 16) for uid, status in zip(table["uid"].to_pylist(), table["status"].to_pylist(), strict=True) if status == "kept"
    ]
    assert read_subset(told["result"].save_path) == sorted(kept)


def test_the_resharders_lookup_finds_exactly_the_kept_samples(told: dict[str, Any]) -> None:
    subset = np.load(told["result"].save_path, mmap_mode="r")
    assert subset.dtype == np.dtype("u8,u8")
    table = samples(told["work"])
    for uid, status in zip(table["uid"].to_pylist(), table["status"].to_pylist(), strict=True):
        asked = np.array(divmod(int(uid.hex(), 16), 2**64), np.uint64).view(np.dtype("u8,u8"))[0]
        times = np.searchsorted(subset, asked, "right") - np.searchsorted(subset, asked, "left")
        assert times == (status == "kept")


def test_a_concept_has_a_row_with_its_columns_in_type(told: dict[str, Any]) -> None:
    table = pq.read_table(told["work"] / "concepts.parquet")
    assert dict(zip(table.schema.names, table.schema.types, strict=True)) == CONCEPTS
    assert table["concept"].to_pylist() == list(range(6))
    assert table["kept"].to_pylist() == table["quota"].to_pylist()
    assert sum(table["share"].to_pylist()) == pytest.approx(1)
    np.testing.assert_allclose(table["target"], 28 * np.array(table["share"]))


def test_centroids_are_unit_rows_in_float32(told: dict[str, Any]) -> None:
    for name, k in (("centroids", 6), ("dedup_centroids", round((1.5 * 140 / 2) ** 0.5))):
        rows = np.load(told["work"] / f"{name}.npy")
        assert (rows.dtype, rows.shape) == (np.float32, (k, 16))
        np.testing.assert_allclose(rows, unit(rows), atol=1e-6)


@pytest.mark.parametrize("name", ["concepts.parquet", "samples/" + "0" * 32 + ".parquet"])
def test_pages_carry_checksums(name: str, told: dict[str, Any]) -> None:
    path = told["work"] / name
    data = bytearray(path.read_bytes())
    data[60] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(OSError, match=r"(?i)checksum|crc|thrift|page"):
        pq.read_table(path, page_checksum_verification=True)


def test_the_manifest_tells_what_was_run_on_what_with_what_result(told: dict[str, Any]) -> None:
    manifest = json.loads((told["work"] / "manifest.json").read_text())
    import hashlib

    assert manifest["sha256"] == hashlib.sha256(told["result"].save_path.read_bytes()).hexdigest() == told["result"].sha256
    assert manifest["recipe"] == repr(RECIPE)
    assert manifest["pool"]["rows"] == 140
    assert len(manifest["pool"]["shards"]) == 4
    assert [(stage["stage"], stage["rows_in"], stage["rows_kept"]) for stage in manifest["stages"]] == [
        ("semdedup", 140, 112),
        ("topscore", 112, 56),
        ("densityprune", 56, 28),
    ]
    assert {"seconds", "bytes_read", "invalid"} <= manifest["stages"][0].keys()
    assert manifest["machine"]["device"] == "cpu"
    assert {"densprune", "numpy", "torch", "pyarrow", "python"} <= manifest["versions"].keys()


def test_an_empty_concept_has_no_d_intra(tmp_path: Path) -> None:
    same = np.tile(unit(np.ones((1, 8))), (20, 1)).astype(np.float16)
    write_shard(tmp_path / "pool", "a", [f"{n:032x}" for n in range(20)], {"l14_img": same})
    DensityPrune(concepts=3, size=7).run(tmp_path / "pool", tmp_path / "o.npy")
    table = pq.read_table(tmp_path / "o.work" / "concepts.parquet").to_pydict()
    assert (table["members"], table["quota"]) == ([20, 0, 0], [7, 0, 0])
    assert table["d_intra"][1:] == [None, None]
    assert table["d_intra"][0] == pytest.approx(0, abs=1e-6)


TOP, LOW = TopScore(fraction=0.5), TopScore(score="clip_b32_similarity_score", fraction=0.4)


@pytest.mark.parametrize(
    ("recipe", "statuses"),
    [
        (TOP >> LOW, {"kept", "topscore", "topscore_2"}),
        (TOP & LOW, {"kept", "topscore", "topscore_2"}),
        (TOP | LOW, {"kept", "topscore"}),
        (TOP - LOW, {"kept", "topscore", "excluded"}),
    ],
    ids=[">>", "&", "|", "-"],
)
def test_a_second_stage_of_a_kind_gets_its_number_in_status_and_columns(recipe: Recipe, statuses: set[str], tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    uids = [rng.bytes(16).hex() for _ in range(50)]
    write_shard(tmp_path / "pool", "a", uids, {}, rng.normal(size=50).astype(np.float32), rng.normal(size=50).astype(np.float32))
    recipe.run(tmp_path / "pool", tmp_path / "o.npy")
    table = samples(tmp_path / "o.work")
    assert set(table["status"].to_pylist()) == statuses
    assert table.schema.names == ["uid", "score", "score_2", "status"]


def test_a_pool_may_be_opened_first_and_filtered_by_many_recipes(tiny_pool: Path, tmp_path: Path) -> None:
    pool = Pool.open(tiny_pool)
    assert (pool.rows, [shard.rows for shard in pool.shards]) == (140, [40, 0, 70, 30])
    for size in (3, 9):
        result = TopScore(size=size).run(pool, tmp_path / f"{size}.npy")
        assert len(result.uids()) == size
