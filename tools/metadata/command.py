"""`tools/download.py metadata`: a pool's parquet files, and of its npz files the members that are asked for."""

from __future__ import annotations

import argparse

from filters.command import Interruption
from filters.options import OneLineParser

SCALES = ("small", "medium", "large", "xlarge")


def flags(one: OneLineParser) -> None:
    """Of the command."""
    one.set_defaults(run=run)
    one.add_argument("--scale", required=True, choices=SCALES, help="whose metadata: mlfoundations/datacomp_SCALE")


def run(given: argparse.Namespace, interruption: Interruption) -> None:
    """Raises BadInput where the Hub does not give what is asked for."""
