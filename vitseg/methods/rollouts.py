"""Methods that multiply a matrix of every block: rollout, transformer attribution, generic attention."""

from __future__ import annotations

from torch import Tensor

from vitseg.methods.registry import Formulation, lowest_block, patch_maps, register, second_block
from vitseg.relevance import propagation
from vitseg.relevance.capture import Trace


def readout_rollout(attentions: list[Tensor], readout: Tensor, rows: slice, *, normalise: bool) -> Tensor:
    """What the heads read, followed down through the product of (A + I) over the blocks, last block leftmost.

    Only one row of the product is wanted (of a class token; of a mean, one sum of rows), so a row vector walks from the
    last block down: N^2 a block, not N^3.

    Args:
        attentions: first to last block, each (P, N, N); the last may consist of `rows` alone, (P, n, N).
        readout: (N,) weights of the tokens that the heads read, zero outside `rows`.
        rows: those tokens.
        normalise: divide the rows of (A + I) by their sums (Abnar and Zuidema 2020, eq. 1, up to the factor 2).

    Returns:
        (P, N).
    """
    row = readout.to(attentions[-1]).expand(len(attentions[-1]), -1)
    for index, attention in reversed(list(enumerate(attentions))):
        here = row
        if index == len(attentions) - 1:
            attention, here = attention[:, rows] if attention.shape[1] == row.shape[1] else attention, row[:, rows]
        if not normalise:
            row = row + (here[:, None] @ attention)[:, 0]
            continue
        weights = here / (attention.sum(-1) + 1)
        step = (weights[:, None] @ attention)[:, 0]
        if index == len(attentions) - 1:
            step[:, rows] += weights
            row = step
        else:
            row = step + weights
    return row


@register(
    "transformer_attribution", "Chefer, Gur and Wolf, CVPR 2021, eq. 13 and 14", start=second_block, relevance=True
)
def transformer_attribution(trace: Trace, targets: Tensor, first: int, rules: Formulation) -> Tensor:
    """Positive part of relevance times gradient, mean over heads; (A + I) multiplied, rows not normalised."""
    gradients = propagation.attention_gradients(trace, targets, first)
    attentions: list[Tensor] = []  # last block first, as the propagation goes
    for relevance in propagation.attention_relevances(trace, targets, first, rules.attribution):
        gradient = gradients.pop()
        if not attentions:
            gradient = gradient[:, :, trace.rows]
        attentions.append((gradient * relevance).clamp(min=0).mean(dim=1))
    return patch_maps(trace, readout_rollout(attentions[::-1], trace.readout(), trace.rows, normalise=False))


@register("rollout", "Abnar and Zuidema, ACL 2020, eq. 1", start=second_block, class_specific=False, gradients=False)
def rollout(trace: Trace, targets: Tensor, first: int, rules: Formulation) -> Tensor:
    """Mean of the attention over heads; (A + I) with rows normalised, multiplied. The same for every class."""
    attentions = [record.attention.detach().mean(dim=1) for record in trace.blocks[first:]]
    tokens = readout_rollout(attentions, trace.readout(), trace.rows, normalise=True)
    return patch_maps(trace, tokens).repeat(targets.shape[1], 1, 1)


@register("generic_attention", "Chefer, Gur and Wolf, ICCV 2021, eq. 5 and 6", start=lowest_block)
def generic_attention(trace: Trace, targets: Tensor, first: int, rules: Formulation) -> Tensor:
    """Positive part of attention times gradient, mean over heads; (A + I) multiplied. No relevance is propagated."""
    classes = targets.shape[1]
    attentions = []
    gradients = propagation.attention_gradients(trace, targets, first)
    for record, gradient in zip(trace.blocks[first:], gradients, strict=True):
        attention = record.attention.detach().repeat(classes, 1, 1, 1)
        attentions.append((gradient * attention).clamp(min=0).mean(dim=1))
    return patch_maps(trace, readout_rollout(attentions, trace.readout(), trace.rows, normalise=False))
