"""Uid lists as sets: each command streams over lists in order, whatever their length, and writes a uid subset file.

    python tools/uids.py and A B [C ...] --save_path OUT.npy      what all of them list; `or`: what any of them lists
    python tools/uids.py minus A B [C ...] --save_path OUT.npy    what A lists and no other does
    python tools/uids.py xor A B --save_path OUT.npy              what one of the two lists and not the other
    python tools/uids.py sample 1000000 A --save_path OUT.npy     so many records, drawn by the hash of seed and uid
    python tools/uids.py convert A --save_path OUT.npy            the same list, as DataComp reads it
    python tools/uids.py diff A B                                 how far two lists agree; exit 0 when they are equal, 1 when not
    python tools/uids.py info A [--metadata_dir DIR]              what it is, and how much of it is in a pool

A list is a .npy of u8,u8, a .txt of hexadecimal (both also .gz), a .parquet with a column uid (and, where it has a column status,
only the rows that are kept or a success), or a folder of such tables. One that is not in ascending order, or of another dtype, is
refused: --sort takes it, in --memory_gb of memory and a file without a name beside the output (diff and info: in $TMPDIR).

A uid may be listed more than once: DataComp then writes its sample as often. `and` lists it as often as the list that has it least,
`or` as the one that has it most, the others as often as the list that they take it from. --sort lists each uid once, and says
how many repetitions it dropped; with --keep_repeats it keeps them.

Exit 0: done. 1: the lists of `diff` differ. 2: the input is at fault, said in one line.
"""

from __future__ import annotations

if __name__ == "__main__":
    import importlib
    import os
    import sys

    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    importlib.import_module("filters.start").begin("tools.uids")

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from filters.command import Console, Interruption, Meter, Quiet, ended, show
from filters.maths import uids, uidsets
from filters.maths.arrays import U64
from filters.maths.uidsets import Listed, Window
from filters.options import OneLineParser, with_underscores
from filters.pool import subset
from filters.pool.errors import BadInput
from filters.pool.files import sha256
from filters.pool.membership import compared, pool_uids, swapped
from filters.pool.pool import Pool
from filters.pool.uidfiles import opened
from filters.pool.uidsort import InOrder, Order, as_it_is, sorted_list
from filters.run import check_target, refusals_named
from filters.start import STOPPED
from filters.work.workdir import beside

SETS: dict[str, Callable[[Window, int], Listed]] = {
    "and": uidsets.in_all,
    "or": lambda window, lists: uidsets.in_any(window),
    "minus": lambda window, lists: uidsets.in_first(window),
    "xor": lambda window, lists: uidsets.in_one(window),
}
USED = 0.8  # of --memory_gb by sorting; the rest is the program's own
UNKNOWN = "not known, as it is not sorted: give --sort"


@dataclass(frozen=True)
class Call:
    """What one call was given."""

    given: argparse.Namespace
    console: Quiet
    stack: ExitStack  # closes what sorting has opened

    @property
    def temporary(self) -> Path:
        """Where sorted runs lie."""
        return self.given.save_path.parent if "save_path" in self.given else Path(tempfile.gettempdir())

    def sorted(self, name: str, size: int, blocks: Callable[[Meter], Iterator[U64]], lists: int) -> InOrder:
        """What is not in order; one of so many lists that share the memory."""
        limit = USED * 1e9 * self.given.memory_gb / lists
        return self.stack.enter_context(sorted_list(blocks(Meter(self.console, f"sort {name}", size)), self.temporary, limit))


class Operand:
    """A list that a command reads in order, counted as it is read."""

    def __init__(self, call: Call, path: Path, lists: int) -> None:
        self._call, self.path, self.list = call, path, opened(path)
        self.records = self.repeats = 0
        self._in_order = self._arranged(lists)

    def _arranged(self, lists: int) -> InOrder:
        given, one = self._call.given, self.list
        if not given.sort and one.foreign and given.command != "convert":
            raise BadInput(self.path, f"is {one.form}, not u8,u8, which DataComp asks for", "give --sort, or convert it")
        if not given.sort or self._is_in_order():
            return as_it_is(one, "give --sort: DataComp would find almost none of its samples")
        return self._call.sorted(str(self.path), one.size, one.blocks, lists)

    def _is_in_order(self) -> bool:
        order = Order()
        return not any(order.falls for _ in order.watch(self.list.blocks(Meter(self._call.console, f"check {self.path}", self.list.size))))

    @property
    def size(self) -> int:
        """Bytes of one reading."""
        return self._in_order.size

    def read(self, meter: Meter) -> Iterator[Listed]:
        self.records = self.repeats = 0
        for listed in self._in_order.read(meter):
            self.records += int(listed.times.sum())
            self.repeats += int(listed.times.sum()) - len(listed.times)
            yield uidsets.once(listed) if self._dropping else listed

    @property
    def _dropping(self) -> bool:
        return self._call.given.sort and not self._call.given.keep_repeats

    def note(self) -> None:
        """Say that uids were listed more than once."""
        if self.repeats:
            what = "dropped" if self._dropping else "kept"
            self._call.console.say(f"{self.path}: {self.repeats:,} of {self.records:,} records repeat a uid: {what}")


