"""Embeddings of the demo pool: a fixed map from pixels, and from words, into one space. Nothing is trained, and no label is read.

A picture is measured (colours where they lie, colours wherever they lie, edges, frequencies), compared with a fixed set of reference
drawings, projected at random and squashed. A word is the mean of the reference pictures with that word in their caption, so "a" and "on"
come out near zero by themselves; a caption is the sum of what its words mean, filled up to unit length with random directions, one a word.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from functools import cache

import numpy as np
from PIL import Image

from filters.maths.arrays import F32, U8
from filters.pool.drawings import jpeg
from filters.pool.kinds import kinds

SIDE = 32  # pixels of a picture as it is looked at
BLOCK = 64  # pictures measured at a time: their pixels stay in the cache
REFERENCE = 5  # the seed of the reference drawings and projections, whatever the pool's
EACH = 40  # reference drawings of a kind
FIT = 0.35  # about the score of a fitting caption, of tight kinds and wide ones alike
VAGUE = 0.4  # words whose pictures are less alike than this mean too little to be helped up to FIT


def pixels(jpegs: Iterable[bytes]) -> U8:
    """(n, 32, 32, 3) uint8: the pictures, squeezed to squares."""
    return np.stack([_squeezed(Image.open(io.BytesIO(data))) for data in jpegs])


def _squeezed(picture: Image.Image) -> U8:
    return np.asarray(picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX))


def oklab(rgb: U8) -> F32:
    """sRGB (..., 3) uint8 -> lightness and the two opponent axes, (..., 3) float32, on one perceptual scale."""
    linear = (np.arange(256, dtype=np.float32) / 255) ** np.float32(2.2)
    to_cones = np.array([[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.63]], np.float32)
    to_lab = np.array([[0.2105, 0.7936, -0.0041], [1.978, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]], np.float32)
    lab: F32 = np.cbrt(linear[rgb] @ to_cones.T) @ to_lab.T
    return lab


@cache
def _soft_palette() -> F32:
    """(4096, 64) float32: how much of each of 64 colours is in each of 16 ** 3; a row sums to 1."""
    fine = oklab(np.indices((16, 16, 16)).reshape(3, -1).T.astype(np.uint8) * 17)
    coarse = oklab(np.indices((4, 4, 4)).reshape(3, -1).T.astype(np.uint8) * 85)
    near = np.exp(-((fine[:, None] - coarse) ** 2).sum(-1) / (2 * 0.1**2))
    soft: F32 = (near / near.sum(1, keepdims=True)).astype(np.float32)
    return soft


def measures(pictures: U8, side: int) -> F32:
    """(n, 32, 32, 3) uint8 -> (n, 512) float32: MEASURES of the pictures at `side` pixels."""
    step = SIDE // side
    rgb = pictures.reshape(len(pictures), side, step, side, step, 3).mean((2, 4)).astype(np.uint8)
    lab = oklab(rgb)
    return np.hstack([measure(rgb, lab) for measure in MEASURES])


def _layout(rgb: U8, lab: F32) -> F32:
    """Mean colours on an 8 x 8 grid, (n, 192)."""
    return _pooled(lab, 8)


def _palette(rgb: U8, lab: F32) -> F32:
    """Shares of 64 colours, wherever they lie, (n, 64), square-rooted."""
    code = ((rgb >> 4) @ np.array([256, 16, 1])).reshape(len(rgb), -1)
    counts = np.stack([np.bincount(row, minlength=4096) for row in code]).astype(np.float32)
    shares: F32 = np.sqrt(counts @ _soft_palette() / code.shape[1])
    return shares


def _edges(rgb: U8, lab: F32) -> F32:
    """Strength of edges in 8 directions, on a 4 x 4 grid and in all, (n, 136), square-rooted."""
    light = lab[..., 0]
    down, across = np.diff(light, axis=1, append=light[:, -1:]), np.diff(light, axis=2, append=light[:, :, -1:])
    strength = (np.hypot(down, across) + np.float32(1e-4))[..., None]
    angles = np.pi * np.arange(8, dtype=np.float32) / 8
    along = (across[..., None] * np.cos(angles) + down[..., None] * np.sin(angles)) / strength
    energy = (along * along) ** 3 * strength
    edges: F32 = np.sqrt(np.hstack((_pooled(energy, 4), energy.mean((1, 2)))))
    return edges


def _waves(rgb: U8, lab: F32) -> F32:
    """Amplitudes of low spatial frequencies of the lightness, wherever things lie, (n, 120), as logarithms."""
    light = lab[..., 0] - lab[..., 0].mean((1, 2), keepdims=True)
    waves = np.abs(np.fft.rfft2(light))[:, :, :8]
    low: F32 = np.log1p(np.concatenate((waves[:, :8], waves[:, -7:]), axis=1)).reshape(len(rgb), -1).astype(np.float32)
    return low


def _pooled(grid: F32, cells: int) -> F32:
    """Means of (n, s, s, c) over cells x cells squares, (n, cells * cells * c)."""
    n, side, _, channels = grid.shape
    pooled: F32 = grid.reshape(n, cells, side // cells, cells, side // cells, channels).mean((2, 4)).reshape(n, -1)
    return pooled


MEASURES: dict[Callable[[U8, F32], F32], int] = {_layout: 192, _palette: 64, _edges: 136, _waves: 120}  # and their widths


def _scale(measured: F32) -> F32:
    """What each column is divided by: its spread, not too small, and so that every measure weighs the same."""
    groups = np.split(measured.std(0), np.cumsum(list(MEASURES.values()))[:-1])
    return np.hstack([(spread + 0.3 * spread.mean()) * np.sqrt(len(spread), dtype=np.float32) for spread in groups])


@cache
def _references() -> tuple[U8, list[str]]:
    """The fixed drawings that everything is compared with, and their captions."""
    jpegs, captions = [], []
    for number, kind in enumerate(kinds()):
        for copy in range(EACH):
            rng = np.random.default_rng([REFERENCE, number, copy])
            look = kind.choose(rng)
            captions.append(kind.say(look, rng))
            jpegs.append(jpeg(kind.draw(look, rng), 75))
    return pixels(jpegs), captions


def _unit(rows: F32) -> F32:
    unit: F32 = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def _words(caption: str) -> list[str]:
    """The distinct words of a caption, sorted; a caption without any is its own word."""
    return sorted(set(re.findall(r"\w+", caption.lower()))) or [caption]


@cache
def encoder(name: str) -> Encoder:
    """l14, or b32, which sees less."""
    return Encoder(32, 768) if name == "l14" else Encoder(16, 512)


class Encoder:
    """Pictures and captions -> unit rows of one space, `width` wide; pictures are seen at `side` pixels, 16 or 32."""

    def __init__(self, side: int, width: int) -> None:
        self.side, self.width = side, width
        pictures, captions = _references()
        measured = self._measured(pictures)
        self.mean, self.scale = measured.mean(0), _scale(measured)
        self.projection = np.random.default_rng([REFERENCE, width]).standard_normal((measured.shape[1], width), np.float32)
        self.meant = self._meanings(self.images(pictures), captions)
        self.hashed: dict[str, F32] = {}

    def images(self, pictures: U8) -> F32:
        """(n, 32, 32, 3) uint8 -> (n, width) float32 unit rows, from the pixels alone."""
        rows = _unit((self._measured(pictures) - self.mean) / self.scale)
        return _unit(np.tanh(rows @ self.projection))

    def texts(self, captions: Iterable[str]) -> F32:
        """(n, width) float32 unit rows, from the words alone."""
        return _unit(np.stack([self._text(_words(caption)) for caption in captions]))

    def _measured(self, pictures: U8) -> F32:
        """(n, 32, 32, 3) uint8 -> (n, all measures) float32, a block at a time."""
        return np.vstack([measures(pictures[start : start + BLOCK], self.side) for start in range(0, len(pictures), BLOCK)])

    def _meanings(self, rows: F32, captions: Sequence[str]) -> dict[str, F32]:
        """Each word's mean picture, shorter for a word seldom seen."""
        places: dict[str, list[int]] = {}
        for place, caption in enumerate(captions):
            for word in _words(caption):
                places.setdefault(word, []).append(place)
        return {word: rows[at].sum(0) / (len(at) + 3) for word, at in places.items()}

    def _text(self, words: Sequence[str]) -> F32:
        """As much of what the words mean as brings a fitting picture to FIT, the rest their random directions."""
        none = np.zeros(self.width, np.float32)
        known = [self.meant[word] for word in words if word in self.meant]
        meant, chance = sum(known, none), sum((self._direction(word) for word in words), none)
        length = float(np.linalg.norm(meant))
        likeness = sum(float(word @ word) for word in known) / length if length else 0.0
        share = FIT * min(1 / max(likeness, VAGUE), likeness / VAGUE**2)
        text: F32 = share * meant / max(length, 1e-9) + np.sqrt(1 - share**2) * chance / float(np.linalg.norm(chance))
        return text

    def _direction(self, word: str) -> F32:
        """A word's own random direction, whatever it means."""
        if word not in self.hashed:
            rng = np.random.default_rng([REFERENCE, self.width, zlib.crc32(word.encode())])
            self.hashed[word] = rng.standard_normal(self.width, np.float32)
        return self.hashed[word]
