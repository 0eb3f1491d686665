"""The classifier's own pass over images, step by step, and what it leaves for the decoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cnnseg.unroll.axes import Axes, are_plain
from cnnseg.unroll.layers import Record, Way
from cnnseg.unroll.steps import Step
from wsss.errors import InputError

_OTHER_CHANNELS = "channels, but got"
_TOO_SMALL = ("Output size is too small", "Kernel size can't be greater")  # pooling's words, and convolution's


@dataclass(frozen=True, eq=False)
class Encoded:
    """A classifier's pass over images, and what the decoder needs of it for those that it is asked about."""

    images: Tensor
    """(B, 3, H, W) of the images that are decoded"""
    logits: Tensor
    """(B, C) of all images"""
    records: list[Record]
    ways: list[Way]
    kept: Mapping[int, Tensor]
    """what the steps of some places gave: of the ends, and where p is turned into R"""
    activation: Tensor | None = None
    """of the bottleneck, where activations are not tied"""
    ends: tuple[int, ...] = (0,)
    """places where relevance is asked for"""


def run_step(step: Step, inputs: tuple[Any, ...], way: Way, images: Tensor) -> tuple[Any, Record]:
    """One step's way forward. InputError naming the layer that the images are too small for, or do not fit."""
    try:
        return step.layer.forward(inputs, way)
    except InputError as error:
        raise InputError(f"layer {step.name}: {error}") from None
    except RuntimeError as error:
        if _OTHER_CHANNELS in str(error):
            raise InputError(f"layer {step.name}: {str(error).splitlines()[0]}") from None
        if not any(words in str(error) for words in _TOO_SMALL):
            raise
        height, width = images.shape[2:]
        raise InputError(f"images of {height} x {width} are too small for layer {step.name}") from None


def check_scores(logits: Any, name: str) -> Tensor:
    """Class scores (B, C), single precision or wider. InputError if a classifier gives anything else."""
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(f"expected class scores (B, C), {name} gives {found}")
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def check_maps(activation: Any, layer: str | None, axes: Axes | None) -> None:
    """InputError, naming the layer, unless its output is maps (B, D, h, w) by what its axes stand for."""
    if not are_plain(axes):
        raise no_maps(activation, layer)


def no_maps(value: Any, layer: str | None) -> InputError:
    """What is said of a layer whose output lies nowhere, or it is not known where."""
    shape = tuple(value.shape[1:]) if isinstance(value, Tensor) else type(value).__name__
    unknown = isinstance(value, Tensor) and value.ndim > 2
    more = ", and how these lie over the image is not known; name the output of a block" if unknown else ""
    return InputError(f"layer {layer!r}: expected maps (channels, height, width), got {shape}{more}")
