"""What the bytes of a uid subset file show before a uid is read: each fault, what DataComp's tools make of it, what mends it.

DataComp's resharder maps the file with numpy, asserts the dtype, and looks each sample up by binary search; nothing else is checked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filters.maths import uids
from filters.pool.errors import BadInput, from_os, shortened
from filters.pool.files import NpyHeader, read_npy_header
from filters.pool.uidfiles import Form, form_of

CONVERT = "python tools/uids.py convert FILE --save_path NEW.npy"
SORT = "python tools/uids.py convert FILE --sort --keep_repeats --save_path NEW.npy"
ANEW = "write records of u8,u8: np.save(NEW, np.array([(uid >> 64, uid & (1 << 64) - 1) for uid in ascending], 'u8,u8'))"
AGAIN = "copy or make it again"
NO_MAP = "numpy does not map it, and the resharder ends with a ValueError"
ASSERTS = "the resharder ends with an AssertionError that says nothing, and its next run needs --overwrite"
GARBAGE = "the resharder takes its bytes for raw uids: it fails, or reads garbage where their number divides by 16"
OTHERS = {  # how files of other kinds begin
    b"PK": ("is an npz, or another zip", GARBAGE, "np.save the array that is in it"),
    b"\x1f\x8b": ("is packed by gzip", GARBAGE, "unpack it: gunzip"),
    b"PAR1": ("is a parquet table", GARBAGE, "make an npy of its uids: " + CONVERT),
}


def fault(path: Path, found: str, consequence: str, do: str) -> BadInput:
    """One line: where, what was found and what comes of it, what to do."""
    return BadInput(path, f"{found}: {consequence}", do)


def looked_at(path: Path) -> tuple[int, list[BadInput]]:
    """Bytes of the header, 0 where no uids can be read behind it; and what is wrong with the file.

    raises  BadInput when it cannot be opened
    """
    try:
        if not path.is_file():
            raise BadInput(path, "is no file" if path.exists() else "there is no such file", "name a uid subset file")
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(6)
            file.seek(0)
            header = read_npy_header(file)
    except OSError as error:
        raise from_os(path, error) from None
    except ValueError as error:
        return 0, [_other(path, start, size, str(error))]
    whole = _whole(header)
    worth = path.suffix == ".npy" and size == whole and form_in(header) and header.shape[0]
    return header.size if worth else 0, list(_faults(path, header, size, whole))


def _other(path: Path, start: bytes, size: int, reason: str) -> BadInput:
    """Why it is no npy."""
    if not size:
        return fault(path, "holds no byte", "the resharder's workers fail, no image is written, and its exit code is 0", AGAIN)
    if start == b"\x93NUMPY":
        return fault(path, f"has a header that cannot be read: {reason}", "where numpy fails too, so does the resharder", AGAIN)
    for begins, told in OTHERS.items():
        if start.startswith(begins):
            return fault(path, *told)
    if size % uids.SUBSET.itemsize:
        return fault(path, "does not begin as an npy", GARBAGE, ANEW)
    consequence = "the resharder takes its bytes for raw uids, whatever they are, and opens it for writing"
    return fault(path, "does not begin as an npy", consequence, "of raw uids make an npy: np.save(NEW, np.fromfile(FILE, 'u8,u8'))")


def _faults(path: Path, header: NpyHeader, size: int, whole: int | None) -> Iterator[BadInput]:
    if path.suffix != ".npy":
        yield fault(path, "does not end in .npy", "DataComp goes by its first bytes, others go by its name", "rename it")
    if _has_objects(header.descr):
        yield fault(path, "holds Python objects", NO_MAP, ANEW)
    elif header.descr != uids.SUBSET.descr:
        form = form_in(header)
        said = form.said if form else f"{shortened(header.descr)} of shape {header.shape}"
        yield fault(path, f"is {said}, not u8,u8 (little-endian, fields f0 and f1)", ASSERTS, CONVERT if form else ANEW)
    elif len(header.shape) != 1:
        consequence = "the resharder fails at every sample, which it only logs, no image is written, and its exit code is 0"
        yield fault(path, f"has the shape {header.shape}, not one dimension", consequence, "np.save(NEW, np.load(FILE).reshape(-1))")
    if 0 in header.shape:
        yield fault(path, "lists no uid", "the resharder writes no image, with exit code 0, and train.py stops", "ask the filter for more")
    elif whole is not None and size < whole:
        yield fault(path, f"is cut off: it has {size:,} bytes of {whole:,}", NO_MAP, AGAIN)
    elif whole is not None and size > whole:
        consequence = "DataComp does not look there, but it is not the file that was written"
        yield fault(path, f"goes on for {size - whole:,} bytes behind its last uid", consequence, AGAIN)


def form_in(header: NpyHeader) -> Form | None:
    """How uids can be read from it: also from some that DataComp refuses."""
    try:
        return form_of(Path(), header)
    except BadInput:
        return None


def _whole(header: NpyHeader) -> int | None:
    """Bytes of the file by its header, where it holds words or texts."""
    form = form_in(header)
    if form:
        return header.size + header.shape[0] * form.record.itemsize
    return header.size + math.prod(header.shape) * uids.SUBSET.itemsize if header.descr == uids.SUBSET.descr else None


def _has_objects(descr: Any) -> bool:
    kinds = [one[1] for one in descr if isinstance(one, tuple) and len(one) > 1] if isinstance(descr, list) else [descr]
    return any(isinstance(kind, str) and "O" in kind for kind in kinds)
