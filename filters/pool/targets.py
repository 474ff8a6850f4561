"""Embeddings of a user's own, of target images say: one file, .npy, .npz or .pt, never a pickle.

Rows stay where the file has them: an npy, a stored member of an npz and a .pt of the newer kind are mapped.
"""

from __future__ import annotations

import math
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from filters.maths.arrays import Array, Bool
from filters.maths.blocks import BLOCK, measured, valid
from filters.maths.search import on_device
from filters.pool.archive import DTYPES, Archive
from filters.pool.embeddings import raw_blocks
from filters.pool.errors import BadInput, from_os, shortened
from filters.pool.files import read_npy_header

KINDS = (".npy", ".npz", ".pt")
DO = "name a file of rows of float16, float32 or float64"


def load(path: Path) -> Array:
    """(n, d) float16, float32 or float64, every row finite and not zero; raises BadInput for anything else."""
    rows = unchecked(path)
    _check_rows(path, rows)
    return rows


def unchecked(path: Path) -> Array:
    """The same, but no row has been looked at."""
    if path.suffix not in KINDS:
        raise BadInput(path, f"is none of {', '.join(KINDS)}", DO)
    try:
        return {".npy": _of_npy, ".npz": _of_npz, ".pt": _of_torch}[path.suffix](path)
    except OSError as error:
        raise from_os(path, error) from None


def _of_npy(path: Path) -> Array:
    try:
        with path.open("rb") as file:
            header, size = read_npy_header(file), path.stat().st_size
    except ValueError as error:
        raise BadInput(path, f"is no npy file ({error})", DO) from None
    _check_shape(path, header.descr, header.shape)
    if header.fortran:
        raise BadInput(path, "is stored by columns", "save it in C order")
    claimed = header.size + math.prod(header.shape) * np.dtype(header.descr).itemsize
    if claimed != size:
        raise BadInput(path, f"its header claims {claimed:,} bytes, the file holds {size:,}", "make it again: it is cut off")
    return _mapped(path, np.dtype(header.descr).str, header.size, header.shape)


def _of_npz(path: Path) -> Array:
    """Of an npz with one array."""
    archive = Archive.open(path)
    if len(archive.entries) != 1:
        raise BadInput(path, f"holds {len(archive.entries)} arrays: {', '.join(archive.entries) or 'none'}", "save one alone")
    member = archive.member(next(iter(archive.entries)))
    _check_shape(path, member.dtype, member.shape)
    everything = np.ones(member.shape[0], bool)
    unpacked = np.empty((0 if member.entry.stored else member.shape[0], member.width), member.dtype)
    for raw in raw_blocks(member, everything, verify=True, pulse=lambda size: None):  # to the end: the checksum is compared there
        if not member.entry.stored:
            unpacked[raw.at] = raw.rows
    return _mapped(path, member.dtype, member.start + member.header, member.shape) if member.entry.stored else unpacked


def _mapped(path: Path, dtype: str, start: int, shape: tuple[int, ...]) -> Array:
    """What would be written into it stays in memory (torch warns of rows that cannot be written)."""
    return np.memmap(path, dtype, "c", start, shape)


# What torch raises for a file that is damaged, or holds more than tensors.
_ODD = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)
UNREADABLE = (pickle.UnpicklingError, zipfile.BadZipFile, *_ODD)


def _of_torch(path: Path) -> Array:
    """Of a tensor or a numpy array, or of a list, tuple or dict with one in it: labels or counts may lie beside it."""
    import torch

    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_of_numpy_arrays()):
            warnings.simplefilter("ignore")  # of how the file was pickled
            told = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except UNREADABLE as error:
        raise BadInput(
            path, f"cannot be read ({shortened(str(error).partition(chr(10))[0], 160)})", "save one tensor with torch.save"
        ) from None
    held: list[Any] = list(told.values() if isinstance(told, dict) else told if isinstance(told, list | tuple) else [told])
    held = [torch.from_numpy(one) if isinstance(one, np.ndarray) and one.dtype.str in DTYPES else one for one in held]
    tensors = [one for one in held if isinstance(one, torch.Tensor)]
    if len(tensors) > 1:
        tensors = [one for one in tensors if one.ndim == 2 and one.is_floating_point()]
    if len(tensors) != 1:
        raise BadInput(path, f"holds {len(tensors)} tensors of rows", "save one alone")
    (tensor,) = tensors
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in _OF_TORCH or tensor.layout != torch.strided or tensor.device.type != "cpu":
        raise BadInput(path, f"is a tensor of {dtype}, {tensor.layout}, on {tensor.device}", DO)
    _check_shape(path, _OF_TORCH[dtype], tuple(tensor.shape))
    return np.asarray(tensor.detach().numpy())


def _of_numpy_arrays() -> list[Any]:
    """What torch may call to make a plain array: DataComp's centroids are saved as one, by a numpy that called its module otherwise."""
    make: Any = np.empty(0).__reduce__()[0]
    kinds = [type(np.dtype(kind)) for kind in DTYPES]
    return [make, (make, "numpy.core.multiarray._reconstruct"), np.ndarray, np.dtype, *kinds]


_OF_TORCH = {"float16": "<f2", "float32": "<f4", "float64": "<f8"}


def _check_shape(path: Path, descr: object, shape: tuple[int, ...]) -> None:
    if descr not in DTYPES or len(shape) != 2:
        raise BadInput(path, f"is {shortened(descr)} {shape}, not rows of float16, float32 or float64", DO)
    if 0 in shape:
        raise BadInput(path, f"has no rows: its shape is {shape}", DO)


def _check_rows(path: Path, rows: Array) -> None:
    for start in range(0, len(rows), 8 * BLOCK):
        block = rows[start : start + 8 * BLOCK]
        if not (good := _good(block)).all():
            at = int(good.argmin())
            what = "is all zero" if (block[at] == 0).all() else "is not finite"
            raise BadInput(path, f"row {start + at:,} {what}", "leave it out")


def _good(rows: Array) -> Bool:
    return np.asarray(valid(measured(on_device(rows, "cpu"))[1]))
