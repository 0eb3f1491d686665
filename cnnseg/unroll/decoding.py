"""One pass through the decoder: all its class branches at once, or a few at a time at constant memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cnnseg.unroll.branches import times
from cnnseg.unroll.layers import Record, Way
from cnnseg.unroll.steps import Step


@dataclass(frozen=True, eq=False)
class Decoding:
    """One decoding: what all its class chunks share."""

    steps: tuple[Step, ...]
    ways: Sequence[Way]
    images: Tensor
    """(B, 3, H, W): what relevance is of, the baseline taken away"""
    records: list[Record]
    weighted: list[bool]
    """which steps have weights"""
    vectors: Tensor
    """(K, C) class vectors of the maps that are asked for, or (B, K, C) where they differ from image to image"""
    whole: frozenset[int] = frozenset()
    """places whose relevance is handed on as R, not p, see `cnnseg.unroll.spread`"""
    kept: Mapping[int, Tensor] | None = None
    """activations at the places where p must be turned into R to join other branches' R"""
    bottleneck: int | None = None
    """step whose activation takes the place of its gate, where activations are not tied"""
    ends: tuple[int, ...] = (0,)
    """the places whose relevance is asked for: the images, and such as are in `kept`"""
    positive: bool = False
    """the positive part of each value's relevance, before channels are summed"""

    def decode(self, vectors: Tensor, given: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Relevance (B, K, h, w) at each end, channels summed, of class vectors (K, C) or (B, K, C), in their type.

        Args:
            given: the weights of the weighted steps in their order; the bottleneck's activation if it is not tied; the
                features of each end but the images, if a loss on relevance is to reach them.
        """
        steps, images, weights = self.steps, self.images, iter(given)
        of_step = [next(weights) if weighted else None for weighted in self.weighted]
        activation = None if self.bottleneck is None else next(weights)
        trained = list(weights)
        features = dict(zip((place for place in self.ends if place), trained, strict=True)) if trained else {}
        count = len(images)
        found: dict[int, Tensor] = {}
        start = vectors.repeat(count, 1) if vectors.ndim == 2 else vectors.flatten(0, 1)
        waiting: dict[int, tuple[Tensor, bool]] = {len(steps): (start, True)}
        for index in range(len(steps) - 1, min(self.ends) - 1, -1):
            if index + 1 not in waiting:  # a gate, a constant, a shape
                continue
            step, record, way = steps[index], self.records[index], self.ways[index]
            p, mine = waiting.pop(index + 1)
            inputs: tuple[Tensor | None, ...]
            if index + 1 in self.ends:
                found[index + 1], mine = self._relevance(p, index + 1, features), False
            if activation is not None and index == self.bottleneck:
                # Not tied: the bottleneck's Heaviside function becomes its ReLU (section 3, WS-AE).
                inputs, mine = (times(p, activation),), True
            else:
                if record.factor is not None:
                    p, mine = times(p, record.factor, in_place=mine), True
                inputs = step.layer.backward(p, record, of_step[index], way)
            owned = mine if step.layer.owns is None else step.layer.owns
            for place, part in zip(step.inputs, inputs, strict=True):
                if part is None:
                    continue
                if place in self.whole and not step.layer.gives_whole(way):
                    part = times(part, self._values(place))
                if place in waiting:
                    there, held = waiting[place]
                    waiting[place] = (there.add_(part) if held else there + part, True)
                else:
                    waiting[place] = (part, owned)
            del p, inputs
        last = min(self.ends)
        found[last] = self._relevance(waiting[last][0], last, features)
        return tuple(found[place] for place in self.ends)

    def _relevance(self, p: Tensor, place: int, features: Mapping[int, Tensor]) -> Tensor:
        """(B, K, h, w) from p, or R, of a place (B * K, ...)."""
        relevance = p.unflatten(0, (len(self.images), -1)).to(self.images.dtype)
        if place not in self.whole:
            values = features[place] if place in features else self._values(place)
            relevance = relevance * values[:, None]
        return (relevance.clamp(min=0) if self.positive else relevance).sum(2)

    def _values(self, place: int) -> Tensor:
        """What p is multiplied by to be R."""
        return self.images if place == 0 or self.kept is None else self.kept[place]


class Chunks(torch.autograd.Function):
    """All relevance without a graph, a few classes at a time; in the backward pass each chunk again, with its graph.

    The decoder is linear in the class vector, so chunks are independent: the memory is that of one chunk.
    """

    @staticmethod
    def forward(ctx, work: Decoding, step: int, *given: Tensor) -> tuple[Tensor, ...]:
        ctx.work, ctx.step = work, step
        ctx.save_for_backward(*given)
        chunks = [work.decode(chunk, given) for chunk in work.vectors.split(step, -2)]
        return tuple(torch.cat(maps, 1) for maps in zip(*chunks, strict=True))

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        leaves = [tensor.detach().requires_grad_() for tensor in ctx.saved_tensors]
        start = 0
        for chunk in ctx.work.vectors.split(ctx.step, -2):
            count = chunk.shape[-2]
            with torch.enable_grad(), torch.autocast(gradients[0].device.type, enabled=False):
                maps = ctx.work.decode(chunk, leaves)
            torch.autograd.backward(maps, [gradient[:, start : start + count] for gradient in gradients], inputs=leaves)
            start += count
        return (None, None, *(leaf.grad for leaf in leaves))
