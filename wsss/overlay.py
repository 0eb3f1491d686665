"""Pictures of maps and masks on photographs: pure functions on uint8 RGB arrays."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from PIL import Image

from wsss.colours import OPACITY, paint
from wsss.data.files import as_photograph
from wsss.data.sample import IGNORE as NEUTRAL
from wsss.errors import InputError
from wsss.lettering import ColourBar, framed

GREY = (150, 150, 150)
PERCENTILE = 99.0
COARSE = 64 * 64
"""Values in a map up to which the largest one sets the scale; of pixels a few have many times more than others."""

_BAND = 1_000_000
"""Pixels that are drawn at once."""


def fit_width(image: np.ndarray, width: int, *, nearest: bool = False) -> np.ndarray:
    """`image` (H, W) or (H, W, 3) shrunk to at most `width` pixels wide, its proportions kept; never enlarged.

    Masks need ``nearest=True``; photographs are averaged over areas.
    """
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    if image.shape[1] <= width:
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_NEAREST if nearest else cv2.INTER_AREA)


def overlay(
    image: Any,
    map: Any,
    *,
    limits: tuple[float, float] | None = None,
    signed: bool | None = None,
    opacity: float = OPACITY,
    title: str | None = None,
    colour_bar: bool | str = False,
) -> Image.Image:
    """One map of an explanation as a picture: its colours over the photograph, the denser the stronger.

    Args:
        image: the photograph: a PIL image, uint8 (H, W, 3), or floats in [0, 1], (H, W, 3) or (3, H, W), array or
            tensor; not normalised.
        map: (h, w), array or tensor on any device, of any grid and scale; enlarged to the photograph (bilinear).
        limits: values of the first and the last colour; the map's own least and largest unless given, of a map of
            pixels up to percentile `PERCENTILE`, of a signed map minus and plus that of its absolute values.
        signed: blue below 0, red above, over the photograph in grey; else from purple to pale yellow, over the
            photograph in paler hues. A map that has both signs is signed unless said.
        opacity: share of the strongest colours in the picture, in [0, 1]; where there is no relevance, the photograph
            stands alone.
        title: stands above; what follows a line break smaller, for example ``"cat\\nlogit 7.0"``.
        colour_bar: put the scale beneath; a text says what the values are.

    Returns:
        RGB picture of the photograph's size, with a title or a scale so much higher (and at least 240 pixels wide).

    Raises:
        InputError: another shape or type, or a map that is not finite.

    Example:
        >>> photograph = np.zeros((8, 12, 3), np.uint8)
        >>> overlay(photograph, np.eye(2)).size
        (12, 8)
    """
    photograph, heat = as_pixels(image), as_map(map)
    if not (isinstance(opacity, float | int) and 0 <= opacity <= 1):
        raise InputError(f"opacity {opacity!r}: expected a number from 0 to 1")
    signed = is_signed(heat) if signed is None else signed
    low, high = _ordered(colour_limits(heat, signed) if limits is None else limits)
    height, width = photograph.shape[:2]
    full = cv2.resize(heat, (width, height), interpolation=cv2.INTER_LINEAR) if heat.shape != (height, width) else heat
    picture = np.empty_like(photograph)
    step = max(1, _BAND // width)
    for top in range(0, height, step):  # floats of a large photograph would take 16 bytes for each of its own 3
        band = slice(top, top + step)
        share = (full[band] - low) / (high - low) if high > low else np.full_like(full[band], 0.5 if signed else 0)
        picture[band] = paint(photograph[band], share.clip(0, 1), signed, opacity)
    return with_words(Image.fromarray(picture), (low, high), signed, opacity, title, colour_bar)


def with_words(
    picture: Image.Image,
    limits: tuple[float, float],
    signed: bool,
    opacity: float,
    title: str | None,
    colour_bar: bool | str,
) -> Image.Image:
    """The picture as it is, or with a title above and the scale of its colours beneath, see `overlay`."""
    if title is None and colour_bar is False:
        return picture
    label = colour_bar if isinstance(colour_bar, str) else ""
    return framed(picture, title, None if colour_bar is False else ColourBar(limits, signed, label, opacity))


def _ordered(limits: Any) -> tuple[float, float]:
    try:
        low, high = (float(limit) for limit in limits)
    except (TypeError, ValueError):
        low, high = np.nan, np.nan
    if not (np.isfinite([low, high]).all() and low <= high):
        raise InputError(f"limits {limits}: expected two finite values, the lower one first")
    return low, high


def is_signed(map: Any) -> bool:
    """Whether a map (h, w) has values on both sides of 0."""
    heat = as_map(map)
    return bool(heat.min() < 0 < heat.max())


def colour_limits(map: Any, signed: bool) -> tuple[float, float]:
    """Values of the first and the last colour of a map (h, w), unless `overlay` is given others; see there."""
    heat = as_map(map)
    largest = float(np.percentile(np.abs(heat), PERCENTILE)) or float(np.abs(heat).max())
    if signed:
        return -largest, largest
    return float(heat.min()), largest if heat.size > COARSE and largest > heat.min() else float(heat.max())


def as_pixels(image: Any) -> np.ndarray:
    """A photograph as `overlay` takes it, as uint8 (H, W, 3)."""
    if isinstance(image, Image.Image):
        return np.asarray(as_photograph(image))
    array = _array(image, "image: expected a PIL image, (H, W, 3) or (3, H, W)")
    if array.ndim == 3 and array.shape[0] == 3 and array.shape[2] != 3:
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise InputError(f"image: expected (H, W, 3) or (3, H, W), got {array.shape}")
    if array.dtype == np.uint8:
        return array
    if not np.issubdtype(array.dtype, np.floating) or not (array.min() >= 0 and array.max() <= 1):
        raise InputError("image: expected uint8, or floats in [0, 1] (not normalised)")
    return np.rint(array.astype(np.float32) * 255).astype(np.uint8)


def as_map(map: Any) -> np.ndarray:
    """A map as `overlay` takes it, as float32 (h, w)."""
    array = _array(map, "map: expected one map (h, w)", np.float32)
    if array.ndim != 2 or 0 in array.shape:
        raise InputError(f"map: expected one map (h, w), got {array.shape}; an explanation's are maps[0], maps[1], ...")
    if not np.isfinite(array).all():
        raise InputError("map: expected finite values, got NaN or infinite ones")
    return array


def _array(given: Any, expected: str, dtype: Any = None) -> np.ndarray:
    try:
        if not hasattr(given, "detach"):
            return np.asarray(given, dtype)
        dense = given.detach() if str(given.layout) == "torch.strided" else given.detach().to_dense()
        return np.asarray(dense.cpu() if dtype is None else dense.float().cpu(), dtype)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"{expected}, got a {type(given).__name__} that is no array of numbers") from None


def heat_overlay(image: np.ndarray, heat: np.ndarray, opacity: float = OPACITY) -> np.ndarray:
    """A map in the colours of `overlay` over a photograph, which stands alone where the map is 0.

    Args:
        image: uint8 (H, W, 3) RGB.
        heat: (H, W) in [0, 1].
        opacity: share of the strongest colours in the picture, in [0, 1].

    Returns:
        uint8 (H, W, 3) RGB.

    Raises:
        ValueError: sizes differ, `heat` is not finite or leaves [0, 1].
    """
    heat = np.asarray(heat, np.float32)
    _check(image, heat, opacity)
    # a bilinear map may leave [0, 1] by rounding, no more
    if not np.isfinite(heat).all() or heat.min() < -1e-3 or heat.max() > 1 + 1e-3:
        raise ValueError("heat: expected finite values in [0, 1]")
    return paint(image, heat.clip(0, 1), False, opacity)


def mask_overlay(
    image: np.ndarray,
    mask: np.ndarray,
    palette: np.ndarray,
    opacity: float = 0.55,
    *,
    contours: bool = True,
    neutral: tuple[int, int, int] | None = GREY,
) -> np.ndarray:
    """Class colours of a mask over a photograph, each region edged; background stays the bare photograph.

    Args:
        image: uint8 (H, W, 3) RGB.
        mask: uint8 (H, W) of class indices, 0 background, 255 neutral or ignored.
        palette: uint8 (256, 3) RGB, as ``wsss.store.voc_palette()``.
        opacity: share of the colours in [0, 1].
        contours: draw the edges in the full class colour with a white rim.
        neutral: colour of 255; None leaves the photograph there.

    Returns:
        uint8 (H, W, 3) RGB.
    """
    _check(image, mask, opacity)
    colours = label_picture(mask, palette, neutral=neutral or GREY)
    shown = (mask > 0) if neutral is not None else (mask > 0) & (mask != NEUTRAL)
    picture = _blend(image, colours, np.where(shown, opacity, 0).astype(np.float32)[..., None])
    return contour_overlay(picture, mask, palette) if contours else picture


def contour_overlay(
    image: np.ndarray,
    mask: np.ndarray,
    palette: np.ndarray,
    thickness: int = 1,
    *,
    rim: tuple[int, int, int] | None = (255, 255, 255),
) -> np.ndarray:
    """A copy of `image` with the edges of a mask's regions in class colours, rimmed white; 0 and 255 have none."""
    _check(image, mask, 1)
    picture = np.ascontiguousarray(image).copy()
    for index in np.unique(mask):
        if index in (0, NEUTRAL):
            continue
        edges, _ = cv2.findContours((mask == index).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        if rim is not None:
            cv2.drawContours(picture, edges, -1, rim, thickness + 2, cv2.LINE_AA)
        cv2.drawContours(picture, edges, -1, palette[index].tolist(), thickness, cv2.LINE_AA)
    return picture


def label_picture(mask: np.ndarray, palette: np.ndarray, *, neutral: tuple[int, int, int] | None = GREY) -> np.ndarray:
    """A mask in plain colours, uint8 (H, W, 3); 255 in the colour `neutral` (None: as the palette has it)."""
    picture = np.asarray(palette, np.uint8)[np.asarray(mask, np.uint8)]
    if neutral is not None:
        picture[np.asarray(mask) == NEUTRAL] = neutral
    return picture


def signed_picture(values: np.ndarray, limit: float) -> np.ndarray:
    """Signed values as plain colours, uint8 (H, W, 3): blue -`limit`, white 0, red `limit`; clipped beyond.

    Args:
        values: (H, W), finite.
        limit: greater than 0; 0 makes all of it white.

    Raises:
        ValueError: values that are not finite, a negative limit.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or not np.isfinite(values).all() or not 0 <= limit < np.inf:
        raise ValueError("signed values: expected finite ones (H, W), and a finite limit of at least 0")
    share = (values / limit).clip(-1, 1) if limit > 0 else np.zeros_like(values)
    colours = np.stack([1 + share.clip(max=0), 1 - np.abs(share), 1 - share.clip(min=0)], -1)
    return np.rint(255 * colours).astype(np.uint8)


def _blend(image: np.ndarray, colours: np.ndarray, weight: np.ndarray | np.float32) -> np.ndarray:
    mixed = image.astype(np.float32) * (1 - weight) + colours.astype(np.float32) * weight
    return np.rint(mixed).astype(np.uint8)


def _check(image: np.ndarray, plane: np.ndarray, opacity: float) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image: expected uint8 (H, W, 3), got {image.dtype} {image.shape}")
    if plane.shape != image.shape[:2]:
        raise ValueError(f"map of shape {plane.shape} on an image of shape {image.shape[:2]}")
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity {opacity}: expected 0 to 1")
