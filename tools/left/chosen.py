"""Which samples are asked for: uids that are named, or a draw."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from filters.command import Meter, Quiet
from filters.maths import uids
from filters.maths.arrays import U64
from filters.pool.errors import BadInput
from filters.pool.uidfiles import opened
from tools.left.run import Run

ASKED = 5  # purpose of the hash by which samples are drawn
WORDS = {"dropped": None, "pruned": "densityprune", "duplicate": "semdedup"}  # beside the statuses themselves; None: of any stage


def named(given: list[str]) -> U64:
    """(n, 2) uint64 of uids, and of files of them, in the order given. Raises BadInput for what is neither."""
    parts = [np.empty((0, 2), np.uint64)]
    for one in given:
        if one.endswith(".txt"):
            parts += [block.copy() for block in opened(Path(one)).blocks(lambda size: None)]
            continue
        try:
            parts.append(uids.from_texts([one]))
        except uids.BadUid as bad:
            raise BadInput(one, bad.said, "give uids in hexadecimal, or a .txt of them") from None
    return np.concatenate(parts)


def drawn(run: Run, count: int, status: str | None, seed: int, console: Quiet) -> U64:
    """(n, 2) uint64 of so many samples of a status, or of any: those whose hash is smallest. Raises BadInput where there is none."""
    wanted = _statuses(run, status)
    best, keys = np.empty((0, 2), np.uint64), np.empty(0, np.uint64)
    meter = Meter(console, "draw", run.size)
    for part in run.batches(["uid", "status"], meter):
        words = part["uid"]
        if wanted is not None:
            words = words[np.isin(part["status"].astype(str), wanted)]
        both, hashes = np.concatenate([best, words]), np.concatenate([keys, uids.hashed(words, seed, ASKED)])
        first = np.argsort(hashes, kind="stable")[:count]
        best, keys = both[first], hashes[first]
    if not len(best):
        raise BadInput(f"--status {status}", f"no sample of {run.folder} has it", f"give one of {', '.join(sorted(_there(run)))}")
    return best


def _statuses(run: Run, status: str | None) -> list[str] | None:
    """Statuses that a word names; None: all."""
    if status is None:
        return None
    stages = [one["stage"] for one in run.manifest["stages"]]
    if status in WORDS and status not in run.manifest["status"]:
        return [name for name in stages if WORDS[status] is None or name.partition("_")[0] == WORDS[status]]
    return [status]


def _there(run: Run) -> set[str]:
    return {name for name, count in run.manifest["status"].items() if count}
