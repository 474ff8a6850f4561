"""A pool's metadata from the Hub: what was asked for and no more, whole or not at all, whatever happens on the way."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from filters.pool import hub as hubs
from filters.pool import store
from tests.pools import blobs, random_uids, write_shard
from tests.stores import Hub, hub_server
from tools import download

ROOT = Path(__file__).parents[1]
TOKEN = "hf_planted0123456789"
COMMIT = "a" * 40
Capture = pytest.CaptureFixture[str]


def write_version(folder: Path, seed: int = 0, rows: int = 60, parts: bool = False, compressed: bool = False) -> None:
    """Two shards with the members that DataComp's have."""
    rng = np.random.default_rng(seed)
    for number in range(2):
        members = {name: blobs(rng, rows, width) for name, width in (("b32_img", 8), ("b32_txt", 8), ("l14_img", 16), ("l14_txt", 16))}
        place = folder / f"part_{number}" if parts else folder
        write_shard(place, f"{number:032x}", random_uids(rng, rows), members, compressed=compressed)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub with one version of a pool, which this process asks."""
    write_version(tmp_path / "hub" / COMMIT)
    with hub_server(tmp_path / "hub") as served:
        from huggingface_hub import constants

        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, served.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
        monkeypatch.setattr(store, "PAUSE", 0.001)
        forget()
        yield served
        forget()


def forget() -> None:
    """The Hub of another test."""
    from huggingface_hub import HfFileSystem

    store._made.cache_clear()
    hubs.linked.cache_clear()
    HfFileSystem.clear_instance_cache()


def run(folder: Path, *more: object, scale: str = "small") -> int:
    return download.main(["metadata", "--scale", scale, "--metadata_dir", str(folder), *map(str, more)])


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}


def test_it_is_there(hub: Hub, tmp_path: Path, capfd: Capture) -> None:
    code = run(tmp_path / "o")
    print(capfd.readouterr())
    assert code == 0
    source = hub.folder / COMMIT
    assert files(tmp_path / "o") == files(source)
    for path in source.glob("*.parquet"):
        assert (tmp_path / "o" / path.name).read_bytes() == path.read_bytes()
