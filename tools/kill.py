"""Ends a run, or has the system refuse it something, at an exact point: for tools.torture and the tests.

`killed` works anywhere: a hook in every Python process of the run counts what it does to files (tools/hook/sitecustomize.py).
`refused` needs strace, and the permission to trace.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

HOOK = Path(__file__).parent / "hook"
EVENTS = ("open", "rename", "remove", "fsync", "torn")  # see the hook


def counted(call: list[str], folder: Path) -> dict[str, int]:
    """Let a run in `folder` come to its end; how many there are of each event."""
    with tempfile.TemporaryDirectory() as counts:
        code = _hooked(call, folder, f"none 0 {counts}")
        if code:
            raise ValueError(f"{' '.join(call)} ended with {code}")
        return {event: _size(Path(counts, event)) for event in EVENTS}


def killed(call: list[str], folder: Path, event: str, number: int) -> bool:
    """Kill a run and all its processes just before the number-th event; False when it ended before that."""
    with tempfile.TemporaryDirectory() as counts:
        code = _hooked(call, folder, f"{event} {number} {counts}")
    if code not in (0, -signal.SIGKILL):
        raise ValueError(f"{' '.join(call)} ended with {code}")
    return code != 0


def _hooked(call: list[str], folder: Path, wish: str) -> int:
    path = os.pathsep.join(filter(None, [str(HOOK), os.environ.get("PYTHONPATH")]))
    hooked = os.environ | {"PYTHONPATH": path, "DENSPRUNE_KILL": wish, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([sys.executable, *call], cwd=folder, env=hooked, start_new_session=True, check=False).returncode


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def can_trace() -> bool:
    """Whether strace is there and may trace."""
    found = shutil.which("strace")
    return found is not None and not subprocess.run([found, "-o", os.devnull, "true"], capture_output=True, check=False).returncode


def refused(call: list[str], folder: Path, injection: str) -> subprocess.CompletedProcess[str]:
    """Run with a fault as strace's inject takes it, such as fsync:error=ENOSPC:when=3. Each thread counts its own calls."""
    calls = injection.partition(":")[0]
    traced = ["strace", "-f", "-qq", "-o", os.devnull, "-e", f"trace={calls}", "-e", f"inject={injection}"]
    return subprocess.run([*traced, sys.executable, *call], cwd=folder, capture_output=True, text=True, check=False)
