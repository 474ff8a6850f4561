"""Whether a checkout of DataComp is usable here: a line a check, each fault with its cure."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from tools.loop.checkout import HOME, OUTSIDE, Checkout

PROTOC = "apt-get install protobuf-compiler libprotobuf-dev libprotoc-dev"


class Line(NamedTuple):
    """What one check found. A cure of what is no fault is for who wants more than the loop."""

    name: str
    found: str
    fault: bool = False
    cure: str = ""

    def __str__(self) -> str:
        mark = "WRONG" if self.fault else "--" if self.cure else "ok"
        return f"{mark:<5}  {self.name}: {self.found}" + (f"; {self.cure}" if self.cure else "")


@dataclass(frozen=True)
class Need:
    """Something that scripts import, as `outside.py probe` takes it, and what installs it."""

    what: str
    distribution: str
    scripts: str
    pip: str

    def line(self, python: str, told: dict[str, Any]) -> Line:
        version = told["versions"].get(self.distribution)
        name, error = f"{self.scripts}: {self.what}", told["modules"][self.what]
        if error is None:
            return Line(name, f"{self.distribution} {version or 'of no version'}")
        found = f"{self.distribution} {version} gives {error}" if version else error
        return Line(name, found, True, f"{python} -m pip install {self.pip}")


# What is named behind a colon went away in later releases, or came from earlier ones.
NEEDS = (
    Need("numpy", "numpy", "all", "'numpy<2.4'"),
    Need("tqdm", "tqdm", "all", "tqdm"),
    Need("cloudpathlib:CloudPath", "cloudpathlib", "all", "cloudpathlib"),
    Need("webdataset:writer.gopen.Pipe", "webdataset", "all", "webdataset==0.2.31"),
    Need("pyarrow.parquet", "pyarrow", "resharder", "pyarrow"),
    Need("simdjson:Parser", "pysimdjson", "resharder", "pysimdjson"),
    Need("cv2", "opencv-python-headless", "resharder", "'opencv-python-headless<5'"),
    Need("albumentations", "albumentations", "resharder", "'albumentations<2'"),
    Need("wandb", "wandb", "resharder", "wandb"),
    Need("fire", "fire", "resharder", "fire"),
    Need("exifread", "exifread", "resharder", "exifread"),
    Need("img2dataset.blurrer:BoundingBoxBlurrer", "img2dataset", "resharder", "--no-deps img2dataset==1.47.0"),
    Need("torch", "torch", "train, evaluate", "torch"),
    Need("torchvision", "torchvision", "train, evaluate", "--no-deps torchvision"),
    *(Need(one, one, "train, evaluate", one) for one in ("timm", "ftfy", "regex", "pandas", "braceexpand")),
    Need("open_clip", "open-clip-torch", "train, evaluate", "--no-deps open_clip_torch==2.16.1"),
    Need("training.main:main", "open-clip-torch", "train", "--no-deps open_clip_torch==2.16.1"),
    Need("yaml", "pyyaml", "evaluate", "pyyaml"),
    Need("requests", "requests", "evaluate", "requests"),
    Need("sklearn.metrics", "scikit-learn", "evaluate", "scikit-learn"),
    Need("huggingface_hub:Repository", "huggingface-hub", "evaluate", "'huggingface_hub<1'"),
    Need("datasets", "datasets", "evaluate", "datasets==3.6.0"),
    Need("clip_benchmark.metrics.zeroshot_classification", "clip-benchmark", "evaluate", "--no-deps clip_benchmark==1.4.0"),
    Need("wilds", "wilds", "evaluate", "--no-deps wilds==2.0.0"),
)


def lines(checkout: Checkout) -> Iterator[Line]:
    yield _files(checkout)
    asked = [need.what for need in NEEDS] + ["gcld3"]
    told = json.loads(checkout.output_of([str(OUTSIDE), "probe", str(checkout.folder.resolve()), *asked]))
    yield Line("python", f"{told['python']}, {checkout.python}")
    for need in NEEDS:
        yield need.line(checkout.python, told)
    if told["operators"]:
        yield Line("torchvision", "was built for another torch; its operators are declared from outside")
    yield _gcld3(checkout, told)
    yield _gpu(told)


def _files(checkout: Checkout) -> Line:
    missing = checkout.missing()
    if missing:
        return Line(
            "checkout", f"{checkout.folder} has no {', '.join(missing)}", True, f"git clone {HOME}, and name it with --datacomp_dir"
        )
    return Line("checkout", f"{checkout.folder}, commit {_commit(checkout) or 'not known'}")


def _commit(checkout: Checkout) -> str:
    call = ["git", "-C", str(checkout.folder), "log", "-1", "--format=%h of %as"]
    try:
        return subprocess.run(call, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""  # there is no git


def _gcld3(checkout: Checkout, told: dict[str, Any]) -> Line:
    error = told["modules"]["gcld3"]
    if error is None:
        return Line("baselines: gcld3", f"gcld3 {told['versions'].get('gcld3', 'of no version')}")
    cure = f"for DataComp's baselines.py, not for the loop: {PROTOC} && {checkout.python} -m pip install gcld3"
    return Line("baselines: gcld3", error, cure=cure)


def _gpu(told: dict[str, Any]) -> Line:
    if told["gpu"]:
        return Line("gpu", told["gpu"])
    return Line("gpu", "none that torch sees", cure="DataComp's own scales need one, --tiny does not")
