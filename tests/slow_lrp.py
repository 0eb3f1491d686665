"""LRP written out with matrices, one image at a time and layer by layer, relevance itself handed on: slow, and plain.

Nothing of `cnnseg.unroll` is used here. A network is written once, over the operations of `Plain` or of `Tape`: the
first computes it as PyTorch does, the second also remembers how relevance goes back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def linear_map(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The matrix (outputs, inputs) of an affine layer at inputs of x's shape; differentiable in its weights."""
    return torch.func.jacrev(lambda v: layer(v.view_as(x)).flatten())(x.detach().flatten())


def stabilised(d: Tensor, stabiliser: float) -> Tensor:
    return (d + torch.where(d < 0, -stabiliser, stabiliser)).detach()


def divided(r: Tensor, d: Tensor) -> Tensor:
    """r / d, 0 where d is 0."""
    return torch.where(d == 0, 0, r / torch.where(d == 0, 1, d))


def share(rule: dict[str, Any], w: Tensor, b: Tensor, x: Tensor, r: Tensor) -> Tensor:
    """Relevance of the inputs (n,) of z = w x + b from that of the outputs (m,), by the formula of a rule.

    Args:
        rule: its ``name`` and its settings.
    """
    name, s = rule["name"], rule.get("stabiliser", 1e-6)
    x, b = x.detach(), b.detach()
    each, z = w * x, (w * x).sum(1) + b  # (m, n): what each input contributes to each output
    if rule.get("zero_bias"):
        b = torch.zeros_like(b)
    if name == "zero":
        return each.T @ divided(r, z.detach())
    if name == "epsilon":
        return each.T @ (r / stabilised(z, rule["epsilon"]))
    if name in ("zplus", "alpha_beta"):
        alpha = rule.get("alpha", 1.0)
        up, down = each.clamp(min=0), each.clamp(max=0)
        helping = up.T @ (r / stabilised(up.sum(1) + b.clamp(min=0), s))
        return alpha * helping - (alpha - 1) * down.T @ (r / stabilised(down.sum(1) + b.clamp(max=0), s))
    if name == "gamma":
        gamma, total = rule["gamma"], torch.zeros_like(x)
        for part, which in ((lambda v: v.clamp(min=0), z > 0), (lambda v: v.clamp(max=0), z < 0)):
            weighed = each + gamma * part(each)
            total = total + weighed.T @ (which * r / stabilised(weighed.sum(1) + b + gamma * part(b), s))
        return total
    if name == "flat":
        joined = (w != 0).to(w.dtype)
        return joined.T @ (r / stabilised(joined.sum(1), s))
    if name == "wsquare":
        return (w**2).T @ (r / stabilised((w**2).sum(1) + b**2, s))
    if name == "zbox":
        low, high = (end.detach().flatten() for end in rule["ends"])
        each = each - low * w.clamp(min=0) - high * w.clamp(max=0)
        return each.T @ (r / stabilised(each.sum(1), s))
    raise ValueError(name)


