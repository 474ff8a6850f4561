"""timm, open_clip and what both stand on: imported where they are used, by one way."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any

from filters.pool.errors import BadInput

# What torchvision looks for when it is imported. No transform of images needs them.
OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


@cache
def torchvision() -> Any:
    """The library. One that was built for CUDA beside a torch that was not lacks its own operators: then they are declared."""
    import torch

    try:
        return import_module("torchvision")
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        made: Any = torch.library.Library
        _declared.append(made("torchvision", "FRAGMENT"))
        for operator in OPERATORS:
            _declared[-1].define(operator)
        return import_module("torchvision")


_declared: list[Any] = []  # what is declared goes with its holder


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
        yield
    finally:
        logging.disable(before)
