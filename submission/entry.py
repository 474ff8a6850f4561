"""The folder of an entry: what a reviewer needs to trust it, laid out as evaluate.py lays out its own upload.

    ENTRY/
      README.md                     the method card
      SCALE_scale/samples/OUT.npy   the uid file
      SCALE_scale/results.jsonl     the results
      manifest.json                 the run that made the uid file
      entry.json                    N, sha256, scores
      SHA256SUMS                    of all above but the card, for sha256sum -c
      submit.sh                     the command that submits it; stays on this machine

It is made beside its place and renamed, so it is there whole or not at all.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filters.command import Meter, Quiet
from filters.pool.errors import BadInput, from_os
from filters.pool.files import UNREADABLE, move, replacing, sha256, unsealed
from submission import card
from submission.card import Facts
from submission.datacomp import SCALES
from submission.published import HEADS
from submission.subset import Report

PRIVATE = ("submit.sh",)  # the e-mail address, and places on this machine
POSTS = "# To be run in a checkout of mlfoundations/datacomp. It posts to DataComp's leaderboard."
CHUNK = 1 << 22


@dataclass(frozen=True)
class Sources:
    """What an entry is made of."""

    work: Path  # of the run that made the uid file
    results: Path
    train_output_dir: Path  # as evaluate.py takes it
    upload_checkpoint: bool


def manifest_of(work: Path, report: Report, scale: str) -> tuple[dict[str, Any], list[BadInput]]:
    """The manifest of the run that made the file, and what is wrong with it. Raises BadInput when it cannot be read."""
    path = work / "manifest.json"
    with _as_written(path):
        told = unsealed(path)
        return told, list(_disagrees(path, told, report, scale))


def _disagrees(path: Path, told: dict[str, Any], report: Report, scale: str) -> Iterator[BadInput]:
    digest, rows = str(told["sha256"]), int(told["pool"]["rows"])
    if report.sha256 and report.sha256 != digest:
        what = f"is not the subset of {path}: its sha256 is {report.sha256[:12]}…, that of the manifest {digest[:12]}…"
        yield BadInput(report.path, what, "name the work folder of the run that made it, or run that again")
    if rows > SCALES[scale]:
        what = f"is of a pool of {rows:,} samples, and {scale} has {SCALES[scale]:,}"
        yield BadInput(path, what, "name the --scale of the pool")


@contextmanager
def _as_written(manifest: Path) -> Iterator[None]:
    """BadInput where the block does not find in it what a run writes: its digest can be computed by anybody."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        do = "name by --work the work folder of the run that made the uid file"
        raise BadInput(manifest, "there is no such file", do) from None
    except OSError as error:
        raise from_os(manifest, error) from None
    except UNREADABLE:
        raise BadInput(manifest, "is not as a run wrote it", "run the filter again") from None


def write(folder: Path, facts: Facts, sources: Sources, overwrite: bool, console: Quiet) -> None:
    """Make the folder."""
    with _as_written(sources.work / "manifest.json"):
        readme = card.written(facts)
    with _in_place(folder, overwrite) as new:
        inside = new / f"{facts.scale}_scale"
        _copy(facts.report, inside / "samples" / facts.report.path.name, console)
        _copy_small(sources.results, inside / "results.jsonl")
        _copy_small(sources.work / "manifest.json", new / "manifest.json")
        _text(new / "entry.json", json.dumps(summary(facts), indent=2) + "\n")
        _text(new / "SHA256SUMS", "".join(f"{digest}  {name}\n" for name, digest in _sums(new, facts.report)))
        _text(new / "README.md", readme)
        _text(new / "submit.sh", f"{POSTS}\n{command(folder, facts, sources)}\n")


@contextmanager
def _in_place(folder: Path, overwrite: bool) -> Iterator[Path]:
    """An empty folder that takes the name when the block ends well. It is held: another call would write into it."""
    new = folder.with_name(f".{folder.name}.tmp")
    try:
        new.mkdir(parents=True, exist_ok=True)
        held = os.open(new, os.O_RDONLY)
    except OSError as error:
        raise from_os(folder, error) from None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _empty(new)
        try:
            yield new
            if folder.exists():
                check_place(folder, overwrite)
                shutil.rmtree(folder)
            move(new, folder)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    except BlockingIOError:
        raise BadInput(folder, "is being made by another call", "wait for it") from None
    except OSError as error:
        raise from_os(folder, error) from None
    finally:
        os.close(held)


def _empty(folder: Path) -> None:
    """Of what a call that was killed left there."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def check_place(folder: Path, overwrite: bool) -> None:
    """Raise BadInput when something is there that must stay."""
    try:
        there, ours = folder.exists(), (folder / "entry.json").is_file()
    except OSError as error:
        raise from_os(folder, error) from None
    if there and not overwrite:
        raise BadInput(folder, "exists", "give --overwrite, or another --save_path")
    if there and not ours:
        raise BadInput(folder, "is there and is no entry", "name another --save_path")


def _copy(report: Report, target: Path, console: Quiet) -> None:
    """The uid file, as it was when it was examined."""
    digest, meter = hashlib.sha256(), Meter(console, "copy", report.path.stat().st_size)
    with report.path.open("rb") as source, replacing(target) as file:
        while data := source.read(CHUNK):
            digest.update(data)
            file.write(data)
            meter(len(data))
    console.end()
    if digest.hexdigest() != report.sha256:
        raise BadInput(report.path, "changed during the run", "run again when nothing writes to it")


def _copy_small(source: Path, target: Path) -> None:
    with replacing(target) as file:
        file.write(source.read_bytes())


def _sums(new: Path, report: Report) -> Iterator[tuple[Path, str]]:
    """Of the files there are; the uid file's is known, and it may be long."""
    for path in sorted(path for path in new.rglob("*") if path.is_file()):
        yield path.relative_to(new), report.sha256 if path.name == report.path.name else sha256(path)


def _text(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text.encode())


def summary(facts: Facts) -> dict[str, Any]:
    """What a program may want to read of it."""
    return {
        "method_name": facts.author.method_name,
        "author": facts.author.author,
        "track": "filtering",
        "scale": facts.scale,
        "dataset_size": facts.report.records,
        "sha256": facts.report.sha256,
        "columns": dict(zip(HEADS[1:], facts.columns[1:], strict=True)),
        "scores": facts.results.scores,
    }


def command(folder: Path, facts: Facts, sources: Sources) -> str:
    """evaluate.py --submit with every flag that it asserts, or silently needs: --track, --samples, --dataset-size."""
    author, train, results = facts.author, sources.train_output_dir.absolute(), sources.results.absolute().parent
    samples = folder.absolute() / f"{facts.scale}_scale" / "samples" / facts.report.path.name
    flags: list[tuple[str, object]] = [("track", "filtering"), ("train_output_dir", train)]
    flags += [("output_dir", results)] * (results != train)  # or it would evaluate anew
    flags += [("samples", samples), ("dataset-size", facts.report.records)]
    names = ("method_name", "author", "email", "hf_username", "hf_repo_name", "writeup")
    flags += [(name, getattr(author, name)) for name in names if getattr(author, name)]
    lines = ["python evaluate.py --submit", *(f"--{name}={shlex.quote(str(value))}" for name, value in flags)]
    return " \\\n    ".join([*lines, *["--upload_checkpoint"] * sources.upload_checkpoint])
