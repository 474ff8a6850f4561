"""A downloaded webdataset shard as img2dataset writes it: {key}.jpg, {key}.json with the uid, {key}.txt, one after the other.

Keys differ from download to download, and have nothing to do with those of the pool: the uid alone says whose image it is.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import IO, NamedTuple

from filters.pool.errors import BadInput
from filters.pool.subset import json_uid, whole_tar

IMAGES = ("jpg", "jpeg", "png", "webp")


class Sample(NamedTuple):
    """An image of a tar, and whose it is."""

    name: str  # of the image
    uid: object  # as its json has it
    image: bytes


def samples(path: Path) -> Iterator[Sample]:
    """The samples of a tar that have an image; raises BadInput for a tar that is not whole, and for an image without a uid."""
    lone = None
    with whole_tar(path) as tar:
        for key, group in groupby((member for member in tar if member.isfile()), _key):
            image, uid = None, None
            for member in group:  # read before the next one is asked for
                if _end(member) in IMAGES:
                    image = (member.name, _opened(tar, member).read())
                elif _end(member) == "json":
                    uid = json_uid(path, member.name, _opened(tar, member))
            if image is not None and uid is not None:
                yield Sample(image[0], uid, image[1])
            elif image is not None:
                lone = lone or f"member {image[0]} has no {key}.json beside it"
    if lone is not None:  # told now: a tar that is cut off between the two is not whole, which says more
        raise BadInput(path, lone, "download with the uid column")


def _opened(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    file = tar.extractfile(member)
    assert file is not None, "a file has bytes"
    return file


def _key(member: tarfile.TarInfo) -> str:
    """What the members of one sample have in common."""
    folder, sign, name = member.name.rpartition("/")
    return folder + sign + name.partition(".")[0]


def _end(member: tarfile.TarInfo) -> str:
    return member.name.rpartition(".")[2].lower()
