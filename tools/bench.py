"""Each step beside a peer written as its users write it, and beside what the machine can do at most, measured in one run.

    python -m tools.bench --save_path tools/bench.json     every step, medians of 3 runs of each side
    python -m tools.bench --only assign_100 cut_1 --quick  some, at small sizes
    python -m tools.bench --readme                         the tables of tools/bench.json into README.md

Machines differ and are shared: only what was measured in the same run compares. Each side of a step, and the limits, run in
turn, in a process of their own, without OPENBLAS_CORETYPE, which halves numpy where it is set. Pools are made in a temporary
folder (TMPDIR): a disk with 12 GB free, no tmpfs. The peer's setting is the fastest of one trial each.
"""

from __future__ import annotations

if __name__ == "__main__":
    import importlib
    import os
    import sys

    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    importlib.import_module("filters.start").begin("tools.bench")

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tools.speed import limits, made, table
from tools.speed.job import THREADS, Job, environment, evict, ours_runs, peer_runs, timed
from tools.speed.same import Differ
from tools.speed.steps import Place, PoolKind, Rates, Step, steps

ROOT = Path(__file__).parents[1]
JSON = ROOT / "tools" / "bench.json"

Told = dict[str, Any]


# -- in a process of its own


def measure(step: Step, side: str, setting: str, folder: Path) -> Told:
    """Time one side, and leave what it found for the comparison."""
    place = Place(folder / (step.pool.name if step.pool else ""), folder)
    which = step.ours if side == "ours" else step.peer
    assert which is not None, "a side that is there is asked for"
    with ours_runs() if side == "ours" else peer_runs(setting) as run:
        job = which(run, place)
        if step.cold:
            job = Job(job.work, job.tell, partial(evict, files(place.pool)))
        figures, told = timed(job)
    arrays: Any = {name: value for name, value in told.items() if isinstance(value, np.ndarray)}
    np.savez(folder / f"{side}.npz", **arrays)
    return figures | {"told": {name: value for name, value in told.items() if name not in arrays}}


def files(pool: Path) -> list[Path]:
    return sorted(pool.glob("*.npz"))


def rates(step: Step, folder: Path) -> Told:
    """What the machine does at most, of what the step is held against: {"rates": a second, "how"}."""
    assert step.limit is not None, "a step with a limit is asked for"
    paths, shape = files(folder / step.pool.name) if step.pool else [], step.limit.shape or limits.SHAPES[0]
    ask = {
        "warm": lambda: limits.warm_rate(paths),
        "disk": lambda: limits.cold_rate(paths),
        "write": lambda: limits.write_rate(folder),
        "gemm": lambda: _told(limits.best_gemm(shape)),
        "best": lambda: _told(_best_known(folder)),
    }
    found = {name: ask[name]() for name in dict.fromkeys([*step.limit.rates, *(["best"] if "gemm" in step.limit.rates else [])])}
    return {"rates": {name: rate for name, (rate, _) in found.items()}, "how": {name: how for name, (_, how) in found.items()}}


def _told(way: limits.Gemm) -> tuple[float, str]:
    return way.rate, str(way)


def _best_known(folder: Path) -> limits.Gemm:
    """The way that was best when all were tried, timed anew."""
    library, layout, shape, _ = json.loads((folder / "best.json").read_text())
    way = limits.Gemm(library, layout, tuple(shape))
    return way._replace(rate=limits.gemm_rate(way, 0.5))


def machine(folder: Path) -> Told:
    """What it is, and the best product of each shape; the best of all is noted for the steps' limits."""
    found = [limits.best_gemm(shape) for shape in limits.SHAPES]
    best = max(found, key=lambda way: way.rate)
    (folder / "best.json").write_text(json.dumps(best))
    return limits.machine(folder) | {"best_gemm": str(best), "gemm": list(map(str, found))}


