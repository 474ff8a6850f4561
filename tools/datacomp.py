"""DataComp's own scripts around a uid subset file, judged by what they leave and not by their exit codes.

    python tools/datacomp.py doctor --datacomp_dir DATACOMP --python PYTHON
        whether the checkout is usable: each fault with its cure
    python tools/datacomp.py reshard --subset OUT.npy --shards_dir SHARDS --output_dir DIR --datacomp_dir DATACOMP --python PYTHON
        the samples of a subset, by resharder.py; then all shards are read back: each uid of the subset that is in the input has to
        be there, as often as it is listed, and nothing else
    python tools/datacomp.py train --data_dir DIR --output_dir MODEL --scale small|--tiny ... [-- --workers 8 ...]
        a model, by train.py, which gets what stands behind the --; the checkpoint has to be whole and its numbers finite
    python tools/datacomp.py evaluate --train_dir MODEL --eval_dir SETS ...
        by evaluate.py: SETS/tasklist.yml names the tasks where it is there, else DataComp's own does; each has to have a result
    python tools/datacomp.py evalset --demo|--from_dir DIR --output_dir SETS
        a set for zero-shot classification of the demo's kinds, or of test.parquet, classnames.txt and templates.txt
    python tools/datacomp.py loop --subset A.npy B.npy --shards_dir SHARDS --eval_dir SETS --work_dir WORK --seeds 0 1 2 --tiny ...
        all three for each subset and seed, mean and spread; the same command goes on where it was stopped

DATACOMP is a checkout of mlfoundations/datacomp, PYTHON the Python that has what its scripts import. Its files stay as they are, and
its processes never see this repository.

Exit 0: done. 2: the checkout, the input or what a script left is at fault, said in one line.
"""

from __future__ import annotations

if __name__ == "__main__":
    import importlib
    import os
    import sys

    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    start = importlib.import_module("filters.start")
    start.begin("tools.datacomp", start.RESUMED)

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from filters.command import Console, Interruption, Quiet, ended, show
from filters.options import OneLineParser, with_underscores
from filters.pool.errors import BadInput, printable
from filters.start import RESUMED
from tools.loop import evalset
from tools.loop.checkout import HOME, Checkout
from tools.loop.doctor import lines
from tools.loop.reshard import Reshard
from tools.loop.training import TINY, Evaluation, Training
from tools.loop.whole import Loop, table
from tools.uids import whole


@dataclass(frozen=True)
class Call:
    """What one call was given."""

    given: argparse.Namespace
    console: Quiet

    @property
    def checkout(self) -> Checkout:
        if self.given.datacomp_dir is None:
            raise BadInput("command line", "no checkout of DataComp is named", f"git clone {HOME}, and give --datacomp_dir")
        return Checkout(self.given.datacomp_dir, self.given.python)


def doctor(call: Call) -> None:
    checkout, faults, checks = call.checkout, 0, 0
    for line in lines(checkout):
        print(printable(str(line)), flush=True)
        faults, checks = faults + line.fault, checks + 1
    if faults:
        raise BadInput(checkout.folder, f"is not usable: {faults} of {checks} checks failed", "do what stands behind each WRONG")


def reshard(call: Call) -> None:
    given = call.given
    job = Reshard(given.subset, given.shards_dir, given.output_dir, given.num_workers)
    found = job.made(call.checkout, call.console, given.overwrite)
    call.console.end()
    show([(name, f"{count:>15,}") for name, count in found.rows()])


def train(call: Call) -> None:
    given = call.given
    job = Training(given.data_dir, given.output_dir, given.scale, given.seed, tuple(given.arguments))
    found = job.made(call.checkout, call.console)
    call.console.end()
    show([("epochs", f"{found.epochs:>15,}"), ("first loss", f"{found.first_loss:>15.4f}"), ("last loss", f"{found.last_loss:>15.4f}")])


def evaluate(call: Call) -> None:
    found = Evaluation(call.given.train_dir, call.given.eval_dir).made(call.checkout, call.console)
    call.console.end()
    show([(task, f"{'-':>15}" if value is None else f"{value:>15.4f}") for task, value in found.items()])


def make_evalset(call: Call) -> None:
    given = call.given
    made = evalset.demo() if given.demo else evalset.from_folder(given.from_dir)
    evalset.write(made, given.output_dir)
    show([("classes", f"{len(made.classes):>15,}"), ("pictures", f"{len(made.pictures):>15,}")])


