"""Check what a finished run left: hashes and counts of everything, and a part of the samples again from the pool.

    python tools/verify.py densprune_medium.work
    python tools/verify.py densprune_medium.work --metadata_dir /elsewhere/metadata --share 0.1

A line a check on stdout. Exit 0: all is as it should be. 1: something is not. 2: there is nothing that could be checked.
The cut is checked on all samples; what was computed from embeddings on a share of them, in float64, to within TOLERANCE.
"""

from __future__ import annotations

if __name__ == "__main__":
    import importlib
    import os
    import sys

    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    importlib.import_module("filters.start").begin("tools.verify")

import argparse
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from baselines.soft_cap import NOISE, SoftCap
from filters.densprune import RANDOM, DensityPrune
from filters.maths import complexity, cut, kmeans, quota, softcap, uids
from filters.maths.arrays import F64, I64, U64, Array, Bool
from filters.maths.search import Levels
from filters.pool import columns, subset
from filters.pool.embeddings import raw_blocks
from filters.pool.errors import BadInput
from filters.pool.files import digest_of, sha256, told_of
from filters.pool.place import place
from filters.pool.pool import Pool, Shard
from filters.scores import COLUMNS, computed
from filters.semdedup import SemDeDup
from filters.topscore import TopScore
from tools.left.recipe import Rule, Stage, final_size, in_stage, main_column, rule_of
from tools.left.run import Run, text_of

TOLERANCE = 2e-5  # of products in float32, whatever the kernel


# -- what is said