def write(call: Call, operands: list[Operand], blocks: Iterable[U64]) -> None:
    """Put the result in its place, and tell of it."""
    given, counts = call.given, [0]

    def some() -> Iterator[U64]:
        for block in blocks:
            counts[0] += len(block)
            yield block
        if not counts[0]:
            raise BadInput(f"{given.command} {' '.join(str(one.path) for one in operands)}", "leaves no uid", "nothing is written")

    with subset.replacing(given.save_path, beside(given.save_path, given.save_path), some()):
        pass
    call.console.end()
    for one in operands:
        one.note()
    if not given.quiet:
        rows = [(str(one.path), one.records) for one in operands] + [(f"-> {given.save_path}", counts[0])]
        show([(name, f"{count:>15,}") for name, count in rows])


# -- the commands


def combine(call: Call) -> None:
    given = call.given
    paths = [given.list, *given.others]
    operands = [Operand(call, path, len(paths)) for path in paths]
    meter = Meter(call.console, given.command, sum(one.size for one in operands))
    windows = uidsets.merged([one.read(meter) for one in operands])
    write(call, operands, (uidsets.expanded(SETS[given.command](window, len(operands))) for window in windows))


def convert(call: Call) -> None:
    one = Operand(call, call.given.list, 1)
    write(call, [one], map(uidsets.expanded, one.read(Meter(call.console, "convert", one.size))))


def sample(call: Call) -> None:
    given = call.given
    one = Operand(call, given.list, 1)
    meter = Meter(call.console, "sample", 3 * one.size)
    try:
        blocks = uidsets.drawn(lambda: one.read(meter), given.size, given.seed)
    except uidsets.TooFew as few:
        raise BadInput(given.list, f"holds {few} uids, {given.size:,} are asked for", "ask for fewer") from None
    write(call, [one], blocks)


def diff(call: Call) -> int:
    """Gives the exit code."""
    a, b = (Operand(call, path, 2) for path in (call.given.a, call.given.b))
    meter = Meter(call.console, "diff", a.size + b.size)
    only, both, unlike = np.zeros(2, np.int64), 0, 0
    for window in uidsets.merged([a.read(meter), b.read(meter)]):
        only += np.bincount(window.stream.take(window.starts)[window.alone], minlength=2)
        both += int((~window.alone).sum())
        unlike += int(window.unlike.sum())
    call.console.end()
    for one in (a, b):
        one.note()
    if not call.given.quiet:
        show(list(agreement(a, b, [int(count) for count in only], both, unlike)))
    return int(only.any() or unlike > 0)


def agreement(a: Operand, b: Operand, only: list[int], both: int, unlike: int) -> Iterator[tuple[str, str]]:
    for count, one in zip(only, (a, b), strict=True):
        yield f"only in {one.path}", f"{count:>15,}"
    yield "in both", f"{both:>15,}"
    if unlike:
        yield "not as often in both", f"{unlike:>15,}"
    yield "Jaccard", share(both, both + sum(only))
    yield f"of {a.path} in {b.path}", share(both, both + only[0])
    yield f"of {b.path} in {a.path}", share(both, both + only[1])


def share(part: int, whole: int) -> str:
    return f"{part / whole:>15.4%}" if whole else f"{'-':>15}"


def info(call: Call) -> None:
    rows = list(findings(call))
    call.console.end()
    show(rows)


def findings(call: Call) -> Iterator[tuple[str, str]]:
    one, order, listed = opened(call.given.list), Order(), None
    yield "list", str(one.path)
    yield "form", one.form + (", which DataComp refuses: convert it" if one.foreign else "")
    for _ in order.watch(one.blocks(Meter(call.console, "read", one.size))):
        pass
    yield "uids", f"{order.records:,}"
    yield "order", told_of_order(order)
    if not order.falls:
        listed = as_it_is(one, "run again when nothing writes to it")
    elif call.given.sort:
        listed = call.sorted(str(one.path), one.size, one.blocks, 2)
    yield "repeated", told_of_repeats(call, order, listed)
    if not one.path.is_dir():
        yield "sha256", sha256(one.path)
    if call.given.metadata_dir:
        yield "in the pool", coverage(call, listed) if listed else UNKNOWN


