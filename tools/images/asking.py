"""img2dataset at work in processes of its own, with DataComp's settings. How it went is told by the shards that it leaves alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filters.pool.errors import BadInput, from_os
from filters.pool.files import sync_folder
from tools.images.shards import finished

OUTSIDE = Path(__file__).with_name("outside.py")
LIMITS = {
    "OPENCV_IO_MAX_IMAGE_PIXELS": str(1 << 28),  # of an image that is decoded: a small file may be a picture of gigabytes
    "NO_ALBUMENTATIONS_UPDATE": "1",  # every process would ask for its latest version
}
PAUSE = 0.2  # seconds between two looks at what is done
STALLED = 1800.0  # seconds without a byte written: a worker that was killed is waited for for ever
# As DataComp's download_upstream.py has them; the rest are img2dataset's own.
SETTINGS: dict[str, Any] = {
    "image_size": 512,
    "resize_mode": "keep_ratio_largest",
    "resize_only_if_bigger": True,
    "encode_format": "jpg",
    "output_format": "webdataset",
    "input_format": "parquet",
    "url_col": "url",
    "caption_col": "text",
    "bbox_col": "face_bboxes",
    "save_additional_columns": ["uid"],
    "oom_shard_count": 8,
    "enable_wandb": False,
}


@dataclass(frozen=True)
class Downloader:
    """How img2dataset is run."""

    python: str
    private: bool
    processes: int
    threads: int
    retries: int
    shard: int  # urls of one

    def check(self) -> None:
        """Raise BadInput unless the Python has it."""
        call = [self.python, "-c", "import importlib.metadata as m; m.version('img2dataset')"]
        try:
            done = subprocess.run(call, capture_output=True, check=False)
        except OSError as error:
            raise from_os(self.python, error) from None
        if done.returncode:
            do = f"{self.python} -m pip install 'densprune[images]', or name another --python"
            raise BadInput(self.python, "has no img2dataset", do)

    def arguments(self, lists: Path, output: Path, urls: int) -> dict[str, Any]:
        """Those of `img2dataset.download`."""
        most = -(-urls // self.shard)  # a process works on a shard
        own = {"processes_count": max(1, min(self.processes, most)), "thread_count": self.threads, "retries": self.retries}
        places = {"url_list": str(lists), "output_folder": str(output), "incremental_mode": "extend"}
        return SETTINGS | own | places | {"number_sample_per_shard": self.shard}

    @contextmanager
    def at_work(self, lists: Path, output: Path, urls: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
        """Ends with the block, and with this process, however it ends."""
        settings = {"private": self.private, "arguments": self.arguments(lists, output, urls)}
        call = [self.python, str(OUTSIDE), json.dumps(settings)]
        try:
            with log.open("ab") as file:
                process = subprocess.Popen(
                    call,
                    env=os.environ | LIMITS,
                    stdin=subprocess.PIPE,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            raise from_os(self.python, error) from None
        with process:
            try:
                yield process
            finally:
                _end(process)


def watched(process: subprocess.Popen[bytes], output: Path) -> Iterator[list[Path]]:
    """What has been finished since the last look, until the process ends or nothing goes on in it."""
    known: set[Path] = set()
    size, since, ended = 0, time.monotonic(), False
    while not ended and time.monotonic() < since + STALLED:
        ended = process.poll() is not None  # what was finished before is looked for after
        fresh = finished(output, known)
        known.update(fresh)
        yield fresh
        if (now := _written(output)) != size or fresh:
            size, since = now, time.monotonic()
        if not ended:
            time.sleep(PAUSE)


def _written(output: Path) -> int:
    """Bytes of the shards that are being written."""
    return sum(path.stat().st_size for end in ("tar", "parquet") for path in output.glob(f"*.{end}"))


def _end(process: subprocess.Popen[bytes]) -> None:
    """Its workers are of its session, and may outlive it."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # all have come to their end


def last_words(log: Path) -> str:
    """The last line of what it said: an error's, where there was one."""
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "nothing"


def begin(folder: Path, last: Path | None, first: int) -> Path:
    """A folder for it to write to. It numbers on from the statistics that it finds there: keys of samples are never given twice."""
    output = folder / "shards"
    output.mkdir(parents=True)
    if last is not None and first:
        shutil.copy(last, output / f"{first - 1:08}_stats.json")
    sync_folder(folder)
    return output
