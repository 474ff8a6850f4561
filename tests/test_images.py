"""tools/download.py images: which urls are asked, what comes of them, and that nothing is asked twice without need."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from filters.pool import subset
from tests.imageserver import Server, picture, serving, size_of
from tests.pools import disk, random_uids, read_subset
from tools import download
from tools.images import asking, outside
from tools.images.kinds import kind_of, may_pass
from tools.images.urls import EMPTY, LOCAL, MALFORMED, PRIVATE, SCHEME, USER, fault

ROOT = Path(__file__).parents[1]
BOXES = [[0.25, 0.25, 0.5, 0.5]]  # left, top, right, bottom, of the whole
INSTALLED = importlib.util.find_spec("img2dataset") is not None
real = pytest.mark.skipif(not INSTALLED, reason="img2dataset is not installed: pip install 'densprune[images]'")


@dataclass
class Row:
    uid: str
    url: str | None
    boxes: list[list[float]] = field(default_factory=list)


def write_pool(folder: Path, rows: list[Row], shards: int = 2) -> Path:
    """Parquet files as DataComp has them, the rows dealt out in turn."""
    folder.mkdir(parents=True)
    for number in range(shards):
        mine = rows[number::shards]
        columns = {"uid": [row.uid for row in mine], "url": [row.url for row in mine], "text": [f"words of {row.uid}" for row in mine]}
        boxes = pa.array([row.boxes for row in mine], pa.list_(pa.list_(pa.float32())))
        pq.write_table(pa.table(columns | {"face_bboxes": boxes}), folder / f"{number:032x}.parquet")
    return folder


def write_subset(path: Path, uids: list[str]) -> Path:
    np.save(path, np.array(sorted((int(uid, 16) >> 64, int(uid, 16) % 2**64) for uid in uids), np.dtype("u8,u8")))
    return path


def samples(shards: Path) -> dict[str, tuple[bytes, str, dict[str, object]]]:
    """Picture, caption and json by uid, read by tarfile alone. That a uid lies there twice is a fault."""
    found: dict[str, tuple[bytes, str, dict[str, object]]] = {}
    for path in sorted(shards.glob("*.tar")):
        with tarfile.open(path) as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
        for key in {name.partition(".")[0] for name in members}:
            told = json.loads(members[f"{key}.json"])
            assert told["uid"] not in found
            found[told["uid"]] = members[f"{key}.jpg"], members[f"{key}.txt"].decode(), told
    return found


def call(subset_file: Path, pool: Path, shards: Path, *more: str) -> list[str]:
    places = ["--subset", str(subset_file), "--metadata_dir", str(pool), "--shards_dir", str(shards)]
    return ["images", *places, "--processes_count", "1", "--thread_count", "8", "--rounds", "1", "--retries", "0", *more]


# -- which urls may be asked

REFUSED = {
    None: EMPTY,
    "": EMPTY,
    "ftp://host.org/a.jpg": SCHEME,
    "file:///etc/passwd": SCHEME,
    "data:image/png;base64,AA": SCHEME,
    "//host.org/a.jpg": SCHEME,
    "http:///a.jpg": MALFORMED,
    "http://[::1/a.jpg": MALFORMED,
    "http://host.org:99999/a.jpg": MALFORMED,
    "http://user:pw@host.org/a.jpg": USER,
    "http://host.org%40127.0.0.1/a.jpg": USER,
    "http://host.org\\@127.0.0.1/a.jpg": USER,
    "http://localhost/a.jpg": LOCAL,
    "http://LOCALHOST.:80/a.jpg": LOCAL,
    "http://intranet/a.jpg": LOCAL,
    "http://printer.local/a.jpg": LOCAL,
    "http://metadata.google.internal/a.jpg": LOCAL,
    "http://127.0.0.1/a.jpg": PRIVATE,
    "http://127.1/a.jpg": PRIVATE,
    "http://2130706433/a.jpg": PRIVATE,
    "http://0x7f.0.0.1/a.jpg": PRIVATE,
    "http://0177.0.0.1/a.jpg": PRIVATE,
    "http://0/a.jpg": PRIVATE,
    "http://%31%32%37.0.0.1/a.jpg": PRIVATE,
    "http://\uff11\uff12\uff17.0.0.1/a.jpg": PRIVATE,
    "http://10.1.2.3/a.jpg": PRIVATE,
    "http://100.64.0.1/a.jpg": PRIVATE,
    "http://169.254.169.254/latest/meta-data": PRIVATE,
    "http://172.16.0.1/a.jpg": PRIVATE,
    "http://192.168.1.1/a.jpg": PRIVATE,
    "http://192.0.0.192/latest/": PRIVATE,
    "http://168.63.129.16/machine": PRIVATE,
    "http://224.0.0.1/a.jpg": PRIVATE,
    "http://240.0.0.1/a.jpg": PRIVATE,
    "http://255.255.255.255/a.jpg": PRIVATE,
    "http://[::]/a.jpg": PRIVATE,
    "http://[::1]/a.jpg": PRIVATE,
    "http://[::ffff:10.0.0.1]/a.jpg": PRIVATE,
    "http://[::127.0.0.1]/a.jpg": PRIVATE,
    "http://[64:ff9b::7f00:1]/a.jpg": PRIVATE,
    "http://[2002:7f00:1::]/a.jpg": PRIVATE,
    "http://[fe80::1%25eth0]/a.jpg": PRIVATE,
    "http://[fc00::1]/a.jpg": PRIVATE,
    "http://[3fff::1]/a.jpg": PRIVATE,
    "http://[fec0::1]/a.jpg": PRIVATE,
    "http://[ff02::1]/a.jpg": PRIVATE,
}
ASKED = [
    "http://host.org/a.jpg",
    "HTTPS://Host.Org:8443/a.jpg?b=c@d#e",
    "http://93.184.216.34/a.jpg",
    "http://[2606:2800:220:1::1]/a.jpg",
    "http://[::ffff:93.184.216.34]/a.jpg",
    "http://[64:ff9b::5db8:d822]/a.jpg",
    "https://b\u00fccher.example/a.jpg",
    "http://10.host.org/a.jpg",
]


@pytest.mark.parametrize("url", REFUSED, ids=repr)
def test_a_url_that_leads_inside_is_refused_however_it_is_written(url: str | None) -> None:
    assert fault(url) == REFUSED[url]
    assert (fault(url, private=True) is None) == (REFUSED[url] in (PRIVATE, LOCAL))


@pytest.mark.parametrize("url", ASKED)
def test_a_url_of_the_internet_may_be_asked(url: str) -> None:
    assert fault(url) is None


@pytest.mark.parametrize(
    ("message", "kind", "later"),
    [
        ("HTTP Error 404: Not Found", "http 404", False),
        ("HTTP Error 429: Too Many Requests", "http 429", True),
        ("HTTP Error 503: Service Unavailable", "http 503", True),
        ("<urlopen error timed out>", "timed out", True),
        ("The read operation timed out", "timed out", True),
        ("<urlopen error [Errno 110] Connection timed out>", "timed out", True),
        ("<urlopen error [Errno 111] Connection refused>", "connection broken", True),
        ("IncompleteRead(512 bytes read, 100 more expected)", "connection broken", True),
        ("Remote end closed connection without response", "connection broken", True),
        ("<urlopen error [Errno -2] Name or service not known>", "no such host", False),
        ("<urlopen error [Errno -3] Temporary failure in name resolution>", "no answer from the name server", True),
        ("<urlopen error [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: ...>", "certificate not valid", False),
        ("<urlopen error 10.0.0.1 is no public address>", "leads to a private address", False),
        ("Image decoding error", "no image that can be decoded", False),
        ("something new", "another error", False),
        (None, "another error", False),
    ],
)
def test_a_failure_is_told_in_few_words_and_may_pass_or_not(message: str | None, kind: str, later: bool) -> None:
    assert kind_of(message) == kind
    assert may_pass(kind) == later


# -- the guard, in a process of its own


def fetched(url: str, private: bool, settings: str = "") -> str:
    """The first bytes that a guarded process gets from a url, or the error."""
    program = (
        f"import sys, urllib.request; from tools.images import outside; {settings or 'pass'}\noutside.prepare({private})\n"
        "try: print(len(urllib.request.urlopen(sys.argv[1], timeout=5).read()))\nexcept Exception as error: print(error)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "http_proxy": "http://127.0.0.1:1", "no_proxy": "127.0.0.1" if private else ""}
    return subprocess.run([sys.executable, "-c", program, url], env=environment, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


def test_a_guarded_process_connects_to_no_private_address_and_uses_no_proxy(server: Server) -> None:
    port = server.server_port
    for host in ("127.0.0.1", "localhost"):
        assert outside.PRIVATE in fetched(f"http://{host}:{port}/ok/9999", private=False)
    assert server.asked["/ok/9999"] == 0
    assert int(fetched(f"{server.url}/ok/9998", private=True)) == len(picture(9998))


def test_what_is_too_large_too_slow_or_led_to_another_scheme_is_broken_off(server: Server) -> None:
    assert outside.TOO_LARGE in fetched(f"{server.url}/huge/1", private=True)
    assert outside.TOO_LARGE in fetched(f"{server.url}/endless/1", private=True, settings="outside.BYTES = 1 << 20")
    assert outside.TOO_SLOW in fetched(f"{server.url}/trickle/1", private=True, settings="outside.SECONDS = 0.2")
    assert "unknown url type: ftp" in fetched(f"{server.url}/to/ftp://host.org/a", private=True)
    assert "IncompleteRead" in fetched(f"{server.url}/cut/1", private=True)


# -- whole downloads


@dataclass
class Done:
    """A call, in a folder that has shards of earlier ones."""

    server: Server
    rows: dict[str, Row]  # by path, or by url where it is none of the server's
    here: dict[str, tuple[bytes, str, dict[str, object]]]
    missing: list[int]
    held: int
    told: str
    shards: Path


NEW = [f"ok/{number}" for number in range(12)] + ["once/1", "gone/1", "gone/2", "broken/1", "text/1", "cut/1", "huge/1", "noai/1"]
BAD = ["ftp://host.org/a.jpg", "http://user:pw@host.org/a.jpg"]
EARLIER = {"ok/50": None, "gone/3": "HTTP Error 404: Not Found", "ok/51": "HTTP Error 503: Service Unavailable"}
LEFT = ["ok/60", "ok/61", "ok/62"]


@pytest.fixture(scope="module")
def done(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("images")
    paths = [*NEW, *BAD, *EARLIER, *LEFT]
    strange, unwanted, *uids = random_uids(np.random.default_rng(3), len(paths) + 2)
    urls = [path if "://" in path else f"{server.url}/{path}" for path in paths]
    rows = {path: Row(uid, url, BOXES if path == "ok/1" else []) for path, uid, url in zip(paths, uids, urls, strict=True)}
    pool = write_pool(folder / "pool", [*rows.values(), Row(unwanted, f"{server.url}/ok/70"), Row(uids[0], f"{server.url}/ok/71")])
    shards = folder / "shards"
    write_shard(shards, 0, {rows[path].uid: error for path, error in EARLIER.items()})
    leave_behind(folder / "shards.work" / "round-1" / "shards", [rows[path].uid for path in LEFT])
    one = write_subset(folder / "one.npy", [*uids, uids[0], strange])
    told = told_by(call(one, pool, shards, "--allow_private", "--number_sample_per_shard", "10"))
    missing = read_subset(folder / "shards.work" / "missing.npy")
    return Done(server, rows, samples(shards), missing, len(subset.held(shards)), told, shards)


def told_by(arguments: list[str]) -> str:
    stdout = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", stdout)
        assert download.main(arguments) == 0
    return stdout.getvalue()


def leave_behind(folder: Path, uids: list[str]) -> None:
    """What a download that was killed leaves: a whole shard, one that is cut off though it counts as done, one not yet counted."""
    for number, uid in enumerate(uids, 1):
        write_shard(folder, number, {uid: None})
    tar = folder / "00000002.tar"
    tar.write_bytes(tar.read_bytes()[:2000])
    (folder / "00000003_stats.json").write_text('{"count": 1, "succ')


def write_shard(folder: Path, number: int, rows: dict[str, str | None]) -> None:
    """As img2dataset writes it: uids, and why their image has not come."""
    folder.mkdir(parents=True, exist_ok=True)
    keys = [f"{number:08}{at:04}" for at in range(len(rows))]
    arrived = [error is None for error in rows.values()]
    with tarfile.open(folder / f"{number:08}.tar", "w") as tar:
        for key, uid in [pair for pair, came in zip(zip(keys, rows, strict=True), arrived, strict=True) if came]:
            parts = {"jpg": picture(1), "txt": b"of an earlier call", "json": json.dumps({"uid": uid, "status": "success"}).encode()}
            for end, data in parts.items():
                member = tarfile.TarInfo(f"{key}.{end}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    status = ["success" if came else "failed_to_download" for came in arrived]
    table = pa.table({"uid": list(rows), "key": keys, "status": status, "error_message": pa.array(rows.values(), pa.string())})
    pq.write_table(table, folder / f"{number:08}.parquet")
    (folder / f"{number:08}_stats.json").write_text(json.dumps(STATISTICS | {"count": len(rows), "successes": sum(arrived)}))


STATISTICS = {"failed_to_download": 0, "failed_to_resize": 0, "duration": 1.0, "start_time": 0.0, "end_time": 1.0, "status_dict": {}}


@real
def test_what_arrives_is_what_the_subset_lists_and_the_web_has(done: Done) -> None:
    arrived = [path for path in done.rows if path.startswith("ok/")]
    assert done.here.keys() == {done.rows[path].uid for path in arrived}
    assert done.held == len(arrived)
    for number in range(12):
        row = done.rows[f"ok/{number}"]
        body, text, told = done.here[row.uid]
        assert (text, told["url"], told["sha256"]) == (f"words of {row.uid}", row.url, sha256(picture(number)))
        image = Image.open(io.BytesIO(body))
        assert image.size == ((512, 384) if size_of(number) == (640, 480) else size_of(number))  # none is made larger
    assert done.server.asked["/ok/70"] == done.server.asked["/ok/71"] == 0


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@real
def test_all_that_is_missing_is_told_by_its_reason_and_listed(done: Done) -> None:
    rows = {line.rpartition("  ")[0].strip(): line.split()[-1] for line in done.told.splitlines() if line}
    expected = {
        "subset": 29,
        "listed again": 1,
        "not in the pool": 1,
        "refused": 2,
        "neither http nor https": 1,
        "user or password in the url": 1,
        "failed": 9,
        "http 404": 3,
        "http 500": 1,
        "http 503": 1,
        "connection broken": 1,
        "no image that can be decoded": 1,
        "larger than 64 MB": 1,
        "not allowed by its site": 1,
        "arrived": 17,
    }
    assert {name: int(rows[name]) for name in expected} == expected
    lost = {int(row.uid, 16) for row in done.rows.values()} - {int(uid, 16) for uid in done.here}
    assert len(done.missing) == len(lost) + 1  # and the one that is not in the pool
    assert set(done.missing) > lost
    assert f"--within {done.shards}" in done.told


@real
def test_faces_are_blurred_and_nothing_else_is(done: Done) -> None:
    plain = np.asarray(Image.open(io.BytesIO(picture(1))), np.float32)
    body, _, told = done.here[done.rows["ok/1"].uid]
    change = np.abs(np.asarray(Image.open(io.BytesIO(body)), np.float32) - plain).mean(axis=2)
    assert told["face_bboxes"] == BOXES
    height, width = change.shape
    left, top, right, bottom = (int(side * length) for side, length in zip(BOXES[0], (width, height) * 2, strict=True))
    assert change[top:bottom, left:right].mean() > 15
    far = np.ones(change.shape, bool)  # img2dataset widens a box by a tenth of its longest side, and the blur has a soft edge
    margin = (right - left) // 3
    far[top - margin : bottom + margin, left - margin : right + margin] = False
    assert change[far].mean() < 3
    assert change[far].max() < 60
    other = np.asarray(Image.open(io.BytesIO(done.here[done.rows["ok/3"].uid][0])), np.float32)
    assert np.abs(other - np.asarray(Image.open(io.BytesIO(picture(3))), np.float32)).mean() < 3


@real
def test_what_is_here_is_not_asked_for_again_nor_what_cannot_pass(done: Done) -> None:
    kept = {path: done.here[done.rows[path].uid][1] == "of an earlier call" for path in ["ok/50", "ok/51", *LEFT]}
    assert kept == {"ok/50": True, "ok/51": False, "ok/60": True, "ok/61": False, "ok/62": False}
    asked = {path: done.server.asked[f"/{path}"] for path in [*EARLIER, *LEFT]}
    assert asked == {"ok/50": 0, "gone/3": 0, "ok/51": 1, "ok/60": 0, "ok/61": 1, "ok/62": 1}


@real
def test_shards_have_no_gap_and_keys_are_given_once(done: Done) -> None:
    tars = sorted(done.shards.glob("*.tar"))
    assert [tar.name for tar in tars] == [f"{number:08}.tar" for number in range(len(tars))]
    keys: list[str] = []
    for tar in tars:
        told = json.loads(tar.with_name(f"{tar.stem}_stats.json").read_text())
        with tarfile.open(tar) as file:
            names = [name.removesuffix(".json") for name in file.getnames() if name.endswith(".json")]
        assert told["successes"] == len(names)
        keys += names
    assert len(keys) == len(set(keys))
    assert {path.name for path in done.shards.with_name("shards.work").iterdir()} == {"lock", "img2dataset.log", "missing.npy"}


# -- without img2dataset


@pytest.fixture
def small(tmp_path: Path) -> tuple[Path, Path, list[Row]]:
    rows = [Row(uid, f"http://host.org/{uid}.jpg") for uid in random_uids(np.random.default_rng(5), 60)]
    return write_subset(tmp_path / "one.npy", [row.uid for row in rows]), write_pool(tmp_path / "pool", rows), rows


Small = tuple[Path, Path, list[Row]]


def test_a_dry_run_counts_and_writes_nothing(small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert download.main(call(*small[:2], tmp_path / "shards", "--dry_run")) == 0
    told = capsys.readouterr().out
    assert re.search(r"^to ask for +60$", told, re.MULTILINE)
    assert "2.1 MB if all arrive" in told
    assert sorted(tmp_path.rglob("*")) == before


def test_a_shard_counts_from_when_it_has_its_statistics(small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, row in enumerate(small[2][:3]):
        write_shard(tmp_path / "shards", number, {row.uid: None})
    (tmp_path / "shards" / "00000002_stats.json").unlink()
    (tmp_path / "shards" / "00000002.parquet").write_bytes(b"PAR1 half")
    assert download.main(call(*small[:2], tmp_path / "shards", "--dry_run")) == 0
    told = capsys.readouterr().out
    assert re.search(r"^to ask for +58$", told, re.MULTILINE)
    assert re.search(r"^arrived +2$", told, re.MULTILINE)


@pytest.mark.parametrize("name", ["a*", "a[1]", "a?", "a::b", "x" * 300])
def test_a_folder_that_img2dataset_would_take_for_others_is_refused(name: str, small: Small, capsys: pytest.CaptureFixture[str]) -> None:
    assert download.main(call(*small[:2], small[0].with_name(name))) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "takes for a pattern or a chain" in line or "File name too long" in line


ODD: dict[str, tuple[str, Callable[[int], pa.Array], str]] = {
    "a uid that is null": ("uid", lambda rows: pa.array([None] * rows, pa.string()), "row 0: uid None is not"),
    "captions that are no texts": ("text", lambda rows: pa.array([{"a": 1}] * rows), "Unsupported cast from struct"),
    "boxes that are texts": ("face_bboxes", lambda rows: pa.array(["x"] * rows), "Unsupported cast from string to list"),
}


@pytest.mark.parametrize("name", ODD)
def test_a_table_of_other_types_is_named(name: str, small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    column, made, said = ODD[name]
    path = max(small[1].glob("*.parquet"))
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.schema.get_field_index(column), column, made(len(table))), path)
    assert download.main(call(*small[:2], tmp_path / "shards", "--dry_run")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{path}: " in line
    assert said in line


@pytest.mark.parametrize(("column", "value"), [("key", "uid-0"), ("key", None), ("error_message", 3)])
def test_tables_of_another_s_shards_are_read_or_named(
    column: str, value: object, small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shard(tmp_path / "shards", 0, {small[2][0].uid: "HTTP Error 404: Not Found"})
    path = tmp_path / "shards" / "00000000.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.schema.get_field_index(column), column, pa.array([value])), path)
    code = download.main(call(*small[:2], tmp_path / "shards", "--dry_run"))
    told = capsys.readouterr()
    assert code == (0 if column == "error_message" else 2)
    assert "another error" in told.out or f"00000000.parquet: is no table of img2dataset's with uids (a key is {value!r})" in told.err


def test_a_whole_shard_stays_where_there_is_no_room_for_it(small: Small, capsys: pytest.CaptureFixture[str]) -> None:
    with disk("1m") as folder:
        staged = folder / "shards.work" / "round-1" / "shards"
        write_shard(staged, 1, {small[2][0].uid: None})
        (folder / "shards.work" / "lock").write_text("of a call before")
        fill(folder / "rest")
        assert download.main(call(*small[:2], folder / "shards", "--python", "/bin/true")) == 2
        assert "no space left" in capsys.readouterr().err
        assert (staged / "00000001_stats.json").exists()


def fill(path: Path) -> None:
    """Take all the space that is left."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(512))


