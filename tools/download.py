"""Downloads what DataComp's pools are made of.

    python tools/download.py metadata --scale medium     the pool's parquet files, and of its npz files the members that are read
    python tools/download.py images --subset OUT.npy --metadata_dir POOL --shards_dir SHARDS     the images that a filter chose

Exit 0: done. 2: the input is at fault, or something outside, said in one line. The same command goes on where it was stopped.
"""

from __future__ import annotations

if __name__ == "__main__":
    import importlib
    import os
    import sys

    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    start = importlib.import_module("filters.start")
    start.begin("tools.download", start.RESUMED)

import argparse
import sys
from functools import partial

from filters.command import Interruption, ended
from filters.options import OneLineParser, with_underscores
from filters.start import RESUMED
from tools.images import command as images
from tools.metadata import command as metadata


def parser() -> OneLineParser:
    made = OneLineParser(prog="download", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    commands = made.add_subparsers(dest="command", required=True, metavar="metadata|images")
    metadata.flags(commands.add_parser("metadata", allow_abbrev=False))
    images.flags(commands.add_parser("images", allow_abbrev=False))
    return made


def run(arguments: list[str], interruption: Interruption) -> None:
    given = parser().parse_args(with_underscores(arguments))
    given.run(given, interruption)


def main(arguments: list[str] | None = None) -> int:
    return ended("download", RESUMED, partial(run, sys.argv[1:] if arguments is None else arguments))
