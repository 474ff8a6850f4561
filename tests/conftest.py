"""What every test shares."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from tests.pools import write_pool

# These machines are shared: a slow moment is no failure.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")

REAL = os.environ.get("DENSPRUNE_DATA")


@pytest.fixture
def tiny_pool(tmp_path: Path) -> Path:
    """Four ragged shards, one of them empty."""
    write_pool(tmp_path / "pool", np.random.default_rng(7))
    return tmp_path / "pool"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real images in DataComp's form, where a folder of them is named."""
    if REAL is None:
        pytest.skip("DENSPRUNE_DATA names no folder of real data")
    return Path(REAL)
