"""What the axes of each step's output stand for, followed from the images on.

A tensor of four dimensions need not be maps: it may be channels-last, windows, or heads of attention. Whatever is not
known to keep its places is taken to lose them; a sum with a shortcut has those of the shortcut.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from cnnseg.unroll import axes as of_axes
from cnnseg.unroll.axes import COLUMNS, NOWHERE, ROWS, Axes, channels, maps_axes, whole
from cnnseg.unroll.call import Call
from cnnseg.unroll.called import Called
from cnnseg.unroll.layers import Layer
from cnnseg.unroll.mixing import Add, AddAll, Attend
from cnnseg.unroll.spellings import CONCATENATIONS, RESHAPES
from cnnseg.unroll.steps import Step, Trace
from cnnseg.unroll.transposed import Transposed
from cnnseg.unroll.weighted import Convolution, Linear
from cnnseg.unroll.weightless import Concatenate, Permute, Reshape, Scale, Shift

_ARITHMETIC = (
    *("add", "iadd", "sub", "isub", "subtract", "mul", "imul", "multiply", "truediv", "itruediv", "div", "divide"),
    *("maximum", "minimum", "where", "addcmul", "lerp", "pow"),
)
_LOCAL = (
    *("relu", "relu6", "silu", "hardswish", "mish", "tanh", "gelu", "leaky_relu", "elu", "selu", "celu", "hardtanh"),
    *("sigmoid", "hardsigmoid", "expit", "softmax", "log_softmax", "logsigmoid", "softplus", "softsign", "prelu"),
    *("clamp", "clip", "clamp_min", "clamp_max", "abs", "neg", "negative", "exp", "log", "sqrt", "rsqrt", "square"),
    *("sin", "cos", "erf", "reciprocal", "normalize", "layer_norm", "group_norm", "batch_norm", "instance_norm"),
    *("rms_norm", "local_response_norm", "glu", "dropout", "dropout1d", "dropout2d", "alpha_dropout"),
    *("feature_dropout", "feature_alpha_dropout", "avg_pool2d", "max_pool2d", "lp_pool2d", "adaptive_avg_pool2d"),
    *("adaptive_max_pool2d", "interpolate", "upsample", "pad", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle"),
    *("narrow", "split", "chunk", "tensor_split", "split_with_sizes", "unsafe_chunk", "unsafe_split", "expand"),
    *("expand_as", "at_least"),
)
"""Functions and methods whose output lies where their input lies; sizes may change."""

_REDUCING = ("mean", "sum", "amax", "amin", "max", "min", "std", "var", "norm", "logsumexp", "prod")
_ELSEWHERE = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder, nn.RNNBase, nn.Fold, nn.Unfold)
"""Modules of torch.nn that move values to other places."""
_SIZES = ("size", "dim", "ndimension", "numel", "len")
_NEW = ("new_zeros", "new_ones", "new_full", "new_empty", "new_tensor", "zeros_like", "ones_like", "full_like")
"""Functions and methods that make constants of a tensor's kind."""
_TURNED = ("mT", "mH")
_MOVING = ("Rearrange", "Reduce")


class Following:
    """The axes of all places of a trace, step by step.

    Args:
        images: (B, 3, H, W), at place 0.
    """

    def __init__(self, images: Tensor) -> None:
        self._batch = len(images)
        self._axes: dict[int, Axes | None] = {0: maps_axes(images.shape)}

    def step(self, place: int, step: Step, inputs: tuple[Any, ...], out: Any) -> None:
        """Note what a step at `place` gives, of its inputs."""
        if isinstance(out, torch.Size) or not isinstance(out, Tensor | tuple | list):
            return
        moving = [number for number, source in enumerate(step.inputs) if source in self._axes]
        if not moving or _is_size(step):
            return  # a constant
        given = [(inputs[number], self._axes[step.inputs[number]]) for number in moving]
        found = self._found(step.layer, given, inputs, out)
        shape = _first(out).shape if isinstance(_first(out), Tensor) else ()
        if found and len(found) == len(shape):
            found = of_axes.tidied(found)
        elif found:
            found = None
        self._axes[place] = found

    def of(self, place: int) -> Axes | None:
        """The axes of what lies at a place, None or `NOWHERE` if they are not known."""
        return self._axes.get(place)

    def is_lost(self, place: int, value: Any) -> bool:
        """Whether a place has values that may lie somewhere in the image, of which it is not known where."""
        return place in self._axes and not self._axes[place] and isinstance(value, Tensor) and value.ndim > 2

    def _found(self, layer: Layer, given: list[Any], inputs: tuple[Any, ...], out: Any) -> Axes | None:
        call = layer if isinstance(layer, Call) else getattr(layer, "call", None)
        name = layer.name if isinstance(layer, Called) else _name(call)
        x, axes = given[0]
        if isinstance(layer, Attend) or name in ("matmul", "bmm"):
            return _product(given, inputs, call, out)
        if name == "scaled_dot_product_attention":
            (_, queries), (_, values) = given[0], given[-1]
            return (*queries[:-1], values[-1]) if queries and values else NOWHERE
        if isinstance(layer, Concatenate) or name in CONCATENATIONS:
            return _concatenated(given, inputs, out)
        if isinstance(layer, Add | AddAll | Scale | Shift) or name in _ARITHMETIC:
            return _agreed([one for value, one in given if _shape(value) == out.shape])
        if isinstance(layer, Convolution | Transposed) or name in ("conv2d", "conv_transpose2d"):
            return self._convolved(x, axes, inputs, out)
        if not axes:
            return axes
        if isinstance(layer, Linear) or name == "linear":
            return *axes[:-1], channels(out.shape[-1])
        return _of_one(layer, call, name, x, axes, inputs, out)

    def _convolved(self, x: Tensor, axes: Axes | None, inputs: tuple[Any, ...], out: Tensor) -> Axes | None:
        """Of a convolution. What is lost before it is found again, as neighbours are together in the last two axes."""
        if axes is None:
            return maps_axes(out.shape) if out.ndim == 4 and len(out) == self._batch else None
        if not axes:
            return axes
        if of_axes.are_plain(axes):
            return _resized(x, axes, out, by_convolution=True)
        alone = out.ndim == x.ndim and out.shape[2:] == x.shape[2:] and of_axes.is_channels(axes[1])
        return (axes[0], channels(out.shape[1]), *axes[2:]) if alone else NOWHERE


