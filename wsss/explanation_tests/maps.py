"""Maps at the size of the image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (P, h, w) at `size` (H, W), bilinear, pixel centres at half integers: (P, H, W).

    A constant map stays constant to the last bit: the rounding of the interpolation, which would be all that there is
    to see, must not be ranked or scaled.
    """
    full = F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    first = maps[:, :1, :1]
    return torch.where((maps == first).flatten(1).all(1)[:, None, None], first, full)
