"""Pictures of the two tests: accuracy curves, and a gallery of the best and worst segmented images."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from wsss.data import IGNORE, Dataset
from wsss.explanation_tests import Figures, foreground, image_ious
from wsss.judging.segmentation import enlarge, load_pair
from wsss.judging.trials import read_map
from wsss.overlay import heat_overlay, mask_overlay
from wsss.statistics import FRACTIONS
from wsss.store import atomic
from wsss.store.atomic import remove_leftovers

COLOUR = (230, 25, 75)  # of masks: what neither grass nor sky has


def draw_curves(figures: Mapping[str, Figures], path: Path, title: str) -> None:
    """Accuracy over the share of removed pixels, one curve a method: negative and positive, predicted and target class.

    Args:
        figures: method -> its figures, as `perturbation_figures` gives them.
        path: the PNG to write.
    """
    from matplotlib.figure import Figure  # without pyplot: no window, no state
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(12, 9), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True, sharey=True)
    better = {
        "negative": "least relevant first (higher is better)",
        "positive": "most relevant first (lower is better)",
    }
    for row, explained in zip(axes, ("predicted", "target"), strict=True):
        for axis, direction in zip(row, ("negative", "positive"), strict=True):
            key = f"{direction}_{explained}"
            best_first = sorted(figures, key=lambda m: figures[m].values[key], reverse=direction == "negative")
            for method in best_first:
                place = list(figures).index(method)
                axis.plot(
                    [100 * fraction for fraction in FRACTIONS],
                    figures[method].curves[key],
                    label=f"{figures[method].values[key]:.1f}  {method}",
                    color=f"C{place % 10}",
                    linestyle=("-", "--", ":")[place // 10 % 3],
                    marker="o",
                    markersize=3,
                )
            axis.set_title(f"{better[direction]}; map of the {explained} class", fontsize=10)
            corner = "lower left" if direction == "negative" else "upper right"  # where no curve goes
            axis.legend(title="AUC", fontsize=8, title_fontsize=8, loc=corner)
            axis.grid(alpha=0.3)
            axis.set_ylim(0, 100)
            axis.set_xlim(0, 90)
            axis.xaxis.set_major_formatter(PercentFormatter())
            axis.yaxis.set_major_formatter(PercentFormatter())
    figure.supxlabel("pixels set to black", fontsize=10)
    figure.supylabel("top-1 accuracy", fontsize=10)
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
