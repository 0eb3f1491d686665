"""How people write layers: which `Layer` a module, a function or a method of a traced classifier is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnseg.unroll import activations, mixing, weighted, weightless
from cnnseg.unroll.call import Call, Place
from cnnseg.unroll.called import Called
from cnnseg.unroll.kinds import EINOPS, FEATURE_NORMS, REGISTERED, is_batch_norm, kind_of
from cnnseg.unroll.layers import Layer
from cnnseg.unroll.region import OverRegion, RegionMean
from cnnseg.unroll.transposed import Transposed
from wsss.genuine import is_published

KNOWN = (
    "convolution (Conv2d, ConvTranspose2d), fully connected (Linear), batch norm, layer norm, group norm, ReLU, "
    "ReLU6, LeakyReLU, PReLU, ELU, SiLU, Hardswish, GELU, Mish, Tanh, max and average pooling, dropout, sums and "
    "concatenations of branches, products with a constant or a gate (sigmoid, softmax), mean, slices, padding, up-"
    "sampling, flatten, view, reshape, squeeze, permute"
)
"""Kinds of layers that there are rules for, for messages."""

GATES = ("sigmoid", "hardsigmoid", "expit", "softmax")
ENDS = ("log_softmax", "logsigmoid", *GATES)
END_MODULES = (nn.Softmax, nn.LogSoftmax, nn.Sigmoid, nn.LogSigmoid, nn.Softmax2d)
GATE_MODULES = (nn.Sigmoid, nn.Hardsigmoid, nn.Softmax, nn.Softmax2d)
ADD = ("add", "iadd")

_SUBTRACT, _MULTIPLY = ("sub", "isub", "subtract"), ("mul", "imul", "multiply")
_DIVIDE = ("truediv", "itruediv", "div", "divide", "true_divide")
RESHAPES = (
    *("flatten", "view", "reshape", "squeeze", "unsqueeze", "view_as", "reshape_as", "unflatten", "contiguous"),
    *("clone", "detach", "to", "float", "double", "half", "bfloat16", "type_as"),  # these change less
)
_PERMUTES = ("permute", "transpose", "movedim", "swapaxes", "moveaxis", "swapdims")
_MIXES = ("mean", "sum", "avg_pool2d", "interpolate", "upsample")
_PICKS = ("pad", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "narrow")
SPLITS = ("split", "chunk", "tensor_split", "split_with_sizes", "unsafe_chunk", "unsafe_split")
STACKED_SUM = "stack and sum"
"""What the trace calls a stack of branches whose sum is taken."""
_WITH_WEIGHTS = ("conv2d", "conv_transpose2d", "linear")
CONCATENATIONS = ("cat", "concat", "concatenate")
_DROPOUTS = ("dropout", "dropout1d", "dropout2d", "alpha_dropout", "feature_dropout", "feature_alpha_dropout")

_DROPS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_RESHAPING = (nn.Flatten, nn.Unflatten)
_MIXING = (nn.Upsample, nn.UpsamplingBilinear2d, nn.UpsamplingNearest2d)
_PICKING = (nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.ConstantPad2d, nn.PixelShuffle, nn.ChannelShuffle)


def _smooth(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return activations.divided(function, 1.0)


_ACTIVATIONS: dict[Any, Callable[[Tensor], Tensor]] = {
    nn.SiLU: torch.sigmoid,
    nn.Hardswish: F.hardsigmoid,
    nn.Mish: lambda z: torch.tanh(F.softplus(z)),
    nn.Tanh: _smooth(torch.tanh),
}
"""Activations whose a / z needs nothing of the module's settings: module to a / z."""

_ACTIVATION_FUNCTIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
    "mish": nn.Mish,
    "tanh": nn.Tanh,
}
_PARAMETRIC = ("gelu", "leaky_relu", "elu", "selu", "celu", "hardtanh", "clamp", "clip", "clamp_min", "clamp_max")
"""Functions whose settings are in their arguments: their a / z is divided out."""


@dataclass(frozen=True)
class Written:
    """A node of a trace: what it calls, and which of its inputs hang on the image.

    ``call`` with its inputs as `Place`; ``module`` if it is one; ``moving``: numbers of the inputs that are tensors
    made of the image; ``gated``: those among them that come from a sigmoid or softmax; ``target``: name of a function
    or method, without the marks of work in place; ``in_place``: whether it has one.
    """

    call: Call
    target: str
    module: nn.Module | None
    moving: tuple[int, ...]
    gated: tuple[int, ...]
    in_place: bool


