"""No member is loaded whole, and nothing depends on shards, workers or BLAS kernels."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from filters.densprune import DensityPrune
from filters.options import RunOptions
from filters.semdedup import SemDeDup
from filters.topscore import TopScore
from filters.work.work import Silent
from tests.pools import Array, cut_into_shards, random_uids, unit, write_pool, write_shard

PAGE = Path(__file__).parents[1] / "filters" / "densprune.py"
RECIPE = SemDeDup(fraction=0.8) >> TopScore(fraction=0.6) >> DensityPrune(concepts=12, fraction=0.2)
SIZES = (500, 0, 900, 300)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("streaming")
    told = write_pool(folder / "pool", np.random.default_rng(3), SIZES, width=48)
    RECIPE.run(folder / "pool", folder / "whole.npy")
    return told | {"pool": folder / "pool", "whole": (folder / "whole.npy").read_bytes()}


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("engine", ["threads", pytest.param("processes", marks=pytest.mark.slow)])
def test_the_same_bytes_on_any_number_of_workers(engine: str, workers: int, told: dict[str, Any], tmp_path: Path) -> None:
    RECIPE.run(told["pool"], tmp_path / "o.npy", options=RunOptions(engine=engine, num_workers=workers))
    assert (tmp_path / "o.npy").read_bytes() == told["whole"]


@pytest.mark.parametrize("sizes", [(1700,), (1, 1699), (567, 566, 567), (0, 1024, 676, 0)])
def test_the_same_bytes_with_the_same_rows_cut_into_other_shards(sizes: tuple[int, ...], told: dict[str, Any], tmp_path: Path) -> None:
    cut_into_shards(tmp_path / "pool", told, sizes)
    RECIPE.run(tmp_path / "pool", tmp_path / "o.npy")
    assert (tmp_path / "o.npy").read_bytes() == told["whole"]


def test_the_same_bytes_in_two_levels_of_clusters(tmp_path: Path) -> None:
    told = write_pool(tmp_path / "pool", np.random.default_rng(4), (3000, 3600, 700), width=24)
    cut_into_shards(tmp_path / "other", told, (7000, 1, 299))
    recipe = SemDeDup(fraction=0.8, clusters=6100, kmeans_iters=2)
    recipe.run(tmp_path / "pool", tmp_path / "a.npy")
    recipe.run(tmp_path / "other", tmp_path / "b.npy", options=RunOptions(num_workers=3, memory_gb=1e-4))
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


def test_the_same_bytes_with_memory_for_a_few_rows_only(told: dict[str, Any], tmp_path: Path) -> None:
    RECIPE.run(told["pool"], tmp_path / "o.npy", options=RunOptions(memory_gb=1e-5))
    assert (tmp_path / "o.npy").read_bytes() == told["whole"]


def test_other_memory_after_an_interruption_gives_the_same_bytes(told: dict[str, Any], tmp_path: Path) -> None:
    """Partitions of other bounds must not be taken for the ones that were left."""

    class Interrupting(Silent):
        at = ""

        def stage(self, name: str) -> None:
            self.at = name

        def begin(self, name: str, samples: int) -> None:
            if (self.at, name) == ("semdedup", "collect"):
                raise KeyboardInterrupt

    for memory in (4e-4, 3.9e-4, 3.8e-4, 3.7e-4):
        with pytest.raises(KeyboardInterrupt):
            RECIPE.run(told["pool"], tmp_path / "o.npy", options=RunOptions(memory_gb=memory), progress=Interrupting())
    RECIPE.run(told["pool"], tmp_path / "o.npy", options=RunOptions(memory_gb=3.6e-4))
    assert (tmp_path / "o.npy").read_bytes() == told["whole"]


def test_many_shards_need_few_open_files(tmp_path: Path) -> None:
    told = write_pool(tmp_path / "unused", np.random.default_rng(3), (300,))
    cut_into_shards(tmp_path / "pool", told, (2,) * 150)
    line = f"ulimit -n 100; exec {shlex.join(arguments(tmp_path / 'pool', tmp_path / 'o.npy')[:-1])}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "most complex concepts" in done.stdout


def arguments(pool: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, str(PAGE), "--metadata_dir", str(pool), "--save_path", str(out), "--concepts", "12", "--quiet", *more]


def test_the_same_bytes_under_another_kernel_of_openblas(told: dict[str, Any], tmp_path: Path) -> None:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("OPENBLAS_")}
    found = []
    for number, kernel in enumerate(({}, {"OPENBLAS_CORETYPE": "Haswell"}, {"OPENBLAS_CORETYPE": "Nehalem"})):
        out = tmp_path / f"{number}.npy"
        subprocess.run(arguments(told["pool"], out), env=plain | kernel, check=True)
        found.append(out.read_bytes())
    assert found[0] == found[1] == found[2]


def peak(pool: Path, out: Path, *more: str) -> int:
    """Bytes that a run of its own process held at most."""
    code = (
        "import resource as r, subprocess, sys; subprocess.run(sys.argv[1:], check=True); print(r.getrusage(r.RUSAGE_CHILDREN).ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments(pool, out, *more)], capture_output=True, text=True, check=True)
    return int(done.stdout) * 1024


def large(rng: np.random.Generator, rows: int) -> Array:
    return np.concatenate([unit(rng.normal(size=(4000, 768))).astype(np.float16) for _ in range(rows // 4000)])


@pytest.mark.parametrize("more", [("--no_dedup",), ("--memory_gb", "0.05")], ids=["density", "dedup"])
def test_a_member_is_never_in_memory_whole(more: tuple[str, ...], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = {"small": 4000, "large": 200_000}
    for name, count in rows.items():
        write_shard(tmp_path / name, "a", random_uids(rng, count), {"l14_img": large(rng, count)})
    growth = peak(tmp_path / "large", tmp_path / "l.npy", *more) - peak(tmp_path / "small", tmp_path / "s.npy", *more)
    # 28 bytes a sample, the 50 MB that sorted rows may take, k-means points and buffers; the member has 307 MB.
    assert growth < 28 * rows["large"] + 200e6
