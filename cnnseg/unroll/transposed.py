"""Transposed convolution: a linear layer like any other, whose transpose is a convolution."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnseg.unroll.weighted import Weighted


class Transposed(Weighted):
    """A transposed convolution (learnt up-sampling), of any stride and output padding."""

    kind = "convolution"
    spatial = 2

    def __init__(self, convolution: nn.ConvTranspose2d, norm: nn.Module | None = None) -> None:
        self.module, self.norm = convolution, norm

    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        layer = self.module
        settings = layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation
        return F.conv_transpose2d(x, weight, bias, *settings)

    def transpose(self, p: Tensor, weight: Tensor, shape: torch.Size, *, tied: bool = True) -> Tensor:
        layer = self.module
        found = F.conv2d(p, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)
        return found[..., : shape[1], : shape[2]]  # output padding as large as a stride makes more

    def scaled(self, weight: Tensor, scale: Tensor) -> Tensor:
        groups = self.module.groups  # (in, out / groups, ...): inputs are grouped, and so are outputs
        return (weight.unflatten(0, (groups, -1)) * scale.view(groups, 1, -1, 1, 1)).flatten(0, 1)
