"""DataComp's `text_based`: English captions with a word that names something of ImageNet-21k. METHOD 4."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from baselines import language, wordnet
from baselines.baseline import ENGINE, Baseline
from filters.command import Command
from filters.filter import Cut, Filter, Measured, Plan
from filters.maths.arrays import Array
from filters.options import Layers, option
from filters.pool.columns import TEXTS, Rows
from filters.work.view import View
from filters.work.work import Work
from filters.work.workdir import Given
from submission.published import MEDIUM


@dataclass(frozen=True)
class TextBased(Filter):
    """Keep what passes two tests. Column `text_based`: how many, in the order of `texts`, before one fails."""

    name: ClassVar[str] = "text_based"

    lid_model: str | None = option(language.LID_TEXT, None, path=True)
    wordnet_dir: str | None = option(wordnet.DICT_TEXT, None, path=True)
    imagenet_ids: str | None = option(wordnet.ENTITIES_TEXT, None, path=True)

    def measure(self, work: Work, rows: Rows) -> Measured:
        work.pool.check_column("text", TEXTS)
        model, dictionary = language.lid_model(work, self.lid_model), wordnet.dictionary(self.wordnet_dir)
        return Measured(columns=work.column(texts, rows, model, dictionary, wordnet.entities(work, self.imagenet_ids)))

    def decide(self, work: Work, rows: Rows, seen: Measured) -> Cut:
        return Cut(by=seen.columns["text_based"], threshold=2)

    def expect(self, plan: Plan, rows: int) -> int:
        cost = language.expect(plan, self.lid_model, rows) + wordnet.expect(plan, self.wordnet_dir, self.imagenet_ids, rows)
        plan.column(texts, rows, cost + plan.parsed("text"), "i1")
        plan.measured(rows, text_based="i1")
        return plan.cut(rows, None)

    def looks_at_embeddings(self) -> bool:
        return False


def texts(view: View, model: Given, dictionary: Given, entities: Given) -> dict[str, Array]:
    """0: no word names anything of the list; 1: not English; 2: neither. [code]"""
    tests = (
        lambda captions: wordnet.name_something(captions, dictionary, entities),
        lambda captions: language.english(captions, model),
    )
    return {"text_based": language.tested(view, (), tests)}


def recipe(layers: Layers) -> Filter:
    made: TextBased = layers.part(TextBased, "text_based")
    return made


BASELINE = Baseline(
    Command("text_based", "Keep English captions that name something of ImageNet-21k.", recipe, (("text_based", TextBased),), usual=ENGINE),
    "DataComp baselines.py [code]",
    MEDIUM["text_based"],
    needs="parquet files; lid.176.bin, WordNet, ImageNet-21k's list, extra text",
)
