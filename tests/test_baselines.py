"""The one command line of the baselines, and the simple recipes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from baselines import catalogue, run
from tests.pools import cut_into_shards, read_subset, write_pool


def call(pool: Path, name: str, save_path: Path, *more: str) -> int:
    return run.main(["--name", name, "--metadata_dir", str(pool), "--save_path", str(save_path), "--quiet", *more])


def kept(pool: Path, name: str, *more: str) -> set[int]:
    save_path = pool.with_name(f"{pool.name}_{name}.npy")
    assert call(pool, name, save_path, *more) == 0
    return set(read_subset(save_path))


def test_the_list_has_every_baseline_with_its_source(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--list"]) == 0
    told = capsys.readouterr().out
    for name, one in catalogue.OURS.items():
        assert f"{name}: {one.command.description}" in told
        assert one.source in told


@pytest.mark.parametrize("name", catalogue.OURS)
def test_every_baseline_has_help_with_its_source_tags(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        run.main(["--name", name, "--help"])
    assert end.value.code == 0
    assert "--within" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--name", "nothing_of_the_kind"], [], ["--name"]])
def test_a_name_that_there_is_not_is_told_in_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(arguments) == 2
    assert "--list" in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name, one in catalogue.OURS.items() if "extra text" not in one.needs])
def test_a_baseline_with_no_option_given_runs_or_says_what_it_lacks(name: str, tiny_pool: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = call(tiny_pool, name, tiny_pool.parent / "out.npy")
    assert code in (0, 2)
    assert capsys.readouterr().err.count("\n") == (code == 2)


def test_no_filter_keeps_every_sample(tmp_path: Path) -> None:
    told = write_pool(tmp_path / "pool", np.random.default_rng(1))
    assert kept(tmp_path / "pool", "no_filter") == {int(uid, 16) for uid in told["uids"]}


@pytest.mark.parametrize("fraction", [0.29, 0.3, 0.5, 1.0])
def test_clip_score_keeps_all_that_reach_the_score_at_rank_nf(fraction: float, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    told = write_pool(tmp_path / "pool", rng, (60, 40))
    told["l14"] = np.round(told["l14"], 2)
    told["l14"][70] = np.nan  # it counts among n
    cut_into_shards(tmp_path / "pool", told, (60, 40))
    ranked = -np.sort(-told["l14"])
    limit = ranked[min(int(100 * fraction), 98)]
    expected = {int(uid, 16) for uid, score in zip(told["uids"], told["l14"], strict=True) if score >= limit}
    assert kept(tmp_path / "pool", "clip_score", "--fraction", str(fraction)) == expected


def test_a_random_draw_is_the_same_however_the_pool_is_cut_and_another_for_another_seed(tmp_path: Path) -> None:
    told = write_pool(tmp_path / "one", np.random.default_rng(3), (100, 50))
    back = {name: values[::-1] for name, values in told.items()}
    cut_into_shards(tmp_path / "two", back, (30, 0, 120))
    assert kept(tmp_path / "one", "random", "--fraction", "0.3") == kept(tmp_path / "two", "random", "--fraction", "0.3")
    assert len(kept(tmp_path / "one", "random", "--size", "45", "--seed", "5") ^ kept(tmp_path / "two", "random", "--size", "45")) > 0


def test_dedup_score_keeps_the_best_of_what_is_no_duplicate(tiny_pool: Path) -> None:
    chosen = kept(tiny_pool, "dedup_score", "--dedup_eps", "0.05", "--size", "30")
    scores = {}
    for file in (tiny_pool.parent / "pool_dedup_score.work/samples").glob("*.parquet"):
        for row in pq.read_table(file).to_pylist():
            if row["dedup_similarity"] <= np.float32(0.95):
                scores[int.from_bytes(row["uid"], "big")] = row["score"]
    assert chosen == set(sorted(scores, key=scores.__getitem__, reverse=True)[:30])


def test_survivors_random_draws_from_what_density_pruning_would_see(tiny_pool: Path) -> None:
    stages = ("--dedup_fraction", "0.8", "--score_fraction", "0.5")
    survivors = kept(tiny_pool, "survivors_random", *stages, "--size", str(int(int(140 * 0.8) * 0.5)))
    drawn = kept(tiny_pool, "survivors_random", *stages, "--size", "20")
    dense = kept(tiny_pool, "densprune", *stages, "--size", "20", "--concepts", "4")
    assert drawn < survivors
    assert dense < survivors
    assert drawn != dense


@pytest.mark.parametrize(("name", "more"), [("random", ("--size", "141")), ("dedup_score", ("--size", "141")), ("random", ())])
def test_a_size_that_cannot_be_met_is_told(name: str, more: tuple[str, ...], tiny_pool: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(tiny_pool, name, tiny_pool.parent / "out.npy", *more) == 2
    assert "size" in capsys.readouterr().err
    assert not (tiny_pool.parent / "out.npy").exists()


@pytest.mark.parametrize("name", ["no_filter", "clip_score", "random"])
def test_a_baseline_of_parquet_files_opens_no_npz(name: str, tiny_pool: Path) -> None:
    for npz in tiny_pool.glob("*.npz"):
        npz.write_bytes(b"no zip")
    (tiny_pool / "stray.npz").write_bytes(b"")
    more = {"no_filter": (), "clip_score": ("--threshold", "0.25"), "random": ("--fraction", "0.5")}[name]
    assert kept(tiny_pool, name, *more)


def test_a_folder_used_without_embeddings_serves_a_run_with_them(tiny_pool: Path, capfd: pytest.CaptureFixture[str]) -> None:
    place = ("--work_dir", str(tiny_pool.parent / "both.work"))
    kept(tiny_pool, "random", "--fraction", "0.5", *place)
    kept(tiny_pool, "semdedup", "--eps", "0.1", *place)
    assert (
        run.main(
            [
                "--name",
                "random",
                "--fraction",
                "0.5",
                "--metadata_dir",
                str(tiny_pool),
                "--save_path",
                str(tiny_pool.parent / "pool_random.npy"),
                *place,
            ]
        )
        == 0
    )
    assert "changed" not in capfd.readouterr().err
