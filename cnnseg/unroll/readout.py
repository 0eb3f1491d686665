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

READOUTS = ("sum", "mean", "learnt")
"""sum: the relevance of each pixel, so that heat-maps sum to what the ends sum to. mean: relevance times number of
cells, so that heat-maps have that as their mean. learnt: as mean, the weight of each end being a parameter, which stays
positive."""


class Readout(nn.Module):
    """Weighted sum of the ends' relevance, each enlarged (bilinear)."""

    def forward(self, relevance: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Maps (B, K, h, w), one for each end, to heat-maps (B, K, H, W) of (height, width) `size`."""
        raise NotImplementedError


class Mean(Readout):
    """Relevance times number of cells; fixed weights."""

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__()
        self._weights = tuple(weights)

    def weights(self) -> Sequence[float | Tensor]:
        """One for each end."""
        return self._weights

    def forward(self, relevance: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        total = None
        for weight, maps in zip(self.weights(), relevance, strict=True):
            part = weight * maps.shape[2] * maps.shape[3] * maps
            if maps.shape[2:] != tuple(size):
                part = F.interpolate(part, size, mode="bilinear", align_corners=False)
            total = part if total is None else total + part
        return total


class Learnt(Mean):
    """Relevance times number of cells; a learnt weight for each end."""

    def __init__(self, weights: Sequence[float]) -> None:
        super().__init__(weights)
        self.log_weights = nn.Parameter(torch.tensor(weights).log())

    def weights(self) -> Sequence[Tensor]:
        return self.log_weights.exp().unbind()


class Sum(Readout):
    """Relevance as it is; of a coarser grid than the image's it is shared out among the pixels of each cell."""

    def __init__(self, weights: Sequence[float] = (1.0,)) -> None:
        super().__init__()
        self._weights = tuple(weights)
        self._mean = Mean(weights)

    def forward(self, relevance: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        if self._weights == (1.0,) and relevance[0].shape[2:] == tuple(size):
            return relevance[0]
        return self._mean(relevance, size) / (size[0] * size[1])


def find_readout(name: str, ends: Sequence[str] | Mapping[str, float]) -> Readout:
    """A readout by its name. InputError if there is no such one, or a weight is not above 0."""
    weights = [float(w) for w in ends.values()] if isinstance(ends, Mapping) else [1 / len(ends)] * len(ends)
    if not all(0 < weight < math.inf for weight in weights):
        raise InputError(f"ends {ends}: expected weights above 0")
    if name not in READOUTS:
        raise InputError(f"readout {name!r}: {did_you_mean(str(name), READOUTS)}")
    return {"sum": Sum, "mean": Mean, "learnt": Learnt}[name](weights)
