"""train.py and evaluate.py, and whether they did what they were asked for."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from filters.command import Quiet
from filters.pool.errors import BadInput, from_os
from filters.pool.files import replacing, sha256
from tools.loop.checkout import OUTSIDE, Checkout, held

MODELS = Path(__file__).with_name("models")
TINY = "tiny"
SCALES = {  # beside DataComp's own: what two cores train in minutes
    TINY: {"batch_size": 128, "learning_rate": 1e-3, "train_num_samples": 12_800, "warmup": 20, "model": "densprune-tiny", "beta2": None}
}
CHEAP = ("--precision", "fp32", "--workers", "1", "--num_checkpoints", "1", "--log_every_n_steps", "10")  # with the tiny scale
LOSS = re.compile(r" Loss: (\S+) \(")
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
        with held(self.log) as log:
            self._claim()
            if not (self.output / "info.pkl").is_file():
                return self._judged(checkout.run("train.py", self._arguments(checkout), log, console.tell))
            return self._judged("remove it, or name another folder")

    def _claim(self) -> None:
        """Note what it is trained on; what another call has begun is not gone on with."""
        note = self.output.with_name(f"{self.output.name}.json")
        listed = self.data / "sample_ids.npy"
        try:
            told = {"subset": sha256(listed), "scale": self.scale, "seed": self.seed, "arguments": list(self.arguments)}
        except OSError as error:
            raise from_os(listed, error) from None
        if self.output.exists() and (not note.is_file() or json.loads(note.read_bytes()) != told):
            raise BadInput(self.output, "was made of another subset or with other settings", "remove it, or name another folder")
        with replacing(note) as file:
            file.write(json.dumps(told).encode())

    def _arguments(self, checkout: Checkout) -> list[str]:
        places = ["--data_dir", str(self.data.resolve()), "--output_dir", str(self.output.parent.resolve()), "--exp_name", self.output.name]
        more = CHEAP if self.scale == TINY else ()
        named = ["--scale", self.scale, "--seed", str(self.seed), *more, *self.arguments]
        return [*outside(checkout, checkout.folder.resolve() / "train.py"), *places, *named]

    def _judged(self, do: str) -> Trained:
        faults, told = [], self._checkpoint()
        losses = [float(found) for found in LOSS.findall(_text(self.output / "out.log"))]
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
        except (OSError, EOFError, RuntimeError, KeyError, TypeError, AttributeError, pickle.UnpicklingError) as error:
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
        with held(self.log) as log:
            found = self._results()
            self._claim(tasks, found)
            if found.keys() >= set(tasks):
                return self._judged(tasks, f"remove {self._written}")
            return self._judged(tasks, self._run(checkout, console, listed, log))

    def tasklist(self, checkout: Checkout) -> Path:
        """What names the tasks; raises BadInput when there are no sets at all."""
        if not self.sets.is_dir():
            raise BadInput(self.sets, "is no folder", "name a folder of evaluation sets: evalset makes one")
        own = self.sets / "tasklist.yml"
        return own if own.is_file() else checkout.folder / "tasklist.yml"

    def _claim(self, tasks: list[str], found: dict[str, float | None]) -> None:
        """Note which sets it is evaluated on, by names, sizes and times of their files; results of other sets are not taken for theirs."""
        note = self.trained.with_name(f"{self.trained.name}.eval.json")
        told = {task: self._stamped(task) for task in tasks}
        before = json.loads(note.read_bytes()) if note.is_file() else {}
        other = [task for task in tasks if task in found and before.get(task, told[task]) != told[task]]
        if other:
            raise BadInput(self.trained, f"has a result of another set for {other[0]}", f"remove {self._written}")
        with replacing(note) as file:
            file.write(json.dumps(before | told).encode())

    def _stamped(self, task: str) -> str:
        place = self.sets / f"wds_{task.replace('/', '-')}_test"
        files = sorted(path for path in place.rglob("*") if path.is_file())
        stamps = [[str(path.relative_to(self.sets)), path.stat().st_size, path.stat().st_mtime_ns] for path in files]
        return hashlib.sha256(json.dumps(stamps).encode()).hexdigest()

    def _judged(self, tasks: list[str], do: str) -> dict[str, float | None]:
        found = self._results()
        missing = [task for task in tasks if task not in found]
        wrong = [task for task in tasks if not _is_metric(found.get(task))]
        if missing or wrong:
            what = f"has no result of {len(missing)} of {len(tasks)} tasks" if missing else "has a result that is no number"
            raise BadInput(self.trained, f"{what}, first {[*missing, *wrong][0]}", do)
        return {task: found[task] for task in tasks}

    @property
    def _written(self) -> Path:
        return self.trained / "eval_results.jsonl"

    def _run(self, checkout: Checkout, console: Quiet, tasks: Path, log: IO[bytes]) -> str:
        """evaluate.py reads the tasks beside itself: a link to it stands beside those that are wanted."""
        with tempfile.TemporaryDirectory() as folder:
            script = Path(folder) / "evaluate.py"
            script.symlink_to(checkout.folder.resolve() / "evaluate.py")
            script.with_name("tasklist.yml").write_bytes(tasks.read_bytes())
            places = ["--train_output_dir", str(self.trained.resolve()), "--data_dir", str(self.sets.resolve())]
            return checkout.run("evaluate.py", [*outside(checkout, script), *places], log, console.tell)

    def _results(self) -> dict[str, float | None]:
        lines = _text(self._written).splitlines()
        try:
            return {one["key"]: one["metrics"]["main_metric"] for one in map(json.loads, lines)}
        except (ValueError, KeyError, TypeError) as error:
            what = f"is not as evaluate.py writes it ({type(error).__name__}: {error})"
            raise BadInput(self._written, what, "remove it") from None


def _is_metric(value: object) -> bool:
    """Two of DataComp's tasks have none."""
    return value is None or (isinstance(value, (int, float)) and math.isfinite(value))


def outside(checkout: Checkout, script: Path) -> list[str]:
    """The beginning of a call of a script with what it needs from outside."""
    return [str(OUTSIDE), "run", str(checkout.folder.resolve()), os.fspath(script), json.dumps(SCALES), str(MODELS)]


def _text(path: Path) -> str:
    """A file's text; nothing where it is not there, which is a fault of what should have written it."""
    return path.read_text(errors="replace") if path.is_file() else ""
