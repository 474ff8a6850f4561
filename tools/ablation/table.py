"""The table of an ablation: its columns, each with what it says, as CSV and as Markdown."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from filters.maths.arrays import F64
from filters.pool.errors import printable
from filters.work.plan import lasting, sized
from filters.work.workdir import Spent
from submission.published import DENSITY, EVERYTHING, HEADS
from tools.ablation.entries import Setting
from tools.ablation.figures import Figures

MINUS = "−"
MOST = 5  # languages that are named


@dataclass(frozen=True)
class Row:
    """A setting and what came of it."""

    setting: Setting
    subset: str = ""  # its file, from the folder of the ablation
    figures: Figures | None = None
    listed: int = 0  # uids in the file
    spent: Spent | None = None  # in this table: what a row above has measured is found done
    alone: Spent | None = None  # with what others have measured for it; None where that is not known any more
    error: str = ""


class Pair(NamedTuple):
    """How much two subsets have in common."""

    first: int
    second: int
    both: int
    jaccard: float
    first_in_second: float
    second_in_first: float


@dataclass(frozen=True)
class Facts:
    """What the page says of the pool and of how it was measured."""

    lines: tuple[tuple[str, str], ...]  # name and value
    missing: tuple[str, ...]


@dataclass(frozen=True)
class Column:
    """A column: its name in the CSV, its head and its sentence on the page."""

    name: str
    head: str
    says: str
    value: Callable[[Row], Any]
    shown: Callable[[Any], str]
    published: bool = False
    on_page: bool = True


def _of(name: str) -> Callable[[Row], Any]:
    return lambda row: getattr(row.figures, name) if row.figures else None


def _published(at: int) -> Callable[[Row], Any]:
    return lambda row: row.setting.published[at] if row.setting.published else None


def _count(value: int) -> str:
    return f"{value:,}"


def _percent(value: float) -> str:
    return f"{value:.1%}".replace("%", " %")


def _score(value: float) -> str:
    return f"{value:.3f}".replace("-", MINUS)


def _one(value: float) -> str:
    return f"{value:.1f}"


def _mixed(shares: dict[str, float]) -> str:
    return ", ".join(f"{name} {share:.1%}" for name, share in list(shares.items())[:MOST])


def _figure(value: Any) -> str:
    return str(value)


COLUMNS = (
    Column("label", "filter", "The entry of the file, with what is swept.", lambda row: row.setting.label, str),
    Column("group", "group", "Its heading.", lambda row: row.setting.group, str, on_page=False),
    Column("size", "size", "Samples that are kept.", _of("size"), _count),
    Column(
        "listed",
        "listed",
        "Uids in the subset file, where samples are repeated there on purpose; all figures are of the samples themselves.",
        lambda row: row.listed if row.figures and row.listed > row.figures.size else None,
        _count,
    ),
    Column("share", "of pool", "Their share of the pool's samples.", _of("share"), _percent),
    Column("b32", "b32", "Mean clip_b32_similarity_score of the samples that have one.", _of("b32"), _score),
    Column("l14", "l14", "Mean clip_l14_similarity_score of the samples that have one.", _of("l14"), _score),
    Column(
        "near_duplicates",
        "near-dup.",
        "Share that is left over when of each group of near-duplicates one stays. A group is what SemDeDup, over the whole pool, links "
        "by similarities above the limit.",
        _of("near_duplicates"),
        _percent,
    ),
    Column(
        "coverage", "concepts", "Share of the pool's reference concepts of which at least one sample is kept.", _of("coverage"), _percent
    ),
    Column("entropy", "entropy", "Of the shares of the reference concepts, in nats: the higher, the more even.", _of("entropy"), _score),
    Column(
        "effective", "effective", "Effective number of concepts: exp of the entropy; k where all are kept alike.", _of("effective"), _one
    ),
    Column("characters", "chars", "Mean length of the captions, in characters.", _of("characters"), _one),
    Column("words", "words", "Mean length of the captions, in words between white space.", _of("words"), _one),
    Column("english", "English", "Share of the captions whose likeliest language, by fastText, is English.", _of("english"), _percent),
    Column(
        "languages",
        "languages",
        "The most frequent languages of the captions, with their shares.",
        lambda row: row.figures and row.figures.languages,
        _mixed,
        on_page=False,
    ),
    Column(
        "seconds",
        "time",
        "What the filter takes by itself, on this machine: passes that another row or the reference has made are counted in.",
        lambda row: row.alone and round(row.alone.seconds, 3),
        lasting,
    ),
    Column(
        "bytes_read",
        "read",
        "Bytes of the pool that it reads by itself.",
        lambda row: row.alone and row.alone.bytes_read,
        sized,
    ),
    Column(
        "seconds_here",
        "time here",
        "What it took in this table: what was measured before is found done.",
        lambda row: row.spent and round(row.spent.seconds, 3),
        lasting,
        on_page=False,
    ),
    Column("bytes_here", "read here", "Bytes read in this table.", lambda row: row.spent and row.spent.bytes_read, sized, on_page=False),
    *(
        Column(
            f"published_{head.lower()}",
            head,
            f"Published for DataComp medium, not measured here: {'samples' if head == 'size' else f'{head}, in percent'}.",
            _published(at),
            _figure,
            published=True,
        )
        for at, head in enumerate(HEADS)
    ),
    Column("subset", "subset", "Its uid subset file, in the folder of the table.", lambda row: row.subset, str, on_page=False),
    Column("recipe", "recipe", "The filters with all of their options.", lambda row: repr(row.setting.recipe), str, on_page=False),
    Column("error", "error", "Why there is no result.", lambda row: row.error, str, on_page=False),
)
ON_PAGE = tuple(column for column in COLUMNS if column.on_page)


def shown_columns(rows: Iterable[Row]) -> list[Column]:
    """Those that say something of at least one row."""
    rows = list(rows)
    return [column for column in ON_PAGE if any(column.value(row) is not None for row in rows)]


def cell(column: Column, row: Row) -> str:
    """As a reader sees it."""
    value = column.value(row)
    return "" if value is None else column.shown(value)


def as_csv(rows: list[Row]) -> str:
    """A line a setting; numbers with all their digits, empty where there is none."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([column.name for column in COLUMNS])
    writer.writerows([_plain(column, row) for column in COLUMNS] for row in rows)
    return text.getvalue()


