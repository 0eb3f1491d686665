"""Class scores of a region: what turns a segmentation network's maps into the scores of a classifier."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from cnnseg.unroll.layers import Layer, Record, Way, shapes_of
from wsss.errors import InputError, did_you_mean

Score = Literal["logit", "margin"]


class RegionMean(nn.Module):
    """Maps (B, C, H, W) to their mean over a region (B, C).

    ``score``: what is averaged. "logit": the map of the class. "margin": at each pixel the class's logit minus the
    greatest logit of the other classes there; which class that is counts as a constant, so that the score is a sum of
    logits, and linear in them.
    """

    region: Tensor

    def __init__(self, score: Score = "logit") -> None:
        super().__init__()
        if score not in get_args(Score):
            raise InputError(f"score {score!r}: {did_you_mean(str(score), get_args(Score))}")
        self.score = score
        self.register_buffer("region", torch.ones(1, 1, 1, 1), persistent=False)

    def put(self, region: Tensor | None) -> None:
        """Take another region, see `cnnseg.adapter.adapt`; None: all pixels."""
        with torch.inference_mode(False):  # or gradients could not pass it
            self.region = torch.ones(1, 1, 1, 1) if region is None else _checked(region).clone()

    @property
    def is_everywhere(self) -> bool:
        """Whether it averages over all pixels, whatever the size of the maps."""
        return self.region.shape == (1, 1, 1, 1)

    def forward(self, maps: Tensor) -> Tensor:
        if not isinstance(maps, Tensor) or maps.ndim != 4:
            found = tuple(maps.shape) if isinstance(maps, Tensor) else f"a {type(maps).__name__}"
            raise InputError(f"network: expected maps (B, C, H, W), got {found}")
        runners_up = self.runners_up(maps)
        if runners_up is not None:
            maps = maps - maps.gather(1, runners_up)
        return (maps * self.shares(maps)).sum((2, 3))

    def runners_up(self, maps: Tensor) -> Tensor | None:
        """(B, C, H, W): index of the strongest other class; None where it plays no part."""
        if self.score == "logit":
            return None
        if maps.shape[1] < 2:
            raise InputError("score 'margin': expected at least two classes, the network has one")
        best = maps.detach().topk(2, dim=1).indices
        first = best[:, :1]
        return first.expand(maps.shape).scatter(1, first, best[:, 1:])

    def shares(self, maps: Tensor) -> Tensor:
        """What each pixel counts for in the mean, (B or 1, C or 1, H, W): their sum is 1.

        Of more images than there are regions the regions come again, in turn.
        """
        batch, classes, *size = maps.shape
        region = self.region.to(maps)
        if self.is_everywhere:
            region = region.expand(1, 1, *size)
        fits = region.shape[1] in (1, classes) and list(region.shape[2:]) == size
        if not fits or batch % len(region):
            raise InputError(
                f"region: shape {tuple(region.shape)} for maps of {tuple(maps.shape)}; expected (1 or {batch}, 1 or "
                f"{classes}, {size[0]}, {size[1]})"
            )
        region = region / region.sum((2, 3), keepdim=True)
        return region if len(region) == 1 else region.repeat(batch // len(region), 1, 1, 1)


def _checked(region: Tensor) -> Tensor:
    """InputError, saying what is wrong, unless a region can be one of maps of some size."""
    if not isinstance(region, Tensor) or region.is_complex():
        found = region.dtype if isinstance(region, Tensor) else f"a {type(region).__name__}"
        raise InputError(f"region: expected a torch.Tensor (1 or B, 1 or C, H, W) of 0 to 1, or None, got {found}")
    if region.ndim != 4 or 0 in region.shape:
        raise InputError(f"region: expected (1 or B, 1 or C, H, W), got {tuple(region.shape)}")
    region = region.detach()
    if not region.is_floating_point():
        region = region.float()
    if not ((region >= 0) & (region <= 1)).all():  # NaN is neither
        low, high = float(region.min()), float(region.max())
        raise InputError(f"region: expected values from 0 (outside) to 1 (inside), got {low:g} to {high:g}")
    empty = (region.amax((2, 3)) == 0).nonzero()
    if len(empty):
        image, channel = empty[0].tolist()
        which = "" if region.shape[:2] == (1, 1) else f" of image {image}, channel {channel}"
        raise InputError(f"region: expected at least one pixel above 0, that{which} is empty")
    return region


class OverRegion(Layer):
    """`RegionMean`: linear in the maps with constant weights, so that each pixel gets its part of the score (LRP-0)."""

    def __init__(self, module: RegionMean) -> None:
        self.module = module

    def forward(self, inputs: tuple[Tensor, ...], way: Way) -> tuple[Tensor, Record]:
        maps = inputs[0]
        scores = self.module(maps)
        if not way.keep:
            return scores, Record(shapes_of(inputs))
        with torch.no_grad():
            shares, runners_up = self.module.shares(maps), self.module.runners_up(maps[: way.keep])
        return scores, Record(shapes_of(inputs), extra=(shares[: way.keep], runners_up))

    def backward(self, p: Tensor, record: Record, weight: Tensor | None, way: Way) -> tuple[Tensor, ...]:
        shares, runners_up = record.extra
        shares = shares.to(p.dtype)
        if len(shares) > 1:
            shares = shares.repeat_interleave(len(p) // len(shares), 0)
        p = p[:, :, None, None] * shares
        if runners_up is not None:
            index = runners_up.repeat_interleave(len(p) // len(runners_up), 0)
            p = p.scatter_add(1, index, -p)
        return (p,)