def loop(call: Call) -> None:
    given = call.given
    places = (given.subset, given.shards_dir, given.eval_dir, given.work_dir)
    job = Loop(*places, given.scale, given.seeds, given.num_workers, tuple(given.arguments))
    rows = list(job.rows(call.checkout, call.console))
    call.console.end()
    print(table(rows), flush=True)


# -- the command line


def parser() -> OneLineParser:
    made = OneLineParser(prog="datacomp", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    commands = made.add_subparsers(dest="command", required=True, metavar="doctor|reshard|train|evaluate|evalset|loop")
    command(commands, "doctor", doctor)
    one = command(commands, "reshard", reshard)
    one.add_argument("--subset", type=Path, required=True, help="uid subset file")
    one.add_argument(
        "--output_dir", type=Path, required=True, help="folder for those of the subset; what is there already is only read back"
    )
    one.add_argument("--overwrite", action="store_true", help="make anew what an earlier reshard left there")
    add_source(one)
    one = command(commands, "train", train)
    one.add_argument("--data_dir", type=Path, required=True, help="folder that reshard wrote")
    one.add_argument("--output_dir", type=Path, required=True, help="folder for the model")
    one.add_argument("--seed", type=int, default=0, help="default 0")
    add_scale(one)
    one = command(commands, "evaluate", evaluate)
    one.add_argument("--train_dir", type=Path, required=True, help="folder that train wrote")
    one.add_argument("--eval_dir", type=Path, required=True, help="folder of evaluation sets")
    one = command(commands, "evalset", make_evalset)
    which = one.add_mutually_exclusive_group(required=True)
    which.add_argument("--demo", action="store_true", help="new drawings of the demo pool's kinds")
    which.add_argument("--from_dir", type=Path, help="folder of test.parquet (image, label), classnames.txt and templates.txt")
    one.add_argument("--output_dir", type=Path, required=True, help="folder of evaluation sets to make")
    one = command(commands, "loop", loop)
    one.add_argument("--subset", type=Path, nargs="+", required=True, help="uid subset files")
    one.add_argument("--eval_dir", type=Path, required=True, help="folder of evaluation sets")
    one.add_argument("--work_dir", type=Path, required=True, help="folder for shards and models")
    one.add_argument("--seeds", type=int, nargs="+", default=[0], help="a model each; default 0")
    add_source(one)
    add_scale(one)
    return made


def add_source(one: OneLineParser) -> None:
    one.add_argument("--shards_dir", type=Path, required=True, help="folder of downloaded webdataset shards")
    one.add_argument("--num_workers", type=whole, default=os.cpu_count(), help="processes of the resharder; default the cores")


def add_scale(one: OneLineParser) -> None:
    which = one.add_mutually_exclusive_group(required=True)
    which.add_argument("--scale", help="one of DataComp's: debug, small, medium, large, xlarge")
    which.add_argument("--tiny", dest="scale", action="store_const", const=TINY, help="a model that two cores train in minutes")
    one.add_argument("arguments", nargs="*", metavar="-- --flag value", help="what train.py gets beside")


def command(commands: Any, name: str, run: Callable[[Call], None]) -> OneLineParser:
    """A command with the flags that all have."""
    one: OneLineParser = commands.add_parser(name, allow_abbrev=False)
    one.set_defaults(run=run)
    place, program = os.environ.get("DATACOMP_REPO"), os.environ.get("DATACOMP_PYTHON", sys.executable)
    one.add_argument("--datacomp_dir", type=Path, default=place, help="checkout of mlfoundations/datacomp; default $DATACOMP_REPO")
    one.add_argument("--python", default=program, help="Python that runs its scripts; default $DATACOMP_PYTHON, else this one")
    one.add_argument("--quiet", action="store_true", help="show no progress")
    return one


def run(arguments: list[str], interruption: Interruption) -> None:
    given = parser().parse_args(with_underscores(arguments))
    given.run(Call(given, Quiet(interruption) if given.quiet else Console("datacomp", interruption)))


def main(arguments: list[str] | None = None) -> int:
    return ended("datacomp", RESUMED, partial(run, sys.argv[1:] if arguments is None else arguments))
