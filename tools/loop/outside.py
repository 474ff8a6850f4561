"""Run as a file by the Python that DataComp's scripts have: gives them from outside what they need, or tells what they can import.

    python outside.py run CHECKOUT SCRIPT SCALES MODELS ARGUMENT...     run a script of the checkout, or a link to one
    python outside.py probe CHECKOUT WHAT...                            what can be imported, as JSON on stdout

SCALES  JSON of scales beside DataComp's own
MODELS  folder of configurations of models beside open_clip's own
WHAT    module, or module:attribute, of which each is imported
The answer of probe: {"python": version, "modules": {WHAT: error or null}, "versions": {distribution: version}, "operators": whether
torchvision's had to be declared, "gpu": its name or null}
Standard library only, and nothing of this repository: DataComp has a package `baselines` of its own.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import pkgutil
import re
import runpy
import sys
from typing import Any

OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_DECLARED: list[Any] = []  # torch forgets an operator with the library that declared it


def declare_operators() -> bool:
    """Where torchvision was built for another torch, declare the operators that its import asks for; gives whether that was so."""
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        _DECLARED.append(torch.library.Library("torchvision", "DEF"))  # type: ignore[no-untyped-call]
        for operator in OPERATORS:
            _DECLARED[0].define(operator)
        return True
    return False


def probe(names: list[str]) -> dict[str, Any]:
    errors: dict[str, str | None] = {}
    operators = _said(declare_operators, errors, "operators")
    for name in names:
        _said(lambda name=name: pkgutil.resolve_name(name), errors, name)
    versions = {normal(str(one.metadata["Name"])): one.version for one in importlib.metadata.distributions()}
    told = {"python": sys.version.split()[0], "versions": versions, "operators": bool(operators)}
    return {**told, "modules": {name: errors.get(name) for name in names}, "gpu": _said(_gpu, errors, "gpu")}


def normal(distribution: str) -> str:
    return re.sub("[-_.]+", "-", distribution).lower()


def _said(run: Any, errors: dict[str, str | None], name: str) -> Any:
    """What an import gives. Another's package may raise anything: whatever it is, it is the answer."""
    try:
        return run()
    except Exception as error:  # noqa: BLE001
        errors[name] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        return None


def _gpu() -> str | None:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def run(script: str, scales: str, models: str, *arguments: str) -> None:
    declare_operators()
    import open_clip
    import scale_configs  # type: ignore[import-not-found]

    scale_configs.SCALE_CONFIGS.update(json.loads(scales))
    open_clip.add_model_config(models)
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")


def main() -> None:
    command, checkout, *rest = sys.argv[1:]
    sys.path[0] = checkout  # was the folder of this file
    if command == "run":
        run(*rest)
    else:
        answer(rest)


def answer(names: list[str]) -> None:
    stdout = os.dup(1)
    os.dup2(2, 1)  # what packages print while they are imported is no part of it
    told = probe(names)
    os.write(stdout, json.dumps(told).encode())


if __name__ == "__main__":
    main()
