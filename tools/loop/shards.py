"""Read back what the resharder left: each uid of the subset that is in the input is there, as often as it is listed, and nothing else.

Its exit code is 0 after most of its failures, so the tars are streamed. Memory is some 60 bytes a uid of the subset.
"""

from __future__ import annotations

import filecmp
import itertools
import json
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from filters.maths import uids
from filters.maths.arrays import I64, U64, Bool
from filters.pool import subset
from filters.pool.errors import BadInput, from_os

SHARD = re.compile(r"\d{8}\.tar")  # as img2dataset and the resharder name one
IMAGES = {"jpg", "jpeg", "png", "webp"}
Pulse = Callable[[int], None]  # hears how many bytes were read


class Shard(NamedTuple):
    """The samples of a tar, in its order."""

    uids: U64  # (n, 2)
    numbers: I64  # (n,) j of a key uid-j; -1 where the key is another
    images: Bool  # (n,) whether there is an image


@dataclass(frozen=True)
class Comparison:
    """What was written beside what was to be written."""

    table: U64  # (n, 2) the uids of the subset, ascending, each once
    times: I64  # (n,) how often each is listed
    origin: I64  # (n,) the number of the tar of the input that holds it; -1 where none does
    written: Shard

    @cached_property
    def place(self) -> I64:
        """Where each written sample stands in the table; -1 where it is not to be there."""
        place = uids.find(self.table, self.written.uids)
        return np.where(np.append(self.origin, -1)[place] >= 0, place, -1)

    @cached_property
    def count(self) -> I64:
        """(n,) how often each was written."""
        return np.bincount(self.place[self.place >= 0], minlength=len(self.table))

    @property
    def held(self) -> Bool:
        """(n,) whether it is in the input."""
        return self.origin >= 0

    @property
    def missing(self) -> Bool:
        result: Bool = self.held & (self.count == 0)
        return result

    @property
    def unequal(self) -> Bool:
        result: Bool = (self.count > 0) & (self.count != self.times)
        return result

    def rows(self) -> list[tuple[str, int]]:
        """Samples, as a table tells them."""
        return [
            ("listed", int(self.times.sum())),
            ("listed, and not in the input", int(self.times[~self.held].sum())),
            ("to be written", int(self.times[self.held].sum())),
            ("written", len(self.place)),
            ("missing", int(self.times[self.missing].sum())),
            ("not to be there", int((self.place < 0).sum())),
            ("uids not as often as listed", int(self.unequal.sum())),
        ]

    def faults(self, sources: list[Path]) -> Iterator[str]:
        for first in _first(self.missing):
            where = f"{_text(self.table, first)} of {sources[int(self.origin[first])].name}"
            yield f"lacks {self.times[self.missing].sum():,} samples that the input has, first {where}"
        for first in _first(self.place < 0):
            yield f"holds {(self.place < 0).sum():,} samples that are not to be there, first {_text(self.written.uids, first)}"
        for first in _first(self.unequal):
            told = f"{_text(self.table, first)} {self.count[first]:,} times instead of {self.times[first]:,}"
            yield f"holds {self.unequal.sum():,} uids not as often as they are listed, first {told}"
        if not len(self.place):
            yield "holds no sample"
        yield from _unlike(self.written)


def _first(wrong: Bool) -> list[int]:
    """Where the first one is, if there is one."""
    return [int(row) for row in np.flatnonzero(wrong)[:1]]


def _text(table: U64, row: int) -> str:
    return uids.to_texts(table[row : row + 1])[0]


def input_shards(folder: Path) -> list[Path]:
    """The tars that the resharder is to read, by number; raises BadInput when there are none."""
    found = sorted(path for path in tars(folder) if SHARD.fullmatch(path.name))
    if not found:
        raise BadInput(folder, "holds no shard such as 00000000.tar", "name the folder that img2dataset wrote")
    return found


def tars(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == ".tar")
    except OSError as error:
        raise from_os(folder, error) from None


def read_back(listed: Path, source: Path, output: Path, pulse: Pulse) -> tuple[Comparison, list[str]]:
    """Compare a folder that the resharder wrote with its input and its subset file; gives the faults, too."""
    table, times = _counted(subset.read(listed))
    origin = _origins(table, source, pulse)
    shards = [read_shard(path, pulse) for path in tars(output)]
    found = Comparison(table, times, origin, Shard(*map(np.concatenate, zip(_NOTHING, *shards, strict=True))))
    return found, [*found.faults(tars(source)), *_told(output, shards), *_copied(listed, output)]


