"""Layers with weights that a network calls as functions, with weights of its own or computed in ``forward``."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from cnnseg.unroll.call import Call
from cnnseg.unroll.layers import Record, Way, shapes_of
from cnnseg.unroll.transposed import Transposed
from cnnseg.unroll.weighted import Convolution, Linear, Weighted
from wsss.errors import InputError

_SETTINGS: dict[str, tuple[Any, dict[str, Any]]] = {
    "conv2d": (Convolution, {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}),
    "conv_transpose2d": (
        Transposed,
        {"stride": 1, "padding": 0, "output_padding": 0, "groups": 1, "dilation": 1},
    ),
    "linear": (Linear, {}),
}
"""Functions of torch.nn.functional: what each is as a layer, and its arguments after input, weight and bias."""


class Called(Weighted):
    """One of these functions: the rules are those of the layer that it is."""

    def __init__(self, name: str, call: Call) -> None:
        self.name, self.call = name, call
        self.of, self.defaults = _SETTINGS[name]
        self.kind, self.spatial = self.of.kind, self.of.spatial

    def forward(self, inputs: tuple[Any, ...], way: Way) -> tuple[Tensor, Record]:
        args, kwargs = self.call.filled(inputs)
        given = dict(zip(("input", "weight", "bias", *self.defaults), args, strict=False)) | kwargs
        layer = self.of(_Module(getattr(F, self.name), given, self.defaults))
        out, record = layer.forward((given["input"],), way)
        return out, Record(shapes_of(inputs), record.factor, extra=(layer, record))

    def weight(self, record: Record) -> Tensor:
        layer, own = record.extra
        return layer.weight(own)

    def backward(self, p: Tensor, record: Record, weight: Tensor | None, way: Way) -> tuple[Tensor | None, ...]:
        layer, own = record.extra
        return *layer.backward(p, own, weight, way), *[None] * (len(record.shapes) - 1)


class _Module(SimpleNamespace):
    """What a layer asks of its module, of a function's arguments."""

    padding_mode = "zeros"
    _forward_hooks = _forward_pre_hooks = ()

    def __init__(self, function: Callable[..., Tensor], given: dict[str, Any], defaults: dict[str, Any]) -> None:
        settings = {name: given.get(name, value) for name, value in defaults.items()}
        if isinstance(settings.get("padding"), str):
            raise InputError(f"{function.__name__}: padding {settings['padding']!r} is not supported; give numbers")
        super().__init__(weight=given["weight"], bias=given.get("bias"), function=function, settings=settings)
        for name, value in settings.items():
            setattr(self, name, value if name == "groups" else _pair(value))
        self.kernel_size = tuple(self.weight.shape[2:])

    def __call__(self, x: Tensor) -> Tensor:
        return self.function(x, self.weight, self.bias, **self.settings)


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    return tuple(value) * (3 - len(value))  # one number may stand alone in a tuple
