"""Options are data: the fields of a frozen dataclass are flags, entries of a config file, and lines of the manifest.

A command has stages, each with a prefix. A field's flag is prefix_field, or the field alone where it equals the prefix or the
command has one stage only. Values come in layers: a field's default < the preset of --pool < the --config file < a flag.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import re
import types
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

from filters.pool.errors import BadInput, from_os, shortened
from filters.pool.place import is_url
from filters.pool.redact import shown


def option(
    text: str,
    default: Any = MISSING,
    *,
    interval: str | None = None,
    choices: tuple[str, ...] | None = None,
    unset: str | None = None,
    path: bool = False,
    url: bool = False,
) -> Any:
    """A dataclass field that is an option.

    text      its help: what it is, its unit, the tag of its source
    interval  where a number must lie, such as "(0, 1]"
    choices   the words it may be
    unset     the word on the command line that stands for None
    path      whether it names a file or folder: a manifest holds it as it is found from anywhere
    url       whether it may be a URL of a store
    """
    told = {"text": text, "interval": interval, "choices": choices, "unset": unset, "path": path, "url": url}
    return field(default=default, metadata=told)


def check(name: str, value: Any, options: Any) -> None:
    """Raise ValueError when the value is not one that the option takes."""
    interval, choices = options["interval"], options["choices"]
    if choices is not None and value is not None and value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
    if interval is not None and value is not None and not _inside(value, interval):
        raise ValueError(f"{name} must lie in {interval}, got {value!r}")


def _inside(value: float, interval: str) -> bool:
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = value > low if interval[0] == "(" else value >= low
    return above and (value < high if interval[-1] == ")" else value <= high) and not math.isnan(value)


def check_fields(instance: Any) -> None:
    """Raise ValueError for a value that its option does not take, or unless one is given of each group of alternatives."""
    for one in dataclasses.fields(instance):
        if "text" in one.metadata:
            check(one.name, getattr(instance, one.name), one.metadata)
    for group in getattr(instance, "alternatives", ()):
        given = [name for name in group if getattr(instance, name) is not None]
        if len(given) != 1:
            raise ValueError(f"{type(instance).__name__} takes one of {', '.join(group)}, got {' and '.join(given) or 'none'}")


@dataclass(frozen=True)
class Places:
    """Where things are; never taken from a config file."""

    pool: str | None = option(
        "whose preset, and whose place when no --metadata_dir is given: $DATACOMP_DIR/NAME/metadata; demo makes its own",
        None,
        choices=("demo", "small", "medium", "large", "xlarge"),
    )
    metadata_dir: str | None = option("folder of the pool's {key}.parquet and {key}.npz, or its URL", None, url=True)
    save_path: str | None = option("uid subset file to write [default: COMMAND_POOL.npy]", None)
    work_dir: str | None = option("folder for what the run leaves [default: save_path with .work for .npy]", None)


@dataclass(frozen=True)
class RunOptions:
    """How a run goes, whatever its recipe."""

    within: str | None = option(
        "only these samples: a uid .npy or its URL, or a folder of downloaded webdataset shards", None, path=True, url=True
    )
    features_dir: str | None = option(
        "folder, or its URL, of {key}.npz with embeddings kept elsewhere: same keys, same rows", None, path=True, url=True
    )
    seed: int = option("of every draw [code]", 1234, interval="[0, inf)")
    device: str = option(
        "where products are computed; auto: on a GPU where there is one and tasks are threads", "auto", choices=("auto", "cpu", "cuda")
    )
    engine: str = option("what runs the tasks", "threads", choices=("threads", "processes"))
    num_workers: int | None = option("tasks at a time [default: the cores]", None, interval="[1, inf)", unset="cores")
    memory_gb: float = option("GB that rows may take in memory: sorted, in batches, or held at once", 4.0, interval="(0, 1000000]")
    allow_invalid: bool = option("go on when more than 1 % of the pool is invalid", False)


@dataclass(frozen=True)
class CallOptions:
    """What holds for one call only; never in a manifest."""

    overwrite: bool = option("replace a file at save_path that this work folder did not make", False)
    quiet: bool = option("print nothing but an error", False)
    config: str | None = option("JSON of flag names, or a manifest.json whose run to repeat", None)
    dry_run: bool = option(
        "print passes, bytes, disk, memory and time, each stage's too, from headers and from rates measured here; write nothing", False
    )
    show_config: bool = option("print the settings, each with its source, and end", False)


@dataclass(frozen=True)
class Flag:
    """One option of a command."""

    name: str  # as spelled, without dashes
    canonical: str  # as presets spell it
    prefix: str
    attribute: str
    kind: type
    nullable: bool
    several: bool  # it takes any number of values
    default: Any
    options: Any  # text, interval, choices, unset, path, url

    @property
    def help(self) -> str:
        """Its text, what it takes and its default, for --help and the README."""
        words = self.options["choices"] and f"one of {', '.join(self.options['choices'])}"
        told = [self.options["text"], words, self.options["interval"] and f"in {self.options['interval']}"]
        shown = self.options["unset"] if self.default is None else self.default
        if shown is not None and shown is not False and shown != ():
            told.append(f"default {shown}")
        return "; ".join(str(part) for part in told if part)

    def read(self, given: Any, where: str) -> Any:
        """A value from the command line or a config file, checked; raises BadInput."""
        try:
            if self.several:
                return tuple(map(self._checked, given if isinstance(given, list) else [given]))
            return self._checked(given)
        except (ValueError, TypeError) as error:
            raise BadInput(where, str(error), f"see --help for --{self.name}") from None

    def _checked(self, given: Any) -> Any:
        value = self._typed(given)
        if is_url(value) and not self.options["url"]:
            raise ValueError(f"{self.name} takes no URL, got {shown(value)}")
        check(self.name, value, self.options)
        return value

    def _typed(self, given: Any) -> Any:
        if self.nullable and (given is None or given == self.options["unset"]):
            return None
        takes, called = _TAKES[self.kind]
        if type(given) not in takes or given == "":
            raise TypeError(f"{self.name} must be {called}, got {shortened(given)}")
        try:
            return self.kind(given)
        except (ValueError, OverflowError):
            raise ValueError(f"{self.name} must be {called}, got {shortened(given)}") from None


_TAKES: dict[type, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false"),
    int: ((int, str), "a whole number"),
    float: ((float, int, str), "a number"),
    str: ((str,), "a text that is not empty"),
}


_hints = cache(get_type_hints)  # of a class; they take long


def flags_of(owner: type, prefix: str = "", bare: bool = False) -> list[Flag]:
    """The flags of a dataclass's fields."""
    hints = _hints(owner)
    found = []
    for one in dataclasses.fields(owner):
        canonical = one.name if not prefix or one.name == prefix else f"{prefix}_{one.name}"
        kind = next((arg for arg in get_args(hints[one.name]) if arg is not types.NoneType), hints[one.name])
        nullable = types.NoneType in get_args(hints[one.name])
        several = get_origin(hints[one.name]) is tuple
        name = one.name if bare else canonical
        found.append(Flag(name, canonical, prefix, one.name, kind, nullable, several, one.default, one.metadata))
    return found


