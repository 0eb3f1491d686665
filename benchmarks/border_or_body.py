"""Which pixels does a segmentation network look at for an animal: its border, its body, or what is about it?

    python benchmarks/border_or_body.py --network runs/drawn --data voc12_animals --split val --classes cat horse \\
        --out docs/images/border_or_body.png

Of all images that show a class and where the network predicts at least 1 % of the pixels as it, the positive relevance
of the predicted region's mean logit in four zones: a band along the region's edge within it and one outside of it, each
5 % of the square root of the region's area wide, the body (the rest of the region), and the surroundings (the rest of
the image). The figure is density: a zone's share of the relevance by its share of the area; 1 is what a map that knows
nothing has. Ratios of means over images with 95 % bootstrap intervals. As a control, the strength of the photograph's
own edges (Sobel) stands beside the explanations: the border of an object has edges whatever a network makes of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from cnnseg.models import find_network, load_network
from cnnseg.regions.explaining import RegionExplainer
from cnnseg.regions.geometry import enlarged
from cnnseg.regions.settings import SegmentationQuestion
from cnnseg.regions.tested import split_name
from wsss.data import Dataset, evenly_spread, load_dataset
from wsss.progress import track
from wsss.statistics import bootstrap_means, interval
from wsss.store import write_json

ZONES = ("body", "border, within", "border, outside", "surroundings")
COLOURS = ("#0b5394", "#3d9be0", "#e69138", "#8c8c8c")
EDGES = "edges of the photograph"
METHODS = (
    "lrp:epsilon_plus",
    "lrp:zero",
    "input_x_gradient",
    "layercam@encoder",
    "gradcam@encoder",
    "layercam@decoder.blocks.2",
    "gradcam@decoder.blocks.2",
)
LEAST, BAND = 0.01, 0.05
RATIO = "border : body"
"""Density of the band within the region by that of the body: above 1 the network looks at the edge of the animal."""

SHOWN = (1 / 16, 16)
"""Densities of the figure; what lies beyond stands at its edge, as a triangle."""

Densities = dict[str, tuple[float, float, float]]
"""Zone, or `RATIO` -> density, and the ends of its interval."""


def zones_of(region: np.ndarray, band: float = BAND) -> np.ndarray:
    """Zone of every pixel, an index into `ZONES`: uint8 (H, W). The image's own edge is no border of the region.

    Args:
        region: bool (H, W). band: width of each band, in square roots of the region's area.
    """
    width = max(1.0, band * np.sqrt(region.sum()))
    within, outside = (_distance(part) for part in (region, ~region))
    found = np.where(region, 0, 3).astype(np.uint8)
    found[region & (within <= width)] = 1
    found[~region & (outside <= width)] = 2
    return found


def _distance(part: np.ndarray) -> np.ndarray:
    """Of every pixel of a part, to the nearest one that is not; infinite where there is none."""
    if part.all():
        return np.full(part.shape, np.inf)
    return cv2.distanceTransform(part.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def shares(heat: np.ndarray, zones: np.ndarray) -> np.ndarray:
    """Share of a map's positive values in each zone, then each zone's share of the area: (8,)."""
    positive = np.maximum(heat, 0).astype(np.float64)
    sums = np.bincount(zones.ravel(), positive.ravel(), len(ZONES))
    area = np.bincount(zones.ravel(), minlength=len(ZONES)) / zones.size
    return np.concatenate([sums / max(sums.sum(), 1e-30), area])


def densities(rows: np.ndarray) -> Densities:
    """Zone, and `RATIO` -> (density, low, high), of (n, 8) rows of `shares`."""

    def figures(means: np.ndarray) -> np.ndarray:
        density = means[..., : len(ZONES)] / means[..., len(ZONES) :]
        return np.concatenate([density, density[..., 1:2] / density[..., :1]], -1)

    low, high = interval(figures(bootstrap_means(rows)))
    names = (*ZONES, RATIO)
    return {name: tuple(map(float, it)) for name, *it in zip(names, figures(rows.mean(0)), low, high, strict=True)}


def edge_strength(photograph: Image.Image) -> np.ndarray:
    """Length of the brightness gradient, Sobel 3 x 3: (H, W)."""
    grey = np.asarray(photograph.convert("L"), np.float32)
    return np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))


def measure(
    explainer: RegionExplainer, data: Dataset, name: str, methods: Sequence[str], limit: int | None, size: int
) -> dict[str, np.ndarray]:
    """Method -> rows of `shares`, one for each image with a region of the class."""
    index = data.class_index(name)
    samples = evenly_spread([sample for sample in data if index in sample.classes], limit)
    found: dict[str, list[np.ndarray]] = {method: [] for method in (*methods, EDGES)}
    for sample in track(samples, name):
        seen = explainer.see(data.load_image(sample), size)
        if seen.shares[name] < LEAST:
            continue
        zones = zones_of(enlarged(seen.mask == seen.names.index(name), seen.native))
        for method in methods:
            kind, rules, layer = split_name(method)
            asked = SegmentationQuestion(class_name=name, method=kind, rules=rules, layer=layer, size=size)
            found[method].append(shares(explainer.explain(seen, asked).full, zones))
        found[EDGES].append(shares(edge_strength(seen.photograph), zones))
    return {method: np.array(rows) for method, rows in found.items()}


def draw(found: dict[str, dict[str, Densities]], counts: dict[str, int], path: Path) -> None:
    """A panel for each class, a row for each method, a point with its interval for each zone."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullLocator

    methods = list(next(iter(found.values())))
    figure = Figure(figsize=(1.8 + 4.2 * len(found), 0.7 + 0.42 * len(methods) + 0.5), layout="constrained", dpi=130)
    axes = figure.subplots(1, len(found), sharex=True, sharey=True, squeeze=False)[0]
    for axis, (name, rows) in zip(axes, found.items(), strict=True):
        axis.axvline(1, color="#333333", linewidth=0.8)
        for zone, colour in zip(ZONES, COLOURS, strict=True):
            values = np.array([rows[method][zone] for method in methods])
            places = np.arange(len(methods)) + 0.17 * (ZONES.index(zone) - 1.5)
            axis.hlines(places, values[:, 1], values[:, 2], color=colour, linewidth=1.6, alpha=0.6)
            inside = values[:, 0] >= SHOWN[0]
            axis.plot(values[inside, 0], places[inside], "o", color=colour, markersize=4.5, label=zone)
            axis.plot(np.full((~inside).sum(), SHOWN[0] * 1.08), places[~inside], "<", color=colour, markersize=4.5)
        for place, method in enumerate(methods):
            value, low, high = rows[method][RATIO]
            text = f"{value:.2f}  ({low:.2f} to {high:.2f})"
            axis.annotate(text, (1.02, place), xycoords=axis.get_yaxis_transform(), va="center", fontsize=7.5)
        axis.annotate(RATIO, (1.02, -0.72), xycoords=axis.get_yaxis_transform(), fontsize=8, weight="bold")
        axis.set_title(f"{name}, {counts[name]} photographs", fontsize=10, loc="left")
        axis.set_yticks(range(len(methods)), methods, fontsize=8.5)
        axis.set_xscale("log", base=2)
        axis.set_xlim(*SHOWN)
        axis.xaxis.set_major_locator(FixedLocator([0.125, 0.25, 0.5, 1, 2, 4, 8]))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter(lambda value, _: f"1/{1 / value:g}" if value < 1 else f"{value:g}")
        axis.tick_params(length=0, labelsize=8.5)
        axis.grid(axis="x", alpha=0.3)
        for place in range(len(methods) - 1):
            axis.axhline(place + 0.5, color="#eeeeee", linewidth=0.8)
        axis.spines[["top", "right", "left"]].set_visible(False)
    axes[0].invert_yaxis()
    figure.supxlabel("share of the positive relevance by share of the area (1: as everywhere)", fontsize=9)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=len(ZONES), frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--network", required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--root", type=Path)
    parser.add_argument("--classes", nargs="+", default=["cat", "horse"])
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--images", type=int, help="so many of each class, evenly spread; all unless given")
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--out", type=Path, default=Path("border_or_body.png"))
    options = parser.parse_args()
    explainer = RegionExplainer(load_network(find_network(options.network, options.runs)))
    data = load_dataset(options.data, options.split, options.root)
    found, counts = {}, {}
    for name in options.classes:
        rows = measure(explainer, data, name, options.methods, options.images, options.size)
        counts[name] = len(rows[EDGES])
        if not counts[name]:
            parser.error(f"class {name}: the network predicts it in none of the images")
        found[name] = {method: densities(of_method) for method, of_method in rows.items()}
        area = zip(ZONES, rows[EDGES][:, len(ZONES) :].mean(0), strict=True)
        print(f"{name}, {counts[name]} photographs; area: " + ", ".join(f"{zone} {share:.1%}" for zone, share in area))
        for method, zones in found[name].items():
            cells = [f"{zone} {value:.2f} ({low:.2f} to {high:.2f})" for zone, (value, low, high) in zones.items()]
            print(f"  {method:28s}{'  '.join(cells)}")
    draw(found, counts, options.out)
    write_json(options.out.with_suffix(".json"), {"photographs": counts, "densities": found})
    print(f"wrote {options.out} and {options.out.with_suffix('.json')}")


if __name__ == "__main__":
    main()
