"""Which shards a pool has and what lies in them, from headers alone. METHOD 1.

A shard is a pair `{key}.parquet`, `{key}.npz`. Opening a pool reads each parquet footer and each npz directory, and nothing of
the rows. Its fingerprint is made of just that (sizes and CRC-32s of the members, the footer), so it is blind to dates.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

from filters.pool import store
from filters.pool.archive import Archive, Member
from filters.pool.errors import BadInput, from_os, shortened
from filters.pool.place import Place, Remote, Stamp, place

ENDS = (".parquet", ".npz")
DOWNLOADING = ".download/unfinished"  # in a folder that does not hold the whole pool yet: the command that goes on
FOOTER = 1 << 13  # bytes of a store's parquet that are fetched at once: most footers are shorter
ASKED = 32  # files of a store of which something is asked at once
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Shard:
    """One pair of files; picklable and small."""

    key: str
    index: int
    parquet: Place
    rows: int
    columns: dict[str, str] = field(repr=False)  # name -> type, as the footer says
    beside: Archive | None = field(repr=False)  # embeddings kept elsewhere
    archive: Archive | None = field(repr=False)  # the pool's own
    footer: str = field(repr=False)
    stamps: dict[Place, Stamp] = field(repr=False)
    tail: bytes = field(default=b"", repr=False)  # of a store's parquet: its footer, which is not asked for again

    @property
    def fingerprint(self) -> str:
        """Of the pool's own pair: two words, one where no npz was opened."""
        return " ".join([_digest(self.footer), *([self.archive.fingerprint] if self.archive else [])])

    def like(self, fingerprint: str) -> bool:
        """Whether a fingerprint taken before is of this very pair, as far as both know it."""
        return all(mine == its for mine, its in zip(self.fingerprint.split(), fingerprint.split(), strict=False))

    def check_unchanged(self, path: Place) -> None:
        """Raise BadInput when the file is not the one that was there when the pool was opened."""
        if stamp(path) != self.stamps[path]:
            raise BadInput(path, "changed during the run", "run again when nothing writes to the pool")

    def check_all_unchanged(self) -> None:
        for path in self.stamps:
            self.check_unchanged(path)

    def column_type(self, name: str) -> str:
        """Type of a parquet column; raises BadInput when there is no such column."""
        if name not in self.columns:
            what = f"has no column '{name}', only {', '.join(self.columns)}"
            raise BadInput(self.parquet, what, "name one of these, or download it again")
        return self.columns[name]

    def member(self, name: str) -> Member:
        """The named array; raises BadInput when no archive of the shard has it, or it is not (rows, d) of floats."""
        for archive in (self.beside, self.archive):
            if archive is not None and name in archive.entries:
                return archive.member(name).checked(self.rows, self.parquet)
        if self.archive is None:
            raise BadInput(self.parquet, "has no npz beside it", f"download {self.key}.npz as well: '{name}' is needed")
        have = ", ".join(sorted(self.archive.entries)) or "nothing"
        raise BadInput(self.archive.path, f"has no member '{name}', only {have}", "name one of these, or download the pair again")


@dataclass(frozen=True)
class Features:
    """One member of every shard: the same name, type and width throughout."""

    name: str
    dtype: str
    width: int
    fingerprint: str  # of all its parts, wherever they are kept


