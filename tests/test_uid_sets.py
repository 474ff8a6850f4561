"""tools/uids.py: uid lists as sets, of every form and any length; what is wrong with a list is named."""

from __future__ import annotations

import gzip
import hashlib
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters import command
from filters.maths import uidsets
from filters.maths.arrays import U64
from filters.pool.uidsort import sorted_list
from tests.bad_files import npy, rewrite, truncate, with_uids
from tests.pools import Array, disk, read_subset, write_shard
from tools import uids

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "tools" / "uids.py"
Capture = pytest.CaptureFixture[str]
LOW = (1 << 64) - 1


def words(numbers: list[int]) -> U64:
    return np.array([[number >> 64, number & LOW] for number in numbers], np.uint64).reshape(-1, 2)


def records(numbers: list[int]) -> Array:
    """As DataComp's baselines hold them."""
    return np.array([(number >> 64, number & LOW) for number in numbers], "u8,u8")


def save(path: Path, numbers: list[int]) -> Path:
    np.save(path, records(numbers))
    return path


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def call(*arguments: object) -> int:
    return uids.main([*map(str, arguments)])


def numbers_of(seed: int, count: int) -> list[int]:
    data = np.random.default_rng(seed).bytes(16 * count)
    return sorted(int.from_bytes(data[at : at + 16], "big") for at in range(0, len(data), 16))


# -- the arithmetic, against Python's own


few = st.sampled_from([0, 1, 2, LOW, 1 << 64, (1 << 64) + 1, (5 << 64) + 3, (1 << 128) - 1])
lists = st.lists(st.one_of(few, few, st.integers(0, (1 << 128) - 1)), max_size=30).map(sorted)


def stream(numbers: list[int], size: int) -> Iterator[uidsets.Listed]:
    """In blocks of so many, in a buffer that each of them overwrites."""
    buffer = np.empty((size, 2), np.uint64)

    def blocks() -> Iterator[U64]:
        for start in range(0, len(numbers), size):
            block = words(numbers[start : start + size])
            buffer[: len(block)] = block
            yield buffer[: len(block)]

    return uidsets.counted(blocks())


def told(blocks: Iterator[U64]) -> list[int]:
    return [(high << 64) | low for block in blocks for high, low in block.tolist()]


def in_counts(rule: str, counts: list[Counter[int]]) -> Counter[int]:
    found, first = Counter[int](), counts[0]
    for number in set().union(*counts):
        times = [one[number] for one in counts]
        lists = sum(time > 0 for time in times)
        found[number] = {
            "and": min(times),
            "or": max(times),
            "minus": first[number] if lists == 1 else 0,
            "xor": max(times) if lists == 1 else 0,
        }[rule]
    return found


@pytest.mark.parametrize("rule", ["and", "or", "minus", "xor"])
@given(st.lists(lists, min_size=2, max_size=4), st.integers(1, 9))
def test_a_command_does_what_python_s_counters_do_however_lists_are_cut_into_blocks(rule: str, given: list[list[int]], size: int) -> None:
    windows = uidsets.merged([stream(one, size + at) for at, one in enumerate(given)])
    found = told(uidsets.expanded(uids.SETS[rule](window, len(given))) for window in windows)
    assert found == sorted(in_counts(rule, list(map(Counter, given))).elements())


def mixed(word: int) -> int:
    """splitmix64."""
    word = (word + 0x9E3779B97F4A7C15) & LOW
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & LOW
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & LOW
    return word ^ (word >> 31)


def hash_of(number: int, again: int, seed: int) -> int:
    start = mixed((mixed(seed) + uidsets.DRAW) & LOW)
    return mixed((mixed(mixed(((number >> 64) + start) & LOW) ^ (number & LOW)) + again) & LOW)


