"""Models by name, with the weights and the preprocessing that their library gives them: images, and captions, to unit rows."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import pickle
import re
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from filters.maths.arrays import U8, Array
from filters.pool.errors import BadInput, from_os
from filters.pool.files import sha256
from tools.embedding.images import Preparation, blank_pixels
from tools.embedding.libraries import library, quiet

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ALIASES = {
    f"dinov2_vit{letter}14{end}": f"vit_{size}_patch14{registers}_dinov2.lvd142m"
    for letter, size in {"s": "small", "b": "base", "l": "large", "g": "giant"}.items()
    for end, registers in {"": "", "_reg": "_reg4"}.items()
}
PRECISIONS = ("fp32", "fp16", "bf16")


@dataclass(frozen=True)
class Wish:
    """Which encoder, and how it is to run."""

    model: str
    checkpoint: Path | None
    image_size: int | None
    device: str
    precision: str


@dataclass(frozen=True)
class Loaded:
    """A model as its library gives it."""

    module: torch.nn.Module
    transform: Any  # of torchvision: steps on a picture, then to numbers, then to their usual range
    colours_first: bool
    images: Callable[[Tensor], Tensor]
    captions: Callable[[list[str]], Tensor] | None  # None: it has no text tower
    told: dict[str, str]  # what it is, for the note


class Encoder:
    """Images, and captions, to unit rows."""

    def __init__(self, wish: Wish) -> None:
        self._wish, self._turn = wish, threading.Lock()
        with quiet():
            self._loaded = _loaded(wish)
        self._loaded.module.eval().requires_grad_(False).to(wish.device)
        steps, self._range = _split(self._loaded.transform)
        self.preparation = Preparation(pickle.dumps(steps), self._loaded.colours_first)
        self.width = self.images(blank_pixels(self.preparation)[None]).shape[1]

    @property
    def has_text(self) -> bool:
        return self._loaded.captions is not None

    def images(self, pixels: U8) -> Array:
        """(m, height, width, 3) uint8 -> (m, width) float16 unit rows."""
        import torch

        if not len(pixels):
            return np.empty((0, self.width), np.float16)

        with self._running():
            numbers = torch.from_numpy(pixels).to(self._wish.device).permute(0, 3, 1, 2).contiguous()
            rows = _unit(self._loaded.images(self._range(numbers.float().div(255))))
        return _brought(rows)

    def captions(self, texts: list[str]) -> Array:
        """(m, width) float16 unit rows."""
        assert self._loaded.captions is not None, "asked for where there is a text tower"
        with self._running():
            rows = _unit(self._loaded.captions(texts))
        return _brought(rows)

    @contextmanager
    def _running(self) -> Iterator[None]:
        """On a GPU one batch after the other: all threads at once would need memory for as many."""
        import torch

        half = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(self._wish.precision)
        kind = self._wish.device.partition(":")[0]
        try:
            with (
                self._turn if kind == "cuda" else contextlib.nullcontext(),
                torch.inference_mode(),
                torch.autocast(kind, half) if half else contextlib.nullcontext(),
            ):
                yield
        except torch.OutOfMemoryError as error:
            raise BadInput(f"--device {self._wish.device}", f"has too little memory ({error})", "give a smaller --batch_size") from None

    def described(self) -> dict[str, Any]:
        """What made the rows: a run that goes on must have the same."""
        from importlib.metadata import version

        wish, (height, width) = self._wish, blank_pixels(self.preparation).shape[:2]
        return self._loaded.told | {
            "weights": _digest(self._loaded.module),
            "checkpoint": sha256(wish.checkpoint) if wish.checkpoint else None,
            "image_size": [height, width],
            "preprocessing": re.sub(r"\s+", " ", str(self._loaded.transform)),
            "width": self.width,
            "precision": wish.precision,
            "device": wish.device.partition(":")[0],
            "versions": {name: version(name) for name in ("torch", "torchvision", "pillow", self._loaded.told["package"])},
        }


def _unit(rows: Tensor) -> Tensor:
    """(m, width) float16, of length one."""
    import torch

    if rows.ndim != 2:
        raise BadInput("--model", f"gives {tuple(rows.shape[1:])} an image, not one row", "name a model with pooled features")
    return torch.nn.functional.normalize(rows.float(), dim=1).half()


def _brought(rows: Tensor) -> Array:
    result: Array = rows.cpu().numpy()
    return result


def _split(transform: Any) -> tuple[list[Any], Any]:
    """Its steps on pictures, and the one on numbers. What is between them, bytes to [0, 1], is done where the numbers are."""
    *steps, to_numbers, normalize = transform.transforms
    assert "ToTensor" in type(to_numbers).__name__ and type(normalize).__name__ == "Normalize", f"{transform} ends otherwise"
    return steps, normalize


def _digest(module: torch.nn.Module) -> str:
    """sha256 of all weights, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(np.ascontiguousarray(tensor.cpu().numpy()).data)
    return digest.hexdigest()


# -- by name