def compared(step: Step, folder: Path, told: Told) -> Told:
    """What the comparison of both sides says, of the arrays that they left."""
    ours, peer = (_found(folder, side) | told[side] if side in told else {} for side in ("ours", "peer"))
    try:
        return {"same": step.agree(ours, peer), "differ": None}
    except Differ as differ:
        return {"same": {}, "differ": str(differ)}


def _found(folder: Path, side: str) -> Told:
    with np.load(folder / f"{side}.npz") as arrays:
        return dict(arrays)


def in_child(given: argparse.Namespace) -> Told:
    name, task, setting, place = given.child
    folder = Path(place)
    if task == "machine":
        return machine(folder)
    step = steps(sizes(given.quick))[name]
    if task == "limit":
        return rates(step, folder)
    if task == "compare":
        return compared(step, folder, json.loads(setting))
    return measure(step, task, setting, folder)


# -- one step after the other


def child(quick: bool, name: str, task: str, setting: str, folder: Path) -> Told:
    call = [sys.executable, "-m", "tools.bench", *(["--quick"] if quick else []), "--child", name, task, setting, str(folder)]
    threads = {"ours": "", "peer": setting}.get(task, "1 thread")
    done = subprocess.run(call, env=environment(threads), cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} {task} {setting}: {(done.stderr.strip().splitlines() or ['ended by a signal'])[-1]}")
    told: Told = json.loads(done.stdout.splitlines()[-1])
    return told


def sizes(quick: bool) -> made.Sizes:
    return made.QUICK if quick else made.FULL


def row(name: str, step: Step, folder: Path, repeat: int, quick: bool) -> Told:
    """One step: its sides in turn, medians."""
    make = partial(child, quick, name)
    tried = {setting: make("peer", setting, folder)["seconds"] for setting in step.settings} if step.peer and len(step.settings) > 1 else {}
    setting = min(tried, key=lambda one: tried[one]) if tried else step.settings[0]
    sides = ["ours", *(["peer"] if step.peer else []), *(["limit"] if step.limit else [])]
    turns = [sides[at % len(sides) :] + sides[: at % len(sides)] for at in range(repeat)]  # no side is always first
    runs = [{side: make(side, setting, folder) for side in turn} for turn in turns]
    agreed = make("compare", json.dumps({side: runs[-1][side]["told"] for side in ("ours", "peer") if side in runs[-1]}), folder)
    needed = step.needed(folder / step.pool.name) if step.needed and step.pool else None
    told = figures(step, runs, needed) | agreed | {"step": name, "setting": setting if step.peer else None, "tried": tried}
    return told | ({"differ": told["differ"] or _not_cold(told)} if step.cold else {})


def _not_cold(one: Told) -> str | None:
    """What is wrong when bytes of a cold step did not come off the disk."""
    share = min(one[side]["disk"] for side in ("ours", "theirs")) / one["needed"]
    return f"only {share:.0%} came off the disk" if share < 0.95 else None


def figures(step: Step, runs: list[Told], needed: int | None) -> Told:
    """The medians of the runs."""
    ours, theirs = (_medians([run[side] for run in runs]) if side in runs[0] else None for side in ("ours", "peer"))
    assert ours is not None, "our side is always measured"
    return {
        "what": step.what,
        "samples": step.samples,
        "peer": step.peer_is,
        "ours": ours,
        "theirs": theirs,
        "told": runs[-1]["ours"]["told"],
        "ours_ns": 1e9 * ours["seconds"] / step.samples,
        "peer_ns": 1e9 * theirs["seconds"] / step.samples if theirs else None,
        "ratio": statistics.median(run["peer"]["seconds"] / run["ours"]["seconds"] for run in runs) if theirs else None,
        "needed": needed,
        "allowed": step.allowed,
        "growth": step.growth,
        "cold": step.cold,
        "seconds_of_runs": {side: [round(run[side]["seconds"], 6) for run in runs] for side in ("ours", "peer") if side in runs[0]},
        **_against_limit(step, runs, needed or 0),
    }


def _medians(sides: list[Told]) -> Told:
    """Of times the median, of memory the most."""
    names = [name for name in sides[0] if name != "told"]
    return {name: (max if "peak" in name else statistics.median)(side[name] for side in sides) for name in names}


