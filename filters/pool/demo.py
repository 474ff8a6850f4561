"""A small pool of drawn pictures with captions, shaped as DataComp's: metadata and webdataset shards of the same samples.

The world: some sixty kinds of picture (kinds.py), tight and wide, a hundred to two thousand of each; a fifth are copies of an earlier
picture, more or less changed; some captions belong to another kind, some say nothing. Embeddings are computed from pixels and
words alone (looks.py): what a sample was meant to be stands in `plan`, never in a file. The same arguments give the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageEnhance, ImageOps
from threadpoolctl import threadpool_limits

from filters.maths.arrays import F32, F64, I64, U8, Array
from filters.pool.drawings import Sheet, jpeg
from filters.pool.kinds import FRAMES, Look, kinds
from filters.pool.looks import encoder, pixels

VERSION = 1
PLAN, DRAW, FILE, SHARDS = range(4)  # what random numbers are for

COPIES, WRONG, JUNK = 0.2, 0.12, 0.1
KEPT_CAPTIONS = 0.6  # of copies
MOST_COPIES = 60
EDITS = ("exact",) * 5 + ("recoded",) * 5 + ("shifted",) * 3 + ("relit",) * 3 + ("mirrored",) * 2 + ("bordered",) * 2

STUFFING = "buy cheap best price online store discount outlet coupon code 2014 new original top quality fast delivery order today "
NOTHING_SAID = (
    "IMG_{n}.JPG", "DSC0{n}.jpg", "click here", "free shipping", "", "image", "untitled", "{n}", "photo {n} of 9999",
    "🔥🔥 wow 😍", "Größe M, neu, nur {n} €", "купить недорого, доставка", "今日特価 送料無料", "Posted by admin\non May {n}",
    "Tom &amp; Jerry&#39;s &lt;b&gt;{n}&lt;/b&gt;", "https://example.com/?id={n}&amp;ref=home", STUFFING + "{n}", STUFFING * 5 + "{n}",
)  # fmt: skip
HOSTS = ("img.example.com", "cdn.example.org", "photos.example.net", "static.example.com", "i.example.io")

TYPES = {
    "uid": pa.string(), "url": pa.string(), "text": pa.string(), "original_width": pa.int64(), "original_height": pa.int64(),
    "clip_b32_similarity_score": pa.float32(), "clip_l14_similarity_score": pa.float32(),
    "face_bboxes": pa.list_(pa.list_(pa.float64())), "sha256": pa.string(),
}  # fmt: skip


class Sample(NamedTuple):
    """What a sample is meant to be. Tests may look; nothing of it but the caption reaches a file."""

    kind: int  # of kinds()
    look: Look
    caption: str
    role: str  # of the caption: right | wrong | junk
    source: int  # the sample it copies, an earlier one; itself when it is no copy
    edit: str  # of EDITS; "" when it is no copy


Watch = Callable[[Iterable[Sample]], Iterable[Sample]]


def make(folder: Path, samples: int = 20_000, shards: int = 4, seed: int = 1234, watch: Watch = iter) -> None:
    """Write the pool, or find it there, finished. `watch` is given the samples to draw and yields them: to show how far it is.

    Built in `folder`.part and renamed, so that what bears the name is whole; a leftover .part is thrown away.
    raises   ValueError when the folder holds anything else, or a pool of other settings
    """
    settings = {"samples": samples, "shards": shards, "seed": seed, "version": VERSION}
    if _finished(folder, settings):
        return
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    (part / "metadata").mkdir(parents=True)
    (part / "shards").mkdir()
    with threadpool_limits(1):  # products too small for two threads: they only wait for each other
        _write(part, samples, shards, seed, watch)
    (part / "demo.json").write_text(json.dumps(settings) + "\n")
    part.rename(folder)


def _finished(folder: Path, settings: dict[str, int]) -> bool:
    """Whether the pool of these settings is there already."""
    if not folder.exists() or not any(folder.iterdir()):
        return False
    note = folder / "demo.json"
    found = json.loads(note.read_text()) if note.exists() else None
    if found != settings:
        raise ValueError(f"{folder} holds {found or 'something else'}, asked for {settings}: name another folder, or delete it")
    return True


# The world.


def plan(samples: int, seed: int) -> list[Sample]:
    """Every sample of the pool, in the order of the metadata's rows."""
    rng = np.random.default_rng([seed, PLAN])
    world: list[Sample] = []
    for place, source in enumerate(_sources(samples, rng)):
        world.append(_original(place, rng) if source == place else _copy(world[source], int(source), rng))
    return world


