"""The page of an ablation: one HTML file that needs no network and runs no script.

What is written here are numbers and places; the template draws them, and escapes whatever is a text.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from filters.maths.arrays import F64, I64
from filters.pool.errors import BadInput
from tools.ablation.overlap import contained, jaccard
from tools.ablation.published import DENSITY, HEADS, everything
from tools.ablation.table import MINUS, Facts, Row, cell, shown_columns

FOLDER = Path(__file__).parent
COLOURS = 8  # of groups, in the style sheet
WIDE = 44  # letters of a label beside a bar or a row of the heat map


def check_installed() -> None:
    """Raise BadInput unless pages can be made."""
    try:
        import jinja2  # noqa: F401
    except ImportError:
        raise BadInput("jinja2", "is not installed, and makes the page", "install the extra: pip install 'densprune[report]'") from None


def page(rows: list[Row], both: I64, facts: Facts) -> str:
    """The HTML."""
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style = (FOLDER / "page.css").read_text()
    columns = shown_columns(rows)
    return made.get_template("page.html.j2").render(
        style=style,
        style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        facts=facts,
        columns=columns,
        ours=sum(not column.published for column in columns),
        lines=list(_lines(rows, columns)),
        failed=[(row.setting.label, row.error) for row in rows if row.error],
        groups=_groups(rows),
        scatters=list(_scatters(rows)),
        bars=_bars(rows),
        sweeps=list(_sweeps(rows)),
        heats=_heats(rows, both),
        heads=HEADS,
        published=everything(),
        density=DENSITY,
    )


def _lines(rows: list[Row], columns: Sequence[Any]) -> Iterator[dict[str, Any]]:
    group = None
    for number, row in enumerate(rows, 1):
        cells = [{"text": cell(column, row), "published": column.published, "name": column.name} for column in columns]
        yield {"number": number, "group": row.setting.group if row.setting.group != group else "", "cells": cells, "row": row}
        group = row.setting.group


def _groups(rows: list[Row]) -> dict[str, int]:
    """The headings, and the colour of each."""
    names = dict.fromkeys(row.setting.group for row in rows)
    return {name: at % COLOURS for at, name in enumerate(names)}


# -- axes


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers between two, at about so many places."""
    rough = (high - low) / count
    step = 10 ** math.floor(math.log10(rough))
    step *= next(by for by in (1, 2, 5, 10) if by * step >= rough)
    first = math.ceil(low / step - 1e-9)
    return [(first + at) * step for at in range(math.floor(high / step + 1e-9) - first + 1)]


def _spoken(value: float) -> str:
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return text.replace("-", MINUS)


class Axis:
    """Numbers to places between `begin` and `end`."""

    def __init__(self, values: Sequence[float], begin: float, end: float, count: int = 4) -> None:
        low, high = min(values), max(values)
        spare = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
        self._low, self._high, self._begin, self._end = low - spare, high + spare, begin, end
        self.ticks = [{"at": self.place(tick), "text": _spoken(tick)} for tick in ticks(self._low, self._high, count)]

    def place(self, value: float) -> float:
        return round(self._begin + (value - self._low) / (self._high - self._low) * (self._end - self._begin), 1)


# -- figures


def _score(row: Row) -> float | None:
    """The one that a figure shows: l14, or b32 where the pool has no other."""
    assert row.figures is not None, "only rows with a result are drawn"
    return row.figures.b32 if row.figures.l14 is None else row.figures.l14


def _effective(row: Row) -> float | None:
    assert row.figures is not None, "only rows with a result are drawn"
    return row.figures.effective


def _near(row: Row) -> float | None:
    assert row.figures is not None, "only rows with a result are drawn"
    return row.figures.near_duplicates


def _size(row: Row) -> float | None:
    assert row.figures is not None, "only rows with a result are drawn"
    return float(row.figures.size)


SHOWN: tuple[tuple[str, Callable[[Row], float | None]], ...] = (
    ("mean score", _score),
    ("effective concepts", _effective),
    ("near-duplicates left", _near),
)


def _scatters(rows: list[Row]) -> Iterator[dict[str, Any]]:
    width, height = 460, 340
    groups = _groups(rows)
    for across, of in (("effective number of concepts", _effective), ("samples kept", _size)):
        dots = [(at, row, of(row), _score(row)) for at, row in enumerate(rows, 1) if row.figures]
        known = [(at, row, x, y) for at, row, x, y in dots if x is not None and y is not None]
        if len({x for _, _, x, _ in known}) < 2:
            continue
        horizontal = Axis([x for _, _, x, _ in known], 52, width - 14)
        vertical = Axis([y for _, _, _, y in known], height - 44, 12)
        marks = [
            {
                "x": horizontal.place(x),
                "y": vertical.place(y),
                "number": at,
                "colour": groups[row.setting.group],
                "title": f"{at}  {row.setting.label}: {across} {_spoken(x)}, mean score {_spoken(y)}",
            }
            for at, row, x, y in known
        ]
        yield {"width": width, "height": height, "x": horizontal, "y": vertical, "across": across, "up": "mean score", "marks": marks}


