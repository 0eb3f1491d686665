"""From a classifier to the list of its layers: which rule each has, and which layers feed it."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from timm.models.vgg import ConvMlp
from torch import Tensor, fx, nn

from cnnseg.unroll import rules, weightless
from cnnseg.unroll.rules import Rule
from wsss.errors import InputError

IN_PLACE = ("iadd", "isub", "imul", "itruediv", "setitem")
"""Operators that change what they are given; so do functions and methods whose names end in _."""

KNOWN = "convolution, batch norm, ReLU, ReLU6, max and average pooling, fully connected, dropout, sum, concatenation"


@dataclass(frozen=True)
class Step:
    """A layer: its name in the classifier, its rule, and the steps whose outputs it takes (0 is the image)."""

    name: str
    rule: Rule
    inputs: tuple[int, ...]


@fx.wrap
def at_least(x: Tensor, size: tuple[int, int]) -> Tensor:
    """What timm's VGG does before its first fully connected layer, as one step of the trace."""
    raise NotImplementedError("a name in a trace; its rule is an average pool")


class _Tracer(fx.Tracer):
    """Stops at the modules of torch.nn, and takes apart those of timm whose code cannot be followed."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, BatchNormAct2d) or super().is_leaf_module(module, name)

    def call_module(self, module: nn.Module, forward: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
        if isinstance(module, BatchNormAct2d):
            normed = super().call_module(module, forward, args, kwargs)
            return module.act(module.drop(normed))
        if isinstance(module, ConvMlp):
            x = at_least(args[0], module.fc1.kernel_size)
            return module.act2(module.fc2(module.drop(module.act1(module.fc1(x)))))
        return super().call_module(module, forward, args, kwargs)


def trace(model: nn.Module) -> tuple[Step, ...]:
    """The layers of a classifier in the order of their computation; the last yields the class scores.

    A batch norm that alone follows a convolution is one step with it. Whatever reads a tensor after a layer changed it
    in place takes that layer's output. Layers that the class scores do not hang on are left out.

    Raises:
        InputError: a layer has no rule (it is named), or the model's code cannot be traced.
    """
    try:
        graph = _Tracer().trace(model)
    except (fx.proxy.TraceError, TypeError, NotImplementedError, RuntimeError) as error:
        reason = str(error).split("\n")[0]
        raise InputError(
            f"{type(model).__name__} cannot be unrolled: its forward function depends on values ({reason})"
        ) from None
    steps: list[Step] = []
    place: dict[fx.Node, int] = {}
    faults: dict[int, str] = {}
    end = 0
    modules = dict(model.named_modules())
    for node in graph.nodes:
        if node.op == "placeholder":
            if place:
                if node.users:
                    raise InputError(f"{type(model).__name__} cannot be unrolled: takes more than an image")
                continue
            place[node] = 0
            continue
        if node.op == "output":
            if not isinstance(node.args[0], fx.Node):
                raise InputError(f"{type(model).__name__} cannot be unrolled: gives more than class scores")
            end = place[node.args[0]]
            continue
        module = modules.get(node.target) if node.op == "call_module" else None
        inputs = _tensor_inputs(node)
        if isinstance(module, nn.BatchNorm2d) and (alone := _convolution_before(inputs[0], steps, place)):
            steps[place[inputs[0]] - 1] = Step(
                f"{alone.name} with {node.target}", rules.Convolution(alone.rule.convolution, module), alone.inputs
            )
            place[node] = place[inputs[0]]
            continue
        if type(module) is nn.Identity:
            place[node] = place[inputs[0]]
            continue
        rule = _module_rule(module, node) if module is not None else _function_rule(node)
        name = str(node.target if module is not None else node.name)
        if rule is None or set(inputs) != set(node.all_input_nodes):
            what = type(module).__name__ if module is not None else _label(node)
            fault = f"layer {name} ({what}) of {type(model).__name__} has no rule; there are rules for {KNOWN}"
            faults[len(steps) + 1], rule, inputs = fault, Rule(), node.all_input_nodes
        steps.append(Step(name, rule, tuple(place[i] for i in inputs)))
        if inputs and _in_place(node, module):
            changed = place[inputs[0]]
            memory = _memory(changed, steps)
            for other, number in place.items():
                if number != changed and _memory(number, steps) == memory and any(user > node for user in other.users):
                    faults[len(steps)] = (
                        f"layer {name} of {type(model).__name__} changes in place what later layers read through "
                        "another one's output; make it inplace=False"
                    )
            place |= {other: len(steps) for other, number in place.items() if number == changed}
        place[node] = len(steps)
    return _reached(steps, end, faults)


def _reached(steps: list[Step], end: int, faults: dict[int, str]) -> tuple[Step, ...]:
    """The steps that step `end` hangs on, numbered anew. InputError if one of them has a fault, the first one."""
    needed, waiting = {0}, [end]
    while waiting:
        number = waiting.pop()
        if number not in needed:
            needed.add(number)
            waiting += steps[number - 1].inputs
    for number in sorted(needed & faults.keys()):
        raise InputError(faults[number])
    renamed = {old: new for new, old in enumerate(sorted(needed))}
    kept = (steps[old - 1] for old in sorted(needed - {0}))
    return tuple(Step(step.name, step.rule, tuple(renamed[place] for place in step.inputs)) for step in kept)


def _memory(place: int, steps: list[Step]) -> int:
    """The step whose output lies in the same memory: flattening copies nothing, nor does dropout in evaluation mode."""
    while place and isinstance(steps[place - 1].rule, (weightless.Flatten, weightless.Drop)):
        place = steps[place - 1].inputs[0]
    return place


def _in_place(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether a layer changes its input, so that whoever reads that afterwards gets the layer's output."""
    if module is not None:
        return bool(getattr(module, "inplace", False))
    if node.target in (F.relu, F.relu6):
        return True in (*node.args[1:2], node.kwargs.get("inplace"))
    return bool(node.kwargs.get("inplace")) or _label(node) in IN_PLACE or _label(node).endswith("_")