def hanging(traced: Trace) -> list[bool]:
    """For each step whether it gives a tensor made of the image, gates too; sizes are none."""
    found: set[int] = {0}
    for place, step in enumerate(traced.steps, 1):
        if not _is_size(step) and any(source in found for source in step.inputs):
            found.add(place)
    return [place in found for place in range(1, len(traced.steps) + 1)]


def _is_size(step: Step) -> bool:
    """Whether a step gives a size, or a constant, of a tensor."""
    if not isinstance(step.layer, Call):
        return False
    name = _name(step.layer)
    return name in (*_SIZES, *_NEW) or (name == "getattr" and step.layer.args[1] not in _TURNED)


def _of_one(
    layer: Layer, call: Call | None, name: str, x: Any, axes: Axes, inputs: tuple[Any, ...], out: Any
) -> Axes | None:
    """Of a step whose input's axes are known."""
    if isinstance(x, tuple | list):  # of which one is taken, all of one kind
        return axes
    if isinstance(layer, Permute):
        assert call is not None
        marked = torch.empty(*range(2, 2 + x.ndim), device="meta")  # a side tells which dimension it was
        return tuple(axes[side - 2] for side in call.run((marked, *inputs[1:])).shape)
    if isinstance(layer, Reshape) or name in RESHAPES:
        return of_axes.reshaped(axes, out.shape)
    if name == "getattr":  # one of _TURNED
        return *axes[:-2], axes[-1], axes[-2]
    if name == "unbind" and call is not None:
        return _without(axes, _dims(call, inputs, default=0))
    if name == "getitem" and call is not None:
        return _picked(x, axes, call.filled(inputs)[0][1])
    if name in _REDUCING and call is not None:
        dims = _dims(call, inputs)
        same = _shape(_first(out)) and _first(out).ndim == x.ndim
        return _resized(x, axes, _first(out)) if same else _without(axes, dims)
    module = call.function if call is not None and isinstance(call.function, nn.Module) else None
    if isinstance(module, _ELSEWHERE) or name in _MOVING:
        return None
    if call is None or module is not None or name in _LOCAL:
        return _resized(x, axes, _first(out))
    return None


def _name(call: Call | None) -> str:
    """Name of a function or method, without the mark of work in place; of a module its class's."""
    if call is None:
        return ""
    function: Callable[..., Any] = call.function
    while isinstance(function, partial):
        first = function.args[0]
        if isinstance(first, str):
            return first.rstrip("_")
        function = first
    return getattr(function, "__name__", type(function).__name__).rstrip("_")


def _shape(value: Any) -> torch.Size | None:
    return value.shape if isinstance(value, Tensor) else None


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, tuple | list) and value else value


def _agreed(known: list[Axes | None]) -> Axes | None:
    """Of a sum or product: those of the inputs whose places are known, if these say the same."""
    kinds = {axes for axes in known if axes and of_axes.has_places(axes)}
    if len(kinds) > 1:
        kinds = {axes for axes in kinds if of_axes.are_maps(axes)}
    if kinds:
        return kinds.pop() if len(kinds) == 1 else None
    return next((axes for axes in known if axes), NOWHERE if NOWHERE in known else None)


