"""Which embeddings a run looks at: any float member, stored or deflated, in the pool's npz or beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from filters import densprune
from filters.densprune import DensityPrune
from filters.options import RunOptions
from tests.pools import Array, blobs, random_uids, write_shard

RECIPE = DensityPrune(concepts=6, size=25)
SIZES = (50, 70)


@pytest.fixture
def told(tmp_path: Path) -> dict[str, Any]:
    """Rows and uids of two shards, and the subset that they give."""
    rng = np.random.default_rng(2)
    told: dict[str, Any] = {"uids": random_uids(rng, sum(SIZES)), "rows": blobs(rng, sum(SIZES), 24)}
    write_as(tmp_path / "plain", told, told["rows"])
    RECIPE.run(tmp_path / "plain", tmp_path / "plain.npy")
    return told | {"subset": (tmp_path / "plain.npy").read_bytes()}


def write_as(folder: Path, told: dict[str, Any], rows: Array, name: str = "l14_img", compressed: bool = False) -> None:
    """The same uids with these rows as a member of this name."""
    for number, at in enumerate((slice(0, SIZES[0]), slice(SIZES[0], sum(SIZES)))):
        write_shard(folder, f"{number:032x}", told["uids"][at], {name: rows[at], "other": np.zeros((3, 2))}, compressed=compressed)


def test_a_deflated_member_gives_the_same_bytes(told: dict[str, Any], tmp_path: Path) -> None:
    write_as(tmp_path / "pool", told, told["rows"], compressed=True)
    RECIPE.run(tmp_path / "pool", tmp_path / "o.npy")
    assert (tmp_path / "o.npy").read_bytes() == told["subset"]


def test_another_member_may_be_named(told: dict[str, Any], tmp_path: Path) -> None:
    write_as(tmp_path / "pool", told, told["rows"], name="mine")
    DensityPrune(concepts=6, size=25, features="mine").run(tmp_path / "pool", tmp_path / "o.npy")
    assert (tmp_path / "o.npy").read_bytes() == told["subset"]


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_wider_floats_of_any_length_are_used_as_unit_rows(kind: type, told: dict[str, Any], tmp_path: Path) -> None:
    scale = np.random.default_rng(1).uniform(0.5, 1e30 if kind is np.float32 else 1e200, (sum(SIZES), 1))
    write_as(tmp_path / "pool", told, (told["rows"].astype(np.float64) * scale).astype(kind))
    result = RECIPE.run(tmp_path / "pool", tmp_path / "o.npy")
    assert result.status["invalid"] == 0
    # Rounding differs in the last bit of a distance, which may decide between two samples that are as far.
    same = len(np.intersect1d(np.load(tmp_path / "o.npy"), np.load(tmp_path / "plain.npy")))
    assert same >= 24


def test_embeddings_kept_elsewhere_come_before_the_pools_own(told: dict[str, Any], tmp_path: Path) -> None:
    write_as(tmp_path / "pool", told, told["rows"][::-1].copy())
    write_as(tmp_path / "beside", told, told["rows"])
    RECIPE.run(tmp_path / "pool", tmp_path / "o.npy", options=RunOptions(features_dir=str(tmp_path / "beside")))
    assert (tmp_path / "o.npy").read_bytes() == told["subset"]


def test_a_member_that_is_not_kept_elsewhere_is_the_pools(told: dict[str, Any], tmp_path: Path) -> None:
    write_as(tmp_path / "pool", told, told["rows"])
    write_as(tmp_path / "beside", told, told["rows"][:, :8].copy(), name="dino")
    options = [
        "--features_dir",
        str(tmp_path / "beside"),
        "--features",
        "dino",
        "--dedup_features",
        "l14_img",
        "--concepts",
        "5",
        "--quiet",
    ]
    assert densprune.main(["--metadata_dir", str(tmp_path / "pool"), "--save_path", str(tmp_path / "o.npy"), *options]) == 0
    assert np.load(tmp_path / "o.work" / "centroids.npy").shape == (5, 8)
    assert np.load(tmp_path / "o.work" / "dedup_centroids.npy").shape[1] == 24


def test_a_shard_without_its_embeddings_is_named(told: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_as(tmp_path / "pool", told, told["rows"])
    write_as(tmp_path / "beside", told, told["rows"])
    lost = tmp_path / "beside" / f"{1:032x}.npz"
    lost.unlink()
    places = ["--metadata_dir", str(tmp_path / "pool"), "--features_dir", str(tmp_path / "beside"), "--save_path", str(tmp_path / "o.npy")]
    assert densprune.main([*places, "--quiet"]) == 2
    assert str(lost) in capfd.readouterr().err
