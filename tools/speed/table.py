"""What was measured, as Markdown; and its place in the README."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from tools.speed.ours import K_MEANS

Told = dict[str, Any]

MARK = re.compile(r"(<!-- speed -->\n).*?(<!-- end of speed -->\n)", re.DOTALL)


def renewed(text: str, told: Told) -> str:
    """The README with the tables of what was measured."""
    return MARK.sub(lambda found: f"{found[1]}\n{markdown(told)}\n\n{found[2]}", text)


def markdown(told: Told) -> str:
    steps = [row for row in told["steps"] if not row["growth"]]
    growth = [row for row in told["steps"] if row["growth"]]
    limits = _rows(STEP_LIMITS, [row for row in steps if row["limit"]])
    notes = dict.fromkeys(row["limit_note"] for row in steps if row["limit_note"])
    parts = [_introduction(told), _rows(STEP, steps), "What each was held against:", limits, *notes]
    if growth:
        parts += ["How a whole run grows:", _rows(GROWTH, growth), *_times(growth)]
    return "\n\n".join(parts)


def _introduction(told: Told) -> str:
    machine, runs = told["machine"], told["repeat"]
    medians = f"medians of {runs} runs" if runs > 1 else "one run"
    sizes = "; small sizes, for a look only" if told["quick"] else ""
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB, {machine['medium']}; {medians} of each side with "
        f"{told['threads']} threads, the peer at its best setting{sizes}. torch multiplies by {machine['torch']}, numpy by "
        f"{machine['numpy']}; the best float32 product found: {machine['best_gemm']}. "
        f"Load average when it began: {machine['load']}{_busy(machine)}."
    )


def _busy(machine: Told) -> str:
    return "" if machine["load"] < 0.5 else ", so others computed at the same time: look at nothing but whether it works"


Columns = list[tuple[str, Callable[[Told], str]]]


def _rows(columns: Columns, rows: list[Told]) -> str:
    lines = [f"| {' | '.join(name for name, _ in columns)} |", f"|{'---|' * len(columns)}"]
    return "\n".join([*lines, *(f"| {' | '.join(show(row) for _, show in columns)} |" for row in rows)])


def _number(value: float | None, ending: str = "") -> str:
    if value is None:
        return ""
    return f"{value:,.0f}{ending}" if value >= 100 else f"{value:.3g}{ending}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def _peer(row: Told) -> str:
    return f"{row['peer']}, {row['setting']}" if row["peer"] else ""


def _memory(row: Told) -> str:
    """Beyond what the side was given, but of a whole run."""
    name = "total_peak" if row["allowed"] else "peak"
    return " / ".join(_number(row[side][name] / 1e6) for side in ("ours", "theirs") if row[side])


def _read(row: Told) -> str:
    if not row["needed"]:
        return ""
    return " / ".join(f"{row[side]['disk' if row['cold'] else 'read'] / row['needed']:.2f}" for side in ("ours", "theirs") if row[side])


STEP: Columns = [
    ("step", lambda row: row["what"]),
    ("peer", _peer),
    ("ns a sample", lambda row: _number(row["ours_ns"])),
    ("peer's", lambda row: _number(row["peer_ns"])),
    ("times as fast", lambda row: f"**{row['ratio']:.2f}**" if row["ratio"] else f"{row['ours']['seconds'] * 1e3:.2g} ms in all"),
    ("of its limit", lambda row: _share(row["share"])),
    ("MB beyond its input (whole run: in all), peer's", _memory),
    ("bytes read (cold: off the disk) / needed, peer's", _read),
    ("the same?", lambda row: row["differ"] or "yes"),
]


def _parts(row: Told) -> str:
    parts, besides = (", ".join(f"{name} {_number(value)}" for name, value in row[key].items()) for key in ("limit_parts", "limit_besides"))
    return f"{parts}; besides: {besides}" if besides else parts


STEP_LIMITS: Columns = [
    ("step", lambda row: row["what"]),
    ("limit", lambda row: row["limit"]),
    ("seconds, by part", _parts),
    ("ours", lambda row: _number(row["ours"]["seconds"])),
    ("of it", lambda row: _share(row["share"])),
    ("of the best product", lambda row: _share(row["share_best"])),
]


def training(passes: dict[str, float]) -> float:
    """Seconds of SemDeDup's training."""
    return sum(seconds for name, seconds in passes.items() if name == f"semdedup {K_MEANS}")


def products(passes: dict[str, float]) -> float:
    """Seconds of SemDeDup's passes that cost n to the power of 1.5 with as many clusters as cost least."""
    return sum(
        seconds for name, seconds in passes.items() if name in (f"semdedup {K_MEANS}", "semdedup nearest concept", "semdedup compare")
    )


GROWTH: Columns = [
    ("samples", lambda row: f"{row['samples']:,}"),
    ("seconds", lambda row: _number(row["ours"]["seconds"])),
    ("but SemDeDup's training", lambda row: _number(row["ours"]["seconds"] - training(row["told"]["passes"]))),
    ("but its training, assignment and pairs", lambda row: _number(row["ours"]["seconds"] - products(row["told"]["passes"]))),
    ("peak MB", lambda row: _number(row["ours"]["total_peak"] / 1e6)),
    ("0.4 GB + 28 B a sample + memory_gb", lambda row: _number(row["allowed"] / 1e6)),
    ("bytes read / needed", _read),
]


def _times(growth: list[Told]) -> list[str]:
    """What four times the samples take, by pass."""
    by_rows = {row["samples"]: row for row in growth}
    found = next(((by_rows[rows], by_rows[4 * rows]) for rows in sorted(by_rows, reverse=True) if 4 * rows in by_rows), None)
    if found is None:
        return []
    small, large = (row["told"]["passes"] for row in found)
    counts = " / ".join(f"{row['samples']:,}" for row in found)
    columns: Columns = [
        ("pass", lambda row: row["name"]),
        (f"seconds of {counts}", lambda row: f"{row['small']:.2f} / {row['large']:.2f}"),
        ("times", lambda row: _number(row["large"] / row["small"]) if row["small"] else ""),
    ]
    rows = [{"name": name, "small": small[name], "large": large.get(name, 0.0)} for name in small if large.get(name, 0) > 0.1]
    whole = [row["ours"]["seconds"] for row in found]
    rows.append({"name": "**all but SemDeDup's training**", **dict(zip(("small", "large"), _without(whole, small, large), strict=True))})
    return ["Four times the samples, by pass:", _rows(columns, rows)]


def _without(whole: list[float], small: dict[str, float], large: dict[str, float]) -> tuple[float, float]:
    return whole[0] - training(small), whole[1] - training(large)
