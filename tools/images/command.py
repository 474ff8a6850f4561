"""`tools/download.py images`: the images of a subset, and no others, as DataComp's code downloads them.

What is asked for is what the shards do not tell of yet: so the same command goes on where it was, another subset adds what is new
in it, and what failed in a way that may pass is asked for again.
"""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from filters.command import Console, Interruption, Meter, Quiet, show
from filters.maths import uids
from filters.maths.arrays import U64
from filters.options import OneLineParser
from filters.pool import subset
from filters.pool.errors import BadInput, from_os
from filters.pool.place import local, place
from filters.pool.pool import Pool
from filters.work.plan import lasting, sized
from filters.work.room import existing
from filters.work.workdir import WorkDir, beside
from tools.images import asking, lists
from tools.images.asking import Downloader
from tools.images.fates import ARRIVED, ASKED, FAILED, OUTSIDE, REFUSED, Fates, by_kind
from tools.images.shards import DIGITS, Answers, Shards, finished
from tools.images.shards import whole as shard_whole

if TYPE_CHECKING:
    import pyarrow as pa

IMAGE = 35_000  # bytes: DataComp's README has 450 GB for the 12.8M samples of its small pool
KNOWN = 1000  # images that are here: from then on they say how large one is
ROUND = "round-"


@dataclass
class Held:
    """What the shards hold."""

    images: int = 0
    size: int = 0  # bytes of their tars
    keys: int = 0  # the first number that no sample's key begins with

    def add(self, answers: Answers) -> None:
        self.images += int(answers.arrived.sum())
        self.size += answers.size
        self.keys = max(self.keys, int(answers.last_key[:DIGITS] or -1) + 1)

    def each(self) -> float:
        """Bytes an image."""
        return self.size / self.images if self.images >= KNOWN else IMAGE


@dataclass
class Download:
    """One call, and what it knows so far."""

    given: argparse.Namespace
    console: Quiet
    pool: Pool
    fates: Fates
    repeats: int  # records of the subset beyond the first of their uid
    shards: Shards
    held: Held = field(default_factory=Held)

    @property
    def work(self) -> Path:
        return self.shards.folder.with_name(f"{self.shards.folder.name}.work")

    def hear(self, answers: Answers) -> None:
        self.held.add(answers)
        self.fates.hear(answers)

    def take_over(self, staged: Path) -> bool:
        """A shard that img2dataset has finished; one that is not whole is left, and its urls are asked for again."""
        try:
            answers = shard_whole(staged)
        except BadInput as error:
            self.console.say(f"not taken over: {error}")
            staged.unlink()  # is not finished any more
            return False
        self.shards.adopt(staged)  # where this fails it stays, for the next call
        self.hear(answers)
        return True

    def wanted(self) -> Iterator[pa.Table]:
        meter = Meter(self.console, "choose urls", sum(shard.stamps[shard.parquet][0] for shard in self.pool.shards))
        return lists.wanted(self.pool, self.fates, self.given.allow_private, meter)

    def disk(self, urls: int) -> str:
        basis = "as those that are here" if self.held.images >= KNOWN else "as in DataComp's README"
        return f"{sized(urls * self.held.each())} if all arrive, {sized(self.held.each())} an image, {basis}"

    def check_room(self, urls: int) -> None:
        needed, free = urls * self.held.each(), shutil.disk_usage(existing(self.shards.folder)).free
        if needed > free:
            do = "free some, or name --shards_dir on a larger disk"
            raise BadInput(self.shards.folder, f"too little space: {self.disk(urls)}, {sized(free)} free", do)


