"""The method card of an entry, in Markdown: what was done, with which settings, on what, with what result."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from submission.author import Author
from submission.datacomp import SCALES, TASKS, UNSCORED
from submission.published import DENSITY, EVERYTHING, HEADS, Published
from submission.results import Results
from submission.subset import Report

CONFIRMED = (  # rules of the filtering track that nothing but the author's word can tell
    "No test image of an evaluation task was looked at or used by the filter.",
    "DataComp's train.py trained the model as it is: no other hyper-parameter, batch size, model or number of samples seen.",
    "Captions and images are those of the pool, unchanged.",
    "DataComp's evaluate.py, as it is, gave the results.",
)
PLAIN = "What the author says of the method stands in the paper or post, if one is named; this card is written from the run's manifest."


@dataclass(frozen=True)
class Facts:
    """What a card is written from."""

    author: Author
    scale: str
    confirmed: bool  # the author says that the rules were kept
    report: Report
    results: Results
    manifest: dict[str, Any]

    @property
    def columns(self) -> Published:
        return self.results.published(f"{self.report.records:,}")


def written(facts: Facts) -> str:
    parts = [_head, _results, _recipe, _funnel, _made, _rules, _tasks]
    return "---\ntags: [datacomp, densprune]\n---\n" + "\n".join("\n".join(part(facts)) + "\n" for part in parts)


def table(heads: Iterable[str], rows: Iterable[Iterable[object]]) -> Iterator[str]:
    heads = list(heads)
    yield f"| {' | '.join(heads)} |"
    yield "|" + "---|" * len(heads)
    for row in rows:
        yield f"| {' | '.join(_cell(value) for value in row)} |"


def _cell(value: object) -> str:
    text = "" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)
    return " ".join(text.replace("|", "\\|").split())


def _head(facts: Facts) -> Iterator[str]:
    author, report = facts.author, facts.report
    yield f"# {_cell(author.method_name)}\n"
    yield f"An entry of DataComp's filtering track, scale {facts.scale}, by {_cell(author.author)}.\n"
    if author.writeup:
        yield f"Described in <{author.writeup}>.\n"
    repeats = report.repeats or 0
    again = f"; {repeats:,} of these list a uid again, whose sample is seen as often" if repeats else ", each once"
    yield f"- uids: {report.records:,}{again}"
    yield f"- sha256 of the uid file: `{report.sha256}`"
    yield f"- `--dataset-size`: {report.records}"


def _results(facts: Facts) -> Iterator[str]:
    yield "## Results\n"
    ours = ("**this entry**", *facts.columns)
    if facts.scale != "medium":
        yield "In percent. Others have published figures of medium only, which cannot be compared.\n"
        yield from table(["filter", *HEADS], [ours])
        return
    yield "In percent, beside what others have published for medium. Another seed of training moves ImageNet by about 0.2.\n"
    rows = [(ours, ""), *(((told.name, *told.figures), told.source) for told in EVERYTHING)]
    rows.sort(key=lambda row: (row[0][-1] is not None, row[0][-1] or row[0][2]), reverse=True)
    yield from table(["filter", *HEADS, "source"], ((*figures, source) for figures, source in rows))
    yield f"\n{DENSITY}"


def _recipe(facts: Facts) -> Iterator[str]:
    told = facts.manifest
    yield "## Method\n"
    yield f"{PLAIN}\n"
    yield f"```python\n{told['recipe']}\n```\n"
    sources = told.get("sources", {})
    settings = {name: value for name, value in told["config"].items() if value is not None and value is not False}
    if settings:
        yield "Tags: [paper], [code] of its authors or DataComp's, [ours]; a value without one was chosen, or is how it ran.\n"
        tags = {name: f"[{sources[name]}]" if name in sources else "" for name in settings}
        yield from table(["option", "value", "tag"], ((f"`--{name}`", json.dumps(value), tags[name]) for name, value in settings.items()))


def _funnel(facts: Facts) -> Iterator[str]:
    told = facts.manifest
    yield "## Funnel\n"
    pool = told["pool"]
    yield f"The pool: {pool['rows']:,} samples in {len(pool['shards']):,} shards, fingerprint `{pool['fingerprint']}`.\n"
    rows = [(one["stage"], *(f"{one[name]:,}" for name in ("rows_in", "invalid", "rows_kept"))) for one in told["stages"]]
    yield from table(["stage", "samples in", "invalid", "kept"], rows)
    yield "\n" + ", ".join(f"{name} {count:,}" for name, count in told["status"].items()) + "."


def _made(facts: Facts) -> Iterator[str]:
    told = facts.manifest
    yield "## How it was made\n"
    yield f"- seed: {told['seed']}"
    yield f"- versions: {', '.join(f'{name} {_short(version)}' for name, version in told['versions'].items())}"
    machine = told["machine"]
    yield f"- hardware of the filter: {machine['device']}, {machine['name']}; products by {machine['torch_blas']}, {machine['torch_cpu']}"
    yield f"- time: {sum(one['seconds'] for one in told['stages']):,.0f} s for the stages; {told['bytes_read']:,} bytes read"
    yield "- settings: all in `manifest.json`; the command that wrote it repeats the run by `--config manifest.json`"


def _short(version: str) -> str:
    return version[:12]


def _rules(facts: Facts) -> Iterator[str]:
    report, used = facts.report, str(facts.author.eval_images).strip()
    pool = ", by its manifest" if report.pool is None else f", each of them found among its {report.pool:,} samples"
    yield "## Rules of the filtering track\n"
    yield "Checked when this card was written:\n"
    yield f"- [x] The entry is a list of uids of one pool{pool}; sorted, `u8,u8`, {report.records:,} of them."
    yield f"- [x] It is the very file of the manifest, by sha256, and {facts.scale} has {SCALES[facts.scale]:,} samples."
    yield f"- [x] The results have all {len(TASKS)} tasks, {len(TASKS) - len(UNSCORED)} of them with a main metric.\n"
    yield "Said by the author:\n"
    yield from (f"- [{'x' if facts.confirmed else ' '}] {rule}" for rule in CONFIRMED)
    yield f"- Images of evaluation tasks that the filter used: {_cell(used)}."


def _tasks(facts: Facts) -> Iterator[str]:
    yield "## All tasks\n"
    scores = facts.results.scores
    rows = ((name, f"{scores[name]:.4f}" if name in scores else "no main metric") for name in TASKS.values())
    yield from table(["task", "main metric"], rows)
