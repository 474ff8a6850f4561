"""Captions that are awkward, and a WordNet of a few words, in the format of its files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.pools import random_uids, write_shard

AWKWARD = [
    "",
    " ",
    "\n",
    "\n\n\n\n\n\n\n",
    "\0",
    "a dog\0and a cat\0on a sofa",
    "a photo of\na large dog\n",
    "a photo of\r\na large dog",
    "two\u3000words\u3000here and two more",  # ideographic spaces
    "no\u00a0break\u00a0spaces in\u00a0this",
    "unit\x1fseparators\x1cbetween words",
    "\x0bvertical\x0bdogs\x0c",
    "dogs",
    "DOGS",
    "A VERY LOUD PHOTOGRAPH OF GEESE",
    "The quick brown fox jumps over the lazy dog",
    "running",
    "a b c",
    "abcde",
    "abcdef",
    "a b cd",
    "a bc def",
    "𝒶𝒷𝒸 𝒹𝑒𝒻 𝑔",
    "cafe\u0301 de\u0301ja\u0300 vu in the city",  # combining characters
    "café déjà vu in the city",
    "ein großer Hund auf der Straße vor dem Haus",
    "un chien noir qui court dans la neige",
    "一只狗在雪地里奔跑",
    "собака бежит по снегу",
    "犬が走る dog",
    "__label__en",
    "__label__fr the dog sat on the mat today",
    "</s> the dog sat on the mat today",
    "IMG_20140504_112233.jpg",
    "🐶🐶🐶 dogs! dogs! dogs!",
    "dog-sled dog_sled women's",
    "ho" * 3000,
    "the dog runs over the hill and the geese fly " * 100,
    "x" * 1000 + " the dog is English only at the far end of it",
]
SIDES = [(200, 200), (199, 400), (200, 600), (200, 601), (600, 200), (0, 0), (0, 300), (512, 384), (1000, 333), (1000, 334)]
SCORES = np.array([0.28, 0.2799, np.nextafter(np.float32(0.28), 0), np.nextafter(np.float32(0.28), 1), 0.5, 0.1, -0.1], np.float32)
PARTS = {"n": "noun", "v": "verb", "a": "adj", "r": "adv"}
SYNSETS = {
    "n": [["dog", "domestic_dog"], ["frump", "dog"], ["goose"], ["run", "tally"], ["sled"], ["woman"], ["better"], ["hill"]],
    "v": [["run", "go"], ["chase", "dog"], ["fly"], ["sit"]],
    "a": [["large", "big"], ["lazy"], ["good"]],
    "r": [["today"], ["well"]],
}
EXCEPTIONS = {"n": {"geese": "goose", "women": "woman"}, "v": {"ran": "run", "sat": "sit"}, "a": {"better": "good"}, "r": {"best": "well"}}


def captions(rng: np.random.Generator, count: int) -> list[str]:
    """The awkward ones, and others made of their words and letters."""
    words = [word for text in AWKWARD for word in text.split() if len(word) < 40]
    letters = sorted({letter for text in AWKWARD for letter in text})
    made = list(AWKWARD[:count])
    while len(made) < count:
        joint = str(rng.choice([" ", "  ", "\n", "\t", "\u3000"]))
        made.append(joint.join(rng.choice(words, rng.integers(0, 9))) + "".join(rng.choice(letters, rng.integers(0, 4))))
    return made


def write_captioned(folder: Path, rng: np.random.Generator, sizes: tuple[int, ...] = (90, 70)) -> list[dict[str, object]]:
    """A pool of such captions, with sides and scores about the limits, whose npz files are none; returns its rows."""
    count = sum(sizes)
    sides = [SIDES[at] for at in rng.integers(0, len(SIDES), count)]
    scores, uids, texts = rng.choice(SCORES, count), random_uids(rng, count), captions(rng, count)
    end = 0
    for number, size in enumerate(sizes):
        rows, end = slice(end, end + size), end + size
        write_shard(folder, f"{number:032x}", uids[rows], {}, scores[rows], texts=[*texts[rows]], sides=sides[rows])
        (folder / f"{number:032x}.npz").write_bytes(b"no zip")
    names = ("uid", "text", "sides", "score")
    return [dict(zip(names, row, strict=True)) for row in zip(uids, texts, sides, scores, strict=True)]


def write_wordnet(folder: Path) -> dict[tuple[str, str], list[int]]:
    """data, index and exceptions as WordNet has them; returns the synsets of each part of speech and lemma, by their offsets."""
    folder.mkdir(parents=True)
    found: dict[tuple[str, str], list[int]] = {}
    for part, name in PARTS.items():
        lines = ["  1 WordNet 3.0 Copyright of nobody, made for a test\n"]
        for lemmas in SYNSETS[part]:
            offset = len("".join(lines))
            named = " ".join(f"{lemma} 0" for lemma in lemmas)
            lines.append(f"{offset:08} 03 {part} {len(lemmas):02x} {named} 000 | made for a test  \n")
            for lemma in lemmas:
                found.setdefault((part, lemma), []).append(offset)
        (folder / f"data.{name}").write_text("".join(lines))
        index = [
            f"{lemma} {at} {len(o)} 0 {len(o)} 0 {' '.join(f'{one:08}' for one in o)}  \n" for (at, lemma), o in found.items() if at == part
        ]
        (folder / f"index.{name}").write_text("".join(index))
        (folder / f"{name}.exc").write_text("".join(f"{word} {base}\n" for word, base in EXCEPTIONS[part].items()))
    return found