@dataclass(frozen=True)
class Pool:
    """Shards in ascending order of their keys. Make one with `Pool.open`."""

    location: Place
    shards: tuple[Shard, ...]

    @classmethod
    def open(cls, metadata_dir: str | Place, features_dir: str | Place | None = None, workers: int = 8, *, embeddings: bool = True) -> Pool:
        """Read the headers of a folder of DataComp metadata pairs.

        metadata_dir  folder of {key}.parquet and {key}.npz, of this machine or of a store; other files are ignored
        features_dir  folder of {key}.npz with members of the same rows, looked up before the pool's own
        embeddings    False: no npz is looked for; every parquet is a shard
        raises        BadInput for a folder without shards, a lone half of a pair, and every fault that headers show
        """
        folder = place(metadata_dir)
        _check_finished(folder)
        files = _files(folder, ENDS if embeddings else ENDS[:1])
        keys = list(_keys(folder, files))
        beside = _Beside.of(place(features_dir)) if features_dir is not None and embeddings else None
        shards = _together(lambda at: _open_shard(files, beside, keys[at], at), range(len(keys)), folder, workers)
        return cls(folder, tuple(shards))

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    @cached_property
    def fingerprint(self) -> str:
        return _digest(*(f"{shard.key} {shard.fingerprint}" for shard in self.shards))

    def features(self, name: str) -> Features:
        """The member `name` of every shard; raises BadInput where it is missing, misshapen or unlike the others."""
        found = _together(lambda shard: shard.member(name), self.shards, self.location, 1)
        kinds = Counter((member.dtype, member.width) for member in found)
        common = kinds.most_common(1)[0][0]
        if len(kinds) > 1:
            odd = next(member for member in found if (member.dtype, member.width) != common)
            like = next(member for member in found if (member.dtype, member.width) == common)
            what = f"'{name}' is {odd.dtype} {odd.width} wide, in {like.path.name} it is {like.dtype} {like.width} wide"
            raise BadInput(odd.path, what, "download the odd one again")
        return Features(name, *common, _digest(*(repr(member.entry) for member in found)))

    def check_unchanged(self) -> None:
        """Raise BadInput when a file is not the one that was there when the pool was opened."""
        _together(Shard.check_all_unchanged, self.shards, self.location, 1)

    def check_column(self, name: str, kinds: tuple[str, ...]) -> None:
        """Raise BadInput unless every parquet has the column, in one of these types and the same throughout."""
        first = self.shards[0]
        for shard in self.shards:
            kind, like = shard.column_type(name), first.column_type(name)
            if kind not in kinds:
                raise BadInput(shard.parquet, f"column '{name}' is {kind}, not {' or '.join(kinds)}", "download it again")
            if kind != like:
                raise BadInput(
                    shard.parquet, f"column '{name}' is {kind}, in {first.parquet.name} it is {like}", "download the odd one again"
                )


def _check_finished(folder: Place) -> None:
    """A part of a pool would be taken for the whole."""
    if not isinstance(folder, Path):
        return
    try:
        command = (folder / DOWNLOADING).read_text().strip()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise from_os(folder, error) from None
    raise BadInput(folder, "is not downloaded to its end", command or "download it again")


def _together(task: Callable[[Item], Result], items: Iterable[Item], folder: Place, workers: int) -> list[Result]:
    """task(item) of each, in order; many at a time where each waits for a store."""
    if workers == 1 and not isinstance(folder, Remote):
        return list(map(task, items))
    threads = ThreadPoolExecutor(ASKED if isinstance(folder, Remote) else workers)
    try:
        return list(threads.map(task, items))
    finally:
        threads.shutdown(wait=False, cancel_futures=True)  # after an interruption nothing is waited for


def _files(folder: Place, ends: tuple[str, ...]) -> dict[str, Place]:
    """The folder's files whose names end so, by name."""
    if isinstance(folder, Remote):
        return {name: file for name, file in store.listing(folder).items() if name.endswith(ends)}
    try:
        with os.scandir(folder) as entries:
            return {entry.name: folder / entry.name for entry in entries if entry.name.endswith(ends) and _is_file(entry)}
    except OSError as error:
        raise from_os(folder, error) from None


def _keys(folder: Place, files: dict[str, Place]) -> Iterator[str]:
    """Keys of whole pairs, ascending; a lone npz, or a parquet without npz among pairs, raises BadInput."""
    tables, arrays = ({name.removesuffix(end) for name in files if name.endswith(end) and name != end} for end in ENDS)
    if not tables | arrays:
        raise BadInput(folder, "holds no {key}.parquet", "name the folder of the pool's metadata")
    for key in sorted(tables | arrays):
        if key not in tables:
            raise BadInput(folder / f"{key}.npz", f"there is no {key}.parquet beside it", "download the pair again")
        if arrays and key not in arrays:
            raise BadInput(folder / f"{key}.parquet", f"there is no {key}.npz beside it", "download the pair again")
        _check_key(folder, key)
        yield key


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        found = entry.is_file()
    except OSError:
        found = False  # a link to itself
    if not found and entry.is_symlink() and not Path(entry.path).is_dir():
        key = entry.name.rpartition(".")[0]
        raise BadInput(entry.path, "is a link that leads to no file", f"mend it, or download {key}.npz and {key}.parquet again")
    return found


def _check_key(folder: Place, key: str) -> None:
    """Keys become names of files that we write: they must stay inside the work folder."""
    if ".." in key or "/" in key or os.sep in key or "\\" in key or key.startswith("."):
        raise BadInput(folder / f"{key}.parquet", f"its key {key!r} holds '..', a separator or a leading dot", "rename the pair")


