"""Embeddings of your own: the images of downloaded webdataset shards, as {key}.npz in the order of the pool's rows.

    python tools/embed.py --metadata_dir POOL --shards_dir SHARDS --model dinov2_vitl14 --save_dir FEATURES
    python filters/densprune.py --metadata_dir POOL --features_dir FEATURES --features dinov2_vitl14_img --within SHARDS

A model is one of timm's, by its name, or one of open_clip's, ARCH/WEIGHTS. It is given what its library prescribes for it: preprocessing
and weights; these are downloaded by the library, or read from --checkpoint. Rows are of length one, float16; a sample without an image
has a row of not-a-number. Interrupted, the same command goes on where it was.
"""

from __future__ import annotations

if __name__ == "__main__":
    import importlib
    import os
    import sys

    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    importlib.import_module("filters.start").begin("tools.embed", "stopped; the same command goes on from here")

import os
import re
import shutil
import sys
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from filters.command import Console, Interruption, Quiet, ended, show
from filters.options import Layers, flags_of, option, parser, with_underscores
from filters.pool.errors import BadInput, from_os
from filters.pool.place import is_url, local
from filters.pool.pool import Pool
from filters.run import check_apart, refusals_named
from filters.start import RESUMED
from filters.work.engine import Engine, one_thread_each
from filters.work.plan import sized
from filters.work.room import existing
from tools.embedding import passes
from tools.embedding.encoders import PRECISIONS, Encoder, Wish
from tools.embedding.folder import FAULTS, Folder
from tools.embedding.passes import Run, Stamp, stamp

NAME = re.compile(r"\w+")


@dataclass(frozen=True)
class Where:
    """Where things are."""

    metadata_dir: str | None = option("folder of the pool's {key}.parquet, or its URL; npz files are not needed", None)
    shards_dir: str | None = option("folder of the downloaded webdataset shards, {i:08d}.tar", None)
    save_dir: str | None = option("folder for {key}.npz, beside which it keeps what it needs to go on", None)
    quiet: bool = option("print nothing but an error", False)


@dataclass(frozen=True)
class Encoding:
    """With what."""

    model: str | None = option(
        "timm's NAME, open_clip's ARCH/WEIGHTS, or dinov2_vitl14 and its like [paper: a distilled DINOv2 L/14]", None
    )
    checkpoint: str | None = option("file of the model's weights, instead of a download", None)
    image_size: int | None = option(
        "side of the square that an image is cut to, in pixels [default: the model's own]", None, interval="[1, 10000]"
    )
    name: str | None = option("of the npz members, NAME_img and NAME_txt [default: the model's]", None)
    text: bool = option("embed the pool's captions as well, by the model's text tower: member NAME_txt", False)


@dataclass(frozen=True)
class Means:
    """How it goes."""

    device: str = option("auto, cpu, cuda or cuda:N; auto: a GPU where there is one", "auto")
    precision: str | None = option("of the model's products [default: fp16 on a GPU, else fp32]", None, choices=PRECISIONS)
    batch_size: int = option(
        "images, or captions, that the model gets at a time; another one may change last bits", 32, interval="[1, inf)"
    )
    engine: str | None = option(
        "threads decode and embed, processes decode [default: processes beside a GPU, else threads]", None, choices=("threads", "processes")
    )
    num_workers: int | None = option("batches in work at a time [default: the cores]", None, interval="[1, inf)", unset="cores")
    memory_gb: float = option("GB that the rows of one shard may take in memory; more lie in a file", 4.0, interval="(0, 1000000]")


GROUPS = [("places", flags_of(Where)), ("encoder", flags_of(Encoding)), ("run", flags_of(Means))]
FLAGS = {flag.name: flag for _, flags in GROUPS for flag in flags}


def main(arguments: list[str] | None = None) -> int:
    return ended("embed", RESUMED, partial(_run, sys.argv[1:] if arguments is None else arguments))


def _run(arguments: list[str], interruption: Interruption) -> None:
    given = vars(parser("embed", str(__doc__), GROUPS).parse_args(with_underscores(arguments)))
    read = {name: FLAGS[name].read(value, f"--{name}") for name, value in given.items()}
    for name in ("metadata_dir", "shards_dir", "save_dir", "model"):
        if name not in read:
            raise BadInput("command line", f"no --{name} is given", "see --help")
    layers = Layers(FLAGS, {name: flag.default for name, flag in FLAGS.items()} | read, dict.fromkeys(FLAGS, ""), ())
    where, encoding, means = layers.part(Where), layers.part(Encoding), layers.part(Means)
    console = Quiet(interruption) if where.quiet else Console("embed", interruption)
    with refusals_named(Path(where.save_dir)):
        rows = embed(where, encoding, means, console)
    if not where.quiet:
        show(rows)


