"""The folder of an ablation: what lies in it, and whether it is ours to write into."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filters.maths.arrays import I64, U64
from filters.pool import subset
from filters.pool.errors import BadInput, from_os
from filters.pool.files import UNREADABLE, replacing, unsealed, write_sealed
from filters.work.workdir import Spent, WorkDir, beside, clear_beside
from tools.ablation import page, table
from tools.ablation.overlap import contained, jaccard, pairs
from tools.ablation.table import Facts, Pair, Row

LONGEST = 100  # letters of a subset's name


class Folder:
    """The tables, the page, subsets/, work/, and ablate.json, by which it is known."""

    def __init__(self, path: Path, overwrite: bool) -> None:
        """Raise BadInput for a folder that holds other things, unless they may be overwritten."""
        self.path, self.work, self._note = path, path / "work", path / "ablate.json"
        self._before = self._told()
        self._subsets: list[str] = self._before.get("subsets", [])  # that an earlier table has left
        self._names: list[str] = []  # of subset files that were written
        self._noted: dict[str, Any] = {}
        try:
            strange = path.exists() and (not path.is_dir() or any(path.iterdir()))
        except OSError as error:
            raise from_os(path, error) from None
        if strange and not self._before and not (overwrite and path.is_dir()):
            raise BadInput(path, "is there, and no ablation made it", "give --overwrite, or another --out")

    def _told(self) -> dict[str, Any]:
        try:
            return unsealed(self._note)
        except UNREADABLE:
            return {}

    def begin(self, work: WorkDir) -> None:
        """From now on the folder is ours; what earlier passes took is known again."""
        clear_beside(self._subset("x"), self.work)
        kept = {name: Spent(**told) for name, told in self._before.get("spent", {}).items() if (work.stages / name).is_dir()}
        work.spent |= kept
        self.note(work)

    def note(self, work: WorkDir, names: list[str] | None = None) -> None:
        """What passes took, for the runs that find them done; and which subsets are ours. Unless it says so already."""
        told = {"spent": {name: asdict(spent) for name, spent in work.spent.items()}, "subsets": self._subsets if names is None else names}
        if told != self._noted:
            write_sealed(self._note, told)
            self._noted = told

    def _subset(self, name: str) -> Path:
        return self.path / "subsets" / f"{name}.npy"

    def save(self, label: str, chosen: Iterable[U64]) -> str:
        """Write the subset of a setting; gives its place in the folder."""
        self._names.append(self._name(label))
        path = self._subset(self._names[-1])
        try:
            path.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise from_os(path.parent, error) from None
        with subset.replacing(path, beside(path, self.work), chosen):
            pass
        return str(path.relative_to(self.path))

    def _name(self, label: str) -> str:
        """Of letters that every system takes, and that no other subset has, in capitals or not."""
        short = re.sub(r"[^A-Za-z0-9.=_]+", "-", label).strip("-.")[:LONGEST] or "row"
        taken = {name.lower() for name in self._names}
        return next(name for name in (short, *(f"{short}-{at}" for at in range(2, len(taken) + 3))) if name.lower() not in taken)

    def write(self, rows: list[Row], both: I64, facts: Facts, work: WorkDir) -> None:
        """The tables and the page; subsets of rows that are no more go."""
        inside = contained(both)
        alike = jaccard(both)
        told = [Pair(a, b, int(both[a, b]), alike[a, b], inside[a, b], inside[b, a]) for a, b in pairs(both)]
        texts = {
            "ablation.csv": table.as_csv(rows),
            "overlap.csv": table.pairs_csv(rows, told),
            "ablation.md": table.as_markdown(rows, alike, facts),
            "ablation.html": page.page(rows, both, facts),
        }
        for name, text in texts.items():
            with replacing(self.path / name) as file:
                file.write(text.encode("utf-8", "replace"))
        for name in {*self._subsets} - {*self._names}:
            self._subset(name).unlink(missing_ok=True)
        self.note(work, self._names)