def told_of_order(order: Order) -> str:
    if not order.falls:
        return "ascending"
    what = f"record {order.first_fall:,} is smaller than the one before, {order.falls:,} such"
    return f"not ascending: {what}; DataComp would find almost none of its samples: convert it with --sort"


def told_of_repeats(call: Call, order: Order, listed: InOrder | None) -> str:
    if listed is None:
        return UNKNOWN
    repeats = order.repeats
    if order.falls:
        repeats = sum(int((part.times - 1).sum()) for part in listed.read(Meter(call.console, "count", listed.size)))
    return f"{repeats:,} records repeat a uid"


def coverage(call: Call, listed: InOrder) -> str:
    """How many uids are in the pool; where none is, whether they would be with their halves swapped."""
    pool = Pool.open(call.given.metadata_dir, embeddings=False)
    sort = call.sorted(str(pool.location), uids.SUBSET.itemsize * pool.rows, partial(pool_uids, pool), 2)
    meter = Meter(call.console, "find", listed.size + sort.size)
    of = compared(listed, sort, meter)
    told = f"{of.found:,} of {of.uids:,} uids; the pool has {pool.rows:,} samples"
    if of.found or not of.uids:
        return told
    turned = compared(swapped(listed, meter), sort, meter)
    return told + (f"; with high and low word swapped, {turned.found:,} of the first {turned.uids:,} are" if turned.found else "")


# -- the command line


def whole(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, got {text!r}")
    return int(text)


def gigabytes(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= 1e6:
        raise argparse.ArgumentTypeError(f"must lie in (0, 1000000], got {text!r}")
    return number


def parser() -> OneLineParser:
    made = OneLineParser(prog="uids", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    commands = made.add_subparsers(dest="command", required=True, metavar="and|or|minus|xor|sample|convert|diff|info")
    for name in SETS:
        one = command(commands, name, combine, writes=True)
        one.add_argument("list", type=Path)
        one.add_argument("others", type=Path, nargs=1 if name == "xor" else "+", metavar="other")
    one = command(commands, "sample", sample, writes=True)
    one.add_argument("size", type=whole, metavar="N", help="records to draw; a smaller draw of the same seed is part of a larger one")
    one.add_argument("list", type=Path)
    one.add_argument("--seed", type=int, default=1234, help="default 1234")
    command(commands, "convert", convert, writes=True).add_argument("list", type=Path)
    one = command(commands, "diff", diff)
    one.add_argument("a", type=Path)
    one.add_argument("b", type=Path)
    one = command(commands, "info", info)
    one.add_argument("list", type=Path)
    one.add_argument("--metadata_dir", help="the pool, or its URL, of which it is said how many are in it")
    return made


def command(commands: Any, name: str, run: Callable[[Call], int | None], writes: bool = False) -> OneLineParser:
    """A command with the flags that all have."""
    one: OneLineParser = commands.add_parser(name, allow_abbrev=False)
    one.set_defaults(run=run)
    if writes:
        one.add_argument("--save_path", type=Path, required=True, metavar="OUT.npy", help="the uid subset file to write")
        one.add_argument("--overwrite", action="store_true", help="replace it when it is there")
    one.add_argument("--sort", action="store_true", help="take lists that are not in order or of another dtype, each uid once")
    one.add_argument("--keep_repeats", action="store_true", help="with --sort: each uid as often as it is listed")
    one.add_argument("--memory_gb", type=gigabytes, default=1.0, help="GB that --sort may take; default 1.0")
    one.add_argument("--quiet", action="store_true", help="print nothing but an error, and the answer of info")
    return one


def run(arguments: list[str], interruption: Interruption) -> int | None:
    given = parser().parse_args(with_underscores(arguments))
    if "save_path" in given:
        check_target(given.save_path, given.save_path)
        if given.save_path.exists() and not given.overwrite:
            raise BadInput(given.save_path, "exists", "give --overwrite, or another --save_path")
    np.empty(31 << 20, np.uint8)  # glibc keeps what is smaller than anything given back: or each block would be of fresh pages
    with ExitStack() as stack:
        stack.enter_context(refusals_named(Path(given.save_path if "save_path" in given else ".")))
        call = Call(given, Quiet(interruption) if given.quiet else Console("uids", interruption), stack)
        code: int | None = given.run(call)
        return code


def main(arguments: list[str] | None = None) -> int:
    return ended("uids", STOPPED, partial(run, sys.argv[1:] if arguments is None else arguments))
