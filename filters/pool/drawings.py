"""How the demo pool's pictures are drawn: a sheet, its outlines and its painters.

A drawing is a list of parts, back to front: `shape x y rx ry colour [turn]` in hundredths of the largest square at the centre of the
frame, y downwards; `?` before a part means one time in two. Shapes are POLYGONS and ROUNDS, everything else (text, stripes, a landscape)
a function of PAINTERS. A `spread` scales every jitter: 0 draws the same picture for ever.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from filters.maths.arrays import F64

Ink = tuple[int, ...]

ZOOM = 4  # drawn this much larger, then reduced: smooth edges

COLOURS = {
    "red": "#d42a2a", "orange": "#f08a1d", "yellow": "#f7d038", "green": "#3a9d4a", "teal": "#1d9a98", "blue": "#2c66c9",
    "navy": "#1b2a57", "purple": "#7d3fa8", "pink": "#f29ac0", "brown": "#80502c", "black": "#1d1d20", "white": "#f8f8f6",
    "grey": "#9a9ca1", "gold": "#d9a62e", "cream": "#f6ead0", "sky": "#8ecbf2", "sea": "#2a78a8", "grass": "#6fb44c",
    "forest": "#24482f", "olive": "#7f7a35", "sand": "#e7ce94", "snow": "#eef4f8", "mist": "#c3d3e0", "peach": "#f5b08a",
    "lemon": "#fdf3b0", "skin": "#efc19d", "tan": "#b98556", "silver": "#c9ccd2", "dusk": "#322d5c", "slate": "#56606e",
    "lilac": "#c3a9e0", "mint": "#b5e3cd", "light blue": "#8ecbf2", "dark blue": "#322d5c", "dark green": "#24482f", "pale grey": "#c3d3e0",
}  # fmt: skip

# Radius and places of one to five things, as the spots of dice.
DICE = {
    "one": (0.36, "50 50"),
    "two": (0.22, "27 50 73 50"),
    "three": (0.20, "50 27 27 71 73 71"),
    "four": (0.19, "27 27 73 27 27 73 73 73"),
    "five": (0.15, "22 22 78 22 50 50 22 78 78 78"),
}

POLYGONS = {
    "square": "-1 -1 1 -1 1 1 -1 1",
    "triangle": "0 -1 1 1 -1 1",
    "diamond": "0 -1 .8 0 0 1 -.8 0",
    "cross": "-.35 -1 .35 -1 .35 -.35 1 -.35 1 .35 .35 .35 .35 1 -.35 1 -.35 .35 -1 .35 -1 -.35 -.35 -.35",
    "arrow": "-1 -.35 .15 -.35 .15 -.95 1 0 .15 .95 .15 .35 -1 .35",
    "star": "0 -1 .25 -.34 .95 -.31 .4 .13 .59 .81 0 .42 -.59 .81 -.4 .13 -.95 -.31 -.25 -.34",
    "hull": "-1 -1 1 -1 .6 1 -.6 1",
    "cone": "-1 -1 1 -1 0 1",
    "sail": "-1 1 -1 -1 1 1",
    "cup": "-1 -1 1 -1 .75 1 -.75 1",
    "tower": "-.6 -1 .6 -1 1 1 -1 1",
}
# x and y at angle a, clockwise from straight up.
ROUNDS: dict[str, Callable[[F64], tuple[F64, F64]]] = {
    "circle": lambda a: (np.sin(a), -np.cos(a)),
    "half": lambda a: (-np.cos(a / 2), 1 - 2 * np.sin(a / 2)),
    "sun": lambda a: _radial(a, 0.66 + 0.34 * _teeth(a, 12)),
    "octagon": lambda a: _radial(a, 1 / np.cos(a % (np.pi / 4) - np.pi / 8)),
    "bloom": lambda a: _radial(a, 0.6 + 0.4 * np.abs(np.cos(2.5 * a))),
    "cloud": lambda a: _radial(a, 0.78 + 0.22 * np.abs(np.cos(3 * a))),
    "heart": lambda a: (np.sin(a) ** 3, -0.85 * np.cos(a) + 0.33 * np.cos(2 * a) + 0.13 * np.cos(3 * a) + 0.06 * np.cos(4 * a)),
    "leaf": lambda a: (np.sin(a), -0.9 * np.cos(a) ** 3),
    "ring": lambda a: _ring(len(a)),
    "moon": lambda a: (0.45 - np.sin(a % np.pi) * np.where(a < np.pi, 1.3, 0.5), -np.cos(np.minimum(a, 2 * np.pi - a))),
}


def _radial(a: F64, r: F64) -> tuple[F64, F64]:
    return r * np.sin(a), -r * np.cos(a)


def _ring(points: int) -> tuple[F64, F64]:
    """Once around outside, and back inside."""
    outside, inside = np.linspace(0, 2 * np.pi, points - points // 2), np.linspace(2 * np.pi, 0, points // 2)
    return _radial(np.append(outside, inside), np.repeat((1.0, 0.6), (len(outside), len(inside))))


def _teeth(a: F64, n: int) -> F64:
    """1 at the n points of a wheel, 0 half-way between them."""
    teeth: F64 = 2 * np.abs((a * n / (2 * np.pi)) % 1 - 0.5)
    return teeth


@cache
def outline(shape: str) -> F64:
    """A shape's border, (p, 2) float64 in [-1, 1]."""
    if shape in POLYGONS:
        return _pairs(POLYGONS[shape])
    return np.stack(ROUNDS[shape](np.linspace(0, 2 * np.pi, 61)), axis=1)


