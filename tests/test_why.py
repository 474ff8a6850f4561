"""tools/why.py tells of each sample what brute force over samples/ finds, and its advice holds."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from baselines import run as baselines
from filters import densprune, topscore
from filters.pool import demo
from filters.work.workdir import WorkDir
from tests.pools import write_pool
from tests.test_verify import DENSPRUNE, RUNS, made
from tests.test_verify import pool as pool
from tools import why

Capture = pytest.CaptureFixture[str]
Record = dict[str, Any]
BY = {"semdedup": ("dedup_similarity", True), "topscore": ("score", False), "densityprune": ("distance", False)}  # column, ascending


def accounts(capsys: Capture, work: Path, *more: str) -> list[Record]:
    capsys.readouterr()
    assert why.main([str(work), "--json", "--quiet", *more]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def table_of(work: Path) -> pd.DataFrame:
    """samples/ as one table, in the pool's order, uids in hexadecimal."""
    table = pd.concat([pd.read_parquet(path) for path in sorted((work / "samples").glob("*.parquet"))], ignore_index=True)
    for name in ("uid", "dedup_of"):
        if name in table:
            table[name] = table[name].map(lambda found: found.hex() if found is not None else None)
    return table


def everything(work: Path, folder: Path) -> Path:
    """A .txt of all uids of a run."""
    path = folder / "all.txt"
    path.write_text("\n".join(dict.fromkeys(table_of(work)["uid"])) + "\n")
    return path


def check_stage(told: Record, row: pd.Series, seen: pd.DataFrame, column: str, ascending: bool) -> None:
    """A stage's part of an account against all samples that the stage saw in the same group."""
    kept = seen[seen["status"] != told["stage"]]
    assert told["took"] == (row["status"] != told["stage"])
    assert (told["of"], told["taken"]) == (len(seen), len(kept))
    ranked = seen.sort_values([column, "uid"], ascending=[ascending, True])
    assert told["value"] == pytest.approx(row[column], rel=1e-6)
    assert ranked.iloc[told["place"] - 1]["uid"] == row["uid"]
    assert told["missing"] == max(0, told["place"] - told["taken"])
    for name, place in (("last_taken", len(kept) - 1), ("first_dropped", len(kept))):
        expected = ranked.iloc[place]["uid"] if 0 <= place < len(ranked) else None
        assert (told[name] or {}).get("uid") == expected


def check_chain(told: Record, table: pd.DataFrame) -> None:
    """dedup_of followed by hand."""
    by_uid, at, expected = table.drop_duplicates("uid").set_index("uid"), told["uid"], []
    while by_uid.loc[at, "status"] == "semdedup":
        similarity, at = by_uid.loc[at, "dedup_similarity"], by_uid.loc[at, "dedup_of"]
        expected.append((at, pytest.approx(similarity)))
    assert [(one["uid"], one["similarity"]) for one in told["chain"]] == expected
    assert (told["stands_for_it"] or {}).get("uid") == (expected[-1][0] if expected else None)


def check(told: Record, table: pd.DataFrame) -> None:
    row = table[table["uid"] == told["uid"]].iloc[0]
    assert (told["status"], told["times"]) == (row["status"], (table["uid"] == told["uid"]).sum())
    stages = {one["stage"]: one for one in told["stages"]}
    for name, (column, ascending) in BY.items():
        if column not in table or pd.isna(row[column]):
            assert name not in stages
            continue
        seen = table[table[column].notna()]
        if name == "densityprune":
            seen = seen[seen["concept"] == row["concept"]]
            assert stages[name]["concept"] == row["concept"]
        check_stage(stages[name], row, seen, column, ascending)
    if "dedup_of" in table:
        check_chain(told, table)
    if "densityprune" in stages:
        near = seen.sort_values("distance")["distance"].head(3).to_list()
        assert [table.loc[table["uid"] == one["uid"], "distance"].iloc[0] for one in told["nearest"]] == near


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work folder of the default recipe on a small pool of the demo's drawings."""
    folder = tmp_path_factory.mktemp("drawn")
    demo.make(folder / "pool", 3000, 3)
    more = ["--dedup_fraction", "0.8", "--fraction", "0.2", "--concepts", "30"]
    assert densprune.main(["--metadata_dir", str(folder / "pool/metadata"), "--save_path", str(folder / "o.npy"), "--quiet", *more]) == 0
    return folder / "o.work"