def _bars(rows: list[Row]) -> dict[str, Any]:
    """A panel a figure, a bar a setting."""
    step, left, width, gap = 19, 330, 180, 24
    known, groups = [(at, row) for at, row in enumerate(rows, 1) if row.figures], _groups(rows)
    panels: list[dict[str, Any]] = []
    for name, of in SHOWN:
        values = [of(row) for _, row in known]
        there = [value for value in values if value is not None]
        if not there:
            continue
        low, high = min(0.0, *there), max(0.0, *there) or 1.0
        begin, scale = left + len(panels) * (width + gap), (width - 46) / (high - low)
        zero = begin - low * scale
        bars = [
            {
                "x": round(zero + min(0.0, value) * scale, 1),
                "y": 26 + at * step,
                "width": round(abs(value) * scale, 1),
                "end": round(zero + max(0.0, value) * scale + 5, 1),
                "text": _spoken(value) if name != "near-duplicates left" else f"{value:.1%}",
                "colour": groups[row.setting.group],
                "title": f"{row.setting.label}: {name} {_spoken(value)}",
            }
            for at, ((_, row), value) in enumerate(zip(known, values, strict=True))
            if value is not None
        ]
        panels.append({"name": name, "x": begin, "zero": round(zero, 1), "bars": bars})
    labels = [
        {"y": 26 + at * step, "text": _clipped(f"{number}  {row.setting.label}"), "title": row.setting.label}
        for at, (number, row) in enumerate(known)
    ]
    return {
        "width": left + len(panels) * (width + gap),
        "height": 32 + len(known) * step,
        "left": left,
        "labels": labels,
        "panels": panels,
    }


def _clipped(text: str) -> str:
    return text if len(text) <= WIDE else text[: WIDE - 1] + "…"


def _sweeps(rows: list[Row]) -> Iterator[dict[str, Any]]:
    """Of each sweep over numbers, the figures against what is swept: a line for each of its sizes."""
    width, height = 300, 190
    swept: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.figures and row.setting.swept:
            swept.setdefault(row.setting.swept[:2], []).append(row)
    for (label, flag), found in swept.items():
        panels: list[dict[str, Any]] = []
        for name, of in SHOWN:
            known = sorted((float(row.setting.swept[2]), y, row) for row in found if row.setting.swept and (y := of(row)) is not None)
            if len({x for x, _, _ in known}) < 2:
                continue
            # What is swept is named as it is: places are equally far apart, whatever the values.
            places = {
                x: round(60 + at * (width - 92) / (len({v for v, _, _ in known}) - 1), 1)
                for at, x in enumerate(dict.fromkeys(v for v, _, _ in known))
            }
            vertical = Axis([y for _, y, _ in known], height - 40, 14, 3)
            points = [{"x": places[x], "y": vertical.place(y), "title": f"{row.setting.label}: {name} {_spoken(y)}"} for x, y, row in known]
            across = [{"at": at, "text": _spoken(x)} for x, at in places.items()]
            panels.append({"name": name, "width": width, "height": height, "x": across, "y": vertical, "points": points})
        if panels:
            yield {"label": label, "flag": flag, "panels": panels}


def _heats(rows: list[Row], both: I64) -> list[dict[str, Any]]:
    told = "of the samples that one of the two keeps, the share that both keep: the same either way round"
    within = "of the samples that the row keeps, the share that the column keeps too"
    return [
        _heat("Jaccard index", told, rows, both, jaccard(both)),
        _heat("Containment", within, rows, both, contained(both)),
    ]


def _heat(name: str, told: str, rows: list[Row], both: I64, values: F64) -> dict[str, Any]:
    """A square for each two settings that have a result."""
    known = [at for at, row in enumerate(rows) if row.figures]
    side = 36 if len(known) <= 14 else 26 if len(known) <= 28 else 20
    left, top = 330, 26
    cells = [
        {
            "x": left + column * side,
            "y": top + line * side,
            "value": round(float(values[one, other]), 3),
            "text": f"{values[one, other]:.2f}".lstrip("0") or "0",
            "title": f"{rows[one].setting.label} | {rows[other].setting.label}: {both[one, other]:,} in both, {values[one, other]:.3f}",
        }
        for line, one in enumerate(known)
        for column, other in enumerate(known)
    ]
    labels = [
        {
            "at": at,
            "number": number + 1,
            "text": _clipped(f"{number + 1}  {rows[number].setting.label}"),
            "title": rows[number].setting.label,
        }
        for at, number in enumerate(known)
    ]
    table = [
        {"number": one + 1, "label": rows[one].setting.label, "values": [f"{values[one, other]:.2f}" for other in known]} for one in known
    ]
    return {"name": name, "told": told, "side": side, "left": left, "top": top, "cells": cells, "labels": labels, "table": table}
