"""One rule for each kind of layer: its way forward in the encoder, and its way back in the decoder.

Everywhere the decoder carries p = R / a, relevance divided by activation: the field of LRP's equation 1 (seed paper,
section 2.1) before its last multiplication. For LRP-0 through a ReLU network p is the gradient of the class score, so
that each layer's way back is the transpose of its linear map, and a ReLU's a factor: a / z, the Heaviside function of
its input. R itself appears once, at the image: R = x p.

Shapes: an activation (B, ...) of B images meets p (B * K, ...) of K classes an image, images outermost.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnseg.unroll.alpha_beta import signs, spread


@dataclass(frozen=True)
class Options:
    """What the decoder ties to the encoder, LRP-epsilon's stabiliser (0: LRP-0), and alpha of the alpha-beta rule."""

    epsilon: float = 0.0
    alpha: float | None = None
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
        record = Record(shapes_of(inputs), stabiliser(z, keep, options), scale)
        if options.alpha is None or not keep:
            return z, record
        layer, weight = self.convolution, self.weight(record)
        shape = (layer.stride, layer.padding, layer.dilation, layer.groups)
        apply = lambda x, w: F.conv2d(x, w, None, *shape)  # noqa: E731
        return z, replace(record, extra=signs(inputs[0][:keep], weight, z[:keep], options.alpha, apply))

    def weight(self, record: Record) -> Tensor:
        weight = self.convolution.weight
        return weight if record.scale is None else weight * record.scale[:, None, None, None]

    def backward(self, p: Tensor, record: Record, weight: Tensor | None, options: Options) -> tuple[Tensor, ...]:
        if options.alpha is not None:
            apart = replace(options, alpha=None)
            back = lambda p, w: self.backward(p, record, w, apart)[0]  # noqa: E731
            return (spread(p, weight, record.extra, options.alpha, back),)
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
        return z, Record(shapes_of(inputs), stabiliser(z, keep, options), scale)

    def weight(self, record: Record) -> Tensor:
        return record.scale

    def backward(self, p: Tensor, record: Record, weight: Tensor | None, options: Options) -> tuple[Tensor, ...]:
        return (p * weight[:, None, None],)


class Linear(Rule):
    """A fully connected layer."""

    def __init__(self, linear: nn.Linear) -> None:
        self.linear = linear

    def forward(self, inputs: tuple[Tensor, ...], keep: int, options: Options) -> tuple[Tensor, Record]:
        x, z = inputs[0], self.linear(inputs[0])
        record = Record(shapes_of(inputs), stabiliser(z, keep, options))
        if options.alpha is None or not keep:
            return z, record
        return z, replace(record, extra=signs(x[:keep], self.linear.weight, z[:keep], options.alpha, F.linear))

    def weight(self, record: Record) -> Tensor:
        return self.linear.weight

    def backward(self, p: Tensor, record: Record, weight: Tensor | None, options: Options) -> tuple[Tensor, ...]:
        if options.alpha is not None:
            return (spread(p, weight, record.extra, options.alpha, torch.matmul),)
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
        return a, Record(shapes_of(inputs), factor)

    def backward(self, p: Tensor, record: Record, weight: Tensor | None, options: Options) -> tuple[Tensor, ...]:
        return (p if options.tied_relu else p.relu(),)


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
    return scale_of(norm, variance)


def scale_of(norm: nn.BatchNorm2d, variance: Tensor) -> Tensor:
    """(channels,): weight / standard deviation, of a batch norm whose channels have that variance."""
    scale = (variance + norm.eps).rsqrt()
    return scale if norm.weight is None else scale * norm.weight


def stabiliser(z: Tensor, keep: int, options: Options) -> Tensor | None:
    """z / (z + epsilon sign(z)) of the first `keep` images, which LRP-epsilon (eq. 1) leaves of p; None for LRP-0."""
    if not options.epsilon or not keep:
        return None
    kept = z[:keep].detach()
    return kept / (kept + torch.where(kept < 0, -options.epsilon, options.epsilon))


def shapes_of(inputs: tuple[Tensor, ...]) -> tuple[torch.Size, ...]:
    """Shapes of the inputs without the batch."""
    return tuple(x.shape[1:] for x in inputs)
