"""The one exception for bad input."""

from __future__ import annotations

import errno

from filters.pool.redact import redacted


class BadInput(Exception):
    """The user's input is at fault. Printed as one line: where it is, what was found, what to do."""

    def __init__(self, where: object, found: str, do: str) -> None:
        self.where, self.found, self.do = map(redacted, (str(where), found, do))
        super().__init__(self.where, self.found, self.do)

    def __str__(self) -> str:
        return printable(f"{_clipped(self.where)}: {_clipped(self.found)}; {self.do}")


def _clipped(text: str) -> str:
    return text if len(text) <= 400 else f"{text[:190]}…{text[-190:]}"


def printable(text: str) -> str:
    """Names and texts of a pool are anybody's: what is not printable is shown by its escape, so that a line stays one line."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def shortened(text: object, width: int = 60) -> str:
    """A value as it may stand in a message."""
    shown = repr(text)
    return shown if len(shown) <= width else f"{shown[: width - 1]}…"


NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NO_ACCESS = {errno.EACCES, errno.EPERM, errno.EROFS}
REFUSED = NO_SPACE | NO_ACCESS | {errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE}  # never a fault of ours


def from_os(where: object, error: OSError) -> BadInput:
    """What the system refused, as bad input."""
    if error.errno in NO_SPACE:
        return BadInput(where, "no space left to write", "free some, or name another place")
    if error.errno in NO_ACCESS:
        return BadInput(where, "not permitted", "give access, or name another place")
    return BadInput(where, error.strerror or str(error), "check the path")
