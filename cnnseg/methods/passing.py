"""What a method is given of a forward pass: class scores, what lies at one place, and gradients by that."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from wsss.errors import InputError
from wsss.explanation import class_scores


class Pass:
    """A forward pass with a graph from one place on.

    Args:
        logits: (B, C) class scores.
        leaf: what lies at the place, a leaf of the graph; None: nothing, and there is no graph.
        maps: from that to maps (B, D, h, w), and from its gradient to theirs; None: it is maps already.
    """

    def __init__(self, logits: Tensor, leaf: Tensor | None = None, maps: Callable[[Tensor], Tensor] | None = None):
        self.logits, self._leaf, self._maps = logits, leaf, maps

    @property
    def activation(self) -> Tensor:
        """What lies at the place, (B, ...)."""
        return self._laid_out(self._leaf)

    def gradients(self, targets: Tensor) -> Tensor:
        """Of class scores (B, K), by the activation (B, ...): (B, K, ...)."""
        scores = class_scores(self.logits, targets)
        found = []
        for number in range(targets.shape[1]):
            more = number + 1 < targets.shape[1]
            by_leaf = torch.autograd.grad(
                scores[:, number].sum(), self._leaf, retain_graph=more, materialize_grads=True
            )[0]
            found.append(self._laid_out(by_leaf))
        return torch.stack(found, 1)

    def _laid_out(self, values: Tensor) -> Tensor:
        return values if self._maps is None else self._maps(values)


def on_places(maps: Callable[[Tensor], Tensor], name: str, values: Tensor) -> Tensor:
    """Maps of a layer's values, or of gradients by them. InputError if all that is not 0 lies nowhere."""
    found = maps(values)
    if values.any() and not found.any():
        raise InputError(
            f"layer {name!r}: the class scores hang on its prefix tokens alone, which lie nowhere in the image; name "
            "an earlier block"
        )
    return found
