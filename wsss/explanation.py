"""What every explanation takes and gives, of whichever family: models as people wrap them, images, targets, maps."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from wsss.errors import InputError
from wsss.words import counted

Targets: TypeAlias = Tensor | Sequence[int] | Sequence[Sequence[int]] | int | None
"""What may be given as targets, see `class_targets`."""

NEGATIVE = -1
"""The target that stands for the other class of a model with one output: its score is minus that output."""


@dataclass(frozen=True)
class Explanation:
    """Maps of the explained classes.

    Attributes:
        maps: (B, h, w) if one target was explained for each image, (B, K, h, w) for K; on the method's own grid, which
            may be the pixels. Not scaled; the method says whether they are signed.
        targets: class indices that were explained, (B,) or (B, K) likewise; `NEGATIVE` for the other class of a model
            with one output.
        logits: (B, C) class scores of the same forward pass, before a softmax or sigmoid.
        method: the method's name.
    """

    maps: Tensor
    targets: Tensor
    logits: Tensor
    method: str

    def __repr__(self) -> str:
        shapes = f"maps {tuple(self.maps.shape)}, logits {tuple(self.logits.shape)}"
        return f"Explanation({self.method} of classes {self.targets.tolist()}: {shapes})"


@dataclass(frozen=True)
class Unwrapped:
    """A model without its wrappers: ``model(prepare(images))`` is what the wrapped one gives."""

    model: nn.Module
    front: tuple[nn.Module, ...] = ()

    def prepare(self, images: Tensor) -> Tensor:
        """The images as the model itself takes them: normalised, if the wrapper does that."""
        for module in self.front:
            images = module(images)
        return images


def unwrap(model: nn.Module) -> Unwrapped:
    """Take off wrappers that change nothing.

    DataParallel, DistributedDataParallel, torch.compile, and a Sequential of modules without parameters and the model
    (``Sequential(Normalize(...), model)``), nested in any order.

    Raises:
        InputError: no module, or one with LoRA layers that are not merged.
    """
    front: tuple[nn.Module, ...] = ()
    while True:
        if not isinstance(model, nn.Module):
            raise InputError(f"model: expected a torch.nn.Module, got a {type(model).__name__}")
        inner = inside(model)
        if inner is not None:
            model = inner
        elif (parts := _prepared(model)) is not None:
            front, model = front + parts[0], parts[1]
        else:
            break
    _refuse_adapters(model)
    return Unwrapped(model, front)


def inside(model: nn.Module) -> nn.Module | None:
    """What DataParallel, DistributedDataParallel or torch.compile wraps; None of anything else."""
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return model.module
    return getattr(model, "_orig_mod", None)  # torch.compile


def _prepared(model: nn.Module) -> tuple[tuple[nn.Module, ...], nn.Module] | None:
    """(what prepares the images, the classifier) of a Sequential of just these; layers of torch.nn prepare nothing."""
    if type(model) is not nn.Sequential or len(model) < 2:
        return None
    *front, last = model
    return (tuple(front), last) if all(_prepares(module) for module in front) else None


def _prepares(module: nn.Module) -> bool:
    if type(module) is nn.Sequential:
        return all(_prepares(part) for part in module)
    return not module.__module__.startswith("torch.nn") and not any(True for _ in module.parameters())


def _refuse_adapters(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if type(module).__module__.split(".")[0] == "peft":
            where = f"layer {name}" if name else "model"
            raise InputError(
                f"{where} is a {type(module).__name__} of peft whose weights are not merged: explain "
                "model.merge_and_unload() instead"
            )


def check_images(images: Any, model: nn.Module) -> None:
    """InputError, naming what was expected, unless `images` are finite (B, 3, H, W) of the model's device and type."""
    if not isinstance(images, Tensor):
        raise InputError(
            f"images: expected a torch.Tensor (B, 3, H, W), got a {type(images).__name__}; torch.from_numpy makes one "
            "of an array"
        )
    if images.ndim != 4 or 0 in images.shape:
        hint = "; one image is images[None]" if images.ndim == 3 else ""
        raise InputError(f"images: expected (B, 3, H, W), B >= 1, got {tuple(images.shape)}{hint}")
    parameter = next((p for p in model.parameters() if p.is_floating_point()), None)
    if parameter is None:
        raise InputError(f"model {type(model).__name__}: has no parameters, so there is nothing to explain")
    if (images.dtype, images.device) != (parameter.dtype, parameter.device):
        raise InputError(
            f"images: expected {parameter.dtype} on {parameter.device}, got {images.dtype} on {images.device}"
        )
    if images.dtype == torch.float16 and images.device.type == "cpu":
        raise InputError("images: expected float32, float64 or bfloat16 on a CPU, got float16: model.float()")
    check_values(images)