@dataclass(frozen=True)
class _Beside:
    """A folder of embeddings kept elsewhere."""

    folder: Place
    listed: dict[str, Place] | None  # of a store; a folder of this machine is looked into

    @classmethod
    def of(cls, folder: Place) -> _Beside:
        return cls(folder, _files(folder, ENDS[1:]) if isinstance(folder, Remote) else None)

    def file(self, name: str) -> Place:
        path = self.folder / name
        if not (name in self.listed if self.listed is not None else isinstance(path, Path) and path.is_file()):
            raise BadInput(path, "is not there", "every shard needs its embeddings: same keys, same rows")
        return self.listed[name] if self.listed is not None else path


def _open_shard(files: dict[str, Place], beside: _Beside | None, key: str, index: int) -> Shard:
    npz = f"{key}.npz"
    named = [files[f"{key}.parquet"], beside.file(npz) if beside else None, files.get(npz)]
    parquet, other, own = (store.stamped(path) if isinstance(path, Remote) else path for path in named)
    assert parquet is not None, "a key is that of a parquet file"
    stamps = {path: _noted(path) for path in (parquet, own, other) if path}
    archives = [Archive.open(path) if path else None for path in (other, own)]
    tail = _tail(parquet) if isinstance(parquet, Remote) else b""
    rows, columns, footer = _read_footer(parquet, stamps[parquet][0], tail)
    return Shard(key, index, parquet, rows, columns, archives[0], archives[1], footer, stamps, tail)


def _noted(path: Place) -> Stamp:
    return path.stamp if isinstance(path, Remote) and path.stamp else stamp(path)


def _tail(file: Remote) -> bytes:
    """A store's parquet from its footer on; of a file that is none, as much as was fetched."""
    begin = max(0, file.size - FOOTER)
    data = b"".join(store.fetched(file, [(begin, file.size - begin)]))
    start = file.size - 8 - int.from_bytes(data[-8:-4], "little")
    if start < 0:
        return data
    missing = b"".join(store.fetched(file, store.pieces(start, begin))) if start < begin else b""
    return missing + data[max(0, start - begin) :]


def _read_footer(path: Place, size: int, tail: bytes) -> tuple[int, dict[str, str], str]:
    """Rows, types of the columns, and a digest of the footer."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path if isinstance(path, Path) else BytesIO(tail)) as file:
            meta: Any = file.metadata
            names = file.schema_arrow.names
            columns = {name: str(kind) for name, kind in zip(names, file.schema_arrow.types, strict=True)}
            groups = [meta.row_group(at) for at in range(meta.num_row_groups)]
    except OSError as error:
        if error.errno is not None:
            raise from_os(path, error) from None
        raise unreadable(path, error) from None
    except (pa.ArrowException, MemoryError, ValueError) as error:
        raise unreadable(path, error) from None
    if len(columns) < len(names):
        raise BadInput(path, f"has two columns named {shortened(max(names, key=names.count))}", "download it again")
    counted = sum(group.num_rows for group in groups)
    # A uid is 16 bytes of entropy: more rows than bytes are a forged or broken footer, and would have us allocate them.
    if counted != meta.num_rows or not 0 <= meta.num_rows <= size or any(group.num_rows < 0 for group in groups):
        raise BadInput(
            path, f"its footer declares {meta.num_rows:,} rows, {counted:,} in row groups, in a file of {size:,} bytes", "download it again"
        )
    return meta.num_rows, columns, _footer_digest(path, size, tail)


def unreadable(path: Place | str, error: Exception) -> BadInput:
    """A parquet file that pyarrow refuses."""
    reason = str(error).split("\n")[0] or type(error).__name__
    return BadInput(path, f"is no whole parquet file ({reason})", "download it again")


def _footer_digest(path: Place, size: int, tail: bytes) -> str:
    return _digest(str(size), hashlib.sha256(_footer(path, size) if isinstance(path, Path) else tail[:-8]).hexdigest())


def _footer(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(size - 8)
        length = int.from_bytes(file.read(4), "little")
        file.seek(max(0, size - 8 - length))
        return file.read(length)


def stamp(path: Place) -> Stamp:
    if isinstance(path, Remote):
        return store.stamp(path)
    try:
        status = path.stat()
    except OSError as error:
        raise from_os(path, error) from None
    return status.st_size, status.st_mtime_ns, status.st_ino


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
