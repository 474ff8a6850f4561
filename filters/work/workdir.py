"""What a run keeps on disk, so that nothing is measured twice and nothing half-written is believed.

A unit of work is a few files with one done-record, which names each with its size and sha256. It is written last, after the
data was synced and renamed; a unit whose record is missing or disagrees with the files is done again.
"""

from __future__ import annotations

import fcntl
import hashlib
import inspect
import itertools
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from filters.maths.arrays import Array
from filters.pool.columns import Hashed, Rows, Stored
from filters.pool.errors import BadInput, from_os
from filters.pool.files import TEMPORARY, move, read_npy, replacing, sha256, sync_folder, temporary, write_npy, writing


def key_of(*parts: Any) -> str:
    """A key that is equal when all parts are, and changes with any."""
    return hashlib.sha256("\n".join(map(_told, parts)).encode()).hexdigest()


def _told(part: Any) -> str:
    if isinstance(part, Rows | Stored | Hashed | Saved):
        return part.key
    if isinstance(part, np.ndarray):
        return f"{part.dtype} {part.shape} {hashlib.sha256(np.ascontiguousarray(part).tobytes()).hexdigest()}"
    if isinstance(part, tuple | list):
        return f"({' '.join(map(_told, part))})"
    if is_dataclass(part):
        return f"{type(part).__qualname__}({' '.join(_told(getattr(part, f.name)) for f in fields(part))})"
    assert part is None or isinstance(part, str | int | float | bool | bytes), f"{type(part)} cannot be part of a key"
    return repr(part)


@cache
def source_key() -> str:
    """A digest of this program's own sources: results of another version are not used."""
    root = Path(__file__).resolve().parents[1]
    files = sorted(root.rglob("*.py"))
    return key_of(*(f"{path.relative_to(root)} {sha256(path)}" for path in files))


def foreign_key(function: Callable[..., Any]) -> str:
    """A digest of the source of a function that is not ours: of its file, or of itself where it was typed in."""
    path = Path(inspect.getsourcefile(function) or "")
    if path.is_relative_to(Path(__file__).resolve().parents[1]):
        return ""
    return sha256(path) if path.is_file() else key_of(inspect.getsource(function))


@dataclass(frozen=True)
class Saved:
    """An array that lies in a file; read once a process, and passed between processes by name."""

    path: Path
    key: str

    def load(self) -> Array:
        return _load(self.path)


@lru_cache(8)
def _load(path: Path) -> Array:
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
    def _record(self) -> Path:
        return self.folder / f"{self.name}.done"

    def whole(self) -> bool:
        """Whether the unit is done and its files are those that were recorded."""
        try:
            return all(self._matches(field, told) for field, told in self._files().items())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False  # no record, or one that says nothing: the unit is done again

    def _files(self) -> dict[str, Any]:
        files: dict[str, Any] = json.loads(self._record.read_text())["files"]
        return files

    def names(self) -> list[str]:
        """Names of the arrays of a unit that is done."""
        return list(self._files())

    def _matches(self, field: str, told: dict[str, Any]) -> bool:
        path = self.path(field)
        return (path.stat().st_size, sha256(path)) == (told["size"], told["sha256"])

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
        told = {field: {"size": (at := self.temporary(field)).stat().st_size, "sha256": sha256(at)} for field in fields}
        for field in fields:
            move(self.temporary(field), self.path(field))
        write_text(self._record, json.dumps({"files": told}))


def write_text(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text.encode())


def _read_told(path: Path) -> dict[str, Any]:
    """A file that says of which pool it tells; empty when it is none of ours."""
    try:
        told = json.loads(path.read_text())
        ours = isinstance(told["pool"]["location"], str) and isinstance(told["pool"]["shards"], dict)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    return told if ours else {}


class WorkDir:
    """The folder of one pool's runs, held by one run at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.stages = folder, folder / "stages"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = (folder / "lock").open("a+")
            try:
                self._hold()
                self._sweep()
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

    def _sweep(self) -> None:
        """Remove what runs that were stopped had not finished writing."""
        shutil.rmtree(self._leaving, ignore_errors=True)
        for path in itertools.chain(self.folder.glob("*"), self.stages.rglob("*")):
            if TEMPORARY.fullmatch(path.name) and path.is_file():
                path.unlink(missing_ok=True)

    def close(self) -> None:
        self._lock.close()

    def read_manifest(self) -> dict[str, Any]:
        """What the last finished run left; empty when there is none, or it is not one of ours."""
        told = _read_told(self.folder / "manifest.json")
        return told if isinstance(told.get("made"), list) else {}

    def read_origin(self) -> dict[str, Any]:
        """Whose measurements lie in stages/; empty when there are none."""
        return _read_told(self._origin)

    def write_origin(self, told: dict[str, Any]) -> None:
        if told != self.read_origin():
            write_text(self._origin, json.dumps(told))

    @property
    def _origin(self) -> Path:
        return self.stages / "origin.json"

    def beside(self, path: Path) -> Path:
        """Where a file is written before it takes its place outside: the same name in every run of this folder, and of no other."""
        return path.with_name(f".{path.name}.{key_of(str(self.folder.resolve()))[:8]}.tmp")

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
        files = sorted(path.name for path in new.iterdir() if path.is_file())
        write_text(new / "manifest.json", json.dumps(manifest | {"files": files}, indent=2) + "\n")
        try:
            for name in set(map(str, before.get("files", []))) - set(files):
                (self.folder / Path(name).name).unlink(missing_ok=True)
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
