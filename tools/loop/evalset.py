"""A set for zero-shot classification as evaluate.py reads one, with a tasklist.yml of it alone."""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from filters.pool.errors import BadInput, from_os

TASK = "own"
EACH = 20  # pictures of a kind that the demo draws
DRAWN = 99  # beside the seed; the pool's own draws have other numbers


class EvalSet(NamedTuple):
    classes: list[str]
    templates: list[str]  # with {c} for the class
    pictures: list[tuple[bytes, int]]  # JPEG, class


def demo(seed: int = 1234) -> EvalSet:
    """Pictures of the demo pool's kinds that are not in the pool: as many of a rare kind as of a frequent one."""
    from filters.pool.drawings import jpeg
    from filters.pool.kinds import kinds

    def drawn() -> Iterator[tuple[bytes, int]]:
        for number, kind in enumerate(kinds()):
            rng = np.random.default_rng([seed, DRAWN, number])
            for _ in range(EACH):
                yield jpeg(kind.draw(kind.choose(rng), rng), 85), number

    return EvalSet([kind.name for kind in kinds()], ["{c}", "a picture of a {c}", "one {c}"], list(drawn()))


def from_folder(folder: Path) -> EvalSet:
    """test.parquet (image: JPEG, label: line of classnames.txt, from 0), classnames.txt and templates.txt."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        classes, templates = (_lines_of(folder / name) for name in ("classnames.txt", "templates.txt"))
        table = pq.read_table(folder / "test.parquet", columns=["image", "label"])
    except OSError as error:
        raise from_os(folder, error) from None
    except (pa.ArrowException, ValueError) as error:
        what = f"has no test.parquet with image and label ({str(error).splitlines()[0]})"
        raise BadInput(folder, what, "name another --from_dir") from None
    bare = next((number for number, text in enumerate(templates, 1) if "{c}" not in text), None)
    if bare:
        raise BadInput(folder / "templates.txt", f"line {bare} has no {{c}}", "write {c} where the name of the class stands")
    strange = [label for label in table["label"].to_pylist() if type(label) is not int or label not in range(len(classes))]
    if strange:
        raise BadInput(folder / "test.parquet", f"has label {strange[0]}, and {len(classes)} class names", "mend labels or classnames.txt")
    empty = [row for row, image in enumerate(table["image"].to_pylist()) if not isinstance(image, bytes) or not image]
    if empty:
        raise BadInput(folder / "test.parquet", f"row {empty[0]:,} has no bytes of an image", "write each image as its JPEG's bytes")
    return EvalSet(classes, templates, list(zip(table["image"].to_pylist(), table["label"].to_pylist(), strict=True)))


def _lines_of(path: Path) -> list[str]:
    found = path.read_text().splitlines()
    if not found:
        raise BadInput(path, "holds no line", "name another --from_dir")
    return found


def write(made: EvalSet, folder: Path) -> None:
    """Raises BadInput for a folder that is there."""
    place, tasks = folder / f"wds_{TASK}_test", folder / "tasklist.yml"
    for path in (place, tasks):
        if path.exists():
            raise BadInput(path, "exists", "remove it, or name another --output_dir")
    try:
        (place / "test").mkdir(parents=True)
        (place / "classnames.txt").write_text(_lines(made.classes))
        (place / "zeroshot_classification_templates.txt").write_text(_lines(made.templates))
        (place / "test/nshards.txt").write_text("1\n")
        _write_tar(place / "test/0.tar", made.pictures)
        listed = f"{TASK}:\n  name: {TASK}\n  size: {len(made.pictures)}\n  num_classes: {len(made.classes)}\n"
        tasks.write_text(listed)
    except BaseException as error:
        shutil.rmtree(place, ignore_errors=True)  # half of it would be taken for a set
        if isinstance(error, OSError):
            raise from_os(place, error) from None
        raise


def _lines(texts: Iterable[str]) -> str:
    return "".join(f"{text}\n" for text in texts)


def _write_tar(path: Path, pictures: list[tuple[bytes, int]]) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, (picture, label) in enumerate(pictures):
            for ending, body in (("jpg", picture), ("cls", str(label).encode())):
                member = tarfile.TarInfo(f"{number:07d}.{ending}")
                member.size = len(body)
                tar.addfile(member, io.BytesIO(body))
