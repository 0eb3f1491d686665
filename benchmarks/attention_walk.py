"""Over the attention of which blocks, and how many steps, seeds are walked; with and without competition of classes.

    python benchmarks/attention_walk.py --data voc12_animals --split train --every 9

Transformer attribution of each image and size is computed once and walked in every way. Reads masks: run it on a
training split, and choose there. mIoU in per cent with image-level labels given, by the alpha rule at 8, and at the
best fixed threshold on these very masks (oracle), which does not hang on --power.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from vitseg.methods import METHODS, find_rules
from vitseg.models import Classifier, load_classifier
from vitseg.relevance import capture
from vitseg.relevance.attention_walk import walk_maps
from vitseg.seeds import first_block, outputs_for
from vitseg.settings import SeedConfig
from wsss.data import Sample, load_dataset
from wsss.maps import average_sizes, compete, input_size, scale_maps
from wsss.metrics import ConfusionMatrix, ThresholdSweep, seed_to_mask
from wsss.progress import track
from wsss.store import Seed

Way = tuple[tuple[int, ...], int]
"""Blocks and steps."""

BLOCKS = ("0,1,2,3", "4,5", "6,7", "8", "8,9", "8,9,10,11", "10,11", "0,1,2,3,4,5,6,7,8,9,10,11")
ALPHA = 8


def walked(classifier: Classifier, sample: Sample, outputs: list[int], size: int, ways: list[Way]) -> list[Tensor]:
    """The unscaled maps (K, h, w) of each way, averaged with those of the mirror image."""
    config = SeedConfig()
    patch = classifier.model.patch_embed.feat_ratio(as_scalar=False)
    image = sample.load_image()
    x = classifier.prepare(image, input_size(image, size, patch))[None]
    first = first_block(classifier, config)
    lowest = min(first, *(block for blocks, _ in ways for block in blocks))
    trace = capture.run(classifier.model, torch.cat([x, x.flip(-1)]), first=lowest)
    targets = torch.tensor([outputs, outputs])
    plain = METHODS[config.method].compute(trace, targets, first, find_rules(config.rules)).detach()
    found = []
    for blocks, steps in ways:
        upright, mirrored = rearrange(walk_maps(trace, plain, steps, blocks), "(k b) h w -> b k h w", b=2)
        found.append((upright + mirrored.flip(-1)) / 2)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    demo = Path(__file__).resolve().parents[1] / "demo" / "checkpoints"
    parser.add_argument("--classifier", type=Path, default=demo / "classifier.safetensors")
    parser.add_argument("--data", required=True)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--split", default="train")
    parser.add_argument("--every", type=int, default=9, help="take every n-th image")
    parser.add_argument("--sizes", type=int, nargs="+", default=[320])
    parser.add_argument("--blocks", nargs="+", default=BLOCKS, help="sets of blocks, such as 8,9")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--power", type=float, default=SeedConfig().exponent)
    options = parser.parse_args()

    dataset = load_dataset(options.data, options.split, options.root)
    classifier = load_classifier(options.classifier)
    outputs = outputs_for(classifier, dataset)
    samples = [sample for sample in dataset.samples if sample.mask_path and sample.classes][:: options.every]
    sets = [tuple(map(int, text.split(","))) for text in options.blocks]
    ways: list[Way] = [((0,), 0), *((blocks, steps) for blocks in sets for steps in options.steps)]
    rules = [(way, options.power, together) for way in ways for together in (False, True)]
    rules[:2] = [(ways[0], 0.5, together) for together in (False, True)]  # of maps that were not walked
    classes = dataset.num_classes + 1
    matrices, sweeps = [ConfusionMatrix(classes) for _ in rules], [ThresholdSweep(classes) for _ in rules]
    for sample in track(samples, "walk"):
        truth, present = dataset.load_mask(sample), np.array(sample.classes, np.uint8)
        of_size = {
            size: walked(classifier, sample, [outputs[c] for c in sample.classes], size, ways) for size in options.sizes
        }
        for (way, power, together), matrix, sweep in zip(rules, matrices, sweeps, strict=True):
            maps = {size: found[ways.index(way)] for size, found in of_size.items()}
            maps = {size: scale_maps(compete(one) if together else one, power=power) for size, one in maps.items()}
            (joined,) = average_sizes(1, options.sizes, lambda size, maps=maps: [maps[size]])
            scores = Seed(joined.astype(np.float16), present, truth.shape).upsample()
            matrix.update(seed_to_mask(scores, present, alpha=ALPHA), truth)
            sweep.update(scores, present, truth)

    print(f"{len(samples)} images of {dataset.name}/{dataset.split}, sizes {options.sizes}")
    print(f"{'blocks':28s} steps  power  competition  alpha {ALPHA}  oracle")
    for ((blocks, steps), power, together), matrix, sweep in zip(rules, matrices, sweeps, strict=True):
        shown = " ".join(map(str, blocks)) if steps else "-"
        print(
            f"{shown:28s} {steps:5d}  {power:5.2f}  {'yes' if together else 'no':11s}  {100 * matrix.miou:7.1f}"
            f"  {100 * sweep.best().matrix.miou:6.1f}"
        )


if __name__ == "__main__":
    main()
