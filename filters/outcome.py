"""What became of each sample: status, samples/, concepts.parquet, the manifest, the funnel.

Everything here is read from columns that the passes left; nothing is measured again.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from filters import __version__
from filters.maths import uids
from filters.maths.arrays import I64, U64, Array, Bool
from filters.pool import subset
from filters.pool.columns import Column, Hashed, Rows, missing
from filters.pool.errors import BadInput
from filters.pool.files import replacing, told_of, write_npy
from filters.pool.place import Place, place
from filters.pool.pool import Pool
from filters.work.plan import Cost, Kind, Plan
from filters.work.rates import Kernel, Site, Trial, ordering, unnamed, writing
from filters.work.regroup import Part
from filters.work.view import Bits, View
from filters.work.work import Stage, Work, parse_uids
from filters.work.workdir import Saved, WorkDir, beside, source_key

SEEN_BEFORE = 1  # purpose of the hash that brings equal uids together
BUCKETS = 4096
GROUP = 1 << 16  # rows of a table that are read to find one
LISTED = 1 << 20  # uids of a block, where some come more than once


@dataclass
class Verdict:
    """What a recipe made of the rows it got."""

    kept: Rows
    dropped: list[tuple[str, Rows]]  # status and who has it; disjoint, and with `kept` all rows
    columns: dict[str, Column] = field(default_factory=dict)
    arrays: dict[str, Saved] = field(default_factory=dict)
    tables: dict[str, dict[str, Array]] = field(default_factory=dict)
    repeat: Column | None = None  # how often each of `kept` is listed; None: once


class Look(NamedTuple):
    """Further passes over what a run has decided, when all is written."""

    carry_out: Callable[[Work, Verdict], None]
    expect: Callable[[Plan], None]  # what that takes


@dataclass(frozen=True)
class Outcome:
    """A finished run."""

    save_path: Path
    work_dir: Path
    samples: int  # of the pool, neither outside nor repeated
    funnel: list[Stage]
    status: dict[str, int]  # samples of each status
    listed: int  # uids in the subset file: more than samples kept, where one is listed as often as it was drawn
    sha256: str

    def uids(self) -> U64:
        """(n, 2) uint64 of the subset file, ascending."""
        return subset.read(self.save_path)


# -- who takes part


def population(work: Work, within: str | None) -> Verdict:
    """The samples of the pool that are neither outside nor repeated. A uid that comes again leaves before the first stage."""
    everything = work.everything()
    inside = everything if within is None else _inside(work, everything, within)
    seen = work.regroup(seen_before, inside, Hashed(work.uids, 0, SEEN_BEFORE, BUCKETS), BUCKETS)["seen"]
    repeated = work.select(_repeated, inside, seen)
    if not inside.count():
        where = work.pool.location if within is None else within
        found = "the pool holds 0 samples" if within is None else f"names none of the pool's {work.pool.rows:,} samples"
        raise BadInput(where, found, "check that it is the right one")
    return Verdict(inside - repeated, [("outside", everything - inside), ("repeated", repeated)])


def expect_population(plan: Plan, within: str | None) -> int:
    """What the parsing of uids and `population` take; gives the samples that there can be."""
    rows = plan.pool.rows
    plan.column(parse_uids, rows, plan.parsed("uid"), "(2,)u8")
    if within is not None:
        held = subset.held_at_most(place(within), rows)
        with plan.once("held_uids", 16 * held):
            plan.note("what --within leaves is not known before: all that it can hold is counted on")
        plan.each(is_in, rows, plan.found(rows, held))
        rows = min(rows, held)
    plan.regroup(seen_before, rows, BUCKETS, size=1, gives=1)
    plan.each(_repeated, rows, plan.values(rows))
    return rows


def _inside(work: Work, rows: Rows, within: str) -> Rows:
    where = place(within)
    held = work.once(held_uids, where, subset.stamps(where))["uids"]
    return work.select(is_in, rows, held)


def held_uids(work: Work, where: Place, stamps: object) -> dict[str, Array]:
    """The uids of --within, ascending."""
    return {"uids": subset.held(where, work.engine.map)}


def is_in(view: View, table: Saved) -> Bool:
    """Whether a row's uid is in an ascending table."""
    found: Bool = uids.find(np.asarray(table.load()), view.uids()) >= 0
    return found


