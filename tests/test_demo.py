"""The demo pool: what its files hold, that its embeddings know pictures and words, and that it is whole or not there."""

from __future__ import annotations

import hashlib
import io
import json
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from filters.maths.arrays import Array
from filters.pool.demo import Sample, make, plan

ROOT = Path(__file__).parents[1]
SAMPLES, SHARDS, SEED = 1500, 3, 7
WIDTHS = {"b32_img": 512, "b32_txt": 512, "l14_img": 768, "l14_txt": 768, "dedup": 256}


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "pool"
    make(folder, SAMPLES, SHARDS, SEED)
    return folder


@pytest.fixture(scope="session")
def world() -> list[Sample]:
    return plan(SAMPLES, SEED)


@pytest.fixture(scope="session")
def table(pool: Path) -> pa.Table:
    """The metadata of all shards, in pool order."""
    return pa.concat_tables([pq.read_table(path) for path in sorted((pool / "metadata").glob("*.parquet"))])


@pytest.fixture(scope="session")
def arrays(pool: Path) -> dict[str, Array]:
    """The npz members of all shards, in pool order."""
    shards = [np.load(path) for path in sorted((pool / "metadata").glob("*.npz"))]
    return {name: np.concatenate([shard[name] for shard in shards]) for name in WIDTHS}


@pytest.fixture(scope="session")
def entries(pool: Path) -> list[dict[str, Any]]:
    """What the tars hold: a sample's json, its jpg and its txt."""
    return [entry for path in sorted((pool / "shards").glob("*.tar")) for entry in read_tar(path)]


def read_tar(path: Path) -> list[dict[str, Any]]:
    with tarfile.open(path) as tar:
        bodies = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    keys = dict.fromkeys(name.split(".")[0] for name in bodies)
    return [json.loads(bodies[f"{key}.json"]) | {"jpg": bodies[f"{key}.jpg"], "txt": bodies[f"{key}.txt"]} for key in keys]


def every_file(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def area_under_curve(better: Array, worse: Array) -> float:
    """How often a better one scores above a worse one."""
    return float((better[:, None] > worse).mean())


# What lies on disk.


def test_a_parquet_has_datacomps_columns_in_datacomps_types(table: pa.Table) -> None:
    text, size, score = pa.string(), pa.int64(), pa.float32()
    assert list(zip(table.schema.names, table.schema.types, strict=True)) == [
        ("uid", text), ("url", text), ("text", text), ("original_width", size), ("original_height", size),
        ("clip_b32_similarity_score", score), ("clip_l14_similarity_score", score),
        ("face_bboxes", pa.list_(pa.list_(pa.float64()))), ("sha256", text),
    ]  # fmt: skip
    assert sum(column.null_count for column in table.columns) == 0


def test_every_npz_has_as_many_rows_as_its_parquet_and_shards_differ_in_length(pool: Path) -> None:
    lengths = []
    for path in sorted((pool / "metadata").glob("*.npz")):
        rows = pq.read_metadata(path.with_suffix(".parquet")).num_rows
        with np.load(path) as members:
            assert {name: members[name].shape for name in members.files} == {name: (rows, width) for name, width in WIDTHS.items()}
        assert len(path.stem) == 32
        assert int(path.stem, 16) >= 0
        lengths.append(rows)
    assert len(set(lengths)) == SHARDS
    assert sum(lengths) == SAMPLES


def test_members_are_stored_without_compression(pool: Path) -> None:
    for path in (pool / "metadata").glob("*.npz"):
        with np.load(path) as members:
            assert {info.compress_type for info in members.zip.infolist()} == {0}


def test_embeddings_are_float16_unit_rows(arrays: dict[str, Array]) -> None:
    for name in ("b32_img", "b32_txt", "l14_img", "l14_txt"):
        assert arrays[name].dtype == np.float16
        assert np.linalg.norm(arrays[name].astype(np.float64), axis=1) == pytest.approx(1, abs=1e-3)


def test_a_picture_descriptor_takes_1024_bytes(arrays: dict[str, Array]) -> None:
    assert arrays["dedup"].dtype == np.float32
    assert np.isfinite(arrays["dedup"]).all()
    assert arrays["dedup"][0].nbytes == 1024


@pytest.mark.parametrize("encoder", ["b32", "l14"])
def test_scores_are_the_dot_products_of_the_stored_rows(table: pa.Table, arrays: dict[str, Array], encoder: str) -> None:
    image, text = (arrays[f"{encoder}_{side}"].astype(np.float64) for side in ("img", "txt"))
    assert table[f"clip_{encoder}_similarity_score"].to_numpy() == pytest.approx((image * text).sum(1), abs=1e-5)


def test_uids_are_128_bits_in_hex_and_differ(table: pa.Table) -> None:
    uids = table["uid"].to_pylist()
    assert {len(uid) for uid in uids} == {32}
    assert len({int(uid, 16) for uid in uids}) == SAMPLES


def test_the_tars_hold_each_sample_once_and_agree_with_the_metadata(table: pa.Table, entries: list[dict[str, Any]]) -> None:
    rows = {row["uid"]: row for row in table.to_pylist()}
    assert Counter(entry["uid"] for entry in entries) == Counter(rows.keys())
    for entry in entries:
        row = rows[entry["uid"]]
        assert entry["caption"] == row["text"] == entry["txt"].decode()
        shared = ("url", "sha256", "original_width", "original_height", "face_bboxes")
        assert {name: entry[name] for name in shared} == {name: row[name] for name in shared}


def test_a_picture_is_a_small_jpeg_of_the_size_and_hash_its_json_says(entries: list[dict[str, Any]]) -> None:
    for entry in entries:
        assert entry["sha256"] == hashlib.sha256(entry["jpg"]).hexdigest()
        assert len(entry["jpg"]) <= 1024
        with Image.open(io.BytesIO(entry["jpg"])) as picture:
            assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (entry["width"], entry["height"]))