def test_a_disk_that_is_too_small_is_told_before_anything_is_asked(small: Small, capsys: pytest.CaptureFixture[str]) -> None:
    with disk("1m") as folder:
        assert download.main(call(*small[:2], folder / "shards", "--dry_run")) == 2
    assert "too little space: 2.1 MB" in capsys.readouterr().err


def test_shards_that_tell_no_uids_are_refused(small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shard(tmp_path / "shards", 0, {small[2][0].uid: None})
    pq.write_table(pa.table({"key": ["000000000000"], "status": ["success"]}), tmp_path / "shards" / "00000000.parquet")
    assert download.main(call(*small[:2], tmp_path / "shards", "--dry_run")) == 2
    assert "00000000.parquet: is no table of img2dataset's with uids" in capsys.readouterr().err


@real
def test_shards_are_not_put_on_a_disk_of_their_own(small: Small, capsys: pytest.CaptureFixture[str]) -> None:
    with disk("1m") as folder:
        assert download.main(call(*small[:2], folder)) == 2
        assert not list(folder.iterdir())
    assert "is a disk of its own; name a folder on it" in capsys.readouterr().err


@real
def test_an_img2dataset_that_does_not_start_is_told_by_its_last_words(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wandb.py").write_text("raise ImportError('not today')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert download.main(call(*small[:2], tmp_path / "shards")) == 2
    told = capsys.readouterr()
    assert re.search(r"^no answer +60$", told.out, re.MULTILINE)
    assert "img2dataset has not finished 1 shards; it ends with ImportError: not today; the same command goes on" in told.err


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda one, pool, more: np.save(one, np.zeros(0, np.dtype("u8,u8"))), "lists no uid"),
        (lambda one, pool, more: one.unlink(), "No such file"),
        (lambda one, pool, more: pq.write_table(pa.table({"uid": ["0"], "url": ["a"]}), pool / "0.parquet"), "has no column 'text'"),
        (lambda one, pool, more: more.extend(["--python", "/no/python"]), "/no/python: No such file"),
        (lambda one, pool, more: more.extend(["--processes_count", "0"]), "whole number"),
        (lambda one, pool, more: more.extend(["--shards_dir", "s3://bucket/shards"]), "is a URL"),
    ],
)
def test_a_wrong_call_is_one_line(
    harm: Callable[[Path, Path, list[str]], None], said: str, small: Small, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more: list[str] = []
    harm(*small[:2], more)
    assert download.main(call(*small[:2], tmp_path / "shards", *more)) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


# -- the long ones


@real
@pytest.mark.slow
def test_killed_in_the_middle_the_same_command_brings_the_same_images(server: Server, tmp_path: Path) -> None:
    rows = [Row(uid, f"{server.url}/slow/{number}") for number, uid in enumerate(random_uids(np.random.default_rng(6), 120))]
    rows += [Row(uid, f"{server.url}/gone/{number}") for number, uid in enumerate(random_uids(np.random.default_rng(7), 10))]
    one, pool, shards = (
        write_subset(tmp_path / "one.npy", [row.uid for row in rows]),
        write_pool(tmp_path / "pool", rows),
        tmp_path / "shards",
    )
    arguments = call(one, pool, shards, "--allow_private", "--number_sample_per_shard", "10", "--processes_count", "2", "--quiet")
    command = [sys.executable, str(ROOT / "tools" / "download.py"), *arguments]
    for end, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 143)):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        before = len(list(shards.glob("*.tar")))
        while len(list(shards.glob("*.tar"))) < before + 2:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(end)
        assert process.wait() == code
        wait_until(lambda: not at_work(tmp_path))
        samples(shards)  # all of them whole
    assert len(samples(shards)) < 120
    assert subprocess.run(command, check=False).returncode == 0
    assert samples(shards).keys() == {row.uid for row in rows[:120]}


