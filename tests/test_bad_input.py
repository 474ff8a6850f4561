"""Bad input: exit 2, one line that says where, what was found and what to do; nothing damaged, nothing half-written."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import re
import resource
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from filters import densprune
from filters.densprune import DensityPrune
from filters.pool.errors import BadInput
from filters.work.work import Silent
from tests.bad_files import (
    Piece,
    chunk_bytes,
    declare_rows,
    directory_start,
    edit,
    flip,
    footer_start,
    member_start,
    npy,
    npy_with_header,
    rewrite,
    truncate,
    with_column,
    with_uids,
    write_zip,
)
from tests.pools import Array, blobs, cut_into_shards, disk, random_uids, read_subset, write_pool, write_shard

PAGE = Path(__file__).parents[1] / "filters" / "densprune.py"
SIZES = (40, 0, 70, 30)  # rows of the shards
ODD = 2  # the shard that is made bad
ROWS = SIZES[ODD]
WIDTH = 16


@dataclass
class Ran:
    code: int
    out: str
    err: str


@dataclass
class Bench:
    """A pool to spoil, a place for results, and the contract for what is refused."""

    folder: Path
    capfd: pytest.CaptureFixture[str]
    told: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.pool, self.out = self.folder / "pool", self.folder / "results" / "out.npy"
        self.work = self.out.with_suffix(".work")
        self.out.parent.mkdir()
        self.told = write_pool(self.pool, np.random.default_rng(7), SIZES, WIDTH)

    def key(self, shard: int = ODD) -> str:
        return f"{shard:032x}"

    def npz(self, shard: int = ODD) -> Path:
        return self.pool / f"{self.key(shard)}.npz"

    def parquet(self, shard: int = ODD) -> Path:
        return self.pool / f"{self.key(shard)}.parquet"

    def rows(self, shard: int = ODD) -> Array:
        start = sum(SIZES[:shard])
        part: Array = self.told["l14_img"][start : start + SIZES[shard]]
        return part

    def arguments(self, *more: str) -> list[str]:
        places = ["--metadata_dir", str(self.pool), "--save_path", str(self.out)]
        return [*places, "--quiet", "--concepts", "4", "--num_workers", "2", *more]

    def run(self, *more: str) -> Ran:
        self.capfd.readouterr()
        code = densprune.main(self.arguments(*more))
        return Ran(code, *self.capfd.readouterr())

    def fine(self, *more: str) -> bytes:
        """OUT.npy of a run that works and says nothing."""
        ran = self.run(*more)
        assert (ran.code, ran.err, ran.out) == (0, "", "")
        return self.out.read_bytes()

    def refused(self, *names: object, more: tuple[str, ...] = ()) -> str:
        """The one line, which holds these names; an earlier OUT.npy stays as it was, and the line comes again the next time."""
        lines = []
        for earlier in [self.out.read_bytes()] if self.out.exists() else [None, b"of another run"]:
            if earlier is not None:
                self.out.write_bytes(earlier)
            line = the_line(self.run("--overwrite", *more))
            assert (self.out.read_bytes() if self.out.exists() else None) == earlier
            assert {path.name for path in self.out.parent.iterdir()} <= {self.out.name, self.work.name}
            if earlier == b"of another run":
                self.out.unlink()
            lines.append(line)
        assert len({re.sub("0x[0-9a-f]+", "", line) for line in lines}) == 1  # addresses of objects
        for name in names:
            assert str(name.name if isinstance(name, Path) else name) in lines[0]
        return lines[0]

    def status(self) -> dict[str, int]:
        told: dict[str, int] = json.loads((self.work / "manifest.json").read_text())["status"]
        return told


def the_line(ran: Ran) -> str:
    """Exit 2 and one line: who speaks, where, what was found; what to do."""
    assert ran.code == 2, f"exit {ran.code}, stderr {ran.err!r}"
    assert ran.out == ""
    assert ran.err.endswith("\n")
    line = ran.err[:-1]
    assert "Traceback" not in line
    assert line.isprintable()
    assert line.startswith("densprune: ")
    assert line.count(": ") >= 2
    assert line.rpartition("; ")[2]
    assert len(line) < 1000
    return line


@pytest.fixture
def bench(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Bench:
    return Bench(tmp_path, capfd)


def as_process(*arguments: str, limit: float = 60, **how: Any) -> Ran:
    command = [sys.executable, str(PAGE), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False, **how)
    return Ran(done.returncode, done.stdout, done.stderr)


Break = Callable[[Bench], object]


# -- the folder


def test_a_folder_that_does_not_exist_is_named(bench: Bench) -> None:
    shutil.rmtree(bench.pool)
    bench.refused(bench.pool)


def test_a_file_in_place_of_the_folder_is_named(bench: Bench) -> None:
    bench.refused(bench.npz(), more=("--metadata_dir", str(bench.npz())))


def test_an_empty_folder_is_named(bench: Bench) -> None:
    shutil.rmtree(bench.pool)
    bench.pool.mkdir()
    bench.refused(bench.pool)


def test_no_folder_at_all_is_said(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATACOMP_DIR", raising=False)
    assert "--metadata_dir" in the_line(Ran(densprune.main(["--quiet"]), *bench.capfd.readouterr()))
    assert "DATACOMP_DIR" in the_line(Ran(densprune.main(["--quiet", "--pool", "small"]), *bench.capfd.readouterr()))


@pytest.mark.parametrize("flag", ["--metadata_dir", "--save_path", "--work_dir"])
def test_an_empty_place_is_not_taken_for_the_default(bench: Bench, flag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # As from a shell variable that is not set.
    monkeypatch.chdir(bench.out.parent)
    monkeypatch.setenv("DATACOMP_DIR", str(bench.folder))
    (bench.folder / "medium").mkdir()
    shutil.copytree(bench.pool, bench.folder / "medium" / "metadata")
    bench.refused(flag, more=(flag, ""))


def test_a_pool_of_empty_shards_only_is_said(bench: Bench) -> None:
    shutil.rmtree(bench.pool)
    cut_into_shards(bench.pool, bench.told, (0, 0))
    bench.refused(" 0 ")


def instead(which: str, make: Callable[[Path], object]) -> Break:
    """Something else by the name of the npz, or the parquet."""

    def swap(bench: Bench) -> None:
        path: Path = getattr(bench, which)()
        path.unlink()
        make(path)

    return swap


LONE: dict[str, Break] = {
    "npz without parquet": lambda b: b.parquet().unlink(),
    "parquet without npz": lambda b: b.npz().unlink(),
    "a folder named like the npz": instead("npz", Path.mkdir),
    "a folder named like the parquet": instead("parquet", Path.mkdir),
    "a FIFO named like the npz": instead("npz", os.mkfifo),
    "a FIFO named like the parquet": instead("parquet", os.mkfifo),
    "a dangling link named like the npz": instead("npz", lambda path: path.symlink_to("nowhere")),
    "a dangling link named like the parquet": instead("parquet", lambda path: path.symlink_to("nowhere")),
    "a link to itself named like the npz": instead("npz", lambda path: path.symlink_to(path)),
}


@pytest.mark.parametrize("case", LONE)
def test_half_a_pair_is_named(bench: Bench, case: str) -> None:
    LONE[case](bench)
    bench.refused(bench.key() + ".npz", bench.key() + ".parquet")


def test_a_pair_of_dangling_links_is_not_passed_over(bench: Bench) -> None:
    for path in (bench.npz(), bench.parquet()):
        path.unlink()
        path.symlink_to("nowhere")
    bench.refused(bench.key())


def test_a_pool_of_parquet_alone_says_which_npz_is_needed(bench: Bench) -> None:
    for shard in range(4):
        bench.npz(shard).unlink()
    bench.refused(bench.npz(0), "l14_img")


def stray(bench: Bench) -> None:
    for name in ("README.md", ".hidden", "x.parquet.part", "notes.npy", ".parquet", ".npz", "a\nb.txt"):
        (bench.pool / name).write_bytes(b"stray")
    for name in ("part_1", "x.npz", "y.parquet", "stages"):
        (bench.pool / name).mkdir()
        (bench.pool / name / "z.parquet").write_bytes(b"stray")
    os.mkfifo(bench.pool / "pipe")


def link(bench: Bench) -> None:
    bench.pool.rename(bench.folder / "real")
    bench.pool.mkdir()
    for path in (bench.folder / "real").iterdir():
        (bench.pool / path.name).symlink_to(path)


def members_of(name: str) -> Callable[[Bench], None]:
    """All shards written anew by hand, with something odd but legal."""

    def write(bench: Bench) -> None:
        for shard in range(len(SIZES)):
            piece = Piece("l14_img.npy", npy(bench.rows(shard)))
            other = Piece("b32_img.npy", npy(np.ones((SIZES[shard], 3), np.float32)))
            path = bench.npz(shard)
            match name:
                case "deflated":
                    write_zip(path, Piece(piece.name, piece.data, deflated=True))
                case "comment":
                    write_zip(path, piece, comment=b"an archive of nothing in particular" * 9)
                case "prefix":
                    path.write_bytes(b"")
                    write_zip(path, piece, prefix=b"#!/bin/sh\n" * 7)
                case "large extra field":
                    write_zip(
                        path,
                        Piece(piece.name, piece.data, extra=(0x4242).to_bytes(2, "little") + (60000).to_bytes(2, "little") + bytes(60000)),
                    )
                case "zip64":
                    write_zip(path, other, piece, zip64=True)
                case "among others":
                    names = ("folder/l14_img.npy", "../l14_img.npy", "/etc/passwd", "L14_IMG.npy", "b", "l14_img.npy.npy")
                    write_zip(path, *(Piece(odd, b"x") for odd in names), piece, other, Piece("sub/", b""))
                case "version 2 of npy":
                    stream = io.BytesIO()
                    np.lib.format.write_array(stream, bench.rows(shard), version=(2, 0))
                    write_zip(path, Piece(piece.name, stream.getvalue()))

    return write


def all_parquets(change: Callable[[pa.Table], pa.Table] = lambda table: table, **how: Any) -> Break:
    def write(bench: Bench) -> None:
        for shard in range(len(SIZES)):
            rewrite(bench.parquet(shard), change, **how)

    return write


LEGAL: dict[str, Break] = {
    "stray files and folders": stray,
    "links to shards": link,
    "deflated members": members_of("deflated"),
    "a comment after the zip": members_of("comment"),
    "something before the zip": members_of("prefix"),
    "a large extra field": members_of("large extra field"),
    "zip64 records": members_of("zip64"),
    "members of other names": members_of("among others"),
    "npy version 2": members_of("version 2 of npy"),
    "large strings": all_parquets(lambda table: with_column("uid", table["uid"].cast(pa.large_string()))(table)),
    "many row groups": all_parquets(row_group_size=7),
    "page checksums": all_parquets(write_page_checksum=True),
    "no compression": all_parquets(compression="none", use_dictionary=False),
    "fewer columns": all_parquets(lambda table: table.select(["uid", "clip_l14_similarity_score"])),
    "a file that is only an empty shard": lambda b: write_shard(b.pool, "f" * 32, [], {"l14_img": b.rows()[:0]}),
}


@pytest.mark.parametrize("case", LEGAL)
def test_what_is_odd_but_legal_changes_no_byte(bench: Bench, case: str) -> None:
    plain = bench.fine()
    shutil.rmtree(bench.work)
    bench.out.unlink()
    LEGAL[case](bench)
    assert bench.fine() == plain


def test_a_linked_folder_is_read_through(bench: Bench) -> None:
    plain = bench.fine()
    (bench.folder / "link").symlink_to(bench.pool)
    assert bench.fine("--metadata_dir", str(bench.folder / "link")) == plain


@pytest.mark.parametrize("key", ["..a", "a..b", "a..", ".a", "a\\b"])
def test_a_key_that_could_lead_elsewhere_is_refused(bench: Bench, key: str) -> None:
    write_shard(bench.pool, key, ["0f"], {"l14_img": bench.rows()[:1]})
    line = bench.refused()
    assert key in line or repr(key)[1:-1] in line


@pytest.mark.parametrize(
    "key", ["a b", "été", "🙂", "%2e%2e", "'", "$HOME", "part-0", "starts", "once", "a.uid", "a.npz", "-", "*", "a" * 200]
)
def test_an_odd_key_is_a_key(bench: Bench, key: str) -> None:
    write_shard(bench.pool, key, random_uids(np.random.default_rng(1), 9), {"l14_img": bench.rows()[:9]})
    bench.fine()
    assert (bench.work / "samples" / f"{key}.parquet").is_file()


@pytest.mark.parametrize("key", ["a\nb", "a\rdensprune: all is well", "a\x1b[2Jb", "a\x85b", "a\u2028b"])
def test_a_name_with_control_characters_makes_no_second_line(bench: Bench, key: str) -> None:
    (bench.pool / f"{key}.npz").write_bytes(b"")
    bench.refused()


def test_a_name_that_is_no_unicode_is_read_or_refused_in_one_line(bench: Bench) -> None:
    for path in (bench.npz(), bench.parquet()):
        path.rename(os.fsdecode(os.fsencode(bench.pool) + b"/\xff\xfe" + os.fsencode(path.suffix)))
    ran = bench.run()
    assert ran.code == 0 or the_line(ran)


def test_a_key_too_long_for_the_names_of_results_is_refused(bench: Bench) -> None:
    write_shard(bench.pool, "k" * 245, ["0f"], {"l14_img": bench.rows()[:1]})
    bench.refused()


# -- npz


Spoil = Callable[[Path, Array], object]


def member(data: bytes, **claims: Any) -> Spoil:
    return lambda path, rows: write_zip(path, Piece("l14_img.npy", data, **claims))


def plain(**claims: Any) -> Spoil:
    """The member as it should be, but for what the zip claims of it."""
    return lambda path, rows: write_zip(path, Piece("l14_img.npy", npy(rows), **claims))


def forged(**header: Any) -> Spoil:
    return lambda path, rows: write_zip(path, Piece("l14_img.npy", npy(rows, **header)))


def array(change: Callable[[Array], Any]) -> Spoil:
    return lambda path, rows: np.savez(path, l14_img=change(rows))


def headed(text: str, **more: Any) -> Spoil:
    return lambda path, rows: write_zip(path, Piece("l14_img.npy", npy_with_header(text, rows.tobytes(), **more)))


def overlapping(path: Path, rows: Array) -> None:
    """Two entries, each of which claims the bytes of both."""
    inner = npy(rows)
    write_zip(path, Piece("l14_img.npy", inner), Piece("b32_img.npy", inner))
    first, second = member_start(path, "l14_img.npy"), member_start(path, "b32_img.npy")
    whole = second + len(inner) - first
    at = directory_start(path)

    def claim(data: bytearray) -> None:
        data[at + 20 : at + 28] = whole.to_bytes(4, "little") * 2

    edit(path, claim)


def shared_entries(path: Path, rows: Array) -> None:
    """Two names for one local header."""
    write_zip(path, Piece("l14_img.npy", npy(rows)), Piece("b32_img.npy", npy(rows), at=0, local_name="l14_img.npy"))


def quoted(path: Path, rows: Array) -> None:
    """A zip inside the member of a zip: the second entry lies in the first one's data."""
    inside = Piece("l14_img.npy", npy(rows))
    write_zip(path, inside)
    whole = path.read_bytes()[: directory_start(path)]
    write_zip(path, Piece("b32_img.npy", npy(rows[:1]) + whole), Piece("l14_img.npy", npy(rows), at=30 + 11 + len(npy(rows[:1]))))


