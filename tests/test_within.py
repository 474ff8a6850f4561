"""--within limits the pool before the first stage."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from filters import densprune
from filters.densprune import DensityPrune
from filters.options import RunOptions
from filters.topscore import TopScore
from tests.pools import read_subset, write_pool

RNG = np.random.default_rng(11)


@pytest.fixture
def told(tmp_path: Path) -> dict[str, Any]:
    """A pool, and half of its uids."""
    told = write_pool(tmp_path / "pool", np.random.default_rng(7))
    return told | {"pool": tmp_path / "pool", "half": [told["uids"][row] for row in sorted(RNG.choice(140, 70, replace=False))]}


def write_uids(path: Path, uids: list[str], repeat: int = 1) -> Path:
    words = sorted((int(uid, 16) >> 64, int(uid, 16) & (2**64 - 1)) for uid in uids for _ in range(repeat))
    np.save(path, np.array(words, np.dtype("u8,u8")))
    return path


def write_tar(path: Path, uids: list[str]) -> None:
    """One webdataset shard as img2dataset writes it."""
    with tarfile.open(path, "w") as tar:
        for number, uid in enumerate(uids):
            for end, data in (("jpg", b"\xff\xd8"), ("json", json.dumps({"uid": uid, "status": "success"}).encode()), ("txt", b"words")):
                info = tarfile.TarInfo(f"{number:09d}.{end}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def write_table(path: Path, uids: list[str], lost: list[str]) -> None:
    """img2dataset's own table of a shard."""
    pq.write_table(pa.table({"uid": [*uids, *lost], "status": ["success"] * len(uids) + ["failed_to_download"] * len(lost)}), path)


def held(folder: Path, kind: str, told: dict[str, Any]) -> Path:
    """The half, in one of the forms a user may have it in."""
    half = told["half"]
    lost = [uid for uid in told["uids"] if uid not in half]
    folder.mkdir()
    if kind in ("npy", "npy with repetition"):
        return write_uids(folder / "half.npy", half, repeat=1 + (kind != "npy"))
    for number, part in enumerate((half[:20], half[20:45], half[45:])):
        if kind != "parquet":
            write_tar(folder / f"{number:08d}.tar", part)
        if kind == "parquet" or (kind == "both" and number != 1):
            write_table(folder / f"{number:08d}.parquet", part, lost[number * 20 : number * 20 + 20])
        (folder / f"{number:08d}_stats.json").write_text("{}")
    return folder


@pytest.mark.parametrize("kind", ["npy", "npy with repetition", "tars", "parquet", "both"])
def test_sizes_and_fractions_mean_what_the_user_holds(kind: str, told: dict[str, Any], tmp_path: Path) -> None:
    within, out = held(tmp_path / "held", kind, told), tmp_path / "o.npy"
    recipe = TopScore(fraction=0.5) >> DensityPrune(concepts=5, fraction=0.25)
    result = recipe.run(told["pool"], out, options=RunOptions(within=str(within)))
    assert result.samples == 70
    assert result.status == {"kept": int(70 * 0.25), "outside": 70, "repeated": 0, "invalid": 0, "topscore": 35, "densityprune": 35 - 17}
    assert set(read_subset(out)) <= {int(uid, 16) for uid in told["half"]}
    assert json.loads((tmp_path / "o.work" / "manifest.json").read_text())["status"]["outside"] == 70


def test_samples_that_are_held_but_not_in_the_pool_change_nothing(told: dict[str, Any], tmp_path: Path) -> None:
    outs = []
    for name, more in (("a", []), ("b", ["f" * 32, "0", "ab" * 16])):
        within = write_uids(tmp_path / f"{name}_held.npy", [*told["half"], *more])
        outs.append(tmp_path / f"{name}.npy")
        assert (
            densprune.main(
                ["--metadata_dir", str(told["pool"]), "--within", str(within), "--concepts", "4", "--save_path", str(outs[-1]), "--quiet"]
            )
            == 0
        )
    assert outs[0].read_bytes() == outs[1].read_bytes()


def test_a_file_of_other_uids_under_the_same_name_size_and_date_is_read_again(told: dict[str, Any], tmp_path: Path) -> None:
    first = write_uids(tmp_path / "held.npy", told["half"])
    options, out = RunOptions(within=str(first)), tmp_path / "o.npy"
    TopScore(fraction=1.0).run(told["pool"], out, options=options)
    other = [uid for uid in told["uids"] if uid not in told["half"]]
    dates = first.stat().st_atime_ns, first.stat().st_mtime_ns
    write_uids(first, other)
    os.utime(first, ns=dates)
    TopScore(fraction=1.0).run(told["pool"], out, options=options)
    assert set(read_subset(out)) == {int(uid, 16) for uid in other}


def test_a_folder_to_which_a_shard_was_added_is_read_again(told: dict[str, Any], tmp_path: Path) -> None:
    within, out = held(tmp_path / "held", "tars", told), tmp_path / "o.npy"
    lost = [uid for uid in told["uids"] if uid not in told["half"]]
    options = RunOptions(within=str(within))
    assert TopScore(fraction=1.0).run(told["pool"], out, options=options).samples == 70
    write_tar(within / "00000007.tar", lost[:10])
    assert TopScore(fraction=1.0).run(told["pool"], out, options=options).samples == 80