def layer_of(node: Written) -> Layer | None:
    """The layer that is meant, None if there is no rule for it."""
    if node.module is not None:
        return _of_module(node.module, node) if len(node.moving) == 1 else None
    return _of_function(node)


def _of_module(module: nn.Module, node: Written) -> Layer | None:
    if type(module) in REGISTERED:
        return REGISTERED[type(module)](module)
    kind = kind_of(module)
    if kind is nn.Conv2d or (kind.__name__ == "Conv2dSame" and is_published(kind)):
        return weighted.Convolution(module)
    if kind is nn.Linear:
        return weighted.Linear(module)
    if kind is nn.ConvTranspose2d:
        return Transposed(module)
    if kind is RegionMean:
        return OverRegion(module)
    if is_batch_norm(module):
        return weighted.Norm(module)
    if kind.__name__ in FEATURE_NORMS and is_published(kind):
        return mixing.Standardise(module, channels_first=kind.__name__.endswith("2d"))
    if kind in (nn.ReLU, nn.ReLU6):
        return activations.Relu(module)
    if kind in _ACTIVATIONS:
        return activations.Activation(module, _ACTIVATIONS[kind])
    if kind in (nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.Hardtanh, nn.GELU):
        return activations.Activation(module, _divided_out(module, kind))
    if kind is nn.MaxPool2d:
        names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
        return None if module.return_indices else _max_pool(F.max_pool2d, module, names)
    if kind is nn.AdaptiveMaxPool2d:
        return None if module.return_indices else _max_pool(F.adaptive_max_pool2d, module, ("output_size",))
    if kind is nn.AvgPool2d:
        return mixing.AveragePool(window=module)
    if kind is nn.AdaptiveAvgPool2d:
        return mixing.AveragePool(adaptive=module.output_size)
    if kind in _DROPS or (kind.__name__ in ("DropPath", "StochasticDepth") and is_published(kind)):
        return weightless.Drop(module)
    if kind in _RESHAPING:
        return weightless.Reshape(node.call)
    if kind in _MIXING:
        return mixing.Linearly(node.call)
    if kind in _PICKING:
        return mixing.Linearly(node.call, mixes=False)
    if kind.__name__ == "Normalize" and kind.__module__.startswith("torchvision.transforms"):
        return weightless.Scale(node.call) if not any(module.mean) else weightless.Normalise(node.call)
    if kind.__name__ in EINOPS and getattr(module, "reduction", "mean") in ("mean", "sum"):
        return mixing.Linearly(node.call, mixes=kind.__name__ == "Reduce")
    return None


def _max_pool(function: Callable[..., Any], module: nn.Module, names: tuple[str, ...]) -> Layer:
    settings = tuple((name, getattr(module, name)) for name in names)
    return weightless.MaxPool(Call(function, (Place(0),), settings))


def _divided_out(module: nn.Module, kind: type[nn.Module]) -> Callable[[Tensor], Tensor]:
    if kind is nn.GELU and module.approximate == "none":
        return activations.gelu_ratio
    slopes = {
        nn.GELU: 0.5,
        nn.ELU: 1.0,
        nn.LeakyReLU: 1.0,
        nn.PReLU: 1.0,
        nn.SELU: 1.0507,
        nn.CELU: 1.0,
        nn.Hardtanh: 1.0,
    }
    return activations.divided(module, slopes[kind])