BROKEN_NPZ: dict[str, Spoil] = {
    "no bytes": lambda path, rows: path.write_bytes(b""),
    "one byte": lambda path, rows: path.write_bytes(b"P"),
    "zeros": lambda path, rows: path.write_bytes(bytes(4096)),
    "a npy": lambda path, rows: path.write_bytes(npy(rows)),
    "a page of a web server": lambda path, rows: path.write_bytes(b"<html>404</html>"),
    "no member": lambda path, rows: write_zip(path),
    "another member": lambda path, rows: np.savez(path, b32_img=rows),
    "the member in a folder": lambda path, rows: write_zip(path, Piece("a/l14_img.npy", npy(rows))),
    "one row less": array(lambda rows: rows[1:]),
    "one row more": array(lambda rows: np.concatenate([rows, rows[:1]])),
    "no rows": array(lambda rows: rows[:0]),
    "no dimension": array(lambda rows: rows[0, 0]),
    "one dimension": array(lambda rows: rows[:, 0]),
    "three dimensions": array(lambda rows: rows[:, None]),
    "no width": array(lambda rows: rows[:, :0]),
    "int8": array(lambda rows: (rows * 100).astype(np.int8)),
    "bool": array(lambda rows: rows > 0),
    "complex": array(lambda rows: rows.astype(np.complex64)),
    "text": array(lambda rows: rows.astype("U8")),
    "records": array(lambda rows: np.zeros(len(rows), "f4,f4")),
    "dates": array(lambda rows: rows.astype(np.int64).astype("M8[s]")),
    "big-endian": array(lambda rows: rows.astype(">f2")),
    "Fortran order": array(np.asfortranarray),
    "objects": array(lambda rows: rows.astype(object)),
    "a header of more columns": forged(shape=(ROWS, WIDTH + 1)),
    "a header of fewer columns": forged(shape=(ROWS, WIDTH - 1)),
    "a header of more rows": forged(shape=(ROWS + 1, WIDTH)),
    "a header of fewer rows": forged(shape=(ROWS - 1, WIDTH)),
    "a header of another type": forged(descr="<f4"),
    "a header of negative rows": forged(shape=(-ROWS, WIDTH)),
    "a header of negative rows and columns": forged(shape=(-ROWS, -WIDTH)),
    "a header of absurd rows": forged(shape=(10**30, 10**30)),
    "a header of objects over plain bytes": forged(descr="|O"),
    "a header whose type is empty": forged(descr=""),
    "a header whose type is a number": forged(descr=5),
    "a header whose type is a tuple": forged(descr=()),
    "a header whose type is a list": forged(descr=[()]),
    "a header whose type is a date": forged(descr="<M8"),
    "a header whose type is nested": forged(descr=[("a", [("b", "<f2")])]),
    "a header whose order is a word": forged(fortran_order="no"),
    "a header whose shape is a list": forged(shape=[ROWS, WIDTH]),
    "a header whose shape is a number": headed("{'descr': '<f2', 'fortran_order': False, 'shape': 70, }"),
    "a header with another key": forged(more=1),
    "a header that is no dict": headed("[]"),
    "a header that is code": headed("__import__('os').system('true')"),
    "a header that does not end": headed("{'descr': '<f2', 'shape': ("),
    "a header of brackets": headed("(" * 5000),
    "a header that is too long": headed("{'descr': '<f2', 'fortran_order': False, 'shape': (70, 16)}" + " " * 30000),
    "a header that is no Latin": lambda path, rows: write_zip(
        path, Piece("l14_img.npy", b"\x93NUMPY\3\0\4\0\0\0\xff\xfe\xfd\n" + rows.tobytes())
    ),
    "npy version 9": headed("{}", version=b"\x09\x00"),
    "an empty member": member(b""),
    "a member of two bytes": member(b"\x93N"),
    "a member that is no npy": member(b"hello, world" * 99),
    "a wrong checksum": plain(crc=1),
    "encrypted": plain(flags=1),
    "deflated and encrypted": plain(deflated=True, flags=1),
    "deflated and strongly encrypted": plain(deflated=True, flags=0x40),
    "deflated patches": plain(deflated=True, flags=0x20),
    "packed by bzip2": plain(method=12),
    "packed by an unknown method": plain(method=99),
    "stored, but said to be deflated": plain(method=8),
    "deflated, but said to be stored": lambda path, rows: write_zip(path, Piece("l14_img.npy", npy(rows), deflated=True, method=0)),
    "deflated, a wrong checksum": plain(deflated=True, crc=1),
    "deflated, said to be larger": plain(deflated=True, size=10**6),
    "deflated, said to be smaller": plain(deflated=True, size=100),
    "deflated, said to be packed smaller": plain(deflated=True, packed=100),
    "deflated, said to be packed larger": plain(deflated=True, packed=10**6),
    "stored, sizes that differ": plain(packed=100),
    "stored, larger than the file": plain(packed=10**9, size=10**9),
    "a local header of another name": plain(local_name="b32_img.npy"),
    "a local header elsewhere": plain(at=7),
    "a local header behind the end": plain(at=10**9),
    "a broken extra field": plain(central_extra=b"\x01\x00\xff\xff"),
    "two members of one name": lambda path, rows: write_zip(path, *[Piece("l14_img.npy", npy(rows))] * 2),
    "two members, with .npy and without": lambda path, rows: write_zip(
        path, Piece("l14_img.npy", npy(rows)), Piece("l14_img", npy(rows[::-1]))
    ),
    "entries that overlap": overlapping,
    "entries that share their bytes": shared_entries,
    "an entry inside another": quoted,
}