def _sources(samples: int, rng: np.random.Generator) -> I64:
    """(samples,) int64: the earlier sample that each copies, or itself. Groups of copies are Zipf-like."""
    copies = int(COPIES * samples)
    originals = samples - copies
    groups = np.minimum(rng.zipf(1.9, copies), MOST_COPIES)
    copied = np.repeat(rng.permutation(originals)[:copies], groups[:originals])[:copies]
    born = rng.random(originals)
    when = np.concatenate((born, born[copied] + (1 - born[copied]) * rng.random(copies)))
    place = np.argsort(np.argsort(when))
    sources = np.arange(samples)
    sources[place[originals:]] = place[copied]
    return sources


def _popularity() -> F64:
    """Each kind's share of the originals: Zipf-like, in an order that mixes tight and wide."""
    rank = np.random.default_rng(len(kinds())).permutation(len(kinds()))
    weight: F64 = 1 / (rank + 3.0)
    weight /= weight.sum()
    return weight


def _original(place: int, rng: np.random.Generator) -> Sample:
    kind = int(rng.choice(len(kinds()), p=_popularity()))
    look = kinds()[kind].choose(rng)
    return Sample(kind, look, *_caption(kind, look, rng), place, "")


def _copy(first: Sample, source: int, rng: np.random.Generator) -> Sample:
    """A copy of an original, mostly with its caption."""
    said = (first.caption, first.role) if rng.random() < KEPT_CAPTIONS else _caption(first.kind, first.look, rng)
    return Sample(first.kind, first.look, *said, source, str(rng.choice(EDITS)))


def _caption(kind: int, look: Look, rng: np.random.Generator) -> tuple[str, str]:
    """What is written under a picture, and how well it fits."""
    luck = rng.random()
    if luck < JUNK:
        return str(rng.choice(NOTHING_SAID)).format(n=rng.integers(1000, 9999)), "junk"
    if luck < JUNK + WRONG:
        other = kinds()[(kind + int(rng.integers(1, len(kinds())))) % len(kinds())]
        return other.say(other.choose(rng), rng), "wrong"
    return kinds()[kind].say(look, rng), "right"


# The pictures.


def _pictures(world: Iterable[Sample], seed: int) -> list[bytes]:
    """A JPEG a sample, of at most 1,024 bytes."""
    jpegs: list[bytes] = []
    for place, sample in enumerate(world):
        rng = np.random.default_rng([seed, DRAW, place])
        if sample.source == place:
            jpegs.append(_fitted(kinds()[sample.kind].draw(sample.look, rng)))
        else:
            jpegs.append(CHANGES[sample.edit](jpegs[sample.source], rng))
    return jpegs


def _fitted(picture: Image.Image) -> bytes:
    """One block of a tar where that looks well, else the best that fits two."""
    small = jpeg(picture, 45)
    return small if len(small) <= 512 else next(data for quality in range(85, 0, -12) if len(data := jpeg(picture, quality)) <= 1024)


