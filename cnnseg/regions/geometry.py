"""Regions of a photograph on the grid of what a network gives for it."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from wsss.errors import InputError

Size = tuple[int, int]
"""(height, width)."""

_ROUNDING = 1e-5


def pixels_at(points: Sequence[tuple[int, int]], native: Size, grid: Size) -> np.ndarray:
    """The cells under some pixels of a photograph, one for each: bool (h, w).

    Args:
        points: (x, y), counted from 0 at the upper left of the upright photograph of `native` size.
        grid: (h, w) of the network's output for that photograph.

    Raises:
        InputError: a pixel outside of the photograph.
    """
    found = np.zeros(grid, bool)
    rows, columns = _cells(native, grid)
    for x, y in points:
        if not (0 <= x < native[1] and 0 <= y < native[0]):
            raise InputError(
                f"pixel {x},{y}: outside of the photograph, which is {native[1]} x {native[0]} (width x height): x is "
                f"0 to {native[1] - 1}, y is 0 to {native[0] - 1}"
            )
        found[rows[y], columns[x]] = True
    return found


def mask_at(mask: np.ndarray, native: Size, grid: Size) -> np.ndarray:
    """The cells that an area of a photograph covers by half or more: bool (h, w).

    Of a connected part of the area that covers no cell by half (a pixel, a thin line) all cells under its pixels'
    centres are taken, so that nothing that was drawn is lost.

    Args:
        mask: (H, W) of the upright photograph's `native` size; the area is what is not 0.

    Raises:
        InputError: a mask of another size, or one that is 0 everywhere.
    """
    area = np.asarray(mask) != 0
    if area.shape != native:
        sizes = f"{area.shape[1]} x {area.shape[0]} pixels, its photograph {native[1]} x {native[0]}"
        raise InputError(f"region: expected the size of the photograph, got {sizes} (width x height)")
    if not area.any():
        raise InputError("region: the mask is 0 everywhere; what is not 0 is the region")
    if grid == native:
        return area
    rows, columns = _cells(native, grid)
    coverage = cv2.resize(area.astype(np.float32), grid[::-1], interpolation=cv2.INTER_AREA)
    found = coverage >= 0.5 - _ROUNDING
    count, parts = cv2.connectedComponents(area.astype(np.uint8), connectivity=8)
    kept = np.zeros(count, bool)
    kept[parts[area & found[rows][:, columns]]] = True
    ys, xs = np.nonzero(area & ~kept[parts])
    found[rows[ys], columns[xs]] = True
    return found


def enlarged(region: np.ndarray, native: Size) -> np.ndarray:
    """Cells (h, w) as pixels (H, W) of the photograph: each pixel is what the cell under its centre is."""
    rows, columns = _cells(native, region.shape)
    return region[rows][:, columns]


def _cells(native: Size, grid: Size) -> tuple[np.ndarray, np.ndarray]:
    """Row of the cell under the centre of each row of pixels, and the same of columns."""
    rows, columns = (((2 * np.arange(n) + 1) * cells) // (2 * n) for n, cells in zip(native, grid, strict=True))
    return rows, columns