def at_work(folder: Path) -> list[str]:
    """Processes that have the folder in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder).encode() in path.read_bytes():
                found.append(path.parent.name)
        except OSError:
            continue
    return found


def wait_until(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)


@real
@pytest.mark.slow
def test_another_subset_adds_what_is_new_in_it_and_the_same_one_asks_for_nothing(server: Server, tmp_path: Path) -> None:
    paths = [f"ok/{number}" for number in range(100, 108)] + ["gone/100"]
    rows = [Row(uid, f"{server.url}/{path}") for path, uid in zip(paths, random_uids(np.random.default_rng(9), 9), strict=True)]
    pool, shards = write_pool(tmp_path / "pool", rows), tmp_path / "shards"
    first = write_subset(tmp_path / "first.npy", [row.uid for row in rows[:5]])
    second = write_subset(tmp_path / "second.npy", [row.uid for row in rows[3:]])
    for one, images in ((first, 5), (first, 5), (second, 8), (second, 8), (first, 8)):
        told_by(call(one, pool, shards, "--allow_private", "--number_sample_per_shard", "2"))
        assert len(samples(shards)) == images
    assert [server.asked[f"/{path}"] for path in paths] == [1] * 9


@real
@pytest.mark.slow
def test_a_second_round_asks_again_for_what_may_pass_and_for_nothing_else(server: Server, tmp_path: Path) -> None:
    paths = ["once/90", "broken/90", "gone/90", "ok/90", "silent/90"]
    rows = [Row(uid, f"{server.url}/{path}") for path, uid in zip(paths, random_uids(np.random.default_rng(8), 5), strict=True)]
    one, pool, shards = (
        write_subset(tmp_path / "one.npy", [row.uid for row in rows]),
        write_pool(tmp_path / "pool", rows),
        tmp_path / "shards",
    )
    assert "timed out" in told_by(call(one, pool, shards, "--allow_private", "--rounds", "2"))
    assert samples(shards).keys() == {rows[0].uid, rows[3].uid}
    assert [server.asked[f"/{path}"] for path in paths] == [2, 2, 1, 1, 2]


@real
@pytest.mark.slow
def test_a_download_in_which_nothing_goes_on_is_ended(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [Row("1", f"{server.url}/silent/1")]
    one, pool = write_subset(tmp_path / "one.npy", ["1"]), write_pool(tmp_path / "pool", rows, shards=1)
    monkeypatch.setattr(asking, "STALLED", 2.0)
    assert download.main(call(one, pool, tmp_path / "shards", "--allow_private")) == 2
    assert "has not finished 1 shards" in capsys.readouterr().err
    assert not at_work(tmp_path)


GUARDED = """
import sys
from pathlib import Path
from tests.imageserver import Server, serving
from tests.test_images import Row, call, samples, write_pool, write_subset
from tools import download
folder = Path(sys.argv[1])
with serving("0.0.0.0") as server:
    port = server.server_port
    urls = [f"http://93.184.216.34:{port}/ok/1", f"http://93.184.216.34:{port}/to/http://127.0.0.1:{port}/ok/2",
            f"http://rebound.org:{port}/ok/3", f"http://public.org:{port}/ok/4"]
    rows = [Row(f"{number:032x}", url) for number, url in enumerate(urls)]
    one, pool = write_subset(folder / "one.npy", [row.uid for row in rows]), write_pool(folder / "pool", rows)
    code = download.main(call(one, pool, folder / "shards"))
    print(code, sorted(samples(folder / "shards")), dict(server.asked))
