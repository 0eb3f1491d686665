"""The parts of the page that Gradio has no component for: HTML, CSS and JavaScript from files of this package.

Each is a `gr.HTML` whose JavaScript draws its value and triggers events; what a value holds is said by the functions
that make one. Every value has the number of the wish that it answers (`wsss.explorer.sessions.Session.ticket`), and a
view takes none of an older wish than it has seen: Gradio runs the answers to several clicks beside each other, and
repeats the last value of each at its end, so that they arrive in any order.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import numpy as np

from wsss.colours import OPACITY, css_scale, muted
from wsss.explorer import pictures
from wsss.explorer.asking import EXAMPLES, MOST_CLASSES, Tile, example_file
from wsss.explorer.downloads import File
from wsss.explorer.explained import ExplainedModel
from wsss.explorer.sessions import Made, Session
from wsss.explorer.uploads import LARGEST_FILE, read_photograph
from wsss.explorer.work import Waiting
from wsss.extras import extra
from wsss.store import voc_palette

with extra("explorer"):
    import gradio as gr

TILE = 260
"""Longest side of the small multiples, in pixels."""


def static(name: str) -> str:
    """A text file of the page."""
    return files("wsss.explorer").joinpath("static", name).read_text(encoding="utf-8")


def stage() -> gr.HTML:
    """The photograph and the tools; events photo, example, draw, pick, whole."""
    return _html("stage", largest=LARGEST_FILE, examples=_examples())


def map_view(place: str) -> gr.HTML:
    """A map with opacity, colour bar and downloads; event download."""
    return _html("map", elem_id=f"map-{place}")


def tiles_view() -> gr.HTML:
    """The small multiples."""
    return _html("tiles")


def courier() -> gr.HTML:
    """Hands files to the browser; not seen."""
    return _html("courier", template="<span></span>")


def _html(name: str, *, template: str | None = None, elem_id: str | None = None, **props: Any) -> gr.HTML:
    return gr.HTML(
        {},
        html_template=static(f"{name}.html") if template is None else template,
        js_on_load=static(f"{name}.js"),
        apply_default_css=False,
        elem_id=elem_id or name,
        elem_classes="explorer",
        **props,
    )


def stage_value(explained: ExplainedModel, session: Session, line: str = "", *, wrong: bool = False) -> dict[str, Any]:
    """What the stage shows: the visitor's photograph, prediction, region and classes, and a line below it."""
    photograph = session.photograph
    if photograph is None:
        return {"line": line or "Open a photograph, or take one of the examples.", "wrong": wrong}
    height, width = photograph.look.photograph.shape[:2]
    size, region = pictures.shown_size((height, width)), session.region
    own = f"{photograph.name}, {width} x {height} pixels. "
    if region is not None:
        own += _described(explained, region.area, region.predicted)
    return {
        "photo": photograph.url,
        "mask": photograph.mask_url,
        "width": width,
        "height": height,
        "segments": explained.segments,
        "region": None if region is None else pictures.png_url(pictures.outlined(region, size)),
        "pixels": [] if region is None or region.pixels is None else list(region.pixels),
        "classes": _classes(explained, photograph.look.shares),
        "shown": None if region is None else region.predicted,
        "line": line or own,
        "wrong": wrong,
        "alt": own,
    }


def _described(explained: ExplainedModel, area: np.ndarray, predicted: int | None) -> str:
    count = int(area.sum())
    what = f"Region: {count:,} pixel{'s' * (count != 1)}, {100 * count / area.size:.2g} % of the photograph"
    return what if predicted is None else f"{what}, all that is predicted as {explained.class_names[predicted]}"


def _classes(explained: ExplainedModel, shares: Sequence[float]) -> list[dict[str, Any]]:
    palette = voc_palette()
    order: Sequence[int] = range(len(shares))
    if not explained.segments:
        order = sorted(order, key=lambda index: -shares[index])[:MOST_CLASSES]
    return [
        {
            "index": index,
            "name": explained.class_names[index],
            "colour": "#{:02x}{:02x}{:02x}".format(*palette[index % 256])
            if index or not explained.segments
            else "#8a8f98",
            "share": shares[index],
            "text": f"{100 * shares[index]:.1f} %",
        }
        for index in order
    ]


def busy_value(step: Waiting, number: int) -> dict[str, Any]:
    """A map view that waits; what it shows stays beneath."""
    waited = f"{step.seconds:.0f} s" if step.seconds >= 1 else "…"
    return {"number": number, "keep": True, "busy": waited, "share": step.share}


def stopped_value(number: int) -> dict[str, Any]:
    """A map view, or small multiples, of a wish that was cancelled; what they show stays."""
    return {"number": number, "keep": True, "line": "Cancelled."}


def map_value(explained: ExplainedModel, made: Made, number: int) -> dict[str, Any]:
    """What a map view shows of a map."""
    photograph = made.photograph.look.photograph
    size = pictures.shown_size(photograph.shape[:2])
    small = pictures.shrunk(photograph, size)
    found = pictures.coloured(made.answer, size)
    name, values = explained.class_names[made.answer.target], made.answer.map
    what = "score" if made.setting.score == "logit" else made.setting.score
    line = (
        f"{name}: {what} {made.answer.score:.2f}. Map of {values.shape[0]} x {values.shape[1]} values from "
        f"{values.min():.3g} to {values.max():.3g}, in {made.seconds:.2f} s."
    )
    return {
        "number": number,
        "under": pictures.jpeg_url(muted(small, found.signed)),
        "over": pictures.png_url(pictures.veil(found)),
        "edge": None if made.region is None else pictures.png_url(pictures.edge(made.region, size)),
        "low": f"{found.limits[0]:.3g}",
        "high": f"{found.limits[1]:.3g}",
        "middle": "0" if found.signed else f"{sum(found.limits) / 2:.3g}",
        "ramp": css_scale(found.signed),
        "line": line,
        "alt": f"Map of {made.setting.method} for {name} over the photograph. {line}",
    }


def said(line: str, number: int) -> dict[str, Any]:
    """A map view without a map, and a line that says why."""
    return {"number": number, "line": line, "wrong": True}


def tiles_value(title: str, number: int, tiles: Sequence[Tile], share: float | None, line: str = "") -> dict[str, Any]:
    """What the small multiples show."""
    shown = [{"name": tile.name, "note": tile.note, "url": _tile_url(tile)} for tile in tiles]
    return {"title": title, "number": number, "tiles": shown, "share": share, "line": line}


def _tile_url(tile: Tile) -> str | None:
    if tile.made is None:
        return None
    photograph = tile.made.photograph.look.photograph
    size = pictures.shown_size(photograph.shape[:2], TILE)
    found = pictures.coloured(tile.made.answer, size)
    return pictures.jpeg_url(pictures.blended(pictures.shrunk(photograph, size), found, OPACITY))


def file_value(file: File, number: int) -> dict[str, Any]:
    """A file for the courier; `number` tells it from the same one asked for before."""
    return {
        "name": file.name,
        "kind": file.kind,
        "data": base64.b64encode(file.content).decode(),
        "number": number,
    }


def _examples() -> list[dict[str, str]]:
    found = []
    for name in EXAMPLES:
        image = read_photograph(example_file(name))
        small = pictures.shrunk(image, pictures.shown_size(image.shape[:2], 96))
        found.append({"name": name, "url": pictures.jpeg_url(small)})
    return found
