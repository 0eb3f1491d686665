"""From a classifier to the list of its layers: what each computes, which rule it has, and which layers feed it."""

from __future__ import annotations

from inspect import getattr_static
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn

from cnnseg.unroll.kinds import REGISTERED, kind_of
from cnnseg.unroll.reading import Reading
from cnnseg.unroll.steps import Step, Trace, Untraceable
from cnnseg.unroll.tracer import Tracer
from wsss.errors import InputError
from wsss.explanation import evaluating
from wsss.genuine import own_call, replaced_method

__all__ = ["Step", "Trace", "Untraceable", "trace"]

_TRACES: WeakKeyDictionary[nn.Module, tuple[object, Trace]] = WeakKeyDictionary()


def trace(model: nn.Module) -> Trace:
    """The layers of a classifier; the same as long as the model consists of the same modules with the same settings.

    A batch norm that alone follows a convolution or a fully connected layer is one step with it. Whatever reads a
    tensor after a layer changed it in place takes that layer's output. Layers that the class scores do not hang on are
    left out, and so is a softmax or sigmoid at the end: class scores are what goes into it.

    Raises:
        Untraceable: `torch.fx` cannot follow the model's code.
        InputError: the model's code is not that of its class.
    """
    _refuse_replaced(model)
    built_of = tuple(_settings(module) for module in model.modules())
    known = _TRACES.get(model)
    if known is None or known[0] != built_of:
        own = getattr(model, "make_trace", None)  # of what torch.fx cannot follow
        known = built_of, _trace(model) if own is None else own()
        calls: list[Any] = [step.layer for step in known[1].calls]
        if not any(call.function is getattr and call.args[0] is model for call in calls):
            _TRACES[model] = known  # a trace that holds the model itself would keep it alive
    return known[1]


def _settings(module: nn.Module) -> tuple[Any, ...]:
    """What a trace may have taken from a module: its class, its code, its parts and all its settings but the mode."""
    kind = type(module)
    own = []
    for key, value in vars(module).items():
        if key != "training" and not (isinstance(value, dict) and not value):  # most are empty lists of hooks
            own.append((key, _setting(value)))
    return id(module), kind, id(getattr(kind, "forward", None)), REGISTERED.get(kind), tuple(own)


def _setting(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return type(value), value
    if isinstance(value, Tensor):
        return Tensor  # the steps read it anew
    if isinstance(value, list | tuple):
        return type(value), tuple(map(_setting, value))
    if isinstance(value, dict):
        return dict, tuple((key, _setting(one)) for key, one in value.items())
    return id(value)


def _refuse_replaced(model: nn.Module) -> None:
    """InputError if a layer, whose rule goes by its class, or the model itself was given another ``forward``."""
    tracer = Tracer()
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        _refuse_own(name, module, tracer)
        replaced = vars(module).get("forward")
        if replaced is None:
            continue
        original = getattr_static(type(module), "forward", None)
        if getattr(replaced, "__func__", None) is original:
            continue
        if not name or tracer.is_leaf_module(module, name):
            where, path = (f"of {name} ", f"model.{name}") if name else ("", "model")
            raise InputError(
                f"model: forward {where}was replaced on the object, so the rules may not fit what it computes; "
                f"del {path}.forward gives it back"
            )


def _refuse_own(name: str, module: nn.Module, tracer: Tracer) -> None:
    """InputError if calling a module is not its ``forward``, or a library's layer computes what it was not made for."""
    kind = type(module)
    if (method := own_call(kind)) is not None:
        raise InputError(
            f"model: {name or 'the model'} is a {kind.__name__} with a {method} of its own, which no rule knows of; "
            "write what it does into its forward"
        )
    if tracer.is_leaf_module(module, name) and (replaced := replaced_method(kind_of(module))) is not None:
        raise InputError(
            f"model: {replaced}, which {name} computes by, is not that of its library but another function, so the "
            "rules may not fit what it computes; put the library's back"
        )


def _trace(model: nn.Module) -> Trace:
    part = getattr(model, "layers_of", None)
    kind = type(model if part is None else model.get_submodule(part)).__name__
    try:
        graph, constants = _graph(model)
    except Exception as error:  # whatever the model's own code raises when it is given a stand-in for images
        reason = str(error).split("\n")[0]
        raise Untraceable(kind, f"its forward function depends on values ({reason})") from None
    found = Reading(model, graph, constants, kind).read()
    return found if part is None else found.named_in(part)


def _graph(model: nn.Module) -> tuple[fx.Graph, dict[str, Tensor]]:
    """What torch.fx makes of the model, and the constants of its code, which are not left on the model."""
    before = set(vars(model))
    constants: dict[str, Tensor] = {}
    try:
        with evaluating(model):
            return Tracer().trace(model), constants
    finally:
        for name in set(vars(model)) - before:
            if name.startswith("_tensor_constant"):
                constants[name] = vars(model).pop(name)
