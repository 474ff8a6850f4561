"""An account in words, and as a record for programs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from filters.pool.errors import printable
from tools.left.account import Account, Sample, Seen

Facts = dict[int, dict[str, Any]]  # of the pool's tables, by position
LONGEST = 100  # letters of a caption
REASONS = {
    "outside": "not among --within, or not in a score table: it took no part",
    "repeated": "an earlier sample of the pool has the same uid: it took no part",
    "invalid": "no finite embedding or score where a stage first needed one",
    "excluded": "taken away by the right side of `a - b`",
}
SCORES = {"clip_b32_similarity_score": "b32", "clip_l14_similarity_score": "l14"}


def samples_of(account: Account) -> Iterator[Sample]:
    """All whose captions are worth reading."""
    yield account.sample
    yield from (sample for _, sample in account.chain)
    yield from account.nearest


# -- in words


def lines(account: Account, facts: Facts) -> Iterator[str]:
    """A block of lines, the first without indent."""
    status = account.sample.status
    told = {"kept": "kept"}.get(status) or (f"{status}: {REASONS[status]}" if status in REASONS else f"dropped by {status}")
    yield f"{account.sample.uid}  {told}"
    for name, text in _rows(account, facts):
        yield printable(f"  {name:<13} {text}")


def _rows(account: Account, facts: Facts) -> Iterator[tuple[str, str]]:
    one = account.sample
    yield "sample", ", ".join([f"row {one.row:,} of {one.key}", *_size_and_scores(facts.get(one.position, {}))])
    if account.times > 1:
        yield "", f"{account.times} samples of the pool have this uid; this is the first"
    if one.position in facts:
        yield "caption", _caption(one, facts)
    for seen in account.seen:
        yield seen.stage, _verdict(seen, one)
        yield "", _boundary(seen)
        if seen.changes:
            options = " or ".join(f"{name} {value}" for name, value in seen.changes)
            yield "", f"it would pass here with {options}"
    for similarity, other in account.chain:
        yield "duplicate of", f"{other.uid} (similarity {similarity:.4f}), {_stands(other, account)}{_said(other, facts)}"
    concept = next((seen for seen in reversed(account.seen) if seen.group is not None), None)
    if concept and account.nearest:
        captions = "; ".join(_caption(near, facts) for near in account.nearest if near.position in facts)
        yield "concept", f"{concept.group}, nearest its centroid: {captions or ', '.join(near.uid for near in account.nearest)}"


def _size_and_scores(told: dict[str, Any]) -> Iterator[str]:
    if told.get("original_width") is not None and told.get("original_height") is not None:
        yield f"{told['original_width']} x {told['original_height']}"
    yield from (f"{short} {told[name]:.4f}" for name, short in SCORES.items() if told.get(name) is not None)


def _caption(one: Sample, facts: Facts) -> str:
    text = facts.get(one.position, {}).get("text")
    if text is None:
        return "no caption"
    text = " ".join(text.split())
    return f"“{text if len(text) <= LONGEST else text[: LONGEST - 1] + '…'}”"


def _said(one: Sample, facts: Facts) -> str:
    return f": {_caption(one, facts)}" if one.position in facts else ""


def _verdict(seen: Seen, sample: Sample) -> str:
    did = "taken" if seen.took else "dropped"
    what = "drawn" if seen.value is None else f"{seen.by} {_plain(seen.value)}"
    return f"{did}: {what}, place {seen.place + 1:,} of {seen.of:,}{f' in concept {seen.group}' if seen.group is not None else ''}"


def _boundary(seen: Seen) -> str:
    """Where the cut lies, and how far away."""
    ends = [f"the last taken has {_plain(seen.last.values[seen.by])}" if seen.last and seen.value is not None else ""]
    ends += [f"the first dropped {_plain(seen.first.values[seen.by])}" if seen.first and seen.value is not None else ""]
    ends += [f"{seen.missing:,} places were missing" if seen.missing else ""]
    return ", ".join([f"{seen.stays:,} are taken", *(end for end in ends if end)])


def _stands(other: Sample, account: Account) -> str:
    """What became of a sample that another is a duplicate of."""
    if other is not account.chain[-1][1]:
        return "itself a duplicate"
    return "which is kept and stands for it" if other.status == "kept" else f"which {other.status} dropped"


def _plain(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.7g}"


# -- for programs


def record(account: Account, facts: Facts) -> dict[str, Any]:
    """The same, by names; uids in hexadecimal."""
    one = account.sample
    end = account.chain[-1][1] if account.chain else None
    return {
        "uid": one.uid,
        "status": one.status,
        "key": one.key,
        "row": one.row,
        "times": account.times,
        "pool": facts.get(one.position),
        "stages": [_stage(seen) for seen in account.seen],
        "chain": [_short(other, facts) | {"similarity": similarity} for similarity, other in account.chain],
        "stands_for_it": None if end is None else {"uid": end.uid, "status": end.status},
        "nearest": [_short(near, facts) for near in account.nearest],
    }


def _stage(seen: Seen) -> dict[str, Any]:
    return {
        "stage": seen.stage,
        "took": seen.took,
        "by": seen.by,
        "value": seen.value,
        "concept": seen.group,
        "place": seen.place + 1,
        "of": seen.of,
        "taken": seen.stays,
        "missing": seen.missing,
        "last_taken": _end(seen.last, seen),
        "first_dropped": _end(seen.first, seen),
        "would_pass_with": dict(seen.changes),
    }


def _end(sample: Sample | None, seen: Seen) -> dict[str, Any] | None:
    return None if sample is None else {"uid": sample.uid, "value": None if seen.value is None else sample.values[seen.by]}


def _short(one: Sample, facts: Facts) -> dict[str, Any]:
    return {"uid": one.uid, "status": one.status, "text": facts.get(one.position, {}).get("text")}