"""


@real
@pytest.mark.slow
def test_no_redirect_and_no_name_leads_a_worker_to_a_private_address(tmp_path: Path) -> None:
    """In a network of its own, where an address of the internet is this machine's."""
    (tmp_path / "hosts").write_text("127.0.0.1 localhost rebound.org\n93.184.216.34 public.org\n")
    prepared = f"ip link set lo up && ip addr add 93.184.216.34/32 dev lo && mount --bind {tmp_path / 'hosts'} /etc/hosts"
    alone = ["unshare", "-nm", "sh", "-c", f'{prepared} && exec "$@"', "sh"]
    try:
        permitted = subprocess.run([*alone, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        permitted = False
    if not permitted:
        pytest.skip("networks of one's own are not permitted")
    program = [sys.executable, "-c", GUARDED, str(tmp_path)]
    done = subprocess.run([*alone, *program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert re.search(r"leads to a private address +2\n", done.stdout)
    asked = {"/ok/1": 1, "/ok/4": 1}
    assert f"0 ['{0:032x}', '{3:032x}'] " in done.stdout
    last = done.stdout.splitlines()[-1]
    assert all(f"'{path}': {times}" in last for path, times in asked.items())
    assert "'/ok/2'" not in last
    assert "'/ok/3'" not in last