def _counted(listed: U64) -> tuple[U64, I64]:
    """Ascending uids, each once, and how often each was there."""
    first = np.concatenate([[True], uids.ascending(listed)]) if len(listed) else np.zeros(0, bool)
    return listed[first], np.diff(np.append(np.flatnonzero(first), len(listed)))


def _origins(table: U64, source: Path, pulse: Pulse) -> I64:
    """Which tar of the input holds each uid: (n,) int64, -1 where none does."""
    origin: I64 = np.full(len(table), -1)
    for number, path in enumerate(tars(source)):
        place = uids.find(table, read_shard(path, pulse).uids)
        origin[place[place >= 0]] = number
    return origin


_NOTHING = Shard(np.empty((0, 2), np.uint64), np.empty(0, np.int64), np.empty(0, bool))


def _unlike(samples: Shard) -> Iterator[str]:
    """Samples whose key or image is not as the resharder writes it."""
    order = np.lexsort((samples.numbers, samples.uids[:, 1], samples.uids[:, 0]))
    times = _counted(samples.uids[order])[1]
    wrong = samples.numbers[order] != np.arange(len(order)) - np.repeat(np.cumsum(times) - times, times)
    for first in _first(wrong):
        yield f"holds {wrong.sum():,} keys that are not the next of uid-0, uid-1, ..., first of {_text(samples.uids, int(order[first]))}"
    for first in _first(~samples.images):
        yield f"holds {(~samples.images).sum():,} samples without an image, first {_text(samples.uids, first)}"


def _told(output: Path, shards: list[Shard]) -> Iterator[str]:
    """What the resharder's own notes say otherwise than its tars."""
    meta = _json(output / "meta.json")
    for name, found in (("output_count", sum(len(shard.uids) for shard in shards)), ("output_shard_count", len(shards))):
        if meta.get(name) != found:
            yield f"has a meta.json that says {name} {meta.get(name)}, where {found} is found"
    for path, shard in zip(tars(output), shards, strict=True):
        said = _json(path.with_name(f"{path.stem}_stats.json")).get("successes")
        if said != len(shard.uids):
            yield f"has {len(shard.uids):,} samples in {path.name}, where its stats say {said}"


def _json(path: Path) -> dict[str, Any]:
    """A note, empty where there is none that could be read: then what it should say is missing."""
    try:
        told = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def _copied(listed: Path, output: Path) -> Iterator[str]:
    copy = output / "sample_ids.npy"
    if not copy.is_file() or not filecmp.cmp(listed, copy, shallow=False):
        yield f"has no sample_ids.npy that equals {listed}"


# -- one tar


def read_shard(path: Path, pulse: Pulse) -> Shard:
    texts: list[object] = []
    numbers, images = [], []
    with subset.whole_tar(path) as tar:
        for key, members in itertools.groupby(tar, _key):
            uid, endings = _sample(path, key, list(members), tar)
            texts.append(uid)
            numbers.append(_number(key, uid))
            images.append(not endings.isdisjoint(IMAGES))
    pulse(path.stat().st_size)
    try:
        words = uids.from_texts(texts)
    except uids.BadUid as bad:
        raise BadInput(path, f"sample {bad.row:,}: {bad.said}", "make the shard again") from None
    return Shard(words, np.array(numbers, np.int64), np.array(images, bool))


def _key(member: tarfile.TarInfo) -> str:
    folder, slash, name = member.name.rpartition("/")
    return folder + slash + name.split(".")[0]


def _sample(path: Path, key: str, members: list[tarfile.TarInfo], tar: tarfile.TarFile) -> tuple[object, set[str]]:
    """uid of a sample, and the endings of its files."""
    found = [(member.name[len(key) + 1 :].lower(), member) for member in members if member.isfile() and member.size]
    files = dict(found)
    if len(files) != len(found):
        raise BadInput(path, f"sample {key} has two files of one ending", "make the shard again")
    if "json" not in files:
        raise BadInput(path, f"sample {key} has no json", "make the shard again")
    return subset.json_uid(path, f"{key}.json", tar.extractfile(files["json"])), set(files)


def _number(key: str, uid: object) -> int:
    stem, _, number = key.rpartition("-")
    return int(number) if stem == uid and number.isdecimal() and number == str(int(number)) else -1
