"""Pools in stores: the same result as from a folder of this machine, no byte more than is needed, and no secret told."""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from fsspec.registry import _registry

from filters import densprune, semdedup, topscore
from filters.densprune import DensityPrune
from filters.filter import Recipe
from filters.options import RunOptions
from filters.pool import store
from filters.pool.errors import BadInput
from filters.pool.pool import Pool
from filters.semdedup import SemDeDup
from filters.topscore import TopScore
from filters.work import rates
from filters.work.work import Silent
from tests.pools import cut_into_shards, random_uids, unit, write_pool
from tests.stores import S3, Web, s3_server, web_server
from tools import verify

RECIPE = SemDeDup(fraction=0.8) >> TopScore(fraction=0.6) >> DensityPrune(concepts=12, fraction=0.2)
SIZES = (500, 0, 900, 300)
PASSWORD, TOKEN = "pass%2Fword-planted", "token-planted-0123456789"


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a pool, and what the recipe keeps of it."""
    folder = tmp_path_factory.mktemp("remote")
    write_pool(folder / "pool", np.random.default_rng(3), SIZES, width=48)
    RECIPE.run(folder / "pool", folder / "whole.npy")
    return folder


@pytest.fixture(scope="module")
def large_pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, sizes, rng = tmp_path_factory.mktemp("large"), (18_000, 16_000), np.random.default_rng(5)
    rows = unit(rng.standard_normal((sum(sizes), 96), np.float32)).astype(np.float16)
    told = {"uids": random_uids(rng, len(rows)), "l14_img": rows, "l14": rng.random(len(rows), np.float32)}
    cut_into_shards(folder / "pool", told, sizes)
    return folder / "pool"


@pytest.fixture
def large(large_pool: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pool whose members take several requests, and so do its columns."""
    monkeypatch.setattr(store, "PIECE", 1 << 19)
    return large_pool


@pytest.fixture
def web(local: Path) -> Iterator[Web]:
    with web_server(local / "pool") as served:
        yield served


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "PAUSE", 0.001)
    monkeypatch.setattr(rates, "SECONDS", 0.0)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """An S3, and credentials for it in the environment."""
    with s3_server() as served:
        monkeypatch.setenv("AWS_ENDPOINT_URL", served.endpoint)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAPLANTED0123456789")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", TOKEN)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        store._made.cache_clear()
        fsspec.filesystem("s3").clear_instance_cache()
        yield served
        store._made.cache_clear()
        fsspec.filesystem("s3").clear_instance_cache()


def uploaded(pool: Path, url: str) -> str:
    fsspec.filesystem(url.partition("://")[0]).put(str(pool) + "/", url + "/", recursive=True)
    return url


def first(pool: Path, end: str, at: int = 0) -> str:
    """Name of a file of the pool."""
    return sorted(path.name for path in pool.glob(f"*{end}"))[at]


# -- the same result


def test_the_same_bytes_from_a_web_server(web: Web, local: Path, tmp_path: Path) -> None:
    RECIPE.run(web.url, tmp_path / "o.npy")
    assert (tmp_path / "o.npy").read_bytes() == (local / "whole.npy").read_bytes()