def check_values(images: Tensor) -> None:
    """InputError, naming the images, if any has values that are not finite, or they are not dense."""
    check_dense(images)
    if not images.isfinite().all():
        bad = (~images.isfinite()).flatten(1).any(1).nonzero()[:, 0].tolist()
        raise InputError(f"images: expected finite values, got NaN or infinite ones in {', '.join(map(str, bad[:8]))}")


def check_dense(images: Tensor) -> None:
    """InputError if images are held as a sparse tensor, or in another layout that few operations take."""
    if images.layout is not torch.strided:
        raise InputError(f"images: expected dense ones, got {images.layout}: images.to_dense()")


def check_integer(value: Any, name: str) -> None:
    """InputError unless an argument is a whole number."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InputError(f"`{name}`: expected a whole number, got {value!r:.80}")


@contextmanager
def fitting_channels(images: Tensor) -> Iterator[None]:
    """What a forward pass of a model runs in: images of another number of channels than it takes are one line."""
    try:
        yield
    except RuntimeError as error:
        if "channels" not in str(error):
            raise
        reason = str(error).splitlines()[0]
        raise InputError(
            f"images: of {counted(images.shape[1], 'channel')}, which the model does not take ({reason})"
        ) from None


def class_targets(targets: Targets, logits: Tensor) -> tuple[Tensor, bool]:
    """Class indices (B, K), and whether the caller asked for several an image.

    Args:
        targets: class indices: None (each image's top class), one for all images, (B,), or (B, K). Of a model with one
            output 0 is that output, what None means too, and `NEGATIVE` the other class.
        logits: (B, C).

    Raises:
        InputError: a wrong shape or type, indices out of range, or what looks like rows of 0 and 1 for each class.
    """
    batch, classes = logits.shape
    if targets is None:
        return logits.argmax(dim=1, keepdim=True), False
    try:
        wanted = torch.as_tensor(targets, device=logits.device)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(
            f"targets: expected class indices, one for all images, ({batch},), or ({batch}, K) with the same K for "
            f"every image, got {targets!r:.80}"
        ) from None
    if wanted.is_floating_point() or wanted.is_complex() or wanted.dtype == torch.bool:
        raise InputError(f"targets: expected integer class indices, got {wanted.dtype}")
    wanted = wanted.long()
    if wanted.ndim == 0:
        wanted = wanted.expand(batch)
    if wanted.ndim not in (1, 2) or len(wanted) != batch or wanted.numel() == 0:
        raise InputError(
            f"targets: expected ({batch},) or ({batch}, K) for {counted(batch, 'image')}, got {tuple(wanted.shape)}"
        )
    many = wanted.ndim == 2
    if many and _multi_hot(wanted, classes):
        raise InputError(
            f"targets: rows of {classes} zeros and ones look like a mask of the classes; expected class indices, such "
            f"as {wanted[0].nonzero()[:, 0].tolist()} for the first image"
        )
    lowest = NEGATIVE if classes == 1 else 0
    if wanted.min() < lowest or wanted.max() >= classes:
        raise InputError(
            f"targets: expected classes {lowest} to {classes - 1}, got {int(wanted.min())} to {int(wanted.max())}"
        )
    return (wanted if many else wanted[:, None]), many


def _multi_hot(wanted: Tensor, classes: int) -> bool:
    """Whether (B, K) targets are rather masks: one value of 0 or 1 for each class, so that a class comes twice."""
    if wanted.shape[1] != classes or classes < 2 or not bool(((wanted == 0) | (wanted == 1)).all()):
        return False
    ones = wanted.sum(1)
    return classes > 2 or bool((ones != 1).any())


def class_scores(logits: Tensor, targets: Tensor) -> Tensor:
    """Scores (B, K) of targets (B, K), of `NEGATIVE` minus the one output."""
    scores = logits.gather(1, targets.clamp(min=0))
    return torch.where(targets < 0, -scores, scores)


def class_vectors(targets: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """One-hot rows (..., C) of targets (...); -1 for `NEGATIVE`."""
    hot = nn.functional.one_hot(targets.clamp(min=0), classes).to(dtype)
    return torch.where((targets < 0)[..., None], -hot, hot)


def predictions(logits: Tensor) -> Tensor:
    """The class (B,) that a model names: the top one; of one output 0 where it is positive, else `NEGATIVE`."""
    if logits.shape[1] == 1:
        return torch.where(logits[:, 0] > 0, 0, NEGATIVE)
    return logits.argmax(1)


_LOCKS: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_OF_LOCKS = threading.Lock()


@contextmanager
def undisturbed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """What a computation of maps runs in: one thread at a time for each model, without a caller's autocast."""
    with _OF_LOCKS:
        lock = _LOCKS.setdefault(model, threading.RLock())
    with lock, torch.autocast(device.type, enabled=False):
        yield


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, and each of its modules as it was afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = False  # not by eval(), which a class may have changed
        yield
    finally:
        for module, mode in modes:
            module.training = mode
