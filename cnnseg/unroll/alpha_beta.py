"""LRP's alpha-beta rule: positive and negative contributions are handed on apart.

R_i = sum_j (alpha (a_i w_ij)+ / sum_i' (a_i' w_i'j)+ - beta (a_i w_ij)- / sum_i' (a_i' w_i'j)-) R_j, alpha - beta = 1
(the rule of Bach et al., PLOS ONE 2015, without biases, which receive nothing). With p = R / a, as everywhere in the
decoder, this is the transpose of the positive weights applied to p z / z+, and that of the negative ones to p z / z-.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cnnseg.unroll.branches import times


@dataclass(frozen=True)
class Signs:
    """What the rule needs of a layer's way forward: z / z+ and z / z- of its outputs, 0 where there is no such part.

    ``negative`` is None for beta = 0; ``below``: where the layer's inputs are negative, None if they nowhere are.
    """

    positive: Tensor
    negative: Tensor | None
    below: Tensor | None


@torch.no_grad()
def signs(x: Tensor, weight: Tensor, z: Tensor, alpha: float, apply: Callable[[Tensor, Tensor], Tensor]) -> Signs:
    """The record of a layer.

    Args:
        x: inputs (B, ...).
        weight: of the layer, batch norm folded in.
        z: outputs (B, ...).
        apply: (inputs, weight) to the outputs without bias.
    """
    plus, minus = weight.clamp(min=0), weight.clamp(max=0)
    below = x < 0
    signed = bool(below.any())
    above, under = (x.clamp(min=0), x.clamp(max=0)) if signed else (x, None)

    def share(same: Tensor, other: Tensor) -> Tensor:
        part = apply(above, same) + (apply(under, other) if signed else 0)
        return torch.where(part == 0, 0, z / torch.where(part == 0, 1, part))

    return Signs(share(plus, minus), share(minus, plus) if alpha > 1 else None, below if signed else None)


def spread(p: Tensor, weight: Tensor, record: Signs, alpha: float, back: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """p (B * K, ...) of the inputs from p of the outputs.

    Args:
        back: (p, weight) to the transpose of the layer applied to p.
    """
    helping = times(p, record.positive.to(p.dtype))
    hurting = None if record.negative is None else times(p, record.negative.to(p.dtype))
    plus, minus = weight.clamp(min=0), weight.clamp(max=0)

    def half(same: Tensor, other: Tensor) -> Tensor:
        out = alpha * back(helping, same)
        return out if hurting is None else out - (alpha - 1) * back(hurting, other)

    out = half(plus, minus)
    if record.below is None:
        return out
    below, by_image = record.below[:, None], (len(record.below), -1)
    chosen = torch.where(below, half(minus, plus).unflatten(0, by_image), out.unflatten(0, by_image))
    return chosen.flatten(0, 1)
