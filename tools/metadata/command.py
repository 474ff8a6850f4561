"""`tools/download.py metadata`: a pool's parquet files, and of its npz files the members that are asked for."""

from __future__ import annotations

import argparse
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from filters.command import Console, Interruption, Quiet, home, show
from filters.options import OneLineParser
from filters.pool import store
from filters.pool.errors import BadInput, from_os
from filters.pool.files import UNREADABLE, replacing, unsealed, write_sealed
from filters.pool.place import Remote, local
from filters.pool.pool import DOWNLOADING, ENDS, Pool
from filters.work.plan import lasting, sized
from filters.work.room import existing
from filters.work.workdir import WorkDir
from tools.metadata.draft import END, Draft
from tools.metadata.ledger import Ledger
from tools.metadata.pool import ALL, NONE, Here, listed, repository
from tools.metadata.together import Fetching, together

SCALES = ("small", "medium", "large", "xlarge")
NOTES = Path(DOWNLOADING).parent  # folder of what is not the pool's
ASKED = 32  # npz files of which the directory is asked at once
SPARE = 100e6  # bytes of disk that stay free


@dataclass(frozen=True)
class Call:
    """One call, and what it downloads."""

    given: argparse.Namespace
    console: Quiet
    folder: Path
    features: tuple[str, ...] | None  # members of an npz; None: all

    @property
    def notes(self) -> Path:
        return self.folder / NOTES

    @property
    def embeddings(self) -> bool:
        return self.features != ()

    def again(self) -> str:
        """The command that goes on."""
        told = ["python", "tools/download.py", "metadata", "--scale", self.given.scale, "--metadata_dir", str(self.folder)]
        return shlex.join([*told, *(["--features", *self.given.features] if self.given.features else [])])


@dataclass(frozen=True)
class Plan:
    """The pool's files, and those that have to be fetched."""

    here: Here
    files: list[Remote]
    drafts: list[Draft]

    def to_fetch(self, notes: Path) -> int:
        """Bytes."""
        return sum(draft.to_fetch(notes) for draft in self.drafts)

    def disk(self, notes: Path) -> int:
        """Bytes that it will take, beside those of drafts that are there."""
        return sum(draft.size - draft.there(notes) for draft in self.drafts)


def flags(one: OneLineParser) -> None:
    """Of the command."""
    one.set_defaults(run=run)
    one.add_argument("--scale", required=True, choices=SCALES, help="whose metadata: mlfoundations/datacomp_SCALE of the Hub")
    one.add_argument("--metadata_dir", help="where it comes to; default $DATACOMP_DIR/SCALE/metadata, where --pool SCALE looks")
    text = f"members of the npz files, or {ALL}, or {NONE}: parquet files alone; default those that densprune.py reads"
    one.add_argument("--features", nargs="+", metavar="MEMBER", help=text)
    one.add_argument("--num_workers", type=int, choices=range(1, 65), default=4, metavar="N", help="files at a time; default 4")
    one.add_argument("--dry_run", action="store_true", help="say how much would be fetched, and how long it would take; write nothing")
    one.add_argument("--quiet", action="store_true", help="print nothing but an error")


def run(given: argparse.Namespace, interruption: Interruption) -> None:
    """Raises BadInput where the Hub does not give what is asked for."""
    console = Quiet(interruption) if given.quiet else Console("metadata", interruption)
    call = Call(given, console, _folder(given), _members(given))
    store.told_of_retries.set(lambda why: console.tell(lambda: why))
    if given.dry_run:
        foresee(call, _plan(call, _pinned(call)))
        return
    with _alone(call):
        commit = _pinned(call)
        write_sealed(call.notes / "version.json", {"repository": repository(given.scale).url, "commit": commit})
        plan = _plan(call, commit)
        if plan.drafts:
            fetch(call, plan)
        conclude(call, plan)


def _folder(given: argparse.Namespace) -> Path:
    folder = given.metadata_dir or home(given.scale)
    if not folder:
        raise BadInput("--metadata_dir", "is not given, and DATACOMP_DIR is not set", "give one of them")
    return local(str(folder), "a pool").resolve()


def _members(given: argparse.Namespace) -> tuple[str, ...] | None:
    asked = tuple(dict.fromkeys(given.features or _of_preset(given.scale)))
    if asked in ((ALL,), (NONE,)):
        return None if asked == (ALL,) else ()
    if {ALL, NONE} & set(asked):
        raise BadInput("--features", f"{ALL} and {NONE} stand alone", "give one of them, or names of members")
    return asked


def _of_preset(scale: str) -> list[str]:
    """What densprune.py --pool SCALE reads."""
    from filters.densprune import COMMAND

    settings = COMMAND.settled({"pool": scale}, "command line")
    return [settings.values[flag.name] for flag in settings.flags.values() if flag.attribute == "features"]


@contextmanager
def _alone(call: Call) -> Iterator[None]:
    """One call at a time works in the folder, and says there that it is not finished."""
    held = WorkDir(call.notes)
    try:
        yield
    finally:
        held.close()


def _pinned(call: Call) -> str:
    """The version that is downloaded: the one that the folder has, else the newest."""
    source = repository(call.given.scale)
    newest, commit = store.commit(source), _noted(call, source)
    if commit in (None, newest):
        return newest
    if not store.has(source, commit):
        what = f"holds version {commit[:7]}, which the Hub has no more; its newest is {newest[:7]}"
        raise BadInput(call.folder, what, "move the folder away, or name another --metadata_dir")
    what = f"the Hub has a newer version, {newest[:7]}; this folder keeps to {commit[:7]}"
    call.console.say(f"{what}: for the newer one name another --metadata_dir")
    return commit