@given(lists.filter(bool), st.integers(0, 3), st.data())
def test_a_sample_is_the_records_of_the_smallest_hash_of_seed_and_uid(numbers: list[int], seed: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, len(numbers)))
    seen = Counter[int]()
    keys = []
    for number in numbers:
        keys.append((hash_of(number, seen[number], seed), number))
        seen[number] += 1
    found = told(uidsets.drawn(lambda: stream(numbers, 7), size, seed))
    assert found == sorted(number for _, number in sorted(keys)[:size])


def test_a_sample_of_a_long_list_is_exact_and_part_of_a_larger_one(tmp_path: Path) -> None:
    a = save(tmp_path / "a.npy", numbers_of(3, 40_000))
    for size in (5_000, 20_001):
        assert call("sample", size, a, "--save_path", tmp_path / f"{size}.npy", "--quiet") == 0
    small, large = (read_subset(tmp_path / f"{size}.npy") for size in (5_000, 20_001))
    assert (len(small), len(large)) == (5_000, 20_001)
    assert set(small) < set(large) < set(read_subset(a))
    assert large == sorted(large)


@pytest.mark.parametrize("few_high_words", [False, True])
def test_a_list_longer_than_memory_is_sorted(few_high_words: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    given = rng.integers(0, 1 << 64, (150_000, 2), np.uint64)
    given[100_000:] = given[rng.integers(0, 1000, 50_000)]  # some very often
    if few_high_words:
        given[:, 0] %= np.uint64(3)
    with sorted_list(np.array_split(given, 11), tmp_path, 1e6) as result:
        for _ in range(2):
            found = np.concatenate([uidsets.expanded(one) for one in result.read(lambda size: None)])
            assert np.array_equal(found, given[np.lexsort((given[:, 1], given[:, 0]))])
    assert not list(tmp_path.iterdir())


# -- the commands


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    numbers = numbers_of(1, 300)
    return save(tmp_path / "a.npy", numbers[:200]), save(tmp_path / "b.npy", numbers[100:])


EXPECTED: dict[str, Callable[[set[int], set[int]], set[int]]] = {
    "and": set.__and__,
    "or": set.__or__,
    "minus": set.__sub__,
    "xor": set.__xor__,
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_set_command_writes_the_bytes_that_numpy_would(name: str, two: tuple[Path, Path], tmp_path: Path, capsys: Capture) -> None:
    out = made(tmp_path / "out") / "o.npy"
    assert call(name, *two, "--save_path", out) == 0
    expected = sorted(EXPECTED[name](*(set(read_subset(path)) for path in two)))
    assert out.read_bytes() == save(tmp_path / "expected.npy", expected).read_bytes()
    assert [path.name for path in out.parent.iterdir()] == ["o.npy"]
    shown = capsys.readouterr()
    assert [line.split()[-1] for line in shown.out.splitlines()] == ["200", "200", str(len(expected))]
    assert shown.err == ""


def test_three_lists_may_be_given(tmp_path: Path) -> None:
    numbers = numbers_of(2, 30)
    paths = [save(tmp_path / f"{at}.npy", numbers[at : at + 20]) for at in range(3)]
    for name, expected in (("and", numbers[2:20]), ("or", numbers[:22]), ("minus", numbers[:1])):
        assert call(name, *paths, "--save_path", tmp_path / "o.npy", "--overwrite", "--quiet") == 0
        assert read_subset(tmp_path / "o.npy") == expected


def test_diff_counts_and_its_exit_code_says_whether_lists_are_equal(two: tuple[Path, Path], capsys: Capture) -> None:
    assert call("diff", *two) == 1
    lines = [line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert [number for _, number in lines] == ["100", "100", "100", "33.3333%", "50.0000%", "50.0000%"]
    assert call("diff", two[0], two[0]) == 0
    assert capsys.readouterr().out.splitlines()[3].split() == ["Jaccard", "100.0000%"]
    assert call("diff", *two, "--quiet") == 1
    assert capsys.readouterr().out == ""


def test_repeated_uids_are_kept_and_named_and_sort_lists_each_once(tmp_path: Path, capsys: Capture) -> None:
    a, b = save(tmp_path / "a.npy", [1, 2, 2, 2, 3, 3]), save(tmp_path / "b.npy", [2, 2, 4, 4])
    for name, more, expected in [
        ("and", (b,), [2, 2]),
        ("or", (b,), [1, 2, 2, 2, 3, 3, 4, 4]),
        ("minus", (b,), [1, 3, 3]),
        ("xor", (b,), [1, 3, 3, 4, 4]),
        ("convert", (), [1, 2, 2, 2, 3, 3]),
        ("convert", ("--sort",), [1, 2, 3]),
        ("or", (b, "--sort"), [1, 2, 3, 4]),
        ("or", (b, "--sort", "--keep_repeats"), [1, 2, 2, 2, 3, 3, 4, 4]),
    ]:
        assert call(name, a, *more, "--save_path", tmp_path / "o.npy", "--overwrite") == 0
        assert read_subset(tmp_path / "o.npy") == expected
        done = "dropped" if "--sort" in more and "--keep_repeats" not in more else "kept"
        assert f"{a}: 3 of 6 records repeat a uid: {done}" in capsys.readouterr().err


def test_diff_sees_that_a_uid_is_listed_more_often(tmp_path: Path, capsys: Capture) -> None:
    a, b = save(tmp_path / "a.npy", [1, 2, 2]), save(tmp_path / "b.npy", [1, 1, 2])
    assert call("diff", a, b) == 1
    assert " ".join(capsys.readouterr().out.split()).count("not as often in both 2 ") == 1
    assert call("diff", a, b, "--sort") == 0


# -- every form


def texts(numbers: list[int]) -> list[str]:
    return [f"{number:032x}" for number in numbers]


def binary(numbers: list[int]) -> pa.Array:
    return pa.array([number.to_bytes(16, "big") for number in numbers], pa.binary(16))


def table(path: Path, uid: Any, **more: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({"uid": uid, **more}), path)


def with_rest(numbers: list[int]) -> tuple[list[int], list[str]]:
    """Among others, with the statuses that tell them apart."""
    return [one for number in numbers for one in (number, 7)], ["kept", "semdedup"] * len(numbers)


def packed(path: Path, data: bytes) -> None:
    path.write_bytes(gzip.compress(data[:100]) + gzip.compress(data[100:]))


def write_folder(path: Path, numbers: list[int]) -> None:
    for at in range(6):
        table(path / f"{at}.parquet", binary(numbers[40 * at : 40 * (at + 1)]))


FORMS: dict[str, Callable[[Path, list[int]], object]] = {
    "x.npy": lambda p, n: save(p, n),
    "x.npy.gz": lambda p, n: packed(p, npy(records(n))),
    "x.txt": lambda p, n: p.write_text("\n".join(texts(n)) + "\n"),
    "no last line end.txt": lambda p, n: p.write_text("\n".join(texts(n))),
    "lines of DOS.txt": lambda p, n: p.write_bytes("".join(f"{text.upper()}\r\n" for text in texts(n)).encode()),
    "no leading zeros.txt": lambda p, n: p.write_text("".join(f"{number:x}\n" for number in n)),
    "x.txt.gz": lambda p, n: packed(p, "".join(f"{text}\n" for text in texts(n)).encode()),
    "x.parquet": lambda p, n: table(p, texts(n), url=texts(n)),
    "large.parquet": lambda p, n: table(p, pa.array(texts(n), pa.large_string())),
    "binary.parquet": lambda p, n: table(p, binary(n)),
    "kept.parquet": lambda p, n: table(p, binary(with_rest(n)[0]), status=with_rest(n)[1]),
    "held.parquet": lambda p, n: table(p, texts(n) + ["0f"] * 2, status=["success"] * len(n) + [None, "failed_to_download"]),
    "folder": write_folder,
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_a_list_is_read_in_every_form_in_which_it_is_kept(name: str, tmp_path: Path) -> None:
    numbers = [3, *numbers_of(4, 200)]
    FORMS[name](tmp_path / name, numbers)
    assert call("convert", tmp_path / name, "--save_path", tmp_path / "o.npy", "--quiet") == 0
    assert (tmp_path / "o.npy").read_bytes() == save(tmp_path / "expected.npy", numbers).read_bytes()


def test_a_text_is_read_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = numbers_of(4, 90)
    (tmp_path / "x.txt").write_text("".join(f"{text}\n" for text in texts(numbers)))
    for size in (32, 33, 34, 100):
        monkeypatch.setattr("filters.pool.uidfiles.CHUNK", size)
        assert call("convert", tmp_path / "x.txt", "--save_path", tmp_path / "o.npy", "--overwrite", "--quiet") == 0
        assert read_subset(tmp_path / "o.npy") == numbers


FOREIGN: dict[str, Callable[[list[int]], Array]] = {
    ">u8,>u8": lambda n: records(n).astype(">u8,>u8"),
    "<u8,>u8": lambda n: records(n).astype("<u8,>u8"),
    "<u8,<u8 named high, low": lambda n: records(n).astype([("high", "u8"), ("low", "u8")]),
    "<i8,<i8": lambda n: records(n).view("i8,i8"),
    "<u8 of shape (n, 2)": words,
    ">i8 of shape (n, 2)": lambda n: words(n).astype(">i8"),
    "texts, |S32": lambda n: np.array(texts(n), "S"),
    "texts, <U32": lambda n: np.array(texts(n)),
    "texts, >U32": lambda n: np.array(texts(n), ">U32"),
}


@pytest.mark.parametrize("form", FOREIGN)
def test_an_npy_of_another_dtype_is_named_and_sort_or_convert_takes_it(form: str, tmp_path: Path, capsys: Capture) -> None:
    numbers = [3, *numbers_of(4, 200)]
    path, other, out = tmp_path / "x.npy", save(tmp_path / "other.npy", numbers[:50]), tmp_path / "o.npy"
    np.save(path, FOREIGN[form](numbers))
    assert call("and", path, other, "--save_path", out) == 2
    assert f"uids: {path}: is npy of {form}, not u8,u8" in capsys.readouterr().err
    assert call("and", path, other, "--save_path", out, "--sort", "--quiet") == 0
    assert read_subset(out) == numbers[:50]
    assert call("convert", path, "--save_path", out, "--overwrite", "--quiet") == 0
    assert read_subset(out) == numbers
    assert call("info", path) == 0
    assert f"npy of {form}, which DataComp refuses" in capsys.readouterr().out
    np.save(path, FOREIGN[form](numbers[::-1]))
    assert call("convert", path, "--save_path", out, "--overwrite") == 2
    assert "record 1 is smaller than the one before" in capsys.readouterr().err
    assert call("convert", path, "--save_path", out, "--overwrite", "--sort", "--quiet") == 0
    assert read_subset(out) == numbers


def test_texts_of_fewer_digits_are_padded_on_the_left(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([b"f", b"10", b"abc"]))
    assert call("convert", tmp_path / "x.npy", "--save_path", tmp_path / "o.npy", "--quiet") == 0
    assert read_subset(tmp_path / "o.npy") == [15, 16, 0xABC]


# -- what is refused


GOOD = numbers_of(6, 120)


def swapped(numbers: list[int], at: int) -> list[int]:
    return [*numbers[:at], numbers[at + 1], numbers[at], *numbers[at + 2 :]]


def cut_off(write: Callable[[Path], object], size: int) -> Callable[[Path], object]:
    def both(path: Path) -> None:
        write(path)
        truncate(path, path.stat().st_size + size)

    return both


BAD: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "not there": ("x.npy", lambda p: None, "No such file"),
    "another name": ("x.csv", lambda p: p.write_text("0f"), "ends in none of .npy"),
    "no name": ("x", lambda p: p.write_text("0f"), "ends in none of .npy"),
    "packed parquet": ("x.parquet.gz", lambda p: p.write_text("0f"), "ends in none of .npy"),
    "unsorted": ("x.npy", lambda p: save(p, swapped(GOOD, 60)), "record 61 is smaller than the one before; give --sort"),
    "unsorted in the low word": ("x.npy", lambda p: save(p, [(1 << 64) + 2, (1 << 64) + 1]), "record 1 is smaller"),
    "unsorted text": ("x.txt", lambda p: p.write_text("\n".join(texts(swapped(GOOD, 0)))), "record 1 is smaller than the one before"),
    "no npy": ("x.npy", lambda p: p.write_text("hello"), "is no npy file"),
    "one word": ("x.npy", lambda p: np.save(p, words(GOOD)[:, 0]), "is '<u8' of shape (120,), not one dimension of u8,u8"),
    "by columns": ("x.npy", lambda p: np.save(p, np.asfortranarray(words(GOOD))), "not one dimension of u8,u8"),
    "column of records": ("x.npy", lambda p: np.save(p, records(GOOD)[:, None]), "of shape (120, 1), not one dimension"),
    "three words": ("x.npy", lambda p: np.save(p, np.zeros(3, "u8,u8,u8")), "not one dimension of u8,u8"),
    "floats": ("x.npy", lambda p: np.save(p, np.zeros((3, 2))), "is '<f8' of shape (3, 2), not one dimension of u8,u8"),
    "objects": ("x.npy", lambda p: np.save(p, np.array(texts(GOOD), object)), "is '|O' of shape"),
    "texts of 33": ("x.npy", lambda p: np.save(p, np.array(["0" * 33])), "is '<U33' of shape"),
    "a text that is none": ("x.npy", lambda p: np.save(p, np.array(["0" * 32, "é" * 32])), "record 1: uid '????"),
    "a text with a gap": ("x.npy", lambda p: np.save(p, np.array([b"0f", b"0\0f"])), "record 1: uid '0\\x00f' is not"),
    "cut off": ("x.npy", cut_off(lambda p: save(p, GOOD), -5), "ends before the 120 uids of its header"),
    "absurdly many": ("x.npy", lambda p: p.write_bytes(npy(records(GOOD), shape=(10**18,))), "ends before the 1,000,000,000,000,000,000"),
    "too long": ("x.npy", lambda p: p.write_bytes(npy(records(GOOD), shape=(119,))), "goes on behind the 119 uids"),
    "no gz": ("x.npy.gz", lambda p: save(p.with_suffix(""), GOOD).rename(p), "is no whole gz file (Not a gzipped file"),
    "gz cut off": ("x.txt.gz", cut_off(lambda p: packed(p, "\n".join(texts(GOOD)).encode()), -9), "is no whole gz file"),
    "gz of nothing": ("x.npy.gz", lambda p: packed(p, b""), "is no npy file"),
    "no hexadecimal": ("x.txt", lambda p: p.write_text("0f\n10\nxyz\n"), "line 3: uid 'xyz' is not 1 to 32 hexadecimal digits"),
    "an empty line": ("x.txt", lambda p: p.write_text("0f\n\n10\n"), "line 2: uid '' is not"),
    "33 digits": ("x.txt", lambda p: p.write_text("0f\n" + "1" * 33), "line 2: uid '1111"),
    "an endless line": ("x.txt", lambda p: p.write_bytes(b"0" * (5 << 20)), "has a line of more than 2,097,152 bytes"),
    "no parquet": ("x.parquet", lambda p: p.write_text("hello"), "is no whole parquet file"),
    "no column uid": ("x.parquet", lambda p: pq.write_table(pa.table({"id": [1]}), p), "column 'uid' is there 0 times"),
    "numbers": ("x.parquet", lambda p: table(p, [1, 2]), "column 'uid' is int64, not string"),
    "8 bytes": ("x.parquet", lambda p: table(p, pa.array([b"12345678"], pa.binary(8))), "is fixed_size_binary[8], not"),
    "a status of numbers": ("x.parquet", lambda p: table(p, ["0f"], status=[1]), "column 'status' is int64"),
    "a null uid": ("x.parquet", lambda p: table(p, ["0f", None]), "row 1: uid None is not"),
    "a null of bytes": ("x.parquet", lambda p: table(p, pa.array([bytes(16), None], pa.binary(16))), "row 1: uid None is not"),
    "a bad uid in a table": ("x.parquet", lambda p: table(p, ["0f", "0g"]), "row 1: uid '0g' is not"),
    "an empty folder": ("x", lambda p: p.mkdir(), "holds no .parquet"),
    "a folder in another order": ("x", lambda p: FORMS["folder"](p, swapped(GOOD, 39)), "record 40 is smaller than the one before"),
}  # fmt: skip


def the_line(capsys: Capture, code: int) -> str:
    shown = capsys.readouterr()
    assert (code, shown.out) == (2, "")
    (line,) = shown.err.splitlines()
    return line


@pytest.mark.parametrize("case", BAD)
def test_a_list_that_is_wrong_is_named_in_one_line_and_nothing_is_written(case: str, tmp_path: Path, capsys: Capture) -> None:
    name, write, expected = BAD[case]
    path = tmp_path / name
    write(path)
    before = sorted(tmp_path.rglob("*"))
    line = the_line(capsys, call("convert", path, "--save_path", tmp_path / "o.npy"))
    assert line.startswith(f"uids: {path}")
    assert expected in line
    assert sorted(tmp_path.rglob("*")) == before


CALLS: dict[str, tuple[str, str]] = {
    "no list": ("and A --save_path O", "command line: the following arguments are required: other"),
    "no command": ("", "command line: the following arguments are required"),
    "another command": ("nand A B", "command line: argument"),
    "no place": ("and A B", "--save_path"),
    "three to xor": ("xor A B A --save_path O", "command line: unrecognized arguments"),
    "half a flag": ("and A B --save O", "command line"),
    "another place": ("and A B --save_path o.txt", "o.txt: does not end in .npy"),
    "no name": ("and A B --save_path /", "/: does not end in .npy"),
    "what is there": ("and A B --save_path B", "b.npy: exists; give --overwrite"),
    "a sample of none": ("sample 0 A --save_path O", "argument N"),
    "a sample of half": ("sample 0.5 A --save_path O", "argument N: must be a whole number from 1 on, got '0.5'"),
    "a sample of too many": ("sample 201 A --save_path O", "a.npy: holds 200 uids, 201 are asked for"),
    "no memory": ("or A B --save_path O --memory_gb 0", "argument --memory_gb"),
    "memory that is none": ("or A B --save_path O --memory-gb nan", "argument --memory_gb: must lie in (0, 1000000], got 'nan'"),
    "nothing left": ("minus A A --save_path O", "leaves no uid; nothing is written"),
    "no pool": ("info A --metadata_dir FOLDER", "holds no {key}.parquet"),
}


@pytest.mark.parametrize("case", CALLS)
def test_a_call_that_is_wrong_is_told_in_one_line(case: str, two: tuple[Path, Path], tmp_path: Path, capsys: Capture) -> None:
    named = {"A": two[0], "B": two[1], "O": tmp_path / "o.npy", "FOLDER": made(tmp_path / "folder")}
    before = sorted(tmp_path.rglob("*"))
    line = the_line(capsys, call(*(named.get(word, word) for word in CALLS[case][0].split())))
    assert CALLS[case][1] in line
    assert sorted(tmp_path.rglob("*")) == before


def test_a_list_may_be_replaced_by_what_is_made_of_it_when_that_is_asked_for(two: tuple[Path, Path]) -> None:
    whole = set(read_subset(two[0])) | set(read_subset(two[1]))
    assert call("or", *two, "--save_path", two[0], "--overwrite", "--quiet") == 0
    assert read_subset(two[0]) == sorted(whole)
    assert call("minus", two[1], two[0], "--save_path", two[0], "--overwrite", "--quiet") == 2
    assert read_subset(two[0]) == sorted(whole)


def test_a_list_that_changes_while_it_is_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    path = save(tmp_path / "a.npy", GOOD)
    monkeypatch.setattr(command.Meter, "__call__", lambda meter, size: os.utime(path, (0, 0)))
    assert "a.npy: changed during the run" in the_line(capsys, call("convert", path, "--save_path", tmp_path / "o.npy"))


# -- info


def facts(capsys: Capture, *arguments: object) -> dict[str, str]:
    """What info tells."""
    capsys.readouterr()
    assert call("info", *arguments) == 0
    lines = (line.partition("  ") for line in capsys.readouterr().out.splitlines())
    return {name: text.strip() for name, _, text in lines}


def test_info_tells_count_order_repetition_dtype_and_hash(tmp_path: Path, capsys: Capture) -> None:
    path = save(tmp_path / "a.npy", [*GOOD, GOOD[-1]])
    told = facts(capsys, path)
    assert told.pop("list") == str(path)
    assert told == {
        "form": "npy of u8,u8",
        "uids": "121",
        "order": "ascending",
        "repeated": "1 records repeat a uid",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }


def test_info_tells_what_is_wrong_with_the_order(tmp_path: Path, capsys: Capture) -> None:
    path = save(tmp_path / "a.npy", [*swapped(swapped(GOOD, 3), 70), GOOD[0]])
    told = facts(capsys, path)
    assert told["order"].startswith("not ascending: record 4 is smaller than the one before, 3 such; DataComp would")
    assert "--sort" in told["repeated"]
    assert facts(capsys, path, "--sort")["repeated"].startswith("1 record")
    assert list(tmp_path.iterdir()) == [path]


def test_info_tells_how_many_are_in_the_pool(tiny_pool: Path, tmp_path: Path, capsys: Capture) -> None:
    rewrite(tiny_pool / f"{2:032x}.parquet", with_uids((5, texts(GOOD)[0]), (6, texts(GOOD)[0])))
    pool = [int(uid, 16) for path in sorted(tiny_pool.glob("*.parquet")) for uid in pq.read_table(path)["uid"].to_pylist()]
    path = save(tmp_path / "a.npy", sorted({*pool[:60], *GOOD[:50], GOOD[0]}))
    expected = f"{len(set(pool) & set(read_subset(path)))} of {len(read_subset(path))} uids; the pool has 140 samples"
    for more in ((), ("--sort",), ("--sort", "--memory_gb", "0.00001")):
        assert facts(capsys, path, "--metadata_dir", tiny_pool, *more)["in the pool"] == expected
    save(path, pool)
    assert "--sort" in facts(capsys, path, "--metadata_dir", tiny_pool)["in the pool"]
    assert facts(capsys, path, "--metadata_dir", tiny_pool, "--sort")["in the pool"].startswith("139 of 139 uids")


def test_info_tells_that_the_halves_are_swapped(tiny_pool: Path, tmp_path: Path, capsys: Capture) -> None:
    pool = [int(uid, 16) for path in tiny_pool.glob("*.parquet") for uid in pq.read_table(path)["uid"].to_pylist()]
    path = save(tmp_path / "a.npy", sorted((number & LOW) << 64 | number >> 64 for number in pool[:60]))
    told = facts(capsys, path, "--metadata_dir", tiny_pool)["in the pool"]
    assert told == "0 of 60 uids; the pool has 140 samples; with high and low word swapped, 60 of the first 60 are"
    write_shard(tmp_path / "twice", "0" * 32, [f"{number:x}" for number in pool[:60]] * 2, {})
    told = facts(capsys, path, "--metadata_dir", tmp_path / "twice")["in the pool"]
    assert told.endswith("with high and low word swapped, 60 of the first 60 are")
    save(path, GOOD)
    assert facts(capsys, path, "--metadata_dir", tiny_pool)["in the pool"] == "0 of 120 uids; the pool has 140 samples"


# -- as a process


def start(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    call = [sys.executable, str(PAGE), *map(str, arguments)]
    return subprocess.Popen(call, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_it_in_the_middle_with_one_line_and_without_a_trace(number: signal.Signals, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.txt")
    process = start(tmp_path, "convert", "a.txt", "--save_path", "o.npy")
    with (tmp_path / "a.txt").open("w") as pipe:
        pipe.write("0f\n" * 99999)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    (tmp_path / "a.txt").unlink()
    if number == signal.SIGKILL:  # what is left then, the next one takes away
        save(tmp_path / "b.npy", GOOD)
        assert call("convert", tmp_path / "b.npy", "--save_path", tmp_path / "o.npy", "--quiet") == 0
        assert sorted(path.name for path in tmp_path.iterdir()) == ["b.npy", "o.npy"]
    else:
        assert (process.returncode, err) == (128 + number, "uids: stopped\n")
        assert not list(tmp_path.iterdir())


def test_the_page_runs_as_a_file_and_as_a_module(two: tuple[Path, Path], tmp_path: Path) -> None:
    done = start(tmp_path, "and", "a.npy", "b.npy", "--save-path", "o.npy")
    assert done.communicate()[1] == ""
    assert done.returncode == 0
    shown = subprocess.run([sys.executable, "-m", "tools.uids", "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert all(f"uids.py {name} " in shown.stdout for name in ("and", "minus", "xor", "sample", "convert", "diff", "info"))


@pytest.mark.parametrize("place", ["of the sorted runs", "of the result"])
def test_a_full_disk_is_told_in_one_line(place: str, tmp_path: Path, capsys: Capture) -> None:
    with disk("2m") as small:
        if place == "of the result":
            assert call("convert", save(tmp_path / "a.npy", list(range(140_000))), "--save_path", small / "o.npy") == 2
        else:
            assert call("convert", save(tmp_path / "a.npy", list(range(140_000, 0, -1))), "--save_path", small / "o.npy", "--sort") == 2
        line = the_line(capsys, 2)
        assert str(small) in line
        assert "no space left" in line
        assert not list(small.iterdir())


MEASURE = """
import resource, subprocess, sys
code = subprocess.run([sys.executable, *sys.argv[1:]], stdout=subprocess.DEVNULL).returncode
print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def measured(folder: Path, *arguments: str) -> tuple[int, int]:
    """Exit code and peak of memory, in kB. Of a process between: a child's peak is no less than what its parent had when it began."""
    call = [sys.executable, "-c", MEASURE, str(PAGE), *arguments]
    code, peak = subprocess.run(call, cwd=folder, capture_output=True, text=True, check=True).stdout.split()
    return int(code), int(peak)


@pytest.mark.parametrize(("count", "memory"), [(1_000_000, 0.02), pytest.param(40_000_000, 0.1, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_lists(count: int, memory: float, tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", rng.integers(0, 1 << 64, (count, 2), np.uint64).view("u8,u8").reshape(-1))
    for line in ("xor a.npy b.npy --sort", f"sample {count // 2} xor.npy", "diff xor.npy sample.npy", "info a.npy --sort"):
        save_path = [] if line.startswith(("diff", "info")) else ["--save_path", f"{line.split()[0]}.npy"]
        code, peak = measured(tmp_path, *line.split(), *save_path, "--memory_gb", str(memory))
        assert code == int(line.startswith("diff"))
        assert peak < 90_000 + memory * 1e6  # of which 60,000 are Python and numpy
