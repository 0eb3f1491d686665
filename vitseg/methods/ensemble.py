"""Several explanations of one forward pass in one map."""

from __future__ import annotations

import torch
from torch import Tensor

from vitseg.methods.registry import METHODS, Formulation, register
from vitseg.relevance.capture import Trace

MEMBERS = ("transformer_attribution", "attention_perception")
FLOOR = 1e-6  # of a map's maximum: one member's zero shall not decide alone


@register(
    "ensemble",
    f"this toolkit: geometric mean of {', '.join(MEMBERS)}",
    start=lambda depth: 0,
    relevance=True,
    rolls_out=False,
)
def ensemble(trace: Trace, targets: Tensor, first: int, rules: Formulation) -> Tensor:
    """Geometric mean of the members' maps, each from its own first block; a member's scale does not matter."""
    logarithms = []
    for name in MEMBERS:
        member = METHODS[name]
        found = member.compute(trace, targets, member.first_block(len(trace.blocks)), rules)
        top = found.amax((1, 2), keepdim=True)
        logarithms.append((found / top.clamp(min=torch.finfo(found.dtype).tiny)).clamp(min=FLOOR).log())
    return torch.stack(logarithms).mean(0).exp()
