"""For DataComp's own code, run beside ours: gives it from outside what this machine has not. Its files stay as they were published.

The files that it would download are those that FILES names. Where there is no GPU, the CPU goes by the name of one. fasttext-predict
gets what it lacks of fastText, and pandas takes a list beside a series, as it did before version 3.

Python imports this module before anything else where its folder is on PYTHONPATH, in worker processes too. A module is changed as
soon as it has been loaded.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

FILES = "DATACOMP_FILES"  # JSON: DataComp's name of a file -> its path


def redirected(utils: Any) -> None:
    files = json.loads(os.environ[FILES])
    utils.download = lambda name, root=None: files[name]


def with_a_gpu(torch: Any) -> None:
    if not torch.cuda.is_available():
        to = torch.Tensor.to
        torch.Tensor.to = lambda self, *where: self if str(where[0]).startswith("cuda") else to(self, *where)
        torch.cuda.is_available = lambda: True


def whole(fasttext: Any) -> None:
    if not hasattr(fasttext, "tokenize"):
        load = fasttext.load_model
        fasttext.tokenize = lambda text: re.findall("\n|[^ \n\r\t\v\f\0]+", text)
        fasttext.load_model = lambda path: Many(load(path))


class Many:
    """A model that takes lists of texts too."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def predict(self, text: Any, k: int = 1) -> Any:
        one = self._model.predict
        return one(text, k) if isinstance(text, str) else ([one(line, k)[0] for line in text], None)


def lenient(pandas: Any) -> None:
    both = pandas.Series.__rand__
    pandas.Series.__rand__ = lambda self, other: both(self, pandas.array(other, bool) if isinstance(other, list) else other)


CHANGES: dict[str, Callable[[Any], None]] = {
    "baselines.utils": redirected,
    "torch": with_a_gpu,
    "fasttext": whole,
    "pandas": lenient,
}


class Changed(MetaPathFinder):
    """Finds a module as Python does, and changes it when it has been loaded."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name in CHANGES else None
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_change(module: ModuleType) -> None:
                load(module)
                CHANGES[name](module)

            spec.loader.exec_module = load_and_change  # type: ignore[method-assign]
        return spec


if FILES in os.environ:  # not in the tests' own process, which asks for the name
    sys.meta_path.insert(0, Changed())
