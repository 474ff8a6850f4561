"""train.py and evaluate.py, and whether they did what they were asked for."""

from __future__ import annotations

import json
import math
import os
import pickle
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from filters.command import Quiet
from filters.pool.errors import BadInput, from_os, shortened
from filters.pool.files import UNREADABLE, digest_of, replacing, sha256
from tools.loop.checkout import OUTSIDE, Checkout, logged

MODELS = Path(__file__).with_name("models")
TINY = "tiny"
SCALES = {  # beside DataComp's own: what two cores train in minutes
    TINY: {"batch_size": 128, "learning_rate": 1e-3, "train_num_samples": 12_800, "warmup": 20, "model": "densprune-tiny", "beta2": None}
}
CHEAP = ("--precision", "fp32", "--workers", "1", "--num_checkpoints", "1", "--log_every_n_steps", "10")  # with the tiny scale
LOSS = re.compile(r" Loss: (\S+) \(")
LONG = 1 << 26  # bytes
TASK = re.compile(r"^([^\s#:-][^:]*):\s*$", re.MULTILINE)  # an entry of a tasklist.yml


# What a checkpoint holds beside tensors: the optimiser's settings are numpy's numbers.
_NUMBERS: list[Any] = [np.float64().__reduce__()[0], np.dtype, np.dtypes.Float64DType, np.dtypes.Float32DType, np.dtypes.Int64DType]


class Trained(NamedTuple):
    epochs: int
    first_loss: float
    last_loss: float


@dataclass(frozen=True)
class Training:
    """A model trained on resharded samples; the folder that train.py makes of it."""

    data: Path
    output: Path
    scale: str
    seed: int
    arguments: tuple[str, ...]

    @property
    def log(self) -> Path:
        return self.output.with_name(f"{self.output.name}.log")

    def made(self, checkout: Checkout, console: Quiet) -> Trained:
        """Run, unless it has come to its end before; raises BadInput where it did not, whatever the exit code was."""
        if (self.output / "info.pkl").is_file():
            self._claim()
            return self._judged("remove it, or name another folder")
        with logged(self.log) as log:
            self._claim()
            ended = checkout.run(self._arguments(checkout), log, console.tell)
        return self._judged(f"train.py {ended}")

    def _claim(self) -> None:
        """Note what it is trained on; what another call has begun is not gone on with."""
        note = self.output.with_name(f"{self.output.name}.json")
        listed = self.data / "sample_ids.npy"
        try:
            told = {"subset": sha256(listed), "scale": self.scale, "seed": self.seed, "arguments": list(self.arguments)}
        except OSError as error:
            raise from_os(listed, error) from None
        if self.output.exists() and _noted(note) != told:
            raise BadInput(self.output, "was made of another subset or with other settings", "remove it, or name another folder")
        with replacing(note) as file:
            file.write(json.dumps(told).encode())

    def _arguments(self, checkout: Checkout) -> list[str]:
        places = ["--data_dir", str(self.data.resolve()), "--output_dir", str(self.output.parent.resolve()), "--exp_name", self.output.name]
        more = CHEAP if self.scale == TINY else ()
        named = ["--scale", self.scale, "--seed", str(self.seed), *more, *self.arguments]
        return [*outside(checkout, checkout.script("train.py")), *places, *named]

    def _judged(self, do: str) -> Trained:
        faults, told = [], self._checkpoint()
        losses = [_number(found) for found in LOSS.findall(_text(self.output / "out.log"))]
        if not (self.output / "info.pkl").is_file():
            faults.append("has no info.pkl")
        if "fault" in told:
            faults.append(told["fault"])
        elif told["epoch"] != self._epochs():
            faults.append(f"has a checkpoint of {told['epoch']} epochs of {self._epochs()}")
        if not losses or not all(map(math.isfinite, losses)):
            faults.append(f"logged the losses {losses[-3:]}")
        if told["bad"]:
            faults.append(f"has a checkpoint with numbers that are not finite, in {told['bad'][0]}")
        if faults:
            raise BadInput(self.output, "; ".join(faults), do)
        return Trained(told["epoch"], losses[0], losses[-1])

    def _checkpoint(self) -> dict[str, Any]:
        """How far it came, and which weights are no numbers."""
        import torch

        path = self.output / "checkpoints/epoch_latest.pt"
        if not path.is_file():
            return {"epoch": None, "bad": [], "fault": "has no checkpoints/epoch_latest.pt"}
        try:
            with torch.serialization.safe_globals(_NUMBERS):
                state = torch.load(path, map_location="cpu", weights_only=True)
            weights = state["state_dict"].items()
            return {"epoch": state["epoch"], "bad": [name for name, one in weights if not torch.isfinite(one.float()).all()]}
        except (*UNREADABLE, EOFError, RuntimeError, LookupError, pickle.UnpicklingError) as error:
            return {"epoch": None, "bad": [], "fault": f"has a checkpoint that cannot be read ({type(error).__name__})"}

    def _epochs(self) -> int | None:
        found = re.search(r"^epochs: (\d+)$", _text(self.output / "params.txt"), re.MULTILINE)
        return int(found[1]) if found else None