def _of_function(node: Written) -> Layer | None:
    target, call, moving = node.target, node.call, node.moving
    if target in CONCATENATIONS:
        return weightless.Concatenate(call)
    if target in (*ADD, *_SUBTRACT):
        return _sum(node)
    if target == STACKED_SUM:
        return mixing.AddAll() if len(moving) == len(call.args) else None
    if target in _MULTIPLY:
        if len(moving) == 2:
            gates = [number for number in moving if number in node.gated]
            if not gates:
                return None
            signal = next(number for number in moving if number != gates[-1])
            return weightless.Scale(call, signal, gate=gates[-1])
        return weightless.Scale(call, moving[0]) if moving else None
    if target in ("matmul", "bmm"):
        signals = [number for number in moving if number not in node.gated]
        plain = call.args == (Place(0), Place(1)) and not call.kwargs
        return mixing.Attend(signals[0]) if plain and len(moving) == 2 and len(signals) == 1 else None
    if target in _DIVIDE:
        is_divided = moving == (0,) and call.args[:1] == (Place(0),) and len(call.args) == 2 and not call.kwargs
        return weightless.Scale(call) if is_divided else None
    if len(moving) != 1 or moving[0] != 0 or _index(call.args, 0) is None:
        return None
    if target in _WITH_WEIGHTS:
        return Called(target, call)
    if target in ("neg", "negative"):
        return weightless.Scale(call)
    if target in _ACTIVATION_FUNCTIONS:
        kind = _ACTIVATION_FUNCTIONS[target]
        return _of_module(kind(inplace=True) if node.in_place and kind is not nn.Tanh else kind(), node)
    if target in _PARAMETRIC:
        return _clamped(call)
    if target in RESHAPES:
        return weightless.Reshape(call)
    if target in _PERMUTES:
        return weightless.Permute(call)
    if target in _MIXES:
        return None if _over_images(call) else mixing.Linearly(call)
    if target in SPLITS:
        return mixing.Linearly(call, mixes=False)
    if target == "getitem":
        return mixing.Linearly(call, mixes=False) if _keeps_batch(call.args[1]) else None
    if target in _PICKS:
        return mixing.Linearly(call, mixes=False)
    if target in _DROPOUTS:
        return _dropout(call)
    return _pooling(target, call)


def _sum(node: Written) -> Layer | None:
    """A sum or difference of two branches, or of a branch and a constant."""
    call, moving, sign = node.call, node.moving, -1 if node.target in _SUBTRACT else 1
    if any(key != "out" and key != "inplace" for key, _ in call.kwargs) or len(call.args) != 2:
        return None  # alpha=...
    if len(moving) == 2:
        return mixing.Add(sign, in_place=node.in_place)
    place = next((spot for spot, arg in enumerate(call.args) if arg == Place(moving[0])), None) if moving else None
    return None if place is None else weightless.Shift(call, moving[0], sign if place == 1 else 1)


def _clamped(call: Call) -> Layer | None:
    """An activation with settings; of a clamp only one that leaves 0 as it is."""
    zero = call.run((torch.zeros(1),))
    if float(zero) != 0:
        return None
    slope = float(call.run((torch.full((1,), 1e-4, dtype=torch.float64),))) / 1e-4
    # a call may work in place
    return activations.Activation(
        lambda z: call.run((z,)), activations.divided(lambda z: call.run((z.clone(),)), round(slope, 3))
    )


def _dropout(call: Call) -> Layer:
    """Dropout as a function: as it is written, in training; nothing otherwise."""
    given = dict(call.kwargs)
    p = call.args[1] if len(call.args) > 1 else given.get("p", 0.5)
    active = call.args[2] if len(call.args) > 2 else given.get("training", True)
    module = nn.Dropout(p if active is True and isinstance(p, float) else 0.0)
    return weightless.Drop(module)


def _pooling(target: str, call: Call) -> Layer | None:
    given = dict(call.kwargs)
    if target == "adaptive_avg_pool2d":
        size = call.args[1] if len(call.args) > 1 else given["output_size"]
        fixed = all(side is None or isinstance(side, int) for side in _listed(size))
        return mixing.AveragePool(adaptive=size) if fixed else mixing.Linearly(call)
    most = {"max_pool2d": 6, "adaptive_max_pool2d": 2}  # arguments, before the one that asks for indices
    if target in most and len(call.args) <= most[target] and not given.get("return_indices"):
        kwargs = tuple((key, value) for key, value in call.kwargs if key != "return_indices")
        return weightless.MaxPool(Call(getattr(F, target), call.args, kwargs))
    return None


def _listed(size: Any) -> list[Any]:
    return list(size) if isinstance(size, list | tuple) else [size]


def _over_images(call: Call) -> bool:
    """Whether a mean or sum runs over the first dimension, that of the images."""
    given = dict(call.kwargs)
    dims = call.args[1] if len(call.args) > 1 else given.get("dim", given.get("axis"))
    return 0 in _listed(dims)


def _index(args: tuple[Any, ...], number: int) -> int | None:
    return next((spot for spot, arg in enumerate(args) if arg == Place(number)), None)


def _keeps_batch(key: Any) -> bool:
    """Whether an index leaves the first dimension, that of the images, alone."""
    first = key[0] if isinstance(key, tuple) else key
    return first == slice(None) or first is Ellipsis
