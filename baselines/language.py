"""The language of captions: fastText's lid.176 and CLD3, and the caption rule of `image_based`. METHOD 4.

A caption that is not there has no language: DataComp's code breaks off at one, here the sample is invalid.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from baselines import assets, lid
from baselines.assets import Asset
from filters.maths.arrays import I8, Bool
from filters.maths.device import shared
from filters.pool.columns import parquet_batches
from filters.pool.errors import BadInput
from filters.work.plan import Cost, Plan
from filters.work.rates import Kernel, Site, Trial
from filters.work.view import View
from filters.work.work import Work
from filters.work.workdir import Given

LID = Asset(
    "lid.176.bin",
    "https://dl.fbaipublicfiles.com/fasttext/supervised-models/lid.176.bin",
    "7e69ec5451bc261cc7844e49e4792a85d7f09c06789ec800fc4a44aec362764e",
    "lid_model",
)
LID_TEXT = "fastText's language model: lid.176.bin [code], or lid.176.ftz, nearly the same [default: the former, downloaded once]"
ENGLISH = "en"
FASTTEXTS = ("fasttext-predict", "fasttext", "fasttext-wheel")  # packages, of which each gives the module fasttext
CLD3S = ("gcld3", "cld3-py")  # likewise gcld3; both give the same languages
BYTES = 1000  # of a caption that CLD3 looks at, at most [code]
EXTRA = "densprune[text]"
TOKEN = re.compile("\n|[^ \n\r\t\v\f\0]+")  # as fastText splits: a line break is a token too
USUAL, USUAL_CLD3 = 6e-6, 40e-6  # seconds a caption
CHOSEN = 256  # captions of a trial


# -- fastText


def lid_model(work: Work, path: str | None) -> Given:
    """The model, and what reads it."""
    library = package("fasttext", FASTTEXTS)
    found = assets.find(work, LID, path)
    with found.path.open("rb") as file:
        if file.read(len(lid.MAGIC)) != lid.MAGIC:
            raise _no_model(found.path, "it does not begin as one")
    return Given(found.path, f"{found.key} {library}")


def english(texts: Sequence[str], model: Given) -> Bool:
    """(n,) of which the most likely language is English. Line breaks are spaces to it [code]."""
    lines = _lines(texts)
    asked = _asked(model)
    if asked is None:
        return _by_fasttext(lines, model)
    found, sure = asked.is_likeliest(ENGLISH, lines)
    rest = np.flatnonzero(~sure)
    found[rest] = _by_fasttext([lines[at] for at in rest], model)
    return found


def languages(texts: Sequence[str], model: Given) -> list[str]:
    """The most likely language of each, as the model calls it; empty where it says nothing."""
    labels = _fasttext(model)(_lines(texts)) if len(texts) else ()
    return ["".join(one).removeprefix("__label__") for one in labels]


def _lines(texts: Sequence[str]) -> list[str]:
    """Line breaks are spaces to it [code]."""
    return [text.replace("\n", " ") for text in texts]


@shared(1)
def _asked(model: Given) -> lid.Asked | None:
    """The model as we read it, unless it is of a kind that we leave to fastText."""
    try:
        found = lid.read(model.path)
    except (ValueError, IndexError, MemoryError) as error:
        raise _no_model(model.path, error) from None
    if found is not None and ENGLISH not in found.labels:
        raise BadInput(model.path, f"knows no language '{ENGLISH}'", f"name another model by --{LID.flag}")
    return found and lid.Asked(found)


def _by_fasttext(lines: list[str], model: Given) -> Bool:
    labels = _fasttext(model)(lines) if lines else ()
    return np.array([[f"__label__{ENGLISH}"] == list(one) for one in labels], bool)


Labels = Callable[[list[str]], Sequence[Sequence[str]]]  # the likeliest label of each line


@shared(1)
def _fasttext(given: Given) -> Labels:
    """fastText itself, asked of many lines at once: that works with numpy 2, whichever package it is."""
    fasttext = module("fasttext")
    if hasattr(fasttext.FastText, "eprint"):
        fasttext.FastText.eprint = lambda line: None  # it says on stderr what a load gives
    try:
        model = fasttext.load_model(str(given.path))
    except (ValueError, RuntimeError, MemoryError) as error:
        raise _no_model(given.path, error) from None
    if hasattr(fasttext, "tokenize"):
        return lambda lines: model.predict(lines)[0]
    # fasttext-predict's own predict takes one line only, but what is below it takes many.
    return lambda lines: model.f.multilinePredict([line + "\n" for line in lines], 1, 0.0, "strict")


def _no_model(path: Path, reason: object) -> BadInput:
    return BadInput(path, f"is no fastText model ({reason})", f"name one by --{LID.flag}")


# -- CLD3


def cld3() -> str:
    """What reads captions with CLD3, with its version. It brings its model along."""
    return package("gcld3", CLD3S)


def english_by_cld3(texts: Sequence[str]) -> Bool:
    """(n,) of which CLD3's language is English."""
    detect = _detector()
    return np.array([detect(text=text.replace("\n", " ")).language == ENGLISH for text in texts], bool)


