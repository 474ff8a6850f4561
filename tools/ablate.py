"""A table of filters and recipes on one pool: every pass that two of them share is made once.

python tools/ablate.py --metadata_dir DIR --out OUT --filters FILE.toml --size 0.15
"""

from __future__ import annotations

if __name__ == "__main__":
    import importlib
    import os
    import sys

    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    importlib.import_module("filters.start").begin("tools.ablate", "stopped; the same command goes on from here")

import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from filters import __version__
from filters.command import Console, Interruption, Quiet, ended, metadata_of
from filters.options import Layers, Places, RunOptions, flags_of, option, parser, with_underscores
from filters.pool.errors import BadInput
from filters.pool.pool import Pool
from filters.run import check_apart, session
from filters.start import RESUMED
from filters.work.plan import lasting
from filters.work.work import Progress
from tools.ablation import entries, page, table
from tools.ablation.entries import Setting
from tools.ablation.figures import Measure, Reference
from tools.ablation.folder import Folder
from tools.ablation.runs import Runs
from tools.ablation.table import Facts, Row

DEFAULT = Path(__file__).with_name("ablation.toml")


@dataclass(frozen=True)
class Where:
    """Where things are."""

    pool: str | None = option(
        "whose presets hold, and whose place when no --metadata_dir is given [default: medium]",
        None,
        choices=("demo", "small", "medium", "large", "xlarge"),
    )
    metadata_dir: str | None = option("folder of the pool's {key}.parquet and {key}.npz, or its URL", None, url=True)
    out: str | None = option("folder for ablation.csv, .md and .html, overlap.csv, subsets/ and work/", None)
    filters: str | None = option("TOML of the filters and their settings [default: tools/ablation.toml, the paper's ablations]", None)
    overwrite: bool = option("use --out although it holds other things", False)
    quiet: bool = option("print nothing but an error", False)


@dataclass(frozen=True)
class Ablation:
    """What all rows have in common. A file may set these, and those of the run, at its top."""

    size: tuple[float, ...] = option(
        "sizes of every entry that sets none: samples, or, below 1, a share of the pool", (), interval="(0, inf)"
    )
    features: str | None = option("npz member of the reference, and of every entry that takes one and sets none [default: l14_img]", None)
    score: str | None = option("score of every entry that takes one and sets none [default: its own]", None)
    reference_concepts: int | None = option(
        "k of the reference [default: 100, or a tenth of a smaller pool's samples]", None, interval="[1, inf)"
    )
    lid_model: str | None = option(
        "fastText's language model, for the share of English [default: the one that a baseline has downloaded, if any]", None
    )
    near: float = option("eps: what is more alike than 1 - eps is a near-duplicate", 0.1, interval="[0, 1]")


GROUPS = [("places", flags_of(Where)), ("ablation", flags_of(Ablation)), ("run", flags_of(RunOptions))]
FLAGS = {flag.name: flag for _, flags in GROUPS for flag in flags}


def main(arguments: list[str] | None = None) -> int:
    """Exit code 2 also where only some of the rows have no result."""
    return ended("ablate", RESUMED, partial(_run, sys.argv[1:] if arguments is None else arguments))


def _run(arguments: list[str], interruption: Interruption) -> None:
    layers, file = settled(arguments)
    where: Where = layers.part(Where)
    for name, value in (("--metadata_dir", where.metadata_dir or where.pool), ("--out", where.out)):
        if not value:
            raise BadInput("command line", f"no {name} is given", "see --help")
    page.check_installed()
    progress = Quiet(interruption) if where.quiet else Console("ablate", interruption)
    folder = Folder(Path(str(where.out)), where.overwrite)
    rows = made(folder, where, layers.part(Ablation), layers.part(RunOptions), file, progress)
    if not where.quiet:
        print(f"{table.as_text(rows)}\n\n{folder.path / 'ablation.html'}")
    if failed := [row for row in rows if row.error]:
        what = f"{len(failed)} of {len(rows)} rows have no result, first {failed[0].setting.label}: {failed[0].error}"
        raise BadInput(file.path, what, "mend these entries; the others are done")


def settled(arguments: list[str]) -> tuple[Layers, entries.File]:
    """Settings of a call, default < file < flag; and the file."""
    given = vars(parser("ablate", str(__doc__), GROUPS).parse_args(with_underscores(arguments)))
    read = {name: FLAGS[name].read(value, f"--{name}") for name, value in given.items()}
    path = read.get("filters") or str(DEFAULT)
    file = entries.read(Path(path), {flag.name: flag for _, flags in GROUPS[1:] for flag in flags})
    layers = Layers(FLAGS, {name: flag.default for name, flag in FLAGS.items()}, dict.fromkeys(FLAGS, "default"), ())
    return layers.over(file.top, dict.fromkeys(file.top, path)).over(read, dict.fromkeys(read, "command line")), file


def made(folder: Folder, where: Where, common: Ablation, options: RunOptions, file: entries.File, progress: Progress) -> list[Row]:
    """The rows of the table; what is told of them lies in the folder."""
    pool = Pool.open(metadata_of(Places(where.pool, where.metadata_dir), progress), options.features_dir)
    check_apart(folder.work, pool)
    preset = where.pool or "medium"
    settings(file, preset, common, pool.rows)  # what is wrong with the file is told before anything is measured
    began = time.monotonic()
    with session(pool, folder.work, options, progress.say) as held:
        folder.begin(held.dir)
        how = Measure(common.features or "l14_img", common.reference_concepts, common.near, common.lid_model)
        runs = Runs(held, pool, options, how, folder, progress)
        known = runs.reference()
        rows, both = runs.rows(known, settings(file, preset, common, known.samples))
        folder.write(rows, both, facts(pool, options, how, known, rows, time.monotonic() - began), held.dir)
        held.dir.sweep()
    return rows


def settings(file: entries.File, preset: str, common: Ablation, samples: int) -> list[Setting]:
    """The rows that the file asks for, of a pool of so many samples."""
    every = {name: value for name, value in (("features", common.features), ("score", common.score)) if value}
    sizes = [int(samples * size) if size < 1 else int(size) for size in common.size]
    if 0 in sizes:
        raise BadInput("size", f"{min(common.size)} of {samples:,} samples is none", "ask for more")
    return file.settings(preset, every, tuple(dict.fromkeys(sizes)))


def facts(pool: Pool, options: RunOptions, how: Measure, known: Reference, rows: list[Row], seconds: float) -> Facts:
    alone = [row.alone.seconds for row in rows if row.alone]
    lines = [
        ("pool", f"{pool.location.resolve()}: {known.samples:,} samples in {len(pool.shards):,} shards"),
        ("within", options.within or ""),
        ("reference", f"{known.k} concepts of {how.features}" if known.concept else ""),
        ("near-duplicates", f"cosine of {how.features} above {1 - how.near:g}" if known.root else ""),
        ("seed", str(options.seed)),
        ("time", f"{lasting(seconds)} for this run; {lasting(sum(alone))} for all rows, each by itself"),
        ("version", f"densprune {__version__}"),
    ]
    return Facts(tuple((name, value) for name, value in lines if value), known.missing)