@dataclass
class Report:
    """A line a check."""

    wrong: int = 0

    def check(self, name: str, faults: list[str], done: str) -> None:
        if faults:
            self.wrong += 1
            more = f" (and {len(faults) - 1:,} more)" if len(faults) > 1 else ""
            print(f"WRONG  {name}: {faults[0]}{more}", flush=True)
        else:
            print(f"ok     {name}: {done}", flush=True)

    def equal(self, name: str, where: object, found: object, expected: object) -> None:
        self.check(name, [] if found == expected else [f"{where}, found {found}, expected {expected}"], str(expected))

    def skip(self, name: str, why: str) -> None:
        print(f"--     {name}: not checked, {why}", flush=True)

    def run(self, check: Callable[..., None], *arguments: Any) -> None:
        """A check, of files that may be anything by now."""
        try:
            check(*arguments)
        except (BadInput, pa.ArrowException, OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            name = check.__name__.removeprefix("check_")
            self.check(name, [f"cannot be checked, found {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"], "")


# -- hashes and counts


def check_hashes(run: Run, report: Report) -> None:
    report.equal("manifest", run.folder / "manifest.json", run.manifest.get("digest"), digest_of(run.manifest))
    report.equal("subset file", run.save_path, sha256(run.save_path), run.manifest["sha256"])
    faults = []
    for name, told in run.files.items():
        path = run.folder / name
        at = told_of(path) if path.is_file() else "nothing"
        if at != told:
            faults.append(f"{path}, found {at}, expected {told}")
    missing = [name for name in run.names if name not in run.files]
    report.check(
        "files", faults + [f"{name}, the manifest does not tell of it" for name in missing], f"{len(run.files)} as the manifest tells"
    )


def check_statuses(run: Run, report: Report) -> None:
    counts, kept, times, rows = Counter[str](), [np.empty((0, 2), np.uint64)], [np.empty(0, np.int64)], 0
    often = [main_column(stage) for stage in run.recipe.stages if stage.filter.repeats]
    for _, part in run.parts("uid", "status", *often):
        counts.update(part["status"].tolist())
        stays = part["status"] == "kept"
        kept.append(part["uid"][stays])
        times.append(part[often[0]][stays] if often else np.ones(stays.sum(), np.int64))
        rows += len(part["status"])
    report.equal("rows", "samples/", rows, run.manifest["pool"]["rows"])
    told = {name: count for name, count in run.manifest["status"].items() if count}
    report.equal("statuses", "samples/", dict(sorted(counts.items())), dict(sorted(told.items())))
    words, listed = np.concatenate(kept), subset.read(run.save_path)
    order = uids.order(words)
    first = np.flatnonzero(np.concatenate([[True], uids.ascending(listed)])[: len(listed)])
    same = np.array_equal(words[order], listed[first])
    if not run.recipe.unknown:  # a filter that is not known here may list a sample more than once
        same &= np.array_equal(np.concatenate(times)[order], np.diff(np.append(first, len(listed))))
    report.equal("listed", run.save_path, len(listed), run.manifest["listed"])
    report.check(
        "kept", [] if same else [f"{run.save_path}, found {len(first):,} uids, expected the {len(words):,} of samples/"], f"{len(words):,}"
    )


def check_funnel(run: Run, report: Report) -> None:
    """Of a chain: what each stage saw and left."""
    for stage, told in zip(run.recipe.stages, run.manifest["stages"], strict=False):
        seen, kept = stage_counts(run, stage)
        report.equal(f"{stage.name} rows", "samples/", [seen, kept], [told["rows_in"] - told["invalid"], told["rows_kept"]])


def stage_counts(run: Run, stage: Stage) -> tuple[int, int]:
    seen = kept = 0
    for _, part in run.parts(main_column(stage), "status"):
        known, stays = in_stage(stage, part)
        seen, kept = seen + int(known.sum()), kept + int(stays.sum())
    return seen, kept


# -- concepts


def check_concepts(run: Run, report: Report, stage: Stage) -> None:
    density: DensityPrune = stage.filter  # type: ignore[assignment]
    name = f"concepts{stage.suffix}.parquet"
    table = pq.read_table(run.folder / name)
    told = {column: table[column].to_numpy() for column in table.column_names}
    k, names = density.concepts, (f"concept{stage.suffix}", f"distance{stage.suffix}")
    spread, kept = np.zeros((2, k), np.int64), np.zeros(k, np.int64)
    for _, part in run.parts(*names, "status"):
        known, stays = in_stage(stage, part)
        spread += complexity.spread(part[names[0]][known], part[names[1]][known], k)
        kept += np.bincount(part[names[0]][stays], minlength=k)
    centroids = np.load(run.folder / f"centroids{stage.suffix}.npy")
    expected = expected_concepts(density, run.n, spread, centroids)
    if run.recipe.chain:
        expected["kept"] = kept
    for column, values in expected.items():
        unlike = ~np.isclose(told[column], values, rtol=1e-9, atol=1e-12, equal_nan=True)
        faults = [f"{name}, concept {at}, found {told[column][at]}, expected {values[at]}" for at in np.flatnonzero(unlike)]
        report.check(f"{name} {column}", faults, f"{k} concepts")
    report.equal(f"{name} sum of quotas", name, int(told["quota"].sum()), final_size(density, run.n))


def expected_concepts(density: DensityPrune, n: int, spread: I64, centroids: Array) -> dict[str, Array]:
    members, intra, inter = spread[0], complexity.d_intra(spread), complexity.d_inter(centroids, density.neighbors)
    values: F64 = {"inter_intra": inter * intra, "uniform": np.ones(len(members)), "cluster_size": members.astype(np.float64)}[
        density.complexity
    ]
    shares = members / members.sum() if density.complexity == "cluster_size" else complexity.share(values, density.temperature)
    target = shares * final_size(density, n)
    found = {
        "members": members,
        "d_intra": intra,
        "d_inter": inter,
        "complexity": complexity.filled(values),
        "share": shares,
        "target": target,
    }
    return found | {"quota": quota.quota(target, members, final_size(density, n), density.balance)}


# -- the cut, on all samples


def check_cut(run: Run, report: Report, stage: Stage) -> None:
    seen, kept = stage_counts(run, stage)
    rule = rule_of(stage, seen, run.manifest["samples"])
    if rule.threshold is not None:
        check_threshold(run, report, stage, rule)
        return
    if rule.quota is not None:
        good = kept >= rule.quota if rule.at_least else kept == rule.quota
        report.check(f"{stage.name} size", [] if good else [f"samples/, found {kept:,} kept, expected {rule.quota:,}"], f"{kept:,}")
    worst: dict[int, tuple[Any, ...]] = {}
    best: dict[int, tuple[Any, ...]] = {}
    for name, part in run.parts(*{main_column(stage), *([rule.group] if rule.group else []), rule.by, "uid", "status"}):
        for group, ends, stays in extremes(run, stage, rule, part):
            chosen, better = (worst, max) if stays else (best, min)
            chosen[group] = better(chosen.get(group, (*ends, name)), (*ends, name))
    width = 3 if rule.strict_ties else 1
    faults = [
        fault_of(group, worst[group], best[group]) for group in worst.keys() & best.keys() if worst[group][:width] >= best[group][:width]
    ]
    report.check(f"{stage.name} cut", faults, f"{max(1, len(worst.keys() | best.keys()))} groups, none dropped before one that stays")


def fault_of(group: int, kept: tuple[Any, ...], dropped: tuple[Any, ...]) -> str:
    last, first = (text_of(np.array(end[1:3], np.uint64)) for end in (kept, dropped))
    return f"{kept[3]}, uid {last}, found kept in group {group}, expected dropped before {first} of {dropped[3]}"


def extremes(run: Run, stage: Stage, rule: Rule, part: dict[str, Array]) -> Iterator[tuple[int, tuple[int, int, int], bool]]:
    """Of each group of a shard the last that stays and the first that goes: group, (value, uid) in the order of the cut, which it is."""
    known, stays = in_stage(stage, part)
    words = part["uid"]
    key = uids.hashed(words, int(run.manifest["seed"]), RANDOM) if rule.by == "uid" else cut.keys(part[rule.by], rule.largest)
    group = part[rule.group] if rule.group else np.zeros(len(words), np.int64)
    for which in (True, False):
        rows = np.flatnonzero(known & (stays == which))
        rows = rows[np.lexsort((words[rows, 1], words[rows, 0], key[rows], group[rows]))]
        starts = np.flatnonzero(np.concatenate([[True], np.diff(group[rows]) != 0])) if len(rows) else np.empty(0, np.int64)
        ends = np.append(starts[1:], len(rows))[: len(starts)] - 1
        for at in rows[ends if which else starts].tolist():
            yield int(group[at]), (int(key[at]), int(words[at, 0]), int(words[at, 1])), which


def check_threshold(run: Run, report: Report, stage: Stage, rule: Rule) -> None:
    faults, limit = [], np.float32(rule.threshold)
    for name, part in run.parts(rule.by, "uid", "status"):
        known, stays = in_stage(stage, part)
        should = part[rule.by] >= limit if rule.largest else part[rule.by] <= limit
        for at in np.flatnonzero(known & (stays != should)):
            faults.append(
                f"{name}, uid {text_of(part['uid'][at])}, found {part[rule.by][at]} {'kept' if stays[at] else 'dropped'}, limit {limit}"
            )
    report.check(f"{stage.name} cut", faults, f"on the right side of {limit}")


def check_draws(run: Run, report: Report, stage: Stage) -> None:
    """The draw again, from the scores that were left."""
    one: SoftCap = stage.filter  # type: ignore[assignment]
    wanted = ("uid", f"soft_cap_score{stage.suffix}", f"draws{stage.suffix}")
    parts = [[part[name][part[wanted[2]] >= 0] for name in wanted] for _, part in run.parts(*wanted)]
    words, scores, found = (np.concatenate(values) for values in zip(*parts, strict=True))
    law, again = one.law("samples/", len(words)), np.zeros(len(words), np.int32)
    keys = uids.hashed(words, int(run.manifest["seed"]), NOISE)
    softcap.draw(scores, keys, again, law, 0, law.rounds, len(os.sched_getaffinity(0)))
    unlike = np.flatnonzero(found != again)
    faults = [f"samples/, uid {text_of(words[at])}, found {found[at]} draws, expected {again[at]}" for at in unlike]
    report.check(wanted[2], faults, f"{law.total:,} of {len(words):,} samples, drawn again")


# -- from the pool


@dataclass
class Drawn:
    """The samples that are computed again, shard by shard."""

    run: Run
    pool: Pool
    share: float
    seed: int

    @cached_property
    def rows(self) -> dict[str, I64]:
        """Row numbers by shard, ascending; one sample at least."""
        rng = np.random.default_rng(self.seed)
        found = {shard.key: np.flatnonzero(rng.random(shard.rows) < self.share) for shard in self.pool.shards}
        if not any(map(len, found.values())):
            shard = max(self.pool.shards, key=lambda one: one.rows)
            found[shard.key] = rng.integers(0, shard.rows, 1)
        return found

    @property
    def count(self) -> int:
        return sum(map(len, self.rows.values()))

    def parts(self, *wanted: str) -> Iterator[tuple[Shard, str, I64, dict[str, Array]]]:
        """Shard, file, drawn row numbers, and their values."""
        for shard in self.pool.shards:
            name, rows = f"samples/{shard.key}.parquet", self.rows[shard.key]
            if len(rows):
                whole = self.run.samples(name, list(wanted))
                yield shard, name, rows, {column: values[rows] for column, values in whole.items()}


def unit_rows(shard: Shard, features: str, rows: I64) -> F64:
    """(m, d) float64 unit rows of ascending row numbers; not finite where the row is not, or zero."""
    wanted = np.zeros(shard.rows, bool)
    wanted[rows] = True
    blocks = [raw.rows.astype(np.float64) for raw in raw_blocks(shard.member(features), wanted, False, lambda size: None)]
    found: F64 = np.concatenate(blocks) if blocks else np.empty((0, 1))
    with np.errstate(all="ignore"):
        found /= np.abs(found).max(axis=1, keepdims=True)
        found /= np.sqrt(np.einsum("ij,ij->i", found, found))[:, None]
    return found


def check_uids(drawn: Drawn, report: Report) -> None:
    faults = []
    for shard, name, rows, part in drawn.parts("uid"):
        expected = columns.read_uids(shard, lambda size: None)[rows]
        for at in np.flatnonzero((part["uid"] != expected).any(axis=1)):
            faults.append(f"{name}, row {rows[at]:,}, found {text_of(part['uid'][at])}, expected {text_of(expected[at])}")
    report.check("uids", faults, f"{drawn.count:,} samples")


def check_nearest(drawn: Drawn, report: Report, names: tuple[str, str, str], features: str) -> None:
    """Label and distance of each drawn sample, from the centroids. names: of label, distance, and the file of centroids."""
    label, distance, file = names
    stored = np.load(drawn.run.folder / file)
    centroids, levels = stored.astype(np.float64), kmeans.levels(stored)
    labels, distances = [], []
    for shard, name, rows, part in drawn.parts(label, distance, "uid"):
        known = part[label] >= 0
        seen = unit_rows(shard, features, rows[known]) if known.any() else np.empty((0, centroids.shape[1]))
        products = seen @ centroids.T
        if len(levels.coarse):
            products[~near_enough(seen, levels, len(centroids))] = -np.inf
        who = [f"{name}, uid {text_of(words)}" for words in part["uid"][known]]
        labels += wrong_labels(who, part[label][known], products)
        own = products[np.arange(len(products)), part[label][known]]
        expected = np.maximum(0, 1 - own)
        off = ~(np.abs(part[distance][known] - expected) <= TOLERANCE)
        distances += [f"{who[at]}, found {part[distance][known][at]}, expected {expected[at]:.7f}" for at in np.flatnonzero(off)]
    report.check(label, labels, f"{drawn.count:,} samples, the nearest of {len(centroids):,}")
    report.check(distance, distances, f"{drawn.count:,} samples")


def near_enough(rows: F64, levels: Levels, k: int) -> Bool:
    """(n, k) which centroids a search in two levels compares a row with: those near its coarse one, or near one that ties with it."""
    coarse = rows @ levels.coarse.T.astype(np.float64)
    near = np.zeros((len(rows), k), bool)
    for row, cell in np.argwhere(coarse >= coarse.max(axis=1, initial=-2)[:, None] - TOLERANCE):
        near[row, levels.near[cell]] = True
    return near


def wrong_labels(who: list[str], found: Array, products: F64) -> list[str]:
    """A label is right when no other centroid is nearer than rounding could make it."""
    own = products[np.arange(len(products)), found]
    far = ~(own >= products.max(axis=1, initial=-2) - TOLERANCE)
    return [f"{who[at]}, found {found[at]}, expected {products[at].argmax()}" for at in np.flatnonzero(far)]


class Alike(NamedTuple):
    """A drawn sample that has an earlier one like it."""

    where: str
    uid: U64
    of: U64
    cluster: int
    distance: float
    similarity: float
    row: F64


def check_similarity(drawn: Drawn, report: Report, stage: Stage) -> None:
    """The similarity of each drawn sample to the one that it is said to be most alike, which must come before it in the same cluster."""
    dedup: SemDeDup = stage.filter  # type: ignore[assignment]
    names = [f"dedup_{name}{stage.suffix}" for name in ("cluster", "distance", "similarity", "of")]
    mine: list[Alike] = []
    for shard, name, rows, part in drawn.parts(*names, "uid"):
        cluster, distance, similarity, of = (part[column] for column in names)
        known = np.flatnonzero((cluster >= 0) & (similarity > 0))
        for at, row in zip(known, unit_rows(shard, dedup.features, rows[known]), strict=True):
            who = f"{name}, uid {text_of(part['uid'][at])}"
            mine.append(Alike(who, part["uid"][at], of[at], int(cluster[at]), float(distance[at]), float(similarity[at]), row))
    others = found_by_uid(drawn, [one.of for one in mine], names[:2], dedup.features)
    faults = [fault for one in mine for fault in similarity_faults(one, others.get((int(one.of[0]), int(one.of[1]))), dedup.prefer)]
    report.check(names[2], faults, f"{len(mine):,} samples, each with the one named by dedup_of")
    report.skip(names[2], "that no other earlier sample of the cluster is more alike")
    if dedup.prefer == "score":
        report.skip(names[3], "that it comes before the sample by its score")


Other = tuple[int, float, F64]  # cluster, distance, unit row


def found_by_uid(drawn: Drawn, wanted: list[U64], names: list[str], features: str) -> dict[tuple[int, int], Other]:
    """The samples of these uids that reached the stage."""
    table = np.unique(np.array(wanted, np.uint64).reshape(-1, 2), axis=0)
    found: dict[tuple[int, int], Other] = {}
    for shard in drawn.pool.shards if len(table) else ():
        part = drawn.run.samples(f"samples/{shard.key}.parquet", ["uid", *names])
        here = np.flatnonzero((uids.find(table, part["uid"]) >= 0) & (part[names[0]] >= 0))
        for at, row in zip(here, unit_rows(shard, features, here), strict=True):
            key = (int(part["uid"][at, 0]), int(part["uid"][at, 1]))
            found[key] = (int(part[names[0]][at]), float(part[names[1]][at]), row)
    return found


def similarity_faults(one: Alike, other: Other | None, prefer: str) -> Iterator[str]:
    named = text_of(one.of)
    if other is None:
        yield f"{one.where}, found dedup_of {named}, expected a sample that reached the stage"
        return
    cluster, distance, row = other
    if cluster != one.cluster:
        yield f"{one.where}, found dedup_of {named} of cluster {cluster}, expected one of {one.cluster}"
    expected = min(1.0, float(one.row @ row))
    if not abs(one.similarity - expected) <= TOLERANCE:
        yield f"{one.where}, found {one.similarity:.7f}, expected {expected:.7f}, the cosine to {named}"
    sign = {"hard": -1, "easy": 1, "score": 0}[prefer]
    if sign and (sign * distance, *one.of.tolist()) >= (sign * one.distance, *one.uid.tolist()):
        yield f"{one.where}, found dedup_of {named}, expected one that comes before it in its cluster"


def check_scores(drawn: Drawn, report: Report, name: str, score: str) -> None:
    faults: list[str] = []
    if computed(score) is not None:
        report.skip(name, "it is computed from embeddings, of other samples or of target images too")
        return
    table = columns.read_table(score) if score.endswith(".parquet") else None
    for shard, file, rows, part in drawn.parts(name, "uid"):
        known = ~np.isnan(part[name])
        if table is None:
            numbers = columns.read_numbers(shard, COLUMNS.get(score, score), lambda size: None)[rows]
        else:
            place = uids.find(table[0], part["uid"])
            numbers = np.where(place >= 0, table[1][place], np.nan)
        expected = numbers.astype(np.float32)
        off = known & (part[name] != expected)
        faults += [f"{file}, uid {text_of(part['uid'][at])}, found {part[name][at]}, expected {expected[at]}" for at in np.flatnonzero(off)]
    report.check(name, faults, f"{drawn.count:,} samples")


def check_within(drawn: Drawn, report: Report, within: str) -> None:
    held, faults = subset.held(place(within)), []
    for _, name, _, part in drawn.parts("uid", "status"):
        strange = (part["status"] != "outside") & (uids.find(np.asarray(held), part["uid"]) < 0)
        faults += [
            f"{name}, uid {text_of(part['uid'][at])}, found {part['status'][at]}, expected outside" for at in np.flatnonzero(strange)
        ]
    report.check("within", faults, f"{drawn.count:,} samples")


# -- all of it


def check_left(run: Run, report: Report) -> None:
    """Level one: hashes, counts, and the cut."""
    report.run(check_hashes, run, report)
    report.run(check_statuses, run, report)
    for stage in run.recipe.stages:
        if isinstance(stage.filter, DensityPrune):
            report.run(check_concepts, run, report, stage)
        if isinstance(stage.filter, SoftCap):
            report.run(check_draws, run, report, stage)
    if not run.recipe.chain:
        what = ", ".join(run.recipe.unknown) or "its signs & | -"
        report.skip("cut", f"of this recipe it cannot be told what each stage saw ({what})")
        return
    report.run(check_funnel, run, report)
    for stage in run.recipe.stages:
        report.run(check_cut, run, report, stage)


def check_pool(run: Run, report: Report, pool: Pool, share: float, seed: int) -> None:
    """Level two: a share of the samples from the pool."""
    report.equal("pool", pool.location, pool.fingerprint, run.manifest["pool"]["fingerprint"])
    lengths = {shard.key: pq.read_metadata(run.folder / f"samples/{shard.key}.parquet").num_rows for shard in pool.shards}
    faults = [
        f"samples/{one.key}.parquet, found {lengths[one.key]:,} rows, expected {one.rows:,}"
        for one in pool.shards
        if lengths[one.key] != one.rows
    ]
    report.check("rows of each shard", faults, f"{len(lengths)} shards")
    if faults:
        return
    drawn = Drawn(run, pool, share, seed)
    report.run(check_uids, drawn, report)
    if run.options["within"]:
        report.run(check_within, drawn, report, run.options["within"])
    for stage in run.recipe.stages:
        report.run(check_measured, drawn, report, stage)
    for name in run.recipe.unknown:
        report.skip(name, "what it measures is not known here")


def check_measured(drawn: Drawn, report: Report, stage: Stage) -> None:
    suffix = stage.suffix
    if isinstance(stage.filter, TopScore):
        check_scores(drawn, report, f"score{suffix}", stage.filter.score)
    if isinstance(stage.filter, SoftCap):
        check_scores(drawn, report, f"soft_cap_score{suffix}", stage.filter.score)
    if isinstance(stage.filter, DensityPrune):
        check_nearest(drawn, report, (f"concept{suffix}", f"distance{suffix}", f"centroids{suffix}.npy"), stage.filter.features)
    if isinstance(stage.filter, SemDeDup):
        names = (f"dedup_cluster{suffix}", f"dedup_distance{suffix}", f"dedup_centroids{suffix}.npy")
        check_nearest(drawn, report, names, stage.filter.features)
        check_similarity(drawn, report, stage)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="verify", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("work_dir", type=Path)
    made.add_argument("--save_path", type=Path, help="the subset file, when it has moved")
    made.add_argument("--metadata_dir", help="the pool, when it has moved, or its URL with what it takes to read it")
    made.add_argument("--share", type=float, default=0.01, help="of the samples that is computed again from the pool; 0: none")
    made.add_argument("--seed", type=int, default=0, help="of the draw of that share")
    return made


def main(arguments: list[str] | None = None) -> int:
    given, report = parser().parse_args(arguments), Report()
    if not 0 <= given.share <= 1 or math.isnan(given.share):
        parser().error(f"--share must lie in [0, 1], got {given.share}")
    try:
        run = Run(given.work_dir, given.save_path)
        if not run.save_path.is_file():
            raise BadInput(run.save_path, "is not there", "give --save_path where the subset file lies now")
        check_left(run, report)
        if given.share:
            pool = Pool.open(given.metadata_dir or run.location, run.options["features_dir"], embeddings=run.manifest["pool"]["embeddings"])
            report.run(check_pool, run, report, pool, given.share, given.seed)
    except BadInput as error:
        print(f"verify: {error}", file=sys.stderr)
        return 1 if report.wrong else 2
    return min(1, report.wrong)