def _plain(column: Column, row: Row) -> Any:
    value = column.value(row)
    return column.shown(value) if isinstance(value, dict) else value


def pairs_csv(rows: list[Row], pairs: list[Pair]) -> str:
    """A line a pair of settings."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["first", "second", *Pair._fields[2:]])
    writer.writerows([rows[pair.first].setting.label, rows[pair.second].setting.label, *pair[2:]] for pair in pairs)
    return text.getvalue()


def as_text(rows: list[Row]) -> str:
    """For a terminal: what was measured, a line a setting."""
    columns = [column for column in shown_columns(rows) if not column.published]
    lines = [[column.head for column in columns], *([cell(column, row) or "-" for column in columns] for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(columns))]
    return "\n".join(
        "  ".join([printable(line[0]).ljust(widths[0]), *(one.rjust(width) for one, width in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    )


def as_markdown(rows: list[Row], jaccard: F64, facts: Facts) -> str:
    """The same as the page, without its figures."""
    columns = shown_columns(rows)
    heads = ["", *(f"{column.head} (published)" if column.published else column.head for column in columns)]
    lines = [[str(at), *(cell(column, row) for column in columns)] for at, row in enumerate(rows, 1)]
    failed = [f"- {row.setting.label}: {row.error}" for row in rows if row.error]
    overlap = [[str(at), *(f"{value:.2f}" if value == value else "" for value in line)] for at, line in enumerate(jaccard, 1)]
    told = [[one.name, *("" if value is None else _figure(value) for value in one.figures), one.source] for one in EVERYTHING]
    return (
        "\n\n".join(
            [
                "# Ablation",
                "\n".join(f"- {name}: {_escaped(value)}" for name, value in facts.lines),
                *(["Not measured:\n\n" + "\n".join(f"- {_escaped(line)}" for line in facts.missing)] if facts.missing else []),
                _table(heads, lines),
                *(["Without a result:\n\n" + "\n".join(map(_escaped, failed))] if failed else []),
                "## Columns",
                "\n".join(f"- {column.head}{' (published)' * column.published}: {column.says}" for column in columns),
                "## Overlap",
                "Jaccard index of each two settings, by their numbers in the table; containment is in overlap.csv.",
                _table(["", *(str(at) for at in range(1, len(rows) + 1))], overlap),
                "## Published figures",
                "For DataComp medium, in percent, as their authors or DataComp published them; nothing here was trained.",
                _table(["filter", *HEADS, "source"], told),
                DENSITY,
            ]
        )
        + "\n"
    )


def _table(heads: list[str], lines: list[list[str]]) -> str:
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join("| " + " | ".join(map(_escaped, row)) + " |" for row in rows)


def _escaped(text: str) -> str:
    """Labels are anybody's: in Markdown no mark-up of theirs counts."""
    plain = html.escape(" ".join(text.split()), quote=False)
    return "".join(f"\\{letter}" if letter in "\\`*_[]|~#" else letter for letter in plain)