def _shifted(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    left, top, right, bottom = (int(v) for v in rng.integers(0, 4, 4))
    return picture.crop((left, top, picture.width - right, picture.height - bottom)).resize(picture.size, Image.Resampling.BICUBIC)


def _bordered(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    edge = int(rng.integers(1, 3))
    inner = picture.resize((picture.width - 2 * edge, picture.height - 2 * edge), Image.Resampling.BICUBIC)
    return ImageOps.expand(inner, edge, str(rng.choice(("white", "black"))))


def _relit(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageEnhance.Brightness(picture).enhance(float(rng.choice((0.7, 0.8, 0.9, 1.1, 1.2, 1.3))))


def _redrawn(change: Callable[[Image.Image, np.random.Generator], Image.Image]) -> Callable[[bytes, np.random.Generator], bytes]:
    return lambda data, rng: _fitted(change(Image.open(io.BytesIO(data)), rng))


CHANGES: dict[str, Callable[[bytes, np.random.Generator], bytes]] = {
    "exact": lambda data, rng: data,
    "recoded": lambda data, rng: jpeg(Image.open(io.BytesIO(data)), int(rng.integers(45, 60))),
    "shifted": _redrawn(_shifted),
    "relit": _redrawn(_relit),
    "mirrored": _redrawn(lambda picture, rng: ImageOps.mirror(picture)),
    "bordered": _redrawn(_bordered),
}


def _faces(world: Sequence[Sample], place: int, seed: int) -> list[list[float]]:
    """Boxes of faces, as shares of width and height: where the sheet of its drawing lay."""
    sample = world[place]
    kind = kinds()[sample.kind]
    if kind.name != "face":
        return []
    sheet = Sheet(FRAMES[kind.frame], kind.spread, sample.look, np.random.default_rng([seed, DRAW, sample.source]))
    (left, top), (right, bottom) = np.clip(sheet.laid(np.array([[15.0, 9.0], [85.0, 85.0]])) / sheet.frame, 0, 1)
    box = (1 - right, top, 1 - left, bottom) if sample.edit == "mirrored" else (left, top, right, bottom)
    return [[round(float(v), 4) for v in box]]


# The files.


def _write(part: Path, samples: int, shards: int, seed: int, watch: Watch) -> None:
    world = plan(samples, seed)
    jpegs = _pictures(watch(world), seed)
    arrays = _arrays(jpegs, [sample.caption for sample in world])
    columns = _columns(world, jpegs, arrays, seed)
    rng = np.random.default_rng([seed, SHARDS])
    keys = sorted(rng.bytes(16).hex() for _ in range(shards))
    for key, rows in zip(keys, _ragged(np.arange(samples), shards, rng), strict=True):
        _write_pair(part / "metadata" / key, columns, arrays, rows)
    for shard, rows in enumerate(_ragged(rng.permutation(samples), shards, rng)):
        _write_tar(part / "shards" / f"{shard:08d}", columns, jpegs, rows)


def _ragged(rows: I64, shards: int, rng: np.random.Generator) -> list[I64]:
    """Consecutive parts of unequal length."""
    ends = np.cumsum(rng.uniform(1, 2, shards))
    return np.split(rows, (ends[:-1] / ends[-1] * len(rows)).astype(int))


def _arrays(jpegs: Sequence[bytes], captions: Sequence[str]) -> dict[str, Array]:
    """The members of the npz, of all samples. A picture that occurs twice is looked at once, so that copies have equal rows."""
    distinct = {data: number for number, data in enumerate(dict.fromkeys(jpegs))}
    rows, pictures = np.array([distinct[data] for data in jpegs]), pixels(distinct)
    arrays: dict[str, Array] = {"dedup": _descriptors(pictures)[rows]}
    for name in ("b32", "l14"):
        arrays[f"{name}_img"] = encoder(name).images(pictures).astype(np.float16)[rows]
        arrays[f"{name}_txt"] = encoder(name).texts(captions).astype(np.float16)
    return arrays


def _descriptors(pictures: U8) -> F32:
    """(n, 32, 32, 3) uint8 -> 16 x 16 greys, less their mean, (n, 256) float32 unit rows; a blank picture's row is zero."""
    grey = pictures.reshape(-1, 16, 2, 16, 2, 3).mean((2, 4, 5), dtype=np.float32).reshape(-1, 256)
    grey -= grey.mean(1, keepdims=True)
    descriptors: F32 = grey / np.maximum(np.linalg.norm(grey, axis=1, keepdims=True), 1)
    return descriptors


def _columns(world: Sequence[Sample], jpegs: Sequence[bytes], arrays: dict[str, Array], seed: int) -> dict[str, Any]:
    """The columns of the parquet, of all samples."""
    rng = np.random.default_rng([seed, FILE])
    uids = [rng.bytes(16).hex() for _ in world]
    sizes = [_original_size(sample, rng) for sample in world]
    return {
        "uid": uids,
        "url": [f"https://{rng.choice(HOSTS)}/{rng.bytes(5).hex()}.jpg" for _ in world],
        "text": [sample.caption for sample in world],
        "original_width": [width for width, _ in sizes],
        "original_height": [height for _, height in sizes],
        "clip_b32_similarity_score": _dots(arrays["b32_img"], arrays["b32_txt"]),
        "clip_l14_similarity_score": _dots(arrays["l14_img"], arrays["l14_txt"]),
        "face_bboxes": [_faces(world, place, seed) for place in range(len(world))],
        "sha256": [hashlib.sha256(data).hexdigest() for data in jpegs],
    }


def _original_size(sample: Sample, rng: np.random.Generator) -> tuple[int, int]:
    """How large the picture was on its page: 3 to 60 times what is kept."""
    times = float(np.clip(rng.lognormal(2.5, 0.6), 3, 60))
    width, height = FRAMES[kinds()[sample.kind].frame]
    return int(width * times), int(height * times)


def _dots(left: Array, right: Array) -> F32:
    """Dot products of the rows as they are stored, (n,) float32."""
    dots: F32 = np.einsum("nd,nd->n", left.astype(np.float32), right.astype(np.float32))
    return dots


def _write_pair(stem: Path, columns: dict[str, Any], arrays: dict[str, Any], rows: I64) -> None:
    table = pa.table(columns, schema=pa.schema(TYPES)).take(rows)
    pq.write_table(table, stem.with_suffix(".parquet"), compression="zstd")
    np.savez(stem.with_suffix(".npz"), **{name: array[rows] for name, array in arrays.items()})


def _write_tar(stem: Path, columns: dict[str, Any], jpegs: Sequence[bytes], rows: I64) -> None:
    """The samples of these rows as img2dataset writes them, and its count beside them."""
    with tarfile.open(stem.with_suffix(".tar"), "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, row in enumerate(rows):
            key = f"{int(stem.name):05d}{number:04d}"
            note = json.dumps(_note(columns, int(row), key, jpegs[row]))
            _add(tar, f"{key}.jpg", jpegs[row])
            _add(tar, f"{key}.json", note.encode())
            _add(tar, f"{key}.txt", columns["text"][row].encode())
    n = len(rows)
    stats = {"count": n, "successes": n, "failed_to_download": 0, "failed_to_resize": 0, "status_dict": {"success": n}}
    stem.with_name(f"{stem.name}_stats.json").write_text(json.dumps(stats))


def _add(tar: tarfile.TarFile, name: str, body: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(body)
    tar.addfile(member, io.BytesIO(body))


def _note(columns: dict[str, Any], row: int, key: str, data: bytes) -> dict[str, Any]:
    """What img2dataset says of a sample."""
    width, height = Image.open(io.BytesIO(data)).size
    said = {"caption": columns["text"][row], "key": key, "status": "success", "error_message": None, "width": width, "height": height}
    kept = ("uid", "url", "original_width", "original_height", "face_bboxes", "sha256")
    return said | {name: columns[name][row] for name in kept}