@pytest.mark.parametrize("case", BROKEN_NPZ)
def test_a_broken_npz_is_named(bench: Bench, case: str) -> None:
    BROKEN_NPZ[case](bench.npz(), bench.rows())
    bench.refused(bench.npz())


@pytest.mark.parametrize("share", [0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 0.99, 0.999])
def test_a_truncated_npz_is_named(bench: Bench, share: float) -> None:
    truncate(bench.npz(), int(bench.npz().stat().st_size * share))
    bench.refused(bench.npz())


@pytest.mark.parametrize("change", [lambda rows: rows[1:], lambda rows: np.concatenate([rows, rows])], ids=["fewer", "more"])
def test_row_counts_that_differ_are_said_of_both_files(bench: Bench, change: Callable[[Array], Array]) -> None:
    np.savez(bench.npz(), l14_img=change(bench.rows()))
    bench.refused(bench.npz(), bench.parquet(), str(ROWS), str(len(change(bench.rows()))), "l14_img")


def test_a_missing_member_is_named_with_what_there_is(bench: Bench) -> None:
    bench.refused(bench.npz(0), "dino", "l14_img", more=("--features", "dino"))
    np.savez(bench.npz(), b32_img=bench.rows())
    bench.refused(bench.npz(), "l14_img", "b32_img")


@pytest.mark.parametrize(
    "change", [lambda rows: rows.astype(np.float32), lambda rows: np.hstack([rows, rows]), lambda rows: rows.astype(np.float64)]
)
@pytest.mark.parametrize("odd", [0, 1, 3])
def test_a_shard_unlike_the_others_is_named_with_one_that_it_differs_from(bench: Bench, odd: int, change: Callable[[Array], Array]) -> None:
    np.savez(bench.npz(odd), l14_img=change(bench.rows(odd)))
    line = bench.refused(bench.npz(odd))
    assert any(bench.npz(shard).name in line for shard in range(4) if shard != odd)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_wider_floats_are_read_like_float16(bench: Bench, dtype: type) -> None:
    bench.fine()
    expected = read_subset(bench.out)
    shutil.rmtree(bench.work)
    for shard in range(4):
        np.savez(bench.npz(shard), l14_img=bench.rows(shard).astype(dtype))
    bench.fine("--overwrite")
    assert len(read_subset(bench.out)) == len(expected)


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e30])
def test_rows_that_are_finite_and_not_zero_are_valid_whatever_their_length(bench: Bench, scale: float) -> None:
    for shard in range(4):
        np.savez(bench.npz(shard), l14_img=bench.rows(shard).astype(np.float32) * np.float32(scale))
    bench.fine()
    assert "invalid" not in bench.status() or not bench.status()["invalid"]


def header_of_python_2(bench: Bench) -> None:
    headed(f"{{'descr': '<f2', 'fortran_order': False, 'shape': ({ROWS}L, {WIDTH}L), }}")(bench.npz(), bench.rows())


def test_an_npy_header_of_python_2_is_read_or_refused_without_a_warning(bench: Bench) -> None:
    header_of_python_2(bench)
    ran = as_process(*bench.arguments())
    assert (ran.code, ran.err) == (0, "") or the_line(ran)


class Trap:
    """Unpickled, it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["l14_img", "b32_img", "dedup"])
def test_a_pickle_is_never_loaded(bench: Bench, name: str) -> None:
    sprung = bench.folder / "sprung"
    members: dict[str, Any] = {"l14_img": bench.rows(), name: np.full(ROWS, Trap(sprung), object)}
    np.savez(bench.npz(), **members)
    ran = bench.run()
    assert ran.code == 0 if name != "l14_img" else the_line(ran)
    bench.refused(bench.npz(), more=("--features", name)) if name == "l14_img" else None
    assert not sprung.exists()
    with pytest.raises(FileExistsError):
        sprung.mkdir()
        pickle.loads(pickle.dumps(Trap(sprung)))


@pytest.mark.parametrize("at", [0, 7, 8, 20, 40, 60, 70, 80, 127, 128, 1000, -1])
def test_a_flipped_bit_of_a_stored_member_is_found(bench: Bench, at: int) -> None:
    start, size = member_start(bench.npz(), "l14_img.npy"), len(npy(bench.rows()))
    flip(bench.npz(), start + at % size)
    bench.refused(bench.npz())


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9])
def test_a_flipped_bit_of_a_deflated_member_is_found(bench: Bench, share: float) -> None:
    np.savez_compressed(bench.npz(), l14_img=bench.rows())
    start, end = member_start(bench.npz(), "l14_img.npy"), directory_start(bench.npz())
    flip(bench.npz(), start + int(share * (end - start)), 2)
    bench.refused(bench.npz())


def large_pool(bench: Bench) -> list[str]:
    """One shard of three blocks, in place of the others; its uids."""
    shutil.rmtree(bench.pool)
    rng = np.random.default_rng(2)
    uids = random_uids(rng, 10_000)
    write_shard(bench.pool, "big", uids, {"l14_img": blobs(rng, 10_000, 4)})
    return uids


@pytest.mark.parametrize("row", [0, 4095, 4096, 6000, 8191, 9999])
@pytest.mark.parametrize("some", [False, True], ids=["all rows", "few rows wanted"])
def test_a_flipped_bit_in_any_block_is_found_even_where_no_row_is_wanted(bench: Bench, row: int, some: bool) -> None:
    uids = large_pool(bench)
    flip(bench.pool / "big.npz", member_start(bench.pool / "big.npz", "l14_img.npy") + 128 + row * 8)
    np.save(bench.folder / "some.npy", subset_of(uids[:40]))
    within = ("--within", str(bench.folder / "some.npy")) if some else ()
    bench.refused("big.npz", "l14_img", more=("--no_dedup", *within))


FIELDS = {
    "signature": 0,
    "version": 4,
    "flags": 6,
    "method": 8,
    "time": 10,
    "crc": 14,
    "packed": 18,
    "size": 22,
    "name length": 26,
    "extra length": 28,
    "name": 30,
    "extra": 41,
}


@pytest.mark.parametrize("part", FIELDS)
def test_a_flipped_bit_of_a_local_header_is_found_or_harmless(bench: Bench, part: str) -> None:
    plain = bench.fine("--no_dedup")
    shutil.rmtree(bench.work)
    flip(bench.npz(), member_start(bench.npz(), "l14_img.npy") - (30 + 11 + 20) + FIELDS[part])
    ran = bench.run("--no_dedup", "--overwrite")
    assert the_line(ran) if ran.code else bench.out.read_bytes() == plain


def test_a_flipped_bit_of_a_zip_directory_is_found_or_harmless(bench: Bench) -> None:
    shutil.rmtree(bench.pool)
    cut_into_shards(bench.pool, bench.told, (24,))
    plain, more = bench.fine("--no_dedup"), ("--no_dedup", "--overwrite")
    path = bench.npz(0)
    rng = np.random.default_rng(5)
    for at in range(directory_start(path), path.stat().st_size, 3):
        shutil.rmtree(bench.work, ignore_errors=True)
        bit = int(rng.integers(8))
        flip(path, at, bit)
        ran = bench.run(*more)
        assert the_line(ran) if ran.code else bench.out.read_bytes() == plain
        flip(path, at, bit)


# -- parquet


def binary_uids(table: pa.Table) -> pa.Table:
    return with_column("uid", pa.array([bytes(16)] * len(table), pa.binary(16)))(table)


def invalid_text(table: pa.Table) -> pa.Table:
    """A string column that is no UTF-8."""
    data = pa.py_buffer(b"\xff" * 32 * len(table))
    offsets = pa.py_buffer(np.arange(0, 32 * len(table) + 1, 32, dtype=np.int32).tobytes())
    return with_column("uid", pa.StringArray.from_buffers(len(table), offsets, data))(table)


def long_text(path: Path) -> None:
    """A text whose length, before it in the page, leads outside."""
    rewrite(path, compression="none", use_dictionary=False)
    uid = pq.read_table(path)["uid"][5].as_py().encode()

    def change(data: bytearray) -> None:
        at = data.index(uid)
        data[at - 4 : at] = (0x7FFFFFF0).to_bytes(4, "little")

    edit(path, change)


def twice(table: pa.Table) -> pa.Table:
    return table.append_column("uid", table["uid"])


def scores(kind: pa.DataType) -> Callable[[pa.Table], pa.Table]:
    return lambda table: with_column("clip_l14_similarity_score", table["clip_l14_similarity_score"].cast(kind, safe=False))(table)


BROKEN_PARQUET: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "no bytes": (lambda p: p.write_bytes(b""), ()),
    "magic alone": (lambda p: p.write_bytes(b"PAR1"), ()),
    "magic twice": (lambda p: p.write_bytes(b"PAR1PAR1"), ()),
    "an encrypted footer": (lambda p: edit(p, lambda d: d.__setitem__(slice(-4, None), b"PARE")), ()),
    "zeros": (lambda p: p.write_bytes(bytes(5000)), ()),
    "a page of a web server": (lambda p: p.write_bytes(b"<html>404</html>"), ()),
    "a footer longer than the file": (lambda p: edit(p, lambda d: d.__setitem__(slice(-8, -4), b"\xff\xff\xff\x7f")), ()),
    "a footer of no length": (lambda p: edit(p, lambda d: d.__setitem__(slice(-8, -4), bytes(4))), ()),
    "a footer of zeros": (lambda p: edit(p, lambda d: d.__setitem__(slice(footer_start(p), -8), bytes(len(d) - 8 - footer_start(p)))), ()),
    "absurdly many rows": (lambda p: declare_rows(p, 10**15, everywhere=False), ()),
    "absurdly many rows everywhere": (lambda p: declare_rows(p, 10**15, everywhere=True), ()),
    "more rows everywhere": (lambda p: declare_rows(p, ROWS + 5, everywhere=True), ()),
    "fewer rows everywhere": (lambda p: declare_rows(p, ROWS - 5, everywhere=True), ()),
    "a row more than the file has": (lambda p: declare_rows(p, ROWS + 1, everywhere=False), ()),
    "negative rows": (lambda p: declare_rows(p, -ROWS, everywhere=False), ()),
    "negative rows everywhere": (lambda p: declare_rows(p, -ROWS, everywhere=True), ()),
    "no columns": (lambda p: rewrite(p, lambda t: t.select([])), ()),
    "no column uid": (lambda p: rewrite(p, lambda t: t.drop_columns(["uid"])), ("uid",)),
    "no score": (lambda p: rewrite(p, lambda t: t.drop_columns(["clip_l14_similarity_score"])), ("clip_l14_similarity_score",)),
    "two columns uid": (lambda p: rewrite(p, twice), ("uid",)),
    "uids that are bytes": (lambda p: rewrite(p, binary_uids), ("uid",)),
    "uids that are numbers": (lambda p: rewrite(p, lambda t: with_column("uid", pa.array(range(len(t))))(t)), ("uid",)),
    "uids that are lists": (lambda p: rewrite(p, lambda t: with_column("uid", pa.array([["0f"]] * len(t)))(t)), ("uid",)),
    "uids that are nothing": (lambda p: rewrite(p, lambda t: with_column("uid", pa.nulls(len(t)))(t)), ("uid",)),
    "scores that are texts": (lambda p: rewrite(p, scores(pa.string())), ("clip_l14_similarity_score", "string")),
    "scores that are lists": (
        lambda p: rewrite(p, lambda t: with_column("clip_l14_similarity_score", pa.array([[0.5]] * len(t)))(t)),
        ("clip_l14_similarity_score",),
    ),
    "uids that are no text": (lambda p: rewrite(p, invalid_text), ()),
    "uids that are no text, page checksums": (lambda p: rewrite(p, invalid_text, write_page_checksum=True), ()),
    "a text that leads outside its page": (long_text, ()),
}


@pytest.mark.parametrize("case", BROKEN_PARQUET)
def test_a_broken_parquet_is_named(bench: Bench, case: str) -> None:
    spoil, names = BROKEN_PARQUET[case]
    spoil(bench.parquet())
    bench.refused(bench.parquet(), *names)


def test_uids_in_a_dictionary_are_read_or_the_column_is_named(bench: Bench) -> None:
    expected = bench.fine()
    shutil.rmtree(bench.work)
    rewrite(bench.parquet(), lambda table: with_column("uid", table["uid"].dictionary_encode())(table))
    ran = bench.run("--overwrite")
    assert "uid" in the_line(ran) if ran.code else bench.out.read_bytes() == expected


@pytest.mark.parametrize("share", [0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 0.99, 0.999])
def test_a_truncated_parquet_is_named(bench: Bench, share: float) -> None:
    truncate(bench.parquet(), int(bench.parquet().stat().st_size * share))
    bench.refused(bench.parquet())


@pytest.mark.parametrize("column", ["uid", "clip_l14_similarity_score"])
@pytest.mark.parametrize("compression", ["snappy", "none", "zstd"])
def test_a_flipped_bit_in_a_page_with_a_checksum_is_found(bench: Bench, column: str, compression: str) -> None:
    rewrite(bench.parquet(), compression=compression, write_page_checksum=True)
    pages = chunk_bytes(bench.parquet(), column)
    for at in (pages[-1], pages[-len(pages) // 4], pages[-len(pages) // 2]):
        flip(bench.parquet(), at)
        bench.refused(bench.parquet())
        flip(bench.parquet(), at)


@pytest.mark.parametrize("column", ["uid", "clip_l14_similarity_score", "text", "face_bboxes"])
def test_a_flipped_bit_in_a_page_without_checksum_ends_in_one_line_at_worst(bench: Bench, column: str) -> None:
    pages = chunk_bytes(bench.parquet(), column)
    rng = np.random.default_rng(3)
    for at in (pages[0], *rng.choice(pages, 8), pages[-1]):
        bit = int(rng.integers(8))
        flip(bench.parquet(), at, bit)
        ran = bench.run("--no_dedup", "--overwrite")
        assert the_line(ran) if ran.code else ran.err == ""
        flip(bench.parquet(), at, bit)
        shutil.rmtree(bench.work, ignore_errors=True)


SWEEP = """
import sys
from pathlib import Path
from filters import densprune
path, start, step = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
whole = path.read_bytes()
for at in range(start, len(whole), step):
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1:])
    print(at, densprune.main(sys.argv[4:]), flush=True)
