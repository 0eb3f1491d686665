"""Activations: relevance passes them unchanged, so that p is multiplied by a / z."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from cnnseg.unroll.layers import Layer, Record, Way, shapes_of


class Activation(Layer):
    """An activation that works on each value by itself. Its factor is a / z: relevance passes it unchanged.

    Of a ReLU this is 1 where it passes and 0 where it cuts: the gradient. Of others it is not: 6 / z where a ReLU6
    caps, the sigmoid of z for SiLU.

    Args:
        factor: z to a / z where that is not to be divided out (at z = 0 it is the limit).
    """

    owns = None

    def __init__(self, function: Callable[[Tensor], Tensor], factor: Callable[[Tensor], Tensor] | None = None) -> None:
        self.function, self.ratio = function, factor

    def forward(self, inputs: tuple[Tensor, ...], way: Way) -> tuple[Tensor, Record]:
        z = inputs[0]
        factor = None
        if way.keep and not way.whole and self.ratio is not None:
            with torch.no_grad():
                factor = self.ratio(z[: way.keep])
        return self.function(z), Record(shapes_of(inputs), factor)

    def backward(self, p: Tensor, record: Record, weight: Tensor | None, way: Way) -> tuple[Tensor, ...]:
        return (p,)


class Relu(Activation):
    """ReLU, or ReLU6, whose cap is not the gradient's 0: as LRP has it, relevance passes and none is lost."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module, None if isinstance(module, nn.ReLU) else _relu6_ratio)

    def forward(self, inputs: tuple[Tensor, ...], way: Way) -> tuple[Tensor, Record]:
        a, record = super().forward(inputs, way)
        if way.keep and not way.whole and record.factor is None:
            factor = (a[: way.keep].detach() > 0).to(a.dtype)  # not bool: products of one type are faster
            record = Record(record.shapes, factor)
        return a, record

    def backward(self, p: Tensor, record: Record, weight: Tensor | None, way: Way) -> tuple[Tensor, ...]:
        return (p if way.options.tied_relu else p.relu(),)


def _relu6_ratio(z: Tensor) -> Tensor:
    return torch.where(z > 6, 6 / z, (z > 0).to(z.dtype))


def divided(function: Callable[[Tensor], Tensor], at_zero: float) -> Callable[[Tensor], Tensor]:
    """z to function(z) / z, whose limit at 0 is `at_zero`."""

    def ratio(z: Tensor) -> Tensor:
        nothing = z == 0
        return torch.where(nothing, at_zero, function(z.clone()) / torch.where(nothing, 1, z))

    return ratio


def gelu_ratio(z: Tensor) -> Tensor:
    """Of the exact GELU: the normal distribution's function."""
    return 0.5 * (1 + torch.erf(z / math.sqrt(2)))
