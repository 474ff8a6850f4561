"""Words that name something of ImageNet-21k: the first WordNet synset of a word, of any part of speech, is in a list. METHOD 4.

nltk lower-cases a word and takes it back to its base form; the dictionary's files it reads from a folder. All that is asked of it
lies in memory then, so threads may ask at the same time; words are remembered, which is what makes it fast.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from baselines import assets
from baselines.assets import RELEASE, Asset
from baselines.language import module, on_captions, package
from filters.maths.arrays import Bool
from filters.maths.device import shared
from filters.pool.errors import BadInput
from filters.pool.files import sha256
from filters.work.plan import Cost, Plan
from filters.work.rates import Kernel, Site, Trial
from filters.work.work import Work
from filters.work.workdir import Given

ENTITIES = Asset(
    "imagenet21k_wordnet_ids.txt",
    f"{RELEASE}/imagenet21k_wordnet_ids.txt",
    "66362bdedf36d933382edca5493fc562dcc17128ce36403c9e730a75f48cb2f2",
    "imagenet_ids",
)
ENTITIES_TEXT = "list of ImageNet-21k's synsets, a line each such as n02084071 [default: DataComp's, downloaded once; code]"
DICT_TEXT = (
    "folder of WordNet's data.noun and the other files, or the one with dict/ in it [default: where nltk has it, /usr/share/wordnet]"
)
DEBIAN = Path("/usr/share/wordnet")
PARTS = ("noun", "verb", "adj", "adv")
FILES = tuple(f"{kind}.{part}" for kind in ("data", "index") for part in PARTS) + tuple(f"{part}.exc" for part in PARTS)
LEXNAMES = 45  # names of the lexicographers' files: one of the files, which not every distribution has, and of which nothing is asked
WORDS = 1 << 18  # that a process remembers
USUAL = 3e-6  # seconds a caption


def dictionary(path: str | None) -> Given:
    """WordNet's files, known by their digests, and what reads them; raises BadInput when there are none."""
    library = package("nltk", ("nltk",))
    folder = place(path).resolve()
    zipped = folder if folder.suffix == ".zip" else None
    files = [zipped] if zipped else [folder / name for name in FILES]
    try:
        digests = " ".join(map(sha256, files))
    except OSError as error:
        raise BadInput(
            folder, f"lacks {Path(error.filename or folder).name}", "name a folder of all of WordNet's files by --wordnet_dir"
        ) from None
    return Given(folder, f"{hashlib.sha256(digests.encode()).hexdigest()} {library}")


def place(path: str | None) -> Path:
    """The folder with WordNet's files, or nltk's zip of them."""
    if path is not None:
        folder = Path(path)
        found = [one for one in (folder, folder / "dict", folder / "corpora" / "wordnet") if (one / "data.noun").is_file()]
        if not found:
            raise BadInput(path, "holds no data.noun of WordNet, nor does its dict", "name another folder by --wordnet_dir")
        return found[0]
    nltk = module("nltk")
    for root in nltk.data.path:
        for one in (Path(root) / "corpora" / "wordnet", Path(root) / "corpora" / "wordnet.zip"):
            if one.is_file() or (one / "data.noun").is_file():
                return one
    if (DEBIAN / "data.noun").is_file():
        return DEBIAN
    do = "python -m nltk.downloader wordnet, install wordnet-base, or name a folder by --wordnet_dir"
    raise BadInput("WordNet", f"is in none of nltk's places, nor in {DEBIAN}", do)


def entities(work: Work, path: str | None) -> Given:
    """The list of synsets, read through once so that what is wrong with it is told here."""
    found = assets.find(work, ENTITIES, path)
    listed(found.path)
    return found


def listed(path: Path) -> frozenset[int]:
    """Offsets of the synsets of a list: the part of speech before each is not looked at [code]."""
    try:
        lines = path.read_text().split("\n")
        return frozenset(int(line.strip()[1:]) for line in lines if line.strip())
    except ValueError as error:
        raise BadInput(path, f"is no list of synsets ({error})", f"name one such as DataComp's by --{ENTITIES.flag}") from None


def name_something(texts: list[str], dictionary: Given, entities: Given) -> Bool:
    """(n,) whether one of a caption's words is such a word."""
    known = _known(dictionary, entities)
    return np.array([any(map(known, text.split())) for text in texts], bool)


@shared(1)
def _known(dictionary: Given, entities: Given) -> Callable[[str], bool]:
    """Whether a word is such a word; remembers."""
    reader, offsets = _reader(dictionary), listed(entities.path)

    @lru_cache(WORDS)
    def known(word: str) -> bool:
        for part in "nvar":  # the order in which nltk lists all of them
            if synsets := reader.synsets(word, part):
                return synsets[0] in offsets
        return False

    return known


@shared(1)
def _reader(dictionary: Given) -> Any:
    """nltk's reader of WordNet, but that a synset is its offset: nothing else of it is asked, and so the data files are not read."""
    folder = dictionary.path
    nltk, wordnet = module("nltk"), module("nltk.corpus.reader.wordnet")

    class Offsets(wordnet.WordNetCorpusReader):  # type: ignore[misc, name-defined]
        def synset_from_pos_and_offset(self, pos: str, offset: int) -> int:
            return offset

        def map_wn(self, version: str = "wordnet") -> None:
            """To another version: of use for other languages only, and it takes a file that not every distribution has."""

        def open(self, file: str) -> Any:
            if file == "lexnames":
                return io.StringIO("".join(f"{number:02} {number:02} 0\n" for number in range(LEXNAMES)))
            return super().open(file)

    if str(folder) not in nltk.data.path:
        nltk.data.path.append(str(folder))  # it opens nothing elsewhere
    root = nltk.data.ZipFilePathPointer(str(folder), "wordnet/") if folder.suffix == ".zip" else str(folder)
    try:
        with warnings.catch_warnings(action="ignore"):  # that other languages are not there
            return Offsets(root, None)
    except (OSError, ValueError, LookupError, AssertionError, wordnet.WordNetError) as error:
        raise BadInput(folder, f"is no WordNet that nltk can read ({error})", "name another folder by --wordnet_dir") from None


def expect(plan: Plan, wordnet_dir: str | None, path: str | None, rows: int) -> Cost:
    """So many captions whose words are looked up; raises BadInput for what is not there."""
    package("nltk", ("nltk",))
    folder = place(wordnet_dir)
    assets.expect(plan, ENTITIES, path)
    return Cost({Kernel(looking_up, (folder, plan.processes > 1), USUAL): rows})


def looking_up(site: Site, folder: Path, alone: bool) -> Trial:
    """Captions of the pool whose words are looked up, in no list: that takes longest."""
    known = _known(Given(folder, ""), Given(Path("/dev/null"), ""))
    return on_captions(site, lambda texts: np.array([any(map(known, text.split())) for text in texts], bool), alone)