def _pairs(numbers: str) -> F64:
    return np.array(numbers.split(), float).reshape(-1, 2)


def _rotation(angle: float) -> F64:
    """(2, 2): turns rows of points clockwise as seen, y downwards."""
    sin, cos = np.sin(angle), np.cos(angle)
    return np.array([[cos, sin], [-sin, cos]])


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


class Sheet:
    """A drawing on its way: where its unit square lies, which ink a word stands for, how far it may stray."""

    def __init__(self, frame: tuple[int, int], spread: float, look: dict[str, str], rng: np.random.Generator) -> None:
        self.spread, self.look, self.rng = spread, look, rng
        self.frame = np.array(frame, float) * ZOOM
        self.image = Image.new("RGB", (frame[0] * ZOOM, frame[1] * ZOOM), "white")
        self.pen = ImageDraw.Draw(self.image)
        self.size = float(self.frame.min()) * (1 + spread * rng.uniform(-0.4, 0.1))
        self.turn = _rotation(spread * rng.uniform(-0.2, 0.2))
        self.centre = self.frame * (0.5 + spread * rng.uniform(-0.15, 0.15, 2))

    def paint(self, name: str, words: list[str]) -> None:
        """Draw one part; a slot may name the shape."""
        name = self.look.get(name, name)
        if name in PAINTERS:
            PAINTERS[name](self, *words)
        else:
            self.shape(name, *words)

    def shape(self, name: str, x: str, y: str, rx: str, ry: str, colour: str, turn: str = "0") -> None:
        points = outline(name) * (float(rx), float(ry)) @ _rotation(np.radians(float(turn)))
        self.fill(points + (float(x), float(y)) + self.rng.normal(0, 1.2 * self.spread, 2), self.ink(colour))

    def fill(self, points: F64, ink: Ink) -> None:
        """A polygon, (p, 2) in hundredths of the unit square."""
        self.pen.polygon([float(v) for v in self.laid(points).ravel()], fill=ink)

    def laid(self, points: F64) -> F64:
        """Hundredths of the unit square -> pixels."""
        laid: F64 = (points / 100 - 0.5) @ self.turn * self.size + self.centre
        return laid

    def ink(self, word: str) -> Ink:
        """The colour a slot, or a name, stands for, a little off."""
        ideal = ImageColor.getrgb(COLOURS[self.look.get(word, word)])
        off = self.rng.normal(0, 22 * self.spread, 3)
        return tuple(int(min(max(value + by, 0), 255)) for value, by in zip(ideal, off, strict=True))

    def cover(self, picture: F64) -> None:
        """Lay (h, w, 3) values over the whole frame, smoothly enlarged."""
        small = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
        self.image.paste(small.resize(self.image.size, Image.Resampling.BILINEAR))

    def picture(self) -> Image.Image:
        return self.image.reduce(ZOOM)


