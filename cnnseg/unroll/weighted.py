"""Layers with weights: convolutions, fully connected layers, batch norms; what rules are for."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnseg.unroll.layers import Layer, Record, Way, shapes_of
from cnnseg.unroll.rules import Pass, Zero
from cnnseg.unroll.spread import Shares, shares, spread
from wsss.distributed import moments
from wsss.errors import InputError

FOLD_FROM = 4
"""Images from which on it pays to fold batch norms into weights, where no rule asks for it: a CNN's weights are about
as many numbers as its activations for two images."""


class Weighted(Layer):
    """A linear layer with weights, and the batch norm that follows it, if one does: together one linear layer."""

    module: nn.Module
    norm: nn.Module | None = None
    spatial: int = 0
    """dimensions behind that of the channels, in the outputs"""

    def forward(self, inputs: tuple[Tensor, ...], way: Way) -> tuple[Tensor, Record]:
        x, weight, bias, scale = inputs[0], None, None, None
        plain = not way.keep or (type(way.rule) is Zero and not way.whole)
        worth_it = not plain or len(x) >= FOLD_FROM
        if way.folded is not None and (worth_it or self in way.folded) and not self._has_hooks():
            if self not in way.folded:
                way.folded[self] = self._fold()
            weight, bias = way.folded[self]
            z = self.apply(x, weight, bias)
        else:
            z = self.module(x)
        if self.norm is not None:
            if z.ndim != self.spatial + 2:
                raise InputError(f"a batch norm of {tuple(z.shape)}: expected {self.spatial + 2} dimensions")
            if weight is None:
                if way.keep:
                    scale, bias = norm_line(self.norm, z, way.training)
                z = run_norm(self.norm, z, way.training)
        record = Record(shapes_of(inputs), None, scale, weight)
        if plain:
            return z, record
        if weight is None:
            own = getattr(self.module, "bias", None)
            weight, bias = self.weight(record), own if scale is None else bias if own is None else bias + own * scale
        factor, extra = shares(
            way.rule,
            self,
            x[: way.keep],
            z[: way.keep],
            weight,
            bias,
            whole=way.whole,
            keep=not torch.is_grad_enabled(),
        )
        return z, Record(record.shapes, factor, scale, weight if way.folded is not None else None, extra)

    def _has_hooks(self) -> bool:
        """Whether a call of the modules does more than their class says, such as weight norm of the old kind."""
        modules = (self.module, self.norm)
        return any(m is not None and (m._forward_pre_hooks or m._forward_hooks) for m in modules)

    @torch.no_grad()
    def _fold(self) -> tuple[Tensor, Tensor | None]:
        weight, bias = self.module.weight.detach(), getattr(self.module, "bias", None)
        if self.norm is None:
            return weight, bias
        scale, shift = norm_line(self.norm, weight, False)
        return self.scaled(weight, scale), shift if bias is None else shift + bias * scale

    def weight(self, record: Record) -> Tensor:
        if record.folded is not None:
            return record.folded
        weight = self.module.weight
        return weight if record.scale is None else self.scaled(weight, record.scale)

    def scaled(self, weight: Tensor, scale: Tensor) -> Tensor:
        """The weights times one number for each output channel."""
        return weight * scale.view(-1, *[1] * (weight.ndim - 1))

    def backward(self, p: Tensor, record: Record, weight: Tensor | None, way: Way) -> tuple[Tensor, ...]:
        shape = record.shapes[0]
        if isinstance(record.extra, Shares):
            return (spread(p, weight, record.extra, self, shape),)
        return (self.transpose(p, weight, shape, tied=way.options.tied_upsampling),)

    def gives_whole(self, way: Way) -> bool:
        return not way.rule.proportional

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        raise NotImplementedError

    def transpose(self, p: Tensor, weight: Tensor, shape: torch.Size, *, tied: bool = True) -> Tensor:
        raise NotImplementedError

    def along_channels(self, values: Tensor, ndim: int) -> Tensor:
        return values.view(-1, *[1] * self.spatial)


class Convolution(Weighted):
    """A convolution of any padding."""

    kind = "convolution"
    spatial = 2

    def __init__(self, convolution: nn.Conv2d, norm: nn.Module | None = None) -> None:
        self.module, self.norm = convolution, norm

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        layer = self.module
        x, padding = self._padded(x)
        return F.conv2d(x, weight, bias, layer.stride, padding, layer.dilation, layer.groups)

    def transpose(self, p: Tensor, weight: Tensor, shape: torch.Size, *, tied: bool = True) -> Tensor:
        layer = self.module
        if self._pads_itself():
            return self._transpose(p, weight, shape[1:], layer.padding, tied)
        empty = p.new_zeros(1, *shape)
        inner = self._padded(empty)[0].shape[2:]
        padded = self._transpose(p, weight, inner, (0, 0), tied)
        like = p.new_zeros(len(p), *shape)
        return torch.func.vjp(lambda x: self._padded(x)[0], like)[1](padded)[0]

    def _transpose(
        self, p: Tensor, weight: Tensor, size: tuple[int, ...], padding: tuple[int, ...], tied: bool
    ) -> Tensor:
        layer, stride = self.module, self.module.stride
        if not tied and tuple(stride) != (1, 1):
            # as large as a convolution without stride would have made it; a stride's zeros are filled, hence / s^2
            full = [
                side + 2 * pad - dilation * (kernel - 1)
                for side, pad, dilation, kernel in zip(size, padding, layer.dilation, layer.kernel_size, strict=True)
            ]
            p, stride = F.interpolate(p, full, mode="nearest") / (stride[0] * stride[1]), (1, 1)
        rest = [
            side - ((out - 1) * step - 2 * pad + dilation * (kernel - 1) + 1)
            for side, out, step, pad, dilation, kernel in zip(
                size, p.shape[2:], stride, padding, layer.dilation, layer.kernel_size, strict=True
            )
        ]
        return F.conv_transpose2d(p, weight, None, stride, padding, rest, layer.groups, layer.dilation)

    def _pads_itself(self) -> bool:
        """Whether the padding is what a transposed convolution can undo: zeros, as many on both sides."""
        layer = self.module
        return not isinstance(layer.padding, str) and layer.padding_mode == "zeros" and not _pads_by_size(layer)

    def _padded(self, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """The input with what the convolution pads it by, and the padding that is left to the convolution."""
        layer = self.module
        if self._pads_itself():
            return x, tuple(layer.padding)
        if _pads_by_size(layer):  # TensorFlow's "same": depends on the size of the input
            sides = []
            for side, kernel, step, dilation in zip(
                x.shape[:1:-1], layer.kernel_size[::-1], layer.stride[::-1], layer.dilation[::-1], strict=True
            ):
                short = max((-(-side // step) - 1) * step + (kernel - 1) * dilation + 1 - side, 0)
                sides += [short // 2, short - short // 2]
        else:
            sides = layer._reversed_padding_repeated_twice
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        return F.pad(x, sides, mode=mode), (0, 0)


class Linear(Weighted):
    """A fully connected layer, over the last dimension."""

    kind = "linear"

    def __init__(self, linear: nn.Linear, norm: nn.Module | None = None) -> None:
        self.module, self.norm = linear, norm

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.linear(x, weight, bias)

    def transpose(self, p: Tensor, weight: Tensor, shape: torch.Size, *, tied: bool = True) -> Tensor:
        return p @ weight


class Norm(Weighted):
    """A batch norm that follows no layer with weights (DenseNet, RepVGG)."""

    kind = "batch_norm"

    def __init__(self, norm: nn.Module) -> None:
        self.module = norm

    def forward(self, inputs: tuple[Tensor, ...], way: Way) -> tuple[Tensor, Record]:
        x = inputs[0]
        scale, shift = norm_line(self.module, x, way.training) if way.keep else (None, None)
        z = run_norm(self.module, x, way.training)
        record = Record(shapes_of(inputs), None, scale)
        if not way.keep or (type(way.rule) is Zero and not way.whole):
            return z, record
        kept = z[: way.keep].detach()
        if isinstance(way.rule, Pass):
            # the next layer may change z in place
            return z, record if way.whole else Record(record.shapes, kept.clone(), scale)
        keep = not torch.is_grad_enabled()
        factor, extra = shares(way.rule, self, x[: way.keep], kept, scale, shift, whole=way.whole, keep=keep)
        return z, Record(record.shapes, factor, scale, None, extra)

    def weight(self, record: Record) -> Tensor:
        return record.scale

    def backward(self, p: Tensor, record: Record, weight: Tensor | None, way: Way) -> tuple[Tensor, ...]:
        return (p,) if isinstance(way.rule, Pass) else super().backward(p, record, weight, way)

    def gives_whole(self, way: Way) -> bool:
        # what is passed reaches inputs of 0 too
        return isinstance(way.rule, Pass) or super().gives_whole(way)

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return x * self.along_channels(weight, x.ndim)

    def transpose(self, p: Tensor, weight: Tensor, shape: torch.Size, *, tied: bool = True) -> Tensor:
        return p * self.along_channels(weight, p.ndim)

    def along_channels(self, values: Tensor, ndim: int) -> Tensor:
        return values.view(-1, *[1] * (ndim - 2))


def _pads_by_size(layer: nn.Module) -> bool:
    return type(layer).__name__ == "Conv2dSame"  # timm's, of TensorFlow's models


def run_norm(norm: nn.Module, x: Tensor, training: bool) -> Tensor:
    """A batch norm, of the batch's statistics only if the pass is one of training and the module is in that mode."""
    if training and norm.training:
        # of timm's norms with an activation this is the norm alone
        forward = nn.SyncBatchNorm if isinstance(norm, nn.SyncBatchNorm) else nn.modules.batchnorm._BatchNorm
        return forward.forward(norm, x)
    batch = norm.running_mean is None
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, batch, 0.0, norm.eps)


def norm_line(norm: nn.Module, x: Tensor, training: bool) -> tuple[Tensor, Tensor]:
    """(scale, shift) of a batch norm, one number a channel each: z = scale x + shift.

    The statistics, those of the batch `x` in training, are constants to autograd: heat-maps train weights, not
    statistics.
    """
    if (training and norm.training) or norm.running_var is None:
        with torch.no_grad():
            wide = x if x.dtype == torch.float64 else x.float()
            mean, variance = moments(wide)
    else:
        mean, variance = norm.running_mean, norm.running_var
    scale = scale_of(norm, variance)
    shift = -mean * scale
    return scale, shift if norm.bias is None else shift + norm.bias


def scale_of(norm: nn.Module, variance: Tensor) -> Tensor:
    """(channels,): weight / standard deviation, of a batch norm whose channels have that variance."""
    scale = (variance + norm.eps).rsqrt()
    return scale if norm.weight is None else scale * norm.weight
