"""Sheets of maps: one beside the photograph, those of all classes beside the mask, one class at layer after layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from cnnseg.regions.explaining import RegionExplanation
from cnnseg.regions.marking import mark_region
from cnnseg.regions.seen import BACKGROUND_NAME, SPECK, Seen
from cnnseg.segmentation.segmenting import Segmentation
from wsss.lettering import ColourBar
from wsss.sheet import Panel, lay_out
from wsss.store import voc_palette


def draw_one(found: RegionExplanation) -> Image.Image:
    """The photograph with its region, the mask, and the map with its score and scale."""
    panels = [Panel(_marked(found), "photograph and region"), Panel(_mask(found.seen), "predicted")]
    panels.append(Panel(found.overlay(), found.title))
    return lay_out(panels, heading=_title(found), bar=found.colour_bar(), legend=_legend(found.seen))


def draw_classes(found: Sequence[RegionExplanation]) -> Image.Image:
    """The photograph with its mask, then the map of each class with its score; one scale for all of them.

    Figure 2 of Humer et al., EuroVis 2022.
    """
    seen = found[0].seen
    limits = min(one.limits[0] for one in found), max(one.limits[1] for one in found)
    panels = [Panel(_mask(seen), "predicted"), *(Panel(one.overlay(limits=limits), one.title) for one in found)]
    return lay_out(panels, heading=_title(found[0]), bar=found[0].colour_bar(limits), legend=_legend(seen))


def draw_layers(found: Sequence[RegionExplanation]) -> Image.Image:
    """The photograph with its region, then the map of each layer, each on a scale of its own.

    Units differ from layer to layer, so the bar has shares of each map's largest value, which its title says.
    """
    first = found[0]
    panels = [Panel(_marked(first), first.title)]
    for one in found:
        size = f"{one.map.shape[1]} x {one.map.shape[0]}, up to {one.limits[1]:.2g}"
        panels.append(Panel(one.overlay(), f"{one.question.layer}\n{size}"))
    limits = (-1.0, 1.0) if first.signed else (0.0, 1.0)
    bar = ColourBar(limits, first.signed, "relevance: share of each map's largest")
    return lay_out(panels, heading=_title(first, layer=False), bar=bar)


def _mask(seen: Seen) -> Image.Image:
    return Segmentation(seen.full_mask, seen.names[1:]).overlay(seen.photograph)


def _marked(one: RegionExplanation) -> Image.Image:
    """The photograph with the region that was asked about."""
    seen = one.seen
    return Image.fromarray(mark_region(np.asarray(seen.photograph), one.region, one.question.region, seen.native))


def _legend(seen: Seen) -> list[tuple[str, tuple[int, int, int]]]:
    """Name and share of the photograph of each class that was predicted, and its colour in the mask."""
    names = [name for name in seen.found if name != BACKGROUND_NAME and seen.shares[name] >= SPECK]
    colours = {name: voc_palette()[seen.names.index(name)].tolist() for name in names}
    return [(f"{name} {100 * seen.shares[name]:.1f} %", tuple(colours[name])) for name in names]


def _title(one: RegionExplanation, *, layer: bool = True) -> str:
    asked = one.question
    parts = (asked.method, asked.rules, asked.layer if layer else None, "margin" if asked.score == "margin" else None)
    return ", ".join(part for part in parts if part)