"""


def test_a_flipped_bit_of_a_parquet_footer_never_ends_in_more_than_one_line(bench: Bench) -> None:
    # In a process of its own: pyarrow has crashed on footers before.
    start = footer_start(bench.parquet())
    arguments = [str(bench.parquet()), str(start), "29", *bench.arguments("--no_dedup", "--overwrite", "--score", "none")]
    done = subprocess.run([sys.executable, "-c", SWEEP, *arguments], capture_output=True, text=True, cwd=PAGE.parents[1], check=False)
    assert done.returncode == 0, done.stdout[-200:] + done.stderr[-2000:]
    codes = [int(line.split()[1]) for line in done.stdout.splitlines()]
    assert set(codes) <= {0, 2}
    assert len(done.stderr.splitlines()) == codes.count(2)


CAPTIONS: dict[str, Callable[[int], pa.Array]] = {
    "null": lambda n: pa.nulls(n, pa.string()),
    "nothing": lambda n: pa.nulls(n),
    "numbers": lambda n: pa.array(range(n)),
    "lists": lambda n: pa.array([["a"]] * n),
    "bytes": lambda n: pa.array([b"\xff"] * n, pa.binary()),
    "a dictionary": lambda n: pa.array(["a"] * n).dictionary_encode(),
    "control characters": lambda n: pa.array(["\x1b[2J\n\r\0 \u202e"] * n),
    "a million letters": lambda n: pa.array(["a" * 1_000_000] + ["b"] * (n - 1)),
    "no text": lambda n: pa.StringArray.from_buffers(
        n, pa.py_buffer(np.arange(n + 1, dtype=np.int32).tobytes()), pa.py_buffer(b"\xff" * n)
    ),
}


@pytest.mark.parametrize("case", CAPTIONS)
def test_captions_that_cannot_be_shown_end_in_one_line_at_worst(bench: Bench, case: str) -> None:
    for shard in range(4):
        rewrite(bench.parquet(shard), with_column("text", CAPTIONS[case](SIZES[shard])) if SIZES[shard] else lambda table: table)
    bench.capfd.readouterr()
    code = densprune.main([word for word in bench.arguments("--no_dedup") if word != "--quiet"])
    out, err = bench.capfd.readouterr()
    if code:
        the_line(Ran(code, "", err.splitlines(keepends=True)[-1]))
    assert out.replace("\n", "").isprintable()


# -- uids


BAD_UIDS: dict[str, str | None] = {
    "null": None,
    "empty": "",
    "a letter that is no digit": "0123456789abcdef0123456789abcdeg",
    "longer than 32 digits": "0" * 33,
    "a sign": "-1",
    "0x": "0x0123",
    "a space": " 0123456789abcdef0123456789abcde",
    "a line break": "0123\n",
    "full-width digits": "１２３４",
    "a letter of two bytes": "0123456789abcdef0123456789abcdé",
    "NUL": "\0" * 32,
    "a million digits": "0" * 1_000_000,
}


@pytest.mark.parametrize("row", [0, 33, ROWS - 1])
@pytest.mark.parametrize("case", BAD_UIDS)
def test_a_uid_that_is_none_is_named_by_its_row(bench: Bench, case: str, row: int) -> None:
    rewrite(bench.parquet(), with_uids((row, BAD_UIDS[case])), row_group_size=30)
    bench.refused(bench.parquet(), f"row {row}")


def test_a_short_uid_and_capital_digits_are_uids(bench: Bench) -> None:
    rewrite(bench.parquet(), with_uids((3, "F"), (4, "ABCDEF")))
    bench.fine("--no_dedup", "--score", "none", "--fraction", "1")
    assert {15, 0xABCDEF} <= set(read_subset(bench.out))


def statuses(bench: Bench, shard: int = ODD) -> list[str]:
    found: list[str] = pq.read_table(bench.work / "samples" / f"{bench.key(shard)}.parquet")["status"].to_pylist()
    return found


@pytest.mark.parametrize("respelled", [False, True], ids=["as it is", "in capitals"])
def test_a_uid_seen_before_is_repeated_and_the_first_stays(bench: Bench, respelled: bool) -> None:
    uids = bench.told["uids"]
    first, second = (uid.upper() if respelled else uid for uid in (uids[40], uids[7]))
    rewrite(bench.parquet(), with_uids((5, first), (6, second), (69, second)))
    bench.fine("--no_dedup", "--score", "none", "--fraction", "1")
    assert [row for row, status in enumerate(statuses(bench)) if status == "repeated"] == [5, 6, 69]
    assert statuses(bench, 0)[7] == statuses(bench)[0] == "kept"
    kept = read_subset(bench.out)
    assert len(set(kept)) == len(kept) == sum(SIZES) - 3
    assert bench.status()["repeated"] == 3


def test_a_pool_twice_the_same_shard_keeps_each_uid_once(bench: Bench) -> None:
    for end in ("npz", "parquet"):
        shutil.copy(bench.pool / f"{bench.key(0)}.{end}", bench.pool / f"{'f' * 32}.{end}")
    bench.fine()
    assert bench.status()["repeated"] == SIZES[0]
    assert len(set(read_subset(bench.out))) == len(read_subset(bench.out))


# -- samples without a value


VALUES = {"NaN": np.nan, "infinite": np.inf, "minus infinite": -np.inf}


def spoil_rows(bench: Bench, count: int, value: float, whole: bool = False) -> None:
    rows = bench.rows().copy()
    if whole:
        rows[:count] = value
    else:
        rows[:count, 3] = value
    np.savez(bench.npz(), l14_img=rows)


def spoil_scores(bench: Bench, count: int, value: float | None) -> None:
    values = pq.read_table(bench.parquet())["clip_l14_similarity_score"].to_pylist()
    rewrite(bench.parquet(), with_column("clip_l14_similarity_score", pa.array([value] * count + values[count:], pa.float32())))


INVALID: dict[str, Callable[[Bench, int], None]] = {
    "NaN": lambda b, n: spoil_rows(b, n, np.nan),
    "infinite": lambda b, n: spoil_rows(b, n, np.inf),
    "minus infinite": lambda b, n: spoil_rows(b, n, -np.inf),
    "all zero": lambda b, n: spoil_rows(b, n, 0.0, whole=True),
    "all minus zero": lambda b, n: spoil_rows(b, n, -0.0, whole=True),
    "no score": lambda b, n: spoil_scores(b, n, None),
    "a score that is NaN": lambda b, n: spoil_scores(b, n, np.nan),
    "an infinite score": lambda b, n: spoil_scores(b, n, np.inf),
}


@pytest.mark.parametrize("case", INVALID)
def test_up_to_one_percent_of_invalid_samples_is_dropped_and_counted(bench: Bench, case: str) -> None:
    INVALID[case](bench, 1)
    bench.fine("--dedup_fraction", "1", "--score_fraction", "1")
    assert bench.status()["invalid"] == 1
    assert statuses(bench)[0] == "invalid"
    assert "invalid" not in statuses(bench)[1:]


@pytest.mark.parametrize("case", INVALID)
def test_more_than_one_percent_of_invalid_samples_stops_the_run_unless_allowed(bench: Bench, case: str) -> None:
    INVALID[case](bench, 2)
    more = ("--dedup_fraction", "1", "--score_fraction", "1")
    bench.refused(bench.parquet(), " 2 ", f"{sum(SIZES)}", "--allow_invalid", more=more)
    bench.fine(*more, "--allow_invalid")
    assert bench.status()["invalid"] == 2
    assert statuses(bench)[:2] == ["invalid", "invalid"]


def test_invalid_samples_of_all_stages_count_together(bench: Bench) -> None:
    spoil_rows(bench, 1, np.nan)
    rewrite(bench.parquet(0), with_column("clip_l14_similarity_score", pa.array([None] * 40, pa.float32())))
    spoil_scores(bench, 0, None)
    bench.refused("41 of 140", bench.parquet(0), more=("--dedup_fraction", "1", "--score_fraction", "1"))


@pytest.mark.parametrize("more", [(), ("--no_dedup",), ("--no_dedup", "--score", "none")])
def test_a_pool_without_one_valid_row_is_said(bench: Bench, more: tuple[str, ...]) -> None:
    for shard in range(4):
        np.savez(bench.npz(shard), l14_img=np.zeros_like(bench.rows(shard)))
    bench.refused(more=more)
    bench.refused(more=(*more, "--allow_invalid"))


def test_more_concepts_than_valid_rows_is_said_or_works(bench: Bench) -> None:
    spoil_rows(bench, ROWS, np.nan)
    for shard in (0, 3):
        rows = np.zeros_like(bench.rows(shard))
        rows[:2] = bench.rows(shard)[:2]
        np.savez(bench.npz(shard), l14_img=rows)
    ran = bench.run("--allow_invalid", "--concepts", "60", "--size", "3", "--no_dedup", "--score", "none")
    assert the_line(ran) if ran.code else len(read_subset(bench.out)) == 3


@pytest.mark.parametrize("concepts", ["4", "30"])
def test_rows_that_are_all_the_same_are_a_pool_too(bench: Bench, concepts: str) -> None:
    for shard in range(4):
        np.savez(bench.npz(shard), l14_img=np.ones_like(bench.rows(shard)))
    bench.fine("--concepts", concepts, "--size", "20")
    assert len(read_subset(bench.out)) == 20


# -- sizes


def test_a_size_larger_than_what_is_left_says_what_each_stage_left(bench: Bench) -> None:
    line = bench.refused("112", "44", "semdedup", "topscore", more=("--size", "45"))
    assert "140" in line
    assert "45" in line
    bench.fine("--size", "44")
    assert len(read_subset(bench.out)) == 44


@pytest.mark.parametrize("more", [("--fraction", "1"), ("--fraction", "1e-9"), ("--size", str(10**18)), ("--size", str(10**30))])
def test_a_final_size_that_cannot_be_is_said(bench: Bench, more: tuple[str, ...]) -> None:
    bench.refused("topscore 44", more=more)


def test_more_concepts_than_survivors_says_what_each_stage_left(bench: Bench) -> None:
    bench.refused("--concepts", "45", "44", "semdedup 112", more=("--concepts", "45"))
    bench.refused("--concepts", more=("--concepts", str(10**30)))


def test_more_clusters_than_samples_names_the_flag_that_asked_for_them(bench: Bench) -> None:
    bench.refused("--dedup_clusters", "141", "140", more=("--dedup_clusters", "141"))


@pytest.mark.parametrize("more", [("--score_threshold", "2"), ("--score_fraction", "1e-9"), ("--dedup_fraction", "1e-9")])
def test_a_stage_that_leaves_nothing_is_said(bench: Bench, more: tuple[str, ...]) -> None:
    bench.refused(" 0", "pool 140", more=more)


# -- options


OUTSIDE = [
    "--fraction 0", "--fraction 1.5", "--fraction nan", "--fraction -1", "--fraction inf", "--fraction half", "--fraction=",
    "--dedup_fraction 0", "--dedup_fraction 1.1", "--score_fraction 0", "--score_fraction nan", "--score_threshold nan",
    "--score_threshold high", "--dedup_eps -0.1", "--dedup_eps 1.1", "--temperature 0", "--temperature -1", "--temperature nan",
    "--temperature inf", "--balance 2", "--balance -1", "--balance nan", "--concepts 0", "--concepts -3", "--concepts 2.5",
    "--concepts many", "--concepts nan", "--concepts 1e2", "--size 0", "--size -5", "--size 1.0", "--neighbors 0", "--kmeans_iters 0",
    "--kmeans_points_per_centroid 0", "--dedup_clusters 0", "--dedup_clusters some", "--dedup_kmeans_iters 0", "--seed -1", "--seed x",
    "--num_workers 0", "--num_workers -2", "--memory_gb 0", "--memory_gb nan", "--memory_gb inf", "--prefer best", "--complexity deep",
    "--order score", "--order dedup,score,dedup", "--dedup_prefer random", "--device tpu", "--engine dask", "--pool huge", "--pool=",
    "--colour red", "--concept 4", "--fractio 0.5", "--score_ties some", "--fraction", "stray", "--quiet=1", "-x",
]  # fmt: skip


@pytest.mark.parametrize("words", OUTSIDE)
def test_an_option_outside_its_range_is_named(bench: Bench, words: str) -> None:
    flag = words.replace("=", " ").split()[0]
    bench.refused(flag.lstrip("-"), more=tuple(words.split()))
    assert not bench.work.exists()


TOGETHER = [
    "--fraction 0.1 --size 9",
    "--dedup_fraction 0.5 --dedup_eps 0.1",
    "--dedup_eps 0.1 --no_dedup",
    "--no_dedup --dedup_fraction 0.5",
    "--score_fraction 0.5 --score_threshold 0.1",
    "--score_size 9 --score_fraction 0.5",
]


@pytest.mark.parametrize("words", TOGETHER)
def test_two_flags_that_exclude_each_other_are_both_named(bench: Bench, words: str) -> None:
    flags = [word for word in words.split() if word.startswith("--")]
    bench.refused(*flags, more=tuple(words.split()))


ABSURD = [
    "--seed 99999999999999999999999999", "--neighbors 99999999999999999999", "--kmeans_points_per_centroid 99999999999999999999",
    "--memory_gb 1e308", "--memory_gb 1e-300", "--temperature 1e-310", "--temperature 1e308", "--score_threshold 1e300",
    "--score_threshold=-inf", "--score_threshold=-1e300", "--dedup_eps 1e-300", "--num_workers 5000", "--kmeans_iters 99999999999999999999",
    "--dedup_clusters 140", "--score_size 99999999999999999999",
]  # fmt: skip


@pytest.mark.parametrize("words", ABSURD)
def test_an_absurd_but_legal_number_works_or_is_refused_in_one_line(bench: Bench, words: str) -> None:
    ran = bench.run(*words.split())
    assert the_line(ran) if ran.code else ran.err == ""


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_said(bench: Bench) -> None:
    bench.refused("--device", "cuda", more=("--device", "cuda"))


CONFIGS: dict[str, tuple[str, tuple[str, ...]]] = {
    "no JSON": ("fraction: 0.5", ()),
    "nothing": ("", ()),
    "half": ('{"fraction": ', ()),
    "a list": ("[1]", ()),
    "a number": ("1", ()),
    "null": ("null", ()),
    "an unknown flag": ('{"fractoin": 0.5}', ("fractoin",)),
    "a flag with dashes": ('{"--fraction": 0.5}', ("fraction",)),
    "an empty name": ('{"": 0.5}', ()),
    "a word for a number": ('{"concepts": "many"}', ("concepts", "many")),
    "a list for a number": ('{"concepts": [4]}', ("concepts",)),
    "a truth for a number": ('{"concepts": true}', ("concepts",)),
    "a part for a whole": ('{"concepts": 4.5}', ("concepts",)),
    "a word for a truth": ('{"no_dedup": "yes"}', ("no_dedup",)),
    "a number for a truth": ('{"no_dedup": 1}', ("no_dedup",)),
    "a dict for a name": ('{"features": {"a": 1}}', ("features",)),
    "a list for a name": ('{"score": ["l14"]}', ("score",)),
    "NaN": ('{"temperature": NaN}', ("temperature",)),
    "Infinity": ('{"temperature": Infinity}', ("temperature",)),
    "a huge number": ('{"temperature": 1e999}', ("temperature",)),
    "outside": ('{"fraction": 2}', ("fraction",)),
    "null for a number": ('{"temperature": null}', ("temperature",)),
    "null for a whole number": ('{"neighbors": null}', ("neighbors",)),
    "null for the seed": ('{"seed": null}', ("seed",)),
    "null for a name": ('{"features": null}', ("features",)),
    "null for a word": ('{"prefer": null}', ("prefer",)),
    "null for the score": ('{"score": null}', ("score",)),
    "null for memory": ('{"memory_gb": null}', ("memory_gb",)),
    "null for a truth": ('{"allow_invalid": null}', ("allow_invalid",)),
    "two that exclude each other": ('{"fraction": 0.1, "size": 9}', ("fraction", "size")),
    "no pool": ('{"pool": "huge"}', ("huge",)),
    "a deep nest": ("[" * 100_000, ()),
    "a manifest without sense": ('{"config": {"concepts": "many"}}', ("concepts",)),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_config_that_is_wrong_is_named(bench: Bench, case: str) -> None:
    text, names = CONFIGS[case]
    (bench.folder / "config.json").write_text(text)
    bench.refused("config.json", *names, more=("--config", str(bench.folder / "config.json")))


@pytest.mark.parametrize("case", ["not there", "a folder", "no text"])
def test_a_config_that_cannot_be_read_is_named(bench: Bench, case: str) -> None:
    path = bench.folder / "config.json"
    if case == "a folder":
        path.mkdir()
    if case == "no text":
        path.write_bytes(b"\xff\xfe\x00")
    bench.refused("config.json", more=("--config", str(path)))


# -- places


PLACES: dict[str, Callable[[Bench], Path]] = {
    "a folder that is not there": lambda b: b.folder / "nowhere" / "o.npy",
    "a folder below a file": lambda b: b.npz() / "o.npy",
    "not .npy": lambda b: b.folder / "o.npz",
    "no suffix": lambda b: b.folder / "o",
    "a folder": lambda b: made(b.folder / "o.npy"),
    "a name too long": lambda b: b.folder / f"{'o' * 300}.npy",
    "a name nearly too long": lambda b: b.folder / f"{'o' * 248}.npy",
    "a path too long": lambda b: b.folder / "/".join(["o" * 200] * 30) / "o.npy",
    "the system's": lambda b: Path("/proc/o.npy"),
    "a link to itself": lambda b: looped(b.folder / "loop") / "o.npy",
}


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def looped(path: Path) -> Path:
    path.symlink_to(path)
    return path


@pytest.mark.parametrize("case", PLACES)
def test_a_save_path_that_cannot_be_written_is_named_before_the_work(bench: Bench, case: str) -> None:
    path = PLACES[case](bench)
    before = sorted(bench.folder.rglob("*"))
    line = the_line(bench.run("--save_path", str(path), "--work_dir", str(bench.work)))
    assert path.name[:100] in line
    assert sorted(bench.folder.rglob("*")) == before


@pytest.mark.parametrize("place", [".", "/"])
def test_a_save_path_without_a_name_is_said(bench: Bench, place: str) -> None:
    bench.refused("does not end in .npy", more=("--save_path", place))


def test_a_file_that_this_work_folder_did_not_make_needs_overwrite(bench: Bench) -> None:
    bench.out.write_bytes(b"precious")
    line = the_line(bench.run())
    assert bench.out.name in line
    assert "--overwrite" in line
    assert bench.out.read_bytes() == b"precious"
    made_by_us = bench.fine("--overwrite")
    bench.out.write_bytes(b"precious")
    the_line(bench.run())
    bench.out.write_bytes(made_by_us)
    assert bench.fine("--size", "9") != made_by_us
    the_line(bench.run("--work_dir", str(bench.folder / "other.work")))


WORK_DIRS: dict[str, Callable[[Bench], Path]] = {
    "a file": lambda b: b.npz(),
    "below a file": lambda b: b.npz() / "w",
    "the save path itself": lambda b: b.out,
    "a link that leads nowhere": lambda b: dangling(b.folder / "w"),
    "a name too long": lambda b: b.folder / ("w" * 300),
    "the system's": lambda b: Path("/proc/w"),
    "one whose lock is a folder": lambda b: made(made(b.folder / "w") / "lock").parent,
    "one whose manifest is a folder": lambda b: made(made(b.folder / "w") / "manifest.json").parent,
    "one whose stages are a file": lambda b: with_file(made(b.folder / "w"), "stages"),
    "one whose samples are a file": lambda b: with_file(made(b.folder / "w"), "samples"),
    "one with another program's manifest": lambda b: with_file(made(b.folder / "w"), "manifest.json", '{"pool": "medium"}'),
    "one with a manifest of nonsense": lambda b: with_file(made(b.folder / "w"), "manifest.json", '{"pool": {"shards": 5}}'),
    "one with a manifest that made nothing": lambda b: with_file(made(b.folder / "w"), "manifest.json", '{"made": 5}'),
}


def dangling(path: Path) -> Path:
    path.symlink_to(path.parent / "nowhere" / "at all")
    return path


def with_file(folder: Path, name: str, text: str = "") -> Path:
    (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("case", WORK_DIRS)
def test_a_work_folder_that_cannot_be_used_is_named(bench: Bench, case: str) -> None:
    path = WORK_DIRS[case](bench)
    ran = bench.run("--work_dir", str(path), "--overwrite")
    if "manifest" in case and ran.code == 0:
        return  # what says nothing counts as not there
    assert path.name[:100] in the_line(ran)
    assert not bench.out.is_file()


def test_a_folder_with_files_of_others_is_left_alone(bench: Bench) -> None:
    folder = made(bench.folder / "home")
    for name in ("notes.txt", ".tmp-letter", ".tmp-dir/x", "stages/mine.txt", "sub/.tmp-photo"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("mine")
    before = sorted(folder.rglob("*"))
    ran = bench.run("--work_dir", str(folder))
    assert ran.code == 0 or the_line(ran)
    assert set(before) <= set(folder.rglob("*"))


def test_the_pool_itself_as_work_folder_is_refused_or_does_the_pool_no_harm(bench: Bench) -> None:
    for _ in range(2):
        ran = bench.run("--work_dir", str(bench.pool))
        assert ran.code == 0 or bench.pool.name in the_line(ran)
    bench.fine("--work_dir", str(bench.work), "--overwrite")


def test_results_may_lie_beside_the_pool_s_files(bench: Bench) -> None:
    for _ in range(2):
        assert bench.run("--save_path", str(bench.pool / "out.npy")).code == 0


def test_a_work_folder_of_another_pool_names_both(bench: Bench) -> None:
    good = bench.fine()
    other = bench.folder / "other"
    write_pool(other, np.random.default_rng(8), (50, 20))
    bench.refused(bench.pool, other, bench.work, more=("--metadata_dir", str(other)))
    assert bench.out.read_bytes() == good
    write_pool(bench.folder / "alike", np.random.default_rng(9), SIZES)
    bench.refused(bench.pool, bench.folder / "alike", more=("--metadata_dir", str(bench.folder / "alike")))


def test_a_pool_that_grew_or_shrank_says_which_shard(bench: Bench) -> None:
    bench.fine()
    write_shard(bench.pool, "e" * 32, random_uids(np.random.default_rng(1), 9), {"l14_img": bench.rows()[:9]})
    ran = bench.run()
    if ran.code:
        assert "e" * 32 in the_line(ran)


def wider(bench: Bench) -> None:
    for shard in range(len(SIZES)):
        np.savez(bench.npz(shard), l14_img=bench.rows(shard).astype(np.float32))


CHANGES: dict[str, Break] = {
    "other rows": lambda b: np.savez(b.npz(), l14_img=b.rows()[::-1]),
    "other scores": lambda b: spoil_scores(b, 40, 0.9),
    "other uids": lambda b: rewrite(b.parquet(), with_uids((1, "a"), (2, "b"))),
    "other rows and counts": lambda b: write_shard(b.pool, b.key(), b.told["uids"][40:80], {"l14_img": b.rows()[:40]}),
    "another type": wider,
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_shard_changed_between_two_runs_is_measured_again(bench: Bench, case: str) -> None:
    bench.fine()
    CHANGES[case](bench)
    bench.capfd.readouterr()
    assert densprune.main([word for word in bench.arguments() if word != "--quiet"]) == 0
    said = [line for line in bench.capfd.readouterr().err.splitlines() if "changed" in line]
    assert len(said) == 1
    changed = bench.out.read_bytes()
    shutil.rmtree(bench.work)
    assert bench.fine("--overwrite") == changed


def flip_after_a_change(bench: Bench) -> None:
    spoil_rows(bench, 1, 0.25)
    flip(bench.npz(), member_start(bench.npz(), "l14_img.npy") + 1000)


SPOILED_LATER: dict[str, Break] = {
    "npz gone": lambda b: b.npz().unlink(),
    "npz truncated": lambda b: truncate(b.npz(), 500),
    "checksum": lambda b: plain(crc=1)(b.npz(), b.rows()),
    "parquet truncated": lambda b: truncate(b.parquet(), 500),
    "a uid": lambda b: rewrite(b.parquet(), with_uids((7, "x"))),
    "invalid rows": lambda b: spoil_rows(b, 30, np.nan),
    "a column": lambda b: rewrite(b.parquet(), lambda t: t.drop_columns(["clip_l14_similarity_score"])),
    "a flipped bit": flip_after_a_change,
}


@pytest.mark.parametrize("case", SPOILED_LATER)
def test_a_pool_spoiled_after_a_good_run_leaves_its_result_alone(bench: Bench, case: str) -> None:
    good = bench.fine()
    SPOILED_LATER[case](bench)
    line = bench.refused()
    assert bench.key() in line
    assert bench.out.read_bytes() == good


def test_a_pool_mended_after_a_bad_run_gives_what_a_fresh_one_gives(bench: Bench) -> None:
    whole = bench.npz().read_bytes()
    flip(bench.npz(), member_start(bench.npz(), "l14_img.npy") + 1000)
    bench.refused(bench.npz())
    bench.npz().write_bytes(whole)
    mended = bench.fine()
    shutil.rmtree(bench.work)
    assert bench.fine("--overwrite") == mended


# -- during a run


class At(Silent):
    """Does something when the n-th pass begins."""

    def __init__(self, number: int, action: Callable[[], object]) -> None:
        self.left, self.action, self.passes = number, action, 0

    def begin(self, name: str, samples: int) -> None:
        self.passes += 1
        if self.passes == self.left:
            self.action()


def replace_npz(bench: Bench) -> None:
    np.savez(bench.folder / "new.npz", l14_img=bench.rows()[::-1])
    (bench.folder / "new.npz").rename(bench.npz())


MEANWHILE: dict[str, Break] = {
    "another npz": replace_npz,
    "npz rewritten in place": lambda b: np.savez(b.npz(), l14_img=b.rows()[::-1]),
    "npz truncated": lambda b: truncate(b.npz(), 500),
    "npz gone": lambda b: b.npz().unlink(),
    "parquet rewritten in place": lambda b: rewrite(b.parquet(), with_uids((1, "a"))),
    "parquet truncated": lambda b: truncate(b.parquet(), 500),
    "parquet gone": lambda b: b.parquet().unlink(),
}


@pytest.mark.parametrize("case", MEANWHILE)
@pytest.mark.parametrize("number", [1, 2, 8, 14])
def test_a_shard_that_changes_during_a_run_stops_it(bench: Bench, case: str, number: int) -> None:
    recipe, actor = DensityPrune(concepts=4, fraction=0.2), At(number, lambda: MEANWHILE[case](bench))
    with pytest.raises(BadInput) as caught:
        recipe.run(bench.pool, bench.out, progress=actor)
    assert actor.passes >= number
    assert bench.key() in str(caught.value)
    assert not bench.out.exists()
    assert [path.name for path in bench.out.parent.iterdir()] == [bench.work.name]


def test_a_second_run_on_one_work_folder_names_the_first(bench: Bench) -> None:
    seen = []
    recipe = DensityPrune(concepts=4, fraction=0.2)
    recipe.run(bench.pool, bench.out, progress=At(3, lambda: seen.append(as_process(*bench.arguments()))))
    line = the_line(seen[0])
    assert str(os.getpid()) in line
    assert bench.work.name in line
    bench.fine()


# -- no space


@contextlib.contextmanager
def files_at_most(size: int) -> Iterator[None]:
    """Writes that would make a file larger fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def sizes_that_strike(work: Path) -> list[int]:
    """One byte less than each kind of file that a run leaves."""
    kinds = {path.parent.name.partition("-")[0] + path.suffix: path.stat().st_size for path in work.rglob("*") if path.is_file()}
    return sorted({size - 1 for size in kinds.values()})


