"""The layers of an unrolled network: for each kind its way forward in the encoder and its way back in the decoder.

Everywhere the decoder carries p = R / a, relevance divided by activation: the field of LRP's equation 1 (Yu et al.
2024, section 2.1) before its last multiplication. For LRP-0 through a ReLU network p is the gradient of the class
score, so that each layer's way back is the transpose of its linear map, and a ReLU's a factor: a / z, the Heaviside
function of its input. R itself appears once, at the image: R = x p. Below a rule that gives relevance to inputs of 0
the decoder carries R (`Way.whole`), see `cnnseg.unroll.spread`.

Shapes: an activation (B, ...) of B images meets p (B * K, ...) of K classes an image, images outermost.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from cnnseg.unroll.rules import Rule, Zero


@dataclass(frozen=True)
class Options:
    """What the decoder ties to the encoder."""

    tied_relu: bool = True
    tied_convolutions: bool = True
    tied_upsampling: bool = True


ZERO = Zero()


@dataclass(frozen=True)
class Way:
    """How one pass goes through a layer.

    ``keep``: the first so many images are decoded, the record is of them. ``training``: batch norms take the batch's
    statistics and dropout drops, where the module itself is in training mode. ``rule``: of layers that have one.
    ``whole``: the decoder brings R of the outputs, not p. ``folded``: of a pass whose weights are constants, what batch
    norms folded into them give, by layer, to be kept and used again; None: weights may be trained.
    """

    options: Options
    rule: Rule = ZERO
    whole: bool = False
    keep: int = 0
    training: bool = False
    folded: dict[Layer, tuple[Tensor, Tensor | None]] | None = None


@dataclass(frozen=True)
class Record:
    """What a layer's way back needs of its way forward, for the images that are decoded; constants to autograd.

    ``shapes``: those of the inputs without the batch. ``factor`` (B, ...): p is multiplied by it first; None for 1.
    ``scale``: of a batch norm, one number a channel, differentiable in its weight. ``folded``: the layer's weights,
    batch norm included, where they are constants. ``extra``: a layer's own.
    """

    shapes: tuple[torch.Size, ...]
    factor: Tensor | None = None
    scale: Tensor | None = None
    folded: Tensor | None = None
    extra: Any = field(default=None, repr=False)


class Layer:
    """A layer.

    ``kind``: its kind in a composite, None if no rule can be chosen. ``owns``: whether what the way back returns may be
    changed in place: True, it is new; False, it may be shared; None, as the p it was given.
    """

    kind: str | None = None
    owns: bool | None = True

    def forward(self, inputs: tuple[Any, ...], way: Way) -> tuple[Any, Record]:
        """Run the layer; the record is of the first `way.keep` images."""
        raise NotImplementedError

    def backward(self, p: Tensor, record: Record, weight: Tensor | None, way: Way) -> tuple[Tensor | None, ...]:
        """p (or R, if `way.whole`) of each input from that of the output, which the record's factor has multiplied."""
        raise NotImplementedError

    def weight(self, record: Record) -> Tensor | None:
        """What the way back is linear in, differentiable; None for layers without weights."""
        return None

    def gives_whole(self, way: Way) -> bool:
        """Whether the way back yields R of the inputs, not p."""
        return way.whole


def shapes_of(inputs: tuple[Any, ...]) -> tuple[torch.Size, ...]:
    """Shapes of the inputs without the batch; of what is no tensor an empty one."""
    return tuple(x.shape[1:] if isinstance(x, Tensor) else torch.Size() for x in inputs)
