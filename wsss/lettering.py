"""Words beside pictures, in the typeface that Pillow brings along: titles, scales of colours, legends."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from wsss.colours import OPACITY, scale_colours

INK, SOFT, PAPER = (28, 33, 40), (87, 96, 106), (255, 255, 255)
SMALLEST = 12
"""Pixels of a letter."""


Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class ColourBar:
    """A scale beside pictures: the values of its first and last colour, and what they are of."""

    limits: tuple[float, float]
    signed: bool
    label: str = ""
    opacity: float = OPACITY


def lines_of(text: str, size: int, width: int, most: int = 2) -> list[str]:
    """`text` in lines of at most `width` pixels; each line of it takes up to `most`, and what is left over is "…"."""
    font = ImageFont.load_default(size)
    text = text.encode("utf-8", "replace").decode()  # a file's name may be no text
    return [line for given in text.split("\n") for line in _wrapped(given, font, width, most)]


def _wrapped(text: str, font: Font, width: int, most: int) -> list[str]:
    rest = text.split(" ")
    lines: list[str] = []
    while rest and len(lines) < most - 1:
        fit = _fitting(rest, font, width)
        if not fit:
            break
        lines.append(" ".join(rest[:fit]))
        rest = rest[fit:]
    return [*lines, shortened(" ".join(rest), font, width)] if rest else lines


def _fitting(words: list[str], font: Font, width: int) -> int:
    """How many of the words a line holds."""
    return bisect_right(range(1, len(words) + 1), width, key=lambda n: math.ceil(font.getlength(" ".join(words[:n]))))


def shortened(text: str, font: Font, width: int) -> str:
    """As much of the text as `width` pixels hold, with an ellipsis if that is not all."""
    if font.getlength(text) <= width:
        return text
    end = bisect_right(range(1, len(text)), width, key=lambda n: math.ceil(font.getlength(f"{text[:n].rstrip()}…")))
    return f"{text[:end].rstrip()}…"


def title_strip(text: str, width: int, size: int, *, most: int = 2) -> Image.Image:
    """A strip (width pixels) with a title in its middle: the first of the given lines in ink, the others softer."""
    head, _, tail = text.partition("\n")
    strong = lines_of(head, size, width, most)
    soft = lines_of(tail, round(0.85 * size), width, most) if tail else []
    pitch = round(1.3 * size)
    strip = Image.new("RGB", (width, pitch * (len(strong) + len(soft)) + size // 2), PAPER)
    draw = ImageDraw.Draw(strip)
    for place, line in enumerate((*strong, *soft)):
        bold = place < len(strong)
        font = ImageFont.load_default(size if bold else round(0.85 * size))
        draw.text((width / 2, pitch * (place + 0.6)), line, INK if bold else SOFT, font, anchor="mm")
    return strip


def bar_strip(bar: ColourBar, width: int, size: int) -> Image.Image:
    """A strip (width pixels) with a scale of colours: the values of its ends (of signed ones, 0), and what they are."""
    font = ImageFont.load_default(size)
    least = 1e-3 * max(abs(value) for value in bar.limits)  # below, a number would say no more than 0
    low, high = (f"{value if abs(value) >= least else 0:.3g}" for value in bar.limits)
    gap = size // 2
    left, right = (round(font.getlength(text)) + gap for text in (low, high))
    length = max(size, min(width - left - right - 2 * gap, 24 * size))
    start = (width - length - left - right) // 2 + left
    label = lines_of(bar.label, round(0.85 * size), width) if bar.label else []
    marks = 2 if bar.signed else 1
    strip = Image.new("RGB", (width, round(size * (1.3 * (marks + len(label)) + 0.8))), PAPER)
    draw = ImageDraw.Draw(strip)
    colours = scale_colours(bar.signed, length, bar.opacity)
    ramp = Image.fromarray(np.ascontiguousarray(np.broadcast_to(colours, (size, length, 3))))
    strip.paste(ramp, (start, gap))
    draw.rectangle((start - 1, gap - 1, start + length, gap + size), outline=SOFT)
    middle = gap + size / 2
    draw.text((start - gap, middle), low, INK, font, anchor="rm")
    draw.text((start + length + gap, middle), high, INK, font, anchor="lm")
    if bar.signed:
        draw.text((start + length / 2, gap + 1.8 * size), "0", INK, font, anchor="mm")
    for place, line in enumerate(label):
        where = (width / 2, gap + size * (1.3 * (marks + place) + 0.5))
        draw.text(where, line, SOFT, ImageFont.load_default(round(0.85 * size)), anchor="mm")
    return strip


def stacked(pictures: list[Image.Image]) -> Image.Image:
    """Pictures beneath each other, each in the middle of the widest."""
    width = max(picture.width for picture in pictures)
    whole = Image.new("RGB", (width, sum(picture.height for picture in pictures)), PAPER)
    top = 0
    for picture in pictures:
        whole.paste(picture, ((width - picture.width) // 2, top))
        top += picture.height
    return whole


def framed(picture: Image.Image, title: str | None, bar: ColourBar | None) -> Image.Image:
    """A picture as large as it is, a title above it and a scale beneath, in letters that suit its width."""
    width = max(picture.width, 20 * SMALLEST)
    size = max(SMALLEST, round(width / 26))
    parts = [picture.convert("RGB")]
    if title:
        parts.insert(0, title_strip(title, width, size))
    if bar is not None:
        parts.append(bar_strip(bar, width, size))
    return stacked(parts)
