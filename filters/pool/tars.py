"""A downloaded webdataset shard as img2dataset writes it: {key}.jpg, {key}.json with the uid, {key}.txt, one after the other.

Keys differ from download to download, and have nothing to do with those of the pool: the uid alone says whose image it is.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from filters.pool.errors import BadInput, from_os

IMAGES = ("jpg", "jpeg", "png", "webp")
AGAIN = "download the shard again"


class Member(NamedTuple):
    """A file of a tar; its bytes can be read until the next member is asked for."""

    name: str
    read: Callable[[], bytes]

    @property
    def key(self) -> str:
        """What the members of one sample have in common."""
        folder, sign, name = self.name.rpartition("/")
        return folder + sign + name.partition(".")[0]

    @property
    def end(self) -> str:
        return self.name.rpartition(".")[2].lower()


class Sample(NamedTuple):
    """An image of a tar, and whose it is."""

    name: str  # of the image
    uid: object  # as its json has it
    image: bytes


def members(path: Path) -> Iterator[Member]:
    """Every file of a tar, in order; raises BadInput for a tar that is not whole."""
    try:
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                if info.isfile():
                    yield Member(info.name, lambda info=info: tar.extractfile(info).read())  # type: ignore[misc,union-attr]
            _check_end(path, tar)
    except OSError as error:
        raise from_os(path, error) from None
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise BadInput(path, f"is no whole tar file ({error})", AGAIN) from None


def _check_end(path: Path, tar: tarfile.TarFile) -> None:
    """A tar ends with a block of zeros; tarfile takes any header that it cannot read for the end."""
    assert tar.fileobj is not None, "an open tar has a file"
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise BadInput(path, f"is no whole tar file (byte {tar.offset:,} is neither a member nor the end)", AGAIN)


def uids(path: Path) -> Iterator[object]:
    """As the json members of a tar have them."""
    return (_uid(path, member) for member in members(path) if member.end == "json")


def images(path: Path) -> Iterator[Sample]:
    """The samples of a tar that have an image; raises BadInput for one that has no uid."""
    for key, group in groupby(members(path), lambda member: member.key):
        image, uid = None, None
        for member in group:
            if member.end in IMAGES:
                image = (member.name, member.read())
            elif member.end == "json":
                uid = _uid(path, member)
        if image is not None:
            if uid is None:
                raise BadInput(path, f"member {image[0]} has no {key}.json beside it", "download with the uid column")
            yield Sample(image[0], uid, image[1])


def _uid(path: Path, member: Member) -> object:
    try:
        return json.loads(member.read())["uid"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        what = f"member {member.name} has no uid ({type(error).__name__}: {error})"
        raise BadInput(path, what, "download with the uid column") from None