class Plain:
    """The operations as PyTorch computes them."""

    def layer(self, x: Tensor, *modules: nn.Module) -> Tensor:
        for module in modules:
            x = module(x)
        return x

    def same(self, x: Tensor, module: nn.Module) -> Tensor:
        """An activation, or a layer whose relevance passes unchanged."""
        return module(x)

    def pool(self, x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """An average of whatever kind."""
        return function(x)

    def pick(self, x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Max pooling, or a change of shape: relevance goes to where the value came from."""
        return function(x)

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y

    def cat(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.cat((x, y), 1)


@dataclass(eq=False)
class Node:
    """A value of the network, its relevance so far, and how it is handed on."""

    value: Tensor
    back: Callable[[Tensor], None] = lambda r: None
    relevance: Tensor | float = 0.0


@dataclass
class Tape(Plain):
    """The same operations on one image, each remembered.

    Attributes:
        rules: of each module (a layer's first) its rule; "sum" and "average_pool" have one too.
    """

    rules: dict[Any, dict[str, Any]]
    nodes: list[Node] = field(default_factory=list)

    def node(self, value: Tensor, back: Callable[[Tensor], None]) -> Node:
        self.nodes.append(Node(value, back))
        return self.nodes[-1]

    def layer(self, x: Node, *modules: nn.Module) -> Node:
        padded = padding_of(modules[0])
        given = x.value if padded is None else padded(x.value)
        layer = lambda v: self._run(v, modules, unpadded=padded is not None)  # noqa: E731
        z = layer(given)
        rule = self.rules.get(modules[0], {"name": "zero"})

        def back(r: Tensor) -> None:
            if rule["name"] == "pass":
                x.relevance = x.relevance + r
                return
            own = dict(rule)
            if rule["name"] == "zbox":
                ends = rule.get("ends") or (x.value.amin((2, 3), keepdim=True), x.value.amax((2, 3), keepdim=True))
                ends = [end.expand_as(x.value) for end in ends]
                own["ends"] = ends if padded is None else [padded(end) for end in ends]
            w, b = linear_map(layer, given), layer(torch.zeros_like(given)).flatten()
            part = share(own, w, b, given.flatten(), r.flatten()).view_as(given)
            if padded is not None:
                part = torch.func.vjp(padded, x.value)[1](part)[0]
            x.relevance = x.relevance + part

        return self.node(z, back)

    def _run(self, x: Tensor, modules: tuple[nn.Module, ...], *, unpadded: bool) -> Tensor:
        first, *rest = modules
        if unpadded:
            x = F.conv2d(x, first.weight, first.bias, first.stride, 0, first.dilation, first.groups)
        else:
            x = first(x)
        for module in rest:
            x = module(x)
        return x

    def same(self, x: Node, module: nn.Module) -> Node:
        def back(r: Tensor) -> None:
            x.relevance = x.relevance + r

        return self.node(module(x.value), back)

    def pool(self, x: Node, function: Callable[[Tensor], Tensor]) -> Node:
        z, rule = function(x.value), self.rules.get("average_pool", {"name": "zero"})

        def back(r: Tensor) -> None:
            w = linear_map(function, x.value)
            part = share(rule, w, w.new_zeros(len(w)), x.value.flatten(), r.flatten())
            x.relevance = x.relevance + part.view_as(x.value)

        return self.node(z, back)

    def pick(self, x: Node, function: Callable[[Tensor], Tensor]) -> Node:
        def back(r: Tensor) -> None:
            x.relevance = x.relevance + torch.func.vjp(function, x.value.detach())[1](r)[0]

        return self.node(function(x.value), back)

    def add(self, x: Node, y: Node) -> Node:
        z, rule = x.value + y.value, self.rules.get("sum", {"name": "zero"})

        def back(r: Tensor) -> None:
            over = r / stabilised(z, rule["epsilon"]) if rule["name"] == "epsilon" else divided(r, z.detach())
            x.relevance = x.relevance + x.value.detach() * over
            y.relevance = y.relevance + y.value.detach() * over

        return self.node(z, back)

    def cat(self, x: Node, y: Node) -> Node:
        def back(r: Tensor) -> None:
            first, second = r.split([x.value.shape[1], y.value.shape[1]], 1)
            x.relevance, y.relevance = x.relevance + first, y.relevance + second

        return self.node(torch.cat((x.value, y.value), 1), back)


def padding_of(module: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """How a convolution pads its input, if with anything but zeros: a value then has several places in a window."""
    if not isinstance(module, nn.Conv2d) or module.padding_mode == "zeros":
        return None
    height, width = module.padding
    return lambda x: F.pad(x, (width, width, height, height), mode=module.padding_mode)


def slow_maps(network: Callable[[Plain, Any], Any], images: Tensor, rules: dict[Any, dict[str, Any]]) -> Tensor:
    """Heat-maps (B, C, H, W) of all class scores of ``network(operations, images)``."""
    maps = []
    for image in images:
        scores = network(Plain(), image[None])[0].detach()
        for c, score in enumerate(scores):
            tape = Tape(rules)
            start = Node(image[None])
            end = network(tape, start)
            end.relevance = torch.zeros_like(scores)[None].index_fill(1, torch.tensor([c]), score.item())
            for node in reversed(tape.nodes):
                if isinstance(node.relevance, Tensor):
                    node.back(node.relevance)
            maps.append(start.relevance.sum(1)[0])
    return torch.stack(maps).unflatten(0, (len(images), -1))
