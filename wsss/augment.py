"""Random crops of a photograph, and of its mask with it: the same ones for the same seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from wsss.data import IGNORE


class RandomScale(v2.Transform):
    """Magnify by a factor that is uniform in its logarithm between `low` and `high`; labels by nearest pixel."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = v2.functional.get_size(flat_inputs[0])
        factor = self.low * (self.high / self.low) ** torch.rand(()).item()
        return {"size": [max(1, round(height * factor)), max(1, round(width * factor))]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return self._call_kernel(v2.functional.resize, inpt, params["size"], antialias=True)


class RandomSquare(v2.Transform):
    """The largest square of an image, at a random place, resized to `side`; labels by nearest pixel."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        height, width = v2.functional.get_size(flat_inputs[0])
        short = min(height, width)
        top, left = (int(torch.randint(long - short + 1, ())) for long in (height, width))
        return {"top": top, "left": left, "height": short, "width": short, "size": [self.side, self.side]}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return self._call_kernel(v2.functional.resized_crop, inpt, **params, antialias=True)


def random_crops(
    crop: int,
    *,
    scale_min: float,
    scale_max: float,
    flip: bool,
    colour_jitter: float,
    fill: int | Sequence[int],
    colours_first: bool = False,
    squares: bool = False,
) -> v2.Compose:
    """Random scale, square crop of side `crop`, mirror image and colours of a tv_tensors.Image and Mask alike.

    `squares`: instead of scale and crop the largest square of the image, resized to side `crop`.

    Where an image is smaller than the crop, it lies at random in a frame of `fill` (0 to 255; one value or one for
    each channel) and of 255 in the mask. `colour_jitter` is the strength in brightness, contrast and saturation; a
    third of it for hue; `colours_first`: of the image before it is cut, so that `fill` stays as it is. The image comes
    out as float32 in [0, 1], the mask as it was. What is drawn does not hang on whether a mask goes along.
    """
    frame = {tv_tensors.Image: fill, tv_tensors.Mask: IGNORE}
    cut = RandomSquare(crop) if squares else v2.RandomCrop(crop, pad_if_needed=True, fill=frame)
    steps: list[v2.Transform] = [cut]
    if flip:
        steps.append(v2.RandomHorizontalFlip())
    if colour_jitter:
        colours = v2.ColorJitter(colour_jitter, colour_jitter, colour_jitter, colour_jitter / 3)
        steps.insert(0 if colours_first else len(steps), colours)
    to_float = v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True)
    return v2.Compose([*([] if squares else [RandomScale(scale_min, scale_max)]), *steps, to_float])


def apply_seeded(transform: v2.Transform, seed: int, *inputs: Tensor) -> tuple[Tensor, ...]:
    """`transform` of the inputs as plain tensors, a function of `seed` alone; the global generator stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        changed = transform(*inputs)
    return tuple(item.as_subclass(Tensor) for item in (changed if len(inputs) > 1 else (changed,)))