def _tensor_inputs(node: fx.Node) -> list[fx.Node]:
    first = node.args[0] if node.args else None
    if isinstance(first, (tuple, list)):
        return [item for item in first if isinstance(item, fx.Node)]
    return [item for item in node.args if isinstance(item, fx.Node)]


def _convolution_before(node: fx.Node, steps: list[Step], place: dict[fx.Node, int]) -> Step | None:
    """The step of a bare convolution whose only reader is asking, else None."""
    if len(node.users) != 1 or place[node] == 0:
        return None
    step = steps[place[node] - 1]
    bare = isinstance(step.rule, rules.Convolution) and step.rule.norm is None
    return step if bare and node.op == "call_module" and node.target == step.name else None


def _module_rule(module: nn.Module, node: fx.Node) -> Rule | None:
    kind = type(module)
    if kind is nn.Conv2d:
        plain = module.padding_mode == "zeros" and not isinstance(module.padding, str)
        return rules.Convolution(module) if plain else None
    if isinstance(module, BatchNormAct2d) or kind is nn.BatchNorm2d:
        return rules.Norm(module)
    if kind is nn.Linear:
        return rules.Linear(module)
    if kind in (nn.ReLU, nn.ReLU6):
        return rules.Relu(module)
    if kind is nn.MaxPool2d:
        return None if module.return_indices else weightless.MaxPool(module)
    if kind is nn.AvgPool2d:
        return weightless.AveragePool(window=module)
    if kind is nn.AdaptiveAvgPool2d:
        return weightless.AveragePool(adaptive=module.output_size)
    if kind is nn.Flatten and module.start_dim == 1 and module.end_dim == -1:
        return weightless.Flatten()
    if kind in (nn.Dropout, nn.Dropout2d):
        return weightless.Drop(module)
    return None


def _function_rule(node: fx.Node) -> Rule | None:
    target = node.target
    if target in (operator.add, operator.iadd, torch.add) and len(_tensor_inputs(node)) == 2 and not node.kwargs:
        return weightless.Add()
    if target is torch.cat and (node.args[1:] == (1,) or node.kwargs == {"dim": 1}):
        return weightless.Concatenate()
    if target is F.relu:
        return rules.Relu(nn.ReLU())
    if target is F.relu6:
        return rules.Relu(nn.ReLU6())
    if target is F.adaptive_avg_pool2d:
        return weightless.AveragePool(adaptive=node.args[1] if len(node.args) > 1 else node.kwargs["output_size"])
    if target is at_least:
        return weightless.AveragePool(at_least=node.args[1])
    if target in (torch.flatten, "flatten") and (node.args[1:] == (1,) or node.kwargs == {"start_dim": 1}):
        return weightless.Flatten()
    return None


def _label(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
