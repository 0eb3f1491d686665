"""Several pictures on one sheet: a photograph beside the maps of some classes, all on one scale of colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from wsss.colours import OPACITY
from wsss.errors import InputError
from wsss.lettering import INK, PAPER, SOFT, ColourBar, bar_strip, shortened, stacked, title_strip
from wsss.overlay import as_map, as_pixels, colour_limits, overlay

SIDE, COLUMNS, GAP, LETTER = 400, 4, 14, 19
"""Pixels of a panel's longer side, panels in a row, pixels between them and of a letter."""


@dataclass(frozen=True)
class Panel:
    """A picture of a sheet; the first line of its title is its name."""

    picture: Image.Image
    title: str


def sheet(
    photograph: Any,
    maps: Any,
    titles: Sequence[str],
    *,
    limits: tuple[float, float] | None = None,
    signed: bool | None = None,
    probabilities: Sequence[float] | None = None,
    opacity: float = OPACITY,
    heading: str = "",
    label: str = "relevance",
) -> Image.Image:
    """A photograph beside the maps of several classes, all in the same colours for the same values, and the scale.

    Args:
        photograph: as of `wsss.overlay.overlay`.
        maps: (K, h, w), array or tensor, or K maps (h, w) of any grids.
        titles: K; what follows a line break stands smaller beneath, for example ``"cat\\nlogit 7.0"``.
        limits: values of the first and the last colour; unless given, those that fit all maps.
        signed: as of `overlay`; unless said, whether one of the maps has a negative value.
        probabilities: K, of the classes, in [0, 1]: each map becomes the share of its own largest value, times the
            probability. For explanations whose values have no unit in common, as those of vision transformers: by
            themselves the maps of classes that are not there can be the strongest (docs/masks_for_your_images.md).
        opacity: share of the strongest colours in the picture, in [0, 1].
        heading: stands above everything. label: what the values are, beneath the scale.

    Returns:
        RGB picture, at most `COLUMNS` panels wide, each with its longer side `SIDE` pixels long.

    Raises:
        InputError: no map, another number of titles or probabilities, or what `overlay` refuses.

    Example:
        >>> sheet(np.zeros((8, 12, 3), np.uint8), np.stack([np.eye(2), np.ones((2, 2))]), ["cat", "dog"]).mode
        'RGB'
    """
    planes = [as_map(one) for one in maps]
    if not planes or len(titles) != len(planes):
        raise InputError(f"titles: expected one for each of the maps, at least one, got {len(titles)} of {len(planes)}")
    if probabilities is not None:
        planes = weighted(planes, probabilities)
        label = f"{label}: share of the class's largest, times its probability"
    signed = any(plane.min() < 0 for plane in planes) if signed is None else signed
    limits = common_limits(planes, signed) if limits is None else limits
    seen = fitted(Image.fromarray(as_pixels(photograph)))
    drawn = [overlay(seen, plane, limits=limits, signed=signed, opacity=opacity) for plane in planes]
    panels = [Panel(seen, "photograph"), *(Panel(*each) for each in zip(drawn, titles, strict=True))]
    return lay_out(panels, heading=heading, bar=ColourBar(limits, signed, label, opacity))


def common_limits(maps: Sequence[np.ndarray] | np.ndarray, signed: bool) -> tuple[float, float]:
    """Values of the first and the last colour of all maps (h, w) together; from 0 up at the most."""
    each = [colour_limits(one, signed) for one in maps]
    return min(0.0, *(low for low, _ in each)), max(high for _, high in each)


def weighted(maps: Sequence[np.ndarray], probabilities: Sequence[float]) -> list[np.ndarray]:
    """Each map (h, w) as the share of its own largest absolute value, times its class's probability."""
    chances = [float(chance) for chance in probabilities]
    if len(chances) != len(maps) or not all(0 <= chance <= 1 for chance in chances):
        raise InputError(f"probabilities: expected {len(maps)} numbers from 0 to 1, got {chances}")
    largest = [float(np.abs(one).max()) or 1.0 for one in maps]
    return [one * (chance / top) for one, top, chance in zip(maps, largest, chances, strict=True)]


def fitted(picture: Image.Image, side: int = SIDE) -> Image.Image:
    """A picture with its longer side `side` pixels long, enlarged if need be."""
    factor = side / max(picture.size)
    width, height = (max(1, round(length * factor)) for length in picture.size)
    way = Image.Resampling.BOX if factor < 1 else Image.Resampling.BICUBIC
    return picture if (width, height) == picture.size else picture.resize((width, height), way)


def lay_out(
    panels: Sequence[Panel],
    *,
    heading: str = "",
    bar: ColourBar | None = None,
    legend: Sequence[tuple[str, tuple[int, int, int]]] = (),
) -> Image.Image:
    """Panels in rows, each under its title; a heading above, a scale of colours and named colours beneath."""
    width = max(fitted(panel.picture).width for panel in panels)
    cells = _cells(panels, max(width, 10 * LETTER))
    columns = -(-len(cells) // -(-len(cells) // COLUMNS))  # 5 as 3 and 2, not 4 and 1
    rows = [_row(cells[start : start + columns], columns) for start in range(0, len(cells), columns)]
    parts = [title_strip(heading, rows[0].width, LETTER)] if heading else []
    parts += rows
    if legend:
        parts.append(_legend(legend, rows[0].width))
    if bar is not None:
        parts.append(bar_strip(bar, rows[0].width, LETTER))
    whole = stacked(parts)
    paper = Image.new("RGB", (whole.width + 2 * GAP, whole.height + 2 * GAP), PAPER)
    paper.paste(whole, (GAP, GAP))
    return paper


def _cells(panels: Sequence[Panel], width: int) -> list[Image.Image]:
    """Titles with their pictures; all titles as high as the highest, so that the pictures of a row stand level."""
    titles = [title_strip(panel.title, width, LETTER) for panel in panels]
    high = max(title.height for title in titles)
    even = [Image.new("RGB", (width, high - title.height), PAPER) for title in titles]
    return [
        stacked([title, space, fitted(panel.picture)] if space.height else [title, fitted(panel.picture)])
        for panel, title, space in zip(panels, titles, even, strict=True)
    ]


def _row(cells: Sequence[Image.Image], columns: int) -> Image.Image:
    width, height = cells[0].width, max(cell.height for cell in cells)
    row = Image.new("RGB", (columns * (width + GAP) - GAP, height + GAP), PAPER)
    for place, cell in enumerate(cells):
        row.paste(cell, (place * (width + GAP), 0))
    return row


def _legend(entries: Sequence[tuple[str, tuple[int, int, int]]], width: int) -> Image.Image:
    """Squares of colour with their names, in as many lines as it takes."""
    size = round(0.85 * LETTER)
    font = ImageFont.load_default(size)
    pitch, lines, x = round(1.6 * size), 0, 0
    places = []
    for name, colour in entries:
        text = shortened(name, font, width - 2 * size)
        length = round(font.getlength(text)) + 3 * size
        if x and x + length - size > width:
            lines, x = lines + 1, 0
        places.append((x, lines * pitch, text, colour))
        x += length
    strip = Image.new("RGB", (width, pitch * (lines + 1)), PAPER)
    draw = ImageDraw.Draw(strip)
    for x, y, text, colour in places:
        draw.rectangle((x, y + 2, x + size, y + 2 + size), fill=colour, outline=SOFT)
        draw.text((x + round(1.5 * size), y + 2 + size / 2), text, INK, font, anchor="lm")
    return strip
