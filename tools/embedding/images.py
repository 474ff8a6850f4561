"""Images of a shard as batches of pixels: read in the order of the tar, decoded and cut to size by the workers."""

from __future__ import annotations

import io
import pickle
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from filters.maths import uids
from filters.maths.arrays import I64, U8, U64, Bool
from filters.pool.errors import BadInput, printable
from tools.embedding import libraries
from tools.embedding.tars import Sample, samples

READ = 256  # samples whose uids are looked up together


@dataclass(frozen=True)
class Preparation:
    """What a library does to an image before its pixels are numbers; travels to worker processes."""

    packed: bytes  # the steps, pickled: they can only be read where the library can be imported
    colours_first: bool  # whether the image is made RGB before the steps


class Origin(NamedTuple):
    """Where a batch comes from."""

    tar: int
    at: I64  # (m,) rows of the pool, counted through all its shards
    size: int  # bytes of its images
    last: bool = False  # of its tar: then how much was in it is told
    images: int = 0
    outside: int = 0  # images of no sample of the pool


class Batch(NamedTuple):
    """Some images of a tar that belong to samples of the pool."""

    origin: Origin
    samples: list[Sample]
    preparation: Preparation


class Decoded(NamedTuple):
    """The pixels of a batch."""

    origin: Origin
    pixels: U8  # (m, height, width, 3)
    good: Bool  # (m,) whether the image could be decoded; where not, the pixels are zeros
    faults: list[str]  # of those that could not: member and reason


def batches(path: Path, tar: int, find: Callable[[U64], I64], size: int, preparation: Preparation) -> Iterator[Batch]:
    """The images of a tar that the pool knows, `size` at a time; of an empty one, a batch of nothing.

    find  rows of the pool, -1 where it has no such uid
    """
    waiting: list[tuple[int, Sample]] = []
    seen = outside = 0
    found = samples(path)
    while some := list(islice(found, READ)):
        places = find(_uids(path, seen, some))
        waiting += [(int(place), sample) for place, sample in zip(places, some, strict=True) if place >= 0]
        seen, outside = seen + len(some), outside + int((places < 0).sum())
        while len(waiting) > size:  # one is left over: the last batch says that it is the last
            yield Batch(_origin(tar, waiting[:size]), [sample for _, sample in waiting[:size]], preparation)
            del waiting[:size]
    last = _origin(tar, waiting)._replace(last=True, images=seen, outside=outside)
    yield Batch(last, [sample for _, sample in waiting], preparation)


def _origin(tar: int, some: list[tuple[int, Sample]]) -> Origin:
    return Origin(tar, np.array([place for place, _ in some], np.int64), sum(len(sample.image) for _, sample in some))


def _uids(path: Path, before: int, some: list[Sample]) -> U64:
    try:
        return uids.from_texts([sample.uid for sample in some])
    except uids.BadUid as bad:
        raise BadInput(path, f"sample {before + bad.row:,}: {bad.said}", "download the shard again") from None


def decode(batch: Batch) -> Decoded:
    """In whatever thread or process this is."""
    pictures = [_decoded(sample.image, batch.preparation) for sample in batch.samples]
    good = np.array([isinstance(picture, np.ndarray) for picture in pictures], bool)
    faults = [f"{sample.name}: {told}" for sample, told in zip(batch.samples, pictures, strict=True) if isinstance(told, str)]
    blank = blank_pixels(batch.preparation)
    pixels = np.stack([picture if isinstance(picture, np.ndarray) else blank for picture in pictures]) if pictures else blank[None][:0]
    return Decoded(batch.origin, pixels, good, faults)


def _decoded(data: bytes, preparation: Preparation) -> U8 | str:
    """(height, width, 3) uint8, or why there are none."""
    from PIL import Image

    # Whatever a picture from anywhere makes Pillow's readers raise.
    unreadable = (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, OverflowError, struct.error, zlib.error)
    try:
        with Image.open(io.BytesIO(data)) as image:
            return _prepared(image, preparation)
    except (*unreadable, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        return printable(str(error) or type(error).__name__)


def _prepared(image: Any, preparation: Preparation) -> U8:
    if preparation.colours_first:
        image = image.convert("RGB")
    for step in _steps(preparation):
        image = step(image)
    return np.asarray(image)


@lru_cache(2)
def _steps(preparation: Preparation) -> list[Callable[[Any], Any]]:
    libraries.torchvision()
    steps: list[Callable[[Any], Any]] = pickle.loads(preparation.packed)
    return steps


@lru_cache(2)
def blank_pixels(preparation: Preparation) -> U8:
    """(height, width, 3) zeros, of the size that every image gets."""
    from PIL import Image

    return np.zeros_like(_prepared(Image.new("RGB", (64, 64)), preparation))
