"""A copy of a model to work on: the same weights, without wrappers, gradients or a way to change the original."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from wsss.errors import InputError
from wsss.explanation import inside


def private_copy(model: nn.Module) -> nn.Module:
    """`model` anew, module by module, in evaluation mode; no tensor is copied.

    Whatever is done to the copy (modes, flags, hooks) the original and other threads that use it do not see. Parameters
    and buffers are detached, so graphs hold no gradient of a weight; what was made in inference mode, which no graph
    may keep, is cloned. Parts wrapped by DataParallel or torch.compile are taken out. Forward hooks of the model's
    owner run, but InputError is raised if one changes what passes through, as no rule knows of that.
    """
    return _copy(model, "", {})


def _copy(module: nn.Module, name: str, done: dict[int, nn.Module]) -> nn.Module:
    while (wrapped := inside(module)) is not None:
        module = wrapped
    if isinstance(module, torch.jit.ScriptModule):
        return module  # whose parts are no Python objects; who asked for the copy refuses it by name
    if id(module) not in done:
        copy = done[id(module)] = object.__new__(type(module))
        copy.__dict__.update(module.__dict__)
        here = {
            "training": False,
            "_parameters": {key: _detached(one) for key, one in module._parameters.items()},
            "_buffers": {key: _detached(one) for key, one in module._buffers.items()},
            "_modules": {
                key: part if part is None else _copy(part, f"{name}.{key}".lstrip("."), done)
                for key, part in module._modules.items()
            },
            "_forward_hooks": _guarded(module._forward_hooks, name),
            "_forward_pre_hooks": _guarded(module._forward_pre_hooks, name),
            "_backward_hooks": OrderedDict(),
            "_backward_pre_hooks": OrderedDict(),
            "_compiled_call_impl": None,  # of Module.compile()
        }
        copy.__dict__.update(here)
    return done[id(module)]


def _detached(tensor: Tensor | None) -> Tensor | None:
    if tensor is None:
        return None
    return tensor.detach().clone() if tensor.is_inference() else tensor.detach()


def _guarded(hooks: dict[int, Callable], name: str) -> OrderedDict[int, Callable]:
    return OrderedDict((key, _watching(hook, name)) for key, hook in hooks.items())


def _watching(hook: Callable, name: str) -> Callable:
    def guarded(module: nn.Module, *passing: Any) -> None:
        tensors = [one for part in passing for one in (part if isinstance(part, tuple) else (part,))]
        versions = [one._version for one in tensors if isinstance(one, Tensor)]
        result = hook(module, *passing)
        kept = result is None or any(result is one for one in (*passing, *tensors))
        if not kept or versions != [one._version for one in tensors if isinstance(one, Tensor)]:
            raise InputError(
                f"model: a forward hook of {name or 'the model'} changes what passes through, for which there is no "
                "rule; remove it first"
            )

    return guarded
