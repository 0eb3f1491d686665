"""Layers without weights: activations, pooling, sums, gates, normalisation over features, and changes of shape."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnseg.unroll.branches import times
from cnnseg.unroll.layers import Layer, Record, Way, shapes_of
from cnnseg.unroll.spread import quotient
from wsss.errors import InputError


@dataclass(frozen=True)
class Place:
    """In the arguments of a `Call`: its input of that number."""

    number: int


@dataclass(frozen=True, eq=False)
class Call(Layer):
    """Anything that a classifier computes, run as it stands. Relevance does not go through it."""

    function: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()

    def run(self, inputs: tuple[Any, ...]) -> Any:
        """Call it with the inputs in their places."""
        args, kwargs = self.filled(inputs)
        return self.function(*args, **kwargs)

    def filled(self, inputs: tuple[Any, ...]) -> tuple[list[Any], dict[str, Any]]:
        """The arguments with the inputs in their places."""
        args = [_filled(arg, inputs) for arg in self.args]
        return args, {key: _filled(value, inputs) for key, value in self.kwargs}

    def forward(self, inputs: tuple[Any, ...], way: Way) -> tuple[Any, Record]:
        return self.run(inputs), Record(shapes_of(inputs))


def _filled(template: Any, inputs: tuple[Any, ...]) -> Any:
    if isinstance(template, Place):
        return inputs[template.number]
    if isinstance(template, list | tuple):
        return type(template)(_filled(item, inputs) for item in template)
    if isinstance(template, slice):
        return slice(*(_filled(item, inputs) for item in (template.start, template.stop, template.step)))
    return template


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


class Mixing(Layer):
    """A fixed linear map that adds inputs up; of `average_pool` kind unless said. Each gets its contribution.

    A subclass gives `mix`, forward, and `spread_back`, its transpose.
    """

    kind = "average_pool"

    def mix(self, inputs: tuple[Any, ...]) -> tuple[Tensor, Any]:
        """Output, and what the transpose needs of this pass."""
        raise NotImplementedError

    def spread_back(self, p: Tensor, record: Record, extra: Any) -> tuple[Tensor | None, ...]:
        """The transpose."""
        raise NotImplementedError

    def kept(self, extra: Any, keep: int) -> Any:
        """What the transpose needs, of the images that are decoded."""
        return extra

    def forward(self, inputs: tuple[Any, ...], way: Way) -> tuple[Tensor, Record]:
        z, extra = self.mix(inputs)
        if not way.keep:
            return z, Record(shapes_of(inputs))
        extra = self.kept(extra, way.keep)
        kept, stabiliser, factor, given = z[: way.keep].detach(), way.rule.stabiliser, None, ()
        if way.whole and self.kind is not None:
            factor = quotient(1.0, kept, stabiliser)
            # a later layer may change them in place
            given = tuple(x[: way.keep].detach().clone() if isinstance(x, Tensor) else None for x in inputs)
        elif stabiliser:
            factor = quotient(kept, kept, stabiliser)
        return z, Record(shapes_of(inputs), factor, extra=(extra, given))

    def backward(self, p: Tensor, record: Record, weight: Tensor | None, way: Way) -> tuple[Tensor | None, ...]:
        extra, given = record.extra
        parts = self.spread_back(p, record, extra)
        if not way.whole or self.kind is None:
            return parts
        return tuple(None if part is None else times(part, x.to(p.dtype)) for part, x in zip(parts, given, strict=True))


class Add(Mixing):
    """A sum of two branches, or their difference (`sign` -1); each gets R of its own share, which leaves p as it is."""

    kind = "sum"
    owns = False

    def __init__(self, sign: int = 1, *, in_place: bool = False) -> None:
        self.sign, self.in_place = sign, in_place

    def forward(self, inputs: tuple[Tensor, ...], way: Way) -> tuple[Tensor, Record]:
        if self.in_place and not way.keep:  # as it is written; a record might need what it changes
            return inputs[0].add_(inputs[1], alpha=self.sign), Record(shapes_of(inputs))
        return super().forward(inputs, way)

    def mix(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, None]:
        return (inputs[0] + inputs[1] if self.sign == 1 else inputs[0] - inputs[1]), None

    def spread_back(self, p: Tensor, record: Record, extra: None) -> tuple[Tensor, ...]:
        parts = (p, p if self.sign == 1 else -p)
        pairs = zip(parts, record.shapes, strict=True)
        return tuple(part if part.shape[1:] == shape else part.sum_to_size(len(p), *shape) for part, shape in pairs)


class AveragePool(Mixing):
    """Average pooling with a window, or to a size (`adaptive`; "at least" a size: smaller inputs alone are pooled)."""

    owns = False  # a global pool's way back is one number a channel, expanded

    def __init__(
        self, *, window: nn.AvgPool2d | None = None, adaptive: Any = None, at_least: tuple[int, int] | None = None
    ) -> None:
        self.window, self.adaptive, self.minimum = window, adaptive, at_least

    @property
    def is_global(self) -> bool:
        """Whether it leaves one value a channel."""
        return self.adaptive in (1, (1, 1), [1, 1])

    def mix(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, torch.Size]:
        x = inputs[0]
        if self.window is not None:
            out = self.window(x)
        elif self.minimum is not None:
            size = tuple(max(side, least) for side, least in zip(x.shape[2:], self.minimum, strict=True))
            out = F.adaptive_avg_pool2d(x, size)
        else:
            out = F.adaptive_avg_pool2d(x, self.adaptive)
        return out, out.shape[2:]

    def spread_back(self, p: Tensor, record: Record, extra: torch.Size) -> tuple[Tensor, ...]:
        size = record.shapes[0][1:]
        if self.window is None and extra == (1, 1):
            return ((p / size.numel()).expand(-1, -1, *size),)
        like = p.new_empty(1).expand(*p.shape[:2], *size)  # its shape alone counts
        if self.window is None:
            return (torch.ops.aten._adaptive_avg_pool2d_backward(p.contiguous(), like.contiguous()),)
        pool = self.window
        pairs = [_pair(value) for value in (pool.kernel_size, pool.stride, pool.padding)]
        settings = (*pairs, pool.ceil_mode, pool.count_include_pad, pool.divisor_override)
        return (torch.ops.aten.avg_pool2d_backward(p.contiguous(), like.contiguous(), *settings),)


class Linearly(Mixing):
    """Any other linear function of its first input: means, sums, padding, slices, up-sampling; back by autograd."""

    owns = False  # a mean's way back is expanded

    def __init__(self, call: Call, *, mixes: bool = True) -> None:
        self.call = call
        self.kind = "average_pool" if mixes else None  # what only copies or drops values has nothing to share out

    def mix(self, inputs: tuple[Any, ...]) -> tuple[Tensor, tuple[Any, ...]]:
        out = self.call.run(inputs)
        check_batch(inputs[0], out, "it")
        return out, inputs[1:]

    def spread_back(self, p: Tensor, record: Record, extra: tuple[Any, ...]) -> tuple[Tensor | None, ...]:
        like = p.new_zeros(len(p), *record.shapes[0])
        _, back = torch.func.vjp(lambda x: self.call.run((x, *extra)), like)
        return back(p)[0], *[None] * (len(record.shapes) - 1)


class Standardise(Mixing):
    """Layer norm or group norm: a linear map, its standard deviations taken as constants (Ali et al., "XAI for
    transformers", ICML 2022, LRP-LN). Relevance is that of x minus its mean; the bias takes its part, as anywhere.

    ``dims``: over which it works, counted from the end for layer norm; ``channels_first``: timm's LayerNorm2d.
    """

    kind = "layer_norm"

    def __init__(self, module: nn.Module, *, channels_first: bool = False) -> None:
        self.module, self.first = module, channels_first
        self._grouped = isinstance(module, nn.GroupNorm)

    def mix(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        x = inputs[0]
        with torch.no_grad():
            rows, _ = self._rows(x)
            deviation = (rows.var(-1, unbiased=False, keepdim=True) + self.module.eps).rsqrt()
        # of timm's norms with an activation this is the norm alone
        return (nn.GroupNorm.forward(self.module, x) if self._grouped else self.module(x)), deviation

    def kept(self, extra: Tensor, keep: int) -> Tensor:
        return extra[:keep]

    def spread_back(self, p: Tensor, record: Record, extra: Tensor) -> tuple[Tensor, ...]:
        gain = self.module.weight
        if gain is not None:
            gain = gain.detach().to(p.dtype)
            channels = self._grouped or self.first
            p = p * (gain.view(-1, *[1] * (p.ndim - 2)) if channels else gain)
        rows, restore = self._rows(p)
        count = len(extra)
        scaled = (rows.unflatten(0, (count, -1)) * extra.to(p.dtype)[:, None]).flatten(0, 1)
        return (restore(scaled - scaled.mean(-1, keepdim=True)),)

    def _rows(self, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """x with what is normalised together in its last dimension, and the way back."""
        if self._grouped:
            return x.reshape(len(x), self.module.num_groups, -1), lambda rows: rows.reshape(x.shape)
        if self.first:
            return x.movedim(1, -1), lambda rows: rows.movedim(-1, 1)
        dims = len(self.module.normalized_shape)
        return x.flatten(-dims), lambda rows: rows.reshape(x.shape)


class MaxPool(Layer):
    """Max pooling, with a window or to a size; back by its indices, summed where windows overlap.

    ``call``: of the function of torch.nn.functional that it is, whose settings may be made of sizes.
    """

    def __init__(self, call: Call) -> None:
        self.call = call

    def forward(self, inputs: tuple[Any, ...], way: Way) -> tuple[Tensor, Record]:
        args, settings = self.call.filled(inputs)
        if not way.keep:  # the indices cost as much again
            return self.call.function(*args, **settings), Record(shapes_of(inputs))
        out, indices = self.call.function(*args, **settings, return_indices=True)
        return out, Record(shapes_of(inputs), extra=indices[: way.keep])

    def backward(self, p: Tensor, record: Record, weight: Tensor | None, way: Way) -> tuple[Tensor | None, ...]:
        return self._to_maps(p, record, way), *[None] * (len(record.shapes) - 1)

    def _to_maps(self, p: Tensor, record: Record, way: Way) -> Tensor:
        size = record.shapes[0][1:]
        if not way.options.tied_upsampling:
            shrink = (size[0] * size[1]) / (p.shape[2] * p.shape[3])
            return F.interpolate(p, size, mode="nearest") / shrink
        indices = record.extra
        images = len(indices)
        indices = indices[:, None].expand(-1, len(p) // max(images, 1), -1, -1, -1).reshape(p.shape)
        flat = p.new_zeros(*p.shape[:2], size.numel()).scatter_add(2, indices.flatten(2), p.flatten(2))
        return flat.unflatten(2, size)


class Reshape(Layer):
    """Whatever only changes the shape and keeps the batch apart: flatten, view, reshape, squeeze, unsqueeze."""

    owns = None

    def __init__(self, call: Call) -> None:
        self.call = call

    def forward(self, inputs: tuple[Any, ...], way: Way) -> tuple[Tensor, Record]:
        out = self.call.run(inputs)
        check_batch(inputs[0], out, "a change of shape")
        return out, Record(shapes_of(inputs))

    def backward(self, p: Tensor, record: Record, weight: Tensor | None, way: Way) -> tuple[Tensor | None, ...]:
        return p.reshape(len(p), *record.shapes[0]), *[None] * (len(record.shapes) - 1)


class Permute(Layer):
    """Another order of the dimensions."""

    owns = False

    def __init__(self, call: Call) -> None:
        self.call = call

    def forward(self, inputs: tuple[Any, ...], way: Way) -> tuple[Tensor, Record]:
        x = inputs[0]
        marked = torch.empty(*range(2, 2 + x.ndim), device="meta")  # a side tells which dimension it was
        order = [side - 2 for side in self.call.run((marked, *inputs[1:])).shape]
        if order[0] != 0:
            raise InputError("a change of the order moves the first dimension, that of the images")
        return self.call.run(inputs), Record(shapes_of(inputs), extra=[order.index(dim) for dim in range(x.ndim)])

    def backward(self, p: Tensor, record: Record, weight: Tensor | None, way: Way) -> tuple[Tensor | None, ...]:
        return p.permute(record.extra), *[None] * (len(record.shapes) - 1)


class Drop(Layer):
    """Dropout and stochastic depth: what was drawn is a factor like any other. Only in training does it happen."""

    owns = None

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def forward(self, inputs: tuple[Tensor, ...], way: Way) -> tuple[Tensor, Record]:
        x = inputs[0]
        active = way.training and self.module.training
        if not active or not (getattr(self.module, "p", 0) or getattr(self.module, "drop_prob", 0)):
            return x, Record(shapes_of(inputs))
        if isinstance(self.module, nn.AlphaDropout | nn.FeatureAlphaDropout):
            raise InputError("alpha dropout adds a constant to what it drops: there is no rule for it in training")
        drawn = self.module(torch.ones_like(x))
        return x * drawn, Record(shapes_of(inputs), None if way.whole else drawn[: way.keep])

    def backward(self, p: Tensor, record: Record, weight: Tensor | None, way: Way) -> tuple[Tensor, ...]:
        return (p,)


class Concatenate(Layer):
    """Concatenation along any dimension but the batch's."""

    owns = False

    def __init__(self, call: Call) -> None:
        self.call = call

    def forward(self, inputs: tuple[Any, ...], way: Way) -> tuple[Tensor, Record]:
        out = self.call.run(inputs)
        tensors = [x for x in inputs if isinstance(x, Tensor)]
        grown = [dim for dim in range(1, out.ndim) if out.shape[dim] != tensors[0].shape[dim]]
        dim = grown[0] if grown else 1
        check_batch(tensors[0], out, "a concatenation")
        return out, Record(shapes_of(inputs), extra=dim)

    def backward(self, p: Tensor, record: Record, weight: Tensor | None, way: Way) -> tuple[Tensor | None, ...]:
        dim = record.extra
        return p.split([shape[dim - 1] for shape in record.shapes], dim=dim)


class Scale(Layer):
    """Input `signal` times (or divided by) a constant, or times a gate: what it is multiplied by has no relevance.

    A gate (input `gate`) may depend on the image (squeeze-and-excitation); it is taken as a constant (Arras et al.,
    2019: the signal takes all).
    """

    owns = None

    def __init__(self, call: Call, signal: int = 0, *, gate: int | None = None) -> None:
        self.call, self.signal, self.gate = call, signal, gate

    def forward(self, inputs: tuple[Any, ...], way: Way) -> tuple[Tensor, Record]:
        out = self.call.run(inputs)
        x = inputs[self.signal]
        check_batch(x, out, "a multiplication")
        if x.shape != out.shape:
            raise InputError(f"a multiplication enlarges {tuple(x.shape)} to {tuple(out.shape)}; expected equal shapes")
        factor = None
        if way.keep and not way.whole:
            with torch.no_grad():
                given = list(inputs)
                given[self.signal] = torch.ones_like(x[: way.keep])
                if self.gate is not None:
                    given[self.gate] = given[self.gate][: way.keep]
                factor = self.call.run(tuple(given))
        return out, Record(shapes_of(inputs), factor)

    def backward(self, p: Tensor, record: Record, weight: Tensor | None, way: Way) -> tuple[Tensor | None, ...]:
        return tuple(p if place == self.signal else None for place in range(len(record.shapes)))


class Shift(Layer):
    """Plus or minus a constant, which like a bias has no relevance; a minus in front of the signal turns p around."""

    owns = None

    def __init__(self, call: Call, signal: int = 0, sign: int = 1) -> None:
        self.call, self.signal, self.sign = call, signal, sign

    def forward(self, inputs: tuple[Any, ...], way: Way) -> tuple[Tensor, Record]:
        out = self.call.run(inputs)
        x = inputs[self.signal]
        if x.shape != out.shape:
            raise InputError(f"a sum enlarges {tuple(x.shape)} to {tuple(out.shape)}; expected equal shapes")
        return out, Record(shapes_of(inputs))

    def backward(self, p: Tensor, record: Record, weight: Tensor | None, way: Way) -> tuple[Tensor | None, ...]:
        p = p if self.sign == 1 or way.whole else -p
        return tuple(p if place == self.signal else None for place in range(len(record.shapes)))


def check_batch(x: Tensor, out: Any, what: str) -> None:
    """InputError unless the output has a row for each image, as the input does."""
    if not isinstance(out, Tensor) or out.ndim == 0 or len(out) != len(x):
        found = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise InputError(f"{what} turns {tuple(x.shape)} into {found}: expected a row for each of {len(x)} images")


def _pair(value: int | tuple[int, int]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)
