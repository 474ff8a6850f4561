"""Embeddings of one's own: tools/embed.py."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from filters import densprune
from filters.pool.pool import Pool
from filters.work.engine import one_thread_each
from tests.pools import Array, random_uids, write_pool, write_shard
from tools import embed
from tools.embedding.libraries import library, torchvision
from tools.kill import counted, killed

PAGE = Path(embed.__file__)
NOISE = np.random.default_rng(3)


def picture(kind: str = "JPEG", mode: str = "RGB") -> bytes:
    """A picture of no particular size."""
    width, height = NOISE.integers(20, 60, 2)
    pixels = NOISE.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((width, height)).convert(mode).save(file, kind)
    return file.getvalue()


Told = list[tuple[str, str, bytes]]  # of a tar: name of the image, uid, image


def write_tar(path: Path, samples: Told) -> None:
    """As img2dataset writes one."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, uid, data in samples:
            stem = name.partition(".")[0]
            for member, body in ((name, data), (f"{stem}.json", json.dumps({"uid": uid}).encode()), (f"{stem}.txt", b"words")):
                info = tarfile.TarInfo(member)
                info.size = len(body)
                tar.addfile(info, io.BytesIO(body))


@dataclass
class World:
    """A pool, downloaded shards, and weights."""

    place: Path
    uids: list[str] = field(default_factory=list)  # of the pool, in its order
    tars: dict[str, Told] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (self.place / "shards").mkdir()
        self.uids = write_pool(self.place / "pool", np.random.default_rng(7))["uids"]
        held = [self.uids[row] for row in np.random.default_rng(5).permutation(140)[:120]] + random_uids(NOISE, 7)
        for number, some in enumerate((held[:50], held[50:51], held[51:])):
            kinds = [("png", "PNG", "RGBA") if at % 9 == 1 else ("jpg", "JPEG", "L" if at % 9 == 2 else "RGB") for at in range(len(some))]
            told = [(f"{number:05d}{at:04d}.{kinds[at][0]}", uid, picture(*kinds[at][1:])) for at, uid in enumerate(some)]
            self.tars[f"{number:08d}.tar"] = told
        self.tars["00000002.tar"].append(("000020999.jpg", held[3], picture()))  # in the first tar, too
        self.tars["00000000.tar"][10] = (*self.tars["00000000.tar"][10][:2], b"no picture")
        self.tars["00000000.tar"][11] = (*self.tars["00000000.tar"][11][:2], picture()[:-150])
        for name, told in self.tars.items():
            write_tar(self.place / "shards" / name, told)

    @property
    def bad(self) -> list[str]:
        """Uids of the images that cannot be decoded."""
        return [uid for _, uid, _ in self.tars["00000000.tar"][10:12]]

    def expected(self, rows: dict[bytes, Array], width: int) -> Array:
        """The row of each sample of the pool, by the rows of images; the first image of a uid counts."""
        of: dict[str, bytes] = {}
        for told in self.tars.values():
            for _, uid, data in told:
                of.setdefault(uid, data)
        nothing = np.full(width, np.nan)
        return np.array([nothing if uid not in of or uid in self.bad else rows[of[uid]] for uid in self.uids])

    def images(self) -> list[bytes]:
        return [data for told in self.tars.values() for _, uid, data in told if uid not in self.bad]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As these machines are shared: threads of products would wait for each other."""
    with one_thread_each():
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def weights(world: World) -> dict[str, Any]:
    """Models of random weights as timm makes them: files of these, and the models."""
    import torch

    timm, made = library("timm"), {}
    torch.manual_seed(1)
    for name, more in (("test_vit", {"img_size": 32}), ("test_efficientnet", {})):
        model = timm.create_model(name, num_classes=3, **more)  # a classifier: its head is not needed
        torch.save(model.state_dict(), world.place / f"{name}.pth")
        model.reset_classifier(0)
        made[name] = model.eval()
    return made


def arguments(world: World, out: Path, *more: str, model: str = "test_vit") -> list[str]:
    places = ["--metadata_dir", str(world.place / "pool"), "--shards_dir", str(world.place / "shards"), "--save_dir", str(out)]
    how = ["--model", model, "--checkpoint", str(world.place / f"{model}.pth"), "--device", "cpu", "--num_workers", "2", "--quiet"]
    return [*places, *how, *(() if "--image_size" in more else ("--image_size", "32")), *more]


def found(world: World, out: Path, member: str) -> Array:
    """The rows of a member, of all shards in the order of the pool."""
    parts = []
    for shard in Pool.open(world.place / "pool").shards:
        with np.load(out / f"{shard.key}.npz") as npz:
            assert npz[member].dtype == np.float16
            assert len(npz[member]) == shard.rows
            parts.append(npz[member])
    return np.concatenate(parts)


def bytes_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.glob("*.npz"))}


def said(capfd: pytest.CaptureFixture[str], call: list[str]) -> str:
    """What a refused call says: one line."""
    capfd.readouterr()
    assert embed.main(call) == 2
    line = capfd.readouterr().err
    assert line.count("\n") == 1
    return line


def by_timm(model: Any, images: list[bytes], side: int) -> dict[bytes, Array]:
    """As timm's own documentation has it, an image at a time."""
    import torch

    timm = library("timm")
    transform = timm.data.create_transform(**timm.data.resolve_data_config({"input_size": (3, side, side)}, model=model))
    rows = {}
    for data in images:
        with torch.inference_mode():
            row = model(transform(Image.open(io.BytesIO(data)).convert("RGB")).unsqueeze(0))[0]
        rows[data] = (row / row.norm()).numpy()
    return rows


