"""The picture at the top of the README: a photograph, its relevance, seed and mask, and what the network makes of it.

    python benchmarks/readme_picture.py --out docs/images/chain.png

Needs the runs that `make demo` left in demo_run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

import cnnseg
import vitseg
from cnnseg.segmentation.segmenting import Segmentation
from vitseg.models import load_classifier
from wsss.data import read_image
from wsss.maps import input_size
from wsss.report.pictures import SEED_OPACITY
from wsss.store import read_mask, read_seed

CHECKPOINTS = Path("demo/checkpoints")
SIDE, GAP, LINE = 300, 10, 34


def panels(demo: Path, name: str, of: str) -> list[tuple[str, Image.Image]]:
    """Captions and pictures."""
    photograph = read_image(demo / "data/images" / f"{name}.png")
    classifier = load_classifier(CHECKPOINTS / "classifier.safetensors")
    patch = classifier.model.patch_embed.feat_ratio(as_scalar=False)
    images = classifier.prepare(photograph, input_size(photograph, 320, patch))[None]
    with torch.no_grad():
        relevance = vitseg.explain(classifier.model, images, classifier.class_names.index(of)).maps[0]
    run = demo / "runs/lrp_vit"
    seed = read_seed(run / "seeds", name)
    network = cnnseg.load_network(CHECKPOINTS / "segmentation.safetensors")
    mask = Segmentation(read_mask(run / "masks", name), network.class_names)
    return [
        ("photograph, and the word “cat”", photograph),
        ("relevance", vitseg.overlay(photograph, relevance)),
        ("seed", vitseg.overlay(photograph, seed.scores[0].astype(np.float32), opacity=SEED_OPACITY)),
        ("pseudo-mask", mask.overlay(photograph)),
        ("network, told nothing", cnnseg.segment(network, photograph).overlay(photograph)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--demo", type=Path, default=Path("demo_run"))
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()

    shown = panels(options.demo, "chelsea", "cat")
    height = round(SIDE * shown[0][1].height / shown[0][1].width)
    sheet = Image.new("RGB", (len(shown) * (SIDE + GAP) - GAP, height + LINE), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(17)
    for place, (caption, picture) in enumerate(shown):
        left = place * (SIDE + GAP)
        sheet.paste(picture.convert("RGB").resize((SIDE, height), Image.Resampling.LANCZOS), (left, LINE))
        draw.text((left + SIDE // 2, LINE // 2), caption, "#222222", font, anchor="mm")
    sheet.save(options.out, optimize=True)  # 256 colours would not do for five pictures


if __name__ == "__main__":
    main()
