"""How a program begins: from its first moment on, SIGINT and SIGTERM end it with one line and its exit code.

Pages, tools and the installed commands come through here. Libraries are imported next, for a second or more: a signal that arrives
meanwhile ends the process at once, for nothing has begun. So nothing is imported here that takes time.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # not imported from `typing`, which takes longer than all the rest here
    from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)
STOPPED = "stopped"
RESUMED = "stopped; the same command goes on from here"


def begin(module: str, line: str = STOPPED) -> NoReturn:
    """Run the `main` of a module and end with its exit code; an interruption says the line."""

    def end(number: int, frame: object) -> NoReturn:
        os.write(2, f"{module.rpartition('.')[2]}: {line}\n".encode())
        os._exit(128 + number)

    for number in SIGNALS:
        signal.signal(number, end)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115, PTH123 - one that is closed would be the next file's
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115, PTH123
    try:
        code = importlib.import_module(module).main()
    finally:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # whatever came of it, it is done and said
    sys.exit(code)


def densprune() -> NoReturn:
    begin("filters.densprune", RESUMED)


def semdedup() -> NoReturn:
    begin("filters.semdedup", RESUMED)


def topscore() -> NoReturn:
    begin("filters.topscore", RESUMED)


def baselines() -> NoReturn:
    begin("baselines.run", RESUMED)


def validate() -> NoReturn:
    begin("submission.validate")


def package() -> NoReturn:
    begin("submission.package")


def download() -> NoReturn:
    begin("tools.download", RESUMED)