def _fade(sheet: Sheet, first: str, last: str, turn: str = "0") -> None:
    """From one colour to another, downwards, or turned clockwise."""
    angle = np.radians(float(turn)) + sheet.spread * sheet.rng.uniform(-0.5, 0.5)
    y, x = np.mgrid[-1:1:16j, -1:1:16j]
    along = np.clip(0.5 + 0.5 * (y * np.cos(angle) - x * np.sin(angle)), 0, 1)[..., None]
    sheet.cover((1 - along) * sheet.ink(first) + along * np.array(sheet.ink(last)))


def _land(sheet: Sheet, horizon: str, earth: str = "earth") -> None:
    """A sky, paler towards the horizon, and the earth or sea below it."""
    sky, (width, height) = np.array(sheet.ink("sky"), float), sheet.image.size
    sheet.cover(sky + (250 - sky) * np.linspace(0, 0.5, 8)[:, None, None] * np.ones((1, 2, 1)))
    level = height * float(horizon) / 100 + sheet.centre[1] - height / 2
    sheet.pen.rectangle((0, level, width, 2 * height), fill=sheet.ink(earth))


def _plain(sheet: Sheet, colour: str) -> None:
    """The whole frame in one colour, or as the slot `backing` says."""
    sheet.pen.rectangle((0, 0, *sheet.image.size), fill=sheet.ink(colour))
    match sheet.look.get("backing"):
        case "shaded":
            _fade(sheet, colour, "white" if sheet.rng.random() < 0.5 else "slate")
        case "striped":
            _stripes(sheet, _faint(sheet, colour), "9")
        case "dotted":
            _dots(sheet, _faint(sheet, colour), "6")


def _faint(sheet: Sheet, colour: str) -> str:
    """A grey near the paper's lightness, which leaves what is drawn on it plain to see."""
    return "silver" if sum(sheet.ink(colour)) > 450 else "slate"


def _stripes(sheet: Sheet, colour: str, count: str) -> None:
    """Bars across the whole frame, as many gaps as bars."""
    turn, n, ink = _rotation(sheet.spread * sheet.rng.uniform(-0.8, 0.8)), int(count), sheet.ink(colour)
    for k in range(-n, n):
        sheet.fill((outline("square") * (25 / n, 150) + (k * 100 / n, 0)) @ turn + 50, ink)


