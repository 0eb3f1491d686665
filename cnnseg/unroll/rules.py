"""One rule for each kind of layer: its way forward in the encoder, and its way back in the decoder.

Everywhere the decoder carries p = R / a, relevance divided by activation: the field of LRP's equation 1 (seed paper,
section 2.1) before its last multiplication. For LRP-0 through a ReLU network p is the gradient of the class score, so
that each layer's way back is the transpose of its linear map, and a ReLU's a factor: a / z, the Heaviside function of
its input. R itself appears once, at the image: R = x p.

Shapes: an activation (B, ...) of B images meets p (B * K, ...) of K classes an image, images outermost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Options:
    """What the decoder ties to the encoder, and LRP-epsilon's stabiliser (0: LRP-0)."""

    epsilon: float = 0.0
    tied_relu: bool = True
    tied_convolutions: bool = True
    tied_upsampling: bool = True


@dataclass(frozen=True)
class Record:
    """What a layer's way back needs of its way forward, for the images that are decoded; constants to autograd.

    ``shapes``: those of the inputs without the batch. ``factor`` (B, ...): p is multiplied by it first; None for 1.
    ``scale``: of a batch norm, one number a channel, differentiable in its weight. ``extra``: a rule's own.
    """

    shapes: tuple[torch.Size, ...]
    factor: Tensor | None = None
    scale: Tensor | None = None
    extra: Any = None


class Rule:
    """A layer.

    ``owns``: whether what the way back returns may be changed in place: True, it is new; False, it may be shared; None,
    as the p it was given.
    """

    owns: bool | None = True

    def forward(self, inputs: tuple[Tensor, ...], keep: int, options: Options) -> tuple[Tensor, Record]:
        """Run the layer; the record is of the first `keep` images."""
        raise NotImplementedError

    def backward(self, p: Tensor, record: Record, weight: Tensor | None, options: Options) -> tuple[Tensor, ...]:
        """p of each input from p of the output, after multiplication by the record's factor."""
        raise NotImplementedError

    def weight(self, record: Record) -> Tensor | None:
        """What the way back is linear in, differentiable; None for layers without weights."""
        return None


class Convolution(Rule):
    """A convolution with the batch norm that follows it, if one does: together one linear layer."""

    def __init__(self, convolution: nn.Conv2d, norm: nn.BatchNorm2d | None = None) -> None:
        self.convolution, self.norm = convolution, norm

    def forward(self, inputs: tuple[Tensor, ...], keep: int, options: Options) -> tuple[Tensor, Record]:
        z = self.convolution(inputs[0])
        scale = None
        if self.norm is not None:
            scale = norm_scale(self.norm, z) if keep else None
            z = nn.BatchNorm2d.forward(self.norm, z)
        return z, Record(_shapes(inputs), stabiliser(z, keep, options), scale)

    def weight(self, record: Record) -> Tensor:
        weight = self.convolution.weight
        return weight if record.scale is None else weight * record.scale[:, None, None, None]

    def backward(self, p: Tensor, record: Record, weight: Tensor | None, options: Options) -> tuple[Tensor, ...]:
        layer = self.convolution
        height, width = record.shapes[0][1:]
        stride = layer.stride
        if not options.tied_upsampling and stride != (1, 1):
            # as large as a convolution without stride would have made it; a stride's zeros are filled, hence / s^2
            size = [
                side + 2 * pad - dilation * (kernel - 1)
                for side, pad, dilation, kernel in zip(
                    (height, width), layer.padding, layer.dilation, layer.kernel_size, strict=True
                )
            ]
            p, stride = F.interpolate(p, size, mode="nearest") / (stride[0] * stride[1]), (1, 1)
        rest = [
            side - ((out - 1) * step - 2 * pad + dilation * (kernel - 1) + 1)
            for side, out, step, pad, dilation, kernel in zip(
                (height, width), p.shape[2:], stride, layer.padding, layer.dilation, layer.kernel_size, strict=True
            )
        ]
        back = F.conv_transpose2d(p, weight, None, stride, layer.padding, rest, layer.groups, layer.dilation)
        return (back,)