def flags(one: OneLineParser) -> None:
    """Of the command. Defaults are those of DataComp's download_upstream.py, where it has them."""
    one.set_defaults(run=run)
    one.add_argument("--subset", required=True, metavar="OUT.npy", help="uid subset file whose images are wanted")
    one.add_argument("--metadata_dir", required=True, help="the pool's parquet files, or their URL")
    one.add_argument("--shards_dir", required=True, help="folder of the shards; what is there already is not asked for again")
    one.add_argument("--processes_count", type=whole, default=16, help="processes, each of which works on a shard; default 16")
    one.add_argument("--thread_count", type=whole, default=128, help="urls that each of them asks at once; default 128")
    one.add_argument("--retries", type=int, choices=range(11), default=2, metavar="N", help="tries of a url after the first; default 2")
    one.add_argument("--rounds", type=whole, default=2, help="times in all that failures are asked for that may pass; default 2")
    one.add_argument("--number_sample_per_shard", type=whole, default=10_000, help="urls of a shard; default 10000")
    one.add_argument("--allow_private", action="store_true", help="ask private, loopback and link-local addresses too")
    one.add_argument("--python", default=sys.executable, help="a Python that has img2dataset; default the one that runs this")
    one.add_argument("--dry_run", action="store_true", help="say how much would be asked for; write nothing")
    one.add_argument("--quiet", action="store_true", help="print nothing but an error")


