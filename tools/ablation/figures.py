"""What is told of a subset: scores, near-duplicates, concepts and captions, all from one measurement of the whole pool.

The pool is measured once (`reference`), with the passes that filters use: what a recipe measures too is found done there, and the
other way round. Then the figures of a subset are one short pass over values.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np

from baselines import assets, language
from filters import outcome
from filters.concepts import assign, expect_assign, expect_train, train
from filters.maths import uids
from filters.maths.arrays import I64, Array
from filters.maths.diversity import entropy, roots
from filters.pool.columns import TEXTS, Column, Rows
from filters.pool.errors import BadInput
from filters.scores import COLUMNS, expect_score, score_column
from filters.semdedup import SemDeDup
from filters.work.plan import Cost, Plan
from filters.work.regroup import Part
from filters.work.view import View
from filters.work.work import Work
from filters.work.workdir import Given

ITERATIONS, POINTS = 100, 256  # of the k-means that finds the reference concepts: the paper's
ROW = np.int64(0xFFFFFFFF)  # the part of a row's number that counts within its shard


@dataclass(frozen=True)
class Measure:
    """How the pool is measured."""

    features: str
    concepts: int | None  # None: as many as suit the pool
    near: float  # eps: rows more alike than 1 - eps are near-duplicates
    lid_model: str | None = None  # fastText's; None: the one that a baseline has downloaded, where there is one

    def k(self, rows: int) -> int:
        return min(self.concepts or 100, max(1, rows // 10))


@dataclass(frozen=True)
class Reference:
    """The whole pool, measured; None for what it does not hold."""

    rows: Rows
    samples: int
    starts: I64  # (shards,) number of each one's first row
    k: int
    scores: dict[str, Column]
    concept: Column | None = None
    present: I64 | None = None  # (k,) samples of the pool in each concept
    root: Column | None = None
    lengths: dict[str, Column] = field(default_factory=dict)
    language: Column | None = None
    missing: tuple[str, ...] = ()  # what could not be measured, and why


@dataclass(frozen=True)
class Figures:
    """Of one subset; None where the pool does not tell."""

    size: int
    share: float
    b32: float | None
    l14: float | None
    near_duplicates: float | None
    coverage: float | None
    entropy: float | None
    characters: float | None
    words: float | None
    languages: dict[str, float] | None  # share of those whose language is told, the most frequent first

    @property
    def english(self) -> float | None:
        return None if self.languages is None else self.languages.get("en", 0.0)

    @property
    def effective(self) -> float | None:
        return None if self.entropy is None else math.exp(self.entropy)


# -- the pool, once


def reference(work: Work, within: str | None, how: Measure) -> Reference:
    """Measure the pool. What it does not hold is noted in `missing`, and said."""
    rows = outcome.population(work, within).kept
    work.samples = rows.count()
    missing: list[str] = []

    def tried(what: str, measure: Callable[[], Any], otherwise: Any) -> Any:
        try:
            return measure()
        except BadInput as error:
            missing.append(f"{what}: {error}")
            return otherwise

    with work.stage("reference", rows) as stage:
        scores = {name: tried(f"{name} score", partial(score_column, work, rows, name), None) for name in COLUMNS}
        lengths = tried("captions", partial(_lengths, work, rows), {})
        spoken = tried("languages", partial(_languages, work, rows, how), None)
        k = how.k(work.samples)
        concept, present = tried("concepts", partial(_concepts, work, rows, how, k), (None, None))
        root = tried("near-duplicates", partial(_roots, work, rows, how), None)
        stage.kept = work.samples
    starts = np.cumsum([0, *(shard.rows for shard in work.pool.shards)])[:-1]
    known = {name: column for name, column in scores.items() if column is not None}
    return Reference(rows, work.samples, starts, k, known, concept, present, root, lengths, spoken, tuple(missing))


def foreseen(plan: Plan, within: str | None, how: Measure) -> int:
    """What `reference` takes; gives the samples that it may find."""
    with plan.stage("pool", plan.pool.rows):
        rows = outcome.expect_population(plan, within)
    with plan.stage("reference", rows):
        _expect(plan, rows, how)
    return rows


def _expect(plan: Plan, rows: int, how: Measure) -> None:
    for name in COLUMNS:
        expect_score(plan, rows, name)
    plan.column(caption_lengths, rows, plan.parsed("text") if "text" in plan.pool.shards[0].columns else Cost(), "i4", "i4")
    if _tells_languages(how):
        plan.column(languages_of, rows, plan.parsed("text") + language.expect(plan, how.lid_model, rows), "S8")
    try:
        features = plan.pool.features(how.features)
    except BadInput:
        return  # `reference` says so
    k = how.k(rows)
    expect_train(plan, rows, features, k, ITERATIONS, POINTS)
    expect_assign(plan, rows, features, k)
    plan.counts(rows)
    SemDeDup(fraction=1.0, features=how.features).expect(plan, rows)
    plan.column(numbered, rows, plan.values(rows), "i8")
    plan.each("roots of", rows, plan.values(rows, 20))


def _concepts(work: Work, rows: Rows, how: Measure, k: int) -> tuple[Column, I64]:
    features = work.pool.features(how.features)
    centroids = train(work, rows, features, k, ITERATIONS, POINTS, "--reference_concepts")
    concept = assign(work, rows, features, centroids)["concept"]
    return concept, work.counts(rows, concept, k)


def _roots(work: Work, rows: Rows, how: Measure) -> Column:
    """What stands for each row: its chain of dedup_of, followed as long as the two are near-duplicates."""
    seen = SemDeDup(fraction=1.0, features=how.features).measure(work, rows)
    clusters = len(seen.arrays["dedup_centroids"].load())
    carry = {"of": seen.columns["dedup_of"], "similarity": seen.columns["dedup_similarity"], "row": work.column(numbered, rows)["row"]}
    return work.regroup(roots_of, rows, seen.columns["dedup_cluster"], clusters, 1 - how.near, carry=carry)["root"]


def numbered(view: View) -> dict[str, Array]:
    """A number for each row: the shard's above, the row's below."""
    return {"row": view.at + (view.shard.index << 32)}


def roots_of(part: Part, limit: float) -> dict[str, Array]:
    """The number of the row that stands for each. `dedup_of` never leaves the cluster."""
    order, of = uids.order(part.uids), part.values["of"]
    linked = np.flatnonzero(of["known"] & (part.values["similarity"] > np.float32(limit)))
    parent = np.arange(len(order))
    parent[linked] = order[uids.find(part.uids[order], of["uid"][linked])]
    return {"root": part.values["row"][roots(parent)]}


def _lengths(work: Work, rows: Rows) -> dict[str, Column]:
    work.pool.check_column("text", TEXTS)
    return dict(work.column(caption_lengths, rows))


def caption_lengths(view: View) -> dict[str, Array]:
    """Code points, and words between white space; none of a caption that is null."""
    found = {name: np.full(len(view.at), -1, np.int32) for name in ("characters", "words")}
    for at, texts in view.captions("text"):
        place = view.place(at)
        found["characters"][place] = [-1 if text is None else len(text) for text in texts]
        found["words"][place] = [-1 if text is None else len(text.split()) for text in texts]
    return found


def _languages(work: Work, rows: Rows, how: Measure) -> Column:
    if not _tells_languages(how):
        raise BadInput("--lid_model", "is not given, and no baseline has downloaded the model", f"name one, and install {language.EXTRA}")
    model = language.lid_model(work, how.lid_model)
    work.pool.check_column("text", TEXTS)
    return work.column(languages_of, rows, model)["language"]


def _tells_languages(how: Measure) -> bool:
    """Nothing is downloaded for a column."""
    return how.lid_model is not None or ((assets.cache() / language.LID.name).is_file() and find_spec("fasttext") is not None)


def languages_of(view: View, model: Given) -> dict[str, Array]:
    """As the model calls them; empty where there is no caption, or it says nothing."""
    found = np.zeros(len(view.at), "S8")
    for at, texts in view.captions("text"):
        there = [text is not None for text in texts]
        found[view.place(at)[there]] = language.languages([text for text in texts if text is not None], model)
    return {"language": found}


# -- a subset


def figures(work: Work, known: Reference, kept: Rows) -> Figures:
    """Of the rows kept, all of which are among the reference's."""
    spoken: Counter[str] = Counter()
    means, groups, met = _Mean(), np.zeros(known.k, np.int64), np.zeros(work.pool.rows, bool)
    alone = 0
    for part in work.each(sums, kept, known.scores | known.lengths, known.concept, known.k, known.root, known.language):
        means.add(part["sums"])
        groups += part["groups"]
        met[known.starts[part["roots"] >> 32] + (part["roots"] & ROW)] = True
        alone += part["alone"]
        spoken.update(part["languages"])
    size = kept.count()
    return Figures(
        size=size,
        share=size / known.samples,
        near_duplicates=None if known.root is None else 1 - (int(met.sum()) + alone) / size,
        coverage=None if known.present is None else float((groups > 0).sum() / max(1, (known.present > 0).sum())),
        entropy=None if known.concept is None else entropy(groups),
        languages={name: count / spoken.total() for name, count in spoken.most_common()} or None,
        **{name: means.of(name) for name in ("b32", "l14", "characters", "words")},
    )


