"""A photograph as a network that segments saw it, and regions of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cnnseg.regions.geometry import Size, enlarged, mask_at, pixels_at
from cnnseg.regions.settings import Mask, Pixels, Predicted, Region
from wsss.errors import InputError, did_you_mean

BACKGROUND_NAME = "background"
"""What output 0 of every network is called."""


SPECK = 0.005
"""Share of a photograph below which a class is not among those that are shown unless it is named."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What a network made of a photograph: one forward pass, about which any number of questions can be asked.

    Attributes:
        photograph: upright, RGB, at its own size.
        images: (1, 3, h, w), the photograph as the network saw it: shrunk to the size asked for, normalised.
        maps: (1, C + 1, h', w') scores of background and classes, mostly at the size of `images`.
        names: of the outputs, background first.
    """

    photograph: Image.Image
    images: Tensor
    maps: Tensor
    names: tuple[str, ...]

    @property
    def native(self) -> Size:
        """(height, width) of the photograph."""
        return self.photograph.height, self.photograph.width

    @cached_property
    def mask(self) -> np.ndarray:
        """The output that each pixel is predicted as, uint8 (h', w')."""
        return self.maps[0].argmax(0).to(torch.uint8).cpu().numpy()

    @property
    def full_mask(self) -> np.ndarray:
        """The same at the photograph's size, uint8 (H, W)."""
        return enlarged(self.mask, self.native)

    @property
    def shares(self) -> dict[str, float]:
        """Share of the photograph's area that is predicted as background, and as each class; they sum to 1."""
        counts = np.bincount(self.mask.ravel(), minlength=len(self.names))
        return {name: float(count / self.mask.size) for name, count in zip(self.names, counts, strict=True)}

    @property
    def found(self) -> tuple[str, ...]:
        """Classes that pixels are predicted as, and background, those of most pixels first."""
        shares = self.shares
        return tuple(sorted((name for name in self.names if shares[name]), key=lambda name: -shares[name]))


def region_of(seen: Seen, region: Region, name: str) -> np.ndarray:
    """The cells of the network's output that a region is: bool (h', w').

    Args:
        name: of the class, for `Predicted`.

    Raises:
        InputError: a class that no pixel is predicted as, a pixel outside of the photograph, a mask of another size.
    """
    output = known_output(name, seen.names)
    if isinstance(region, Pixels):
        return pixels_at(region.points, seen.native, seen.mask.shape)
    if isinstance(region, Mask):
        return mask_at(region.array(), seen.native, seen.mask.shape)
    found = seen.mask == output
    if not found.any():
        shares = ", ".join(f"{shown} {100 * seen.shares[shown]:.1f} %" for shown in seen.found)
        raise InputError(
            f"class {name!r}: no pixel is predicted as it (predicted: {shares}); name one of these, or give a region "
            "(a pixel or a mask) to see what speaks for it there"
        )
    return found


def usual_class(seen: Seen, region: Region) -> str:
    """The class of most pixels: of the region, or of the photograph beside background where the class is the region."""
    if isinstance(region, Predicted):
        others = [name for name in seen.found if name != BACKGROUND_NAME]
        if not others:
            raise InputError("class: none was named, and all pixels are predicted as background; name one")
        return others[0]
    inside = seen.mask[region_of(seen, region, BACKGROUND_NAME)]
    return seen.names[np.bincount(inside).argmax()]


def known_output(name: str, names: Sequence[str]) -> int:
    """The output of a class."""
    if name not in names:
        raise InputError(f"class {name!r} is unknown to the network: {did_you_mean(name, names)}")
    return list(names).index(name)