def _dots(sheet: Sheet, colour: str, count: str) -> None:
    """Rows of dots over the whole frame."""
    n, ink = int(count), sheet.ink(colour)
    for row in range(-n // 2, 2 * n):
        for column in range(-n // 2, 2 * n):
            sheet.fill((outline("circle") * 0.28 + (column + 0.5 * (row % 2), row)) * (100 / n), ink)


def _checks(sheet: Sheet, colour: str, count: str) -> None:
    """A chequered board over the whole frame."""
    n, ink = int(count), sheet.ink(colour)
    for row in range(-n, 2 * n):
        for column in range(-n + row % 2, 2 * n, 2):
            sheet.fill((outline("square") / 2 + (column, row)) * (100 / n), ink)


def _static(sheet: Sheet, first: str, last: str, grain: str) -> None:
    """Noise: cells of colours between two."""
    across, down = np.maximum(sheet.frame * int(grain) // sheet.frame.max(), 1).astype(int)
    mix = sheet.rng.random((down, across, 1))
    sheet.cover((1 - mix) * sheet.ink(first) + mix * np.array(sheet.ink(last)))


def _many(sheet: Sheet, shape: str, colour: str) -> None:
    """As many of a shape as the slot `count` says, standing as on dice."""
    radius, places = DICE[sheet.look["count"]]
    ink, turn = sheet.ink(colour), _rotation(sheet.spread * sheet.rng.uniform(-0.6, 0.6))
    for place in _pairs(places):
        size = 100 * radius * sheet.rng.uniform(1 - 0.3 * sheet.spread, 1)
        sheet.fill(outline(shape) @ turn * size + place + sheet.rng.normal(0, 2.5 * sheet.spread, 2), ink)


def _sprinkle(sheet: Sheet, shape: str, colour: str, count: str, radius: str, top: str = "0", bottom: str = "100") -> None:
    """Small shapes anywhere between two heights."""
    ink = sheet.ink(colour)
    for _ in range(int(count)):
        place = sheet.rng.uniform((-15, float(top)), (115, float(bottom)))
        sheet.fill(outline(shape) * float(radius) * sheet.rng.uniform(0.6, 1.2) + place, ink)


def _line(sheet: Sheet, x: str, y: str, to_x: str, to_y: str, width: str, colour: str) -> None:
    ends = sheet.laid(np.array([[x, y], [to_x, to_y]], float))
    sheet.pen.line([float(v) for v in ends.ravel()], fill=sheet.ink(colour), width=max(int(float(width) * sheet.size / 100), 1))


def _text(sheet: Sheet, x: str, y: str, height: str, colour: str, words: str) -> None:
    """Upright letters about a place: a slot's, or these, _ for a blank."""
    size = 4 * max(round(float(height) * sheet.size / 400), 2)
    ((left, top),) = sheet.laid(np.array([[x, y]], float))
    written = sheet.look.get(words, words).replace("_", " ")
    sheet.pen.text((float(left), float(top)), written, fill=sheet.ink(colour), font=_font(size), anchor="mm")


def _bars(sheet: Sheet, colour: str, count: str) -> None:
    """The bars of a chart, of any height."""
    n, ink = int(count), sheet.ink(colour)
    for k, height in enumerate(sheet.rng.uniform(10, 68, n)):
        sheet.fill(outline("square") * (28 / n, height / 2) + (18 + (k + 0.5) * 72 / n, 86 - height / 2), ink)


def _pie(sheet: Sheet, *colours: str) -> None:
    """A disc cut into one wedge a colour."""
    ends = np.cumsum(np.append(sheet.rng.uniform(0, 360), 360 * sheet.rng.dirichlet(np.full(len(colours), 6.0))))
    left, top = sheet.centre - 0.38 * sheet.size
    right, bottom = sheet.centre + 0.38 * sheet.size
    for colour, start, end in zip(colours, ends[:-1], ends[1:], strict=True):
        sheet.pen.pieslice((left, top, right, bottom), float(start), float(end), fill=sheet.ink(colour))


def _code(sheet: Sheet, colour: str, columns: str, rows: str) -> None:
    """Random cells, as of a QR code (n by n) or a bar code (n by 1)."""
    across, down, ink = int(columns), int(rows), sheet.ink(colour)
    for row, column in np.argwhere(sheet.rng.random((down, across)) < 0.5):
        sheet.fill((outline("square") / 2 + (column + 0.5, row + 0.5)) * (80 / across, 80 / down) + 10, ink)


def _writing(sheet: Sheet, colour: str, lines: str, left: str, right: str, top: str, bottom: str) -> None:
    """Lines of text too small to read."""
    ink, long = sheet.ink(colour), float(right) - float(left)
    for y in np.linspace(float(top), float(bottom), int(lines)):
        end = float(right) - long * 0.5 * sheet.rng.random() ** 2
        sheet.fill(_pairs(f"{left} {y} {end} {y} {end} {y + 4} {left} {y + 4}"), ink)


PAINTERS: dict[str, Callable[..., None]] = {
    "fade": _fade, "land": _land, "plain": _plain, "stripes": _stripes, "dots": _dots, "checks": _checks, "static": _static,
    "many": _many, "sprinkle": _sprinkle, "line": _line, "text": _text, "bars": _bars, "pie": _pie, "code": _code, "writing": _writing,
}  # fmt: skip


def jpeg(picture: Image.Image, quality: int) -> bytes:
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=quality, optimize=True)
    return data.getvalue()