def test_accounts_of_1000_random_samples_are_what_brute_force_finds(drawn: Path, capsys: Capture) -> None:
    table, told = table_of(drawn), accounts(capsys, drawn, "--random", "1000")
    assert len({one["uid"] for one in told}) == 1000
    assert {one["status"] for one in told} == {"kept", "semdedup", "topscore", "densityprune"}
    for one in told:
        check(one, table)


def test_captions_and_sizes_are_the_pools(drawn: Path, capsys: Capture) -> None:
    pool = pd.concat([pd.read_parquet(path) for path in sorted((drawn.parent / "pool/metadata").glob("*.parquet"))]).set_index("uid")
    for one in accounts(capsys, drawn, "--random", "40"):
        assert one["pool"]["text"] == pool.loc[one["uid"], "text"]
        assert one["pool"]["original_width"] == pool.loc[one["uid"], "original_width"]
        assert [near["text"] for near in one["nearest"]] == [pool.loc[near["uid"], "text"] for near in one["nearest"]]


# -- the advice


def advice(told: list[Record]) -> Iterator[tuple[str, str, str, Any]]:
    """uid, stage, option and value of a few dropped samples of each stage."""
    for stage in {one["status"] for one in told}:
        for one in [one for one in told if one["status"] == stage][:2]:
            for found in one["stages"]:
                yield from ((one["uid"], stage, option, value) for option, value in found["would_pass_with"].items())


def less(option: str, value: Any, rows: int) -> Any:
    """The same change, not quite as far."""
    if option.endswith("eps"):
        return value + 2.5e-7
    if option.endswith("threshold"):
        return float(np.nextafter(np.float32(value), np.float32(2)))
    return value - 1 if option.endswith("size") else value - 1 / rows


@pytest.mark.parametrize(("command", "words"), [RUNS[0], RUNS[4], RUNS[5], RUNS[6], RUNS[8], RUNS[9], RUNS[10], RUNS[12]])
def test_a_dropped_sample_passes_with_the_change_that_is_told_and_not_with_less(
    command: ModuleType, words: str, pool: Path, capsys: Capture, tmp_path: Path
) -> None:
    work = made(pool, command, words)
    told = accounts(capsys, work, str(everything(work, tmp_path)))
    tried = 0
    for uid, stage, option, value in advice(told):
        assert option.startswith("--")
        for given, passes in ((value, True), (less(option, value, 290), False)):
            if not passes and given <= 0 and not option.endswith("threshold"):
                continue
            changed = ["--config", str(work / "manifest.json"), option, repr(given), "--metadata_dir", str(pool)]
            out = tmp_path / "changed.npy"
            if command.main([*changed, "--save_path", str(out), "--quiet", "--overwrite"]) == 0:
                status = table_of(out.with_suffix(".work")).set_index("uid").loc[uid, "status"]
                assert (status != stage) == passes, (uid, stage, option, given)
                tried += 1
    assert tried > 3


# -- statuses, recipes, words


