"""Regions drawn into pictures."""

from __future__ import annotations

import cv2
import numpy as np

from cnnseg.regions.geometry import Size, enlarged
from cnnseg.regions.settings import Pixels, Region
from wsss.overlay import contour_overlay

DARK, LIGHT = (30, 30, 30), (255, 255, 255)
"""An edge and its rim: what no map has."""

RADIUS = 0.012
"""Of the ring about a single pixel, as a share of the picture's longer side."""


def mark_region(picture: np.ndarray, cells: np.ndarray, region: Region, native: Size) -> np.ndarray:
    """A copy of a picture, uint8 (H, W, 3) of the photograph's `native` size, with the region edged, pixels ringed.

    Args:
        cells: bool (h, w), the region on the network's grid. region: as it was asked for.
    """
    if not isinstance(region, Pixels):
        return contour_overlay(picture, enlarged(cells, native).astype(np.uint8), np.full((256, 3), DARK, np.uint8))
    marked = np.ascontiguousarray(picture).copy()
    radius = max(4, round(RADIUS * max(native)))
    for colour, thickness in ((LIGHT, 4), (DARK, 2)):
        for point in region.points:
            cv2.circle(marked, point, radius, colour, thickness, cv2.LINE_AA)
    return marked