NOT_KEPT = {flag.name for flag in [*flags_of(Places), *flags_of(CallOptions)]} - {"pool"}  # of one call's settings, by a manifest

TAG = re.compile(r"\[([^\[\]]+)\]")
Preset = dict[str, tuple[Any, str]]  # canonical flag -> value, tag of its source

_OURS: Preset = {
    "dedup_fraction": (0.8, "one secondary source, medium"),
    "score": ("l14", "paper"),
    "score_fraction": (0.4, "ours; above about half it hurt on every small pool of real images that was tried"),
    "fraction": (0.15, "ours; 19.2M of medium"),
    "temperature": (0.1, "paper"),
    "neighbors": (20, "code"),
    "balance": (0.0, "code"),
    "prefer": ("hard", "paper, code"),
    "concepts": (100, "code, medium"),
}

PRESETS: dict[str, Preset] = {
    "demo": _OURS | {"concepts": (60, "ours"), "fraction": (0.2, "ours"), "dedup_fraction": (0.8, "ours")},
    "small": _OURS | {"concepts": (100, "ours, as medium"), "fraction": (0.15, "ours, as medium")},
    "medium": _OURS,
    "large": _OURS | {"concepts": (500, "ours"), "fraction": (0.15, "ours, as medium")},
    "xlarge": _OURS | {"concepts": (500, "ours"), "fraction": (0.15, "ours, as medium")},
}


def preset_values(canonical: str) -> list[tuple[list[str], Any, str]]:
    """What the presets say of a flag: pools that agree, their value, its source."""
    told: dict[tuple[Any, str], list[str]] = {}
    for pool, preset in PRESETS.items():
        if canonical in preset:
            told.setdefault(preset[canonical], []).append(pool)
    return [(pools, value, tag) for (value, tag), pools in told.items()]