def _against_limit(step: Step, runs: list[Told], needed: int) -> Told:
    if step.limit is None:
        return {"limit": None, "limit_parts": {}, "limit_besides": {}, "limit_how": {}, "limit_note": "", "share": None, "share_best": None}
    limit = step.limit
    whole, gemm = max if limit.overlap else sum, "gemm" in limit.rates

    def parts(run: Told, known: Rates) -> dict[str, float]:
        return limit.seconds(known, run["ours"]["told"], needed)

    def share(run: Told, known: Rates) -> float:
        return float(whole(parts(run, known).values()) / run["ours"]["seconds"])

    best = [run["limit"]["rates"] | {"gemm": max(run["limit"]["rates"][name] for name in ("gemm", "best"))} for run in runs if gemm]
    return {
        "limit": limit.words,
        "limit_note": limit.note,
        "limit_parts": parts(runs[-1], runs[-1]["limit"]["rates"]),
        "limit_besides": limit.besides(runs[-1]["limit"]["rates"], runs[-1]["ours"]["told"]) if limit.besides else {},
        "limit_how": runs[-1]["limit"]["how"],
        "share": statistics.median(share(run, run["limit"]["rates"]) for run in runs),
        "share_best": statistics.median(map(share, runs, best)) if best else None,
    }


def pools(step: Step, later: list[Step], folder: Path) -> None:
    """Make the pool of this step, and remove those that neither it nor a later one needs."""
    wanted = {one.pool.name for one in [step, *later] if one.pool}
    for other in folder.glob("pool-*"):
        if other.name not in wanted:
            shutil.rmtree(other)
    if step.pool and not (folder / step.pool.name).exists():
        _make(step.pool, folder)


def _make(kind: PoolKind, folder: Path) -> None:
    made.pool(folder / kind.name, *kind)


def run(names: list[str], repeat: int, quick: bool, save_path: Path | None) -> Told:
    """Measure these steps; what is known is saved after each."""
    known = steps(sizes(quick))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        told: Told = {"quick": quick, "repeat": repeat, "threads": THREADS, "machine": child(quick, "", "machine", "", folder), "steps": []}
        for at, name in enumerate(names):
            pools(known[name], [known[later] for later in names[at:]], folder)
            told["steps"].append(row(name, known[name], folder, repeat, quick))
            print(line(told["steps"][-1]), file=sys.stderr, flush=True)
            if save_path:
                save_path.write_text(json.dumps(told, indent=1) + "\n")
    return told


def line(one: Told) -> str:
    peer = f"{one['ratio']:.2f} times as fast as the peer ({one['setting']})" if one["ratio"] else f"{one['ours']['seconds']:.4f} s"
    share = f", {one['share']:.0%} of the limit" if one["share"] else ""
    return f"{one['step']}: {one['ours_ns']:,.1f} ns a sample, {peer}{share}; {one['differ'] or one['same']}"


def main() -> int:
    names = list(steps(made.FULL))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="STEP", help=f"{', '.join(names)}; with --quick growth is of a tenth of these")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="small sizes: whether it works, not how fast it is")
    parser.add_argument("--save_path", type=Path, help="JSON to write; the tables are printed")
    parser.add_argument("--readme", action="store_true", help=f"write the tables of {JSON.name} into README.md, measure nothing")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(in_child(given)))
        return 0
    if given.readme:
        readme = ROOT / "README.md"
        readme.write_text(table.renewed(readme.read_text(), json.loads(JSON.read_text())))
        return 0
    known = list(steps(sizes(given.quick)))
    chosen = given.only or known
    if unknown := [name for name in chosen if name not in known]:
        parser.error(f"no step {unknown[0]}; there are {', '.join(known)}")
    told = run(chosen, given.repeat, given.quick, given.save_path)
    print(table.markdown(told))
    return 1 if any(one["differ"] for one in told["steps"]) else 0


if __name__ == "__main__":
    sys.exit(main())
