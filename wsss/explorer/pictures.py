"""What is shown, as pictures in data URLs: photograph, prediction, region, map and its colours."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from wsss.colours import colours_of, muted
from wsss.explorer.explained import Answer, Region
from wsss.overlay import colour_limits

WIDEST = 900
"""Longest side of what is shown, in pixels."""


@dataclass(frozen=True, eq=False)
class Coloured:
    """A map in colours, uint8 (H, W, 3), how far they cover the photograph, float32 (H, W) in [0, 1], and the values
    (first, last) that the ends of its colour bar stand for."""

    colours: np.ndarray
    cover: np.ndarray
    limits: tuple[float, float]
    signed: bool


def shown_size(size: tuple[int, int], longest: int = WIDEST) -> tuple[int, int]:
    """(height, width) at which a photograph is shown: never enlarged."""
    factor = min(1.0, longest / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def shrunk(image: np.ndarray, size: tuple[int, int], *, nearest: bool = False) -> np.ndarray:
    """An image or mask at (height, width) `size`."""
    if image.shape[:2] == size:
        return image
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_NEAREST if nearest else cv2.INTER_AREA)


def limits_of(values: np.ndarray, signed: bool) -> tuple[float, float]:
    """Values of the first and the last colour; of maps without signs from 0 up."""
    low, high = colour_limits(values, signed)
    return low if signed else min(low, 0.0), high


def coloured(answer: Answer, size: tuple[int, int], limits: tuple[float, float] | None = None) -> Coloured:
    """A map at (height, width) `size`, in the colours of `wsss.overlay.overlay`."""
    low, high = limits_of(answer.map, answer.signed) if limits is None else limits
    full = _laid_over(answer, size)
    nothing = 0.5 if answer.signed else 0
    share = ((full - low) / (high - low) if high > low else np.full_like(full, nothing)).clip(0, 1)
    return Coloured(*colours_of(share, answer.signed), (low, high), answer.signed)


def _laid_over(answer: Answer, size: tuple[int, int]) -> np.ndarray:
    """The map at (height, width) `size` (bilinear), without what lies beyond the photograph."""
    if answer.map.shape == size:
        return answer.map
    whole = tuple(max(1, round(side * share)) for side, share in zip(size, answer.extent, strict=True))
    return cv2.resize(answer.map, whole[::-1], interpolation=cv2.INTER_LINEAR)[: size[0], : size[1]]


def blended(photograph: np.ndarray, found: Coloured, opacity: float) -> np.ndarray:
    """The colours over the photograph, which is paler beneath (`wsss.colours.muted`): uint8 (H, W, 3)."""
    weight = np.float32(opacity) * found.cover[..., None]
    mixed = muted(photograph, found.signed) * (1 - weight) + found.colours.astype(np.float32) * weight
    return np.rint(mixed).astype(np.uint8)


def veil(found: Coloured) -> np.ndarray:
    """RGBA of the colours, to lie over the photograph at any opacity."""
    return np.dstack([found.colours, np.rint(255 * found.cover).astype(np.uint8)])


def tint(mask: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """RGBA of a mask's classes; background is transparent."""
    alpha = np.where(mask > 0, 105, 0).astype(np.uint8)
    return np.dstack([np.asarray(palette, np.uint8)[mask], alpha])


def outlined(region: Region, size: tuple[int, int]) -> np.ndarray:
    """RGBA (height, width) of a region: dark outside of it, and its edge; single pixels have their edge alone."""
    picture = edge(region, size)
    if region.pixels is None:
        outside = ~_inside(region, size) & (picture[..., 3] == 0)
        picture[outside] = (12, 14, 20, 85)
    return picture


def edge(region: Region, size: tuple[int, int]) -> np.ndarray:
    """RGBA (height, width) of the edge of a region, white with dark rims."""
    picture = np.zeros((*size, 4), np.uint8)
    lines, _ = cv2.findContours(_inside(region, size).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, lines, -1, (12, 14, 20, 230), 3)
    cv2.drawContours(picture, lines, -1, (255, 255, 255, 255), 1)
    return picture


def _inside(region: Region, size: tuple[int, int]) -> np.ndarray:
    """bool (height, width): wherever a pixel of the region lies, so that single ones are still seen."""
    if region.area.shape == size:
        return region.area
    share = cv2.resize(region.area.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)
    return share > (0.5 if share.max() > 0.5 else 0)


def png(picture: np.ndarray, *, fast: bool = True) -> bytes:
    """The file of a picture, uint8 (H, W), (H, W, 3) or (H, W, 4)."""
    return _file(picture, "PNG", compress_level=1 if fast else 6)


def png_url(picture: np.ndarray) -> str:
    """A picture as a data URL, without loss."""
    return _url("png", png(picture))


def jpeg_url(picture: np.ndarray) -> str:
    """A photograph as a data URL."""
    return _url("jpeg", _file(picture, "JPEG", quality=88))


def _file(picture: np.ndarray, form: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, form, **options)
    return buffer.getvalue()


def _url(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
