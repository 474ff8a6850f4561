"""tools/datacomp.py: whether a checkout is usable, and whether what DataComp's scripts left is what was asked for."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from tools import datacomp
from tools.loop.checkout import FILES, ROOT, Checkout, logged
from tools.loop.doctor import NEEDS

REPO = os.environ.get("DATACOMP_REPO")
HAS_ALL = "DATACOMP_PYTHON" in os.environ or importlib.util.find_spec("img2dataset")
beside = pytest.mark.skipif(
    not (REPO and HAS_ALL), reason="DATACOMP_REPO names no checkout of mlfoundations/datacomp, or DATACOMP_PYTHON no Python for it"
)
IN_INPUT, LOST, OTHER = [f"{number:032x}" for number in (3, 2**64 + 1, 2**127 + 5)], f"{2**70:032x}", f"{2**99:032x}"
LISTED = [IN_INPUT[0], *[IN_INPUT[1]] * 3, LOST, IN_INPUT[2]]  # ascending


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the files of one."""
    for name in FILES:
        (tmp_path / "checkout" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "checkout" / name).touch()
    return tmp_path / "checkout"


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """A Python that knows its own library, and empty modules by the names of those that DataComp's scripts import."""
    for need in NEEDS:
        install(tmp_path, need.what, need.distribution, "1")
    (tmp_path / "modules/torch/cuda.py").write_text("is_available = bool")
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path}/modules exec {sys.executable} -S "$@"\n')
    program.chmod(0o755)
    return program


