"""Small multiples: the maps of all classes beside the mask, and those of one class at layer after layer."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from cnnseg.regions.explaining import RegionExplanation
from cnnseg.regions.marking import mark_region
from cnnseg.regions.seen import BACKGROUND_NAME, SPECK, Seen
from cnnseg.segmentation.segmenting import Segmentation
from wsss.extras import extra
from wsss.overlay import overlay
from wsss.store import voc_palette

COLUMNS, WIDTH, DPI = 4, 2.7, 130
"""Panels in a row, and their width in inches."""

TEXT = 0.5
"""Height of a panel's title, in inches."""

GREY = 175
"""The photograph under the colours of a bar."""


def draw_classes(found: Sequence[RegionExplanation]) -> Image.Image:
    """The photograph with its mask, then the map of each class with its score; one scale for all of them.

    Figure 2 of Humer et al., EuroVis 2022.
    """
    seen = found[0].seen
    limits = min(one.limits[0] for one in found), max(one.limits[1] for one in found)
    mask = Segmentation(seen.full_mask, seen.names[1:]).overlay(seen.photograph)
    panels = [(mask, "predicted")]
    panels += [(one.overlay(limits=limits), f"{one.class_name}   {one.score:.2f}") for one in found]
    return _figure(panels, limits, found[0], _title(found[0]), legend=_legend(seen))


def draw_layers(found: Sequence[RegionExplanation]) -> Image.Image:
    """The photograph with its region, then the map of each layer, each on a scale of its own.

    Units differ from layer to layer, so the bar has shares of each map's largest value, which its title says.
    """
    first = found[0]
    shown = mark_region(np.asarray(first.seen.photograph), first.region, first.question.region, first.seen.native)
    panels = [(Image.fromarray(shown), f"{first.class_name}   {first.score:.2f}")]
    for one in found:
        size = f"{one.map.shape[1]} x {one.map.shape[0]}, up to {one.limits[1]:.2g}"
        panels.append((one.overlay(), f"{one.question.layer}\n{size}"))
    limits = (-1.0, 1.0) if first.signed else (0.0, 1.0)
    return _figure(panels, limits, first, _title(first, layer=False))


def _figure(
    panels: Sequence[tuple[Image.Image, str]],
    limits: tuple[float, float],
    one: RegionExplanation,
    title: str,
    legend: Sequence[tuple[str, tuple[float, ...]]] = (),
) -> Image.Image:
    with extra("wsss"):
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import ListedColormap, Normalize
        from matplotlib.figure import Figure  # without pyplot: no window, no state
        from matplotlib.patches import Patch

    width, height = panels[0][0].size
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    size = (columns * WIDTH + 0.9, rows * (WIDTH * height / width + TEXT) + 0.4 + 0.3 * bool(legend))
    figure = Figure(figsize=size, layout="constrained", dpi=DPI)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, (picture, text) in zip(axes, panels, strict=False):
        axis.imshow(np.asarray(_shrunk(picture)), interpolation="antialiased")
        axis.set_title(text, fontsize=9)
    figure.suptitle(title, fontsize=10)
    colours = ListedColormap(_bar(limits, one.signed) / 255)
    bar = figure.colorbar(ScalarMappable(Normalize(*limits), colours), ax=list(axes), fraction=0.03, aspect=30)
    bar.ax.tick_params(labelsize=8)
    if legend:
        patches = [Patch(color=colour, label=text) for text, colour in legend]
        figure.legend(handles=patches, loc="outside lower left", ncols=2 * columns, fontsize=8, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer).convert("RGB")


def _shrunk(picture: Image.Image) -> Image.Image:
    """The picture at about the size that a panel has."""
    most = round(WIDTH * DPI)
    if picture.width <= most:
        return picture
    return picture.resize((most, max(1, round(picture.height * most / picture.width))), Image.Resampling.BOX)


def _bar(limits: tuple[float, float], signed: bool) -> np.ndarray:
    """The colours from the first to the last value, as they are over a grey photograph: uint8 (256, 3)."""
    values = np.linspace(*limits, 256, dtype=np.float32)[None]
    return np.asarray(overlay(np.full((1, 256, 3), GREY, np.uint8), values, limits=limits, signed=signed))[0]


def _legend(seen: Seen) -> list[tuple[str, tuple[float, ...]]]:
    """Name and share of the photograph of each class that was predicted, and its colour in the mask."""
    palette: Any = voc_palette() / 255
    names = [name for name in seen.found if name != BACKGROUND_NAME and seen.shares[name] >= SPECK]
    return [(f"{name} {100 * seen.shares[name]:.1f} %", tuple(palette[seen.names.index(name)])) for name in names]


def _title(one: RegionExplanation, *, layer: bool = True) -> str:
    asked = one.question
    parts = (asked.method, asked.rules, asked.layer if layer else None, "margin" if asked.score == "margin" else None)
    return ", ".join(part for part in parts if part)
