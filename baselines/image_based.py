"""DataComp's `image_based`: English captions, and images that lie where those of ImageNet do. METHOD 4.

    python baselines/run.py --name image_based --metadata_dir DIR --save_path OUT.npy --image_based_scale small

The pool has centroids, and each image the one of largest inner product. An image stays when its centroid is also that of at least
one target image. Captions go first, since they are read from the parquet files alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from baselines import assets, language
from baselines.assets import RELEASE, Asset
from baselines.baseline import Baseline
from filters.command import Command
from filters.filter import Cut, Filter, Measured, Plan, Recipe
from filters.maths import exact
from filters.maths.arrays import Array
from filters.maths.blocks import BLOCK
from filters.maths.device import shared
from filters.options import Layers, check_fields, option
from filters.pool import targets
from filters.pool.columns import TEXTS, Rows
from filters.pool.errors import BadInput
from filters.pool.pool import Features
from filters.topscore import TopScore
from filters.work.plan import FLOPS, LARGE, Cost
from filters.work.rates import Kernel, Site, Trial
from filters.work.view import View
from filters.work.work import Work
from filters.work.workdir import Given, Saved
from submission.published import MEDIUM

FEATURES = "l14_img"
SCALES = {
    "small": "23c66a05e49ad77283c1e2b33355c7eb088ac332a944c97ff85d5dfd48a5b251",
    "medium": "028b1721b1d0f139c565b6b0ac99f8a1756f4bae89c36b0ec6d1c6ea9b6f112d",
    "large": "04eeab1069d3540c246cf7ce69323147351a474017fc472e4c50a018ca32240b",
    "xlarge": "3f62e5f8ae3a715ce84e422846fcfce1536d184455ea234790c4a6465c4c6726",
}
IMAGENET = (
    "304990fd492f40ba90072b80af78d6e8edcab9d042476ef513e03441cf53743b",
    "72f008e6aa3bfb54174fa322963215337f843fc90fd642a9dccc815dd9e7ee76",
    "83c3cc6503b8a50a22cac7023ca6cd61b130ab9725db2a7519f1bec5cabf5493",
    "83faa289f847799ddcd438e5b74df1cb5973c345674896d10ba31ea48bc63804",
    "067a45f4a140a93371876510a2fd9198a89ac1d194ae4063a51b45a6da69cadf",
)
IMAGES, CLUSTERS = 1_281_167, 100_000  # of ImageNet's training set; centroids that DataComp made of small


def centroids_of(scale: str) -> Asset:
    return Asset(f"{scale}_centroids_l14.pt", f"{RELEASE}/{scale}_centroids_l14.pt", SCALES[scale], "centroids")


def imagenet() -> list[Asset]:
    """The features of ImageNet's training images, in five files."""
    names = (f"in1k_clip_vit_l14_{number}.pt" for number in range(len(IMAGENET)))
    return [Asset(name, f"{RELEASE}/{name}", sha256, "target_features") for name, sha256 in zip(names, IMAGENET, strict=True)]


@dataclass(frozen=True)
class Captions(Filter):
    """Keep English captions of more than one token and more than five characters. Column `caption`: tests passed before one fails."""

    name: ClassVar[str] = "captions"

    lid_model: str | None = option(language.LID_TEXT, None, path=True)

    def measure(self, work: Work, rows: Rows) -> Measured:
        work.pool.check_column("text", TEXTS)
        return Measured(columns=work.column(caption, rows, language.lid_model(work, self.lid_model)))

    def decide(self, work: Work, rows: Rows, seen: Measured) -> Cut:
        return Cut(by=seen.columns["caption"], threshold=3)

    def expect(self, plan: Plan, rows: int) -> int:
        plan.column(caption, rows, plan.parsed("text") + language.expect(plan, self.lid_model, rows), "i1")
        plan.measured(rows, caption="i1")
        return plan.cut(rows, None)

    def looks_at_embeddings(self) -> bool:
        return False


def caption(view: View, model: Given) -> dict[str, Array]:
    """0: at most 5 characters; 1: at most one token; 2: not English; 3: none of these. [code]"""
    return {"caption": language.caption_rule(view, model)}


