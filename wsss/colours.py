"""How values become colours over a photograph that can still be read, and the same colours for scales beside it."""

from __future__ import annotations

import cv2
import numpy as np

OPACITY = 0.85
"""Share of the strongest colours in a picture; weaker values leave more of the photograph."""

PAPER = 205
"""Grey that colours lie over where there is no photograph, as in scales."""

_FIRST = 0.35  # of inferno: what lies below darkens a photograph without standing out from it
_GROWTH = 0.7  # opacity = share ** growth: below 1, as much of an object lies at a few per cent
_GROWTH_SIGNED = 0.6
_COLOUR_KEPT = 0.35  # of the photograph's own, lest an orange cat pass for heat
_BELOW, _ABOVE = np.array([20, 70, 255], np.float32), np.array([235, 20, 20], np.float32)


def colours_of(share: np.ndarray, signed: bool) -> tuple[np.ndarray, np.ndarray]:
    """Colours of values that are scaled to [0, 1], and how far they cover the photograph.

    Args:
        share: (H, W) in [0, 1].
        signed: 0.5 stands for 0: blue below, red above; else inferno colours from purple (0) to pale yellow (1).

    Returns:
        RGB uint8 (H, W, 3), and their share of the picture, float32 (H, W): 0 where there is nothing to show, up to 1.
    """
    share = np.asarray(share, np.float32)
    if signed:
        strength = 2 * share - 1
        return np.where(strength[..., None] < 0, _BELOW, _ABOVE).astype(np.uint8), np.abs(strength) ** _GROWTH_SIGNED
    place = np.rint(255 * (_FIRST + (1 - _FIRST) * share)).astype(np.uint8)
    return np.ascontiguousarray(cv2.applyColorMap(place, cv2.COLORMAP_INFERNO)[..., ::-1]), share**_GROWTH


def muted(photograph: np.ndarray, signed: bool) -> np.ndarray:
    """A photograph, uint8 (H, W, 3), as it lies under colours: paler in hue, under signed colours in grey."""
    grey = cv2.cvtColor(cv2.cvtColor(photograph, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return grey if signed else cv2.addWeighted(photograph, _COLOUR_KEPT, grey, 1 - _COLOUR_KEPT, 0)


def paint(photograph: np.ndarray, share: np.ndarray, signed: bool, opacity: float = OPACITY) -> np.ndarray:
    """Values over a photograph: uint8 (H, W, 3) of uint8 (H, W, 3) and shares (H, W) in [0, 1], see `colours_of`."""
    colours, cover = colours_of(share, signed)
    weight = np.float32(opacity) * cover[..., None]
    mixed = muted(photograph, signed).astype(np.float32) * (1 - weight) + colours.astype(np.float32) * weight
    return np.rint(mixed).astype(np.uint8)


def scale_colours(signed: bool, count: int = 256, opacity: float = OPACITY) -> np.ndarray:
    """The colours from the first value to the last, as they are over light grey: uint8 (count, 3)."""
    paper = np.full((1, count, 3), PAPER, np.uint8)
    return paint(paper, np.linspace(0, 1, count, dtype=np.float32)[None], signed, opacity)[0]


def css_scale(signed: bool, opacity: float = OPACITY) -> str:
    """The same as a CSS background, from left to right."""
    stops = ", ".join("#{:02x}{:02x}{:02x}".format(*colour) for colour in scale_colours(signed, 17, opacity))
    return f"linear-gradient(to right, {stops})"