@dataclass(frozen=True)
class Evaluation:
    """The tasks of a folder of evaluation sets: those of its own tasklist.yml, else DataComp's."""

    trained: Path
    sets: Path

    @property
    def log(self) -> Path:
        return self.trained.with_name(f"{self.trained.name}.eval.log")

    def made(self, checkout: Checkout, console: Quiet) -> dict[str, float | None]:
        """Run what is not evaluated yet; gives each task's main metric, None where it has none."""
        listed = self.tasklist(checkout)
        tasks = TASK.findall(_text(listed))
        if not tasks:
            raise BadInput(listed, "names no task", "name a folder of evaluation sets")
        if not (self.trained / "info.pkl").is_file():
            raise BadInput(self.trained, "has no info.pkl", "name the folder that train wrote")
        self._claim()
        found = self._results()
        do = "remove eval_results.jsonl there"
        if not found.keys() >= set(tasks):
            ended = self._run(checkout, console, listed)
            found, do = self._results(), f"evaluate.py {ended}"
        missing = [task for task in tasks if task not in found]
        wrong = [task for task in tasks if found.get(task) is not None and not math.isfinite(found[task] or 0)]
        if missing or wrong:
            what = f"has no result of {len(missing)} of {len(tasks)} tasks" if missing else "has a result that is no number"
            raise BadInput(self.trained, f"{what}, first {[*missing, *wrong][0]}", do)
        return {task: found[task] for task in tasks}

    def tasklist(self, checkout: Checkout) -> Path:
        """What names the tasks; raises BadInput where there is no folder of sets."""
        if not self.sets.is_dir():
            raise BadInput(self.sets, "is no folder", "name a folder of evaluation sets, such as evalset makes")
        own = self.sets / "tasklist.yml"
        return own if own.is_file() else checkout.script("tasklist.yml")

    def _run(self, checkout: Checkout, console: Quiet, tasks: Path) -> str:
        """evaluate.py reads the tasks beside itself: a link to it stands beside those that are wanted."""
        with tempfile.TemporaryDirectory() as folder:
            script = Path(folder) / "evaluate.py"
            script.symlink_to(checkout.script("evaluate.py"))
            script.with_name("tasklist.yml").write_bytes(tasks.read_bytes())
            places = ["--train_output_dir", str(self.trained.resolve()), "--data_dir", str(self.sets.resolve())]
            with logged(self.log) as log:
                return checkout.run([*outside(checkout, script), *places], log, console.tell)

    def _claim(self) -> None:
        """Note what it is evaluated on: evaluate.py takes every result that is there for one of the same sets."""
        note = self.trained.with_name(f"{self.trained.name}.eval.json")
        told, now = _noted(note), {place.name: _contents(place) for place in sorted(self.sets.glob("wds_*"))}
        changed = [name for name in now if told.get(name, now[name]) != now[name]]
        if changed and self._results():
            do = "remove eval_results.jsonl there, or name the set they are of"
            raise BadInput(self.trained, f"has results of another {changed[0]}", do)
        if told != told | now:
            with replacing(note) as file:
                file.write(json.dumps(told | now).encode())

    def _results(self) -> dict[str, float | None]:
        lines = _text(self.trained / "eval_results.jsonl").splitlines()
        try:
            return {str(one["key"]): _metric(one["metrics"]["main_metric"]) for one in map(json.loads, lines)}
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            what = f"is not as evaluate.py writes it ({type(error).__name__}: {error})"
            raise BadInput(self.trained / "eval_results.jsonl", what, "remove it") from None


def outside(checkout: Checkout, script: Path) -> list[str]:
    """The beginning of a call of a script with what it needs from outside."""
    return [str(OUTSIDE), "run", str(checkout.folder.resolve()), os.fspath(script), json.dumps(SCALES), str(MODELS)]


def _metric(value: Any) -> float | None:
    if value is not None and type(value) not in (int, float):
        raise TypeError(f"main_metric is {shortened(value)}")
    return None if value is None else float(value)


def _number(text: str) -> float:
    """What a text says, if it is a number."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _noted(path: Path) -> dict[str, Any]:
    """A note of ours; empty where there is none, or not one that could be read."""
    try:
        told = json.loads(path.read_bytes())
    except UNREADABLE:
        return {}
    return told if isinstance(told, dict) else {}


def _contents(folder: Path) -> str:
    """A digest of the files of an evaluation set; of long ones of their sizes alone."""
    try:
        files = {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}
        return digest_of({name: size if size > LONG else sha256(folder / name) for name, size in files.items()})
    except OSError as error:
        raise from_os(folder, error) from None


def _text(path: Path) -> str:
    """A file's text; nothing where it is not there, which is a fault of what should have written it."""
    return path.read_text(errors="replace") if path.is_file() else ""
