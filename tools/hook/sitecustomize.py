"""Kills the run it is loaded into at an exact point. Python loads this file by its name, where tools.kill puts its folder on the path.

DENSPRUNE_KILL is "EVENT NUMBER FOLDER": the whole process group is killed just before the NUMBER-th EVENT, counted over all threads
and processes of the run in files of FOLDER; 0 only counts. Events: open (a file for writing), rename, remove, fsync; torn is an
fsync before which the file is cut in half, as a write that was under way would leave it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

EVENTS = ("open", "rename", "remove", "fsync", "torn")
WATCHED = {"os.rename": "rename", "os.remove": "remove", "os.rmdir": "remove"}


def install(event: str, number: int, folder: str) -> None:
    fsync = os.fsync

    def reached(kind: str, before: Callable[[], None] = lambda: None) -> None:
        if _next(folder, kind) == number and kind == event:
            before()
            os.killpg(0, signal.SIGKILL)

    def heard(name: str, arguments: tuple[object, ...]) -> None:
        if name == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            if str(arguments[0]).startswith(folder) or isinstance(arguments[0], int):
                return
            reached("open")
        elif name in WATCHED:
            reached(WATCHED[name])

    def counted(descriptor: Any) -> None:
        reached("fsync")
        reached("torn", lambda: _halve(descriptor))
        fsync(descriptor)

    sys.addaudithook(heard)
    setattr(os, "fsync", counted)  # noqa: B010 - checkers see no reason to allow it


def _next(folder: str, kind: str) -> int:
    """The number of this event: a byte more in the file that all processes of the run append to."""
    descriptor = os.open(os.path.join(folder, kind), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, b".")
        return os.lseek(descriptor, 0, os.SEEK_CUR)
    finally:
        os.close(descriptor)


def _halve(descriptor: int) -> None:
    with contextlib.suppress(OSError):  # a folder, or a file opened to read
        os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)


if wish := os.environ.get("DENSPRUNE_KILL"):
    _event, _number, _folder = wish.split(" ", 2)
    install(_event, int(_number), _folder)
