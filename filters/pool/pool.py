"""Which shards a pool has and what lies in them, from headers alone. METHOD 1.

A shard is a pair `{key}.parquet`, `{key}.npz`. Opening a pool reads each parquet footer and each npz directory, and nothing of
the rows. Its fingerprint is made of just that (sizes and CRC-32s of the members, the footer), so it is blind to dates.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from filters.pool.archive import Archive, Member
from filters.pool.errors import BadInput, from_os, shortened

Stamp = tuple[int, int, int]  # size, time of change, inode: to notice a change during one run


@dataclass(frozen=True)
class Shard:
    """One pair of files; picklable and small."""

    key: str
    index: int
    parquet: Path
    rows: int
    columns: dict[str, str] = field(repr=False)  # name -> type, as the footer says
    beside: Archive | None = field(repr=False)  # embeddings kept elsewhere
    archive: Archive | None = field(repr=False)  # the pool's own
    footer: str = field(repr=False)
    stamps: dict[Path, Stamp] = field(repr=False)

    @property
    def fingerprint(self) -> str:
        """Of the pool's own pair: two words, one where no npz was opened."""
        return " ".join([_digest(self.footer), *([self.archive.fingerprint] if self.archive else [])])

    def like(self, fingerprint: str) -> bool:
        """Whether a fingerprint taken before is of this very pair, as far as both know it."""
        return all(mine == its for mine, its in zip(self.fingerprint.split(), fingerprint.split(), strict=False))

    def check_unchanged(self, path: Path) -> None:
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

    location: Path
    shards: tuple[Shard, ...]

    @classmethod
    def open(cls, metadata_dir: str | Path, features_dir: str | Path | None = None, workers: int = 8, *, embeddings: bool = True) -> Pool:
        """Read the headers of a folder of DataComp metadata pairs.

        metadata_dir  folder of {key}.parquet and {key}.npz; other files are ignored
        features_dir  folder of {key}.npz with members of the same rows, looked up before the pool's own
        embeddings    False: no npz is looked for; every parquet is a shard
        raises        BadInput for a folder without shards, a lone half of a pair, and every fault that headers show
        """
        folder = Path(metadata_dir)
        keys = list(_keys(folder, embeddings))
        beside = Path(features_dir) if features_dir is not None and embeddings else None
        with ThreadPoolExecutor(workers) as threads:
            shards = threads.map(lambda at: _open_shard(folder, beside, keys[at], at, embeddings), range(len(keys)))
            return cls(folder, tuple(shards))

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    @cached_property
    def fingerprint(self) -> str:
        return _digest(*(f"{shard.key} {shard.fingerprint}" for shard in self.shards))

    def features(self, name: str) -> Features:
        """The member `name` of every shard; raises BadInput where it is missing, misshapen or unlike the others."""
        found = [shard.member(name) for shard in self.shards]
        kinds = Counter((member.dtype, member.width) for member in found)
        common = kinds.most_common(1)[0][0]
        if len(kinds) > 1:
            odd = next(member for member in found if (member.dtype, member.width) != common)
            like = next(member for member in found if (member.dtype, member.width) == common)
            what = f"'{name}' is {odd.dtype} {odd.width} wide, in {like.path.name} it is {like.dtype} {like.width} wide"
            raise BadInput(odd.path, what, "download the odd one again")
        return Features(name, *common, _digest(*(repr(member.entry) for member in found)))

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


def _keys(folder: Path, embeddings: bool) -> Iterator[str]:
    """Keys of whole pairs, ascending; a lone npz, or a parquet without npz among pairs, raises BadInput where embeddings are wanted."""
    try:
        with os.scandir(folder) as entries:
            ends = (".parquet", ".npz") if embeddings else (".parquet",)
            names = {entry.name for entry in entries if entry.name.endswith(ends) and _is_file(entry)}
    except OSError as error:
        raise from_os(folder, error) from None
    tables, arrays = ({name.removesuffix(end) for name in names if name.endswith(end) and name != end} for end in (".parquet", ".npz"))
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


def _check_key(folder: Path, key: str) -> None:
    """Keys become names of files that we write: they must stay inside the work folder."""
    if ".." in key or "/" in key or os.sep in key or "\\" in key or key.startswith("."):
        raise BadInput(folder / f"{key}.parquet", f"its key {key!r} holds '..', a separator or a leading dot", "rename the pair")


def _open_shard(folder: Path, beside: Path | None, key: str, index: int, embeddings: bool) -> Shard:
    parquet, npz = folder / f"{key}.parquet", folder / f"{key}.npz"
    if beside is not None and not (beside / f"{key}.npz").is_file():
        raise BadInput(beside / f"{key}.npz", "is not there", "every shard needs its embeddings: same keys, same rows")
    other = beside / f"{key}.npz" if beside is not None else None
    paths = [path for path in (parquet, npz, other) if path is not None and (path != npz or (embeddings and path.is_file()))]
    stamps = {path: stamp(path) for path in paths}
    archives = [Archive.open(path) if path is not None and path in stamps else None for path in (other, npz)]
    rows, columns, footer = _read_footer(parquet)
    return Shard(key, index, parquet, rows, columns, archives[0], archives[1], footer, stamps)


def _read_footer(path: Path) -> tuple[int, dict[str, str], str]:
    """Rows, types of the columns, and a digest of the footer."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        size = path.stat().st_size
        with pq.ParquetFile(path) as file:
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
    return meta.num_rows, columns, _footer_digest(path, size)


def unreadable(path: Path | str, error: Exception) -> BadInput:
    """A parquet file that pyarrow refuses."""
    reason = str(error).split("\n")[0] or type(error).__name__
    return BadInput(path, f"is no whole parquet file ({reason})", "download it again")


def _footer_digest(path: Path, size: int) -> str:
    with path.open("rb") as file:
        file.seek(size - 8)
        length = int.from_bytes(file.read(4), "little")
        file.seek(max(0, size - 8 - length))
        return _digest(str(size), hashlib.sha256(file.read(length)).hexdigest())


def stamp(path: Path) -> Stamp:
    try:
        status = path.stat()
    except OSError as error:
        raise from_os(path, error) from None
    return status.st_size, status.st_mtime_ns, status.st_ino


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
