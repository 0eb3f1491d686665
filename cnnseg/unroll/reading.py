"""From the graph of a traced classifier to its steps: which layer each node is, and what relevance goes through."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from torch import Tensor, fx, nn

from cnnseg.unroll import spellings
from cnnseg.unroll.call import Call, Place
from cnnseg.unroll.kinds import is_batch_norm
from cnnseg.unroll.layers import Layer
from cnnseg.unroll.mixing import Attend, AveragePool, Linearly
from cnnseg.unroll.nodes import before_softmax, label, plain_name, scope_of, stacked_branches, works_in_place
from cnnseg.unroll.region import RegionMean
from cnnseg.unroll.spellings import Written
from cnnseg.unroll.steps import Step, Trace, Untraceable
from cnnseg.unroll.tracer import at_least
from cnnseg.unroll.weighted import Norm, Weighted
from cnnseg.unroll.weightless import Drop, Permute, Reshape, Scale, Shift
from wsss.errors import InputError


class Reading:
    """One reading of a graph, node by node."""

    def __init__(
        self,
        model: nn.Module,
        graph: fx.Graph,
        constants: Mapping[str, Tensor] = MappingProxyType({}),
        kind: str | None = None,
    ) -> None:
        self.model, self.graph, self.kind = model, graph, kind or type(model).__name__
        self.constants = constants
        """tensors that the model's code makes, by the names that torch.fx gave them"""
        self.modules = dict(model.named_modules())
        self.steps: list[Step] = []
        self.place: dict[fx.Node, int] = {}
        self.moves: set[int] = {0}
        """places of tensors that hang on the image"""
        self.gates: set[int] = set()
        """places of what a sigmoid or softmax gave"""
        self.end = 0

    def read(self) -> Trace:
        for node in self.graph.nodes:
            if node.op == "placeholder":
                self._placeholder(node)
            elif node.op == "output":
                if not isinstance(node.args[0], fx.Node):
                    raise InputError(f"{self.kind} cannot be unrolled: gives more than class scores")
                self.end = self.place[before_softmax(node.args[0], self.modules)]
            else:
                self._layer(node)
        return self._reached()

    def _placeholder(self, node: fx.Node) -> None:
        if not self.place:
            self.place[node] = 0
        elif node.users:
            raise Untraceable(self.kind, "takes more than an image")

    def _layer(self, node: fx.Node) -> None:
        module = self.modules.get(node.target) if node.op == "call_module" else None
        if module is not None and is_batch_norm(module) and self._fold(node, module):
            return
        if type(module) is nn.Identity or (node.target is operator.getitem and node.args[1] == slice(None)):
            self.place[node] = self.place[node.args[0]]
            return
        written, inputs = self._written(node, module)
        number = len(self.steps) + 1
        name = str(node.target) if module is not None else node.name
        layer, fault = None, None
        if written.moving:
            layer = self._known(node, written)
        if layer is None:
            layer = written.call
            what = type(module).__name__ if module is not None else label(node)
            fault = f"layer {name} ({what}) of {self.kind} has no rule; there are rules for {spellings.KNOWN}"
            if written.target in ("mul", "imul") and len(written.moving) == 2:
                needed = "one of them must be a gate (sigmoid, softmax)"
                fault = f"layer {name} of {self.kind} multiplies two branches; {needed}"
        if isinstance(module, RegionMean):
            inputs = [before_softmax(inputs[0], self.modules)]
        places = tuple(self.place[node] for node in inputs)
        scope = scope_of(node) if module is None else name
        self.steps.append(Step(name, layer, places, scope, (name,), fault))
        self._mark(node, written, number, module)
        fault = self._change_in_place(node, module, name)
        if fault is not None:
            last = self.steps[-1]
            self.steps[-1] = Step(last.name, last.layer, last.inputs, last.scope, last.names, fault)
        self.place[node] = number

    def _known(self, node: fx.Node, written: Written) -> Layer | None:
        if node.target is at_least:
            return AveragePool(at_least=node.args[1])
        return spellings.layer_of(written)

    def _mark(self, node: fx.Node, written: Written, number: int, module: nn.Module | None) -> None:
        """Note whether the step yields a tensor of the image, or a gate."""
        sized = written.target in ("size", "dim", "ndimension", "numel") and module is None
        attribute = (
            node.target is getattr and len(node.args) > 1 and node.args[1] in ("shape", "ndim", "device", "dtype")
        )
        parents = [self.place[parent] for parent in node.all_input_nodes]
        if not sized and not attribute and any(parent in self.moves for parent in parents):
            self.moves.add(number)
        is_gate = isinstance(module, spellings.GATE_MODULES) or (module is None and written.target in spellings.GATES)
        reshaped = isinstance(self.steps[-1].layer, Reshape) or written.target in ("expand", "expand_as")
        adds = written.target in spellings.ADD and all(parent in self.gates for parent in parents)
        if is_gate or adds or (reshaped and any(parent in self.gates for parent in parents)):
            self.gates.add(number)

    def _written(self, node: fx.Node, module: nn.Module | None) -> tuple[Written, list[fx.Node]]:
        """What a node calls, its inputs numbered in the order of its arguments."""
        inputs: list[fx.Node] = []

        def numbered(given: Any) -> Any:
            if isinstance(given, fx.Node):
                inputs.append(given)
                return Place(len(inputs) - 1)
            if isinstance(given, list | tuple):
                return (
                    type(given)(numbered(item) for item in given)
                    if type(given) in (list, tuple)
                    else [numbered(item) for item in given]
                )
            if isinstance(given, slice):
                return slice(*(numbered(item) for item in (given.start, given.stop, given.step)))
            return given

        picked = None
        if node.target is operator.getitem and plain_name(node.args[0])[0] in spellings.SPLITS:
            node, picked = node.args[0], node.args[1]  # one part of a split is a slice
        stacked = stacked_branches(node)
        args = tuple(numbered(arg) for arg in (node.args if stacked is None else stacked))
        kwargs = tuple((key, numbered(value)) for key, value in node.kwargs.items())
        function = node.target
        if module is not None:
            function = module
        elif node.op == "call_method":
            function = partial(_method, node.target)
        elif node.op == "get_attr":
            owner, _, attribute = node.target.rpartition(".")
            function, args = getattr, (self.modules[owner], attribute)
            if node.target in self.constants:
                function, args = _itself, (self.constants[node.target],)
        if picked is not None:
            function = partial(_part, function, picked)
        moving = tuple(n for n, parent in enumerate(inputs) if self.place[parent] in self.moves)
        gated = tuple(n for n in moving if self.place[inputs[n]] in self.gates)
        target, in_place = plain_name(node)
        if stacked is not None:
            kwargs, function, target = (), _added, spellings.STACKED_SUM
        return Written(Call(function, args, kwargs), target, module, moving, gated, in_place), inputs

    def _fold(self, node: fx.Node, norm: nn.Module) -> bool:
        """Join a batch norm to the bare convolution or fully connected layer whose only reader it is."""
        before = node.args[0]
        if len(before.users) != 1 or self.place[before] == 0 or before.op != "call_module":
            return False
        number = self.place[before]
        step = self.steps[number - 1]
        layer = step.layer
        if not isinstance(layer, Weighted) or isinstance(layer, Norm) or layer.norm is not None:
            return False
        if before.target != step.name:
            return False
        kind: Any = type(layer)
        joined = kind(layer.module, norm)
        self.steps[number - 1] = Step(
            f"{step.name} with {node.target}", joined, step.inputs, str(node.target), (step.name, str(node.target))
        )
        self.place[node] = number
        return True

    def _change_in_place(self, node: fx.Node, module: nn.Module | None, name: str) -> str | None:
        """Whoever reads what this step changed gets its output; a fault if it is read through another one's."""
        if not node.all_input_nodes or not works_in_place(node, module):
            return None
        fault, number = None, len(self.steps)
        changed = self.place[node.all_input_nodes[0]]
        memory = self._memory(changed)
        for other, place in self.place.items():
            if place != changed and self._memory(place) == memory and any(user > node for user in other.users):
                fault = (
                    f"layer {name} of {self.kind} changes in place what later layers read through another one's "
                    "output; make it inplace=False"
                )
        self.place |= {other: number for other, place in self.place.items() if place == changed}
        return fault

    def _memory(self, place: int) -> int:
        """The step whose output lies in the same memory: a change of shape copies nothing, nor does dropout."""
        shared = (Reshape, Drop, Permute)
        while place:
            step = self.steps[place - 1]
            picks = isinstance(step.layer, Linearly) and step.layer.call.function is operator.getitem
            if not isinstance(step.layer, shared) and not picks:
                break
            place = step.inputs[0]
        return place

    def _reached(self) -> Trace:
        """The steps that the end hangs on, numbered anew, and through which of them relevance goes."""
        carries, needed = {0}, {0}
        waiting = [self.end]
        while waiting:
            number = waiting.pop()
            if number in carries:
                continue
            carries.add(number)
            waiting += self._sources(number)
        waiting = list(carries)
        while waiting:
            number = waiting.pop()
            if number not in needed:
                needed.add(number)
                waiting += self.steps[number - 1].inputs
        renamed = {old: new for new, old in enumerate(sorted(needed))}
        kept = []
        for old in sorted(needed - {0}):
            step = self.steps[old - 1]
            inputs = tuple(renamed[place] for place in step.inputs)
            kept.append(Step(step.name, step.layer, inputs, step.scope, step.names, step.fault))
        return Trace(tuple(kept), tuple(old in carries for old in sorted(needed - {0})))

    def _sources(self, number: int) -> list[int]:
        """The steps that a step hands relevance on to."""
        step = self.steps[number - 1]
        layer = step.layer
        if isinstance(layer, Attend | Scale | Shift):
            return [step.inputs[layer.signal]]
        return [place for place in step.inputs if place in self.moves]


def _added(*branches: Any) -> Any:
    return sum(branches[1:], start=branches[0])


def _itself(value: Any) -> Any:
    return value


def _part(function: Callable, number: int, *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)[number]


def _method(name: str, x: Any, *args: Any, **kwargs: Any) -> Any:
    return getattr(x, name)(*args, **kwargs)
