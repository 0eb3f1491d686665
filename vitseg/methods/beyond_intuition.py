"""Token-wise "Beyond Intuition": what tokens hand on, then an integrated gradient of what the class token looks at."""

from __future__ import annotations

from typing import Any

from einops import rearrange
from torch import Tensor

from vitseg.methods.registry import Formulation, patch_maps, register
from vitseg.methods.rollouts import readout_rollout
from vitseg.relevance import capture, propagation
from vitseg.relevance.capture import BlockRecord, Trace

STEPS = 20  # of the integral, as published


def start(depth: int) -> int:
    """Block 5 of 12 as published ("start_layer = 6", counted from 1)."""
    return depth * 5 // 12


@register(
    "attention_perception",
    "Chen, Li, Yu, Dou and Xiong, TMLR 2023, the first factor of the token-wise variant",
    start=start,
    class_specific=False,
)
def attention_perception(trace: Trace, targets: Tensor, first: int, rules: Formulation) -> Tensor:
    """What the heads read, led down through A diag(m) + I, the same for every class.

    A is the mean attention over heads and m_i = ||W_o v_i|| / ||z_i||, how much a token z_i is magnified on its way
    through the values and the output projection.
    """
    return patch_maps(trace, _perception(trace, first)).repeat(targets.shape[1], 1, 1)


@register(
    "beyond_intuition",
    "Chen, Li, Yu, Dou and Xiong, TMLR 2023, the token-wise variant, and its published code",
    start=start,
)
def beyond_intuition(trace: Trace, targets: Tensor, first: int, rules: Formulation) -> Tensor:
    """Attention perception times reasoning feedback.

    Feedback is the positive part of the gradient of the class score by the last attention, averaged over `STEPS` inputs
    from zero to the image, mean over heads. Zero is that of the normalised input as in the published code: grey where
    mean = std = 0.5.
    """
    perceived = _perception(trace, first).repeat(targets.shape[1], 1)
    return patch_maps(trace, perceived * _feedback(trace, targets))


def _perception(trace: Trace, first: int) -> Tensor:
    """(B, N)."""
    attentions = [
        record.attention.detach().mean(1) * _magnification(record)[:, None] for record in trace.blocks[first:]
    ]
    return readout_rollout(attentions, trace.readout(), trace.rows, normalise=False)


def _magnification(record: BlockRecord) -> Tensor:
    """(B, N)."""
    projection = record.block.attn.proj.weight.detach()
    projected = rearrange(record.v, "b h n d -> b n (h d)") @ projection.T
    return projected.norm(dim=-1) / record.x.norm(dim=-1)


def _feedback(trace: Trace, targets: Tensor) -> Tensor:
    """(K * B, N): one forward pass a step, with a graph over the last block alone."""
    last = len(trace.blocks) - 1
    total: Any = 0.0
    for step in range(STEPS):
        share = step / (STEPS - 1)
        scaled = trace if share == 1 else capture.run(trace.model, trace.images * share, first=last)
        (gradient,) = propagation.attention_gradients(scaled, targets, last)
        total = total + gradient[:, :, trace.rows].mean(2)
    return (total / STEPS).clamp(min=0).mean(1)