def test_each_tar_says_how_many_samples_it_holds(pool: Path) -> None:
    for number in range(SHARDS):
        stats = json.loads((pool / "shards" / f"{number:08d}_stats.json").read_text())
        assert stats["count"] == stats["successes"] == len(read_tar(pool / "shards" / f"{number:08d}.tar"))


def test_only_some_pictures_have_faces_and_their_boxes_lie_inside(table: pa.Table) -> None:
    boxes = [box for faces in table["face_bboxes"].to_pylist() for box in faces]
    assert 0 < len(boxes) < SAMPLES / 4
    assert all(0 <= left < right <= 1 and 0 <= top < bottom <= 1 for left, top, right, bottom in boxes)


def test_twenty_thousand_samples_fit_in_195_megabytes(pool: Path) -> None:
    assert sum(map(len, every_file(pool).values())) / SAMPLES * 20_000 < 195e6


# What the embeddings know.


def test_the_plan_says_what_is_written_under_each_picture(table: pa.Table, world: list[Sample]) -> None:
    assert table["text"].to_pylist() == [sample.caption for sample in world]


@pytest.mark.parametrize("encoder", ["b32", "l14"])
def test_right_captions_outscore_wrong_and_empty_ones(table: pa.Table, world: list[Sample], encoder: str) -> None:
    score, role = table[f"clip_{encoder}_similarity_score"].to_numpy(), np.array([sample.role for sample in world])
    assert area_under_curve(score[role == "right"], score[role == "wrong"]) > 0.85
    assert area_under_curve(score[role == "right"], score[role == "junk"]) > 0.85
    assert abs(np.median(score[role == "junk"])) < 0.1


def test_a_copy_is_nearer_to_its_source_than_most_of_its_kind(arrays: dict[str, Array], world: list[Sample]) -> None:
    image = arrays["l14_img"].astype(np.float32)
    kind, source = np.array([sample.kind for sample in world]), np.array([sample.source for sample in world])
    copies = np.flatnonzero(source != np.arange(SAMPLES))
    likeness = image[copies] @ image.T
    others = (kind[copies, None] == kind) & (source[copies, None] != source)
    usual = np.nanmedian(np.where(others, likeness, np.nan), axis=1)
    to_source = (image[copies] * image[source[copies]]).sum(1)
    assert (to_source > usual).mean() > 0.85
    assert (usual > likeness.mean(axis=1)).mean() > 0.85


