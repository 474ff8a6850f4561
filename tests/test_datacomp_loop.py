"""tools/datacomp.py: whether a checkout is usable, and whether what DataComp's scripts left is what was asked for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tools import datacomp
from tools.loop.checkout import FILES, ROOT, Checkout
from tools.loop.doctor import NEEDS


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
