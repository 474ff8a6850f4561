"""The one exception for bad input."""

from __future__ import annotations

import errno


class BadInput(Exception):
    """The user's input is at fault. Printed as one line: where it is, what was found, what to do."""

    def __init__(self, where: object, found: str, do: str) -> None:
        super().__init__(str(where), found, do)
        self.where, self.found, self.do = str(where), found, do

    def __str__(self) -> str:
        # Names and texts of a pool are anybody's: a line break in one must not look like a second message.
        return " ".join(f"{self.where}: {self.found}; {self.do}".splitlines())


NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NO_ACCESS = {errno.EACCES, errno.EPERM, errno.EROFS}


def from_os(where: object, error: OSError) -> BadInput:
    """What the system refused, as bad input."""
    if error.errno in NO_SPACE:
        return BadInput(where, "no space left to write", "free some, or name another place")
    if error.errno in NO_ACCESS:
        return BadInput(where, "not permitted", "give access, or name another place")
    return BadInput(where, error.strerror or str(error), "check the path")
