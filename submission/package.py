"""Make an entry for DataComp's leaderboard, in its filtering track: a folder that a reviewer can check, and the command that submits it.

    python submission/package.py OUT.npy --work OUT.work --results TRAINED/eval_results.jsonl --scale medium --method_name ... --author ...

The uid file is validated as by validate.py, the results must have all of DataComp's tasks, the file must be the one that the work
folder's manifest tells of, and no name may be a placeholder. Nothing is sent: `submit.sh` in the folder holds the line that submits,
for you to run. --push REPO also uploads the folder, but not submit.sh, to a model repository on the Hugging Face Hub; the token is the
one that huggingface_hub keeps (hf auth login, or HF_TOKEN), the endpoint HF_ENDPOINT.

Exit 0: done. 2: something is wrong, a line each on stderr; nothing is written.
"""

from __future__ import annotations

if __name__ == "__main__":
    import importlib
    import os
    import sys

    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    importlib.import_module("filters.start").package()

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from filters.command import Console, Interruption, Quiet, ended, show
from filters.options import option
from filters.pool.errors import BadInput
from filters.start import STOPPED
from submission import entry, hub, results
from submission.author import HUB, Author
from submission.calls import Checks, read, refused
from submission.card import Facts
from submission.datacomp import SCALES
from submission.published import HEADS
from submission.subset import Report, examined

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """What the entry is made of, and where it goes."""

    work: str | None = option("work folder of the run that made OUT.npy", None)
    results: str | None = option("eval_results.jsonl of evaluate.py", None)
    train_output_dir: str | None = option("of the training, as evaluate.py takes it [default: the folder of --results]", None)
    save_path: str | None = option("folder of the entry [default: OUT.npy with .entry for .npy]", None)
    confirm_rules: bool = option("you say so: training, captions and evaluation as DataComp's rules have them, no test image used", False)
    upload_checkpoint: bool = option("evaluate.py is to upload the trained model too", False)
    push: str | None = option("USER/NAME on the Hub, to which the folder is uploaded [default: nothing is sent]", None)
    overwrite: bool = option("replace an entry at save_path", False)


class Gathered:
    """What was read, and all that is wrong with it."""

    def __init__(self) -> None:
        self.faults: list[BadInput] = []

    def take(self, found: Callable[[], tuple[T, list[BadInput]]]) -> T | None:
        """What it gives; its faults are kept, one that ends it too."""
        try:
            taken, faults = found()
        except BadInput as error:
            self.faults.append(error)
            return None
        self.faults += faults
        return taken


def main(arguments: list[str] | None = None) -> int:
    return ended("package", STOPPED, partial(_run, sys.argv[1:] if arguments is None else arguments))


def _run(arguments: list[str], interruption: Interruption) -> int:
    path, layers = read("package", __doc__, [Entry, Author, Checks], arguments)
    given: Entry = layers.part(Entry)
    author: Author = layers.part(Author)
    checks: Checks = layers.part(Checks)
    console = Quiet(interruption) if checks.quiet else Console("package", interruption)
    folder = Path(given.save_path or f"{str(path).removesuffix('.npy')}.entry").absolute()
    gathered = Gathered()
    gathered.faults += [*_of_call(path, given, checks, folder), *author.faults()]
    facts = _facts(path, given, author, checks, gathered, console)
    if facts is None or gathered.faults:
        return refused("package", gathered.faults)
    _note(facts, given, console)
    sources = _sources(given)
    entry.write(folder, facts, sources, given.overwrite, console)
    if given.push:
        hub.push(folder, given.push, entry.PRIVATE, checks.quiet)
    if not checks.quiet:
        show(_told(folder, facts, given))
        print(f"\nSubmit it, in a checkout of DataComp:\n\n{entry.command(folder, facts, sources)}")
    return 0


def _of_call(path: Path, given: Entry, checks: Checks, folder: Path) -> list[BadInput]:
    """What is wrong with the call, before anything is read."""
    needed = {"work": given.work, "results": given.results, "scale": checks.scale}
    faults = [BadInput("command line", f"no --{name} is given", "see --help") for name, value in needed.items() if not value]
    if given.results and Path(given.results).name != results.NAME:
        faults.append(BadInput(given.results, f"is not named {results.NAME}, and evaluate.py reads no other", "name that one"))
    for text, why in (("::", "evaluate.py takes it for two"), ("\n", "SHA256SUMS has a line a file")):
        if text in str(folder / path.name):
            faults.append(BadInput(folder / path.name, f"holds {text!r}, and {why}", "give the file, or --save_path, another name"))
    try:
        entry.check_place(folder, given.overwrite)
        if given.push:
            hub.check_installed()
            if not all(map(HUB.fullmatch, given.push.split("/"))) or given.push.count("/") != 1:
                raise BadInput("--push", f"{given.push!r} is not USER/NAME", "name a repository of yours")
    except BadInput as error:
        faults.append(error)
    return faults


def _facts(path: Path, given: Entry, author: Author, checks: Checks, gathered: Gathered, console: Quiet) -> Facts | None:
    """All that the card is written from, unless something of it cannot be read."""

    def uids() -> tuple[Report, list[BadInput]]:
        report = examined(path, checks.against(), console)
        return report, report.faults

    report = gathered.take(uids)
    found = gathered.take(lambda: results.read(Path(str(given.results)))) if given.results else None
    told = None
    if given.work and report and checks.scale:
        work, scale = Path(given.work), checks.scale
        told = gathered.take(lambda: entry.manifest_of(work, report, scale))
    if report is None or found is None or told is None:
        return None
    return Facts(author, str(checks.scale), given.confirm_rules, report, found, told)


def _sources(given: Entry) -> entry.Sources:
    found = Path(str(given.results))
    return entry.Sources(Path(str(given.work)), found, Path(given.train_output_dir or found.parent), given.upload_checkpoint)


def _note(facts: Facts, given: Entry, console: Quiet) -> None:
    """What is no fault, and may surprise."""
    rows = facts.manifest["pool"]["rows"]
    if rows < SCALES[facts.scale]:
        console.say(f"the run's pool has {rows:,} samples, {facts.scale} has {SCALES[facts.scale]:,}")
    if not given.confirm_rules:
        console.say("the card's boxes of what only you know are open: --confirm_rules ticks them")
    sources = _sources(given)
    if not (sources.train_output_dir / "info.pkl").exists():
        console.say("no info.pkl in --train_output_dir: where evaluate.py runs, train.py must have left it there")
    elif not (sources.results.parent / "info.pkl").exists():
        console.say("no info.pkl beside --results: evaluate.py, which left both, would evaluate anew")


def _told(folder: Path, facts: Facts, given: Entry) -> list[tuple[str, str]]:
    columns = zip(HEADS[1:], facts.columns[1:], strict=True)
    rows = [("entry", str(folder)), ("uids", f"{facts.report.records:,}"), ("sha256", facts.report.sha256)]
    rows += [(name, f"{value:.2f}") for name, value in columns]
    return [*rows, ("pushed", str(given.push))] if given.push else rows
