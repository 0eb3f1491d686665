"""The loss of the affinity network: three kinds of pixel pairs, each divided by its own count."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from affinity.pairs import Offset, half_disk, pair_slices
from wsss.data import IGNORE
from wsss.distributed import all_sum

EPSILON = 1e-5
"""Keeps log(1 - W) finite where two features are equal, as in AffinityNet's code."""


class AffinityLoss(NamedTuple):
    """Scalars; `total` = foreground + background + 2 negative carries the gradient."""

    total: Tensor
    foreground: Tensor
    background: Tensor
    negative: Tensor


class _PairDistances(torch.autograd.Function):
    """L1 distance of every pair. The differences, 34 copies of the features, are computed again on the way back."""

    @staticmethod
    def forward(ctx, features: Tensor, offsets: tuple[Offset, ...]) -> Tensor:
        ctx.save_for_backward(features)
        ctx.offsets = offsets
        batch, _, height, width = features.shape
        distances = features.new_zeros(batch, len(offsets), height, width)
        for index, offset in enumerate(offsets):
            first, second = pair_slices(offset, height, width)
            distances[(slice(None), index, *first)] = (features[(..., *first)] - features[(..., *second)]).abs_().sum(1)
        return distances

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        (features,) = ctx.saved_tensors
        result = torch.zeros_like(features)
        for index, offset in enumerate(ctx.offsets):
            first, second = pair_slices(offset, *features.shape[-2:])
            pull = (features[(..., *first)] - features[(..., *second)]).sign_()
            pull.mul_(gradient[(slice(None), index, *first)].unsqueeze(1))
            result[(..., *first)] += pull
            result[(..., *second)] -= pull
        return result, None


def pair_distances(features: Tensor, radius: int = 5) -> Tensor:
    """||f_i - f_j||_1 of all neighbours: (B, D, h, w) -> (B, P, h, w) with P the offsets of `half_disk(radius)`.

    Entry (b, p, y, x) belongs to the pair whose first end is pixel (y, x) of `pair_slices` at offset p, stored
    from the upper left corner of that slice's place in the grid; 0 where there is no such pair.
    """
    return _PairDistances.apply(features, half_disk(radius))


def pair_kinds(labels: Tensor, radius: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Masks of the foreground, background and negative pairs: (B, h, w) uint8 labels -> three (B, P, h, w) bool.

    A pair with a neutral (255) end, and one that leaves the grid, is in none of the three.
    """
    offsets = half_disk(radius)
    batch, height, width = labels.shape
    foreground, background, negative = torch.zeros(
        3, batch, len(offsets), height, width, dtype=bool, device=labels.device
    )
    for index, offset in enumerate(offsets):
        first, second = pair_slices(offset, height, width)
        here, there = labels[(..., *first)], labels[(..., *second)]
        known = (here != IGNORE) & (there != IGNORE)
        same = known & (here == there)
        place = (slice(None), index, *first)
        foreground[place] = same & (here != 0)
        background[place] = same & (here == 0)
        negative[place] = known & (here != there)
    return foreground, background, negative


def affinity_loss(features: Tensor, labels: Tensor, radius: int = 5) -> AffinityLoss:
    """L = L_fg+ + L_bg+ + 2 L-, with W = exp(-||f_i - f_j||_1).

    Athanasiadis et al. 2021, section 3.3.2, which prints log W for the negatives as well; that would pull them
    together, AffinityNet (section 3.2) has log(1 - W) and so has this. -log W is the distance itself and needs no
    epsilon.

    Args:
        features: (B, D, h, w), computed on as float32 (float64 stays).
        labels: (B, h, w) uint8: 0 background, class index, 255 neutral.
        radius: pairs closer than this are counted.

    Returns:
        AffinityLoss. A part without any pair is 0. Of several processes (`wsss.processes`) each gets what its own pairs
        add to the loss of all.
    """
    distances = pair_distances(features if features.dtype == torch.float64 else features.float(), radius)
    foreground, background, negative = pair_kinds(labels, radius)

    def mean(values: Tensor, mask: Tensor) -> Tensor:
        return (values * mask).sum() / all_sum(mask.sum()).clamp(min=1)

    parts = (
        mean(distances, foreground),
        mean(distances, background),
        mean(-torch.log(EPSILON - torch.expm1(-distances)), negative),
    )
    return AffinityLoss(parts[0] + parts[1] + 2 * parts[2], *parts)


def stride_labels(labels: Tensor, stride: int = 8) -> Tensor:
    """The label at the centre of every stride x stride cell: (..., H, W) -> (..., ceil(H / stride), ceil(W / stride)).

    A cell that the image only half fills takes the nearest pixel that exists.
    """
    rows, columns = (
        torch.arange(0, size, stride).add(stride // 2).clamp(max=size - 1).to(labels.device)
        for size in labels.shape[-2:]
    )
    return labels[..., rows, :][..., columns]
