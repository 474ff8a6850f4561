"""The one command line of all baselines.

python baselines/run.py --name clip_score --metadata_dir DIR --save_path OUT.npy --fraction 0.3
"""

from __future__ import annotations

if __name__ == "__main__":
    import importlib
    import os
    import sys

    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    importlib.import_module("filters.start").baselines()

import dataclasses
import sys
from dataclasses import dataclass
from itertools import zip_longest

from baselines import catalogue
from filters.command import Command
from filters.options import option, read_config, with_underscores
from filters.pool.errors import BadInput


@dataclass(frozen=True)
class Chosen:
    """Which one."""

    name: str = option("of the baseline, see --list; or path/to/file.py:Class, a filter of your own")


def listed() -> str:
    """A paragraph a baseline."""
    told = []
    for one in catalogue.OURS.values():
        lines = [("source", one.source), ("published", one.published and str(one.published)), ("needs", one.needs)]
        told.append("\n".join([f"{one.name}: {one.command.description}", *(f"    {name:<11}{text}" for name, text in lines if text)]))
    return "\n".join([*told, *(f"{name}: registered by an installed package" for name in catalogue.registered())])


def value_of(flag: str, arguments: list[str]) -> str | None:
    """What follows a flag, if it is there."""
    for argument, following in zip_longest(arguments, arguments[1:]):
        if argument.startswith(f"{flag}="):
            return argument.partition("=")[2]
        if argument == flag:
            return following
    return None


def named(arguments: list[str]) -> str:
    """The value of --name, or that of the run which --config repeats."""
    config = value_of("--config", arguments)
    name = value_of("--name", arguments) or (config and read_config(config, None).get("name"))
    if not isinstance(name, str):
        raise BadInput("command line", "no --name is given", "see --list")
    return name


def command(name: str) -> Command:
    """Its own, with --name."""
    return dataclasses.replace(catalogue.find(name).command, heads=(Chosen,))


def main(arguments: list[str] | None = None) -> int:
    arguments = with_underscores(sys.argv[1:] if arguments is None else arguments)
    if "--list" in arguments:
        print(listed())
        return 0
    if {"--help", "-h"} & set(arguments) and value_of("--name", arguments) is None:
        print(f"{__doc__}\n--list names them all; --name NAME --help tells the options of one.")
        return 0
    try:
        chosen = command(named(arguments))
    except BadInput as error:
        print(f"baselines: {error}", file=sys.stderr)
        return 2
    return chosen.main(arguments)
