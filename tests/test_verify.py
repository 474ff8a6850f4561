"""tools/verify.py finds nothing wrong with a run, and finds what is."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from filters import densprune, semdedup, topscore
from filters.filter import Recipe
from filters.pool.files import digest_of, told_of
from filters.semdedup import SemDeDup
from filters.topscore import TopScore
from tests.pools import write_pool
from tools import verify

Capture = pytest.CaptureFixture[str]
KEY = "0" * 31 + "2"  # of a shard with samples


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    told = write_pool(tmp_path / "pool", np.random.default_rng(5), (90, 0, 140, 60))
    table = pa.table({"uid": told["uids"][10:], "score": np.random.default_rng(6).normal(size=280)})
    pq.write_table(table, tmp_path / "mine.parquet")
    return tmp_path / "pool"


def made(pool: Path, command: ModuleType, words: str) -> Path:
    """The work folder of a run."""
    out = pool.parent / "o.npy"
    more = words.replace("MINE", str(pool.parent / "mine.parquet")).split()
    assert command.main(["--metadata_dir", str(pool), "--save_path", str(out), "--quiet", *more]) == 0
    return out.with_suffix(".work")


def verified(capsys: Capture, work: Path, *more: str) -> tuple[int, list[str]]:
    """The exit code, and the lines of what is wrong."""
    capsys.readouterr()
    code = verify.main([str(work), "--share", "1", *more])
    told = capsys.readouterr().out.splitlines()
    assert all(line.startswith(("ok ", "WRONG ", "-- ")) for line in told)
    return code, [line for line in told if line.startswith("WRONG")]


DENSPRUNE = "--concepts 6 "
RUNS = [
    (densprune, DENSPRUNE),
    (densprune, DENSPRUNE + "--no_dedup"),
    (densprune, DENSPRUNE + "--score none --prefer easy"),
    (densprune, DENSPRUNE + "--no_dedup --score none --prefer random --seed 3 --size 31"),
    (densprune, DENSPRUNE + "--order score,dedup --dedup_eps 0.02 --score b32 --complexity uniform"),
    (densprune, DENSPRUNE + "--score_threshold 0.24 --dedup_prefer easy --complexity cluster_size --balance 0.4"),
    (densprune, DENSPRUNE + "--dedup_prefer score --dedup_score MINE --score MINE --score_size 80 --fraction 0.1 --temperature 0.01"),
    (densprune, DENSPRUNE + "--neighbors 2 --score_ties all --dedup_clusters 3 --kmeans_iters 2"),
    (semdedup, "--fraction 0.5"),
    (semdedup, "--eps 0.1 --prefer score --score b32"),
    (topscore, "--fraction 0.3 --ties all"),
    (topscore, "--threshold 0.25"),
    (topscore, "--size 20 --score MINE"),
]


@pytest.mark.parametrize(("command", "words"), RUNS, ids=[f"{command.__name__.rpartition('.')[2]} {words}" for command, words in RUNS])
def test_every_recipe_of_the_commands_is_found_right(command: ModuleType, words: str, pool: Path, capsys: Capture) -> None:
    assert verified(capsys, made(pool, command, words)) == (0, [])


def test_clusters_searched_in_two_levels_are_found_right(tmp_path: Path, capsys: Capture) -> None:
    write_pool(tmp_path / "pool", np.random.default_rng(5), (3000, 3400), width=24)
    assert verified(capsys, made(tmp_path / "pool", semdedup, "--fraction 0.8 --clusters 6000 --kmeans_iters 1")) == (0, [])


def test_a_run_within_a_subset_is_found_right(pool: Path, tmp_path: Path, capsys: Capture) -> None:
    made(pool, topscore, "--fraction 0.6")
    (tmp_path / "o.npy").rename(tmp_path / "held.npy")
    assert verified(capsys, made(pool, densprune, DENSPRUNE + f"--within {tmp_path / 'held.npy'}")) == (0, [])


def test_a_pool_and_a_subset_file_that_moved_are_named(pool: Path, tmp_path: Path, capsys: Capture) -> None:
    work = made(pool, densprune, DENSPRUNE)
    pool.rename(tmp_path / "elsewhere")
    (tmp_path / "o.npy").rename(tmp_path / "p.npy")
    assert verify.main([str(work)]) == 2
    assert "--save_path" in capsys.readouterr().err
    more = ("--save_path", str(tmp_path / "p.npy"), "--metadata_dir", str(tmp_path / "elsewhere"))
    assert verified(capsys, work, *more) == (0, [])


BY_HAND = [
    SemDeDup(fraction=0.9) & TopScore(fraction=0.5),
    TopScore(fraction=0.8) - TopScore(score="b32", size=20),
]


@pytest.mark.parametrize("recipe", BY_HAND, ids=["&", "-"])
def test_what_cannot_be_checked_of_a_recipe_by_hand_is_said(recipe: Recipe, pool: Path, tmp_path: Path, capsys: Capture) -> None:
    recipe.run(pool, tmp_path / "o.npy")
    assert verify.main([str(tmp_path / "o.work"), "--share", "1"]) == 0
    assert "--     cut: not checked" in capsys.readouterr().out


def resealed(work: Path) -> None:
    """Make the manifest fit what lies there, so that only the numbers can tell."""
    path = work / "manifest.json"
    told = json.loads(path.read_text())
    told["files"] = {name: told_of(work / name) for name in told["files"]}
    path.write_text(json.dumps(told | {"digest": digest_of(told)}))


def changed(work: Path, column: str, row: int, value: Callable[[Any], Any], name: str = f"samples/{KEY}.parquet") -> None:
    """Another value in the row-th sample that has one."""
    table = pq.read_table(work / name)
    values = table[column].to_pylist()
    at = [at for at, one in enumerate(values) if one not in (None, "outside", "invalid")][row]
    values[at] = value(values[at])
    place = table.schema.get_field_index(column)
    pq.write_table(table.set_column(place, table.schema.field(column), pa.array(values, table.schema.field(column).type)), work / name)
    resealed(work)


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


HARM: dict[str, tuple[Callable[[Path], object], str]] = {
    "a manifest that was edited": (
        lambda work: (work / "manifest.json").write_text((work / "manifest.json").read_text().replace("1234", "1235")),
        "manifest.json",
    ),
    "a samples file that was edited": (lambda work: longer(work / f"samples/{KEY}.parquet"), f"samples/{KEY}"),
    "a samples file that is cut off": (lambda work: (work / f"samples/{KEY}.parquet").write_bytes(b"PAR1"), f"samples/{KEY}"),
    "a file that is gone": (lambda work: (work / "centroids.npy").unlink(), "centroids.npy"),
    "another subset file": (lambda work: longer(work.with_suffix(".npy")), "o.npy"),
    "a concept": (lambda work: changed(work, "concept", 1, lambda one: (one + 1) % 6), "WRONG  concept:"),
    "a distance": (lambda work: changed(work, "distance", 2, lambda one: one + 1e-3), "WRONG  distance:"),
    "a cluster": (lambda work: changed(work, "dedup_cluster", 1, lambda one: (one + 1) % 9), "WRONG  dedup_cluster:"),
    "a similarity": (lambda work: changed(work, "dedup_similarity", 4, lambda one: one * 0.9 + 0.01), "WRONG  dedup_similarity:"),
    "a dedup_of": (lambda work: changed(work, "dedup_of", 4, lambda one: bytes(15) + b"x"), "WRONG  dedup_similarity:"),
    "a score": (lambda work: changed(work, "score", 3, lambda one: one + 1e-4), "WRONG  score:"),
    "a uid": (lambda work: changed(work, "uid", 3, lambda one: bytes(15) + b"x"), "WRONG  uids:"),
    "a status": (lambda work: changed(work, "status", 1, lambda one: "topscore" if one == "kept" else "kept"), "WRONG  statuses:"),
    "a quota": (lambda work: changed(work, "quota", 1, lambda one: one + 1, "concepts.parquet"), "sum of quotas"),
    "members": (lambda work: changed(work, "members", 1, lambda one: one + 1, "concepts.parquet"), "members"),
}


@pytest.mark.parametrize("case", HARM)
def test_what_is_wrong_is_found_and_told_with_file_and_values(case: str, pool: Path, capsys: Capture) -> None:
    work = made(pool, densprune, DENSPRUNE + "--score_fraction 0.7 --fraction 0.3")
    harm, told = HARM[case]
    harm(work)
    code, wrong = verified(capsys, work)
    assert code == 1
    assert told in "\n".join(wrong)
    assert all("found" in line for line in wrong)


def test_a_sample_kept_in_place_of_a_better_one_is_found(pool: Path, capsys: Capture) -> None:
    work = made(pool, topscore, "--fraction 0.5")
    table = pq.read_table(work / f"samples/{KEY}.parquet")
    status, scores = table["status"].to_pylist(), table["score"].to_numpy()
    best, worst = int(np.argmax(scores)), int(np.argmin(scores))
    status[best], status[worst] = status[worst], status[best]
    pq.write_table(table.set_column(table.schema.get_field_index("status"), "status", pa.array(status)), work / f"samples/{KEY}.parquet")
    resealed(work)
    _, wrong = verified(capsys, work)
    assert any(line.startswith("WRONG  topscore cut:") and table["uid"][worst].as_py().hex() in line for line in wrong)


@pytest.mark.parametrize("case", ["no folder", "no manifest", "a manifest of nonsense", "a share of 2"])
def test_what_cannot_be_checked_at_all_is_one_line_and_exit_2(case: str, tmp_path: Path) -> None:
    if case != "no folder":
        (tmp_path / "w").mkdir()
    if case == "a manifest of nonsense":
        (tmp_path / "w" / "manifest.json").write_text('{"pool": 5}')
    more = ["--share", "2"] if case == "a share of 2" else []
    page = Path(verify.__file__)
    done = subprocess.run([sys.executable, str(page), str(tmp_path / "w"), *more], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