def test_samples_that_took_no_part_are_told_so(tmp_path: Path, capsys: Capture) -> None:
    told = write_pool(tmp_path / "pool", np.random.default_rng(3), (60, 50))
    shard = tmp_path / "pool" / ("0" * 32 + ".parquet")
    table = pq.read_table(shard)
    texts = table["uid"].to_pylist()
    texts[7] = texts[2]
    scores = table["clip_l14_similarity_score"].to_pylist()
    scores[11] = None
    columns = {"uid": pa.array(texts), "clip_l14_similarity_score": pa.array(scores, pa.float32())}
    pq.write_table(pa.table({name: columns.get(name, table[name]) for name in table.column_names}), shard)
    within = tmp_path / "within.npy"
    words = sorted({(int(uid, 16) >> 64, int(uid, 16) & (1 << 64) - 1) for uid in [*texts[:50], *told["uids"][60:]]})
    np.save(within, np.array(words, "u8,u8"))
    work = made(tmp_path / "pool", topscore, f"--fraction 0.5 --within {within} --allow_invalid")
    found = {one["uid"]: one for one in accounts(capsys, work, texts[2], texts[11], texts[55])}
    assert [(found[uid]["status"], found[uid]["times"]) for uid in (texts[2], texts[11], texts[55])] == [
        (table_of(work)["status"][2], 2),
        ("invalid", 1),
        ("outside", 1),
    ]
    assert found[texts[11]]["stages"] == []
    assert why.main([str(work), texts[2], texts[11], texts[55]]) == 0
    said = capsys.readouterr().out
    assert "2 samples of the pool have this uid; this is the first" in said
    assert "not among --within" in said
    assert "no finite embedding or score" in said


@pytest.mark.parametrize("words", [RUNS[2][1], RUNS[3][1], RUNS[7][1], DENSPRUNE + "--dedup_prefer easy --score_ties all --score_size 90"])
def test_every_way_to_choose_is_told_right(words: str, pool: Path, capsys: Capture, tmp_path: Path) -> None:
    work = made(pool, densprune, words)
    table = table_of(work)
    for one in accounts(capsys, work, str(everything(work, tmp_path))):
        for told in one["stages"]:
            seen = table[table[{"semdedup": "dedup_similarity", "topscore": "score"}.get(told["stage"], "concept")].notna()]
            seen = seen if told["concept"] is None else seen[seen["concept"] == told["concept"]]
            kept = seen[seen["status"] != told["stage"]]
            assert (told["took"], told["of"], told["taken"]) == (one["uid"] in set(kept["uid"]), len(seen), len(kept))


def test_scores_that_tie_share_a_place_where_all_of_them_stay(tmp_path: Path, capsys: Capture) -> None:
    write_pool(tmp_path / "pool", np.random.default_rng(3), (90,))
    shard = tmp_path / "pool" / ("0" * 32 + ".parquet")
    table = pq.read_table(shard)
    scores = pa.array(np.repeat(np.arange(30, dtype=np.float32), 3))
    pq.write_table(table.set_column(table.schema.get_field_index("clip_l14_similarity_score"), "clip_l14_similarity_score", scores), shard)
    work = made(tmp_path / "pool", topscore, "--fraction 0.3 --ties all")
    everyone = {one["uid"]: one for one in accounts(capsys, work, str(everything(work, tmp_path)))}
    for uid, score in zip(table["uid"].to_pylist(), scores.to_pylist(), strict=True):
        assert everyone[uid]["stages"][0]["place"] == 1 + 3 * (29 - score)
        assert everyone[uid]["stages"][0]["took"] == (everyone[uid]["status"] == "kept")


def test_a_filter_that_is_not_known_and_sides_put_together_leave_what_can_be_told(pool: Path, capsys: Capture, tmp_path: Path) -> None:
    assert baselines.main(["--name", "no_filter", "--metadata_dir", str(pool), "--save_path", str(tmp_path / "n.npy"), "--quiet"]) == 0
    (one,) = accounts(capsys, tmp_path / "n.work", "--random", "1")
    assert (one["status"], one["stages"]) == ("kept", [])
    both = topscore.TopScore(score="l14", fraction=0.5) & topscore.TopScore(score="b32", fraction=0.5)
    both.run(str(pool), tmp_path / "b.npy")
    table = table_of(tmp_path / "b.work")
    for one in accounts(capsys, tmp_path / "b.work", str(everything(tmp_path / "b.work", tmp_path))):
        took = [told["took"] for told in one["stages"]]
        assert (len(took), all(took)) == (2, one["status"] == "kept")
        assert [told["value"] for told in one["stages"]] == table.set_index("uid").loc[one["uid"], ["score", "score_2"]].to_list()