def source_of(flag: Flag, value: Any, pool: str | None) -> str:
    """The tag of a value: the preset's, or that of the default in the help text; none of another value, which is the user's."""
    preset = PRESETS.get(pool or "", {}).get(flag.canonical)
    if preset and value == preset[0]:
        return preset[1]
    tags = TAG.findall(flag.options["text"]) if value == flag.default else []
    return "; ".join(tag for tag in tags if not tag.startswith("default"))


@dataclass(frozen=True)
class Layers:
    """Settings of a command: a value and where it comes from, by flag."""

    flags: dict[str, Flag]
    values: dict[str, Any]
    sources: dict[str, str]
    exclusive: tuple[tuple[str, ...], ...]

    def over(self, given: dict[str, Any], source: dict[str, str]) -> Layers:
        """These settings with a layer on top: one that sets a flag unsets those that it excludes."""
        values, sources = dict(self.values), dict(self.sources)
        for group in self.exclusive:
            chosen = [name for name in group if given.get(name) is not None and given[name] is not False]
            if len(chosen) > 1:
                raise BadInput(source[chosen[0]], f"--{chosen[0]} is given together with --{chosen[1]}", "give one of them")
            for name in group if chosen else ():
                values[name], sources[name] = (False if self.flags[name].kind is bool else None), f"unset by --{chosen[0]}"
        return dataclasses.replace(self, values=values | given, sources=sources | {name: source[name] for name in given})

    def part(self, owner: type, prefix: str = "") -> Any:
        """The instance of a dataclass that these settings describe."""
        named = {flag.attribute: self.values[flag.name] for flag in self.flags.values() if flag.prefix == prefix}
        wanted = {one.name: named[one.name] for one in dataclasses.fields(owner) if one.name in named}
        try:
            return owner(**wanted)
        except ValueError as error:
            raise BadInput(f"options of {owner.__name__}", str(error), "see --help") from None


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line, like every other error."""

    def error(self, message: str) -> NoReturn:
        raise BadInput("command line", message, "see --help")


def parser(name: str, description: str, groups: Iterable[tuple[str, list[Flag]]]) -> OneLineParser:
    made = OneLineParser(prog=name, description=description, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    made.formatter_class = argparse.RawDescriptionHelpFormatter
    for title, flags in groups:
        group = made.add_argument_group(title)
        for flag in flags:
            text = flag.help.replace("%", "%%")
            if flag.kind is bool:
                group.add_argument(f"--{flag.name}", action="store_true", help=text)
            else:
                shape = "|".join(flag.options["choices"] or ()) or flag.attribute.split("_")[-1].upper()
                group.add_argument(f"--{flag.name}", metavar=shape, help=text, nargs="+" if flag.several else None)
    return made


def with_underscores(arguments: list[str]) -> list[str]:
    """--save-path is --save_path; and a flag's negative number is joined to it, or it would be taken for a flag."""
    told: list[str] = []
    for argument in arguments:
        flag, sign, value = argument.partition("=")
        if told and told[-1].startswith("--") and "=" not in told[-1] and _is_negative(argument):
            told[-1] += f"={argument}"
        else:
            told.append("--" + flag[2:].replace("-", "_") + sign + value if flag.startswith("--") else argument)
    return told


def _is_negative(argument: str) -> bool:
    try:
        return float(argument) < 0
    except ValueError:
        return False


def read_config(path: str, flags: dict[str, Flag] | None) -> dict[str, Any]:
    """The settings of a config file: flag names and values; of a manifest, its `config`. Places are left out.

    flags  of the command, by which they are checked; None: as they stand there
    """
    try:
        told = json.loads(Path(path).read_text())
    except OSError as error:
        raise from_os(path, error) from None
    except (ValueError, RecursionError) as error:
        raise BadInput(path, f"is no JSON ({error})", "name a manifest.json, or a file of flag names and values") from None
    if isinstance(told, dict) and isinstance(told.get("config"), dict):
        told = told["config"]
    if not isinstance(told, dict):
        raise BadInput(path, "is no JSON object", 'write {"flag": value, ...}')
    named = {name.replace("-", "_"): value for name, value in told.items()}
    if flags is None:
        return named
    for name in named:
        if name not in flags:
            raise BadInput(path, f"'{name}' is no option of this command", "see --help")
    return {name: flags[name].read(value, path) for name, value in named.items() if name not in NOT_KEPT}
