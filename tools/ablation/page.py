"""The page of an ablation: one HTML file that needs no network and runs no script.

What is written here are numbers and places; the template draws them, and escapes whatever is a text.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from filters.maths.arrays import F64, I64
from filters.pool.errors import BadInput
from submission.published import DENSITY, EVERYTHING, HEADS
from tools.ablation.figures import Figures
from tools.ablation.overlap import contained, jaccard
from tools.ablation.table import MINUS, Facts, Row, cell, shown_columns

FOLDER = Path(__file__).parent
COLOURS = 7  # of groups, in the style sheet; the one after them is that of all sweeps
SWEEPS = "sweeps"
WIDE = 36  # letters of a label beside a bar or a row of the heat map


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
        published=EVERYTHING,
        density=DENSITY,
    )


def _lines(rows: list[Row], columns: Sequence[Any]) -> Iterator[dict[str, Any]]:
    group = None
    for number, row in enumerate(rows, 1):
        cells = [{"text": cell(column, row), "published": column.published, "name": column.name} for column in columns]
        new = row.setting.group != group
        yield {"number": number, "group": row.setting.group if new else "", "apart": new and group, "cells": cells, "row": row}
        group = row.setting.group


def _groups(rows: list[Row]) -> dict[str, int]:
    """The headings of rows that are drawn, and the colour of each."""
    names = dict.fromkeys(row.setting.group for row in rows if row.figures and not row.setting.swept)
    colours = {name: at % COLOURS for at, name in enumerate(names)}
    return colours | ({SWEEPS: COLOURS} if any(row.setting.swept for row in rows) else {})


def _colour(row: Row, groups: dict[str, int]) -> int:
    return groups[SWEEPS if row.setting.swept else row.setting.group]


# -- axes


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers between two, at about so many places."""
    rough = (high - low) / count
    step = 10 ** math.floor(math.log10(rough))
    step *= next(by for by in (1, 2, 5, 10) if by * step >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [(first + at) * step for at in range(math.floor(high / step + 1e-9) - first + 1)]


class Axis:
    """Numbers to places between `begin` and `end`; one number alone stands in the middle."""

    def __init__(self, values: Sequence[float], begin: float, end: float, shown: Callable[[float], str]) -> None:
        low, high = min(values), max(values)
        spare = 0.06 * (high - low) or 1.0
        self._low, self._high, self._begin, self._end = low - spare, high + spare, begin, end
        places = ticks(self._low, self._high) if high > low else [low]
        self.ticks = [{"at": self.place(one), "text": shown(one)} for one in places]

    def place(self, value: float) -> float:
        return round(self._begin + (value - self._low) / (self._high - self._low) * (self._end - self._begin), 1)


# -- figures


class Shown(NamedTuple):
    """A figure that is drawn: its name, its value of a row that has a result, and how it is written."""

    name: str
    of: Callable[[Row], float | None]
    text: Callable[[float], str]


def _figures(row: Row) -> Figures:
    assert row.figures is not None, "only rows with a result are drawn"
    return row.figures


def _mean_score(row: Row) -> float | None:
    """l14, or b32 where the pool has no other."""
    told = _figures(row)
    return told.b32 if told.l14 is None else told.l14


def _fixed(digits: int) -> Callable[[float], str]:
    return lambda value: f"{value:,.{digits}f}".replace("-", MINUS)


SCORE = Shown("mean score", _mean_score, _fixed(3))
EFFECTIVE = Shown("effective number of concepts", lambda row: _figures(row).effective, _fixed(1))
NEAR = Shown("near-duplicates left", lambda row: _figures(row).near_duplicates, lambda value: f"{value:.1%}")
SIZE = Shown("samples kept", lambda row: float(_figures(row).size), _fixed(0))
SHOWN = (SCORE, EFFECTIVE, NEAR)


def _scatters(rows: list[Row]) -> Iterator[dict[str, Any]]:
    """Mean score against another figure. Settings of a sweep are small: they have figures of their own."""
    groups = _groups(rows)
    for across in (EFFECTIVE, SIZE):
        found = [(at, row, across.of(row), SCORE.of(row)) for at, row in enumerate(rows, 1) if row.figures]
        known = [(at, row, x, y) for at, row, x, y in found if x is not None and y is not None]
        if len({x for _, _, x, _ in known}) > 1:
            known.sort(key=lambda one: one[1].setting.swept is None)  # the others lie on top of them
            yield _scatter(across, known, groups)


def _scatter(across: Shown, known: list[tuple[int, Row, float, float]], groups: dict[str, int]) -> dict[str, Any]:
    width, height = 480, 340
    x_axis = Axis([x for _, _, x, _ in known], 56, width - 16, lambda value: f"{value:,g}")
    y_axis = Axis([y for _, _, _, y in known], height - 46, 12, lambda value: f"{value:.3g}".replace("-", MINUS))
    marks = [
        {
            "x": x_axis.place(x),
            "y": y_axis.place(y),
            "number": "" if row.setting.swept else at,
            "colour": _colour(row, groups),
            "title": f"{at}  {row.setting.label}: {across.name} {across.text(x)}, mean score {SCORE.text(y)}",
        }
        for at, row, x, y in known
    ]
    return {"width": width, "height": height, "x": x_axis, "y": y_axis, "across": across.name, "up": SCORE.name, "marks": marks}


def _bars(rows: list[Row]) -> dict[str, Any]:
    """A panel a figure, a bar a setting."""
    step, left, width = 19, 280, 232
    known, groups = [(at, row) for at, row in enumerate(rows, 1) if row.figures], _groups(rows)
    panels: list[dict[str, Any]] = []
    for shown in SHOWN:
        values = [shown.of(row) for _, row in known]
        there = [value for value in values if value is not None]
        if there:
            panels.append(_panel(shown, known, values, groups, left + len(panels) * width, width - 80, step))
    labels = [
        {"y": 26 + at * step, "number": number, "text": _clipped(row.setting.label), "title": row.setting.label}
        for at, (number, row) in enumerate(known)
    ]
    return {"width": left + len(panels) * width, "height": 32 + len(known) * step, "left": left, "labels": labels, "panels": panels}


def _panel(
    shown: Shown, known: list[tuple[int, Row]], values: list[float | None], groups: dict[str, int], begin: int, width: int, step: int
) -> dict[str, Any]:
    there = [value for value in values if value is not None]
    low, high = min(0.0, *there), max(0.0, *there)
    scale = width / (high - low or 1.0)
    zero = begin - low * scale
    bars = [
        {
            "x": round(zero + min(0.0, value) * scale, 1),
            "y": 26 + at * step,
            "width": round(abs(value) * scale, 1),
            "end": round(zero + max(0.0, value) * scale + 5, 1),
            "text": shown.text(value),
            "colour": _colour(row, groups),
            "title": f"{row.setting.label}: {shown.name} {shown.text(value)}",
        }
        for at, ((_, row), value) in enumerate(zip(known, values, strict=True))
        if value is not None
    ]
    return {"name": shown.name, "x": begin, "zero": round(zero, 1), "bars": bars}


def _clipped(text: str) -> str:
    return text if len(text) <= WIDE else text[: WIDE - 1] + "…"


def _sweeps(rows: list[Row]) -> Iterator[dict[str, Any]]:
    """Of each sweep over numbers the figures against what is swept, on axes that are the same for all sweeps.

    A figure that is the same throughout is not drawn.
    """
    width, height = 340, 200
    swept: dict[tuple[str, str], list[tuple[float, Row]]] = {}
    for row in rows:
        if row.figures and row.setting.swept:
            swept.setdefault(row.setting.swept[:2], []).append((row.setting.swept[2], row))
    values = {shown: [y for found in swept.values() for _, row in found if (y := shown.of(row)) is not None] for shown in SHOWN}
    axes = {shown: Axis(there, height - 42, 14, shown.text) for shown, there in values.items() if len(set(there)) > 1}
    for (label, flag), found in swept.items():
        found.sort(key=lambda one: one[0])
        if axes and len({x for x, _ in found}) > 1:
            panels = [_line(shown, axis, found, width) for shown, axis in axes.items()]
            yield {"label": label, "flag": flag, "width": width, "height": height, "panels": panels}


def _line(shown: Shown, axis: Axis, found: list[tuple[float, Row]], width: int) -> dict[str, Any]:
    """What is swept is named as it is: places are equally far apart, whatever the values."""
    xs = list(dict.fromkeys(x for x, _ in found))
    places = {x: round(72 + at * (width - 100) / (len(xs) - 1), 1) for at, x in enumerate(xs)}
    known = [(places[x], y, row) for x, row in found if (y := shown.of(row)) is not None]
    points = [{"x": x, "y": axis.place(y), "title": f"{row.setting.label}: {shown.name} {shown.text(y)}"} for x, y, row in known]
    return {
        "name": shown.name,
        "x": [{"at": at, "text": f"{x:g}".replace("-", MINUS)} for x, at in places.items()],
        "y": axis,
        "points": points,
    }


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
    left, top = 280, 26
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
            "text": _clipped(rows[number].setting.label),
            "title": rows[number].setting.label,
        }
        for at, number in enumerate(known)
    ]
    table = [
        {"number": one + 1, "label": rows[one].setting.label, "values": [f"{values[one, other]:.2f}" for other in known]} for one in known
    ]
    return {"name": name, "told": told, "side": side, "left": left, "top": top, "cells": cells, "labels": labels, "table": table}