def test_captions_of_any_kind_stay_on_their_line(pool: Path, capsys: Capture) -> None:
    for shard in pool.glob("*.parquet"):
        table = pq.read_table(shard)
        texts = pa.array(["two\nlines\x1b[31m \u202eback\x00 <b>&" if at % 2 else None for at in range(len(table))], pa.string())
        pq.write_table(table.set_column(table.schema.get_field_index("text"), "text", texts), shard)
    work = made(pool, densprune, DENSPRUNE)
    assert why.main([str(work), "--random", "290"]) == 0
    said = capsys.readouterr().out
    assert all(letter.isprintable() or letter == "\n" for letter in said)
    assert "two lines\\x1b[31m \\u202eback\\x00 <b>&" in said
    assert "no caption" in said


# -- the index


def test_another_run_in_the_folder_is_what_is_told_of(pool: Path, capsys: Capture, tmp_path: Path) -> None:
    work = made(pool, topscore, "--fraction 0.3")
    uids = str(everything(work, tmp_path))
    assert [one["status"] for one in accounts(capsys, work, uids)].count("kept") == 87
    made(pool, topscore, "--fraction 0.6")
    assert [one["status"] for one in accounts(capsys, work, uids)].count("kept") == 174
    assert not (work / "index.new").exists()


def test_an_index_that_was_left_half_made_is_made_anew(pool: Path, capsys: Capture) -> None:
    work = made(pool, densprune, DENSPRUNE)
    before = accounts(capsys, work, "--random", "30")
    (work / "index").rename(work / "index.new")
    (work / "index.new/uids.npy").write_bytes(b"half")
    assert accounts(capsys, work, "--random", "30") == before


@pytest.mark.parametrize("name", ["uids.npy", "starts.npy", "topscore.places.npy", "topscore.marks.npy"])
def test_an_index_that_was_harmed_is_made_anew(name: str, pool: Path, capsys: Capture) -> None:
    work = made(pool, topscore, "--fraction 0.3")
    before = accounts(capsys, work, "--random", "30")
    path = work / "index" / name
    for harmed in (path.read_bytes()[:-20], b"", None):
        path.write_bytes(harmed) if harmed is not None else path.unlink()
        assert accounts(capsys, work, "--random", "30") == before


def test_an_index_is_made_by_one_call_at_a_time(pool: Path, capsys: Capture) -> None:
    work = made(pool, topscore, "--fraction 0.3")
    held = WorkDir(work)
    assert why.main([str(work), "--random", "2"]) == 2
    assert f"{work}: is in use by process" in capsys.readouterr().err
    held.close()
    assert why.main([str(work), "--random", "2"]) == 0
    held = WorkDir(work)
    assert why.main([str(work), "--random", "2"]) == 0  # it is there
    held.close()


def test_a_manifest_that_was_edited_is_refused(pool: Path, capsys: Capture) -> None:
    work = made(pool, topscore, "--fraction 0.3")
    path = work / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seed": 3}))
    capsys.readouterr()
    assert why.main([str(work), "--random", "2"]) == 2
    assert capsys.readouterr().err == f"why: {path}: is not as a run wrote it; run the filter again\n"


def test_without_the_pool_accounts_go_without_captions_and_say_so(pool: Path, capsys: Capture) -> None:
    work = made(pool, densprune, DENSPRUNE)
    with_captions = accounts(capsys, work, "--random", "20")
    pool.rename(pool.with_name("moved"))
    assert why.main([str(work), "--json", "--random", "20"]) == 0
    said = capsys.readouterr()
    assert "no captions" in said.err
    assert [json.loads(line)["status"] for line in said.out.splitlines()] == [one["status"] for one in with_captions]
    assert accounts(capsys, work, "--random", "20", "--metadata_dir", str(pool.with_name("moved"))) == with_captions