def test_pictures_taken_at_random_are_unlike(arrays: dict[str, Array]) -> None:
    likeness = arrays["l14_img"].astype(np.float32) @ arrays["l14_img"].astype(np.float32).T
    assert abs(likeness[np.triu_indices(SAMPLES, 1)].mean()) < 0.35


def test_an_exact_copy_has_its_sources_picture_and_a_recoded_one_nearly(
    table: pa.Table, arrays: dict[str, Array], world: list[Sample]
) -> None:
    sha, image = table["sha256"].to_pylist(), arrays["l14_img"].astype(np.float32)
    for place, sample in enumerate(world):
        if sample.edit == "exact":
            assert sha[place] == sha[sample.source]
            assert (arrays["l14_img"][place] == arrays["l14_img"][sample.source]).all()
    recoded = [float(image[place] @ image[sample.source]) for place, sample in enumerate(world) if sample.edit == "recoded"]
    assert np.median(recoded) > 0.97


def test_a_fifth_are_copies_each_after_its_source(world: list[Sample]) -> None:
    copies = [(place, sample) for place, sample in enumerate(world) if sample.edit]
    assert len(copies) == SAMPLES // 5
    assert all(sample.source < place and not world[sample.source].edit for place, sample in copies)


# Whole, or not there.


def test_the_same_arguments_give_the_same_bytes(pool: Path, tmp_path: Path) -> None:
    make(tmp_path / "again", SAMPLES, SHARDS, SEED)
    assert every_file(tmp_path / "again") == every_file(pool)


def test_another_seed_gives_another_pool(tmp_path: Path) -> None:
    make(tmp_path / "one", 20, 2, seed=1)
    make(tmp_path / "two", 20, 2, seed=2)
    one, two = (pq.read_table(next((tmp_path / name / "metadata").glob("*.parquet"))) for name in ("one", "two"))
    assert set(one["uid"].to_pylist()).isdisjoint(two["uid"].to_pylist())


def test_a_finished_pool_is_left_alone(pool: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in pool.rglob("*")}
    make(pool, SAMPLES, SHARDS, SEED)
    assert {path: path.stat().st_mtime_ns for path in pool.rglob("*")} == before


def test_what_an_interrupted_making_left_is_thrown_away(tmp_path: Path) -> None:
    left = tmp_path / "pool.part"
    (left / "metadata").mkdir(parents=True)
    (left / "metadata" / "half.npz").write_bytes(b"PK")
    make(tmp_path / "pool", 20, 2)
    assert not left.exists()
    assert not (tmp_path / "pool" / "metadata" / "half.npz").exists()
    assert len(list((tmp_path / "pool" / "metadata").glob("*.npz"))) == 2


def test_kill_9_leaves_no_folder_and_the_next_making_works(tmp_path: Path) -> None:
    code = f"from pathlib import Path; from filters.pool.demo import make; make(Path({str(tmp_path / 'pool')!r}), 2000)"
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) as making:
        while not (tmp_path / "pool.part").exists() and making.poll() is None:
            time.sleep(0.01)
        making.kill()
    assert making.returncode == -signal.SIGKILL
    assert not (tmp_path / "pool").exists()
    make(tmp_path / "pool", 20, 2)
    assert {path.name for path in tmp_path.iterdir()} == {"pool"}


def test_a_making_that_fails_leaves_no_folder_and_the_next_one_works(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        make(tmp_path / "pool", 20, shards=-1)
    assert not (tmp_path / "pool").exists()
    make(tmp_path / "pool", 20, 2)
    assert (tmp_path / "pool" / "demo.json").exists()


@pytest.mark.parametrize("other", [{"samples": 21}, {"shards": 3}, {"seed": 4}])
def test_other_settings_on_a_finished_pool_are_refused(tmp_path: Path, other: dict[str, int]) -> None:
    settings: dict[str, Any] = {"samples": 20, "shards": 2, "seed": 3}
    make(tmp_path / "pool", **settings)
    with pytest.raises(ValueError, match="another folder"):
        make(tmp_path / "pool", **(settings | other))


def test_a_folder_of_something_else_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="something else"):
        make(tmp_path, 20, 2)
    assert every_file(tmp_path) == {"notes.txt": b"mine"}


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    make(tmp_path / "pool", 20, 2)
    assert (tmp_path / "pool" / "demo.json").exists()
