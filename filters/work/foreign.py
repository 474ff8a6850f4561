"""Files of a user's own as modules: loaded once, under one name that is the same here and in every worker process.

The name holds a digest of the file's bytes: a worker that finds another file than its parent loaded refuses it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from filters.pool.errors import BadInput, from_os
from filters.pool.files import sha256

_files: dict[str, Path] = {}  # by name of the module


def load(path: Path) -> ModuleType:
    """The module of a file; raises BadInput where it cannot be loaded."""
    path = path.resolve()
    name = _name(path)
    if name not in sys.modules:
        _load(name, path)
    return sys.modules[name]


def loaded() -> Files:
    """What a worker process is given, so that it finds them too."""
    return Files(_files)


class Files(MetaPathFinder):
    """Finds the modules that a parent process has loaded, when a task asks for them."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = dict(files)

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name not in self._files:
            return None
        place = self._files[name]
        if _name(place) != name:
            raise BadInput(place, "changed during the run", "run again when nothing writes to it")
        return _spec(name, place)


def _name(path: Path) -> str:
    try:
        return f"filter_{path.stem}_{sha256(path)[:12]}"
    except OSError as error:
        raise from_os(path, error) from None


def _spec(name: str, path: Path) -> ModuleSpec:
    spec = spec_from_file_location(name, path)
    assert spec is not None, "it ends in .py"
    return spec


def _load(name: str, path: Path) -> None:
    spec = _spec(name, path)
    assert spec.loader is not None, "a file has one"
    module = module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up while they are made
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise BadInput(
            path, f"cannot be loaded ({type(error).__name__}: {error})", "mend it: python " + path.name + " shows where"
        ) from error
    _files[name] = path
