"""timm, open_clip and what both stand on: imported where they are used, by one way."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any

from filters.pool.errors import BadInput
from tools.loop.outside import declare_operators


@cache
def torchvision() -> Any:
    """The library, also one that was built for another torch: what it lacks then no transform of images needs."""
    try:
        declare_operators()
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    return import_module("torchvision")


@cache
def library(name: str) -> Any:
    """timm or open_clip."""
    torchvision()
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise _missing(error) from None


def _missing(error: ModuleNotFoundError) -> BadInput:
    return BadInput("tools/embed.py", f"{error.name} is not installed", "pip install 'densprune[embed]', or from a checkout '.[embed]'")


@contextmanager
def quiet() -> Iterator[None]:
    """Libraries say nothing: what goes wrong is raised, and told in one line."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)