def _noted(call: Call, source: Remote) -> str | None:
    """The version that the folder has; raises BadInput for another pool's."""
    path = call.notes / "version.json"
    try:
        told = unsealed(path)
    except FileNotFoundError:
        return None
    except UNREADABLE:
        raise BadInput(path, "is not as it was written", "name another --metadata_dir") from None
    if told["repository"] != source.url:
        raise BadInput(call.folder, f"holds {told['repository']}", "name another --metadata_dir")
    return str(told["commit"])


def _plan(call: Call, commit: str) -> Plan:
    files = listed(call.given.scale, commit, call.embeddings)
    _check_alone(call, files)
    here = Here(call.folder, Ledger(call.notes / "checked.jsonl", keep=not call.given.dry_run), call.features)
    looking = Fetching(call.console, f"look at {len(files):,} files")
    found = together(partial(here.missing, pulse=looking), files, ASKED, looking)
    drafts = sorted((draft for draft in found if draft), key=lambda draft: draft.target)
    call.console.end()
    return Plan(here, files, drafts)


def _check_alone(call: Call, files: list[Remote]) -> None:
    """Raise BadInput for a file of the folder that a filter would take for one of the pool's."""
    known = {file.name for file in files}
    for path in sorted(call.folder.glob("*")) if call.folder.is_dir() else []:
        if path.name.endswith(ENDS if call.embeddings else ENDS[:1]) and path.name not in known:
            raise BadInput(path, "is none of the pool's", "move it away, or name another --metadata_dir")


def foresee(call: Call, plan: Plan) -> None:
    """What would be fetched; nothing is written."""
    trial = Fetching(call.console, "measure")

    def look(draft: Draft) -> None:
        for _ in draft.data(0, store.PIECE, trial):
            pass

    _try(call, plan, look, trial)
    _tell(call, plan, plan.to_fetch(call.notes), trial.rate)
    check_room(call, plan)


def fetch(call: Call, plan: Plan) -> None:
    """Measure the rate by the first files' beginnings, say how long it takes, and fetch the rest."""
    check_room(call, plan)
    with replacing(call.folder / DOWNLOADING) as file:
        file.write(call.again().encode())
    _tidy(call, plan)
    size, trial = plan.to_fetch(call.notes), Fetching(call.console, "measure")
    _try(call, plan, lambda draft: draft.begin(call.notes, store.PIECE, trial), trial)
    _tell(call, plan, size, trial.rate)
    fetching = Fetching(call.console, "download", plan.to_fetch(call.notes))

    def put(draft: Draft) -> None:
        draft.put(call.notes, fetching)
        plan.here.note(draft)

    for _ in together(put, plan.drafts, call.given.num_workers, fetching):
        pass
    call.console.end()


def _tidy(call: Call, plan: Plan) -> None:
    """Remove drafts of a version, or of members, that nobody wants now."""
    for path in set(call.notes.glob(f"*{END}")) - {draft.path(call.notes) for draft in plan.drafts}:
        path.unlink()


def _try(call: Call, plan: Plan, task: Callable[[Draft], None], trial: Fetching) -> None:
    workers = call.given.num_workers
    first = [draft for draft in plan.drafts if not draft.restarts][:workers]
    for _ in together(task, first, workers, trial):
        pass
    call.console.end()


def _tell(call: Call, plan: Plan, size: int, rate: float) -> None:
    if call.given.quiet:
        return
    files, drafts = len(plan.files), len(plan.drafts)
    arrays = sum(file.name.endswith(ENDS[1]) for file in plan.files)
    members = "all members" if call.features is None else ", ".join(call.features)
    told = [("files", f"{files - arrays:,} parquet" + f", {arrays:,} npz with {members}" * bool(arrays))]
    told += [("here", f"{files - drafts:,} of them")] if drafts < files else []
    told += [("to fetch", f"{sized(size)}, {size:,} bytes"), ("free disk", sized(_free(call)))]
    told += [("time", f"{lasting(size / rate)} at {sized(rate)}/s, as the first files came")] if rate and size else []
    show([*told, ("folder", str(call.folder))])


def _free(call: Call) -> int:
    try:
        return shutil.disk_usage(existing(call.folder)).free
    except OSError as error:
        raise from_os(call.folder, error) from None


def check_room(call: Call, plan: Plan) -> None:
    needed, free = plan.disk(call.notes) + SPARE, _free(call)
    if plan.drafts and needed > free:
        do = "free some, or name --metadata_dir on a larger disk"
        raise BadInput(call.folder, f"too little space: {sized(needed)} needed, {sized(free)} free", do)


def conclude(call: Call, plan: Plan) -> None:
    """Look at the pool as a filter does, and say what is there."""
    (call.folder / DOWNLOADING).unlink(missing_ok=True)
    pool = Pool.open(call.folder, embeddings=call.embeddings)
    for name in call.features or ():
        pool.features(name)
    size = sum((call.folder / file.name).stat().st_size for file in plan.files)
    if not call.given.quiet:
        print(f"{len(plan.files):,} files, {pool.rows:,} rows, {size:,} bytes in {call.folder}: all verified", flush=True)