class _Mean:
    """Means of what adds up shard by shard."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, int]] = {}

    def add(self, part: dict[str, tuple[float, int]]) -> None:
        for name, (total, count) in part.items():
            before = self._sums.get(name, (0.0, 0))
            self._sums[name] = (before[0] + total, before[1] + count)

    def of(self, name: str) -> float | None:
        total, count = self._sums.get(name, (0.0, 0))
        return total / count if count else None


def sums(
    view: View, values: dict[str, Column], concept: Column | None, k: int, root: Column | None, spoken: Column | None
) -> dict[str, Any]:
    """What a shard adds: of each column the sum and count of what is there; rows of each concept and language; which roots are met."""
    found: dict[str, Any] = {"sums": {}, "groups": np.zeros(k, np.int64), "roots": np.empty(0, np.int64), "alone": 0, "languages": {}}
    for name, column in values.items():
        there = view.values(column).astype(np.float64)
        there = there[there >= 0] if name in ("characters", "words") else there[~np.isnan(there)]
        found["sums"][name] = (float(there.sum()), len(there))
    if concept is not None:
        labels = view.values(concept)
        found["groups"] = np.bincount(labels[labels >= 0], minlength=k)
    if root is not None:
        ends = view.values(root)
        found["roots"], found["alone"] = np.unique(ends[ends >= 0]), int((ends < 0).sum())
    if spoken is not None:
        names, counts = np.unique(view.values(spoken), return_counts=True)
        found["languages"] = {name.decode(): int(count) for name, count in zip(names, counts, strict=True) if name}
    return found
