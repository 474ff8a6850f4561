"""Whether DataComp's tools will find the samples of a uid subset file: every fault, what comes of it, and what mends it.

    python submission/validate.py OUT.npy [--metadata_dir DIR] [--scale medium]

The file is read as a stream, whatever its length; with --metadata_dir the pool's uids are sorted in --memory_gb of memory and a
file without a name in $TMPDIR, 16 bytes each. In what mends a fault, FILE is the file and NEW another name; np is numpy.

Exit 0: nothing is wrong, and a summary is printed. 2: something is, a line each on stderr.
"""

from __future__ import annotations

if __name__ == "__main__":
    import importlib
    import os
    import sys

    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    importlib.import_module("filters.start").validate()

import sys
from functools import partial

from filters.command import Console, Interruption, Quiet, ended, show
from filters.start import STOPPED
from submission.calls import Checks, read, refused
from submission.subset import examined


def main(arguments: list[str] | None = None) -> int:
    return ended("validate", STOPPED, partial(_run, sys.argv[1:] if arguments is None else arguments))


def _run(arguments: list[str], interruption: Interruption) -> int:
    path, layers = read("validate", __doc__, [Checks], arguments)
    checks: Checks = layers.part(Checks)
    against = checks.against()
    report = examined(path, against, Quiet(interruption) if checks.quiet else Console("validate", interruption))
    if not (report.faults or checks.quiet):
        show(report.rows(against))
    return refused("validate", report.faults)
