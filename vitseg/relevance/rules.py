"""Deep-Taylor rules on plain tensors.

Each rule takes what a layer saw and the relevance of its output, and returns the relevance of its input(s). The
leading dimension is the batch of explained (image, class) pairs; nothing is ever summed over it.

Source: Chefer, Gur and Wolf, "Transformer Interpretability Beyond Attention Visualization", CVPR 2021, section 3.1, and
their published code, whose stabiliser is kept to the letter: the map is badly conditioned where a sum passes near zero,
so another stabiliser gives visibly another map.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

EPSILON = 1e-9


def ratio(relevance: Tensor, z: Tensor) -> Tensor:
    """``relevance / z``, zero where z is zero.

    As in the peers' code z is moved by +1e-9 whatever its sign, and to 1e-9 where that would make it zero.
    """
    moved = z + EPSILON
    quotient = relevance / torch.where(moved == 0, EPSILON, moved)
    return torch.where(z == 0, 0.0, quotient)


def linear(x: Tensor, z: Tensor, weight: Tensor, relevance: Tensor) -> Tensor:
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
    s = ratio(relevance, (z + F.linear(x_abs, magnitude)) / 2)
    return (x * (s @ weight) + x_abs * (s @ magnitude)) / 2


def linear_unit(x: Tensor, weight: Tensor) -> Tensor:
    """z+ rule through one output unit whose relevance is 1: the start of the walk at a class score.

    Args:
        x: input (P, I).
        weight: the unit's weights (P, I), one unit for each row.

    Returns:
        (P, I), each row sums to 1 (to 0 where no product is positive).
    """
    positive = (x * weight).clamp(min=0)
    return positive * ratio(torch.ones_like(positive[:, :1]), positive.sum(-1, keepdim=True))


def product(a: Tensor, b: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """Relevance through the matrix product ``a @ b``, half to each operand (seed section 3.2; CVPR 2021 eq. 8).

    Args:
        a: (..., n, d).
        b: (..., d, m).
        relevance: of the product (..., n, m).
    """
    s = ratio(relevance, a @ b)
    return a * (s @ b.transpose(-1, -2)) / 2, b * (a.transpose(-1, -2) @ s) / 2


def skip(a: Tensor, b: Tensor, z: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """Relevance through ``z = a + b``, normalised so that both parts together conserve (CVPR 2021, eq. 9 and 10).

    The elementwise shares a R / z and b R / z can be large with opposite signs; each is rescaled, for each item of
    the batch, to its share of the absolute sums times the incoming relevance.
    """
    s = ratio(relevance, z)
    part_a, part_b = a * s, b * s
    dims = tuple(range(1, relevance.ndim))
    total = relevance.sum(dims, keepdim=True)
    sum_a, sum_b = part_a.sum(dims, keepdim=True), part_b.sum(dims, keepdim=True)
    magnitude = sum_a.abs() + sum_b.abs()
    scale_a = ratio(ratio(sum_a.abs(), magnitude) * total, sum_a)
    scale_b = ratio(ratio(sum_b.abs(), magnitude) * total, sum_b)
    return part_a * scale_a, part_b * scale_b


def through(x: Tensor, relevance: Tensor) -> Tensor:
    """``x * relevance / x``: a copy of x. The identity but for the stabiliser, where x is nearly or exactly zero."""
    return x * ratio(relevance, x)
