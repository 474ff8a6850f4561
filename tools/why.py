"""Why a sample was kept or dropped: an account of each stage that saw it, from what a finished run left.

    python tools/why.py WORK 0123456789abcdef0123456789abcdef ...
    python tools/why.py WORK uids.txt                              hexadecimal, one a line
    python tools/why.py WORK --random 5 --status pruned            so many, drawn by the hash of seed and uid

WORK is the work folder. The stage that decided is told with the sample's value and the last that was taken; of a duplicate, what stands
for it in the end; of a pruned sample, its concept; and of each dropped one the smallest change of an option that lets it through that
stage, all else as it was: the stages behind may still drop it. Captions, sizes and scores are the pool's, where it is still at hand.

The first call makes an index in WORK/index, some 32 bytes a sample; from then on an account takes milliseconds.

Exit 0: done. 2: the input is at fault, said in one line; a uid that the pool does not have is so.
"""

from __future__ import annotations

if __name__ == "__main__":
    import importlib
    import os
    import sys

    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    importlib.import_module("filters.start").begin("tools.why")

import argparse
import json
import sys
from functools import partial
from pathlib import Path

from filters.command import Console, Interruption, Quiet, ended
from filters.options import OneLineParser, with_underscores
from filters.pool.errors import BadInput
from filters.start import STOPPED
from tools.left.account import Accounts
from tools.left.captions import Captions
from tools.left.chosen import drawn, named
from tools.left.index import Index
from tools.left.run import Run, text_of
from tools.left.told import lines, record, samples_of
from tools.uids import whole

TOGETHER = 1000  # accounts whose captions are read at once


def main(arguments: list[str] | None = None) -> int:
    return ended("why", STOPPED, partial(run, sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str], interruption: Interruption) -> int:
    given = parser().parse_intermixed_args(with_underscores(arguments))
    if bool(given.uids) == bool(given.random):
        raise BadInput("command line", "takes uids, or --random", "give one of the two")
    console = Quiet(interruption) if given.quiet else Console("why", interruption)
    left = Run(given.work_dir)
    left.check_manifest()
    index = Index.of(left, console)
    words = drawn(left, given.random, given.status, given.seed, console) if given.random else named(given.uids)
    positions = index.find(words)
    captions, accounts = Captions(left, given.metadata_dir, console), Accounts(index)
    unknown = [words[at] for at, position in enumerate(positions) if position < 0]
    for start in range(0, len(positions), TOGETHER):
        some = [accounts.of(int(position)) for position in positions[start : start + TOGETHER] if position >= 0]
        facts = captions.of(sample for one in some for sample in samples_of(one))
        console.end()
        for one in some:
            print(json.dumps(record(one, facts)) if given.json else "\n".join(lines(one, facts)), flush=True)
    if unknown:
        what = f"{len(unknown):,} of {len(words):,} uids are not in the pool of this run, first {text_of(unknown[0])}"
        raise BadInput(given.work_dir, what, "check the uids, or name another work folder")
    return 0


def parser() -> OneLineParser:
    made = OneLineParser(prog="why", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    made.add_argument("work_dir", type=Path, metavar="WORK", help="work folder of a finished run")
    made.add_argument("uids", nargs="*", metavar="UID", help="uid in hexadecimal, or a .txt of them, one a line")
    made.add_argument("--random", type=whole, metavar="N", help="draw so many samples instead")
    made.add_argument("--status", help="of these alone: kept, dropped, duplicate, pruned, or a status as in samples/")
    made.add_argument("--seed", type=int, default=1234, help="of the draw; default 1234")
    made.add_argument("--metadata_dir", help="the pool, or its URL, where it has moved since the run")
    made.add_argument("--json", action="store_true", help="a line of JSON a sample")
    made.add_argument("--quiet", action="store_true", help="no progress on stderr")
    return made
