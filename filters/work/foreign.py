"""Files of a user's own as modules: loaded once, under one name that is the same here and in every worker process.

The name holds a digest of the file's bytes: a worker that finds another file than its parent loaded refuses it.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType

from filters.pool.errors import BadInput, from_os
from filters.pool.files import sha256

_files: dict[str, Path] = {}  # by name of the module


def load(path: Path) -> ModuleType:
    """The module of a file; raises BadInput where it cannot be loaded."""
    path = path.resolve()
    try:
        name = f"filter_{path.stem}_{sha256(path)[:12]}"
    except OSError as error:
        raise from_os(path, error) from None
    if name not in sys.modules:
        _load(name, path)
    return sys.modules[name]


def loaded() -> dict[str, Path]:
    """What worker processes must load before they get a task."""
    return dict(_files)


def load_all(files: dict[str, Path]) -> None:
    """In a worker process, what its parent has loaded."""
    for name, path in files.items():
        if load(path).__name__ != name:
            raise BadInput(path, "changed during the run", "run again when nothing writes to it")


def _load(name: str, path: Path) -> None:
    loader = SourceFileLoader(name, str(path))
    module = module_from_spec(ModuleSpec(name, loader, origin=str(path)))
    module.__file__ = str(path)
    sys.modules[name] = module  # dataclasses look their module up while they are made
    try:
        loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise BadInput(
            path, f"cannot be loaded ({type(error).__name__}: {error})", "mend it: python " + path.name + " shows where"
        ) from error
    _files[name] = path
