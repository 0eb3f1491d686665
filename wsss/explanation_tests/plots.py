"""Pictures of the tests: curves of accuracy or of a region's score, and a gallery of segmented images."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from wsss.data import IGNORE, Dataset
from wsss.explanation_tests.evaluations import read_map
from wsss.explanation_tests.figures import Figures, foreground, image_ious
from wsss.explanation_tests.segmentation import enlarge, load_pair
from wsss.extras import extra
from wsss.overlay import heat_overlay, mask_overlay
from wsss.statistics import FRACTIONS
from wsss.store import atomic
from wsss.store.atomic import remove_leftovers

COLOUR = (230, 25, 75)  # of masks: what neither grass nor sky has


@dataclass(frozen=True)
class _Panel:
    """One of the four panels of curves: key of the figure, what its title says, which side is the better one, and the
    corner where no curve goes, for the legend."""

    key: str
    title: str
    higher: bool
    corner: str = "upper right"


_LEAST, _MOST = "least relevant first (higher is better)", "most relevant first (lower is better)"

_ACCURACY = tuple(
    _Panel(f"{direction}_{explained}", f"{title}; map of the {explained} class", direction == "negative", corner)
    for explained in ("predicted", "target")
    for direction, title, corner in (("negative", _LEAST, "lower left"), ("positive", _MOST, "upper right"))
)
_REGION = tuple(
    _Panel(f"{where}_{direction}", f"{where} of the region, {title}", direction == "negative")
    for where in ("outside", "inside")
    for direction, title in (("negative", _LEAST), ("positive", _MOST))
)


def draw_curves(figures: Mapping[str, Figures], path: Path, title: str) -> None:
    """Accuracy over the share of removed pixels, one curve a method: negative and positive, predicted and target class.

    Args:
        figures: method -> its figures, as `perturbation_figures` gives them.
        path: the PNG to write.
    """
    _draw(figures, path, title, _ACCURACY, "top-1 accuracy")


def draw_region_curves(figures: Mapping[str, Figures], path: Path, title: str) -> None:
    """Probability of the class in its region over the share of removed pixels: outside and inside of the region.

    Args:
        figures: method -> its figures, as `region_figures` gives them.
        path: the PNG to write.
    """
    _draw(figures, path, title, _REGION, "mean probability of the class over its region")


def _draw(figures: Mapping[str, Figures], path: Path, title: str, panels: Sequence[_Panel], score: str) -> None:
    with extra("wsss"):
        from matplotlib.figure import Figure  # without pyplot: no window, no state
        from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(12, 9), layout="constrained")
    for axis, panel in zip(figure.subplots(2, 2, sharex=True, sharey=True).flat, panels, strict=True):
        known = [method for method in figures if panel.key in figures[method].curves]
        for method in sorted(known, key=lambda m: figures[m].values[panel.key] or 0.0, reverse=panel.higher):
            place = list(figures).index(method)
            axis.plot(
                [100 * fraction for fraction in FRACTIONS],
                figures[method].curves[panel.key],
                label=f"{figures[method].values[panel.key]:.1f}  {method}",
                color=f"C{place % 10}",
                linestyle=("-", "--", ":")[place // 10 % 3],
                marker="o",
                markersize=3,
            )
        axis.set_title(panel.title, fontsize=10)
        if known:
            axis.legend(title="AUC", fontsize=8, title_fontsize=8, loc=panel.corner)
        axis.grid(alpha=0.3)
        axis.set_ylim(0, 100)
        axis.set_xlim(0, 90)
        axis.xaxis.set_major_formatter(PercentFormatter())
        axis.yaxis.set_major_formatter(PercentFormatter())
    figure.supxlabel("pixels set to black", fontsize=10)
    figure.supylabel(score, fontsize=10)
    figure.suptitle(title, fontsize=11)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    with atomic(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())
    remove_leftovers(path.parent)


def write_gallery(
    results: Mapping[str, np.ndarray], dataset: Dataset, folder: Path, size: tuple[int, int], title: str, rows: int = 6
) -> Path:
    """The images with the highest mIoU on the left, those with the lowest on the right.

    Four pictures an image: photograph, truth, map, map cut at its mean; ignored pixels are grey in truth and cut.

    Args:
        results: ids and confusion of the segmentation test, for the samples of `dataset`.
        folder: the stage, with its parts; gallery.jpg is written there.
        size: (height, width) that images are shown at, the one of the test.
    """
    ious = image_ious(results["confusion"])
    order = np.argsort(-ious, kind="stable")
    rows = min(rows, -(-len(order) // 2))
    places = {image_id: place for place, image_id in enumerate(results["ids"].tolist())}
    samples = {sample.id: sample for sample in dataset}
    ids = list(places)
    best, worst = order[:rows], order[::-1][: min(rows, len(order) - rows)]
    height, width = size
    gap, text, head = 8, 20, 60
    block = 4 * width + 3 * gap
    sheet = Image.new("RGB", (2 * block + 5 * gap, head + rows * (height + text + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    font, bold = ImageFont.load_default(14), ImageFont.load_default(17)
    draw.text((gap, 8), title, "black", bold)
    for column, (name, chosen) in enumerate((("best", best), ("worst", worst))):
        left = gap + column * (block + 3 * gap)
        if len(chosen):
            draw.text((left, 36), f"{name}: photograph, truth, map, map cut at its mean", "black", font)
        for row, place in enumerate(chosen):
            sample = samples[ids[place]]
            top = head + row * (height + text + gap)
            photograph, truth = load_pair(dataset, sample, size)
            heat = enlarge(torch.from_numpy(read_map(folder, place)[None]), size)[0].numpy()
            for cell, picture in enumerate(_pictures(photograph, truth, heat)):
                sheet.paste(Image.fromarray(picture), (left + cell * (width + gap), top + text))
            file = sample.image_path.name if sample.image_path.stem == sample.id else sample.id
            draw.text((left, top), f"{file}   mIoU {100 * ious[place]:.1f}", "black", font)
    with atomic(folder / "gallery.jpg") as temporary:
        sheet.save(temporary, format="JPEG", quality=88)
    return folder / "gallery.jpg"


def _pictures(photograph: np.ndarray, truth: np.ndarray, heat: np.ndarray) -> list[np.ndarray]:
    mask = np.where(truth == IGNORE, IGNORE, foreground(heat)).astype(np.uint8)
    palette = np.zeros((256, 3), np.uint8)
    palette[1] = COLOUR
    return [
        photograph,
        mask_overlay(photograph, truth, palette, contours=False),
        heat_overlay(photograph, heat),
        mask_overlay(photograph, mask, palette, contours=False),
    ]
