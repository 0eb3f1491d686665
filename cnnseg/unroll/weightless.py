"""Rules of the layers without weights: pooling, flattening, dropout, sums and concatenations."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnseg.unroll.rules import Options, Record, Rule, shapes_of, stabiliser


class MaxPool(Rule):
    """Max pooling; back by its indices, summed where windows overlap."""

    def __init__(self, pool: nn.MaxPool2d) -> None:
        self.pool = pool

    def forward(self, inputs: tuple[Tensor, ...], keep: int, options: Options) -> tuple[Tensor, Record]:
        pool = self.pool
        settings = (pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode)
        out, indices = F.max_pool2d_with_indices(inputs[0], *settings)
        return out, Record(shapes_of(inputs), extra=indices[:keep])

    def backward(self, p: Tensor, record: Record, weight: Tensor | None, options: Options) -> tuple[Tensor, ...]:
        size = record.shapes[0][1:]
        if not options.tied_upsampling:
            shrink = (size[0] * size[1]) / (p.shape[2] * p.shape[3])
            return (F.interpolate(p, size, mode="nearest") / shrink,)
        indices = record.extra
        images = len(indices)
        indices = indices[:, None].expand(-1, len(p) // max(images, 1), -1, -1, -1).reshape(p.shape)
        flat = p.new_zeros(*p.shape[:2], size.numel()).scatter_add(2, indices.flatten(2), p.flatten(2))
        return (flat.unflatten(2, size),)


class AveragePool(Rule):
    """Average pooling with a window, or to a size (`adaptive`; "at least" a size: smaller inputs alone are pooled)."""

    owns = False  # a global pool's way back is one number a channel, expanded

    def __init__(
        self, *, window: nn.AvgPool2d | None = None, adaptive: Any = None, at_least: tuple[int, int] | None = None
    ) -> None:
        self.window, self.adaptive, self.minimum = window, adaptive, at_least

    def forward(self, inputs: tuple[Tensor, ...], keep: int, options: Options) -> tuple[Tensor, Record]:
        x = inputs[0]
        if self.window is not None:
            out = self.window(x)
        elif self.minimum is not None:
            size = tuple(max(side, least) for side, least in zip(x.shape[2:], self.minimum, strict=True))
            out = F.adaptive_avg_pool2d(x, size)
        else:
            out = F.adaptive_avg_pool2d(x, self.adaptive)
        return out, Record(shapes_of(inputs), extra=out.shape[2:])

    def backward(self, p: Tensor, record: Record, weight: Tensor | None, options: Options) -> tuple[Tensor, ...]:
        size = record.shapes[0][1:]
        if self.window is None and record.extra == (1, 1):
            return ((p / size.numel()).expand(-1, -1, *size),)
        like = p.new_empty(1).expand(*p.shape[:2], *size)  # its shape alone counts
        if self.window is None:
            return (torch.ops.aten._adaptive_avg_pool2d_backward(p.contiguous(), like.contiguous()),)
        pool = self.window
        pairs = [_pair(value) for value in (pool.kernel_size, pool.stride, pool.padding)]
        settings = (*pairs, pool.ceil_mode, pool.count_include_pad, pool.divisor_override)
        return (torch.ops.aten.avg_pool2d_backward(p.contiguous(), like.contiguous(), *settings),)


class Flatten(Rule):
    """Flatten all but the batch, or what else only changes the shape."""

    owns = None

    def __init__(self, start: int = 1) -> None:
        self.start = start

    def forward(self, inputs: tuple[Tensor, ...], keep: int, options: Options) -> tuple[Tensor, Record]:
        return inputs[0].flatten(self.start), Record(shapes_of(inputs))

    def backward(self, p: Tensor, record: Record, weight: Tensor | None, options: Options) -> tuple[Tensor, ...]:
        return (p.reshape(len(p), *record.shapes[0]),)


class Drop(Rule):
    """Dropout: what it drew is a factor like any other. In evaluation mode nothing happens."""

    owns = None

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def forward(self, inputs: tuple[Tensor, ...], keep: int, options: Options) -> tuple[Tensor, Record]:
        x = inputs[0]
        if not self.module.training or not getattr(self.module, "p", 0):
            return x, Record(shapes_of(inputs))
        drawn = self.module(torch.ones_like(x))
        return x * drawn, Record(shapes_of(inputs), drawn[:keep])

    def backward(self, p: Tensor, record: Record, weight: Tensor | None, options: Options) -> tuple[Tensor, ...]:
        return (p,)


class Add(Rule):
    """A sum of branches; by contribution, each gets R of its own share, which leaves p as it is."""

    owns = False

    def forward(self, inputs: tuple[Tensor, ...], keep: int, options: Options) -> tuple[Tensor, Record]:
        z = inputs[0] + inputs[1]
        return z, Record(shapes_of(inputs), stabiliser(z, keep, options))

    def backward(self, p: Tensor, record: Record, weight: Tensor | None, options: Options) -> tuple[Tensor, ...]:
        return p, p


class Concatenate(Rule):
    """Concatenation of channels."""

    owns = False

    def forward(self, inputs: tuple[Tensor, ...], keep: int, options: Options) -> tuple[Tensor, Record]:
        return torch.cat(inputs, 1), Record(shapes_of(inputs))

    def backward(self, p: Tensor, record: Record, weight: Tensor | None, options: Options) -> tuple[Tensor, ...]:
        return p.split([shape[0] for shape in record.shapes], dim=1)


def _pair(value: int | tuple[int, int]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)