@shared(1)
def _detector() -> Callable[..., Any]:
    detector = module("gcld3").NNetLanguageIdentifier(min_num_bytes=0, max_num_bytes=BYTES)
    find: Callable[..., Any] = detector.FindLanguage
    return find


# -- rules that are a row of tests


Test = Callable[[list[str]], Bool]


def tested(view: View, ahead: Sequence[Bool], tests: Sequence[Test]) -> I8:
    """(m,) int8 of the rows in play: how many tests a row passes before it fails one; -1 where there is no caption.

    ahead  (m,) bool, tests that need no caption
    tests  the dear ones last: they are asked of few
    """
    passed = np.zeros(len(view.at), np.int8)
    for at, texts in view.captions():
        place = view.place(at)
        left = np.array([text is not None for text in texts], bool)
        here = left.astype(np.int8) - np.int8(1)
        for known in ahead:
            left &= known[place]
            here += left
        for test in tests:
            rows = np.flatnonzero(left)
            left[rows] = test([str(texts[row]) for row in rows])
            here += left
        passed[place] = here
    return passed


def longer(characters: int) -> Test:
    """More code points than that."""
    return lambda texts: np.array([len(text) > characters for text in texts], bool)


def worded(words: int) -> Test:
    """More words than that, by `str.split` [code]."""
    return lambda texts: np.array([len(text.split()) > words for text in texts], bool)


def tokened(tokens: int) -> Test:
    """More tokens than that, by fastText."""
    return lambda texts: np.array([len(TOKEN.findall(text)) > tokens for text in texts], bool)


def caption_rule(view: View, model: Given) -> I8:
    """(m,) int8 of the rows in play: 3 where image_based looks at the image, less where the caption keeps it from that, -1 without one."""
    return tested(view, (), (longer(5), tokened(1), lambda texts: english(texts, model)))


# -- what is installed


def package(name: str, packages: Sequence[str]) -> str:
    """The package that gives a module, with its version; raises BadInput, naming the extra, when there is none."""
    module(name)
    for one in packages:
        try:
            return f"{one} {version(one)}"
        except PackageNotFoundError:
            continue
    return name


def module(name: str) -> Any:
    """A module of the extra `text`; raises BadInput when it is not installed."""
    try:
        return import_module(name)
    except ImportError as error:
        raise BadInput(name, f"is not installed ({error})", f"pip install '{EXTRA}'") from None


# -- what it takes


def expect(plan: Plan, path: str | None, rows: float) -> Cost:
    """So many captions whose language fastText tells; raises BadInput for what is not there."""
    package("fasttext", FASTTEXTS)
    assets.expect(plan, LID, path)
    known = Path(path) if path is not None else assets.cache() / LID.name
    return Cost({Kernel(detecting, (known if known.is_file() else None, plan.processes > 1), USUAL): rows})


def expect_cld3(plan: Plan, rows: float) -> Cost:
    """So many captions whose language CLD3 tells."""
    cld3()
    return Cost({Kernel(detecting_by_cld3, (plan.processes > 1,), USUAL_CLD3): rows})


def detecting(site: Site, path: Path | None, alone: bool) -> Trial:
    """Captions of the pool whose language fastText tells. A model that is not there yet counts as on an ordinary machine."""
    if path is None:
        return _pretended
    model = Given(path, "")
    return on_captions(site, lambda texts: english(texts, model), alone)


def detecting_by_cld3(site: Site, alone: bool) -> Trial:
    """Captions of the pool whose language CLD3 tells."""
    return on_captions(site, english_by_cld3, alone)


def _pretended() -> float:
    time.sleep(1e-3)
    return 1e-3 / USUAL


def on_captions(site: Site, test: Test, alone: bool) -> Trial:
    """A test of captions of the pool. alone: workers are processes, which do not wait for each other as the trial's threads do."""
    batch = next(iter(parquet_batches(max(site.pool.shards, key=lambda one: one.rows), "text", lambda size: None)))
    texts = [text for text in batch.slice(0, CHOSEN).to_pylist() if text is not None] or [""]
    test(texts[:1])  # loads what it needs

    def trial() -> float:
        wall, own = time.perf_counter(), time.thread_time()
        test(texts)
        waited = (time.perf_counter() - wall) / max(1e-9, time.thread_time() - own)
        return len(texts) * (max(1.0, waited) if alone else 1.0)

    return trial
