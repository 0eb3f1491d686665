"""Layers without weights that add inputs up: sums, average pools, means, norms over features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnseg.unroll.branches import times
from cnnseg.unroll.call import Call, check_batch
from cnnseg.unroll.layers import Layer, Record, Way, shapes_of
from cnnseg.unroll.spread import quotient


class Mixing(Layer):
    """A fixed linear map that adds inputs up; of `average_pool` kind unless said. Each gets its contribution.

    A subclass gives `mix`, forward, and `spread_back`, its transpose.
    """

    kind: str | None = "average_pool"

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
        kept, stabiliser, factor = z[: way.keep].detach(), way.rule.stabiliser, None
        given: tuple[Tensor | None, ...] = ()
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


class AddAll(Mixing):
    """A sum of branches of one shape, however many."""

    kind = "sum"
    owns = False

    def mix(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, None]:
        return sum(inputs[1:], start=inputs[0]), None

    def spread_back(self, p: Tensor, record: Record, extra: None) -> tuple[Tensor, ...]:
        return (p,) * len(record.shapes)


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


class Attend(Mixing):
    """Attention weights times values, ``weights @ values`` or the other way round, the weights (a softmax) taken as
    constants, so that the values take all (Ali et al. 2022, section 3.1).

    ``signal``: which of the two inputs the values are.
    """

    def __init__(self, signal: int) -> None:
        self.signal = signal

    def mix(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        return torch.matmul(*inputs), inputs[1 - self.signal].detach()

    def kept(self, extra: Tensor, keep: int) -> Tensor:
        return extra[:keep]

    def spread_back(self, p: Tensor, record: Record, extra: Tensor) -> tuple[Tensor | None, ...]:
        weights, split = extra.to(p.dtype)[:, None].mT, p.unflatten(0, (len(extra), -1))
        if self.signal:
            return None, (weights @ split).flatten(0, 1)
        return (split @ weights).flatten(0, 1), None


class Standardise(Mixing):
    """Layer norm or group norm: a linear map, its standard deviations taken as constants (Ali et al., "XAI for
    transformers", ICML 2022, LRP-LN). Relevance is that of x minus its mean; the bias takes its part, as anywhere.

    ``channels_first``: of timm's and torchvision's LayerNorm2d, whose channels are the second dimension.
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


def _pair(value: int | tuple[int, int]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)
