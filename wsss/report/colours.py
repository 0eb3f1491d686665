"""Colours and names of classes in pictures: told apart by all eyes, and by the words where colours repeat.

The masks on the disk have the colours of PASCAL VOC, whose red and green are one colour to many.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from wsss.data import IGNORE, Dataset

CLASS_COLOURS = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (213, 94, 0),
    (86, 180, 233),
    (240, 228, 66),
    (136, 34, 85),
    (51, 34, 136),
)
"""Okabe and Ito 2008 without black, and wine and indigo of Tol's "muted": apart for all kinds of colour vision."""

NEUTRAL = (150, 150, 150)
IGNORED = (224, 224, 192)
"""Of a mask: what is not taught, and what is not scored."""

_SPECK = 0.004
"""Share of a picture below which a region has no name on it."""


def class_palette(dataset: Dataset, shown: Iterable[int] = ()) -> np.ndarray:
    """Colour of each class index, uint8 (256, 3); 0 is black, 255 grey.

    Args:
        shown: class indices of the images of a page. Where there are more classes than colours, these get the first
            ones, so that colours repeat as late as they can.
    """
    palette = np.zeros((256, 3), np.uint8)
    order = list(range(1, min(dataset.num_classes, IGNORE - 1) + 1))
    if len(order) > len(CLASS_COLOURS):
        order = [index for index in dict.fromkeys([*shown, *order]) if 0 < index < IGNORE]
    for place, index in enumerate(order):
        palette[index] = CLASS_COLOURS[place % len(CLASS_COLOURS)]
    palette[IGNORE] = NEUTRAL
    return palette


def with_names(picture: np.ndarray, mask: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """A copy of a picture, uint8 (H, W, 3), with the name of each class inside the largest of its regions.

    Args:
        mask: (H, W), class indices; 0 has no name, nor has 255 of a uint8 mask.
        names: ``names[c - 1]`` of class c.
    """
    drawn = Image.fromarray(picture)
    size = max(11, round(max(picture.shape[:2]) / 18))
    draw, font = ImageDraw.Draw(drawn), ImageFont.load_default(size)
    taken: list[tuple[float, float, float, float]] = []
    for index, count in sorted(zip(*np.unique(mask, return_counts=True), strict=True), key=lambda each: -each[1]):
        ignored = index == IGNORE and mask.dtype == np.uint8
        if not 0 < index <= len(names) or ignored or count < _SPECK * mask.size:
            continue
        box = _free(_middle(mask == index), font.getbbox(names[index - 1], anchor="mm"), picture.shape[:2], taken)
        taken.append(box)
        middle = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        rim = max(2, round(size / 9))
        draw.text(middle, names[index - 1], "white", font, anchor="mm", stroke_width=rim, stroke_fill=(15, 18, 22))
    return np.asarray(drawn)


def _middle(region: np.ndarray) -> tuple[int, int]:
    """(x, y) of the pixel of a region that is farthest from its edge."""
    padded = np.pad(region.astype(np.uint8), 1)
    y, x = np.unravel_index(cv2.distanceTransform(padded, cv2.DIST_L2, 3).argmax(), padded.shape)
    return int(x) - 1, int(y) - 1


def _free(
    middle: tuple[int, int],
    letters: tuple[float, float, float, float],
    size: tuple[int, int],
    taken: Sequence[tuple[float, float, float, float]],
) -> tuple[float, float, float, float]:
    """A box of the letters' size, inside the picture, as near to the middle as those that are taken let it."""
    wide, high = letters[2] - letters[0] + 6, letters[3] - letters[1] + 6
    left = min(max(middle[0] - wide / 2, 0), max(size[1] - wide, 0))
    tops = [middle[1] + step * high for step in (-0.5, 0.5, -1.5, 1.5, -2.5, 2.5)]
    boxes = [(left, top, left + wide, top + high) for top in (min(max(t, 0), max(size[0] - high, 0)) for t in tops)]
    return next((box for box in boxes if not any(_meet(box, other) for other in taken)), boxes[0])


def _meet(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
