"""Write the tables of options, of baselines and of an ablation's columns of README.md from what defines them.

python -m tools.readme
"""

from __future__ import annotations

if __name__ == "__main__":
    import importlib
    import os
    import sys

    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    importlib.import_module("filters.start").begin("tools.readme")

import re
from pathlib import Path

from baselines import catalogue
from filters import densprune
from filters.options import PRESETS, Flag, preset_values
from tools.ablation.table import COLUMNS

COMMON = ("places", "run", "call")  # headings of flags that every command has
README = Path(__file__).parents[1] / "README.md"
MARK = re.compile(r"(<!-- (options|baselines|ablation) -->\n).*?(<!-- end of \2 -->\n)", re.DOTALL)


def _line(flag: Flag) -> str:
    return f"| `--{flag.name}` | {flag.help} |"


def _values(flag: Flag) -> str:
    told = [f"{', '.join(pools)}: {value} [{tag}]" for pools, value, tag in preset_values(flag.canonical)]
    return "<br>".join(told)


def options() -> str:
    """A table a group of flags, and one of the presets."""
    groups = densprune.COMMAND.groups()
    tables = ["\n".join([f"**{title}**\n", "| flag | what |", "|---|---|", *map(_line, flags)]) for title, flags in groups]
    flags = [flag for _, group in groups for flag in group if any(flag.canonical in preset for preset in PRESETS.values())]
    rows = [f"| `--{flag.name}` | {_values(flag)} |" for flag in flags]
    presets = ["**presets**\n", "| flag | pools: value [source] |", "|---|---|", *rows]
    return "\n\n".join([*tables, "\n".join(presets)])


def baselines() -> str:
    """A row a baseline."""
    rows = ["| name | what it keeps | its flags | needs | published for medium | source |", "|---|---|---|---|---|---|"]
    for one in catalogue.OURS.values():
        flags = ", ".join(f"`--{flag.name}`" for title, group in one.command.groups() if title not in COMMON for flag in group)
        flags = "as in Options" if one.command is densprune.COMMAND else flags
        rows.append(f"| `{one.name}` | {one.command.description} | {flags} | {one.needs} | {one.published or ''} | {one.source} |")
    return "\n".join(rows)


def ablation() -> str:
    """A row a column of the table of an ablation."""
    return "\n".join(["| `ablation.csv` | what |", "|---|---|", *(f"| `{column.name}` | {column.says} |" for column in COLUMNS)])


def renewed(text: str) -> str:
    """The README with its tables as they should be."""
    made = {"options": options, "baselines": baselines, "ablation": ablation}
    return MARK.sub(lambda found: f"{found[1]}\n{made[found[2]]()}\n\n{found[3]}", text)


def main() -> None:
    README.write_text(renewed(README.read_text()))