def seen_before(part: Part) -> dict[str, Array]:
    """Whether an earlier row of the pool has the same uid."""
    order = uids.order(part.uids)
    seen = np.zeros(len(order), np.int8)
    if len(order) > 1:
        seen[order[1:]] = ~uids.ascending(part.uids[order])
    return {"seen": seen}


def _repeated(view: View, column: Column) -> Bool:
    return view.values(column) > 0


# -- what is left behind


def refuse_nothing(work: Work, kept: Rows) -> None:
    if not kept.count():
        raise BadInput(work.pool.location, f"nothing is left: {work.left()}", "keep more in the stages")


def leave(work: Work, verdict: Verdict, save_path: Path, told: dict[str, Any], before: dict[str, Any]) -> Outcome:
    """Write everything beside its place, then put all of it there."""
    work.progress.stage("results")
    work.pool.check_unchanged()
    _say_what_was_harmed(work, before)
    new = work.dir.leaving()
    files = {f"samples/{key}.parquet": told for key, told in _write_samples(work, verdict, new / "samples")}
    _write_tables(verdict, new)
    files |= {path.name: told_of(path) for path in sorted(new.iterdir()) if path.is_file()}
    status = Counter({"kept": verdict.kept.count()})
    for name, rows in verdict.dropped:
        status[name] += rows.count()
    listed, blocks = listing(work, verdict)
    with subset.replacing(save_path, beside(save_path, work.dir.folder), blocks) as sha256:
        result = Outcome(save_path, work.dir.folder, work.samples, work.funnel, dict(status), listed, sha256)
        told |= manifest(work, result, before) | {"files": files}
        # Before the file is in its place: from then on the folder may replace it.
        work.dir.write_origin({name: told[name] for name in ("pool", "versions", "made")})
        work.dir.publish(new, told, before)
    return result


def expect_leaving(plan: Plan, kept: int) -> None:
    """What `leave` takes."""
    rows, kinds = plan.pool.rows, tuple(plan.columns.values())
    write = Cost({Kernel(sampling, (kinds,), 80e-9 * (2 + len(kinds))): rows})
    plan.leaves(_write_shard, rows, write, [np.dtype(kind).itemsize for kind in (*kinds, "V16", "i1")])
    plan.kept, plan.listed = kept, plan.listed or kept
    uid_order = Cost({Kernel(ordering, (), 100e-9): kept, Kernel(writing, (), 3e-9): 16 * plan.listed})
    plan.each(_uids, kept, plan.values(kept), uid_order)


def sampling(site: Site, kinds: tuple[Kind, ...]) -> Trial:
    """Rows of samples/, with columns of these types, as a parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows, chance = 1 << 14, np.random.default_rng(0)
    words = chance.integers(0, 1 << 63, (rows, 2)).astype(np.uint64)
    status = pa.array(["kept"] * rows)
    values = [_like(kind, chance.integers(0, 1 << 20, rows), words) for kind in kinds]

    def trial() -> float:
        arrays = {str(at): arrow_array(one) for at, one in enumerate(values)}
        table = pa.table({"uid": _binary(words, np.ones(rows, bool))} | arrays | {"status": status})
        with unnamed(site.folder) as file:
            pq.write_table(table, file, write_page_checksum=True)
        return rows

    return trial


def _like(kind: Kind, numbers: I64, words: U64) -> Array:
    """Values of a column's type."""
    values = np.zeros(len(numbers), kind)
    if values.dtype == uids.MAYBE:
        values["uid"], values["known"] = words, True
        return values
    return numbers.astype(kind)


def _say_what_was_harmed(work: Work, before: dict[str, Any]) -> None:
    """What the run before left may have been edited, or is a mixture when it was killed as it put its files in place."""
    files = before.get("files", {})
    found = work.engine.map(_is_as_told, [(work.dir.folder / name, told) for name, told in files.items()])
    harmed = [name for name, whole in zip(files, found, strict=True) if not whole]
    if harmed:
        work.progress.say(f"{len(harmed)} of {len(files)} files not as the manifest tells, first {harmed[0]}: written anew")


def _is_as_told(file: tuple[Path, dict[str, Any]]) -> bool:
    path, told = file
    try:
        return told_of(path) == told
    except OSError:
        return False


def listing(work: Work, verdict: Verdict) -> tuple[int, Iterator[U64]]:
    """How many uids a subset file lists, and these, (m, 2) uint64 at a time, ascending."""
    chosen, times = _chosen(work, verdict)
    return len(chosen) if times is None else int(times.sum()), _blocks(chosen, times)


