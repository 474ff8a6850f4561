"""What a score is that has to be computed: options, and a value a sample. It is named in one text, such as `negcliploss:arch=b32`.

Such a text is a value of every option that takes a score: --score, --dedup_score. The options of a score are the fields of its
dataclass, as those of a filter are; those that are not named have their defaults.
"""

from __future__ import annotations

import dataclasses
import re
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Self

from filters.options import check_fields, flags_of
from filters.pool.columns import Column, Rows
from filters.pool.errors import BadInput
from filters.work.plan import Plan
from filters.work.work import Work


class Score(ABC):
    """A subclass is a frozen dataclass whose fields are its options."""

    name: ClassVar[str]

    def __post_init__(self) -> None:
        check_fields(self)

    @abstractmethod
    def column(self, work: Work, rows: Rows) -> Column:
        """float32, the higher the better; NaN for a row that can have none."""

    @abstractmethod
    def expect(self, plan: Plan, rows: int) -> None:
        """What `column` takes."""

    def __str__(self) -> str:
        """The text that names it: options that are not as by default."""
        assert dataclasses.is_dataclass(self), "a score is a dataclass"
        told = [(one.name, getattr(self, one.name)) for one in dataclasses.fields(self) if getattr(self, one.name) != one.default]
        return self.name + ":" * bool(told) + ",".join(f"{name}={value}" for name, value in told)

    def from_anywhere(self) -> Self:
        """The same, with paths that hold in any folder."""
        assert dataclasses.is_dataclass(self), "a score is a dataclass"
        paths = {one.name: str(Path(getattr(self, one.name)).resolve()) for one in dataclasses.fields(self) if one.metadata.get("path")}
        return dataclasses.replace(self, **paths)

    @classmethod
    def of(cls, text: str) -> Self:
        """The score that a text names; raises BadInput for an option that it has not, or that is not as it should be."""
        flags = {flag.name: flag for flag in flags_of(cls)}
        given = {}
        # A path may hold a comma: only one before the name of an option separates.
        for part in re.split(rf",(?=(?:{'|'.join(flags)})=)", text.partition(":")[2]) if ":" in text else []:
            name, sign, value = part.partition("=")
            if not sign or name not in flags:
                raise BadInput(text, f"{name!r} is no option of {cls.name}, which has {', '.join(flags)}", "write NAME:OPTION=VALUE,...")
            given[name] = flags[name].read(value, text)
        try:
            return cls(**given)
        except (TypeError, ValueError) as error:
            raise BadInput(text, str(error), f"write {cls.name}:OPTION=VALUE,...") from None
