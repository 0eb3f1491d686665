"""Relevance rules on plain tensors, in three sets.

Each rule takes what a layer saw and the relevance of its output, and returns the relevance of its input(s). The
leading dimension is the batch of explained (image, class) pairs; nothing is ever summed over it.

- ``ROBUST``, the default: every layer hands its relevance on in shares of absolute contributions, which lie in [0, 1]
  and sum to 1. No sum that is divided by can pass near zero, so single precision gives the map of double precision
  (docs/conditioning.md).
- ``EXACT``: Chefer, Gur and Wolf, "Transformer Interpretability Beyond Attention Visualization", CVPR 2021, section
  3.1, as their published code computes it, stabiliser and all. The skip connection divides by sums of signed numbers:
  the map is badly conditioned, another stabiliser or another precision gives visibly another map.
- ``PLAIN``: the rules of the baselines "LRP" and "partial LRP" in the same code: skip connections without
  normalisation, and a linear rule that treats positive and negative inputs apart (see `Plain.linear`).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

EPSILON = 1e-9


def ratio(relevance: Tensor, z: Tensor) -> Tensor:
    """``relevance / z``, zero where z is zero.

    As in the published code z is moved by +1e-9 whatever its sign, and to 1e-9 where that would make it zero.
    """
    moved = z + EPSILON
    quotient = relevance / torch.where(moved == 0, EPSILON, moved)
    return torch.where(z == 0, 0.0, quotient)


def share(relevance: Tensor, z: Tensor) -> Tensor:
    """``relevance / z`` for a sum z of non-negative terms, zero where z is zero."""
    return torch.where(z > torch.finfo(z.dtype).tiny, relevance / z, 0.0)


class Exact:
    """The published rules of transformer attribution."""

    divide = staticmethod(ratio)

    def linear(self, x: Tensor, z: Tensor, weight: Tensor, relevance: Tensor) -> Tensor:
        """z+ rule (alpha = 1, beta = 0) through ``x @ weight.T`` with signed input; a bias takes no relevance.

        The rule's denominator is x+ W+ + x- W- = (W x + |W| |x|) / 2, and the way back is likewise
        (x * (s W) + |x| * (s |W|)) / 2: three products, one of them saved if the caller still has W x.

        Args:
            x: input (..., I).
            z: the layer's output without its bias, ``x @ weight.T`` (..., O).
            weight: (O, I).
            relevance: of the output (..., O).

        Returns:
            Relevance of the input (..., I); it sums to the relevance of the output.
        """
        magnitude = weight.abs()
        x_abs = x.abs()
        s = self.divide(relevance, F.linear(x_abs, magnitude).add_(z).div_(2)).div_(2)
        return (s @ weight).mul_(x).addcmul_(x_abs, s @ magnitude)

    def linear_unit(self, x: Tensor, weight: Tensor) -> Tensor:
        """z+ rule through one output unit whose relevance is 1: the start of the propagation at a class score.

        Args:
            x: input (P, I).
            weight: the unit's weights (P, I), one unit for each row.

        Returns:
            (P, I), each row sums to 1 (to 0 where no product is positive).
        """
        positive = (x * weight).clamp(min=0)
        return positive * self.divide(torch.ones_like(positive[:, :1]), positive.sum(-1, keepdim=True))

    def product(self, a: Tensor, b: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
        """Relevance through the matrix product ``a @ b``, half to each operand (seed section 3.2; CVPR 2021 eq. 8).

        Args:
            a: (..., n, d).
            b: (..., d, m).
            relevance: of the product (..., n, m).
        """
        s = self.divide(relevance, a @ b).div_(2)
        return (s @ b.transpose(-1, -2)).mul_(a), (a.transpose(-1, -2) @ s).mul_(b)

    def skip(self, a: Tensor, b: Tensor, z: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
        """Relevance through ``z = a + b``, normalised so that both parts together conserve (CVPR 2021, eq. 9 and 10).

        The elementwise shares a R / z and b R / z can be large with opposite signs; each is rescaled, for each item of
        the batch, to its share of the absolute sums times the incoming relevance.
        """
        s = self.divide(relevance, z)
        part_a, part_b = a * s, b * s
        dims = tuple(range(1, relevance.ndim))
        total = relevance.sum(dims, keepdim=True)
        sum_a, sum_b = part_a.sum(dims, keepdim=True), part_b.sum(dims, keepdim=True)
        magnitude = sum_a.abs() + sum_b.abs()
        scale_a = self.divide(self.divide(sum_a.abs(), magnitude) * total, sum_a)
        scale_b = self.divide(self.divide(sum_b.abs(), magnitude) * total, sum_b)
        return part_a * scale_a, part_b * scale_b

    def through(self, x: Tensor, relevance: Tensor) -> Tensor:
        """``x * relevance / x``, a copy of x: the identity but for the stabiliser, where x is nearly or just zero."""
        return x * self.divide(relevance, x)

    def mean(self, x: Tensor, relevance: Tensor) -> Tensor:
        """Relevance (P, D) of the mean of tokens x (P, n, D), to the tokens that pull the mean to its sign, in shares.

        The z+ rule for equal positive weights. Not in the published code, which knows a class token only.
        """
        pull = (x * x.mean(1, keepdim=True).sign()).clamp(min=0)
        return pull * self.divide(relevance, pull.sum(1))[:, None]


class Plain(Exact):
    """The published rules of the baselines LRP and partial LRP."""

    def linear(self, x: Tensor, z: Tensor, weight: Tensor, relevance: Tensor) -> Tensor:
        """z+ rule for products of two positives and for products of two negatives, each divided by its own sum.

        So reads the published code of the baselines, and so their figures were made: the relevance of an output with
        both kinds of products is handed on twice.
        """
        positive, negative = weight.clamp(min=0), weight.clamp(max=0)
        x_positive, x_negative = x.clamp(min=0), x.clamp(max=0)
        s_positive = self.divide(relevance, F.linear(x_positive, positive))
        s_negative = self.divide(relevance, F.linear(x_negative, negative))
        return x_positive * (s_positive @ positive) + x_negative * (s_negative @ negative)

    def linear_unit(self, x: Tensor, weight: Tensor) -> Tensor:
        """`linear` for one output unit a row: rows sum to 2, or 1 where one kind of product is missing."""
        kinds = (x.clamp(min=0) * weight.clamp(min=0), x.clamp(max=0) * weight.clamp(max=0))
        one = torch.ones_like(x[:, :1])
        return sum(kind * self.divide(one, kind.sum(-1, keepdim=True)) for kind in kinds)

    def skip(self, a: Tensor, b: Tensor, z: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
        """Relevance through ``z = a + b`` in the signed shares a / z and b / z."""
        s = self.divide(relevance, z)
        return a * s, b * s


class Robust(Exact):
    """Shares of absolute contributions throughout; relevance stays non-negative and is conserved."""

    divide = staticmethod(share)

    def linear(self, x: Tensor, z: Tensor, weight: Tensor, relevance: Tensor) -> Tensor:
        """The z+ rule as it stands: its denominator is a sum of non-negative terms.

        Where no product is positive only rounding is left of that sum, and nothing is handed on.
        """
        magnitude, x_abs = weight.abs(), x.abs()
        twice = F.linear(x_abs, magnitude)
        rounding = (twice * (16 * torch.finfo(z.dtype).eps)).clamp_(min=2 * torch.finfo(z.dtype).tiny)
        twice += z  # twice the denominator, so that nothing need be halved on the way back
        s = torch.where(twice > rounding, relevance / twice, 0.0)
        return (s @ weight).mul_(x).addcmul_(x_abs, s @ magnitude)

    def product(self, a: Tensor, b: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
        """Relevance through ``a @ b`` in the shares |a_ik b_kj| / sum_k |a_ik b_kj|, half to each operand."""
        return Exact.product(self, a.abs(), b.abs(), relevance)

    def skip(self, a: Tensor, b: Tensor, z: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
        """Relevance through ``z = a + b`` in the shares of the tokens' lengths, ||a|| / (||a|| + ||b||).

        One share a token, as channels of opposite sign cancel in z but not in what the layers above read off it;
        on training images this served both tests better than |a| / (|a| + |b|) by channel (docs/conditioning.md).
        """
        length_a, length_b = (part.norm(dim=-1, keepdim=True) for part in (a, b))
        s = self.divide(relevance, length_a + length_b)
        return length_a * s, length_b * s

    def through(self, x: Tensor, relevance: Tensor) -> Tensor:
        """The identity."""
        return relevance


def input_box(image: Tensor, weight: Tensor, relevance: Tensor) -> Tensor:
    """z^B rule through the patch embedding, a convolution of pixels that lie in a box [low, high].

    Source: Montavon et al., "Explaining nonlinear classification decisions with deep Taylor decomposition", 2017,
    section 4.1; low and high are the image's own extremes as in the published code. Each part is (x - low) W+ or
    (x - high) W-, both non-negative, so no rule of `ROBUST` is needed; a constant image has none.

    Args:
        image: (P, 3, H, W).
        weight: (D, 3, p, q), stride (p, q).
        relevance: of the tokens (P, D, h, w).

    Returns:
        (P, H, W), summed over the channels; sums to the relevance of the tokens.
    """
    positive, negative = weight.clamp(min=0), weight.clamp(max=0)
    above = image - image.amin((1, 2, 3), keepdim=True)
    below = image - image.amax((1, 2, 3), keepdim=True)
    stride = weight.shape[-2:]
    s = share(relevance, F.conv2d(above, positive, stride=stride) + F.conv2d(below, negative, stride=stride))
    found = above * F.conv_transpose2d(s, positive, stride=stride)
    found += below * F.conv_transpose2d(s, negative, stride=stride)
    return found.sum(1)


ROBUST, EXACT, PLAIN = Robust(), Exact(), Plain()