def _loaded(wish: Wish) -> Loaded:
    if wish.checkpoint is not None and not wish.checkpoint.is_file():
        raise BadInput(wish.checkpoint, "is no file", "name a file of weights")
    timm = library("timm")
    name = ALIASES.get(wish.model, wish.model).removeprefix("timm/")
    if timm.is_model(name):
        return _of_timm(timm, name, wish)
    open_clip = library("open_clip")
    arch, _, weights = wish.model.partition("/")
    if arch in open_clip.list_models() and (weights or wish.checkpoint):
        return _of_open_clip(open_clip, arch, weights, wish)
    raise _unknown(wish.model, [*ALIASES, *timm.list_models(), *timm.list_pretrained(), *map("/".join, open_clip.list_pretrained())])


def _unknown(model: str, names: list[str]) -> BadInput:
    by_letters = {name.lower(): name for name in names}
    near = [by_letters[name] for name in difflib.get_close_matches(model.lower().removeprefix("timm/"), by_letters, 4, 0.5)]
    return BadInput(
        f"--model {model}", "is no model of timm, and no ARCH/WEIGHTS of open_clip", f"perhaps {', '.join(near) or 'dinov2_vitl14'}"
    )


@contextmanager
def _weights(wish: Wish) -> Iterator[None]:
    """What a library raises where it cannot have the weights, in one line."""
    from safetensors import SafetensorError

    # Whatever a broken file makes its reader raise.
    unreadable = (OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError, EOFError, struct.error, pickle.UnpicklingError)
    try:
        yield
    except (*unreadable, SafetensorError) as error:
        reason = " ".join(str(error).split())
        if wish.checkpoint is not None:
            if isinstance(error, OSError) and error.errno is not None:
                raise from_os(wish.checkpoint, error) from None
            raise BadInput(wish.checkpoint, f"does not fit {wish.model} ({reason})", "name the weights of --model") from None
        do = "give --checkpoint FILE with its weights, or run once where there is a network: they are kept in $HF_HOME"
        raise BadInput(f"--model {wish.model}", f"its weights cannot be had ({reason})", do) from None


# -- timm


def _of_timm(timm: Any, name: str, wish: Wish) -> Loaded:
    if "." in name and name not in timm.list_pretrained():
        near = ", ".join(timm.list_pretrained(f"{name.partition('.')[0]}.*"))
        raise BadInput(f"--model {wish.model}", "are no weights that timm knows", f"take one of {near}")
    wanted: dict[str, Any] = {"num_classes": 0}
    if wish.image_size is not None and _is_of_one_size(timm, name):
        wanted["img_size"] = wish.image_size
    with _weights(wish):
        module = timm.create_model(name, pretrained=wish.checkpoint is None, **wanted)
        if wish.checkpoint is not None:
            _load(timm, module, wish.checkpoint)
    size = {} if wish.image_size is None else {"input_size": (3, wish.image_size, wish.image_size)}
    config = timm.data.resolve_data_config(size, model=module)
    told = {"model": f"timm/{name}", "package": "timm"}
    return Loaded(module, timm.data.create_transform(**config), True, module, None, told)


def _is_of_one_size(timm: Any, name: str) -> bool:
    """Whether the model is built for a size of image, as most transformers are."""
    config = timm.get_pretrained_cfg(name, allow_unregistered=False)
    return bool(config and config.fixed_input_size)


def _load(timm: Any, module: torch.nn.Module, path: Path) -> None:
    """Weights from a file, as timm has them or, where timm converts it, as their authors have; raises ValueError unless all are there."""
    state = timm.models.load_state_dict(str(path))
    convert = getattr(sys.modules[type(module).__module__], "checkpoint_filter_fn", None)
    found = module.load_state_dict(convert(state, module) if convert else state, strict=False)
    heads = module.pretrained_cfg.get("classifier") or ()  # type: ignore[union-attr,operator]
    of_heads = tuple(f"{head}." for head in ([heads] if isinstance(heads, str) else heads))
    for what, names in (
        ("lacks", found.missing_keys),
        ("also has", [name for name in found.unexpected_keys if not name.startswith(of_heads)]),
    ):
        if names:
            raise ValueError(f"it {what} {len(names)} tensors, first {names[0]}")


# -- open_clip


def _of_open_clip(open_clip: Any, arch: str, weights: str, wish: Wish) -> Loaded:
    known = open_clip.list_pretrained_tags_by_model(arch)
    if wish.checkpoint is None and weights not in known:
        raise BadInput(f"--model {wish.model}", f"{arch} has no weights {weights!r}", f"take one of {', '.join(known)}")
    config = open_clip.get_pretrained_cfg(arch, weights) or {}
    with _weights(wish):
        module, _, transform = open_clip.create_model_and_transforms(
            arch,
            pretrained=str(wish.checkpoint) if wish.checkpoint else weights,
            force_image_size=wish.image_size,
            force_quick_gelu=bool(config.get("quick_gelu")),  # open_clip itself warns only, and gives other rows
            **{f"image_{name}": config.get(name) for name in ("mean", "std", "interpolation", "resize_mode")},
        )
        tokenizer = open_clip.get_tokenizer(arch)
    told = {"model": wish.model, "package": "open_clip_torch"}

    def captions(texts: list[str]) -> Tensor:
        result: Tensor = module.encode_text(tokenizer(texts).to(wish.device))
        return result

    return Loaded(module, transform, False, module.encode_image, captions, told)
