"""The modules of a network that give maps, found out in one forward pass, for networks that torch.fx cannot follow."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from cnnseg.methods.layout import Layout
from wsss.errors import InputError

_PASS_ON = (nn.Dropout, nn.Identity, nn.Softmax)
"""Modules that give what they are given, or weights of attention, which are no maps."""


@dataclass(frozen=True)
class MapLayer:
    """A module that gives maps (D, height, width), which the class scores hang on.

    ``name``: the shortest one by which `Survey.find` finds it; ``own``: the module's. ``scores``: no module with
    weights follows, so that the maps are the network's answer.
    """

    name: str
    own: str
    channels: int
    height: int
    width: int
    scores: bool


@dataclass(frozen=True)
class _Call:
    """The last call of a module: what it gave, and where that was made in the graph."""

    value: Any
    version: int
    made_by: Any


class Survey:
    """One forward pass of a network that nobody else uses, with hooks at all of its modules.

    Args:
        network: whose modules are watched; the pass is the caller's, who then calls `finish`.
    """

    def __init__(self, network: nn.Module, layout: Layout) -> None:
        self._network, self._layout = network, layout
        self._calls: dict[str, _Call] = {}
        self._used: set[Any] = set()
        self._maps: dict[str, Tensor] = {}
        for name, module in network.named_modules(remove_duplicate=False):
            if name:
                module.register_forward_hook(partial(self._see, name))

    def finish(self, end: Tensor) -> None:
        """Look, in the graph of `end`, which calls it hangs on, and which of these gave maps."""
        self._used = _graph(end.grad_fn)
        for name, call in self._calls.items():
            if call.made_by in self._used:
                with suppress(InputError):
                    self._maps[name] = self._layout.maps(name, call.value)

    @property
    def layers(self) -> list[MapLayer]:
        """Modules that give maps, in the order in which they are done; of several with one and the same output one."""
        places = {name: place for place, name in enumerate(self._calls)}
        last = max((place for name, place in places.items() if self._weighs(name)), default=-1)
        found: dict[tuple[int, int], list[str]] = {}
        for name in self._maps:
            call = self._calls[name]
            found.setdefault((id(call.value), call.version), []).append(name)
        layers = []
        for names in found.values():
            if any(not isinstance(self._network.get_submodule(name), _PASS_ON) for name in names):
                shortest = min((self._shortest(name) for name in names), key=lambda name: name.count("."))
                channels, height, width = self._maps[names[0]].shape[1:]
                layers.append(MapLayer(shortest, names[-1], channels, height, width, places[names[0]] >= last))
        return layers

    def find(self, name: str) -> str:
        """The module that a name means: itself, or the last one with maps in it, if its own output is no tensor.

        Raises:
            InputError: nothing of what it gives are maps, or reaches the class scores.
        """
        call = self._calls.get(name)
        if call is not None and isinstance(call.value, Tensor):
            self._layout.maps(name, call.value)
            return name
        inside = [own for own in self._maps if own.startswith(f"{name}.")]
        if inside:
            return inside[-1]
        given = "no maps that reach" if call is None else f"a {type(call.value).__name__}, no maps, to"
        raise InputError(f"layer {name!r}: gives {given} the class scores, nor does a module in it give maps")

    def lost_after(self, name: str) -> str | None:
        """The first module done after one, of those that the class scores hang on, whose output is neither maps nor a
        value a channel, but tokens or the like."""
        places = list(self._calls)
        for later in places[places.index(name) + 1 :]:
            call = self._calls[later]
            several = isinstance(call.value, Tensor) and sum(side > 1 for side in call.value.shape[1:]) > 1
            if several and call.made_by in self._used and later not in self._maps:
                return later
        return None

    def _see(self, name: str, module: nn.Module, given: Any, value: Any) -> None:
        self._calls.pop(name, None)  # of several calls the last one counts
        tensor = isinstance(value, Tensor)
        self._calls[name] = _Call(value, value._version if tensor else 0, value.grad_fn if tensor else None)

    def _weighs(self, name: str) -> bool:
        weight = getattr(self._network.get_submodule(name), "weight", None)
        return self._calls[name].made_by in self._used and isinstance(weight, Tensor) and weight.ndim > 1

    def _shortest(self, name: str) -> str:
        """The shortest name of a module, of those that were called, that means this one."""
        parts = name.split(".")
        outer = [".".join(parts[:count]) for count in range(1, len(parts))]
        called = [one for one in outer if one in self._calls and not isinstance(self._calls[one].value, Tensor)]
        return next((one for one in called if self.find(one) == name), name)


def _graph(node: Any) -> set[Any]:
    """All nodes that a node of autograd's graph hangs on, and itself."""
    found, left = set(), [node]
    while left:
        node = left.pop()
        if node is not None and node not in found:
            found.add(node)
            left += [following for following, _ in node.next_functions]
    return found
