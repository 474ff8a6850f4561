"""Embeddings of a user's own: a file of rows, in three formats."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from filters.pool.errors import BadInput
from filters.pool.targets import load
from tests import bad_files
from tests.pools import Array

ROWS: Array = np.random.default_rng(0).normal(size=(3000, 8))


def deflated(path: Path, rows: Array) -> None:
    np.savez_compressed(path, rows=rows)


WRITERS: dict[str, tuple[str, Callable[[Path, Array], object]]] = {
    "npy": ("a.npy", np.save),
    "npz": ("a.npz", lambda path, rows: np.savez(path, rows=rows)),
    "deflated npz": ("a.npz", deflated),
    "tensor": ("a.pt", lambda path, rows: torch.save(torch.from_numpy(rows), path)),
    "old tensor": ("a.pt", lambda path, rows: torch.save(torch.from_numpy(rows), path, _use_new_zipfile_serialization=False)),
    "tensor in a dict": ("a.pt", lambda path, rows: torch.save({"count": 3, "features": torch.from_numpy(rows)}, path)),
    "tensor beside labels": (
        "a.pt",
        lambda path, rows: torch.save({"labels": torch.arange(9), "image_features": torch.from_numpy(rows), "names": ["a"]}, path),
    ),
    "tensor in a list": ("a.pt", lambda path, rows: torch.save([torch.from_numpy(rows)], path)),
}
formats = pytest.mark.parametrize("kind", WRITERS)


def written(folder: Path, kind: str, rows: Array) -> Path:
    name, write = WRITERS[kind]
    write(folder / name, rows)
    return folder / name


@formats
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_every_format_gives_the_rows_that_were_saved(kind: str, dtype: type, tmp_path: Path) -> None:
    rows: Array = ROWS.astype(dtype)
    found = load(written(tmp_path, kind, rows))
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, rows)


@pytest.mark.parametrize("kind", ["npy", "npz", "tensor"])
def test_a_large_file_is_mapped_not_read(kind: str, tmp_path: Path) -> None:
    found = load(written(tmp_path, kind, ROWS))
    where = found.__array_interface__["data"][0]
    spans = [line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines() if str(tmp_path) in line]
    assert any(int(begin, 16) <= where < int(end, 16) for begin, end in spans)


@formats
@pytest.mark.parametrize(("value", "said"), [(np.nan, "row 2,500 is not finite"), (np.inf, "row 2,500 is not finite")])
def test_a_row_that_is_not_finite_is_named(kind: str, value: float, said: str, tmp_path: Path) -> None:
    rows = ROWS.astype(np.float16)
    rows[2500, 3] = value
    with pytest.raises(BadInput, match=said):
        load(written(tmp_path, kind, rows))


@formats
def test_a_row_of_zeros_is_named(kind: str, tmp_path: Path) -> None:
    rows = ROWS.copy()
    rows[[1, 7]] = 0
    with pytest.raises(BadInput, match="row 1 is all zero"):
        load(written(tmp_path, kind, rows))


@formats
@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (ROWS[0], "not rows of float"),
        (ROWS[None], "not rows of float"),
        (ROWS.astype(np.int32), "not rows of float"),
        (ROWS[:0], "has no rows"),
        (ROWS[:, :0], "has no rows"),
    ],
    ids=["one dimension", "three dimensions", "integers", "no rows", "no columns"],
)
def test_what_is_no_table_of_floats_is_refused(kind: str, rows: Array, said: str, tmp_path: Path) -> None:
    if kind == "tensor beside labels":
        said += "|0 tensors of rows"
    if "tensor" in kind and rows.dtype == np.int32:
        said += "|is a tensor of int32"
    with pytest.raises(BadInput, match=said):
        load(written(tmp_path, kind, rows))


class Trap:
    """A pickle that would leave a file behind if it were loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    trap, sprung = Trap(tmp_path / "sprung"), tmp_path / "sprung"
    np.save(tmp_path / "a.npy", np.array([trap], object), allow_pickle=True)
    np.savez(tmp_path / "a.npz", rows=np.array([trap], object))
    torch.save({"rows": trap}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(trap))
    for name in ("a.npy", "a.npz", "a.pt", "b.pt"):
        with pytest.raises(BadInput):
            load(tmp_path / name)
    assert not sprung.exists()


