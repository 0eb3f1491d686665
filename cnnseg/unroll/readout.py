"""From relevance at one or more depths to heat-maps of the image's size.

Relevance is conserved: at every depth l that of a class sums to its score, so that N_l R_l, N_l being the number of
cells there, has the score as its mean. That is of the size that a softmax needs from the first step of a training on,
while relevance itself is thinner the finer the depth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wsss.errors import InputError, did_you_mean

Features = Literal["constant", "trained"]

READOUTS = ("sum", "mean", "asinh")
"""sum: relevance shared out among the pixels, so that heat-maps sum to what the ends sum to. mean: relevance times
number of cells, so that heat-maps have that as their mean. asinh: as mean, but each cell's value is put through asinh,
which is the value itself near 0 and its logarithm far from it: relevance has heavy tails, more so the finer the depth,
and a softmax exaggerates what stands out."""


_LEAST = 1e-30
"""Of weights, so that those that are learnt are numbers in single precision."""


class Readout(nn.Module):
    """Weighted sum of the ends' relevance, each enlarged to the image's size (bilinear).

    With ``smooth``, relevance at all ends but the first is averaged over windows of 3 x 3 cells, weighed 1 2 1 both
    ways: a convolution of stride 2 leaves a pattern of every other cell, which that takes out and no more. Sums stay.
    """

    def __init__(self, name: str, weights: Sequence[float], *, learnt: bool = False, smooth: bool = False) -> None:
        super().__init__()
        self.name = name
        self.smooth = smooth
        self.log_weights = nn.Parameter(torch.tensor(weights).log()) if learnt else None
        self._weights = tuple(weights)

    @property
    def weights(self) -> Sequence[float | Tensor]:
        """One for each end."""
        return self._weights if self.log_weights is None else self.log_weights.exp().unbind()

    def forward(self, relevance: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Maps (B, K, h, w), one for each end, to heat-maps (B, K, H, W) of (height, width) `size`."""
        pixels = size[0] * size[1]
        total = None
        for place, (weight, maps) in enumerate(zip(self.weights, relevance, strict=True)):
            if self.smooth and place:
                maps = smoothed(maps)
            cells = maps.shape[2] * maps.shape[3]
            scale = cells / pixels if self.name == "sum" else cells
            part = maps if scale == 1 else maps * scale
            if self.name == "asinh":
                part = part.asinh()
            if maps.shape[2:] != tuple(size):
                part = F.interpolate(part, size, mode="bilinear", align_corners=False)
            if isinstance(weight, Tensor) or weight != 1:
                part = weight * part
            total = part if total is None else total + part
        return total


def smoothed(maps: Tensor) -> Tensor:
    """Maps (B, K, h, w) averaged over 3 x 3 cells weighed 1 2 1; what leaves at a border comes back there."""
    return F.avg_pool2d(F.avg_pool2d(F.pad(maps, (1, 1, 1, 1), mode="replicate"), 2, 1), 2, 1)


def find_readout(
    name: str, ends: Sequence[str] | Mapping[str, float], *, learnt: bool = False, smooth: bool = False
) -> Readout:
    """A readout by its name. InputError if there is no such one, or a weight is not above 0."""
    try:
        weights = [float(w) for w in ends.values()] if isinstance(ends, Mapping) else [1 / len(ends)] * len(ends)
    except (TypeError, ValueError):
        weights = [math.nan]
    if not all(_LEAST < weight < 1 / _LEAST for weight in weights):
        raise InputError(f"ends {ends}: expected weights above 0, and finite")
    if name not in READOUTS:
        raise InputError(f"readout {name!r}: {did_you_mean(str(name), READOUTS)}")
    return Readout(name, weights, learnt=learnt, smooth=smooth)