def install(folder: Path, what: str, distribution: str, version: str) -> None:
    module, _, attribute = what.partition(":")
    package = folder / "modules"
    for name in module.split("."):
        package /= name
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").touch()
    first, *deeper = attribute.split(".") if attribute else [""]
    if first:
        made = f"type('Any', (), {{}})\n{first}.{'.'.join(deeper[:1])} = type('Any', (), {{}})\n" if deeper else "object\n"
        (package / "__init__.py").write_text(f"{first} = {made}" + (f"{attribute} = object\n" if deeper else ""))
    if what == "torch":
        (package / "__init__.py").write_text("from torch import cuda\n")
    told = folder / f"modules/{distribution}-{version}.dist-info"
    told.mkdir(exist_ok=True)
    (told / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")


def run(*arguments: object) -> int:
    return datacomp.main([*map(str, arguments), "--quiet"])


def test_a_checkout_with_all_it_needs_is_usable(checkout: Path, python: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("doctor", "--datacomp_dir", checkout, "--python", python) == 0
    assert "WRONG" not in capsys.readouterr().out


def test_a_missing_module_is_named_with_its_cure(checkout: Path, python: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (python.parent / "modules/yaml/__init__.py").unlink()
    (python.parent / "modules/yaml").rmdir()
    assert run("doctor", "--datacomp_dir", checkout, "--python", python) == 2
    told = capsys.readouterr()
    wrong = [line for line in told.out.splitlines() if line.startswith("WRONG")]
    assert len(wrong) == 1
    assert "yaml" in wrong[0]
    assert wrong[0].endswith(f"{python} -m pip install pyyaml")
    assert told.err.count("\n") == 1


def test_a_version_that_lacks_what_the_scripts_use_is_named_with_its_cure(
    checkout: Path, python: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (python.parent / "modules/webdataset/__init__.py").write_text("writer = object\n")
    (python.parent / "modules/webdataset-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: webdataset\nVersion: 1.0.2\n")
    assert run("doctor", "--datacomp_dir", checkout, "--python", python) == 2
    (wrong,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("WRONG")]
    assert "webdataset 1.0.2" in wrong
    assert wrong.endswith("pip install webdataset==0.2.31")


def test_a_folder_that_is_no_checkout_says_which_files_it_lacks(checkout: Path, python: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (checkout / "resharder.py").unlink()
    assert run("doctor", "--datacomp_dir", checkout, "--python", python) == 2
    (wrong,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("WRONG")]
    assert "has no resharder.py;" in wrong
    assert "git clone" in wrong


def test_a_python_that_is_not_there_is_one_line(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("doctor", "--datacomp_dir", checkout, "--python", "/no/python") == 2
    assert capsys.readouterr().err == "datacomp: /no/python: No such file or directory; check the path\n"


def test_its_processes_do_not_see_this_repository(checkout: Path, python: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:/elsewhere")
    seen = Checkout(checkout, sys.executable).output_of(["-c", "import sys; print(sys.path)"]).decode()
    assert "'/elsewhere'" in seen
    assert f"'{ROOT}'" not in seen


STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"
LEAVES = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {STUBBORN!r}], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid)
"""


def test_a_worker_that_outlives_its_script_is_ended(checkout: Path, tmp_path: Path) -> None:
    with logged(tmp_path / "a.log") as log:
        assert Checkout(checkout, sys.executable).run(["-c", LEAVES], log, lambda line: None).startswith("ended with 0,")
    pid = int((tmp_path / "a.log").read_text())
    for _ in range(100):  # whoever inherits it has yet to ask for it
        if not alive(pid):
            break
        time.sleep(0.1)
    assert not alive(pid)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has asked for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_without_git_a_checkout_is_usable(checkout: Path, python: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(python.parent))
    (python.parent / "sh").symlink_to("/bin/sh")
    assert run("doctor", "--datacomp_dir", checkout, "--python", python) == 0


# -- read-back

Files = dict[str, bytes]


def sample(key: str, uid: str, **more: bytes) -> Files:
    told = {"jpg": b"a picture", "json": json.dumps({"uid": uid}).encode(), "txt": b"words"} | more
    return {f"{key}.{ending}": body for ending, body in told.items() if body}


def write_shard(folder: Path, number: int, samples: Iterable[Files]) -> None:
    samples = list(samples)
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / f"{number:08d}.tar", "w") as tar:
        for name, body in (item for one in samples for item in one.items()):
            member = tarfile.TarInfo(name)
            member.size = len(body)
            tar.addfile(member, io.BytesIO(body))
    (folder / f"{number:08d}_stats.json").write_text(json.dumps({"successes": len(samples)}))


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """A subset file and the shards of a pool, of which 2 are empty or far apart."""
    words = [divmod(int(uid, 16), 2**64) for uid in LISTED]
    np.save(tmp_path / "subset.npy", np.array(words, "u8,u8"))
    write_shard(tmp_path / "shards", 0, [sample("000000000", IN_INPUT[0]), sample("000000007", OTHER)])
    write_shard(tmp_path / "shards", 1, [])
    write_shard(tmp_path / "shards", 5, [sample("000050000", IN_INPUT[2]), sample("000050001", IN_INPUT[1])])
    return tmp_path


def right() -> list[Files]:
    """What the resharder is to write of them."""
    numbered = [(IN_INPUT[0], 0), (IN_INPUT[2], 0), (IN_INPUT[1], 0), (IN_INPUT[1], 1), (IN_INPUT[1], 2)]
    return [sample(f"{uid}-{number}", uid) for uid, number in numbered]


def write_output(folder: Path, samples: list[Files]) -> None:
    write_shard(folder / "out", 0, samples[:2])
    write_shard(folder / "out", 1, samples[2:])
    (folder / "out/sample_ids.npy").write_bytes((folder / "subset.npy").read_bytes())
    (folder / "out/meta.json").write_text(json.dumps({"output_count": len(samples), "output_shard_count": 2}))


def reshard(folder: Path, *more: object) -> int:
    places = ("--subset", folder / "subset.npy", "--shards_dir", folder / "shards", "--output_dir", folder / "out")
    return run("reshard", *places, "--datacomp_dir", REPO or folder, *more)


def test_a_right_output_is_counted(given: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_output(given, right())
    assert reshard(given) == 0
    told = dict(line.rsplit(None, 1) for line in capsys.readouterr().out.splitlines())
    assert told["listed"] == "6"
    assert told["listed, and not in the input"] == "1"
    assert told["written"] == told["to be written"] == "5"
    assert told["missing"] == told["not to be there"] == told["uids not as often as listed"] == "0"


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        (right()[1:], f"lacks 1 samples that the input has, first {IN_INPUT[0]} of 00000000.tar"),
        ([*right(), sample(f"{OTHER}-0", OTHER)], f"holds 1 samples that are not to be there, first {OTHER}"),
        ([*right(), sample(f"{LOST}-0", LOST)], f"holds 1 samples that are not to be there, first {LOST}"),
        ([*right(), sample(f"{'9' * 32}-0", "9" * 32)], f"holds 1 samples that are not to be there, first {'9' * 32}"),
        ([*right(), sample(f"{IN_INPUT[0]}-1", IN_INPUT[0])], f"first {IN_INPUT[0]} 2 times instead of 1"),
        (right()[:-1], f"first {IN_INPUT[1]} 2 times instead of 3"),
        ([*right()[:-1], right()[-2]], f"sample {IN_INPUT[1]}-1 has two files of one ending"),
        ([right()[3], *right()[:4]], f"holds 1 keys that are not the next of uid-0, uid-1, ..., first of {IN_INPUT[1]}"),
        ([*right()[:-1], sample("other", IN_INPUT[1])], f"keys that are not the next of uid-0, uid-1, ..., first of {IN_INPUT[1]}"),
        ([*right()[:-1], sample(f"{IN_INPUT[1]}-2", IN_INPUT[1], jpg=b"")], f"1 samples without an image, first {IN_INPUT[1]}"),
        ([*right()[:-1], sample(f"{IN_INPUT[1]}-2", "no uid")], "is not 1 to 32 hexadecimal digits"),
        ([*right()[:-1], sample(f"{IN_INPUT[1]}-2", "1", json=b"")], f"sample {IN_INPUT[1]}-2 has no json"),
        ([], "holds no sample"),
    ],
)
def test_a_wrong_output_is_named_in_one_line(given: Path, samples: list[Files], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_output(given, samples)
    assert reshard(given) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def cut(folder: Path) -> None:
    whole = (folder / "00000001.tar").read_bytes()
    (folder / "00000001.tar").write_bytes(whole[: 4 * 512])


NOTES: list[tuple[Callable[[Path], object], str]] = [
    (cut, "00000001.tar: is no whole tar file"),
    (lambda out: (out / "00000001_stats.json").unlink(), "has 3 samples in 00000001.tar, where its stats say None"),
    (lambda out: (out / "meta.json").write_text("cut"), "has a meta.json that says output_count None, where 5 is found"),
    (lambda out: (out / "meta.json").write_text('{"output_count": 5, "output_shard_count": 3}'), "output_shard_count 3, where 2 is found"),
    (lambda out: np.save(out / "sample_ids.npy", np.zeros(6, "u8,u8")), "has no sample_ids.npy that equals"),
]


@pytest.mark.parametrize(("harm", "said"), NOTES)
def test_notes_that_contradict_the_shards_are_named(
    given: Path, harm: Callable[[Path], object], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_output(given, right())
    harm(given / "out")
    assert reshard(given) == 2
    assert said in capsys.readouterr().err


def test_a_folder_that_no_resharder_wrote_is_not_emptied(given: Path, checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (given / "out").mkdir()
    (given / "out/00000000.tar").touch()
    assert reshard(given, "--datacomp_dir", checkout, "--overwrite") == 2
    assert "holds what no resharder wrote" in capsys.readouterr().err
    assert (given / "out/00000000.tar").exists()


def test_what_is_read_from_is_never_emptied(given: Path, checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_output(given, right())
    before = {path.name: path.read_bytes() for path in (given / "out").iterdir()}
    for places in (("--subset", given / "out/sample_ids.npy"), ("--shards_dir", given / "out"), ("--shards_dir", given / "shards/../out")):
        assert reshard(given, *places, "--datacomp_dir", checkout, "--overwrite") == 2
        assert "is where the shards or the subset are read from" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (given / "out").iterdir()} == before
    assert reshard(given, "--subset", given / "out/sample_ids.npy") == 0  # it is only read back


def test_what_is_there_stays_where_a_new_reshard_could_not_begin(given: Path, checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_output(given, right())
    (given / "nothing").mkdir()
    assert reshard(given, "--datacomp_dir", checkout, "--shards_dir", given / "nothing", "--overwrite") == 2
    assert "holds no shard such as 00000000.tar" in capsys.readouterr().err
    assert reshard(given, "--datacomp_dir", given / "nothing", "--overwrite") == 2
    assert "resharder.py: is not there; git clone" in capsys.readouterr().err
    assert reshard(given) == 0


@pytest.mark.parametrize("order", [LISTED[::-1], []])
def test_a_subset_that_the_resharder_would_take_without_a_word_is_refused(given: Path, order: list[str]) -> None:
    np.save(given / "subset.npy", np.array([divmod(int(uid, 16), 2**64) for uid in order], "u8,u8"))
    assert reshard(given) == 2
    assert not (given / "out").exists()


@beside
def test_datacomps_resharder_writes_each_listed_sample_as_often_as_it_is_listed(given: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_output(given, right()[1:])
    assert reshard(given, "--overwrite") == 0, capsys.readouterr().err
    written: Counter[str] = Counter()
    for path in (given / "out").glob("*.tar"):
        with tarfile.open(path) as tar:
            written.update(name.partition("-")[0] for name in tar.getnames() if name.endswith(".json"))
    assert written == Counter(uid for uid in LISTED if uid != LOST)


@beside
@pytest.mark.slow
def test_a_shard_that_datacomps_resharder_passes_over_is_missed(given: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (given / "shards/00000005_stats.json").unlink()
    assert reshard(given) == 2
    error = capsys.readouterr().err
    assert f"lacks 4 samples that the input has, first {IN_INPUT[1]} of 00000005.tar" in error
    assert "resharder.py ended with 0" in error
