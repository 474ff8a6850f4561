"""On the path of a process that runs DataComp's own code, whose files stay as they are: gives it what this machine has not.

A CUDA device, which is the CPU under that name; the files that it would download, from the folder $ASSETS; what fasttext-predict
lacks of fastText; and a list beside a pandas series, as pandas before 3 took it.
"""

import importlib.util
import os
import re
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any


def torch_on_cpu(torch: Any) -> None:
    if not torch.cuda.is_available():
        to = torch.Tensor.to
        torch.Tensor.to = lambda self, *where: self if str(where[0]).startswith("cuda") else to(self, *where)
        torch.cuda.is_available = lambda: True


def files_at_hand(utils: Any) -> None:
    utils.download = lambda name, root=None: str(Path(os.environ["ASSETS"], name))


def whole_fasttext(fasttext: Any) -> None:
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


def lists_beside_series(pandas: Any) -> None:
    both = pandas.Series.__rand__
    pandas.Series.__rand__ = lambda self, other: both(self, pandas.array(other, bool) if isinstance(other, list) else other)


PATCHES: dict[str, Callable[[Any], None]] = {
    "torch": torch_on_cpu,
    "baselines.utils": files_at_hand,
    "fasttext": whole_fasttext,
    "pandas": lists_beside_series,
}


class Patched(MetaPathFinder):
    """Lets a module be found by the others, and patches it when it has been run."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        patch = PATCHES.pop(name, None)
        spec = importlib.util.find_spec(name) if patch else None
        if patch and spec and spec.loader:
            run = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                run(module)
                patch(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, Patched())
