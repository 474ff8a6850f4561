"""What a run keeps on disk, so that nothing is measured twice and nothing half-written is believed.

A unit of work is a few files with one done-record, which names each with its size and sha256. It is written last, after the
data was synced and renamed; a unit whose record is missing or disagrees with the files is done again. Records, the origin and
the manifest carry a digest of what they say: one that was edited, or belongs to another unit, is none.
"""

from __future__ import annotations

import fcntl
import hashlib
import inspect
import itertools
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from filters.maths.arrays import Array
from filters.pool.columns import Hashed, Rows, Stored
from filters.pool.errors import BadInput, from_os
from filters.pool.files import (
    TEMPORARY,
    UNREADABLE,
    digest_of,
    move,
    read_npy,
    sha256,
    sync_folder,
    temporary,
    told_of,
    unsealed,
    write_npy,
    write_sealed,
    writing,
)
from filters.pool.place import Remote

Stamps = dict[Path, tuple[int, int, int]]  # of files: size, time of change, inode


def key_of(*parts: Any) -> str:
    """A key that is equal when all parts are, and changes with any."""
    return hashlib.sha256("\n".join(map(_told, parts)).encode()).hexdigest()


def _told(part: Any) -> str:
    if isinstance(part, Rows | Stored | Hashed | Saved | Given):
        return part.key
    if isinstance(part, np.ndarray):
        return f"{part.dtype} {part.shape} {hashlib.sha256(np.ascontiguousarray(part).tobytes()).hexdigest()}"
    if isinstance(part, tuple | list):
        return f"({' '.join(map(_told, part))})"
    if isinstance(part, Path | Remote):
        return str(part)
    if is_dataclass(part):
        return f"{type(part).__qualname__}({' '.join(_told(getattr(part, f.name)) for f in fields(part))})"
    assert part is None or isinstance(part, str | int | float | bool | bytes), f"{type(part)} cannot be part of a key"
    return repr(part)


@cache
def source_key() -> str:
    """A digest of this program's own sources: results of another version are not used."""
    return _sources(Path(__file__).resolve().parents[1])


@cache
def _sources(root: Path) -> str:
    return key_of(*(f"{path.relative_to(root)} {sha256(path)}" for path in sorted(root.rglob("*.py"))))


def foreign_key(function: Callable[..., Any]) -> str:
    """A digest of the source of a function that is not ours: of its package, of its file, or of itself where it was typed in."""
    path = Path(inspect.getsourcefile(function) or "")
    if path.is_relative_to(Path(__file__).resolve().parents[1]):
        return ""
    if package := getattr(sys.modules[function.__module__.partition(".")[0]], "__path__", None):
        return _sources(Path(package[0]))
    return sha256(path) if path.is_file() else key_of(inspect.getsource(function))


@dataclass(frozen=True)
class Saved:
    """An array that lies in a file; read once a process, and passed between processes by name."""

    path: Path
    key: str

    def load(self) -> Array:
        return _load(self.path, self.path.stat().st_ino)


@dataclass(frozen=True)
class Given:
    """A file, or a folder of files, that is not ours and that tasks read: known by what it holds, wherever it lies."""

    path: Path
    key: str


@lru_cache(8)
def _load(path: Path, inode: int) -> Array:
    """A file that was harmed and made anew is another one: the map of the old one may end in a bus error."""
    values: Array = read_npy(path)
    return values