@formats
def test_a_file_cut_off_anywhere_is_refused(kind: str, tmp_path: Path) -> None:
    path = written(tmp_path, kind, ROWS[:40])
    whole = path.read_bytes()
    for size in (0, 1, 60, 200, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(BadInput):
            load(path)


@pytest.mark.parametrize("kind", ["npz", "deflated npz"])
def test_a_flipped_bit_in_an_npz_is_found(kind: str, tmp_path: Path) -> None:
    path = written(tmp_path, kind, ROWS)
    bad_files.flip(path, len(path.read_bytes()) // 2)
    with pytest.raises(BadInput, match=r"checksum|CRC|unpacked"):
        load(path)


def test_rows_stored_by_columns_and_foreign_byte_orders_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.asfortranarray(ROWS))
    with pytest.raises(BadInput, match="by columns"):
        load(tmp_path / "a.npy")
    np.save(tmp_path / "a.npy", ROWS.astype(">f4"))
    with pytest.raises(BadInput, match="'>f4'"):
        load(tmp_path / "a.npy")


def test_several_arrays_or_none_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", one=ROWS, two=ROWS)
    torch.save([torch.zeros(2, 2)] * 2, tmp_path / "a.pt")
    torch.save({"count": 3}, tmp_path / "b.pt")
    for name, said in (("a.npz", "one, two"), ("a.pt", "2 tensors of rows"), ("b.pt", "0 tensors of rows")):
        with pytest.raises(BadInput, match=said):
            load(tmp_path / name)


@pytest.mark.parametrize("tensor", [torch.ones(2, 2, dtype=torch.bfloat16), torch.eye(3).to_sparse(), torch.ones(2, 2, device="meta")])
def test_tensors_that_numpy_does_not_have_are_refused(tensor: torch.Tensor, tmp_path: Path) -> None:
    torch.save(tensor, tmp_path / "a.pt")
    with pytest.raises(BadInput):
        load(tmp_path / "a.pt")


def test_parameters_and_views_are_read_as_they_are(tmp_path: Path) -> None:
    torch.save(torch.nn.Parameter(torch.from_numpy(ROWS).T), tmp_path / "a.pt")
    np.testing.assert_array_equal(load(tmp_path / "a.pt"), ROWS.T)


@pytest.mark.parametrize("name", ["missing.npy", "missing.npz", "missing.pt", "a.csv", "."])
def test_a_file_that_is_not_there_or_of_another_kind_is_refused_by_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as found:
        load(tmp_path / name)
    assert str(tmp_path) in str(found.value)


@pytest.mark.parametrize("named", [b"numpy._core.multiarray", b"numpy.core.multiarray"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_numpy_array_that_torch_saved_is_read_whatever_numpy_called_its_module(named: bytes, dtype: type, tmp_path: Path) -> None:
    rows: Array = ROWS.astype(dtype)
    torch.save(rows, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    saved = (tmp_path / "a.pt").read_bytes()
    assert saved.count(b"numpy._core.multiarray") == 1
    (tmp_path / "a.pt").write_bytes(saved.replace(b"numpy._core.multiarray", named))
    found = load(tmp_path / "a.pt")
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, rows)


def test_a_numpy_array_of_another_kind_is_refused(tmp_path: Path) -> None:
    for rows in (np.ones((3, 2), np.int64), np.ones((3, 2), object), np.ones((0, 2)), np.ones(4)):
        torch.save(rows, tmp_path / "a.pt")
        with pytest.raises(BadInput, match=r"a\.pt"):
            load(tmp_path / "a.pt")
