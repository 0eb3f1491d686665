"""An image seen at several sizes, and mirrored: what a network says of its pixels, averaged."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from cnnseg.models import Network
from cnnseg.segmentation.settings import ViewsConfig
from wsss.data import BACKGROUND
from wsss.errors import InputError
from wsss.precision import autocast


def look(
    network: Network,
    pictures: Sequence[Image.Image],
    size: tuple[int, int],
    views: ViewsConfig = ViewsConfig(),
    *,
    masks: bool = True,
    device: str = "cpu",
    precision: str = "float32",
) -> tuple[Tensor | None, Tensor | None]:
    """Class scores (B, C + 1) of pictures, and the scores of their pixels (B, C + 1, h, w) at about `size`.

    Pixels: of one view the maps as the network gives them; of several the mean of their probabilities, at `size`. Class
    scores are averaged over the views. Either is None where the network does not give it.

    Args:
        size: (height, width) that the network sees the pictures at, times each scale.
        masks: False: class scores alone, without the cost of a decoder.
        precision: "float32" or "bfloat16", see `wsss.precision.autocast`.
    """
    passes = [(scale, mirrored) for scale in views.scales for mirrored in ((False, True) if views.flip else (False,))]
    scores: list[Tensor] = []
    total: Tensor | None = None
    for scale, mirrored in passes:
        seen = max(1, round(scale * size[0])), max(1, round(scale * size[1]))
        images = torch.stack([network.prepare(picture, seen) for picture in pictures]).to(device)
        with autocast(device, precision):
            logits, maps = network.module(images.flip(-1) if mirrored else images, decode=None if masks else 0)
        if logits is not None:
            scores.append(logits)
        if maps is None:
            continue
        if len(passes) == 1:
            return logits, maps
        found = resized((maps.float() * network.strength(seen)).softmax(1), size)
        found = found.flip(-1) if mirrored else found
        total = found if total is None else total + found
    logits = torch.stack(scores).mean(0) if scores else None
    return logits, None if total is None else total / len(passes)


def likely_outputs(network: Network, logits: Tensor | None, gate: float) -> list[int] | None:
    """Outputs that an image with class scores (C + 1) may show: background and what is at least as probable as `gate`.

    None, all of them, with a gate of 0. InputError for a network that gives no class scores.
    """
    if not gate:
        return None
    if logits is None:
        raise InputError(f"`gate` {gate:g}: {network.title} does not say which classes an image shows")
    probable = (logits.float().sigmoid() >= gate).tolist()
    return [output for output, may in enumerate(probable) if may or output == BACKGROUND]


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (B, K, h, w) at (height, width) `size`, bilinear."""
    if maps.shape[-2:] == torch.Size(size):
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def check_finite(values: Tensor, image: str = "") -> Tensor:
    """Scores or maps that a network gives, as they are. InputError, naming the image, if a value is not finite."""
    if not values.isfinite().all():
        where = f"image {image}: " if image else ""
        raise InputError(f"{where}the network gives NaN or infinite values: train it again, at a lower learning rate")
    return values
