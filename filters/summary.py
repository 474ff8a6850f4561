"""The table at a run's end: what each stage left, the most and least complex concepts, where the files lie."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from filters.maths.arrays import I64, Array
from filters.outcome import Outcome, Verdict
from filters.pool.columns import TEXTS, Column, Rows
from filters.pool.errors import printable
from filters.work.plan import Cost, Plan
from filters.work.view import View
from filters.work.work import Work

SHOWN = 10  # most complex concepts, and as many least complex
NEAREST = 16  # members whose captions may speak for a concept
WIDTH = 60  # of a caption in the table


def funnel(outcome: Outcome) -> str:
    """A line a stage, from the pool to what is kept."""
    lines = [("pool", sum(outcome.status.values()), "")]
    lines += [(f"  {name}", -outcome.status[name], "") for name in ("outside", "repeated") if outcome.status.get(name)]
    for stage in outcome.funnel:
        invalid = f"{stage.invalid:,} invalid" if stage.invalid else ""
        lines.append((f"after {stage.name}", stage.kept or 0, invalid))
    lines.append(("kept", outcome.status["kept"], f"{outcome.status['kept'] / max(1, outcome.samples):.1%} of the pool"))
    if outcome.listed != outcome.status["kept"]:
        lines.append(("listed", outcome.listed, "each as often as it was drawn: the N of --dataset-size"))
    return "\n".join(f"{name:<22}{count:>15,}  {remark}".rstrip() for name, count, remark in lines)


def places(outcome: Outcome) -> str:
    files = [("uids", outcome.save_path), ("every sample", outcome.work_dir / "samples"), ("manifest", outcome.work_dir / "manifest.json")]
    if (outcome.work_dir / "concepts.parquet").exists():
        files.insert(2, ("every concept", outcome.work_dir / "concepts.parquet"))
    return "\n".join(f"{name:<22}{path}" for name, path in files)


def concepts(work: Work, verdict: Verdict) -> str:
    """The most and the least complex concepts, each with the caption that speaks best for it; empty without concepts."""
    table = verdict.tables.get("concepts")
    if table is None:
        return ""
    known = np.flatnonzero(table["members"] > 0)
    ranked = known[np.argsort(-table["complexity"][known], kind="stable")]
    told = [("most complex concepts", ranked[:SHOWN]), ("least complex concepts", ranked[SHOWN:][-SHOWN:])]
    captions = spokesmen(work, verdict, np.concatenate([ids for _, ids in told]))
    head = f"{'':>7}{'members':>9}{'quota':>8}{'d_inter':>9}{'d_intra':>9}  caption"
    return "\n\n".join("\n".join([title, head, *_rows(table, ids, captions)]) for title, ids in told if len(ids))


def expect_concepts(plan: Plan) -> None:
    """What `concepts` takes."""
    if "concept" not in plan.columns:
        return
    placed = plan.having["concept"]
    with plan.stage("table", plan.kept):
        plan.present(plan.pool.rows)
        plan.scan(closest, placed, plan.values(placed, 20), 40.0 * 2 * SHOWN * NEAREST * len(plan.pool.shards))
        spoken_for = min(placed, 2 * SHOWN * NEAREST)
        texts = all(shard.columns.get("text") in TEXTS for shard in plan.pool.shards)
        plan.scan(captions_of, spoken_for, plan.parsed("text") if texts else Cost(), 804.0 * spoken_for)


def _rows(table: dict[str, Array], ids: I64, captions: dict[int, str]) -> Iterator[str]:
    for at in ids:
        numbers = f"{at:>7}{table['members'][at]:>9,}{table['quota'][at]:>8,}{table['d_inter'][at]:>9.3f}{table['d_intra'][at]:>9.3f}"
        yield f"{numbers}  {captions.get(int(at), '')}"


def spokesmen(work: Work, verdict: Verdict, ids: I64) -> dict[int, str]:
    """A caption for each concept: of the members nearest to the centroid, the one that shares most words with the others."""
    concept, distance = verdict.columns["concept"], verdict.columns["distance"]
    placed = work.present(work.everything(), concept)
    near = _nearest_of_all(list(work.scan(closest, placed, concept, distance, ids)))
    masks = (np.isin(np.arange(shard.rows), near["row"][near["shard"] == shard.index]) for shard in work.pool.shards)
    found = list(work.scan(captions_of, Rows.of(masks), concept))
    groups = np.concatenate([part["concept"] for part in found])
    texts = np.concatenate([part["text"] for part in found])
    return {int(at): most_typical([str(text) for text in texts[groups == at]]) for at in ids}


def closest(view: View, concept: Column, distance: Column, ids: I64) -> dict[str, Array]:
    """The shard's members nearest to the centroid of each of these concepts."""
    groups, values, words = view.values(concept), view.values(distance), view.uids()
    order = np.lexsort((words[:, 1], words[:, 0], values, groups))
    chosen = [order[begin : begin + NEAREST] for begin in np.searchsorted(groups[order], ids)]
    members = [rows[groups[rows] == at] for at, rows in zip(ids, chosen, strict=True)]
    rows = np.concatenate([np.empty(0, np.int64), *members])
    shard = np.full(len(rows), view.shard.index)
    return {"concept": groups[rows], "distance": values[rows], "row": view.at[rows], "shard": shard, "uid": words[rows]}


def _nearest_of_all(parts: list[dict[str, Array]]) -> dict[str, Array]:
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.lexsort((whole["uid"][:, 1], whole["uid"][:, 0], whole["distance"], whole["concept"]))
    groups = whole["concept"][order]
    rank = np.arange(len(order)) - np.searchsorted(groups, groups)
    return {name: values[order[rank < NEAREST]] for name, values in whole.items()}


def captions_of(view: View, concept: Column) -> dict[str, Array]:
    """The captions of the rows in play, cut short."""
    if not len(view.at) or view.shard.columns.get("text") not in TEXTS:
        return {"concept": np.empty(0, np.int32), "text": np.empty(0, "U200")}
    texts = [" ".join((text or "").split()) for text in view.texts("text", view.at)]
    return {"concept": view.values(concept), "text": np.array(texts, "U200")}


def most_typical(captions: list[str]) -> str:
    """The caption whose words the others use most, made safe for a terminal."""
    words = [set(caption.lower().split()) for caption in captions]
    uses = Counter(word for each in words for word in each)
    scores = [sum(uses[word] - 1 for word in each) / (1 + len(each)) for each in words]
    best = captions[int(np.argmax(scores))] if captions else ""
    shown = printable(best)
    return shown if len(shown) <= WIDTH else shown[: WIDTH - 1] + "…"
