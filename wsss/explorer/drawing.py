"""From what the mouse did to the pixels that are meant."""

from __future__ import annotations

from typing import Annotated, Literal

import cv2
import numpy as np
from pydantic import Field, FiniteFloat

from wsss.errors import InputError
from wsss.explorer.explained import Region
from wsss.settings import Config

Mode = Literal["new", "add", "remove"]
Coordinate = Annotated[FiniteFloat, Field(ge=-1e5, le=1e5)]


class Stroke(Config):
    """One movement with a tool, in pixels of the photograph: (x, y) with (0, 0) the upper left corner of the first."""

    tool: Literal["point", "rectangle", "lasso", "brush"]
    mode: Mode = "new"
    points: tuple[tuple[Coordinate, Coordinate], ...] = Field(min_length=1, max_length=20_000)
    radius: Annotated[FiniteFloat, Field(gt=0, le=2_000)] = 8
    """of the brush"""


def drawn(stroke: Stroke, size: tuple[int, int]) -> np.ndarray:
    """The pixels that a stroke covers, bool (H, W); a lasso is closed, and what it goes round an even number of times
    is outside."""
    area = np.zeros(size, np.uint8)
    path = np.floor(np.asarray(stroke.points)).astype(np.int32)
    if stroke.tool == "point":
        x, y = _inside(path[0], size)
        area[y, x] = 1
    elif stroke.tool == "rectangle":
        (left, top), (right, bottom) = path[[0, -1]].min(0), path[[0, -1]].max(0)
        area[max(top, 0) : max(bottom + 1, 0), max(left, 0) : max(right + 1, 0)] = 1
    elif stroke.tool == "lasso":
        cv2.fillPoly(area, [path[:, None]], 1)
    else:
        cv2.polylines(area, [path[:, None]], False, 1, max(1, round(2 * stroke.radius)))
        for x, y in path[[0, -1]].tolist():
            cv2.circle(area, (x, y), max(0, round(stroke.radius)), 1, cv2.FILLED)
    return area.astype(bool)


def after_stroke(region: Region | None, stroke: Stroke, size: tuple[int, int]) -> Region:
    """The region once a stroke has replaced it, been added to it or been taken from it.

    Raises:
        InputError: nothing would be left.
    """
    area = drawn(stroke, size)
    points = tuple(_inside(np.floor(point).astype(int), size) for point in stroke.points[:1])
    if stroke.tool != "point":
        pixels = None
    elif stroke.mode == "new" or region is None:
        pixels = points
    elif stroke.mode == "add" and region.pixels is not None:
        pixels = tuple(dict.fromkeys((*region.pixels, *points)))
    else:
        pixels = None
    return combined(region, Region(area, pixels=pixels), stroke.mode)


def combined(region: Region | None, other: Region, mode: Mode) -> Region:
    """`other` in place of a region, together with it, or a region without it. InputError if nothing would be left."""
    area = other.area
    if region is not None and mode == "add":
        area = region.area | other.area
        other = Region(area, pixels=other.pixels if other.pixels and len(other.pixels) == area.sum() else None)
    elif mode == "remove":
        area = region.area & ~other.area if region is not None else np.zeros_like(other.area)
        other = Region(area)
    if not area.any():
        raise InputError("That leaves no pixel; the region stays as it is.")
    return other


def _inside(point: np.ndarray, size: tuple[int, int]) -> tuple[int, int]:
    """(x, y) of the nearest pixel."""
    return int(np.clip(point[0], 0, size[1] - 1)), int(np.clip(point[1], 0, size[0] - 1))
