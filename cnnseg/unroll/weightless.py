"""Layers that move values, drop them, or multiply them: max pooling, changes of shape, dropout, gates, constants."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnseg.unroll.call import Call, check_batch
from cnnseg.unroll.layers import Layer, Record, Way, shapes_of
from wsss.errors import InputError


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
        if way.keep:
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
        if not way.keep:
            return self.call.run(inputs), Record(shapes_of(inputs))
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
        if not way.keep:
            return out, Record(shapes_of(inputs))
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


class Normalise(Layer):
    """torchvision's Normalize: (x - mean) / std, the mean a constant that has no relevance."""

    owns = None

    def __init__(self, call: Call) -> None:
        self.call = call

    def forward(self, inputs: tuple[Any, ...], way: Way) -> tuple[Tensor, Record]:
        x, factor = inputs[0], None
        module: Any = self.call.function
        if way.keep and not way.whole:
            std = x.new_tensor(module.std).view(-1, 1, 1)
            factor = (1 / std).expand(way.keep, *x.shape[1:])
        return self.call.run(inputs), Record(shapes_of(inputs), factor)

    def backward(self, p: Tensor, record: Record, weight: Tensor | None, way: Way) -> tuple[Tensor, ...]:
        return (p,)
