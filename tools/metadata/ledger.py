"""What a folder holds that was checked: a line of JSON for each file, added when the file has its name."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

from filters.pool.errors import from_os


@dataclass(frozen=True)
class Checked:
    """A file as it was found good."""

    name: str
    version: str  # of the Hub's file: its digest
    members: list[str]  # of an npz
    whole: bool  # whether these are all that the Hub's has
    size: int
    changed: int  # st_mtime_ns

    def covers(self, members: tuple[str, ...] | None) -> bool:
        """Whether nothing has to be fetched for these members; None: for all."""
        return self.whole or (members is not None and set(members) <= set(self.members))

    def is_here(self, folder: Path) -> bool:
        try:
            told = (folder / self.name).stat()
        except FileNotFoundError:
            return False
        return (told.st_size, told.st_mtime_ns) == (self.size, self.changed)


class Ledger:
    """The lines; what was cut off in the middle of one is not heeded."""

    def __init__(self, path: Path, keep: bool = True) -> None:
        """`keep`: whether what is added is written."""
        self._path, self._lock, self._keep = path, threading.Lock(), keep
        self.entries: dict[str, Checked] = {}
        for line in path.read_text().splitlines() if path.exists() else []:
            try:
                one = Checked(**json.loads(line))
            except (ValueError, TypeError):
                continue
            self.entries[one.name] = one

    def add(self, target: Path, version: str, members: list[str], whole: bool) -> None:
        told = target.stat()
        one = Checked(target.name, version, members, whole, told.st_size, told.st_mtime_ns)
        self.entries[one.name] = one
        if not self._keep:
            return
        try:
            with self._lock, self._path.open("a") as file:
                # A line of its own, whatever the last one came to.
                file.write(f"\n{json.dumps(asdict(one))}\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise from_os(self._path, error) from None