def _product(given: list[Any], inputs: tuple[Any, ...], call: Call | None, out: Tensor) -> Axes | None:
    """Of a matrix product: the rows of the one, the columns of the other."""
    if len(given) == 1:
        axes = given[0][1]
        first = given[0][0] is (call.filled(inputs)[0][0] if call is not None else inputs[0])
        return (*axes[:-1], channels(out.shape[-1])) if axes and first else NOWHERE
    (_, one), (_, other) = given
    if not one or not other or len(one) != len(other) or one[:-2] != other[:-2]:
        return NOWHERE
    return *one[:-1], other[-1]


def _concatenated(given: list[Any], inputs: tuple[Any, ...], out: Tensor) -> Axes | None:
    """Of a concatenation: of channels, or of tokens behind others that lie nowhere."""
    tensors = [value for value in _flat(inputs) if isinstance(value, Tensor)]
    grown = [dim for dim in range(out.ndim) if out.shape[dim] != tensors[0].shape[dim]]
    if len(grown) != 1:
        return _agreed([axes for _, axes in given]) if not grown else None
    (dim,) = grown
    known = [(value, axes) for value, axes in given if axes and len(axes) == out.ndim]
    if all(of_axes.is_channels(axes[dim]) for _, axes in known):
        return _agreed([(*axes[:dim], channels(out.shape[dim]), *axes[dim + 1 :]) for _, axes in known])
    last, axes = given[-1]
    others = [axes for _, axes in given[:-1]]
    clear = all(one and of_axes.is_channels(one[dim]) for one in others)
    if last is not tensors[-1] or not axes or not clear:
        return None
    return *axes[:dim], of_axes.prefixed(axes[dim], out.shape[dim] - last.shape[dim]), *axes[dim + 1 :]


def _flat(values: Any) -> list[Any]:
    return [one for value in values for one in (_flat(value) if isinstance(value, tuple | list) else [value])]


def _resized(x: Tensor, axes: Axes, out: Any, *, by_convolution: bool = False) -> Axes | None:
    """Of an output that lies where the input does, on another grid perhaps, or with other channels."""
    if not isinstance(out, Tensor) or out.ndim != len(axes):
        return None
    found = []
    for dim, (axis, before, size) in enumerate(zip(axes, x.shape, out.shape, strict=True)):
        if by_convolution and dim == 1:
            found.append(channels(size))
        elif before == size:
            found.append(axis)
        elif of_axes.is_channels(axis):
            found.append(channels(size))
        elif len(axis) == 1 and axis[0].of in (ROWS, COLUMNS):
            found.append(whole(axis[0].of, size))
        else:
            return None
    return tuple(found)


def _dims(call: Call, inputs: tuple[Any, ...], default: int | None = None) -> list[int] | None:
    """The dimensions that a call is asked to do something along."""
    args, kwargs = call.filled(inputs)
    dims = args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis", default))
    dims = [dims] if isinstance(dims, int) else dims
    return list(dims) if isinstance(dims, tuple | list) and all(isinstance(dim, int) for dim in dims) else None


def _without(axes: Axes, dims: list[int] | None) -> Axes | None:
    if dims is None:
        return None
    gone = {dim % len(axes) for dim in dims}
    return tuple(axis for dim, axis in enumerate(axes) if dim not in gone)


def _picked(x: Tensor, axes: Axes, key: Any) -> Axes | None:
    """Of a part of a tensor."""
    keys = list(key) if isinstance(key, tuple) else [key]
    if any(not (one is None or one is Ellipsis or isinstance(one, int | slice)) for one in keys):
        return None
    if Ellipsis in keys:
        at = keys.index(Ellipsis)
        taken = sum(one is not None and one is not Ellipsis for one in keys)
        keys[at : at + 1] = [slice(None)] * (len(axes) - taken)
    found: list[of_axes.Axis] = []
    dim = 0
    for one in keys:
        if one is None:
            found.append(())
            continue
        axis = axes[dim] if isinstance(one, int) else _sliced(axes[dim], x.shape[dim], one)
        dim += 1
        if axis is None:
            return None
        if not isinstance(one, int):
            found.append(axis)
    return (*found, *axes[dim:])


def _sliced(axis: of_axes.Axis, size: int, key: slice) -> of_axes.Axis | None:
    """An axis of which a part is taken; None if it is no longer one of the whole image, but for a margin."""
    taken = range(*key.indices(size))
    if len(taken) == size:
        return axis
    if of_axes.is_channels(axis):
        return channels(len(taken))
    behind = axis[0].behind
    if behind:
        prefix = size - torch.Size(factor.size for factor in behind).numel()
        if taken.step == 1 and taken.start == prefix and taken.stop == size:
            return behind
        return channels(len(taken)) if taken.stop <= prefix else None
    spans = len(taken) * abs(taken.step) * 2 > size
    if len(axis) == 1 and axis[0].of in (ROWS, COLUMNS) and axis[0].is_coarsest and taken.step > 0 and spans:
        return whole(axis[0].of, len(taken))
    return None
