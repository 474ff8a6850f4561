"""For DataComp's own code, run beside ours without a network: the files that it would download are those that FILES names.

Python imports this module before anything else where its folder is on PYTHONPATH, in worker processes too. Nothing of the
checkout is touched: `download` of `baselines.utils` is another one as soon as that module is loaded.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

MODULE = "baselines.utils"
FILES = "DATACOMP_FILES"  # JSON: DataComp's name of a file -> its path


class Redirected(MetaPathFinder):
    """Finds one module as Python does, and changes it when it has been loaded."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path) if name == MODULE else None
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_redirect(module: ModuleType) -> None:
                load(module)
                files = json.loads(os.environ[FILES])
                vars(module)["download"] = lambda name, root=None: files[name]

            spec.loader.exec_module = load_and_redirect  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, Redirected())