@pytest.mark.parametrize(("model", "side"), [("test_vit", 32), ("test_efficientnet", 48)])
def test_rows_are_those_of_the_library_in_the_order_of_the_pool(
    model: str, side: int, world: World, weights: dict[str, Any], tmp_path: Path
) -> None:
    assert embed.main(arguments(world, tmp_path / "out", "--image_size", str(side), model=model)) == 0
    rows = found(world, tmp_path / "out", f"{model}_img")
    expected = world.expected(by_timm(weights[model], world.images(), side), rows.shape[1])
    assert np.isnan(expected).any(axis=1).sum() == 20 + 2
    np.testing.assert_allclose(rows, expected, rtol=2e-3, atol=2e-4)  # float16 has 11 bits


def test_what_is_lost_on_the_way_is_counted_and_named(
    world: World, weights: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    call = [word for word in arguments(world, tmp_path / "out") if word != "--quiet"]
    for _ in range(2):  # the second finds all of it
        assert embed.main(call) == 0
        told = dict(line.rsplit("  ", 1) for line in capfd.readouterr().out.splitlines() if "see" not in line and "first" not in line)
        counts = {name.strip(): int(count.replace(",", "")) for name, count in told.items() if count.strip().replace(",", "").isdigit()}
        assert counts == {"rows of the pool": 140, "embedded": 118, "without an image": 20, "images in the tars": 128, "not in the pool": 7}
    lines = (tmp_path / "out" / "undecodable.txt").read_text().splitlines()
    assert [line.partition(":")[0] for line in lines] == [f"00000000.tar/{world.tars['00000000.tar'][at][0]}" for at in (10, 11)]
    assert not (tmp_path / "out" / "stages").exists()


def test_bytes_depend_on_no_number_of_workers(world: World, weights: dict[str, Any], tmp_path: Path) -> None:
    for workers in ("1", "3"):
        assert embed.main(arguments(world, tmp_path / workers, "--num_workers", workers, "--batch_size", "16")) == 0
    assert bytes_of(tmp_path / "1") == bytes_of(tmp_path / "3")


@pytest.mark.slow
def test_processes_leave_the_same_bytes_as_threads(world: World, weights: dict[str, Any], tmp_path: Path) -> None:
    for engine in ("threads", "processes"):
        assert embed.main(arguments(world, tmp_path / engine, "--engine", engine, "--batch_size", "16")) == 0
    assert bytes_of(tmp_path / "threads") == bytes_of(tmp_path / "processes")


def test_half_precision_is_near_full_precision(world: World, weights: dict[str, Any], tmp_path: Path) -> None:
    for precision in ("fp32", "bf16"):
        assert embed.main(arguments(world, tmp_path / precision, "--precision", precision)) == 0
    full, half = (found(world, tmp_path / precision, "test_vit_img").astype(np.float32) for precision in ("fp32", "bf16"))
    cosines = np.einsum("nd,nd->n", full, half)
    assert np.nanmin(cosines) > 0.999
    assert (full != half).any()


def test_a_killed_run_goes_on_to_the_same_bytes(world: World, weights: dict[str, Any], tmp_path: Path) -> None:
    call = arguments(world, tmp_path / "whole")
    assert embed.main(call) == 0
    again = tmp_path / "again"
    assert killed([str(PAGE), *arguments(world, again)], tmp_path, "rename", 14)  # in the second tar's unit
    first = {path: path.stat().st_mtime_ns for path in again.rglob("00000000-*.rows.npy")}
    assert first
    assert embed.main(arguments(world, again)) == 0
    assert bytes_of(again) == bytes_of(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("event", ["rename", "torn"])
def test_the_same_bytes_after_a_kill_at_each_point(event: str, world: World, weights: dict[str, Any], tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    total = counted([str(PAGE), *arguments(world, whole)], tmp_path)[event]
    for number in range(1, total + 1, 7):
        out = tmp_path / f"{number}"
        assert killed([str(PAGE), *arguments(world, out)], tmp_path, event, number)
        assert embed.main(arguments(world, out)) == 0
        assert bytes_of(out) == bytes_of(whole)


def test_what_is_done_is_not_done_again_and_what_was_harmed_is(world: World, weights: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert embed.main(arguments(world, out)) == 0
    before, dates = bytes_of(out), {path: path.stat().st_mtime_ns for path in out.glob("*.npz")}
    assert embed.main(arguments(world, out)) == 0
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.npz")} == dates
    harmed = min(dates)
    harmed.write_bytes(harmed.read_bytes()[:-1])
    assert embed.main(arguments(world, out)) == 0
    assert bytes_of(out) == before


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (("--precision", "bf16"), "precision fp32, not bf16"),
        (("--image_size", "48"), "image_size [32, 32], not [48, 48]"),
        (("--name", "other"), "members ['test_vit_img'], not ['other_img']"),
    ],
)
def test_other_settings_in_one_folder_are_refused(
    more: tuple[str, ...], named: str, world: World, weights: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert embed.main(arguments(world, tmp_path / "out")) == 0
    assert named in said(capfd, arguments(world, tmp_path / "out", *more))


def test_other_tars_are_refused_by_a_finished_folder_and_read_by_one_that_is_not(
    world: World, weights: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    write_tar(shards / "00000000.tar", world.tars["00000000.tar"])
    (shards / "00000001.tar").write_bytes(b"half a download")
    call = arguments(world, tmp_path / "out", "--shards_dir", str(shards))
    assert "of 2 tars 1 cannot be read, all others are done" in said(capfd, call)
    for name in ("00000001.tar", "00000002.tar"):
        write_tar(shards / name, world.tars[name])
    assert embed.main(call) == 0
    assert np.isnan(found(world, tmp_path / "out", "test_vit_img")[:, 0]).sum() == 22
    (shards / "00000002.tar").unlink()
    assert "was made of other shards (00000002.tar differs)" in said(capfd, call)


def test_of_a_uid_that_the_pool_has_twice_the_first_row_is_filled(world: World, weights: dict[str, Any], tmp_path: Path) -> None:
    told = world.tars["00000000.tar"][:3]
    write_shard(tmp_path / "pool", "0", [told[0][1], told[1][1]], {})
    write_shard(tmp_path / "pool", "1", [told[1][1], told[2][1]], {})
    assert embed.main(arguments(world, tmp_path / "out", "--metadata_dir", str(tmp_path / "pool"))) == 0
    filled = [np.isfinite(np.load(tmp_path / "out" / f"{key}.npz")["test_vit_img"]).all(axis=1).tolist() for key in "01"]
    assert filled == [[True, True], [False, True]]


def test_a_pools_own_folder_and_a_strangers_npz_are_left_alone(
    world: World, weights: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert "is the place of the pool" in said(capfd, arguments(world, world.place / "pool"))
    (tmp_path / f"{1:032x}.npz").write_bytes(b"mine")
    assert "no run of this tool made it" in said(capfd, arguments(world, tmp_path))
    assert (tmp_path / f"{1:032x}.npz").read_bytes() == b"mine"


def test_a_tar_that_is_cut_off_is_named_and_what_was_done_stays(
    world: World, weights: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    for name in world.tars:
        data = (world.place / "shards" / name).read_bytes()
        (shards / name).write_bytes(data[: len(data) // 2] if name == "00000002.tar" else data)
    call = arguments(world, tmp_path / "out", "--shards_dir", str(shards))
    line = said(capfd, call)
    assert "00000002.tar: is no whole tar file" in line
    assert list((tmp_path / "out").rglob("00000000-*.done"))
    write_tar(shards / "00000002.tar", world.tars["00000002.tar"])
    assert embed.main(call) == 0
    assert np.isnan(found(world, tmp_path / "out", "test_vit_img")[:, 0]).sum() == 22


def test_an_image_without_a_uid_is_named(world: World, weights: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    write_tar(shards / "00000000.tar", [("1.jpg", world.uids[0], picture()), ("2.jpg", "no uid", picture())])
    call = arguments(world, tmp_path / "out", "--shards_dir", str(shards))
    assert "00000000.tar: sample 1: uid 'no uid' is not" in said(capfd, call)
    with tarfile.open(shards / "00000000.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("lone.jpg"))
    assert "00000000.tar: member lone.jpg has no lone.json beside it" in said(capfd, call)


@pytest.mark.parametrize(
    ("model", "named"),
    [
        ("dinov2_vitl41", "perhaps dinov2_vitl14"),
        ("timm/vit_tiny_patch16_224.nonesuch", "vit_tiny_patch16_224.aug"),
        ("ViT-B-32/opena1", "take one of openai"),
        ("ViT-B-32", "ViT-B-32/"),
    ],
)
def test_a_name_that_is_no_model_is_answered_with_those_near(
    model: str, named: str, world: World, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    call = [word for word in arguments(world, tmp_path / "out", "--model", model) if "pth" not in word and word != "--checkpoint"]
    assert named in said(capfd, call)
    assert not (tmp_path / "out").exists()


def test_weights_that_cannot_be_had_are_told_in_one_line(
    world: World, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for model in ("test_vit2", "dinov2_vits14", "RN50-quickgelu/openai"):
        call = [word for word in arguments(world, tmp_path / "out", "--model", model) if "pth" not in word and word != "--checkpoint"]
        line = said(capfd, call)
        assert "its weights cannot be had" in line
        assert "give --checkpoint FILE" in line


def test_weights_of_another_model_are_refused(
    world: World, weights: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for model, checkpoint in (("test_vit2", "test_vit"), ("test_vit", "test_efficientnet")):
        call = arguments(world, tmp_path / "out", "--model", model, "--checkpoint", str(world.place / f"{checkpoint}.pth"))
        assert f"does not fit {model}" in said(capfd, call)
    (tmp_path / "junk.pth").write_bytes(b"junk")
    assert "junk.pth: does not fit test_vit" in said(capfd, arguments(world, tmp_path / "out", "--checkpoint", str(tmp_path / "junk.pth")))


MICRO = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1},
}


def test_images_and_captions_of_open_clip_are_those_of_the_library(world: World, tmp_path: Path) -> None:
    import pyarrow.parquet as pq
    import torch

    open_clip = library("open_clip")
    (tmp_path / "micro.json").write_text(json.dumps(MICRO))
    open_clip.add_model_config(tmp_path / "micro.json")
    torch.manual_seed(2)
    model, _, transform = open_clip.create_model_and_transforms("micro")
    torch.save(model.state_dict(), world.place / "micro.pth")
    assert embed.main(arguments(world, tmp_path / "out", "--text", "--name", "own", model="micro")) == 0
    with torch.inference_mode():
        rows = {
            data: model.encode_image(transform(Image.open(io.BytesIO(data))).unsqueeze(0), normalize=True)[0].numpy()
            for data in world.images()
        }
        texts = [text for path in sorted((world.place / "pool").glob("*.parquet")) for text in pq.read_table(path)["text"].to_pylist()]
        captions = model.encode_text(open_clip.get_tokenizer("micro")(texts), normalize=True).numpy()
    np.testing.assert_allclose(found(world, tmp_path / "out", "own_img"), world.expected(rows, 24), rtol=2e-3, atol=2e-4)
    np.testing.assert_allclose(found(world, tmp_path / "out", "own_txt"), captions, rtol=2e-3, atol=2e-4)


def test_captions_need_a_text_tower(world: World, weights: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "has no text tower" in said(capfd, arguments(world, tmp_path / "out", "--text"))


def test_the_filter_clusters_on_them_whether_or_not_the_pool_has_npz(world: World, weights: dict[str, Any], tmp_path: Path) -> None:
    out, bare = tmp_path / "out", tmp_path / "bare"
    assert embed.main(arguments(world, out)) == 0
    bare.mkdir()
    for path in (world.place / "pool").glob("*.parquet"):
        (bare / path.name).write_bytes(path.read_bytes())
    subsets = []
    for pool in (world.place / "pool", bare):
        places = ["--metadata_dir", str(pool), "--features_dir", str(out), "--within", str(world.place / "shards")]
        how = ["--features", "test_vit_img", "--concepts", "5", "--fraction", "0.2", "--num_workers", "1", "--allow_invalid", "--quiet"]
        assert densprune.main([*places, *how, "--save_path", str(tmp_path / f"{pool.name}.npy")]) == 0
        told = json.loads((tmp_path / f"{pool.name}.work" / "manifest.json").read_text())
        assert told["status"]["outside"] == 20
        assert told["status"]["invalid"] == 2
        subsets.append((tmp_path / f"{pool.name}.npy").read_bytes())
    assert subsets[0] == subsets[1]


def test_without_its_libraries_the_extra_is_named(
    world: World, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    for function in (torchvision, library):
        monkeypatch.setattr(f"tools.embedding.libraries.{function.__name__}", function.__wrapped__)
    monkeypatch.setattr("tools.embedding.encoders.library", library.__wrapped__)
    assert "torchvision is not installed; pip install 'densprune[embed]'" in said(capfd, arguments(world, tmp_path / "out"))
