"""The folder that a finished run left: its manifest, and its samples by shard."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from filters.maths import uids
from filters.maths.arrays import U64, Array
from filters.pool.columns import batches
from filters.pool.errors import BadInput, from_os
from filters.pool.files import digest_of
from filters.pool.place import place
from tools.left.recipe import recipe_of


class Run:
    """A finished run's folder."""

    def __init__(self, folder: Path, save_path: Path | None = None) -> None:
        self.folder = folder
        try:
            self.manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
            self.shards: dict[str, str] = self.manifest["pool"]["shards"]
            self.files: dict[str, dict[str, Any]] = self.manifest["files"]
            self.save_path = save_path or Path(self.manifest["save_path"])
            self.recipe = recipe_of(self.manifest["recipe"])
            self.options: dict[str, Any] = self.manifest["options"]
            self.location = place(self.manifest["pool"]["location"])
        except OSError as error:
            raise from_os(folder / "manifest.json", error) from None
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(folder / "manifest.json", f"is no manifest ({error})", "name the work folder of a finished run") from None

    @property
    def names(self) -> list[str]:
        return [f"samples/{key}.parquet" for key in sorted(self.shards)]

    def samples(self, name: str, wanted: list[str]) -> dict[str, Array]:
        """Columns of one file: numbers with what stands for none, uids as (n, 2) uint64, statuses as text."""
        table = pq.read_table(self.folder / name, columns=wanted, page_checksum_verification=True)
        return {column: plain(table[column].combine_chunks()) for column in wanted}

    def parts(self, *wanted: str) -> Iterator[tuple[str, dict[str, Array]]]:
        return ((name, self.samples(name, list(wanted))) for name in self.names)

    def batches(self, wanted: list[str], pulse: Callable[[int], None]) -> Iterator[dict[str, Array]]:
        """Columns of all samples, in the pool's order, a batch at a time. Raises BadInput that names a file that cannot be read."""
        for path in self.paths:
            with harmed_named(path):
                for batch in batches(path, wanted, pulse):
                    yield {name: plain(batch.column(name)) for name in wanted}

    @property
    def paths(self) -> list[Path]:
        return [self.folder / name for name in self.names]

    @property
    def size(self) -> int:
        """Bytes of the samples. Raises BadInput that names a file that is not there."""
        total = 0
        for path in self.paths:
            with harmed_named(path):
                total += path.stat().st_size
        return total

    def check_manifest(self) -> None:
        """Raise BadInput when it was edited: what follows from it would not be what was run."""
        if digest_of(self.manifest) != self.manifest.get("digest"):
            raise BadInput(self.folder / "manifest.json", "is not as a run wrote it", "run the filter again")

    def concepts(self, suffix: str = "") -> dict[str, Array]:
        """Columns of concepts.parquet, a row a concept."""
        path = self.folder / f"concepts{suffix}.parquet"
        with harmed_named(path):
            table = pq.read_table(path, page_checksum_verification=True)
        return {name: table[name].to_numpy() for name in table.column_names}

    @property
    def n(self) -> int:
        """Samples of the pool that are neither outside nor repeated."""
        return int(self.manifest["samples"])


@contextmanager
def harmed_named(path: Path) -> Iterator[None]:
    """What is wrong with a file that the run left, as bad input."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            raise from_os(path, error) from None
        raise _harmed(path, error) from None
    except (pa.ArrowException, ValueError, KeyError) as error:
        raise _harmed(path, error) from None


def _harmed(path: Path, error: Exception) -> BadInput:
    return BadInput(path, f"cannot be read ({str(error).splitlines()[0]})", "run the filter again")


def plain(values: pa.Array) -> Array:
    if pa.types.is_fixed_size_binary(values.type):
        filled = values.fill_null(bytes(16)).cast(pa.binary(16)) if values.null_count else values
        words = np.frombuffer(filled.buffers()[1], ">u8")[2 * filled.offset : 2 * (filled.offset + len(filled))]
        return words.reshape(-1, 2).astype(np.uint64)
    if pa.types.is_string(values.type):
        return np.asarray(values.to_pylist(), object)
    nothing = float("nan") if pa.types.is_floating(values.type) else -1
    found: Array = values.fill_null(nothing).to_numpy(zero_copy_only=False)
    return found


def text_of(words: U64) -> str:
    return uids.to_texts(words.reshape(1, 2))[0]