def embed(where: Where, encoding: Encoding, means: Means, console: Quiet) -> list[tuple[str, str]]:
    """Leave the npz files; gives what is told of them."""
    pool, save_dir, tars = _opened(where)
    began = time.monotonic()
    wish = _wish(encoding, means)
    name = _name(encoding)
    encoder = Encoder(wish)
    if encoding.text and not encoder.has_text:
        raise BadInput("--text", f"{encoding.model} has no text tower", "name a model of open_clip")
    settings = encoder.described() | {"pool": pool.fingerprint, "members": [f"{name}_img"] + [f"{name}_txt"] * encoding.text}
    folder = Folder(save_dir, pool, settings, console.say)
    try:
        if folder.finished(tars):
            console.say(f"{save_dir} has all of it already")
            return told(folder, Counter(folder.before["counts"]), settings)
        kind = means.engine or ("threads" if wish.device == "cpu" else "processes")
        with one_thread_each(), Engine(kind, means.num_workers or _cores()) as engine:
            run = Run(pool, tars, folder, encoder, engine, console, name, means.batch_size, means.memory_gb * 1e9)
            _check_room(run, encoding.text)
            counts = _made(run, encoding.text)
        console.say(f"{counts['embedded']:,} rows in {time.monotonic() - began:.0f} s")
        return told(folder, counts, settings)
    finally:
        folder.held.close()


def _made(run: Run, text: bool) -> Counter[str]:
    passes.embed_images(run, passes.index(run))
    if text:
        passes.embed_captions(run)
    files, counts = passes.gather(run, text)
    run.folder.finish(run.tars, files, dict(counts))
    return counts


def told(folder: Folder, counts: Counter[str], settings: dict[str, Any]) -> list[tuple[str, str]]:
    """What there is, by name."""
    lost = counts["rows"] - counts["embedded"] - counts["undecodable"]
    lines = [
        ("rows of the pool", counts["rows"], ""),
        ("embedded", counts["embedded"], ""),
        ("without an image", lost, ""),
        ("undecodable", counts["undecodable"], f"see {folder.path / FAULTS}"),
        ("images in the tars", counts["images"], ""),
        ("not in the pool", counts["outside"], ""),
        ("of a uid seen before", counts["again"], "the first one counts, in the order of the tars"),
    ]
    rows = [(name, f"{count:>15,}" + (f"  {note}" if note and count else "")) for name, count, note in lines]
    return [*rows, ("members", f"{', '.join(settings['members'])}: float16, {settings['width']:,} wide, in {folder.path}")]


def _opened(where: Where) -> tuple[Pool, Path, dict[Path, Stamp]]:
    """The pool, the folder for the results, and the tars; raises BadInput where one of them cannot be."""
    save_dir = local(str(where.save_dir), "what is embedded")
    shards = str(where.shards_dir)
    if is_url(shards):
        raise BadInput(shards, "is a URL, and tars are read on this machine", "name a local folder")
    pool = Pool.open(str(where.metadata_dir), embeddings=False)
    check_apart(save_dir, pool)
    try:
        tars = sorted(path for path in Path(shards).iterdir() if path.suffix == ".tar")
    except OSError as error:
        raise from_os(shards, error) from None
    if not tars:
        raise BadInput(shards, "holds no .tar", "name the folder of the downloaded shards")
    return pool, save_dir, {tar: stamp(tar) for tar in tars}


def _wish(encoding: Encoding, means: Means) -> Wish:
    device = _device(means.device)
    precision = means.precision or ("fp32" if device == "cpu" else "fp16")
    return Wish(str(encoding.model), Path(encoding.checkpoint) if encoding.checkpoint else None, encoding.image_size, device, precision)


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name != "cpu" and not re.fullmatch(r"cuda(:\d+)?", name):
        raise BadInput("--device", f"is {name!r}", "give auto, cpu, cuda or cuda:N")
    if name != "cpu" and int(name.partition(":")[2] or 0) >= torch.cuda.device_count():
        raise BadInput(f"--device {name}", f"torch can use {torch.cuda.device_count()} GPUs", "give --device cpu, or another number")
    return name


def _name(encoding: Encoding) -> str:
    """Of the members: letters, digits and underscores."""
    if encoding.name is None:
        return re.sub(r"\W+", "_", str(encoding.model).removeprefix("timm/")).lower()
    if not NAME.fullmatch(encoding.name):
        raise BadInput("--name", f"is {encoding.name!r}", "take letters, digits and underscores")
    return encoding.name


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0))


def _check_room(run: Run, text: bool) -> None:
    """Raise BadInput when the disk cannot hold the rows twice: by tar, and by shard."""
    needed = run.pool.rows * (2 * 2 * run.encoder.width * (1 + text) + 24)
    held = sum(path.stat().st_size for path in run.folder.path.rglob("*") if path.is_file())
    free = shutil.disk_usage(existing(run.folder.path)).free
    if needed - held > free:
        what = f"too little space: {sized(needed - held)} needed, {sized(free)} free"
        raise BadInput(run.folder.path, what, "free some, or name another --save_dir")