class Norm(Rule):
    """A batch norm that follows no convolution (DenseNet, RepVGG)."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        self.norm = norm

    def forward(self, inputs: tuple[Tensor, ...], keep: int, options: Options) -> tuple[Tensor, Record]:
        scale = norm_scale(self.norm, inputs[0]) if keep else None
        z = nn.BatchNorm2d.forward(self.norm, inputs[0])
        return z, Record(_shapes(inputs), stabiliser(z, keep, options), scale)

    def weight(self, record: Record) -> Tensor:
        return record.scale

    def backward(self, p: Tensor, record: Record, weight: Tensor | None, options: Options) -> tuple[Tensor, ...]:
        return (p * weight[:, None, None],)


class Linear(Rule):
    """A fully connected layer."""

    def __init__(self, linear: nn.Linear) -> None:
        self.linear = linear

    def forward(self, inputs: tuple[Tensor, ...], keep: int, options: Options) -> tuple[Tensor, Record]:
        z = self.linear(inputs[0])
        return z, Record(_shapes(inputs), stabiliser(z, keep, options))

    def weight(self, record: Record) -> Tensor:
        return self.linear.weight

    def backward(self, p: Tensor, record: Record, weight: Tensor | None, options: Options) -> tuple[Tensor, ...]:
        return (p @ weight,)


class Relu(Rule):
    """ReLU or ReLU6. Its factor a / z is 1 where it passes, 0 where it cuts, 6 / z where a ReLU6 caps.

    The cap is not the gradient's 0: relevance passes a ReLU6 unchanged, as LRP has it, and none is lost.
    """

    owns = None

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def forward(self, inputs: tuple[Tensor, ...], keep: int, options: Options) -> tuple[Tensor, Record]:
        z = inputs[0]
        factor = None
        if keep and not isinstance(self.module, nn.ReLU):
            with torch.no_grad():
                factor = torch.where(z[:keep] > 6, 6 / z[:keep], (z[:keep] > 0).to(z.dtype))
        a = self.module(z)  # may be in place
        if keep and factor is None:
            factor = (a[:keep].detach() > 0).to(a.dtype)  # not bool: products of one type are faster
        return a, Record(_shapes(inputs), factor)

    def backward(self, p: Tensor, record: Record, weight: Tensor | None, options: Options) -> tuple[Tensor, ...]:
        return (p if options.tied_relu else p.relu(),)


class MaxPool(Rule):
    """Max pooling; back by its indices, summed where windows overlap."""

    def __init__(self, pool: nn.MaxPool2d) -> None:
        self.pool = pool

    def forward(self, inputs: tuple[Tensor, ...], keep: int, options: Options) -> tuple[Tensor, Record]:
        pool = self.pool
        settings = (pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode)
        out, indices = F.max_pool2d_with_indices(inputs[0], *settings)
        return out, Record(_shapes(inputs), extra=indices[:keep])

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
        return out, Record(_shapes(inputs), extra=out.shape[2:])

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
        return inputs[0].flatten(self.start), Record(_shapes(inputs))

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
            return x, Record(_shapes(inputs))
        drawn = self.module(torch.ones_like(x))
        return x * drawn, Record(_shapes(inputs), drawn[:keep])

    def backward(self, p: Tensor, record: Record, weight: Tensor | None, options: Options) -> tuple[Tensor, ...]:
        return (p,)


class Add(Rule):
    """A sum of branches; by contribution, each gets R of its own share, which leaves p as it is."""

    owns = False

    def forward(self, inputs: tuple[Tensor, ...], keep: int, options: Options) -> tuple[Tensor, Record]:
        z = inputs[0] + inputs[1]
        return z, Record(_shapes(inputs), stabiliser(z, keep, options))

    def backward(self, p: Tensor, record: Record, weight: Tensor | None, options: Options) -> tuple[Tensor, ...]:
        return p, p


class Concatenate(Rule):
    """Concatenation of channels."""

    owns = False

    def forward(self, inputs: tuple[Tensor, ...], keep: int, options: Options) -> tuple[Tensor, Record]:
        return torch.cat(inputs, 1), Record(_shapes(inputs))

    def backward(self, p: Tensor, record: Record, weight: Tensor | None, options: Options) -> tuple[Tensor, ...]:
        return p.split([shape[0] for shape in record.shapes], dim=1)


def norm_scale(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """What a batch norm multiplies each channel by, (channels,): weight / standard deviation.

    The deviation, of the batch `x` in training mode, is a constant to autograd: heat-maps train weights, not
    statistics.
    """
    if norm.training or norm.running_var is None:
        with torch.no_grad():
            variance = x.float().var((0, 2, 3), unbiased=False) if x.dtype != torch.float64 else x.var((0, 2, 3), False)
    else:
        variance = norm.running_var
    scale = (variance + norm.eps).rsqrt()
    return scale if norm.weight is None else scale * norm.weight


def stabiliser(z: Tensor, keep: int, options: Options) -> Tensor | None:
    """z / (z + epsilon sign(z)) of the first `keep` images, which LRP-epsilon (eq. 1) leaves of p; None for LRP-0."""
    if not options.epsilon or not keep:
        return None
    kept = z[:keep].detach()
    return kept / (kept + torch.where(kept < 0, -options.epsilon, options.epsilon))


def _shapes(inputs: tuple[Tensor, ...]) -> tuple[torch.Size, ...]:
    return tuple(x.shape[1:] for x in inputs)


def _pair(value: int | tuple[int, int]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)
