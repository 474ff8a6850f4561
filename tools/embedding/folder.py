"""What a run leaves in its folder: {key}.npz, a note of what made them, and, until all are there, the rows of each tar."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from filters.pool.errors import BadInput
from filters.pool.files import UNREADABLE, told_of, unsealed, write_sealed
from filters.pool.pool import Pool
from filters.work.workdir import WorkDir, key_of

NOTE = "embed.json"
FAULTS = "undecodable.txt"


class Folder:
    """The features folder of one pool and one encoder, held by one run at a time."""

    def __init__(self, path: Path, pool: Pool, settings: dict[str, Any], say: Callable[[str], None]) -> None:
        self.path, self.settings = path, settings
        self.held = WorkDir(path)
        try:
            before = self.held.read(self.note, say)
            self._check(before, pool)
            self.before = before
            if not before:
                self._write({})
        except BaseException:
            self.held.close()
            raise

    @property
    def note(self) -> Path:
        return self.path / NOTE

    @property
    def key(self) -> str:
        """Of the settings: rows of others are not used."""
        return key_of(repr(sorted(self.settings.items())))[:16]

    def _check(self, before: dict[str, Any], pool: Pool) -> None:
        if not before:
            taken = next((path for shard in pool.shards if (path := self.npz(shard.key)).exists()), None)
            if taken is not None:
                raise BadInput(taken, "is there, and no run of this tool made it", "name another --save_dir")
            return
        then, now = before["settings"], self.settings
        for name in sorted(then.keys() | now.keys()):
            if then.get(name) != now.get(name):
                what = f"was made with {name} {then.get(name)}, not {now.get(name)}"
                raise BadInput(self.path, what, "give the same, or name another --save_dir")

    def npz(self, key: str) -> Path:
        return self.path / f"{key}.npz"

    def finished(self, tars: dict[Path, list[int]]) -> bool:
        """Whether all is there, as it was written; raises BadInput when it was made of other tars."""
        if "tars" not in self.before:
            return False
        then, now = self.before["tars"], _named(tars)
        if then != now:
            odd = min(name for name in then.keys() | now.keys() if then.get(name) != now.get(name))
            raise BadInput(self.path, f"is finished, and was made of other shards ({odd} differs)", "name another --save_dir")
        return all(self._is_as_told(key, told) for key, told in self.before["files"].items())

    def _is_as_told(self, key: str, told: dict[str, Any]) -> bool:
        path = self.npz(key)
        return path.is_file() and told_of(path) == told

    def note_written(self, key: str, units: str, counts: dict[str, int]) -> None:
        """One shard's npz is in its place, made of these units."""
        write_sealed(self._mark(key), {"units": units, "file": told_of(self.npz(key)), "counts": counts})

    def written(self, key: str, units: str) -> dict[str, Any]:
        """What was noted of a shard's npz; nothing where it is another, or made of other units."""
        try:
            told = unsealed(self._mark(key))
        except UNREADABLE:
            return {}
        return told if told["units"] == units and self._is_as_told(key, told["file"]) else {}

    def _mark(self, key: str) -> Path:
        return self.held.stages / "written" / f"{key}.json"

    def finish(self, tars: dict[Path, list[int]], files: dict[str, Any], counts: dict[str, int]) -> None:
        self._write({"tars": _named(tars), "files": files, "counts": counts})
        self.held.forget()

    def _write(self, told: dict[str, Any]) -> None:
        write_sealed(self.note, {"settings": self.settings} | told, indent=1)


def _named(tars: dict[Path, list[int]]) -> dict[str, list[int]]:
    """By name: they are the same in another folder."""
    return {tar.name: stamp for tar, stamp in tars.items()}
