"""A pool's metadata from the Hub: what was asked for and no more, whole or not at all, whatever happens on the way."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from filters import densprune, semdedup, topscore
from filters.pool import hub as hubs
from filters.pool import store
from filters.pool.archive import HEAD, TAIL, Archive
from tests.pools import blobs, disk, random_uids, write_shard
from tests.stores import Hub, hub_server
from tools import download
from tools.metadata import npz
from tools.metadata.draft import Draft

ROOT = Path(__file__).parents[1]
TOKEN = "hf_planted0123456789"
COMMIT = "a" * 40
Capture = pytest.CaptureFixture[str]


def write_version(folder: Path, seed: int = 0, rows: int = 60, parts: bool = False, compressed: bool = False) -> None:
    """Two shards with the members that DataComp's have."""
    rng = np.random.default_rng(seed)
    for number in range(2):
        members = {name: blobs(rng, rows, width) for name, width in (("b32_img", 8), ("b32_txt", 8), ("l14_img", 16), ("l14_txt", 16))}
        place = folder / f"part_{number}" if parts else folder
        write_shard(place, f"{number:032x}", random_uids(rng, rows), members, compressed=compressed)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub with one version of a pool, which this process asks."""
    write_version(tmp_path / "hub" / COMMIT)
    with hub_server(tmp_path / "hub") as served:
        from huggingface_hub import constants

        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, served.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
        monkeypatch.setattr(store, "PAUSE", 0.001)
        forget()
        yield served
        forget()


def forget() -> None:
    """The Hub of another test."""
    from huggingface_hub import HfFileSystem

    store._made.cache_clear()
    hubs.linked.cache_clear()
    HfFileSystem.clear_instance_cache()


def run(folder: Path, *more: object, scale: str = "small") -> int:
    return download.main(["metadata", "--scale", scale, "--metadata_dir", str(folder), *map(str, more)])


def one_line(capfd: Capture) -> str:
    (line,) = capfd.readouterr().err.splitlines()
    return line


def pool(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def expected(source: Path, *members: str) -> dict[str, bytes]:
    """Each parquet file as it is, and an npz of these members as numpy writes it; of none: as it is."""
    made = {}
    for path in source.rglob("*.*"):
        made[path.name] = path.read_bytes()
        if members and path.suffix == ".npz":
            with np.load(path) as arrays:
                file = io.BytesIO()
                np.savez(file, **{name: arrays[name] for name in arrays if name in members})
            made[path.name] = file.getvalue()
    return made


def key(end: str, number: int = 0) -> str:
    return f"{number:032x}{end}"


# -- what comes


def test_the_parquet_files_and_the_members_that_are_read_come_and_hardly_a_byte_more(hub: Hub, tmp_path: Path, capfd: Capture) -> None:
    assert run(tmp_path / "o") == 0
    assert pool(tmp_path / "o") == expected(hub.folder / COMMIT, "l14_img")
    told = pool(tmp_path / "o")
    size = sum(map(len, told.values()))
    listings = 10_000
    assert hub.sent < size + 2 * (TAIL + HEAD) + listings
    said = capfd.readouterr()
    assert said.out.splitlines()[-1] == f"4 files, 120 rows, {size:,} bytes in {tmp_path / 'o'}: all verified"
    assert "2 parquet, 2 npz with l14_img" in said.out
    assert TOKEN not in said.out + said.err + "".join(
        path.read_text("latin1") for path in tmp_path.joinpath("o").rglob("*") if path.is_file()
    )
    assert hub.strangers == {""}  # the host that has the bytes is not told who asks


def test_the_same_command_again_fetches_nothing(hub: Hub, tmp_path: Path) -> None:
    assert run(tmp_path / "o") == 0
    before = hub.asked.copy()
    assert run(tmp_path / "o") == 0
    assert (hub.asked - before).keys() <= {"info", "tree"}


@pytest.mark.parametrize(("features", "members"), [(["all"], ()), (["b32_txt", "l14_txt"], ("b32_txt", "l14_txt"))])
def test_other_members_or_all_come_when_they_are_asked_for(features: list[str], members: tuple[str, ...], hub: Hub, tmp_path: Path) -> None:
    assert run(tmp_path / "o", "--features", *features) == 0
    assert pool(tmp_path / "o") == expected(hub.folder / COMMIT, *members)


def test_parquet_files_come_alone_when_no_member_is_wanted(hub: Hub, tmp_path: Path) -> None:
    assert run(tmp_path / "o", "--features", "none") == 0
    assert pool(tmp_path / "o").keys() == {key(".parquet"), key(".parquet", 1)}
    assert not any(name.endswith(".npz") for name in hub.asked)


def test_a_member_that_is_added_later_comes_alone(hub: Hub, tmp_path: Path) -> None:
    write_version(hub.folder / COMMIT, rows=3000)
    assert run(tmp_path / "o") == 0
    before = hub.sent
    assert run(tmp_path / "o", "--features", "b32_img") == 0
    assert pool(tmp_path / "o") == expected(hub.folder / COMMIT, "b32_img", "l14_img")
    assert hub.sent - before < 2 * (3000 * 8 * 2 + TAIL + 2 * HEAD) + 10_000


def test_deflated_members_are_stored_as_numpy_stores_them(hub: Hub, tmp_path: Path) -> None:
    write_version(hub.folder / COMMIT, compressed=True)
    assert run(tmp_path / "o") == 0
    assert pool(tmp_path / "o") == expected(hub.folder / COMMIT, "l14_img")


def test_an_npz_of_more_than_32_bits_is_as_numpy_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((zipfile, "ZIP64_LIMIT"), (npz, "FAR")):
        monkeypatch.setattr(module, name, 1000)
    arrays = {"small": np.zeros((2, 3), np.float16), "large": np.ones((99, 16), np.float16), "last": np.ones((9, 2), np.float32)}
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type] # its names are not those of options
    there = Archive.open(tmp_path / "a.npz")
    draft = Draft(tmp_path / "b.npz", tmp_path / "a.npz", tuple(npz.parts([there.member(name) for name in arrays])))
    draft.put(tmp_path, lambda size: None)
    assert (tmp_path / "b.npz").read_bytes() == (tmp_path / "a.npz").read_bytes()


def test_folders_of_the_repository_become_one_and_its_list_may_have_pages(hub: Hub, tmp_path: Path) -> None:
    shutil.rmtree(hub.folder / COMMIT)
    write_version(hub.folder / COMMIT, parts=True)
    hub.page = 1
    assert run(tmp_path / "o", scale="xlarge") == 0
    assert pool(tmp_path / "o") == expected(hub.folder / COMMIT, "l14_img")


def test_two_files_of_one_name_are_refused(hub: Hub, tmp_path: Path, capfd: Capture) -> None:
    shutil.copytree(hub.folder / COMMIT, hub.folder / COMMIT / "part_1")
    assert run(tmp_path / "o", scale="xlarge") == 2
    assert "has the same name as" in one_line(capfd)


def test_a_member_that_is_not_there_is_named_with_those_that_are(hub: Hub, tmp_path: Path, capfd: Capture) -> None:
    assert run(tmp_path / "o", "--features", "dino") == 2
    assert "has no member 'dino', only b32_img, b32_txt, l14_img, l14_txt" in one_line(capfd)


def test_a_filter_reads_a_pool_where_it_is_on_the_hub(hub: Hub, tmp_path: Path) -> None:
    url, out = "hf://datasets/mlfoundations/datacomp_small", ["--quiet", "--save_path"]
    assert semdedup.main(["--metadata_dir", url, *out, str(tmp_path / "far.npy")]) == 0
    assert semdedup.main(["--metadata_dir", str(hub.folder / COMMIT), *out, str(tmp_path / "near.npy")]) == 0
    assert (tmp_path / "far.npy").read_bytes() == (tmp_path / "near.npy").read_bytes()
    assert hub.strangers == {""}


# -- before it starts


def test_a_dry_run_says_how_much_and_writes_nothing(hub: Hub, tmp_path: Path, capfd: Capture) -> None:
    assert run(tmp_path / "o", "--dry_run") == 0
    told = dict(re.split(r"  +", line, maxsplit=1) for line in capfd.readouterr().out.splitlines())
    size = sum(path.stat().st_size for path in hub.folder.rglob("*.parquet")) + 2 * (60 * 16 * 2 + 128)
    assert told["to fetch"].endswith(f" {size:,} bytes")
    assert {"free disk", "time"} <= told.keys()
    assert not (tmp_path / "o").exists()


def test_a_disk_that_is_too_small_is_refused_with_numbers(hub: Hub, capfd: Capture) -> None:
    with disk("20m") as folder:
        assert run(folder / "o", "--quiet") == 2
        assert re.search(r"too little space: 100 MB needed, \d\d MB free", one_line(capfd))
        assert not pool(folder / "o")


def test_a_pool_that_is_not_there_names_the_command_and_its_place_is_where_it_is_looked_for(
    hub: Hub, tmp_path: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATACOMP_DIR", raising=False)
    assert densprune.main(["--pool", "small", "--quiet"]) == 2
    assert "python tools/download.py metadata --scale small" in one_line(capfd)
    monkeypatch.setenv("DATACOMP_DIR", str(tmp_path / "all"))
    assert densprune.main(["--pool", "small", "--quiet"]) == 2
    command = re.search(r"python tools/(download.py metadata --scale small)", one_line(capfd))
    assert command
    assert download.main([*command[1].split()[1:], "--quiet"]) == 0
    assert topscore.main(["--pool", "small", "--save_path", str(tmp_path / "o.npy"), "--quiet"]) == 0


# -- what goes wrong


@pytest.mark.parametrize("fault", ["429", "503", "reset", "short"])
@pytest.mark.parametrize("end", [".parquet", ".npz"])
def test_what_may_pass_is_tried_again(fault: str, end: str, hub: Hub, tmp_path: Path) -> None:
    hub.faults = {key(end): [fault, fault], f"hub:{key(end)}": ["429", "503"], "info": ["503"]}
    assert run(tmp_path / "o") == 0
    assert pool(tmp_path / "o") == expected(hub.folder / COMMIT, "l14_img")
    assert not any(hub.faults[name] for name in (key(end), f"hub:{key(end)}"))


def test_a_list_that_is_put_off_is_asked_for_again(hub: Hub, tmp_path: Path) -> None:
    hub.faults = {"tree": ["429"]}
    assert run(tmp_path / "o") == 0


def test_a_link_that_has_run_out_is_asked_for_anew(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "PIECE", 1000)
    hub.good_for = 3
    assert run(tmp_path / "o") == 0
    assert pool(tmp_path / "o") == expected(hub.folder / COMMIT, "l14_img")
    assert len(hub.links) > 8


@pytest.mark.parametrize(
    ("faults", "said"),
    [
        ({f"hub:{key('.npz')}": ["404"]}, f"{key('.npz')}: the Hub has nothing of this name (HTTP 404)"),
        ({f"hub:{key('.npz')}": ["403"]}, f"{key('.npz')}: the Hub does not let you read there (HTTP 403); accept its terms"),
        ({"info": ["401"]}, "datacomp_small: the Hub does not know you, or has nothing of this name (HTTP 401)"),
        ({"info": ["404"]}, "datacomp_small: the Hub has nothing of this name (HTTP 404)"),
        ({f"hub:{key('.npz')}": ["429"] * 99}, f"{key('.npz')}: answered 429, 9 times"),
        ({key(".npz"): ["403"] * 99}, f"{key('.npz')}: broke off ('where the Hub says that it is, a fresh link is answered 403'), 9 times"),
        ({key(".parquet"): ["whole"]}, f"{key('.parquet')}: is sent whole by a server that was asked for a range"),
        ({f"hub:{key('.npz')}": ["changed"]}, f"{key('.npz')}: changed during the run"),
        ({key(".parquet"): ["spoilt"] * 99}, f"{key('.parquet')}: does not have the digest that the Hub tells"),
    ],
)
def test_what_does_not_pass_is_told_in_one_line_and_the_same_command_goes_on(
    faults: dict[str, list[str]], said: str, hub: Hub, tmp_path: Path, capfd: Capture
) -> None:
    hub.faults = faults
    assert run(tmp_path / "o", "--quiet") == 2
    line = one_line(capfd)
    assert said in line
    assert "Signature" not in line
    assert TOKEN not in line
    hub.faults = {}
    forget()  # another process knows no link
    assert run(tmp_path / "o", "--quiet") == 0
    assert pool(tmp_path / "o") == expected(hub.folder / COMMIT, "l14_img")


def test_a_wrong_token_is_told(hub: Hub, tmp_path: Path, capfd: Capture) -> None:
    hub.token = "another"
    assert run(tmp_path / "o") == 2
    assert "the Hub does not know you" in one_line(capfd)


@pytest.mark.parametrize("end", [".parquet", ".npz"])
def test_bytes_that_were_spoilt_on_the_way_are_fetched_again(end: str, hub: Hub, tmp_path: Path) -> None:
    whole = {".parquet": ["spoilt"], ".npz": ["none", "none", "spoilt"]}  # of an npz, first its directory and a header
    hub.faults = {key(end): whole[end]}
    assert run(tmp_path / "o") == 0
    assert pool(tmp_path / "o") == expected(hub.folder / COMMIT, "l14_img")


# -- going on


def test_a_file_that_broke_off_goes_on_where_it_was_and_no_filter_takes_its_pool_for_whole(
    hub: Hub, tmp_path: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "PIECE", 1000)
    hub.faults = {key(".parquet", 1): ["none"] * 5 + ["404"] * 99}
    assert run(tmp_path / "o", "--quiet") == 2
    capfd.readouterr()
    assert topscore.main(["--metadata_dir", str(tmp_path / "o"), "--quiet"]) == 2
    assert "is not downloaded to its end; python tools/download.py metadata --scale small" in one_line(capfd)
    before, hub.faults = hub.asked[key(".parquet", 1)], {}
    assert run(tmp_path / "o", "--quiet") == 0
    assert pool(tmp_path / "o") == expected(hub.folder / COMMIT, "l14_img")
    assert hub.asked[key(".parquet", 1)] - before <= -(-(hub.folder / COMMIT / key(".parquet", 1)).stat().st_size // 1000) - 2


def test_a_pool_keeps_to_the_version_that_it_began_with(hub: Hub, tmp_path: Path, capfd: Capture) -> None:
    hub.faults = {key(".npz"): ["404"] * 99}
    assert run(tmp_path / "o") == 2
    hub.newest, hub.faults = "b" * 40, {}
    write_version(hub.folder / hub.newest, seed=1)
    capfd.readouterr()
    assert run(tmp_path / "o") == 0
    assert "the Hub has a newer version, bbbbbbb; this folder keeps to aaaaaaa" in capfd.readouterr().err
    assert pool(tmp_path / "o") == expected(hub.folder / COMMIT, "l14_img")
    shutil.rmtree(hub.folder / COMMIT)
    forget()
    assert run(tmp_path / "o", "--quiet") == 2
    assert "holds version aaaaaaa, which the Hub has no more; its newest is bbbbbbb; move the folder away" in one_line(capfd)


def test_a_file_that_was_harmed_is_fetched_again_and_one_of_somebody_elses_is_left(hub: Hub, tmp_path: Path, capfd: Capture) -> None:
    assert run(tmp_path / "o", "--quiet") == 0
    harmed = tmp_path / "o" / key(".npz")
    harmed.write_bytes(harmed.read_bytes()[:-1000] + bytes(1000))
    (tmp_path / "o" / key(".npz", 1)).touch()  # only its date has changed
    before = hub.asked.copy()
    assert run(tmp_path / "o", "--quiet") == 0
    assert pool(tmp_path / "o") == expected(hub.folder / COMMIT, "l14_img")
    assert (hub.asked - before)[key(".npz", 1)] <= 2  # directory and header
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / key(".npz")).write_text("mine")
    assert run(tmp_path / "p", "--quiet") == 2
    assert "is there, and is not what the Hub has; move it away" in one_line(capfd)
    assert (tmp_path / "p" / key(".npz")).read_text() == "mine"


def test_what_another_tool_has_downloaded_is_taken_over_after_a_look(hub: Hub, tmp_path: Path) -> None:
    shutil.copytree(hub.folder / COMMIT, tmp_path / "o")
    assert run(tmp_path / "o", "--quiet") == 0
    assert pool(tmp_path / "o") == expected(hub.folder / COMMIT)
    assert not hub.asked[key(".parquet")]


def test_a_file_that_would_be_taken_for_one_of_the_pools_is_refused(hub: Hub, tmp_path: Path, capfd: Capture) -> None:
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "mine.parquet").write_text("mine")
    assert run(tmp_path / "o", "--quiet") == 2
    assert "mine.parquet: is none of the pool's; move it away, or name another --metadata_dir" in one_line(capfd)
    assert not hub.asked[key(".npz")]


def test_a_member_that_rotted_here_is_not_laid_to_the_hub(hub: Hub, tmp_path: Path, capfd: Capture) -> None:
    assert run(tmp_path / "o", "--quiet") == 0
    path = tmp_path / "o" / key(".npz")
    told, data = path.stat(), bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(told.st_atime_ns, told.st_mtime_ns))
    assert run(tmp_path / "o", "--quiet", "--features", "b32_img") == 2
    assert f"{path}: is not what it was when it was checked; remove it" in one_line(capfd)
    path.unlink()
    assert run(tmp_path / "o", "--quiet", "--features", "b32_img", "l14_img") == 0
    assert pool(tmp_path / "o") == expected(hub.folder / COMMIT, "b32_img", "l14_img")


@pytest.mark.parametrize("kind", ["a file", "closed"])
def test_a_place_of_the_pool_that_cannot_be_opened_is_told_in_one_line(kind: str, tmp_path: Path, capfd: Capture) -> None:
    place = tmp_path / "small" / "metadata"
    place.parent.mkdir()
    place.touch() if kind == "a file" else place.mkdir(0)
    if kind == "closed" and os.access(place, os.R_OK):
        pytest.skip("nothing is closed to this user")
    environment = os.environ | {"DATACOMP_DIR": str(tmp_path)}
    page = str(ROOT / "filters" / "topscore.py")
    words = [sys.executable, page, "--pool", "small", "--fraction", "0.3", "--quiet"]
    done = subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert str(place) in done.stderr


def test_a_folder_of_another_pool_is_refused(hub: Hub, tmp_path: Path, capfd: Capture) -> None:
    assert run(tmp_path / "o", "--quiet") == 0
    assert run(tmp_path / "o", "--quiet", scale="large") == 2
    assert "holds hf://datasets/mlfoundations/datacomp_small; name another --metadata_dir" in one_line(capfd)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_it_may_be_stopped_at_any_moment(number: int, code: int, hub: Hub, tmp_path: Path) -> None:
    write_version(hub.folder / COMMIT, rows=2000)
    hub.meanwhile = {f"{COMMIT}/{key('.npz', 1)}": (3, lambda: process.send_signal(number))}
    words = ["metadata", "--scale", "small", "--metadata_dir", str(tmp_path / "o"), "--num_workers", "1"]
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")}
    page = str(ROOT / "tools" / "download.py")
    process = subprocess.Popen(
        [sys.executable, page, *words], env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    said = process.communicate()[1]
    assert process.returncode == code
    assert said.endswith("stopped; the same command goes on from here\n") or code < 0
    whole = expected(hub.folder / COMMIT, "l14_img")
    # DataComp's baselines read whatever has ".parquet" in its path.
    assert all(
        path.read_bytes() == whole[path.name] for path in (tmp_path / "o").rglob("*") if ".parquet" in str(path.relative_to(tmp_path))
    )
    before = hub.asked.copy()
    assert run(tmp_path / "o", "--quiet") == 0
    assert pool(tmp_path / "o") == whole
    assert not (hub.asked - before)[key(".parquet")]
