"""The branches of the decoder: K classes an image are folded into the batch, (B * K, ...), images outermost."""

from __future__ import annotations

import torch
from torch import Tensor


def times(p: Tensor, factor: Tensor, *, in_place: bool = False) -> Tensor:
    """p (B * K, ...) times a factor (B, ...) that the branches of an image share.

    Args:
        in_place: p may be changed, which happens where no graph is kept.
    """
    split = p.unflatten(0, (len(factor), -1))
    factor = factor[:, None]
    if in_place and not torch.is_grad_enabled():  # autograd copies what is changed through a view
        split.mul_(factor)
        return p
    return (split * factor).flatten(0, 1)