def whole(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, got {text!r}")
    return int(text)


def run(given: argparse.Namespace, interruption: Interruption) -> None:
    """Raises BadInput also where img2dataset did not come to its end."""
    call = _opened(given, Quiet(interruption) if given.quiet else Console("images", interruption))
    if given.dry_run:
        _hear_all(call)
        foresee(call)
        return
    downloader = Downloader(
        given.python, given.allow_private, given.processes_count, given.thread_count, given.retries, given.number_sample_per_shard
    )
    downloader.check()
    with _alone(call):
        _hear_all(call)
        _take_over_what_was_left(call)
        unfinished = carry_out(call, downloader)
        conclude(call)
    if unfinished:
        log = call.work / "img2dataset.log"
        what = f"img2dataset has not finished {unfinished:,} shards; it ends with {asking.last_words(log)}"
        raise BadInput(log, what, "the same command goes on")


def _opened(given: argparse.Namespace, console: Quiet) -> Download:
    folder = local(given.shards_dir, "a shard").resolve()
    if pattern := re.search(r"[*?[]|::", str(folder)):
        raise BadInput(folder, f"holds {pattern[0]}, which img2dataset takes for a pattern or a chain", "name another --shards_dir")
    pool = Pool.open(place(given.metadata_dir), embeddings=False)
    lists.check(pool)
    records = subset.read(place(given.subset))
    if not len(records):
        raise BadInput(given.subset, "lists no uid", "name a subset that lists some")
    words: U64 = records[np.concatenate([[True], uids.ascending(records)])]
    return Download(given, console, pool, Fates(words), len(records) - len(words), Shards(folder))


@contextmanager
def _alone(call: Download) -> Iterator[None]:
    """Shards are renamed from the work folder: one call at a time, and both on one disk."""
    folder = call.shards.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        apart = folder.stat().st_dev != folder.parent.stat().st_dev
    except OSError as error:
        raise from_os(folder, error) from None
    if apart:
        raise BadInput(folder, "is a disk of its own", "name a folder on it")
    held = WorkDir(call.work)
    try:
        yield
    finally:
        held.close()


def _hear_all(call: Download) -> None:
    for answers in call.shards.answers():
        call.hear(answers)


def _take_over_what_was_left(call: Download) -> None:
    """By a call that was stopped."""
    for folder in sorted(call.work.glob(f"{ROUND}*")):
        for staged in finished(folder / "shards"):
            call.take_over(staged)
        shutil.rmtree(folder)


def foresee(call: Download) -> None:
    """What would be asked for; nothing is written."""
    urls = sum(map(len, call.wanted()))
    call.console.end()
    show([*known(call, "to ask for"), ("disk", call.disk(urls))])
    call.check_room(urls)


def carry_out(call: Download, downloader: Downloader) -> int:
    """Ask for what is wanted, then again for what may come the next time; gives the shards that were not finished in the end."""
    first, urls = _written(call, 1, call.wanted(), downloader.shard)
    call.check_room(urls)
    if urls:
        call.console.say(f"{urls:,} urls to ask for; {call.disk(urls)}")
    unfinished = ask(call, downloader, 1, urls)
    for number in range(2, call.given.rounds + 1):
        _, urls = _written(call, number, lists.again(first, call.fates, call.fates.failed_for_now()), downloader.shard)
        if urls:
            call.console.say(f"{urls:,} urls once more, as their failure may pass")
        unfinished = ask(call, downloader, number, urls)
    for folder in call.work.glob(f"{ROUND}*"):
        shutil.rmtree(folder)
    return unfinished


def _written(call: Download, number: int, tables: Iterable[pa.Table], shard: int) -> tuple[list[Path], int]:
    """Files of a round's urls, and how many these are."""
    counts = [0]

    def counted() -> Iterator[pa.Table]:
        for table in tables:
            counts[0] += len(table)
            yield table

    paths = lists.write(call.work / f"{ROUND}{number}" / "urls", counted(), shard)
    call.console.end()
    return paths, counts[0]


def ask(call: Download, downloader: Downloader, number: int, urls: int) -> int:
    """One round, shards taken over as they are finished; gives how many were not."""
    if not urls:
        return 0
    folder, left = call.work / f"{ROUND}{number}", -(-urls // downloader.shard)
    output = asking.begin(folder, call.shards.last_statistics(), call.held.keys)
    tell = _progress(call, urls)
    with downloader.at_work(folder / "urls", output, urls, call.work / "img2dataset.log") as process:
        for fresh in asking.watched(process, output):
            left -= sum(map(call.take_over, fresh))
            call.console.tell(tell)
    call.console.end()
    return left


def _progress(call: Download, urls: int) -> Callable[[], str]:
    began, here = time.monotonic(), call.held.images
    open_before = call.fates.unanswered()

    def line() -> str:
        done = open_before - call.fates.unanswered()
        rate = done / max(1e-9, time.monotonic() - began)
        left = f", {lasting((urls - done) / rate)} left" if done else ""
        return f"{done:,} of {urls:,} urls answered, {call.held.images - here:,} images, {rate:,.0f}/s{left}"

    return line


# -- what is told


def known(call: Download, asked: str) -> list[tuple[str, str]]:
    """What became of the uids, by kind; `asked` is what those are called of which nothing is heard."""
    counts = call.fates.counts()
    repeated = [("  listed again", f"{call.repeats:>15,}")] if call.repeats else []
    outside = [("not in the pool", f"{counts[OUTSIDE]:>15,}")] if counts[OUTSIDE] else []
    open_ = [(asked, f"{counts[ASKED]:>15,}")] if counts[ASKED] else []
    kinds = [*_kinds(counts, "refused", REFUSED), *_kinds(counts, "failed", FAILED)]
    return [("subset", f"{len(call.fates.uids):>15,}"), *repeated, *outside, *open_, *kinds, ("arrived", f"{counts[ARRIVED]:>15,}")]


def _kinds(counts: Counter[str], name: str, prefix: str) -> list[tuple[str, str]]:
    found = by_kind(counts, prefix)
    total = sum(count for _, count in found)
    return [(name, f"{total:>15,}"), *((f"  {kind}", f"{count:>15,}") for kind, count in found)] if total else []


def conclude(call: Download) -> None:
    """Write what is missing, and say what came."""
    path, missing = call.work / "missing.npy", len(call.fates.uids) - call.fates.counts()[ARRIVED]
    path.unlink(missing_ok=True)
    if missing:
        with subset.replacing(path, beside(path, call.work), call.fates.missing()):
            pass
    if call.given.quiet:
        return
    told = [("missing", f"{missing:>15,}  {path}")] if missing else []
    within = shlex.join(["--metadata_dir", str(call.pool.location), "--within", str(call.shards.folder)])
    show([*known(call, "no answer"), *told, ("shards", f"{call.shards.free:>15,}  {call.shards.folder}")])
    print(f"\nchoose anew among what is here:\npython filters/densprune.py {within} --save_path OUT.npy", flush=True)
