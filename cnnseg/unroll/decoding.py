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
    end: int = 0
    """the place whose relevance is asked for: the images, or one of `kept`"""
    positive: bool = False
    """the positive part of each value's relevance, before channels are summed"""

    def decode(self, vectors: Tensor, given: Sequence[Tensor]) -> Tensor:
        """Heat-maps (B, K, h, w) of class vectors (K, C) or (B, K, C), in the images' type, channels summed.

        Args:
            given: the weights of the weighted steps in their order, and the bottleneck's activation if it is not tied.
        """
        steps, images, weights = self.steps, self.images, iter(given)
        of_step = [next(weights) if weighted else None for weighted in self.weighted]
        activation = next(weights, None)
        count = len(images)
        start = vectors.repeat(count, 1) if vectors.ndim == 2 else vectors.flatten(0, 1)
        waiting: dict[int, tuple[Tensor, bool]] = {len(steps): (start, True)}
        for index in range(len(steps) - 1, self.end - 1, -1):
            if index + 1 not in waiting:  # a gate, a constant, a shape
                continue
            step, record, way = steps[index], self.records[index], self.ways[index]
            p, mine = waiting.pop(index + 1)
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
        relevance = waiting[self.end][0].unflatten(0, (count, -1)).to(images.dtype)
        if self.end not in self.whole:
            relevance = relevance * self._values(self.end)[:, None]
        return (relevance.clamp(min=0) if self.positive else relevance).sum(2)

    def _values(self, place: int) -> Tensor:
        """What p is multiplied by to be R."""
        return self.images if place == 0 else self.kept[place]


class Chunks(torch.autograd.Function):
    """All heat-maps without a graph, a few classes at a time; in the backward pass each chunk again, with its graph.

    The decoder is linear in the class vector, so chunks are independent: the memory is that of one chunk.
    """

    @staticmethod
    def forward(ctx, work: Decoding, step: int, *given: Tensor) -> Tensor:
        ctx.work, ctx.step = work, step
        ctx.save_for_backward(*given)
        return torch.cat([work.decode(chunk, given) for chunk in work.vectors.split(step, -2)], 1)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        leaves = [tensor.detach().requires_grad_() for tensor in ctx.saved_tensors]
        start = 0
        for chunk in ctx.work.vectors.split(ctx.step, -2):
            count = chunk.shape[-2]
            with torch.enable_grad(), torch.autocast(gradient.device.type, enabled=False):
                heatmaps = ctx.work.decode(chunk, leaves)
            heatmaps.backward(gradient[:, start : start + count], inputs=leaves)
            start += count
        return (None, None, *(leaf.grad for leaf in leaves))
