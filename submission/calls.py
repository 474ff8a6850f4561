"""The command line of a program of this folder: one file, and flags that are the fields of dataclasses."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from filters.options import Layers, flags_of, option, parser, with_underscores
from filters.pool.errors import BadInput
from filters.pool.pool import Pool
from submission.datacomp import SCALES
from submission.subset import Against


@dataclass(frozen=True)
class Checks:
    """What the uids are held against, and how it is told."""

    metadata_dir: str | None = option("folder of the pool's {key}.parquet: or its URL: every uid is looked up there", None, url=True)
    scale: str | None = option("of the pool: no more different uids than it has", None, choices=tuple(SCALES))
    memory_gb: float = option("GB that sorting the pool's uids may take", 1.0, interval="(0, 1000000]")
    quiet: bool = option("print nothing but what is wrong", False)

    def against(self) -> Against:
        pool = Pool.open(self.metadata_dir, embeddings=False) if self.metadata_dir else None
        return Against(pool, self.scale, self.memory_gb)


def read(name: str, doc: str | None, owners: Iterable[type], arguments: list[str]) -> tuple[Path, Layers]:
    """The uid file, and the settings of a call."""
    groups = [(owner.__name__.lower(), flags_of(owner)) for owner in owners]
    flags = {flag.name: flag for _, found in groups for flag in found}
    made = parser(name, str(doc), groups)
    made.add_argument("subset", type=Path, metavar="OUT.npy", help="the uid subset file")
    given = vars(made.parse_args(with_underscores(arguments)))
    path: Path = given.pop("subset")
    values = {name: flags[name].read(value, f"--{name}") for name, value in given.items()}
    layers = Layers(flags, {name: flag.default for name, flag in flags.items()}, dict.fromkeys(flags, "default"), ())
    return path, layers.over(values, dict.fromkeys(values, "command line"))


def refused(name: str, faults: list[BadInput]) -> int:
    """Say what is wrong, a line each; gives the exit code."""
    for one in faults:
        print(f"{name}: {one}", file=sys.stderr, flush=True)
    return 2 if faults else 0
