"""What tools.recall counts."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.pools import unit, write_pool
from tools import recall

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("n", [1, 40, 1100])
def test_pairs_are_those_of_the_full_matrix(n: int) -> None:
    rng = np.random.default_rng(n)
    rows = unit(rng.normal(size=(n, 6))).astype(np.float32)
    full = np.tril(rows @ rows.T > 0.8, -1)
    assert {tuple(pair) for pair in recall.pairs_above(rows, 0.8).tolist()} == {tuple(pair) for pair in np.argwhere(full).tolist()}


def test_in_one_cluster_every_pair_is_met(tmp_path: Path) -> None:
    write_pool(tmp_path / "pool", np.random.default_rng(1))
    call = [sys.executable, "-m", "tools.recall", "--metadata_dir", str(tmp_path / "pool"), "--clusters", "1"]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=True)
    assert re.findall(r"([\d.]+)% of pairs +([\d.]+)% of rows", done.stdout) == [("100.00", "100.00")] * 3


def test_a_folder_that_is_none_is_told_in_one_line(tmp_path: Path) -> None:
    call = [sys.executable, "-m", "tools.recall", "--metadata_dir", str(tmp_path / "none")]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