def _chosen(work: Work, verdict: Verdict) -> tuple[U64, I64 | None]:
    """(n, 2) uint64 of the samples kept, ascending; and how often each is listed, unless it is once."""
    count, end = verdict.kept.count(), 0
    found, times = np.empty((count, 2), np.uint64), None if verdict.repeat is None else np.empty(count, np.int64)
    for words, often in work.each(_uids, verdict.kept, verdict.repeat):
        found[end : end + len(words)] = words
        if times is not None:
            times[end : end + len(words)] = often
        end += len(words)
    order = uids.order(found)
    found = found[order]
    assert uids.ascending(found).all(), "each uid is kept once"
    return found, None if times is None else times[order]


def _uids(view: View, repeat: Column | None) -> tuple[U64, Array | None]:
    return view.uids(), None if repeat is None else view.values(repeat)


def _blocks(chosen: U64, times: I64 | None) -> Iterator[U64]:
    """The uids as they are listed, so many at a time."""
    if times is None:
        yield chosen
        return
    ends = times.cumsum()
    for start in range(0, int(ends[-1]), LISTED):
        yield chosen[np.searchsorted(ends, np.arange(start, min(start + LISTED, ends[-1])), side="right")]


def _write_samples(work: Work, verdict: Verdict, folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """{key}.parquet: a row a sample, in the pool's order. Gives the key of each, with size and sha256."""
    names = tuple(name for name, _ in verdict.dropped)
    masks = (rows for _, rows in verdict.dropped)
    told = work.each(_write_shard, work.everything(), folder, verdict.columns, names, *masks)
    return zip((shard.key for shard in work.pool.shards), told, strict=True)


def _write_shard(view: View, folder: Path, columns: dict[str, Column], names: tuple[str, ...], *dropped: Bits) -> dict[str, Any]:
    import pyarrow as pa

    status = np.zeros(view.shard.rows, np.int8)  # 0: kept
    for number, bits in enumerate(dropped, 1):
        status[bits.mask()] = number
    texts = pa.DictionaryArray.from_arrays(status, ["kept", *names]).cast(pa.string())
    arrays = {"uid": _binary(view.uids(), np.ones(view.shard.rows, bool))}
    arrays |= {name: arrow_array(view.values(column)) for name, column in columns.items()}
    path = folder / f"{view.shard.key}.parquet"
    write_parquet(path, pa.table(arrays | {"status": texts}))
    return told_of(path)


def arrow_array(values: Array) -> Any:
    """A column as Arrow holds it: null where there is no value."""
    import pyarrow as pa

    if values.dtype == uids.MAYBE:
        return _binary(values["uid"], values["known"])
    return pa.array(values, mask=missing(values))


def _binary(words: U64, known: Bool) -> Any:
    """16 bytes a uid, high byte first; null where it is not known."""
    import pyarrow as pa

    data = pa.py_buffer(uids.big_endian(words))
    valid = pa.py_buffer(np.packbits(known, bitorder="little").tobytes())
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(words), [valid, data])


def write_parquet(path: Path, table: Any) -> None:
    """A table with page checksums, by rename."""
    import pyarrow.parquet as pq

    with replacing(path) as file:
        pq.write_table(table, file, row_group_size=GROUP, write_page_checksum=True)


def _write_tables(verdict: Verdict, folder: Path) -> None:
    """centroids and concepts, each under its stage's name."""
    import pyarrow as pa

    for name, saved in verdict.arrays.items():
        with replacing(folder / f"{name}.npy") as file:
            write_npy(file, saved.load())
    for name, columns in verdict.tables.items():
        write_parquet(folder / f"{name}.parquet", pa.table({column: arrow_array(values) for column, values in columns.items()}))


# -- the manifest


def describe_pool(pool: Pool) -> dict[str, Any]:
    return {
        "location": str(pool.location.resolve()),
        "rows": pool.rows,
        "fingerprint": pool.fingerprint,
        "embeddings": any(shard.archive for shard in pool.shards),
        "shards": {shard.key: shard.fingerprint for shard in pool.shards},
    }