@dataclass(frozen=True)
class Sources:
    """Where the centroids and the target images' embeddings are."""

    alternatives: ClassVar[tuple[tuple[str, ...], ...]] = (("image_based_scale", "centroids"),)

    image_based_scale: str | None = option("whose centroids, made by DataComp, downloaded once [code]", None, choices=tuple(SCALES))
    centroids: str | None = option("file of centroids instead, .npy, .npz or .pt", None, path=True)
    target_features: str | None = option(
        "file of target images' embeddings, .npy, .npz or .pt, or a pattern of several, such as 'DIR/in1k_*.pt' "
        "[default: ImageNet's training set, made by DataComp, downloaded once; code]",
        None,
        path=True,
    )

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class NearTargets(Sources, Filter):
    """Keep the images whose nearest pool centroid is also the nearest one of a target image."""

    name: ClassVar[str] = "image_based"

    def measure(self, work: Work, rows: Rows) -> Measured:
        features = work.pool.features(FEATURES)
        table = work.once(pool_centroids, self._centroids(work), features.width)["centroids"]
        parts = [work.once(met_by_targets, given, table)["met"] for given in self._targets(work)]
        met = work.once(target_centroids, *parts)["target_centroids"]
        near = work.column(nearest_centroid, rows, features, table, met)
        return Measured(columns=near, arrays={"target_centroids": met})

    def decide(self, work: Work, rows: Rows, seen: Measured) -> Cut:
        return Cut(by=seen.columns["near_target"], threshold=1)

    def expect(self, plan: Plan, rows: int) -> int:
        features = plan.pool.features(FEATURES)
        k = self._centroid_count(plan)
        plan.holds("centroids", 4 * k * features.width)
        with plan.once("pool_centroids", 4 * k * features.width):
            pass
        for count in self._target_counts(plan):
            with plan.once("met_by_targets", k):
                steps = -(-count // exact.Exact.size)
                plan.each("target images", count, Cost(), _compared(features, count, k) * (1 / min(plan.workers, steps)))
        with plan.once("target_centroids", 8 * min(k, IMAGES)):
            pass
        plan.column(nearest_centroid, rows, plan.blocks(features, rows) + _compared(features, rows, k), "i4", "i1")
        plan.measured(rows, centroid="i4", near_target="i1")
        return plan.cut(rows, None)

    def _centroids(self, work: Work) -> Given:
        if self.centroids is not None:
            return assets.given(self.centroids, "centroids")
        return assets.find(work, centroids_of(str(self.image_based_scale)), None)

    def _centroid_count(self, plan: Plan) -> int:
        if self.centroids is not None:
            return len(targets.unchecked(Path(self.centroids)))
        return _rows_of(plan, centroids_of(str(self.image_based_scale)), CLUSTERS)

    def _targets(self, work: Work) -> list[Given]:
        if self.target_features is None:
            return [assets.find(work, asset, None) for asset in imagenet()]
        return [assets.given(str(path), "target_features") for path in _matching(self.target_features)]

    def _target_counts(self, plan: Plan) -> list[int]:
        """Rows of each file."""
        if self.target_features is None:
            return [_rows_of(plan, asset, IMAGES // len(IMAGENET)) for asset in imagenet()]
        return [len(targets.unchecked(path)) for path in _matching(self.target_features)]


def _matching(pattern: str) -> list[Path]:
    """The file, or the files that match, by name."""
    path = Path(pattern)
    found = [path] if path.is_file() else sorted(path.parent.glob(path.name))
    if not found:
        raise BadInput(path, "is not there", "name a file of embeddings, or a pattern of several, by --target_features")
    return found


def _rows_of(plan: Plan, asset: Asset, usual: int) -> int:
    """Rows of a published file, as far as it is known before it is downloaded."""
    assets.expect(plan, asset, None)
    try:
        return len(targets.unchecked(assets.cache() / asset.name))
    except BadInput:  # it is not there, or harmed: a run downloads it
        plan.note(f"{asset.name} holds {usual:,} rows")
        return usual


def pool_centroids(work: Work, given: Given, width: int) -> dict[str, Array]:
    """(k, d) float32, as they lie in the file."""
    return {"centroids": _of_width(given.path, width).astype(np.float32)}


def met_by_targets(work: Work, given: Given, table: Saved) -> dict[str, Array]:
    """(k,) bool: the centroids that are the nearest of at least one row of the file."""
    k, width = table.load().shape
    rows = _of_width(given.path, width)
    with work.shown("target images", len(rows)) as watch:
        return {"met": exact.met(rows, _search(table, work.settings.device), k, work.engine.workers, watch)}


def target_centroids(work: Work, *parts: Saved) -> dict[str, Array]:
    """(t,) int64 ascending: the centroids that one part or another has met."""
    return {"target_centroids": np.flatnonzero(np.any([part.load() for part in parts], axis=0))}


def _of_width(path: Path, width: int) -> Array:
    rows = targets.load(path)
    if rows.shape[1] != width:
        raise BadInput(path, f"has rows of {rows.shape[1]} numbers, the pool's '{FEATURES}' of {width}", "name the file of this encoder")
    return rows


def nearest_centroid(view: View, features: Features, table: Saved, met: Saved) -> dict[str, Array]:
    """`centroid` (int32), and `near_target` (int8: whether a target image has it too). Of every row: DataComp leaves none out."""
    find, centroid = _search(table, view.device), np.empty(len(view.at), np.int32)
    for at, rows in view.stored(features.name, find.size):
        centroid[view.place(at)] = find(rows)
    return {"centroid": centroid, "near_target": np.isin(centroid, met.load()).astype(np.int8)}


@shared(2)
def _search(table: Saved, device: str) -> exact.Exact:
    """One for all shards that a process works on."""
    return exact.Exact(np.array(table.load()), device)


def _compared(features: Features, rows: int, k: int) -> Cost:
    """Each row with all of k centroids."""
    tried = min(k, LARGE)
    kernel = Kernel(comparing, (features.width, features.dtype, tried), 2 * features.width * tried / FLOPS)
    return Cost({kernel: rows * k / tried})


def comparing(site: Site, width: int, dtype: str, k: int) -> Trial:
    """Rows that find the nearest of k centroids."""
    chance = np.random.default_rng(0)
    find = exact.Exact(chance.standard_normal((k, width), np.float32), site.device)
    rows = chance.standard_normal((BLOCK if site.device == "cpu" else find.size, width), np.float32).astype(dtype)

    def trial() -> float:
        find(rows)
        return len(rows)

    return trial


# -- the commands


@dataclass(frozen=True)
class ImageBased(Sources):
    """As DataComp spells its options."""

    lid_model: str | None = option(language.LID_TEXT, None, path=True)

    def recipe(self) -> Recipe:
        return Captions(self.lid_model) >> NearTargets(self.image_based_scale, self.centroids, self.target_features)


@dataclass(frozen=True)
class ImageBasedIntersectClipScore(ImageBased):
    """The same, and those of `clip_score`."""

    alternatives: ClassVar[tuple[tuple[str, ...], ...]] = (*Sources.alternatives, ("fraction", "threshold"))

    arch: str = option("whose CLIP score [code]", "l14", choices=("l14", "b32"))
    fraction: float | None = option(
        "the threshold is the score at position int(n * fraction) of the whole pool, from 0; it stays [code]", None, interval="(0, 1]"
    )
    threshold: float | None = option("smallest score to keep, instead of a fraction [code]", None, interval="(-inf, inf)")

    def recipe(self) -> Recipe:
        # The samples of `image_based & clip_score`. The score goes first, on the whole pool: fewer captions and images are looked at.
        return TopScore(self.arch, self.fraction, "pool", threshold=self.threshold, ties="all") >> super().recipe()


def recipe(layers: Layers) -> Recipe:
    told: ImageBased = layers.part(ImageBased, "image_based")
    return told.recipe()


def intersection(layers: Layers) -> Recipe:
    told: ImageBasedIntersectClipScore = layers.part(ImageBasedIntersectClipScore, "image_based_intersect_clip_score")
    return told.recipe()


SOURCE = "DataComp baselines.py [code]"
NEEDS = "parquet files, l14_img of the npz files; lid.176.bin, centroids, target images' features, extra text"
IMAGE_BASED = Baseline(
    Command("image_based", "Keep English captions with images near ImageNet's.", recipe, (("image_based", ImageBased),)),
    SOURCE,
    MEDIUM["image_based"],
    needs=NEEDS,
)
INTERSECTION = Baseline(
    Command(
        "image_based_intersect_clip_score",
        "Keep what image_based keeps and clip_score too.",
        intersection,
        (("image_based_intersect_clip_score", ImageBasedIntersectClipScore),),
    ),
    SOURCE,
    MEDIUM["image_based_intersect_clip_score"],
    needs=NEEDS,
)