def test_no_space_at_any_file_is_one_line_and_the_next_run_goes_on(bench: Bench) -> None:
    good = bench.fine()
    bench.out.unlink()
    for size in [*sizes_that_strike(bench.work), len(good) - 1, 0, 5]:
        shutil.rmtree(bench.work)
        with contextlib.redirect_stderr(io.StringIO()) as told, files_at_most(size):
            code = densprune.main(bench.arguments())
        line = the_line(Ran(code, "", told.getvalue()))
        assert "space" in line, size
        assert [path.name for path in bench.out.parent.iterdir()] == [bench.work.name]
        assert bench.fine() == good
        bench.out.unlink()


def test_no_space_for_a_large_array_is_said_as_such(bench: Bench) -> None:
    # numpy says how much it wrote of such an array, and no errno.
    large_pool(bench)
    with files_at_most(100_000):
        ran = bench.run()
    assert "space" in the_line(ran)


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A disk of one block."""
    with disk("4k") as folder:
        yield folder


def resize(disk: Path, blocks: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={4 * blocks}k", disk], check=True)


def test_a_full_disk_at_any_point_is_one_line_and_the_next_run_goes_on(bench: Bench, small_disk: Path) -> None:
    good = bench.fine("--no_dedup")
    out = small_disk / "o.npy"
    for blocks in range(1, 60, 5):
        resize(small_disk, blocks)
        ran = bench.run("--no_dedup", "--save_path", str(out))
        line = the_line(ran)
        assert "space" in line
        assert {path.name for path in small_disk.iterdir()} <= {"o.work"}
    resize(small_disk, 1000)
    assert bench.run("--no_dedup", "--save_path", str(out)).code == 0
    assert out.read_bytes() == good


def test_a_result_that_does_not_fit_leaves_the_earlier_one(bench: Bench, small_disk: Path) -> None:
    out = small_disk / "o.npy"
    out.write_bytes(b"earlier")
    resize(small_disk, 1)
    line = the_line(bench.run("--save_path", str(out), "--overwrite", "--work_dir", str(bench.work)))
    assert "space" in line
    assert out.name in line
    assert out.read_bytes() == b"earlier"
    assert [path.name for path in small_disk.iterdir()] == [out.name]


def test_a_large_result_that_does_not_fit_is_said_as_such(bench: Bench, small_disk: Path) -> None:
    large_pool(bench)
    more = ("--no_dedup", "--score", "none", "--fraction", "1", "--work_dir", str(bench.work))
    line = the_line(bench.run("--save_path", str(small_disk / "o.npy"), *more))
    assert "space" in line
    assert not list(small_disk.iterdir())


@pytest.mark.parametrize("place", ["--save_path", "--work_dir"])
def test_a_place_that_may_only_be_read_is_named_before_the_work(bench: Bench, small_disk: Path, place: str) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    path = small_disk / ("o.npy" if place == "--save_path" else "w")
    places = ("--work_dir", str(bench.work), "--save_path", str(bench.out), place, str(path))
    assert path.name in the_line(bench.run(*places))
    assert not (bench.work / "stages").exists()


# -- what the user holds


def subset_of(uids: list[str]) -> Array:
    whole = sorted(int(uid, 16) for uid in uids)
    return np.array([(uid >> 64, uid & (1 << 64) - 1) for uid in whole], "u8,u8")


def write_tar(path: Path, texts: list[bytes], pictures: bool = True) -> None:
    with tarfile.open(path, "w") as tar:
        for at, text in enumerate(texts):
            for end, data in (("jpg", b"\xff" * 700), ("json", text))[0 if pictures else 1 :]:
                about = tarfile.TarInfo(f"{at:09}.{end}")
                about.size = len(data)
                tar.addfile(about, io.BytesIO(data))


def held_json(uids: list[str]) -> list[bytes]:
    return [json.dumps({"uid": uid, "caption": "a picture"}).encode() for uid in uids]


def shortened(write: Callable[..., object], size: int) -> Callable[..., None]:
    """Write, then cut the file to so many bytes, or take as many from its end."""

    def both(path: Path, *more: Any) -> None:
        write(path, *more)
        truncate(path, size if size > 0 else path.stat().st_size + size)

    return both


def renamed_npz(path: Path, uids: list[str]) -> None:
    np.savez(path.with_suffix(".npz"), subset_of(uids))
    path.with_suffix(".npz").rename(path)


WITHIN: dict[str, Callable[[Path, list[str]], object]] = {
    "not there": lambda p, u: None,
    "no bytes": lambda p, u: p.write_bytes(b""),
    "text": lambda p, u: p.write_text("\n".join(u)),
    "plain words": lambda p, u: np.save(p, subset_of(u).view("u8")),
    "floats": lambda p, u: np.save(p, np.ones(5)),
    "big-endian": lambda p, u: np.save(p, subset_of(u).astype(">u8,>u8")),
    "texts": lambda p, u: np.save(p, np.array(u)),
    "objects": lambda p, u: np.save(p, np.array(u, object)),
    "two dimensions": lambda p, u: np.save(p, subset_of(u)[:, None]),
    "no dimension": lambda p, u: np.save(p, subset_of(u)[0]),
    "unsorted": lambda p, u: np.save(p, subset_of(u)[::-1]),
    "unsorted in the low word": lambda p, u: np.save(p, np.array([(1, 2), (1, 1)], "u8,u8")),
    "truncated in the rows": shortened(lambda p, u: np.save(p, subset_of(u)), -5),
    "truncated in the header": shortened(lambda p, u: np.save(p, subset_of(u)), 50),
    "an npz": renamed_npz,
    "a truncated npz": shortened(renamed_npz, 100),
    "a header of more": lambda p, u: p.write_bytes(npy(subset_of(u), shape=(10**9,))),
    "a header of absurdly more": lambda p, u: p.write_bytes(npy(subset_of(u), shape=(10**30,))),
    "a header of negative records": lambda p, u: p.write_bytes(npy(subset_of(u), shape=(-5,))),
    "an empty folder": lambda p, u: p.mkdir(),
    "a folder of other files": lambda p, u: (made(p) / "x.txt").write_text("x"),
    "a tar of no bytes": lambda p, u: (made(p) / "0.tar").write_bytes(b""),
    "a tar of text": lambda p, u: (made(p) / "0.tar").write_text("hello" * 999),
    "a json that is none": lambda p, u: write_tar(made(p) / "0.tar", [b"{"]),
    "a json without uid": lambda p, u: write_tar(made(p) / "0.tar", [*held_json(u), b'{"caption": "x"}']),
    "a json that is a list": lambda p, u: write_tar(made(p) / "0.tar", [b"[1]"]),
    "a json that is no text": lambda p, u: write_tar(made(p) / "0.tar", [b"\xff\xfe"]),
    "a json that is deep": lambda p, u: write_tar(made(p) / "0.tar", [b"[" * 100_000]),
    "a json whose uid is null": lambda p, u: write_tar(made(p) / "0.tar", [b'{"uid": null}']),
    "a json whose uid is empty": lambda p, u: write_tar(made(p) / "0.tar", [b'{"uid": ""}']),
    "a json whose uid is no digit": lambda p, u: write_tar(made(p) / "0.tar", [*held_json(u), b'{"uid": "xyz"}']),
    "a json whose uid is a list": lambda p, u: write_tar(made(p) / "0.tar", [b'{"uid": ["0f"]}']),
    "a json with half a letter": lambda p, u: write_tar(made(p) / "0.tar", [b'{"uid": "\\ud800"}']),
    "a parquet that is none": lambda p, u: (made(p) / "0.parquet").write_bytes(b"PAR1"),
    "a parquet without status": lambda p, u: pq.write_table(pa.table({"uid": u}), made(p) / "0.parquet"),
    "a parquet without uid": lambda p, u: pq.write_table(pa.table({"status": ["success"]}), made(p) / "0.parquet"),
    "a parquet of numbers": lambda p, u: pq.write_table(pa.table({"uid": [5], "status": ["success"]}), made(p) / "0.parquet"),
    "a parquet with a null uid": lambda p, u: pq.write_table(pa.table({"uid": [None], "status": ["success"]}), made(p) / "0.parquet"),
    "a folder named like a parquet": lambda p, u: made(made(p) / "0.parquet"),
    "a folder named like a tar": lambda p, u: made(made(p) / "0.tar"),
    "a dangling tar": lambda p, u: (made(p) / "0.tar").symlink_to("nowhere"),
    "none of the pool": lambda p, u: np.save(p, subset_of(["0f", "f0"])),
    "no uid": lambda p, u: np.save(p, subset_of([])),
    "nothing downloaded": lambda p, u: pq.write_table(pa.table({"uid": u[:1], "status": ["failed_to_download"]}), made(p) / "0.parquet"),
}  # fmt: skip


@pytest.mark.parametrize("case", WITHIN)
def test_a_within_that_is_wrong_is_named(bench: Bench, case: str) -> None:
    path = bench.folder / "held.npy"
    WITHIN[case](path, bench.told["uids"])
    bench.refused(path, more=("--within", str(path)))


@pytest.mark.parametrize(
    "where", ["in the first header", "in a picture", "in a later header", "between members", "in a text", "in the last text"]
)
def test_a_truncated_tar_is_named(bench: Bench, where: str) -> None:
    path = made(bench.folder / "held") / "0.tar"
    write_tar(path, held_json(bench.told["uids"]))
    # A picture is 512 + 1,024 bytes with its header, a text 512 + 512.
    sample = 512 * 5
    size = {
        "in the first header": 300,
        "in a picture": 512 + 300,
        "in a later header": 50 * sample + 300,
        "between members": 50 * sample,
        "in a text": 50 * sample + 512 * 4 + 20,
        "in the last text": len(bench.told["uids"]) * sample - 500,
    }
    truncate(path, size[where])
    bench.refused(path, more=("--within", str(path.parent)))


@pytest.mark.parametrize("part", [0, 100, 124, 148, 156])
def test_a_corrupt_tar_is_named(bench: Bench, part: int) -> None:
    path = made(bench.folder / "held") / "0.tar"
    write_tar(path, held_json(bench.told["uids"]))
    flip(path, 50 * 512 * 5 + part, 1)
    bench.refused(path, more=("--within", str(path.parent)))


# -- a table of scores


def table_of(uids: Any, values: Any) -> Callable[[Path], object]:
    return lambda path: pq.write_table(pa.table({"uid": uids, "score": values}), path)


def two_columns_uid(path: Path) -> None:
    columns = [pa.array(["0f"]), pa.array(["0f"]), pa.array([1.0])]
    pq.write_table(pa.Table.from_arrays(columns, ["uid", "uid", "score"]), path)


SCORES: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "not there": (lambda p: None, ()),
    "no bytes": (lambda p: p.write_bytes(b""), ()),
    "text": (lambda p: p.write_text("uid,score\n0f,1\n"), ()),
    "an empty folder": (lambda p: p.mkdir(), ()),
    "no column score": (lambda p: pq.write_table(pa.table({"uid": ["0f"]}), p), ("score",)),
    "no column uid": (lambda p: pq.write_table(pa.table({"score": [1.0]}), p), ("uid",)),
    "two columns uid": (two_columns_uid, ("uid",)),
    "other columns": (lambda p: pq.write_table(pa.table({"id": ["0f"], "value": [1.0]}), p), ("uid",)),
    "one uid, two scores": (table_of(["0a", "0f", "0F"], [1.0, 2.0, 3.0]), (f"{15:032x}", "2.0", "3.0")),
    "a uid that is null": (table_of(["0f", None], [1.0, 2.0]), ("row 1",)),
    "a uid that is no digit": (table_of(["0f", "xyz"], [1.0, 2.0]), ("row 1", "xyz")),
    "uids that are numbers": (table_of([1, 2], [1.0, 2.0]), ("uid",)),
    "uids that are bytes": (table_of([b"0f", b"0e"], [1.0, 2.0]), ("uid",)),
    "scores that are words": (table_of(["0f"], ["high"]), ("score",)),
    "scores that are lists": (table_of(["0f"], [[1.0]]), ("score",)),
    "truncated": (shortened(table_of(["0f"], [1.0]), 300), ()),
    "nobody of the pool": (table_of(["0f"], [1.0]), ()),
    "no rows": (table_of(pa.array([], pa.string()), pa.array([], pa.float64())), ()),
}  # fmt: skip


@pytest.mark.parametrize("case", SCORES)
def test_a_table_of_scores_that_is_wrong_is_named(bench: Bench, case: str) -> None:
    spoil, names = SCORES[case]
    path = bench.folder / "scores.parquet"
    spoil(path)
    bench.refused(path, *names, more=("--score", str(path)))


def test_one_uid_with_the_same_score_twice_is_one_score(bench: Bench) -> None:
    uids, values = bench.told["uids"], [float(value) for value in bench.told["l14"]]
    path = bench.folder / "scores.parquet"
    table_of(uids, values)(path)
    expected = bench.fine("--score", str(path))
    table_of([*uids, *uids], [*values, *values])(path)
    assert bench.fine("--score", str(path)) == expected


# -- embeddings kept elsewhere


ELSEWHERE: dict[str, Break] = {
    "one shard missing": lambda b: (b.folder / "else" / b.npz().name).unlink(),
    "fewer rows": lambda b: np.savez(b.folder / "else" / b.npz().name, dino=b.rows()[1:]),
    "another type": lambda b: np.savez(b.folder / "else" / b.npz().name, dino=b.rows().astype(np.float32)),
    "no zip": lambda b: (b.folder / "else" / b.npz().name).write_bytes(b"x"),
    "a flipped bit": lambda b: flip(b.folder / "else" / b.npz().name, 1000),
    "pickled": lambda b: np.savez(b.folder / "else" / b.npz().name, dino=b.rows().astype(object)),
}


@pytest.mark.parametrize("case", ELSEWHERE)
def test_embeddings_kept_elsewhere_are_checked_alike(bench: Bench, case: str) -> None:
    elsewhere = made(bench.folder / "else")
    for shard in range(4):
        np.savez(elsewhere / bench.npz(shard).name, dino=bench.rows(shard))
    more = ("--features", "dino", "--features_dir", str(elsewhere))
    bench.fine(*more)
    bench.out.unlink()
    shutil.rmtree(bench.work)
    ELSEWHERE[case](bench)
    line = bench.refused(bench.npz(), more=more)
    assert "else/" in line


def test_embeddings_kept_nowhere_are_said(bench: Bench) -> None:
    bench.refused("nowhere", more=("--features_dir", str(bench.folder / "nowhere")))


@pytest.mark.parametrize("name", ["../../../../../escaped", "a/b", "/abs", "x" * 240])
def test_what_is_written_stays_inside_whatever_a_member_is_called(bench: Bench, name: str) -> None:
    for shard in range(4):
        write_zip(bench.npz(shard), Piece(f"{name}.npy", npy(bench.rows(shard))))
    before = set(bench.folder.rglob("*"))
    ran = bench.run("--features", name)
    assert ran.code == 0 or the_line(ran)
    new = set(bench.folder.rglob("*")) - before
    assert all(path == bench.out or bench.work in [path, *path.parents] for path in new)


# -- as a process of its own


AS_PROCESS: dict[str, tuple[Break, tuple[str, ...]]] = {
    "a flipped bit, on processes": (lambda b: flip(b.npz(), 1000), ("--engine", "processes")),
    "a truncated npz": (lambda b: truncate(b.npz(), 1000), ()),
    "a truncated parquet": (lambda b: truncate(b.parquet(), 1000), ()),
    "a uid": (lambda b: rewrite(b.parquet(), with_uids((3, "x"))), ()),
    "too many invalid": (lambda b: spoil_rows(b, 9, np.nan), ()),
    "an option": (lambda b: None, ("--fraction", "0")),
}


@pytest.mark.parametrize("case", AS_PROCESS)
def test_the_command_itself_ends_with_one_line_and_2(bench: Bench, case: str) -> None:
    spoil, more = AS_PROCESS[case]
    spoil(bench)
    the_line(as_process(*bench.arguments(*more)))
    assert not bench.out.exists()


def test_a_score_column_of_another_type_in_one_shard_is_named(bench: Bench) -> None:
    odd = bench.pool / f"{2:032x}.parquet"
    scores = pq.read_table(odd)["clip_l14_similarity_score"].cast(pa.float64())
    rewrite(odd, with_column("clip_l14_similarity_score", scores.combine_chunks()))
    bench.refused(odd.name, f"{0:032x}.parquet", "double", "float")


@pytest.mark.parametrize("options", [{"engine": "proces"}, {"seed": -5}, {"memory_gb": -1}, {"num_workers": 0}, {"device": "gpu"}])
def test_a_caller_in_python_is_told_of_an_option_that_cannot_be(options: dict[str, Any], bench: Bench) -> None:
    from filters.options import RunOptions
    from filters.topscore import TopScore

    with pytest.raises(ValueError, match=next(iter(options))):
        TopScore(fraction=0.5).run(bench.pool, bench.folder / "o.npy", options=RunOptions(**options))


def test_a_place_that_is_both_the_subset_and_the_work_folder_is_refused(bench: Bench) -> None:
    both = bench.folder / "both.npy"
    bench.refused("both.npy", more=("--work_dir", str(both), "--save_path", str(both)))