def test_a_uid_that_is_not_there_ends_in_2_after_the_others_are_told(pool: Path, capsys: Capture) -> None:
    work = made(pool, topscore, "--fraction 0.3")
    known = table_of(work)["uid"][0]
    assert why.main([str(work), "ab" * 16, known]) == 2
    said = capsys.readouterr()
    assert known in said.out
    assert f"1 of 2 uids are not in the pool of this run, first {'ab' * 16}" in said.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["WORK"], "takes uids, or --random"),
        (["WORK", "--random", "2", "ab"], "takes uids, or --random"),
        (["WORK", "xyz"], "'xyz' is not 1 to 32 hexadecimal digits"),
        (["WORK", "none.txt"], "none.txt: No such file"),
        (["WORK", "--random", "0"], "must be a whole number from 1 on"),
        (["WORK", "--random", "2", "--status", "gone"], "no sample of"),
        (["nowhere", "ab"], "nowhere/manifest.json"),
        (["WORK", "ab", "--metadata_dir", "nowhere"], "nowhere"),
    ],
)
def test_a_wrong_call_ends_in_2_and_one_line(arguments: list[str], said: str, pool: Path, capsys: Capture) -> None:
    work = made(pool, topscore, "--fraction 0.3")
    capsys.readouterr()
    try:
        code = why.main([str(work) if one == "WORK" else one for one in arguments])
    except SystemExit as end:
        code = int(end.code or 0)
    lines = capsys.readouterr().err.splitlines()
    assert (code, len(lines)) == (2, 1)
    assert said in lines[0]


def test_files_that_are_gone_or_harmed_are_named(pool: Path, capsys: Capture) -> None:
    work = made(pool, densprune, DENSPRUNE)
    before = accounts(capsys, work, "--random", "3", "--status", "pruned")
    for path in (work / "concepts.parquet", min((work / "samples").glob("*.parquet"))):
        data = path.read_bytes()
        for harmed in (data[:50], None):
            path.write_bytes(harmed) if harmed is not None else path.unlink()
            assert why.main([str(work), "--random", "3", "--status", "pruned", "--quiet"]) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert str(path) in line
        path.write_bytes(data)
    assert accounts(capsys, work, "--random", "3", "--status", "pruned") == before


def test_a_score_that_is_no_number_is_null_in_json(pool: Path, capsys: Capture) -> None:
    for shard in pool.glob("*.parquet"):
        table = pq.read_table(shard)
        none, name = pa.array(np.full(len(table), np.nan, np.float32)), "clip_b32_similarity_score"
        pq.write_table(table.set_column(table.schema.get_field_index(name), name, none), shard)
    work = made(pool, topscore, "--fraction 0.3")
    capsys.readouterr()
    assert why.main([str(work), "--random", "2", "--json"]) == 0
    assert "NaN" not in capsys.readouterr().out


def test_samples_files_that_were_harmed_are_named(pool: Path, capsys: Capture) -> None:
    work = made(pool, topscore, "--fraction 0.3")
    harmed = sorted((work / "samples").glob("*.parquet"))[2]
    data = bytearray(harmed.read_bytes())
    data[len(data) // 3] ^= 255
    harmed.write_bytes(bytes(data))
    assert why.main([str(work), "--random", "2"]) == 2
    assert str(harmed) in capsys.readouterr().err
    assert not (work / "index").exists()


def test_the_page_runs_from_any_folder(drawn: Path, tmp_path: Path) -> None:
    page, arguments = Path(why.__file__), [str(drawn), "--random", "1", "--status", "pruned"]
    done = subprocess.run(
        [sys.executable, str(page), *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "dropped by densityprune" in done.stdout
    assert "it would pass here with --size" in done.stdout
