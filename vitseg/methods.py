"""Explanation methods by name: a captured forward pass and targets in, a map over the patch tokens for each out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vitseg.relevance import walk
from vitseg.relevance.capture import Trace
from wsss.errors import InputError, did_you_mean

Compute = Callable[[Trace, Tensor, int], Tensor]


@dataclass(frozen=True)
class Method:
    """A named explanation.

    ``compute(trace, targets (B, K), first)`` returns (K * B, N - prefix), class-major; `first` is the first block of
    the rollout. ``class_specific`` methods give another map for each target; ``gradients`` says whether they need a
    graph.
    """

    name: str
    source: str
    class_specific: bool
    gradients: bool
    compute: Compute


METHODS: dict[str, Method] = {}


def find_method(name: str) -> Method:
    """The method of that name; InputError with the nearest names if there is none."""
    if name not in METHODS:
        raise InputError(f"method {name!r} is unknown: {did_you_mean(name, METHODS)}")
    return METHODS[name]


def _register(name: str, source: str, *, class_specific: bool, gradients: bool) -> Callable[[Compute], Compute]:
    def add(compute: Compute) -> Compute:
        METHODS[name] = Method(name, source, class_specific, gradients, compute)
        return compute

    return add


def class_token_rollout(attentions: list[Tensor], *, normalise: bool) -> Tensor:
    """The class token's row of the product of (A + I) over the blocks, last block leftmost.

    Only one row of the product is wanted, so a row vector walks from the last block down: N^2 a block, not N^3.

    Args:
        attentions: first to last block, each (P, N, N); the last may be the class token's row alone (P, 1, N).
        normalise: divide the rows of (A + I) by their sums (Abnar and Zuidema 2020, eq. 1, up to the factor 2).

    Returns:
        (P, N).
    """
    row = torch.zeros_like(attentions[-1][:, 0])
    row[:, 0] = 1
    for index, attention in reversed(list(enumerate(attentions))):
        if index == len(attentions) - 1:
            step = attention[:, 0] + row
            row = step / step.sum(-1, keepdim=True) if normalise else step
            continue
        weights = row
        if normalise:
            weights = row / (attention.sum(-1) + 1)
        row = (weights[:, None] @ attention)[:, 0] + weights
    return row


@_register(
    "transformer_attribution",
    "Chefer, Gur and Wolf, CVPR 2021, eq. 13 and 14",
    class_specific=True,
    gradients=True,
)
def transformer_attribution(trace: Trace, targets: Tensor, first: int) -> Tensor:
    """Positive part of relevance times gradient, mean over heads; (A + I) multiplied, rows not normalised."""
    gradients = walk.attention_gradients(trace, targets, first)
    attentions = []  # last block first, as the walk goes
    for relevance in walk.attention_relevances(trace, targets, first):
        gradient = gradients.pop()[:, :, : relevance.shape[2]]
        attentions.append((gradient * relevance).clamp(min=0).mean(dim=1))
    return class_token_rollout(attentions[::-1], normalise=False)[:, trace.prefix :]


@_register("rollout", "Abnar and Zuidema, ACL 2020, eq. 1", class_specific=False, gradients=False)
def rollout(trace: Trace, targets: Tensor, first: int) -> Tensor:
    """Mean of the attention over heads; (A + I) with rows normalised, multiplied. The same for every class."""
    attentions = [record.attention.detach().mean(dim=1) for record in trace.blocks[first:]]
    tokens = class_token_rollout(attentions, normalise=True)[:, trace.prefix :]
    return tokens.repeat(targets.shape[1], 1)