def settle_in(folder: WorkDir, pool: Pool, say: Callable[[str], None]) -> dict[str, Any]:
    """Note whose measurements the folder holds; raises BadInput when they and its manifest are another pool's.

    What an earlier version of the program measured, or of shards that have changed, is dropped, and said.
    Gives the manifest of the run before, with every subset file that the folder has made.
    """
    now = {"pool": describe_pool(pool), "versions": versions()}
    then, before = _of_this_pool(folder, pool, now["pool"], say)
    if then:
        changed = [shard.key for shard in pool.shards if not shard.like(then["pool"]["shards"][shard.key])]
        if changed:
            say(f"{len(changed)} of {len(pool.shards)} shards changed since the last run here, {changed[0]} among them: measured again")
            folder.forget()
        elif _measuring(then.get("versions")) != _measuring(now["versions"]):
            say("another version of the program ran here before: measured again")
            folder.forget()
    made = sorted({*then.get("made", []), *before.get("made", [])})
    folder.write_origin(now | {"made": made})
    return before | {"made": made}


def _of_this_pool(folder: WorkDir, pool: Pool, now: dict[str, Any], say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Origin and manifest, each empty where there is none that can be heeded. When one is ours, the other was put there."""
    told = {path: folder.read(path, say) for path in (folder.origin, folder.manifest)}
    strange: dict[Path, BadInput] = {}
    for path in (path for path in told if told[path]):
        try:
            _check_same_shards(folder.folder, told[path]["pool"], now)
            _check_kin(folder.folder, told[path]["pool"], pool)
        except BadInput as error:
            strange[path] = error
    for path, fault in strange.items():
        if len(strange) == sum(map(bool, told.values())):
            raise fault
        say(f"{path} {fault.found}: not heeded, and written anew")
        told[path] = {}
    return list(told.values())


def _check_same_shards(folder: Path, then: dict[str, Any], now: dict[str, Any]) -> None:
    added, gone = now["shards"].keys() - then["shards"].keys(), then["shards"].keys() - now["shards"].keys()
    if added or gone:
        told = f"{len(added)} shards came ({min(added)})" if added else f"{len(gone)} shards went ({min(gone)})"
        what = f"belongs to the pool {then['location']} of {len(then['shards'])} shards; in {now['location']} {told}"
        raise BadInput(folder, what, "name another --work_dir")


def _check_kin(folder: Path, then: dict[str, Any], pool: Pool) -> None:
    """A pool of the same keys is another one when it lies elsewhere and no shard that has rows is the same."""
    location = str(pool.location.resolve())
    if then["location"] == location or any(shard.rows and shard.like(then["shards"][shard.key]) for shard in pool.shards):
        return
    raise BadInput(folder, f"belongs to the pool {then['location']}, not to {location}", "name another --work_dir")


def _measuring(told: Any) -> list[Any]:
    """The versions on which measured numbers depend."""
    return [told.get(name) for name in ("source", "numpy", "torch")] if isinstance(told, dict) else []


def versions() -> dict[str, str]:
    import pyarrow
    import torch

    return {
        "densprune": __version__,
        "source": source_key(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": str(torch.__version__),
        "pyarrow": pyarrow.__version__,
    }


def machine(device: str) -> dict[str, Any]:
    """Where the numbers were computed: another device or kernel may round a tie differently."""
    import torch
    from threadpoolctl import threadpool_info

    name = torch.cuda.get_device_name() if device == "cuda" else _processor()
    kernels = [{key: pool.get(key) for key in ("internal_api", "version", "architecture")} for pool in threadpool_info()]
    blas = "mkl" if torch.backends.mkl.is_available() else "another"  # type: ignore[no-untyped-call]
    return {"device": device, "name": name, "torch_cpu": torch.backends.cpu.get_cpu_capability(), "torch_blas": blas, "kernels": kernels}


def _processor() -> str:
    """The CPU's own name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def funnel(stages: Iterable[Stage]) -> list[dict[str, Any]]:
    return [
        {
            "stage": stage.name,
            "rows_in": stage.rows_in,
            "invalid": stage.invalid,
            "rows_kept": stage.kept,
            "seconds": round(stage.seconds, 3),
            "bytes_read": stage.bytes_read,
        }
        for stage in stages
    ]


def manifest(work: Work, result: Outcome, before: dict[str, Any]) -> dict[str, Any]:
    """What was run, on what, with what result. `made`: every subset file that this folder has made."""
    return {
        "seed": work.settings.seed,
        "pool": describe_pool(work.pool),
        "versions": versions(),
        "machine": machine(work.settings.device),
        "samples": result.samples,
        "status": result.status,
        "listed": result.listed,
        "stages": funnel(work.funnel),
        "bytes_read": work.bytes_read,
        "save_path": str(result.save_path.resolve()),
        "sha256": result.sha256,
        "made": sorted({*map(str, before.get("made", [])), result.sha256}),
    }