@pytest.mark.parametrize("recipe", [TopScore(fraction=0.6), pytest.param(RECIPE, marks=pytest.mark.slow)], ids=["topscore", "densprune"])
def test_the_same_bytes_in_worker_processes(recipe: Recipe, web: Web, local: Path, tmp_path: Path) -> None:
    recipe.run(local / "pool", tmp_path / "whole.npy")
    recipe.run(web.url, tmp_path / "o.npy", options=RunOptions(engine="processes", num_workers=1))
    assert (tmp_path / "o.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


def test_the_same_bytes_from_memory_and_a_work_folder_that_goes_on_with_either(local: Path, tmp_path: Path) -> None:
    url = uploaded(local / "pool", "memory://pool")
    RECIPE.run(url, tmp_path / "o.npy")
    assert (tmp_path / "o.npy").read_bytes() == (local / "whole.npy").read_bytes()
    again = RECIPE.run(local / "pool", tmp_path / "o.npy")
    assert sum(stage.bytes_read for stage in again.funnel) == 0  # it is the same pool, wherever it lies
    with pytest.raises(BadInput, match=r"memory of this process.*--engine threads"):
        RECIPE.run(url, tmp_path / "p.npy", options=RunOptions(engine="processes"))


def test_the_same_bytes_from_s3(s3: S3, local: Path, tmp_path: Path) -> None:
    fsspec.filesystem("s3").mkdir("bucket")
    url = uploaded(local / "pool", "s3://bucket/deep/pool")
    s3.slow_downs = 3
    RECIPE.run(url, tmp_path / "o.npy")
    assert not s3.slow_downs
    assert (tmp_path / "o.npy").read_bytes() == (local / "whole.npy").read_bytes()
    assert json.loads((tmp_path / "o.work" / "manifest.json").read_text())["pool"]["location"] == url
    assert not planted(tmp_path)


@pytest.mark.parametrize("number", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_an_object_replaced_during_the_run_is_named(number: int, s3: S3, local: Path, tmp_path: Path) -> None:
    system = fsspec.filesystem("s3")
    system.mkdir("bucket")
    url = uploaded(local / "pool", "s3://bucket/pool")
    name = first(local / "pool", ".npz" if number == 1 else ".parquet")

    class Replacing(Silent):
        def stage(self, stage: str) -> None:
            if stage == ("semdedup" if number == 1 else "results"):
                system.pipe_file(f"bucket/pool/{name}", bytes(5))

    with pytest.raises(BadInput, match=f"s3://bucket/pool/{name}: changed during the run"):
        RECIPE.run(url, tmp_path / "o.npy", progress=Replacing())
    assert not (tmp_path / "o.npy").exists()


def test_deflated_members_are_streamed(tmp_path: Path) -> None:
    told = write_pool(tmp_path / "pool", np.random.default_rng(3), (400, 300))
    RECIPE.run(tmp_path / "pool", tmp_path / "whole.npy")
    for number, rows in enumerate((slice(0, 400), slice(400, 700))):
        np.savez_compressed(tmp_path / "pool" / f"{number:032x}.npz", l14_img=told["l14_img"][rows])
    with web_server(tmp_path / "pool") as served:
        RECIPE.run(served.url, tmp_path / "o.npy")
    assert (tmp_path / "o.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


def test_the_parts_beside_the_pool_may_lie_in_stores_too(web: Web, local: Path, tmp_path: Path) -> None:
    held = tmp_path / "held"
    held.mkdir()
    (held / "some.npy").write_bytes((local / "whole.npy").read_bytes())
    for path in (local / "pool").glob("*.npz"):
        (held / path.name).write_bytes(path.read_bytes())
    with web_server(held) as other:
        outs = []
        for name, within, beside in (("a", str(local / "whole.npy"), None), ("b", f"{other.url}/some.npy", other.url)):
            outs.append(tmp_path / f"{name}.npy")
            recipe = DensityPrune(concepts=3, size=100)
            recipe.run(web.url, outs[-1], options=RunOptions(within=within, features_dir=beside))
        assert other.asked[first(held, ".npz")] > 2
        for pool, beside in ((str(local / "pool"), other.url), (web.url, str(held))):
            assert recipe.plan(pool, tmp_path / "c.npy", options=RunOptions(features_dir=beside)).passes
    assert outs[0].read_bytes() == outs[1].read_bytes()


def test_a_run_from_a_store_is_verified_from_it(web: Web, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RECIPE.run(web.url, tmp_path / "o.npy")
    assert verify.main([str(tmp_path / "o.work"), "--share", "0.2"]) == 0, capsys.readouterr().out


# -- no byte more than is needed


def column_bytes(pool: Path, name: str) -> int:
    """Of the column's chunks in all shards, as the footers tell."""
    total = 0
    for path in pool.glob("*.parquet"):
        meta = pq.read_metadata(path)
        at = meta.schema.names.index(name) if name in meta.schema.names else -1
        total += sum(meta.row_group(group).column(at).total_compressed_size for group in range(meta.num_row_groups))
    return total


def member_bytes(pool: Path, name: str) -> int:
    return sum(zipfile.ZipFile(path).getinfo(f"{name}.npy").compress_size for path in pool.glob("*.npz"))


SCORE = "clip_l14_similarity_score"
DEDUP = SemDeDup(fraction=0.8, clusters=40, kmeans_iters=1)
PASSES: dict[str, tuple[Recipe, list[str], int]] = {  # the columns that a run reads, and how often the member
    "topscore": (TopScore(fraction=0.5), ["uid", SCORE], 0),
    "semdedup": (DEDUP, ["uid"], 3),
    "densprune": (DEDUP >> TopScore(fraction=0.6) >> DensityPrune(concepts=4, kmeans_iters=1, fraction=0.2), ["uid", SCORE], 5),
}


@pytest.mark.parametrize("name", PASSES)
def test_no_more_bytes_are_asked_for_than_the_passes_need(name: str, large: Path, tmp_path: Path) -> None:
    recipe, columns, often = PASSES[name]
    needed = sum(column_bytes(large, column) for column in columns) + often * member_bytes(large, "l14_img")
    with web_server(large) as served:
        result = recipe.run(served.url, tmp_path / "o.npy")
        sent = served.sent
    told = json.loads((tmp_path / "o.work" / "manifest.json").read_text())["bytes_read"]
    assert needed <= sent <= 1.02 * needed
    assert abs(told - needed) < 0.001 * needed
    assert result.status["kept"]


def test_no_more_bytes_are_asked_for_of_s3_than_the_passes_need(s3: S3, large: Path, tmp_path: Path) -> None:
    recipe, columns, often = PASSES["semdedup"]
    fsspec.filesystem("s3").mkdir("bucket")
    url = uploaded(large, "s3://bucket/large")
    before = s3.sent
    recipe.run(url, tmp_path / "o.npy")
    needed = sum(column_bytes(large, column) for column in columns) + often * member_bytes(large, "l14_img")
    assert needed <= s3.sent - before <= 1.02 * needed


def test_opening_and_planning_read_footers_and_directories_alone(web: Web, local: Path, large: Path, tmp_path: Path) -> None:
    files = len(list((local / "pool").iterdir()))
    Pool.open(web.url)
    assert web.sent <= 8200 * files + 1000
    with web_server(large) as served:
        plan = RECIPE.plan(served.url, tmp_path / "o.npy", options=RunOptions(num_workers=1))
        trials = 2 * store.IN_FLIGHT * rates.TRIED  # of a worker: of the member, and of the columns
        assert served.sent <= 8200 * 4 + 1000 + trials
    assert any("trial reads" in note for note in plan.notes)
    assert sum(one.bytes_read for one in plan.passes) == pytest.approx(5 * member_bytes(large, "l14_img"), rel=0.2)
    assert not list(tmp_path.iterdir())


# -- faults


def test_what_passes_is_tried_again(web: Web, local: Path, tmp_path: Path) -> None:
    said: list[str] = []

    class Listening(Silent):
        def say(self, line: str) -> None:
            said.append(line)

    npz, parquet = (first(local / "pool", end, 2) for end in (".npz", ".parquet"))
    web.faults = {
        npz: ["500", "none", "reset", "none", "short", "503", "none", "reset"],
        parquet: ["none", "short", "502", "none", "short"],
    }
    web.faults |= {"": ["503"], "index.txt": ["429"]}
    RECIPE.run(web.url, tmp_path / "o.npy", progress=Listening())
    assert not any(web.faults.values())
    assert (tmp_path / "o.npy").read_bytes() == (local / "whole.npy").read_bytes()
    assert any("tried again" in line and web.url in line for line in said)


def test_a_server_that_says_when_to_come_back_is_left_alone_until_then(web: Web, local: Path, tmp_path: Path) -> None:
    name = first(local / "pool", ".npz")
    web.faults = {name: ["none", "later"]}
    RECIPE.run(web.url, tmp_path / "o.npy")
    assert (web.asked[name] > 2, web.early, web.faults[name]) == (True, 0, [])
    assert (tmp_path / "o.npy").read_bytes() == (local / "whole.npy").read_bytes()


@pytest.mark.parametrize("when", ["1 Jan 99999999999999 00:00:00 GMT", "soon", "-5", "Mon, 01 Jan 0001 00:00:00 -2359"])
def test_a_server_that_says_nonsense_of_when_to_come_back_is_asked_again(when: str, web: Web) -> None:
    web.faults = {"index.txt": [f"until {when}"]}
    assert Pool.open(web.url).rows == sum(SIZES)
    assert web.asked["index.txt"] == 2


def test_what_does_not_pass_ends_the_run_in_one_line_and_the_next_one_goes_on(web: Web, local: Path, tmp_path: Path) -> None:
    name = first(local / "pool", ".npz", 2)
    web.faults = {name: ["none", "none", "none", *["503"] * store.TRIES]}
    with pytest.raises(BadInput, match=f"{name}: answered 503, {store.TRIES} times; .*the same command goes on"):
        RECIPE.run(web.url, tmp_path / "o.npy")
    RECIPE.run(web.url, tmp_path / "o.npy")
    assert (tmp_path / "o.npy").read_bytes() == (local / "whole.npy").read_bytes()


@pytest.mark.parametrize(
    ("status", "said"), [("401", "answered 401: not permitted; give credentials"), ("403", "403: not permitted"), ("404", "is not there")]
)
def test_what_will_never_pass_is_not_tried_again(status: str, said: str, web: Web, local: Path, tmp_path: Path) -> None:
    name = first(local / "pool", ".npz")
    web.faults = {name: ["none", status]}
    with pytest.raises(BadInput, match=f"{web.url}/{name}: .*{said}"):
        RECIPE.run(web.url, tmp_path / "o.npy")
    assert web.asked[name] == 2


def test_a_server_without_ranges_is_refused_before_it_has_sent_a_file(large: Path, tmp_path: Path) -> None:
    with web_server(large) as served:
        served.ranges = False
        with pytest.raises(BadInput, match="asked for a range; use a server that serves ranges"):
            RECIPE.run(served.url, tmp_path / "o.npy")
        assert served.sent < sum(path.stat().st_size for path in large.iterdir()) / 2


def test_a_file_that_changes_between_two_requests_is_named(tmp_path: Path) -> None:
    write_pool(tmp_path / "pool", np.random.default_rng(3), (400, 300))
    name = first(tmp_path / "pool", ".npz")
    path = tmp_path / "pool" / name
    with web_server(tmp_path / "pool") as served:
        served.meanwhile = {name: (4, lambda: os.utime(path, ns=(0, 0)))}
        with pytest.raises(BadInput, match=f"{name}: changed during the run"):
            RECIPE.run(served.url, tmp_path / "o.npy")


def test_a_folder_of_a_web_server_is_listed_by_its_index_or_by_its_links(local: Path, tmp_path: Path) -> None:
    for path in (local / "pool").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with web_server(tmp_path) as served:
        assert Pool.open(served.url).rows == sum(SIZES)
        key = first(tmp_path, ".npz", 2).removesuffix(".npz")
        (tmp_path / "index.txt").write_text(f"{key}.npz\n{key}.parquet\n")
        assert [shard.key for shard in Pool.open(served.url + "/").shards] == [key]
        (tmp_path / "index.txt").unlink()
        served.lists = False
        with pytest.raises(BadInput, match=r"neither index.txt nor a page of links; put a file index.txt there"):
            Pool.open(served.url)


def test_a_list_of_a_folder_may_hold_any_link_but_does_not_go_on_for_ever(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    web.more = '<a href="http://[half/of/an/address">x</a>'
    assert Pool.open(web.url).rows == sum(SIZES)
    monkeypatch.setattr(store, "LISTED", 100)
    with pytest.raises(BadInput, match="/pool/: goes on behind 100 bytes; put a list"):
        Pool.open(web.url)


def test_what_is_no_pool_is_said_of_a_store_as_of_a_folder(web: Web, local: Path, tmp_path: Path) -> None:
    broken = tmp_path / "pool"
    write_pool(broken, np.random.default_rng(3), (40, 30))
    npz, parquet = (broken / first(broken, end) for end in (".npz", ".parquet"))
    data = {path: path.read_bytes() for path in (npz, parquet)}
    cases: list[tuple[Path, bytes | None, str]] = [
        (npz, None, "no .*npz beside it"),
        (parquet, None, "no .*parquet beside it"),
        (npz, b"", "no whole npz"),
        (npz, data[npz][:-30], "no whole npz"),
        (npz, data[npz].replace(b"NUMPY", b"PYNUM"), "no plain array"),
        (npz, data[npz][:400] + b"\xff" + data[npz][401:], "fails its checksum"),
        (parquet, b"", "no whole parquet"),
        (parquet, data[parquet][:-1], "no whole parquet"),
        (parquet, data[parquet][:200] + bytes(40) + data[parquet][240:], "no whole parquet"),
    ]
    with web_server(broken) as served:
        for path, changed, said in cases:
            path.unlink() if changed is None else path.write_bytes(changed)
            lines = []
            for place in (str(broken), served.url):
                with pytest.raises(BadInput, match=said) as caught:
                    RECIPE.run(place, tmp_path / "o.npy", tmp_path / f"{len(list(tmp_path.iterdir()))}.work")
                lines.append(str(caught.value).replace(place, ""))
            assert lines[0] == lines[1]
            path.write_bytes(data[path])
    with pytest.raises(BadInput, match=r"no .key..parquet|is not there"):
        Pool.open("memory://nothing/here")


# -- places and secrets


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("simplecache::s3://bucket/pool", "names a store inside another"),
        ("nosuch://bucket/pool", "protocol that fsspec does not know"),
        ("s3://key:secret@bucket/pool", "leave them to the store's own settings"),
        ("s3://key:sec/ret@bucket/pool", "what is odd in a password"),
        ("https://", "no URL of a folder"),
        ("hf://datasets/a/b", r"pip install 'densprune\[hub\]'"),
    ],
)
def test_a_url_that_cannot_be_read_is_refused(url: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    monkeypatch.delitem(_registry, "hf", raising=False)  # of a test before
    with pytest.raises(BadInput, match=said) as caught:
        Pool.open(url)
    assert "sec" not in str(caught.value)


def test_what_a_run_leaves_stays_on_this_machine(local: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("save_path", "work_dir", "score", "config"):
        call = ["--metadata_dir", str(local / "pool"), "--save_path", str(tmp_path / "o.npy"), f"--{flag}", f"https://u:{TOKEN}@host/x?y"]
        assert densprune.main(call) == 2
        assert f"{flag} takes no URL, got https://host/x" in capsys.readouterr().err
    with pytest.raises(BadInput, match=r"s3://bucket/o.npy: is a URL"):
        RECIPE.run(local / "pool", "s3://bucket/o.npy")


def planted(*places: Path | str) -> list[str]:
    """Where a secret is found: in texts, and in every file below folders."""
    found = []
    for place in places:
        texts = (
            {str(one): one.read_bytes() for one in place.rglob("*") if one.is_file()} if isinstance(place, Path) else {"": place.encode()}
        )
        found += [f"{name} {place}" for name, data in texts.items() if re.search(rb"pass(%2F|/)word|planted|AKIA", data + name.encode())]
    return found


Call = Callable[[list[str]], int]


@pytest.fixture
def guarded(local: Path) -> Iterator[tuple[Web, str]]:
    """A server that wants to know who asks, and the URL that tells it."""
    with web_server(local / "pool") as served:
        served.user, served.token = "me:" + PASSWORD.replace("%2F", "/"), TOKEN
        yield served, served.url.replace("://", f"://me:{PASSWORD}@") + f"?token={TOKEN}"


SLOW = [pytest.param(page, marks=pytest.mark.slow) for page in (topscore.main, semdedup.main)]


@pytest.mark.parametrize("page", [densprune.main, *SLOW], ids=["densprune", "topscore", "semdedup"])
def test_no_secret_of_a_url_is_told_or_kept(
    page: Call, guarded: tuple[Web, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    _, url = guarded
    fraction = ["--dedup_fraction", "0.7", "--concepts", "5"] if page is densprune.main else ["--fraction", "0.4"]
    call = ["--metadata_dir", url, "--save_path", str(tmp_path / "o.npy"), "--features_dir", url, *fraction]
    assert [page([*call, *more]) for more in (["--show_config"], ["--dry_run"], [], ["--seed", "5"])] == [0] * 4
    told: dict[str, Any] = json.loads((tmp_path / "o.work" / "manifest.json").read_text())
    assert told["pool"]["location"] == told["options"]["features_dir"] == told["config"]["features_dir"] == guarded[0].url
    assert not planted(tmp_path, *capfd.readouterr())


def test_no_secret_is_told_when_something_fails(
    guarded: tuple[Web, str], local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    web, url = guarded
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    name = first(local / "pool", ".npz")
    wrong = url.replace(TOKEN, TOKEN + "1")
    faults: list[tuple[str, list[str]]] = [
        (wrong, []),
        (url, ["none", "none", "404"]),
        (url, ["403"]),
        (url, ["418"]),
        (url, ["503"] * store.TRIES),
    ]
    faults += [
        (url.replace("127.0.0.1", "127.0.0.1:x"), []),
        (url.replace("/pool", "/elsewhere"), []),
        (url.replace("http:", "nosuch:"), []),
    ]
    for number, (place, fault) in enumerate(faults):
        web.faults = {name: fault}
        call = ["--metadata_dir", place, "--save_path", str(tmp_path / "o.npy"), "--work_dir", str(tmp_path / f"{number}.work")]
        assert densprune.main([*call, "--concepts", "5"]) == 2
        out, err = capfd.readouterr()
        assert err.startswith("densprune: ") and not planted(out, err)
    assert not planted(tmp_path)


def test_a_manifest_without_secrets_repeats_the_run(
    guarded: tuple[Web, str], local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web, url = guarded
    call = ["--metadata_dir", url, "--concepts", "5", "--quiet", "--save_path"]
    assert densprune.main([*call, str(tmp_path / "a.npy")]) == 0
    told = json.loads((tmp_path / "a.work" / "manifest.json").read_text())
    web.token = None
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login me password {PASSWORD.replace('%2F', '/')}\n")
    call = ["--metadata_dir", told["pool"]["location"], "--config", str(tmp_path / "a.work" / "manifest.json"), "--quiet", "--save_path"]
    assert densprune.main([*call, str(tmp_path / "b.npy")]) == 0
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
