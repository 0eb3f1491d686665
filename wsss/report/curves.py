"""The curves of a perturbation or region test as one SVG that stands in the page itself and takes its colours."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from xml.etree import ElementTree

from wsss.extras import extra
from wsss.report.explanation import TestRow
from wsss.statistics import FRACTIONS

COLOURS = ("#2f7ed8", "#d9480f", "#2b9348", "#a63fc4", "#b8860b", "#e0408a", "#12919e", "#7a6a58", "#8a8f98", "#5a54d6")
"""Of the runs, in their order: apart from each other on white and on black."""

DASHES = ("solid", (0, (5, 2)), (0, (1.2, 1.6)), (0, (6, 2, 1.2, 2)))
"""Beside the colour, so that lines can be told apart without it."""

_INK, _SOFT, _LINE = "#010203", "#010204", "#010205"  # stand-ins that matplotlib takes as colours
_PAGE_COLOURS = {_INK: "var(--ink)", _SOFT: "var(--soft)", _LINE: "var(--line)"}

_PANELS = {
    "perturbation": (
        ("negative_predicted", "negative: least relevant first", "class explained: predicted"),
        ("positive_predicted", "positive: most relevant first", "class explained: predicted"),
        ("negative_target", "negative: least relevant first", "class explained: target"),
        ("positive_target", "positive: most relevant first", "class explained: target"),
    ),
    "region": (
        ("outside_negative", "negative: least relevant first", "outside of the region"),
        ("outside_positive", "positive: most relevant first", "outside of the region"),
        ("inside_negative", "negative: least relevant first", "inside of the region"),
        ("inside_positive", "positive: most relevant first", "inside of the region"),
    ),
}
SCORES = {"perturbation": "top-1 accuracy, %", "region": "probability of the class in its region, %"}
"""Test with curves -> what they are of."""


def line_style(place: int) -> tuple[str, object]:
    """(colour, matplotlib line style) of the run at that place of the rows."""
    return COLOURS[place % len(COLOURS)], DASHES[place % len(DASHES)]


def dash_array(place: int) -> str:
    """The same style as an SVG ``stroke-dasharray``, for the legend; "" where the line is solid."""
    dash = DASHES[place % len(DASHES)]
    return "" if dash == "solid" else " ".join(f"{2 * length:g}" for length in dash[1])  # type: ignore[index]


def curves_svg(rows: Sequence[TestRow], label: str) -> str:
    """Accuracy, or a region's score, by the share of pixels removed, a line for each row: negative beside positive.

    Args:
        rows: of one perturbation or region test; those without a curve have no line in its panel.
        label: what the picture shows, for those who cannot see it.

    Returns:
        An ``<svg>`` element, "" where no row has curves. Text stays text; ink and lines have the colours of the page.
    """
    test = rows[0].entry.test if rows else ""
    panels = [panel for panel in _PANELS.get(test, ()) if any(row.entry.curves.get(panel[0]) for row in rows)]
    if not panels:
        return ""
    with extra("wsss"):
        import matplotlib
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine

    style: dict = {
        "svg.fonttype": "none",
        "svg.hashsalt": "relseg",
        "text.color": _INK,
        "axes.labelcolor": _SOFT,
        "axes.edgecolor": _LINE,
        "xtick.color": _SOFT,
        "ytick.color": _SOFT,
        "grid.color": _LINE,
        "font.size": 11,
        "axes.titlesize": 12,
    }
    with matplotlib.rc_context(style):
        deep = -(-len(panels) // 2)
        figure = Figure(figsize=(11, 3.6 * deep), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.14))
        grid = figure.subplots(deep, 2, sharex=True, sharey=True, squeeze=False)
        for axes, (key, direction, explained) in zip(grid.flat, panels, strict=False):
            for place, row in enumerate(rows):
                if row.entry.curves.get(key):
                    colour, dash = line_style(place)
                    percent = [100 * fraction for fraction in FRACTIONS]
                    axes.plot(percent, row.entry.curves[key], color=colour, linestyle=dash, linewidth=1.8)
            axes.set_title(f"{direction} ({explained})", loc="left")
            axes.set_xlim(0, 90)
            axes.set_ylim(bottom=0)
            axes.set_xticks(range(0, 91, 10))
            axes.tick_params(length=0, labelbottom=True, labelleft=True)
            axes.grid(True, linewidth=0.8)
            axes.spines[["top", "right"]].set_visible(False)
            axes.set_xlabel("pixels removed, %")
            axes.set_ylabel(SCORES[test])
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        file = io.BytesIO()
        figure.savefig(
            file, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
    return _for_page(file.getvalue(), label)


def _for_page(svg: bytes, label: str) -> str:
    """What a page needs of matplotlib's SVG: no prolog, no style or ids that meet those of the page, no clipping."""
    root = ElementTree.fromstring(svg)
    for element in root.iter():
        element.tag = element.tag.partition("}")[2] or element.tag
        for name in ("id", "clip-path"):
            element.attrib.pop(name, None)
        element.text, element.tail = (text.strip() if text else text for text in (element.text, element.tail))
        css = re.sub(r"font(-family)?: [^;]*?'[^;]*(;|$)", _size_alone, element.get("style", ""))
        for stand_in, colour in _PAGE_COLOURS.items():
            css = css.replace(stand_in, colour)
        if css:
            element.set("style", css)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in ("defs", "metadata"):
                parent.remove(child)
    del root.attrib["width"], root.attrib["height"]
    root.set("role", "img")
    root.set("aria-label", label)
    root.set("class", "curves")
    return ElementTree.tostring(root, encoding="unicode")


def _size_alone(rule: re.Match[str]) -> str:
    """A font rule without its families: the page has its own."""
    size = re.search(r"[\d.]+px", rule[0])
    return f"font-size: {size[0]};" if size else ""