class Unit:
    """One unit of work: `{folder}/{name}.{field}.npy` and `{folder}/{name}.done`."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name

    def path(self, field: str) -> Path:
        return self.folder / f"{self.name}.{field}.npy"

    def temporary(self, field: str) -> Path:
        return temporary(self.path(field))

    @property
    def record(self) -> Path:
        return self.folder / f"{self.name}.done"

    def whole(self) -> bool:
        """Whether the unit is done and its files are those that were recorded."""
        try:
            return all(told_of(self.path(field)) == told for field, told in self._files().items())
        except UNREADABLE:
            return False  # no record, or one that says nothing: the unit is done again

    def stamps(self) -> Stamps:
        """Of its record and its files; of nothing where it has no record that says anything."""
        try:
            return _stamps([self.record, *map(self.path, self.names())])
        except UNREADABLE:
            return {}

    def recorded(self) -> bool:
        """Whether there is a record, true or not: of a unit that is not whole, that it was once."""
        return self.record.exists()

    def forget(self) -> None:
        """It is no more than a unit that was never done."""
        self.record.unlink(missing_ok=True)

    def _files(self) -> dict[str, Any]:
        told = unsealed(self.record)
        if told["unit"] != str(self):
            raise ValueError(f"{self.record} is of {told['unit']}")
        files: dict[str, Any] = told["files"]
        return files

    def __str__(self) -> str:
        """Its name among all units, wherever the work folder lies."""
        return f"{self.folder.parent.name}/{self.folder.name}/{self.name}"

    def names(self) -> list[str]:
        """Names of the arrays of a unit that is done."""
        return list(self._files())

    def load(self, field: str) -> Array:
        values: Array = read_npy(self.path(field))
        return values

    def save(self, arrays: Mapping[str, Array | Path]) -> None:
        """Write the arrays and their record; a path instead of an array says that its temporary file is written already."""
        for field, values in arrays.items():
            if not isinstance(values, Path):
                with writing(self.temporary(field), self.path(field)) as file:
                    write_npy(file, values)
        self.seal(list(arrays))

    def seal(self, fields: list[str]) -> None:
        """Rename the temporary files, which are synced already, and write the record."""
        told = {field: told_of(self.temporary(field)) for field in fields}
        for field in fields:
            move(self.temporary(field), self.path(field))
        write_sealed(self.record, {"unit": str(self), "files": told})


def _stamps(paths: Iterable[Path]) -> Stamps:
    return {path: ((told := path.stat()).st_size, told.st_mtime_ns, told.st_ino) for path in paths}


@dataclass(frozen=True)
class Spent:
    """What a pass took when it was made."""

    seconds: float
    bytes_read: int


class WorkDir:
    """The folder of one pool's runs, held by one run at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.stages = folder, folder / "stages"
        self.spent: dict[str, Spent] = {}  # by name of the pass's folder
        self._whole: dict[Path, Stamps] = {}  # of units found whole since the folder is held, by record
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = (folder / "lock").open("a+")
            try:
                self._hold()
                self.sweep()
            except BaseException:
                self._lock.close()
                raise
        except OSError as error:
            raise from_os(folder, error) from None

    def _hold(self) -> None:
        """The system lets go of the lock when its holder ends, however it ends."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.seek(0)
            holder = self._lock.read().strip() or "another process"
            raise BadInput(self.folder, f"is in use by {holder}", "wait for it, or name another --work_dir") from None
        self._lock.truncate(0)
        self._lock.write(f"process {os.getpid()}")
        self._lock.flush()

    def known_whole(self, unit: Unit) -> bool:
        """Whether it was found whole since the folder is held, and none of its files has changed: hashes are not taken twice."""
        stamps = self._whole.get(unit.record, {})
        try:
            return bool(stamps) and _stamps(stamps) == stamps
        except OSError:
            return False

    def note_whole(self, unit: Unit, stamps: Stamps) -> None:
        """It was found whole; the stamps were taken before."""
        self._whole[unit.record] = stamps

    def sweep(self) -> None:
        """Remove what runs that were stopped, or workers that were killed, had not finished writing."""
        shutil.rmtree(self._leaving, ignore_errors=True)
        for path in itertools.chain(self.folder.glob("*"), self.stages.rglob("*")):
            if TEMPORARY.fullmatch(path.name) and path.is_file():
                path.unlink(missing_ok=True)

    def close(self) -> None:
        self._lock.close()

    def read(self, path: Path, say: Callable[[str], None]) -> dict[str, Any]:
        """What `manifest` or `origin` says; empty when it is not there, or not as it was written."""
        try:
            return unsealed(path)
        except UNREADABLE:
            if path.exists():
                say(f"{path} is not as a run wrote it: not heeded, and written anew")
            return {}

    def write_origin(self, told: dict[str, Any]) -> None:
        """Unless it says so already."""
        if self.read(self.origin, lambda line: None) != told | {"digest": digest_of(told)}:
            write_sealed(self.origin, told)

    @property
    def manifest(self) -> Path:
        """What the last finished run left."""
        return self.folder / "manifest.json"

    @property
    def origin(self) -> Path:
        """Whose measurements lie in stages/, and the sha256 of each subset file that the folder has made."""
        return self.stages / "origin.json"

    def leaving(self) -> Path:
        """An empty folder for what the run will leave."""
        shutil.rmtree(self._leaving, ignore_errors=True)
        (self._leaving / "samples").mkdir(parents=True)
        return self._leaving

    @property
    def _leaving(self) -> Path:
        return self.folder / "leaving"

    def publish(self, new: Path, manifest: dict[str, Any], before: dict[str, Any]) -> None:
        """Put what was written into its place, instead of what the run before left."""
        write_sealed(new / "manifest.json", manifest, indent=2)
        files = [name for name in manifest["files"] if "/" not in name]
        try:
            for name in before.get("files", {}).keys() - manifest["files"].keys():
                (self.folder / name).unlink(missing_ok=True)
            shutil.rmtree(self.folder / "samples", ignore_errors=True)
            for path in ("samples", *files, "manifest.json"):
                (new / path).replace(self.folder / path)
            new.rmdir()
            sync_folder(self.folder)
        except OSError as error:
            raise from_os(self.folder, error) from None

    def forget(self) -> None:
        """Drop every intermediate column."""
        shutil.rmtree(self.stages, ignore_errors=True)


def beside(path: Path, folder: Path, end: str = "tmp") -> Path:
    """Where a file is written before it takes its place outside: the same name in every run of this work folder, and of no other."""
    return path.with_name(f".{path.name}.{_mark(folder)}.{end}")


def clear_beside(path: Path, folder: Path) -> None:
    """Remove what runs of this work folder that were stopped left there, under whatever name they were to write."""
    for left in path.absolute().parent.glob(f".*.{_mark(folder)}.t??"):
        left.unlink(missing_ok=True)


def _mark(folder: Path) -> str:
    return key_of(str(folder.resolve()))[:8]
